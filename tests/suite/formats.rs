//! Models of other tools: every fixture that their libraries have written (`data/fixtures`, with the script that makes
//! them), against the latents and reconstructions that those libraries find; and what is refused, and in which words.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use strata_cli::run::Run;
use strata_core::format::formats::{Choices, FORMATS, Format};
use strata_core::format::npy::NpyHeader;
use strata_core::model::Scratch;
use strata_core::row_norm::RowNorm;
use strata_core::{Codes, Isa};
use tempfile::TempDir;

use super::cli::{args, strata};

/// One fixture.
pub struct Case {
    pub name: String,
    /// The path to open.
    pub model: PathBuf,
    pub choices: Choices,
    pub entry: Value,
    dir: PathBuf,
}

pub fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fixtures");
    let listed: Value = serde_json::from_slice(&fs::read(root.join("cases.json")).unwrap()).unwrap();
    let entries = listed["cases"].as_array().unwrap().iter();
    let models = entries.filter(|entry| entry["kind"] != "dump");
    let case = |entry: &Value| {
        let name = entry["case"].as_str().unwrap().to_owned();
        let dir = root.join(&name);
        let options = &entry["options"];
        let choices = Choices {
            from: None,
            norm_scaling_factor: options["norm_scaling_factor"].as_f64().map(|f| f as f32),
            row_norm: None,
            k: options["k"].as_u64(),
        };
        Case { model: dir.join(entry["model"].as_str().unwrap()), name, choices, entry: entry.clone(), dir }
    };
    models.map(case).collect()
}

fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

impl Case {
    /// The rows, row-major.
    pub fn rows(&self) -> Vec<f32> {
        let file = fs::read(self.input()).unwrap();
        let header = NpyHeader::parse(&file).unwrap();
        floats(&file[header.data_offset..])
    }

    pub fn input(&self) -> PathBuf {
        self.dir.join("input.npy")
    }

    /// What the library finds: `latents` or `reconstruction`.
    pub fn expected(&self, name: &str) -> Vec<f32> {
        let file = fs::read(self.dir.join("expected.safetensors")).unwrap();
        floats(SafeTensors::deserialize(&file).unwrap().tensor(name).unwrap().data())
    }
}

/// Codes of `f` latents as a matrix, zeros included.
pub fn dense(codes: &Codes, f: usize) -> Vec<f32> {
    let mut dense = vec![0.0; codes.n() * f];
    for i in 0..codes.n() {
        let row = codes.row(i);
        row.index.iter().zip(row.value).for_each(|(&j, &v)| dense[i * f + j as usize] = v);
    }
    dense
}

/// The largest distance of two lists, as a share of the largest number.
pub fn distance(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len(), "as many numbers");
    let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    got.iter().zip(want).fold(0.0f32, |m, (g, w)| m.max((g - w).abs())) / largest
}

/// Latents and reconstructions of `rows`.
pub fn run_of(run: &Run, rows: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let encoder = run.encoder(Isa::default()).unwrap();
    let arch = &encoder.model().arch;
    let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
    encoder.encode(rows, &mut Scratch::new(arch), &mut codes1, &mut codes2).unwrap();
    let n = rows.len() / arch.d;
    let (mut hat1, mut hat2) = (vec![0.0; n * arch.d_out()], vec![0.0; n * arch.d_out()]);
    encoder.decode_of(rows, &codes1, &codes2, &mut hat1, &mut hat2).unwrap();
    assert_eq!(hat1, hat2, "a model of one level");
    (dense(&codes1, arch.level[0].latents), hat2)
}

