//! The bytes that ranks send in a step of a training, stage by stage, are those of the formulas of `docs/distributed.md`.

use crate::ranks::{BATCH, D, config, flat, rows};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use strata_cli::dump::Dump;
use strata_cli::feed::Reader;
use strata_cli::row_filter::RowFilter;
use strata_core::config::{Activation, Consistency, GateKind};
use strata_core::normalise::Normalisation;
use strata_core::train::comm::{GROUP, Threads};
use strata_core::train::{Array, Comm, Solo, State, StepReport, Trainer};
use strata_core::{Compute, Config, Isa, Par, ROOT};
use tempfile::TempDir;

/// Bytes by stage.
type Bytes = BTreeMap<&'static str, u64>;

/// Runs every rank of `size` in a thread of its own, and returns the bytes that all of them have sent between the two calls of
/// the function that `rank` is given, and what the first rank returns.
fn sent_by<T: Send>(size: usize, rank: impl Fn(Arc<dyn Comm>, &mut dyn FnMut()) -> T + Sync) -> (Bytes, T) {
    let mut sent = Bytes::new();
    let mut returned = Vec::new();
    std::thread::scope(|scope| {
        let rank = &rank;
        let threads = Threads::new(size).into_iter().map(|comm| {
            scope.spawn(move || {
                let comm = Arc::new(comm);
                let mut marks = Vec::new();
                let returned = rank(comm.clone(), &mut || marks.push(comm.sent_bytes()));
                let [before, after] = &marks[..] else { panic!("{} marks", marks.len()) };
                let of = |(stage, bytes): (&&'static str, &u64)| {
                    (*stage, *bytes - before.get(stage).copied().unwrap_or_default())
                };
                (after.iter().map(of).collect::<Bytes>(), returned)
            })
        });
        for thread in threads.collect::<Vec<_>>() {
            let (own, value) = thread.join().expect("a rank");
            own.into_iter().filter(|(_, bytes)| *bytes > 0).for_each(|(stage, n)| *sent.entry(stage).or_default() += n);
            returned.push(value);
        }
    });
    (sent, returned.swap_remove(0))
}

/// Trains up to a step, calls `mark` before and after that step, and returns the states before and after it with what it and the
/// step before it report.
fn advance(config: &Config, step: u64, comm: Arc<dyn Comm>, mark: &mut dyn FnMut()) -> ([State; 2], [StepReport; 2]) {
    let normalisation = Normalisation::identity(D, config.data.row_norm);
    let compute = Compute::new(Isa::detect(), Par::Seq);
    let mut trainer = Trainer::over(config, normalisation, None, &[], compute, comm).expect("a run");
    let mut reports = [StepReport::default(); 2];
    for at in 0..step {
        reports[0] = trainer.step(&rows(BATCH, D, 1 + at)[..]).expect("a step");
    }
    let before = trainer.state();
    mark();
    reports[1] = trainer.step(&rows(BATCH, D, 1 + step)[..]).expect("a step");
    mark();
    ([before, trainer.state()], reports)
}

/// One step of a run, in one process.
struct Seen {
    states: [State; 2],
    /// Of the step before it, and of itself.
    reports: [StepReport; 2],
}

impl Seen {
    fn of(config: &Config, step: u64) -> Self {
        let (states, reports) = advance(config, step, Arc::new(Solo), &mut || ());
        Self { states, reports }
    }

    fn f32(&self, name: &str) -> &[f32] {
        let Some(Array::F32(v)) = self.states[0].0.get(name) else { panic!("`{name}`") };
        v
    }

    /// What an array of statistics is after the step, and before it.
    fn f64(&self, name: &str) -> [&[f64]; 2] {
        [1, 0].map(|at| {
            let Some(Array::F64(v)) = self.states[at].0.get(name) else { panic!("`{name}`") };
            &v[..]
        })
    }

    /// The pre-activations of level 1 on the rows of the step, row after row.
    fn pre_activations(&self, step: u64) -> Vec<Vec<f32>> {
        let [w, bias, b_dec] =
            ["level1.w_enc", "level1.b_enc", "b_dec"].map(|name| self.f32(&format!("params.{name}")));
        let x = rows(BATCH, D, 1 + step);
        let of_row = |x: &[f32]| {
            let of = |(w, b): (&[f32], &f32)| {
                w.iter().zip(x.iter().zip(b_dec)).map(|(w, (x, c))| w * (x - c)).sum::<f32>() + b
            };
            w.chunks(D).zip(bias).map(of).collect()
        };
        x.chunks(D).map(of_row).collect()
    }
}

