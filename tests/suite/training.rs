//! Short runs of the trainer: losses fall, numbers stay finite, and an interrupted run continues to the same bits.

use crate::ffi::allocator::allocations;
use strata_core::config::{
    Activation, Balance, Budget, Consistency, DataConfig, Decoder, GateKind, ModelKind, Parents, Source, TrainConfig,
};
use strata_core::normalise::Normalisation;
use strata_core::train::{StepReport, Trainer};
use strata_core::{Compute, Config, Isa, Par, Philox};

const D: usize = 12;
const BATCH: usize = 96;

/// Rows of two to four directions out of 24, with a mean and some noise.
pub fn rows(n: usize, seed: u64) -> Vec<f32> {
    let mut fixed = Philox::new(5, 5);
    let directions: Vec<f32> = (0..24 * D).map(|_| fixed.normal_f32()).collect();
    let mut rng = Philox::new(seed, 9);
    let mut out = Vec::with_capacity(n * D);
    for _ in 0..n {
        let mut row = [0.5f32; D];
        for _ in 0..2 + rng.below(3) {
            let (at, size) = (rng.below(24) as usize, 1.0 + rng.uniform_f32());
            row.iter_mut().zip(&directions[at * D..]).for_each(|(r, v)| *r += size * v);
        }
        out.extend(row.map(|r| r + 0.05 * rng.normal_f32()));
    }
    out
}

pub fn settings(activation: Activation, steps: u64) -> Config {
    let mut c = Config::default();
    (c.level1.latents, c.level2.latents) = (12, 30);
    (c.level1.k, c.level2.k) = (2.0, 3.0);
    (c.level1.activation, c.level2.activation) = (activation, activation);
    c.gate.kind = GateKind::None;
    c.gate.reassign_every = 7;
    c.gate.min_count = 3.0;
    c.train.steps = steps;
    c.train.batch = BATCH;
    c.train.lr = 1e-2;
    // Every training counts as long, so that `k_start` is used.
    c.train.long = 0.0;
    (c.level1.k_start, c.level2.k_start) = (1.0, 1.0);
    c.revive.dead_after = 300;
    c
}

pub fn trainer(c: &Config) -> (Trainer, Normalisation) {
    let sample = rows(512, 1);
    let n = Normalisation::measure(Isa::default(), &sample, D, &c.data).expect("rows that vary");
    let mut normal = sample;
    n.apply(&mut normal);
    let t =
        Trainer::new(c, n.clone(), &normal, Compute::new(Isa::default(), Par::Seq)).unwrap_or_else(|e| panic!("{e}"));
    (t, n)
}

pub fn step(t: &mut Trainer, n: &Normalisation, seed: u64) -> StepReport {
    let mut x = rows(BATCH, 100 + seed);
    n.apply(&mut x);
    let report = t.step(&x).unwrap_or_else(|e| panic!("step {}: {e}; {:?}", t.step_count(), t.config()));
    assert!(report.losses.total.is_finite() && report.grad_norm.is_finite(), "{report:?}");
    report
}

#[test]
fn the_loss_falls_for_every_activation() {
    for &activation in Activation::ALL {
        let mut c = settings(activation, 200);
        // Without the controllers, since a rising penalty would hide that the loss falls.
        (c.level1.control, c.level2.control) = (false, false);
        (c.level1.lambda, c.level2.lambda) = (1e-3, 1e-3);
        let (mut t, n) = trainer(&c);
        let reports: Vec<StepReport> = (0..200).map(|i| step(&mut t, &n, i)).collect();
        let mean =
            |part: &[StepReport], l: usize| part.iter().map(|r| r.losses.fvu[l]).sum::<f64>() / part.len() as f64;
        for l in 0..2 {
            let (first, last) = (mean(&reports[..10], l), mean(&reports[190..], l));
            assert!(last < 0.8 * first, "{activation}, level {}: from {first} to {last}", l + 1);
        }
        let total = |part: &[StepReport]| part.iter().map(|r| r.losses.total).sum::<f64>() / part.len() as f64;
        assert!(total(&reports[190..]) < 0.9 * total(&reports[..10]), "{activation}");
    }
}

