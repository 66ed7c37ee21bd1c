//! Initial weights: random unit decoder rows, encoder rows equal to them times `train.encoder_norm`, biases of zero.

use crate::config::{Activation, Config, Decoder, GateKind, ModelKind, Source};
use crate::gate::Families;
use crate::kernel::{Isa, adam, dense, select};
use crate::model::{Arch, CodeRow, Id, Params, Scratch, Weights, compose};
use crate::par::Par;
use crate::rng::Philox;
use alloc::vec;
use alloc::vec::Vec;

/// Stream of the generator that initial weights are drawn from.
const STREAM: u64 = 1;

/// Rows of the sample that jumprelu thresholds are set on.
const SAMPLE: usize = 64;

/// Parameters before the first step. `centre` is where the decoder bias starts; `sample` are normalised rows.
pub(super) fn initial(config: &Config, arch: &Arch, isa: Isa, par: Par, centre: &[f32], sample: &[f32]) -> Params {
    let mut params = arch.zeros();
    let mut rng = Philox::new(config.seed, STREAM);
    params[Id::BDec].copy_from_slice(centre);
    if arch.model == ModelKind::Seed {
        seed(arch, &mut params, &mut rng);
        return params;
    }
    unit_rows(isa, &mut params[Id::WDec1], arch.d, &mut rng, false);
    let Params { tensors: [_, w_enc1, _, w_dec1, ..] } = &mut params;
    w_enc1.copy_from_slice(w_dec1);
    if arch.f2 > 0 {
        let comp = arch.decoder == Decoder::Comp;
        unit_rows(isa, &mut params[Id::WDec2], if comp { arch.f1 } else { arch.d }, &mut rng, comp);
        match (arch.source, arch.decoder) {
            (Source::Z1, Decoder::Comp) => like_decoder2(&mut params),
            (Source::Z1, _) => unit_rows(isa, &mut params[Id::WEnc2], arch.f1, &mut rng, true),
            (_, Decoder::Comp) => {
                let mut composed = core::mem::take(&mut params[Id::WEnc2]);
                compose(isa, par, arch, &params, &mut composed);
                composed.chunks_mut(arch.d).for_each(|row| adam::normalise(isa, row));
                params[Id::WEnc2] = composed;
            }
            _ => like_decoder2(&mut params),
        }
        if arch.gate == GateKind::Mul {
            // s(2) = .88: open, with room to learn both ways.
            params[Id::GateB].fill(2.0);
        }
    }
    let norm = config.train.encoder_norm as f32;
    if norm != 1.0 {
        for id in [Id::WEnc1, Id::WEnc2] {
            params[id].iter_mut().for_each(|v| *v *= norm);
        }
    }
    thresholds(arch, isa, sample, &mut params);
    params
}

/// Copies into the memory that is there: what is thrown away the allocator may keep, and a shared tensor is copied later.
fn like_decoder2(params: &mut Params) {
    let Params { tensors: [_, _, _, _, _, _, _, w_enc2, _, w_dec2, ..] } = params;
    w_enc2.copy_from_slice(w_dec2);
}

/// The seed's layers as a framework would draw them: uniform in `+-1/sqrt(inputs)`.
fn seed(arch: &Arch, params: &mut Params, rng: &mut Philox) {
    let widths = arch.widths();
    for (w, b) in
        [(Id::WEnc1, Id::BEnc1), (Id::GateEnc1, Id::GateBias1), (Id::WEnc2, Id::BEnc2), (Id::GateEnc2, Id::GateBias2)]
    {
        let bound = 1.0 / libm::sqrtf(widths[w as usize].max(1) as f32);
        for id in [w, b] {
            params[id].iter_mut().for_each(|v| *v = (2.0 * rng.uniform_f32() - 1.0) * bound);
        }
    }
    for (w, inputs) in [(Id::WDec2, arch.f2), (Id::BDec2, arch.f2), (Id::WDec1, arch.f1)] {
        let bound = 1.0 / libm::sqrtf(inputs as f32);
        params[w].iter_mut().for_each(|v| *v = (2.0 * rng.uniform_f32() - 1.0) * bound);
    }
}

fn unit_rows(isa: Isa, rows: &mut [f32], width: usize, rng: &mut Philox, positive: bool) {
    for row in rows.chunks_mut(width) {
        for v in row.iter_mut() {
            let x = rng.normal_f32();
            *v = if positive { x.abs() } else { x };
        }
        adam::normalise(isa, row);
    }
}

/// One jumprelu threshold a level, such that `k` latents a row fire on the sample.
fn thresholds(arch: &Arch, isa: Isa, sample: &[f32], params: &mut Params) {
    let d = arch.d;
    let n = (sample.len() / d).min(SAMPLE);
    if n == 0 || (arch.activation1 != Activation::Jumprelu && arch.activation2 != Activation::Jumprelu) {
        return;
    }
    let families = Families::all_root(arch.f1, arch.f2);
    let mut t = Scratch::of_chunk(arch);
    let width = arch.source_width();
    let mut u1 = vec![0.0; n * arch.f1];
    let mut a2 = vec![0.0; n * arch.f2];
    for (i, row) in sample.chunks(d).take(n).enumerate() {
        for (c, (x, b)) in row.iter().zip(&params[Id::BDec]).enumerate() {
            t.xt[i * d + c] = x - b;
        }
    }
    let frozen = params.clone();
    let weights = Weights { arch, params: &frozen, families: &families, gate: GateKind::None };
    dense::affine(isa, &t.xt[..n * d], &frozen[Id::WEnc1], d, Some(&frozen[Id::BEnc1]), &mut u1);
    let cut = quantile(&u1, arch.k1, n);
    params[Id::Threshold1].fill(cut);
    if arch.f2 > 0 {
        let mut codes: Vec<(Vec<u32>, Vec<f32>)> = Vec::new();
        for u in u1.chunks(arch.f1) {
            let mut code = (Vec::new(), Vec::new());
            select::above(isa, u, cut, &mut code.0, &mut code.1);
            codes.push(code);
        }
        weights.source(isa, n, |i| CodeRow { index: &codes[i].0, value: &codes[i].1 }, &mut t);
        let (w2, b2) = (&frozen[Id::WEnc2], &frozen[Id::BEnc2]);
        dense::affine(isa, &t.s[..n * width], w2, width, Some(b2), &mut a2);
        params[Id::Threshold2].fill(quantile(&a2, arch.k2, n));
    }
}

/// The value that `k` numbers a row exceed, at least 1e-3.
fn quantile(u: &[f32], k: f64, n: usize) -> f32 {
    let mut values = u.to_vec();
    let keep = (libm::round(k * n as f64) as usize).clamp(1, values.len());
    select::kth_largest(&mut values, keep).max(1e-3)
}
