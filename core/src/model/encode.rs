//! Encode at inference.

use super::hierarchy::{Behind, Hierarchy, Order};
use super::level2::Weights;
use super::on_device::{Memory, OnDevice};
use super::plan::{EVERYTHING, Plan};
use super::scratch::{BLOCK, CHUNK, Lanes, Scratch};
use super::stored::{Stored, WeightType, with_weights};
use super::{Arch, Codes, Model, TopkBy, compete, compose, prune, seed};
use crate::activation::Rule;
use crate::compute::Compute;
use crate::config::ModelKind;
use crate::cuda;
use crate::device::Device;
use crate::error::{At, Error, Result};
use crate::gate::{Families, Reads};
use crate::kernel::dense::{self, Matrix, Pick};
use crate::kernel::fire::{Limit, RowLists, Search, fire};
use crate::kernel::weight::Weight;
use crate::kernel::{Isa, Screen, reduce};
use crate::par::Par;
use crate::row_norm::RowNorm;
use crate::rows::{Dtype, Rows};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// A model made ready to encode. Immutable; share it between threads.
///
/// Weights are used in place. Where it pays, a copy of the encoders in 8 bits first decides which latents can fire at
/// all ([`crate::kernel::screen`]).
#[derive(Clone, Debug)]
pub struct Encoder {
    pub(super) model: Arc<Model>,
    isa: Isa,
    stored: Stored,
    /// The encoders of both levels in 8 bits; level 2 behind a hard gate is in the order of `order`.
    pub(super) screens: [Option<Screen>; 2],
    order: Order,
    pub(super) families: Families,
    decoder2: Vec<f32>,
    /// `-b_enc` of level 1, where latents compete by absolute value.
    minus_bias: Vec<f32>,
    /// Squared norms of the decoder directions of each level that is pruned.
    squares: [Vec<f32>; 2],
    /// The model on a device, if it encodes there.
    pub(super) device: Option<Arc<OnDevice>>,
}

impl Encoder {
    /// Prepares `model` for encoding.
    ///
    /// # Errors
    /// Returns what [`Model::check`] finds.
    pub fn new(model: Arc<Model>, compute: Compute) -> Result<Self> {
        Self::with_weights(model, compute, WeightType::F32)
    }

    /// Prepares `model` as [`Encoder::new`] does, with its weights stored as `weights`.
    ///
    /// # Errors
    /// As [`Encoder::new`], [`Error::Config`] for the seed model, which supports only `f32`, and [`Error::NotFinite`]
    /// for weights that overflow in that type.
    pub fn with_weights(model: Arc<Model>, compute: Compute, weights: WeightType) -> Result<Self> {
        model.check()?;
        if model.arch.model == ModelKind::Seed && weights != WeightType::F32 {
            return Err(Error::config("weights", "expected f32, the only type of the seed model"));
        }
        let stored = Stored::new(weights, &model);
        Self::assemble(model, stored, compute)
    }

