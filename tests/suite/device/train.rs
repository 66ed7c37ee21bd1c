//! Training on a device: the state of the CPU, bit for bit, after every step.

use strata_core::config::{Activation, Balance, Budget, Config, Consistency, Decoder, GateKind, Source};
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
    refused(&|c| c.source = Source::Z1, "`source = \"z1\"` is not trained on a GPU yet: use the CPU");
    refused(
        &|c| c.loss.consistency = Consistency::Sibling,
        "`loss.consistency = \"sibling\"` is not trained on a GPU yet: use the CPU",
    );
    refused(
        &|c| {
            (c.budget, c.gate.kind, c.loss.consistency) = (Budget::Shared, GateKind::None, Consistency::None);
        },
        "`budget = \"shared\"` is not trained on a GPU yet: use the CPU",
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
    refused(&|c| c.train.row_norm = 0.1, "`train.row_norm = 0.1` is not trained on a GPU yet: use the CPU");
    let config = demo([24, 80], [3.0, 4.0], 30);
    let found = trainer(&config, &mut World::new(48, 20)).on(&limited(0, 10_000)).err();
    let Some(Error::Device { what }) = found else { panic!("it does not fit: {found:?}") };
    assert!(what.starts_with("the GPU has 0.0 GiB free, this training needs"), "{what}");
}
