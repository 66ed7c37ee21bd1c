//! The `strata` binary on small dumps: what its commands write and print, and that they work together.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use half::f16;
use safetensors::SafeTensors;
use serde_json::Value;
use strata_cli::checkpoint::sha256;
use strata_cli::dump::{DumpSpec, DumpWriter};
use strata_core::format::weights::read_model;
use strata_core::model::WeightType;
use strata_core::synth::{World, WorldConfig};
use strata_core::{Codes, Compute, Dtype, Encoder, Isa, Par};
use tempfile::TempDir;

/// Width of the rows.
pub const D: usize = 16;

/// Settings of a run that takes a fraction of a second and still assigns families, re-assigns them and revives.
pub const TINY: &[&str] = &[
    "level1.latents=12",
    "level1.k=2",
    "level2.latents=30",
    "level2.k=3",
    "train.steps=30",
    "train.batch=48",
    "train.log_every=4",
    "train.checkpoint_every=7",
    "gate.start=0.4",
    "gate.reassign_every=3",
    "gate.min_count=3",
    "revive.dead_after=300",
    "data.block=16",
    "data.window=8",
    "data.stats_rows=512",
];

/// Rows `0..n` of a small world of trees.
pub fn rows(n: usize) -> Vec<f32> {
    let config = WorldConfig { d: D, roots: 5, children: 3, flat: 4, ..WorldConfig::a() };
    let mut x = vec![0.0; n * D];
    World::new(&config).unwrap().sample(0, n, &mut x, None);
    x
}

pub fn write_dump(path: &Path, rows: &[f32], d: usize) -> PathBuf {
    let mut writer = DumpWriter::create(path, DumpSpec::new(d, Dtype::F32)).unwrap();
    writer.append(rows, None).unwrap();
    writer.finish().unwrap();
    path.to_owned()
}

/// A command line.
macro_rules! args {
    ($($a:expr),* $(,)?) => { Vec::from([$(std::ffi::OsString::from(&$a)),*]) };
}
pub(crate) use args;

/// The exit code and output of a `strata` process.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self
    }

    /// Asserts that it failed with one sentence that has all `parts`.
    #[track_caller]
    pub fn fails(self, parts: &[&str]) -> Self {
        assert_eq!(self.code, 1, "{}{}", self.out, self.err);
        let sentences: Vec<&str> = self.err.lines().filter(|l| l.starts_with("error: ")).collect();
        assert!(sentences.len() == 1 && self.err.trim_end().ends_with(sentences[0]), "one sentence: {}", self.err);
        for part in parts {
            assert!(sentences[0].contains(part), "`{part}` is not in: {}", self.err);
        }
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

pub fn command(args: &[OsString]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata-tested"));
    command.args(args).env_remove("STRATA_SIMD").stdin(Stdio::null());
    command
}

#[track_caller]
pub fn finish(mut command: Command) -> Ran {
    let done = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let (out, err) = (text(done.stdout), text(done.stderr));
    assert!(!err.contains("panicked at"), "{err}");
    Ran { code: done.status.code().expect("no signal"), out, err }
}

#[track_caller]
pub fn strata(args: &[OsString]) -> Ran {
    finish(command(args))
}

/// `train` with the settings [`TINY`] and `sets`.
pub fn train_args(dump: &Path, run: &Path, sets: &[&str]) -> Vec<OsString> {
    let mut all = args!["train", "--dump", *dump, "--out", *run];
    for set in TINY.iter().chain(sets) {
        all.extend(args!["--set", **set]);
    }
    all
}

#[track_caller]
pub fn train(dump: &Path, run: &Path, sets: &[&str]) {
    strata(&train_args(dump, run, sets)).ok();
}

pub fn hash(path: &Path) -> String {
    sha256(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// SHA-256 of the weights of a run.
pub fn weights(run: &Path) -> String {
    hash(&run.join("sae/sae_weights.safetensors"))
}

/// Returns every file below `dir`, including hidden ones, with its SHA-256.
pub fn tree(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                found.insert(name + "/", String::new());
                left.push(path);
            } else {
                found.insert(name, hash(&path));
            }
        }
    }
    found
}

#[track_caller]
pub fn assert_no_leftovers(dir: &Path) {
    let hidden = tree(dir).into_keys().filter(|n| n.contains(".tmp") || n.split('/').any(|p| p.starts_with('.')));
    assert_eq!(hidden.collect::<Vec<_>>(), Vec::<String>::new(), "temporary files are left in {}", dir.display());
}

