//! The parts of the training procedure: schedules, controllers of L0, families and revival.

use crate::quality::{run, world_a_config};
use std::sync::Arc;
use strata_core::config::{
    Activation, Balance, Budget, Config, GateConfig, GateKind, LevelConfig, LossConfig, Source, TrainConfig,
};
use strata_core::model::{Codes, Encoder};
use strata_core::normalise::{Normalisation, geometric_median};
use strata_core::synth::{World, WorldConfig};
use strata_core::train::{
    Array, ThresholdTracker, Trainer, annealed_k, annealed_w1, highest_rate, is_long, learning_rate,
};
use strata_core::{Compute, Isa, Par, Philox, ROOT};

/// A trainer over world A with its first rows measured.
fn trainer(world: &World, config: &Config) -> Trainer {
    let d = world.config().d;
    let mut sample = vec![0.0; 4096 * d];
    world.sample(0, 4096, &mut sample, None);
    let n = Normalisation::measure(Isa::detect(), &sample, d, &config.data).expect("the world varies");
    let mut rows = sample[..256 * d].to_vec();
    n.apply(&mut rows);
    Trainer::new(config, n, &rows, Compute::new(Isa::detect(), Par::Rayon)).expect("a valid configuration")
}

fn batch(world: &World, trainer: &Trainer, step: u64) -> Vec<f32> {
    let n = trainer.config().train.batch;
    let mut x = vec![0.0; n * world.config().d];
    world.sample(4096 + step * n as u64, n, &mut x, None);
    trainer.normalisation().apply(&mut x);
    x
}

#[test]
fn the_learning_rate_warms_up_stays_and_falls_to_zero() {
    let train = TrainConfig { steps: 1000, lr: 2.0, warmup: 0.1, decay: 0.2, ..TrainConfig::default() };
    let config = Config { train, ..Config::default() };
    assert!((learning_rate(&config, 0) - 0.02).abs() < 1e-12);
    assert!((learning_rate(&config, 49) - 1.0).abs() < 1e-12);
    assert_eq!(learning_rate(&config, 100), 2.0);
    assert_eq!(learning_rate(&config, 800), 2.0);
    assert!((learning_rate(&config, 900) - 1.0).abs() < 1e-12);
    assert_eq!(learning_rate(&config, 1000), 0.0);
}

#[test]
fn a_scaled_learning_rate_follows_the_roots_of_the_rows_and_of_the_latents() {
    let rate = |batch: usize, latents: [usize; 2], scale_lr: bool| {
        let mut config = Config::default();
        (config.train.lr, config.train.batch, config.train.scale_lr) = (2e-3, batch, scale_lr);
        [config.level1.latents, config.level2.latents] = latents;
        highest_rate(&config)
    };
    let close = |rate: f64, to: f64| assert!((rate / to - 1.0).abs() < 1e-12, "{rate} for {to}");
    close(rate(1024, [512, 3584], true), 2e-3);
    close(rate(1024, [4096, 0], true), 2e-3);
    close(rate(4096, [4096, 0], true), 4e-3);
    close(rate(256, [4096, 0], true), 1e-3);
    close(rate(1024, [2048, 14336], true), 1e-3);
    close(rate(4096, [2048, 14336], true), 2e-3);
    close(rate(256, [2048, 14336], false), 2e-3);
    // The schedule is that of the scaled rate, and so is the length of a training.
    let mut config = Config::default();
    (config.train.lr, config.train.batch, config.train.scale_lr, config.train.steps) = (4e-3, 4096, true, 4000);
    [config.level1.latents, config.level2.latents] = [2048, 14336];
    assert_eq!(learning_rate(&config, 2000), 4e-3);
    config.train.long = 15.0;
    assert!(!is_long(&config), "the sum of the rates is 14.2");
    config.level2.latents = 2048;
    assert!(is_long(&config), "it is 28.5");
}

#[test]
fn the_number_of_kept_latents_falls_linearly_to_its_target() {
    let train = TrainConfig { steps: 1000, long: 0.0, ..TrainConfig::default() };
    let level = LevelConfig { latents: 100, k: 5.0, k_start: 4.0, anneal: 0.2, ..LevelConfig::default() };
    let narrow = LevelConfig { latents: 12, ..level.clone() };
    let config = Config { train, level1: level, level2: narrow, ..Config::default() };
    assert_eq!([0, 100, 200, 999].map(|step| annealed_k(&config, 0, step)), [20.0, 12.5, 5.0, 5.0]);
    assert_eq!(annealed_k(&config, 1, 0), 12.0);
}