    /// Makes an encoder of a checked model, and of encoders that may be in place of its own.
    pub(super) fn assemble(model: Arc<Model>, stored: Stored, compute: Compute) -> Result<Self> {
        let Compute { isa, .. } = compute;
        let arch = &model.arch;
        let families = if arch.gate.has_families() {
            Families::new(model.parents.clone(), arch.level[0].latents)
        } else {
            Families::all_root(arch.level[0].latents, arch.level[1].latents)
        };
        let mut order = Order::default();
        if arch.gate.has_families() {
            order.set(&families);
        }
        stored.check()?;
        let two = arch.n_levels() == 2
            && match arch.gate.reads() {
                Reads::Nothing => true,
                Reads::ActiveParents { largest_only } => !largest_only && order.pays(),
                Reads::AllPreActivations => false,
            };
        let screens = with_weights!(&stored, model, |w1, w2| {
            let behind = if arch.gate.has_families() { w2.only(Pick::List(&order.places)) } else { w2 };
            // The screen includes the bias, which differs for the opposite sign.
            let one = arch.model == ModelKind::Tree && arch.variant.topk_by != TopkBy::Absolute;
            let [one, two] = [(w1, one), (behind, two)];
            [(one, 0), (two, 1)].map(|((w, asked), l)| {
                let bias = &model.params.level[l].b_enc;
                (asked && Screen::pays(isa, bias.len(), w.d)).then(|| {
                    let mut screen = Screen::new(w.rows.len(), w.d);
                    screen.quantise(compute, w, bias);
                    screen
                })
            })
        });
        let mut decoder2 = Vec::new();
        if !model.params.level[1].w_dec.is_empty() && arch.decoder.is_composed() {
            decoder2 = vec![0.0; arch.level[1].latents * arch.d_out()];
            compose(compute, arch, &model.params, &mut decoder2);
        }
        let mut minus_bias = Vec::new();
        if model.arch.variant.topk_by == TopkBy::Absolute {
            minus_bias.extend(model.params.level[0].b_enc.iter().map(|b| -b));
        }
        let squares = Default::default();
        let mut encoder =
            Self { isa, stored, screens, order, families, decoder2, minus_bias, squares, device: None, model };
        encoder.squares = [0, 1].map(|l| {
            let rows = encoder.directions(l).chunks_exact(encoder.model.arch.d_out());
            let is_pruned = encoder.model.arch.variant.prune[l] > 0.0;
            if is_pruned { rows.map(|row| reduce::sum_squares(isa, row)).collect() } else { Vec::new() }
        });
        Ok(encoder)
    }

    /// Encodes on a device from now on: the weights are copied there. The codes are the same, to the bit.
    ///
    /// # Errors
    /// [`Error::Device`] for a model that is not encoded on devices or does not fit, and whatever the driver reports;
    /// [`Error::NotBuilt`] in a build without the feature `cuda`.
    pub fn on(mut self, device: &Device) -> Result<Self> {
        if !cuda::BUILT {
            return Err(Error::NotBuilt { feature: "cuda" });
        }
        self.device = Some(Arc::new(OnDevice::new(device, &self.model, &self.stored, &self.families)?));
        Ok(self)
    }

    /// Returns the device that it encodes on; none for the CPU.
    pub fn device(&self) -> Option<&Device> {
        self.on_device().map(OnDevice::device)
    }

    /// Returns the model on a device, if it encodes there. A build without devices has no code for them.
    fn on_device(&self) -> Option<&OnDevice> {
        if cuda::BUILT { self.device.as_deref() } else { None }
    }

    /// Returns the decoder directions of a level, `(f, d_out)`.
    fn directions(&self, level: usize) -> &[f32] {
        if level == 0 { &self.model.params.level[0].w_dec } else { self.decoder2() }
    }

    /// Removes the latents of `level` that are not worth their place on the rows of `xt`, given the codes of level 1 where
    /// `level` is 1.
    fn prune(&self, level: usize, xt: &[f32], codes1: Option<&Codes>, codes: &mut Codes, t: &mut prune::Scratch) {
        let arch = &self.model.arch;
        let share = arch.variant.prune[level];
        if share == 0.0 {
            return;
        }
        let judge = prune::Judge {
            isa: self.isa,
            rule: &self.model.rule(level),
            share,
            directions: prune::Directions { rows: self.directions(level), squares: &self.squares[level] },
            beside: codes1.filter(|_| arch.decoder.is_cumulative()).map(|codes| (codes, self.directions(0))),
            // Rows that are read as they are still hold the bias that every reconstruction starts from.
            bias: arch.variant.raw_input.then_some(&*self.model.params.b_dec),
        };
        prune::prune(judge, arch.d, xt, codes, t);
    }

    /// Returns the model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns the instruction set that it computes with.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Returns the decoder directions of level 2 in the space of the reconstruction, `(f2, d_out)`.
    pub fn decoder2(&self) -> &[f32] {
        if self.decoder2.is_empty() { &self.model.params.level[1].w_dec } else { &self.decoder2 }
    }

    /// Returns the type that its weights are stored in.
    pub fn weight_type(&self) -> WeightType {
        self.stored.weight_type()
    }

    /// Returns level 2 behind its hard gate.
    fn hierarchy<'a, W>(&'a self, w: Matrix<'a, W>) -> Hierarchy<'a, W> {
        Hierarchy {
            w,
            bias: &self.model.params.level[1].b_enc,
            families: &self.families,
            screen: self.screens[1].as_ref().map(|screen| (screen, &self.order)),
            largest_only: self.model.arch.gate.reads() == (Reads::ActiveParents { largest_only: true }),
        }
    }

