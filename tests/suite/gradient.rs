//! Every hand-written gradient compared with central differences of the dense f64 oracle.

use ndarray::Array2;
use proptest::prelude::*;
use strata_core::config::{Activation, Balance, Budget, Consistency, Decoder, GateKind, ModelKind, Source};
use strata_core::gate::Families;
use strata_core::model::{Arch, Params};
use strata_core::train::seed_objective::SeedObjective;
use strata_core::train::{Losses, Objective, StepSettings};
use strata_core::{Compute, Config, Isa, Par, Philox, ROOT};
use strata_tests::oracle::{M, Point, Problem, Seed, Tensors};
use strata_tests::tolerance;

/// How children are assigned to parents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tree {
    /// Random parents, with a sixth of the children under ROOT.
    Mixed,
    /// All children under ROOT.
    Root,
    /// The first child alone under the last parent, the others under the first one.
    Lonely,
}

/// The properties of a random problem.
#[derive(Clone, Debug)]
pub struct Draw {
    /// Settings.
    pub config: Config,
    /// Width of a row.
    pub d: usize,
    /// Width of the rows that a transcoder reconstructs.
    pub target: Option<usize>,
    /// Rows.
    pub n: usize,
    /// Added to the biases of the encoders: with a value far below 0 nothing fires.
    pub bias: f32,
    /// Families.
    pub tree: Tree,
    /// Share of latents that are dead.
    pub dead: f64,
    /// Whether the step is before the start of the gate.
    pub waits: bool,
    /// Seed of the generator.
    pub seed: u64,
}

/// A random problem in the engine's types.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The problem, for the oracle.
    pub problem: Problem,
    /// Parameters.
    pub params: Params,
    /// Families.
    pub families: Families,
    /// The rows, flat.
    pub x: Vec<f32>,
    /// The rows that a transcoder reconstructs, flat.
    pub y: Vec<f32>,
}

/// Settings with nonzero weights of every term of the loss, so that every gradient is tested.
pub fn settings(activation: [Activation; 2], gate: GateKind, source: Source, decoder: Decoder) -> Config {
    let mut c = Config { source, decoder, ..Config::default() };
    (c.level1.latents, c.level2.latents) = (5, 8);
    (c.level1.k, c.level2.k) = (2.0, 3.0);
    (c.level1.activation, c.level2.activation) = (activation[0], activation[1]);
    (c.level1.lambda, c.level2.lambda) = (0.13, 0.21);
    (c.level1.bandwidth, c.level2.bandwidth) = (0.9, 0.7);
    c.gate.kind = gate;
    (c.loss.w1, c.loss.w2) = (0.4, 1.0);
    c.loss.aux = 0.2;
    c.loss.gated_aux = 0.7;
    c.loss.consistency_weight = 0.37;
    (c.loss.contain_down, c.loss.contain_up, c.loss.contain_margin) = (0.6, 1.3, 0.5);
    c.revive.k_aux = 2;
    c
}

fn numbers(rng: &mut Philox, n: usize, scale: f32) -> Vec<f32> {
    (0..n).map(|_| rng.normal_f32() * scale).collect()
}

/// Parameters of every kind around the scales of the numpy check; decoder rows are NOT of norm 1, so that a forgotten
/// norm shows.
fn parameters(arch: &Arch, rng: &mut Philox, bias: f32) -> Params {
    let mut params = arch.zeros();
    for (name, t) in params.tensors_mut() {
        let scale = match name {
            "b_dec" => 0.2,
            "level1.b_enc" | "level2.b_enc" | "level1.r_mag" | "level1.b_mag" | "level2.r_mag" | "level2.b_mag" => 0.3,
            "level1.threshold" | "level2.threshold" => 0.2,
            "gate.b" => 1.0,
            _ => 0.6,
        };
        let drawn = numbers(rng, t.len(), scale);
        t.copy_from_slice(&drawn);
        if name.ends_with("threshold") {
            t.iter_mut().for_each(|v| *v = v.abs() + 0.1);
        }
        if name.ends_with("b_enc") {
            t.iter_mut().for_each(|v| *v += 0.25 + bias);
        }
    }
    params
}

fn some_of(rng: &mut Philox, f: usize, share: f64) -> Vec<u32> {
    (0..f as u32).filter(|_| rng.uniform_f64() < share).collect()
}

