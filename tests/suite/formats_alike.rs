//! Models whose arrays fit several formats, or a format in an unusual layout: what is assumed of them, in which words, and
//! that nothing is assumed in silence.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use strata_cli::run::Run;
use strata_core::Philox;
use strata_core::format::flat::{Flat, FlatRule};
use strata_core::format::formats::{Choices, Format};
use strata_core::format::npz;
use tempfile::TempDir;

use super::cli::{args, strata};
use super::formats::{archive, cases, distance, run_of};

/// A matrix of numbers that are not alike.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = Philox::new(seed, 7);
    (0..n).map(|_| rng.normal_f32()).collect()
}

type Tensors<'a> = BTreeMap<&'a str, (Vec<usize>, Vec<f32>)>;

fn write(path: &Path, tensors: &Tensors<'_>) {
    let bytes: Vec<Vec<u8>> =
        tensors.values().map(|(_, data)| data.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, (shape, _)), bytes)| (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[track_caller]
fn why(path: &Path) -> String {
    match Run::open(path) {
        Err(error) => format!("{error:#}"),
        Ok(run) => panic!("{} is read as {}", path.display(), run.format.name),
    }
}

fn from(name: &str) -> Choices {
    Choices { from: Some(Format::named(name).unwrap().name), ..Choices::default() }
}

/// `params.npz` of a jumprelu model in which autoencoder, transcoder and embeddings look alike.
fn params(path: &Path) -> PathBuf {
    let (d, f) = (6, 10);
    let rule = FlatRule::Jumprelu(vec![0.2; f].into());
    let [enc, dec] = [1, 2].map(|seed| numbers(seed, f * d).into());
    let flat = Flat::new(enc, numbers(3, f).into(), dec, numbers(4, d).into(), rule, false);
    fs::create_dir_all(path).unwrap();
    fs::write(path.join("params.npz"), npz::write(&flat.into_model().unwrap()).unwrap()).unwrap();
    path.join("params.npz")
}

/// Read from its path alone, a model of embeddings would be off by a factor of `sqrt(d)`, and a transcoder would be
/// measured against the wrong rows: what is assumed is said, and `--from` says otherwise.
#[test]
fn what_the_path_says_of_gemma_scope_is_said_and_can_be_overruled() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| params(&dir.path().join(name));
    let x = numbers(9, 6 * 20);
    let plain = Run::open(&at("gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_9")).unwrap();
    assert_eq!((plain.format.name, plain.notes.len()), ("gemma-scope", 1));
    let (z, _) = run_of(&plain, &x);

    for (name, format, other) in [
        (
            "gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_9",
            "gemma-scope-transcoder",
            "--from gemma-scope",
        ),
        ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", "gemma-scope-embedding", "--from gemma-scope"),
    ] {
        let file = at(name);
        for path in [file.as_path(), file.parent().unwrap()] {
            let run = Run::open(path).unwrap();
            assert_eq!(run.format.name, format, "{name}");
            assert!(run.notes.len() == 1 && run.notes[0].contains(other), "{name}: {:?}", run.notes);
            assert_eq!(Run::open_as(path, &from(format)).unwrap().notes, Vec::<String>::new(), "{name}");
            let overruled = Run::open_as(path, &from("gemma-scope")).unwrap();
            assert_eq!((overruled.notes.len(), &overruled.model), (0, &plain.model), "{name}");
        }
    }
    // A word in the names of other directories is no sign of embeddings.
    for name in ["embeddings/layer_3", "embedding/gemma-scope-2b-pt-res/layer_5/width_16k"] {
        let run = Run::open(&at(name)).unwrap();
        assert_eq!((run.format.name, run.notes.len()), ("gemma-scope", 1), "{name}");
        assert!(distance(&run_of(&run, &x).0, &z) == 0.0, "{name}");
    }
}

