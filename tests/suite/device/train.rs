//! Training on a device: the state of the CPU, bit for bit, after every step.

use std::sync::atomic::Ordering;
use strata_core::config::{Activation, Balance, Budget, Config, Consistency, Decoder, GateKind, Source};
use strata_core::normalise::Normalisation;
use strata_core::rows::{Dtype, Rows};
use strata_core::train::{Array, State, Trainer};
use strata_core::{Compute, Device, Error, Isa, Par, Philox};
use strata_tests::emulator::{Flaw, ORDERS, counted, device, flawed, limited};

/// Rows with structure: a few directions each, and noise. Some are there three times, so that cuts fall between equal values.
pub struct World {
    base: Vec<f32>,
    d: usize,
    n: usize,
    rng: Philox,
}

impl World {
    pub fn new(n: usize, d: usize) -> Self {
        let mut rng = Philox::new(11, 5);
        Self { base: (0..40 * d).map(|_| rng.normal_f32()).collect(), d, n, rng }
    }

    pub fn batch(&mut self) -> Vec<f32> {
        let (d, n) = (self.d, self.n);
        let mut x = Vec::new();
        for _ in 0..n {
            let (a, b) = (self.rng.below(40) as usize, self.rng.below(40) as usize);
            x.extend((0..d).map(|c| self.base[a * d + c] + 0.7 * self.base[b * d + c] + 0.1 * self.rng.normal_f32()));
        }
        x.copy_within(0..n / 3 * d, n / 3 * d);
        x.copy_within(0..n / 3 * d, n / 3 * 2 * d);
        x
    }
}

/// The settings of the demo, made small: late gating, families that change, latents that die soon and are set anew.
pub fn demo(latents: [usize; 2], k: [f64; 2], steps: u64) -> Config {
    let mut config = Config { seed: 3, ..Config::default() };
    config.loss.consistency = Consistency::Contain;
    config.loss.consistency_weight = 0.05;
    (config.level1.latents, config.level2.latents) = (latents[0], latents[1]);
    (config.level1.k, config.level2.k) = (k[0], k[1]);
    config.train.steps = steps;
    config.train.clip = 0.5;
    config.gate.start = 0.4;
    config.gate.min_count = 3.0;
    config.gate.reassign_every = 3;
    config.revive.dead_after = 500;
    config
}

pub fn trainer(config: &Config, world: &mut World) -> Trainer {
    let compute = Compute::new(Isa::detect(), Par::Seq);
    let sample = world.batch();
    let normalisation = Normalisation::measure(compute.isa, &sample, world.d, &config.data).expect("rows that vary");
    let mut rows = sample.clone();
    normalisation.apply(&mut rows);
    Trainer::new(config, normalisation, &rows, compute).expect("valid settings")
}

/// Asserts that two states are the same, and names the first tensor and place that differ.
#[track_caller]
pub fn assert_same(what: &str, found: &State, wanted: &State) {
    assert_eq!(found.0.keys().collect::<Vec<_>>(), wanted.0.keys().collect::<Vec<_>>(), "{what}");
    for (name, wanted) in &wanted.0 {
        match (&found.0[name], wanted) {
            (Array::F32(a), Array::F32(b)) => {
                let differs = (0..b.len()).find(|i| a[*i].to_bits() != b[*i].to_bits());
                assert!(
                    differs.is_none(),
                    "{what}: {name}[{}] of {}: {:?} and {:?}",
                    differs.unwrap_or(0),
                    b.len(),
                    a.get(differs.unwrap_or(0)),
                    b.get(differs.unwrap_or(0))
                );
            }
            (a, b) => assert_eq!(a, b, "{what}: {name}"),
        }
    }
}

/// What the steps of a comparison have met, so that it does not compare nothing.
#[derive(Debug, Default)]
struct Met {
    dead: [usize; 2],
    moved: usize,
    aux: [f64; 2],
    sparsity: [f64; 2],
    gated: [f64; 2],
    consistency: f64,
}

