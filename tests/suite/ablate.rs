//! `strata ablate`: every suite runs, finished runs are not repeated, and no number depends on the threads.

use super::synth_cli::{read_json, small_dump, strata};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Settings of a run that takes a fraction of a second.
const TINY: &str = "level1.latents=6 level1.k=1.5 level2.latents=12 level2.k=1.5 train.steps=6 train.batch=32 \
                    train.checkpoint_every=2 data.outlier=0.0 data.stats_rows=256";

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        small_dump(&dir.path().join("dump"), "600");
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `strata ablate` into `out` with the tiny settings and `more`.
    fn ablate(&self, out: &str, more: &[&str]) -> (u8, String, String) {
        let [dump, out] = ["dump", out].map(|n| self.path(n).to_str().expect("UTF-8").to_owned());
        let mut line = vec!["ablate", "--dump", &dump, "--out", &out];
        TINY.split_whitespace().for_each(|s| line.extend(["--set", s]));
        line.extend(more);
        strata(&line)
    }
}

fn report(out: &Path) -> Value {
    read_json(&out.join("ablation.json"))
}

fn rows(suite: &Value) -> Vec<&str> {
    suite["rows"].as_array().expect("rows").iter().map(|r| r["name"].as_str().expect("a name")).collect()
}

#[test]
fn every_built_in_suite_runs_with_its_reference_rows() {
    let place = Place::new();
    let (code, table, err) = place.ablate("out", &["--suite", "all", "--seeds", "1", "--set", "train.steps=3"]);
    assert_eq!(code, 0, "{err}");
    let found = report(&place.path("out"));
    let suites = found["suites"].as_array().expect("suites");
    assert_eq!(
        suites.iter().map(|s| s["name"].as_str().expect("a name")).collect::<Vec<_>>(),
        ["consistency", "gates", "sparsity-ratio", "balance", "baselines"]
    );
    for suite in suites {
        let names = rows(suite);
        let references =
            ["flat batchtopk", "matryoshka", "seed model", "random decoder", "random encoder", "near a random decoder"];
        assert_eq!(names[names.len() - 6..], references, "{suite}");
        assert!(names.contains(&suite["base"].as_str().expect("a base")), "{suite}");
        for row in suite["rows"].as_array().expect("rows") {
            assert!(row["mean"]["fvu2"].is_number() && row["mean"]["mcc"].is_number(), "{row}");
            assert!(table.contains(row["name"].as_str().expect("a name")));
        }
    }
    assert_eq!(rows(&suites[0]).len(), 1 + 5 * 5 + 2 + 6);
    // Rows with equal settings share their runs.
    let matryoshka = |s: &Value| s["rows"].as_array().expect("rows").iter().rev().nth(4).map(|r| r["runs"][0].clone());
    assert_eq!(matryoshka(&suites[0]), matryoshka(&suites[3]));
    let csv = fs::read_to_string(place.path("out").join("ablation.csv")).expect("a table");
    let lines: usize = suites.iter().map(|s| rows(s).len()).sum();
    assert_eq!(csv.lines().count(), 1 + lines);
    let commas = |line: &str| line.split('"').step_by(2).map(|part| part.matches(',').count()).sum::<usize>();
    assert!(csv.lines().all(|line| commas(line) == commas(csv.lines().next().expect("a header"))), "{csv}");
}

/// A user-defined suite with a base row and a grid.
const SWEEP: &str = r#"
base = "no gate"
loss.w1 = 0.5
[[run]]
name = "hard"
[[run]]
name = "no gate"
set = { gate.kind = "none" }
[grid]
"gate.kind" = ["none", "mul"]
"level1.k" = [1, 2]
"#;

