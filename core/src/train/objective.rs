//! The loss of the two-level model and its gradient on one batch.
//!
//! ```text
//! L = w1 l1 + w2 l2 + s1 + s2 + wc cons + alpha1 aux1 + alpha2 aux2 (+ wg gated1 + wg gated2)
//! l_l = ||X - Xhat_l||^2 / (n nu)
//! ```
//!
//! All in units of the fraction of variance unexplained (`nu` is the total variance of the rows, frozen), so that
//! weights carry over between layers and data sets; AuxK's weight is `alpha / l_l`, with no gradient through it.
//!
//! One call runs in four stages, each parallel over fixed chunks of rows or over latents:
//! level 1 forward, level 2 forward ([`forward`](super::forward)), backward by row ([`backward`](super::backward)),
//! gradients by latent ([`accumulate`](super::accumulate)). Everything but the two encoder products touches only the
//! entries that fire (and those that a gradient needs besides).

use super::accumulate::Part;
use super::entries::{ByLatent, Entries, Gradients, Kept, List};
use super::observed::{Losses, Observed};
use super::{accumulate, backward, forward};
use crate::compute::Compute;
use crate::config::{Config, GateKind, Source};
use crate::error::{At, Error, Result};
use crate::gate::Families;
use crate::kernel::dense::{Matrix, Pick};
use crate::kernel::{Isa, Screen, reduce};
use crate::loss::seed_cos::SeedCos;
use crate::loss::{self, Term};
use crate::model::{Arch, Order, Params, Scratch, compose};
use alloc::vec;
use alloc::vec::Vec;

/// Rows of a chunk; fixed, so that bits do not depend on threads.
pub(crate) const CHUNK: usize = 64;

/// Scratch spaces a thread of the gradients by latent.
const PARTS: usize = 32;

/// Slots of a row in the row buffer.
pub(crate) mod slot {
    /// `xt = x - b_dec`.
    pub const XT: usize = 0;
    /// `r1 = x - x_hat1`.
    pub const R1: usize = 1;
    /// `r2 = x - x_hat2`.
    pub const R2: usize = 2;
    /// `e1`, gradient of AuxK at level 1 with respect to its reconstruction; a flat SAE has no `r2` before it.
    pub const fn e1(two: bool) -> usize {
        if two { 3 } else { 2 }
    }
    /// `e2`, at level 2.
    pub const E2: usize = 4;
    /// `dL/dS`, for a residual source with gradient.
    pub const DS: usize = 5;
}

/// Settings that vary between steps.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSettings {
    /// Learning rate.
    pub lr: f64,
    /// The level (0 or 1) whose tensors stay as they are, `b_dec` with those of level 1.
    pub fixed_level: Option<usize>,
    /// Latents a row that `topk` and `batchtopk` keep, a level.
    pub k: [f64; 2],
    /// Weight of the sparsity penalty, a level.
    pub lambda: [f32; 2],
    /// Weights of the two reconstructions.
    pub w: [f32; 2],
    /// The gate that acts.
    pub gate: GateKind,
    /// What level 2 reads now.
    pub source: Source,
    /// Total variance of the rows.
    pub variance: f32,
    /// Tracked thresholds of `topk` and `batchtopk`, a level. Ungated drives of level 2 above theirs count as firing.
    pub tau: [f32; 2],
    /// Collect ungated drives for the co-firing statistics.
    pub observe_ungated: bool,
    /// Dead latents of each level, ascending.
    pub dead: [Vec<u32>; 2],
}

/// One chunk of rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunk {
    pub level: [Entries; 2],
    pub candidates: [List; 2],
    pub aux: [List; 2],
    pub drives: List,
    /// Partial sums in f64: see `backward`.
    pub sums: Sums,
    /// Column sums of `r1` and `r2`.
    pub columns: [Vec<f32>; 2],
    /// Sum of squares of the residual of each row after the last level.
    pub energy: Vec<f32>,
}

/// Partial sums of one chunk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub squares: [f64; 2],
    pub sparsity: [f64; 2],
    pub consistency: f64,
    pub aux: [f64; 2],
    pub gated: [f64; 2],
    pub fired: [u64; 2],
}