#[test]
fn the_weight_of_level_1_moves_linearly_to_its_end() {
    let loss = LossConfig { w1: 1.0, w1_start: 0.5, w1_end: 0.2, ..LossConfig::default() };
    let at = |done| annealed_w1(&loss, Balance::Sum, done).expect("a weight that moves");
    assert_eq!([at(0.0), at(0.5)], [1.0, 1.0]);
    assert!((at(0.75) - 0.6).abs() < 1e-12 && (at(1.0) - 0.2).abs() < 1e-12);
    assert_eq!(annealed_w1(&loss, Balance::Norm, 0.75), None, "a learned weight is left alone");
    assert_eq!(annealed_w1(&LossConfig { w1_start: 1.0, ..loss }, Balance::Sum, 1.0), None);

    let world = World::new(&WorldConfig::a()).expect("world A");
    let mut config = world_a_config(40, 6);
    (config.loss.w1_start, config.loss.w1_end, config.gate.start) = (0.5, 0.0, 0.75);
    config.train.warmup = 0.1;
    for gate in [GateKind::Hard, GateKind::None] {
        config.gate.kind = gate;
        let mut t = trainer(&world, &config);
        for step in 0..40 {
            let x = batch(&world, &t, step);
            let report = t.step(&x).expect("a finite step");
            // The weight does not move before a hard gate acts.
            let moves = step >= 30 && gate == GateKind::Hard;
            let expected = if moves { 1.0 - (step as f64 / 40.0 - 0.5) / 0.5 } else { 1.0 };
            assert!((report.w[0] - expected).abs() < 1e-6 && report.w[1] == 1.0, "step {step}: {:?}", report.w);
        }
    }
}

#[test]
fn a_training_is_long_by_the_sum_of_its_learning_rates() {
    let train = TrainConfig { steps: 1000, lr: 2.0, warmup: 0.1, decay: 0.2, ..TrainConfig::default() };
    let level1 = LevelConfig { latents: 100, k: 5.0, k_start: 4.0, anneal: 0.2, ..LevelConfig::default() };
    let mut config = Config { train, level1, ..Config::default() };
    let sum: f64 = (0..1000).map(|t| learning_rate(&config, t)).sum();
    config.train.long = 0.99 * sum;
    assert!(is_long(&config));
    config.train.long = 1.01 * sum;
    assert!(!is_long(&config));
    assert_eq!(annealed_k(&config, 0, 0), 5.0);
}

#[test]
fn calibrated_thresholds_fire_as_often_as_they_were_asked_to() {
    let world = World::new(&WorldConfig::a()).expect("world A");
    let changes: [fn(&mut Config); 4] = [
        |_| {},
        |c| (c.source, c.source_start) = (Source::Res, 0.0),
        |c| (c.budget, c.gate.kind) = (Budget::Shared, GateKind::None),
        |c| (c.level2.latents, c.level1.latents) = (0, 240),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut config = world_a_config(300, 7);
        change(&mut config);
        let mut t = trainer(&world, &config);
        for step in 0..300 {
            let x = batch(&world, &t, step);
            t.step(&x).expect("a finite step");
        }
        let d = world.config().d;
        let n = 4000;
        let mut x = vec![0.0; n * d];
        world.sample(1 << 30, n, &mut x, None);
        t.normalisation().apply(&mut x);
        t.calibrate(&x).expect("rows of the model");
        let model = t.model_unfolded();
        let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
        let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::detect(), Par::Rayon)).expect("a valid model");
        encoder.encode_par(Par::Rayon, &x, &mut codes1, &mut codes2).expect("finite rows");
        let fired = [codes1.index.len(), codes2.index.len()];
        let wanted = [config.level1.k, config.level2.k].map(|k| (k * n as f64).round() as usize);
        match (config.budget, config.level2.latents) {
            (Budget::Shared, _) => assert_eq!(fired[0] + fired[1], wanted[0] + wanted[1], "{i}"),
            (_, 0) => assert_eq!(fired, [wanted[0], 0], "{i}"),
            _ => assert_eq!(fired, wanted, "{i}"),
        }
        let before = t.state();
        t.calibrate(&[]).expect("no rows");
        assert_eq!(before, t.state(), "{i}: nothing to go by changes nothing");
    }
}