fn draw_once(draw: &Draw, seed: u64) -> Drawn {
    let mut rng = Philox::new(seed, 77);
    let arch = Arch::with_target(&draw.config, draw.d, draw.target);
    let (f1, f2) = (arch.level[0].latents, arch.level[1].latents);
    let params = parameters(&arch, &mut rng, draw.bias);
    let parents: Vec<u32> = (0..f2)
        .map(|j| match draw.tree {
            Tree::Mixed if rng.below(6) == 0 => ROOT,
            Tree::Mixed => rng.below(f1 as u64) as u32,
            Tree::Root => ROOT,
            Tree::Lonely => (if j == 0 { f1 - 1 } else { 0 }) as u32,
        })
        .collect();
    let c = &draw.config;
    let settings = StepSettings {
        lr: 0.0,
        fixed_level: None,
        k: [c.level1.k, c.level2.k],
        surplus: [if c.train.prune > 0.0 { 1.4 } else { 1.0 }; 2],
        lambda: [c.level1.lambda as f32, c.level2.lambda as f32],
        w: [c.loss.w1 as f32, c.loss.w2 as f32],
        gate: if draw.waits { GateKind::None } else { c.gate.kind },
        source: c.source,
        variance: 1.7,
        tau: [0.3, 0.35],
        observe_ungated: rng.below(2) == 0,
        dead: [some_of(&mut rng, f1, draw.dead), some_of(&mut rng, f2, draw.dead)],
    };
    let x = numbers(&mut rng, draw.n * draw.d, 1.0);
    let wide = Array2::from_shape_fn((draw.n, draw.d), |(i, j)| f64::from(x[i * draw.d + j]));
    let y = numbers(&mut rng, draw.target.map_or(0, |d| draw.n * d), 1.0);
    let of_target = |d: usize| Array2::from_shape_fn((draw.n, d), |(i, j)| f64::from(y[i * d + j]));
    Drawn {
        families: Families::new(parents.clone(), f1),
        problem: Problem { config: c.clone(), arch, parents, settings, x: wide, y: draw.target.map(of_target) },
        params,
        x,
        y,
    }
}

/// Draws random problems until no number is too near a decision; `None` after thirty draws.
pub fn draw(draw: &Draw) -> Option<(Drawn, Point)> {
    (0..30).find_map(|again| {
        let drawn = draw_once(draw, draw.seed * 31 + again);
        let at = drawn.problem.look(&drawn.params);
        (at.nearest > tolerance::NEAR).then_some((drawn, at))
    })
}

/// Runs the engine on a problem. Its gradients start with arbitrary values, which it must overwrite.
pub fn run(objective: &mut Objective, drawn: &Drawn) -> (Losses, Params) {
    let mut grads = drawn.params.zeros_like();
    grads.each_mut().flatten().for_each(|g| *g = f32::NAN);
    let settings = &drawn.problem.settings;
    let losses = objective
        .loss_and_gradient(&drawn.params, &drawn.families, settings, (&drawn.x[..], &drawn.y[..]), &mut grads)
        .expect("a finite loss");
    (losses, grads)
}

/// The largest error in units of the bound, and where it occurred.
#[derive(Clone, Debug, Default)]
pub struct Worst {
    /// The largest error in units of the bound.
    pub ratio: f64,
    /// The tensor and the problem of that error.
    pub at: String,
}

impl Worst {
    /// Compares gradients tensor by tensor, with errors relative to the largest entry of the tensor.
    pub fn compare(&mut self, got: &Params, want: &[Vec<f64>], bound: f64, what: impl Fn() -> String) {
        let largest = |t: &[f64]| t.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let all = want.iter().map(|t| largest(t)).fold(0.0, f64::max);
        for ((name, got), want) in got.tensors().into_iter().zip(want) {
            assert_eq!(got.len(), want.len(), "{}: {}", name, what());
            let scale = largest(want) + tolerance::GRADIENT_FLOOR * all + 1e-9;
            for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
                let ratio = (f64::from(g) - w).abs() / (bound * scale);
                if ratio.is_nan() || ratio > self.ratio {
                    self.ratio = if ratio.is_nan() { f64::INFINITY } else { ratio };
                    self.at = format!("{}[{i}]: {g:e}, expected {w:e} (largest {scale:e}); {}", name, what());
                }
            }
        }
    }

    /// Fails if an error was above the bound.
    #[track_caller]
    pub fn assert(&self) {
        assert!(self.ratio <= 1.0, "{} times the bound at {}", self.ratio, self.at);
    }
}

