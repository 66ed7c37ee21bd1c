//! `strata export`: the files for other tools contain the activations of the encoder, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::{Dtype as StDtype, SafeTensors};
use serde_json::{Value, json};
use strata_cli::dump::{DumpSpec, DumpWriter};
use strata_cli::eval::latents;
use strata_core::format::weights::read_model;
use strata_core::{Codes, Compute, Dtype, Encoder, Isa, Par};
use tempfile::TempDir;

use super::cli::{D, args, assert_no_leftovers, read_json, rows, strata, train, trained, tree, weights, write_dump};

/// Tokens with characters that JSON and HTML must escape.
const VOCAB: [&str; 6] = ["a", "\u{0}\u{1f}", "\"\\</script>", "\u{e9}\n\r\t", "\u{202e}\u{65e5}\u{1f600}", ""];

fn token(row: usize) -> u32 {
    ((row * row + row / 3) % VOCAB.len()) as u32
}

/// How a dump is cut into sequences.
#[derive(Clone, Copy)]
enum Cut<'a> {
    Context(usize),
    Starts(&'a [usize]),
}

/// A dump with tokens.
fn text_dump(path: &Path, x: &[f32], cut: Cut<'_>, hook: Option<&str>) -> PathBuf {
    let spec = DumpSpec {
        model: hook.map(|_| "gpt-\"x\"".into()),
        hook: hook.map(Into::into),
        context: if let Cut::Context(t) = cut { Some(t) } else { None },
        vocab: Some(VOCAB.map(String::from).to_vec()),
        ..DumpSpec::new(D, Dtype::F32)
    };
    let mut writer = DumpWriter::create(path, spec).unwrap();
    for (i, row) in x.chunks(D).enumerate() {
        if let Cut::Starts(starts) = cut
            && starts.contains(&i)
        {
            writer.start_sequence();
        }
        writer.append(row, Some(&[token(i)])).unwrap();
    }
    writer.finish().unwrap();
    path.to_owned()
}

/// Returns for each level `(row, latent, value)` of all activations above 0, ordered by row and latent.
fn activations(run: &Path, x: &[f32]) -> [Vec<(usize, usize, f32)>; 2] {
    let read = |name: &str| fs::read(run.join("sae").join(name)).unwrap();
    let (model, _) = read_model(&read("cfg.json"), &read("sae_weights.safetensors")).unwrap();
    let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::detect(), Par::Seq)).unwrap();
    let mut codes = [Codes::new(), Codes::new()];
    let [codes1, codes2] = &mut codes;
    encoder.encode_par(Par::Seq, x, codes1, codes2).unwrap();
    codes.map(|codes| {
        let of = |i: usize| codes.row(i).index.iter().zip(codes.row(i).value).map(move |(j, z)| (i, *j as usize, *z));
        (0..codes.n()).flat_map(of).filter(|(_, _, z)| *z > 0.0).collect()
    })
}

#[track_caller]
fn export(run: &Path, dump: &Path, format: &str, out: &Path, more: &[&str]) -> Value {
    let mut all = args!["export", *run, "--dump", *dump, "--format", *format, "--out", *out, "--json"];
    all.extend(more.iter().map(Into::into));
    strata(&all).ok().json()
}

/// Returns integers of `wide` bytes, or the bits of f32.
fn numbers(bytes: &[u8], wide: usize) -> Vec<usize> {
    let number = |b: &[u8]| b.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
    bytes.chunks(wide).map(number).collect()
}

