//! Trainings have the same bits for any number of threads, on any instruction set, and after they are killed at any
//! moment and resumed.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use strata_core::synth::{World, WorldConfig};
use strata_core::{Isa, Philox};
use tempfile::TempDir;

use super::cli::{
    D, args, assert_no_leftovers, command, finish, hash, metrics, read_json, rows, strata, train, train_args, tree,
    weights, write_dump,
};

const SIGKILL: i32 = 9;

/// Write a checkpoint after every step, so that most kills happen during the writing of one.
const EVERY_STEP: &[&str] = &["train.checkpoint_every=1", "train.log_every=1"];

/// Settings with which every kind of state is carried from step to step.
const KINDS: &[&[&str]] = &[
    &[],
    &["train.long=0", "source=res", "source_start=0.5", "gate.start=0.3", "loss.w1_start=0.3", "loss.w1_end=0.2"],
    &["level1.activation=topk", "level2.activation=topk", "gate.kind=group-top1", "train.long=0"],
    &["level1.activation=jumprelu", "level2.activation=jumprelu", "gate.kind=none", "train.balance=norm"],
    &["level1.activation=gated", "level2.activation=gated", "gate.kind=mul", "train.balance=uncert"],
    &["level1.activation=relu", "level2.activation=relu", "gate.kind=add", "source=res", "train.balance=pcgrad"],
    &["train.prune=0.6", "level1.prune=1", "level2.prune=0.5", "gate.start=0.4"],
    &["train.row_norm=0.1", "train.encoder_norm=0.5", "gate.start=0.2"],
    &["decoder=comp", "source=z1", "gate.kind=none", "loss.consistency=latent"],
    &["loss.consistency=contain", "gate.parents=random", "gate.start=0", "train.balance=own"],
    &["model=seed", "gate.kind=mul", "level1.activation=relu", "level2.activation=relu", "loss.consistency=seed-cos"],
];

/// Writes a dump in which some rows are outliers, so that the cursor is ahead of `steps * batch`.
fn dump_with_outliers(path: &Path) {
    let mut all = rows(700);
    for i in [3, 60, 61, 62, 200, 333, 400, 555] {
        all[i * D..(i + 1) * D].iter_mut().for_each(|v| *v = *v * 100.0 + 50.0);
    }
    write_dump(path, &all, D);
}

fn with(mut all: Vec<OsString>, more: Vec<OsString>) -> Vec<OsString> {
    all.extend(more);
    all
}

/// Returns the step of the newest checkpoint of a run.
pub fn newest_checkpoint(run: &Path) -> Option<u64> {
    let names = fs::read_dir(run.join("checkpoints")).ok()?;
    names.filter_map(|e| e.ok()?.file_name().to_str()?.strip_prefix("step-")?.parse().ok()).max()
}

/// Starts the command and kills it as soon as `now` returns `true`. Returns whether it was still running.
pub fn killed(all: &[OsString], mut now: impl FnMut() -> bool) -> bool {
    let mut child = command(all).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let limit = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() && !now() {
        assert!(Instant::now() < limit, "a run that never ends");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    let done = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&done.stderr);
    let was_killed = done.status.signal() == Some(SIGKILL);
    assert!(was_killed || done.status.success(), "{}: {err}", done.status);
    assert!(!err.contains("panicked at"), "{err}");
    was_killed
}

/// The numbers of `final_info.json`, without those of the machine.
pub fn means(run: &Path) -> Value {
    let mut means = read_json(&run.join("final_info.json"))["dump"]["means"].take();
    let of_the_machine = ["total_train_time", "avg_inference_tokens_per_second", "cpu_seconds", "peak_resident_bytes"];
    means.as_object_mut().unwrap().retain(|key, _| !of_the_machine.contains(&key.trim_end_matches("_mean")));
    assert!(means["fvu2_mean"].is_number(), "{means}");
    means
}

