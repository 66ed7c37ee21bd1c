//! Bare files with tokens, directories of any files, and the messages about files that are not read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::Dtype as StDtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::json;
use strata_cli::dump::{Dump, RawSpec, Source};
use strata_core::Dtype;
use tempfile::TempDir;

use crate::cli::{args, read_json, strata, train_args};
use crate::dump::values;

/// A `.npy` file of any type.
fn npy(path: &Path, descr: &str, fortran: &str, shape: &str, data: &[u8]) -> PathBuf {
    let text = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((text.len() as u16).to_le_bytes());
    file.extend(text.as_bytes());
    file.extend(data);
    fs::write(path, file).unwrap();
    path.to_owned()
}

fn bytes<T: bytemuck::Pod>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

fn rows_of(dump: &Dump) -> Vec<f32> {
    let mut out = vec![0.0; dump.n_rows() as usize * dump.d()];
    dump.read_range(0, dump.n_rows() as usize, &mut out).unwrap();
    out
}

#[track_caller]
fn refused(source: &Source, parts: &[&str]) -> String {
    let message = format!("{:#}", source.open().expect_err("what cannot be read"));
    assert!(!message.contains('\n') && !message.contains("at byte"), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    message
}

fn of(path: &Path) -> Source {
    Source::new(&[path.to_owned()])
}

#[test]
fn three_dimensions_are_sequences() {
    let dir = TempDir::new().unwrap();
    let x = values(24, 5);
    let file = npy(&dir.path().join("x.npy"), "<f4", "False", "(4, 6, 5)", &bytes(&x));
    let dump = of(&file).open().unwrap();
    assert_eq!((dump.n_rows(), dump.d(), dump.context()), (24, 5, Some(6)));
    assert_eq!(dump.sequence_starts(), Some(&[0, 6, 12, 18][..]));
    assert_eq!(rows_of(&dump), x);
    let data = bytes(&x);
    for name in ["activations", "acts"] {
        let st = dir.path().join(format!("{name}.safetensors"));
        let view = TensorView::new(StDtype::F32, vec![4, 6, 5], &data).unwrap();
        serialize_to_file([(name, view)], None, &st).unwrap();
        let dump = of(&st).open().unwrap();
        assert_eq!((dump.n_rows(), dump.context()), (24, Some(6)));
        assert_eq!(rows_of(&dump), x);
    }
    // All shards must have sequences of the same length.
    let other = npy(&dir.path().join("y.npy"), "<f4", "False", "(2, 6, 5)", &bytes(&x[..60]));
    assert_eq!(Source::new(&[file.clone(), other]).open().unwrap().n_rows(), 36);
    let flat = npy(&dir.path().join("z.npy"), "<f4", "False", "(12, 5)", &bytes(&x[..60]));
    refused(&Source::new(&[file.clone(), flat]), &["z.npy", "sequences: expected 6 rows each by", "found none"]);
    refused(&Source { context: Some(5), ..of(&file) }, &["--context", "expected 6 rows by the dump, found 5"]);
    assert_eq!(Source { context: Some(6), ..of(&file) }.open().unwrap().context(), Some(6));
}

#[test]
fn tokens_come_from_a_file_of_their_own() {
    let dir = TempDir::new().unwrap();
    let file = npy(&dir.path().join("x.npy"), "<f4", "False", "(6, 3)", &bytes(&values(6, 3)));
    let expected = [5_u32, 4, 3, 2, 1, 0];
    let path = |name: &str| dir.path().join(name);
    let wide: Vec<i64> = expected.iter().map(|t| i64::from(*t)).collect();
    let short: Vec<u16> = expected.iter().map(|t| *t as u16).collect();
    let (u32s, i64s) = (bytes(&expected), bytes(&wide));
    let st = path("ids.safetensors");
    let starts = bytes(&[0_u64, 4]);
    let tensors = [
        ("tokens", TensorView::new(StDtype::U32, vec![6], &u32s).unwrap()),
        ("sequence_starts", TensorView::new(StDtype::U64, vec![2], &starts).unwrap()),
    ];
    serialize_to_file(tensors, None, &st).unwrap();
    let other = path("input_ids.safetensors");
    serialize_to_file([("input_ids", TensorView::new(StDtype::I64, vec![6], &i64s).unwrap())], None, &other).unwrap();
    for (ids, starts) in [
        (npy(&path("a.npy"), "<u4", "False", "(6,)", &u32s), None),
        (npy(&path("b.npy"), "<i8", "False", "(6,)", &i64s), None),
        (npy(&path("c.npy"), "<u2", "False", "(2, 3)", &bytes(&short)), Some(&[0, 3][..])),
        (st, Some(&[0, 4][..])),
        (other, None),
    ] {
        let dump = Source { tokens: Some(ids.clone()), ..of(&file) }.open().unwrap();
        assert_eq!(dump.tokens(), Some(&expected[..]), "{}", ids.display());
        assert_eq!(dump.sequence_starts(), starts, "{}", ids.display());
    }
    let with = |ids: PathBuf| Source { tokens: Some(ids), ..of(&file) };
    let mut negative = wide.clone();
    negative[2] = -100;
    let ids = npy(&path("n.npy"), "<i8", "False", "(6,)", &bytes(&negative));
    refused(&with(ids), &["n.npy", "token ids: expected 0 to 4294967295, found -100 at index 2"]);
    let ids = npy(&path("s.npy"), "<u4", "False", "(5,)", &u32s[..20]);
    refused(&with(ids), &["s.npy", "expected 6, one per row, found 5"]);
    let ids = npy(&path("f.npy"), "<f4", "False", "(6,)", &u32s);
    refused(&with(ids), &["f.npy", "integers", "python -c"]);
    refused(&with(path("none.npy")), &["none.npy", "no such file"]);

    // Sequences and texts.
    let source = with(path("a.npy"));
    let dump = Source { context: Some(4), ..source.clone() }.open().unwrap();
    assert_eq!((dump.sequence_starts(), dump.context()), (Some(&[0, 4][..]), Some(4)));
    let starts = |values: &[i64]| {
        let file = npy(&path("starts.npy"), "<i8", "False", &format!("({},)", values.len()), &bytes(values));
        Source { starts: Some(file), ..source.clone() }
    };
    // The file of starts may also have the end of the last sequence.
    assert_eq!(starts(&[0, 1, 6]).open().unwrap().sequence_starts(), Some(&[0, 1][..]));
    for bad in [&[1, 2][..], &[0, 0], &[0, 7], &[0, -1], &[6], &[]] {
        refused(&starts(bad), &["starts.npy", "starts of sequences: expected"]);
    }
    refused(&Source { context: Some(2), ..starts(&[0, 3]) }, &["--starts", "already tells where sequences begin"]);
    let vocab = path("vocab.txt");
    fs::write(&vocab, "zero\none\ntwo\n").unwrap();
    let texts = Source { vocab: Some(vocab.clone()), ..source }.open().unwrap();
    assert_eq!(texts.vocab().unwrap(), ["zero", "one", "two"]);
    refused(&Source { vocab: Some(vocab), ..of(&file) }, &["--vocab", "--tokens"]);
}

#[test]
fn tokens_beside_activations_are_used() {
    let dir = TempDir::new().unwrap();
    let write = |name: &str, first: i32, starts: Option<&[i64]>| {
        let path = dir.path().join(name);
        let (x, ids) = (bytes(&values(4, 3)), bytes(&[first, first + 1, first + 2, first + 3]));
        let starts = starts.map(bytes);
        let mut tensors = vec![
            ("activations", TensorView::new(StDtype::F32, vec![4, 3], &x).unwrap()),
            ("tokens", TensorView::new(StDtype::I32, vec![4], &ids).unwrap()),
        ];
        if let Some(starts) = &starts {
            let n = starts.len() / 8;
            tensors.push(("sequence_starts", TensorView::new(StDtype::I64, vec![n], starts).unwrap()));
        }
        serialize_to_file(tensors, None, &path).unwrap();
        path
    };
    let (a, b) = (write("a.safetensors", 10, Some(&[0, 2])), write("b.safetensors", 20, Some(&[0])));
    let dump = of(&a).open().unwrap();
    assert_eq!((dump.tokens(), dump.sequence_starts()), (Some(&[10, 11, 12, 13][..]), Some(&[0, 2][..])));
    let both = Source::new(&[a.clone(), b]).open().unwrap();
    assert_eq!(both.tokens(), Some(&[10, 11, 12, 13, 20, 21, 22, 23][..]));
    assert_eq!(both.sequence_starts(), Some(&[0, 2, 4][..]));
    let bare = npy(&dir.path().join("c.npy"), "<f4", "False", "(4, 3)", &bytes(&values(4, 3)));
    refused(&Source::new(&[a.clone(), bare]), &["c.npy", "expected a tensor `tokens`"]);
    refused(&Source { tokens: Some(a.clone()), ..of(&a) }, &["--tokens", "its own tokens"]);
}

#[test]
fn a_manifest_may_name_any_file_of_rows_and_ids() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let x = values(7, 2);
    npy(&path("a.npy"), "<f4", "False", "(2, 2, 2)", &bytes(&x[..8]));
    fs::write(path("b.bin"), bytes(&x[8..])).unwrap();
    npy(&path("ids.npy"), "<i4", "False", "(7,)", &bytes(&[0_i32, 1, 2, 3, 4, 5, 6]));
    npy(&path("starts.npy"), "<i4", "False", "(2,)", &bytes(&[0_i32, 4]));
    let manifest = json!({
        "format": "strata-dump", "version": 1, "d": 2, "rows": 7, "dtype": "f32", "tokens": "ids.npy",
        "shards": [{"file": "a.npy", "rows": 4}, {"file": "b.bin", "rows": 3}],
    });
    let with = |key: &str, value: serde_json::Value| {
        let mut m = manifest.clone();
        m[key] = value;
        fs::write(path("dump.json"), m.to_string()).unwrap();
        of(dir.path())
    };
    let dump = with("model", "m".into()).open().unwrap();
    assert_eq!((rows_of(&dump), dump.tokens().unwrap()[6]), (x.clone(), 6));
    assert_eq!((dump.context(), dump.sequence_starts()), (Some(2), Some(&[0, 2, 4, 6][..])));
    fs::write(path("ids.bin"), bytes(&[6_u32, 5, 4, 3, 2, 1, 0])).unwrap();
    assert_eq!(with("tokens", "ids.bin".into()).open().unwrap().tokens().unwrap()[0], 6);
    npy(&path("a.npy"), "<f4", "False", "(4, 2)", &bytes(&x[..8]));
    assert_eq!(with("sequence_starts", "starts.npy".into()).open().unwrap().sequence_starts(), Some(&[0, 4][..]));
    fs::write(path("b.bin"), bytes(&x[8..13])).unwrap();
    refused(&with("hook", "h".into()), &["b.bin", "size: expected a multiple of 8 bytes"]);
    for (key, near) in [("contxt", "`context`"), ("token", "`tokens`"), ("Model", "`model`")] {
        refused(&with(key, 5.into()), &["dump.json", &format!("unknown key `{key}`"), &format!("did you mean {near}")]);
    }
    refused(&with("colour", 5.into()), &["unknown key `colour`", "the keys are format, version, d"]);
    refused(&with("stats", json!({"mean_nrm": 1.0})), &["unknown key `stats.mean_nrm`", "`stats.mean_norm`"]);
    refused(&with("shards", json!([{"file": "a.npy", "row": 7}])), &["unknown key `shards.row`", "`shards.rows`"]);
}

