//! One step: the loss of the two-level model and its gradient on one batch, and the update of the parameters.
//!
//! ```text
//! L = w1 l1 + w2 l2 + s1 + s2 + wc cons + alpha1 aux1 + alpha2 aux2 (+ wg gated1 + wg gated2)
//! l_l = ||Y - Yhat_l||^2 / (n nu)
//! ```
//!
//! An autoencoder reconstructs what it reads, `Y = X`; a transcoder reads `X` as it is and reconstructs the rows `Y` of
//! another dump, `Yhat_l = z_l D_l + b_dec (+ W_skip x)`.
//!
//! All terms are in units of the fraction of variance unexplained (`nu` is the total variance of the rows, frozen), so
//! that weights carry over between layers and data sets.
//!
//! A step is a sequence of stages, each a function of what it reads and what it writes:
//!
//! | stage | reads | writes |
//! |---|---|---|
//! | [`derived`] | parameters | encoders in 8 bits, composed directions, norms of decoder rows |
//! | [`collect`], per level | rows, encoders, for level 2 the entries of level 1 | candidates, AuxK's selection, ungated pre-activations |
//! | [`select`], per level | candidates of the whole batch | the candidates that are kept, then entries |
//! | [`prune`], per level, if it is asked for | the candidates that are kept, rows, decoders | those that stay |
//! | [`reconstruction`] forward | entries, decoders | residuals, their sums |
//! | [`terms`] | settings, fractions of variance unexplained | factors of the backward pass |
//! | [`backward`] | residuals, entries, factors | gradients of the entries |
//! | [`gradients`], [`bias`] | gradients of the entries, rows | gradients of the parameters |
//! | [`adam`] | gradients | parameters, moments |
//!
//! Each is parallel over fixed chunks of rows or over latents. Everything but the two encoder products touches only the
//! entries that fire, and the few others that have a gradient (see [`entries::Entries`]). Forward and backward of one
//! operation stand side by side in one file: [`reconstruction`], [`skip`], [`auxk`], and outside of this folder the
//! activations, the gate, the source of level 2 and the consistency losses. [`layout`] says where the vectors of a row
//! lie.

pub(super) mod adam;
mod auxk;
mod backward;
mod bias;
mod collect;
mod derived;
mod entries;
mod exchange;
mod gradients;
mod inputs;
mod layout;
mod prune;
mod reconstruction;
mod select;
mod settings;
mod skip;
mod terms;
mod workspace;

pub use adam::Adam;
pub(super) use auxk::k_aux;
pub(super) use exchange::{largest_over_shards, over_shards, parents_over_shards, sum_over_shards};
pub(super) use gradients::row_norms;
pub(super) use select::{first_floor, keep_of, lower_floor, next_floor};
pub use settings::StepSettings;

use super::batch::BatchRows;
use super::observed::{Losses, Observed};
use super::shard::Shard;
use crate::activation::Selection;
use crate::compute::Compute;
use crate::config::{Budget, Config};
use crate::error::{At, Error, Result};
use crate::gate::Families;
use crate::loss::seed_cos::SeedCos;
use crate::model::{Arch, Params};
use alloc::vec;
use alloc::vec::Vec;
use derived::Derived;
use inputs::Inputs;
use layout::Layout;
use select::Floors;
use terms::Terms;
use workspace::{Batch, CHUNK, Chunk, Lane};

/// The loss of the two-level model and its gradient, with the working memory of a step, which is allocated in the first
/// steps and then reused.
#[derive(Clone, Debug)]
pub struct Objective {
    /// The architecture of this shard, and of all.
    arch: Arch,
    whole: Arch,
    shard: Shard,
    /// The families of this shard's children, where there are several shards.
    families: Families,
    /// The dead latents of this shard, likewise.
    dead: [Vec<u32>; 2],
    config: Config,
    compute: Compute,
    derived: Derived,
    batch: Batch,
    lanes: Vec<Lane>,
    floors: Floors,
    seed_cos: SeedCos,
    gradients: gradients::Workspace,
}

impl Objective {
    /// Prepares the loss of the model of `config` over rows of width `d`.
    ///
    /// # Errors
    /// Returns what [`Config::validate`] finds.
    pub fn new(config: &Config, d: usize, compute: Compute) -> Result<Self> {
        Self::with_target(config, d, None, compute)
    }