/// One thread's scratch.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub forward: Scratch,
    pub u_dead: Vec<f32>,
    pub picked: List,
    /// `(d)`.
    pub vector: Vec<f32>,
    /// One place a latent of a level: where its entry stands in the row at hand.
    pub place: [Vec<u32>; 2],
    /// Numbers of one row's entries.
    pub row: Vec<f32>,
    pub row2: Vec<f32>,
    /// Latents of one row's code, those that do not fire left out; their activations are in `row`.
    pub fires: Vec<u32>,
    /// For the consistency loss.
    pub miss: Vec<f32>,
    /// Gradients of a chunk that nobody reads when it is done, a level.
    pub spare: [Gradients; 2],
    /// Entries of level 1 before those of charged parents.
    pub old: Entries,
    /// `(f)` thresholds less half a bandwidth.
    pub bands: [Vec<f32>; 2],
}

impl Lane {
    /// Returns the scratch of the consistency loss.
    pub fn loss(&mut self) -> loss::Scratch<'_> {
        loss::Scratch { vector: &mut self.miss, row: &mut self.row, slots: &mut self.place }
    }

    /// Lets go of what grows with what fires.
    fn rest(&mut self, arch: &Arch) {
        self.forward = Scratch::of_chunk(arch);
        self.picked = List::default();
        self.spare = Default::default();
        self.old = Entries::default();
        (self.u_dead, self.row, self.row2, self.fires) = Default::default();
    }
}

/// Everything that a step works in. Sizes settle in the first step.
#[derive(Clone, Debug)]
pub struct Objective {
    pub(crate) arch: Arch,
    pub(crate) config: Config,
    pub(crate) compute: Compute,
    pub(crate) slots: usize,
    pub(crate) rows: Vec<f32>,
    pub(crate) n: usize,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) lanes: Vec<Lane>,
    /// The encoders in 8 bits, where that pays: of level 2 those that are read without their parents.
    pub(crate) screens: [Option<Screen>; 2],
    /// Of the children of level 2, behind a hard gate.
    pub(crate) order: Order,
    /// Decoder directions of level 2 in the space of the rows: `E2 D1` for `comp`, else empty.
    pub(crate) composed: Vec<f32>,
    pub(crate) grad_composed: Vec<f32>,
    /// Norms of the decoder rows of both levels, where a penalty needs them.
    pub(crate) norms: [Vec<f32>; 2],
    pub(crate) by_latent: [ByLatent; 2],
    /// The part of the gradient of level 1's encoder biases that comes through level 2.
    pub(crate) through2: Vec<f32>,
    /// Scratch of the gradients by latent: more of them than threads, so that uneven latents spread.
    pub(crate) parts: Vec<Part>,
    /// `0, 1, 2, ...` for every latent of the wider level, and negated gradients of biases.
    pub(crate) all: Vec<u32>,
    pub(crate) minus: Vec<f32>,
    /// `(groups of latents, d)`: sums of the gradient of the decoder bias, one per group.
    pub(crate) groups: Vec<f32>,
    /// `(d)` each: the two parts of the gradient of the decoder bias.
    pub(crate) bias: [Vec<f32>; 2],
    pub(crate) stats: Vec<f32>,
    pub(crate) seed_cos: SeedCos,
    /// Lower bound below which no candidate of `batchtopk` is kept, a level; none before the first step.
    pub(crate) floor: [Option<f32>; 2],
    pub(crate) values: Vec<f32>,
}