/// Takes `steps` steps on the CPU and on a device, and compares reports and states after each.
fn compare(config: &Config, n: usize, d: usize, steps: u64, device: &Device) -> Met {
    let (mut cpu, mut gpu) = (trainer(config, &mut World::new(n, d)), trainer(config, &mut World::new(n, d)));
    gpu = gpu.on(device).expect("settings for devices");
    let mut world = World::new(n, d);
    world.batch();
    let mut met = Met::default();
    for step in 0..steps {
        let mut x = world.batch();
        cpu.normalisation().apply(&mut x);
        let want = cpu.step(&x).expect("finite rows");
        let found = gpu.step(&x).unwrap_or_else(|why| panic!("step {step}: {why}"));
        assert_eq!(found, want, "the report of step {step}");
        gpu.fetch().expect("weights");
        assert_same(&format!("after step {step}"), &gpu.state(), &cpu.state());
        for l in 0..2 {
            met.dead[l] += want.dead[l];
            met.aux[l] += want.losses.aux[l];
            met.sparsity[l] += want.losses.sparsity[l];
            met.gated[l] += want.losses.gated[l];
        }
        met.moved += want.moved[1];
        met.consistency += want.losses.consistency;
    }
    met
}

#[test]
fn thirty_steps_of_the_demo_have_the_state_of_the_cpu_after_each() {
    for order in ORDERS {
        let config = demo([24, 90], [3.0, 5.0], 30);
        let met = compare(&config, 60, 24, 30, &device(order));
        assert!(met.aux[0] + met.aux[1] > 0.0, "AuxK has acted: {met:?}");
        assert!(met.consistency > 0.0, "children fired without their parents: {met:?}");
        assert!(met.moved > 0, "dead children were set anew: {met:?}");
    }
}

#[test]
fn rows_that_step_as_if_they_were_free_have_the_state_of_the_cpu() {
    for (order, row_norm) in [(0, 0.1), (77, 2.0)] {
        let mut config = demo([24, 90], [3.0, 5.0], 30);
        (config.train.row_norm, config.train.encoder_norm) = (row_norm, 0.3);
        let met = compare(&config, 60, 24, 30, &device(order));
        assert!(met.moved > 0, "dead children were set anew, with the norm of the start: {met:?}");
    }
}

#[test]
fn flat_steps_have_the_state_of_the_cpu() {
    for (activation, d, f) in
        [(Activation::Topk, 72, 130), (Activation::Batchtopk, 33, 70), (Activation::Batchtopk, 128, 65)]
    {
        let mut config = demo([f, 0], [5.0, 1.0], 8);
        config.level1.activation = activation;
        config.level1.anneal = 0.0;
        (config.gate.kind, config.loss.consistency) = (GateKind::None, Consistency::None);
        compare(&config, 70, d, 8, &device(1));
    }
}

#[test]
fn screened_steps_have_the_state_of_the_cpu() {
    for (activation, latents, order) in
        [(Activation::Topk, [520, 0], 77), (Activation::Batchtopk, [30, 600], 0), (Activation::Topk, [513, 530], 1)]
    {
        let mut config = demo(latents, [6.0, 5.0], 6);
        (config.level1.activation, config.level2.activation) = (activation, activation);
        if latents[1] == 0 {
            (config.gate.kind, config.loss.consistency) = (GateKind::None, Consistency::None);
        }
        compare(&config, 66, 100, 6, &device(order));
    }
}

#[test]
fn decoders_and_balances_have_the_state_of_the_cpu() {
    for (decoder, balance, kind) in [
        (Decoder::Ind, Balance::Sum, GateKind::Hard),
        (Decoder::Cum, Balance::Own, GateKind::None),
        (Decoder::Cum, Balance::Norm, GateKind::Hard),
        (Decoder::Cum, Balance::Uncert, GateKind::None),
    ] {
        let mut config = demo([20, 60], [3.0, 4.0], 12);
        (config.decoder, config.train.balance, config.gate.kind) = (decoder, balance, kind);
        if kind == GateKind::None {
            config.loss.consistency = Consistency::None;
        }
        (config.level1.activation, config.level2.activation) = (Activation::Topk, Activation::Batchtopk);
        compare(&config, 50, 20, 12, &device(0));
    }
}

