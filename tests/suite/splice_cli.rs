//! `strata eval --splice` with a model that has the sizes of the dump's model but is a different one.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use strata_core::Philox;
use tempfile::TempDir;

use super::cli::{args, read_json, strata, train};

/// A copy of the embedded model, with noise on its weights.
fn copy_of_the_model(to: &Path, noise: f32) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/assets/char-gpt");
    fs::create_dir_all(to).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut rng = Philox::new(3, 0);
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), safetensors::Dtype::F16, "the type of the embedded weights");
            let values = view.data().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
            let changed = values.flat_map(|v| (v + noise * rng.normal_f32()).to_le_bytes()).collect();
            (name, view.shape().to_vec(), changed)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, data)| (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap()));
    fs::write(to.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    to.to_owned()
}

#[test]
fn another_model_of_the_same_sizes_is_refused_in_one_sentence() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (own, other) = (copy_of_the_model(&at("m"), 0.0), copy_of_the_model(&at("m2"), 0.2));
    let text = at("text.txt");
    fs::write(&text, "The cat sat on the mat, and it was not she.\n".repeat(160)).unwrap();
    for dtype in ["f32", "f16", "bf16"] {
        let (dump, run) = (at(&format!("d-{dtype}")), at(&format!("r-{dtype}")));
        strata(&args!["capture", "--model", own, "--text", text, "--layer", "1", "--dtype", dtype, "--out", dump]).ok();
        train(&dump, &run, &["data.holdout=0.3"]);
        let splice = |model: &Path| strata(&args!["eval", run, "--dump", dump, "--splice", "--model", *model]);
        splice(&own).ok();
        assert!(read_json(&run.join("eval.json"))["splice"]["clean"].is_number(), "{dtype}");
        splice(&other).fails(&["is not the model that", "was captured from", "--model"]);
    }
    // Without the first rows of its windows the context of the others is unknown, and the model is not the culprit.
    let (dump, run) = (at("skipped"), at("r-skipped"));
    let capture = |skip: &str, out: &Path| {
        let line = args!["capture", "--model", own, "--text", text, "--layer", "1", "--context", "32", "--out", *out];
        strata(&line.into_iter().chain(args!["--skip-first", skip]).collect::<Vec<_>>())
    };
    capture("3", &dump).ok();
    train(&dump, &run, &["data.holdout=0.3"]);
    strata(&args!["eval", run, "--dump", dump, "--splice", "--model", own])
        .fails(&["by --skip-first, cannot be spliced"]);
    for skip in ["32", "33", "18446744073709551615"] {
        capture(skip, &at("none")).fails(&["--skip-first", "must be fewer than its 32"]);
        assert!(!at("none").exists());
    }
}
