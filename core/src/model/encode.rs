//! Encode and decode at inference, and the drive of level 2 that training shares with it.

use super::hierarchy::{self, Hierarchy, Order};
use super::stored::{Stored, WeightType, with_weights};
use super::{Arch, CodeRow, Codes, Model, Params, compose, seed};
use crate::activation::Rule;
use crate::compute::Compute;
use crate::config::{GateKind, ModelKind, Source};
use crate::error::{Error, Result};
use crate::gate::{self, Families};
use crate::kernel::aligned::Aligned;
use crate::kernel::dense::{self, Matrix, Pick};
use crate::kernel::fire::{self, RowLists, fire};
use crate::kernel::weight::Weight;
use crate::kernel::{Isa, Screen, reduce, sparse};
use crate::par::Par;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Rows of a dense product.
pub(crate) const CHUNK: usize = 64;
/// Rows that are encoded together: the more there are, the more of them share weights.
const BLOCK: usize = 16 * CHUNK;

/// The numbers of one block of rows; reused from block to block.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    /// Rows of a block.
    rows: usize,
    /// `(rows, d)` centred rows.
    pub(crate) xt: Aligned,
    /// `(rows, source width)` what level 2 reads.
    pub(crate) s: Aligned,
    /// `(f1)` latents of level 1 of the seed.
    h1: Vec<f32>,
    /// `(CHUNK, f2)` ungated drives of level 2, where its gate needs all of them.
    pub(crate) a2: Vec<f32>,
    /// `(f2)` gate of one row.
    pub(crate) g2: Vec<f32>,
    /// `(f2)` gated pre-activations of one row.
    pub(crate) u2: Vec<f32>,
    /// What finding the latents needs, and those found.
    pub(crate) fire: fire::Scratch,
    pub(crate) lists: RowLists,
    /// What a hard gate needs.
    pub(crate) hierarchy: hierarchy::Scratch,
    /// Of the block that was encoded last.
    codes: [Codes; 2],
}

impl Scratch {
    /// For encoding with models of this architecture, in blocks of 1,024 rows.
    pub fn new(arch: &Arch) -> Self {
        Self::for_rows(arch, BLOCK)
    }

    /// For encoding in blocks of `rows` rows: fewer need less memory, and read weights more often.
    ///
    /// # Panics
    /// If there are none.
    pub fn for_rows(arch: &Arch, rows: usize) -> Self {
        assert!(rows > 0, "blocks of no rows");
        Self::with_drives(arch, rows, if arch.gate.has_weights() { arch.level[1].latents } else { 0 })
    }

    /// For the forward pass of training.
    pub(crate) fn of_chunk(arch: &Arch) -> Self {
        let dense = arch.gate.is_dense_in_training();
        Self::with_drives(arch, CHUNK, if dense { arch.level[1].latents } else { 0 })
    }

    fn with_drives(arch: &Arch, rows: usize, f2: usize) -> Self {
        let source = if arch.level[1].latents > 0 { rows * arch.source_width() } else { 0 };
        Self {
            rows,
            xt: Aligned::zeros(rows * arch.d),
            s: Aligned::zeros(source),
            h1: vec![0.0; if arch.model == ModelKind::Seed { arch.level[0].latents } else { 0 }],
            a2: vec![0.0; CHUNK * f2],
            g2: vec![0.0; f2],
            u2: vec![0.0; f2],
            ..Self::default()
        }
    }

