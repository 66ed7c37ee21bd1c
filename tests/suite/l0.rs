//! L0 is what was asked for: the controller, the limits that are set after the last step, and whole trainings.

use std::sync::{Arc, OnceLock};

use strata_core::config::{Activation, Budget, Config, Decoder, GateKind, Source};
use strata_core::model::{Codes, Encoder, Model};
use strata_core::normalise::Normalisation;
use strata_core::synth::{World, WorldConfig};
use strata_core::train::{L0Control, Trainer};
use strata_core::{Compute, Isa, Par, Philox};
use tempfile::TempDir;

use super::cli::{D, args, read_json, rows, strata, train_args, write_dump};

/// Kinds of rows.
#[derive(Clone, Copy, Debug)]
enum Rows {
    /// World A: trees of features.
    Trees,
    /// World A, each row times a log-normal factor, over a mean that is larger than the rows.
    HeavyTails,
    /// Sixty-four directions without a hierarchy, 8 % of them on, with an offset.
    Flat,
}

/// World A, which takes long to make.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| World::new(&WorldConfig::a()).expect("world A"))
}

/// Held-out rows, and rows by which the limits are set.
const TEST_ROWS: usize = 16_000;

impl Rows {
    const ALL: [Self; 3] = [Self::Trees, Self::HeavyTails, Self::Flat];

    /// Width of a row.
    fn d(self) -> usize {
        match self {
            Self::Trees | Self::HeavyTails => WorldConfig::a().d,
            Self::Flat => 32,
        }
    }

    /// Rows `start..start + n`.
    fn rows(self, start: u64, n: usize) -> Vec<f32> {
        let d = self.d();
        let mut x = vec![0.0; n * d];
        let mut rng = Philox::new(start + 1, 5);
        match self {
            Self::Trees | Self::HeavyTails => {
                world().sample(start, n, &mut x, None);
            }
            Self::Flat => {
                let mut directions = Philox::new(1, 6);
                let directions: Vec<f32> = (0..64 * d).map(|_| directions.normal_f32()).collect();
                for row in x.chunks_mut(d) {
                    row.iter_mut().for_each(|v| *v = 1.0 + 0.05 * rng.normal_f32());
                    for direction in directions.chunks(d) {
                        let z = if rng.uniform_f32() < 0.08 { rng.normal_f32().abs() } else { 0.0 };
                        row.iter_mut().zip(direction).for_each(|(v, w)| *v += z * w);
                    }
                }
            }
        }
        if let Self::HeavyTails = self {
            for row in x.chunks_mut(d) {
                let scale = (0.7 * rng.normal_f32()).exp();
                row.iter_mut().enumerate().for_each(|(c, v)| *v = *v * scale + 5.0 * ((c % 5) as f32 - 1.0));
            }
        }
        x
    }
}

/// Both levels of one activation. Budgets that are no whole numbers.
fn settings(activation: Activation, steps: u64) -> Config {
    let mut config = Config { seed: 1, ..Config::default() };
    (config.level1.latents, config.level2.latents) = (40, 120);
    (config.level1.k, config.level2.k) = (3.2, 2.4);
    (config.level1.activation, config.level2.activation) = (activation, activation);
    (config.train.steps, config.train.batch, config.train.lr, config.train.warmup) = (steps, 128, 3e-3, 0.1);
    config.revive.dead_after = 200 * 128;
    config
}

/// A trainer, and `n` normalised rows on which its training leaves none out.
fn trainer(kind: Rows, config: &Config) -> Trainer {
    let sample = kind.rows(0, 2048);
    let n = Normalisation::measure(Isa::detect(), &sample, kind.d(), &config.data).expect("rows that vary");
    let first = kept(kind, &n, 0, 256);
    Trainer::new(config, n, &first, Compute::new(Isa::detect(), Par::Rayon)).expect("a valid configuration")
}

fn kept(kind: Rows, by: &Normalisation, start: u64, n: usize) -> Vec<f32> {
    let all = kind.rows(start, n);
    let mut x: Vec<f32> = all.chunks(kind.d()).filter(|r| by.keeps(Isa::detect(), r)).flatten().copied().collect();
    by.apply(&mut x);
    x
}

