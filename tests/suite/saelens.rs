//! Models that SAELens has saved (`golden/make_saelens.py`), compared with the features and reconstructions that it
//! computed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use strata_cli::dump::{DumpSpec, DumpWriter};
use strata_core::config::Activation;
use strata_core::format::weights::{read_model, read_model_shared, write_cfg, write_weights};
use strata_core::model::{Scratch, SharedBytes};
use strata_core::{Codes, Compute, Dtype, Encoder, Isa, Model, Par};

use super::cli::{args, read_json, strata};

const D: usize = 6;
const F: usize = 10;

fn dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/saelens").join(name)
}

fn file(name: &str, file: &str) -> Vec<u8> {
    std::fs::read(dir(name).join(file)).unwrap()
}

fn read(name: &str) -> Model {
    let (model, origin) = read_model(&file(name, "cfg.json"), &file(name, "sae_weights.safetensors")).unwrap();
    assert_eq!((origin.model.as_deref(), origin.context), (Some("gpt2"), Some(128)), "{name}");
    assert_eq!(origin.hook.as_deref(), Some("blocks.6.hook_resid_post"), "{name}");
    model
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn features_and_reconstructions_are_those_of_saelens() {
    for (name, activation, in_place) in [
        ("standard", Activation::Relu, true),
        ("standard-without-b-dec", Activation::Relu, true),
        ("topk", Activation::Topk, false),
        ("topk-rescaled", Activation::Topk, false),
        ("jumprelu", Activation::Jumprelu, true),
        ("jumprelu-without-b-dec", Activation::Jumprelu, true),
        ("gated", Activation::Gated, true),
        ("gated-without-b-dec", Activation::Gated, true),
        ("batchtopk", Activation::Jumprelu, true),
    ] {
        let model = read(name);
        assert_eq!((model.arch.d, model.arch.level[0].latents, model.arch.level[1].latents), (D, F, 0), "{name}");
        assert_eq!(model.arch.level[0].activation, activation, "{name}");
        let shared: SharedBytes = Arc::new(file(name, "sae_weights.safetensors"));
        let (same, _) = read_model_shared(&file(name, "cfg.json"), &shared).unwrap();
        assert_eq!(same, model, "{name}");
        // In practice a vector of bytes begins at a multiple of 16; where it does not, the tensors are copied.
        let aligned = shared.as_ref().as_ref().as_ptr().addr().is_multiple_of(4);
        assert_eq!(same.params.level[0].w_dec.is_shared(), in_place && aligned, "{name}");

        let bytes = file(name, "expected.safetensors");
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let (x, z, x_hat) = (floats(&expected, "x"), floats(&expected, "z"), floats(&expected, "x_hat"));
        let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::default(), Par::Seq)).unwrap();
        let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
        let mut scratch = Scratch::new(&encoder.model().arch);
        encoder.encode(&x, &mut scratch, &mut codes1, &mut codes2).unwrap();
        let mut dense = vec![0.0; z.len()];
        for i in 0..codes1.n() {
            let row = codes1.row(i);
            row.index.iter().zip(row.value).for_each(|(&j, &v)| dense[i * F + j as usize] = v);
        }
        let (mut hat1, mut hat2) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        encoder.decode(&codes1, &codes2, &mut hat1, &mut hat2).unwrap();
        assert!(z.iter().any(|v| *v > 0.0), "{name}: something fires");
        for (what, got, want) in [("z", &dense, &z), ("x_hat", &hat2, &x_hat)] {
            for (at, (g, w)) in got.iter().zip(want).enumerate() {
                assert!((g - w).abs() <= 2e-6 * (1.0 + w.abs()), "{name}: {what}[{at}]: {g}, SAELens finds {w}");
            }
        }
    }
}

#[test]
fn what_was_read_can_be_saved_as_a_model_of_ours() {
    for name in ["gated", "topk-rescaled", "batchtopk"] {
        let model = read(name);
        let (cfg, bytes) = (write_cfg(&model.arch, &Default::default()), write_weights(&model).unwrap());
        assert_eq!(read_model(&cfg, &bytes).unwrap().0, model);
    }
}

/// `cfg.json` of a model with one value replaced.
fn changed(name: &str, from: &str, to: &str) -> Vec<u8> {
    let cfg = String::from_utf8(file(name, "cfg.json")).unwrap();
    assert!(cfg.contains(from), "{from} in {cfg}");
    cfg.replace(from, to).into_bytes()
}

