//! Leave-one-out pruning: which latents stay, by a plain loop in f64; and what it changes.

use super::ffi::allocator::allocations;
use super::hierarchy::model;
use proptest::prelude::*;
use std::sync::Arc;
use strata_core::config::{Activation, Config, Decoder, GateKind, ModelKind, Source};
use strata_core::format::weights::{read_model, write_cfg, write_weights};
use strata_core::model::{Arch, Codes, Encoder, Lanes, LevelArch, Model, Scratch, Variant};
use strata_core::rng::Philox;
use strata_core::{Compute, Isa, Par, ROOT};

fn any_arch() -> impl Strategy<Value = Arch> {
    let activation = || prop::sample::select(vec![Activation::Batchtopk, Activation::Jumprelu]);
    let decoder = prop::sample::select(vec![Decoder::Cum, Decoder::Ind, Decoder::Comp]);
    let gate = prop::sample::select(vec![GateKind::None, GateKind::Hard]);
    let f2 = prop_oneof![Just(0usize), 1usize..60];
    let prune = || prop::sample::select(vec![0.0f32, 0.5, 1.0, 2.0]);
    (1usize..24, 1usize..16, f2, activation(), activation(), decoder, gate, (prune(), prune()), any::<bool>()).prop_map(
        |(d, f1, f2, activation1, activation2, decoder, gate, (one, two), raw_input)| Arch {
            model: ModelKind::Tree,
            d,
            level: [
                LevelArch { latents: f1, activation: activation1, k: 1.0 },
                LevelArch { latents: f2, activation: activation2, k: 1.0 },
            ],
            source: Source::X,
            decoder,
            gate: if f2 > 0 { gate } else { GateKind::None },
            variant: Variant { raw_input, prune: [one, if f2 > 0 { two } else { 0.0 }], ..Variant::default() },
        },
    )
}

fn random_model(arch: Arch, seed: u64) -> Model {
    let mut model = model(arch, seed, 3);
    if !arch.gate.has_families() {
        model.parents.clear();
    }
    model
}

fn encode(model: &Model, isa: Isa, par: Par, x: &[f32]) -> [Codes; 2] {
    let encoder = Encoder::new(Arc::new(model.clone()), Compute::new(isa, par)).expect("a valid model");
    let (mut one, mut two) = (Codes::new(), Codes::new());
    encoder.encode_par(par, x, &mut one, &mut two).expect("finite rows");
    [one, two]
}

/// A latent, its value, direction and threshold.
struct Latent {
    index: u32,
    z: f64,
    direction: Vec<f64>,
    threshold: f64,
}