fn train(kind: Rows, config: &Config) -> Trainer {
    let mut t = trainer(kind, config);
    let batch = config.train.batch;
    for step in 0..config.train.steps {
        let x = kept(kind, t.normalisation(), 2048 + step * batch as u64, batch);
        t.step(&x).expect("a finite step");
    }
    t
}

fn codes(model: Model, x: &[f32]) -> [Codes; 2] {
    let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::detect(), Par::Rayon)).expect("a valid model");
    let (mut one, mut two) = (Codes::new(), Codes::new());
    encoder.encode_par(Par::Rayon, x, &mut one, &mut two).expect("finite rows");
    [one, two]
}

/// L0 of both levels over asked, on normalised rows.
fn ratio(t: &Trainer, x: &[f32]) -> [f64; 2] {
    let model = t.model_unfolded();
    let (d, k) = (model.arch.d, model.arch.level.map(|l| l.k));
    let codes = codes(model, x);
    [0, 1].map(|l| codes[l].index.len() as f64 / (x.len() / d) as f64 / k[l])
}

/// Trains for 1,000 steps on each kind of rows, and looks at rows that the training has not seen.
fn is_what_was_asked_for(activation: Activation) {
    for kind in Rows::ALL {
        let mut t = train(kind, &settings(activation, 1000));
        let test = kept(kind, t.normalisation(), 1 << 40, TEST_ROWS);
        let trained = ratio(&t, &test);
        let more = kept(kind, t.normalisation(), 1 << 41, TEST_ROWS);
        t.calibrate(&more).expect("rows of the model");
        let set = ratio(&t, &test);
        println!("{activation}, {kind:?}: {trained:.3?} of what was asked for, then {set:.3?}");
        assert!(trained.iter().all(|r| (r - 1.0).abs() < 0.15), "{activation}, {kind:?}, by training: {trained:?}");
        assert!(set.iter().all(|r| (r - 1.0).abs() < 0.03), "{activation}, {kind:?}, at the end: {set:?}");
    }
}

#[test]
fn l0_of_jumprelu_is_what_was_asked_for_after_1000_steps() {
    is_what_was_asked_for(Activation::Jumprelu);
}

#[test]
fn l0_of_gated_is_what_was_asked_for_after_1000_steps() {
    is_what_was_asked_for(Activation::Gated);
}

#[test]
fn l0_of_relu_is_what_was_asked_for_after_1000_steps() {
    is_what_was_asked_for(Activation::Relu);
}

/// `ln L0 = 3 - limit / unit`, where the gradient lowers the limit by up to the learning rate while `lambda` is below
/// `best`, and raises it above: the errors of L0 and `lambda` step by step.
fn plant(start: f64, best: f64, steps: usize) -> Vec<(f64, f64)> {
    let (target, lr, unit) = (5.0f64, 3e-3, 2.0);
    let mut control = L0Control::new(start);
    control.see(&[unit as f32]);
    let mut limit = 0.0f64;
    (0..steps)
        .map(|_| {
            let l0 = (3.0 - limit / unit).exp();
            limit += control.update(l0, target, lr, false) * unit;
            limit += lr * (control.lambda / best).ln().tanh();
            ((l0 / target).ln(), control.lambda)
        })
        .collect()
}

#[test]
fn the_controller_holds_l0_wherever_lambda_is_and_lambda_comes_back_from_its_ends() {
    for (start, best) in [(1e-6, 1e-2), (10.0, 1e-2), (1e-3, 1e-6), (1e-3, 1e-3)] {
        let seen = plant(start, best, 2000);
        // The start takes some steps; from then on L0 is held, to within `lr / (eta unit)` while `lambda` is far off.
        for (step, (error, _)) in seen.iter().enumerate().skip(250) {
            assert!(error.abs() < 0.1, "lambda from {start}: error {error} at step {step}");
        }
        let last = seen[1999];
        assert!((last.1 / best).ln().abs() < 0.1 && last.0.abs() < 5e-3, "from {start} to {best}: {last:?}");
        // Nothing swings: once there, `lambda` stays.
        let apart = seen[1200..].iter().map(|(_, lambda)| (lambda / best).ln().abs()).fold(0.0, f64::max);
        assert!(apart < 0.3, "lambda from {start} is {apart} from {best} again");
    }
}