#[track_caller]
pub fn assert_same_run(run: &Path, reference: &Path) {
    assert_eq!(weights(run), weights(reference), "the weights differ from those of a run that was not interrupted");
    let lines = |run: &Path| {
        let mut lines = metrics(run);
        for line in &mut lines {
            let of_the_machine = ["seconds", "tokens_per_s", "cpu_seconds", "peak_resident_bytes"];
            line.as_object_mut().unwrap().retain(|key, _| !of_the_machine.contains(&key.as_str()));
        }
        lines
    };
    assert_eq!(lines(run), lines(reference), "metrics.jsonl differs from that of a run that was not interrupted");
    let names = |run: &Path| tree(run).into_keys().collect::<Vec<_>>();
    assert_eq!(names(run), names(reference), "the files differ from those of a run that was not interrupted");
    assert_eq!(means(run), means(reference), "final_info.json differs from that of a run that was not interrupted");
}

#[test]
fn threads_and_instruction_sets_do_not_change_the_bits() {
    let dir = TempDir::new().unwrap();
    let dump = dir.path().join("dump");
    dump_with_outliers(&dump);
    for (i, sets) in KINDS.iter().enumerate() {
        let reference = dir.path().join(format!("{i}-reference"));
        train(&dump, &reference, sets);
        let isas = Isa::all_available();
        for (threads, isa) in (1..=3).map(|t| (t, isas[t % isas.len()])).chain(isas.iter().map(|i| (2, *i))) {
            let run = dir.path().join(format!("{i}-{threads}-{}", isa.name()));
            if run.exists() {
                continue;
            }
            let all = with(train_args(&dump, &run, sets), args!["--threads", threads.to_string()]);
            let mut command = command(&all);
            command.env("STRATA_SIMD", isa.name());
            finish(command).ok();
            assert_eq!(weights(&run), weights(&reference), "{sets:?}: {threads} threads, {}", isa.name());
        }
    }
}

/// A training of two levels, through the start of its gate, wide enough that encoders are screened where the machine
/// can: the weights and the codes of its rows.
#[test]
fn fifty_steps_and_an_encode_have_one_sha_256_at_each_instruction_set() {
    let dir = TempDir::new().unwrap();
    let dump = dir.path().join("dump");
    let (n, d) = (1500, 96);
    let world = WorldConfig { d, roots: 20, children: 6, flat: 10, ..WorldConfig::a() };
    let mut x = vec![0.0; n * d];
    World::new(&world).unwrap().sample(0, n, &mut x, None);
    write_dump(&dump, &x, d);
    let sets =
        &["train.steps=50", "level1.latents=520", "level2.latents=1040", "train.batch=96", "gate.root_below=0.2"];
    let mut found = Vec::new();
    for isa in Isa::all_available() {
        let run = dir.path().join(isa.name());
        let codes = dir.path().join(format!("{}.safetensors", isa.name()));
        let train = train_args(&dump, &run, sets);
        for all in [train, args!["encode", run, "--dump", dump, "--out", codes]] {
            let mut command = command(&all);
            command.env("STRATA_SIMD", isa.name());
            finish(command).ok();
        }
        let last = metrics(&run).pop().unwrap();
        assert!(last["step"] == 49 && last["gate_on"] == true, "{last}");
        let model = read_json(&run.join("sae/cfg.json"));
        found.push((isa.name(), weights(&run), hash(&codes), model));
    }
    for other in &found[1..] {
        assert_eq!(other.1, found[0].1, "weights of {} and {}", other.0, found[0].0);
        assert_eq!(other.2, found[0].2, "codes of {} and {}", other.0, found[0].0);
        assert_eq!(other.3, found[0].3);
    }
    assert!(fs::metadata(dir.path().join(format!("{}.safetensors", found[0].0))).unwrap().len() > 4 * n as u64);
}

#[test]
fn a_run_that_is_killed_again_and_again_gives_the_same_bits() {
    let dir = TempDir::new().unwrap();
    let dump = dir.path().join("dump");
    dump_with_outliers(&dump);
    let reference = dir.path().join("reference");
    let sets = &[EVERY_STEP, &["train.steps=60"]].concat();
    train(&dump, &reference, sets);

    let (mut kills, mut resumed) = (0, 0);
    for seed in 0..4 {
        let mut rng = Philox::new(seed, 0);
        let run = dir.path().join(format!("killed-{seed}"));
        let mut all = train_args(&dump, &run, sets);
        for _ in 0..5 {
            // At any moment some milliseconds after any of the next steps, the first time also before all of them.
            let from = newest_checkpoint(&run);
            let step = from.unwrap_or(0) + rng.below(10);
            let after = Duration::from_micros(rng.below(10_000));
            let mut reached = None;
            let now = || {
                if newest_checkpoint(&run).unwrap_or(0) >= step {
                    reached.get_or_insert_with(Instant::now);
                }
                reached.is_some_and(|at| at.elapsed() >= after)
            };
            if !killed(&all, now) {
                break;
            }
            kills += 1;
            resumed += usize::from(from.is_some());
            let other = (rng.below(3) + 1).to_string();
            all = with(train_args(&dump, &run, sets), args!["--resume", "--threads", other]);
        }
        strata(&with(train_args(&dump, &run, sets), args!["--resume"])).ok();
        assert_same_run(&run, &reference);
    }
    assert!(kills >= 12 && resumed >= 8, "{kills} kills, {resumed} of them of a resumed run: nothing was tested");
}