#[test]
fn activations_and_penalties_have_the_state_of_the_cpu() {
    use Activation::{Batchtopk, Gated, Jumprelu, Relu, Topk};
    let mut aux = 0.0;
    for (order, (one, two, consistency)) in [
        (Relu, Jumprelu, Consistency::None),
        (Jumprelu, Gated, Consistency::Contain),
        (Gated, Relu, Consistency::Contain),
        (Gated, Jumprelu, Consistency::None),
        (Topk, Batchtopk, Consistency::Contain),
    ]
    .into_iter()
    .enumerate()
    {
        let mut config = demo([24, 60], [3.0, 4.0], 12);
        (config.level1.activation, config.level2.activation) = (one, two);
        config.loss.consistency = consistency;
        config.revive.dead_after = 150;
        (config.gate.start, config.gate.root_below, config.loss.contain_margin) = (0.25, 0.0, 2.0);
        // Offsets of gated latents fall, so that some have a pre-activation above 0 and no value.
        config.train.lr = 0.05;
        // A weight that is felt, and a band that some pre-activations are in.
        (config.level1.lambda, config.level2.lambda) = (0.01, 0.02);
        (config.level1.bandwidth, config.level2.bandwidth) = (0.3, 0.2);
        if order == 1 {
            config.train.balance = Balance::Own;
        }
        let met = compare(&config, 50, 20, 12, &device(order as u32));
        assert!(met.sparsity[0] > 0.0 && met.sparsity[1] > 0.0, "{one} {two}: {met:?}");
        assert_eq!(met.gated[0] > 0.0, one == Gated, "{one} {two}: {met:?}");
        assert_eq!(met.gated[1] > 0.0, two == Gated, "{one} {two}: {met:?}");
        assert_eq!(met.consistency > 0.0, consistency == Consistency::Contain, "{one} {two}: {met:?}");
        aux += met.aux[0] + met.aux[1];
    }
    assert!(aux > 0.0, "AuxK has acted");
}

#[test]
fn screened_activations_have_the_state_of_the_cpu() {
    let mut config = demo([513, 530], [6.0, 5.0], 5);
    (config.level1.activation, config.level2.activation) = (Activation::Jumprelu, Activation::Relu);
    (config.level1.bandwidth, config.source) = (0.3, Source::Res);
    compare(&config, 66, 100, 5, &device(77));
}

#[test]
fn level_2_on_residuals_has_the_state_of_the_cpu() {
    for (decoder, detach, start, activation) in [
        (Decoder::Cum, false, 0.0, Activation::Batchtopk),
        (Decoder::Ind, false, 0.0, Activation::Jumprelu),
        (Decoder::Cum, true, 0.0, Activation::Topk),
        (Decoder::Cum, false, 0.5, Activation::Batchtopk),
    ] {
        let mut config = demo([20, 60], [3.0, 4.0], 12);
        (config.source, config.decoder, config.source_detach, config.source_start) =
            (Source::Res, decoder, detach, start);
        (config.level1.activation, config.level2.activation) = (activation, Activation::Batchtopk);
        compare(&config, 50, 20, 12, &device(1));
    }
}

#[test]
fn only_the_largest_children_have_the_state_of_the_cpu() {
    for (order, activation) in [Activation::Batchtopk, Activation::Topk, Activation::Jumprelu].into_iter().enumerate() {
        let mut config = demo([20, 60], [3.0, 4.0], 16);
        (config.gate.kind, config.level2.activation) = (GateKind::GroupTop1, activation);
        config.revive.dead_after = 150;
        if order == 0 {
            config.loss.consistency = Consistency::None;
        }
        let met = compare(&config, 50, 20, 16, &device(order as u32));
        assert!(met.aux[1] > 0.0, "dead children competed: {met:?}");
    }
}

#[test]
fn a_training_moves_between_cpu_and_device_and_back() {
    let mut config = demo([24, 80], [3.0, 4.0], 30);
    config.train.row_norm = 0.5;
    let (n, d) = (48, 20);
    let compute = Compute::new(Isa::detect(), Par::Seq);
    let rows = |step: u64, normalisation: &Normalisation| {
        let mut world = World::new(n, d);
        (0..=step).for_each(|_| drop(world.batch()));
        let mut x = world.batch();
        normalisation.apply(&mut x);
        x
    };
    // The state after 30 steps, of which those of `on` are taken on a device.
    let end = |on: &dyn Fn(u64) -> bool| {
        let mut t = trainer(&config, &mut World::new(n, d));
        for step in 0..30 {
            if step == 0 || on(step) != on(step - 1) {
                t.fetch().expect("weights");
                t = Trainer::restore(&config, d, &mut t.state(), compute).expect("its own state");
                if on(step) {
                    t = t.on(&device(0)).expect("settings for devices");
                }
            }
            t.step(&rows(step, &t.normalisation().clone())).expect("finite rows");
        }
        t.fetch().expect("weights");
        t.state()
    };
    let cpu = end(&|_| false);
    assert_same("device, then CPU", &end(&|step| step < 15), &cpu);
    assert_same("CPU, then device", &end(&|step| step >= 15), &cpu);
}

