//! `strata train` in several processes that exchange messages over TCP: the files of one process, in shards and out of
//! them, and what is said when a process ends.

use crate::cli::{Ran, args, command, finish, rows, strata, write_dump};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Settings with latents for three ranks at level 2, and for two at level 1.
const SETTINGS: &[&str] = &[
    "level1.latents=300",
    "level1.k=4",
    "level2.latents=700",
    "level2.k=5",
    "train.batch=96",
    "train.log_every=4",
    "train.checkpoint_every=7",
    "gate.start=0.4",
    "gate.reassign_every=3",
    "gate.min_count=1",
    "revive.dead_after=300",
    "data.block=16",
    "data.window=8",
    "data.stats_rows=512",
];

fn dump_of(dir: &TempDir) -> std::path::PathBuf {
    write_dump(&dir.path().join("dump"), &rows(3000), crate::cli::D)
}

fn train_args(dump: &Path, run: &Path, steps: u64, more: &[&str]) -> Vec<OsString> {
    let mut all =
        args!["--threads", "1", "train", "--dump", dump, "--out", run, "--set", format!("train.steps={steps}")];
    SETTINGS.iter().for_each(|s| all.extend(args!["--set", s]));
    all.extend(more.iter().map(OsString::from));
    all
}

/// A port of this machine that is free.
fn port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Starts one process for each list of arguments.
fn start(of: &[Vec<OsString>]) -> Vec<Child> {
    let port = port().to_string();
    let start = |(rank, args): (usize, &Vec<OsString>)| {
        let mut command = command(args);
        let size = of.len().to_string();
        let variables =
            [("RANK", &rank.to_string()), ("WORLD_SIZE", &size), ("MASTER_PORT", &port)].map(|(n, v)| (n, v.clone()));
        command.envs(variables).env("MASTER_ADDR", "127.0.0.1").stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("a process")
    };
    of.iter().enumerate().map(start).collect()
}

/// Waits for all processes.
fn wait(processes: Vec<Child>) -> Vec<Ran> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let ran = |process: Child| {
        let done = process.wait_with_output().expect("a process");
        Ran { code: done.status.code().unwrap_or(-1), out: text(done.stdout), err: text(done.stderr) }
    };
    processes.into_iter().map(ran).collect()
}

fn train_over(size: usize, args: Vec<OsString>) {
    for (rank, ran) in wait(start(&vec![args; size])).into_iter().enumerate() {
        let ran = ran.ok();
        assert!(rank == 0 || (ran.out.is_empty() && ran.err.is_empty()), "rank {rank} prints: {}{}", ran.out, ran.err);
    }
}

/// The lines of `metrics.jsonl` without what depends on time and memory.
fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let line = |line: &str| {
        let mut value: Value = serde_json::from_str(line).expect("a line of JSON");
        let map = value.as_object_mut().expect("an object");
        for key in ["tokens_per_s", "seconds", "cpu_seconds", "peak_resident_bytes"] {
            assert!(map.remove(key).is_some(), "{key}");
        }
        value
    };
    text.lines().map(line).collect()
}

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    for file in ["sae/sae_weights.safetensors", "sae/cfg.json", "sae/SHA256SUMS", "config.toml"] {
        let read = |run: &Path| fs::read(run.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(read(one) == read(other), "{file} differs");
    }
    assert_eq!(metrics(one), metrics(other));
}

