//! `strata convert`: weights written for other tools, and read back.

use std::fs;
use std::path::Path;

use serde_json::Value;
use strata_cli::run::Run;
use strata_core::format::arrays::Arrays;
use strata_core::format::flat::{Flat, FlatRule};
use strata_core::format::npz;
use strata_core::format::saelens_writer::{self, Metadata, Part};
use strata_core::format::weights::Origin;
use strata_core::model::{Model, Scratch, SharedBytes};
use strata_core::row_norm::RowNorm;
use strata_core::{Codes, Compute, Dtype, Encoder, Isa, Par};
use tempfile::TempDir;

use super::cli::{D, args, read_json, rows, strata, train, weights, write_dump};
use super::formats::{Case, cases, dense, distance, run_of};

/// The model of `case`.
fn model(case: &Case) -> Model {
    (*Run::open_as(&case.model, &case.choices).unwrap().model).clone()
}

/// Writes `model` for SAELens into a directory.
fn written(model: &Model, part: Part, dir: &Path) -> Vec<String> {
    let written = saelens_writer::write(model, &Origin::default(), &Metadata::default(), part, Dtype::F32).unwrap();
    fs::write(dir.join("cfg.json"), written.cfg).unwrap();
    fs::write(dir.join("sae_weights.safetensors"), written.weights).unwrap();
    written.losses
}

#[test]
fn models_of_every_tool_come_through_our_own_files_and_those_of_saelens() {
    for case in cases() {
        let dir = TempDir::new().unwrap();
        let own = dir.path().join("own");
        let mut line = args!["convert", case.model, own, "--to", "strata", "--quiet"];
        if let Some(k) = case.choices.k {
            line.extend(args!["--k", k.to_string()]);
        }
        if let Some(factor) = case.choices.norm_scaling_factor {
            line.extend(args!["--norm-scaling-factor", factor.to_string()]);
        }
        strata(&line).ok();
        let model = model(&case);
        assert_eq!(*Run::open(&own).unwrap().model, model, "{}", case.name);

        let metadata = Metadata::default();
        match saelens_writer::write(&model, &Origin::default(), &metadata, Part::Level1, Dtype::F32) {
            Err(error) => {
                let none = ["sparsify-groupmax", "sparsify-skip", "sparsify-transcoder"].contains(&case.name.as_str());
                assert!(none && error.to_string().contains("SAELens"), "{}: {error}", case.name);
            }
            Ok(files) => {
                // SAELens reports the latents that compete by norms multiplied by these norms.
                let scaled = case.name == "llamascopium-topk-folded";
                assert_eq!(files.losses.len(), usize::from(scaled), "{}: {:?}", case.name, files.losses);
                fs::write(dir.path().join("cfg.json"), files.cfg).unwrap();
                fs::write(dir.path().join("sae_weights.safetensors"), files.weights).unwrap();
                let there = Run::open(dir.path()).unwrap();
                assert_eq!((there.format.name, &there.notes), ("saelens", &Vec::new()));
                let (z, hat) = run_of(&there, &case.rows());
                let want = case.expected("latents");
                assert!(z.iter().zip(&want).all(|(a, b)| (*a != 0.0) == (*b != 0.0)), "{}", case.name);
                assert!(scaled || distance(&z, &want) < 1e-5, "{}", case.name);
                assert!(distance(&hat, &case.expected("reconstruction")) < 1e-5, "{}", case.name);
            }
        }
    }
}

#[test]
fn thresholds_come_through_the_files_of_gemma_scope() {
    let mut done = 0;
    for case in cases() {
        let Ok(bytes) = npz::write(&model(&case)) else { continue };
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("params.npz"), bytes).unwrap();
        let (z, hat) = run_of(&Run::open(dir.path()).unwrap(), &case.rows());
        let want = case.expected("latents");
        assert!(z.iter().zip(&want).all(|(a, b)| (*a != 0.0) == (*b != 0.0)), "{}", case.name);
        assert!(distance(&z, &want) < 1e-5 && distance(&hat, &case.expected("reconstruction")) < 1e-5, "{}", case.name);
        done += 1;
    }
    assert!(done > 20, "{done} models with thresholds");
}

/// The dense latents of both levels and `x_hat2`.
fn found(run: &Path, x: &[f32]) -> (Vec<Vec<f32>>, Vec<f32>) {
    let encoder: Encoder = Run::open(run).unwrap().encoder(Isa::default()).unwrap();
    let arch = encoder.model().arch;
    let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
    encoder.encode(x, &mut Scratch::new(&arch), &mut codes1, &mut codes2).unwrap();
    let (mut hat1, mut hat2) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    encoder.decode_of(x, &codes1, &codes2, &mut hat1, &mut hat2).unwrap();
    (vec![dense(&codes1, arch.level[0].latents), dense(&codes2, arch.level[1].latents)], hat2)
}

