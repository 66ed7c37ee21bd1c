//! A training over several ranks has the bits of one process: weights, moments, statistics and what each step reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use strata_core::config::{Activation, Balance, Budget, Consistency, Decoder, Freeze, GateKind, Source};
use strata_core::model::Model;
use strata_core::normalise::Normalisation;
use strata_core::train::comm::{GROUP, Threads, owned};
use strata_core::train::{Array, BatchRows, Comm, Solo, State, StepReport, Trainer, sharded_arrays};
use strata_core::{Compute, Config, Error, Isa, Par, Philox};

/// Width of the rows, and of those that a transcoder reconstructs.
pub(crate) const D: usize = 20;
const TARGET: usize = 13;
const STEPS: usize = 24;
/// Two whole chunks of rows and a part of one.
pub(crate) const BATCH: usize = 150;

/// Everything that a run leaves, of all ranks together.
struct Run {
    state: State,
    reports: Vec<StepReport>,
    /// After the calibration.
    params: Vec<u32>,
    tau: [u32; 2],
    parents: Vec<u32>,
}

/// Rows that are sums of a few directions and noise: some latents die, and parents and children fire together.
pub(crate) fn rows(n: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut rng = Philox::new(7, 1);
    let directions: Vec<f32> = (0..60 * d).map(|_| rng.normal_f32()).collect();
    let mut rng = Philox::new(seed, 2);
    let mut out = Vec::with_capacity(n * d);
    for _ in 0..n {
        let mut row: Vec<f32> = (0..d).map(|_| 0.1 * rng.normal_f32()).collect();
        for _ in 0..3 {
            let at = rng.below(60) as usize;
            let by = 0.5 + rng.uniform_f32();
            row.iter_mut().zip(&directions[at * d..(at + 1) * d]).for_each(|(x, v)| *x += by * v);
        }
        out.extend(row);
    }
    out
}

/// Two levels with a few groups of latents each, one of them not whole.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.level1.latents = 2 * GROUP + 40;
    config.level2.latents = 4 * GROUP + 31;
    config.level1.k = 6.0;
    config.level2.k = 9.0;
    config.train.steps = STEPS as u64;
    config.train.batch = BATCH;
    config.train.lr = 0.02;
    config.train.warmup = 0.1;
    config.train.clip = 0.3;
    config.revive.dead_after = 3 * BATCH as u64;
    config.revive.k_aux = 5;
    config.gate.start = 0.4;
    config.gate.reassign_every = 4;
    config.gate.min_count = 1.0;
    config.gate.freeze = 0.95;
    config.gate.root_below = 0.2;
    config
}

/// The rows `range` of each sharded array, in place of all.
pub(crate) fn part(
    state: &State,
    arrays: &BTreeMap<String, (usize, usize)>,
    latents: [usize; 2],
    rank: usize,
    size: usize,
) -> State {
    let mut part = state.clone();
    for (name, (level, width)) in arrays {
        let own = owned(latents[*level], rank, size);
        let range = own.start * width..own.end * width;
        match part.0.get_mut(name) {
            Some(Array::F32(all)) if !all.is_empty() => *all = all[range].to_vec().into(),
            Some(Array::U16(all)) => *all = Arc::new(all[range].to_vec()),
            _ => {}
        }
    }
    part
}

/// The arrays of all ranks put together; those that are not sharded are the same on all.
pub(crate) fn joined(parts: &[State], arrays: &BTreeMap<String, (usize, usize)>) -> State {
    let mut whole = parts[0].clone();
    // A rank without latents has no rows of them.
    for (name, array) in parts[1..].iter().flat_map(|part| &part.0) {
        whole.0.entry(name.clone()).or_insert_with(|| array.clone());
    }
    for (name, array) in &mut whole.0 {
        let all = parts.iter().filter_map(|part| part.0.get(name));
        if !arrays.contains_key(name) {
            assert!(all.clone().all(|other| other == array), "`{name}` differs between ranks");
            continue;
        }
        *array = match array {
            Array::F32(_) => Array::F32(
                all.flat_map(|part| if let Array::F32(v) = part { v.to_vec() } else { panic!("`{name}`") })
                    .collect::<Vec<f32>>()
                    .into(),
            ),
            Array::U16(_) => Array::U16(Arc::new(
                all.flat_map(|part| if let Array::U16(v) = part { v.to_vec() } else { panic!("`{name}`") }).collect(),
            )),
            other => panic!("`{name}` is sharded and has the type of {other:?}"),
        };
    }
    whole
}