/// Asserts that the engine selects exactly the entries of the oracle: those that fire, those of AuxK, and those whose
/// ungated pre-activation is above the threshold.
fn compare_selection(o: &Objective, drawn: &Drawn, at: &Point) {
    let problem = &drawn.problem;
    for l in 0..if problem.arch.level[1].latents > 0 { 2 } else { 1 } {
        let (mut fires, mut revived) = (M::zeros(at.fires[l].raw_dim()), M::zeros(at.fires[l].raw_dim()));
        for (i, j, _, z, v) in o.entries(l) {
            fires[(i, j)] += f64::from(u8::from(z > 0.0));
            revived[(i, j)] += f64::from(u8::from(v > 0.0));
        }
        assert_eq!(fires, at.fires[l], "latents that fire at level {}: {:?}", l + 1, problem);
        assert_eq!(revived, at.revived[l], "latents that AuxK selects at level {}: {:?}", l + 1, problem);
    }
    if problem.settings.observe_ungated || problem.config.loss.consistency == Consistency::Contain {
        let mut ungated = M::zeros(at.fires_ungated.raw_dim());
        o.ungated().for_each(|(i, j, _)| ungated[(i, j)] = 1.0);
        assert_eq!(ungated, at.fires_ungated, "children above their threshold without the gate: {problem:?}");
    }
}

fn compare_losses(losses: &Losses, drawn: &Drawn, at: &Point) {
    let want = drawn.problem.terms(&Tensors::new(&drawn.params), at, true);
    let scale = tolerance::LOSS * (1.0 + want.total.abs() + want.consistency.abs() + want.fvu[0] + want.fvu[1]);
    let pairs = [
        ("total", losses.total, want.total),
        ("fvu1", losses.fvu[0], want.fvu[0]),
        ("fvu2", losses.fvu[1], want.fvu[1]),
        ("sparsity1", losses.sparsity[0], want.sparsity[0]),
        ("sparsity2", losses.sparsity[1], want.sparsity[1]),
        ("consistency", losses.consistency, want.consistency),
        ("aux1", losses.aux[0], want.aux[0]),
        ("aux2", losses.aux[1], want.aux[1]),
        ("gated1", losses.gated[0], want.gated[0]),
        ("gated2", losses.gated[1], want.gated[1]),
        ("l0_1", losses.l0[0], want.l0[0]),
        ("l0_2", losses.l0[1], want.l0[1]),
    ];
    for (name, got, want) in pairs {
        assert!((got - want).abs() <= scale, "{name}: {got}, expected {want}: {:?}", drawn.problem);
    }
}

/// Compares the selection, the loss and the gradients of one random problem. Returns `false` if its settings exclude
/// one another.
pub fn check(d: &Draw, worst: &mut Worst) -> bool {
    if d.config.validate_rows(d.d, d.target).is_err() {
        return false;
    }
    let (drawn, at) = draw(d).expect("thirty draws, each too near a decision");
    let compute = Compute::new(Isa::default(), Par::Seq);
    let mut objective = Objective::with_target(&d.config, d.d, d.target, compute).expect("valid settings");
    let (losses, grads) = run(&mut objective, &drawn);
    compare_selection(&objective, &drawn, &at);
    compare_losses(&losses, &drawn, &at);
    let c = &d.config;
    let one_cosine = d.n == 1 && d.config.loss.consistency == Consistency::SeedCos;
    let bound = if one_cosine { tolerance::GRADIENT_OF_ONE_COSINE } else { tolerance::GRADIENT };
    worst.compare(&grads, &drawn.problem.gradient(&at), bound, || {
        format!(
            "{:?} {:?} gate {} source {} detach {} decoder {} {} balance {} {d:?}",
            c.level1.activation,
            c.level2.activation,
            c.gate.kind,
            c.source,
            c.source_detach,
            c.decoder,
            c.loss.consistency,
            c.train.balance
        )
    });
    true
}

