//! Every number of `eval.json`, in tables; parts of other versions of the file are shown too.

use super::docs::{Doc, Docs};
use super::number::show;
use serde_json::{Map, Value};

/// The parts of an evaluation with their titles, in the order of the page.
const KNOWN: [(&str, &str); 30] = [
    (WHAT, "What was evaluated"),
    ("left_out", "Rows that were left out"),
    ("verdict", "Whether the hierarchy is real"),
    ("fidelity", "Reconstruction"),
    ("intervals", "How sure the headline is"),
    ("level1", "Sparsity of level 1"),
    ("level2", "Sparsity of level 2"),
    ("patterns", "Where latents fire"),
    ("splice", "What it costs the language model"),
    ("composition", "How the levels are connected, without the gate"),
    ("composition_null", "The same scores of random families"),
    ("control", "The control run, with random parents"),
    ("gated", "The families behind the gate"),
    ("across", "How many fire together across the levels"),
    ("leak", "What the gate cuts off"),
    ("attribution", "Which part of the tree a row is made of"),
    ("paths", "The paths of a decoder that composes level 1"),
    ("condition", "Whether rows contain the directions of a child and its parent"),
    ("hierarchy", "The hierarchy score of Tree SAE"),
    ("coherence", "Whether families are clusters"),
    ("similarity", "Whether children mean something like their parents"),
    ("structure", "The decoders by themselves and against each other"),
    ("meta", "A dictionary of the dictionary"),
    ("description_length", "Bits to describe the codes"),
    ("absorption", "Absorption"),
    ("stability", "How far another run agrees"),
    ("recovery", "How much of the known truth was found"),
    // Parts of earlier versions.
    ("cofiring", "Siblings that fire together"),
    ("dictionaries", "The decoders by themselves"),
    ("topics", "Words of families"),
];

/// The group of numbers at the top of the file.
const WHAT: &str = "";
/// Most elements of a list that are shown one by one.
const ELEMENTS: usize = 32;
/// Most letters of a text in a table: sentences are elsewhere on the page.
const LETTERS: usize = 40;

/// The numbers of one part.
pub struct Group {
    /// Its title.
    pub title: String,
    /// The numbers.
    pub rows: Vec<Row>,
}

/// One number, or a few that belong together.
pub struct Row {
    /// Its key in `eval.json`.
    pub key: String,
    /// The number.
    pub value: String,
    /// Its null or its interval.
    pub beside: String,
    /// Its meaning.
    pub doc: Option<Doc>,
}

/// Returns the tables of an evaluation.
pub fn tables(eval: &Value, docs: &Docs) -> Vec<Group> {
    let Some(eval) = eval.as_object() else { return Vec::new() };
    let known = KNOWN.iter().map(|(name, _)| *name).filter(|name| name.is_empty() || eval.contains_key(*name));
    let others = eval.keys().map(String::as_str).filter(|name| KNOWN.iter().all(|(known, _)| known != name));
    let mut groups = Vec::new();
    // A single number has no group of its own.
    let is_group =
        |value: &Value| value.is_object() || value.as_array().is_some_and(|l| l.iter().any(Value::is_object));
    for name in known.chain(others) {
        let mut rows = Vec::new();
        if name == WHAT {
            let own = eval.iter().filter(|(_, value)| !value.is_null() && !is_group(value));
            own.for_each(|(name, value)| flatten(name, value, docs, &mut rows));
        } else if is_group(&eval[name]) {
            flatten(name, &eval[name], docs, &mut rows);
        }
        if !rows.is_empty() {
            groups.push(Group { title: title(name), rows });
        }
    }
    groups
}

/// Returns the title of a part of an evaluation; for an unknown part, its key in words.
pub fn title(name: &str) -> String {
    let known = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, title)| (*title).to_owned());
    known.unwrap_or_else(|| name.replace('_', " "))
}

/// Returns whether a part of an evaluation has a title.
#[cfg(test)]
fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|(known, _)| *known == name)
}

fn flatten(key: &str, value: &Value, docs: &Docs, rows: &mut Vec<Row>) {
    let mut push = |value: String, beside: String| {
        rows.push(Row { key: key.to_owned(), value, beside, doc: docs.get(&of_any(key)).cloned() });
    };
    match value {
        Value::Number(_) | Value::Null => push(show(number(value)), String::new()),
        Value::Bool(b) => push(if *b { "yes" } else { "no" }.into(), String::new()),
        Value::Array(list) if !list.is_empty() && list.len() <= 8 && list.iter().all(Value::is_number) => {
            push(list.iter().map(|v| show(number(v))).collect::<Vec<_>>().join("; "), String::new());
        }
        Value::Object(map) => match together(map) {
            Some((value, beside)) => push(value, beside),
            None => map.iter().for_each(|(name, value)| flatten(&format!("{key}.{name}"), value, docs, rows)),
        },
        // Lists with one entry per latent are for programs.
        Value::Array(list) if list.len() <= ELEMENTS && list.iter().any(Value::is_object) => {
            let objects = list.iter().enumerate().filter(|(_, v)| v.is_object());
            objects.for_each(|(i, v)| flatten(&format!("{key}[{i}]"), v, docs, rows));
        }
        Value::String(text) if text.len() <= LETTERS => push(text.clone(), String::new()),
        Value::Array(_) | Value::String(_) => {}
    }
}

