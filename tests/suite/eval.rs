//! `strata eval` on dumps of text: its records of latents compared with brute force, its intervals, and that its bits
//! do not depend on threads.

use super::cli::{D, args, read_json, rows, strata, train};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use strata_cli::dump::{Dump, DumpSpec, DumpWriter};
use strata_cli::eval::latents::{self, Context, LatentRecord};
use strata_cli::run::Run;
use strata_core::{Codes, Dtype, Isa, Par, ROOT};
use tempfile::TempDir;

const N: usize = 1500;
/// Lengths of the sequences, repeated to the end of the dump.
const LENGTHS: [usize; 4] = [40, 1, 7, 100];
/// Names of the tokens: some are hostile.
const VOCAB: [&str; 5] = ["a", "</script>", "\"\n", "é", ""];

/// Rows of a small world; the token of a row is told by its largest entry. Returns the first row of every sequence.
fn write_text(path: &Path, sequences: bool) -> Vec<usize> {
    let x = rows(N);
    let largest = |row: &[f32]| (0..D).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
    let tokens: Vec<u32> = x.chunks(D).map(|row| (largest(row) % VOCAB.len()) as u32).collect();
    let spec = DumpSpec { vocab: Some(VOCAB.map(String::from).to_vec()), ..DumpSpec::new(D, Dtype::F32) };
    let mut writer = DumpWriter::create(path, spec).unwrap();
    let (mut starts, mut at) = (Vec::new(), 0);
    for length in LENGTHS.iter().cycle() {
        let end = (at + length).min(N);
        if sequences {
            writer.start_sequence();
        }
        starts.push(at);
        writer.append(&x[at * D..end * D], Some(&tokens[at..end])).unwrap();
        at = end;
        if at == N {
            break;
        }
    }
    writer.finish().unwrap();
    starts
}

pub fn trained_on_text() -> (TempDir, PathBuf, PathBuf, Vec<usize>) {
    let dir = TempDir::new().unwrap();
    let (dump, run) = (dir.path().join("dump"), dir.path().join("run"));
    let starts = write_text(&dump, true);
    train(&dump, &run, &[]);
    (dir, dump, run, starts)
}

fn codes_of(run: &Path, dump: &Path) -> [Codes; 2] {
    let dump = Dump::open(&[dump.to_owned()], None).unwrap();
    let mut x = vec![0.0; N * D];
    dump.read_range(0, N, &mut x).unwrap();
    let mut codes = [Codes::new(), Codes::new()];
    let [one, two] = &mut codes;
    let encoder = Run::open(run).unwrap().encoder(Isa::detect()).unwrap();
    encoder.encode_par(Par::Seq, &x, one, two).unwrap();
    codes
}

/// Asserts that a window has the activations of its rows.
#[track_caller]
fn check_window(c: &Context, value: &impl Fn(usize) -> f32) {
    let first = c.row as usize - c.peak;
    let fires: Vec<(u16, f32)> =
        (0..c.length).map(|at| (at as u16, value(first + at))).filter(|(_, v)| *v > 0.0).collect();
    let found: Vec<(u16, f32)> = c.at.iter().copied().zip(c.values.iter().copied()).collect();
    assert_eq!(found, fires, "activations of the window around row {}", c.row);
    assert!(c.peak <= 96 && c.length - c.peak <= 49, "row {}: {} of {} rows", c.row, c.peak, c.length);
}

