//! Mistakes of users and failures of disks give one sentence and exit code 1 or 2, and no data is lost.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use strata_cli::dump::{DumpSpec, DumpWriter};
use strata_core::format::npy::NpyHeader;
use strata_core::{Dtype, RowOrder};
use tempfile::TempDir;

use super::cli::{
    D, args, assert_no_leftovers, metrics, rows, strata, train, train_args, trained, tree, weights, write_dump,
};

fn npy(path: &Path, n: usize, d: usize, values: &[f32]) -> PathBuf {
    let mut bytes = NpyHeader::bytes(Dtype::F32, n, d).unwrap();
    Dtype::F32.narrow(values, &mut bytes);
    fs::write(path, bytes).unwrap();
    path.to_owned()
}

/// Asserts that `train`, `eval`, `encode` and `inspect` refuse `dump` with a sentence that has all `parts`, and write
/// nothing.
#[track_caller]
fn refused_by_all(dir: &Path, run: &Path, dump: &[PathBuf], more: &[&str], parts: &[&str]) {
    let before = tree(dir);
    let dumps: Vec<OsString> = dump.iter().map(OsString::from).collect();
    let more: Vec<OsString> = more.iter().map(OsString::from).collect();
    for start in [
        args!["train", "--out", dir.join("new"), "--dump"],
        args!["eval", run, "--all", "--dump"],
        args!["encode", run, "--out", dir.join("codes"), "--dump"],
        args!["inspect"],
    ] {
        strata(&[start, dumps.clone(), more.clone()].concat()).fails(parts);
        assert_eq!(tree(dir), before, "files are as they were");
    }
}

#[test]
fn dumps_that_cannot_be_read_are_named() {
    let (dir, _, run) = trained(&[]);
    let dir = dir.path();
    let good = npy(&dir.join("good.npy"), 300, D, &rows(300));
    let bytes = fs::read(&good).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(dir.join(name), bytes).unwrap();
        dir.join(name)
    };
    let missing = dir.join("missing.npy");
    refused_by_all(dir, &run, &[missing], &[], &["missing.npy", "no such file"]);
    for n in [0, 5, 60, 128, bytes.len() - 1] {
        let cut = file("cut.npy", &bytes[..n]);
        refused_by_all(dir, &run, &[cut], &[], &["cut.npy"]);
    }
    let cut = file("cut.npy", &bytes[..bytes.len() - 4]);
    let sizes = [(300 * D * 4).to_string(), (300 * D * 4 - 4).to_string()];
    refused_by_all(dir, &run, &[cut], &[], &["cut.npy", "expected", &sizes[0], "found", &sizes[1]]);
    let none = npy(&dir.join("none.npy"), 0, D, &[]);
    refused_by_all(dir, &run, &[none], &[], &["none.npy", "rows", "expected at least 1", "found 0"]);
    let narrow = npy(&dir.join("narrow.npy"), 300, D - 1, &rows(300)[..300 * (D - 1)]);
    refused_by_all(dir, &run, &[good.clone(), narrow], &[], &["narrow.npy", "width", "expected 16", "found 15"]);
    let text = file("notes.txt", b"hello");
    refused_by_all(dir, &run, &[text], &[], &["notes.txt", "txt"]);
    let raw = file("raw.bin", &bytes[..1000]);
    refused_by_all(dir, &run, from_ref(&raw), &[], &["raw.bin", "--dtype", "--dim"]);
    let wide = ["--dtype", "f32", "--dim", "16"];
    refused_by_all(dir, &run, from_ref(&raw), &wide, &["raw.bin", "multiple of 64", "found 1000"]);
    refused_by_all(dir, &run, &[raw], &["--dtype", "f32", "--dim", "0"], &["--dim", "found 0"]);
    refused_by_all(dir, &run, &[good], &wide, &["good.npy", ".bin"]);
    fs::create_dir(dir.join("empty")).unwrap();
    refused_by_all(dir, &run, &[dir.join("empty")], &[], &["empty", "dump.json"]);

    // A directory whose manifest states another number of rows, and one with a truncated shard.
    let lying = write_dump(&dir.join("lying"), &rows(300), D);
    let manifest = fs::read_to_string(lying.join("dump.json")).unwrap();
    fs::write(lying.join("dump.json"), manifest.replace("300", "301")).unwrap();
    refused_by_all(dir, &run, from_ref(&lying), &[], &["acts-00000.safetensors", "rows", "expected 301", "found 300"]);
    fs::write(lying.join("dump.json"), &manifest[..manifest.len() / 2]).unwrap();
    refused_by_all(dir, &run, from_ref(&lying), &[], &["dump.json"]);
    fs::write(lying.join("dump.json"), &manifest).unwrap();
    let shard = fs::read(lying.join("acts-00000.safetensors")).unwrap();
    fs::write(lying.join("acts-00000.safetensors"), &shard[..shard.len() - 8]).unwrap();
    refused_by_all(dir, &run, &[lying], &[], &["acts-00000.safetensors"]);
}

