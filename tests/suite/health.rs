//! Runs that went wrong are reported: in the terminal, in their files, and in the report.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::cli::{D, args, read_json, rows, strata, train_args, write_dump};

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
}

#[test]
fn few_rows_and_many_passes_are_said() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(40), D);
    let [trained, _] = said(&dump, &dir.path().join("run"), &[], 0);
    has(&trained, "the training went 40 times over its 36 rows");
    has(&trained, "there are fewer rows to train on (36) than latents (42)");
}