#[test]
fn ranks_write_the_files_of_one_process_and_each_goes_on_with_the_checkpoint_of_the_other() {
    let dir = TempDir::new().expect("a directory");
    let dump = dump_of(&dir);
    let [solo, three, mixed] = ["solo", "three", "mixed"].map(|name| dir.path().join(name));
    strata(&train_args(&dump, &solo, 30, &[])).ok();
    train_over(3, train_args(&dump, &three, 30, &[]));
    assert_same(&solo, &three);
    let last = three.join("checkpoints/step-000000030");
    let mut names: Vec<_> = fs::read_dir(&last)
        .expect("a checkpoint")
        .map(|e| e.expect("an entry").file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected =
        ["manifest.json", "state-0-of-3.safetensors", "state-1-of-3.safetensors", "state-2-of-3.safetensors"];
    assert_eq!(names, expected);

    // Trained further: by two ranks, by one process, and by four ranks.
    let longer = |size: usize, run: &Path, steps| match size {
        1 => drop(strata(&train_args(&dump, run, steps, &["--resume"])).ok()),
        _ => train_over(size, train_args(&dump, run, steps, &["--resume"])),
    };
    train_over(2, train_args(&dump, &mixed, 30, &[]));
    for (size, steps) in [(1, 40), (4, 50), (2, 60)] {
        longer(size, &mixed, steps);
        longer(1, &solo, steps);
    }
    assert_same(&solo, &mixed);
}

#[test]
fn a_killed_rank_ends_the_others_with_one_sentence_and_any_number_goes_on() {
    let dir = TempDir::new().expect("a directory");
    let dump = dump_of(&dir);
    let [solo, run] = ["solo", "run"].map(|name| dir.path().join(name));
    strata(&train_args(&dump, &solo, 400, &[])).ok();
    let mut processes = start(&vec![train_args(&dump, &run, 400, &[]); 3]);
    let checkpoint = run.join("checkpoints/step-000000007/manifest.json");
    let begun = Instant::now();
    while !checkpoint.exists() && !run.join("checkpoints/step-000000014").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    processes[1].kill().expect("rank 1 is killed");
    let killed = Instant::now();
    let ran = wait(processes);
    assert!(killed.elapsed() < Duration::from_secs(5), "the others ended after {:?}", killed.elapsed());
    let errors: Vec<&str> = ran[0].err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(matches!(&errors[..], [line] if line.contains("has ended") && line.contains("--resume")), "{}", ran[0].err);
    assert_eq!((ran[0].code, ran[2].code, &*ran[2].err), (1, 1, ""), "the others are silent");
    train_over(2, train_args(&dump, &run, 400, &["--resume"]));
    assert_same(&solo, &run);
}

#[test]
fn ranks_that_differ_and_launchers_that_do_not_fit_are_refused_with_a_sentence() {
    let dir = TempDir::new().expect("a directory");
    let dump = dump_of(&dir);
    let run = dir.path().join("run");
    let ran = wait(start(&[train_args(&dump, &run, 5, &[]), train_args(&dump, &run, 5, &["--set", "train.lr=0.1"])]));
    assert!(ran[0].err.contains("rank 1 runs other settings or rows than rank 0"), "{}", ran[0].err);
    assert!(!run.exists(), "nothing is left of a training that is refused");
    let with = |variables: &[(&str, &str)]| {
        let mut command = command(&train_args(&dump, &run, 5, &[]));
        command.envs(variables.iter().copied());
        finish(command)
    };
    with(&[("OMPI_COMM_WORLD_SIZE", "4")]).fails(&["4 processes were started", "feature `mpi`"]);
    with(&[("RANK", "3"), ("WORLD_SIZE", "2")]).fails(&["RANK", "below WORLD_SIZE"]);
    with(&[("RANK", "0"), ("WORLD_SIZE", "2")]).fails(&["MASTER_ADDR"]);
    with(&[("RANK", "0"), ("WORLD_SIZE", "two")]).fails(&["WORLD_SIZE", "two"]);
    with(&[("RANK", "0"), ("WORLD_SIZE", "1")]).ok();
    let refused = dir.path().join("refused");
    let seed = vec![train_args(&dump, &refused, 5, &["--set", "source=res"]); 2];
    let ran = wait(start(&seed));
    assert!(ran[0].err.contains("`source`") && ran[0].err.contains("2 ranks"), "{}", ran[0].err);
    assert!(!refused.exists(), "nothing is left of a training that is refused");
}
