//! Commands in several processes that exchange messages over TCP: the files of one process, checkpoints in shards and out of
//! them, and what is said when a process ends.

use crate::cli::{Ran, args, command, finish, rows, strata, write_dump};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use strata_cli::dump::{DumpSpec, DumpWriter};
use strata_core::Dtype;
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
    start_commands(of.iter().map(|args| command(args)).collect())
}

/// Starts commands as the ranks of one job.
pub fn start_commands(of: Vec<Command>) -> Vec<Child> {
    let (port, size) = (port().to_string(), of.len().to_string());
    let start = |(rank, mut command): (usize, Command)| {
        let variables =
            [("RANK", &rank.to_string()), ("WORLD_SIZE", &size), ("MASTER_PORT", &port)].map(|(n, v)| (n, v.clone()));
        command.envs(variables).env("MASTER_ADDR", "127.0.0.1").stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("a process")
    };
    of.into_iter().enumerate().map(start).collect()
}

/// Waits for all processes.
pub fn wait(processes: Vec<Child>) -> Vec<Ran> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let ran = |process: Child| {
        let done = process.wait_with_output().expect("a process");
        Ran { code: done.status.code().unwrap_or(-1), out: text(done.stdout), err: text(done.stderr) }
    };
    processes.into_iter().map(ran).collect()
}

/// Runs a command in `size` processes, of which only the first prints.
fn over(size: usize, args: Vec<OsString>) {
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
    assert_eq!(metrics(one), metrics(other), "metrics.jsonl differs");
}

#[test]
fn ranks_write_the_files_of_one_process_and_each_goes_on_with_the_checkpoint_of_the_other() {
    let dir = TempDir::new().expect("a directory");
    let dump = dump_of(&dir);
    let [solo, three, mixed] = ["solo", "three", "mixed"].map(|name| dir.path().join(name));
    strata(&train_args(&dump, &solo, 30, &[])).ok();
    over(3, train_args(&dump, &three, 30, &[]));
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
        _ => over(size, train_args(&dump, run, steps, &["--resume"])),
    };
    over(2, train_args(&dump, &mixed, 30, &["--read", "all"]));
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
    over(2, train_args(&dump, &run, 400, &["--resume"]));
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
    with(&[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "0")])
        .fails(&["4 processes were started", "feature `mpi`"]);
    let other = with(&[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "3")]);
    assert_eq!((other.code, &*other.out, &*other.err), (1, "", ""), "the first process says it for all");
    with(&[("RANK", "3"), ("WORLD_SIZE", "2")]).fails(&["RANK", "below WORLD_SIZE"]);
    with(&[("RANK", "0"), ("WORLD_SIZE", "2")]).fails(&["MASTER_ADDR"]);
    with(&[("RANK", "0"), ("WORLD_SIZE", "two")]).fails(&["WORLD_SIZE", "two"]);
    with(&[("RANK", "0"), ("WORLD_SIZE", "1")]).ok();
    let refused = dir.path().join("refused");
    let seed = vec![train_args(&dump, &refused, 5, &["--set", "source=res"]); 2];
    let ran = wait(start(&seed));
    assert!(ran[0].err.contains("`source`") && ran[0].err.contains("2 ranks"), "{}", ran[0].err);
    let verified = vec![train_args(&dump, &refused, 5, &["--verify", "2"]); 2];
    let ran = wait(start(&verified));
    assert!(ran[0].err.contains("--verify: expected one process, found 2 ranks"), "{}", ran[0].err);
    assert!(!refused.exists(), "nothing is left of a training that is refused");
}

/// A dump of text with more batches of an evaluation than are dealt to two ranks in one round, in sequences of several lengths.
fn text(dir: &TempDir, n: usize) -> std::path::PathBuf {
    const VOCAB: usize = 40;
    let (path, x) = (dir.path().join("text"), rows(n));
    let vocab = (0..VOCAB).map(|i| format!("t{i}")).collect();
    let spec = DumpSpec { vocab: Some(vocab), ..DumpSpec::new(crate::cli::D, Dtype::F32) };
    let mut writer = DumpWriter::create(&path, spec).expect("a dump");
    let mut at = 0;
    for length in [40, 1, 7, 100, 300].into_iter().cycle() {
        let end = n.min(at + length);
        writer.start_sequence();
        let largest = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
        let part = &x[at * crate::cli::D..end * crate::cli::D];
        let tokens: Vec<u32> =
            part.chunks(crate::cli::D).zip(at..).map(|(row, i)| (largest(row) + i % 3) as u32).collect();
        writer.append(part, Some(&tokens)).expect("rows");
        at = end;
        if at == n {
            break;
        }
    }
    writer.finish().expect("a dump");
    path
}

