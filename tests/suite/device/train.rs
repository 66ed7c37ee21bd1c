//! Training on a device: the state of the CPU, bit for bit, after every step.

use strata_core::config::{Activation, Balance, Config, Decoder, GateKind};
use strata_core::normalise::Normalisation;
use strata_core::train::{Array, State, Trainer};
use strata_core::{Compute, Device, Error, Isa, Par, Philox};
use strata_tests::emulator::{ORDERS, device, limited};

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
fn assert_same(what: &str, found: &State, wanted: &State) {
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

/// Takes `steps` steps on the CPU and on a device, and compares reports and states after each.
fn compare(config: &Config, n: usize, d: usize, steps: u64, device: &Device) -> [usize; 2] {
    let (mut cpu, mut gpu) = (trainer(config, &mut World::new(n, d)), trainer(config, &mut World::new(n, d)));
    gpu = gpu.on(device).expect("settings for devices");
    let mut world = World::new(n, d);
    world.batch();
    let (mut dead, mut moved) = (0, 0);
    for step in 0..steps {
        let mut x = world.batch();
        cpu.normalisation().apply(&mut x);
        let want = cpu.step(&x).expect("finite rows");
        let found = gpu.step(&x).unwrap_or_else(|why| panic!("step {step}: {why}"));
        assert_eq!(found, want, "the report of step {step}");
        gpu.fetch().expect("weights");
        assert_same(&format!("after step {step}"), &gpu.state(), &cpu.state());
        dead += want.dead[0] + want.dead[1];
        moved += want.moved[1];
    }
    [dead, moved]
}

#[test]
fn thirty_steps_of_the_demo_have_the_state_of_the_cpu_after_each() {
    for order in ORDERS {
        let config = demo([24, 90], [3.0, 5.0], 30);
        let [dead, moved] = compare(&config, 60, 24, 30, &device(order));
        assert!(dead > 0, "latents were dead, so that AuxK has acted");
        assert!(moved > 0 || order != 0, "dead children were set anew");
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
        config.gate.kind = GateKind::None;
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
            config.gate.kind = GateKind::None;
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
        (config.level1.activation, config.level2.activation) = (Activation::Topk, Activation::Batchtopk);
        compare(&config, 50, 20, 12, &device(0));
    }
}

#[test]
fn a_training_moves_between_cpu_and_device_and_back() {
    let config = demo([24, 80], [3.0, 4.0], 30);
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
    let mut world = World::new(48, 20);
    let mut t = trainer(&config, &mut world).on(&device(0)).expect("settings for devices");
    t.fetch().expect("weights");
    let before = t.state();
    let mut x = world.batch();
    x[7] = f32::NAN;
    let why = t.step(&x).expect_err("a number that is not finite");
    let mut cpu = trainer(&config, &mut World::new(48, 20));
    assert_eq!(why, cpu.step(&x).expect_err("a number that is not finite"));
    t.fetch().expect("weights");
    let (mut found, mut before) = (t.state(), before);
    // The floors of the selection follow what was looked at.
    found.0.remove("thresholds");
    before.0.remove("thresholds");
    assert_same("after a failed step", &found, &before);
}

#[test]
fn what_is_not_trained_on_devices_is_one_sentence() {
    let refused = |change: &dyn Fn(&mut Config), sentence: &str| {
        let mut config = demo([24, 80], [3.0, 4.0], 30);
        change(&mut config);
        let found = trainer(&config, &mut World::new(48, 20)).on(&device(0)).err();
        assert_eq!(found, Some(Error::Device { what: sentence.into() }));
    };
    refused(
        &|c| c.level2.activation = Activation::Relu,
        "`level2.activation = \"relu\"` is not trained on a GPU yet: use the CPU",
    );
    refused(
        &|c| c.source = strata_core::config::Source::Res,
        "`source = \"res\"` is not trained on a GPU yet: use the CPU",
    );
    refused(&|c| c.decoder = Decoder::Comp, "`decoder = \"comp\"` is not trained on a GPU yet: use the CPU");
    refused(&|c| c.gate.kind = GateKind::Mul, "`gate.kind = \"mul\"` is not trained on a GPU yet: use the CPU");
    refused(
        &|c| c.train.balance = Balance::Pcgrad,
        "`train.balance = \"pcgrad\"` is not trained on a GPU yet: use the CPU",
    );
    refused(&|c| c.train.row_norm = 0.1, "`train.row_norm = 0.1` is not trained on a GPU yet: use the CPU");
    let config = demo([24, 80], [3.0, 4.0], 30);
    let found = trainer(&config, &mut World::new(48, 20)).on(&limited(0, 10_000)).err();
    let Some(Error::Device { what }) = found else { panic!("it does not fit: {found:?}") };
    assert!(what.starts_with("the GPU has 0.0 GiB free, this training needs"), "{what}");
}