#[test]
fn thresholds_that_are_none_are_not_calibrated() {
    let world = World::new(&WorldConfig::a()).expect("world A");
    let mut config = world_a_config(20, 8);
    (config.level1.activation, config.level2.activation) = (Activation::Topk, Activation::Topk);
    (config.level1.k, config.level2.k) = (3.0, 2.0);
    config.train.warmup = 0.1;
    let mut t = trainer(&world, &config);
    let x = batch(&world, &t, 0);
    t.step(&x).expect("a finite step");
    let before = t.state();
    t.calibrate(&x).expect("rows of the model");
    assert_eq!(before, t.state(), "nothing to set");
}

#[test]
fn the_threshold_tracker_lets_the_wanted_number_through() {
    // The scores are half-normal, P(u > tau) = erfc(tau / sqrt 2), and 2 % of them should be above the threshold.
    let mut rng = Philox::new(3, 0);
    let mut tracker = ThresholdTracker::default();
    let (n, wanted) = (20_000, 400.0);
    let mut above = 0;
    for step in 0..300 {
        let u: Vec<f32> = (0..n).map(|_| rng.normal_f32().abs()).collect();
        above = u.iter().filter(|u| **u > tracker.tau).count();
        let mut sorted = u.clone();
        sorted.sort_by(f32::total_cmp);
        // The first estimate is far off.
        let selected_min = if step == 0 { 0.1 } else { sorted[n - 400] };
        tracker.update(above, wanted, selected_min, f64::from(step) / 300.0);
    }
    assert!((above as f64 / wanted - 1.0).abs() < 0.2, "{above} above {}", tracker.tau);
}

#[test]
fn penalised_activations_are_held_at_their_target_l0() {
    let world = World::new(&WorldConfig::a()).expect("world A");
    // The L1 penalty shrinks activations, so that relu has a wider bound.
    let bounds = [(Activation::Relu, 0.15), (Activation::Jumprelu, 0.06), (Activation::Gated, 0.1)];
    for (activation, bound) in bounds {
        let mut config = world_a_config(2500, 1);
        config.level1.activation = activation;
        config.level2.activation = activation;
        // Measured without the calibration of thresholds after the last step.
        let out = run(&world, &config);
        println!("{activation}: L0 {:?} FVU {:?}", out.l0, out.fvu);
        for (l0, k) in out.l0.into_iter().zip([config.level1.k, config.level2.k]) {
            assert!((l0 / k - 1.0).abs() < 0.05, "{activation}: L0 {l0}, wanted {k}");
        }
        assert!(out.fvu[1] < bound, "{activation}: FVU2 {}", out.fvu[1]);
    }
}

#[test]
fn families_appear_when_the_gate_starts_and_are_frozen_at_the_end() {
    let world = World::new(&WorldConfig::a()).expect("world A");
    let mut config = world_a_config(600, 2);
    config.gate.reassign_every = 20;
    config.revive.dead_after = 20 * 256;
    config.train.encoder_norm = 0.3;
    let mut t = trainer(&world, &config);
    let (mut moved, mut reseeded) = (0, 0);
    for step in 0..600 {
        let x = batch(&world, &t, step);
        let report = t.step(&x).expect("a finite step");
        assert_eq!(report.gate_on, step >= 400, "step {step}");
        if !(400..540).contains(&step) {
            assert_eq!(report.moved, [0, 0], "step {step}");
        }
        if step > 400 {
            moved += report.moved[0];
        }
        reseeded += report.moved[1];
        if report.moved[1] > 0 {
            // A child that was set anew has no moments yet, and an encoder as short as those that training began with.
            let (state, d) = (t.state(), world.config().d);
            let rows = |name: &str| match &state.0[name] {
                Array::F32(rows) => rows.chunks_exact(d).map(<[f32]>::to_vec).collect::<Vec<_>>(),
                other => panic!("{name}: {other:?}"),
            };
            let moments = rows("adam.m.level2.w_enc");
            let anew =
                rows("params.level2.w_enc").into_iter().zip(&moments).filter(|(_, m)| m.iter().all(|m| *m == 0.0));
            let norms: Vec<f32> = anew.map(|(row, _)| row.iter().map(|w| w * w).sum::<f32>().sqrt()).collect();
            assert!(norms.len() >= report.moved[1], "step {step}: {norms:?}");
            assert!(norms.iter().all(|norm| (norm - 0.3).abs() < 1e-5), "step {step}: {norms:?}");
        }
        if step == 399 {
            assert!(t.model().parents.is_empty(), "a gate that has not started is saved as none");
        }
    }
    let parents = t.model().parents;
    let adopted = parents.iter().filter(|p| **p != ROOT).count();
    assert!(adopted > 20 && adopted < 200, "{adopted} of 200 children have a parent");
    assert!(moved > 0, "no child was re-assigned");
    assert!(reseeded > 0, "no dead child was reseeded");
    let cap = GateConfig::default().family_cap * 200.0 / 40.0;
    for p in 0..40u32 {
        assert!(parents.iter().filter(|q| **q == p).count() as f64 <= cap + reseeded as f64);
    }
}