    /// Prepares the loss of a model that reads rows of width `d` and reconstructs those of width `target`: a
    /// transcoder. An autoencoder has no target.
    ///
    /// # Errors
    /// Returns what [`Config::validate_rows`] finds.
    pub fn with_target(config: &Config, d: usize, target: Option<usize>, compute: Compute) -> Result<Self> {
        let shard = Shard::solo(&Arch::with_target(config, d, target));
        Self::sharded(config, d, target, compute, shard)
    }

    /// [`Objective::with_target`] for a shard of a dictionary.
    pub(super) fn sharded(
        config: &Config,
        d: usize,
        target: Option<usize>,
        compute: Compute,
        shard: Shard,
    ) -> Result<Self> {
        config.validate_rows(d, target)?;
        let whole = Arch::with_target(config, d, target);
        let arch = shard.arch(&whole);
        Ok(Self {
            derived: Derived::new(&arch),
            batch: Batch::new(&whole),
            lanes: vec![Lane::new(&whole, config); compute.par.threads()],
            floors: Floors::default(),
            seed_cos: SeedCos::default(),
            gradients: gradients::Workspace::new(&arch, &whole, config, compute.par.threads()),
            config: config.clone(),
            families: Families::default(),
            dead: Default::default(),
            arch,
            whole,
            shard,
            compute,
        })
    }

    /// Replaces the families of all children that a shard reads; one process that has the whole dictionary reads those that
    /// each step is given.
    pub(super) fn set_families(&mut self, families: &Families) {
        if !self.shard.is_solo() {
            self.families = self.shard.families(families);
        }
    }