pub fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert!(text.ends_with('\n'), "metrics.jsonl ends within a line: {text}");
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A dump and a run that was trained on it.
pub fn trained(sets: &[&str]) -> (TempDir, PathBuf, PathBuf) {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    let run = dir.path().join("run");
    train(&dump, &run, sets);
    (dir, dump, run)
}

#[test]
fn a_run_directory_holds_what_formats_md_says() {
    let (_dir, _, run) = trained(&[]);
    let found: Vec<String> = tree(&run).into_keys().collect();
    let expected = [
        "checkpoints/",
        "checkpoints/gate/",
        "checkpoints/gate/step-000000012/",
        "checkpoints/gate/step-000000012/state.safetensors",
        "checkpoints/gate/step-000000012/state.sha256",
        "checkpoints/step-000000028/",
        "checkpoints/step-000000028/state.safetensors",
        "checkpoints/step-000000028/state.sha256",
        "checkpoints/step-000000030/",
        "checkpoints/step-000000030/state.safetensors",
        "checkpoints/step-000000030/state.sha256",
        "config.toml",
        "final_info.json",
        "metrics.jsonl",
        "sae/",
        "sae/SHA256SUMS",
        "sae/cfg.json",
        "sae/sae_weights.safetensors",
        "source.json",
    ];
    assert_eq!(found, expected);

    let info = read_json(&run.join("final_info.json"));
    assert_eq!(info.as_object().unwrap().keys().collect::<Vec<_>>(), ["dump"]);
    for name in ["final_train_loss", "best_val_loss", "total_train_time", "avg_inference_tokens_per_second"] {
        let value = &info["dump"]["means"][format!("{name}_mean")];
        assert!(value.as_f64().is_some_and(|v| v > 0.0), "{name}: {value}");
    }
    for (name, value) in info["dump"]["means"].as_object().unwrap() {
        assert!(name.ends_with("_mean") && value.is_number(), "{name}: {value}");
    }

    if cfg!(target_os = "linux") {
        let (cpu_s, bytes) =
            (&info["dump"]["means"]["cpu_seconds_mean"], &info["dump"]["means"]["peak_resident_bytes_mean"]);
        assert!(cpu_s.as_f64().is_some_and(|s| (0.0..600.0).contains(&s)), "{cpu_s}");
        // Every Rust process takes more than a megabyte; no machine that runs the tests has a terabyte.
        assert!(bytes.as_u64().is_some_and(|b| (1 << 20..1 << 40).contains(&b)), "{bytes}");
    }

    let lines = metrics(&run);
    let steps: Vec<u64> = lines.iter().map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 4, 8, 12, 16, 20, 24, 28, 29]);
    for line in &lines {
        assert_eq!(line["tokens"], (line["step"].as_u64().unwrap() + 1) * 48);
        for key in ["loss", "aux", "sparsity", "consistency", "lr", "grad_norm", "tokens_per_s", "gate_on"] {
            assert!(!line[key].is_null(), "{key}: {line}");
        }
        for key in ["fvu", "l0", "dead", "lambda", "tau", "w", "k"] {
            assert_eq!(line[key].as_array().unwrap().len(), 2, "{key}: {line}");
        }
    }
    assert!(lines.iter().any(|l| l["gate_on"] == true) && lines.iter().any(|l| l["gate_on"] == false));
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_rows() {
    let dir = TempDir::new().unwrap();
    let some = rows(8192);
    // Dumps of 0.5 and 48 MiB. The sample of rows for the statistics reads every page.
    let peaks = [1, 96].map(|times| {
        let dump = dir.path().join(format!("dump-{times}"));
        let mut writer = DumpWriter::create(&dump, DumpSpec::new(D, Dtype::F32)).unwrap();
        (0..times).for_each(|_| writer.append(&some, None).unwrap());
        writer.finish().unwrap();
        let run = dir.path().join(format!("run-{times}"));
        train(&dump, &run, &["data.stats_rows=7000"]);
        metrics(&run).last().unwrap()["peak_resident_bytes"].as_u64().unwrap()
    });
    assert!(peaks[1] < peaks[0] + (16 << 20), "{peaks:?}");
}