#[test]
fn numbers_that_are_not_finite_are_named_and_leave_no_run() {
    let (dir, _, run) = trained(&[]);
    let dir = dir.path();
    for (value, name) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let mut all = rows(300);
        all[123 * D + 7] = value;
        let bad = npy(&dir.join("bad.npy"), 300, D, &all);
        let before = tree(dir);
        let where_ = ["bad.npy", "row 123, column 7", "expected a finite number", "found", name];
        strata(&args!["train", "--dump", bad, "--out", dir.join("new")]).fails(&where_);
        strata(&args!["eval", run, "--all", "--dump", bad]).fails(&where_);
        strata(&args!["encode", run, "--out", dir.join("codes"), "--dump", bad]).fails(&where_);
        let seen = strata(&args!["inspect", bad]);
        assert_eq!(seen.code, 1);
        assert!(seen.out.contains("row 123, column 7"), "{}", seen.out);
        assert_eq!(tree(dir), before);
    }
    // Such a number in rows beyond those of the statistics is found in the middle of the training; the checkpoints
    // remain.
    let mut all = rows(600);
    let late = RowOrder::new(0, 540, 16, 8).row(0, 500) as usize;
    all[late * D] = f32::NAN;
    let bad = npy(&dir.join("late.npy"), 600, D, &all);
    let new = dir.join("late");
    let ran = strata(&train_args(&bad, &new, &["data.stats_rows=2", "train.checkpoint_every=1"]));
    ran.fails(&["late.npy", &format!("row {late}, column 0"), "found NaN"]);
    assert_no_leftovers(&new);
    assert_eq!(metrics(&new).len(), 3);
    assert!(new.join("checkpoints/step-000000010/state.safetensors").exists());
}

#[test]
fn rows_of_another_width_than_the_models_are_refused() {
    let (dir, _, run) = trained(&[]);
    let wide = write_dump(&dir.path().join("wide"), &rows(300), 2 * D);
    for all in
        [args!["eval", run, "--dump", wide], args!["encode", run, "--dump", wide, "--out", dir.path().join("codes")]]
    {
        strata(&all).fails(&["wide has rows of width 32", "run", "reads rows of width 16"]);
    }
    assert!(!dir.path().join("codes").exists() && !run.join("eval.json").exists());
    assert_no_leftovers(dir.path());
}

