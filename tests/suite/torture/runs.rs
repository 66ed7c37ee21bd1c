//! Runs that are started twice, lose files, find other rows in their dump, or are continued to more steps.

use std::fs;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::cli::{
    D, args, assert_no_leftovers, command, metrics, read_json, rows, strata, train, train_args, trained, tree, weights,
    write_dump,
};
use crate::resume::{assert_same_run, means};

#[test]
fn two_new_trainings_into_one_directory_are_told_apart() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    for round in 0..6 {
        let run = dir.path().join(format!("new/run-{round}"));
        let children = [1, 2].map(|seed| {
            let all = [train_args(&dump, &run, &[]), args!["--seed", seed.to_string()]].concat();
            command(&all).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        });
        let done = children.map(|child| child.wait_with_output().unwrap());
        let codes = [0, 1].map(|i| done[i].status.code().unwrap());
        let winner = codes.iter().position(|c| *c == 0).expect("one is trained");
        assert_eq!(codes[1 - winner], 1, "the other is refused");
        let err = String::from_utf8_lossy(&done[1 - winner].stderr).into_owned();
        assert!(err.contains("in use by another process") || err.contains("exists already"), "{err}");
        let config = fs::read_to_string(run.join("config.toml")).unwrap();
        assert!(config.contains(&format!("seed = {}\n", winner + 1)), "{config}");
        assert_eq!(read_json(&run.join("sae/cfg.json"))["origin"]["seed"], winner + 1);
        assert_eq!(metrics(&run).len(), 9);
        assert_no_leftovers(dir.path());
    }
}

#[test]
fn what_cannot_be_trained_leaves_no_directory_behind() {
    let dir = TempDir::new().unwrap();
    let equal = write_dump(&dir.path().join("equal"), &rows(1).repeat(50), D);
    let before = tree(dir.path());
    strata(&train_args(&equal, &dir.path().join("a/b/run"), &[])).fails(&["rows that vary"]);
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn a_resumed_run_has_the_summary_of_an_unbroken_one() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    for seed in 0..6 {
        let run = dir.path().join(seed.to_string());
        let sets = [
            format!("seed={seed}"),
            "train.checkpoint_every=1".into(),
            "train.log_every=1".into(),
            "source=res".into(),
            "train.balance=pcgrad".into(),
        ];
        train(&dump, &run, &sets.each_ref().map(String::as_str));
        let expected = means(&run);
        fs::remove_file(run.join("final_info.json")).unwrap();
        fs::remove_dir_all(run.join("checkpoints/step-000000030")).unwrap();
        strata(&args!["train", "--dump", dump, "--out", run, "--resume"]).ok();
        assert_eq!(means(&run), expected);
    }
}

#[test]
fn a_finished_run_without_its_model_makes_it_again() {
    let (_dir, dump, run) = trained(&[]);
    let before = tree(&run);
    let resume = args!["train", "--dump", dump, "--out", run, "--resume"];
    fs::remove_dir_all(run.join("sae")).unwrap();
    strata(&args!["eval", run, "--dump", dump]).fails(&["continue with `strata train --resume`"]);
    strata(&resume).ok();
    assert_eq!(tree(&run), before);
    fs::remove_file(run.join("sae/cfg.json")).unwrap();
    strata(&resume).ok();
    assert_eq!(tree(&run), before);
    for gone in ["sae", "checkpoints"] {
        fs::remove_dir_all(run.join(gone)).unwrap();
    }
    strata(&resume).fails(&["finished, but its model is gone", "no checkpoint", "another --out"]);
}

#[test]
fn a_resumed_run_notices_a_changed_row() {
    let dir = TempDir::new().unwrap();
    let mut all = rows(600);
    let dump = write_dump(&dir.path().join("dump"), &all, D);
    let run = dir.path().join("run");
    train(&dump, &run, &[]);
    fs::remove_file(run.join("final_info.json")).unwrap();
    let before = tree(&run);
    // A row that the fingerprint does not read.
    all[123 * D + 5] += 1e-3;
    fs::remove_dir_all(&dump).unwrap();
    write_dump(&dump, &all, D);
    let resume = args!["train", "--dump", dump, "--out", run, "--resume"];
    strata(&resume).fails(&["rows of dump have changed", "expected the same rows", "another --out"]);
    assert_eq!(tree(&run), before);
    all[123 * D + 5] = rows(600)[123 * D + 5];
    fs::remove_dir_all(&dump).unwrap();
    write_dump(&dump, &all, D);
    strata(&resume).ok();
}