#[test]
fn a_held_controller_still_holds_l0_and_leaves_lambda() {
    let mut control = L0Control::new(0.01);
    assert!(control.update(50.0, 5.0, 1e-3, true) > 0.0, "too many fire: limits rise");
    assert!(control.update(0.0, 5.0, 1e-3, true) < 0.0, "none fires: limits fall");
    assert_eq!(control.lambda, 0.01);
    assert_eq!(control.update(5.0, 5.0, 1e-3, true), 0.0);
}

/// Mean squared error of level 2 over the variance, on normalised rows.
fn fvu(model: Model, x: &[f32]) -> f64 {
    let d = model.arch.d;
    let [one, two] = codes(model.clone(), x);
    let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::detect(), Par::Rayon)).expect("a valid model");
    let (mut hat1, mut hat2) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    encoder.decode(&one, &two, &mut hat1, &mut hat2).expect("codes of the model");
    let mean: Vec<f64> =
        (0..d).map(|c| x.chunks(d).map(|row| f64::from(row[c])).sum::<f64>() / (x.len() / d) as f64).collect();
    let square = |a: f32, b: f64| (f64::from(a) - b).powi(2);
    let error: f64 = x.iter().zip(&hat2).map(|(x, y)| square(*x, f64::from(*y))).sum();
    let variance: f64 = x.chunks(d).flat_map(|row| row.iter().zip(&mean)).map(|(x, m)| square(*x, *m)).sum();
    error / variance
}

#[test]
fn a_pruned_level_fires_as_often_as_was_asked_and_leaves_less_unexplained() {
    for activation in [Activation::Batchtopk, Activation::Jumprelu] {
        let config = settings(activation, 400);
        let mut pruned = config.clone();
        (pruned.level1.prune, pruned.level2.prune) = (1.0, 1.0);
        let found = [config, pruned].map(|config| {
            let mut t = train(Rows::Trees, &config);
            let x = kept(Rows::Trees, t.normalisation(), 1 << 40, TEST_ROWS);
            t.calibrate(&kept(Rows::Trees, t.normalisation(), 1 << 41, TEST_ROWS)).expect("rows of the model");
            let found = ratio(&t, &x);
            assert!(found.iter().all(|r| (r - 1.0).abs() < 0.03), "{activation}: {found:?}");
            fvu(t.model_unfolded(), &x)
        });
        println!("{activation}: FVU {found:.4?} without and with pruning");
        // The weights are the same: pruning takes part in nothing but the thresholds.
        assert!(found[1] < 0.99 * found[0], "{activation}: {found:?}");
    }
}

#[test]
fn levels_that_share_a_budget_are_pruned_by_one_threshold() {
    let mut config = settings(Activation::Batchtopk, 100);
    (config.budget, config.gate.kind) = (Budget::Shared, GateKind::None);
    (config.level1.prune, config.level2.prune) = (1.0, 0.5);
    let mut t = train(Rows::Trees, &config);
    let x = kept(Rows::Trees, t.normalisation(), 1 << 40, 3000);
    t.calibrate(&x).expect("rows of the model");
    let model = t.model_unfolded();
    assert_eq!(model.tau[0], model.tau[1], "one threshold");
    let fired: usize = codes(model, &x).iter().map(|codes| codes.index.len()).sum();
    let asked = (config.level1.k + config.level2.k) * (x.len() / Rows::Trees.d()) as f64;
    assert!((fired as f64 / asked - 1.0).abs() < 0.01, "{fired} of {asked}");
}