#[test]
fn settings_are_checked_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(100), D);
    let run = dir.path().join("run");
    let cases: &[(&str, &[&str])] = &[
        ("level1.k=13", &["`level1.k`", "at most the number of latents (12)", "found 13"]),
        ("level2.k=31", &["`level2.k`", "(30)", "found 31"]),
        ("level1.k=0", &["`level1.k`", "found 0"]),
        ("level1.k=nan", &["`level1.k`", "found NaN"]),
        ("level1.latent=4", &["--set level1.latent=4", "`level1.latent`", "did you mean `level1.latents`?"]),
        ("train.step=4", &["`train.step`", "did you mean `train.steps`?"]),
        ("gates.kind=hard", &["`gates.kind`", "did you mean `gate.kind`?"]),
        ("steps=4", &["unknown setting `steps`", "`train.steps`"]),
        ("train=4", &["unknown setting `train`"]),
        ("zzzzzzzzzzzzzzzzzzzz=4", &["unknown setting `zzz", "config.toml"]),
        ("train.steps=many", &["`train.steps`", "expected an integer", "found a string"]),
        ("train.steps=1.5", &["`train.steps`", "expected an integer", "found a float"]),
        ("train.steps=", &["`train.steps`", "expected an integer"]),
        ("train.steps=-1", &["`train.steps`", "-1"]),
        ("train.steps=0", &["`train.steps`", "at least 1", "found 0"]),
        ("train.steps=99999999999999999999", &["`train.steps`"]),
        ("train.lr=fast", &["`train.lr`", "expected a float", "found a string"]),
        ("train.lr=inf", &["`train.lr`", "found inf"]),
        ("gate.kind=soft", &["`gate.kind`", "soft", "hard"]),
        ("gate={kind=\"hard\"}", &["unknown setting `gate`"]),
        ("data.centre=1", &["`data.centre`", "expected a boolean", "found an integer"]),
        ("loss.consistency=latent", &["`loss.consistency`", "decoder"]),
        ("model=seed", &["`gate.kind`", "seed"]),
        ("train.batch=0", &["`train.batch`", "found 0"]),
        ("level2.latents=4000000000", &["`level2.latents`", "4000000000", "GB of memory", "width 16"]),
        ("seed", &["--set seed", "expected key=value"]),
        ("=", &["unknown setting ``"]),
    ];
    for (set, parts) in cases {
        strata(&train_args(&dump, &run, &[set])).fails(parts);
        assert!(!run.exists(), "{set}");
    }

    let file = dir.path().join("config.toml");
    for (text, parts) in [
        ("[train]\nsteps = 4\nbatsch = 3\n", &["config.toml", "`train.batsch`", "did you mean `train.batch`?"][..]),
        ("[train]\nsteps = \"4\"\n", &["config.toml", "`train.steps`", "expected an integer", "found a string"]),
        ("seed = 1\n[train\nsteps = 4\n", &["config.toml", "line 2"]),
        ("seed = 1\nseed = 2\n", &["config.toml", "line 2", "duplicate"]),
        ("[trian]\n", &["config.toml", "`trian`"]),
        ("[train]\n[train.steps]\n", &["config.toml", "`train.steps`"]),
        ("\u{0}", &["config.toml"]),
    ] {
        fs::write(&file, text).unwrap();
        strata(&args!["train", "--dump", dump, "--out", run, "--config", file]).fails(parts);
    }
    fs::write(&file, [0xff, 0xfe]).unwrap();
    strata(&args!["train", "--dump", dump, "--out", run, "--config", file]).fails(&["config.toml"]);
    let missing = dir.path().join("missing.toml");
    strata(&args!["train", "--dump", dump, "--out", run, "--config", missing]).fails(&["missing.toml"]);
    let seed = args!["train", "--dump", dump, "--out", run, "--seed", u64::MAX.to_string()];
    strata(&seed).fails(&["--seed"]);
    assert!(!run.exists());
}