/// Reads the files of one module of delphi as delphi does, and checks their form.
fn read_delphi(module: &Path, length: usize, f: usize, n_files: usize) -> Vec<(usize, usize, f32)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(module).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() == "config.json" {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().strip_suffix(".safetensors").unwrap();
        let (first, last) = name.split_once('_').unwrap();
        files.insert(first.parse::<usize>().unwrap(), (last.parse::<usize>().unwrap(), path.clone()));
    }
    assert_eq!(files.len(), n_files, "number of files in {}", module.display());
    let (mut next, mut found) = (0, Vec::new());
    for (first, (last, path)) in files {
        assert!(first == next && last >= first, "ranges follow each other: {first} to {last} after {next}");
        next = last + 1;
        let bytes = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(
            file.names().into_iter().collect::<BTreeSet<_>>().len(),
            3,
            "locations, activations and tokens, found {:?}",
            file.names()
        );
        let (locations, values) = (file.tensor("locations").unwrap(), file.tensor("activations").unwrap());
        let tokens = file.tensor("tokens").unwrap();
        assert_eq!(
            (tokens.dtype(), tokens.shape().len(), tokens.shape()[1]),
            (StDtype::U32, 2, length),
            "type and shape of the tokens"
        );
        let sequences = tokens.shape()[0];
        let expected: Vec<usize> = (0..sequences * length).map(|i| token(i) as usize).collect();
        assert_eq!(numbers(tokens.data(), 4), expected, "token ids");
        let wide = if sequences > 1 << 16 { (StDtype::U32, 4) } else { (StDtype::U16, 2) };
        assert_eq!((locations.dtype(), values.dtype()), (wide.0, StDtype::F32), "types of locations and activations");
        let nnz = values.shape()[0];
        assert_eq!(
            (values.shape().len(), locations.shape()),
            (1, &[nnz, 3][..]),
            "one location of three numbers per activation"
        );
        let places = numbers(locations.data(), wide.1);
        let mut here: Vec<(usize, usize, f32)> = Vec::new();
        for (place, bits) in places.chunks(3).zip(numbers(values.data(), 4)) {
            assert!(place[0] < sequences && place[1] < length && place[2] + first <= last, "{place:?}");
            here.push((place[0] * length + place[1], place[2] + first, f32::from_bits(bits as u32)));
        }
        assert!(here.windows(2).all(|w| (w[0].0, w[0].1) < (w[1].0, w[1].1)), "in order, each once");
        found.extend(here);
    }
    assert_eq!(next, f, "every latent has a file");
    found.sort_by_key(|(row, latent, _)| (*row, *latent));
    found
}

