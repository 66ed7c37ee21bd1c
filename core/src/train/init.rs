//! Initial weights: random unit decoder rows, encoder rows equal to them times `train.encoder_norm`, biases of zero.
//!
//! The encoder of a transcoder reads another space than its decoder writes to, so its rows are drawn independently, as
//! random unit rows. A skip connection starts at zero.

use crate::activation::Parameter;
use crate::compute::Compute;
use crate::config::{Config, GateKind, ModelKind};
use crate::gate::Families;
use crate::kernel::{Isa, adam, dense, select};
use crate::model::{Arch, CodeRow, LevelParams, Params, Scratch, Weights, compose};
use crate::rng::Philox;
use alloc::vec;
use alloc::vec::Vec;

/// Stream of the random generator for initial weights.
const STREAM: u64 = 1;

/// Number of rows on which the initial thresholds of jumprelu are set.
const SAMPLE: usize = 64;

/// Returns the parameters before the first step. `centre` is the initial decoder bias; `sample` are normalised rows,
/// for the initial thresholds of jumprelu.
pub(super) fn initial(config: &Config, arch: &Arch, compute: Compute, centre: &[f32], sample: &[f32]) -> Params {
    let Compute { isa, .. } = compute;
    let mut params = arch.zeros();
    let mut rng = Philox::new(config.seed, STREAM);
    params.b_dec.copy_from_slice(centre);
    if arch.model == ModelKind::Seed {
        seed(arch, &mut params, &mut rng);
        return params;
    }
    let (d_out, transcodes) = (arch.d_out(), arch.variant.target.is_some());
    unit_rows(isa, &mut params.level[0].w_dec, d_out, &mut rng, false);
    if transcodes {
        unit_rows(isa, &mut params.level[0].w_enc, arch.d, &mut rng, false);
    } else {
        like_decoder(&mut params.level[0]);
    }
    if arch.level[1].latents > 0 {
        let (f1, is_composed) = (arch.level[0].latents, arch.decoder.is_composed());
        unit_rows(isa, &mut params.level[1].w_dec, arch.decoder.width(d_out, f1), &mut rng, is_composed);
        match (arch.source.is_activations(), is_composed) {
            (true, _) if transcodes => unit_rows(isa, &mut params.level[1].w_enc, arch.d, &mut rng, false),
            (false, false) => unit_rows(isa, &mut params.level[1].w_enc, f1, &mut rng, true),
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
    thresholds(arch, isa, sample, &mut params);
    params
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

/// Fills `rows`, `(n, width)`, with random unit rows; their numbers are non-negative if `positive`.
fn unit_rows(isa: Isa, rows: &mut [f32], width: usize, rng: &mut Philox, positive: bool) {
    for row in rows.chunks_mut(width) {
        for v in row.iter_mut() {
            let x = rng.normal_f32();
            *v = if positive { x.abs() } else { x };
        }
        adam::normalise(isa, row);
    }
}

/// Gives all latents of a level one threshold, such that `k` of them per row fire on the sample; for levels with
/// thresholds.
fn thresholds(arch: &Arch, isa: Isa, sample: &[f32], params: &mut Params) {
    let d = arch.d;
    let n = (sample.len() / d).min(SAMPLE);
    if n == 0 || !arch.level.iter().any(|l| l.activation.parameters().contains(&Parameter::Threshold)) {
        return;
    }
    let families = Families::all_root(arch.level[0].latents, arch.level[1].latents);
    let mut t = Scratch::of_chunk(arch);
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
    let cut = quantile(&u1, arch.level[0].k, n);
    params.level[0].threshold.fill(cut);
    if arch.level[1].latents > 0 {
        let mut codes: Vec<(Vec<u32>, Vec<f32>)> = Vec::new();
        for u in u1.chunks(arch.level[0].latents) {
            let mut code = (Vec::new(), Vec::new());
            select::above(isa, u, cut, &mut code.0, &mut code.1);
            codes.push(code);
        }
        weights.source(isa, n, |i| CodeRow { index: &codes[i].0, value: &codes[i].1 }, &mut t);
        let (w2, b2) = (&frozen.level[1].w_enc, &frozen.level[1].b_enc);
        dense::affine(isa, &t.s[..n * width], w2, width, Some(b2), &mut a2);
        params.level[1].threshold.fill(quantile(&a2, arch.level[1].k, n));
    }
}

/// Returns the value that `k` numbers per row exceed, at least 1e-3.
fn quantile(u: &[f32], k: f64, n: usize) -> f32 {
    let mut values = u.to_vec();
    let keep = (libm::round(k * n as f64) as usize).clamp(1, values.len());
    select::kth_largest(&mut values, keep).max(1e-3)
}
