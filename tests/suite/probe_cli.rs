//! `strata probe`: its output, and one sentence for every invalid label.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype as StDtype, TensorView, serialize};
use strata_cli::dump::{DumpSpec, DumpWriter};
use strata_cli::eval::classes::{TokenClasses, WordPosition};
use strata_cli::eval::meta::meta_sae;
use strata_core::metrics::absorption::OUTSIDE;
use strata_core::{Dtype, Isa, Philox};
use tempfile::TempDir;

use super::cli::{D, args, assert_no_leftovers, read_json, rows, strata, train, trained, tree, write_dump};

const VOCAB: [&str; 7] = ["a", "e", "t", "n", "T", ".", " "];

/// Writes a dump with tokens: the token of a row is the index of its largest coordinate, among the first ones.
pub fn with_tokens(path: &Path, n: usize) -> PathBuf {
    let x = rows(n);
    let mut spec = DumpSpec::new(D, Dtype::F32);
    spec.context = Some(20);
    spec.vocab = Some(VOCAB.map(str::to_owned).to_vec());
    let largest = |row: &[f32]| (0..VOCAB.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32;
    let tokens: Vec<u32> = x.chunks(D).map(largest).collect();
    let mut writer = DumpWriter::create(path, spec).unwrap();
    writer.append(&x, Some(&tokens)).unwrap();
    writer.finish().unwrap();
    path.to_owned()
}

/// A run on a dump with tokens.
fn ready(n: usize) -> (TempDir, PathBuf, PathBuf) {
    let dir = TempDir::new().unwrap();
    let dump = with_tokens(&dir.path().join("dump"), n);
    let run = dir.path().join("run");
    train(&dump, &run, &[]);
    (dir, dump, run)
}

/// A `.npy` of 64-bit integers, as NumPy writes it.
pub fn npy(path: &Path, values: &[i64]) -> PathBuf {
    npy_of(
        path,
        "<i8",
        &format!("({},)", values.len()),
        &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>(),
    )
}

fn npy_of(path: &Path, descr: &str, shape: &str, data: &[u8]) -> PathBuf {
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    text.push_str(&" ".repeat(117 - text.len()));
    text.push('\n');
    let bytes = [b"\x93NUMPY\x01\x00".as_slice(), &118u16.to_le_bytes(), text.as_bytes(), data].concat();
    fs::write(path, bytes).unwrap();
    path.to_owned()
}

fn tensors(path: &Path, tensors: &[(&str, StDtype, &[u8])]) -> PathBuf {
    let views = tensors.iter().map(|(name, dtype, bytes)| {
        (*name, TensorView::new(*dtype, vec![bytes.len() * 8 / dtype.bitsize()], bytes).unwrap())
    });
    fs::write(path, serialize(views, None).unwrap()).unwrap();
    path.to_owned()
}

#[test]
fn character_classes_are_probed_and_the_report_is_the_same_for_any_number_of_threads() {
    let (dir, dump, run) = ready(4000);
    let ran = strata(&args!["probe", run, "--dump", dump, "--labels", "chars", "--threads", "1"]).ok();
    for part in ["vowel", "consonant", "upper", "TPP", "bits per token", "absorption", "letter"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let report = read_json(&run.join("probe.json"));
    let text = fs::read(run.join("probe.json")).unwrap();
    assert_eq!((report["unit"].as_str(), report["examples"][0].as_u64()), (Some("rows"), Some(4000)));
    assert_eq!(report["examples"][1].as_u64(), Some(800));
    let classes = report["classes"].as_array().unwrap();
    let names: Vec<&str> = classes.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["vowel", "consonant", "upper", "punct", "space"]);
    let mut best = 0.0f64;
    for c in classes {
        let at = |v: &serde_json::Value| v["accuracy"].as_f64().unwrap();
        assert!(at(&c["dense"]) > 0.7 && c["dense"]["converged"].as_bool().unwrap(), "{c}");
        let sparse = c["both"].as_array().unwrap();
        let ks: Vec<u64> = sparse.iter().map(|s| s["k"].as_u64().unwrap()).collect();
        assert_eq!(ks, [1, 2, 5, 10, 20]);
        best = best.max(at(&sparse[4]));
        assert_eq!(c["rows"][0].as_u64().unwrap() % 2, 0);
    }
    assert!(best > 0.7, "after thirty steps some latents tell some class: {best}");
    assert_eq!(report["tpp"]["points"].as_array().unwrap().len(), 7);
    assert!(report["scr"].is_null() && report["mdl"][1]["points"][0]["bits"].as_f64().unwrap() > 0.0);
    let absorption: Vec<&str> =
        report["absorption"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(absorption, ["letter", "vowel", "consonant"]);
    let found = &report["absorption"][0]["found"]["scope"];
    assert_eq!(found.as_array().unwrap().len(), 3);
    let share = |k: &str| found[0][k].as_f64().unwrap();
    assert!((share("silent") - share("absorbed") - share("missed")).abs() < 1e-12);

    let other = dir.path().join("other.json");
    let ran =
        strata(&args!["probe", run, "--dump", dump, "--labels", "chars", "-o", other, "--json", "--threads", "3"]);
    assert_eq!(fs::read(&other).unwrap(), text);
    assert_eq!(ran.ok().json(), report);
    let seeded =
        args!["probe", run, "--dump", dump, "--labels", "chars", "-o", other, "--seed", "4", "--sample", "3000"];
    strata(&seeded).ok();
    assert_eq!(read_json(&other)["examples"][0].as_u64(), Some(3000));
    assert_no_leftovers(dir.path());
}

#[test]
fn labels_of_rows_and_of_sequences_are_read_from_every_kind_of_file() {
    let (dir, dump, run) = ready(4000);
    let dir = dir.path();
    let x = rows(4000);
    let label = |i: usize| i64::from(x[i * D] > 0.3);
    let by_row: Vec<i64> = (0..4000).map(|i| if i % 50 == 0 { -1 } else { label(i) }).collect();
    let out = dir.join("out.json");
    let run_on = |labels: &Path| {
        strata(&args!["probe", run, "--dump", dump, "--labels", *labels, "--out", out]).ok();
        read_json(&out)
    };
    let report = run_on(&npy(&dir.join("rows.npy"), &by_row));
    assert_eq!((report["unit"].as_str(), report["classes"].as_array().unwrap().len()), (Some("rows"), 2));
    let examples: u64 = report["classes"].as_array().unwrap().iter().map(|c| c["examples"].as_u64().unwrap()).sum();
    assert_eq!(examples, 4000 - 80, "negative labels take no part");
    assert!(report["classes"][0]["dense"]["accuracy"].as_f64().unwrap() > 0.9, "{report}");
    let bytes: Vec<u8> = by_row.iter().map(|l| *l as i8 as u8).collect();
    let narrow = run_on(&tensors(&dir.join("rows.safetensors"), &[("labels", StDtype::I8, &bytes)]));
    assert_eq!(narrow["classes"], report["classes"]);

    // The label of a sequence depends on its mean, and its attribute on another coordinate of the mean.
    let mean = |s: usize, c: usize| (0..20).map(|i| x[(s * 20 + i) * D + c]).sum::<f32>() / 20.0;
    let median = |c: usize| {
        let mut all: Vec<f32> = (0..200).map(|s| mean(s, c)).collect();
        all.sort_by(f32::total_cmp);
        all[100]
    };
    let of = |c: usize| -> Vec<u8> {
        let cut = median(c);
        (0..200).map(|s| u8::from(mean(s, c) > cut)).collect()
    };
    let two = [("labels", StDtype::U8, &of(0)[..])];
    let report = run_on(&tensors(&dir.join("two.safetensors"), &two));
    assert_eq!((report["unit"].as_str(), report["examples"][0].as_u64()), (Some("sequences"), Some(200)));
    assert!(report["classes"][1]["dense"]["accuracy"].as_f64().unwrap() > 0.6, "{report}");
    assert!(report["scr"].is_null() && report["mdl"][0].is_null());

    // Labels of rows with a second attribute.
    let other: Vec<u8> = (0..4000).map(|i| u8::from(x[i * D + 1] > 0.2)).collect();
    let labels: Vec<u8> = (0..4000).map(|i| label(i) as u8).collect();
    let both = [("attributes", StDtype::U8, &other[..]), ("labels", StDtype::U8, &labels)];
    let report = run_on(&tensors(&dir.join("both.safetensors"), &both));
    assert_eq!(report["scr"]["points"].as_array().unwrap().len(), 7);
    let clean = report["scr"]["clean"].as_array().unwrap();
    assert!(clean.iter().all(|c| c.as_f64().unwrap() > 0.8), "{clean:?}");
}

#[test]
fn rows_without_sequences_are_split_in_stretches() {
    let (dir, _, run) = ready(800);
    let file = |name: &str| dir.path().join(name);
    let bytes: Vec<u8> = rows(140).iter().flat_map(|v| v.to_le_bytes()).collect();
    let bare = npy_of(&file("x.npy"), "<f4", &format!("(140, {D})"), &bytes);
    let ids = npy(&file("ids.npy"), &(0..140).map(|i| i % 7).collect::<Vec<_>>());
    let labels = npy(&file("labels.npy"), &(0..140).map(|i| i % 2).collect::<Vec<_>>());
    let out = file("out.json");
    let all = args!["probe", run, "--dump", bare, "--tokens", ids, "--labels", labels, "--out", out];
    strata(&all)
        .fails(&["probing needs 2", "split in stretches of 128: give --context (1 for rows that are independent)"]);
    strata(&[all, args!["--context", "1"]].concat()).ok();
    assert_eq!(read_json(&out)["examples"][0].as_u64().map(|n| n > 100), Some(true));
}

#[test]
fn labels_that_do_not_fit_are_named_and_nothing_is_written() {
    let (dir, dump, run) = ready(800);
    let dir = dir.path();
    let file = |name: &str| dir.join(name);
    let bytes = |n: usize| vec![0u8; n];
    let half: Vec<i64> = (0..800).map(|i| i % 2).collect();
    let rare: Vec<i64> = (0..800).map(|i| i64::from(i % 200 == 0)).collect();
    let large: Vec<i64> = (0..800).map(|i| if i == 7 { 10_000 } else { i % 2 }).collect();
    let three: Vec<u8> = (0..800).map(|i| (i % 3) as u8).collect();
    let two: Vec<u8> = (0..800).map(|i| (i / 2 % 2) as u8).collect();
    let cases: Vec<(PathBuf, Vec<&str>)> = vec![
        (file("none.npy"), vec!["none.npy", "no such file"]),
        (
            npy(&file("short.npy"), &half[1..]),
            vec!["short.npy", "expected 800 labels", "or 40, one per sequence", "found 799"],
        ),
        (npy(&file("one.npy"), &[5; 800]), vec!["one.npy", "expected at least 2 classes", "found 1"]),
        (npy(&file("all.npy"), &[-1; 800]), vec!["all.npy", "expected at least 2 classes", "found 0"]),
        (npy(&file("large.npy"), &large), vec!["large.npy", "at most 9999", "found 10000 at 7"]),
        (npy(&file("rare.npy"), &rare), vec!["0 class(es)", "probing needs 2", "label more rows"]),
        (npy_of(&file("float.npy"), "<f4", "(800,)", &bytes(3200)), vec!["float.npy", "integers", "<f4"]),
        (npy_of(&file("big.npy"), ">i4", "(800,)", &bytes(3200)), vec!["big.npy", "little-endian", ">i4"]),
        (npy_of(&file("wide.npy"), "<i4", "(400, 2)", &bytes(3200)), vec!["wide.npy", "1 dimension", "found 2"]),
        (npy_of(&file("cut.npy"), "<i4", "(800,)", &bytes(3199)), vec!["cut.npy", "expected 3200 bytes", "found 3199"]),
        (npy_of(&file("no.npy"), "<i4", "(x,)", &bytes(4)), vec!["no.npy", "shape: expected a size"]),
        (
            tensors(&file("f.safetensors"), &[("labels", StDtype::F32, &bytes(3200))]),
            vec!["f.safetensors", "`labels`", "expected integers", "found F32"],
        ),
        (
            tensors(&file("name.safetensors"), &[("classes", StDtype::U8, &bytes(800))]),
            vec!["name.safetensors", "expected a tensor `labels`, found none"],
        ),
        (
            tensors(
                &file("attr.safetensors"),
                &[("attributes", StDtype::U8, &two[1..]), ("labels", StDtype::U8, &two)],
            ),
            vec!["attr.safetensors", "expected 800 attributes", "found 799"],
        ),
        (
            tensors(&file("three.safetensors"), &[("attributes", StDtype::U8, &two), ("labels", StDtype::U8, &three)]),
            vec!["spurious correlation removal needs labels and attributes of 0 and 1"],
        ),
        (
            tensors(&file("same.safetensors"), &[("attributes", StDtype::U8, &two), ("labels", StDtype::U8, &two)]),
            vec!["spurious correlation removal needs 10 examples of each pair", "found 0"],
        ),
    ];
    for (name, bytes) in
        [("empty.npy", &b""[..]), ("magic.npy", b"\x93NUMPY"), ("head.npy", b"\x93NUMPY\x01\x00\xff\xff{")]
    {
        fs::write(file(name), bytes).unwrap();
    }
    fs::write(file("text.txt"), "0 1").unwrap();
    fs::write(file("junk.safetensors"), [0xff; 40]).unwrap();
    let before = tree(dir);
    for (labels, parts) in cases {
        strata(&args!["probe", run, "--dump", dump, "--labels", labels]).fails(&parts);
        assert_eq!(tree(dir), before);
    }
    for name in ["empty.npy", "magic.npy", "head.npy", "text.txt", "junk.safetensors"] {
        strata(&args!["probe", run, "--dump", dump, "--labels", file(name)]).fails(&[name]);
    }
    let good = npy(&file("good.npy"), &half);
    strata(&args!["probe", run, "--dump", dump, "--labels", good, "--sample", "0"]).fails(&["--sample", "found 0"]);
    strata(&args!["probe", run, "--dump", dump, "--labels", good, "-o", good]).fails(&["part of the dump"]);
    strata(&args!["probe", run, "--dump", dump, "--labels", good, "-o", dir]).fails(&["is a directory"]);
    assert!(!run.join("probe.json").exists());

    // A dump without tokens or sequences, and one of another width.
    let (_bare_dir, bare, bare_run) = trained(&[]);
    strata(&args!["probe", bare_run, "--dump", bare, "--labels", "chars"])
        .fails(&["--labels chars", "does not have tokens"]);
    let short = npy(&file("short2.npy"), &half[..30]);
    strata(&args!["probe", bare_run, "--dump", bare, "--labels", short]).fails(&["expected 600 labels", "found 30"]);
    let wide = write_dump(&file("wide"), &rows(300), 2 * D);
    strata(&args!["probe", run, "--dump", wide, "--labels", good]).fails(&["width 32", "width 16"]);
    assert_no_leftovers(dir);
}

#[test]
fn characters_have_one_class_and_words_have_positions() {
    let vocab: Vec<String> = "aB7,. \nz\té".chars().map(String::from).chain([String::new()]).collect();
    let classes = TokenClasses::new(&vocab);
    let name = |t: u32| classes.names()[classes.of(t) as usize];
    let want =
        ["vowel", "upper", "digit", "punct", "punct", "space", "newline", "consonant", "space", "consonant", "other"];
    for (t, want) in want.iter().enumerate() {
        assert_eq!(name(t as u32), *want, "{:?}", vocab[t]);
    }
    assert_eq!(name(99), "other");
    // "az a" | "za": the second sequence starts in the middle of what would be a word.
    let tokens = [0, 7, 5, 0, 7, 0];
    let at = |row| classes.word_position(&tokens, Some(&[0, 4]), row);
    let found: Vec<WordPosition> = (0..6).map(at).collect();
    use WordPosition::{End, Outside, Single, Start};
    assert_eq!(found, [Start, End, Outside, Single, Start, End]);
    assert_eq!(classes.word_position(&tokens, None, 4), WordPosition::Inside);

    let hierarchies = classes.hierarchies();
    let names: Vec<&str> = hierarchies.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(names, ["letter", "consonant", "punct", "whitespace"], "a class of one member has no members");
    let letter = &hierarchies[0];
    assert_eq!(letter.members, ["consonant", "vowel"]);
    assert_eq!([letter.member[0], letter.member[7], letter.member[1]], [1, 0, OUTSIDE]);

    let vocab = [" the", "th", " tea", " 12", ".", "\n", " ", " apple"].map(str::to_owned);
    let classes = TokenClasses::new(&vocab);
    let found: Vec<&str> = (0..8).map(|t| classes.names()[classes.of(t) as usize]).collect();
    let want = ["word start", "word part", "word start", "digit", "punct", "newline", "space", "word start"];
    assert_eq!(found, want);
    let hierarchies = classes.hierarchies();
    let names: Vec<&str> = hierarchies.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(names, ["starts with t", "leading space"]);
    assert_eq!(hierarchies[0].members.len(), 3);
    assert_eq!(hierarchies[1].members, ["a", "t"]);
}

#[test]
fn a_meta_sae_explains_planted_compositions_and_not_random_directions() {
    let (d, parts, n) = (32, 16, 420);
    let mut rng = Philox::new(6, 0);
    let part: Vec<f32> = (0..parts * d).map(|_| rng.normal_f32()).collect();
    let mut rows = Vec::new();
    for _ in 0..n {
        let row: Vec<f32> = {
            let (a, b) = (rng.below(parts as u64) as usize, rng.below(parts as u64) as usize);
            (0..d).map(|c| part[a * d + c] + part[b * d + c]).collect()
        };
        let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt();
        rows.extend(row.iter().map(|w| w / norm));
    }
    let found = meta_sae(&rows, d, 0, Isa::detect()).unwrap().unwrap();
    assert_eq!((found.directions, found.latents), (n, 20));
    assert!(found.explained > 0.7 && found.random < 0.5, "{found:?}");
    assert_eq!(meta_sae(&rows[..100 * d], d, 0, Isa::detect()).unwrap(), None, "too few directions");
}