    /// Returns the parents of the children.
    pub fn families(&self) -> &Families {
        &self.families
    }

    /// Appends the codes of `x`, `(n, d)`: each row by itself, so that the codes of a row never depend on its neighbours.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` is no whole number of rows, [`Error::NotFinite`] naming the first row that is not finite;
    /// nothing is appended then.
    pub fn encode(&self, x: &[f32], scratch: &mut Scratch, codes1: &mut Codes, codes2: &mut Codes) -> Result<()> {
        self.encode_planned(&EVERYTHING, x, scratch, [codes1, codes2])
    }

    /// Appends the codes of `x` that `plan` keeps.
    pub(super) fn encode_planned(
        &self,
        plan: &Plan,
        x: &[f32],
        scratch: &mut Scratch,
        [codes1, codes2]: [&mut Codes; 2],
    ) -> Result<()> {
        self.check_rows(x)?;
        if let Some(on) = self.on_device() {
            let first = [codes1.n(), codes2.n()];
            self.encode_on(on, x, None, &mut scratch.device, [codes1, codes2], None)?;
            plan.keep([codes1, codes2], first);
            return Ok(());
        }
        let d = self.model.arch.d;
        for block in x.chunks(scratch.rows * d) {
            self.encode_rows(plan, block, scratch, None);
            codes1.append(&scratch.codes[0]);
            codes2.append(&scratch.codes[1]);
        }
        Ok(())
    }

