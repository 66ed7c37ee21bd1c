//! Rows that training leaves out: no score counts them, and every command says how many there are.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use strata_cli::dump::{DumpSpec, DumpWriter};
use strata_core::Dtype;
use tempfile::TempDir;

use super::cli::{D, args, read_json, rows, strata, train, train_args};

/// Rows of a sequence without its first one.
const T: usize = 127;
/// Sequences.
const S: usize = 24;
/// The token of the first rows, of [`VOCAB`].
const BOS: u32 = 2;
const VOCAB: [&str; 3] = ["a", "7", "<s>"];

/// The median norm of `x`.
fn median(x: &[f32]) -> f32 {
    let mut norms: Vec<f32> = x.chunks(D).map(|row| row.iter().map(|v| v * v).sum::<f32>().sqrt()).collect();
    norms.sort_by(f32::total_cmp);
    norms[norms.len() / 2]
}

/// A dump of `S` sequences of `T` rows; with `sinks`, each begins with one more row, of 170 times the median norm: what
/// the first token of a sequence is in many language models.
fn dump(path: &Path, sinks: bool, tokens: bool) -> PathBuf {
    let x = rows(S * T);
    let size = 170.0 * median(&x);
    let context = Some(if sinks { T + 1 } else { T });
    let vocab = tokens.then(|| VOCAB.map(String::from).to_vec());
    let spec = DumpSpec { context, vocab, ..DumpSpec::new(D, Dtype::F32) };
    let mut writer = DumpWriter::create(path, spec).unwrap();
    for (s, sequence) in x.chunks(T * D).enumerate() {
        if sinks {
            // The long rows have nearly one direction, as in real models.
            let row: Vec<f32> = (0..D).map(|j| size / 4.0 * (1.0 + 0.01 * ((s + j) % 5) as f32)).collect();
            writer.append(&row, tokens.then_some(&[BOS][..])).unwrap();
        }
        let own: Vec<u32> = (0..T as u32).map(|t| t % 2).collect();
        writer.append(sequence, tokens.then_some(&own[..])).unwrap();
    }
    writer.finish().unwrap();
    path.to_owned()
}

fn eval(run: &Path, dump: &Path) -> Value {
    strata(&args!["eval", run, "--dump", dump, "--all"]).ok();
    read_json(&run.join("eval.json"))
}

/// Asserts that two evaluations are the same except for positions and numbers of rows.
fn same(mut a: Value, mut b: Value) {
    for e in [&mut a, &mut b] {
        for key in ["dump", "rows", "left_out", "patterns", "passes", "warnings"] {
            e.as_object_mut().unwrap().remove(key);
        }
    }
    close("", &a, &b);
}

/// Asserts that two values are equal up to the last bits of sums over blocks of rows.
fn close(at: &str, a: &Value, b: &Value) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{at}");
            a.iter().for_each(|(key, v)| close(&format!("{at}.{key}"), v, &b[key]));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{at}");
            a.iter().zip(b).for_each(|(a, b)| close(&format!("{at}[]"), a, b));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-9 * a.abs().max(1.0), "{at}: {a} {b}");
        }
        (a, b) => assert_eq!(a, b, "{at}"),
    }
}

#[test]
fn rows_of_170_times_the_median_norm_change_no_score() {
    let dir = TempDir::new().unwrap();
    let (plain, sinks) = (dump(&dir.path().join("plain"), false, false), dump(&dir.path().join("sinks"), true, false));
    let run = dir.path().join("run");
    train(&plain, &run, &[]);
    let cfg = read_json(&run.join("sae/cfg.json"));
    let limit = cfg["origin"]["left_out"]["norm_limit"].as_f64().unwrap() as f32;
    let expected = 10.0 * median(&rows(S * T));
    assert!((limit - expected).abs() < 0.1 * expected, "{limit} {expected}");
    let (a, b) = (eval(&run, &plain), eval(&run, &sinks));
    assert_eq!((&a["left_out"]["over_limit"], &b["left_out"]["over_limit"]), (&json!(0), &json!(S)));
    assert_eq!(a["left_out"]["fvu_of_all"], json!([a["fidelity"]["level1"]["fvu"], a["fidelity"]["level2"]["fvu"]]));
    for level in 0..2 {
        let (with, without) = (&b["left_out"]["fvu_of_all"][level], &a["left_out"]["fvu_of_all"][level]);
        let (with, without) = (with.as_f64().unwrap(), without.as_f64().unwrap());
        assert!((with - without).abs() > 0.01, "the rows hold nearly all of the variance: {with} {without}");
    }
    same(a, b);
}

