//! `docs/metrics.md` compared with the files of evaluations: every number has a row, and every row a number.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use strata_cli::splice::SpliceReport;
use strata_core::metrics::probe::erase::{Scr, ScrReport};
use tempfile::TempDir;

use super::cli::{args, read_json, strata, train};
use super::probe_cli::with_tokens;

const TEXT: &str = include_str!("../../docs/metrics.md");
/// Objects that occur in many places: the keys of their rows are not paths into the file.
const SHAPES: [&str; 3] = ["Score", "Interval", "Contrast"];

/// Returns the rows of all tables by key: formula, range, better, null.
fn rows() -> BTreeMap<String, [String; 4]> {
    let mut rows = BTreeMap::new();
    for line in TEXT.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<String> = line.replace("\\|", "\u{1}").split('|').map(|c| c.trim().to_owned()).collect();
        let [before, key, formula, range, better, null, after] = &cells[..] else {
            panic!("five cells, found {}: {line}", cells.len().saturating_sub(2))
        };
        assert!(before.is_empty() && after.is_empty(), "{line}");
        for (name, cell) in [("formula", formula), ("range", range), ("better", better)] {
            assert!(!cell.is_empty(), "no {name}: {line}");
        }
        let key = key.strip_prefix('`').and_then(|k| k.strip_suffix('`')).unwrap_or_else(|| panic!("a key: {line}"));
        let rest = [formula, range, better, null].map(String::clone);
        assert!(rows.insert(key.to_owned(), rest).is_none(), "two rows of `{key}`");
    }
    rows
}

/// The rule of "How to read a row", and the rows that it has used so far.
struct Rule {
    rows: BTreeMap<String, [String; 4]>,
    used: RefCell<BTreeSet<String>>,
}

impl Rule {
    fn new(rows: BTreeMap<String, [String; 4]>) -> Self {
        Self { rows, used: RefCell::default() }
    }

    /// Returns the key of the row of `key`, or of the same key of the other level.
    fn row(&self, key: &str) -> Option<&str> {
        let twins = [("level1", "level2"), ("level2", "level1")].map(|(a, b)| key.replace(a, b));
        let keys = [key, &twins[0], &twins[1]];
        keys.iter().find_map(|k| self.rows.get_key_value(*k)).map(|(k, _)| k.as_str())
    }

    /// Returns the key whose rows explain the object of row `key`, whose formula is then "as" and that key.
    fn refers_to(&self, key: &str) -> Option<&str> {
        self.rows[key][0].strip_prefix("as `").and_then(|f| f.split_once('`')).map(|(of, _)| of)
    }

    /// Returns whether a number at `key` has a row.
    fn covers(&self, key: &str) -> bool {
        if let Some(row) = self.row(key) {
            self.used.borrow_mut().insert(row.to_owned());
            return self.refers_to(row).is_none();
        }
        key.rmatch_indices('.').any(|(at, _)| {
            let Some(row) = self.row(&key[..at]) else { return false };
            let Some(of) = self.refers_to(row) else { return false };
            self.used.borrow_mut().insert(row.to_owned());
            self.covers(&format!("{of}{}", &key[at..]))
        })
    }

    /// Returns whether a missing part has a row, or rows for its contents.
    fn covers_absent(&self, key: &str) -> bool {
        let inside = |row: &str| row.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        self.row(key).is_some() || self.rows.keys().any(|row| inside(row)) || self.covers(key)
    }
}

/// Adds every number, text, truth value and `null` of `value` to `out`, by key.
fn leaves(key: &str, value: &Value, out: &mut BTreeMap<String, bool>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, v)| {
            leaves(&if key.is_empty() { name.clone() } else { format!("{key}.{name}") }, v, out);
        }),
        // The elements of a list of plain values have the key of the list.
        Value::Array(list) => list.iter().for_each(|v| {
            let element = v.is_object() || v.is_null() && list.iter().any(Value::is_object);
            leaves(&if element { format!("{key}[]") } else { key.to_owned() }, v, out);
        }),
        leaf => *out.entry(key.to_owned()).or_default() |= !leaf.is_null(),
    }
}

/// Returns the disagreements of the rows with `files`, one sentence each.
fn problems(rule: &Rule, files: &[Value]) -> Vec<String> {
    let mut found = BTreeMap::new();
    files.iter().for_each(|f| leaves("", f, &mut found));
    let mut problems = Vec::new();
    for (key, there) in &found {
        if !rule.covers(key) && (*there || !rule.covers_absent(key)) {
            problems.push(format!("`{key}` has no row"));
        }
    }
    let used = rule.used.borrow();
    problems.extend(rule.rows.keys().filter(|k| !used.contains(*k)).map(|k| format!("nothing is at `{k}`")));
    problems
}

