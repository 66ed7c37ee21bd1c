//! Both levels of a model in the files of SAELens (`convert --part both`, `--part tree`), read back as two levels.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use strata_cli::run::Run;
use strata_core::Dtype;
use strata_core::config::{Activation, GateKind};
use strata_core::format::formats::{Choices, Format};
use strata_core::format::saelens_writer::{self, Metadata, Part};
use strata_core::format::weights::Origin;
use strata_core::model::{Arch, LevelArch, Model};
use strata_core::{Philox, ROOT};
use tempfile::TempDir;

use super::cli::{args, strata};
use super::ffi::fixture::{self, D, F1, F2};

/// The sentence of the error.
#[track_caller]
fn why(run: anyhow::Result<Run>) -> String {
    match run {
        Err(error) => format!("{error:#}"),
        Ok(run) => panic!("it is read as {}", run.format.name),
    }
}

fn kinds() -> impl Iterator<Item = [Activation; 2]> {
    Activation::ALL.iter().flat_map(|one| Activation::ALL.iter().map(|two| [*one, *two]))
}

/// A model with these activations and this gate, thresholds above 0 and `k` that are no whole numbers where they may
/// be.
fn model(kinds: [Activation; 2], gate: GateKind) -> Model {
    let mut arch = Arch { gate, ..fixture::arch() };
    for (level, (activation, k)) in arch.level.iter_mut().zip(kinds.into_iter().zip([4.0, 6.0])) {
        *level = LevelArch { activation, k: if activation.has_whole_k() { k } else { k + 0.25 }, ..*level };
    }
    let mut model = fixture::model(arch);
    let mut rng = Philox::new(3, 3);
    for (l, level) in model.params.level.iter_mut().enumerate() {
        level.threshold.iter_mut().for_each(|t| *t = 0.05 + 0.2 * rng.normal_f32().abs());
        model.tau[l] = if kinds[l].has_tau() { model.tau[l] } else { 0.0 };
    }
    model
}

/// Writes `model` into `dir` and reads it back; `None` if the part cannot represent it exactly.
fn there_and_back(model: &Model, part: Part, dtype: Dtype, dir: &Path) -> Option<(Model, Origin)> {
    let origin =
        Origin { steps: 70, rows: 4480, seed: 9, context: Some(64), hook: Some("a".into()), ..Origin::default() };
    let written = saelens_writer::write(model, &origin, &Metadata::default(), part, dtype).ok()?;
    fs::write(dir.join("cfg.json"), written.cfg).unwrap();
    fs::write(dir.join("sae_weights.safetensors"), written.weights).unwrap();
    let from = (part == Part::Both).then(|| Format::named("saelens-levels").unwrap().name);
    let run = Run::open_as(dir, &Choices { from, ..Choices::default() });
    if !written.losses.is_empty() {
        assert!(why(run).contains("--inexact"), "{:?}", written.losses);
        return None;
    }
    let run = run.unwrap();
    assert_eq!(run.origin, origin, "where it comes from");
    Some(((*run.model).clone(), run.origin))
}

#[test]
fn a_model_with_families_comes_back_from_saelens_to_the_bit() {
    let dir = TempDir::new().unwrap();
    for (kinds, gate) in
        kinds().flat_map(|kinds| [GateKind::Hard, GateKind::GroupTop1, GateKind::None].map(|g| (kinds, g)))
    {
        let model = model(kinds, gate);
        let (back, _) = there_and_back(&model, Part::Tree, Dtype::F32, dir.path()).unwrap();
        assert_eq!(back, model, "{kinds:?}, {gate}");
    }
    // In bf16 the weights are rounded, and the parents are not.
    let model = model([Activation::Jumprelu, Activation::Gated], GateKind::Hard);
    let (back, _) = there_and_back(&model, Part::Tree, Dtype::Bf16, dir.path()).unwrap();
    assert_eq!((back.arch, &back.parents), (model.arch, &model.parents));
    assert!(back.parents.contains(&ROOT));
}

#[test]
fn levels_side_by_side_come_back_as_two_levels() {
    let dir = TempDir::new().unwrap();
    let mut read = 0;
    for kinds in kinds() {
        let model = model(kinds, GateKind::None);
        let Some((back, _)) = there_and_back(&model, Part::Both, Dtype::F32, dir.path()) else {
            assert!(kinds.iter().any(|kind| kind.has_whole_k()), "{kinds:?}: it can be held exactly");
            continue;
        };
        read += 1;
        assert_eq!((back.arch, back.tau), (model.arch, model.tau), "{kinds:?}");
        for ((name, back), (_, own)) in back.params.tensors().into_iter().zip(model.params.tensors()) {
            // Next to a gated level these were rounded once.
            let is_rounded =
                kinds.contains(&Activation::Gated) && (name.contains("b_mag") || name.contains("threshold"));
            let off = back.iter().zip(own.iter()).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(back.len() == own.len() && off <= if is_rounded { 1e-6 } else { 0.0 }, "{kinds:?}, {name}: {off}");
        }
        // Without `--from` the model has one level, as SAELens reads it.
        assert_eq!(Run::open(dir.path()).unwrap().model.arch.latents(), [F1 + F2, 0]);
    }
    assert_eq!(read, 16, "all but those with a topk level");
}