#[test]
fn a_run_that_is_not_there_cannot_be_resumed() {
    let (dir, dump, run) = trained(&[]);
    let nowhere = dir.path().join("nowhere");
    strata(&args!["train", "--dump", dump, "--out", nowhere, "--resume"])
        .fails(&["nowhere does not exist", "--resume"]);
    assert!(!nowhere.exists());
    let sae = run.join("sae");
    strata(&args!["train", "--dump", dump, "--out", sae, "--resume"]).fails(&["sae is no run", "config.toml"]);
}

/// Settings with which a step does not depend on the total number of steps.
const CONSTANT: &[&str] = &[
    "level1.activation=topk",
    "level2.activation=topk",
    "train.warmup=0",
    "train.decay=0",
    "train.long=1e9",
    "gate.start=0",
    "gate.freeze=1",
    "loss.w1_start=1",
    "source_start=0",
];

#[test]
fn a_finished_run_is_trained_further_to_the_bits_of_a_longer_one() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    let (long, run) = (dir.path().join("long"), dir.path().join("run"));
    train(&dump, &long, &[CONSTANT, &["train.steps=53"]].concat());
    train(&dump, &run, CONSTANT);
    assert_ne!(weights(&run), weights(&long));
    let further = args!["train", "--dump", dump, "--out", run, "--resume", "--set", "train.steps=53"];
    let ran = strata(&further).ok();
    assert!(ran.err.contains("training to 53 steps instead of 30: the result is that of 53 steps"), "{}", ran.err);
    assert_eq!(weights(&run), weights(&long));
    let config = |run: &std::path::Path| fs::read_to_string(run.join("config.toml")).unwrap();
    assert_eq!(config(&run), config(&long));
    assert_eq!(read_json(&run.join("sae/cfg.json")), read_json(&long.join("sae/cfg.json")));
    assert!(strata(&further).ok().err.contains("finished already"));
    // The tracked thresholds of batch-top-k depend on the number of steps, so that a training that was continued has
    // others, and the command says that the result differs.
    let tracked = ["level1.activation=batchtopk", "level2.activation=batchtopk"];
    let (long, run) = (dir.path().join("long-b"), dir.path().join("run-b"));
    train(&dump, &long, &[CONSTANT, &tracked, &["train.steps=1000"]].concat());
    let state = |run: &std::path::Path, step: u64| {
        fs::read(run.join(format!("checkpoints/step-{step:09}/state.safetensors"))).unwrap()
    };
    train(&dump, &run, &[CONSTANT, &tracked, &["train.steps=998", "train.checkpoint_every=0"]].concat());
    let ran = strata(&args!["train", "--dump", dump, "--out", run, "--resume", "--set", "train.steps=1000"]).ok();
    assert!(ran.err.contains("the result differs"), "the tracker slows down at half of the steps: {}", ran.err);
    assert_ne!(state(&run, 1000), state(&long, 1000));
}

#[test]
fn a_finished_run_without_a_whole_checkpoint_is_not_trained_further_in_silence() {
    let (_dir, dump, run) = trained(&[]);
    for entry in fs::read_dir(run.join("checkpoints")).unwrap() {
        let state = entry.unwrap().path().join("state.safetensors");
        if state.exists() {
            fs::write(state, "").unwrap();
        }
    }
    let resume = |steps: &str| {
        strata(&args!["train", "--dump", dump, "--out", run, "--resume", "--set", format!("train.steps={steps}")])
    };
    resume("60").fails(&["is finished after 30 steps", "no whole checkpoint", "another --out"]);
    assert!(resume("30").ok().err.contains("is finished already"));
}

#[test]
fn training_further_says_where_the_schedule_does_not_allow_the_same_bits() {
    let (_dir, dump, run) = trained(&[]);
    let ran = strata(&args!["train", "--dump", dump, "--out", run, "--resume", "--set", "train.steps=40"]).ok();
    let note = "training to 40 steps instead of 30: the result differs from that of 40 steps from the start";
    assert!(ran.err.contains(note) && ran.err.contains("`train.steps`"), "{}", ran.err);
    assert_eq!(metrics(&run).last().unwrap()["step"], 39);
    assert_eq!(read_json(&run.join("sae/cfg.json"))["origin"]["steps"], 40);
}

