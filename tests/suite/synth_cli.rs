//! `strata synth`, and the scores of `strata eval` for the truth beside the rows.

use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use strata_cli::dump::Dump;
use strata_core::synth::{World, WorldConfig};

/// Runs the command line: exit code, standard output, standard error.
pub fn strata(line: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = std::iter::once("strata").chain(line.iter().copied()).map(OsString::from);
    let code = strata_cli::run(args, &mut out, &mut err);
    (code, String::from_utf8(out).expect("UTF-8"), String::from_utf8(err).expect("UTF-8"))
}

/// A small world: 3 roots with 2 children each and 2 flat features in 8 dimensions.
pub const SMALL: [&str; 8] = ["--set", "d=8", "--set", "roots=3", "--set", "children=2", "--set", "flat=2"];

/// The dump of `rows` tokens of the small world.
pub fn small_dump(path: &Path, rows: &str) {
    let path = path.to_str().expect("a path in UTF-8");
    let line = [&["synth", "--world", "a", "--rows", rows, "--seed", "7", "--out", path][..], &SMALL].concat();
    let (code, _, err) = strata(&line);
    assert_eq!(code, 0, "{err}");
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).expect("JSON")
}

#[test]
fn rows_of_a_synthetic_dump_are_the_tokens_of_its_world_and_its_truth_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("dump");
    small_dump(&path, "700");
    let dump = Dump::open(std::slice::from_ref(&path), None).expect("a dump");
    let config = WorldConfig { d: 8, roots: 3, children: 2, flat: 2, seed: 7, ..WorldConfig::a() };
    let world = World::new(&config).expect("a world");
    let (mut read, mut drawn, mut truth) = (vec![0.0; 700 * 8], vec![0.0; 700 * 8], vec![0.0; 700 * 11]);
    dump.read_range(0, 700, &mut read).expect("rows");
    world.sample(0, 700, &mut drawn, Some(&mut truth));
    assert_eq!(read, drawn);

    let description = read_json(&path.join("truth.json"));
    assert_eq!(serde_json::from_value::<WorldConfig>(description["world"].clone()).expect("constants"), config);
    assert_eq!(description["stored"], serde_json::json!([630, 70]));
    let bytes = fs::read(path.join("truth.safetensors")).expect("arrays");
    let arrays = safetensors::SafeTensors::deserialize(&bytes).expect("arrays");
    let words = |name: &str| -> Vec<u32> {
        let data = arrays.tensor(name).expect("an array").data();
        data.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
    };
    assert_eq!(words("parents"), world.parents());
    assert_eq!(words("directions"), world.directions().iter().map(|v| v.to_bits()).collect::<Vec<_>>());
    let starts: Vec<u64> = arrays
        .tensor("indptr")
        .expect("rows")
        .data()
        .chunks_exact(8)
        .map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes")))
        .collect();
    let mut dense = vec![0.0; 70 * 11];
    for (i, pair) in starts.windows(2).enumerate() {
        for at in pair[0] as usize..pair[1] as usize {
            dense[i * 11 + words("index")[at] as usize] = f32::from_bits(words("value")[at]);
        }
    }
    assert_eq!(dense, truth[630 * 11..]);
}

#[test]
fn an_evaluation_on_a_synthetic_dump_scores_what_was_found_and_on_others_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, run) = (dir.path().join("dump"), dir.path().join("run"));
    small_dump(&path, "3000");
    let at = |p: &Path| p.to_str().expect("UTF-8").to_owned();
    let sets = "level1.latents=6 level1.k=1.5 level2.latents=12 level2.k=1.5 train.steps=40 train.batch=64 \
                data.outlier=0.0 train.lr=0.01";
    let (dump, out) = (at(&path), at(&run));
    let mut line = vec!["train", "--dump", &dump, "--out", &out, "--quiet"];
    sets.split_whitespace().for_each(|s| line.extend(["--set", s]));
    let (code, _, err) = strata(&line);
    assert_eq!(code, 0, "{err}");
    let (code, table, err) = strata(&["eval", &out, "--dump", &dump]);
    assert_eq!(code, 0, "{err}");
    assert!(table.contains("true edges found"), "{table}");
    let found = read_json(&run.join("eval.json"));
    let mcc = found["recovery"]["mcc"].as_f64().expect("a score");
    assert!(mcc > 0.5 && mcc <= 1.0, "{mcc}: better than random directions");
    assert_eq!(found["recovery"]["n_firing"].as_u64().map(|n| n <= 18), Some(true));

    // Without the truth the same rows have no such scores.
    fs::remove_file(path.join("truth.json")).expect("the truth");
    let (code, table, err) = strata(&["eval", &out, "--dump", &dump]);
    assert!(code == 0 && !table.contains("true edges"), "{err}{table}");
    assert!(read_json(&run.join("eval.json"))["recovery"].is_null());
    // A damaged file of the truth gives one sentence.
    fs::write(path.join("truth.json"), "{\"format\": \"strata-truth\"").expect("written");
    let (code, _, err) = strata(&["eval", &out, "--dump", &dump]);
    assert!(code == 1 && err.contains("truth.json") && err.lines().count() == 1, "{err}");
}