impl Objective {
    /// For the model of `config` over rows of width `d`.
    ///
    /// # Errors
    /// What [`Config::validate`] finds.
    pub fn new(config: &Config, d: usize, compute: Compute) -> Result<Self> {
        config.validate(d)?;
        let arch = Arch::new(config, d);
        let comp = arch.decoder.is_composed() && arch.level[1].latents > 0;
        let composed = vec![0.0; if comp { arch.level[1].latents * d } else { 0 }];
        let lane = Lane {
            forward: Scratch::of_chunk(&arch),
            u_dead: Vec::new(),
            picked: List::default(),
            vector: vec![0.0; d],
            place: [vec![u32::MAX; arch.level[0].latents], vec![u32::MAX; arch.level[1].latents]],
            row: Vec::new(),
            row2: Vec::new(),
            fires: Vec::new(),
            miss: vec![0.0; config.loss.consistency.scratch_width(d, arch.level[0].latents)],
            spare: [Gradients::default(), Gradients::default()],
            old: Entries::default(),
            bands: [Vec::new(), Vec::new()],
        };
        Ok(Self {
            slots: 0,
            rows: Vec::new(),
            n: 0,
            chunks: Vec::new(),
            lanes: vec![lane; compute.par.threads()],
            screens: [None, None],
            order: Order::default(),
            grad_composed: composed.clone(),
            composed,
            norms: [Vec::new(), Vec::new()],
            by_latent: [ByLatent::default(), ByLatent::default()],
            through2: vec![0.0; arch.level[0].latents],
            parts: vec![Part::new(&arch, config); PARTS * compute.par.threads()],
            all: (0..arch.level[0].latents.max(arch.level[1].latents) as u32).collect(),
            minus: Vec::new(),
            groups: Vec::new(),
            bias: [vec![0.0; d], vec![0.0; d]],
            stats: Vec::new(),
            seed_cos: SeedCos::default(),
            floor: [None, None],
            values: Vec::new(),
            config: config.clone(),
            arch,
            compute,
        })
    }

    /// The architecture.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// Loss and gradient on `x`, `(n, d)`: `grads` is written, never read.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the term of the loss that is not finite.
    pub fn loss_and_gradient(
        &mut self,
        params: &Params,
        families: &Families,
        settings: &StepSettings,
        x: &[f32],
        grads: &mut Params,
    ) -> Result<Losses> {
        self.arch.source = settings.source;
        self.begin(settings, x);
        self.prepare(params, families, settings);
        let mut losses = Losses::default();
        forward::run(self, params, families, settings, x, &mut losses);
        for level in 0..self.n_levels() {
            let squares: f64 = self.chunks.iter().map(|c| c.sums.squares[level]).sum();
            losses.fvu[level] = squares / (self.n as f64 * f64::from(settings.variance));
            let fired: u64 = self.chunks.iter().map(|c| c.sums.fired[level]).sum();
            losses.l0[level] = fired as f64 / self.n as f64;
        }
        if self.n_levels() == 1 {
            losses.fvu[1] = losses.fvu[0];
        }
        let codes = [0, 1].map(|l| {
            let chunks = self.chunks.iter().map(move |chunk| &chunk.level[l]);
            chunks.flat_map(|e| (0..e.offsets.len().saturating_sub(1)).map(move |i| forward::code_row(e, i)))
        });
        let loss = &self.config.loss;
        losses.consistency =
            loss.consistency.measure(loss.consistency_weight, &mut self.seed_cos, self.n, self.arch.latents(), codes);
        backward::run(self, params, families, settings, &losses);
        accumulate::run(self, params, families, settings, grads, &mut losses);
        self.sum_up(settings, &mut losses)?;
        Ok(losses)
    }

    /// Lets go of the rows, the entries and the screens; the floors stay.
    pub fn rest(&mut self) {
        self.rows = Vec::new();
        self.chunks = Vec::new();
        self.n = 0;
        self.by_latent = Default::default();
        self.values = Vec::new();
        self.screens = [None, None];
        for lane in &mut self.lanes {
            lane.rest(&self.arch);
        }
    }

    /// Levels that there are.
    pub(crate) fn n_levels(&self) -> usize {
        if self.arch.level[1].latents > 0 { 2 } else { 1 }
    }