#[test]
fn an_existing_run_is_not_touched() {
    let (dir, dump, run) = trained(&[]);
    let before = tree(&run);
    strata(&train_args(&dump, &run, &[])).fails(&["run exists already", "--resume", "--out"]);
    assert_eq!(tree(&run), before);
    // A file that is not a run is not touched either.
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    strata(&train_args(&dump, &file, &[])).fails(&["file"]);
    strata(&train_args(&dump, &dump, &[])).fails(&["exists already"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    // `encode` does not overwrite the dump that it reads.
    let shard = dump.join("acts-00000.safetensors");
    for input in [&dump, &shard] {
        strata(&args!["encode", run, "--dump", *input, "--out", shard]).fails(&["--out", "part of the dump"]);
    }
    strata(&args!["capture", "--layer", "0", "--max-tokens", "256", "--out", dump]).fails(&["dump", "exists already"]);
    strata(&args!["eval", run, "--dump", dump]).ok();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    train(&dump, &empty, &[]);
    assert_eq!(weights(&empty), weights(&run));
}

#[test]
fn a_resumed_run_has_its_own_settings_and_dump() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let all = rows(700);
    let dump = write_dump(&at("dump"), &all[..600 * D], D);
    let run = at("run");
    train(&dump, &run, &[]);
    fs::remove_file(run.join("final_info.json")).unwrap();
    let before = tree(&run);
    let resume = |dump: &Path, more: Vec<OsString>| {
        strata(&[args!["train", "--dump", *dump, "--out", run, "--resume"], more].concat())
    };
    resume(&dump, args!["--set", "train.lr=0.5"]).fails(&["own settings", "`train.lr`", "config.toml", "found 0.5"]);
    resume(&dump, args!["--set", "train.steps=29"]).fails(&["has taken 30 steps", "at least 30", "found 29"]);
    resume(&dump, args!["--seed", "5"]).fails(&["`seed`", "expected 0", "found 5"]);
    let mut changed = all.clone();
    changed[..600 * D].iter_mut().for_each(|v| *v += 1.0);
    for other in [
        write_dump(&at("changed"), &changed[..600 * D], D),
        write_dump(&at("longer"), &all, D),
        write_dump(&at("wider"), &all[..600 * D], 2 * D),
    ] {
        resume(&other, vec![]).fails(&["another dump", "expected the same rows"]);
    }
    assert_eq!(tree(&run), before);
    // The settings of the run may be given again.
    let toml = fs::read_to_string(run.join("config.toml")).unwrap();
    fs::write(run.join("config.toml"), toml.replace("batch = 48", "batch = 49")).unwrap();
    resume(&dump, vec![]).fails(&["other settings", "`train.batch`", "expected 48", "found 49"]);
    fs::write(run.join("config.toml"), toml).unwrap();
    resume(&dump, args!["--set", "train.steps=30", "--config", run.join("config.toml")]).ok();
}

#[test]
fn the_same_rows_cut_into_other_sequences_are_another_dump() {
    let dir = TempDir::new().unwrap();
    let all = rows(600);
    let write = |name: &str, context| {
        let path = dir.path().join(name);
        let mut spec = DumpSpec::new(D, Dtype::F32);
        spec.context = context;
        let mut writer = DumpWriter::create(&path, spec).unwrap();
        writer.append(&all, None).unwrap();
        writer.finish().unwrap();
        path
    };
    let (dump, other, run) = (write("dump", None), write("other", Some(50)), dir.path().join("run"));
    train(&dump, &run, &["data.holdout=0.05"]);
    fs::remove_file(run.join("final_info.json")).unwrap();
    strata(&args!["train", "--dump", other, "--out", run, "--resume"]).fails(&["another dump"]);
}

#[test]
fn damaged_checkpoints_are_named_and_the_older_one_serves() {
    let (_dir, dump, run) = trained(&[]);
    let reference = weights(&run);
    let checkpoints = run.join("checkpoints");
    let [older, newest] = ["step-000000028", "step-000000030"].map(|name| checkpoints.join(name));
    let (state, sum) = ("state.safetensors", "state.sha256");
    let good = fs::read(newest.join(state)).unwrap();
    let flipped = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        bad
    };
    let cases = [
        (state, Some(flipped(0)), "expected the SHA-256"),
        (state, Some(flipped(9)), "expected the SHA-256"),
        (state, Some(flipped(good.len() / 2)), "expected the SHA-256"),
        (state, Some(flipped(good.len() - 1)), "expected the SHA-256"),
        (state, Some(good[..good.len() / 2].to_vec()), "expected the SHA-256"),
        (state, Some(Vec::new()), "expected the SHA-256"),
        (state, None, "is missing"),
        (sum, Some(b"nonsense".to_vec()), "expected a SHA-256"),
        (sum, Some(vec![0xff]), "expected a SHA-256"),
        (sum, Some(Vec::new()), "expected a SHA-256"),
        (sum, None, "is missing"),
    ];
    let resume = args!["train", "--dump", dump, "--out", run, "--resume"];
    let put = |path: &Path, bytes: &Option<Vec<u8>>| match bytes {
        Some(bytes) => fs::write(path, bytes).unwrap(),
        None => fs::remove_file(path).unwrap(),
    };
    for (name, bytes, why) in &cases {
        put(&newest.join(name), bytes);
        fs::remove_file(run.join("final_info.json")).unwrap();
        fs::remove_dir_all(run.join("sae")).unwrap();
        let ran = strata(&resume).ok();
        let note = ran.err.lines().find(|l| l.contains("continuing from step 28")).unwrap_or_default();
        assert!(note.contains(why) && note.contains(&newest.join(name).display().to_string()), "{}", ran.err);
        assert_eq!(weights(&run), reference);
        assert_eq!(fs::read(newest.join(state)).unwrap(), good);
    }
    // If no checkpoint is intact, the message names the newest, and nothing is changed.
    for checkpoint in [&older, &newest] {
        fs::write(checkpoint.join(state), &good[..9]).unwrap();
    }
    fs::remove_file(run.join("final_info.json")).unwrap();
    let before = tree(&run);
    let place = newest.join(state).display().to_string();
    strata(&resume).fails(&[&place, "damaged", "no older checkpoint is whole", "to start over"]);
    assert_eq!(tree(&run), before);
}

