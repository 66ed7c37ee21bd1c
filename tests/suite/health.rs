//! Runs that went wrong are reported: in the terminal, in their files, and in the report.

use std::fs;
use std::path::Path;

use serde_json::Value;
use strata_core::Dtype;
use strata_core::format::npy::NpyHeader;
use tempfile::TempDir;

use super::cli::{D, TINY, args, read_json, rows, strata, train_args, write_dump};

fn warnings(value: &Value) -> Vec<String> {
    value["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect()
}

/// Returns the warnings of the training and of the evaluation of a run, after it has checked that both are printed and
/// are in the report.
fn said(dump: &Path, run: &Path, sets: &[&str], code: i32) -> [Vec<String>; 2] {
    let trained = strata(&train_args(dump, run, sets)).ok();
    let evaluated = strata(&args!["eval", run, "--dump", dump]);
    assert_eq!(evaluated.code, code, "{}", evaluated.err);
    let info = read_json(&run.join("final_info.json"));
    let all =
        [warnings(&info[dump.file_name().unwrap().to_str().unwrap()]), warnings(&read_json(&run.join("eval.json")))];
    strata(&args!["report", run]).ok();
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    for (found, err) in all.iter().zip([&trained.err, &evaluated.err]) {
        for sentence in found {
            assert!(err.contains(&format!("warning: {sentence}\n")), "{sentence}: {err}");
            let words: Vec<&str> = sentence.split('`').collect();
            assert!(page.contains(words[0]), "{sentence} is not in the report");
        }
    }
    all
}

#[track_caller]
fn has(found: &[String], part: &str) {
    assert!(found.iter().any(|s| s.contains(part)), "`{part}` is not in {found:?}");
}

#[test]
fn a_learning_rate_of_one_collapses_and_that_is_said() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(3000), D);
    let [trained, evaluated] = said(&dump, &dir.path().join("run"), &["train.lr=1", "train.steps=150"], 0);
    for found in [&trained, &evaluated] {
        has(found, "worse than their mean row does (FVU ");
    }
    has(&trained, "% of the latents of level");
}

#[test]
fn a_file_that_was_not_filled_is_named_wherever_it_is_read() {
    let dir = TempDir::new().unwrap();
    let mut x = rows(2000);
    x.resize(3000 * D, 0.0);
    let dump = write_dump(&dir.path().join("dump"), &x, D);
    let tail = "rows 2000 to 2999 of the dump, to its end, are zeros: was the file filled?";
    let looked = strata(&args!["inspect", dump]);
    assert!(looked.code == 1 && looked.out.contains(tail), "{}", looked.out);
    let [trained, evaluated] = said(&dump, &dir.path().join("run"), &[], 1);
    has(&trained, tail);
    has(&trained, "the held-out rows are all equal");
    has(&evaluated, tail);
    has(&evaluated, "all 300 rows are equal, so that no score is defined");
    // Rows without a feature do not show that a level has collapsed.
    assert!(![&trained[..], &evaluated].concat().iter().any(|s| s.contains("collapsed") || s.contains("dead")));
}

#[test]
fn a_file_that_was_not_filled_is_named_if_others_follow_it() {
    let dir = TempDir::new().unwrap();
    let files = [("a", 700), ("b", 500), ("c", 800)].map(|(name, filled)| {
        let mut x = rows(filled);
        x.resize(1000 * D, 0.0);
        let bytes = [NpyHeader::bytes(Dtype::F32, 1000, D).unwrap(), bytemuck::cast_slice(&x).to_vec()].concat();
        let path = dir.path().join(name).with_extension("npy");
        fs::write(&path, bytes).unwrap();
        path
    });
    let [a, b, c] = &files;
    let inner =
        "rows 700 to 999 of the dump, to the end of `a.npy`, are zeros: was the file filled? (1 more file ends so)";
    let tail = "rows 2800 to 2999 of the dump, to its end, are zeros: was the file filled?";
    let looked = strata(&args!["inspect", a, b, c]);
    assert!(looked.code == 1 && looked.out.contains(inner) && looked.out.contains(tail), "{}", looked.out);
    let run = dir.path().join("run");
    let sets = TINY.iter().flat_map(|set| args!["--set", set]);
    let trained = strata(&args!["train", "--dump", a, b, c, "--out", run].into_iter().chain(sets).collect::<Vec<_>>());
    assert!(trained.ok().err.contains(&format!("warning: {inner}\nwarning: {tail}\n")));
    // Zeros that go on to the end of the dump are named once, and a file of zeros may be data.
    let zeros = dir.path().join("zeros.npy");
    fs::write(&zeros, [NpyHeader::bytes(Dtype::F32, 10, D).unwrap(), vec![0; 40 * D]].concat()).unwrap();
    let looked = strata(&args!["inspect", a, zeros]);
    assert!(looked.out.matches("was the file filled").count() == 1, "{}", looked.out);
    let looked = strata(&args!["inspect", zeros, a]);
    assert!(looked.out.matches("was the file filled").count() == 1, "{}", looked.out);
}

#[test]
fn held_out_rows_that_are_all_left_out_are_not_scored() {
    let dir = TempDir::new().unwrap();
    let mut x = rows(2000);
    x[1800 * D..].iter_mut().for_each(|v| *v *= 1000.0);
    let dump = write_dump(&dir.path().join("dump"), &x, D);
    let trained = strata(&train_args(&dump, &dir.path().join("run"), &[])).ok();
    assert!(trained.err.contains("on 0 held-out rows: nothing to score\n"), "{}", trained.err);
    assert!(!trained.err.contains("NaN") && !trained.err.contains("collapsed"), "{}", trained.err);
}

#[test]
fn few_rows_and_many_passes_are_said() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(40), D);
    let [trained, _] = said(&dump, &dir.path().join("run"), &[], 0);
    has(&trained, "the training went 40 times over its 36 rows");
    has(&trained, "there are fewer rows to train on (36) than latents (42)");
}
