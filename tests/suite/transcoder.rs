//! Transcoders trained by `strata train DUMP --target DUMP2`: from the feed of both dumps to the model on raw rows.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strata_cli::dump::{Dump, DumpSpec, DumpWriter};
use strata_cli::feed::Reader;
use strata_cli::row_filter::RowFilter;
use strata_cli::run::Run;
use strata_core::config::{Activation, GateKind, Source};
use strata_core::model::Scratch;
use strata_core::normalise::Normalisation;
use strata_core::row_norm::RowNorm;
use strata_core::train::Trainer;
use strata_core::{Codes, Compute, Config, Dtype, Encoder, Isa, Par, Philox};
use tempfile::TempDir;

use super::cli::{D, args, metrics, read_json, rows, strata, train_args, weights, write_dump};
use super::probe_cli::npy;

/// Width of the targets.
const OUT: usize = 10;

/// `y = relu(x A) B + 30`: a layer of a network on the rows `x`, far from the unit and the mean of its input.
fn layer(x: &[f32]) -> Vec<f32> {
    let mut rng = Philox::new(4, 4);
    let hidden = 24;
    let mut matrix =
        |rows: usize, columns: usize| -> Vec<f32> { (0..rows * columns).map(|_| rng.normal_f32()).collect() };
    let (a, b) = (matrix(hidden, D), matrix(OUT, hidden));
    let product = |x: &[f32], w: &[f32]| -> Vec<f32> {
        w.chunks(x.len()).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()).collect()
    };
    let row = |x: &[f32]| {
        let hidden: Vec<f32> = product(x, &a).iter().map(|h| h.max(0.0)).collect();
        product(&hidden, &b)
    };
    x.chunks(D).flat_map(row).map(|y| 0.01 * y + 30.0).collect()
}

struct Two {
    dir: TempDir,
    input: PathBuf,
    target: PathBuf,
}

/// Two dumps of `n` rows, the second a layer on the first.
fn two(n: usize) -> Two {
    let dir = TempDir::new().unwrap();
    let x = rows(n);
    let input = write_dump(&dir.path().join("in"), &x, D);
    let target = write_dump(&dir.path().join("out"), &layer(&x), OUT);
    Two { dir, input, target }
}

fn with_target(two: &Two, run: &Path, sets: &[&str]) -> Vec<std::ffi::OsString> {
    [train_args(&two.input, run, sets), args!["--target", two.target]].concat()
}

const LONGER: [&str; 3] = ["train.steps=400", "train.checkpoint_every=0", "train.log_every=50"];

#[test]
fn a_transcoder_learns_a_layer_and_is_evaluated_on_what_it_remembers() {
    let two = two(3000);
    let at = |name: &str| two.dir.path().join(name);
    for (name, sets) in [
        ("levels", &[][..]),
        ("flat", &["level2.latents=0", "gate.kind=none", "level1.latents=42", "level1.k=5"]),
        ("skip", &["skip=true"]),
        ("relu", &["level1.activation=relu", "level2.latents=0", "gate.kind=none", "level1.latents=42"]),
        ("codes", &["source=z1", "decoder=comp", "gate.kind=mul"]),
    ] {
        let run = at(name);
        strata(&with_target(&two, &run, &[&LONGER[..], sets].concat())).ok();
        // The run stores the paths of its input and of its target.
        let remembered = read_json(&run.join("source.json"));
        assert!(remembered["target"]["paths"][0].as_str().unwrap().contains("out"), "{remembered}");
        let found = strata(&args!["eval", run, "--json"]).ok().json();
        let fvu = found["fidelity"]["level2"]["fvu"].as_f64().unwrap();
        assert!(fvu < 0.9, "{name}: {fvu} of the variance of the targets is left");
        let info = read_json(&run.join("final_info.json"));
        let watched = info["in"]["held_out"]["fvu"][1].as_f64().unwrap();
        assert!((watched - fvu).abs() < 0.02, "{name}: {watched} after the training, {fvu} in the evaluation");
        let named =
            strata(&args!["eval", run, "--dump", two.input, "--target", two.target, "--out", at("again"), "--json"]);
        assert_eq!(named.ok().json()["fidelity"], found["fidelity"]);
        // If --dump is given, --target must be given as well.
        strata(&args!["eval", run, "--dump", two.input]).fails(&["transcoder", "--target"]);
        strata(&args!["encode", run, "--out", at(&format!("{name}.safetensors"))]).ok();
        strata(&args!["report", run]).ok();
    }
    // SAELens has classes for flat transcoders with thresholds.
    strata(&args!["convert", at("relu"), at("lens"), "--model-id", "a/b"]).ok();
    let cfg = read_json(&at("lens").join("cfg.json"));
    assert_eq!((&cfg["architecture"], &cfg["d_out"], &cfg["d_in"]), (&"transcoder".into(), &OUT.into(), &D.into()));
    let own = Run::open(&at("relu")).unwrap().model;
    assert_eq!(Run::open(&at("lens")).unwrap().model.params.w_skip, own.params.w_skip);
}