#[test]
fn a_run_that_is_killed_while_it_writes_a_checkpoint_goes_on() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    let reference = dir.path().join("reference");
    train(&dump, &reference, EVERY_STEP);
    let run = dir.path().join("run");
    let mut all = train_args(&dump, &run, EVERY_STEP);
    let mut inside = 0;
    for _ in 0..8 {
        let half_written = || {
            let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten();
            entries.filter_map(|e| e.ok()).any(|e| e.file_name().to_string_lossy().ends_with(".tmp"))
        };
        // Each kill is some checkpoints after the last one, so that the run proceeds.
        let from = newest_checkpoint(&run).unwrap_or(0);
        let finished = !killed(&all, || newest_checkpoint(&run).unwrap_or(0) > from + 1 && half_written());
        if finished {
            break;
        }
        inside += usize::from(half_written());
        all = with(train_args(&dump, &run, EVERY_STEP), args!["--resume"]);
    }
    assert!(inside > 0, "no kill met a checkpoint that was being written");
    strata(&all).ok();
    assert_same_run(&run, &reference);
}

#[test]
fn a_run_that_is_killed_before_its_first_checkpoint_starts_over() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    let sets = ["train.checkpoint_every=0", "train.steps=300"];
    let (reference, run) = (dir.path().join("reference"), dir.path().join("run"));
    train(&dump, &reference, &sets);
    let all = train_args(&dump, &run, &sets);
    let is_training = || fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|t| t.lines().count() > 2);
    assert!(killed(&all, is_training));
    assert_eq!(newest_checkpoint(&run), None);
    // The run has its settings, which need not be given again.
    strata(&args!["train", "--dump", dump, "--out", run, "--resume"]).ok();
    assert_same_run(&run, &reference);
}

#[test]
fn every_kind_of_run_goes_on_to_the_same_bits() {
    let dir = TempDir::new().unwrap();
    let dump = dir.path().join("dump");
    dump_with_outliers(&dump);
    let mut kills = 0;
    for (i, sets) in KINDS.iter().enumerate() {
        let (reference, run) = (dir.path().join(format!("{i}-reference")), dir.path().join(format!("{i}-run")));
        let sets = &[EVERY_STEP, &["train.steps=60"], sets].concat();
        train(&dump, &reference, sets);
        let mut all = train_args(&dump, &run, sets);
        // Before and after the gate starts (at step 24), and near the end.
        for stop in [4 + i as u64, 28, 40] {
            if !killed(&all, || newest_checkpoint(&run).is_some_and(|s| s >= stop)) {
                break;
            }
            kills += 1;
            all = with(train_args(&dump, &run, sets), args!["--resume"]);
        }
        strata(&with(train_args(&dump, &run, sets), args!["--resume"])).ok();
        assert_same_run(&run, &reference);
    }
    assert!(kills >= 2 * KINDS.len(), "{kills} kills: nothing was tested");
}