    /// Computes loss and gradient on the rows of a batch: `grads` is written, never read.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the term of the loss that is not finite; [`Error::Rank`] where another shard cannot be
    /// reached.
    ///
    /// # Panics
    /// If `x` is empty or not a whole number of rows, or if a transcoder's `y` does not have one row for each row of
    /// `x`.
    pub fn loss_and_gradient<'b>(
        &mut self,
        params: &Params,
        families: &Families,
        settings: &StepSettings,
        rows: impl Into<BatchRows<'b>>,
        grads: &mut Params,
    ) -> Result<Losses> {
        let BatchRows { x, y } = rows.into();
        let Self {
            arch,
            whole,
            shard,
            families: own_families,
            dead,
            config,
            compute,
            derived,
            batch,
            lanes,
            floors,
            seed_cos,
            gradients,
        } = self;
        assert!(
            !x.is_empty() && x.len().is_multiple_of(arch.d),
            "expected a whole number of rows of width {1}, found {0} numbers",
            x.len(),
            arch.d
        );
        let wanted = arch.variant.target.map_or(0, |d_out| x.len() / arch.d * d_out);
        assert_eq!(y.len(), wanted, "numbers of the rows that are to be reconstructed");
        (arch.source, whole.source) = (settings.source, settings.source);
        let mut own_dead = settings.dead.each_ref().map(|dead| &dead[..]);
        if !shard.is_solo() {
            for (l, dead) in dead.iter_mut().enumerate() {
                shard.own_of(l, &settings.dead[l], dead);
            }
            own_dead = dead.each_ref().map(|dead| &dead[..]);
        }
        let inputs = &Inputs {
            compute: *compute,
            arch,
            whole,
            shard,
            config,
            settings,
            params,
            families: if shard.is_solo() { families } else { own_families },
            all_families: families,
            dead: own_dead,
            x,
            y,
        };
        batch.begin(inputs.n(), stride(inputs, &batch.layout));
        derived.update(inputs);
        let mut losses = forward(inputs, derived, floors, batch, lanes)?;
        let loss = &config.loss;
        let codes = [0, 1].map(|l| batch.chunks.iter().flat_map(move |chunk| chunk.level[l].codes()));
        losses.consistency =
            loss.consistency.measure(loss.consistency_weight, seed_cos, inputs.n(), arch.latents(), codes);
        let terms = &Terms::new(inputs, derived, seed_cos, losses.fvu);
        backward::run(inputs, terms, batch, lanes)?;
        losses.consistency += terms.consistency.value();
        losses.balance = gradients::run(inputs, terms, batch, gradients, grads)?;
        sum_up(settings.w, inputs.n_levels(), &batch.chunks, &mut losses);
        check(&losses)?;
        Ok(losses)
    }

    /// Frees the rows, the entries and the screens, but keeps the floors.
    pub fn rest(&mut self) {
        self.batch.rest();
        self.gradients.rest();
        self.floors.rest();
        self.derived.rest();
        self.lanes.iter_mut().for_each(|lane| lane.rest(&self.whole));
    }

    /// Returns the lower bounds of the candidates of a selection over the batch, per level; none before the first step.
    /// They change how many candidates are collected, never which are kept.
    pub fn floors(&self) -> [Option<f32>; 2] {
        self.floors.floor
    }

    /// Sets the lower bounds from which the next step starts.
    pub fn set_floors(&mut self, floors: [Option<f32>; 2]) {
        self.floors.floor = floors;
    }

    /// Returns every entry of a level (0 or 1) of this shard as `(row, latent, pre-activation, value, AuxK value)`.
    pub fn entries(&self, level: usize) -> impl Iterator<Item = (usize, usize, f32, f32, f32)> + '_ {
        self.batch.chunks.iter().enumerate().flat_map(move |(c, chunk)| {
            let e = &chunk.level[level];
            (0..e.n_rows()).flat_map(move |i| {
                e.row(i).map(move |at| (c * CHUNK + i, e.index[at] as usize, e.u[at], e.z[at], e.aux(at)))
            })
        })
    }

    /// Returns the residual of a row of the last batch, `(d_out)`: `r2 = y - y_hat2`, or `r1` for a flat model.
    pub fn residual(&self, row: usize) -> &[f32] {
        let layout = &self.batch.layout;
        let first = if self.whole.n_levels() == 2 { layout.r2 } else { layout.r1 };
        self.batch.vector(row, first, layout.d_out)
    }

    /// Returns a row of the last batch as the encoder of level 1 reads it, `(d)`.
    pub fn input(&self, row: usize) -> &[f32] {
        self.batch.vector(row, 0, self.arch.d)
    }

    /// Writes the observations of the last batch to `out`, except for the losses.
    pub fn observe(&self, out: &mut Observed) {
        let chunks = &self.batch.chunks;
        out.energy.clear();
        chunks.iter().for_each(|chunk| out.energy.extend_from_slice(&chunk.energy));
        for (l, codes) in out.codes.iter_mut().enumerate() {
            codes.clear();
            if !self.shard.is_solo() {
                for list in chunks.iter().map(|chunk| &chunk.shared.codes[l]) {
                    for i in 0..list.n_rows() {
                        list.row(i).for_each(|at| codes.push(list.index[at], list.u[at]));
                        codes.end_row();
                    }
                }
                continue;
            }
            for e in chunks.iter().map(|chunk| &chunk.level[l]) {
                for i in 0..e.n_rows() {
                    e.row(i).filter(|at| e.z[*at] > 0.0).for_each(|at| codes.push(e.index[at], e.z[at]));
                    codes.end_row();
                }
            }
        }
        out.ungated.clear();
        for chunk in chunks {
            let ungated = if self.shard.is_solo() { &chunk.ungated } else { &chunk.shared.ungated };
            for i in 0..chunk.energy.len() {
                // A step that was not asked for ungated pre-activations has no rows of them.
                if chunk.ungated.offsets.len() > 1 {
                    ungated.row(i).for_each(|at| out.ungated.push(ungated.index[at], ungated.u[at]));
                }
                out.ungated.end_row();
            }
        }
    }

    /// Returns the entries that fire at a level (0 or 1), as `(row, latent, pre-activation, value)`, in order.
    pub fn fired(&self, level: usize) -> impl Iterator<Item = (usize, usize, f32, f32)> + '_ {
        self.entries(level).filter(|e| e.3 > 0.0).map(|e| (e.0, e.1, e.2, e.3))
    }

    /// Returns the ungated pre-activations of level 2 above their threshold, as `(row, latent, pre-activation)`; none
    /// unless the step was asked for them.
    pub fn ungated(&self) -> impl Iterator<Item = (usize, usize, f32)> + '_ {
        self.batch.chunks.iter().enumerate().flat_map(|(c, chunk)| {
            let list = &chunk.ungated;
            (0..list.offsets.len().saturating_sub(1))
                .flat_map(move |i| list.row(i).map(move |at| (c * CHUNK + i, list.index[at] as usize, list.u[at])))
        })
    }

    /// Returns the architecture.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// Returns the number of rows of the last batch.
    pub fn n(&self) -> usize {
        self.batch.n
    }
}