    /// Makes room for the most codes that a block of rows can give: encoding with `encoder` then never allocates. The
    /// operating system backs only what is used.
    #[must_use]
    pub fn reserved(mut self, encoder: &Encoder) -> Self {
        let (model, rows) = (encoder.model(), self.rows);
        let Arch { d, .. } = model.arch;
        let [f1, f2] = model.arch.latents();
        let width = model.arch.source_width();
        let (rule1, rule2) = (model.rule(0), model.rule(1));
        self.fire.reserve(rows, f1, d, encoder.screens[0].as_ref(), rule1.limit());
        self.lists.reserve(rows, f1, rule1.limit());
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
            // Selecting the k largest uses the end of the lists as scratch.
            let spare = if let Rule::Topk(k) = model.rule(level) {
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

    /// The pairs of a row and a latent that encoding with it has looked at, but for drives behind a soft gate.
    pub fn work(&self) -> fire::Work {
        self.fire.work
    }

    /// The codes of both levels of the block that was encoded last.
    pub fn codes(&self) -> &[Codes; 2] {
        &self.codes
    }
}

/// A scratch for each thread that encodes ([`Encoder::encode_par_in`]).
#[derive(Clone, Debug, Default)]
pub struct Lanes {
    arch: Option<Arch>,
    scratch: Vec<Scratch>,
}

/// Weights as the forward pass reads them: shared by training and inference.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub arch: &'a Arch,
    pub params: &'a Params,
    pub families: &'a Families,
    /// The gate that acts now: a hard gate may not have started yet.
    pub gate: GateKind,
}

impl Weights<'_> {
    /// `s`, what level 2 reads, for the first `n` rows, given the latents of level 1 of each.
    pub fn source<'c>(&self, isa: Isa, n: usize, z1: impl Fn(usize) -> CodeRow<'c>, t: &mut Scratch) {
        let Arch { d, .. } = *self.arch;
        let [f1, _] = self.arch.latents();
        match self.arch.source {
            Source::X => t.s[..n * d].copy_from_slice(&t.xt[..n * d]),
            Source::Res => {
                for i in 0..n {
                    let row = &mut t.s[i * d..(i + 1) * d];
                    let code = z1(i);
                    row.fill(0.0);
                    sparse::accumulate_rows(isa, code.index, code.value, &self.params.level[0].w_dec, d, row);
                    for (r, &x) in row.iter_mut().zip(&t.xt[i * d..]) {
                        *r = x - *r;
                    }
                }
            }
            Source::Z1 => {
                t.s[..n * f1].fill(0.0);
                for i in 0..n {
                    let code = z1(i);
                    for (&j, &z) in code.index.iter().zip(code.value) {
                        t.s[i * f1 + j as usize] = z;
                    }
                }
            }
        }
    }

    /// `a2 = s W2^T + b2` for rows `rows` of the scratch, in its first rows.
    pub fn drive2(&self, isa: Isa, rows: Range<usize>, t: &mut Scratch) {
        let (width, f2) = (self.arch.source_width(), self.arch.level[1].latents);
        let n = rows.len();
        let s = &t.s[rows.start * width..rows.end * width];
        let (w, b) = (&self.params.level[1].w_enc, &self.params.level[1].b_enc);
        dense::affine(isa, s, w, width, Some(b), &mut t.a2[..n * f2]);
    }

    /// Gated pre-activations of row `i`, from its drive and the latents of level 1. Leaves the gate in `t.g2`.
    pub fn gate_row<'t>(&self, isa: Isa, i: usize, z1: CodeRow<'_>, t: &'t mut Scratch) -> &'t [f32] {
        let f2 = self.arch.level[1].latents;
        let a = &t.a2[i * f2..(i + 1) * f2];
        match self.gate {
            GateKind::None => return a,
            GateKind::Mul | GateKind::Add => {
                gate::soft(isa, z1.index, z1.value, &self.params.gate.w, &self.params.gate.b, &mut t.g2);
                if self.gate == GateKind::Mul { gate::mul(a, &t.g2, &mut t.u2) } else { gate::add(a, &t.g2, &mut t.u2) }
            }
            GateKind::Hard | GateKind::GroupTop1 => {
                let active = z1.index.iter().zip(z1.value).filter(|(_, z)| **z > 0.0).map(|(j, _)| *j);
                gate::hard(self.families, active, self.gate == GateKind::GroupTop1, a, &mut t.u2);
            }
        }
        &t.u2
    }
}

/// A model made ready to encode. Immutable; share it between threads.
///
/// Weights are used as they lie; where it pays, a copy of the encoders in 8 bits says which latents need them at all
/// ([`crate::kernel::screen`]).
#[derive(Clone, Debug)]
pub struct Encoder {
    model: Arc<Model>,
    isa: Isa,
    stored: Stored,
    /// Of both levels; behind a hard gate in the order beside them.
    screens: [Option<Screen>; 2],
    order: Order,
    families: Families,
    decoder2: Vec<f32>,
}