#[test]
fn levels_side_by_side_have_the_latents_of_both() {
    let dir = TempDir::new().unwrap();
    let x = rows(600);
    let dump = write_dump(&dir.path().join("dump"), &x, D);
    for (name, sets) in [
        ("batchtopk", &["gate.kind=none"][..]),
        ("relu", &["gate.kind=none", "level1.activation=relu", "level2.activation=relu"]),
        ("jumprelu", &["gate.kind=none", "level1.activation=jumprelu", "level2.activation=jumprelu"]),
        ("gated", &["gate.kind=none", "level1.activation=gated", "level2.activation=gated"]),
        ("mixed", &["gate.kind=none", "level1.activation=gated"]),
    ] {
        let run = dir.path().join(name);
        train(&dump, &run, sets);
        let (want, hat) = found(&run, &x);
        let model = Run::open(&run).unwrap().model;
        let (one, both) = (dir.path().join(format!("{name}-1")), dir.path().join(format!("{name}-2")));
        [&one, &both].iter().for_each(|dir| fs::create_dir(dir).unwrap());
        assert_eq!(written(&model, Part::Level1, &one), Vec::<String>::new());
        assert_eq!(written(&model, Part::Both, &both), Vec::<String>::new());
        let (z1, _) = run_of(&Run::open(&one).unwrap(), &x);
        assert!(distance(&z1, &want[0]) < 1e-5, "{name}: level 1");
        let (z, there) = run_of(&Run::open(&both).unwrap(), &x);
        let f = [12, 30];
        let rows = want[0].chunks(f[0]).zip(want[1].chunks(f[1]));
        let side: Vec<f32> = rows.flat_map(|(a, b)| a.iter().chain(b).copied()).collect();
        assert!(distance(&z, &side) < 1e-5, "{name}: both");
        assert!(distance(&there, &hat) < 1e-5, "{name}: reconstruction");
    }
}

#[test]
fn what_is_not_exact_is_refused_or_done_and_said() {
    let dir = TempDir::new().unwrap();
    let x = rows(600);
    let dump = write_dump(&dir.path().join("dump"), &x, D);
    for (name, sets, part, parts) in [
        ("hard", &[][..], "both", &["no gate between levels (`hard`)", "--part tree"][..]),
        ("res", &["source=res", "gate.kind=none"], "both", &["the residual of level 1"]),
        ("z1", &["source=z1", "gate.kind=none"], "level2", &["the latents of level 1"]),
        ("soft", &["gate.kind=mul"], "tree", &["no gate between levels (`mul`)"]),
        ("topk", &["gate.kind=none", "level1.activation=topk", "level2.activation=topk"], "both", &["k1 + k2"]),
        ("ind", &["gate.kind=none", "decoder=ind"], "both", &["decoder `ind`"]),
    ] {
        let run = dir.path().join(name);
        train(&dump, &run, sets);
        let out = dir.path().join(format!("{name}-out"));
        let line = args!["convert", run, out, "--part", part];
        let ran = strata(&line).fails(parts);
        assert!(ran.err.contains("--inexact") && !out.exists(), "{}", ran.err);
        let ran = strata(&[line, args!["--inexact", "--json"]].concat()).ok();
        assert!(!ran.json()["losses"].as_array().unwrap().is_empty(), "{}", ran.out);
        assert!(out.join("cfg.json").exists());
        // For a model of two levels `--part` is required.
        strata(&args!["convert", run, dir.path().join("none")]).fails(&["--part", "level1", "tree"]);
    }
    let run = dir.path().join("hard");
    let out = dir.path().join("tree");
    strata(&args!["export", run, "--format", "saelens", "--part", "tree", "--out", out]).ok();
    let cfg = read_json(&out.join("cfg.json"));
    assert_eq!((&cfg["architecture"], &cfg["f1"], &cfg["gate"]), (&"strata".into(), &12.into(), &"hard".into()));
    strata(&args!["export", run, "--format", "saelens", "--part", "tree", "--out", out]).fails(&["exists already"]);
    strata(&args!["convert", run, dir.path().join("z"), "--to", "npz"]).fails(&["one level"]);
    strata(&args!["convert", run, dir.path().join("z"), "--to", "strata", "--part", "both"]).fails(&["--part"]);
}