#[test]
fn damaged_models_are_named() {
    let (dir, dump, run) = trained(&[]);
    let eval = args!["eval", run, "--dump", dump];
    let encode = args!["encode", run, "--dump", dump, "--out", dir.path().join("codes")];
    for name in ["cfg.json", "sae_weights.safetensors"] {
        let path = run.join("sae").join(name);
        let good = fs::read(&path).unwrap();
        for bad in [&good[..0], &good[..good.len() / 2], b"{}"] {
            fs::write(&path, bad).unwrap();
            strata(&eval).fails(&["sae", name]);
            strata(&encode).fails(&["sae", name]);
        }
        fs::remove_file(&path).unwrap();
        strata(&eval).fails(&["run", name]);
        fs::write(&path, &good).unwrap();
    }
    assert!(!run.join("eval.json").exists() && !dir.path().join("codes").exists());
}

#[test]
fn runs_that_are_none_or_not_finished_are_told_apart() {
    let (dir, dump, run) = trained(&[]);
    strata(&args!["eval", dir.path().join("nowhere"), "--dump", dump]).fails(&["nowhere is no run"]);
    strata(&args!["eval", dump, "--dump", dump]).fails(&["dump is neither a run nor a model", "cfg.json"]);
    fs::remove_dir_all(run.join("sae")).unwrap();
    strata(&args!["eval", run, "--dump", dump]).fails(&["run has not finished training", "--resume"]);
    let out = dir.path().join("codes");
    strata(&args!["encode", run, "--dump", dump, "--out", out]).fails(&["has not finished training"]);
    assert!(!out.exists());
    let nowhere = dir.path().join("no/where/codes");
    train(&dump, &dir.path().join("run2"), &[]);
    let encode = args!["encode", dir.path().join("run2"), "--dump", dump, "--out", nowhere];
    strata(&encode).fails(&["codes", "no such file or directory"]);
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(100), D);
    let out = dir.path().join("out");
    strata(&args!["inspect", dump, "--threads", "0"]).fails(&["--threads", "expected 1 to", "found 0"]);
    strata(&args!["inspect", dump, "--threads", "100000"]).fails(&["--threads", "found 100000"]);
    let mut threads = super::cli::command(&args!["inspect", dump]);
    threads.env("RAYON_NUM_THREADS", "100000");
    super::cli::finish(threads).fails(&["RAYON_NUM_THREADS", "found 100000"]);
    let capture = |more: &[&str]| {
        let mut all = args!["capture", "--out", out];
        all.extend(more.iter().map(OsString::from));
        strata(&all)
    };
    capture(&["--layer", "99"]).fails(&["layer", "99"]);
    capture(&["--layer", "0", "--context", "0"]).fails(&["context", "0"]);
    capture(&["--layer", "0", "--context", "1000000"]).fails(&["context", "1000000"]);
    capture(&["--layer", "0", "--max-tokens", "0"]).fails(&["limit of 0"]);
    capture(&["--layer", "0", "--model", "/nowhere"]).fails(&["/nowhere"]);
    capture(&["--layer", "0", "--text", "/nowhere"]).fails(&["/nowhere"]);
    let mut isa = super::cli::command(&args!["inspect", dump]);
    isa.env("STRATA_SIMD", "mmx");
    super::cli::finish(isa).fails(&["STRATA_SIMD", "mmx"]);
    for usage in [
        args![],
        args!["frobnicate"],
        args!["train"],
        args!["train", "--dump", dump],
        args!["train", "--dump", dump, "--out", out, "--threads", "many"],
        args!["train", "--dump", dump, "--out", out, "--seed", "-1"],
        args!["inspect", dump, "--dtype", "f32"],
        args!["inspect", dump, "--dtype", "f64", "--dim", "3"],
        args!["capture", "--out", out, "--layer", "-1"],
    ] {
        let ran = strata(&usage);
        assert_eq!(ran.code, 2, "{usage:?}: {}", ran.err);
        assert!(ran.out.is_empty() && ran.err.contains("--help"), "{usage:?}: {}", ran.err);
    }
    assert_eq!(tree(dir.path()).keys().filter(|k| !k.starts_with("dump")).count(), 0);
}

