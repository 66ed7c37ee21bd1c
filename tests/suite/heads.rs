//! Files of linear heads, and the heads that `strata probe` saves: their scores are those of its probes, to the bit.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use strata_cli::dump::Dump;
use strata_cli::eval::classes::TokenClasses;
use strata_cli::run::Run;
use strata_core::format::heads::{read, write};
use strata_core::heads::{Head, Heads, Hysteresis, Reads, Running, fingerprint};
use strata_core::metrics::probe::logistic::Settings;
use strata_core::metrics::probe::sparse::{dense_probe, fit_latents};
use strata_core::metrics::probe::{Binary, joined, split};
use strata_core::{Codes, Isa, Par};
use tempfile::TempDir;

use super::cli::{D, args, assert_no_leftovers, read_json, rows, strata, train};
use super::ffi::{fixture, probe};
use super::probe_cli::with_tokens;

fn some() -> Heads {
    let head = |name: &str, reads, weight, bias| Head { name: name.into(), reads, weight, bias };
    let heads = vec![
        head("vowel", Reads::Row, vec![0.5, -1e-300, 3.0], 0.1),
        head("vowel", Reads::Latents(vec![6, 0, 2]), vec![1.0, 2.0, -0.0], -4.0),
        head("\"é\n", Reads::Latents(vec![1]), vec![f64::MAX], 0.0),
    ];
    Heads { d: 3, latents: [2, 5], model: 0xfedc_ba98_7654_3210, unit: 0.3, heads }
}

#[test]
fn heads_are_read_as_they_were_written_and_every_damage_is_an_error() {
    let heads = some();
    let bytes = write(&heads).unwrap();
    assert_eq!(bytes, write(&heads).unwrap(), "the bytes are the same every time");
    assert_eq!(read(&bytes).unwrap(), heads);
    for len in 0..bytes.len() {
        let error = read(&bytes[..len]).expect_err("a file that was cut").to_string();
        assert!(!error.is_empty(), "an error is a sentence");
    }
    // Every bit of the header: either the same meaning, or an error, and never a panic.
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for at in 0..header {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            if let Ok(found) = read(&damaged) {
                found.check().expect("what was read is valid");
            }
        }
    }
}