impl Encoder {
    /// Prepares `model`.
    ///
    /// # Errors
    /// Whatever [`Model::check`] finds.
    pub fn new(model: Arc<Model>, compute: Compute) -> Result<Self> {
        Self::with_weights(model, compute, WeightType::F32)
    }

    /// [`Encoder::new`] with its weights kept as `weights` says.
    ///
    /// # Errors
    /// As [`Encoder::new`], [`Error::Config`] for the seed, which has `f32` alone, and [`Error::NotFinite`] for weights so large
    /// that they are not finite any more.
    pub fn with_weights(model: Arc<Model>, compute: Compute, weights: WeightType) -> Result<Self> {
        let Compute { isa, .. } = compute;
        model.check()?;
        if model.arch.model == ModelKind::Seed && weights != WeightType::F32 {
            return Err(Error::config("weights", "expected f32, the only type of the seed model"));
        }
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
        let stored = Stored::new(weights, &model);
        stored.check()?;
        let two = arch.level[1].latents > 0
            && !arch.gate.has_weights()
            && arch.gate != GateKind::GroupTop1
            && (!arch.gate.has_families() || order.pays());
        let screens = with_weights!(&stored, model, |w1, w2| {
            let behind = if arch.gate.has_families() { w2.only(Pick::List(&order.places)) } else { w2 };
            let [one, two] = [(w1, arch.model == ModelKind::Tree), (behind, two)];
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
        if arch.level[1].latents > 0 && arch.decoder.is_composed() {
            decoder2 = vec![0.0; arch.level[1].latents * arch.d];
            compose(compute, arch, &model.params, &mut decoder2);
        }
        Ok(Self { isa, stored, screens, order, families, decoder2, model })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The instruction set that it computes with.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Decoder directions of level 2 in the space of the activations, `(f2, d)`.
    pub fn decoder2(&self) -> &[f32] {
        if self.decoder2.is_empty() { &self.model.params.level[1].w_dec } else { &self.decoder2 }
    }

    /// What its weights are kept in.
    pub fn weight_type(&self) -> WeightType {
        self.stored.weight_type()
    }

    /// Level 2 behind its hard gate.
    fn hierarchy<'a, W>(&'a self, w: Matrix<'a, W>) -> Hierarchy<'a, W> {
        Hierarchy {
            w,
            bias: &self.model.params.level[1].b_enc,
            families: &self.families,
            screen: self.screens[1].as_ref().map(|screen| (screen, &self.order)),
            top1: self.model.arch.gate == GateKind::GroupTop1,
        }
    }

    /// Who is whose parent.
    pub fn families(&self) -> &Families {
        &self.families
    }

    /// Appends the codes of `x`, `(n, d)`: each row by itself, so that the codes of a row never depend on its neighbours.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` is no whole number of rows, [`Error::NotFinite`] naming the first row that is not finite;
    /// nothing is appended then.
    pub fn encode(&self, x: &[f32], scratch: &mut Scratch, codes1: &mut Codes, codes2: &mut Codes) -> Result<()> {
        self.check_rows(x)?;
        let d = self.model.arch.d;
        for block in x.chunks(scratch.rows * d) {
            self.encode_rows(block, scratch, None);
            codes1.append(&scratch.codes[0]);
            codes2.append(&scratch.codes[1]);
        }
        Ok(())
    }

    /// [`Encoder::encode`] with the chunks of rows spread over the threads of `par`; the same bits.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_par(&self, par: Par, x: &[f32], codes1: &mut Codes, codes2: &mut Codes) -> Result<()> {
        self.encode_par_in(par, x, &mut Lanes::default(), codes1, codes2)
    }

    /// [`Encoder::encode_par`] with scratch that is kept from call to call.
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
        for [part1, part2, _] in &self.encode_parts(par, x, false, lanes) {
            codes1.append(part1);
            codes2.append(part2);
        }
        Ok(())
    }

    /// [`Encoder::encode_par`], and besides what level 2 would fire without its gate: `open2` takes the same rule on the
    /// same thresholds, of the drive `a2` in place of `u2`. With topk children then compete with all others, not only
    /// with those of active parents. Without a gate `open2` equals `codes2`.
    ///
    /// Cost: behind a hard gate the drive of every child, which [`Encoder::encode`] leaves out; else one more selection a
    /// row.
    ///
    /// # Errors
    /// As [`Encoder::encode`], and [`Error::Config`] for the seed, whose level 2 is no drive behind a gate; nothing is
    /// appended then.
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
            return Err(Error::config("model", "expected a model with a drive before its gate, found the seed"));
        }
        self.check_rows(x)?;
        for [part1, part2, open] in &self.encode_parts(par, x, true, lanes) {
            codes1.append(part1);
            codes2.append(part2);
            open2.append(open);
        }
        Ok(())
    }

    /// The codes of both levels and, with `open`, those of level 2 without its gate, of `x` in parts.
    fn encode_parts(&self, par: Par, x: &[f32], open: bool, lanes: &mut Lanes) -> Vec<[Codes; 3]> {
        // Small inputs in smaller blocks, so that every thread has some. Blocks share a scratch; what they share has no part
        // in the codes.
        let n = x.len() / self.model.arch.d;
        let size = BLOCK.min(n.div_ceil(par.threads()).next_multiple_of(8)).max(8) * self.model.arch.d;
        let blocks = x.len().div_ceil(size);
        let together = (blocks / (4 * par.threads())).max(1);
        if lanes.arch != Some(self.model.arch) {
            *lanes = Lanes { arch: Some(self.model.arch), scratch: Vec::new() };
        }
        lanes.scratch.resize_with(par.threads(), || Scratch::new(&self.model.arch));
        par.map_in(&mut lanes.scratch, blocks.div_ceil(together), |scratch, c| {
            let [mut codes1, mut codes2, mut open2] = [Codes::new(), Codes::new(), Codes::new()];
            let from = c * together * size;
            for block in x[from..x.len().min(from + together * size)].chunks(size) {
                self.encode_rows(block, scratch, open.then_some(&mut open2));
                codes1.append(&scratch.codes[0]);
                codes2.append(&scratch.codes[1]);
            }
            [codes1, codes2, open2]
        })
    }

    /// Encodes up to a block of rows and leaves their codes in the scratch: the bits of [`Encoder::encode`].
    /// Allocates nothing if the scratch is [`Scratch::reserved`].
    ///
    /// # Errors
    /// As [`Encoder::encode`], and [`Error::Shape`] for more rows.
    pub fn encode_block(&self, x: &[f32], scratch: &mut Scratch) -> Result<()> {
        self.check_rows(x)?;
        let most = scratch.rows * self.model.arch.d;
        if x.len() > most {
            return Err(Error::Shape { what: "numbers in a block of rows", expected: most, got: x.len() });
        }
        self.encode_rows(x, scratch, None);
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
                return Err(Error::NotFinite { what: "a row of activations".into(), step: i as u64 });
            }
        }
        Ok(())
    }

    /// Encodes up to a block of rows; `open` gets what level 2 would fire without its gate.
    fn encode_rows(&self, x: &[f32], t: &mut Scratch, open: Option<&mut Codes>) {
        with_weights!(&self.stored, self.model, |w1, w2| self.encode_with(w1, w2, x, t, open));
    }

    fn encode_with<W: Weight>(
        &self,
        w1: Matrix<'_, W>,
        w2: Matrix<'_, W>,
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
        for (xt, row) in t.xt.chunks_mut(d).zip(x.chunks(d)) {
            reduce::sub_into(self.isa, row, &params.b_dec, xt);
        }
        let xt = &t.xt[..n * d];
        let (rule, screen) = (model.rule(0), self.screens[0].as_ref());
        fire(self.isa, xt, w1, &params.level[0].b_enc, rule.limit(), screen, &mut t.fire, &mut t.lists);
        append(&rule, &t.lists, &mut codes1);
        if f2 == 0 {
            for codes in [&mut codes2].into_iter().chain(open) {
                (0..n).for_each(|_| codes.end_row());
            }
            t.codes = [codes1, codes2];
            return;
        }
        weights.source(self.isa, n, |i| codes1.row(i), t);
        let (rule, width) = (model.rule(1), model.arch.source_width());
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
            let active = |i: usize| {
                let code = codes1.row(i);
                code.index.iter().zip(code.value).filter(|(_, z)| **z > 0.0).map(|(p, _)| *p)
            };
            let same = (model.arch.source.is_parallel(), &mut t.fire);
            self.hierarchy(w2).run(self.isa, s, n, rule.limit(), active, same, &mut t.hierarchy, |_, children, u| {
                rule.keep(children, u, &mut codes2.index, &mut codes2.value);
                codes2.end_row();
            });
            if let Some(open) = open {
                fire(self.isa, s, w2, b2, rule.limit(), self.screens[1].as_ref(), &mut t.fire, &mut t.lists);
                append(&rule, &t.lists, open);
            }
        } else {
            let screen = self.screens[1].as_ref();
            fire(self.isa, &t.s[..n * width], w2, b2, rule.limit(), screen, &mut t.fire, &mut t.lists);
            append(&rule, &t.lists, &mut codes2);
            if let Some(open) = open {
                append(&rule, &t.lists, open);
            }
        }
        t.codes = [codes1, codes2];
    }

    /// Decodes codes of both levels: `x_hat1 = b_dec + z1 D1` and `x_hat2` as the architecture says, each `(n, d)`.
    ///
    /// A flat model has `x_hat2 = x_hat1`. The seed has no level-1 reconstruction of its own; its `x_hat1` is
    /// `h1 D1 + b_dec`, the reading that its documentation shows to be meaningless.
    ///
    /// # Errors
    /// [`Error::Shape`] if the four do not have the same number of rows, [`Error::Index`] if a latent is out of range;
    /// nothing is written then.
    pub fn decode(&self, codes1: &Codes, codes2: &Codes, x_hat1: &mut [f32], x_hat2: &mut [f32]) -> Result<()> {
        let Arch { d, .. } = self.model.arch;
        let [f1, f2] = self.model.arch.latents();
        let n = codes1.n();
        for (what, got) in
            [("rows of codes of level 2", codes2.n() * d), ("x_hat1", x_hat1.len()), ("x_hat2", x_hat2.len())]
        {
            if got != n * d {
                return Err(Error::Shape { what, expected: n * d, got });
            }
        }
        for (what, codes, len) in [("latent of level 1", codes1, f1), ("latent of level 2", codes2, f2)] {
            if let Some(&j) = codes.index.iter().find(|&&j| j as usize >= len) {
                return Err(Error::Index { what, index: j as usize, len });
            }
        }
        for (i, (hat1, hat2)) in x_hat1.chunks_mut(d).zip(x_hat2.chunks_mut(d)).enumerate() {
            self.decode_row(codes1.row(i), codes2.row(i), hat1, hat2);
        }
        Ok(())
    }

    /// [`Encoder::decode`] of one row.
    ///
    /// # Panics
    /// If a latent is out of range, or if an output is not `(d)`.
    pub fn decode_row(&self, z1: CodeRow<'_>, z2: CodeRow<'_>, x_hat1: &mut [f32], x_hat2: &mut [f32]) {
        let Arch { d, model, decoder, .. } = self.model.arch;
        let [_, f2] = self.model.arch.latents();
        let params = &self.model.params;
        x_hat1.copy_from_slice(&params.b_dec);
        sparse::accumulate_rows(self.isa, z1.index, z1.value, &params.level[0].w_dec, d, x_hat1);
        let cumulative = f2 == 0 || decoder.is_cumulative();
        x_hat2.copy_from_slice(if cumulative { x_hat1 } else { &params.b_dec });
        if model == ModelKind::Seed {
            for (j, &e) in params.b_dec2.iter().enumerate() {
                reduce::axpy(self.isa, e, &params.level[0].w_dec[j * d..(j + 1) * d], x_hat2);
            }
        }
        if f2 > 0 {
            sparse::accumulate_rows(self.isa, z2.index, z2.value, self.decoder2(), d, x_hat2);
        }
    }
}

/// Appends what fires of the lists of a block of rows.
fn append(rule: &Rule<'_>, lists: &RowLists, codes: &mut Codes) {
    for i in 0..lists.n() {
        let (index, u) = lists.row(i);
        rule.keep(index, u, &mut codes.index, &mut codes.value);
        codes.end_row();
    }
}