#[test]
fn what_saelens_has_and_we_do_not_is_refused_in_one_sentence() {
    let weights = file("standard", "sae_weights.safetensors");
    for (from, to, says) in [
        ("\"standard\"", "\"skip_transcoder\"", "`d_out` is missing"),
        ("\"standard\"", "\"matching_pursuit\"", "`matching_pursuit` is not read"),
        (
            "\"normalize_activations\": \"none\"",
            "\"normalize_activations\": \"novel\"",
            "`novel` is not a normalisation",
        ),
        ("\"standard\"", "\"topk\"", "`k`, the number of active latents per row, is missing"),
        ("\"standard\"", "\"jumprelu\"", "tensor `threshold` is missing"),
        ("\"d_in\": 6", "\"d_in\": 5", "tensor `W_dec`: expected the shape [10, 5], found [10, 6]"),
        ("\"d_in\": 6", "\"d_in\": 0", "`d_in`: expected a number from 1 to"),
        ("\"d_sae\": 10", "\"d_sae\": 4294967295", "`d_sae`: expected a number from 1 to"),
    ] {
        let error = read_model(&changed("standard", from, to), &weights).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let gated = file("gated", "sae_weights.safetensors");
    let error = read_model(&file("standard", "cfg.json"), &gated).unwrap_err().to_string();
    assert!(error.contains("tensor `b_enc` is missing"), "{error}");
    let jumprelu = file("jumprelu", "sae_weights.safetensors");
    let error = read_model(&file("standard", "cfg.json"), &jumprelu).unwrap_err().to_string();
    assert!(error.contains("`threshold`"), "{error}");
}

#[test]
fn a_configuration_from_before_version_6_is_read() {
    let cfg = br#"{"d_in": 6, "d_sae": 10, "dtype": "torch.float32", "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 2}, "normalize_activations": false, "apply_b_dec_to_input": true,
        "model_name": "gpt2", "hook_point": "blocks.0.hook_resid_pre", "context_size": 64}"#;
    let (model, origin) = read_model(cfg, &file("standard", "sae_weights.safetensors")).unwrap();
    assert_eq!((model.arch.level[0].activation, model.arch.level[0].k), (Activation::Topk, 2.0));
    assert_eq!((origin.hook.as_deref(), origin.context), (Some("blocks.0.hook_resid_pre"), Some(64)));
}

#[test]
fn every_truncation_is_an_error() {
    for name in ["standard", "topk"] {
        let (cfg, weights) = (file(name, "cfg.json"), file(name, "sae_weights.safetensors"));
        for end in 0..weights.len() {
            assert!(read_model(&cfg, &weights[..end]).is_err(), "{name}: the first {end} bytes");
        }
        for end in 0..cfg.len() {
            assert!(read_model(&cfg[..end], &weights).is_err(), "{name}: the first {end} bytes");
        }
    }
}

#[test]
fn the_command_line_encodes_and_evaluates_with_a_model_of_saelens() {
    let temp = tempfile::tempdir().unwrap();
    let (sae, dump, codes) = (temp.path().join("jumprelu"), temp.path().join("dump"), temp.path().join("codes"));
    std::fs::create_dir(&sae).unwrap();
    for name in ["cfg.json", "sae_weights.safetensors"] {
        std::fs::copy(dir("jumprelu").join(name), sae.join(name)).unwrap();
    }
    let bytes = file("jumprelu", "expected.safetensors");
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let (x, z) = (floats(&expected, "x"), floats(&expected, "z"));
    let mut writer = DumpWriter::create(&dump, DumpSpec::new(D, Dtype::F32)).unwrap();
    writer.append(&x, None).unwrap();
    writer.finish().unwrap();

    strata(&args!["encode", sae, "--dump", dump, "--out", codes]).ok();
    let bytes = std::fs::read(&codes).unwrap();
    let found = SafeTensors::deserialize(&bytes).unwrap();
    let fires = z.iter().filter(|v| **v > 0.0).count();
    assert_eq!(floats(&found, "z1.values").len(), fires);
    assert_eq!(floats(&found, "z2.values").len(), 0);

    // Nothing is written into the directory of the model.
    strata(&args!["eval", sae, "--dump", dump, "--all"]).fails(&["SAELens", "--out"]);
    let found = temp.path().join("found");
    strata(&args!["eval", sae, "--dump", dump, "--all", "--out", found]).ok();
    assert_eq!(std::fs::read_dir(&sae).unwrap().count(), 2);
    let eval = read_json(&found.join("eval.json"));
    let l0 = eval.pointer("/level1/l0_mean").and_then(serde_json::Value::as_f64);
    let rows = (z.len() / F) as f64;
    assert!(l0.is_some_and(|l0| (l0 - fires as f64 / rows).abs() < 1e-9), "{l0:?}: {eval}");
}
