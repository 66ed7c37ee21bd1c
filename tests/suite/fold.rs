//! A model with the normalisation folded in, on raw rows, compared with the model without it on normalised rows.

use std::sync::Arc;
use strata_core::config::{Activation, Decoder, GateKind, ModelKind, Source};
use strata_core::model::{Arch, Scratch};
use strata_core::normalise::Normalisation;
use strata_core::{Codes, Compute, Config, Encoder, Isa, Model, Par, Philox, ROOT};
use strata_tests::tolerance;

const D: usize = 11;
const N: usize = 70;

/// Codes of both levels and both reconstructions.
fn through(model: &Model, x: &[f32]) -> (Codes, Codes, Vec<f32>, Vec<f32>) {
    let encoder = Encoder::new(Arc::new(model.clone()), Compute::new(Isa::default(), Par::Seq)).expect("a sound model");
    let (mut z1, mut z2) = (Codes::new(), Codes::new());
    encoder.encode(x, &mut Scratch::new(&model.arch), &mut z1, &mut z2).expect("finite rows");
    let (mut hat1, mut hat2) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    encoder.decode(&z1, &z2, &mut hat1, &mut hat2).expect("its own codes");
    (z1, z2, hat1, hat2)
}

/// Returns the largest error relative to the largest number, divided by the bound.
fn worst(got: &[f32], want: impl Iterator<Item = f32> + Clone) -> f64 {
    let largest = want.clone().fold(1e-3f32, |m, v| m.max(v.abs()));
    let error = got.iter().zip(want).fold(0.0f32, |m, (g, w)| m.max((g - w).abs()));
    f64::from(error / largest) / tolerance::FOLD
}

/// Returns the largest error of one model, divided by the bound.
fn check(c: &Config, seed: u64) -> f64 {
    let mut rng = Philox::new(seed, 3);
    let arch = Arch::new(c, D);
    let mut params = arch.zeros();
    for (name, t) in params.tensors_mut() {
        let scale = if name.ends_with("w_dec") || name.contains("gate") { 0.5 } else { 0.4 };
        t.iter_mut().for_each(|v| *v = scale * rng.normal_f32());
        if name.ends_with("threshold") {
            t.iter_mut().for_each(|v| *v = v.abs() + 0.05);
        }
    }
    let hard = arch.gate.has_families();
    let parents = (0..if hard { arch.level[1].latents } else { 0 })
        .map(|_| if rng.below(5) == 0 { ROOT } else { rng.below(arch.level[0].latents as u64) as u32 })
        .collect();
    let plain = Model { arch, params, parents, tau: [0.3, 0.4] };
    let scale = if seed.is_multiple_of(2) { 0.02 } else { 37.0 };
    let n = Normalisation {
        mean: (0..D).map(|_| rng.normal_f32() * 2.0 / scale).collect(),
        scale,
        centre: vec![0.0; D],
        variance: 1.0,
        norm_limit: f32::INFINITY,
        row_norm: Default::default(),
    };
    let raw: Vec<f32> = (0..N * D).map(|i| rng.normal_f32() / scale + n.mean[i % D]).collect();
    let mut normal = raw.clone();
    n.apply(&mut normal);
    let mut folded = plain.clone();
    n.fold(Isa::default(), &mut folded);

    let (z1, z2, hat1, hat2) = through(&plain, &normal);
    let (w1, w2, fold1, fold2) = through(&folded, &raw);
    assert!(!z1.index.is_empty() && !z2.index.is_empty(), "nothing fires: {c:?}");
    assert_eq!((&w1.index, &w1.offsets), (&z1.index, &z1.offsets), "latents that fire at level 1: {c:?}");
    assert_eq!((&w2.index, &w2.offsets), (&z2.index, &z2.offsets), "latents that fire at level 2: {c:?}");
    let units = if c.model == ModelKind::Seed { 1.0 } else { scale };
    let mut most = worst(&w1.value, z1.value.iter().map(|z| z / units));
    most = most.max(worst(&w2.value, z2.value.iter().map(|z| z / units)));
    // Errors are relative to the rows without their mean: the mean may be much larger than the rest.
    for (fold, hat) in [(fold1, hat1), (fold2, hat2)] {
        let about: Vec<f32> = fold.iter().enumerate().map(|(i, f)| (f - n.mean[i % D]) * scale).collect();
        most = most.max(worst(&about, hat.iter().copied()));
    }
    assert!(most <= 1.0, "{most} times the bound: {c:?}");
    if c.model == ModelKind::Tree {
        assert_eq!(folded.params.level[0].w_dec, plain.params.level[0].w_dec, "directions stay as they are");
        assert_eq!(folded.params.level[1].w_dec, plain.params.level[1].w_dec, "directions stay as they are");
    }
    most
}

#[test]
fn folding_the_normalisation_changes_no_code_but_its_units() {
    let (mut case, mut most) = (0, 0.0f64);
    for &a1 in Activation::ALL {
        for &a2 in Activation::ALL {
            for &gate in GateKind::ALL {
                for &source in Source::ALL {
                    for &decoder in Decoder::ALL {
                        let mut c = Config { source, decoder, ..Config::default() };
                        (c.level1.latents, c.level2.latents) = (9, 14);
                        (c.level1.k, c.level2.k) = (3.0, 5.0);
                        (c.level1.activation, c.level2.activation) = (a1, a2);
                        c.gate.kind = gate;
                        case += 1;
                        most = most.max(check(&c, case));
                    }
                }
            }
        }
    }
    for gate in [GateKind::None, GateKind::Mul, GateKind::Add] {
        for seed in 0..20 {
            let mut c = Config { model: ModelKind::Seed, ..Config::default() };
            (c.level1.latents, c.level2.latents) = (9, 14);
            c.gate.kind = gate;
            most = most.max(check(&c, seed));
        }
    }
    println!("{case} models and the seed, worst {most:.3} of the bound");
    assert!(most > tolerance::NEEDED, "the bound is too wide: {most}");
}