/// Returns files of evaluations that together have every part.
fn files() -> Vec<Value> {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let dump = with_tokens(&at("dump"), 4000);
    // Enough children for a meta-SAE.
    train(&dump, &at("run"), &["level2.latents=200"]);
    strata(&args!["train", "--dump", dump, "--out", at("run"), "--resume", "--control"]).ok();
    strata(&args!["eval", at("run"), "--dump", dump, "--all", "--against", at("run")]).ok();
    let mut first = read_json(&at("run").join("eval.json"));
    for part in [
        "patterns",
        "composition",
        "coherence",
        "similarity",
        "meta",
        "absorption",
        "stability",
        "condition",
        "control",
    ] {
        assert!(!first[part].is_null(), "{part}");
    }
    // Needs a language model of the width of the rows: its fields are those of the struct.
    assert!(first["splice"].is_null(), "a splice without a language model: {}", first["splice"]);
    let x = 0.5;
    let splice = SpliceReport {
        clean: x,
        level1: x,
        level2: x,
        mean_ablated: x,
        zero_ablated: x,
        kl1: x,
        kl2: x,
        recovered1: x,
        recovered2: x,
        n_tokens: 1,
        rows_left_out: 1,
        of_all: [x; 2],
    };
    first["splice"] = json!(splice);
    first["warnings"] = json!(["level 1 has collapsed"]);

    train(&dump, &at("comp"), &["decoder=comp"]);
    strata(&args!["eval", at("comp"), "--dump", dump, "--all"]).ok();
    let comp = read_json(&at("comp").join("eval.json"));
    assert!(comp["paths"].is_object(), "no paths in the evaluation of `decoder = \"comp\"`");

    let world = ["d=8", "roots=3", "children=2", "flat=2"].map(|s| args!["--set", s]).concat();
    strata(&[args!["synth", "--world", "a", "--rows", "3000", "--out", at("synth")], world].concat()).ok();
    train(&at("synth"), &at("known"), &[]);
    strata(&args!["eval", at("known"), "--dump", at("synth")]).ok();
    let known = read_json(&at("known").join("eval.json"));
    assert!(known["recovery"].is_object(), "no recovery in the evaluation of a synthetic world");

    train(&dump, &at("flat"), &["level2.latents=0", "gate.kind=none"]);
    strata(&args!["eval", at("flat"), "--dump", dump, "--all"]).ok();
    let flat = read_json(&at("flat").join("eval.json"));

    strata(&args!["probe", at("run"), "--dump", dump, "--labels", "chars"]).ok();
    let mut probe = read_json(&at("run").join("probe.json"));
    // Needs a second attribute.
    assert!(probe["scr"].is_null(), "spurious correlation removal without a second attribute: {}", probe["scr"]);
    let points = vec![Scr { n: 2, removed: [1, 1], scr: x, a: x, b: x }];
    probe["scr"] = json!(ScrReport { clean: [x; 2], biased: [x; 2], converged: true, points });
    // A class is left out where it is too rare.
    probe["left_out"] = json!(["rare"]);
    vec![first, comp, known, flat, json!({ "probe": probe })]
}

#[test]
fn every_number_has_a_row_and_every_row_a_number() {
    let rule = Rule::new(rows());
    let problems = problems(&rule, &files());
    assert!(problems.is_empty(), "docs/metrics.md:\n{}", problems.join("\n"));
}

#[test]
fn rows_that_refer_to_others_refer_to_rows() {
    let rows = rows();
    let rule = Rule::new(rows.clone());
    for key in rows.keys() {
        if let Some(of) = rule.refers_to(key) {
            let known = SHAPES.contains(&of) || !of.starts_with(char::is_uppercase);
            assert!(known && rows.keys().any(|k| k.starts_with(&format!("{of}."))), "`{key}` refers to `{of}`");
        }
        let shape = key.split('.').next().is_some_and(|s| s.starts_with(char::is_uppercase));
        assert!(!shape || SHAPES.iter().any(|s| key.starts_with(&format!("{s}."))), "`{key}`: no such shape");
    }
}

#[test]
fn a_number_without_a_row_and_a_row_without_a_number_are_named() {
    let of = |keys: &[(&str, &str)]| {
        let row = |formula: &str| [formula, "any", "neither", ""].map(str::to_owned);
        Rule::new(keys.iter().map(|(key, formula)| ((*key).to_owned(), row(formula))).collect())
    };
    let keys = [("a.level2.x", "x"), ("a.s", "as `Score`, of x"), ("Score.z", "z"), ("l[].y", "y"), ("n", "numbers")];
    let file = json!({"a": {"level1": {"x": 1}, "s": {"z": null}}, "l": [null, {"y": 2}], "n": [1, 2]});
    assert_eq!(problems(&of(&keys), std::slice::from_ref(&file)), Vec::<String>::new());
    let more = json!({"a": {"level1": {"x": 1, "w": 1}, "s": {"z": 1, "sd": 1}}, "l": [{"y": 2}], "m": null, "n": [1]});
    let named = ["`a.level1.w` has no row", "`a.s.sd` has no row", "`m` has no row"];
    assert_eq!(problems(&of(&keys), &[more]), named);
    let stale = [&keys[..], &[("a.level2.old", "o")]].concat();
    assert_eq!(problems(&of(&stale), &[file]), ["nothing is at `a.level2.old`"]);
}