#[test]
fn the_config_of_a_run_gives_the_run_again() {
    let (dir, dump, run) = trained(&["train.balance=norm", "seed=77", "train.lr=0.003"]);
    let again = dir.path().join("again");
    strata(&args!["train", "--dump", dump, "--out", again, "--config", run.join("config.toml")]).ok();
    assert_eq!(weights(&run), weights(&again));
    assert_eq!(hash(&run.join("config.toml")), hash(&again.join("config.toml")));
    let other = dir.path().join("other");
    strata(&args!["train", "--dump", dump, "--out", other, "--config", run.join("config.toml"), "--seed", "78"]).ok();
    assert_ne!(weights(&run), weights(&other));
}

#[test]
fn a_dump_trains_the_same_as_files_of_any_kind() {
    let dir = TempDir::new().unwrap();
    let rows = rows(600);
    let dump = write_dump(&dir.path().join("dump"), &rows, D);
    let at = |name: &str| dir.path().join(name);
    let bytes: Vec<u8> = rows.iter().flat_map(|v| v.to_le_bytes()).collect();
    let npy = |name: &str, rows: usize, bytes: &[u8]| {
        let header = strata_core::format::npy::NpyHeader::bytes(Dtype::F32, rows, D).unwrap();
        fs::write(at(name), [header.as_slice(), bytes].concat()).unwrap();
    };
    let (front, back) = bytes.split_at(251 * D * 4);
    npy("a.npy", 251, front);
    npy("b.npy", 349, back);
    fs::write(at("raw.bin"), &bytes).unwrap();
    train(&dump, &at("run"), &[]);
    for (run, files) in [
        ("run1", args![at("a.npy"), at("b.npy")]),
        ("run2", args![at("raw.bin"), "--dtype", "f32", "--dim", D.to_string()]),
    ] {
        let mut all = train_args(Path::new("unused"), &at(run), &[]);
        all.splice(2..3, files);
        strata(&all).ok();
        assert_eq!(weights(&at(run)), weights(&at("run")), "{run}");
    }
}

#[test]
fn folded_weights_have_the_fvu_of_training() {
    for sets in [
        &[][..],
        &["level1.activation=jumprelu", "level2.activation=jumprelu"],
        &["gate.kind=mul", "level1.activation=topk"],
        &["model=seed", "gate.kind=mul", "level1.activation=relu", "level2.activation=relu"],
    ] {
        let (_dir, dump, run) = trained(sets);
        let last = metrics(&run).pop().unwrap();
        let found = strata(&args!["eval", run, "--dump", dump, "--json", "--quiet"]).ok().json();
        assert_eq!(found["rows"], serde_json::json!([540, 60]));
        for (l, level) in ["level1", "level2"].into_iter().enumerate() {
            let (trained, folded) = (&last["held_out_fvu"][l], &found["fidelity"][level]["fvu"]);
            let (trained, folded) = (trained.as_f64().unwrap(), folded.as_f64().unwrap());
            assert!((trained - folded).abs() <= 1e-6 * trained, "{sets:?} {level}: {trained} {folded}");
        }
    }
}

/// Asserts the type and the length of a tensor, and returns its bytes.
fn tensor<'a>(file: &'a SafeTensors<'_>, name: &str, dtype: safetensors::Dtype, n: usize) -> &'a [u8] {
    let view = file.tensor(name).unwrap();
    assert_eq!((view.dtype(), view.shape()), (dtype, &[n][..]), "{name}");
    view.data()
}

