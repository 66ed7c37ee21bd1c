//! Encoders with weights in fewer bits have the codes of the model with these weights.

use crate::hierarchy::{any_arch, model};
use proptest::prelude::*;
use std::sync::Arc;
use strata_core::config::{Activation, GateKind, ModelKind};
use strata_core::kernel::weight::{Weight, to_bf16, to_int8};
use strata_core::model::{Arch, Codes, Encoder, LevelArch, Model, Scratch, WeightType};
use strata_core::rng::Philox;
use strata_core::{Compute, Isa, Par};

/// The model whose encoders are rounded.
fn rounded(model: &Model, weights: WeightType) -> Model {
    let mut model = model.clone();
    for (level, d) in model.params.level.iter_mut().zip([model.arch.d, model.arch.source_width()]) {
        let values: Vec<f32> = match weights {
            WeightType::F32 => level.w_enc.to_vec(),
            WeightType::Bf16 => to_bf16(&level.w_enc).into_iter().map(|w| w.widen(1.0)).collect(),
            WeightType::Int8 => {
                let (q, scales) = to_int8(&level.w_enc, d);
                q.iter().enumerate().map(|(i, q)| q.widen(scales[i / d])).collect()
            }
        };
        level.w_enc.copy_from_slice(&values);
    }
    model
}

fn codes(encoder: &Encoder, x: &[f32]) -> [Codes; 2] {
    let mut codes = [Codes::new(), Codes::new()];
    let [one, two] = &mut codes;
    encoder.encode(x, &mut Scratch::new(&encoder.model().arch), one, two).expect("finite rows");
    codes
}

fn check(model: &Model, x: &[f32], isa: Isa) -> Result<(), TestCaseError> {
    for weights in WeightType::ALL {
        let want = Encoder::new(Arc::new(rounded(model, weights)), Compute::new(isa, Par::Seq)).expect("a model");
        let got =
            Encoder::with_weights(Arc::new(model.clone()), Compute::new(isa, Par::Seq), weights).expect("a model");
        prop_assert_eq!(got.weight_type(), weights);
        prop_assert_eq!(codes(&got, x), codes(&want, x), "{} on {:?}", weights.name(), isa);
    }
    Ok(())
}

fn rows(arch: &Arch, n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Philox::new(seed, 1);
    (0..n * arch.d).map(|_| rng.normal_f32()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn codes_are_those_of_the_rounded_model(
        arch in any_arch(),
        gate in prop::sample::select(vec![GateKind::None, GateKind::Mul, GateKind::Add, GateKind::Hard, GateKind::GroupTop1]),
        n in 0usize..40,
        seed in 0u64..1000,
    ) {
        let arch = Arch { gate, ..arch };
        let mut model = model(arch, seed, 3);
        if !gate.has_families() {
            model.parents.clear();
        }
        for isa in Isa::all_available() {
            check(&model, &rows(&arch, n, seed), isa)?;
        }
    }

    #[test]
    fn a_screen_is_that_of_the_rounded_weights(n in 1usize..70, d in 96usize..130, seed in 0u64..1000, hard: bool) {
        let gate = if hard { GateKind::Hard } else { GateKind::None };
        let (f1, f2) = (520, 600);
        let arch = Arch {
            model: ModelKind::Tree,
            d,
            level: [LevelArch { latents: f1, activation: Activation::Topk, k: 9.0 }, LevelArch { latents: f2, activation: Activation::Batchtopk, k: 5.0 }],
            source: strata_core::config::Source::X,
            decoder: strata_core::config::Decoder::Cum,
            gate,
            variant: Default::default(),
        };
        let mut model = model(arch, seed, 5);
        model.tau = [0.0, 8.0];
        if !hard {
            model.parents.clear();
        }
        check(&model, &rows(&arch, n, seed), Isa::detect())?;
    }
}

#[test]
fn rounding_is_to_the_nearest() {
    let w = [0.0, 1.0, -127.0, 63.5, 0.499, 0.5, 1.5, -0.5];
    let (q, scales) = to_int8(&w, 8);
    assert_eq!(scales, [1.0]);
    assert_eq!(q, [0, 1, -127, 64, 0, 0, 2, 0]);
    assert_eq!(to_int8(&[0.0; 4], 2).1, [0.0, 0.0]);
    let up = f32::from_bits(0x3f80_8001);
    assert_eq!(to_bf16(&[up])[0].widen(1.0), f32::from_bits(0x3f81_0000));
    assert_eq!(to_bf16(&[f32::from_bits(0x3f80_8000)])[0].widen(1.0), 1.0);
}

#[test]
fn the_seed_has_f32_alone() {
    let arch = Arch {
        model: ModelKind::Seed,
        d: 4,
        level: [
            LevelArch { latents: 3, activation: Activation::Topk, k: 1.0 },
            LevelArch { latents: 5, activation: Activation::Topk, k: 1.0 },
        ],
        source: strata_core::config::Source::Z1,
        decoder: strata_core::config::Decoder::Cum,
        gate: GateKind::None,
        variant: Default::default(),
    };
    let model = Model { arch, params: arch.zeros(), parents: Vec::new(), tau: [0.0; 2] };
    let error =
        Encoder::with_weights(Arc::new(model), Compute::new(Isa::detect(), Par::Seq), WeightType::Bf16).unwrap_err();
    assert!(error.to_string().contains("seed"), "{error}");
}

#[test]
fn weights_that_rounding_makes_infinite_are_refused() {
    let arch = Arch {
        model: ModelKind::Tree,
        d: 4,
        level: [
            LevelArch { latents: 3, activation: Activation::Topk, k: 1.0 },
            LevelArch { latents: 0, activation: Activation::Topk, k: 1.0 },
        ],
        source: strata_core::config::Source::X,
        decoder: strata_core::config::Decoder::Cum,
        gate: GateKind::None,
        variant: Default::default(),
    };
    let mut model = Model { arch, params: arch.zeros(), parents: Vec::new(), tau: [0.0; 2] };
    model.params.level[0].w_enc[5] = f32::MAX;
    let of = |weights| Encoder::with_weights(Arc::new(model.clone()), Compute::new(Isa::detect(), Par::Seq), weights);
    assert!(of(WeightType::F32).is_ok());
    let error = of(WeightType::Bf16).unwrap_err().to_string();
    assert!(error.contains("level 1") && error.contains("bf16"), "{error}");
}