#[test]
fn metadata_is_filled_in_and_never_a_path() {
    let dir = TempDir::new().unwrap();
    let dump = write_dump(&dir.path().join("dump"), &rows(600), D);
    let run = dir.path().join("run");
    train(&dump, &run, &[]);
    let out = dir.path().join("given");
    let ran = strata(&args![
        "convert",
        run,
        out,
        "--part",
        "level1",
        "--model-id",
        "EleutherAI/pythia-70m",
        "--hook",
        "blocks.3.hook_resid_post",
        "--context",
        "128",
        "--prepend-bos",
        "true",
        "--dataset",
        "a/b"
    ])
    .ok();
    assert!(!ran.err.contains("not known"), "{}", ran.err);
    let metadata = &read_json(&out.join("cfg.json"))["metadata"];
    assert_eq!(metadata["model_name"], "EleutherAI/pythia-70m");
    assert_eq!((&metadata["context_size"], &metadata["prepend_bos"]), (&128.into(), &Value::Bool(true)));
    let ran = strata(&args!["convert", run, dir.path().join("asked"), "--part", "level1"]).ok();
    assert!(ran.err.contains("model_name") && ran.err.contains("--prepend-bos"), "{}", ran.err);
    strata(&args!["convert", run, dir.path().join("path"), "--part", "level1", "--model-id", "/models/gpt2"])
        .fails(&["--model-id", "/models/gpt2"]);
    let origin = Origin { model: Some("../models/gpt2".into()), ..Origin::default() };
    let model = Run::open(&run).unwrap().model;
    let files = saelens_writer::write(&model, &origin, &Metadata::default(), Part::Level1, Dtype::Bf16).unwrap();
    let cfg: Value = serde_json::from_slice(&files.cfg).unwrap();
    assert_eq!((&cfg["metadata"]["model_name"], &cfg["dtype"]), (&Value::Null, &"bfloat16".into()));
    assert!(files.missing.contains(&"model_name"));
}

/// Arrays of f64, of f32 column by column, of i64 and of f16, deflated, laid out as by `numpy.savez_compressed`.
const COMPRESSED: &[u8] = include_bytes!("../data/compressed.npz");