#[test]
fn a_file_that_is_given_twice_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = npy(&dir.path().join("x.npy"), "<f4", "False", "(6, 3)", &bytes(&values(6, 3)));
    let again = dir.path().join("..").join(dir.path().file_name().unwrap()).join("x.npy");
    refused(&Source::new(&[file.clone(), again]), &["x.npy", "given twice", "held out and trained on"]);
    #[cfg(unix)]
    {
        let link = dir.path().join("y.npy");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        refused(&Source::new(&[file, link]), &["given twice"]);
    }
}

/// Runs the line of Python in a message, where there is a Python with NumPy.
fn converted(message: &str, dir: &Path) -> bool {
    let code = message.split_once("python -c \"").and_then(|(_, rest)| rest.rsplit_once('"')).expect("a line").0;
    let python = std::env::var("STRATA_PYTHON").unwrap_or_else(|_| "python3".into());
    let has_numpy = Command::new(&python).args(["-c", "import numpy"]).output().is_ok_and(|o| o.status.success());
    if has_numpy {
        let ran = Command::new(python).args(["-c", code]).current_dir(dir).output().unwrap();
        assert!(ran.status.success(), "{code}\n{}", String::from_utf8_lossy(&ran.stderr));
    }
    has_numpy
}

#[test]
fn arrays_that_are_not_read_come_with_the_line_that_converts_them() {
    let dir = TempDir::new().unwrap();
    let x = values(6, 4);
    let wide: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let swapped: Vec<u8> = x.iter().flat_map(|v| v.to_be_bytes()).collect();
    let columns: Vec<f32> = (0..24).map(|i| x[i % 6 * 4 + i / 6]).collect();
    for (name, descr, fortran, shape, data, part) in [
        ("big", ">f4", "False", "(6, 4)", swapped, "big-endian"),
        ("f64", "<f8", "False", "(6, 4)", bytes(&wide), "float64"),
        ("fortran", "<f4", "True", "(6, 4)", bytes(&columns), "fortran_order"),
        ("four", "<f4", "False", "(1, 2, 3, 4)", bytes(&x), "found 4"),
    ] {
        let file = npy(&dir.path().join(format!("{name}.npy")), descr, fortran, shape, &data);
        let message = refused(&of(&file), &[part, "convert it with: python -c \"import numpy as np"]);
        if converted(&message, dir.path()) {
            let dump = of(&dir.path().join(format!("{name}.rows.npy"))).open().unwrap();
            assert_eq!((dump.d(), rows_of(&dump)), (4, x.clone()), "{name}");
        }
    }
    // An array of one dimension has no rows, in either order of its elements.
    let flat = npy(&dir.path().join("flat.npy"), "<f4", "False", "(24,)", &bytes(&x));
    assert!(!refused(&of(&flat), &["found 1"]).contains("python"));
    // No conversion makes rows of a width of 0.
    let empty = npy(&dir.path().join("empty.npy"), "<f4", "False", "(6, 0)", &[]);
    assert!(!refused(&of(&empty), &["width", "found 0"]).contains("python"));
}