#[test]
fn a_shared_budget_keeps_the_largest_of_both_levels_and_its_gradients_are_those_of_the_formulas() {
    let mut worst = Worst::default();
    let mut uneven = 0;
    for seed in 0..60 {
        let mut c = settings([Activation::Batchtopk; 2], GateKind::None, Source::X, Decoder::ALL[seed % 3]);
        c.budget = Budget::Shared;
        c.train.balance = Balance::ALL[seed / 3 % 5];
        c.loss.consistency = if seed % 2 == 0 { Consistency::None } else { Consistency::SeedCos };
        let mut d = small(c, seed as u64);
        // Every fifth problem has more than one chunk of rows.
        d.n = if seed % 5 == 0 { 70 } else { 7 };
        assert!(check(&d, &mut worst), "valid settings");
        let (_, at) = draw(&d).expect("drawn before");
        uneven += usize::from(at.fires[0].sum() != (2.0 * d.n as f64));
    }
    assert!(uneven > 30, "the budget was spent as if it were two, but for {uneven} of 60");
    worst.assert();
}

#[test]
fn a_shared_budget_is_refused_where_the_levels_cannot_be_chosen_from_together() {
    let shared = || {
        let mut c = settings([Activation::Batchtopk; 2], GateKind::None, Source::X, Decoder::Cum);
        c.budget = Budget::Shared;
        c
    };
    shared().validate(6).expect("a Matryoshka of two prefixes");
    let mut gated = shared();
    gated.gate.kind = GateKind::Hard;
    let mut residual = shared();
    residual.source = Source::Res;
    let mut flat = shared();
    flat.level2.latents = 0;
    let mut relu = shared();
    relu.level2.activation = Activation::Relu;
    let mut seed = shared();
    seed.model = ModelKind::Seed;
    for c in [gated, residual, flat, relu, seed] {
        let error = c.validate(6).expect_err("a shared budget").to_string();
        assert!(error.contains("budget") && error.contains("shared"), "{error}");
    }
}

/// Every source, and the residual with and without its gradient.
pub const SOURCES: [(Source, bool); 4] =
    [(Source::X, false), (Source::Res, false), (Source::Res, true), (Source::Z1, false)];

pub fn small(config: Config, seed: u64) -> Draw {
    Draw { config, d: 6, target: None, n: 7, bias: 0.0, tree: Tree::Mixed, dead: 0.5, waits: false, seed }
}

#[test]
fn gradients_are_those_of_the_formulas_on_the_whole_grid_of_options() {
    let mut worst = Worst::default();
    let (mut tried, mut checked) = (0usize, 0);
    for (a, &act) in Activation::ALL.iter().enumerate() {
        for &gate in GateKind::ALL {
            for (source, detach) in SOURCES {
                for &decoder in Decoder::ALL {
                    for &consistency in Consistency::ALL {
                        // Every third problem has the same activation at both levels, the others go through all pairs.
                        let act2 = Activation::ALL[if tried % 3 == 0 { a } else { (a + tried) % 5 }];
                        let mut c = settings([act, act2], gate, source, decoder);
                        c.source_detach = detach;
                        c.loss.consistency = consistency;
                        if consistency == Consistency::SeedCos && tried % 2 == 1 {
                            c.loss.consistency_weight = -0.37;
                        }
                        tried += 1;
                        checked += usize::from(check(&small(c, tried as u64), &mut worst));
                    }
                }
            }
        }
    }
    println!("{checked} configurations, worst {:.3} of the bound at {}", worst.ratio, worst.at);
    assert!(checked > 1000, "{checked} configurations");
    worst.assert();
    assert!(worst.ratio > tolerance::NEEDED, "the bound is too wide: {worst:?}");
}

#[test]
fn gradients_are_those_of_the_formulas_for_every_balance_and_pair_of_activations() {
    let mut worst = Worst::default();
    let (mut tried, mut checked) = (0usize, 0);
    for &balance in Balance::ALL {
        for &act1 in Activation::ALL {
            for &act2 in Activation::ALL {
                for &gate in GateKind::ALL {
                    let (source, detach) = SOURCES[tried % 4];
                    let mut c = settings([act1, act2], gate, source, Decoder::ALL[tried / 4 % 3]);
                    c.source_detach = detach;
                    c.loss.consistency = Consistency::ALL[tried / 5 % 7];
                    c.train.balance = balance;
                    if c.validate(6).is_err() {
                        c.loss.consistency = Consistency::None;
                    }
                    tried += 1;
                    let mut d = small(c, tried as u64);
                    d.waits = tried % 11 == 0;
                    checked += usize::from(check(&d, &mut worst));
                }
            }
        }
    }
    println!("{checked} configurations, worst {:.3} of the bound at {}", worst.ratio, worst.at);
    assert_eq!(checked, 625);
    worst.assert();
}

