//! The tables at the top of a report: each number with its interval and the value that it is compared with.

use super::docs::{Doc, Docs};
use super::number::{percent, show};
use serde_json::Value;
use strata_core::Config;

/// A table of the headline.
pub struct Table {
    /// Its caption.
    pub caption: &'static str,
    /// Heads of the columns of values.
    pub columns: Vec<&'static str>,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// One measure.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Its key in `eval.json`.
    pub key: &'static str,
    /// One value per column.
    pub cells: Vec<Cell>,
    /// The values to compare with: the control, random families, or a trivial model.
    pub null: String,
    /// Which direction is better.
    pub better: &'static str,
    /// Its row of `docs/metrics.md`.
    pub doc: Option<Doc>,
    /// Formats its numbers.
    pub say: Say,
}

/// One number of the headline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// The number, if it was measured.
    pub value: Option<f64>,
    /// The ends of its interval of 95 %, where known.
    pub ends: Option<(f64, f64)>,
    /// The formatted number.
    pub text: String,
    /// The text below it: an interval or an AUC.
    pub below: String,
}

/// Formats a number.
pub type Say = fn(f64) -> String;

const DASH: &str = "\u{2013}";

impl Cell {
    fn new(value: Option<f64>, ends: Option<(f64, f64)>, say: Say) -> Self {
        let below = ends.map(|(low, high)| format!("[{}, {}]", say(low), say(high))).unwrap_or_default();
        Self { value, ends, text: value.map_or_else(|| DASH.into(), say), below }
    }
}

/// The numbers of an evaluation.
pub struct Numbers<'a>(pub &'a Value);

impl Numbers<'_> {
    /// Returns the number at a key, with dots between its parts.
    pub fn get(&self, at: &str) -> Option<f64> {
        self.0.pointer(&format!("/{}", at.replace('.', "/")))?.as_f64()
    }

    /// Returns the ends of the interval at a key.
    fn ends(&self, at: &str) -> Option<(f64, f64)> {
        self.get(&format!("{at}.low")).zip(self.get(&format!("{at}.high")))
    }

    /// Returns an interval in brackets; empty if there is none.
    fn bracketed(&self, at: &str, say: Say) -> String {
        self.ends(at).map(|(low, high)| format!("[{}, {}]", say(low), say(high))).unwrap_or_default()
    }
}

/// Scores without the gate: name, key, name among the intervals, which direction is better, format.
const UNGATED: [(&str, &str, &str, &str, Say); 7] = [
    ("Children keep to their parents (attachment)", "composition.attachment", "attachment", "higher", show),
    ("P(parent fires | child fires)", "composition.containment", "containment", "higher", percent),
    ("Lift of the median edge", "composition.median_lift", "median_lift", "higher", show),
    ("Edges with P > 0.8 and lift > 2", "composition.real_edges", "real_edges", "higher", percent),
    ("Phi of child and parent", "composition.phi", "phi", "higher", show),
    ("P(one child | some child)", "composition.exclusivity", "exclusivity", "higher", percent),
    ("P(the likeliest child | parent)", "composition.purity", "purity", "neither", percent),
];

/// Returns the tables at the top of a report.
pub fn tables(eval: &Value, config: Option<&Config>, docs: &Docs) -> Vec<Table> {
    let n = Numbers(eval);
    let first = reconstruction(&n, config, docs);
    let mut rows = hierarchy(&n, docs);
    rows.extend(found_again(&n, docs));
    let mut tables = vec![first];
    if !rows.is_empty() {
        tables.push(Table { caption: "Hierarchy", columns: vec!["value"], rows });
    }
    tables
}

