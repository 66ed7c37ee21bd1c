//! No score depends on the unit of the activations: dumps times powers of two, trained on and evaluated from the start.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use strata_cli::dump::{DumpSpec, DumpWriter};
use strata_cli::truth;
use strata_core::Dtype;
use strata_core::synth::{World, WorldConfig};
use tempfile::TempDir;

use super::cli::{D, args, read_json, strata, train};

const N: usize = 2400;
const VOCAB: [&str; 6] = ["a", "e", "B", " ", "7", "."];

/// A synthetic dump times `2^k`, with its truth, or with tokens in sequences of 40.
fn dump(path: &Path, config: &WorldConfig, tokens: bool, k: i32) -> PathBuf {
    let world = World::new(config).unwrap();
    let mut x = vec![0.0; N * D];
    world.sample(0, N, &mut x, None);
    let largest = |row: &[f32]| (0..VOCAB.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32;
    let ids: Vec<u32> = x.chunks(D).map(largest).collect();
    x.iter_mut().for_each(|v| *v *= 2f32.powi(k));
    let mut spec = DumpSpec::new(D, Dtype::F32);
    if tokens {
        (spec.context, spec.vocab) = (Some(40), Some(VOCAB.map(String::from).to_vec()));
    }
    let mut writer = DumpWriter::create(path, spec).unwrap();
    writer.append(&x, tokens.then_some(&ids[..])).unwrap();
    if !tokens {
        truth::write(&world, N as u64, |name, bytes| writer.attach(name, bytes)).unwrap();
    }
    writer.finish().unwrap();
    path.to_owned()
}

/// Returns the power of the unit of the activations in the number at a key of `eval.json`, `probe.json` or
/// `latents.jsonl`.
fn power(at: &str) -> i32 {
    let ends = |names: &[&str]| names.iter().any(|n| at.ends_with(n));
    match at {
        _ if ends(&[".mse", ".child[].gain", ".points[].squared_error"]) => 2,
        _ if ends(&[".value_mean", ".points[].step", ".norm_limit"]) => 1,
        // Numbers of a latent.
        _ if ends(&["latents[].mean", "latents[].max", "latents[].histogram.width"]) => 1,
        _ if at.contains("latents[]") && ends(&["values[]"]) => 1,
        _ => 0,
    }
}

/// Asserts that `b` is `a` times the power of the unit `2^k` that [`power`] gives.
fn compare(at: &str, a: &Value, b: &Value, k: i32) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{at}");
            a.iter().for_each(|(key, v)| compare(&format!("{at}.{key}"), v, &b[key], k));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{at}");
            a.iter().zip(b).for_each(|(a, b)| compare(&format!("{at}[]"), a, b, k));
        }
        (Value::Number(x), Value::Number(y)) if power(at) != 0 => {
            let (x, y) = (x.as_f64().unwrap() * 2f64.powi(k * power(at)), y.as_f64().unwrap());
            // Decimal numbers are read to the last bit but one; values of a context are those of f32.
            let bound = if at.ends_with("values[]") { 1.5e-7 } else { 4.0 * f64::EPSILON };
            assert!((x - y).abs() <= bound * x.abs(), "{at}: {x} {y} for 2^{k}");
        }
        (a, b) => assert_eq!(a, b, "{at} for 2^{k}"),
    }
}

/// The numbers of every tensor of a run, by name.
fn weights(run: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = fs::read(run.join("sae/sae_weights.safetensors")).unwrap();
    let numbers = |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let mut all: Vec<_> = SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors()
        .into_iter()
        .filter(|(name, _)| name != "parent")
        .map(|(name, view)| (name, numbers(view.data())))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Trains and evaluates a run on a dump, and returns the contents of its files.
fn files(dump: &Path, run: &Path, sets: &[&str], probes: bool) -> Value {
    train(dump, run, sets);
    strata(&args!["eval", run, "--dump", *dump, "--all"]).ok();
    let mut all = serde_json::json!({ "eval": read_json(&run.join("eval.json")) });
    let lines = fs::read_to_string(run.join("latents.jsonl")).unwrap();
    all["latents"] = lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).collect();
    if probes {
        strata(&args!["probe", run, "--dump", *dump, "--labels", "chars"]).ok();
        all["probe"] = read_json(&run.join("probe.json"));
    }
    all
}

#[test]
fn a_dump_times_a_power_of_two_gives_the_same_model_and_the_same_scores() {
    let small = |config: WorldConfig| WorldConfig { d: D, roots: 5, children: 3, flat: 4, ..config };
    let (a, b, c) = (small(WorldConfig::a()), small(WorldConfig::b()), small(WorldConfig::c()));
    let longer = &["train.steps=60", "train.lr=0.01"][..];
    for (name, world, tokens, sets, powers) in [
        ("text", &a, true, longer, &[-40, -7, 23, 40][..]),
        ("a", &a, false, longer, &[-40, 40]),
        ("b", &b, false, &["source=res", "level1.activation=topk", "level2.activation=topk"], &[-40, 40]),
        ("c", &c, false, &["level1.activation=jumprelu", "level2.activation=gated"], &[-40, 40]),
    ] {
        let dir = TempDir::new().unwrap();
        // The files name the dump, so all dumps have the same name.
        let made = |k: i32| {
            let at = dir.path().join(k.to_string());
            fs::create_dir(&at).unwrap();
            let dump = dump(&at.join("dump"), world, tokens, k);
            let run = at.join("run");
            (files(&dump, &run, sets, tokens), weights(&run))
        };
        let (reference, model) = made(0);
        for &k in powers {
            let (found, scaled) = made(k);
            compare("", &reference, &found, k);
            for ((tensor, x), (other, y)) in model.iter().zip(&scaled) {
                let unit = if ["b_", "tau", "threshold"].iter().any(|part| tensor.contains(part)) { k } else { 0 };
                let same = x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x * 2f32.powi(unit) == *y);
                assert!(tensor == other && same, "{name}: {tensor} for 2^{k}");
            }
        }
    }
}