/// The calibrated model of a rank, as words.
fn words(model: &Model) -> Vec<Vec<u32>> {
    model.params.tensors().into_iter().map(|(_, t)| t.iter().map(|v| v.to_bits()).collect()).collect()
}

/// Trains over `size` ranks from `from`, or from the first step, up to `steps`.
fn train(config: &Config, target: Option<usize>, size: usize, from: Option<&State>, steps: usize) -> Run {
    let arrays = &sharded_arrays(config, D, target);
    let latents = [config.level1.latents, config.level2.latents];
    let sample = rows(300, D, 0);
    let normalisation = Normalisation::measure(Isa::detect(), &sample, D, &config.data).expect("rows that vary");
    let of_target = target
        .map(|d| Normalisation::measure(Isa::detect(), &rows(300, d, 100), d, &config.data).expect("rows that vary"));
    let rank = |comm: Arc<dyn Comm>| {
        let compute = Compute::new(Isa::detect(), Par::Seq);
        let mut first = sample[..100 * D].to_vec();
        normalisation.apply(&mut first);
        let mut trainer = match from {
            Some(state) => {
                let mut state = part(state, arrays, latents, comm.rank(), comm.size());
                Trainer::restore_over(config, D, &mut state, compute, comm)
            }
            None => Trainer::over(config, normalisation.clone(), of_target.clone(), &first, compute, comm),
        }
        .expect("a run");
        let mut reports = Vec::new();
        for step in trainer.step_count() as usize..steps {
            let mut x = rows(BATCH, D, 1 + step as u64);
            trainer.normalisation().apply(&mut x);
            let mut y = target.map_or(Vec::new(), |d| rows(BATCH, d, 101 + step as u64));
            if let Some(target) = trainer.target() {
                target.apply(&mut y);
            }
            reports.push(trainer.step(BatchRows { x: &x, y: &y }).expect("a step"));
        }
        let state = trainer.state();
        trainer.calibrate(&first).expect("a calibration");
        let model = trainer.model_unfolded();
        (state, reports, words(&model), model.tau.map(f32::to_bits), model.parents)
    };
    let mut found: Vec<_> = if size == 1 {
        vec![rank(Arc::new(Solo))]
    } else {
        std::thread::scope(|scope| {
            let rank = &rank;
            let threads: Vec<_> =
                Threads::new(size).into_iter().map(|comm| scope.spawn(move || rank(Arc::new(comm)))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a rank")).collect()
        })
    };
    let states: Vec<State> = found.iter().map(|rank| rank.0.clone()).collect();
    for other in &found[1..] {
        assert_eq!(other.1, found[0].1, "the reports of two ranks");
        assert_eq!((other.3, &other.4), (found[0].3, &found[0].4), "thresholds and parents of two ranks");
    }
    // In the order of tensors, and of ranks within those that are sharded.
    let mut params = Vec::new();
    for (at, (name, _)) in strata_core::model::NAMES.iter().zip(found[0].2.clone()).enumerate() {
        let all = found.iter().map(|rank| &rank.2[at]);
        if arrays.contains_key(&format!("params.{name}")) {
            all.for_each(|part| params.extend_from_slice(part));
        } else {
            params.extend_from_slice(&found[0].2[at]);
        }
    }
    let (_, reports, _, tau, parents) = found.swap_remove(0);
    Run { state: joined(&states, arrays), reports, params, tau, parents }
}

/// Compares the runs over 1 to 4 ranks, and returns that of one.
fn same_for_all(what: &str, config: &Config, target: Option<usize>) -> Run {
    let solo = train(config, target, 1, None, STEPS);
    for size in 2..=4 {
        let run = train(config, target, size, None, STEPS);
        compare(&format!("{what}, {size} ranks"), &solo, &run);
    }
    solo
}

fn compare(what: &str, solo: &Run, run: &Run) {
    for (one, other) in solo.reports.iter().rev().zip(run.reports.iter().rev()) {
        assert_eq!(format!("{one:?}"), format!("{other:?}"), "{what}: reports of step {}", one.step);
    }
    assert_eq!(solo.state.difference(&run.state), None, "{what}: state");
    assert_eq!((solo.tau, &solo.parents), (run.tau, &run.parents), "{what}: thresholds and parents");
    assert!(solo.params == run.params, "{what}: calibrated parameters");
}

pub(crate) fn flat(activation: Activation) -> Config {
    let mut config = config();
    config.level2.latents = 0;
    config.gate.kind = GateKind::None;
    config.level1.activation = activation;
    config.level1.lambda = if activation.is_penalised() { 0.01 } else { 0.0 };
    config
}

#[test]
fn flat_models_have_the_same_bits_on_any_number_of_ranks() {
    for activation in Activation::ALL {
        let run = same_for_all(&format!("flat {activation}"), &flat(*activation), None);
        let last = run.reports.last().expect("steps");
        assert!(last.losses.l0[0] > 1.0 && last.losses.fvu[0] < 1.0, "{activation}: nothing was learned: {last:?}");
        let aux = run.reports.iter().map(|r| r.losses.aux[0]).sum::<f64>();
        assert!(aux > 0.0 || activation.is_penalised(), "{activation}: AuxK did not act");
    }
}

#[test]
fn the_default_model_with_everything_on_has_the_same_bits_on_any_number_of_ranks() {
    let mut config = config();
    config.loss.consistency = Consistency::Contain;
    config.loss.consistency_weight = 0.05;
    let run = same_for_all("default", &config, None);
    let sum = |of: &dyn Fn(&StepReport) -> f64| run.reports.iter().map(of).sum::<f64>();
    assert!(run.reports.iter().any(|r| r.gate_on) && run.reports.iter().any(|r| !r.gate_on), "the gate starts late");
    assert!(sum(&|r| r.losses.aux[0]) > 0.0 && sum(&|r| r.losses.aux[1]) > 0.0, "AuxK acts at both levels");
    assert!(sum(&|r| r.losses.consistency) > 0.0, "the containment loss acts");
    assert!(sum(&|r| r.moved[0] as f64) > 0.0, "families are assigned");
    assert!(sum(&|r| r.moved[1] as f64) > 0.0, "dead children are reseeded");
    assert!(run.reports.iter().any(|r| r.grad_norm > config.train.clip), "the clip acts");
    let adopted = run.parents.iter().filter(|p| **p != strata_core::ROOT).count();
    assert!(adopted > 10, "{adopted} children have a parent");
}

#[test]
fn two_level_models_have_the_same_bits_on_any_number_of_ranks() {
    let mut shared = config();
    shared.budget = Budget::Shared;
    shared.gate.kind = GateKind::None;
    let mut jumprelu = config();
    let mut gated = config();
    for (config, of) in
        [(&mut jumprelu, [Activation::Jumprelu; 2]), (&mut gated, [Activation::Gated, Activation::Relu])]
    {
        (config.level1.activation, config.level2.activation) = (of[0], of[1]);
        (config.level1.lambda, config.level2.lambda) = (0.01, 0.01);
        config.loss.consistency = Consistency::Contain;
    }
    let mut topk = config();
    (topk.level1.activation, topk.level2.activation) = (Activation::Topk, Activation::Topk);
    (topk.gate.start, topk.decoder, topk.train.balance) = (0.0, Decoder::Ind, Balance::Pcgrad);
    topk.train.row_norm = 0.5;
    let mut norm = config();
    (norm.train.balance, norm.train.freeze, norm.gate.root_below) = (Balance::Norm, Freeze::SoftDecoder, 0.0);
    // Full families: children ask for more of their choices than ranks tell each other at first.
    norm.gate.family_cap = 1.0;
    let mut largest = config();
    (largest.gate.kind, largest.gate.start) = (GateKind::GroupTop1, 0.3);
    let mut largest_k = largest.clone();
    (largest_k.level1.activation, largest_k.level2.activation) = (Activation::Topk, Activation::Topk);
    let mut largest_jumprelu = jumprelu.clone();
    (largest_jumprelu.gate.kind, largest_jumprelu.gate.start) = (GateKind::GroupTop1, 0.3);
    let mut largest_gated = largest_jumprelu.clone();
    (largest_gated.level1.activation, largest_gated.level2.activation) = (Activation::Topk, Activation::Gated);
    largest_gated.level1.lambda = 0.0;
    let cases = [
        ("shared budget", shared),
        ("group-top1 of jumprelu", largest_jumprelu),
        ("group-top1 of gated", largest_gated),
        ("group-top1", largest),
        ("group-top1 of topk", largest_k),
        ("jumprelu", jumprelu),
        ("gated and relu", gated),
        ("topk", topk),
        ("norm", norm),
    ];
    for (what, config) in cases {
        same_for_all(what, &config, None);
    }
    let mut transcoder = config();
    transcoder.skip = true;
    same_for_all("transcoder", &transcoder, Some(TARGET));
}

#[test]
fn ranks_without_latents_of_a_level_take_part() {
    let mut largest = config();
    (largest.gate.kind, largest.gate.start) = (GateKind::GroupTop1, 0.3);
    for (what, config) in [("hard", config()), ("group-top1", largest)] {
        let solo = train(&config, None, 1, None, STEPS);
        compare(&format!("{what}, 7 ranks"), &solo, &train(&config, None, 7, None, STEPS));
    }
}

#[test]
fn latents_that_tie_across_ranks_are_kept_as_in_one_process() {
    for activation in [Activation::Topk, Activation::Batchtopk] {
        let mut config = flat(activation);
        config.level1.latents = 3 * GROUP;
        // Odd, so that a pair of equal latents is cut apart.
        config.level1.k = 5.0;
        config.train.lr = 0.0;
        let mut state = train(&config, None, 1, None, 1).state;
        for name in ["params.level1.w_enc", "params.level1.w_dec"] {
            let Some(Array::F32(rows)) = state.0.get_mut(name) else { panic!("`{name}`") };
            rows.copy_within(..GROUP * D, 2 * GROUP * D);
        }
        let solo = train(&config, None, 1, Some(&state), 6);
        for size in 2..=3 {
            compare("ties", &solo, &train(&config, None, size, Some(&state), 6));
        }
    }
}

#[test]
fn a_run_goes_on_with_any_number_of_ranks() {
    let config = config();
    let solo = train(&config, None, 1, None, STEPS);
    let mut state = train(&config, None, 3, None, 7).state;
    for (size, steps) in [(2, 12), (4, 17), (1, STEPS)] {
        let run = train(&config, None, size, Some(&state), steps);
        state = run.state.clone();
        if steps == STEPS {
            compare("resumed", &solo, &run);
        }
    }
}

#[test]
fn a_rank_that_ends_ends_the_others_with_a_sentence() {
    let config = config();
    let found: Vec<_> = std::thread::scope(|scope| {
        let config = &config;
        let threads = Threads::new(3).into_iter().map(|comm| {
            scope.spawn(move || {
                let (rank, compute) = (comm.rank(), Compute::new(Isa::detect(), Par::Seq));
                let normalisation = Normalisation::identity(D, config.data.row_norm);
                let mut trainer = Trainer::over(config, normalisation, None, &[], compute, Arc::new(comm))?;
                let mut report = trainer.step(&rows(BATCH, D, 1)[..]);
                if rank != 1 {
                    report = trainer.step(&rows(BATCH, D, 2)[..]);
                }
                report
            })
        });
        threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(found[1].is_ok(), "{:?}", found[1]);
    for rank in [0, 2] {
        let error = found[rank].as_ref().expect_err("rank 1 has ended");
        assert!(matches!(error, Error::Rank { .. }) && error.to_string().contains("has ended"), "{error}");
    }
}

#[test]
fn settings_that_are_not_sharded_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        let comm = Threads::new(2).swap_remove(0);
        let normalisation = Normalisation::identity(D, config.data.row_norm);
        let compute = Compute::new(Isa::detect(), Par::Seq);
        match Trainer::over(&config, normalisation, None, &[], compute, Arc::new(comm)) {
            Err(Error::Config { key, why }) => {
                assert!(why.contains("2 ranks"), "{why}");
                key
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("accepted"),
        }
    };
    assert_eq!(refused(&|c| c.source = Source::Res), "source");
    assert_eq!(refused(&|c| (c.decoder, c.gate.kind) = (Decoder::Comp, GateKind::None)), "decoder");
    assert_eq!(refused(&|c| c.gate.kind = GateKind::Mul), "gate.kind");
    assert_eq!(refused(&|c| c.loss.consistency = Consistency::Sibling), "loss.consistency");
    assert_eq!(refused(&|c| c.level2.prune = 0.5), "level2.prune");
    assert_eq!(refused(&|c| c.train.prune = 0.5), "train.prune");
}
