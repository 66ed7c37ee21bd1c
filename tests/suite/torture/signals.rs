//! One signal ends any command at any moment, and no partial files are left.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use tempfile::TempDir;

use super::signal;
use crate::cli::{D, args, assert_no_leftovers, command, rows, strata, train_args, trained, tree, write_dump};

#[test]
fn a_signal_ends_an_evaluation_between_its_passes() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    let run = dir.path().join("run");
    // Comparing so many directions with each other takes much longer than the test waits.
    let sets = ["level1.latents=40", "level2.latents=60000", "train.steps=2", "train.checkpoint_every=0"];
    strata(&train_args(&dump, &run, &sets)).ok();
    let before = tree(&run);
    let mut child =
        command(&args!["eval", run, "--dump", dump]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|l| l.starts_with("comparing families")), "it says what it does, a line each");
    signal("TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(lines.last().unwrap(), "interrupted: nothing was written");
    assert_eq!(tree(&run), before);
}

#[test]
fn a_signal_ends_the_drawing_of_a_dump() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("dump");
    let all = args!["synth", "--world", "a", "--rows", "4000000", "--out", out];
    let mut child = command(&all).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while fs::read_dir(dir.path()).unwrap().count() == 0 {
        assert!(child.try_wait().unwrap().is_none());
    }
    signal("TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_interrupted_demo_leaves_no_empty_directory() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("a/demo");
    let mut child = command(&args!["demo", "--out", out]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !out.exists() {
        assert!(child.try_wait().unwrap().is_none());
    }
    signal("INT", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(tree(dir.path()), Default::default());
}

#[test]
fn progress_is_told_in_lines_where_nothing_can_be_drawn() {
    let (dir, dump, _) = trained(&[]);
    let run = dir.path().join("long");
    let all = train_args(&dump, &run, &["train.steps=1000000", "train.checkpoint_every=0", "train.log_every=1000000"]);
    let mut child = command(&all).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|l| l.starts_with("training: ")).expect("a line of progress");
    signal("INT", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(line.contains(" %, "), "{line}");
    assert!(line.contains(" of 48,000,000 ") && line.contains("tokens/s") && !line.contains('\u{1b}'), "{line}");
    assert!(lines.last().unwrap().contains("continue with"));
    assert_no_leftovers(&run);
    // With `--quiet` there are no lines of progress.
    let ran = strata(&[train_args(&dump, &dir.path().join("quiet"), &[]), args!["--quiet"]].concat()).ok();
    assert!(ran.err.is_empty());
}