#[test]
fn settings_at_their_limits_train_or_say_why() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(100), D);
    for (i, sets) in [
        &["train.batch=1"][..],
        &["train.batch=500"],
        &["train.steps=1"],
        &["level1.latents=1", "level1.k=1", "level2.latents=1", "level2.k=1"],
        &["level1.k=12", "level2.k=30", "level1.activation=topk", "level2.activation=topk"],
        &["level1.k=0.001", "level2.k=0.001"],
        &["level1.k_start=1000000", "level1.anneal=1"],
        &["revive.k_aux=1000", "revive.dead_after=0"],
        &["revive.dead_after=0", "gate.start=0", "gate.reassign_every=1"],
        &["gate.start=1", "gate.freeze=0", "gate.decay=1"],
        &["gate.start=0", "gate.parents=random", "gate.family_cap=1"],
        &["data.block=1", "data.window=1", "data.stats_rows=1000000"],
        &["data.block=1000000", "data.window=1000000", "data.holdout=0"],
        &["data.holdout=0.9", "data.outlier=0.5"],
        &["data.centre=false", "data.scale=false", "data.geometric_median=false", "data.outlier=0"],
        &["train.lr=0", "train.warmup=1", "train.decay=1", "train.clip=0"],
        &["loss.w1=0", "loss.w2=0", "loss.aux=0"],
        &["train.beta1=0", "train.beta2=0", "train.eps=1"],
        &["train.log_every=1000000000", "train.checkpoint_every=0"],
    ]
    .iter()
    .enumerate()
    {
        train(&dump, &dir.path().join(i.to_string()), &[&["train.steps=8"], *sets].concat());
    }
    let no_rows = strata(&train_args(&dump, &dir.path().join("none"), &["data.outlier=0.000001"]));
    no_rows.fails(&["data", "expected rows that vary", "found 0 rows"]);
    let single = write_dump(&dir.path().join("single"), &rows(1), D);
    strata(&train_args(&single, &dir.path().join("none"), &[])).fails(&["rows that vary", "found 1 rows"]);
    let equal = write_dump(&dir.path().join("equal"), &rows(1).repeat(50), D);
    strata(&train_args(&equal, &dir.path().join("none"), &[])).fails(&["rows that vary"]);
    assert!(!dir.path().join("none").exists());
}

#[cfg(unix)]
mod full_disk {
    //! A disk without room, and a file that may grow no further.

    use std::process::Command;

    use super::*;
    use crate::cli::{command, finish};

    /// `strata` that may not write files of more than `blocks` times 512 bytes: the write fails with EFBIG, and unless
    /// the signal is trapped from outside, it comes with one that ends a process.
    fn limited(all: &[OsString], blocks: u64, is_trapped: bool) -> crate::cli::Ran {
        let strata = command(all);
        let mut shell = Command::new("sh");
        let trap = if is_trapped { "trap '' XFSZ; " } else { "" };
        shell.arg("-c").arg(format!("{trap}ulimit -f {blocks}; exec \"$0\" \"$@\""));
        shell.arg(strata.get_program()).args(strata.get_args()).env_remove("STRATA_SIMD");
        finish(shell)
    }

