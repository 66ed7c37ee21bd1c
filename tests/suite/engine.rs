//! What an engine observes of a step, and what it is told to change, compared with the model that it trains.

use std::sync::Arc;
use strata_core::activation::Activation;
use strata_core::config::GateKind;
use strata_core::model::{Arch, Model, Params, Scratch};
use strata_core::train::{Engine, LatentRows, StepSettings};
use strata_core::{Codes, Compute, Config, Encoder, Isa, Par, Philox};

const D: usize = 24;
const ROWS: usize = 150;

fn config() -> Config {
    let mut config = Config::default();
    (config.level1.latents, config.level2.latents) = (40, 90);
    (config.level1.k, config.level2.k) = (4.0, 6.0);
    (config.level1.activation, config.level2.activation) = (Activation::Topk, Activation::Topk);
    config.gate.kind = GateKind::None;
    config
}

fn settings(config: &Config) -> StepSettings {
    StepSettings {
        lr: 1e-2,
        fixed_level: None,
        k: [config.level1.k, config.level2.k],
        surplus: [1.0; 2],
        lambda: [0.0; 2],
        w: [1.0; 2],
        gate: GateKind::None,
        source: config.source,
        variance: D as f32,
        tau: [0.0, 2.0],
        observe_ungated: true,
        dead: [Vec::new(), Vec::new()],
    }
}

fn drawn(arch: &Arch, rng: &mut Philox) -> Params {
    let mut params = arch.zeros();
    params.each_mut().flatten().for_each(|p| *p = 0.3 * rng.normal_f32());
    params
}

/// An engine before its first step, and a batch.
fn start(config: &Config) -> (Engine, Params, Vec<f32>) {
    let mut rng = Philox::new(3, 3);
    let params = drawn(&Arch::new(config, D), &mut rng);
    let x = (0..ROWS * D).map(|_| rng.normal_f32()).collect();
    let compute = Compute::new(Isa::detect(), Par::Rayon);
    (Engine::new(config, D, params.clone(), compute).expect("valid settings"), params, x)
}

#[test]
fn an_engine_observes_the_codes_and_the_residuals_of_the_model_before_the_step() {
    let config = config();
    let (mut engine, params, x) = start(&config);
    let seen = engine.step(&x, &settings(&config)).expect("finite rows").clone();

    let model = Model { arch: Arch::new(&config, D), params: params.clone(), parents: Vec::new(), tau: [0.0; 2] };
    let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::detect(), Par::Seq)).expect("a model");
    let mut codes = [Codes::new(), Codes::new()];
    let [codes1, codes2] = &mut codes;
    encoder.encode(&x, &mut Scratch::new(&encoder.model().arch), codes1, codes2).expect("finite rows");
    for (l, (codes, seen)) in codes.iter().zip(&seen.codes).enumerate() {
        assert_eq!((seen.n_rows(), &seen.index), (ROWS, &codes.index), "latents of level {}", l + 1);
        assert_eq!(seen.value, codes.value, "activations of level {}", l + 1);
        assert!(!seen.index.is_empty(), "level {} fires", l + 1);
    }
    let mut hats = [vec![0.0; x.len()], vec![0.0; x.len()]];
    let [hat1, hat2] = &mut hats;
    encoder.decode(&codes[0], &codes[1], hat1, hat2).expect("codes of the model");
    assert_eq!((seen.n(), seen.energy.len()), (ROWS, ROWS));
    for (b, energy) in seen.energy.iter().enumerate() {
        let row = b * D..(b + 1) * D;
        let expected: f32 = x[row.clone()].iter().zip(&hats[1][row]).map(|(x, hat)| (x - hat) * (x - hat)).sum();
        assert!((energy - expected).abs() < 1e-4 * expected, "row {b}: {energy} against {expected}");
        let residual = engine.residual(b);
        assert!((residual.iter().map(|r| r * r).sum::<f32>() - energy).abs() < 1e-4 * energy, "row {b}");
    }
    // Level 2 keeps 6 latents per row, and observes all ungated pre-activations above its threshold.
    let (w, bias) = (&params.level[1].w_enc, &params.level[1].b_enc);
    let mut n_ungated = 0;
    for b in 0..ROWS {
        for j in 0..90 {
            let u: f32 = (0..D).map(|c| (x[b * D + c] - params.b_dec[c]) * w[j * D + c]).sum::<f32>() + bias[j];
            n_ungated += usize::from(u > 2.0);
        }
    }
    assert!(n_ungated.abs_diff(seen.ungated.index.len()) < 5, "{n_ungated} against {}", seen.ungated.index.len());
    assert!(seen.grad_norm > 0.0 && seen.losses.total.is_finite());
    assert!(engine.download() != params, "the step has moved the weights");
}

#[test]
fn a_latent_that_starts_anew_has_the_given_rows_and_no_moments() {
    let config = config();
    let (mut engine, _, x) = start(&config);
    let mut settings = settings(&config);
    for _ in 0..3 {
        engine.step(&x, &settings).expect("finite rows");
    }
    let direction: Vec<f32> = (0..D).map(|c| if c == 7 { 1.0 } else { 0.0 }).collect();
    let rows = LatentRows { encoder: &direction, bias: -1e3, decoder: &direction };
    engine.set_latent(1, 5, rows);
    assert_eq!(engine.latent(1, 5), rows);
    // With that bias the latent never fires and has no gradient, so that only old moments could move it.
    settings.lr = 0.5;
    let before = engine.download();
    engine.step(&x, &settings).expect("finite rows");
    assert_eq!(engine.latent(1, 5), rows);
    let after = engine.download();
    assert!(after.level[1].w_enc[6 * D..7 * D] != before.level[1].w_enc[6 * D..7 * D], "its neighbour moves");
}

#[test]
fn a_step_that_is_not_finite_leaves_the_weights_as_they_were() {
    let config = config();
    let (mut engine, params, mut x) = start(&config);
    x[5 * D] = f32::NAN;
    let error = engine.step(&x, &settings(&config)).expect_err("a row that is not finite");
    assert!(error.to_string().contains("the reconstruction loss of level 1"), "{error}");
    assert!(engine.download() == params, "the weights of a step that failed");
}