#[test]
fn every_fixture_has_the_latents_and_reconstructions_of_its_library() {
    let mut wrong = Vec::new();
    for case in cases() {
        let run = match Run::open_as(&case.model, &case.choices) {
            Ok(run) => run,
            Err(error) => {
                wrong.push(format!("{}: {error:#}", case.name));
                continue;
            }
        };
        let arch = &run.model.arch;
        let sizes = [arch.d, arch.d_out(), arch.level[0].latents].map(|n| n as u64);
        assert_eq!(sizes, ["d", "d_out", "latents"].map(|key| case.entry[key].as_u64().unwrap()), "{}", case.name);
        assert_eq!(arch.variant.target.is_some(), case.entry["kind"] == "transcoder", "{}: is it one?", case.name);
        let (z, hat) = run_of(&run, &case.rows());
        let want = case.expected("latents");
        let flips = z.iter().zip(&want).filter(|(g, w)| (**g != 0.0) != (**w != 0.0)).count();
        let (dz, dx) = (distance(&z, &want), distance(&hat, &case.expected("reconstruction")));
        if flips > 0 || dz > 1e-5 || dx > 1e-5 {
            wrong
                .push(format!("{}: {flips} latents differ, values by {dz:.1e}, reconstruction by {dx:.1e}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The name that `--from` takes, by the convention of a fixture.
fn format_of(entry: &Value) -> &'static str {
    match entry["convention"].as_str().unwrap() {
        c if c.starts_with("SAELens") => "saelens",
        c if c.starts_with("OpenAI") => "openai",
        c if c.starts_with("Llamascopium") => "llamascopium",
        c if c.starts_with("circuit-tracer") => "circuit-tracer",
        "Gemma Scope 1" => "gemma-scope",
        "Gemma Scope 1 transcoder" => "gemma-scope-transcoder",
        "Gemma Scope 1 embedding" => "gemma-scope-embedding",
        "Llama Scope R1 Distill" => "llama-scope-r1",
        "DeepSeek R1" => "dictionary-learning",
        c if c.starts_with("attention SAEs") => "hook-z",
        c if c.starts_with("cross-layer") => "cross-layer",
        "Gemma Scope 2" => "gemma-scope-2",
        "Llama Scope 1" => "llama-scope",
        "Goodfire" => "goodfire",
        "Qwen Scope" => "qwen-scope",
        "sparsify" => "sparsify",
        "dictionary_learning" => match entry["class"].as_str().unwrap() {
            "AutoEncoderTopK" => "dictionary-learning-topk",
            "BatchTopKSAE" => "dictionary-learning-batchtopk",
            _ => "dictionary-learning",
        },
        other => panic!("{other}"),
    }
}

#[test]
fn formats_are_recognised_and_can_be_named() {
    for case in cases() {
        let run = Run::open_as(&case.model, &case.choices).unwrap();
        let name = format_of(&case.entry);
        assert_eq!(run.format.name, name, "{}", case.name);
        let from = Some(Format::named(name).unwrap().name);
        let named = Run::open_as(&case.model, &Choices { from, ..case.choices }).unwrap();
        assert_eq!(named.model, run.model, "{}", case.name);
    }
    let why = Format::named("saelense").unwrap_err().to_string();
    FORMATS.iter().for_each(|format| assert!(why.contains(format.name), "{why}"));
}

/// The table of parity in `docs/formats.md` has a row per format: its cases, and the largest distances of values and
/// reconstructions, rounded up to one digit.
#[test]
fn the_page_states_the_parity_that_is_measured() {
    let mut found: Vec<(&str, usize, f32, f32)> = Vec::new();
    for case in cases() {
        let run = Run::open_as(&case.model, &case.choices).unwrap();
        let (z, hat) = run_of(&run, &case.rows());
        let off = [distance(&z, &case.expected("latents")), distance(&hat, &case.expected("reconstruction"))];
        match found.iter_mut().find(|(name, ..)| *name == run.format.name) {
            None => found.push((run.format.name, 1, off[0], off[1])),
            Some((_, n, dz, dx)) => (*n, *dz, *dx) = (*n + 1, dz.max(off[0]), dx.max(off[1])),
        }
    }
    found.sort_by_key(|(name, ..)| FORMATS.iter().position(|format| format.name == *name));
    let up = |v: f32| {
        let unit = 10f32.powf(v.log10().floor());
        format!("{:.0e}", (v / unit).ceil() * unit)
    };
    let row = |(name, n, dz, dx): &(&str, usize, f32, f32)| format!("| `{name}` | {n} | {} | {} |\n", up(*dz), up(*dx));
    let table: String = found.iter().map(row).collect();
    let page = include_str!("../../docs/formats.md");
    assert!(page.contains(&table), "docs/formats.md, section Parity: expected\n{table}");
    // Those without a fixture: a run, and both levels in SAELens, have tests of their own; the last is refused.
    let without = ["strata", "saelens-levels", "temporal"];
    for format in &FORMATS {
        assert!(found.iter().any(|(name, ..)| *name == format.name) || without.contains(&format.name), "{format:?}");
    }
}

/// A copy of the files of a fixture, and the path in it that a reader is given.
fn copy_of(case: &Case) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let to = dir.path().join("model");
    copy(&case.dir.join("model"), &to);
    let model = case.entry["model"].as_str().unwrap();
    (dir, to.parent().unwrap().join(model))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// Every file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn damaged_files_are_an_error_and_never_a_panic() {
    for case in cases() {
        let (dir, model) = copy_of(&case);
        for file in files(dir.path()) {
            let whole = fs::read(&file).unwrap();
            // Truncate the file, or change one bit or byte, at offsets spread over the file and dense at its ends.
            let places: Vec<usize> =
                (0..whole.len()).filter(|i| *i < 40 || *i + 40 > whole.len() || i % 523 == 0).collect();
            for at in places {
                fs::write(&file, &whole[..at]).unwrap();
                drop(Run::open_as(&model, &case.choices));
                let mut changed = whole.clone();
                changed[at] ^= 0x55;
                fs::write(&file, &changed).unwrap();
                drop(Run::open_as(&model, &case.choices));
            }
            fs::write(&file, whole).unwrap();
        }
        assert!(Run::open_as(&model, &case.choices).is_ok(), "{}: whole again", case.name);
    }
}

/// The sentence of the error.
#[track_caller]
fn why(path: &Path, choices: &Choices) -> String {
    match Run::open_as(path, choices) {
        Err(error) => format!("{error:#}"),
        Ok(run) => panic!("{} is read as {}", path.display(), run.format.name),
    }
}

/// Changes the JSON file `name` of a copy of a fixture.
fn with_settings(of: &str, name: &str, change: impl FnOnce(&mut Value)) -> (TempDir, PathBuf, Choices) {
    let case = case(of);
    let (dir, model) = copy_of(&case);
    let path = dir.path().join("model").join(name);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, value.to_string()).unwrap();
    (dir, model, case.choices)
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let cases: [(&str, &str, &str, &str, &[&str]); 7] = [
        ("saelens-standard", "cfg.json", "architecture", "matching_pursuit", &["matching_pursuit", "is not read"]),
        ("saelens-standard", "cfg.json", "architecture", "temporal", &["temporal", "earlier rows"]),
        ("saelens-standard", "cfg.json", "architecture", "novel", &["`architecture`", "jumprelu", "`novel`"]),
        ("saelens-standard", "cfg.json", "normalize_activations", "novel", &["normalize_activations", "`novel`"]),
        ("llamascopium-topk-folded", "config.json", "act_fn", "batchtopk", &["batchtopk", "batch", "jumprelu"]),
        ("llamascopium-topk-folded", "config.json", "sae_type", "crosscoder", &["sae_type", "crosscoder"]),
        ("gemma-scope-2", "config.json", "architecture", "topk", &["jump_relu", "`topk`"]),
    ];
    for (of, file, key, value, parts) in cases {
        let (_dir, model, choices) = with_settings(of, file, |cfg| cfg[key] = value.into());
        let why = why(&model, &choices);
        parts.iter().for_each(|part| assert!(why.contains(part), "{of}, {key} {value}: {why}"));
        assert!(!why.contains("at byte"), "{why}");
    }
}

#[test]
fn settings_that_change_nothing_are_no_reason_to_refuse() {
    let case = case("saelens-standard");
    let same = Run::open(&case.model).unwrap().model;
    let cfg = fs::read_to_string(case.model.join("cfg.json")).unwrap();
    // NaN and infinities as Python writes them, and one key under both of its names.
    let extra = r#"{"loss": NaN, "most": Infinity, "least": -Infinity, "text": "a \"NaN\" in a text, NaN",
        "activation_fn": "relu", "activation_fn_str": "relu", "hook_name": "a", "hook_point": "a", "#;
    let (_dir, model) = copy_of(&case);
    fs::write(model.join("cfg.json"), cfg.replacen('{', extra, 1)).unwrap();
    assert_eq!(Run::open(&model).unwrap().model, same);
}

#[test]
fn assumptions_are_said_and_can_be_overruled() {
    let average = case("saelens-standard-expected-average");
    let note = &Run::open(&average.model).unwrap().notes;
    assert!(note[0].contains("--norm-scaling-factor") && note[0].contains("expected_average_only_in"), "{note:?}");
    let factor = case("saelens-standard-expected-average-factor");
    assert_eq!(Run::open_as(&factor.model, &factor.choices).unwrap().notes, Vec::<String>::new());

    let gemma = case("gemma-scope-1");
    let note = &Run::open(&gemma.model).unwrap().notes;
    assert!(note[0].contains("--from gemma-scope-transcoder"), "{note:?}");
    let as_transcoder = |name| Choices { from: Some(name), ..Choices::default() };
    let transcoder = Run::open_as(&gemma.model, &as_transcoder("gemma-scope-transcoder")).unwrap();
    assert_eq!((transcoder.model.arch.variant.target, transcoder.notes.len()), (Some(20), 0));
    // The rows of an embedding are multiplied by sqrt(d).
    let embedding = Run::open_as(&gemma.model, &as_transcoder("gemma-scope-embedding")).unwrap();
    let plain = Run::open(&gemma.model).unwrap();
    let larger: Vec<f32> = gemma.rows().iter().map(|x| x * 20f32.sqrt()).collect();
    assert!(distance(&run_of(&embedding, &larger).0, &run_of(&plain, &gemma.rows()).0) < 1e-5);
    // The path may tell the kind as well.
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("gemma-scope-2b-pt-transcoders/layer_6/params.npz");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(&gemma.model, &path).unwrap();
    assert_eq!(Run::open(&path).unwrap().format.name, "gemma-scope-transcoder");
    assert_eq!(Run::open(path.parent().unwrap()).unwrap().format.name, "gemma-scope-transcoder");

    let qwen = case("qwen-scope");
    assert!(why(&qwen.model, &Choices::default()).contains("--k"));
    let named = dir.path().join("SAE-Res-Qwen3-1.7B-Base-W32K-L0_6");
    fs::create_dir_all(&named).unwrap();
    fs::copy(&qwen.model, named.join("layer6.sae.pt")).unwrap();
    let by_name = Run::open(&named).unwrap();
    assert_eq!(by_name.model, Run::open_as(&qwen.model, &qwen.choices).unwrap().model);
    assert!(by_name.notes[0].contains("6 latents per row"), "{:?}", by_name.notes);

    // A normalisation that no file has, only SAELens' list of models.
    let (plain, constant) = (case("saelens-standard"), case("saelens-standard-constant-norm"));
    let (_dir, model, _) =
        with_settings("saelens-standard-constant-norm", "cfg.json", |cfg| cfg["normalize_activations"] = "none".into());
    let choices = Choices { row_norm: Some(RowNorm::Constant), ..Choices::default() };
    assert_eq!(Run::open_as(&model, &choices).unwrap().model, Run::open(&constant.model).unwrap().model);
    assert_ne!(Run::open_as(&plain.model, &choices).unwrap().model, Run::open(&plain.model).unwrap().model);

    // A scale that is in the files is not applied twice.
    let scaled = case("llamascopium-jumprelu");
    let twice = Choices { norm_scaling_factor: Some(2.0), ..Choices::default() };
    assert!(why(&scaled.model, &twice).contains("norm-scaling-factor"));
}

#[test]
fn places_without_a_model_say_what_is_expected() {
    let dir = TempDir::new().unwrap();
    let none = Choices::default();
    let said = why(dir.path(), &none);
    assert!(said.contains("neither a run nor a model"), "{said}");
    assert!(why(&dir.path().join("absent"), &none).contains("no such file or directory"));
    // A directory with several models, each in a directory of its own.
    copy(&case("sparsify-topk").dir.join("model"), dir.path());
    copy(&dir.path().join("layers.6"), &dir.path().join("layers.7"));
    let said = why(dir.path(), &none);
    assert!(said.contains("layers.6") && said.contains("layers.7"), "{said}");
    // A directory that only contains `checkpoints` is not an interrupted run.
    let other = TempDir::new().unwrap();
    fs::create_dir(other.path().join("checkpoints")).unwrap();
    assert!(!why(other.path(), &none).contains("finished"));
    // Tensors that belong to no format are named.
    let odd = other.path().join("odd.safetensors");
    let numbers = [0u8; 8];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &numbers).unwrap();
    fs::write(&odd, safetensors::serialize([("novel", view)], None).unwrap()).unwrap();
    let said = why(&odd, &none);
    assert!(said.contains("`novel`") && said.contains("--from"), "{said}");
}

/// A zip archive of stored members, as `torch.save` writes.
pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut table) = (Vec::new(), Vec::new());
    let u16 = |n: usize| (n as u16).to_le_bytes();
    let u32 = |n: usize| (n as u32).to_le_bytes();
    for (name, data) in members {
        let at = out.len();
        let sizes = [&u32(0)[..], &u32(data.len()), &u32(data.len()), &u16(name.len()), &u16(0)].concat();
        out.extend([&b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0"[..], &sizes, name.as_bytes(), data].concat());
        let more = [&u16(0)[..], &u16(0), &u16(0), &u32(0), &u32(at)].concat();
        table.extend([&b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0"[..], &sizes, &more, name.as_bytes()].concat());
    }
    let (at, size, n) = (out.len(), table.len(), members.len());
    out.extend(table);
    out.extend([&b"PK\x05\x06\0\0\0\0"[..], &u16(n), &u16(n), &u32(size), &u32(at), &u16(0)].concat());
    out
}

#[test]
fn a_pickle_is_data_and_never_a_program() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ae.pt");
    let marker = dir.path().join("ran");
    let touch = format!("touch {}", marker.display());
    let length = (touch.len() as u32).to_le_bytes();
    let call = [b"\x80\x02cposix\nsystem\nX", &length[..], touch.as_bytes(), b"\x85R."].concat();
    for (program, parts) in [
        (&b"\x80\x02cposix\nsystem\nX\x04\0\0\0trueq\0\x85q\x01R."[..], &["posix.system", "executed"][..]),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", &["builtins.eval", "executed"]),
        (b"\x80\x02ctorch\nload\n)R.", &["torch.load"]),
        (b"\x80\x02cnumpy.core.multiarray\nscalar\n)R.", &["numpy.core.multiarray.scalar"]),
        (b"\x80\x02ibuiltins\nexit\n.", &["0x69", "not read"]),
        // Names that are not called: of code, and of a type of numbers.
        (b"\x80\x02}X\x01\0\0\0acposix\nsystem\ns.", &["posix.system", "executed"]),
        (b"\x80\x02}X\x01\0\0\0actorch\nfloat32\ns.", &["no format that is recognised"]),
        (b"\x80\x02}K\x01K\x02\x86K\x03s.", &["neither a text nor a whole number"]),
        (b"\x80\x02}q\0X\x01\0\0\0ah\0s.", &["damaged"]),
        (b"\x80\x02]q\0h\0a.", &["damaged"]),
        (b"\x80\x02(((", &["damaged"]),
        (&call, &["posix.system"]),
    ] {
        fs::write(&path, archive(&[("archive/data.pkl", program)])).unwrap();
        let why = why(&path, &Choices::default());
        parts.iter().for_each(|part| assert!(why.contains(part), "{}: {why}", program.escape_ascii()));
    }
    assert!(!marker.exists());
    fs::write(&path, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").unwrap();
    assert!(why(&path, &Choices::default()).contains("before 1.6"));
}

#[test]
fn the_command_line_takes_models_of_other_tools() {
    let dir = TempDir::new().unwrap();
    for name in ["qwen-scope", "saelens-standard-expected-average-factor", "openai-topk", "saelens-abstopk"] {
        let case = case(name);
        let out = dir.path().join(format!("{name}.safetensors"));
        let mut line = args!["encode", case.model, "--dump", case.input(), "--out", out];
        if let Some(k) = case.choices.k {
            line.extend(args!["--k", k.to_string()]);
        }
        if let Some(factor) = case.choices.norm_scaling_factor {
            line.extend(args!["--norm-scaling-factor", factor.to_string()]);
        }
        strata(&line).ok();
        let file = fs::read(&out).unwrap();
        let codes = SafeTensors::deserialize(&file).unwrap();
        let want = case.expected("latents").iter().filter(|z| **z != 0.0).count();
        assert_eq!(codes.tensor("z1.values").unwrap().shape(), [want], "{name}");
    }
    let average = case("saelens-standard-expected-average");
    let out = dir.path().join("average.safetensors");
    let ran = strata(&args!["encode", average.model, "--dump", average.input(), "--out", out]).ok();
    assert!(ran.err.contains("--norm-scaling-factor"), "{}", ran.err);
    let ran = strata(&args!["encode", average.model, "--dump", average.input(), "--out", out, "--from", "novel"]);
    assert!(ran.code == 2 && ran.err.contains("--from") && ran.err.contains("saelens"), "{}", ran.err);
}