#[test]
fn evaluation_and_encoding_over_ranks_write_the_files_of_one_process() {
    let dir = TempDir::new().expect("a directory");
    let dump = text(&dir, 30_000);
    let run = dir.path().join("run");
    // Some rows are left out, and the run has a control.
    strata(&train_args(&dump, &run, 30, &["--control", "--set", "data.skip_first=1", "--set", "gate.start=0.3"])).ok();
    let file = |name: &str, size: usize| dir.path().join(format!("{name}-{size}"));
    let eval = |size| args!["--threads", "1", "eval", run, "--all", "--dump", dump, "--out", file("eval", size)];
    let encode = |size| args!["--threads", "1", "encode", run, "--dump", dump, "--out", file("codes", size)];
    for command in [eval(1), encode(1)] {
        strata(&command).ok();
    }
    let read = |path: std::path::PathBuf| fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    for size in 2..=3 {
        let printed = wait(start(&vec![eval(size); size]));
        for (rank, ran) in printed.into_iter().enumerate() {
            assert!(rank == 0 || (ran.out.is_empty() && ran.err.is_empty()), "rank {rank}: {}{}", ran.out, ran.err);
            assert_eq!(ran.code, 0, "rank {rank}: {}", ran.err);
        }
        over(size, encode(size));
        for name in ["eval.json", "latents.jsonl"] {
            assert!(
                read(file("eval", 1).join(name)) == read(file("eval", size).join(name)),
                "{name} over {size} ranks"
            );
        }
        assert!(read(file("codes", 1)) == read(file("codes", size)), "codes over {size} ranks");
    }
    let evaluation: Value = serde_json::from_slice(&read(file("eval", 1).join("eval.json"))).expect("JSON");
    for part in ["composition", "control", "patterns", "condition", "attribution"] {
        assert!(!evaluation[part].is_null(), "{part} is measured");
    }
    assert!(evaluation["left_out"]["named"].as_u64() > Some(0), "rows are left out");
    let fewer = dir.path().join("none");
    let refused = wait(start(&[eval(2), args!["--threads", "1", "eval", run, "--dump", dump, "--out", fewer]]));
    assert!(refused[0].err.contains("rank 1 runs other settings or rows than rank 0"), "{}", refused[0].err);
}

#[test]
fn ablation_hands_its_runs_to_the_ranks() {
    let dir = TempDir::new().expect("a directory");
    let dump = dump_of(&dir);
    let sweep = dir.path().join("sweep.toml");
    let tiny = "[level1]\nlatents = 8\nk = 1.5\n[level2]\nlatents = 16\nk = 2.0\n[train]\nsteps = 6\nbatch = 32\n\
                [grid]\n\"train.lr\" = [0.001, 0.002, 0.004]\n";
    fs::write(&sweep, tiny).expect("a file");
    let args =
        |out: &Path| args!["--threads", "1", "ablate", "--dump", dump, "--config", sweep, "--seeds", "2", "--out", out];
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    strata(&args(&one)).ok();
    over(2, args(&two));
    let runs = |out: &Path| {
        let mut found = Vec::new();
        for run in fs::read_dir(out.join("runs")).expect("runs").map(|e| e.expect("an entry").path()) {
            for seed in fs::read_dir(&run).expect("seeds").map(|e| e.expect("an entry").path()) {
                let name = seed.strip_prefix(out).expect("a name").to_owned();
                found.push((name, fs::read(seed.join("sae/sae_weights.safetensors")).expect("weights")));
                assert!(seed.join("eval.json").exists(), "{} is evaluated", seed.display());
            }
        }
        found.sort();
        found
    };
    let (of_one, of_two) = (runs(&one), runs(&two));
    assert_eq!(of_one.len(), 6, "three settings of two seeds");
    assert!(of_one == of_two, "the runs differ");
    assert!(two.join("ablation.json").exists() && two.join("report.html").exists(), "the first rank compares them");
}

#[test]
fn an_error_of_one_rank_is_said_once() {
    let dir = TempDir::new().expect("a directory");
    let dump = dump_of(&dir);
    let run = dir.path().join("run");
    let good = train_args(&dump, &run, 50, &[]);
    let bad = train_args(&dir.path().join("nothing"), &run, 50, &[]);
    for (failing, of) in [(0, [&bad, &good, &good]), (1, [&good, &bad, &good]), (2, [&good, &good, &bad])] {
        let begun = Instant::now();
        let ran = wait(start(&of.map(Clone::clone)));
        assert!(begun.elapsed() < Duration::from_secs(30), "rank {failing}: {:?}", begun.elapsed());
        let said: Vec<&str> = ran.iter().flat_map(|ran| ran.err.lines()).filter(|l| l.starts_with("error: ")).collect();
        let [line] = said[..] else { panic!("rank {failing} fails, and {said:?} is said") };
        assert!(line.contains("nothing") && line.contains("--resume"), "{line}");
        assert_eq!(line.contains(&format!("rank {failing}: ")), failing > 0, "{line}");
        assert!(ran.iter().all(|ran| ran.code == 1), "exit codes");
        assert!(!run.exists(), "nothing is left of it");
    }
    // The first rank is killed: another one says it.
    let mut processes = start(&vec![train_args(&dump, &run, 4000, &[]); 3]);
    let begun = Instant::now();
    while !run.join("checkpoints/step-000000014").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    processes[0].kill().expect("rank 0 is killed");
    let ran = wait(processes);
    let said: Vec<&str> = ran.iter().flat_map(|ran| ran.err.lines()).filter(|l| l.starts_with("error: ")).collect();
    assert!(matches!(said[..], [line] if line.contains("rank 0 has ended")), "{said:?}");
}