#[test]
fn a_model_carries_its_own_checksum() {
    let (_dir, dump, run) = trained(&[]);
    let eval = args!["eval", run, "--dump", dump];
    for name in ["sae_weights.safetensors", "cfg.json"] {
        let path = run.join("sae").join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        // Change the lowest bit of a weight, or a digit of the origin, so that both files can still be parsed.
        let at = match name {
            "cfg.json" => good.windows(9).position(|w| w == b"\"steps\": ").unwrap() + 9,
            _ => good.len() - 4,
        };
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        strata(&eval).fails(&[name, "damaged or was changed", "SHA-256", "SHA256SUMS"]);
        fs::write(&path, &good).unwrap();
        strata(&eval).ok();
    }
    // The checksums have the format of `sha256sum`; models of other tools have none.
    let sums = fs::read_to_string(run.join("sae/SHA256SUMS")).unwrap();
    assert!(sums.contains(&format!("{}  sae_weights.safetensors\n", weights(&run))), "{sums}");
    fs::remove_file(run.join("sae/SHA256SUMS")).unwrap();
    strata(&eval).ok();
}

#[test]
fn thresholds_of_infinity_in_a_checkpoint_do_not_loop() {
    let (_dir, dump, run) = trained(&[]);
    let (state, reference) = (run.join("checkpoints/step-000000030"), weights(&run));
    let path = state.join("state.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let at = file.tensor("thresholds").unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize;
    bytes[at + 8..at + 12].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    fs::write(state.join("state.sha256"), strata_cli::checkpoint::sha256(&bytes)).unwrap();
    fs::remove_file(run.join("final_info.json")).unwrap();
    let ran = strata(&args!["train", "--dump", dump, "--out", run, "--resume"]).ok();
    assert!(ran.err.contains("tensor `thresholds`: expected finite numbers"), "{}", ran.err);
    assert_eq!(weights(&run), reference);
}

/// In a container, a directory of the image (the lower layer of an overlay) cannot be renamed, so that the checkpoints
/// of a run in the image must be replaced in another way.
#[test]
fn a_run_in_the_lower_layer_of_an_overlay_is_resumed() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["lower", "tmp", "merged"] {
        fs::create_dir(at(name)).unwrap();
    }
    let mount = |all: &[&str], on: &std::path::Path| {
        Command::new("mount").args(all).arg(on).output().is_ok_and(|o| o.status.success())
    };
    struct Unmounted(Vec<std::path::PathBuf>);
    impl Drop for Unmounted {
        fn drop(&mut self) {
            for at in self.0.iter().rev() {
                let _ = Command::new("umount").arg("-l").arg(at).status();
            }
        }
    }
    let mut mounted = Unmounted(Vec::new());
    let dump = write_dump(&at("dump"), &rows(600), D);
    let reference = at("reference");
    train(&dump, &reference, &["train.checkpoint_every=2"]);
    train(&dump, &at("lower/run"), &["train.checkpoint_every=2"]);
    fs::remove_file(at("lower/run/final_info.json")).unwrap();
    fs::remove_dir_all(at("lower/run/sae")).unwrap();
    fs::rename(at("lower/run/checkpoints/step-000000028"), at("lower/run/checkpoints/step-000000010")).unwrap();
    fs::remove_file(at("lower/run/checkpoints/step-000000030/state.sha256")).unwrap();
    fs::rename(at("lower/run/checkpoints/step-000000010"), at("lower/run/checkpoints/step-000000028")).unwrap();
    if !mount(&["-t", "tmpfs", "tmpfs"], &at("tmp")) {
        eprintln!("SKIPPED: no right to mount a file system");
        return;
    }
    mounted.0.push(at("tmp"));
    fs::create_dir(at("tmp/upper")).unwrap();
    fs::create_dir(at("tmp/work")).unwrap();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        at("lower").display(),
        at("tmp/upper").display(),
        at("tmp/work").display()
    );
    if !mount(&["-t", "overlay", "overlay", "-o", &options], &at("merged")) {
        eprintln!("SKIPPED: no right to mount an overlay");
        return;
    }
    mounted.0.push(at("merged"));
    let run = at("merged/run");
    strata(&args!["train", "--dump", dump, "--out", run, "--resume"]).ok();
    assert_same_run(&run, &reference);
}