    /// Returns the entries that fire at a level (0 or 1), as `(row, latent, pre-activation, value)`, in order.
    pub fn fired(&self, level: usize) -> impl Iterator<Item = (usize, usize, f32, f32)> + '_ {
        self.entries(level).filter(|e| e.3 > 0.0).map(|e| (e.0, e.1, e.2, e.3))
    }

    /// Returns every entry of a level (0 or 1) as `(row, latent, pre-activation, value, AuxK value)`.
    pub fn entries(&self, level: usize) -> impl Iterator<Item = (usize, usize, f32, f32, f32)> + '_ {
        self.chunks.iter().enumerate().flat_map(move |(c, chunk)| {
            let e = &chunk.level[level];
            (0..e.offsets.len().saturating_sub(1)).flat_map(move |i| {
                e.row(i).map(move |at| (c * CHUNK + i, e.index[at] as usize, e.u[at], e.z[at], e.lit(at)))
            })
        })
    }

    /// Ungated drives of level 2 above their threshold, as `(row, latent, drive)`; empty unless they were asked for.
    pub fn drives(&self) -> impl Iterator<Item = (usize, usize, f32)> + '_ {
        self.chunks.iter().enumerate().flat_map(|(c, chunk)| {
            let list = &chunk.drives;
            (0..list.offsets.len().saturating_sub(1))
                .flat_map(move |i| list.row(i).map(move |at| (c * CHUNK + i, list.index[at] as usize, list.u[at])))
        })
    }

    /// `r2 = x - x_hat2` (`r1` for a flat model) of a row of the last batch.
    pub fn residual(&self, row: usize) -> &[f32] {
        let s = if self.n_levels() == 2 { slot::R2 } else { slot::R1 };
        let d = self.arch.d;
        &self.rows[(row * self.slots + s) * d..][..d]
    }

    /// Writes what the last batch has shown to `out`, but for the losses.
    pub fn observe(&self, out: &mut Observed) {
        out.energy.clear();
        self.chunks.iter().for_each(|chunk| out.energy.extend_from_slice(&chunk.energy));
        for (l, codes) in out.codes.iter_mut().enumerate() {
            codes.clear();
            for e in self.chunks.iter().map(|chunk| &chunk.level[l]) {
                for i in 0..e.offsets.len().saturating_sub(1) {
                    e.row(i).filter(|at| e.z[*at] > 0.0).for_each(|at| codes.push(e.index[at], e.z[at]));
                    codes.end_row();
                }
            }
        }
        out.ungated.clear();
        for chunk in &self.chunks {
            for i in 0..chunk.energy.len() {
                // There are no rows in a step that was not asked for them.
                if chunk.drives.offsets.len() > 1 {
                    chunk.drives.row(i).for_each(|at| out.ungated.push(chunk.drives.index[at], chunk.drives.u[at]));
                }
                out.ungated.end_row();
            }
        }
    }

    /// Rows of the last batch.
    pub fn n(&self) -> usize {
        self.n
    }

    fn begin(&mut self, settings: &StepSettings, x: &[f32]) {
        let d = self.arch.d;
        self.slots = self.slots.max(self.slots_for(settings));
        assert!(!x.is_empty() && x.len().is_multiple_of(d), "{} numbers are no whole number of rows of {d}", x.len());
        self.n = x.len() / d;
        assert!(self.n * self.slots <= u32::MAX as usize, "a batch of {} rows", self.n);
        self.rows.resize(self.n * self.slots * d, 0.0);
        self.chunks.resize_with(self.n.div_ceil(CHUNK), Chunk::default);
    }

    /// Slots of a row for this step: those of AuxK only where somebody is dead.
    fn slots_for(&self, settings: &StepSettings) -> usize {
        let two = self.n_levels() == 2;
        if two && self.config.source.reaches_decoder1(self.config.source_detach) {
            return slot::DS + 1;
        }
        let aux = self.config.loss.aux > 0.0 && settings.dead[..self.n_levels()].iter().any(|dead| !dead.is_empty());
        match (two, aux) {
            (false, aux) => slot::e1(two) + usize::from(aux),
            (true, false) => slot::e1(two),
            (true, true) => slot::E2 + 1,
        }
    }

    /// What of the entries of a level (0 or 1) is read after their row is done.
    pub(crate) fn kept(&self, level: usize, settings: &StepSettings, losses: &Losses) -> Kept {
        let two = self.n_levels() == 2;
        let own = self.arch.level[level].activation.parameters().len();
        Kept {
            through: level == 0 && two,
            drive: level == 1,
            gate: level == 1 && self.arch.gate.has_weights(),
            own,
            aux: backward::aux_weight(self, settings, losses, level) > 0.0,
        }
    }

    /// What is made of the weights once a step.
    fn prepare(&mut self, params: &Params, families: &Families, settings: &StepSettings) {
        let behind_gate = settings.gate.has_families() && !self.needs_ungated(settings);
        for (screen, (f, d)) in self
            .screens
            .iter_mut()
            .zip([(self.arch.level[0].latents, self.arch.d), (self.arch.level[1].latents, self.arch.source_width())])
        {
            if screen.is_none() && Screen::pays(self.compute.isa, f, d) {
                *screen = Some(Screen::new(f, d));
            }
        }
        let [screen1, screen2] = &mut self.screens;
        if let Some(screen) = screen1 {
            screen.quantise(self.compute, Matrix::all(&params.level[0].w_enc, self.arch.d), &params.level[0].b_enc);
        }
        let dense = settings.gate.is_dense_in_training();
        if let Some(screen) = screen2.as_mut().filter(|_| !dense) {
            let (all, bias) = (Matrix::all(&params.level[1].w_enc, self.arch.source_width()), &params.level[1].b_enc);
            if behind_gate {
                self.order.set(families);
                if self.order.pays() {
                    screen.quantise(self.compute, all.only(Pick::List(&self.order.places)), bias);
                }
            } else {
                screen.quantise(self.compute, all, bias);
            }
        }
        if !self.composed.is_empty() {
            compose(self.compute, &self.arch, params, &mut self.composed);
        }
        let specs = self.arch.specs();
        for (l, norms) in self.norms.iter_mut().enumerate().take(self.arch.n_levels()) {
            let rows = params.level[l].w_dec.chunks(specs.level[l].w_dec.width);
            norms.clear();
            norms.extend(rows.map(|row| libm::sqrtf(reduce::sum_squares(self.compute.isa, row))));
        }
        for lane in &mut self.lanes {
            for (l, band) in lane.bands.iter_mut().enumerate() {
                let rule = forward::level_rule(l, &self.arch, params, settings);
                rule.bands(self.config.level(l).bandwidth as f32, band);
            }
        }
    }

    /// Adds the chunks' partial sums in index order.
    fn sum_up(&self, settings: &StepSettings, losses: &mut Losses) -> Result<()> {
        for chunk in &self.chunks {
            losses.consistency += chunk.sums.consistency;
        }
        let mut total = losses.consistency;
        for l in 0..self.n_levels() {
            for chunk in &self.chunks {
                losses.sparsity[l] += chunk.sums.sparsity[l];
                losses.aux[l] += chunk.sums.aux[l];
                losses.gated[l] += chunk.sums.gated[l];
            }
            total += f64::from(settings.w[l]) * losses.fvu[l] + losses.sparsity[l] + losses.aux[l] + losses.gated[l];
        }
        losses.total = total;
        for (what, value) in [
            ("the reconstruction loss of level 1", losses.fvu[0]),
            ("the reconstruction loss of level 2", losses.fvu[1]),
            ("the sparsity penalty", losses.sparsity[0] + losses.sparsity[1]),
            ("the consistency loss", losses.consistency),
            ("AuxK", losses.aux[0] + losses.aux[1]),
            ("the auxiliary loss of a gated level", losses.gated[0] + losses.gated[1]),
        ] {
            if !value.is_finite() {
                return Err(Error::NotFinite { what: what.into(), at: At::Step(0) });
            }
        }
        Ok(())
    }

    /// Whether the ungated drives of level 2 are asked for, by the co-firing statistics or by the containment loss.
    pub(crate) fn needs_ungated(&self, settings: &StepSettings) -> bool {
        settings.observe_ungated || self.config.loss.consistency.needs().drives
    }

    /// Whether the part of the gradient that reaches level 1 through level 2 is dropped.
    pub(crate) fn own(&self) -> bool {
        self.config.train.balance.drops_through()
    }
}

/// Returns the consistency loss with the numbers of a step over `n` rows.
pub(super) fn term<'a>(
    config: &Config,
    isa: Isa,
    n: usize,
    variance: f32,
    params: &'a Params,
    families: &'a Families,
    seed_cos: &'a SeedCos,
) -> Term<'a> {
    let loss = &config.loss;
    let weights = loss::Weights {
        weight: loss.consistency_weight,
        down: loss.contain_down as f32,
        up: loss.contain_up as f32,
        margin: loss.contain_margin as f32,
    };
    let Params { b_dec, level: [one, two], .. } = params;
    let inputs = loss::Inputs { isa, n, variance, d: b_dec.len(), d1: &one.w_dec, d2: &two.w_dec, families, seed_cos };
    loss.consistency.term(&weights, inputs)
}