/// Arrays of Gemma Scope 2, and the layer of a cross-layer transcoder with three decoders per latent.
#[test]
fn gemma_scope_2_says_in_its_settings_what_it_is() {
    let (dir, d, f) = (TempDir::new().unwrap(), 6, 10);
    let mut tensors: Tensors<'_> = BTreeMap::from([
        ("w_enc", (vec![d, f], numbers(1, d * f))),
        ("w_dec", (vec![f, d], numbers(2, f * d))),
        ("b_enc", (vec![f], numbers(3, f))),
        ("b_dec", (vec![d], numbers(4, d))),
        ("threshold", (vec![f], vec![0.1; f])),
    ]);
    let place = dir.path().join("transcoder-study/resid_post");
    write(&place.join("params.safetensors"), &tensors);
    let opened = |settings: &str| {
        fs::write(place.join("config.json"), settings).unwrap();
        let run = Run::open(&place).unwrap();
        (run.model.arch.variant.target.is_some(), run.notes)
    };
    let none = Vec::<String>::new();
    assert_eq!(opened(r#"{"architecture": "jump_relu", "type": "sae"}"#), (false, none.clone()));
    assert_eq!(opened(r#"{"architecture": "jump_relu", "type": "transcoder"}"#), (true, none.clone()));
    let hooks = |out: &str| {
        opened(&format!(r#"{{"architecture": "jump_relu", "hf_hook_point_in": "a", "hf_hook_point_out": "{out}"}}"#))
    };
    assert_eq!(hooks("a"), (false, none.clone()));
    assert_eq!(hooks("b"), (true, none.clone()));
    // Neither is said, and the path has the word.
    let (is_transcoder, notes) = opened(r#"{"architecture": "jump_relu"}"#);
    assert!(is_transcoder && notes[0].contains("its path has that word"), "{notes:?}");
    fs::write(place.join("config.json"), r#"{"architecture": "jump_relu", "type": "crosscoder"}"#).unwrap();
    assert!(why(&place).contains("expected sae, transcoder or clt, found `crosscoder`"), "{}", why(&place));

    let each = numbers(5, f * 3 * d);
    let sum = |j: usize, i: usize| (0..3).map(|l| each[(j * 3 + l) * d + i]).sum::<f32>();
    let sums: Vec<f32> = (0..f * d).map(|at| sum(at / d, at % d)).collect();
    tensors.insert("w_dec", (vec![f, 3, d], each.clone()));
    let clt = dir.path().join("clt/width_262k_l0_medium");
    write(&clt.join("params_layer_2.safetensors"), &tensors);
    fs::write(clt.join("config.json"), r#"{"architecture": "jump_relu", "type": "clt"}"#).unwrap();
    let run = Run::open(&clt).unwrap();
    assert!(run.notes.len() == 1 && run.notes[0].contains("3 decoders"), "{:?}", run.notes);
    assert_eq!(run.model.arch.variant.target, Some(d));
    let largest = sums.iter().zip(&*run.model.params.level[0].w_dec).map(|(a, b)| (a - b).abs());
    assert!(largest.fold(0.0, f32::max) < 1e-6, "decoders are added up");
    // Of several layers one is named.
    write(&clt.join("params_layer_3.safetensors"), &tensors);
    assert!(why(&clt).contains("name one of them"), "{}", why(&clt));
    assert!(Run::open(&clt.join("params_layer_3.safetensors")).is_ok());
}

/// With as many latents as the rows are wide, SAELens' encoder `(d, f)` and circuit-tracer's `(f, d)` have one shape: a
/// directory without settings was read as the latter, transposed, in silence.
#[test]
fn a_square_encoder_is_not_guessed() {
    let (dir, n) = (TempDir::new().unwrap(), 8);
    let square: Tensors<'_> = BTreeMap::from([
        ("W_enc", (vec![n, n], numbers(1, n * n))),
        ("W_dec", (vec![n, n], numbers(2, n * n))),
        ("b_enc", (vec![n], numbers(3, n))),
        ("b_dec", (vec![n], numbers(4, n))),
    ]);
    for name in ["sae_weights.safetensors", "model.safetensors"] {
        let file = dir.path().join(name);
        write(&file, &square);
        let said = why(&file);
        assert!(said.contains("no format that is recognised") && said.contains("--from"), "{said}");
        assert!(Run::open_as(&file, &from("circuit-tracer")).unwrap().notes.is_empty());
    }
    let named = dir.path().join("named/layer_3.safetensors");
    write(&named, &square);
    let run = Run::open(&named).unwrap();
    assert_eq!((run.format.name, run.notes.len()), ("circuit-tracer", 0));
    assert_eq!(*run.model.params.level[0].w_enc, *square["W_enc"].1, "one row per latent");
    // Another shape has one reading only, which is said where no name says it.
    let (d, f) = (5, n);
    let mut wide = square.clone();
    wide.insert("W_enc", (vec![f, d], numbers(1, d * f)));
    wide.insert("W_dec", (vec![f, d], numbers(2, d * f)));
    wide.insert("b_dec", (vec![d], numbers(4, d)));
    let file = dir.path().join("wide.safetensors");
    write(&file, &wide);
    let run = Run::open(&file).unwrap();
    assert!(run.format.name == "circuit-tracer" && run.notes[0].contains("relu transcoder"), "{:?}", run.notes);
}

fn files_of(name: &str, dir: &Path) -> PathBuf {
    let case = cases().into_iter().find(|case| case.name == name).unwrap();
    let model = if case.model.is_file() { case.model.parent().unwrap().to_owned() } else { case.model };
    let to = dir.join(name);
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(&model).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn a_class_that_no_settings_name_is_said() {
    let dir = TempDir::new().unwrap();
    for (name, class) in [
        ("dictionary-autoencoder", "`AutoEncoder`"),
        ("dictionary-april", "`AutoEncoderNew`"),
        ("dictionary-gated", "`GatedAutoEncoder`"),
        ("dictionary-jumprelu", "`JumpReluAutoEncoder`"),
        ("dictionary-matryoshka", "`MatryoshkaBatchTopKSAE`"),
    ] {
        let model = files_of(name, dir.path());
        let named = Run::open(&model).unwrap();
        assert_eq!(named.notes, Vec::<String>::new(), "{name}");
        fs::remove_file(model.join("config.json")).unwrap();
        let run = Run::open(&model).unwrap();
        assert!(run.notes.len() == 1 && run.notes[0].contains(class), "{name}: {:?}", run.notes);
        assert_eq!(run.model, named.model, "{name}");
    }
    let topk = files_of("dictionary-topk", dir.path());
    fs::remove_file(topk.join("config.json")).unwrap();
    assert!(why(&topk).contains("--from dictionary-learning-topk"), "{}", why(&topk));
}

#[test]
fn several_files_of_weights_are_listed() {
    let dir = TempDir::new().unwrap();
    let model = files_of("saelens-standard", dir.path());
    let whole = Run::open(&model).unwrap().model;
    fs::rename(model.join("sae_weights.safetensors"), model.join("model.safetensors")).unwrap();
    assert_eq!(Run::open(&model).unwrap().model, whole);
    fs::copy(model.join("model.safetensors"), model.join("older.safetensors")).unwrap();
    let said = why(&model);
    assert!(
        ["`model.safetensors`", "`older.safetensors`", "name one of them"].iter().all(|w| said.contains(w)),
        "{said}"
    );
    assert_eq!(Run::open(&model.join("older.safetensors")).unwrap().model, whole);
}

/// A latent that is switched off by an infinite threshold never fires; one that is not a number is an error, also where
/// one threshold holds for all latents.
#[test]
fn thresholds_may_be_infinite_and_must_be_numbers() {
    let dir = TempDir::new().unwrap();
    let (d, f) = (6, 10);
    let mut tensors: Tensors<'_> = BTreeMap::from([
        ("W_enc", (vec![f, d], numbers(1, d * f))),
        ("W_dec", (vec![f, d], numbers(2, f * d))),
        ("b_enc", (vec![f], numbers(3, f))),
        ("b_dec", (vec![d], numbers(4, d))),
        ("activation_function.threshold", (vec![f], vec![0.1; f])),
    ]);
    let file = dir.path().join("layer_1.safetensors");
    let x = numbers(9, d * 30);
    write(&file, &tensors);
    let (finite, _) = run_of(&Run::open(&file).unwrap(), &x);
    assert!(finite.chunks(f).any(|z| z[4] > 0.0), "latent 4 fires");

    let mut off = vec![0.1; f];
    off[4] = f32::INFINITY;
    // A row of thresholds is a vector with one more dimension.
    for shape in [vec![f], vec![1, f], vec![f, 1]] {
        tensors.insert("activation_function.threshold", (shape.clone(), off.clone()));
        write(&file, &tensors);
        let (z, _) = run_of(&Run::open(&file).unwrap(), &x);
        for (z, finite) in z.chunks(f).zip(finite.chunks(f)) {
            for (j, (z, finite)) in z.iter().zip(finite).enumerate() {
                assert_eq!(*z, if j == 4 { 0.0 } else { *finite }, "latent {j}, thresholds of shape {shape:?}");
            }
        }
    }
    for bad in [vec![f32::NAN], vec![f32::NAN; f]] {
        tensors.insert("activation_function.threshold", (vec![bad.len()], bad));
        write(&file, &tensors);
        assert!(why(&file).contains("threshold is not finite"), "{}", why(&file));
    }
    // The same numbers in two dimensions are a matrix.
    tensors.insert("activation_function.threshold", (vec![2, f / 2], vec![0.1; f]));
    write(&file, &tensors);
    assert!(why(&file).contains("activation_function.threshold"), "{}", why(&file));
}

/// Files of Llama Scope can say that the encoder reads `x - b_dec`, of scaled rows.
#[test]
fn llama_scope_may_take_its_bias_off_the_rows() {
    let dir = TempDir::new().unwrap();
    let case = cases().into_iter().find(|case| case.name == "llama-scope").unwrap();
    fs::create_dir(dir.path().join("checkpoints")).unwrap();
    for name in ["hyperparams.json", "checkpoints/final.safetensors"] {
        fs::copy(case.model.join(name), dir.path().join(name)).unwrap();
    }
    let plain = Run::open(dir.path()).unwrap();
    let path = dir.path().join("hyperparams.json");
    let mut settings: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    settings["apply_decoder_bias_to_pre_encoder"] = true.into();
    fs::write(&path, settings.to_string()).unwrap();
    let run = Run::open(dir.path()).unwrap();
    assert!(run.notes.iter().any(|note| note.contains("reads x - b_dec")), "{:?}", run.notes);
    // Rows that are larger by b_dec have the latents that the rows themselves had.
    let d = run.model.arch.d;
    let b_dec = &run.model.params.b_dec;
    let moved: Vec<f32> = case.rows().iter().enumerate().map(|(i, x)| x + b_dec[i % d]).collect();
    let (z, _) = run_of(&run, &moved);
    let (want, _) = run_of(&plain, &case.rows());
    assert!(distance(&z, &want) < 1e-5, "{}", distance(&z, &want));
    assert!(distance(&run_of(&run, &case.rows()).0, &want) > 1e-2, "and others than before");
}

/// What `strata eval` found may lie in the directory of a model of another tool, where the user has put it; the page does
/// not go there unasked.
#[test]
fn a_report_is_not_written_beside_a_model_of_another_tool() {
    let dir = TempDir::new().unwrap();
    let model = files_of("saelens-standard", dir.path());
    let case = cases().into_iter().find(|case| case.name == "saelens-standard").unwrap();
    let why = ["strata eval", "--dump DUMP --out DIR", "strata report DIR"];
    strata(&args!["report", model]).fails(&why);
    strata(&args!["report", model.join("sae_weights.safetensors")]).fails(&why);
    strata(&args!["eval", model, "--dump", case.input(), "--all"]).fails(&["nothing is written into", "--out"]);
    strata(&args!["eval", model, "--dump", case.input(), "--all", "--out", model]).ok();
    strata(&args!["report", model]).fails(&["nothing is written into", "--out"]);
    assert!(!model.join("report.html").exists());
    let page = dir.path().join("page.html");
    strata(&args!["report", model, "--out", page]).ok();
    assert!(page.exists());
    let found = dir.path().join("found");
    strata(&args!["eval", model, "--dump", case.input(), "--all", "--out", found]).ok();
    strata(&args!["report", found]).ok();
    assert!(found.join("report.html").exists());
}

/// A flag that a format has no place for is refused; what `strata` files can hold is written.
#[test]
fn what_is_said_of_a_model_is_written_or_refused() {
    let dir = TempDir::new().unwrap();
    let case = cases().into_iter().find(|case| case.name == "saelens-jumprelu").unwrap();
    let out = |name: &str| dir.path().join(name);
    let said = ["--model-id", "a/b", "--hook", "blocks.1.hook_mlp_out", "--context", "77"];
    let line = |to: &str, more: &[&str]| {
        let mut line = args!["convert", case.model, out(to), "--to", to];
        line.extend(more.iter().map(std::ffi::OsString::from));
        line
    };
    strata(&line("strata", &said)).ok();
    let origin = Run::open(&out("strata")).unwrap().origin;
    assert_eq!((origin.model.as_deref(), origin.context), (Some("a/b"), Some(77)));
    assert_eq!(origin.hook.as_deref(), Some("blocks.1.hook_mlp_out"));
    strata(&line("npz", &said[..2])).fails(&["--model-id", "--to npz", "no place"]);
    strata(&line("npz", &said[2..4])).fails(&["--hook"]);
    strata(&line("npz", &said[4..])).fails(&["--context"]);
    strata(&line("npz", &["--weights-dtype", "bf16"])).fails(&["--weights-dtype"]);
    strata(&line("strata", &["--prepend-bos", "true"])).fails(&["--prepend-bos", "--to strata"]);
    let gated = cases().into_iter().find(|case| case.name == "saelens-gated").unwrap();
    strata(&args!["convert", gated.model, out("gated"), "--to", "npz"]).fails(&["--to: an npz of Gemma Scope"]);
    assert!(!out("gated").exists() && !out("npz").exists());
}

/// `config.json` is a file of several formats: that another of them has no weights hid why a pickle was refused.
#[test]
fn the_file_that_is_there_is_the_one_that_is_spoken_of() {
    let dir = TempDir::new().unwrap();
    let model = files_of("dictionary-topk", dir.path());
    let whole = fs::read(model.join("ae.pt")).unwrap();
    let harmful = archive(&[("archive/data.pkl", b"\x80\x02cposix\nsystem\nX\x04\0\0\0trueq\0\x85q\x01R.")]);
    for (bytes, word) in [(&harmful[..], "posix.system"), (&whole[..whole.len() - 100], "ae.pt"), (b"", "ae.pt")] {
        fs::write(model.join("ae.pt"), bytes).unwrap();
        let said = why(&model);
        assert!(said.contains(word) && !said.contains("sae_weights"), "{said}");
    }
    // Where no file of weights is there, the one that the settings ask for is named.
    let other = files_of("sparsify-topk", dir.path());
    fs::remove_file(other.join("sae.safetensors")).unwrap();
    assert!(why(&other).contains("safetensors"), "{}", why(&other));
}
