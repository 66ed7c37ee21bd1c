//! Initial weights: random unit decoder rows, encoder rows equal to them times `train.encoder_norm`, biases of zero.
//!
//! The encoder of a transcoder reads another space than its decoder writes to, so its rows are drawn independently, as
//! random unit rows. A skip connection starts at zero.

use super::comm::Comm;
use super::shard::Shard;
use crate::activation::Parameter;
use crate::compute::Compute;
use crate::config::{Config, GateKind, ModelKind};
use crate::error::Result;
use crate::gate::Families;
use crate::kernel::{Isa, adam, dense, select};
use crate::model::{Arch, CodeRow, LevelArch, LevelParams, Params, Scratch, Weights, compose};
use crate::rng::Philox;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Stream of the random generator for initial weights.
const STREAM: u64 = 1;

/// Number of rows on which the initial thresholds of jumprelu are set.
const SAMPLE: usize = 64;

/// Returns the parameters of a shard before the first step: its rows of those of the whole dictionary, whose architecture
/// is `arch`. `centre` is the initial decoder bias; `sample` are normalised rows, for the initial thresholds of jumprelu.
///
/// # Errors
/// What the exchange with other shards finds.
pub(super) fn initial(
    config: &Config,
    arch: &Arch,
    shard: &Shard,
    compute: Compute,
    centre: &[f32],
    sample: &[f32],
) -> Result<Params> {
    let Compute { isa, .. } = compute;
    let mut params: Params = shard.specs(arch).map(|spec| vec![0.0; spec.len()].into());
    let mut rng = Philox::new(config.seed, STREAM);
    params.b_dec.copy_from_slice(centre);
    if arch.model == ModelKind::Seed {
        seed(arch, &mut params, &mut rng);
        return Ok(params);
    }
    let rows_of = |level| Rows { own: shard.own(level), all: arch.level[level].latents };
    let (d_out, transcodes) = (arch.d_out(), arch.variant.target.is_some());
    unit_rows(isa, &mut params.level[0].w_dec, rows_of(0), d_out, &mut rng, false);
    if transcodes {
        unit_rows(isa, &mut params.level[0].w_enc, rows_of(0), arch.d, &mut rng, false);
    } else {
        like_decoder(&mut params.level[0]);
    }
    if arch.level[1].latents > 0 {
        let (f1, is_composed) = (arch.level[0].latents, arch.decoder.is_composed());
        let width = arch.decoder.width(d_out, f1);
        unit_rows(isa, &mut params.level[1].w_dec, rows_of(1), width, &mut rng, is_composed);
        match (arch.source.is_activations(), is_composed) {
            (true, _) if transcodes => {
                unit_rows(isa, &mut params.level[1].w_enc, rows_of(1), arch.d, &mut rng, false);
            }
            (false, false) => unit_rows(isa, &mut params.level[1].w_enc, rows_of(1), f1, &mut rng, true),
            (true, true) => {
                let mut composed = core::mem::take(&mut params.level[1].w_enc);
                compose(compute, arch, &params, &mut composed);
                composed.chunks_mut(arch.d).for_each(|row| adam::normalise(isa, row));
                params.level[1].w_enc = composed;
            }
            // Encoder and decoder rows are vectors of the same space.
            (true, false) | (false, true) => like_decoder(&mut params.level[1]),
        }
        params.gate.b.fill(arch.gate.initial_bias());
    }
    let norm = config.train.encoder_norm as f32;
    if norm != 1.0 {
        for level in &mut params.level {
            level.w_enc.iter_mut().for_each(|v| *v *= norm);
        }
    }
    thresholds(arch, shard, isa, sample, &mut params)?;
    Ok(params)
}

/// Which rows of a tensor are drawn.
struct Rows {
    /// Those of this shard.
    own: Range<usize>,
    /// Number of all rows.
    all: usize,
}

/// Sets the encoder rows of a level to its decoder rows.
///
/// They are copied into the existing memory. A clone would free that memory, which the allocator may not return to the
/// system, and share the tensor, which the first step would then copy.
fn like_decoder(level: &mut LevelParams) {
    level.w_enc.copy_from_slice(&level.w_dec);
}