#[test]
fn delphi_files_hold_every_activation_once() {
    let (dir, _, run) = trained(&[]);
    let x = rows(620);
    let expected = activations(&run, &x);
    let even: Vec<usize> = (0..12).map(|i| i * 50).collect();
    let hook = "blocks.3.hook_resid_post";
    for (i, (n, cut, length, hook, splits, files)) in [
        (620, Cut::Context(50), 50, Some(hook), None, [5, 5]),
        (600, Cut::Starts(&even), 50, None, Some("7"), [7, 7]),
        // At most one file per latent; one sequence of all rows.
        (620, Cut::Starts(&[0]), 620, Some(hook), Some("256"), [12, 30]),
        (7, Cut::Context(1), 1, Some(hook), Some("1"), [1, 1]),
    ]
    .into_iter()
    .enumerate()
    {
        let dump = text_dump(&dir.path().join(format!("dump{i}")), &x[..n * D], cut, hook);
        let out = dir.path().join(format!("out{i}"));
        let more: Vec<&str> = splits.iter().flat_map(|s| ["--splits", *s]).collect();
        let report = export(&run, &dump, "delphi", &out, &more);
        let whole = n / length * length;
        assert_eq!((&report["rows"], &report["left_out"]), (&json!(whole), &json!(n - whole)));
        // delphi reads every name in the directory as a module, so there must be no other.
        let names: BTreeSet<String> = fs::read_dir(&out).unwrap().map(|e| name(&e.unwrap().path())).collect();
        let named = |level| hook.map_or_else(|| format!("level{level}"), |h| format!("{h}.level{level}"));
        assert_eq!(names, BTreeSet::from([named(1), named(2)]));
        assert_eq!(report["directories"], json!(names));
        for (l, f) in [12, 30].into_iter().enumerate() {
            let module = out.join(named(l + 1));
            let found = read_delphi(&module, length, f, files[l]);
            let expected: Vec<_> = expected[l].iter().filter(|(row, ..)| *row < whole).copied().collect();
            assert!(!expected.is_empty() && found == expected, "level {}", l + 1);
            assert_eq!(report["entries"][l], expected.len());
            let config = read_json(&module.join("config.json"));
            assert_eq!(config["model_name"], json!(hook.map(|_| "gpt-\"x\"")));
            let whole = json!({ "cache_ctx_len": length, "ctx_len": length, "n_tokens": whole, "n_splits": files[l],
                "hook": hook, "level": l + 1, "run": weights(&run), "dataset_repo": format!("dump{i}") });
            for (key, value) in whole.as_object().unwrap() {
                assert_eq!(&config[key], value, "{key}");
            }
        }
    }
    assert_no_leftovers(dir.path());
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn delphi_locations_are_wide_where_they_have_to_be() {
    let (dir, _, run) = trained(&["level2.latents=0", "gate.kind=none"]);
    let x = rows((1 << 16) + 1);
    let dump = text_dump(&dir.path().join("long"), &x, Cut::Context(1), Some("../../a\\b c/\u{e9}"));
    let out = dir.path().join("out");
    let report = export(&run, &dump, "delphi", &out, &["--splits", "2"]);
    // Characters of a hook that mean something in paths are replaced, and a flat model has one level.
    assert_eq!(report["directories"], json!([".._.._a_b_c_\u{e9}.level1"]));
    let module = out.join(".._.._a_b_c_\u{e9}.level1");
    let [expected, none] = activations(&run, &x);
    assert!(none.is_empty() && read_delphi(&module, 1, 12, 2) == expected);
}

/// The keys that SAEDashboard writes for a feature, and for a context in which it fires.
const KEYS: [&str; 25] = [
    "activations",
    "correlated_features_indices",
    "correlated_features_l1",
    "correlated_features_pearson",
    "correlated_neurons_indices",
    "correlated_neurons_l1",
    "correlated_neurons_pearson",
    "dataset",
    "decoder_weights_dist",
    "feature_index",
    "frac_nonzero",
    "freq_hist_data_bar_heights",
    "freq_hist_data_bar_values",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "n_prompts_total",
    "n_tokens_in_prompt",
    "neg_str",
    "neg_values",
    "neuron_alignment_indices",
    "neuron_alignment_l1",
    "neuron_alignment_values",
    "pos_str",
    "pos_values",
    "vector",
];
const PLACE_KEYS: [&str; 6] = ["bin_contains", "bin_max", "bin_min", "qualifying_token_index", "tokens", "values"];

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

fn floats(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// The features of a level, from all of its files in order.
fn features(level: &Path, head: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    for i in 0..fs::read_dir(level).unwrap().count() {
        let mut batch = read_json(&level.join(format!("batch-{i}.json")));
        let features = batch.as_object_mut().unwrap().remove("features").unwrap();
        assert_eq!(&batch, head, "the head of batch-{i}.json");
        let features = features.as_array().unwrap();
        assert!(
            features.len() == 128 || i + 1 == fs::read_dir(level).unwrap().count(),
            "only the last file may be short, found {} features in batch-{i}.json",
            features.len()
        );
        all.extend(features.iter().cloned());
    }
    all
}

#[test]
fn neuronpedia_features_are_those_of_brute_force() {
    let (dir, _, run) = trained(&["level2.latents=130"]);
    let x = rows(620);
    let all = activations(&run, &x);
    let decoders = decoders(&run);
    let uneven = [0, 3, 60, 61, 200, 290, 300, 310, 325, 350, 400, 401, 402, 480, 600];
    for (i, (cut, hook, layer, length)) in [
        (Cut::Context(50), Some("blocks.3.hook_resid_post"), json!(3), json!(50)),
        (Cut::Starts(&uneven), Some("ln_final"), json!(0), json!(139)),
    ]
    .into_iter()
    .enumerate()
    {
        let starts: Vec<usize> = match cut {
            Cut::Context(t) => (0..620).step_by(t).collect(),
            Cut::Starts(starts) => starts.to_vec(),
        };
        let bounds = |row: usize| {
            let at = starts.partition_point(|s| *s <= row);
            (starts[at - 1], starts.get(at).copied().unwrap_or(620))
        };
        let dump = text_dump(&dir.path().join(format!("dump{i}")), &x, cut, hook);
        let out = dir.path().join(format!("out{i}"));
        let report = export(&run, &dump, "neuronpedia", &out, &[]);
        assert_eq!(report["entries"], json!([all[0].len(), all[1].len()]));
        let correlations = [12, 130].map(|f| Correlations::new(f, 620));
        let correlations: Vec<Correlations> =
            correlations.into_iter().zip(&all).map(|(c, all)| c.filled(all, &x)).collect();
        assert_eq!((&report["rows"], &report["left_out"]), (&json!(620), &json!(0)));
        let mut dead = 0;
        for (l, f) in [12, 130].into_iter().enumerate() {
            let level = format!("level{}", l + 1);
            let head = json!({ "model_id": hook.map_or("", |_| "gpt-\"x\""), "layer": layer, "sae_set": "run",
                "sae_id_suffix": level });
            let features = features(&out.join(&level), &head);
            assert_eq!(features.len(), f);
            for (j, feature) in features.iter().enumerate() {
                assert_eq!(keys(feature), KEYS);
                assert_eq!((&feature["feature_index"], &feature["dataset"]), (&json!(j), &json!(format!("dump{i}"))));
                assert_eq!(
                    (&feature["n_prompts_total"], &feature["n_tokens_in_prompt"]),
                    (&json!(starts.len()), &length)
                );
                let mine: Vec<(usize, f32)> = all[l].iter().filter(|a| a.1 == j).map(|a| (a.0, a.2)).collect();
                let share = feature["frac_nonzero"].as_f64().unwrap();
                assert!((share - mine.len() as f64 / 620.0).abs() < 1e-15, "{share}");
                check_histogram(feature, &mine);
                check_vector(feature, &decoders[l][j * D..(j + 1) * D]);
                correlations[l].check(feature, j);
                dead += usize::from(mine.is_empty());

                let mut best: BTreeMap<usize, (usize, f32)> = BTreeMap::new();
                for &(row, value) in &mine {
                    let at = best.entry(bounds(row).0).or_insert((row, value));
                    if value > at.1 {
                        *at = (row, value);
                    }
                }
                let mut best: Vec<(usize, f32)> = best.into_values().collect();
                best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                best.truncate(10);
                let places = feature["activations"].as_array().unwrap();
                let (places, groups) = places.split_at(best.len());
                check_groups(groups, &mine, best.first().map_or(0.0, |b| b.1), |row| {
                    let (start, end) = bounds(row);
                    start.max(row.saturating_sub(28))..end.min(row + 13)
                });
                for (place, (row, value)) in places.iter().zip(&best) {
                    assert_eq!(keys(place), PLACE_KEYS);
                    let (start, end) = bounds(*row);
                    let around = start.max(row.saturating_sub(28))..end.min(row + 13);
                    let value_of = |r: usize| mine.iter().find(|m| m.0 == r).map_or(0.0, |m| m.1);
                    assert_eq!(floats(&place["values"]), around.clone().map(value_of).collect::<Vec<_>>());
                    assert_eq!(place["qualifying_token_index"], row - around.start);
                    assert_eq!(place["values"][row - around.start].as_f64().unwrap() as f32, *value);
                    let text: Vec<&str> = around.map(|r| VOCAB[token(r) as usize]).collect();
                    assert_eq!(place["tokens"], json!(text));
                    let bins = ["bin_min", "bin_max", "bin_contains"].map(|k| place[k].as_f64().unwrap() as f32);
                    assert_eq!(bins, [-1.0, best[0].1, -1.0]);
                }
            }
        }
        assert!(dead > 0, "a latent that never fires is there too");
    }
    assert_no_leftovers(dir.path());
}

/// Decoder directions of both levels.
#[test]
fn neuronpedia_has_no_rows_that_training_left_out() {
    let (dir, _, run) = trained(&[]);
    let mut x = rows(600);
    // The first row of every sequence is far longer than any other.
    x.chunks_mut(50 * D).for_each(|sequence| sequence[..D].iter_mut().for_each(|v| *v *= 1000.0));
    let dump = text_dump(&dir.path().join("sinks"), &x, Cut::Context(50), None);
    let out = dir.path().join("out");
    let report = export(&run, &dump, "neuronpedia", &out, &[]);
    assert_eq!((&report["rows"], &report["left_out"]), (&json!(588), &json!(12)));
    let (all, mut fired) = (activations(&run, &x), 0);
    for (l, f) in [12, 30].into_iter().enumerate() {
        let read = read_json(&out.join(format!("level{}", l + 1)).join("batch-0.json"));
        for j in 0..f {
            let feature = &read["features"][j];
            let mine: Vec<f32> = all[l].iter().filter(|a| a.1 == j && !a.0.is_multiple_of(50)).map(|a| a.2).collect();
            assert!((feature["frac_nonzero"].as_f64().unwrap() - mine.len() as f64 / 588.0).abs() < 1e-15);
            let largest = mine.iter().copied().fold(0.0, f32::max);
            let shown = feature["activations"].as_array().unwrap().iter().flat_map(|place| floats(&place["values"]));
            assert_eq!(shown.fold(0.0, f32::max), largest);
            fired += usize::from(all[l].iter().any(|a| a.1 == j && a.0.is_multiple_of(50) && a.2 > largest));
        }
    }
    assert!(fired > 0, "some latents fire most strongly on rows that are left out");
}

fn decoders(run: &Path) -> [Vec<f32>; 2] {
    let read = |name: &str| fs::read(run.join("sae").join(name)).unwrap();
    let (model, _) = read_model(&read("cfg.json"), &read("sae_weights.safetensors")).unwrap();
    [model.params.level[0].w_dec.to_vec(), model.decoder2(Compute::new(Isa::detect(), Par::Seq))]
}

fn indices(list: &Value) -> Vec<usize> {
    list.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

fn check_vector(feature: &Value, direction: &[f32]) {
    assert_eq!(floats(&feature["vector"]), direction, "the decoder direction");
    let mut order: Vec<usize> = (0..D).collect();
    order.sort_by(|a, b| direction[*b].total_cmp(&direction[*a]));
    assert_eq!(indices(&feature["neuron_alignment_indices"]), order[..3], "the largest numbers of the direction");
    let size: f32 = direction.iter().map(|v| v.abs()).sum();
    for (place, i) in order[..3].iter().enumerate() {
        assert_eq!(feature["neuron_alignment_values"][place].as_f64().unwrap() as f32, direction[*i], "dimension {i}");
        let share = feature["neuron_alignment_l1"][place].as_f64().unwrap() as f32;
        assert!((share - direction[*i].abs() / size).abs() < 1e-6, "{share}");
    }
}

/// Checks the groups of contexts: each covers a fifth of the largest activation, has at most five contexts, and states
/// the share of all rows in it.
fn check_groups(
    places: &[Value],
    mine: &[(usize, f32)],
    largest: f32,
    around: impl Fn(usize) -> std::ops::Range<usize>,
) {
    let mut left = places;
    for fifth in (0..5).rev() {
        let edge = |i: usize| if i == 5 { largest } else { largest * i as f32 / 5.0 };
        let (lower, upper) = (edge(fifth), edge(fifth + 1));
        let inside: Vec<&(usize, f32)> = mine.iter().filter(|(_, v)| *v > lower && *v <= upper).collect();
        let silent = if fifth == 0 { 620 - mine.len() } else { 0 };
        let share = (inside.len() + silent) as f32 / 620.0;
        let (here, rest) = left.split_at(inside.len().min(5));
        left = rest;
        let mut rows = BTreeSet::new();
        for place in here {
            let bins = ["bin_min", "bin_max", "bin_contains"].map(|k| place[k].as_f64().unwrap() as f32);
            assert!(bins[..2] == [lower, upper] && (bins[2] - share).abs() < 1e-6, "{bins:?}, {share}");
            let value = place["values"][place["qualifying_token_index"].as_u64().unwrap() as usize].as_f64().unwrap();
            let of = |(row, v): &&&(usize, f32)| {
                let range = around(*row);
                let values: Vec<f32> =
                    range.clone().map(|r| mine.iter().find(|m| m.0 == r).map_or(0.0, |m| m.1)).collect();
                *v == value as f32
                    && place["qualifying_token_index"] == row - range.start
                    && floats(&place["values"]) == values
            };
            let (row, _) = inside.iter().find(of).expect("a place of the group");
            rows.insert(*row);
        }
        assert!(rows.len() * 2 >= here.len(), "places are not drawn twice: {rows:?}");
    }
    assert!(left.is_empty() || largest == 0.0, "{} places too many", left.len());
}

/// Correlations in f64 of dense columns: of latents with each other, and with the dimensions of the rows.
struct Correlations {
    z: Vec<Vec<f64>>,
    x: Vec<Vec<f64>>,
}

impl Correlations {
    fn new(f: usize, n: usize) -> Self {
        Self { z: vec![vec![0.0; n]; f], x: vec![vec![0.0; n]; D] }
    }

    fn filled(mut self, all: &[(usize, usize, f32)], x: &[f32]) -> Self {
        all.iter().for_each(|(row, j, z)| self.z[*j][*row] = f64::from(*z));
        x.iter().enumerate().for_each(|(at, x)| self.x[at % D][at / D] = f64::from(*x));
        self
    }

    fn check(&self, feature: &Value, j: usize) {
        for (others, name, skip) in [(&self.z, "features", Some(j)), (&self.x, "neurons", None)] {
            let mut all: Vec<(f64, usize, f64)> = others
                .iter()
                .enumerate()
                .filter(|(i, _)| Some(*i) != skip)
                .map(|(i, other)| {
                    let n = other.len() as f64;
                    let (a, b) = (&self.z[j], other);
                    let mean = |of: &[f64]| of.iter().sum::<f64>() / n;
                    let (ma, mb) = (mean(a), mean(b));
                    let about = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(*a, *b)).sum::<f64>();
                    let cov = about(&|a, b| (a - ma) * (b - mb));
                    let spread = (about(&|a, _| (a - ma).powi(2)) * about(&|_, b| (b - mb).powi(2))).sqrt();
                    let cosine = about(&|a, b| a * b) / ((about(&|a, _| a * a) * about(&|_, b| b * b)).sqrt() + 1e-6);
                    (if spread > 0.0 { cov / spread } else { 0.0 }, i, cosine)
                })
                .collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let best: Vec<_> = all.into_iter().take(3).filter(|(pearson, ..)| *pearson > 1e-9).collect();
            let found = &feature[format!("correlated_{name}_indices")];
            let expected: Vec<usize> = best.iter().map(|(_, i, _)| *i).collect();
            assert_eq!(indices(found), expected, "{name} of {j}");
            for (place, (pearson, _, cosine)) in best.iter().enumerate() {
                let at = |key: &str| feature[format!("correlated_{name}_{key}")][place].as_f64().unwrap();
                let off = [at("pearson") - pearson, at("l1") - cosine].map(f64::abs);
                assert!(off.iter().all(|off| *off < 1e-5), "{name} of {j}: {off:?}");
            }
        }
    }
}

fn check_histogram(feature: &Value, mine: &[(usize, f32)]) {
    let values = floats(&feature["freq_hist_data_bar_values"]);
    let heights: Vec<u64> =
        feature["freq_hist_data_bar_heights"].as_array().unwrap().iter().map(|h| h.as_u64().unwrap()).collect();
    let value = |m: &(usize, f32)| f64::from(m.1);
    let (low, high) = (mine.iter().map(value).reduce(f64::min), mine.iter().map(value).reduce(f64::max));
    match (low, high) {
        (Some(low), Some(high)) if low < high => {
            let edge = |i: usize| low + (high - low) * i as f64 / 50.0;
            let bar = |i: usize| {
                let inside = |v: f64| v >= edge(i) && (v < edge(i + 1) || i == 49);
                mine.iter().filter(|m| inside(value(m))).count() as u64
            };
            assert_eq!(heights, (0..50).map(bar).collect::<Vec<_>>(), "heights of the bars");
            let middles = (0..50).map(|i| ((edge(i) + edge(i + 1)) / 2.0) as f32);
            assert!(
                values.len() == 50 && values.iter().zip(middles).all(|(v, m)| (v - m).abs() <= 1e-6 * m),
                "middles of the bars: {values:?}"
            );
        }
        (Some(only), Some(_)) => {
            assert_eq!((values, heights), (vec![only as f32], vec![mine.len() as u64]), "one bar for equal activations")
        }
        _ => assert!(values.is_empty() && heights.is_empty(), "bars of a latent that never fires: {values:?}"),
    }
}

#[test]
fn neuronpedia_takes_the_logits_that_eval_found() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (dump, run) = (text_dump(&at("dump"), &rows(600), Cut::Context(50), None), at("run"));
    train(&dump, &run, &[]);
    let without = strata(&args!["export", run, "--dump", dump, "--format", "neuronpedia", "--out", at("without")]).ok();
    assert!(without.err.contains("latents.jsonl") && without.err.contains("strata eval"), "{}", without.err);
    assert_eq!(read_json(&at("without/level1/batch-0.json"))["features"][4]["pos_str"], json!([]));

    strata(&args!["eval", run, "--dump", dump, "--quiet"]).ok();
    let path = run.join("latents.jsonl");
    let mut records = latents::read(&path).unwrap();
    records[12 + 7].promotes = vec![("\u{0}\"".into(), 2.5), ("b".into(), 1.0)];
    records[12 + 7].suppresses = vec![("</b>".into(), -3.25)];
    latents::write(&records, &path).unwrap();
    export(&run, &dump, "neuronpedia", &at("with"), &[]);
    let feature = &read_json(&at("with/level2/batch-0.json"))["features"][7];
    assert_eq!((&feature["pos_str"], &feature["pos_values"]), (&json!(["\u{0}\"", "b"]), &json!([2.5, 1.0])));
    assert_eq!((&feature["neg_str"], &feature["neg_values"]), (&json!(["</b>"]), &json!([-3.25])));
    assert_eq!(read_json(&at("with/level1/batch-0.json"))["features"][7]["pos_str"], json!([]));

    // The records of another model are refused.
    records.remove(3);
    latents::write(&records, &path).unwrap();
    let all = args!["export", run, "--dump", dump, "--format", "neuronpedia", "--out", at("other")];
    strata(&all).fails(&["latents.jsonl", "expected the 12 and 30 latents", "strata eval"]);
    assert!(!at("other").exists());
    assert_no_leftovers(dir.path());
}

#[test]
fn exports_are_the_same_bits_for_any_number_of_threads() {
    let (dir, _, run) = trained(&[]);
    // More rows than either pass reads in one block.
    let dump = text_dump(&dir.path().join("text"), &rows(20_000), Cut::Context(64), None);
    for format in ["neuronpedia", "delphi"] {
        let outs = ["1", "3"].map(|threads| {
            let out = dir.path().join(format!("{format}{threads}"));
            export(&run, &dump, format, &out, &["--threads", threads]);
            tree(&out)
        });
        assert!(outs[0].len() >= 4 && outs[0] == outs[1], "{format}");
    }
}

#[test]
fn what_cannot_be_exported_is_refused_in_one_sentence() {
    let (dir, bare, run) = trained(&[]);
    let at = |name: &str| dir.path().join(name);
    let x = rows(120);
    let whole = text_dump(&at("whole"), &x, Cut::Context(50), None);
    let no_sequences = text_dump(&at("no_sequences"), &x, Cut::Starts(&[]), None);
    let uneven = text_dump(&at("uneven"), &x, Cut::Starts(&[0, 50, 90]), None);
    let short = text_dump(&at("short"), &x[..20 * D], Cut::Context(50), None);
    let wide = write_dump(&at("wide"), &x, 2 * D);
    let bad = at("bad.npy");
    let mut bytes = strata_core::format::npy::NpyHeader::bytes(Dtype::F32, 120, D).unwrap();
    Dtype::F32.narrow(&x, &mut bytes);
    fs::write(&bad, bytes).unwrap();
    fs::create_dir(at("there")).unwrap();
    let before = tree(dir.path());
    let refused = |dump: &Path, format: &str, out: &str, more: &[&str], parts: &[&str]| {
        let mut all = args!["export", run, "--dump", *dump, "--format", *format, "--out", at(out)];
        all.extend(more.iter().map(Into::into));
        strata(&all).fails(parts);
        assert_eq!(tree(dir.path()), before, "files are as they were");
    };
    for format in ["neuronpedia", "delphi"] {
        refused(&bare, format, "out", &[], &["dump that has tokens", "dump does not", "strata capture"]);
        refused(&bad, format, "out", &[], &["dump that has tokens", "bad does not"]);
        refused(&no_sequences, format, "out", &[], &["the starts of its sequences", "no_sequences does not"]);
        refused(&wide, format, "out", &[], &["wide has rows of width 32", "reads rows of width 16"]);
        refused(&whole, format, "there", &[], &["there", "exists already"]);
        refused(&whole, format, "none/out", &[], &["none/out", "no such file or directory"]);
        refused(&at("nothing"), format, "out", &[], &["nothing", "no such file"]);
    }
    refused(&uneven, "delphi", "out", &[], &["uneven", "sequences of one length", "50 rows in sequence 1, found 40"]);
    refused(&short, "delphi", "out", &[], &["short", "at least one whole sequence of 50 rows, found 20 rows"]);
    refused(&whole, "delphi", "out", &["--splits", "0"], &["--splits", "1 to 256", "found 0"]);
    refused(&whole, "delphi", "out", &["--splits", "257"], &["--splits", "1 to 256", "found 257"]);
    refused(&whole, "neuronpedia", "out", &["--splits", "5"], &["--splits", "delphi", "neuronpedia"]);
    let unknown = strata(&args!["export", run, "--dump", whole, "--format", "other", "--out", at("out")]);
    assert!(unknown.code == 2 && unknown.err.contains("delphi") && unknown.err.contains("neuronpedia"));

    // The weights are so large that activations overflow.
    let weights = run.join("sae/sae_weights.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let range = |name: &str| file.tensor(name).unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize;
    let (start, len) = (range("level1.w_enc"), file.tensor("level1.w_enc").unwrap().data().len());
    for number in bytes[start..start + len].chunks_exact_mut(4) {
        let value = f32::from_le_bytes(number.try_into().unwrap());
        number.copy_from_slice(&(value.signum() * 3e38).to_le_bytes());
    }
    fs::write(&weights, bytes).unwrap();
    fs::remove_file(run.join("sae/SHA256SUMS")).unwrap();
    for (format, parts) in [
        ("neuronpedia", &["reconstruction of level 1 is not finite"][..]),
        ("delphi", &["row ", "of level 1", "expected a finite activation, found inf"]),
    ] {
        let all = args!["export", run, "--dump", whole, "--format", *format, "--out", at("out")];
        strata(&all).fails(parts);
        assert!(!at("out").exists());
        assert_no_leftovers(dir.path());
    }
}

#[cfg(unix)]
#[test]
fn exports_that_cannot_be_written_leave_nothing_behind() {
    let (dir, _, run) = trained(&[]);
    let dump = text_dump(&dir.path().join("text"), &rows(600), Cut::Context(50), None);
    let before = tree(dir.path());
    for format in ["neuronpedia", "delphi"] {
        let all = args!["export", run, "--dump", dump, "--format", *format, "--out", dir.path().join("out")];
        let strata = super::cli::command(&all);
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg("trap '' XFSZ; ulimit -f 4; exec \"$0\" \"$@\"");
        shell.arg(strata.get_program()).args(strata.get_args()).env_remove("STRATA_SIMD");
        super::cli::finish(shell).fails(&["writing", "out/level1/"]);
        assert_eq!(tree(dir.path()), before);
    }
}

#[test]
fn the_layer_is_a_number_whatever_the_hook_is_called() {
    let (dir, _, run) = trained(&["level2.latents=0", "gate.kind=none"]);
    let dump = text_dump(&dir.path().join("text"), &rows(200), Cut::Context(50), Some("hook_embed"));
    for (i, (hook, layer, is_said)) in [
        (None, 0, true),
        (Some("model.layers.12.mlp"), 12, false),
        (Some("resid_post_layer_7"), 7, false),
        (Some("resid_post_layer7"), 7, false),
        (Some("transformer.h.5"), 5, false),
        (Some("ln_final.hook_normalized"), 0, true),
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(format!("out{i}"));
        let mut all = args!["export", run, "--dump", dump, "--format", "neuronpedia", "--out", out];
        all.extend(hook.iter().flat_map(|hook| args!["--hook", hook, "--model-id", "a/b"]));
        let ran = strata(&all).ok();
        let batch = read_json(&out.join("level1/batch-0.json"));
        assert_eq!(batch["layer"], layer, "{hook:?}");
        assert_eq!(batch["model_id"], if hook.is_some() { "a/b" } else { "gpt-\"x\"" });
        assert_eq!(ran.err.contains("layer 0") && ran.err.contains("--hook"), is_said, "{hook:?}: {}", ran.err);
    }
    // A run trained on rows of 64 tokens can be exported for SAELens with another context.
    let out = dir.path().join("lens");
    strata(&args!["export", run, "--format", "saelens", "--context", "64", "--out", out]).ok();
    assert_eq!(read_json(&out.join("cfg.json"))["metadata"]["context_size"], 64);
}