    /// Appends the codes of `x` as [`Encoder::encode`] does, with blocks of rows spread over the threads of `par`; the bits
    /// are the same.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_par(&self, par: Par, x: &[f32], codes1: &mut Codes, codes2: &mut Codes) -> Result<()> {
        self.encode_par_in(par, x, &mut Lanes::default(), codes1, codes2)
    }

    /// Appends the codes of `x` as [`Encoder::encode_par`] does, with working memory that is kept from call to call.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_par_in(
        &self,
        par: Par,
        x: &[f32],
        lanes: &mut Lanes,
        codes1: &mut Codes,
        codes2: &mut Codes,
    ) -> Result<()> {
        self.check_rows(x)?;
        if let Some(on) = self.on_device() {
            return self.encode_on(on, x, None, &mut lanes.device, [codes1, codes2], None);
        }
        self.encode_parts(&EVERYTHING, par, x, false, lanes);
        lanes.append_to([codes1, codes2]);
        Ok(())
    }

    /// Encodes `x` as [`Encoder::encode_par`] does, and leaves the codes in `lanes`, where [`Lanes::parts`] has them: the memory
    /// for them is kept from call to call too.
    ///
    /// # Errors
    /// As [`Encoder::encode`]; `lanes` has no codes then.
    pub fn encode_in(&self, par: Par, x: &[f32], lanes: &mut Lanes) -> Result<()> {
        self.encode_planned_in(&EVERYTHING, par, x, lanes)
    }

    /// Leaves the codes of `x` that `plan` keeps in `lanes`.
    pub(super) fn encode_planned_in(&self, plan: &Plan, par: Par, x: &[f32], lanes: &mut Lanes) -> Result<()> {
        lanes.used = 0;
        self.check_rows(x)?;
        let Some(on) = self.on_device() else {
            self.encode_parts(plan, par, x, false, lanes);
            return Ok(());
        };
        if lanes.parts.is_empty() {
            lanes.parts.push(Default::default());
        }
        let [codes1, codes2, _] = &mut lanes.parts[0];
        codes1.clear();
        codes2.clear();
        self.encode_on(on, x, None, &mut lanes.device, [codes1, codes2], None)?;
        plan.keep([codes1, codes2], [0, 0]);
        lanes.used = 1;
        Ok(())
    }

    /// Returns whether a device reads rows as they lie, so that fewer bytes cross the bus: [`Encoder::encode_stored_in`].
    pub fn reads_stored(&self) -> bool {
        self.on_device().is_some() && self.model.arch.variant.row_norm == RowNorm::None
    }

    /// Appends the codes of rows as they lie in memory or in a file, as [`Encoder::encode_par_in`] does of widened ones.
    ///
    /// # Errors
    /// As [`Encoder::encode`]; [`Error::Shape`] for rows of another width.
    pub fn encode_stored_in(
        &self,
        par: Par,
        rows: Rows<'_>,
        lanes: &mut Lanes,
        codes1: &mut Codes,
        codes2: &mut Codes,
    ) -> Result<()> {
        let d = self.model.arch.d;
        if rows.d() != d {
            return Err(Error::Shape { what: "numbers in a row", expected: d, got: rows.d() });
        }
        let mut x = core::mem::take(&mut lanes.wide);
        x.resize(rows.n() * d, 0.0);
        rows.widen(0..rows.n(), &mut x);
        let done = match (self.on_device(), rows.contiguous()) {
            (Some(on), Some(bytes)) if self.reads_stored() => self.check_rows(&x).and_then(|()| {
                let stored = Some((bytes, rows.dtype()));
                self.encode_on(on, &x, stored, &mut lanes.device, [codes1, codes2], None)
            }),
            _ => self.encode_par_in(par, &x, lanes, codes1, codes2),
        };
        lanes.wide = x;
        done
    }

    /// Appends the codes of `x` as [`Encoder::encode_par`] does, and to `open2` those that level 2 would have without its gate:
    /// the same rule with the same thresholds, on `a2` in place of `u2`. With topk children then compete with all others, not
    /// only with those of active parents. Without a gate `open2` equals `codes2`.
    ///
    /// Cost: behind a hard gate the pre-activation of every child, which [`Encoder::encode`] skips; otherwise one more
    /// selection per row.
    ///
    /// # Errors
    /// As [`Encoder::encode`], and [`Error::Config`] for the seed model, whose level 2 has no pre-activations before its gate;
    /// nothing is appended then.
    pub fn encode_open_par(
        &self,
        par: Par,
        x: &[f32],
        lanes: &mut Lanes,
        codes1: &mut Codes,
        codes2: &mut Codes,
        open2: &mut Codes,
    ) -> Result<()> {
        if self.model.arch.model == ModelKind::Seed {
            return Err(Error::config("model", "expected a model with ungated pre-activations, found the seed"));
        }
        self.check_rows(x)?;
        if let Some(on) = self.on_device() {
            return self.encode_on(on, x, None, &mut lanes.device, [codes1, codes2], Some(open2));
        }
        self.encode_parts(&EVERYTHING, par, x, true, lanes);
        lanes.append_to([codes1, codes2]);
        lanes.parts[..lanes.used].iter().for_each(|[_, _, open]| open2.append(open));
        Ok(())
    }

    /// Leaves the codes of both levels and, with `open`, those of level 2 without its gate, in the parts of `lanes`: those of
    /// consecutive rows of `x` each.
    fn encode_parts(&self, plan: &Plan, par: Par, x: &[f32], open: bool, lanes: &mut Lanes) {
        // Small inputs are cut into smaller blocks, so that every thread has some. Blocks share working memory, which does
        // not influence the codes.
        let n = x.len() / self.model.arch.d;
        let size = BLOCK.min(n.div_ceil(par.threads()).next_multiple_of(8)).max(8) * self.model.arch.d;
        let blocks = x.len().div_ceil(size);
        let together = (blocks / (4 * par.threads())).max(1);
        if lanes.arch != Some(self.model.arch) {
            *lanes = Lanes { arch: Some(self.model.arch), ..Lanes::default() };
        }
        lanes.scratch.resize_with(par.threads(), || Scratch::new(&self.model.arch));
        lanes.used = blocks.div_ceil(together);
        if lanes.parts.len() < lanes.used {
            lanes.parts.resize_with(lanes.used, Default::default);
        }
        let parts = &mut lanes.parts[..lanes.used];
        par.for_items(&mut lanes.scratch, parts, &mut [], 0, |scratch, c, part, _| {
            part.iter_mut().for_each(Codes::clear);
            let [codes1, codes2, open2] = part;
            let from = c * together * size;
            for block in x[from..x.len().min(from + together * size)].chunks(size) {
                // Pruning reads the rows of one block.
                let mut ungated = core::mem::take(&mut scratch.open);
                ungated.clear();
                self.encode_rows(plan, block, scratch, open.then_some(&mut ungated));
                codes1.append(&scratch.codes[0]);
                codes2.append(&scratch.codes[1]);
                open2.append(&ungated);
                scratch.open = ungated;
            }
        });
    }

    /// Encodes up to a block of rows and leaves their codes in the scratch: the bits of [`Encoder::encode`].
    /// Allocates nothing if the scratch is [`Scratch::reserved`].
    ///
    /// # Errors
    /// As [`Encoder::encode`], and [`Error::Shape`] for more rows.
    pub fn encode_block(&self, x: &[f32], scratch: &mut Scratch) -> Result<()> {
        self.encode_block_planned(&EVERYTHING, x, scratch)
    }

    /// Encodes up to a block of rows and leaves the codes that `plan` keeps in the scratch.
    pub(super) fn encode_block_planned(&self, plan: &Plan, x: &[f32], scratch: &mut Scratch) -> Result<()> {
        self.check_rows(x)?;
        let most = scratch.rows * self.model.arch.d;
        if x.len() > most {
            return Err(Error::Shape { what: "numbers in a block of rows", expected: most, got: x.len() });
        }
        let Some(on) = self.on_device() else {
            self.encode_rows(plan, x, scratch, None);
            return Ok(());
        };
        let Scratch { codes: [codes1, codes2], device, .. } = scratch;
        codes1.clear();
        codes2.clear();
        self.encode_on(on, x, None, device, [codes1, codes2], None)?;
        plan.keep([codes1, codes2], [0, 0]);
        Ok(())
    }

    /// Appends the codes of checked rows that a device finds, which reads them as they are stored where that is given; none if it
    /// fails.
    fn encode_on(
        &self,
        on: &OnDevice,
        x: &[f32],
        stored: Option<(&[u8], Dtype)>,
        memory: &mut Memory,
        [codes1, codes2]: [&mut Codes; 2],
        mut open: Option<&mut Codes>,
    ) -> Result<()> {
        let first = [codes1.n(), codes2.n(), open.as_ref().map_or(0, |open| open.n())];
        let (centred, entries) = (self.model.arch.variant.row_norm != RowNorm::None, codes1.index.len());
        let mut xt = Vec::new();
        if centred {
            xt.resize(x.len(), 0.0);
            self.centre(x, &mut xt);
        }
        let wide = (bytemuck::cast_slice(if centred { &xt } else { x }), Dtype::F32);
        let done = on.encode(stored.unwrap_or(wide), memory, [codes1, codes2], open.as_deref_mut());
        if done.is_err() {
            for (codes, n) in [codes1, codes2].into_iter().chain(open).zip(first) {
                codes.truncate(n);
            }
            return done;
        }
        if self.model.arch.variant.scale {
            let scale = &self.model.params.level[0].scale;
            codes1.index[entries..]
                .iter()
                .zip(&mut codes1.value[entries..])
                .for_each(|(&j, z)| *z *= scale[j as usize]);
        }
        Ok(())
    }

    fn check_rows(&self, x: &[f32]) -> Result<()> {
        let d = self.model.arch.d;
        if !x.len().is_multiple_of(d) {
            return Err(Error::Shape {
                what: "numbers in the rows",
                expected: x.len().next_multiple_of(d),
                got: x.len(),
            });
        }
        for (i, row) in x.chunks(d).enumerate() {
            if !reduce::all_finite(self.isa, row) {
                return Err(Error::NotFinite { what: "an activation".into(), at: At::Row(i as u64) });
            }
        }
        Ok(())
    }

    /// Encodes up to a block of rows; `open` receives the codes that level 2 would have without its gate, which a plan that
    /// computes level 2 in part does not have.
    fn encode_rows(&self, plan: &Plan, x: &[f32], t: &mut Scratch, open: Option<&mut Codes>) {
        with_weights!(&self.stored, self.model, |w1, w2| self.encode_with([w1, w2], plan, x, t, open));
        plan.keep(t.codes.each_mut(), [0, 0]);
    }

    fn encode_with<W: Weight>(
        &self,
        [w1, w2]: [Matrix<'_, W>; 2],
        plan: &Plan,
        x: &[f32],
        t: &mut Scratch,
        mut open: Option<&mut Codes>,
    ) {
        let model = &*self.model;
        let Arch { d, .. } = model.arch;
        let [_, f2] = model.arch.latents();
        let n = x.len() / d;
        let [mut codes1, mut codes2] = core::mem::take(&mut t.codes);
        codes1.clear();
        codes2.clear();
        if model.arch.model == ModelKind::Seed {
            seed::encode_rows(self.isa, &model.arch, &model.params, x, &mut t.h1, &mut codes1, &mut codes2);
            t.codes = [codes1, codes2];
            return;
        }
        let params = &model.params;
        let weights = Weights { arch: &model.arch, params, families: &self.families, gate: model.arch.gate };
        self.centre(x, &mut t.xt);
        let xt = &t.xt[..n * d];
        let rule = model.rule(0);
        let (w1, screen) = plan.level(0, w1, self.screens[0].as_ref());
        let limit = model.limit1(&rule);
        let search = Search { x: xt, w: w1, bias: &params.level[0].b_enc, limit };
        fire(self.isa, search, screen, &mut t.fire, &mut t.lists);
        match (model.arch.variant.topk_by, limit) {
            (TopkBy::Absolute, Limit::Topk(k)) => {
                // `-u` has the bits of `u` except for the sign, and so have the products with negated rows.
                let minus = &mut t.minus[..n * d];
                minus.iter_mut().zip(xt).for_each(|(m, x)| *m = -x);
                let search = Search { x: minus, bias: &self.minus_bias, ..search };
                fire(self.isa, search, None, &mut t.fire, &mut t.below);
                compete::by_absolute(k, &t.lists, &t.below, &mut codes1);
            }
            (TopkBy::Group, _) => compete::by_group(model.group_width(), &t.lists, &mut codes1),
            _ => append(&rule, &t.lists, &mut codes1),
        }
        if model.arch.variant.scale {
            let scale = &params.level[0].scale;
            codes1.index.iter().zip(&mut codes1.value).for_each(|(&j, z)| *z *= scale[j as usize]);
        }
        let mut pruning = core::mem::take(&mut t.prune);
        self.prune(0, xt, None, &mut codes1, &mut pruning);
        if f2 == 0 || plan.is_empty(1) {
            t.prune = pruning;
            for codes in [&mut codes2].into_iter().chain(open) {
                (0..n).for_each(|_| codes.end_row());
            }
            t.codes = [codes1, codes2];
            return;
        }
        weights.source(self.isa, n, |i| codes1.row(i), t);
        let (rule, width) = (model.rule(1), model.arch.source_width());
        let (w2, screen) = plan.level(1, w2, self.screens[1].as_ref());
        let b2 = &params.level[1].b_enc;
        if model.arch.gate.has_weights() {
            for rows in (0..n).step_by(CHUNK).map(|start| start..n.min(start + CHUNK)) {
                let s = Matrix::all(&t.s[rows.start * width..rows.end * width], width);
                dense::product(self.isa, s, w2, Some(b2), &mut t.a2[..rows.len() * f2]);
                for (i, row) in rows.enumerate() {
                    if let Some(open) = &mut open {
                        rule.fire(self.isa, &t.a2[i * f2..(i + 1) * f2], &mut open.index, &mut open.value);
                        open.end_row();
                    }
                    let u = weights.gate_row(self.isa, i, codes1.row(row), t);
                    rule.fire(self.isa, u, &mut codes2.index, &mut codes2.value);
                    codes2.end_row();
                }
            }
        } else if model.arch.gate.has_families() {
            let s = &t.s[..n * width];
            let active = |i: usize| codes1.row(i).active();
            let behind = Behind { s, limit: rule.limit(), active, rounded: model.arch.source.is_parallel() };
            let whole = self.hierarchy(w2);
            let part = plan.families.as_ref().map(|families| Hierarchy { families, screen: None, ..whole });
            part.unwrap_or(whole).run(self.isa, behind, &mut t.fire, &mut t.hierarchy, |_, children, u| {
                rule.keep(children, u, &mut codes2.index, &mut codes2.value);
                codes2.end_row();
            });
            if let Some(open) = open.as_deref_mut() {
                let search = Search { x: s, w: w2, bias: b2, limit: rule.limit() };
                fire(self.isa, search, screen, &mut t.fire, &mut t.lists);
                append(&rule, &t.lists, open);
            }
        } else {
            let search = Search { x: &t.s[..n * width], w: w2, bias: b2, limit: rule.limit() };
            fire(self.isa, search, screen, &mut t.fire, &mut t.lists);
            append(&rule, &t.lists, &mut codes2);
            if let Some(open) = open.as_deref_mut() {
                append(&rule, &t.lists, open);
            }
        }
        let xt = &t.xt[..n * d];
        self.prune(1, xt, Some(&codes1), &mut codes2, &mut pruning);
        if let Some(open) = open {
            self.prune(1, xt, Some(&codes1), open, &mut pruning);
        }
        t.prune = pruning;
        t.codes = [codes1, codes2];
    }

    /// `xt = x - b_dec` of rows normalised one by one, or `xt = x` where the encoder reads rows as they are.
    fn centre(&self, x: &[f32], xt: &mut [f32]) {
        let Arch { d, variant, .. } = self.model.arch;
        for (xt, row) in xt.chunks_mut(d).zip(x.chunks(d)) {
            if variant.row_norm == RowNorm::None && !variant.raw_input {
                reduce::sub_into(self.isa, row, &self.model.params.b_dec, xt);
                continue;
            }
            xt.copy_from_slice(row);
            if variant.row_norm != RowNorm::None {
                variant.row_norm.of(row).apply(xt);
            }
            if !variant.raw_input {
                xt.iter_mut().zip(&self.model.params.b_dec).for_each(|(x, b)| *x -= b);
            }
        }
    }
}

