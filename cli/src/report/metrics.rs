//! Every number of `eval.json`, in tables: families that are not known here show up too.

use super::docs::{Doc, Docs};
use super::number::show;
use serde_json::{Map, Value};

/// Families with titles of their own, in the order in which they are read.
const KNOWN: [(&str, &str); 14] = [
    ("fidelity", "Reconstruction"),
    ("intervals", "How sure the headline is"),
    ("level1", "Sparsity of level 1"),
    ("level2", "Sparsity of level 2"),
    ("patterns", "Patterns of activity"),
    ("splice", "What it costs the language model"),
    ("composition", "How the levels hang together"),
    ("coherence", "Whether families are clusters"),
    ("similarity", "Whether children mean something like their parents"),
    ("structure", "Structure"),
    ("absorption", "Absorption"),
    ("dictionaries", "The decoders by themselves"),
    ("stability", "How far another run agrees"),
    ("recovery", "How much of the known truth was found"),
];

/// The numbers of one family.
pub struct Group {
    /// Its title.
    pub title: String,
    /// The numbers.
    pub rows: Vec<Row>,
}

/// One number, or a few that belong together.
pub struct Row {
    /// Its place in `eval.json`.
    pub key: String,
    /// The number.
    pub value: String,
    /// What it is compared with, or how sure it is.
    pub beside: String,
    /// What it means.
    pub doc: Option<Doc>,
}

/// The tables of an evaluation.
pub fn tables(eval: &Value, docs: &Docs) -> Vec<Group> {
    let Some(eval) = eval.as_object() else { return Vec::new() };
    let known = KNOWN.iter().map(|(name, _)| *name).filter(|name| eval.contains_key(*name));
    let others = eval.keys().map(String::as_str).filter(|name| KNOWN.iter().all(|(known, _)| known != name));
    let mut groups = Vec::new();
    for name in known.chain(others) {
        let value = &eval[name];
        let mut rows = Vec::new();
        flatten(name, value, docs, &mut rows);
        if value.is_object() && !rows.is_empty() {
            groups.push(Group { title: title(name), rows });
        }
    }
    groups
}

fn title(name: &str) -> String {
    let known = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, title)| (*title).to_owned());
    known.unwrap_or_else(|| name.replace('_', " "))
}

fn flatten(key: &str, value: &Value, docs: &Docs, rows: &mut Vec<Row>) {
    let mut push = |value: String, beside: String| {
        rows.push(Row { key: key.to_owned(), value, beside, doc: docs.get(key).cloned() });
    };
    match value {
        Value::Number(_) | Value::Null => push(show(number(value)), String::new()),
        Value::Bool(b) => push(if *b { "yes" } else { "no" }.into(), String::new()),
        Value::Array(list) if !list.is_empty() && list.len() <= 8 && list.iter().all(Value::is_number) => {
            push(list.iter().map(|v| show(number(v))).collect::<Vec<_>>().join("  "), String::new());
        }
        Value::Object(map) => match together(map) {
            Some((value, beside)) => push(value, beside),
            None => map.iter().for_each(|(name, value)| flatten(&format!("{key}.{name}"), value, docs, rows)),
        },
        Value::Array(_) | Value::String(_) => {}
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Numbers that are one: a score with its null, a contrast with its pairs, a value with its interval.
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
    fn families_that_nobody_has_heard_of_show_every_number() {
        let eval = json!({
            "dump": "x", "rows": [0, 5],
            "news": { "a": 0.5, "deep": { "b": null, "flag": true }, "list": [1, 2], "long": vec![0; 40],
                "score": { "value": 0.25, "null_mean": 0.125, "null_sd": 0.5, "excess": 0.125, "z": 0.25, "draws": 100 },
                "pair": { "connected": 0.5, "matched": 0.25, "shuffled": 0.125, "auc": 0.75, "auc_low": null },
                "sure": { "value": 0.5, "low": 0.25, "high": 0.75, "blocks": 32 } }
        });
        let groups = tables(&eval, &Docs::parse(""));
        assert_eq!(groups.len(), 1);
        let rows: Vec<_> =
            groups[0].rows.iter().map(|r| (r.key.as_str(), r.value.as_str(), r.beside.as_str())).collect();
        assert_eq!(
            rows,
            [
                ("news.a", "0.5000", ""),
                ("news.deep.b", "undefined", ""),
                ("news.deep.flag", "yes", ""),
                ("news.list", "1  2", ""),
                ("news.pair", "0.5000", "random pairs 0.2500, shuffled families 0.1250; AUC 0.7500, 0.5 is chance"),
                ("news.score", "0.2500", "null 0.1250 \u{b1} 0.5000, z 0.2500"),
                ("news.sure", "0.5000", "95 % interval [0.2500, 0.7500]"),
            ]
        );
    }
}