#[test]
fn ctrl_c_writes_a_checkpoint_and_says_how_to_go_on() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    let sets = ["train.checkpoint_every=0", "train.steps=2000"];
    let (reference, run) = (dir.path().join("reference"), dir.path().join("run"));
    train(&dump, &reference, &sets);
    let mut all = train_args(&dump, &run, &sets);
    for signal in ["INT", "TERM"] {
        let lines = || fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |t| t.lines().count());
        let before = lines();
        let mut child = command(&all).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        while lines() < before + 3 {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            sleep(Duration::from_millis(1));
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([format!("-{signal}").as_str(), &pid]).status().unwrap().success());
        let status = child.wait().unwrap();
        let err = std::io::read_to_string(child.stderr.unwrap()).unwrap();
        assert_eq!(status.code(), Some(130), "{err}");
        let step = newest_checkpoint(&run).unwrap();
        assert!((1..2000).contains(&step));
        assert!(err.contains(&format!("checkpoint was written after step {step}; continue with")), "{err}");
        assert!(err.contains("--resume"), "{err}");
        assert!(!run.join("sae").exists());
        assert_no_leftovers(&run);
        all = args!["train", "--dump", dump, "--out", run, "--resume"];
    }
    strata(&all).ok();
    assert_eq!(weights(&run), weights(&reference));
    assert_eq!(metrics(&run).len(), metrics(&reference).len());
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    let run = dir.path().join("run");
    train(&dump, &run, &[]);
    let before = tree(&run);
    let ran = strata(&args!["train", "--dump", dump, "--out", run, "--resume"]).ok();
    assert!(ran.err.contains("finished already"), "{}", ran.err);
    assert_eq!(tree(&run), before);
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    let before = tree(&run);
    strata(&args!["train", "--dump", dump, "--out", run, "--resume"]).ok();
    assert_eq!(tree(&run), before);
}

#[test]
fn a_finished_run_can_be_pruned_without_being_trained_again() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    let (run, other) = (dir.path().join("run"), dir.path().join("other"));
    let model =
        |run: &Path| ["sae/cfg.json", "sae/sae_weights.safetensors", "config.toml"].map(|name| hash(&run.join(name)));
    let again = |sets: &[&str]| strata(&with(train_args(&dump, &run, sets), args!["--resume"])).ok();
    let pruned = &["level1.prune=1.5", "level2.prune=0.5"];
    train(&dump, &run, &[]);
    let plain = model(&run);
    let said = again(pruned).err;
    assert!(said.contains("setting its thresholds again, for `level1.prune` 1.5 and `level2.prune` 0.5"), "{said}");
    // The result is that of a training with these settings from the start.
    train(&dump, &other, pruned);
    assert_eq!(model(&run), model(&other));
    assert_ne!(model(&run)[1], plain[1]);
    assert_eq!(metrics(&run).len(), metrics(&other).len());
    assert!(again(pruned).err.contains("is finished already"));
    again(&["level1.prune=0", "level2.prune=0"]);
    assert_eq!(model(&run), plain);
}

#[test]
fn a_run_killed_after_its_last_step_still_gets_its_summary() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    let (reference, run) = (dir.path().join("reference"), dir.path().join("run"));
    train(&dump, &reference, &[]);
    train(&dump, &run, &[]);
    fs::remove_file(run.join("final_info.json")).unwrap();
    fs::remove_dir_all(run.join("sae")).unwrap();
    strata(&args!["train", "--dump", dump, "--out", run, "--resume"]).ok();
    assert_same_run(&run, &reference);
}

#[test]
fn two_processes_do_not_train_one_run() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    let run = dir.path().join("run");
    let all = train_args(&dump, &run, &["train.steps=100000"]);
    let mut child = command(&all).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while newest_checkpoint(&run).is_none() {
        assert!(child.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(1));
    }
    let second = strata(&args!["train", "--dump", dump, "--out", run, "--resume"]);
    child.kill().unwrap();
    child.wait().unwrap();
    second.fails(&["run", "in use by another process"]);
}

#[test]
fn ctrl_c_leaves_no_half_of_a_file() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    let run = dir.path().join("run");
    train(&dump, &run, &[]);
    let large = write_dump(&dir.path().join("large"), &rows(600).repeat(500), D);
    let all = args!["encode", run, "--dump", large, "--out", dir.path().join("codes")];
    let mut child = command(&all).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let is_writing =
        || fs::read_dir(dir.path()).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().ends_with(".tmp"));
    while !is_writing() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        sleep(Duration::from_millis(1));
    }
    // `timeout` sends two signals, to a process and to its group.
    for _ in 0..2 {
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    }
    let status = child.wait().unwrap();
    let err = std::io::read_to_string(child.stderr.unwrap()).unwrap();
    assert_eq!((status.code(), err.lines().last()), (Some(130), Some("interrupted: nothing was written")), "{err}");
    assert!(!dir.path().join("codes").exists());
    assert_no_leftovers(dir.path());
}