fn any_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(all)
}

fn any_draw() -> impl Strategy<Value = Draw> {
    let kinds = (
        any_of(Activation::ALL),
        any_of(Activation::ALL),
        any_of(GateKind::ALL),
        any_of(&SOURCES),
        any_of(Decoder::ALL),
        any_of(Consistency::ALL),
        any_of(Balance::ALL),
    );
    let sizes = (1..20usize, 1..12usize, 0..20usize, any_of(&[1usize, 2, 9, 63, 64, 65, 130]));
    let rest = (
        any_of(&[Tree::Mixed, Tree::Mixed, Tree::Root, Tree::Lonely]),
        any_of(&[0.0, 0.5, 0.5, 1.0]),
        any_of(&[0.0f32, 0.0, 0.0, -20.0]),
        any::<[bool; 4]>(),
        0.0..1.0f64,
        any::<u32>(),
    );
    (kinds, sizes, rest).prop_map(|(kinds, (d, f1, f2, n), (tree, dead, bias, flags, k, seed))| {
        let (a1, a2, gate, (source, detach), decoder, consistency, balance) = kinds;
        let mut c = settings([a1, a2], gate, source, decoder);
        (c.level1.latents, c.level2.latents) = (f1, f2);
        c.level1.k = (k * f1 as f64).ceil().max(1.0);
        c.level2.k = (k * f2 as f64).ceil().max(1.0);
        if flags[0] {
            // k = f: everything positive is kept.
            (c.level1.k, c.level2.k) = (f1 as f64, (f2 as f64).max(1.0));
        }
        if flags[1] {
            (c.level1.lambda, c.level2.lambda) = (0.0, 0.0);
        }
        if flags[2] {
            c.revive.k_aux = 0;
        }
        c.source_detach = detach;
        c.train.balance = balance;
        c.loss.consistency = consistency;
        Draw { config: c, d, target: None, n, bias, tree, dead, waits: flags[3], seed: u64::from(seed) }
    })
}

/// Property tests with a fixed generator: the bounds on rounding errors were set for exactly these cases.
fn cases(n: u32) -> ProptestConfig {
    ProptestConfig {
        cases: n,
        rng_seed: prop::test_runner::RngSeed::Fixed(1),
        failure_persistence: None,
        max_global_rejects: 100_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn gradients_are_those_of_the_formulas_at_any_shape(d in any_draw()) {
        // Every parameter costs two passes of the oracle, so many rows go with few latents.
        let mut d = d;
        if d.n > 60 {
            let c = &mut d.config;
            (d.d, c.level1.latents, c.level2.latents) = (d.d.min(6), c.level1.latents.min(5), c.level2.latents.min(7));
            c.level1.k = c.level1.k.min(c.level1.latents as f64);
            c.level2.k = c.level2.k.min(c.level2.latents.max(1) as f64);
        }
        prop_assume!(d.config.validate(d.d).is_ok());
        let mut worst = Worst::default();
        check(&d, &mut worst);
        prop_assert!(worst.ratio <= 1.0, "{} times the bound at {}", worst.ratio, worst.at);
    }

    #[test]
    fn a_batch_leaves_nothing_behind_for_the_next(d in any_draw(), n in 1..140usize, other in any::<u16>()) {
        prop_assume!(d.config.validate(d.d).is_ok());
        let before = draw_once(&Draw { n, bias: 0.0, dead: 0.5, ..d.clone() }, u64::from(other));
        let drawn = draw_once(&d, d.seed);
        let new = || Objective::new(&d.config, d.d, Compute::new(Isa::default(), Par::Seq)).expect("valid settings");
        let mut used = new();
        run(&mut used, &before);
        let (mut losses, grads) = run(&mut used, &drawn);
        let (fresh_losses, fresh_grads) = run(&mut new(), &drawn);
        // This count depends on the floor of the candidates, which follows the batch before.
        losses.above_tau = fresh_losses.above_tau;
        prop_assert_eq!(losses, fresh_losses);
        prop_assert_eq!(grads, fresh_grads);
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits(d in any_draw(), wide in 0..40usize) {
        let mut d = d;
        d.d += wide;
        prop_assume!(d.config.validate(d.d).is_ok());
        let drawn = draw_once(&d, d.seed);
        let of = |isa| run(&mut Objective::new(&d.config, d.d, Compute::new(isa, Par::Seq)).expect("valid settings"), &drawn);
        let all = Isa::all_available();
        let want = of(all[0]);
        for &isa in &all[1..] {
            let got = of(isa);
            prop_assert_eq!(&got.0, &want.0, "{:?}", isa);
            for ((name, g), (_, w)) in got.1.tensors().into_iter().zip(want.1.tensors()) {
                let bits = |t: &[f32]| t.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(g), bits(w), "{} on {:?}", name, isa);
            }
        }
    }

    #[test]
    fn every_number_of_threads_gives_the_same_bits(d in any_draw()) {
        prop_assume!(d.config.validate(d.d).is_ok());
        let drawn = draw_once(&d, d.seed);
        let of = |par| run(&mut Objective::new(&d.config, d.d, Compute::new(Isa::default(), par)).expect("valid settings"), &drawn);
        let want = of(Par::Seq);
        for threads in 1..=3 {
            let got = pool(threads).install(|| of(Par::Rayon));
            prop_assert_eq!(&got, &want, "{} threads", threads);
        }
    }
}

/// Returns a rayon pool of this size, made once.
fn pool(threads: usize) -> &'static rayon::ThreadPool {
    static POOLS: std::sync::OnceLock<Vec<rayon::ThreadPool>> = std::sync::OnceLock::new();
    let make = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a pool");
    &POOLS.get_or_init(|| (1..=3).map(make).collect())[threads - 1]
}