#[test]
fn what_is_not_finite_is_named_and_changes_nothing() {
    let config = demo([24, 80], [3.0, 4.0], 30);
    // The second is finite itself, but its square is not: the check of rows does not see it, the step does.
    for wrong in [f32::NAN, 1e25] {
        let mut world = World::new(48, 20);
        let mut t = trainer(&config, &mut world).on(&device(0)).expect("settings for devices");
        t.fetch().expect("weights");
        let before = t.state();
        let mut x = world.batch();
        x[7] = wrong;
        let why = t.step(&x).expect_err("a number that is not finite");
        let mut cpu = trainer(&config, &mut World::new(48, 20));
        assert_eq!(why, cpu.step(&x).expect_err("a number that is not finite"));
        t.fetch().expect("weights");
        let (mut found, mut before) = (t.state(), before);
        // The floors of the selection follow what was looked at.
        found.0.remove("thresholds");
        before.0.remove("thresholds");
        assert_same("after a failed step", &found, &before);
        // Nor has it changed what is on the device alone.
        let good = world.batch();
        assert_eq!(t.step(&good).expect("finite rows"), cpu.step(&good).expect("finite rows"));
        t.fetch().expect("weights");
        assert_same("after the next step", &t.state(), &cpu.state());
    }
}

#[test]
fn what_is_not_trained_on_devices_is_one_sentence() {
    let refused = |change: &dyn Fn(&mut Config), sentence: &str| {
        let mut config = demo([24, 80], [3.0, 4.0], 30);
        change(&mut config);
        let found = trainer(&config, &mut World::new(48, 20)).on(&device(0)).err();
        assert_eq!(found, Some(Error::Device { what: sentence.into() }));
    };
    refused(&|c| c.source = Source::Z1, "`source = \"z1\"` is not trained on a GPU yet: use the CPU");
    refused(
        &|c| c.loss.consistency = Consistency::Sibling,
        "`loss.consistency = \"sibling\"` is not trained on a GPU yet: use the CPU",
    );
    refused(&|c| c.decoder = Decoder::Comp, "`decoder = \"comp\"` is not trained on a GPU yet: use the CPU");
    refused(
        &|c| (c.gate.kind, c.loss.consistency) = (GateKind::Mul, Consistency::None),
        "`gate.kind = \"mul\"` is not trained on a GPU yet: use the CPU",
    );
    refused(
        &|c| c.train.balance = Balance::Pcgrad,
        "`train.balance = \"pcgrad\"` is not trained on a GPU yet: use the CPU",
    );
    refused(&|c| c.train.prune = 0.5, "`train.prune = 0.5` is not trained on a GPU yet: use the CPU");
    let config = demo([24, 80], [3.0, 4.0], 30);
    let found = trainer(&config, &mut World::new(48, 20)).on(&limited(0, 10_000)).err();
    let Some(Error::Device { what }) = found else { panic!("it does not fit: {found:?}") };
    assert!(what.starts_with("the GPU has 0.0 GiB free, this training needs"), "{what}");
}

#[test]
fn levels_that_share_a_budget_have_the_state_of_the_cpu() {
    // Several chunks of rows, which come before the levels in the order of ties.
    for (order, latents, n, d) in [(0, [24, 60], 150, 20), (1, [30, 90], 64, 33), (77, [520, 530], 66, 100)] {
        let mut config = demo(latents, [3.0, 4.0], 10);
        (config.budget, config.gate.kind, config.loss.consistency) =
            (Budget::Shared, GateKind::None, Consistency::None);
        (config.level1.activation, config.level2.activation) = (Activation::Batchtopk, Activation::Batchtopk);
        config.revive.dead_after = 150;
        let steps = if latents[0] > 500 { 4 } else { 10 };
        let met = compare(&config, n, d, steps, &device(order));
        assert!(steps < 10 || met.aux[0] + met.aux[1] > 0.0, "AuxK has acted: {met:?}");
    }
}