#[test]
fn a_sweep_is_the_same_for_any_number_of_threads_and_after_a_kill() {
    let place = Place::new();
    let file = place.path("sweep.toml");
    fs::write(&file, SWEEP).expect("written");
    let line = ["--config", file.to_str().expect("UTF-8"), "--seeds", "2"];
    let (code, _, err) = place.ablate("out", &[&line[..], &["--threads", "3"]].concat());
    assert_eq!(code, 0, "{err}");
    let out = place.path("out");
    let whole = fs::read_to_string(out.join("ablation.json")).expect("a report");
    let suite = &report(&out)["suites"][0];
    assert_eq!(
        rows(suite),
        [
            "hard",
            "no gate",
            "gate.kind=\"none\", level1.k=1",
            "gate.kind=\"none\", level1.k=2",
            "gate.kind=\"mul\", level1.k=1",
            "gate.kind=\"mul\", level1.k=2"
        ]
    );
    assert_eq!(suite["base"], "no gate");
    assert_eq!(suite["rows"][1]["set"], serde_json::json!(["gate.kind=\"none\""]));
    assert_eq!(suite["rows"][1]["difference"], serde_json::json!({}));
    let difference = &suite["rows"][2]["difference"]["fvu1"];
    assert_eq!(difference["pairs"], 2);
    let by_hand = |seed: usize| -> f64 {
        let of = |row: usize| suite["rows"][row]["runs"][seed]["metrics"]["fvu1"].as_f64().expect("a number");
        of(2) - of(1)
    };
    let (a, b) = (by_hand(0), by_hand(1));
    assert!((difference["mean"].as_f64().expect("a number") - (a + b) / 2.0).abs() < 1e-12);
    let [low, high] = ["low", "high"].map(|k| difference[k].as_f64().expect("a number"));
    assert!(low >= a.min(b) - 1e-12 && high <= a.max(b) + 1e-12 && low <= high, "{difference}");

    // One thread gives the same numbers.
    let (code, _, err) = place.ablate("other", &[&line[..], &["--threads", "1"]].concat());
    assert_eq!(code, 0, "{err}");
    assert_eq!(fs::read_to_string(place.path("other").join("ablation.json")).expect("a report"), whole);

    // Kill one run in the middle of its training, and another before its evaluation.
    let dir = |row: usize, seed: usize| out.join(suite["rows"][row]["runs"][seed]["dir"].as_str().expect("a path"));
    let killed = dir(0, 1);
    for file in ["eval.json", "final_info.json"] {
        fs::remove_file(killed.join(file)).expect("a file");
    }
    fs::remove_dir_all(killed.join("sae")).expect("a model");
    fs::remove_dir_all(killed.join("checkpoints/step-000000006")).expect("the last checkpoint");
    fs::remove_file(dir(3, 0).join("eval.json")).expect("an evaluation");
    let untouched = fs::metadata(dir(1, 0).join("config.toml")).and_then(|m| m.modified()).expect("a time");
    fs::remove_file(out.join("ablation.json")).expect("a report");
    let (code, _, err) = place.ablate("out", &line);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("10 of 12 runs are there already"), "{err}");
    assert_eq!(fs::read_to_string(out.join("ablation.json")).expect("a report"), whole);
    assert_eq!(fs::metadata(dir(1, 0).join("config.toml")).and_then(|m| m.modified()).expect("a time"), untouched);
}

#[test]
fn the_experiment_leaves_the_summary_of_each_run_in_its_directory() {
    let place = Place::new();
    let (code, table, err) = place.ablate("out", &["--suite", "experiment"]);
    assert_eq!(code, 0, "{err}");
    for i in 1..=5 {
        let info = read_json(&place.path("out").join(format!("run_{i}")).join("final_info.json"));
        let means = &info["dump"]["means"];
        for key in ["final_train_loss_mean", "best_val_loss_mean", "total_train_time_mean"] {
            assert!(means[key].is_number(), "run_{i}: {key} in {info}");
        }
    }
    assert!(!place.path("out").join("run_6").exists());
    let all = read_json(&place.path("out").join("final_info.json"));
    assert_eq!(all.as_object().expect("runs").len(), 5, "{all}");
    let first = read_json(&place.path("out/run_1/final_info.json"));
    assert_eq!(all["run_1 (as set)"]["means"], first["dump"]["means"]);
    assert!(table.contains("run_5 (matryoshka)"), "a table that says what each run is: {table}");
    // Other settings for the same directory are refused and change nothing.
    let (code, _, err) = place.ablate("out", &["--suite", "experiment", "--set", "loss.w1=0.5"]);
    assert!(code == 1 && err.contains("other settings") && err.lines().count() == 1, "{err}");
}

#[test]
fn what_cannot_be_run_is_one_sentence_before_anything_runs() {
    let place = Place::new();
    let file = place.path("sweep.toml");
    let config = ["--config", file.to_str().expect("UTF-8")];
    for (text, more, word) in [
        ("", &[][..], "--suite"),
        ("[[run]]\nname = \"a\"\n[[run]]\nname = \"a\"", &[], "two rows"),
        ("base = \"b\"\n[[run]]\nname = \"a\"", &[], "no row"),
        ("[[run]]\nname = \"a\"\nset = { level1.kk = 3.0 }", &[], "level1.k"),
        ("[[run]]\nname = \"a\"\nsets = {}", &[], "sets"),
        ("[[run]]\nname = \"a\"\nset = { source = \"z1\", budget = \"shared\", gate.kind = \"none\" }", &[], "budget"),
        ("[grid]\n\"level1.k\" = 3", &[], "list"),
        ("level2.latents = 0", &["--suite", "gates", "--set", "level2.latents=0"], "two-level"),
        ("", &["--suite", "gates", "--seeds", "0"], "--seeds"),
        ("", &["--suite", "experiment", "--seeds", "2"], "one seed"),
    ] {
        fs::write(&file, text).expect("written");
        let (code, _, err) = place.ablate("out", &[&config[..], more].concat());
        assert!(code == 1 && err.contains(word), "{text:?} {more:?}: {err}");
        assert!(!place.path("out").exists(), "{text:?} {more:?}");
    }
}
