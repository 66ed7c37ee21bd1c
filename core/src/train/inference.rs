//! The model of a training at inference: what fires on rows and what is reconstructed of them, over all shards of the
//! dictionary.

use super::shard::Shard;
use super::step::over_shards;
use crate::activation::Activation;
use crate::compute::Compute;
use crate::error::Result;
use crate::gate::{GateKind, ROOT, Reads};
use crate::kernel::{reduce, select, sparse};
use crate::model::{CodeRow, Codes, Encoder, GateParams, LevelParams, Model};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

/// A model that reads normalised rows, made ready to encode. Over several ranks each has the parameters of its own latents,
/// all call the same functions with the same rows, and all get the same result: that of one process.
#[derive(Debug)]
pub struct Inference {
    shard: Shard,
    model: Model,
    levels: Range<usize>,
    compute: Compute,
    /// The whole model; with several shards this shard's part of each level that is needed.
    encoders: [Option<Encoder>; 2],
}

impl Inference {
    /// Prepares the levels `levels` of a model, which has the parameters of this shard.
    ///
    /// # Errors
    /// What [`Encoder::new`] finds.
    pub(super) fn new(shard: &Shard, model: Model, levels: Range<usize>, compute: Compute) -> Result<Self> {
        let mut encoders = [None, None];
        if shard.is_solo() {
            encoders[0] = Some(Encoder::new(Arc::new(model.clone()), compute)?);
        } else {
            for (level, encoder) in encoders.iter_mut().enumerate() {
                let is_read = level == 0 && levels.end == 2 && has_families(&model);
                let latents = shard.own(level).len();
                if latents > 0 && (levels.contains(&level) || is_read) {
                    *encoder = Some(Encoder::new(Arc::new(one_level(&model, level, latents)), compute)?);
                }
            }
        }
        Ok(Self { shard: shard.clone(), model, levels, compute, encoders })
    }

    /// Returns the codes of both levels of the rows `x`, `(n, d)`, of all ranks.
    ///
    /// # Errors
    /// What [`Encoder::encode`] and the exchange with other ranks find.
    pub fn encode(&self, x: &[f32]) -> Result<[Codes; 2]> {
        let Self { shard, model, levels, compute, encoders } = self;
        let mut codes = [Codes::new(), Codes::new()];
        if shard.is_solo() {
            let [one, two] = &mut codes;
            if let [Some(encoder), _] = encoders {
                encoder.encode_par(compute.par, x, one, two)?;
            }
            return Ok(codes);
        }
        shard.comm.stage("inference");
        let [one, two] = &mut codes;
        let k = |l: usize| model.arch.level[l].activation.has_whole_k().then_some(model.arch.level[l].k as usize);
        if levels.start == 0 || has_families(model) {
            *one = over_shards(shard, 0, k(0), &self.own_codes(0, x)?)?;
        }
        let own = self.own_codes(1, x)?;
        if !has_families(model) {
            *two = over_shards(shard, 1, k(1), &own)?;
            return Ok(codes);
        }
        let parents = &model.parents[shard.own(1)];
        let open = behind(parents, one, &own);
        *two = if largest_only(model) {
            let all = over_shards(shard, 1, None, &largest_of_families(parents, &open))?;
            let mut largest = largest_of_families(&model.parents, &all);
            if has_own_limits(model, 1) {
                // Until here these are pre-activations: the largest of a family keeps the others from firing even where it
                // does not reach its own limit.
                largest = over_shards(shard, 1, None, &firing(model, &own_rows(shard, 1, &largest)))?;
            }
            largest_of_rows(k(1), largest)
        } else {
            over_shards(shard, 1, k(1), &largest_of_rows(k(1), open))?
        };
        Ok(codes)
    }

    /// Writes the reconstructions of both levels, `(n, d_out)` each, of the rows `x` with these codes.
    ///
    /// # Errors
    /// As [`Encoder::decode_of`]; what the exchange with other ranks finds.
    pub fn decode(&self, x: &[f32], codes: &[Codes; 2], x_hat1: &mut [f32], x_hat2: &mut [f32]) -> Result<()> {
        let Self { shard, model, compute, encoders, .. } = self;
        if let ([Some(encoder), _], true) = (encoders, shard.is_solo()) {
            return encoder.decode_of(x, &codes[0], &codes[1], x_hat1, x_hat2);
        }
        let (isa, d, d_out) = (compute.isa, model.arch.d, model.arch.d_out());
        let from_level1 = model.arch.n_levels() == 1 || model.arch.decoder.is_cumulative();
        let mut start = Vec::new();
        for (level, hat) in [&mut *x_hat1, &mut *x_hat2].into_iter().enumerate() {
            if level == 0 || !from_level1 {
                start = model.params.b_dec.repeat(x.len() / d);
            }
            let own = own_rows(shard, level, &codes[level]);
            let decoder = &model.params.level[level].w_dec;
            let mut hat = hat;
            shard.comm.chain(
                1,
                &mut hat,
                |hat, _| {
                    for (i, hat) in hat.chunks_mut(d_out).enumerate() {
                        let CodeRow { index, value } = own.row(i);
                        sparse::accumulate_rows(isa, index, value, decoder, d_out, hat);
                    }
                },
                |hat, _, numbers| {
                    numbers.clear();
                    numbers.extend_from_slice(hat);
                },
                |hat, _, numbers| {
                    hat.copy_from_slice(numbers.unwrap_or(&start));
                    Ok(())
                },
            )?;
            start.clear();
            start.extend_from_slice(hat);
        }
        for hat in [x_hat1, x_hat2] {
            for (hat, x) in hat.chunks_mut(d_out).zip(x.chunks(d)) {
                let skip = model.params.w_skip.chunks_exact(d);
                hat.iter_mut().zip(skip).for_each(|(y, w)| *y += reduce::dot(isa, w, x));
            }
        }
        Ok(())
    }