#[test]
fn files_of_other_kinds_are_named_with_the_line_that_converts_them() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (name, parts) in [
        ("a.pt", &["torch.save", "import torch", "save_file"][..]),
        ("a.pth", &["torch.save"]),
        ("a.npz", &["archive of arrays", "np.load", "z.files[0]"]),
        ("a.h5", &["HDF5", "h5py"]),
        ("a.parquet", &["Parquet", "pandas"]),
        ("a.csv", &["loadtxt", "delimiter=','"]),
        ("a.arrow", &["give the directory", "state.json"]),
        ("a.safetensors.zst", &["zstd -d"]),
        ("a.xyz", &["ending `xyz`"]),
    ] {
        fs::write(path(name), "anything").unwrap();
        refused(&of(&path(name)), &[&[name], parts].concat());
    }
    fs::write(path("pytorch_model.bin"), b"PK\x03\x04 and so on").unwrap();
    refused(&of(&path("pytorch_model.bin")), &["torch.save"]);
    for (marker, parts) in [
        (".zarray", &["zarr.open", "open_memmap"][..]),
        ("zarr.json", &["zarr.open"]),
        ("dataset_dict.json", &["several data sets"]),
        ("dataset_info.json", &["Hugging Face", "load_from_disk"]),
    ] {
        let inside = path(&format!("{marker}.d"));
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join(marker), "{}").unwrap();
        refused(&of(&inside), parts);
    }
    fs::create_dir(path("empty")).unwrap();
    refused(&of(&path("empty")), &["expected dump.json", "saev", "vLLM"]);
    // A name with characters that a shell interprets is not put into a command.
    fs::write(path("$(rm).pt"), "").unwrap();
    assert!(refused(&of(&path("$(rm).pt")), &["'FILE'"]).matches("$(rm)").count() == 1);
    fs::write(path("x.dat"), bytes(&values(3, 2))).unwrap();
    let raw = Some(RawSpec { dtype: Dtype::F32, dim: 2 });
    assert_eq!(Source { raw, ..of(&path("x.dat")) }.open().unwrap().n_rows(), 3);
}