#[test]
fn a_training_says_what_it_leaves_out_and_scores_without_it() {
    let dir = TempDir::new().unwrap();
    let (sinks, run) = (dump(&dir.path().join("sinks"), true, false), dir.path().join("run"));
    let ran = strata(&train_args(&sinks, &run, &["train.steps=60"])).ok();
    assert!(ran.err.contains("leaving out about ") && ran.err.contains("`data.outlier`"), "{}", ran.err);
    let info = &read_json(&run.join("final_info.json"))["sinks"];
    let (met, left_out) = (info["rows"]["met"].as_u64().unwrap(), info["rows"]["left_out"].as_u64().unwrap());
    assert!(left_out > 0 && met - left_out == 60 * 48, "{info}");
    assert!(ran.err.contains(&format!("left out {left_out} of the {met} rows read")), "{}", ran.err);
    // A tenth of the rows, in whole sequences, are the last three sequences.
    let held_out = &info["held_out"];
    assert_eq!((&held_out["rows"], &held_out["left_out"]["over_limit"]), (&json!(3 * T), &json!(3)));
    assert_eq!(info["asked_l0"], json!([2.0, 3.0]));

    let found = strata(&args!["eval", run, "--dump", sinks]).ok();
    let e = read_json(&run.join("eval.json"));
    assert_eq!((&e["rows"], &e["fidelity"]["tokens"]), (&json!([21 * 128, 3 * 128]), &json!(3 * T)));
    for (l, level) in ["level1", "level2"].iter().enumerate() {
        for (a, b) in [
            (&held_out["fvu"][l], &e["fidelity"][level]["fvu"]),
            (&held_out["fvu_of_all"][l], &e["left_out"]["fvu_of_all"][l]),
            (&held_out["l0"][l], &e[level]["l0_mean"]),
        ] {
            // The training computes its scores on normalised rows.
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() < 1e-3 * b.abs(), "{level}: {a} {b}");
        }
    }
    for part in ["381 held-out rows of sinks", "left out as in training: 3 rows with a norm over", "  asked for"] {
        assert!(found.out.contains(part), "`{part}` is not in\n{}", found.out);
    }
    let page = dir.path().join("page.html");
    strata(&args!["report", run, "--out", page]).ok();
    assert!(fs::read_to_string(page).unwrap().contains("3 rows are left out"));
}

#[test]
fn positions_and_tokens_are_left_out_by_name_in_training_and_evaluation() {
    let dir = TempDir::new().unwrap();
    let (plain, sinks) = (dump(&dir.path().join("plain"), false, true), dump(&dir.path().join("sinks"), true, true));
    let (reference, by_norm) = (dir.path().join("reference"), dir.path().join("norm"));
    train(&sinks, &by_norm, &[]);
    train(&plain, &reference, &["data.outlier=0"]);
    let weights = |run: &Path| fs::read(run.join("sae/sae_weights.safetensors")).unwrap();
    for (name, set, expected) in [
        ("first", "data.skip_first=1", json!({"skip_first": 1, "skip_tokens": [], "norm_limit": null})),
        ("id", "data.skip_tokens=[2]", json!({"skip_first": 0, "skip_tokens": [2], "norm_limit": null})),
        ("text", "data.skip_tokens=[\"<s>\"]", json!({"skip_first": 0, "skip_tokens": [2], "norm_limit": null})),
    ] {
        let run = dir.path().join(name);
        train(&sinks, &run, &["data.outlier=0", set]);
        assert_eq!(read_json(&run.join("sae/cfg.json"))["origin"]["left_out"], expected);
        // The same rows are left out, whichever setting says so, and the weights are the same.
        assert!(weights(&run) == weights(&by_norm), "{name}");
        let e = eval(&run, &sinks);
        assert_eq!((&e["left_out"]["named"], &e["left_out"]["over_limit"]), (&json!(S), &json!(0)), "{name}");
        if name != "first" {
            same(eval(&run, &plain), e);
        }
        strata(&args!["probe", run, "--dump", sinks, "--labels", "chars"]);
        let probe = read_json(&run.join("probe.json"));
        assert_eq!(probe["rows_left_out"], json!({"over_limit": 0, "named": S}), "{name}");
    }
}

#[test]
fn names_that_a_dump_does_not_know_are_refused() {
    let dir = TempDir::new().unwrap();
    let sinks = dump(&dir.path().join("sinks"), true, true);
    let bare = dir.path().join("sinks/shard_00000.safetensors");
    let bare = if bare.exists() { bare } else { first_shard(&sinks) };
    let fails = |dump: &Path, set: &str, parts: &[&str]| {
        let run = dir.path().join("run");
        strata(&train_args(dump, &run, &[set])).fails(parts);
        assert!(!run.exists());
    };
    fails(&sinks, "data.skip_tokens=[\"<bos>\"]", &["data.skip_tokens", "no token with the text `<bos>`"]);
    fails(&bare, "data.skip_tokens=[2]", &["data.skip_tokens", "does not say the tokens"]);
    fails(&bare, "data.skip_first=1", &["data.skip_first", "where its sequences begin"]);
    fails(&sinks, "data.skip_first=500", &["left out"]);
    let run = dir.path().join("named");
    train(&sinks, &run, &["data.skip_first=1"]);
    strata(&args!["eval", run, "--dump", bare]).fails(&["trained without the first rows of every sequence"]);
}

fn first_shard(dump: &Path) -> PathBuf {
    let manifest = read_json(&dump.join("dump.json"));
    dump.join(manifest["shards"][0]["file"].as_str().unwrap())
}

#[test]
fn inspect_says_what_happens_to_long_rows() {
    let dir = TempDir::new().unwrap();
    let sinks = dump(&dir.path().join("sinks"), true, false);
    let found = strata(&args!["inspect", sinks]).ok();
    let line = found.out.lines().find(|l| l.starts_with("outlier rows")).unwrap();
    assert!(line.contains("24 (over ten times the median norm; training and evaluation leave them out"), "{line}");
    assert!(found.out.contains("ready to train on"), "{}", found.out);
}
