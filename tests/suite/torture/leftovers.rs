//! Leftovers of killed commands, and files in the way of output.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::fifo;
use crate::cli::{args, assert_no_leftovers, command, finish, read_json, strata, train_args, trained, tree, weights};
use crate::resume::killed;

/// Returns commands, and the output that each writes.
fn writers(dir: &Path, dump: &Path, run: &Path) -> Vec<(Vec<OsString>, &'static str)> {
    vec![
        (args!["synth", "--world", "a", "--rows", "50", "--out", dir.join("synth")], "synth"),
        (args!["capture", "--layer", "0", "--max-tokens", "256", "--out", dir.join("captured")], "captured"),
        (args!["encode", *run, "--dump", *dump, "--out", dir.join("codes")], "codes"),
        (args!["eval", *run, "--dump", *dump], "run/latents.jsonl"),
        (args!["report", *run], "run/report.html"),
        (train_args(dump, &dir.join("new"), &[]), "new"),
    ]
}

#[test]
fn leftovers_block_nothing_and_are_swept() {
    let (dir, dump, run) = trained(&[]);
    let dir = dir.path();
    for (all, name) in writers(dir, &dump, &run) {
        // Leftovers of a process with the id of this one, as happens in containers, and of any other process.
        let parent = dir.join(name).parent().unwrap().to_owned();
        let stem = Path::new(name).file_name().unwrap().to_string_lossy().into_owned();
        fs::write(parent.join(format!(".{stem}.1-0.strata.tmp")), "half").unwrap();
        let directory = parent.join(format!(".{stem}.00ff.strata.tmp"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("acts-00000.safetensors"), "half").unwrap();
        if name == "new" {
            fs::create_dir(dir.join("new")).unwrap();
            fs::write(dir.join("new/.config.toml.0.strata.tmp"), "half").unwrap();
            fs::remove_dir_all(&directory).unwrap();
            fs::remove_file(parent.join(".new.1-0.strata.tmp")).unwrap();
        }
        strata(&all).ok();
        assert!(dir.join(name).exists());
        assert_no_leftovers(dir);
    }
}

#[test]
fn a_killed_command_is_repeated() {
    let (dir, dump, run) = trained(&[]);
    let dir = dir.path();
    let half =
        |dir: &Path| fs::read_dir(dir).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().ends_with(".tmp"));
    let synth = |rows: &str| args!["synth", "--world", "a", "--rows", rows, "--out", dir.join("synth")];
    assert!(killed(&synth("20000000"), || half(dir)));
    assert!(half(dir), "something is left");
    strata(&synth("50")).ok();
    assert_no_leftovers(dir);
    // The output of a running process is not a leftover.
    let mut child = command(&synth_into(dir, "other", "20000000")).spawn().unwrap();
    while !half(dir) {
        assert!(child.try_wait().unwrap().is_none());
    }
    strata(&args!["encode", run, "--dump", dump, "--out", dir.join("codes")]).ok();
    assert!(half(dir), "what another process writes stays");
    child.kill().unwrap();
    child.wait().unwrap();
}

fn synth_into(dir: &Path, name: &str, rows: &str) -> Vec<OsString> {
    args!["synth", "--world", "a", "--rows", rows, "--out", dir.join(name)]
}

#[test]
fn only_regular_files_are_replaced() {
    let (dir, dump, run) = trained(&[]);
    let at = |name: &str| dir.path().join(name);
    fifo(&at("fifo"));
    symlink("/dev/null", at("null")).unwrap();
    symlink(at("nothing"), at("dangling")).unwrap();
    fs::create_dir(at("directory")).unwrap();
    for (name, why) in
        [("fifo", "a pipe"), ("null", "a device"), ("dangling", "leads nowhere"), ("directory", "it is a directory")]
    {
        let out = at(name);
        for all in [args!["encode", run, "--dump", dump, "--out", out, "--force"], args!["report", run, "--out", out]] {
            strata(&all).fails(&[name, why]);
        }
        if name != "directory" {
            for all in [
                args!["synth", "--world", "a", "--rows", "50", "--out", out],
                args!["eval", run, "--dump", dump, "--out", out],
                train_args(&dump, &out, &[]),
            ] {
                strata(&all).fails(&[name]);
            }
        }
        assert!(out.symlink_metadata().is_ok(), "{name} stays");
        if name != "directory" {
            fs::remove_file(out).unwrap();
        }
    }
    // A symbolic link remains, and the file that it points to is replaced.
    fs::write(at("codes"), "before").unwrap();
    symlink(at("codes"), at("link")).unwrap();
    strata(&args!["encode", run, "--dump", dump, "--out", at("link"), "--force"]).ok();
    assert!(at("link").is_symlink() && fs::read(at("codes")).unwrap() != b"before");
    assert_no_leftovers(dir.path());
}

#[test]
fn files_follow_the_umask() {
    let (dir, dump, _) = trained(&[]);
    let run = dir.path().join("shared");
    let strata = command(&train_args(&dump, &run, &[]));
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("umask 002; exec \"$0\" \"$@\"").arg(strata.get_program()).args(strata.get_args());
    finish(shell).ok();
    for name in tree(&run).keys() {
        let expected = if name.ends_with('/') { 0o775 } else { 0o664 };
        assert_eq!(fs::metadata(run.join(name)).unwrap().permissions().mode() & 0o777, expected, "{name}");
    }
}

#[test]
fn eval_writes_where_it_is_told() {
    let (dir, dump, run) = trained(&[]);
    let before = tree(&run);
    let out = dir.path().join("of/this/dump");
    let ran = strata(&args!["eval", run, "--dump", dump, "--out", out]).ok();
    assert!(ran.err.contains("of/this/dump/eval.json"), "{}", ran.err);
    assert_eq!(tree(&run), before);
    assert!(read_json(&out.join("eval.json"))["fidelity"].is_object() && out.join("latents.jsonl").exists());
    // Whether the output can be written is checked before anything is measured.
    fs::write(dir.path().join("file"), "mine").unwrap();
    let below = dir.path().join("file/below");
    let ran = strata(&args!["eval", run, "--dump", dump, "--out", below]).fails(&["file/below"]);
    assert!(ran.out.is_empty() && !ran.err.contains("comparing"), "{}", ran.err);
    assert_eq!(weights(&run).len(), 64);
}