/// Draws the layers of the seed model as PyTorch initialises linear layers: uniform in `+-1/sqrt(inputs)`.
fn seed(arch: &Arch, params: &mut Params, rng: &mut Philox) {
    let [f1, f2] = arch.latents();
    let mut draw = |tensor: &mut [f32], inputs: usize| {
        let bound = 1.0 / libm::sqrtf(inputs as f32);
        tensor.iter_mut().for_each(|v| *v = (2.0 * rng.uniform_f32() - 1.0) * bound);
    };
    let Params { level: [one, two], b_dec2, .. } = params;
    for (level, inputs) in [(&mut *one, arch.d), (&mut *two, f1)] {
        for tensor in [&mut level.w_enc, &mut level.b_enc, &mut level.gate_w, &mut level.gate_b] {
            draw(tensor, inputs);
        }
    }
    for (tensor, inputs) in [(&mut two.w_dec, f2), (b_dec2, f2), (&mut one.w_dec, f1)] {
        draw(tensor, inputs);
    }
}

/// Fills `rows`, `(n, width)`, with random unit rows; their numbers are non-negative if `positive`. The rows of other shards
/// are passed over.
fn unit_rows(isa: Isa, rows: &mut [f32], which: Rows, width: usize, rng: &mut Philox, positive: bool) {
    // A normal number takes two words of the stream.
    let skip = |rng: &mut Philox, n: usize| rng.seek(rng.position() + 2 * (n * width) as u64);
    skip(rng, which.own.start);
    for row in rows.chunks_mut(width) {
        for v in row.iter_mut() {
            let x = rng.normal_f32();
            *v = if positive { x.abs() } else { x };
        }
        adam::normalise(isa, row);
    }
    skip(rng, which.all - which.own.end);
}

/// Gives all latents of a level one threshold, such that `k` of them per row fire on the sample; for levels with
/// thresholds.
fn thresholds(arch: &Arch, shard: &Shard, isa: Isa, sample: &[f32], params: &mut Params) -> Result<()> {
    let (whole, arch) = (arch, &shard.arch(arch));
    let d = arch.d;
    let n = (sample.len() / d).min(SAMPLE);
    if n == 0 || !arch.level.iter().any(|l| l.activation.parameters().contains(&Parameter::Threshold)) {
        return Ok(());
    }
    let families = Families::all_root(arch.level[0].latents, arch.level[1].latents);
    let mut t = Scratch::of_chunk(whole);
    let width = arch.source_width();
    let mut u1 = vec![0.0; n * arch.level[0].latents];
    let mut a2 = vec![0.0; n * arch.level[1].latents];
    for (i, row) in sample.chunks(d).take(n).enumerate() {
        let xt = &mut t.xt[i * d..(i + 1) * d];
        xt.copy_from_slice(row);
        if !arch.variant.raw_input {
            xt.iter_mut().zip(&params.b_dec).for_each(|(x, b)| *x -= b);
        }
    }
    let frozen = params.clone();
    let weights = Weights { arch, params: &frozen, families: &families, gate: GateKind::None };
    dense::affine(isa, &t.xt[..n * d], &frozen.level[0].w_enc, d, Some(&frozen.level[0].b_enc), &mut u1);
    let cut = quantile(&*shard.comm, &u1, whole.level[0], n)?;
    params.level[0].threshold.fill(cut);
    if whole.level[1].latents > 0 {
        let mut codes: Vec<(Vec<u32>, Vec<f32>)> = Vec::new();
        for u in u1.chunks(arch.level[0].latents.max(1)) {
            let mut code = (Vec::new(), Vec::new());
            select::above(isa, u, cut, &mut code.0, &mut code.1);
            codes.push(code);
        }
        // A shard without latents has no rows of codes; level 2 then reads none.
        codes.resize_with(n, Default::default);
        weights.source(isa, n, |i| CodeRow { index: &codes[i].0, value: &codes[i].1 }, &mut t);
        let (w2, b2) = (&frozen.level[1].w_enc, &frozen.level[1].b_enc);
        dense::affine(isa, &t.s[..n * width], w2, width, Some(b2), &mut a2);
        params.level[1].threshold.fill(quantile(&*shard.comm, &a2, whole.level[1], n)?);
    }
    Ok(())
}

/// Returns the value that `k` of the pre-activations of each row of a level exceed, at least 1e-3; `u` are those of this
/// shard.
fn quantile(comm: &dyn Comm, u: &[f32], level: LevelArch, n: usize) -> Result<f32> {
    let mut values = u.to_vec();
    let keep = (libm::round(level.k * n as f64) as usize).clamp(1, level.latents * n);
    if values.len() > keep {
        // The others cannot be among the largest of all shards.
        values.select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a));
        values.truncate(keep);
    }
    comm.all_gather(&mut values)?;
    Ok(select::kth_largest(&mut values, keep).max(1e-3))
}