impl Scratch {
    /// Reserves capacity for the most codes that a block of rows can have: encoding with `encoder` then never
    /// allocates. The operating system provides only the pages that are used.
    #[must_use]
    pub fn reserved(mut self, encoder: &Encoder) -> Self {
        let (model, rows) = (encoder.model(), self.rows);
        let Arch { d, .. } = model.arch;
        let [f1, f2] = model.arch.latents();
        let width = model.arch.source_width();
        let (rule1, rule2) = (model.rule(0), model.rule(1));
        let limit1 = model.limit1(&rule1);
        if model.arch.variant.prune != [0.0; 2] {
            self.prune.reserve(d, model.max_active(0).max(model.max_active(1)).max(f2));
        }
        self.fire.reserve(rows, f1, d, encoder.screens[0].as_ref(), limit1);
        self.lists.reserve(rows, f1, limit1);
        if model.arch.variant.topk_by == TopkBy::Absolute {
            self.below.reserve(rows, f1, limit1);
        }
        if model.arch.gate.has_families() {
            let (active1, active2) = (model.max_active(0), model.max_open());
            encoder.hierarchy(Matrix::all(&model.params.level[1].w_enc, width)).reserve(
                &mut self.fire,
                &mut self.hierarchy,
                rows,
                active1,
                active2,
                rule2.limit(),
            );
        } else if f2 > 0 {
            self.fire.reserve(rows, f2, width, encoder.screens[1].as_ref(), rule2.limit());
            self.lists.reserve(rows, f2, rule2.limit());
        }
        for (level, codes) in self.codes.iter_mut().enumerate() {
            let f = model.arch.level[level].latents;
            // Selecting the k largest uses the ends of the lists as working memory.
            let spare = if let Limit::Topk(k) = model.rule(level).limit() {
                2 * f.min(k.saturating_mul(2).saturating_add(128))
            } else {
                0
            };
            let room = rows * model.max_active(level) + spare;
            codes.offsets.reserve(rows + 1);
            codes.index.reserve(room);
            codes.value.reserve(room);
        }
        self
    }
}

/// Appends those of the latents found for a block of rows that fire.
fn append(rule: &Rule<'_>, lists: &RowLists, codes: &mut Codes) {
    for i in 0..lists.n() {
        let (index, u) = lists.row(i);
        rule.keep(index, u, &mut codes.index, &mut codes.value);
        codes.end_row();
    }
}