/// The mean and the unit of both dumps are folded in: what the training computes on normalised rows is what the model
/// computes on raw ones, and its decoder rows have norm 1.
#[test]
fn the_normalisation_of_both_dumps_is_folded_into_a_transcoder() {
    let x = rows(500);
    let y = layer(&x);
    for (case, (a1, a2)) in
        Activation::ALL.iter().flat_map(|a| Activation::ALL.iter().map(move |b| (*a, *b))).enumerate()
    {
        let mut c = Config { source: [Source::X, Source::Z1][case % 2], skip: case % 3 == 0, ..Config::default() };
        (c.level1.latents, c.level2.latents, c.level1.k, c.level2.k) = (12, 20, 3.0, 4.0);
        (c.level1.activation, c.level2.activation) = (a1, a2);
        c.gate.kind = GateKind::ALL[case % 5];
        (c.gate.start, c.train.steps, c.data.outlier) = (0.0, 40, 0.0);
        let isa = Isa::default();
        let measured = |rows: &[f32], d: usize| Normalisation::measure(isa, rows, d, &c.data).unwrap();
        let (input, target) = (measured(&x, D), measured(&y, OUT));
        let (mut nx, mut ny) = (x.clone(), y.clone());
        input.apply(&mut nx);
        target.apply(&mut ny);
        let compute = Compute::new(isa, Par::Seq);
        let mut trainer =
            Trainer::with_target(&c, input, Some(target.clone()), &nx[..64 * D], compute).expect("valid settings");
        for _ in 0..20 {
            trainer.step((&nx[..64 * D], &ny[..64 * OUT])).expect("a finite step");
        }
        let through = |model: strata_core::Model, rows: &[f32]| {
            let encoder = Encoder::new(Arc::new(model), compute).unwrap();
            let (mut z1, mut z2) = (Codes::new(), Codes::new());
            encoder.encode(rows, &mut Scratch::new(&encoder.model().arch), &mut z1, &mut z2).unwrap();
            let (mut hat1, mut hat2) = (vec![0.0; y.len()], vec![0.0; y.len()]);
            encoder.decode_of(rows, &z1, &z2, &mut hat1, &mut hat2).unwrap();
            (z1, z2, hat2)
        };
        let folded = trainer.model();
        let norms = folded.params.level[0].w_dec.chunks(OUT).map(|row| row.iter().map(|v| v * v).sum::<f32>());
        norms.for_each(|norm| assert!((norm - 1.0).abs() < 1e-4, "{norm}"));
        let (z1, z2, hat) = through(trainer.model_unfolded(), &nx);
        let (raw1, raw2, raw) = through(folded, &x);
        let differ = |a: &Codes, b: &Codes| (0..a.n()).filter(|i| a.row(*i).index != b.row(*i).index).count();
        assert!(differ(&z1, &raw1) + differ(&z2, &raw2) <= 2, "{a1} {a2}: latents that fire");
        let mut back = raw;
        target.apply(&mut back);
        let apart = back.iter().zip(&hat).filter(|(a, b)| (**a - **b).abs() > 2e-3 * (1.0 + b.abs())).count();
        assert!(apart <= 2 * OUT, "{a1} {a2}: {apart} numbers of {} differ", hat.len());
    }
}

#[test]
fn a_transcoder_that_was_stopped_goes_on_to_the_same_bits() {
    let two = two(900);
    let at = |name: &str| two.dir.path().join(name);
    let sets = ["skip=true"];
    strata(&with_target(&two, &at("whole"), &sets)).ok();
    let line = [with_target(&two, &at("again"), &sets), args!["--threads", "1"]].concat();
    strata(&line).ok();
    let newest = at("again/checkpoints/step-000000030");
    fs::remove_dir_all(&newest).unwrap();
    fs::remove_file(at("again/final_info.json")).unwrap();
    strata(&[with_target(&two, &at("again"), &sets), args!["--resume"]].concat()).ok();
    assert_eq!(weights(&at("again")), weights(&at("whole")));
    assert_eq!(metrics(&at("again")).len(), metrics(&at("whole")).len());
    // Resuming without the target, or with another one, is refused.
    fs::remove_file(at("again/final_info.json")).unwrap();
    let plain = [train_args(&two.input, &at("again"), &["skip=false"]), args!["--resume"]].concat();
    strata(&plain).fails(&["again"]);
    let other = write_dump(&at("other"), &vec![1.0; 900 * OUT], OUT);
    let line = [train_args(&two.input, &at("again"), &sets), args!["--resume", "--target", other]].concat();
    strata(&line).fails(&["another dump"]);
}

