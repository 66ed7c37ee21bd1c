//! Sizes in files and flags far beyond what any machine has.

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use tempfile::TempDir;

use crate::cli::{D, args, rows, strata, trained, write_dump};

#[test]
fn worlds_are_bounded() {
    let (dir, _, run) = trained(&[]);
    let synth = |set: &str| {
        strata(&args!["synth", "--world", "a", "--rows", "50", "--set", set, "--out", dir.path().join("x")])
    };
    for set in ["flat=2000000000", "roots=4000000000", "children=100000000", "d=9000000000000000000", "d=10000000"] {
        synth(set).fails(&["expected at most", "features"]);
    }
    assert!(!dir.path().join("x").exists());
    let dump = dir.path().join("world");
    strata(&args!["synth", "--world", "a", "--rows", "50", "--set", "d=16", "--out", dump]).ok();
    let truth = fs::read_to_string(dump.join("truth.json")).unwrap();
    assert!(truth.contains("\"flat\": 16"));
    fs::write(dump.join("truth.json"), truth.replace("\"flat\": 16", "\"flat\": 2000000000")).unwrap();
    strata(&args!["eval", run, "--dump", dump, "--all"]).fails(&["truth.json", "expected at most", "features"]);
}

#[test]
fn seeds_are_bounded() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(100), D);
    let ablate = |more: &[&str]| {
        let mut all = args!["ablate", "--dump", dump, "--out", dir.path().join("x"), "--suite", "gates"];
        all.extend(more.iter().map(std::ffi::OsString::from));
        strata(&all)
    };
    ablate(&["--seeds", "18446744073709551615"]).fails(&["--seeds", "expected 1 to 10000"]);
    ablate(&["--seeds", "3", "--set", "seed=9223372036854775807"]).fails(&["`seed`", "for 3 seeds"]);
    assert!(!dir.path().join("x").exists());
}

/// A model of a few megabytes that attends to `positions` tokens.
fn language_model(dir: &Path, positions: usize) {
    let (d, vocab) = (2, 70);
    let config = json!({
        "model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": d, "n_positions": positions, "vocab_size": vocab,
    });
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let affine = |name: &str, n: usize, m: usize| {
        [(format!("h.0.{name}.weight"), vec![n, m]), (format!("h.0.{name}.bias"), vec![m])]
    };
    let norm = |name: &str| [(format!("{name}.weight"), vec![d]), (format!("{name}.bias"), vec![d])];
    let shapes = [
        vec![("wte.weight".into(), vec![vocab, d]), ("wpe.weight".into(), vec![positions, d])],
        [norm("ln_f"), norm("h.0.ln_1"), norm("h.0.ln_2")].concat(),
        [affine("attn.c_attn", d, 3 * d), affine("attn.c_proj", d, d)].concat(),
        [affine("mlp.c_fc", d, 4 * d), affine("mlp.c_proj", 4 * d, d)].concat(),
    ]
    .concat();
    let zeros = vec![0; positions.max(vocab) * d * 4];
    let views = shapes.iter().map(|(name, shape)| {
        let n: usize = shape.iter().product();
        (name, TensorView::new(Dtype::F32, shape.clone(), &zeros[..4 * n]).unwrap())
    });
    fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    let mut chars: Vec<char> = strata_cli::lm::EMBEDDED_TEXT.chars().collect();
    chars.sort_unstable();
    chars.dedup();
    fs::write(dir.join("meta.json"), json!({ "chars": String::from_iter(chars) }).to_string()).unwrap();
}

#[test]
fn memory_of_a_window_is_bounded() {
    let dir = TempDir::new().unwrap();
    let (lm, out) = (dir.path().join("lm"), dir.path().join("out"));
    language_model(&lm, 1 << 20);
    let capture = args!["capture", "--model", lm, "--layer", "0", "--out", out, "--max-tokens", "64"];
    // No machine has the memory for that many windows at once.
    let large = args!["--context", "1048576", "--threads", "400"];
    strata(&[capture.clone(), large].concat()).fails(&["a window of 1048576 tokens", "--context", "GB of memory"]);
    assert!(!out.exists());
    strata(&[capture, args!["--context", "64"]].concat()).ok();
}