#[test]
fn ties_of_levels_that_share_a_budget_are_kept_in_the_order_of_the_cpu() {
    let (n, d, f) = (128, 20, 24);
    let mut config = demo([f, f], [3.0, 4.0 + 2.0 / n as f64], 3);
    (config.budget, config.gate.kind, config.loss.consistency) = (Budget::Shared, GateKind::None, Consistency::None);
    (config.level1.activation, config.level2.activation) = (Activation::Batchtopk, Activation::Batchtopk);
    (config.level1.anneal, config.level2.anneal, config.train.lr) = (0.0, 0.0, 0.0);
    let first = trainer(&config, &mut World::new(n, d));
    // The latents of both levels are the same, and so are the rows of both chunks of 64: every value is there four times, and the cut
    // falls between the second and the third of them.
    let mut start = first.state();
    for name in ["w_enc", "w_dec", "b_enc"] {
        let of1 = start.0[&format!("params.level1.{name}")].clone();
        start.0.insert(format!("params.level2.{name}"), of1);
    }
    let mut x = World::new(n, d).batch();
    first.normalisation().apply(&mut x);
    x.copy_within(..n / 2 * d, n / 2 * d);
    let restored =
        || Trainer::restore(&config, d, &mut start.clone(), Compute::new(Isa::detect(), Par::Seq)).expect("a state");
    for order in ORDERS {
        let (mut cpu, mut gpu) = (restored(), restored().on(&device(order)).expect("settings for devices"));
        assert_eq!(gpu.step(&x).expect("finite rows"), cpu.step(&x).expect("finite rows"));
        gpu.fetch().expect("weights");
        assert_same("after a step with ties", &gpu.state(), &cpu.state());
    }
}

#[test]
fn thresholds_stay_at_0_or_above() {
    let mut config = demo([24, 0], [3.0, 1.0], 12);
    config.level1.activation = Activation::Jumprelu;
    (config.level1.control, config.level1.bandwidth) = (false, 2.0);
    (config.gate.kind, config.loss.consistency) = (GateKind::None, Consistency::None);
    // So large a step that some thresholds would fall below 0.
    (config.train.lr, config.train.warmup) = (0.5, 0.0);
    compare(&config, 50, 20, 12, &device(0));
    let mut cpu = trainer(&config, &mut World::new(50, 20));
    let mut world = World::new(50, 20);
    let mut at_zero = 0;
    for _ in 0..12 {
        let mut x = world.batch();
        cpu.normalisation().apply(&mut x);
        cpu.step(&x).expect("finite rows");
        at_zero += cpu.model_unfolded().params.level[0].threshold.iter().filter(|t| **t == 0.0).count();
    }
    assert!(at_zero > 0, "a threshold was held at 0");
}

#[test]
fn raw_rows_are_normalised_on_the_device() {
    let (n, d) = (50, 20);
    let config = demo([24, 60], [3.0, 4.0], 8);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let mut cpu = trainer(&config, &mut World::new(n, d));
        let mut gpu = trainer(&config, &mut World::new(n, d)).on(&device(1)).expect("settings for devices");
        assert!(gpu.reads_raw() && !cpu.reads_raw(), "only a device reads raw rows");
        let mut world = World::new(n, d);
        for step in 0..8 {
            let mut bytes = Vec::new();
            dtype.narrow(&world.batch(), &mut bytes);
            let rows = Rows::new(&bytes, n, d, d * dtype.size_bytes(), dtype).expect("whole rows");
            let want = cpu.step_raw(rows).expect("finite rows");
            assert_eq!(gpu.step_raw(rows).expect("finite rows"), want, "{dtype}, step {step}");
            let mut x = vec![0.0; n * d];
            rows.widen(0..n, &mut x);
        }
        gpu.fetch().expect("weights");
        assert_same(&format!("rows of {dtype}"), &gpu.state(), &cpu.state());
    }
}

#[test]
fn the_host_waits_for_the_device_once_per_step() {
    use Activation::{Batchtopk, Gated, Jumprelu, Relu, Topk};
    for (one, two, latents, d) in [
        (Batchtopk, Batchtopk, [24, 60], 20),
        (Topk, Topk, [24, 60], 20),
        (Topk, Batchtopk, [514, 530], 100),
        (Relu, Jumprelu, [24, 60], 20),
        (Gated, Relu, [24, 60], 20),
    ] {
        let n_steps = if d == 100 { 12 } else { 40 };
        let mut config = demo(latents, [3.0, 4.0], n_steps as u64);
        (config.level1.activation, config.level2.activation) = (one, two);
        // Families are assigned when the gate starts, and then stay.
        (config.gate.start, config.gate.reassign_every) = (0.25, 0);
        let (device, waits) = counted(0);
        let mut t = trainer(&config, &mut World::new(60, d)).on(&device).expect("settings for devices");
        let mut world = World::new(60, d);
        let mut steps = Vec::new();
        for _ in 0..n_steps {
            let mut x = world.batch();
            t.normalisation().apply(&mut x);
            waits.store(0, Ordering::Relaxed);
            t.step(&x).expect("finite rows");
            steps.push(waits.load(Ordering::Relaxed));
        }
        // Room for lists is made in the first steps, and where the gate or AuxK starts.
        let once = steps.iter().filter(|waits| **waits == 1).count();
        let late = &steps[n_steps * 3 / 4..];
        assert!(once > n_steps / 2 && late.iter().all(|waits| *waits <= 2), "{one} {two}: {steps:?}");
        assert!(late.contains(&1), "{one} {two}: {steps:?}");
    }
}