/// Returns how many numbers of the row buffer a row needs in this step. The vectors of AuxK are needed only while a
/// latent is dead.
fn stride(inputs: &Inputs<'_>, layout: &Layout) -> usize {
    let (config, two) = (inputs.config, inputs.two());
    if two && config.source.reaches_decoder1(config.source_detach) {
        return layout.ds + layout.d;
    }
    match (two, auxk::is_on(inputs)) {
        (false, true) => layout.e1 + layout.d_out,
        (_, false) => layout.e1,
        (true, true) => layout.e2 + layout.d_out,
    }
}

/// Runs both levels forward: afterwards every chunk holds its entries, and the row buffer `x`, `y`, `r1`, `r2`. Returns
/// the losses of the reconstructions, and what was counted.
fn forward(
    inputs: &Inputs<'_>,
    derived: &Derived,
    floors: &mut Floors,
    batch: &mut Batch,
    lanes: &mut [Lane],
) -> Result<Losses> {
    let Inputs { arch, config, settings, .. } = *inputs;
    let mut losses = Losses::default();
    let shared = config.budget == Budget::Shared;
    let mut first = 0;
    while first < inputs.n_levels() {
        // Levels that share a budget are selected from together, which is possible because `Config::validate` makes
        // sure that level 2 does not read level 1.
        let levels = &(first..if shared { 2 } else { first + 1 });
        let over_batch = arch.level[first].activation.selection() == Selection::Batch;
        if over_batch && floors.floor[first].is_none() {
            for level in levels.clone() {
                collect::run(inputs, derived, floors.limits(settings.tau), level, 1, batch, lanes)?;
            }
            floors.set_first(inputs, levels, &batch.chunks[0])?;
        }
        loop {
            for level in levels.clone() {
                collect::run(inputs, derived, floors.limits(settings.tau), level, usize::MAX, batch, lanes)?;
            }
            if !over_batch || !floors.lower(inputs, levels, &batch.chunks)? {
                break;
            }
        }
        let chosen = floors.choose(inputs, levels, &mut batch.chunks)?;
        if config.train.prune > 0.0 {
            for level in levels.clone() {
                prune::run(inputs, derived, level, chosen.selected_min, batch, lanes);
            }
        }
        losses.selected_min[levels.clone()].fill(chosen.selected_min);
        losses.above_tau[levels.clone()].fill(chosen.above_tau);
        first = levels.end;
    }
    reconstruction::forward(inputs, derived, shared, batch, lanes)?;
    for level in 0..inputs.n_levels() {
        let squares: f64 = batch.chunks.iter().map(|c| c.sums.squares[level]).sum();
        losses.fvu[level] = squares / (batch.n as f64 * f64::from(settings.variance));
        let fired: u64 = batch.chunks.iter().map(|c| c.sums.fired[level]).sum();
        losses.l0[level] = fired as f64 / batch.n as f64;
    }
    if !inputs.two() {
        losses.fvu[1] = losses.fvu[0];
    }
    Ok(losses)
}

/// Adds all terms of the loss; `w` are the weights of the reconstructions.
pub(super) fn add_up(w: [f32; 2], n_levels: usize, losses: &mut Losses) {
    let mut total = losses.consistency;
    for l in 0..n_levels {
        total += f64::from(w[l]) * losses.fvu[l] + losses.sparsity[l] + losses.aux[l] + losses.gated[l];
    }
    losses.total = total;
}

/// Adds the chunks' partial sums in index order, and then all terms; `w` are the weights of the reconstructions.
fn sum_up(w: [f32; 2], n_levels: usize, chunks: &[Chunk], losses: &mut Losses) {
    for chunk in chunks {
        losses.consistency += chunk.sums.consistency;
    }
    for l in 0..n_levels {
        for chunk in chunks {
            losses.sparsity[l] += chunk.sums.sparsity[l];
            losses.aux[l] += chunk.sums.aux[l];
            losses.gated[l] += chunk.sums.gated[l];
        }
    }
    add_up(w, n_levels, losses);
}

/// Checks that every term of the loss is finite.
pub(super) fn check(losses: &Losses) -> Result<()> {
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