#[test]
fn without_root_every_child_has_a_parent() {
    let world = World::new(&WorldConfig::a()).expect("world A");
    let mut config = world_a_config(60, 3);
    config.train.warmup = 0.1;
    config.gate.start = 0.5;
    config.gate.root_below = 0.0;
    let mut t = trainer(&world, &config);
    for step in 0..60 {
        let x = batch(&world, &t, step);
        t.step(&x).expect("a finite step");
    }
    assert!(t.model().parents.iter().all(|p| *p != ROOT));
}

#[test]
fn balance_by_norm_brings_the_gradient_norms_together() {
    let world = World::new(&WorldConfig::a()).expect("world A");
    let ratio_at_the_end = |balance: Balance| {
        let mut config = world_a_config(400, 4);
        config.train.balance = balance;
        let mut t = trainer(&world, &config);
        let mut last = 0.0;
        for step in 0..400 {
            let x = batch(&world, &t, step);
            let report = t.step(&x).expect("a finite step");
            assert!(report.losses.balance.cosine.abs() <= 1.0 + 1e-6);
            if step >= 350 {
                let b = &report.losses.balance;
                last += (report.w[0] * b.own / (report.w[1] * b.through)).ln() / 50.0;
            }
        }
        last.abs()
    };
    let (free, balanced) = (ratio_at_the_end(Balance::Sum), ratio_at_the_end(Balance::Norm));
    assert!(balanced < 0.5 * free, "|ln ratio| {balanced} against {free} without balance");
}

#[test]
fn learned_uncertainties_approach_the_losses() {
    // At the optimum e^eta = l, so that w = 1 / (2 l).
    let world = World::new(&WorldConfig::a()).expect("world A");
    let mut config = world_a_config(1500, 5);
    config.train.balance = Balance::Uncert;
    let mut t = trainer(&world, &config);
    let mut report = Default::default();
    for step in 0..1500 {
        let x = batch(&world, &t, step);
        report = t.step(&x).expect("a finite step");
    }
    for l in 0..2 {
        let product = 2.0 * report.w[l] * report.losses.fvu[l];
        assert!((0.5..2.0).contains(&product), "level {}: 2 w l = {product}", l + 1);
    }
}

#[test]
fn the_geometric_median_shrugs_off_outliers() {
    let d = 6;
    let mut rng = Philox::new(9, 0);
    let mut rows: Vec<f32> = (0..400 * d).map(|_| 1.0 + 0.1 * rng.normal_f32()).collect();
    for row in rows.chunks_mut(d).take(40) {
        row.fill(1e4);
    }
    let median = geometric_median(Isa::detect(), &rows, d);
    assert!(median.iter().all(|m| (m - 1.0).abs() < 0.05), "{median:?}");
}

#[test]
fn outliers_are_measured_and_left_out() {
    let d = 5;
    let mut rng = Philox::new(10, 0);
    let mut rows: Vec<f32> = (0..500 * d).map(|_| rng.normal_f32()).collect();
    rows[7 * d..8 * d].fill(500.0);
    let config = Config::default();
    let isa = Isa::detect();
    let n = Normalisation::measure(isa, &rows, d, &config.data).expect("rows vary");
    assert!(!n.keeps(isa, &rows[7 * d..8 * d]) && n.keeps(isa, &rows[..d]));
    let mut kept: Vec<f32> = rows.chunks(d).filter(|r| n.keeps(isa, r)).flatten().copied().collect();
    n.apply(&mut kept);
    let count = (kept.len() / d) as f64;
    let energy = kept.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() / count;
    assert!((energy / d as f64 - 1.0).abs() < 1e-4, "E||x'||^2 = {energy}, expected {d}");
    assert!((f64::from(n.variance) / energy - 1.0).abs() < 1e-4, "total variance {}", n.variance);
}