#[test]
fn nothing_that_fires_nothing_that_lives_and_nothing_to_explain_are_no_trouble() {
    let mut worst = Worst::default();
    let mut tried = 0;
    for &act in Activation::ALL {
        for &gate in GateKind::ALL {
            for &consistency in Consistency::ALL {
                for (bias, dead) in [(-20.0, 0.0), (-20.0, 1.0), (0.0, 1.0)] {
                    for n in [1, 65] {
                        let mut c = settings([act; 2], gate, SOURCES[tried % 4].0, Decoder::ALL[tried % 3]);
                        c.loss.consistency = consistency;
                        tried += 1;
                        let tree = [Tree::Lonely, Tree::Root, Tree::Mixed][tried % 3];
                        check(&Draw { bias, dead, n, tree, ..small(c, tried as u64) }, &mut worst);
                    }
                }
            }
        }
    }
    worst.assert();
}

#[test]
fn rows_that_are_explained_exactly_have_finite_gradients_after_others_that_are_not() {
    // Every latent is dead and selected by AuxK, but none fires: x_hat = b_dec = x, and AuxK has nothing left to
    // explain.
    let mut c = settings([Activation::Jumprelu; 2], GateKind::None, Source::X, Decoder::Cum);
    c.level1.bandwidth = 0.1;
    c.level2.bandwidth = 0.1;
    let mut drawn = draw_once(&Draw { dead: 1.0, ..small(c.clone(), 3) }, 3);
    let mut objective = Objective::new(&c, 6, Compute::new(Isa::default(), Par::Seq)).expect("valid settings");
    run(&mut objective, &drawn);
    drawn.params.level[0].threshold.fill(50.0);
    drawn.params.level[1].threshold.fill(50.0);
    let b_dec = drawn.params.b_dec.clone();
    drawn.x = b_dec.repeat(7);
    let (losses, grads) = run(&mut objective, &drawn);
    assert_eq!(losses.fvu, [0.0; 2]);
    for (name, t) in grads.tensors() {
        assert!(t.iter().all(|g| *g == 0.0), "{name}: {t:?}");
    }
}

#[test]
fn a_flat_model_has_no_entries_at_level_2() {
    let mut c = settings([Activation::Topk; 2], GateKind::None, Source::X, Decoder::Cum);
    c.level2.latents = 0;
    let drawn = draw_once(&small(c.clone(), 3), 3);
    let mut objective = Objective::new(&c, 6, Compute::new(Isa::default(), Par::Seq)).expect("valid settings");
    assert_eq!(objective.entries(0).count() + objective.entries(1).count() + objective.ungated().count(), 0);
    run(&mut objective, &drawn);
    assert_eq!(objective.entries(1).count() + objective.ungated().count(), 0);
    assert!(objective.fired(0).count() > 0);
}