#[test]
fn records_of_latents_are_what_the_codes_say() {
    let (_dir, dump, run, starts) = trained_on_text();
    strata(&args!["eval", run, "--dump", dump, "--all"]).ok();
    let records = latents::read(&run.join("latents.jsonl")).unwrap();
    let model = Run::open(&run).unwrap().model;
    assert_eq!(records.len(), model.arch.level[0].latents + model.arch.level[1].latents);
    let opened = Dump::open(std::slice::from_ref(&dump), None).unwrap();
    let (tokens, codes) = (opened.tokens().unwrap(), codes_of(&run, &dump));
    let sequence = |row: usize| starts.partition_point(|s| *s <= row) - 1;
    let (mut contexts, mut sampled, mut weak, mut with_children) = (0, 0, 0, 0);
    for (i, r) in records.iter().enumerate() {
        let level = usize::from(i >= model.arch.level[0].latents);
        assert_eq!((r.level as usize, r.latent as usize), (level + 1, i - level * model.arch.level[0].latents));
        let value = |row: usize| {
            let code = codes[level].row(row);
            code.index.iter().position(|j| *j == r.latent).map_or(0.0, |at| code.value[at])
        };
        let fires: Vec<usize> = (0..N).filter(|row| value(*row) > 0.0).collect();
        assert_eq!(r.fires, fires.len() as u64);
        // Numbers read from JSON may differ in their last bit.
        let is = |found: Option<f64>, wanted: Option<f64>| match (found, wanted) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-15 * b.abs(),
            (a, b) => a == b,
        };
        assert!(is(Some(r.density), Some(fires.len() as f64 / N as f64)));
        let mass: f64 = fires.iter().map(|row| f64::from(value(*row))).sum();
        assert!(is(r.mean, (!fires.is_empty()).then(|| mass / fires.len() as f64)));

        // The row of the largest activation of each sequence, the first among equals; of these the ten largest.
        let mut best: BTreeMap<usize, usize> = BTreeMap::new();
        for &row in &fires {
            let strongest = best.entry(sequence(row)).or_insert(row);
            if value(row) > value(*strongest) {
                *strongest = row;
            }
        }
        let mut best: Vec<usize> = best.into_values().collect();
        best.sort_by(|a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
        best.truncate(10);
        assert_eq!(r.contexts.iter().map(|c| c.row as usize).collect::<Vec<_>>(), best);
        for c in &r.contexts {
            let first = c.row as usize - c.peak;
            check_window(c, &value);
            assert!(sequence(first) == sequence(c.row as usize), "a context lies in one sequence");
            assert_eq!(sequence(first + c.length - 1), sequence(first));
            let text = (first..first + c.length).map(|row| VOCAB[tokens[row] as usize]);
            assert_eq!(c.tokens, text.collect());
            contexts += 1;
        }
        // Sampled contexts are not among the strongest, have activations of all sizes, and state the share of weaker
        // ones.
        for c in &r.sampled {
            check_window(c, &value);
            assert!(!best.contains(&(c.row as usize)) && value(c.row as usize) == c.strength() && c.strength() > 0.0);
            let weaker = fires.iter().filter(|row| value(**row) < c.strength()).count() as f64 / fires.len() as f64;
            let bar = r.histogram.counts[(f64::from(c.strength()) / r.histogram.width) as usize] as f64;
            assert!((c.quantile - weaker).abs() <= bar / fires.len() as f64, "{} for {weaker}", c.quantile);
        }
        let quarter = |q: usize| r.sampled.iter().filter(|c| (4.0 * c.quantile).min(3.0) as usize == q).count();
        assert!((0..4).all(|q| quarter(q) <= 3) && r.sampled.windows(2).all(|w| w[0].strength() >= w[1].strength()));
        sampled += r.sampled.len();
        weak += quarter(0);

        assert_eq!(r.histogram.counts.iter().sum::<u64>(), fires.len() as u64);
        for (bar, count) in r.histogram.counts.iter().enumerate() {
            let inside = |row: &&usize| (f64::from(value(**row)) / r.histogram.width) as usize == bar;
            assert_eq!(*count, fires.iter().filter(inside).count() as u64, "bar {bar} of {i}");
        }
        // The children that fire in a window, in descending order of activation within a row.
        for c in r.contexts.iter().chain(&r.sampled) {
            let first = c.row as usize - c.peak;
            let mut expected = Vec::new();
            for at in 0..c.length {
                let code = codes[1].row(first + at);
                let is_own = |j: &u32| level == 0 && model.parents[*j as usize] == r.latent;
                let mut fire: Vec<(u32, f32)> =
                    code.index.iter().zip(code.value).filter(|(j, _)| is_own(j)).map(|(j, v)| (*j, *v)).collect();
                fire.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                expected.extend(fire.into_iter().take(4).map(|(j, v)| (at as u16, j, v)));
            }
            let k = &c.children;
            let found = k.at.iter().zip(&k.child).zip(&k.values).map(|((at, j), v)| (*at, *j, *v));
            assert_eq!(found.collect::<Vec<_>>(), expected);
            with_children += usize::from(!expected.is_empty());
        }
        assert!(is(r.max, best.first().map(|row| f64::from(value(*row)))));

        let mut shares: BTreeMap<&str, f64> = BTreeMap::new();
        fires.iter().for_each(|row| *shares.entry(VOCAB[tokens[*row] as usize]).or_default() += f64::from(value(*row)));
        assert_eq!(r.tokens.len(), shares.len());
        assert!(r.tokens.windows(2).all(|w| w[0].1 >= w[1].1));
        for (token, share) in &r.tokens {
            assert!((share - shares[token.as_str()] / mass).abs() < 1e-12, "{token:?} of {i}");
        }
        let parent = model.parents.get(r.latent as usize).copied().filter(|p| level == 1 && *p != ROOT);
        assert_eq!(r.parent, parent);
        if level == 0 {
            let mut children = r.children.clone();
            children.sort_unstable();
            let of = |j: &u32| model.parents[*j as usize] == r.latent;
            assert_eq!(children, (0..model.arch.level[1].latents as u32).filter(of).collect::<Vec<_>>());
            let fires = |j: &u32| records[model.arch.level[0].latents + *j as usize].fires;
            assert!(r.children.windows(2).all(|w| fires(&w[0]) >= fires(&w[1])));
        }
        assert!(r.neighbours.len() == 8 && r.neighbours.windows(2).all(|w| w[0].2 >= w[1].2));
        assert!(!r.neighbours.iter().any(|n| (n.0, n.1) == (r.level, r.latent)), "nothing is its own neighbour");
        assert!(r.promotes.is_empty() && r.suppresses.is_empty(), "no language model was named");
    }
    assert!(contexts > 100, "{contexts}");
    assert!(
        sampled > 100 && weak > 20 && with_children > 20,
        "{sampled} drawn, {weak} weak, {with_children} with children"
    );
    let eval = read_json(&run.join("eval.json"));
    assert_eq!(eval["gated"]["containment_by_construction"], 1.0);
    assert!(eval["composition"]["containment"].as_f64().unwrap() < 1.0, "what the gate cuts is not what it leaves");
    let with_parent: Vec<&LatentRecord> = records.iter().filter(|r| r.parent.is_some()).collect();
    assert!(!with_parent.is_empty(), "the test is about families too");
    for r in with_parent.iter().filter(|r| r.fires > 0) {
        // Without the gate a child may fire where its parent does not.
        assert!(r.containment.is_some_and(|p| (0.0..=1.0).contains(&p)) && r.gain.is_some());
        assert!(r.divergence.is_some_and(|d| d >= 0.0));
    }
}