#[test]
fn a_transcoder_is_probed_on_what_it_reconstructs() {
    let two = two(3000);
    let run = two.dir.path().join("run");
    strata(&with_target(&two, &run, &["train.steps=60"])).ok();
    // The answer is a column of the target, so that its rows tell it.
    let y = layer(&rows(3000));
    let mut column: Vec<f32> = y.chunks(OUT).map(|row| row[0]).collect();
    column.sort_by(f32::total_cmp);
    let labels: Vec<i64> = y.chunks(OUT).map(|row| i64::from(row[0] > column[1500])).collect();
    let labels = npy(&two.dir.path().join("labels.npy"), &labels);
    let out = two.dir.path().join("probe.json");
    strata(&args!["probe", run, "--labels", labels, "--target", two.target, "--out", out]).ok();
    let found = read_json(&out);
    let rows = found["classes"][0]["auc"][0]["rows"].as_f64().expect("the probe of the rows");
    assert!(rows > 0.95, "{found:#}");
}

#[test]
fn the_control_of_a_transcoder_has_its_target() {
    let two = two(1500);
    let run = two.dir.path().join("run");
    strata(&[with_target(&two, &run, &["train.steps=60"]), args!["--control"]].concat()).ok();
    let found = strata(&args!["eval", run, "--json"]).ok().json();
    assert!(found["control"]["fvu2"]["value"].is_number(), "{}", found["control"]);
}

#[test]
fn what_cannot_be_transcoded_is_refused_before_anything_is_made() {
    let two = two(300);
    let run = two.dir.path().join("run");
    let short = write_dump(&two.dir.path().join("short"), &layer(&rows(299)), OUT);
    let line = |target: &Path, sets: &[&str]| [train_args(&two.input, &run, sets), args!["--target", *target]].concat();
    strata(&line(&short, &[])).fails(&["--target", "300 rows", "299 rows"]);
    strata(&line(&two.target, &["source=res"])).fails(&["source", "transcoder"]);
    strata(&line(&two.target, &["data.row_norm=layer"])).fails(&["data.row_norm", "transcoder"]);
    strata(&line(&two.target, &["model=seed", "gate.kind=none"])).fails(&["model", "transcoder"]);
    strata(&train_args(&two.input, &run, &["skip=true"])).fails(&["skip", "--target"]);
    assert!(!run.exists());
}

/// The feed gives the same rows of both dumps, whichever of the first are left out.
#[test]
fn the_feed_reads_the_same_rows_of_both_dumps() {
    let dir = TempDir::new().unwrap();
    let n = 700;
    let mut rng = Philox::new(8, 0);
    let x: Vec<f32> = (0..n * 4).map(|i| rng.normal_f32() * if i / 4 % 9 == 0 { 50.0 } else { 1.0 }).collect();
    // The first number of each target row is its index.
    let y: Vec<f32> = (0..n).flat_map(|i| [i as f32, x[i * 4]]).collect();
    let write = |name: &str, rows: &[f32], d: usize| {
        let spec = DumpSpec { max_shard_bytes: 1000, ..DumpSpec::new(d, Dtype::F32) };
        let mut writer = DumpWriter::create(&dir.path().join(name), spec).unwrap();
        writer.append(rows, None).unwrap();
        writer.finish().unwrap();
        Dump::open(&[dir.path().join(name)], None).unwrap()
    };
    let (input, target) = (write("x", &x, 4), write("y", &y, 2));
    let mut config = Config { seed: 3, ..Config::default() };
    (config.data.block, config.data.window) = (16, 4);
    let mut filter = RowFilter::none(Isa::default());
    filter.set_limit(20.0);
    let plain = |d| Normalisation::identity(d, RowNorm::None);
    let reader = Reader::new(&input, n as u64, &config, &filter, plain(4), 0).unwrap();
    let mut seen = vec![0; n];
    reader
        .with_target(&target, Normalisation { scale: 2.0, ..plain(2) })
        .ahead(90, 12, |feed| {
            for _ in 0..12 {
                let rows = feed.next_batch()?;
                assert_eq!((rows.x.len(), rows.y.len()), (90 * 4, 90 * 2));
                for (x_row, y_row) in rows.x.chunks(4).zip(rows.y.chunks(2)) {
                    let i = (y_row[0] / 2.0) as usize;
                    assert_eq!(x_row, &x[i * 4..(i + 1) * 4], "row {i}");
                    assert_eq!(y_row[1], 2.0 * x[i * 4]);
                    seen[i] += 1;
                }
            }
            Ok(())
        })
        .unwrap();
    let long = |i: &usize| x[i * 4..(i + 1) * 4].iter().map(|v| v * v).sum::<f32>().sqrt() > 20.0;
    assert!((0..n).filter(long).count() > 20 && (0..n).filter(long).all(|i| seen[i] == 0), "long rows are left out");
    assert!(seen.iter().filter(|s| **s > 0).count() > 500);
}