#[test]
fn a_planted_difference_is_found_where_it_is() {
    let (config, mut world) = (demo([24, 60], [3.0, 4.0], 8), World::new(50, 20));
    // The seven tensors are updated one after the other: in the third step, the encoder of level 2.
    let flaw = Flaw { kernel: "adam_rows", after: 2 * 7 + 4, counts: 2, arg: 8, index: 13 };
    let mut cpu = trainer(&config, &mut World::new(50, 20));
    let mut gpu = trainer(&config, &mut World::new(50, 20)).on(&flawed(flaw)).expect("settings for devices");
    for step in 0..3 {
        let mut x = world.batch();
        cpu.normalisation().apply(&mut x);
        assert_eq!(gpu.step(&x).expect("finite rows"), cpu.step(&x).expect("finite rows"), "step {step}");
        gpu.fetch().expect("weights");
        let found = gpu.state().difference(&cpu.state());
        assert_eq!(found.is_some(), step == 2, "step {step}: {found:?}");
        if let Some(found) = found {
            assert_eq!((found.name.as_str(), found.index), ("params.level2.w_enc", 13));
            let [a, b] = found.words.map(|word| word.expect("a number"));
            assert_eq!(a ^ b, 1, "the bit that was changed");
        }
    }
}

#[test]
fn counts_that_are_full_or_fade_are_those_of_the_cpu() {
    let mut config = demo([24, 40], [3.0, 4.0], 60);
    (config.gate.decay, config.gate.start, config.gate.reassign_every) = (0.8, 0.5, 4);
    let (n, d) = (70, 20);
    let compute = Compute::new(Isa::detect(), Par::Seq);
    let mut start = trainer(&config, &mut World::new(n, d));
    let mut world = World::new(n, d);
    let mut next = |t: &Trainer| {
        let mut x = world.batch();
        t.normalisation().apply(&mut x);
        x
    };
    for _ in 0..2 {
        start.step(&next(&start)).expect("finite rows");
    }
    // Samples that are full or nearly so, of every shift and rounding, with tokens before the next one.
    let mut state = start.state();
    let Some(Array::U16(both)) = state.0.get("cofire.both") else { panic!("no counts: {:?}", state.0.keys()) };
    let mut both = both.to_vec();
    let mut rng = Philox::new(3, 3);
    for (j, row) in both.chunks_mut(4 + 24).enumerate() {
        let shift = (j % 5) as u16;
        (row[0], row[1], row[2]) = (65_535 - 20 * (j % 3) as u16, shift | ((j % 2) as u16) << 15, (1 << shift) - 1);
        row[4..].iter_mut().for_each(|count| *count = rng.below(60_000) as u16);
    }
    state.0.insert("cofire.both".into(), Array::U16(std::sync::Arc::new(both)));
    // Weights of the sums that are soon large, so that all sums are scaled.
    if let Some(Array::F64(tokens)) = state.0.get_mut("cofire.tokens") {
        tokens[1] = 9e5;
    }
    let mut cpu = Trainer::restore(&config, d, &mut state.clone(), compute).expect("its own state");
    let gpu = Trainer::restore(&config, d, &mut state, compute).expect("its own state");
    let mut gpu = gpu.on(&device(77)).expect("settings for devices");
    for step in 0..40 {
        let x = next(&cpu);
        let want = cpu.step(&x).expect("finite rows");
        assert_eq!(gpu.step(&x).expect("finite rows"), want, "the report of step {step}");
        if step % 3 == 0 || step > 30 {
            gpu.fetch().expect("weights");
            assert_same(&format!("after step {step}"), &gpu.state(), &cpu.state());
        }
    }
}