#[test]
fn encode_writes_the_codes_of_the_encoder_bit_for_bit() {
    for sets in [&[][..], &["level2.latents=0", "gate.kind=none"], &["gate.kind=group-top1", "gate.start=0"]] {
        let (dir, dump, run) = trained(sets);
        let read = |name: &str| fs::read(run.join("sae").join(name)).unwrap();
        let (model, _) = read_model(&read("cfg.json"), &read("sae_weights.safetensors")).unwrap();
        let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::detect(), Par::Seq)).unwrap();
        let mut expected = [Codes::new(), Codes::new()];
        let [codes1, codes2] = &mut expected;
        encoder.encode_par(Par::Seq, &rows(600), codes1, codes2).unwrap();
        assert!(!expected[0].index.is_empty());

        for (isa, is_f16, kept) in
            [("", false, "f32"), ("scalar", false, "f32"), ("", true, "f32"), ("", false, "int8")]
        {
            if kept != "f32" {
                let encoder = Encoder::with_weights(
                    encoder.model().clone().into(),
                    Compute::new(Isa::detect(), Par::Seq),
                    WeightType::Int8,
                );
                expected = [Codes::new(), Codes::new()];
                let [codes1, codes2] = &mut expected;
                encoder.unwrap().encode_par(Par::Seq, &rows(600), codes1, codes2).unwrap();
            }
            let out = dir.path().join("codes.safetensors");
            let mut all = args!["encode", run, "--dump", dump, "--out", out, "--force", "--json"];
            if is_f16 {
                all.extend(args!["--f16"]);
            }
            all.extend(args!["--weights", kept]);
            let mut command = command(&all);
            command.env("STRATA_SIMD", isa);
            let report = finish(command).ok().json();
            assert_eq!(report["rows"], 600);
            let bytes = fs::read(&out).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
            assert_eq!(header.metadata().as_ref().unwrap()["run"], weights(&run));
            for (l, codes) in expected.iter().enumerate() {
                let (name, nnz) = (|part: &str| format!("z{}.{part}", l + 1), codes.index.len());
                let offsets: Vec<u8> = codes.offsets.iter().flat_map(|o| (*o as u64).to_le_bytes()).collect();
                let index: Vec<u8> = codes.index.iter().flat_map(|j| j.to_le_bytes()).collect();
                assert_eq!(tensor(&file, &name("indptr"), safetensors::Dtype::U64, 601), offsets);
                assert_eq!(tensor(&file, &name("indices"), safetensors::Dtype::U32, nnz), index);
                if is_f16 {
                    let value: Vec<u8> = codes.value.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
                    assert_eq!(tensor(&file, &name("values"), safetensors::Dtype::F16, nnz), value);
                } else {
                    let value: Vec<u8> = codes.value.iter().flat_map(|v| v.to_le_bytes()).collect();
                    assert_eq!(tensor(&file, &name("values"), safetensors::Dtype::F32, nnz), value);
                }
                assert_eq!(report["entries"][l], nnz);
            }
        }
        assert_no_leftovers(dir.path());
    }
}

#[test]
fn codes_beyond_f16_are_refused_and_the_file_that_was_there_stays() {
    let (dir, _, run) = trained(&[]);
    let mut large = rows(50);
    large[40 * D..41 * D].iter_mut().for_each(|v| *v *= 1e6);
    let dump = write_dump(&dir.path().join("large"), &large, D);
    let out = dir.path().join("codes.safetensors");
    fs::write(&out, "before").unwrap();
    strata(&args!["encode", run, "--dump", dump, "--out", out]).fails(&["codes.safetensors", "exists", "--force"]);
    let ran = strata(&args!["encode", run, "--dump", dump, "--out", out, "--f16", "--force"]);
    ran.fails(&["--f16", "level", "beyond the range of f16"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "before");
    strata(&args!["encode", run, "--dump", dump, "--out", out, "--force"]).ok();
    assert_ne!(fs::read(&out).unwrap(), b"before");
    assert_no_leftovers(dir.path());
}

#[test]
fn eval_json_is_complete() {
    let (_dir, dump, run) = trained(&[]);
    let ran = strata(&args!["eval", run, "--dump", dump, "--all"]).ok();
    assert!(ran.out.contains("passes over the rows of the training\n"), "{}", ran.out);
    assert!(ran.out.contains("fraction of variance unexplained"), "{}", ran.out);
    let found = read_json(&run.join("eval.json"));
    assert_eq!(found["rows"], serde_json::json!([0, 600]));
    assert_eq!(found["dump"], "dump");
    assert!(found["splice"].is_null());
    for key in ["fidelity", "level1", "level2", "composition"] {
        assert!(found[key].as_object().is_some_and(|o| o.len() > 3), "{key}: {}", found[key]);
    }
    for level in ["level1", "level2"] {
        for key in ["fvu", "cosine", "norm_ratio"] {
            assert!(found["fidelity"][level][key].is_number(), "{level} {key}");
        }
        for key in ["l0_mean", "latents", "dead", "median_density"] {
            assert!(found[level][key].is_number(), "{level} {key}");
        }
    }
    // The directory RUN/sae is enough for an evaluation on every row.
    let by_sae = strata(&args!["eval", run.join("sae"), "--dump", dump, "--all", "--json"]).ok().json();
    assert_eq!(by_sae, found);
    assert_no_leftovers(&run);
}

#[test]
fn json_parses_and_quiet_is_quiet() {
    let (dir, dump, run) = trained(&[]);
    let at = |name: &str| dir.path().join(name);
    assert_eq!(strata(&args!["inspect", dump, "--json"]).ok().json()["n_rows"], 600);
    let mut all = train_args(&dump, &at("run2"), &[]);
    all.extend(args!["--json"]);
    assert_eq!(strata(&all).ok().json(), read_json(&at("run2").join("final_info.json")));
    let capture = args!["capture", "--layer", "0", "--max-tokens", "256", "--out", at("captured"), "--json"];
    assert!(strata(&capture).ok().json()["n_rows"].as_u64().is_some_and(|n| n > 0));

    for (i, all) in [
        train_args(&dump, &at("run3"), &[]),
        args!["encode", run, "--dump", dump, "--out", at("codes")],
        args!["capture", "--layer", "0", "--max-tokens", "256", "--out", at("captured2")],
    ]
    .iter_mut()
    .enumerate()
    {
        all.extend(args!["--quiet"]);
        let ran = strata(all).ok();
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""), "{i}");
    }
    // `--quiet` does not suppress results.
    for all in [args!["eval", run, "--dump", dump, "--quiet"], args!["inspect", dump, "--quiet"]] {
        let ran = strata(&all).ok();
        assert!(!ran.out.is_empty() && ran.err.is_empty());
    }
}