/// Returns the table of reconstruction and sparsity of each level.
fn reconstruction(n: &Numbers<'_>, config: Option<&Config>, docs: &Docs) -> Table {
    let two = n.0["level2"].is_object();
    let columns = if two { vec!["level 1", "level 2"] } else { vec!["level 1"] };
    let mut rows = Vec::new();
    let mut level = |name, keys: [&'static str; 2], intervals: Option<[&str; 2]>, null: String, better, say: Say| {
        let of =
            |l: usize| Cell::new(n.get(keys[l]), intervals.and_then(|i| n.ends(&format!("intervals.{}", i[l]))), say);
        let cells: Vec<Cell> = (0..columns.len()).map(of).collect();
        if cells.iter().any(|c| c.value.is_some()) {
            let key = keys[columns.len() - 1];
            rows.push(Row { name, key, cells, null, better, doc: docs.get(key).cloned(), say });
        }
    };
    let fvu = ["fidelity.level1.fvu", "fidelity.level2.fvu"];
    let mean_row = || "1 (the mean row)".to_owned();
    level("Variance unexplained (FVU)", fvu, Some(["fvu1", "fvu2"]), mean_row(), "lower", show);
    let asked = match (n.0["asked_l0"].as_array(), config.map(|c| [c.level1.k, c.level2.k])) {
        (Some(asked), _) => Some(asked.iter().filter_map(Value::as_f64).collect()),
        (None, Some(k)) => Some(k.to_vec()),
        (None, None) => None,
    };
    let asked = match asked.as_deref() {
        Some([k1, k2]) if two => format!("asked: {} and {}", show(*k1), show(*k2)),
        Some([k1, ..]) => format!("asked: {}", show(*k1)),
        _ => DASH.into(),
    };
    let l0 = ["level1.l0_mean", "level2.l0_mean"];
    level("Latents that fire per token (L0)", l0, Some(["l0_1", "l0_2"]), asked, "lower, at equal FVU", show);
    level("Dead latents", ["level1.dead", "level2.dead"], None, "0 %".into(), "lower", percent);
    let ce = [n.get("splice.clean"), n.get("splice.mean_ablated")].map(|v| v.map_or_else(String::new, show));
    let null = format!("{} (mean row); clean: {}", ce[1], ce[0]);
    level("Cross-entropy, nats per token", ["splice.level1", "splice.level2"], None, null, "lower", show);
    let recovered = ["splice.recovered1", "splice.recovered2"];
    level("Cross-entropy recovered", recovered, None, "0 % (mean row)".into(), "higher", percent);
    Table { caption: "Reconstruction and sparsity", columns, rows }
}

/// Rows with one value; a row without a value is left out.
struct Rows<'a> {
    n: &'a Numbers<'a>,
    docs: &'a Docs,
    rows: Vec<Row>,
}

impl Rows<'_> {
    fn push(
        &mut self,
        name: &'static str,
        key: &'static str,
        cell: Cell,
        null: String,
        better: &'static str,
        say: Say,
    ) {
        if cell.value.is_some() {
            let doc = self.docs.get(key).cloned();
            self.rows.push(Row { name, key, cells: vec![cell], null, better, doc, say });
        }
    }

    fn value(&mut self, name: &'static str, key: &'static str, null: String, better: &'static str, say: Say) {
        self.push(name, key, Cell::new(self.n.get(key), None, say), null, better, say);
    }
}

/// Returns the rows about the hierarchy: scores without the gate, beside those of the control and of random families of
/// the same sizes and densities; scores with the gate; and whether families mean something.
fn hierarchy(n: &Numbers<'_>, docs: &Docs) -> Vec<Row> {
    let mut rows = Rows { n, docs, rows: Vec::new() };
    let dash = || DASH.to_owned();
    if n.0["level2"].is_object() {
        let gain = Cell::new(n.get("fidelity.gain"), n.ends("intervals.gain"), percent);
        rows.push("Error that level 2 takes away", "fidelity.gain", gain, "0 %".into(), "higher", percent);
    }
    for (name, key, part, better, say) in UNGATED {
        let mut null = Vec::new();
        if let Some(value) = n.get(&format!("control.edges.{part}.value")) {
            null.push(format!("control {} {}", say(value), n.bracketed(&format!("control.edges.{part}"), say)));
        }
        let of_null = |field: &str| n.get(&format!("composition_null.{part}.{field}"));
        if let Some(mean) = of_null("null_mean") {
            let z = of_null("z").map(|z| format!(", z {}", show(z))).unwrap_or_default();
            null.push(format!("{} (random families{z})", say(mean)));
        }
        let null = if null.is_empty() { dash() } else { null.join("; ") };
        let cell = Cell::new(n.get(key), n.ends(&format!("intervals.edges.{part}")), say);
        rows.push(name, key, cell, null, better, say);
    }
    rows.value("With the gate: P(some child | parent)", "gated.coverage", dash(), "neither", percent);
    rows.value("With the gate: children that harm", "gated.harmful", dash(), "lower", percent);
    let (name, key) = ("With the gate: P(parent fires | child fires)", "gated.containment_by_construction");
    rows.value(name, key, "100 % for any parents".into(), "by construction", percent);
    for (name, key, better) in [
        ("Rows in the directions of child and parent (S_res)", "condition.s_res", "higher"),
        ("Siblings\u{2019} decoders: silhouette", "coherence.decoder.silhouette", "neither"),
        ("Siblings\u{2019} tokens: silhouette", "coherence.tokens.silhouette", "higher"),
        ("Topics of families: NPMI", "coherence.topics.npmi", "higher"),
    ] {
        let at = |part: &str| n.get(&format!("{key}.{part}"));
        if let Some(null) = at("null_mean") {
            let z = at("z").map(|z| format!(", z {}", show(z))).unwrap_or_default();
            let null = format!("{} (random families{z})", show(null));
            rows.push(name, key, Cell::new(at("value"), None, show), null, better, show);
        }
    }
    for (name, key, better) in [
        ("Child and parent: tokens alike", "similarity.token_corrected", "higher"),
        ("Child and parent: contexts alike", "similarity.context", "higher"),
        ("Child and parent: same logits", "similarity.logit", "neither"),
    ] {
        let at = |part: &str| n.get(&format!("{key}.{part}"));
        if let (Some(matched), Some(auc)) = (at("matched"), at("auc")) {
            let interval = match (at("auc_low"), at("auc_high")) {
                (Some(low), Some(high)) => format!(" [{}, {}]", show(low), show(high)),
                _ => String::new(),
            };
            let below = format!("AUC {}{interval}", show(auc));
            let cell = Cell { below, ..Cell::new(at("connected"), None, show) };
            rows.push(name, key, cell, format!("{} (random pairs); AUC 0.5", show(matched)), better, show);
        }
    }
    rows.rows
}