#[test]
fn every_command_takes_bare_files_with_tokens_and_a_run_remembers_them() {
    let dir = TempDir::new().unwrap();
    let x = crate::cli::rows(1200);
    let sub = dir.path().join("data");
    fs::create_dir(&sub).unwrap();
    let rows = npy(&sub.join("x.npy"), "<f4", "False", "(1200, 16)", &bytes(&x));
    let largest = |row: &[f32]| (0..16).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
    let ids: Vec<i64> = x.chunks(16).map(|row| largest(row) as i64 % 7).collect();
    let ids = npy(&sub.join("ids.npy"), "<i8", "False", "(1200,)", &bytes(&ids));
    let vocab = sub.join("vocab.json");
    fs::write(&vocab, r#"{"Ġthe": 0, "Ġcat": 1, "s": 2, ".": 3, "Ċ": 4, "Ġ": 5, "ing": 6}"#).unwrap();
    let run = dir.path().join("run");
    let said = args!["--tokens", ids, "--vocab", vocab, "--context", "20"];
    let mut train = train_args(&rows, &run, &[]);
    train.extend(said.clone());
    strata(&train).ok();
    // The path of the dump is relative to the run, so that both can be moved together.
    let remembered = read_json(&run.join("source.json"));
    assert_eq!(remembered["paths"], json!(["../data/x.npy"]));
    assert_eq!((&remembered["tokens"], &remembered["context"]), (&json!("../data/ids.npy"), &json!(20)));
    let text = fs::read_to_string(run.join("sae/cfg.json")).unwrap();
    assert!(!text.contains(dir.path().to_str().unwrap()), "{text}");
    let moved = dir.path().join("elsewhere");
    fs::create_dir(&moved).unwrap();
    fs::rename(&sub, moved.join("data")).unwrap();
    fs::rename(&run, moved.join("run")).unwrap();
    let (run, rows) = (moved.join("run"), moved.join("data/x.npy"));
    let said =
        args!["--tokens", moved.join("data/ids.npy"), "--vocab", moved.join("data/vocab.json"), "--context", "20"];

    let first = strata(&args!["eval", run, "--json"]).ok();
    let latents = fs::read_to_string(run.join("latents.jsonl")).unwrap();
    assert!(latents.contains("\" the\"") && latents.contains("\"\\n\"") && !latents.contains('Ġ'), "{latents}");
    // `--dump` may stand before or after the run.
    let mut before = args!["eval", "--dump", rows, run, "--json"];
    before.extend(said.clone());
    assert_eq!(strata(&before).ok().json(), first.json());
    let mut after = args!["eval", run, "--json", "--dump", rows];
    after.extend(said);
    assert_eq!(strata(&after).ok().json(), first.json());
    strata(&args!["encode", run, "--out", moved.join("codes.safetensors")]).ok();
    strata(&args!["probe", run, "--labels", "chars", "--json"]).ok();
    strata(&args!["export", run, "--format", "neuronpedia", "--out", moved.join("np")]).ok();
    let page = fs::read_to_string(moved.join("np/level1/batch-0.json")).unwrap();
    assert!(page.contains("\" the\"") && !page.contains('Ġ') && !page.contains(dir.path().to_str().unwrap()));

    // A missing argument gives the command to type.
    strata(&args!["eval", "--dump", rows]).fails(&["the run is missing", "strata eval RUN --dump PATH"]);
    strata(&args!["eval"]).fails(&["the run is missing"]);
    fs::remove_file(run.join("source.json")).unwrap();
    strata(&args!["eval", run]).fails(&["does not say what it was trained on", "--dump PATH"]);
    fs::write(run.join("source.json"), "{\"paths\": [\"gone.npy\"]}").unwrap();
    strata(&args!["eval", run]).fails(&["gone.npy", "no such file", "name another with --dump"]);
}

#[test]
fn names_from_files_do_not_reach_the_terminal_as_they_are() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    npy(&path("a.npy"), "<f4", "False", "(40, 2)", &bytes(&values(40, 2)));
    let manifest = json!({
        "format": "strata-dump", "version": 1, "d": 2, "rows": 40, "dtype": "f32", "shards": [{"file": "a.npy", "rows": 40}],
        "model": "gpt\u{1b}]0;title\u{7}\u{1b}[2J", "hook": "x\nverdict         ready (says the file)\u{9b}2J\u{202e}",
    });
    fs::write(path("dump.json"), manifest.to_string()).unwrap();
    let ran = strata(&args!["inspect", dir.path()]).ok();
    let is_plain = |text: &str| text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}');
    assert!(is_plain(&ran.out) && is_plain(&ran.err), "{:?}", ran.out);
    assert_eq!(ran.out.lines().filter(|l| l.starts_with("verdict")).count(), 1, "{}", ran.out);
    assert!(ran.out.contains("gpt\\u{1b}]0;title\\u{7}\\u{1b}[2J, x\\nverdict"), "{}", ran.out);
    let ran = strata(&args!["inspect", dir.path(), "--json"]).ok();
    assert!(is_plain(&ran.out), "{:?}", ran.out);
    assert_eq!(ran.json()["hook"], manifest["hook"]);
    // Errors escape text that they quote from a file, and names of files.
    let mut bad = manifest.clone();
    bad["\u{1b}[31m"] = 1.into();
    fs::write(path("dump.json"), bad.to_string()).unwrap();
    let ran = strata(&args!["inspect", dir.path()]).fails(&["unknown key `\\u{1b}[31m`"]);
    assert!(is_plain(&ran.err));
    #[cfg(unix)]
    {
        let ran = strata(&args!["inspect", "none\u{1b}[2J.npy"]).fails(&["none\\u{1b}[2J.npy"]);
        assert!(is_plain(&ran.err));
    }
}