    #[test]
    fn files_that_cannot_be_written_leave_nothing_behind() {
        let (dir, dump, run) = trained(&["train.checkpoint_every=0"]);
        let dir = dir.path();
        let (new, out) = (dir.join("new"), dir.join("codes"));
        // The limit of 4 kB lets settings and the metrics of the first steps be written, but no checkpoint.
        let all = train_args(&dump, &new, &["train.checkpoint_every=3"]);
        for is_trapped in [true, false] {
            limited(&all, 16, is_trapped).fails(&["checkpoints/step-000000003", "writing", "too large"]);
            assert_no_leftovers(&new);
            fs::remove_dir_all(new.join("checkpoints")).unwrap();
            fs::rename(&new, dir.join(format!("stopped-{is_trapped}"))).unwrap();
        }
        limited(&all, 16, true).fails(&["too large"]);
        assert_no_leftovers(&new);
        assert_eq!(fs::read_dir(new.join("checkpoints")).unwrap().count(), 0);
        strata(&args!["train", "--dump", dump, "--out", new, "--resume"]).ok();
        assert_eq!(weights(&new), weights(&run));

        let encode = args!["encode", run, "--dump", dump, "--out", out];
        limited(&encode, 4, false).fails(&["writing", "codes"]);
        let capture = args!["capture", "--layer", "0", "--max-tokens", "1024", "--out", out];
        limited(&capture, 4, false).fails(&["writing", "codes"]);
        let eval = args!["eval", run, "--dump", dump];
        // The results are printed nevertheless.
        let ran = limited(&eval, 0, false).fails(&["writing", "latents.jsonl"]);
        assert!(ran.out.contains("fraction of variance unexplained"), "{}", ran.out);
        assert!(!out.exists() && !run.join("eval.json").exists() && !run.join("latents.jsonl").exists());
        assert_no_leftovers(dir);
        // The same commands without the limit.
        for all in [encode, eval] {
            strata(&all).ok();
        }
    }

    /// A mounted file system of `kib` KiB.
    struct Tmpfs(PathBuf);

    impl Tmpfs {
        fn mount(at: &Path, kib: u64) -> Option<Self> {
            fs::create_dir(at).unwrap();
            let size = format!("size={kib}k");
            let mut mount = Command::new("mount");
            let done = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output().ok()?;
            done.status.success().then(|| Self(at.to_owned()))
        }
    }

    impl Drop for Tmpfs {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn output_that_cannot_be_written_is_named() {
        let mut shell = Command::new("sh");
        let strata = command(&args!["settings"]);
        shell.arg("-c").arg("exec \"$0\" \"$@\" > /dev/full").arg(strata.get_program()).args(strata.get_args());
        finish(shell).fails(&["error: writing the output: the disk is full"]);
    }

    #[test]
    fn a_full_disk_keeps_the_last_checkpoint() {
        let (dir, dump, reference) = trained(&["train.checkpoint_every=2"]);
        let Some(disk) = Tmpfs::mount(&dir.path().join("disk"), 1024) else {
            eprintln!("SKIPPED: no right to mount a file system; the test with `ulimit -f` has seen a write fail");
            return;
        };
        let run = disk.0.join("run");
        let state = fs::metadata(reference.join("checkpoints/step-000000030/state.safetensors")).unwrap().len();
        // Room for two checkpoints and a half: the third one does not fit.
        let filler = disk.0.join("filler");
        fs::write(&filler, vec![0; (1024 * 1024 - 5 * state / 2) as usize]).unwrap();
        let ran = strata(&train_args(&dump, &run, &["train.checkpoint_every=2"]));
        let err = ran.fails(&["writing", "checkpoints/step-", "the disk is full"]).err;
        assert!(err.matches("full").count() == 1 && !err.contains("os error"), "said once: {err}");
        assert_no_leftovers(&run);
        let kept: Vec<String> = tree(&run).into_keys().filter(|n| n.ends_with("state.safetensors")).collect();
        assert!((1..=2).contains(&kept.len()), "{kept:?}");
        let out = disk.0.join("codes");
        fs::write(disk.0.join("filler2"), vec![0; 1 << 20]).unwrap_err();
        strata(&args!["encode", reference, "--dump", dump, "--out", out]).fails(&["codes", "the disk is full"]);
        assert!(!out.exists());
        assert_no_leftovers(&run);

        fs::remove_file(disk.0.join("filler2")).unwrap();
        fs::remove_file(&filler).unwrap();
        strata(&args!["train", "--dump", dump, "--out", run, "--resume"]).ok();
        assert_eq!(weights(&run), weights(&reference));
        assert_eq!(metrics(&run).len(), metrics(&reference).len());
    }
}