#[test]
fn the_command_line_converts_there_and_back() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let model = model([Activation::Batchtopk; 2], GateKind::Hard);
    fs::create_dir(path("own")).unwrap();
    let cfg = strata_core::format::weights::write_cfg(&model.arch, &Origin::default());
    fs::write(path("own/cfg.json"), cfg).unwrap();
    fs::write(path("own/sae_weights.safetensors"), strata_core::format::weights::write_weights(&model).unwrap())
        .unwrap();
    strata(&args!["convert", path("own"), path("tree"), "--part", "tree"]).ok();
    strata(&args!["convert", path("tree"), path("back"), "--to", "strata"]).ok();
    let bytes = |name: &str| fs::read(path(name)).unwrap();
    assert_eq!(bytes("back/sae/sae_weights.safetensors"), bytes("own/sae_weights.safetensors"));
    assert_eq!(bytes("back/sae/cfg.json"), bytes("own/cfg.json"));
    strata(&args!["convert", path("tree"), path("no"), "--to", "strata", "--from", "saelens-levels"])
        .fails(&["both", "without --from"]);
}

/// Changes `cfg.json` of a tree.
fn changed(dir: &Path, change: impl FnOnce(&mut Value)) {
    let mut cfg: Value = serde_json::from_slice(&fs::read(dir.join("cfg.json")).unwrap()).unwrap();
    change(&mut cfg);
    fs::write(dir.join("cfg.json"), cfg.to_string()).unwrap();
}

#[test]
fn a_tree_that_was_changed_is_read_as_it_is_or_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let model = model([Activation::Batchtopk, Activation::Jumprelu], GateKind::Hard);
    there_and_back(&model, Part::Tree, Dtype::F32, dir.path()).unwrap();
    // Without the metadata the model is the same, with whole numbers for `k`.
    changed(dir.path(), |cfg| cfg["metadata"] = json!({}));
    let bare = (*Run::open(dir.path()).unwrap().model).clone();
    assert_eq!((&bare.params, &bare.parents), (&model.params, &model.parents));
    assert_eq!(bare.arch.level.map(|level| level.k), [4.0, 6.0]);
    // After SAELens has folded norms in, there is one threshold per latent instead of one in all.
    let weights = dir.path().join("sae_weights.safetensors");
    let whole = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let names: Value = serde_json::from_slice(&whole[8..8 + header]).unwrap();
    let at = 8 + header + names["threshold"]["data_offsets"][0].as_u64().unwrap() as usize;
    let mut folded = whole.clone();
    folded[at..at + 4].copy_from_slice(&0.75f32.to_le_bytes());
    fs::write(&weights, &folded).unwrap();
    let read = (*Run::open(dir.path()).unwrap().model).clone();
    assert_eq!(read.arch.level[0].activation, Activation::Jumprelu);
    assert_eq!((read.params.level[0].threshold[0], read.params.level[0].threshold[1]), (0.75, model.tau[0]));
    // A parent index that is out of range.
    let at = 8 + header + names["parent"]["data_offsets"][0].as_u64().unwrap() as usize;
    for (digit, part) in [(0.5f32, "digits from 0 to 255"), (256.0, "digits from 0 to 255"), (7.0, "parent")] {
        let mut wrong = whole.clone();
        wrong[at..at + 4].copy_from_slice(&digit.to_le_bytes());
        fs::write(&weights, &wrong).unwrap();
        let error = why(Run::open(dir.path()));
        assert!(error.contains(part), "{digit}: {error}");
    }
    fs::write(&weights, &whole).unwrap();
    let cfg = fs::read(dir.path().join("cfg.json")).unwrap();
    let wrong: [(&str, Value, &str); 5] = [
        ("f1", json!(F1 + F2), "`f1`"),
        ("activations", json!(["relu"]), "`activations`"),
        ("activations", json!(["relu", "novel"]), "novel"),
        ("ks", json!([1]), "`ks`"),
        ("gate", json!("mul"), "`gate`"),
    ];
    for (key, value, part) in wrong {
        changed(dir.path(), |cfg| cfg[key] = value.clone());
        let error = why(Run::open(dir.path()));
        assert!(error.contains(part), "{key} {value}: {error}");
        fs::write(dir.path().join("cfg.json"), &cfg).unwrap();
    }
    for file in ["cfg.json", "sae_weights.safetensors"] {
        let path = dir.path().join(file);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(37).chain(0..40) {
            fs::write(&path, &whole[..at]).unwrap();
            drop(Run::open(dir.path()));
            let mut flipped = whole.clone();
            flipped[at] ^= 0x15;
            fs::write(&path, &flipped).unwrap();
            drop(Run::open(dir.path()));
        }
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(D, Run::open(dir.path()).unwrap().model.arch.d);
}
