//! `docs/formats.md` compared with the programs: its blocks of Python run, and `--json` has the keys that it lists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use strata_cli::eval::latents::{Context, LatentRecord};
use strata_cli::report::labels::Labels;
use strata_core::format::dump::Manifest;
use tempfile::TempDir;

use crate::cli::{Ran, args, strata, train_args};

const TEXT: &str = include_str!("../../docs/formats.md");

/// The blocks of Python, in order.
fn blocks() -> Vec<&'static str> {
    TEXT.split("```python\n").skip(1).map(|b| b.split_once("```").expect("an end").0).collect()
}

/// A Python with numpy and safetensors, if there is one: `STRATA_PYTHON` or `python3`.
pub fn python() -> Option<String> {
    let name = std::env::var("STRATA_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&name).args(["-c", "import numpy, safetensors"]).output().is_ok_and(|o| o.status.success());
    // `.ci/run` installs the packages and sets the variable, so that these tests are not skipped there.
    assert!(has || std::env::var_os("STRATA_PYTHON").is_none(), "{name} has no numpy and safetensors");
    has.then_some(name)
}

pub fn run(python: &str, dir: &Path, code: &str) -> String {
    let ran = Command::new(python).args(["-c", code]).current_dir(dir).output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    assert!(ran.status.success(), "{code}\n{}", text(&ran.stderr));
    text(&ran.stdout)
}

#[test]
fn the_blocks_of_python_run_and_agree_with_strata() {
    let Some(python) = python() else { return };
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let [bare, manifest, forward, codes] = blocks()[..] else { panic!("four blocks, found {}", blocks().len()) };
    run(&python, dir.path(), bare);
    run(&python, dir.path(), manifest);
    let inspect = |extra: &[std::ffi::OsString]| strata(&[&args!["inspect", "--json"], extra].concat()).ok().json();
    let found = inspect(&args![path("acts.npy"), "--tokens", path("ids.npy")]);
    assert_eq!((&found["n_rows"], &found["context"], &found["has_tokens"]), (&2000.into(), &50.into(), &true.into()));
    let found = inspect(&args![path("mine")]);
    assert_eq!((&found["n_rows"], &found["n_vocab"], &found["dtype"]), (&1000.into(), &3.into(), &"f16".into()));

    let run_path = path("run");
    strata(&train_args(&path("acts.npy"), &run_path, &[])).ok();
    let said = run(&python, dir.path(), forward);
    let fvu: f64 = said.trim().rsplit_once(' ').unwrap().1.parse().unwrap();
    let found = strata(&args!["eval", run_path, "--all", "--json"]).ok().json();
    let expected = found["fidelity"]["level2"]["fvu"].as_f64().unwrap();
    assert!((fvu - expected).abs() < 1e-4 * expected, "{fvu} by numpy, {expected} by strata");
    let ran = strata(&args!["encode", run_path, "--out", path("codes.safetensors"), "--json"]).ok().json();
    let said = run(&python, dir.path(), codes);
    let l0: f64 = said.trim().rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!((l0 - ran["l0"][0].as_f64().unwrap()).abs() < 1e-6, "{l0} by numpy, {ran} by strata");
}

/// Returns the keys that the table lists for a command: the words in backticks, without those in brackets.
fn listed(command: &str) -> BTreeSet<String> {
    let line = TEXT.lines().find(|l| l.starts_with(&format!("| `{command}` |"))).expect("a row of the table");
    let cell = line.split('|').nth(2).unwrap();
    let mut plain = String::new();
    let mut depth = 0;
    for c in cell.chars() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if depth == 0 {
            plain.push(c);
        }
    }
    plain.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn keys(ran: &Ran) -> BTreeSet<String> {
    let Value::Object(object) = ran.json() else { panic!("an object: {}", ran.out) };
    object.keys().cloned().collect()
}

#[test]
fn every_key_of_json_is_documented() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = path("text.txt");
    fs::write(&text, "First Citizen: before we proceed any further, hear me speak. ".repeat(20)).unwrap();
    let (dump, run) = (path("dump"), path("run"));
    let capture = ["--layer", "2", "--context", "32"];
    let mut all = args!["capture", "--text", text, "--out", dump, "--json"];
    all.extend(capture.iter().map(std::ffi::OsString::from));
    let check = |command: &str, ran: Ran| assert_eq!(keys(&ran), listed(command), "{command}");
    check("capture", strata(&all).ok());
    check("synth", strata(&args!["synth", "--world", "a", "--rows", "50", "--out", path("world"), "--json"]).ok());
    let ran = strata(&args!["inspect", dump, "--json"]);
    assert_eq!(keys(&ran), listed("inspect"));
    strata(&train_args(&dump, &run, &[])).ok();
    check("encode", strata(&args!["encode", run, "--out", path("codes"), "--json"]).ok());
    check("export", strata(&args!["export", run, "--format", "delphi", "--out", path("delphi"), "--json"]).ok());
    strata(&args!["eval", run, "--quiet"]).ok();
    check("report", strata(&args!["report", run, "--json"]).ok());
    let mut all =
        args!["ablate", "--dump", dump, "--out", path("ablation"), "--suite", "gates", "--seeds", "1", "--json"];
    for set in crate::cli::TINY {
        all.extend(args!["--set", **set]);
    }
    check("ablate", strata(&all).ok());
}

#[test]
fn every_key_of_a_manifest_is_documented() {
    let section = TEXT.split("### A directory with `dump.json`").nth(1).unwrap().split("```").next().unwrap();
    let cells = section.lines().filter(|l| l.starts_with("| `")).map(|l| l.split('|').nth(1).unwrap());
    let found: BTreeSet<&str> = cells.flat_map(|c| c.split('`').skip(1).step_by(2)).collect();
    assert_eq!(found, BTreeSet::from(Manifest::KEYS));
}

/// Returns the keys in the first column of the table with this header.
fn listed_under(head: &str) -> BTreeSet<&'static str> {
    let table = TEXT.split(&format!("| {head} |")).nth(1).unwrap_or_else(|| panic!("no table of {head}"));
    let lines = table.lines().skip(1).take_while(|l| l.starts_with('|')).filter(|l| l.starts_with("| `"));
    lines.flat_map(|l| l.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_key_of_latents_and_labels_is_documented() {
    let of = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let owned = |keys: BTreeSet<&str>| keys.into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    let record = LatentRecord { contexts: vec![Context::default()], ..LatentRecord::default() };
    let line = serde_json::to_value(&record).unwrap();
    assert_eq!(of(&line), owned(listed_under("key of a line")));
    assert_eq!(of(&line["contexts"][0]), owned(listed_under("key of a context")));
    let (histogram, children) = (&line["histogram"], &line["contexts"][0]["children"]);
    assert_eq!((of(histogram).len(), of(children).len()), (2, 3), "the page names the keys of both in its rows");

    let example = TEXT.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let labels: Labels = serde_json::from_str(example).unwrap();
    assert_eq!(of(&serde_json::to_value(&labels).unwrap()), owned(listed_under("key of `labels.json`")));
    assert_eq!((labels.labels[0].level, labels.labels[0].latent), (1, 3));
}