#[test]
fn a_streamed_world_has_the_rows_of_the_stored_one_and_every_command_reads_them() {
    let dir = tempfile::tempdir().expect("a directory");
    // The same name, which models record.
    let place = |of: &str| {
        let parent = dir.path().join(of);
        fs::create_dir(&parent).expect("a directory");
        parent.join("world")
    };
    let (stored, streamed) = (place("stored"), place("streamed"));
    let at = |p: &Path| p.to_str().expect("UTF-8").to_owned();
    small_dump(&stored, "3000");
    let made =
        [&["synth", "--world", "a", "--rows", "3000", "--seed", "7", "--streamed", "--out"][..], &[&at(&streamed)]];
    let (code, _, err) = strata(&[&made.concat()[..], &SMALL].concat());
    assert!(code == 0 && err.contains("drawn whenever they are read"), "{err}");
    let names = fs::read_dir(&streamed).expect("a directory").map(|f| f.expect("a file").file_name());
    let mut names: Vec<OsString> = names.collect();
    names.sort();
    assert_eq!(names, ["truth.json", "truth.safetensors"], "no rows");
    for file in ["truth.json", "truth.safetensors"] {
        assert_eq!(
            fs::read(stored.join(file)).expect("a file"),
            fs::read(streamed.join(file)).expect("a file"),
            "{file}"
        );
    }

    let [a, b] = [&stored, &streamed].map(|p| Dump::open(std::slice::from_ref(p), None).expect("a dump"));
    assert_eq!((a.n_rows(), a.d(), a.dtype(), a.name()), (b.n_rows(), b.d(), b.dtype(), b.name()));
    let (mut x, mut y) = (vec![0.0; 700 * 8], vec![1.0; 700 * 8]);
    a.read_range(1900, 700, &mut x).expect("rows");
    b.read_range(1900, 700, &mut y).expect("rows");
    assert_eq!(x, y);
    let ids = [2999, 0, 17, 17];
    a.read_rows(&ids, &mut x[..32]).expect("rows");
    b.read_rows(&ids, &mut y[..32]).expect("rows");
    assert_eq!(x, y);
    for read in [b.read_rows(&[3000], &mut y[..8]), b.read_range(2999, 2, &mut y[..16])] {
        assert!(read.expect_err("no such row").to_string().contains("of 3000 rows"));
    }
    assert_eq!(a.content().expect("a hash"), b.content().expect("a hash"), "the content is the same");

    let sets =
        "level1.latents=6 level1.k=1.5 level2.latents=12 level2.k=1.5 train.steps=40 train.batch=64 data.outlier=0.0";
    let results = [("stored", &stored), ("streamed", &streamed)].map(|(name, dump)| {
        let run = dir.path().join(format!("run-{name}"));
        let (dump, run_, codes) = (at(dump), at(&run), at(&dir.path().join(format!("{name}.safetensors"))));
        let mut line = vec!["train", "--dump", &dump, "--out", &run_, "--quiet"];
        sets.split_whitespace().for_each(|s| line.extend(["--set", s]));
        for line in [&line[..], &["eval", &run_], &["encode", &run_, "--out", &codes], &["inspect", &dump]] {
            let (code, out, err) = strata(line);
            assert_eq!(code, 0, "{line:?}: {err}");
            assert_eq!(out.contains("drawn when they are read"), line[0] == "inspect" && name == "streamed", "{out}");
        }
        let found = read_json(&run.join("eval.json"));
        assert!(found["recovery"]["mcc"].is_number());
        let file = |path: &Path| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (file(&run.join("sae/sae_weights.safetensors")), file(Path::new(&codes)), found)
    });
    let [stored, streamed] = results;
    assert!(stored.0 == streamed.0, "the same weights");
    assert!(stored.1 == streamed.1, "the same codes");
    assert_eq!(stored.2, streamed.2, "the same evaluation");

    let (code, _, err) =
        strata(&[&made.concat()[..8], &["--dtype", "f16", "--out", &at(&dir.path().join("c"))]].concat());
    assert!(code == 1 && err.contains("--streamed") && err.lines().count() == 1, "{err}");
}

#[test]
fn worlds_that_cannot_be_are_refused_in_one_sentence_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("dump");
    let out = path.to_str().expect("UTF-8");
    let base = ["synth", "--world", "a", "--out", out];
    for (more, word) in [
        (&["--rows", "0"][..], "--rows"),
        (&["--rows", "1000000000000"], "TB on the disk, and it has"),
        (&["--rows", "9", "--set", "rooots=3"], "rooots"),
        (&["--rows", "9", "--set", "rho"], "key=value"),
        (&["--rows", "9", "--set", "rho=2.0"], "rho"),
        (&["--rows", "9", "--set", "bench.depth=2"], "bench.depth"),
    ] {
        let (code, _, err) = strata(&[&base[..], more].concat());
        assert!(code == 1 && err.contains(word), "{more:?}: {err}");
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0, "{more:?}");
    }
}
