//! Losses and gradients compared with PyTorch's autograd in f64: see `tests/golden/make_gradients.py`.

use safetensors::SafeTensors;
use strata_core::config::ModelKind;
use strata_core::gate::Families;
use strata_core::model::Arch;
use strata_core::train::seed_objective::SeedObjective;
use strata_core::train::{Objective, StepSettings};
use strata_core::{Compute, Config, Isa, Par};
use strata_tests::tolerance;

use crate::gradient::Worst;

const FILE: &[u8] = include_bytes!("../golden/gradients.safetensors");

fn bytes<const N: usize>(file: &SafeTensors<'_>, name: &str) -> Vec<[u8; N]> {
    let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    tensor.data().as_chunks::<N>().0.to_vec()
}

fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    bytes(file, name).into_iter().map(f32::from_le_bytes).collect()
}

fn indices(file: &SafeTensors<'_>, name: &str) -> Vec<u32> {
    bytes(file, name).into_iter().map(|b| i64::from_le_bytes(b) as u32).collect()
}

#[test]
fn losses_and_gradients_are_those_of_autograd() {
    let file = SafeTensors::deserialize(FILE).expect("the goldens");
    let (_, head) = SafeTensors::read_metadata(FILE).expect("the goldens");
    let cases = &head.metadata().as_ref().expect("metadata")["cases"];
    let cases: Vec<serde_json::Value> = serde_json::from_str(cases).expect("a list of settings");
    let mut worst = Worst::default();
    for (number, case) in cases.iter().enumerate() {
        let key = format!("{number:02}");
        let config: Config = serde_json::from_value(case["config"].clone()).expect("settings");
        let number_of = |name: &str| case[name].as_f64().expect("a number") as f32;
        let d = case["d"].as_u64().expect("a width") as usize;
        let arch = Arch::new(&config, d);
        let mut params = arch.zeros();
        let mut want = Vec::new();
        for (name, tensor) in params.tensors_mut() {
            let mut grad = Vec::new();
            if !tensor.is_empty() {
                let values = f32s(&file, &format!("{key}/{name}"));
                assert_eq!(values.len(), tensor.len(), "{key}/{name}");
                *tensor = values.into();
                grad = f32s(&file, &format!("{key}/grad/{name}")).into_iter().map(f64::from).collect();
            }
            want.push(grad);
        }
        let x = f32s(&file, &format!("{key}/x"));
        let variance = number_of("variance");
        let mut grads = params.zeros_like();
        let losses = if config.model == ModelKind::Seed {
            SeedObjective::new(&config, d, Compute::new(Isa::default(), Par::Seq))
                .loss_and_gradient(&params, variance, &x, &mut grads)
                .expect("a finite loss")
        } else {
            let families = Families::new(indices(&file, &format!("{key}/parents")), arch.level[0].latents);
            let settings = StepSettings {
                lr: 0.0,
                fixed_level: None,
                k: [config.level1.k, config.level2.k],
                surplus: [1.0; 2],
                lambda: [config.level1.lambda as f32, config.level2.lambda as f32],
                w: [config.loss.w1 as f32, config.loss.w2 as f32],
                gate: config.gate.kind,
                source: config.source,
                variance,
                tau: [0.0, number_of("tau2")],
                observe_ungated: false,
                dead: [1, 2].map(|l| indices(&file, &format!("{key}/dead{l}"))),
            };
            Objective::new(&config, d, Compute::new(Isa::default(), Par::Seq))
                .expect("valid settings")
                .loss_and_gradient(&params, &families, &settings, &x, &mut grads)
                .expect("a finite loss")
        };
        let expected: Vec<f64> = bytes(&file, &format!("{key}/loss")).into_iter().map(f64::from_le_bytes).collect();
        for (got, want) in [losses.total, losses.fvu[0], losses.fvu[1], losses.consistency].into_iter().zip(&expected) {
            assert!(
                (got - want).abs() <= tolerance::LOSS * (1.0 + expected[0].abs()),
                "{key}: {losses:?}, {expected:?}"
            );
        }
        let what = || format!("case {key}, {}", case["config"]);
        worst.compare(&grads, &want, tolerance::GOLDEN, what);
    }
    println!("{} cases, worst {:.3} of the bound at {}", cases.len(), worst.ratio, worst.at);
    worst.assert();
    assert!(worst.ratio > tolerance::NEEDED, "the bound is too wide: {worst:?}");
}