/// Returns a key in which all elements of a list have the same name, as in `docs/metrics.md`.
fn of_any(key: &str) -> String {
    let mut any = String::new();
    for part in key.split_inclusive(']') {
        any.push_str(part.strip_suffix(']').map_or(part, |p| p.trim_end_matches(|c: char| c.is_ascii_digit())));
        any.push_str(if part.ends_with(']') { "]" } else { "" });
    }
    any
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Formats numbers that belong together: a score with its null, a contrast with its pairs, a value with its interval.
fn together(map: &Map<String, Value>) -> Option<(String, String)> {
    let get = |name: &str| map.get(name).map(number);
    if let (Some(value), Some(null), Some(sd), Some(z)) = (get("value"), get("null_mean"), get("null_sd"), get("z")) {
        return Some((show(value), format!("null {} \u{b1} {}, z {}", show(null), show(sd), show(z))));
    }
    if let (Some(connected), Some(matched), Some(auc)) = (get("connected"), get("matched"), get("auc")) {
        let interval = match (get("auc_low"), get("auc_high")) {
            (Some(low), Some(high)) if low.is_finite() => format!(" [{}, {}]", show(low), show(high)),
            _ => String::new(),
        };
        let shuffled = get("shuffled").map(|s| format!(", shuffled families {}", show(s))).unwrap_or_default();
        return Some((
            show(connected),
            format!("random pairs {}{shuffled}; AUC {}{interval}, 0.5 is chance", show(matched), show(auc)),
        ));
    }
    if let (Some(value), Some(low), Some(high)) = (get("value"), get("low"), get("high")) {
        return Some((show(value), format!("95 % interval [{}, {}]", show(low), show(high))));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_families_show_every_number() {
        let eval = json!({
            "dump": "x", "rows": [0, 5],
            "news": { "a": 0.5, "deep": { "b": null, "flag": true }, "list": [1, 2], "long": vec![0; 40],
                "score": { "value": 0.25, "null_mean": 0.125, "null_sd": 0.5, "excess": 0.125, "z": 0.25, "draws": 100 },
                "pair": { "connected": 0.5, "matched": 0.25, "shuffled": 0.125, "auc": 0.75, "auc_low": null },
                "sure": { "value": 0.5, "low": 0.25, "high": 0.75, "blocks": 32 } }
        });
        let groups = tables(&eval, &Docs::parse(""));
        let titles: Vec<&str> = groups.iter().map(|g| g.title.as_str()).collect();
        assert_eq!(titles, ["What was evaluated", "news"]);
        let rows: Vec<_> =
            groups[1].rows.iter().map(|r| (r.key.as_str(), r.value.as_str(), r.beside.as_str())).collect();
        assert_eq!(
            rows,
            [
                ("news.a", "0.5000", ""),
                ("news.deep.b", "undefined", ""),
                ("news.deep.flag", "yes", ""),
                ("news.list", "1; 2", ""),
                ("news.pair", "0.5000", "random pairs 0.2500, shuffled families 0.1250; AUC 0.7500, 0.5 is chance"),
                ("news.score", "0.2500", "null 0.1250 \u{b1} 0.5000, z 0.2500"),
                ("news.sure", "0.5000", "95 % interval [0.2500, 0.7500]"),
            ]
        );
    }

    #[test]
    fn lists_of_a_few_objects_are_shown_and_explained() {
        let docs = Docs::parse("| `l[].a.b[].c` | the formula | any | neither | |\n");
        let eval =
            json!({ "l": [null, { "a": { "b": [{ "c": 1 }, { "c": 2 }] } }], "many": vec![json!({ "x": 1 }); 40] });
        let groups = tables(&eval, &docs);
        let rows: Vec<_> = groups.iter().flat_map(|g| &g.rows).map(|r| (r.key.as_str(), r.doc.is_some())).collect();
        assert_eq!(rows, [("l[1].a.b[0].c", true), ("l[1].a.b[1].c", true)]);
    }

    #[test]
    fn every_heading_of_the_page_on_metrics_has_a_part_with_a_name() {
        // The parts of an evaluation are the first words of the keys of docs/metrics.md.
        let text = include_str!("../../assets/metrics.md").split("## `strata probe`").next().unwrap_or_default();
        let keys = text.lines().filter_map(|l| l.strip_prefix("| `")?.split_once('`')).map(|(key, _)| key);
        let parts: std::collections::BTreeSet<&str> =
            keys.filter(|k| k.contains('.')).filter_map(|k| k.split(['.', '[']).next()).collect();
        let shapes = ["Score", "Interval", "Contrast"];
        let unnamed: Vec<&str> = parts.into_iter().filter(|p| !is_known(p) && !shapes.contains(p)).collect();
        assert!(unnamed.is_empty(), "parts without a name for people: {unnamed:?}");
    }
}