/// The latents of one row that stay, or none where a decision is closer than rounding.
fn by_definition(mut r: Vec<f64>, mut latents: Vec<Latent>, share: f64) -> Option<Vec<u32>> {
    for l in &latents {
        r.iter_mut().zip(&l.direction).for_each(|(r, d)| *r -= l.z * d);
    }
    loop {
        let excess = latents.iter().map(|l| {
            let dot: f64 = r.iter().zip(&l.direction).map(|(r, d)| r * d).sum();
            let square: f64 = l.direction.iter().map(|d| d * d).sum();
            l.z + dot / square - share * l.threshold
        });
        let mut order: Vec<(f64, usize)> = excess.zip(0..).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let close = |a: f64, b: f64| (a - b).abs() < 1e-3;
        match order[..] {
            [(weakest, _), ..] if close(weakest, 0.0) => return None,
            [(weakest, _), (next, _), ..] if weakest < 0.0 && close(weakest, next) => return None,
            [(weakest, at), ..] if weakest < 0.0 => {
                let gone = latents.remove(at);
                r.iter_mut().zip(&gone.direction).for_each(|(r, d)| *r += gone.z * d);
            }
            _ => return Some(latents.iter().map(|l| l.index).collect()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_latents_that_stay_are_those_of_the_definition(arch in any_arch(), n in 1usize..20, seed in 0u64..1000) {
        let model = random_model(arch, seed);
        let mut rng = Philox::new(seed, 1);
        let x: Vec<f32> = (0..n * arch.d).map(|_| rng.normal_f32()).collect();
        let isa = Isa::detect();
        let found = encode(&model, isa, Par::Seq, &x);
        for isa in Isa::all_available() {
            prop_assert_eq!(&encode(&model, isa, Par::Rayon, &x), &found, "{:?}", isa);
        }
        // Level 2 reads the rows, so that without its gate nothing of it depends on which parents stay.
        let mut whole = model.clone();
        whole.arch.variant.prune = [0.0; 2];
        let all = encode(&whole, isa, Par::Seq, &x);
        let decoder2 = model.decoder2(Compute::new(isa, Par::Seq));
        let rows = |l: usize| if l == 0 { &*model.params.level[0].w_dec } else { &decoder2[..] };
        let direction = |l: usize, j: u32| -> Vec<f64> {
            rows(l)[j as usize * arch.d..][..arch.d].iter().map(|v| f64::from(*v)).collect()
        };
        for (i, row) in x.chunks(arch.d).enumerate() {
            let centred: Vec<f64> =
                row.iter().zip(&*model.params.b_dec).map(|(x, b)| f64::from(*x) - f64::from(*b)).collect();
            for l in 0..arch.n_levels() {
                let stays = found[l].row(i);
                let parent_stays = |j: &u32| {
                    let parent = model.parents.get(*j as usize).copied().unwrap_or(ROOT);
                    l == 0 || parent == ROOT || found[0].row(i).index.contains(&parent)
                };
                let (index, value): (Vec<u32>, Vec<f32>) =
                    all[l].row(i).index.iter().zip(all[l].row(i).value).filter(|(j, _)| parent_stays(j)).unzip();
                if arch.variant.prune[l] == 0.0 {
                    prop_assert_eq!(stays.index, &index[..]);
                    continue;
                }
                let mut r = centred.clone();
                if l == 1 && arch.decoder == Decoder::Cum {
                    let parents = found[0].row(i);
                    for (j, z) in parents.index.iter().zip(parents.value) {
                        r.iter_mut().zip(direction(0, *j)).for_each(|(r, d)| *r -= f64::from(*z) * d);
                    }
                }
                let latents = index.iter().zip(&value).map(|(j, z)| Latent {
                    index: *j,
                    z: f64::from(*z),
                    direction: direction(l, *j),
                    threshold: f64::from(model.rule(l).threshold(*j as usize)),
                });
                if let Some(want) = by_definition(r, latents.collect(), f64::from(arch.variant.prune[l])) {
                    prop_assert_eq!(stays.index, &want[..], "level {}, row {}", l + 1, i);
                }
                for (j, z) in stays.index.iter().zip(stays.value) {
                    let at = index.iter().position(|of| of == j).expect("a latent that was there before");
                    prop_assert_eq!(*z, value[at], "values stay");
                }
            }
        }
    }
}

fn flat(activation: Activation, prune: f32) -> Arch {
    Arch {
        model: ModelKind::Tree,
        d: 16,
        level: [LevelArch { latents: 64, activation, k: 8.0 }, LevelArch { latents: 0, activation, k: 1.0 }],
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::None,
        variant: Variant { prune: [prune, 0.0], ..Variant::default() },
    }
}

#[test]
fn two_latents_that_explain_the_same_do_not_both_go() {
    let mut model = random_model(flat(Activation::Batchtopk, 1.0), 1);
    let (f, d) = (model.arch.level[0].latents, model.arch.d);
    let level = &mut model.params.level[0];
    for w in [&mut level.w_enc, &mut level.w_dec] {
        w.iter_mut().for_each(|w| *w = 0.0);
        // The first two point the same way, the third elsewhere.
        (w[0], w[d], w[2 * d + 1]) = (1.0, 1.0, 1.0);
        (3..f).for_each(|j| w[j * d + 2] = 1.0);
    }
    level.b_enc.iter_mut().for_each(|b| *b = 0.0);
    model.params.b_dec.iter_mut().for_each(|b| *b = 0.0);
    model.tau[0] = 0.5;
    let mut x = vec![0.0; d];
    (x[0], x[1]) = (2.0, 1.0);
    let [one, _] = encode(&model, Isa::detect(), Par::Seq, &x);
    assert_eq!((one.index, one.value), (vec![1, 2], vec![2.0, 1.0]), "one of the first two stays");
}

#[test]
fn a_pruned_model_is_saved_and_read_and_allocates_nothing() {
    for activation in [Activation::Batchtopk, Activation::Jumprelu] {
        let mut model = random_model(flat(activation, 1.5), 2);
        // A level without latents has no threshold to be saved.
        model.tau = if activation.has_tau() { [0.2, 0.0] } else { [0.0; 2] };
        let cfg = write_cfg(&model.arch, &Default::default());
        let (back, _) = read_model(&cfg, &write_weights(&model).expect("a model")).expect("what was written");
        assert!(back == model, "{activation}: another model was read");
        let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::detect(), Par::Seq)).expect("a model");
        let mut scratch = Scratch::for_rows(&encoder.model().arch, 32).reserved(&encoder);
        let mut rng = Philox::new(5, 1);
        let x: Vec<f32> = (0..32 * 16).map(|_| 3.0 * rng.normal_f32()).collect();
        assert_eq!(allocations(|| encoder.encode_block(&x, &mut scratch).expect("finite rows")), 0, "{activation}");
        assert!(!scratch.codes()[0].index.is_empty(), "{activation}: something fires");
    }
}

#[test]
fn what_has_no_thresholds_is_not_pruned() {
    for activation in [Activation::Topk, Activation::Relu, Activation::Gated] {
        let model = random_model(flat(activation, 1.0), 3);
        let error = model.check().expect_err("no thresholds").to_string();
        assert!(error.contains("prune") && error.contains(&activation.to_string()), "{error}");
        let mut config = Config::default();
        (config.level1.activation, config.level1.k, config.level1.prune) = (activation, 8.0, 1.0);
        let error = config.validate(16).expect_err("no thresholds").to_string();
        assert!(error.contains("level1.prune") && error.contains(&activation.to_string()), "{error}");
    }
    let mut negative = random_model(flat(Activation::Batchtopk, 1.0), 3);
    negative.arch.variant.prune[0] = -1.0;
    assert!(negative.check().is_err(), "a negative share");
}

#[test]
fn codes_without_the_gate_are_pruned_by_their_own_rows_however_many_there_are() {
    let level = |latents| LevelArch { latents, activation: Activation::Batchtopk, k: 1.0 };
    let arch = Arch {
        model: ModelKind::Tree,
        d: 12,
        level: [level(10), level(40)],
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::Hard,
        variant: Variant { prune: [1.0, 1.0], ..Variant::default() },
    };
    let encoder =
        Encoder::new(Arc::new(random_model(arch, 3)), Compute::new(Isa::detect(), Par::Seq)).expect("a model");
    // Several blocks in each part that a thread encodes.
    let n = 20_000;
    let mut rng = Philox::new(9, 0);
    let x: Vec<f32> = (0..n * arch.d).map(|_| 2.0 * rng.normal_f32()).collect();
    let codes = |par, x: &[f32], rows: usize| {
        let mut lanes = Lanes::default();
        let [mut one, mut two, mut open] = [Codes::new(), Codes::new(), Codes::new()];
        for x in x.chunks(rows * arch.d) {
            encoder.encode_open_par(par, x, &mut lanes, &mut one, &mut two, &mut open).expect("finite rows");
        }
        [one, two, open]
    };
    let wanted = codes(Par::Seq, &x, 64);
    assert!(wanted[2].index.len() > wanted[1].index.len(), "the gate removes some");
    for (par, rows) in [(Par::Seq, n), (Par::Rayon, n), (Par::Seq, 3000)] {
        assert!(codes(par, &x, rows) == wanted, "{par:?}, {rows} rows");
    }
}