#[test]
fn help_and_version_are_answers() {
    let version = strata(&args!["--version"]).ok();
    assert_eq!(version.out, format!("strata {}\n", env!("CARGO_PKG_VERSION")));
    let help = strata(&args!["--help"]).ok();
    for command in ["demo", "capture", "inspect", "train", "eval", "encode"] {
        assert!(help.out.contains(&format!("\n  {command} ")), "{}", help.out);
        let help = strata(&args![command, "--help"]).ok();
        assert!(help.out.contains("Usage: strata ") && help.err.is_empty(), "{}", help.out);
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let (_dir, dump, run) = trained(&[]);
    for all in [
        args!["inspect", dump],
        args!["inspect", dump, "--json"],
        args!["eval", run, "--dump", dump],
        args!["eval", run, "--dump", dump, "--json"],
        args!["--help"],
        args!["train", "--help"],
    ] {
        // The read end is closed before the process starts.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(&all);
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        drop(command);
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{all:?}");
        assert_eq!(String::from_utf8_lossy(&done.stderr).matches("error").count(), 0, "{all:?}");
    }
}

#[test]
fn one_huge_row_does_not_spoil_a_training() {
    let dir = TempDir::new().unwrap();
    let mut all = rows(600);
    let clean = write_dump(&dir.path().join("clean"), &all, D);
    all[100 * D..101 * D].iter_mut().for_each(|v| *v = 1e6);
    let dump = write_dump(&dir.path().join("dump"), &all, D);
    let fvu = |dump: &Path, run: &str, sets: &[&str]| {
        train(dump, &dir.path().join(run), sets);
        metrics(&dir.path().join(run)).pop().unwrap()["held_out_fvu"][1].as_f64().unwrap()
    };
    let sets = ["train.steps=120", "train.lr=0.01"];
    let (reference, kept_out) = (fvu(&clean, "a", &sets), fvu(&dump, "b", &sets));
    let kept = fvu(&dump, "c", &[&sets[..], &["data.outlier=0"]].concat());
    assert!(reference < 0.5 && (kept_out - reference).abs() < 0.1, "{reference} {kept_out}");
    assert!(kept > 0.9, "{kept}");
}

#[test]
fn whole_sequences_are_held_out() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("dump");
    let mut writer = DumpWriter::create(&path, DumpSpec::new(D, Dtype::F32)).unwrap();
    let all = rows(600);
    for (start, end) in [(0, 300), (300, 510), (510, 600)] {
        writer.start_sequence();
        writer.append(&all[start * D..end * D], Some(&vec![0; end - start])).unwrap();
    }
    writer.finish().unwrap();
    let run = dir.path().join("run");
    train(&path, &run, &[]);
    let found = strata(&args!["eval", run, "--dump", path, "--json"]).ok().json();
    assert_eq!(found["rows"], serde_json::json!([510, 90]));
}