    /// Returns the numbers of latents of both levels, of all ranks.
    pub fn latents(&self) -> [usize; 2] {
        self.shard.latents
    }

    /// Returns the codes of this shard's latents of one level, before any gate.
    fn own_codes(&self, level: usize, x: &[f32]) -> Result<Codes> {
        let mut codes = [Codes::new(), Codes::new()];
        let [one, two] = &mut codes;
        match &self.encoders[level] {
            Some(encoder) => encoder.encode_par(self.compute.par, x, one, two)?,
            None => (0..x.len() / self.model.arch.d).for_each(|_| one.end_row()),
        }
        let [one, _] = codes;
        Ok(one)
    }
}

fn has_families(model: &Model) -> bool {
    model.arch.gate.has_families() && !model.parents.is_empty()
}

/// Returns whether only the largest child of a family can fire.
fn largest_only(model: &Model) -> bool {
    has_families(model) && matches!(model.arch.gate.reads(), Reads::ActiveParents { largest_only: true })
}

/// Returns whether each latent of a level has its own limit, or a value that is not its pre-activation.
fn has_own_limits(model: &Model, level: usize) -> bool {
    !model.arch.level[level].activation.parameters().is_empty()
}

/// Returns the latents of level 2 that fire, of this shard, from their pre-activations.
fn firing(model: &Model, own: &Codes) -> Codes {
    let (rule, mut z, mut fires) = (model.rule(1), Vec::new(), Codes::new());
    for i in 0..own.n() {
        let CodeRow { index, value } = own.row(i);
        rule.values(index, value, &mut z);
        for (&j, &z) in index.iter().zip(&z).filter(|(_, z)| **z > 0.0) {
            fires.index.push(j);
            fires.value.push(z);
        }
        fires.end_row();
    }
    fires
}

/// Returns a shard's part of one level, `latents` of them, as a flat model: level 2 reads the same rows as level 1.
fn one_level(model: &Model, level: usize, latents: usize) -> Model {
    let mut flat = Model { parents: Vec::new(), tau: [model.tau[level], 0.0], ..model.clone() };
    flat.arch.level[0] = model.arch.level[level];
    (flat.arch.level[0].latents, flat.arch.level[1].latents) = (latents, 0);
    flat.arch.gate = GateKind::None;
    flat.arch.variant.prune = [0.0; 2];
    flat.params.level = [model.params.level[level].clone(), LevelParams::default()];
    let by_gate = level == 1 && has_families(model);
    if by_gate && (model.arch.level[1].activation.has_whole_k() || (largest_only(model) && has_own_limits(model, 1))) {
        // What fires is decided behind the gate, from the pre-activations.
        flat.arch.level[0].activation = Activation::Relu;
        let LevelParams { w_enc, b_enc, w_dec, .. } = model.params.level[1].clone();
        flat.params.level[0] = LevelParams { w_enc, b_enc, w_dec, ..LevelParams::default() };
    }
    flat.params.gate = GateParams::default();
    flat
}

/// Returns those of the codes `two` of some children, whose parents are `parents`, that may fire behind a hard gate where
/// level 1 has the codes `one`.
fn behind(parents: &[u32], one: &Codes, two: &Codes) -> Codes {
    let mut kept = Codes::new();
    for i in 0..two.n() {
        let CodeRow { index, value } = two.row(i);
        for (&j, &z) in index.iter().zip(value) {
            let p = parents[j as usize];
            if p == ROOT || one.row(i).index.binary_search(&p).is_ok() {
                kept.index.push(j);
                kept.value.push(z);
            }
        }
        kept.end_row();
    }
    kept
}

/// Returns the `k` largest of each row, if that many are asked for.
fn largest_of_rows(k: Option<usize>, codes: Codes) -> Codes {
    let Some(k) = k else { return codes };
    let mut kept = Codes::new();
    for i in 0..codes.n() {
        let (CodeRow { index, value }, first) = (codes.row(i), kept.index.len());
        kept.index.extend_from_slice(index);
        kept.value.extend_from_slice(value);
        if index.len() > k {
            select::keep_largest(first, k, &mut kept.index, &mut kept.value);
        }
        kept.end_row();
    }
    kept
}

/// Returns the largest child of each family of each row, ties to the lower one; the children of ROOT are no family.
pub(super) fn largest_of_families(parents: &[u32], codes: &Codes) -> Codes {
    let mut kept = Codes::new();
    for i in 0..codes.n() {
        let CodeRow { index, value } = codes.row(i);
        for (at, (&j, &z)) in index.iter().zip(value).enumerate() {
            let p = parents[j as usize];
            let mut family = (0..index.len()).filter(|other| p != ROOT && parents[index[*other] as usize] == p);
            if family.all(|other| value[other] < z || (value[other] == z && other >= at)) {
                kept.index.push(j);
                kept.value.push(z);
            }
        }
        kept.end_row();
    }
    kept
}

/// Returns the entries of codes that are of this shard's latents, counted from its first one.
pub(super) fn own_rows(shard: &Shard, level: usize, codes: &Codes) -> Codes {
    let own = shard.own(level);
    let mut kept = Codes::new();
    for i in 0..codes.n() {
        let CodeRow { index, value } = codes.row(i);
        for (&j, &z) in index.iter().zip(value).filter(|(j, _)| own.contains(&(**j as usize))) {
            kept.index.push(j - own.start as u32);
            kept.value.push(z);
        }
        kept.end_row();
    }
    kept
}