#[test]
fn decoder_rows_of_zero_have_finite_gradients() {
    for decoder in [Decoder::Cum, Decoder::Comp] {
        for &consistency in Consistency::ALL {
            for bias in [0.0, -20.0] {
                let mut c = settings([Activation::Relu; 2], GateKind::Hard, Source::X, decoder);
                c.loss.consistency = consistency;
                if c.validate(6).is_err() {
                    continue;
                }
                let mut drawn = draw_once(&Draw { bias, ..small(c.clone(), 3) }, 3);
                drawn.params.level[0].w_dec[..6].fill(0.0);
                drawn.params.level[1].w_dec[..6].fill(0.0);
                let (_, grads) =
                    run(&mut Objective::new(&c, 6, Compute::new(Isa::default(), Par::Seq)).expect("valid"), &drawn);
                for (name, t) in grads.tensors() {
                    assert!(t.iter().all(|g| g.is_finite()), "{name}, {decoder}, {consistency}: {t:?}");
                }
            }
        }
    }
}

fn seed_settings(gate: GateKind, consistency: Consistency, weight: f64) -> Config {
    let mut c = settings([Activation::Relu; 2], gate, Source::Z1, Decoder::Comp);
    c.model = ModelKind::Seed;
    (c.level1.latents, c.level2.latents) = (7, 5);
    c.loss.consistency = consistency;
    c.loss.consistency_weight = weight;
    c
}

#[test]
fn gradients_of_the_seed_are_those_of_its_formulas_on_every_machine() {
    let mut worst = Worst::default();
    for gate in [GateKind::Mul, GateKind::Add, GateKind::None] {
        for (consistency, weight) in
            [(Consistency::None, 0.3), (Consistency::SeedCos, 0.3), (Consistency::SeedCos, -0.3)]
        {
            for (n, bias) in [(1, 0.0), (9, 0.0), (65, 0.0), (9, -20.0)] {
                let c = seed_settings(gate, consistency, weight);
                let draw = Draw { n, bias, ..small(c.clone(), n as u64) };
                let (drawn, p) = (0..30)
                    .map(|again| draw_once(&draw, draw.seed * 31 + again))
                    .map(|drawn| (Tensors::new(&drawn.params), drawn))
                    .map(|(p, drawn)| (drawn, p))
                    .find(|(drawn, p)| seed_of(drawn).terms(p).1 > tolerance::NEAR)
                    .expect("thirty draws, each too near a decision");
                let oracle = seed_of(&drawn);
                let run = |compute| {
                    let mut grads = drawn.params.zeros_like();
                    grads.each_mut().flatten().for_each(|g| *g = f32::NAN);
                    let losses = SeedObjective::new(&c, 6, compute)
                        .loss_and_gradient(&drawn.params, 1.7, &drawn.x, &mut grads)
                        .expect("a finite loss");
                    (losses, grads)
                };
                let (losses, grads) = run(Compute::new(Isa::default(), Par::Seq));
                let (want, _) = oracle.terms(&p);
                let total: f64 = want.iter().sum();
                for (got, want) in [
                    (losses.total, total),
                    (losses.sparsity[0], want[1]),
                    (losses.sparsity[1], want[2]),
                    (losses.consistency, want[3]),
                ] {
                    assert!((got - want).abs() <= tolerance::LOSS * (1.0 + total.abs()), "{got}, expected {want}");
                }
                worst
                    .compare(&grads, &oracle.gradient(&p), tolerance::GRADIENT, || format!("{gate} {consistency} {n}"));
                for isa in Isa::all_available() {
                    assert_eq!(run(Compute::new(isa, Par::Seq)), (losses, grads.clone()), "{isa:?}");
                }
                for threads in 1..=3 {
                    let got = pool(threads).install(|| run(Compute::new(Isa::default(), Par::Rayon)));
                    assert_eq!(got, (losses, grads.clone()), "{threads} threads");
                }
            }
        }
    }
    println!("worst {:.3} of the bound at {}", worst.ratio, worst.at);
    worst.assert();
}

fn seed_of(drawn: &Drawn) -> Seed {
    Seed { config: drawn.problem.config.clone(), arch: drawn.problem.arch, x: drawn.problem.x.clone() }
}