#[test]
fn limits_are_set_for_every_gate_source_and_decoder() {
    type Change = (&'static str, fn(&mut Config));
    let changes: [Change; 7] = [
        ("no gate", |c| c.gate.kind = GateKind::None),
        ("a hard gate, all children free", |c| (c.gate.kind, c.gate.start) = (GateKind::Hard, 0.5)),
        ("mul", |c| c.gate.kind = GateKind::Mul),
        ("add", |c| c.gate.kind = GateKind::Add),
        ("residual", |c| (c.gate.kind, c.source, c.source_start) = (GateKind::None, Source::Res, 0.0)),
        ("composed", |c| (c.gate.kind, c.source, c.decoder) = (GateKind::None, Source::Z1, Decoder::Comp)),
        ("flat", |c| c.level2.latents = 0),
    ];
    for activation in [Activation::Relu, Activation::Jumprelu, Activation::Gated] {
        for (name, change) in changes {
            // So short that nothing has come near its target.
            let mut config = settings(activation, 20);
            change(&mut config);
            let mut t = train(Rows::Trees, &config);
            let x = kept(Rows::Trees, t.normalisation(), 1 << 40, 3000);
            let before = t.state();
            t.calibrate(&[]).expect("no rows");
            assert_eq!(before, t.state(), "{activation}, {name}: nothing to go by changes nothing");
            t.calibrate(&x).expect("rows of the model");
            let found = ratio(&t, &x);
            let levels = if config.level2.latents > 0 { 2 } else { 1 };
            // To within a hundredth, which is what one count more or less can hide.
            assert!(found[..levels].iter().all(|r| (r - 1.0).abs() < 0.0105), "{activation}, {name}: {found:?}");
        }
    }
}

#[test]
fn a_level_that_nothing_holds_is_left_as_it_is() {
    for activation in [Activation::Relu, Activation::Jumprelu, Activation::Gated] {
        let mut config = settings(activation, 20);
        for level in [&mut config.level1, &mut config.level2] {
            (level.control, level.lambda) = (false, 1e-3);
        }
        let mut t = train(Rows::Trees, &config);
        let x = kept(Rows::Trees, t.normalisation(), 1 << 40, 1000);
        let before = t.state();
        t.calibrate(&x).expect("rows of the model");
        assert_eq!(before, t.state(), "{activation}");
    }
}

#[test]
fn limits_of_thresholds_and_gates_leave_the_values_of_what_fires() {
    // An offset of `gated` below 0 moves by at most itself.
    for (activation, bound) in [(Activation::Jumprelu, 1e-4), (Activation::Gated, 0.05)] {
        let mut t = train(Rows::Trees, &settings(activation, 20));
        let x = kept(Rows::Trees, t.normalisation(), 1 << 40, 2000);
        // Twice what training was asked for fires before.
        let [before, _] = codes(t.model_unfolded(), &x);
        t.calibrate(&x).expect("rows of the model");
        let [after, _] = codes(t.model_unfolded(), &x);
        let (mut both, mut apart) = (0, 0.0f32);
        for row in 0..2000 {
            let (b, a) = (before.row(row), after.row(row));
            for (j, z) in b.index.iter().zip(b.value) {
                if let Some(at) = a.index.iter().position(|i| i == j) {
                    both += 1;
                    apart = apart.max((a.value[at] - z).abs());
                }
            }
        }
        assert!(both > 1000 && apart < bound, "{activation}: {both} fire in both, {apart} apart");
    }
}

#[test]
fn train_and_eval_print_asked_beside_found() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(60_000), D);
    for activation in ["jumprelu", "gated", "relu"] {
        let run = dir.path().join(activation);
        let [one, two] = ["level1", "level2"].map(|l| format!("{l}.activation={activation}"));
        let sets = [one.as_str(), &two, "train.steps=400", "train.lr=0.003", "revive.dead_after=10000"];
        let trained = strata(&train_args(&dump, &run, &sets)).ok();
        assert!(trained.err.contains(" of 2 and 3 asked for"), "{}", trained.err);
        assert!(!trained.err.contains("asked for\n"), "no warning about L0: {}", trained.err);
        let info = &read_json(&run.join("final_info.json"))["dump"];
        let evaluated = strata(&args!["eval", run, "--dump", dump]).ok();
        assert!(evaluated.out.contains("asked for"), "{}", evaluated.out);
        let eval = read_json(&run.join("eval.json"));
        for (l, asked) in [(0, 2.0), (1, 3.0)] {
            assert_eq!([&eval["asked_l0"][l], &info["asked_l0"][l]], [asked, asked], "level {}", l + 1);
            let found = eval[format!("level{}", l + 1)]["l0_mean"].as_f64().unwrap();
            assert!((found / asked - 1.0f64).abs() < 0.03, "{activation}, level {}: L0 {found}", l + 1);
        }
    }
}