#[test]
fn an_evaluation_has_the_same_bits_for_any_number_of_threads() {
    let (_dir, dump, run, _) = trained_on_text();
    let files = |threads: &str| {
        strata(&args!["eval", run, "--dump", dump, "--all", "--threads", *threads]).ok();
        ["eval.json", "latents.jsonl"].map(|name| fs::read(run.join(name)).unwrap())
    };
    let one = files("1");
    assert!(one == files("2") && one == files("3"), "eval.json or latents.jsonl depends on the number of threads");
}

#[test]
fn intervals_are_around_what_they_are_of() {
    let (_dir, dump, run, starts) = trained_on_text();
    let found = strata(&args!["eval", run, "--dump", dump, "--all", "--json"]).ok().json();
    for (name, at) in [
        ("fvu1", "/fidelity/level1/fvu"),
        ("fvu2", "/fidelity/level2/fvu"),
        ("gain", "/fidelity/gain"),
        ("l0_1", "/level1/l0_mean"),
        ("l0_2", "/level2/l0_mean"),
    ] {
        let number = |at: &str| found.pointer(at).and_then(serde_json::Value::as_f64).unwrap();
        let interval = |part: &str| number(&format!("/intervals/{name}/{part}"));
        let value = number(at);
        // The intervals are computed from errors that were rounded to f32.
        assert!((interval("value") - value).abs() <= 1e-6 * value.abs(), "{name}: {} and {value}", interval("value"));
        assert!(interval("low") < value && value < interval("high"), "{name}");
        assert_eq!(interval("blocks"), starts.len().min(32) as f64);
    }
}