#[test]
fn compressed_archives_of_f64_in_columns_are_read() {
    let bytes: SharedBytes = std::sync::Arc::new(COMPRESSED.to_vec());
    let arrays = Arrays::of_npz("compressed.npz", &bytes).unwrap();
    assert_eq!(arrays.shaped("a", &[2, 3]).unwrap().to_f32().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(arrays.shaped("f", &[2, 3]).unwrap().to_f32().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let f = arrays.get("f").unwrap().clone().transposed();
    assert_eq!(f.to_f32().unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(arrays.number("n").unwrap(), 7.0);
    assert_eq!(arrays.get("h").unwrap().to_f32().unwrap(), [0.5, -2.0]);
    assert!(arrays.matrix("a", 3, 2).unwrap_err().to_string().contains("[3, 2]"));
    for at in 0..COMPRESSED.len() {
        let cut: SharedBytes = std::sync::Arc::new(COMPRESSED[..at].to_vec());
        assert!(Arrays::of_npz("cut", &cut).is_err(), "the first {at} bytes");
        let mut changed = COMPRESSED.to_vec();
        changed[at] ^= 0xff;
        drop(Arrays::of_npz("changed", &(std::sync::Arc::new(changed) as SharedBytes)));
    }
}

#[test]
fn rows_are_normalised_and_that_is_undone() {
    let x = [3.0f32, -1.0, 4.0, 1.0];
    for norm in [RowNorm::None, RowNorm::Layer, RowNorm::Constant] {
        let of = norm.of(&x);
        let mut row = x;
        of.apply(&mut row);
        let sum = |f: fn(f32) -> f32| row.iter().map(|v| f(*v)).sum::<f32>();
        match norm {
            RowNorm::None => assert_eq!(row, x),
            RowNorm::Layer => assert!(sum(|v| v).abs() < 1e-6 && (sum(|v| v * v) - 3.0).abs() < 1e-4, "{row:?}"),
            RowNorm::Constant => assert!((sum(|v| v * v) - 4.0).abs() < 1e-5, "{row:?}"),
        }
        of.undo(&mut row);
        assert!(row.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-4), "{norm:?}: {row:?}");
    }
    let mut zeros = [0.0f32; 3];
    [RowNorm::Layer, RowNorm::Constant].iter().for_each(|norm| norm.of(&zeros.clone()).apply(&mut zeros));
    assert_eq!(zeros, [0.0; 3]);
}

/// Training on rows that are normalised one by one is training on normalised rows, to the bit; the model reads raw
/// rows.
#[test]
fn a_run_can_normalise_rows_one_by_one() {
    let dir = TempDir::new().unwrap();
    let x: Vec<f32> = rows(600).iter().enumerate().map(|(i, x)| (x + 0.3) * (1.0 + (i / D % 7) as f32)).collect();
    let dump = write_dump(&dir.path().join("dump"), &x, D);
    for norm in [RowNorm::Layer, RowNorm::Constant] {
        let mut normal = x.clone();
        normal.chunks_mut(D).for_each(|row| norm.of(row).apply(row));
        let normalised = write_dump(&dir.path().join(format!("normal-{norm}")), &normal, D);
        let [run, plain] = [format!("run-{norm}"), format!("plain-{norm}")].map(|name| dir.path().join(name));
        train(&dump, &run, &["data.outlier=0", &format!("data.row_norm={norm}")]);
        train(&normalised, &plain, &["data.outlier=0"]);
        assert_eq!(weights(&run), weights(&plain));
        let (of_raw, of_normal) = (found(&run, &x), found(&plain, &normal));
        assert_eq!(of_raw.0, of_normal.0);
        let mut undone = of_normal.1;
        undone.chunks_mut(D).zip(x.chunks(D)).for_each(|(y, x)| norm.of(x).undo(y));
        assert!(distance(&of_raw.1, &undone) < 1e-6);
        strata(&args!["eval", run, "--dump", dump, "--all"]).ok();
    }
    let run = dir.path().join("seed");
    strata(&super::cli::train_args(&dump, &run, &["model=seed", "data.row_norm=layer"]))
        .fails(&["data.row_norm", "seed"]);
}

/// Latents by absolute value and by groups against a sort in f64, with ties and rows without any positive number.
#[test]
fn latents_by_size_and_by_group_are_those_of_a_sort() {
    let (d, f, n) = (7, 24, 200);
    let value = |i: usize| ((i * 7919 + 13) % 31) as f32 / 8.0 - 1.9;
    let w: Vec<f32> = (0..f * d).map(value).collect();
    let b: Vec<f32> = (0..f).map(|i| value(i + 5) / 4.0).collect();
    let x: Vec<f32> = (0..n * d).map(|i| value(i * 3 + 1)).collect();
    for k in [1, 3, 8] {
        for rule in [FlatRule::AbsTopk(k), FlatRule::GroupMax(k)] {
            let flat = Flat::new(
                w.clone().into(),
                b.clone().into(),
                w.clone().into(),
                vec![0.0; d].into(),
                rule.clone(),
                false,
            );
            let encoder =
                Encoder::new(std::sync::Arc::new(flat.into_model().unwrap()), Compute::new(Isa::default(), Par::Seq))
                    .unwrap();
            let (mut codes, mut none) = (Codes::new(), Codes::new());
            encoder.encode(&x, &mut Scratch::new(&encoder.model().arch), &mut codes, &mut none).unwrap();
            for i in 0..n {
                let row = &x[i * d..(i + 1) * d];
                let u: Vec<f32> =
                    (0..f).map(|j| row.iter().zip(&w[j * d..]).map(|(x, w)| x * w).sum::<f32>() + b[j]).collect();
                let code = codes.row(i);
                assert!(code.index.is_sorted() && code.index.len() <= k, "{rule:?}");
                if let FlatRule::AbsTopk(_) = rule {
                    let least = code.value.iter().fold(f32::INFINITY, |m, v| m.min(v.abs()));
                    let larger = (0..f).filter(|j| !code.index.contains(&(*j as u32)) && u[*j].abs() > least + 1e-4);
                    assert_eq!((code.index.len(), larger.count()), (k, 0), "row {i}, k {k}");
                } else {
                    for (g, group) in u.chunks(f / k).enumerate() {
                        let most = group.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
                        let of = code.index.iter().zip(code.value).filter(|(j, _)| **j as usize / (f / k) == g);
                        let kept: Vec<f32> = of.map(|(_, v)| *v).collect();
                        assert!(
                            kept.len() == usize::from(most > 0.0) || most.abs() < 1e-4,
                            "row {i}, group {g}: {kept:?} of {group:?}"
                        );
                        assert!(kept.iter().all(|v| (v - most).abs() < 1e-4));
                    }
                }
                code.index.iter().zip(code.value).for_each(|(j, v)| assert!((u[*j as usize] - v).abs() < 1e-4));
            }
        }
    }
    let odd = Flat::new(w.clone().into(), b.into(), w.into(), vec![0.0; d].into(), FlatRule::GroupMax(5), false);
    assert!(odd.into_model().unwrap_err().to_string().contains("5 groups"));
}