/// Compares the bytes of a step over `size` ranks with what is expected of each stage, and of no other one.
fn compare(what: &str, config: &Config, step: u64, size: usize, expected: &[(&'static str, f64)]) {
    let (found, _) = sent_by(size, |comm, mark| drop(advance(config, step, comm, mark)));
    let stages = |of: &mut dyn Iterator<Item = &'static str>| of.collect::<BTreeSet<_>>();
    let [with, wanted] =
        [&mut found.keys().copied() as &mut dyn Iterator<Item = _>, &mut expected.iter().map(|e| e.0)].map(stages);
    assert_eq!(with, wanted, "{what}: stages with messages");
    for (stage, expected) in expected {
        let (found, expected) = (found[stage] as f64, expected * (size - 1) as f64);
        assert!(
            (found / expected - 1.0).abs() < 0.05,
            "{what}: {stage} over {size} ranks: {found} bytes, expected {expected}"
        );
    }
}

/// Rows and their width.
const ND: f64 = (BATCH * D) as f64;
const N: f64 = BATCH as f64;

/// What every step sends, over `R - 1`: codes, sums, biases and norms.
fn always(config: &Config, l0: [f64; 2], size: usize) -> Vec<(&'static str, f64)> {
    let levels: Vec<_> = [&config.level1, &config.level2].into_iter().filter(|level| level.latents > 0).collect();
    let groups: Vec<f64> = levels.iter().map(|level| level.latents.div_ceil(GROUP) as f64).collect();
    let sum = |of: &dyn Fn(usize) -> f64| (0..levels.len()).map(of).sum::<f64>();
    // Tensors of one number per latent beside the biases.
    let more = |l: usize| match levels[l].activation {
        Activation::Jumprelu => 1.0,
        Activation::Gated => 2.0,
        _ => 0.0,
    };
    vec![
        ("codes", sum(&|l| 4.0 * N * size as f64 + 8.0 * N * l0[l])),
        ("sums", sum(&|_| 2.0 * 4.0 * ND)),
        // The gradient of the encoder biases of level 1 has two parts where there are two levels.
        ("bias", 4.0 * D as f64 * sum(&|l| groups[l] * if l == 0 { levels.len() as f64 } else { 1.0 })),
        // Encoder, decoder, bias and the activation's own; and the three sums of the norms that a balance reads.
        ("norms", sum(&|l| (3.0 + more(l)) * 8.0 * groups[l]) + 24.0 * groups[0]),
    ]
}

/// What a selection of the `k` largest per row sends.
fn selection(k: f64, size: usize) -> f64 {
    4.0 * N * size as f64 * (k + 1.0)
}

fn two(activation: Activation) -> Config {
    let mut config = config();
    (config.level1.activation, config.level2.activation) = (activation, activation);
    (config.gate.kind, config.loss.aux) = (GateKind::None, 0.0);
    config
}

#[test]
fn the_bytes_of_topk_are_those_of_the_formula() {
    let mut one = flat(Activation::Topk);
    one.loss.aux = 0.0;
    for (config, size) in [&one, &two(Activation::Topk)].into_iter().flat_map(|config| [(config, 2), (config, 3)]) {
        let k = [config.level1.k, if config.level2.latents > 0 { config.level2.k } else { 0.0 }];
        let mut expected = always(config, k, size);
        expected.push(("selection", k.iter().filter(|k| **k > 0.0).map(|k| selection(*k, size)).sum()));
        compare("topk", config, 0, size, &expected);
    }
}

#[test]
fn the_bytes_of_batchtopk_are_those_of_its_candidates() {
    let mut config = flat(Activation::Batchtopk);
    config.loss.aux = 0.0;
    let step = 5;
    let seen = Seen::of(&config, step);
    // Both thresholds, then both floors.
    let (floor, tau) = (seen.f32("thresholds")[2], seen.reports[0].tau[0]);
    assert!(floor > 0.0 && tau > 0.0, "{floor} {tau}");
    let candidates = seen.pre_activations(step).iter().flatten().filter(|u| **u > floor.min(tau)).count() as f64;
    assert!(candidates > N * config.level1.k, "{candidates} candidates");
    for size in 2..=3 {
        let mut expected = always(&config, seen.reports[1].losses.l0, size);
        expected.push(("selection", 4.0 * candidates));
        compare("batchtopk", &config, step, size, &expected);
    }
}

#[test]
fn the_bytes_of_penalties_and_of_gated_levels_are_those_of_the_formula() {
    for activation in [Activation::Relu, Activation::Jumprelu, Activation::Gated] {
        for mut config in [flat(activation), two(activation)] {
            config.loss.aux = 0.0;
            (config.level1.lambda, config.level2.lambda) = (0.01, 0.01);
            let levels = if config.level2.latents > 0 { 2 } else { 1 };
            let step = 3;
            let seen = Seen::of(&config, step);
            let l0 = seen.reports[1].losses.l0;
            for size in 2..=3 {
                let mut expected = always(&config, l0, size);
                let of = |l: usize| 4.0 * N * size as f64 + 8.0 * N * l0[l];
                expected.push(("penalty", (0..levels).map(of).sum()));
                if activation == Activation::Gated {
                    expected.push(("gated", levels as f64 * 2.0 * 4.0 * ND));
                }
                compare(&format!("{activation}, {levels} levels"), &config, step, size, &expected);
            }
        }
    }
}

#[test]
fn the_bytes_of_auxk_are_those_of_the_formula() {
    let step = 6;
    for mut config in [flat(Activation::Topk), two(Activation::Topk)] {
        (config.loss.aux, config.revive.dead_after) = (1.0 / 32.0, BATCH as u64);
        (config.level1.k, config.level2.k) = (2.0, 2.0);
        let seen = Seen::of(&config, step);
        let levels = if config.level2.latents > 0 { 2 } else { 1 };
        let k_aux = config.revive.k_aux as f64;
        let dead = seen.reports[1].dead;
        // So many that every rank finds `k_aux` of them on every row.
        assert!(dead[..levels].iter().all(|dead| *dead > 100), "{dead:?}");
        let k = [config.level1.k, config.level2.k];
        for size in 2..=3 {
            let mut expected = always(&config, k, size);
            expected.push(("selection", k[..levels].iter().map(|k| selection(*k, size)).sum()));
            expected.push(("auxk", levels as f64 * (selection(k_aux, size) + 2.0 * 4.0 * ND)));
            compare(&format!("AuxK, {levels} levels"), &config, step, size, &expected);
        }
    }
}

/// How many choices children tell at first: the best parents, 8 at most, that have a large enough share of each child.
fn choices(config: &Config, seen: &Seen) -> f64 {
    let Some(Array::U16(both)) = seen.states[0].0.get("cofire.both") else { panic!("counts") };
    // Four words of a header, of which the first is the number of tokens.
    let of = |row: &[u16]| {
        let shares = row[4..].iter().map(|n| f64::from(*n) / f64::from(row[0].max(1)));
        shares.filter(|share| *share > 0.0 && *share >= config.gate.root_below).count().min(8)
    };
    both.chunks(4 + config.level1.latents).map(of).sum::<usize>() as f64
}

#[test]
fn the_bytes_of_families_and_containment_are_those_of_the_formula() {
    // Counts of co-firing are taken, and families assigned, in this step.
    let step = 16;
    for kind in [GateKind::Hard, GateKind::GroupTop1] {
        let mut config = two(Activation::Topk);
        (config.level2.activation, config.level2.lambda, config.level2.control) = (Activation::Relu, 0.01, false);
        (config.gate.kind, config.gate.start, config.gate.root_below) = (kind, 0.4, 0.06);
        config.loss.consistency = Consistency::Contain;
        // No family is full, so that no child asks for more choices; and no child dies.
        (config.gate.family_cap, config.revive.dead_after) = (1e9, 1 << 40);
        let seen = Seen::of(&config, step);
        let l0 = seen.reports[1].losses.l0;
        let Some(Array::U32(parents)) = seen.states[1].0.get("parents") else { panic!("parents") };
        let [[after, before], [tokens, _]] = ["child", "tokens"].map(|name| seen.f64(&format!("cofire.{name}")));
        // The weight of a row, in a step that stands for 16.
        let weight = 16.0 * tokens[1];
        let above = |j: usize| (after[j] - before[j]) / weight;
        let all: f64 = (0..after.len()).map(above).sum();
        let with_parent: f64 = (0..after.len()).filter(|j| parents[*j] != ROOT).map(above).sum();
        assert!(
            with_parent > 0.1 * all && with_parent < 0.95 * all,
            "{all} pre-activations, {with_parent} with a parent"
        );
        let choices = choices(&config, &seen);
        assert!(choices > 300.0, "{choices} choices");
        for size in 2..=3 {
            let ranks = size as f64;
            let mut expected = always(&config, l0, size);
            expected.push(("selection", selection(config.level1.k, size)));
            expected.push(("penalty", 4.0 * N * ranks + 8.0 * N * l0[1]));
            expected.push(("ungated", 4.0 * N * ranks + 8.0 * all + 4.0 * with_parent));
            expected.push(("assignment", 5.0 * config.level2.latents as f64 + 12.0 * choices));
            if kind == GateKind::GroupTop1 {
                expected.push(("families", 4.0 * ranks * N * l0[0]));
            }
            compare(kind.name(), &config, step, size, &expected);
        }
    }
}

#[test]
fn the_bytes_of_the_rows_are_those_of_the_formula() {
    let dir = TempDir::new().expect("a directory");
    let (batch, d) = (700, crate::cli::D);
    let path = crate::cli::write_dump(&dir.path().join("dump"), &crate::cli::rows(3000), d);
    for size in 2..=4 {
        let (found, _) = sent_by(size, |comm, mark| {
            let dump = Dump::open(std::slice::from_ref(&path), None).expect("a dump");
            let (config, filter) = (Config::default(), RowFilter::none(Isa::detect()));
            let normalisation = Normalisation::identity(d, config.data.row_norm);
            let reader = Reader::new(&dump, dump.n_rows(), &config, &filter, normalisation, 0).expect("a reader");
            let read = reader.sent_to_others(comm).ahead(batch, 2, |feed| {
                feed.next_batch()?;
                mark();
                feed.next_batch()?;
                mark();
                Ok(())
            });
            read.expect("two batches");
        });
        let (found, expected) = (found["rows"] as f64, (4 * batch * d * (size - 1)) as f64);
        assert!((found / expected - 1.0).abs() < 0.05, "rows to {size} ranks: {found} bytes, expected {expected}");
    }
}