/// Returns the rows about a known truth, and about another run.
fn found_again(n: &Numbers<'_>, docs: &Docs) -> Vec<Row> {
    let mut rows = Rows { n, docs, rows: Vec::new() };
    let dash = || DASH.to_owned();
    let chance = format!("{} (random parents)", percent(1.0 / n.get("level1.latents").unwrap_or(f64::NAN)));
    let directions = || "random directions: see docs".to_owned();
    rows.value("True features found: cosine (MCC)", "recovery.mcc", directions(), "higher", show);
    rows.value("True features found: firing F1", "recovery.f1", dash(), "higher", show);
    rows.value("True edges found", "recovery.edge_recall", chance.clone(), "higher", percent);
    rows.value("Edges that are true", "recovery.edge_precision", chance, "higher", percent);
    rows.value("Roots absorbed by their children", "recovery.absorption", "100 %".into(), "lower", percent);
    rows.value("The other run: level 1 found again (MCC)", "stability.level1.mcc", directions(), "higher", show);
    rows.value("The other run: level 2 found again (MCC)", "stability.level2.mcc", directions(), "higher", show);
    let name = "The other run: children with a parent, found again";
    rows.value(name, "stability.parents.found_again", dash(), "higher", percent);
    let key = "stability.parents.agreement";
    let permuted = n.get("stability.parents.chance");
    let permuted = permuted.map_or_else(dash, |c| format!("{} (permuted parents)", percent(c)));
    let same = Cell::new(n.get(&format!("{key}.value")), n.ends(key), percent);
    rows.push("The other run: of those, with the same parent", key, same, permuted, "higher", percent);
    rows.rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nulls_are_those_that_were_measured() {
        let docs = Docs::parse("");
        let null = |eval: &Value, key: &str| {
            let tables = tables(eval, None, &docs);
            tables.iter().flat_map(|t| &t.rows).find(|r| r.key == key).expect("a row").null.clone()
        };
        let score = json!({ "value": 0.9, "null_mean": 0.0625, "null_sd": 0.01, "z": 50.0 });
        let interval = json!({ "value": 0.25, "low": 0.125, "high": 0.5 });
        let mut eval = json!({
            "level1": { "latents": 2 }, "level2": { "latents": 4 },
            "composition": { "median_lift": 0.9, "real_edges": 0.9 },
            "composition_null": { "median_lift": score, "real_edges": score },
            "control": { "edges": { "median_lift": interval, "real_edges": interval } },
            "condition": { "s_res": score },
        });
        assert_eq!(
            null(&eval, "composition.median_lift"),
            "control 0.2500 [0.1250, 0.5000]; 0.0625 (random families, z 50)"
        );
        assert_eq!(
            null(&eval, "composition.real_edges"),
            "control 25.0 % [12.5 %, 50.0 %]; 6.2 % (random families, z 50)"
        );
        assert_eq!(null(&eval, "condition.s_res"), "0.0625 (random families, z 50)");
        // A null without spread has no z.
        eval["composition_null"]["median_lift"]["z"] = Value::Null;
        eval["control"] = Value::Null;
        assert_eq!(null(&eval, "composition.median_lift"), "0.0625 (random families)");
        eval["composition_null"] = Value::Null;
        assert_eq!(null(&eval, "composition.median_lift"), "\u{2013}");
    }

    #[test]
    fn what_another_run_has_found_is_in_the_table() {
        let agreement = json!({ "value": 0.75, "low": 0.5, "high": 0.875 });
        let eval = json!({ "stability": { "level1": { "mcc": 0.5 }, "level2": { "mcc": 0.25 },
            "parents": { "found_again": 0.125, "agreement": agreement, "chance": 0.0625 } } });
        let rows = found_again(&Numbers(&eval), &Docs::parse(""));
        let shown: Vec<_> = rows.iter().map(|r| (r.cells[0].text.as_str(), r.cells[0].below.as_str())).collect();
        assert_eq!(shown, [("0.5000", ""), ("0.2500", ""), ("12.5 %", ""), ("75.0 %", "[50.0 %, 87.5 %]")]);
        assert_eq!(rows[3].null, "6.2 % (permuted parents)");
        assert!(found_again(&Numbers(&json!({})), &Docs::parse("")).is_empty());
    }
}