#[test]
fn a_shared_budget_is_held_over_both_levels_by_one_threshold() {
    let mut c = settings(Activation::Batchtopk, 60);
    c.budget = Budget::Shared;
    c.level1.k_start = 2.0;
    let (mut t, n) = trainer(&c);
    for i in 0..60 {
        let r = step(&mut t, &n, i);
        assert_eq!(r.tau[0], r.tau[1], "step {i}");
        let l0 = r.losses.l0[0] + r.losses.l0[1];
        assert!((l0 - (r.k[0] + r.k[1])).abs() < 1.0 / BATCH as f64, "step {i}: {l0} of {:?}", r.k);
    }
    let model = t.model();
    assert!(model.tau[0] == model.tau[1] && model.tau[0] > 0.0, "{:?}", model.tau);
    compare_interrupted(&c, 10);
}

#[test]
fn level_1_is_fixed_once_level_2_switches_to_the_residual() {
    for (source, start, switches) in [(Source::Res, 0.5, true), (Source::Res, 0.0, false), (Source::X, 0.0, false)] {
        for &activation in Activation::ALL {
            let mut c = settings(activation, 20);
            (c.source, c.source_start) = (source, start);
            let (mut t, n) = trainer(&c);
            for i in 0..10 {
                step(&mut t, &n, i);
                let reads = if switches { Source::X } else { source };
                assert_eq!(t.model_unfolded().arch.source, reads, "{activation}, step {i}");
            }
            let before = t.model_unfolded().params;
            for i in 10..20 {
                step(&mut t, &n, i);
            }
            let after = t.model_unfolded();
            assert_eq!(after.arch.source, source, "{activation}");
            for ((name, a), (_, b)) in before.tensors().into_iter().zip(after.params.tensors()) {
                if name == "b_dec" || name.starts_with("level1.") {
                    // Tensors that the activation does not have are empty and equal.
                    assert!(a.is_empty() || (a == b) == switches, "{activation}, {source} from {start}: {name}");
                } else if name == "level2.w_dec" {
                    assert_ne!(a, b, "{activation}: level 2 learns to the end");
                }
            }
            compare_interrupted(&Config { train: TrainConfig { steps: 40, ..c.train }, ..c }, 15);
        }
    }
}

#[test]
fn a_switch_to_the_residual_outside_of_the_training_is_refused() {
    for start in [-0.1, 1.5, f64::NAN] {
        let c = Config { source_start: start, ..settings(Activation::Batchtopk, 20) };
        let error = c.validate(D).expect_err("not a share of the steps").to_string();
        assert_eq!(error, format!("setting `source_start`: expected 0 to 1, found {start}"));
    }
    let c = Config { source_start: 0.5, source: Source::X, ..settings(Activation::Batchtopk, 20) };
    let error = c.validate(D).expect_err("no residual to switch to").to_string();
    assert_eq!(
        error,
        "setting `source_start`: it says when level 2 changes to the residual, which needs `source = \"res\"`, found `x`"
    );
}

#[test]
fn a_short_training_has_no_larger_k_in_the_beginning() {
    let mut c = settings(Activation::Batchtopk, 20);
    (c.level1.k_start, c.level2.k_start) = (3.0, 3.0);
    (c.train.warmup, c.train.decay) = (0.1, 0.2);
    let sum = 1e-2 * 20.0 * (1.0 - 0.05 - 0.1);
    let mut plain = c.clone();
    (plain.level1.k_start, plain.level2.k_start) = (1.0, 1.0);
    let model_of = |c: &Config| {
        let (mut t, n) = trainer(c);
        for i in 0..20 {
            step(&mut t, &n, i);
        }
        t.model_unfolded()
    };
    let expected = model_of(&plain);
    for (long, is_long) in [(sum * (1.0 - 1e-9), true), (sum * (1.0 + 1e-9), false)] {
        c.train.long = long;
        // A short training has the bits of one without a larger k.
        assert_eq!(model_of(&c) == expected, !is_long);
        compare_interrupted(&c, 0);
    }
}