#[test]
fn files_say_what_is_wrong_with_them() {
    let bytes = write(&some()).unwrap();
    let with = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len(), "the header keeps its length");
        let text = bytes.clone();
        let at = text.windows(from.len()).position(|w| w == from.as_bytes()).unwrap_or_else(|| panic!("{from}"));
        let mut text = text;
        text[at..at + to.len()].copy_from_slice(to.as_bytes());
        read(&text).expect_err("a damaged file").to_string()
    };
    for (from, to, said) in [
        ("strata-probe", "strata-prove", "format: expected `strata-probe`, found `strata-prove`"),
        (r#"\"version\":1"#, r#"\"version\":9"#, "strata-probe: expected version 1, found 9"),
        (r#"\"d\":3"#, r#"\"d\":4"#, "head 0: weight: expected 4 numbers, found 3"),
        (r#"\"f2\":5"#, r#"\"f2\":4"#, "head 1: expected latents below 6, found 6"),
        ("fedc", "fezc", "model: expected 16 hexadecimal digits"),
        (r#"\"latents\""#, r#"\"latentz\""#, "unknown variant `latentz`"),
        (r#""unit""#, r#""unot""#, "expected a tensor `unit`, found none"),
        (r#""F64""#, r#""I64""#, "1 dimension of F64"),
    ] {
        let found = with(from, to);
        assert!(found.contains(said), "{found}, not {said}");
    }
    let wrong = |change: &dyn Fn(&mut Heads)| {
        let mut heads = some();
        change(&mut heads);
        write(&heads).expect_err("wrong heads").to_string()
    };
    assert!(wrong(&|h| h.unit = 0.0).contains("unit: expected a positive number"));
    assert!(wrong(&|h| h.heads.clear()).contains("at least 1"));
    assert!(wrong(&|h| h.heads[1].reads = Reads::Latents(vec![1, 2, 1])).contains("found 1 twice"));
    assert!(wrong(&|h| h.heads[0].bias = f64::NAN).contains("finite"));
    assert!(wrong(&|h| h.heads[2].weight.clear()).contains("weight: expected 1 numbers, found 0"));
    let other = write(&some()).map(|b| safetensors::SafeTensors::deserialize(&b).is_ok());
    assert_eq!(other, Ok(true), "other readers of safetensors read it");
    let none = safetensors::serialize(Vec::<(&str, safetensors::tensor::TensorView<'_>)>::new(), None).unwrap();
    assert!(read(&none).unwrap_err().to_string().contains("expected the key `probe`"));
}

proptest! {
    #[test]
    fn any_heads_come_back(
        d in 1usize..9,
        latents in [1usize..20, 0usize..20],
        heads in prop::collection::vec((any::<bool>(), 1usize..6, any::<u64>(), ".{0,8}"), 1..6),
        model: u64,
    ) {
        let all = (latents[0] + latents[1]) as u32;
        let heads = heads.into_iter().map(|(on_row, n, seed, name)| {
            let first = seed as u32 % all;
            let listed: Vec<u32> = (0..all.min(n as u32)).map(|i| (first + i) % all).collect();
            let reads = if on_row { Reads::Row } else { Reads::Latents(listed.clone()) };
            let n = if on_row { d } else { listed.len() };
            let weight = (0..n).map(|i| (seed as f64).sin() * i as f64).collect();
            Head { name, reads, weight, bias: (seed as f64).cos() }
        });
        let heads = Heads { d, latents, model, unit: 1.5, heads: heads.collect() };
        prop_assert_eq!(read(&write(&heads).unwrap()).unwrap(), heads);
    }

    #[test]
    fn any_bytes_are_heads_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(&bytes).is_err(), "random bytes are no file");
    }
}

#[test]
fn alarms_have_two_thresholds() {
    let at = Hysteresis { on: 1.0, off: -1.0 };
    let mut running = Running::default();
    let scores = [0.0, 1.0, 1.5, 0.0, -0.9, -1.0, 0.9, 2.0, 2.0];
    let on: Vec<bool> = scores
        .map(|score| {
            running.add(score, at);
            running.is_on
        })
        .into();
    assert_eq!(on, [false, false, true, true, true, false, false, true, true]);
    assert_eq!((running.alarms, running.rows, running.max, running.max_row), (2, 9, 2.0, 7));
    assert_eq!(running.mean(), scores.iter().sum::<f64>() / 9.0);
}

/// The heads that `ffi/examples/watch.c` and the C tests score, for the model in `tests/golden/sae`.
#[test]
fn the_committed_heads_are_these() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let run = Run::open(&golden.join("sae")).unwrap();
    let (arch, latents) = (&run.model.arch, run.model.arch.latents());
    let head = |name: &str, reads, weight, bias| Head { name: name.into(), reads, weight, bias };
    let heads = vec![
        head("pair", Reads::Latents(vec![3, 8 + 12]), vec![1.0, 10.0], -1.5),
        head("sum", Reads::Row, vec![0.125; arch.d], 0.0),
    ];
    let bytes = write(&Heads { d: arch.d, latents, model: fingerprint(&run.model), unit: 1.0, heads }).unwrap();
    let path = golden.join("heads.safetensors");
    if std::env::var_os("STRATA_WRITE_HEADS").is_some() {
        fs::write(&path, &bytes).unwrap();
    }
    let same = fs::read(&path).is_ok_and(|found| found == bytes);
    assert!(same, "tests/golden/heads.safetensors differs: run this test with STRATA_WRITE_HEADS=1");
}

#[test]
fn models_with_other_biases_have_other_fingerprints() {
    let one = fixture::model(fixture::arch());
    let mut two = one.clone();
    assert_eq!(fingerprint(&one), fingerprint(&two));
    two.params.level[1].b_enc[3] += 1.0;
    assert_ne!(fingerprint(&one), fingerprint(&two));
}

#[test]
fn saved_heads_score_as_the_probes_of_the_command_line() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (dump, run, file) = (with_tokens(&path("dump"), 4000), path("run"), path("heads.safetensors"));
    train(&dump, &run, &[]);
    let save = args!["--save-head", file, "--head-latents", "5"];
    strata(&[args!["probe", run, "--dump", dump, "--labels", "chars"], save].concat()).ok();
    let report = read_json(&run.join("probe.json"));
    let classes = report["classes"].as_array().unwrap();
    let heads = read(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(heads.heads.len(), 2 * classes.len(), "a head on rows and one on latents for each class");

    // The probes once more, from the rows: what the command line documents, without its sample.
    let (x, unit) = (rows(4000), heads.unit);
    let scaled: Vec<f32> = x.iter().map(|x| x * unit).collect();
    let opened = Run::open(&run).unwrap();
    let encoder = opened.encoder(Isa::detect()).unwrap();
    let [f1, f2] = encoder.model().arch.latents();
    let (mut one, mut two) = (Codes::new(), Codes::new());
    encoder.encode_par(Par::Seq, &x, &mut one, &mut two).unwrap();
    one.value.iter_mut().chain(&mut two.value).for_each(|z| *z *= unit);
    let both = joined(&one.view(f1).unwrap(), &two.view(f2).unwrap()).unwrap();
    let both = both.view(f1 + f2).unwrap();
    let opened = Dump::open(&[dump], None).unwrap();
    let kinds = TokenClasses::new(opened.vocab().unwrap());
    let class: Vec<Option<u32>> = opened.tokens().unwrap().iter().map(|t| Some(kinds.of(*t))).collect();
    let side = split(200, 0.2, 0);
    let is_test: Vec<bool> = (0..4000).map(|i| side[i / 20]).collect();
    let found = probe::scores_of_files(&run, &file, &x, [D, heads.heads.len()]);
    let settings = Settings::default();
    for (c, of) in classes.iter().enumerate() {
        let task = Binary::one_against_rest(&class, of["class"].as_u64().unwrap() as u32, &is_test, 2000, 0);
        let (on_row, _) = dense_probe(&scaled, D, &task, &settings).unwrap();
        let sparse = of["both"].as_array().unwrap().iter().find(|probe| probe["k"] == 5).unwrap();
        let latents: Vec<u32> =
            sparse["latents"].as_array().unwrap().iter().map(|j| j.as_u64().unwrap() as u32).collect();
        let on_latents = fit_latents(&both, &latents, &task.train, &settings).unwrap();
        let gathered = |i: usize| -> Vec<f32> {
            let value = |j: &u32| both.active(i).find(|(of, _)| *of == *j as usize).map_or(0.0, |(_, z)| z);
            latents.iter().map(value).collect()
        };
        let row = |i: usize| scaled[i * D..(i + 1) * D].to_vec();
        let features: [&dyn Fn(usize) -> Vec<f32>; 2] = [&row, &gathered];
        for (at, (probe, reported)) in [(&on_row, &of["dense"]), (&on_latents, sparse)].into_iter().enumerate() {
            let (head, features) = (2 * c + at, features[at]);
            assert_eq!(heads.heads[head].name, of["name"].as_str().unwrap());
            let score = |i: usize| found[i * heads.heads.len() + head];
            for i in 0..4000 {
                assert_eq!(score(i).to_bits(), probe.margin(&features(i)).to_bits(), "head {head}, row {i}");
            }
            let right = task.test.row.iter().zip(&task.test.label).filter(|(i, l)| (score(**i as usize) > 0.0) == **l);
            let accuracy = right.count() as f64 / task.test.row.len() as f64;
            assert_eq!(accuracy, reported["accuracy"].as_f64().unwrap(), "the accuracy that the report has");
        }
    }

    let refused = |extra: &[std::ffi::OsString], parts: &[&str]| {
        let all = [&args!["probe", run, "--dump", path("dump"), "--labels", "chars"][..], extra].concat();
        strata(&all).fails(parts);
    };
    refused(
        &args!["--save-head", path("x"), "--head-latents", "3"],
        &["--head-latents: expected 1, 2, 5, 10 or 20, found 3"],
    );
    refused(&args!["--save-head", dir.path()], &["it is a directory"]);
    refused(&args!["--save-head", path("p.json"), "--out", path("p.json")], &["--save-head", "choose another name"]);
    assert_no_leftovers(dir.path());
}