#[test]
fn a_run_agrees_with_itself_and_less_with_another_seed() {
    let (dir, dump, run, _) = trained_on_text();
    let other = dir.path().join("other");
    train(&dump, &other, &["seed=1"]);
    let stability = |against: &Path| {
        let ran = strata(&args!["eval", run, "--dump", dump, "--against", *against, "--json"]).ok();
        let found = ran.json();
        assert_eq!(found["against"].as_str(), against.file_name().and_then(|name| name.to_str()));
        found["stability"].clone()
    };
    let itself = stability(&run);
    for level in ["level1", "level2"] {
        assert!((itself[level]["mcc"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{}", itself[level]["mcc"]);
    }
    assert_eq!(itself["edge_agreement"], 1.0);
    let another = stability(&other);
    assert!(another["level1"]["mcc"].as_f64().unwrap() < 0.99, "{}", another["level1"]["mcc"]);
    assert!(another["edge_agreement"].as_f64().unwrap() < 1.0);
    let table = strata(&args!["eval", run, "--dump", dump, "--against", other]).ok().out;
    let after = table.split("against other\n").nth(1).unwrap_or_else(|| panic!("no part of its own:\n{table}"));
    assert!(after.contains("children with a parent, found again") && after.contains("of those, with the same parent"));
}

#[test]
fn what_a_dump_does_not_say_is_null() {
    let dir = TempDir::new().unwrap();
    let (dump, run) = (dir.path().join("dump"), dir.path().join("run"));
    super::cli::write_dump(&dump, &rows(N), D);
    train(&dump, &run, &[]);
    let found = strata(&args!["eval", run, "--dump", dump, "--all", "--json"]).ok().json();
    assert!(found["coherence"]["topics"].is_null() && found["coherence"]["tokens"].is_null());
    assert!(found["similarity"]["token"]["connected"].is_null() && found["stability"].is_null());
    assert!(found["similarity"]["decoder"]["connected"].is_number());
    let records = latents::read(&run.join("latents.jsonl")).unwrap();
    assert!(records.iter().all(|r| r.tokens.is_empty() && r.contexts.iter().all(|c| c.tokens.is_empty())));
    assert!(records.iter().any(|r| !r.contexts.is_empty()));

    // A flat model has no families.
    let flat = dir.path().join("flat");
    train(&dump, &flat, &["level2.latents=0", "gate.kind=none"]);
    let found = strata(&args!["eval", flat, "--dump", dump, "--json"]).ok();
    let found = found.json();
    for part in ["level2", "composition", "coherence", "similarity"] {
        assert!(found[part].is_null(), "{part}");
    }
    assert!(found["structure"]["level2"].is_null() && found["structure"]["level1"]["c_dec"].is_number());
    let read = read_json(&flat.join("eval.json"));
    assert_eq!(read, found);
}

#[test]
fn a_model_of_another_width_is_refused() {
    let (_dir, dump, run, _) = trained_on_text();
    let lm = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/assets/char-gpt");
    strata(&args!["eval", run, "--dump", dump, "--model", lm]).fails(&["rows of width 16", "has width 128"]);
}
