//! Models of random weights: for what does not depend on training.

use crate::normal;
use strata_core::config::{Activation, Decoder, GateKind, ModelKind, Source};
use strata_core::model::{Arch, LevelArch};
use strata_core::{Model, ROOT};

/// Normal weights for rows of width `d`. `f[1] = 0` is a flat top-k SAE; else level 2 is behind a hard gate, one child in
/// 200 has no parent, and about `k[1]` children fire a normal row.
pub fn random_model(d: usize, f: [usize; 2], k: [usize; 2]) -> Model {
    let ([f1, f2], [k1, k2]) = (f, k);
    let is_tree = f2 > 0;
    let arch = Arch {
        model: ModelKind::Tree,
        d,
        level: [
            LevelArch { latents: f1, activation: Activation::Topk, k: k1 as f64 },
            LevelArch { latents: f2, activation: Activation::Batchtopk, k: k2 as f64 },
        ],
        source: Source::X,
        decoder: Decoder::Cum,
        gate: if is_tree { GateKind::Hard } else { GateKind::None },
        variant: Default::default(),
    };
    let mut params = arch.zeros();
    for (stream, tensor) in params.each_mut().enumerate() {
        let values = normal(tensor.len(), stream as u64);
        tensor.iter_mut().zip(values).for_each(|(w, v)| *w = 0.03 * v);
    }
    let parent = |j: usize| if j.is_multiple_of(200) { ROOT } else { (j * 7919 % f1) as u32 };
    let parents = if is_tree { (0..f2).map(parent).collect() } else { Vec::new() };
    // Ungated pre-activations are normal of this size, and about k1 c + f2 / 200 of them are open.
    let open = (k1 * f2) as f64 / f1 as f64 + f2 as f64 / 200.0;
    let tau = 0.03 * (d as f64).sqrt() * upper_quantile((k2 as f64 / open).min(0.5));
    Model { arch, params, parents, tau: [0.0, if is_tree { tau as f32 } else { 0.0 }] }
}

/// `t` with `P(normal > t) = p`, by bisection of the tail from a sum.
fn upper_quantile(p: f64) -> f64 {
    let tail = |t: f64| -> f64 {
        let steps = 2000;
        let width = (10.0 - t) / f64::from(steps);
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * core::f64::consts::PI).sqrt();
        (0..steps).map(|i| width * density(t + (f64::from(i) + 0.5) * width)).sum()
    };
    let (mut low, mut high) = (0.0, 8.0);
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        if tail(middle) > p { low = middle } else { high = middle }
    }
    low
}