#[test]
fn the_loss_of_the_seed_falls_for_every_gate() {
    for gate in [GateKind::None, GateKind::Mul, GateKind::Add] {
        let mut c = settings(Activation::Relu, 200);
        c.model = ModelKind::Seed;
        c.gate.kind = gate;
        let (mut t, n) = trainer(&c);
        let reports: Vec<StepReport> = (0..200).map(|i| step(&mut t, &n, i)).collect();
        assert!(reports[199].losses.fvu[1] < 0.8 * reports[0].losses.fvu[1], "{gate}: {:?}", reports[199]);
    }
}

#[test]
fn every_balance_and_gate_trains_for_thirty_steps() {
    let mut case = 0;
    for &balance in Balance::ALL {
        for &gate in GateKind::ALL {
            for &decoder in Decoder::ALL {
                let mut c = settings(Activation::ALL[case % 5], 30);
                c.level2.activation = Activation::ALL[case / 5 % 5];
                c.gate.kind = gate;
                c.gate.start = 0.3;
                c.gate.parents = Parents::ALL[case % 2];
                c.source = Source::ALL[case % 3];
                c.decoder = decoder;
                c.train.balance = balance;
                c.level1.k_start = 2.0;
                c.loss.consistency = Consistency::ALL[case % 7];
                if c.validate(D).is_err() {
                    c.loss.consistency = Consistency::None;
                }
                case += 1;
                let (mut t, n) = trainer(&c);
                let last = (0..30).map(|i| step(&mut t, &n, i)).last().expect("thirty steps");
                assert_eq!(last.gate_on, gate.has_families());
                t.model().check().expect("a sound model");
                t.model_unfolded().check().expect("a sound model");
                for row in t.model_unfolded().params.level[0].w_dec.chunks(D) {
                    let norm: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
                    assert!((norm - 1.0).abs() < 1e-5, "a decoder row of squared norm {norm}");
                }
            }
        }
    }
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bits() {
    let mut case = 0;
    for &gate in GateKind::ALL {
        for &activation in Activation::ALL {
            for at in [0, 10, 19] {
                let mut c = settings(activation, 40);
                c.level2.activation = Activation::ALL[(case + 1) % 5];
                c.gate.kind = gate;
                c.gate.start = 0.4;
                c.gate.parents = Parents::ALL[case / 3 % 2];
                c.train.balance = Balance::ALL[case % 5];
                c.level2.k_start = 2.0;
                case += 1;
                compare_interrupted(&c, at);
            }
        }
    }
    for gate in [GateKind::None, GateKind::Mul] {
        let mut c = settings(Activation::Relu, 40);
        c.model = ModelKind::Seed;
        c.gate.kind = gate;
        compare_interrupted(&c, 10);
    }
}

/// Compares twenty steps after an interruption at step `at` with those of an uninterrupted run.
fn compare_interrupted(c: &Config, at: u64) {
    let (mut whole, n) = trainer(c);
    for i in 0..at {
        step(&mut whole, &n, i);
    }
    let mut state = whole.state();
    let mut again = Trainer::restore(c, D, &mut state, Compute::new(Isa::default(), Par::Seq)).expect("its own state");
    assert!(state.0.is_empty(), "left over: {:?}", state.0.keys());
    assert_eq!(again.state(), whole.state(), "as restored at {at}: {c:?}");
    for i in at..at + 20 {
        assert_eq!(step(&mut again, &n, i), step(&mut whole, &n, i), "interrupted at {at}, step {i}: {c:?}");
    }
    assert_eq!(again.state(), whole.state(), "interrupted at {at}: {c:?}");
    assert_eq!(again.model(), whole.model(), "the models differ, interrupted at {at}: {c:?}");
}

#[test]
fn a_state_of_other_settings_is_refused() {
    let (t, _) = trainer(&settings(Activation::Topk, 40));
    let mut other = settings(Activation::Topk, 40);
    other.level2.latents += 1;
    assert!(Trainer::restore(&other, D, &mut t.state(), Compute::new(Isa::default(), Par::Seq)).is_err());
    for name in t.state().0.keys() {
        let mut state = t.state();
        state.0.remove(name);
        let same = settings(Activation::Topk, 40);
        assert!(
            Trainer::restore(&same, D, &mut state, Compute::new(Isa::default(), Par::Seq)).is_err(),
            "without {name}"
        );
    }
}

#[test]
fn a_step_that_is_not_finite_leaves_the_weights_alone() {
    let c = settings(Activation::Batchtopk, 40);
    let (mut t, n) = trainer(&c);
    step(&mut t, &n, 0);
    let before = t.state();
    let mut x = rows(BATCH, 3);
    x[17] = f32::NAN;
    let error = t.step(&x).expect_err("NaN in, error out").to_string();
    assert!(error.contains('1'), "names the step: {error}");
    for name in before.0.keys().filter(|k| k.starts_with("params") || k.starts_with("adam")) {
        assert_eq!(t.state().0[name], before.0[name], "{name}");
    }
}

#[test]
fn normalised_rows_have_the_mean_and_the_energy_that_they_should() {
    let x = rows(700, 4);
    for (centre, scale) in [(true, true), (true, false), (false, true), (false, false)] {
        let data = DataConfig { centre, scale, outlier: 0.0, ..DataConfig::default() };
        let n = Normalisation::measure(Isa::default(), &x, D, &data).expect("rows that vary");
        let mut y = x.clone();
        n.apply(&mut y);
        let mut mean = [0.0f64; D];
        y.chunks(D).for_each(|r| mean.iter_mut().zip(r).for_each(|(m, v)| *m += f64::from(*v) / 700.0));
        let energy: f64 = y.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 700.0;
        let around: f64 = energy - mean.iter().map(|m| m * m).sum::<f64>();
        if centre {
            assert!(mean.iter().all(|m| m.abs() < 1e-4), "{mean:?}");
        }
        if scale {
            assert!((energy - D as f64).abs() < 1e-3, "{energy}");
        } else {
            assert_eq!(n.scale, 1.0);
        }
        assert!((f64::from(n.variance) - around).abs() < 1e-3 * around, "{} and {around}", n.variance);
    }
}

#[test]
fn a_step_allocates_nothing_once_its_sizes_are_known() {
    // A flat model, two levels before and after the start of the gate, and with containment; AuxK acts in all of them.
    type Change = (&'static str, fn(&mut Config));
    let changes: [Change; 5] = [
        ("flat", |c| (c.level2.latents, c.level1.activation) = (0, Activation::Topk)),
        ("no gate", |_| {}),
        ("hard gate", |c| (c.gate.kind, c.gate.parents, c.gate.start) = (GateKind::Hard, Parents::Random, 0.0)),
        ("a gate that starts", |c| (c.gate.kind, c.gate.start) = (GateKind::Hard, 0.25)),
        ("containment", |c| {
            (c.gate.kind, c.gate.parents, c.gate.start) = (GateKind::Hard, Parents::Random, 0.0);
            (c.loss.consistency, c.loss.consistency_weight) = (Consistency::Contain, 1e-2);
        }),
    ];
    for (name, change) in changes {
        let mut c = settings(Activation::Batchtopk, 160);
        (c.level1.latents, c.level2.latents) = (80, 160);
        c.gate.reassign_every = 0;
        c.revive.dead_after = 2 * BATCH as u64;
        c.loss.aux = 1.0;
        // The weights hardly move, so that the same latents fire each time a batch is repeated.
        c.train.lr = 1e-6;
        change(&mut c);
        let (mut t, n) = trainer(&c);
        let mut batches: Vec<Vec<f32>> = (0..4).map(|i| rows(BATCH, 100 + i)).collect();
        batches.iter_mut().for_each(|x| n.apply(x));
        let mut lit = false;
        for step in 0..160 {
            let x = &batches[step % 4];
            let mut report = None;
            let n = allocations(|| report = Some(t.step(x)));
            let report = report.expect("a step").expect("a finite step");
            lit |= report.losses.aux.iter().sum::<f64>() > 0.0;
            if step >= 120 {
                assert_eq!(n, 0, "{name}, step {step}");
            }
        }
        assert!(lit, "{name}: AuxK never acted");
    }
}

/// Norms of the rows of a tensor of a state.
fn row_norms(t: &Trainer, name: &str) -> Vec<f64> {
    let state = t.state();
    let Some(strata_core::train::Array::F32(w)) = state.0.get(name) else { panic!("{name} is not in the state") };
    w.chunks(D).map(|row| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()).collect()
}

#[test]
fn free_rows_turn_faster_the_smaller_they_start_and_slow_down() {
    let settings = |row_norm: f64, lr: f64| {
        let mut c = settings(Activation::Topk, 60);
        (c.train.row_norm, c.train.lr, c.train.warmup, c.train.clip) = (row_norm, lr, 0.0, 0.0);
        c
    };
    let decoder = |t: &Trainer| {
        let state = t.state();
        let Some(strata_core::train::Array::F32(w)) = state.0.get("params.level2.w_dec") else { panic!("no decoder") };
        w.to_vec()
    };
    // The first step is that of a learning rate higher by this factor.
    let (mut free, n) = trainer(&settings(0.1, 1e-3));
    let (mut fast, _) = trainer(&settings(0.0, 1e-2));
    let (mut slow, _) = trainer(&settings(0.0, 1e-3));
    for t in [&mut free, &mut fast, &mut slow] {
        step(t, &n, 0);
    }
    let (free_rows, fast_rows, slow_rows) = (decoder(&free), decoder(&fast), decoder(&slow));
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart(&free_rows, &fast_rows) < 1e-5, "{}", apart(&free_rows, &fast_rows));
    assert!(apart(&free_rows, &slow_rows) > 5e-3, "{}", apart(&free_rows, &slow_rows));
    // An unconstrained row grows as it turns; `n` is the norm that it would have. The rows themselves keep norm 1.
    let norms = |t: &Trainer| {
        let state = t.state();
        let Some(strata_core::train::Array::F32(n)) = state.0.get("adam.norm.2") else { panic!("no norms") };
        n.to_vec()
    };
    let before = norms(&free);
    for i in 1..60 {
        step(&mut free, &n, i);
    }
    let after = norms(&free);
    assert!(after.iter().sum::<f32>() > 1.05 * before.iter().sum::<f32>(), "{before:?} {after:?}");
    for name in ["params.level1.w_dec", "params.level2.w_dec"] {
        assert!(row_norms(&free, name).iter().all(|n| (n - 1.0).abs() < 1e-5), "{name}");
    }
    assert!(!slow.state().0.contains_key("adam.norm.2"));
}

#[test]
fn encoder_rows_start_at_the_norm_they_are_given() {
    for norm in [1.0, 0.25] {
        let mut c = settings(Activation::Topk, 10);
        c.train.encoder_norm = norm;
        let (t, _) = trainer(&c);
        for (name, wanted) in [
            ("params.level1.w_enc", norm),
            ("params.level2.w_enc", norm),
            ("params.level1.w_dec", 1.0),
            ("params.level2.w_dec", 1.0),
        ] {
            assert!(row_norms(&t, name).iter().all(|n| (n - wanted).abs() < 1e-5), "{name} of norm {wanted}");
        }
    }
}
