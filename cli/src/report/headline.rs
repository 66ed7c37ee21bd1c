//! The first screen of a run's report: is it a good SAE, is the hierarchy real; in words, with numbers and nulls.

use super::docs::{Doc, Docs};
use super::embed;
use super::number::{count, percent, show};
use crate::eval::verdict;
use serde_json::Value;
use strata_core::Config;

/// A question, its answer, and what it rests on.
pub struct Verdict {
    /// The question.
    pub question: &'static str,
    /// Yes, partly, no.
    pub answer: String,
    /// How good that is, for its colour: `good`, `fair`, `poor`, `none`.
    pub grade: &'static str,
    /// What speaks for it, each a sentence as HTML.
    pub because: Vec<String>,
    /// How the answer is found from the numbers.
    pub rule: &'static str,
}

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
    /// Values and, where known, their intervals.
    pub cells: Vec<(String, String)>,
    /// What a model without skill has.
    pub null: String,
    /// Which way is better.
    pub better: &'static str,
    /// What it means.
    pub doc: Option<Doc>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Poor,
    Fair,
    Good,
}

impl Grade {
    /// Of a value for which higher is better.
    fn above(v: f64, good: f64, fair: f64) -> Self {
        if v >= good {
            Self::Good
        } else if v >= fair {
            Self::Fair
        } else {
            Self::Poor
        }
    }

    fn below(v: f64, good: f64, fair: f64) -> Self {
        Self::above(-v, -good, -fair)
    }

    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Fair => "fair",
            Self::Poor => "poor",
        }
    }
}

/// The numbers of an evaluation.
struct Numbers<'a>(&'a Value);

impl Numbers<'_> {
    fn get(&self, at: &str) -> Option<f64> {
        self.0.pointer(&format!("/{}", at.replace('.', "/")))?.as_f64()
    }

    fn interval(&self, name: &str) -> String {
        match (self.get(&format!("intervals.{name}.low")), self.get(&format!("intervals.{name}.high"))) {
            (Some(low), Some(high)) => format!("[{}, {}]", show(low), show(high)),
            _ => String::new(),
        }
    }

    fn is_two(&self) -> bool {
        self.0["level2"].is_object()
    }
}

/// Both answers.
pub fn verdicts(eval: &Value) -> Vec<Verdict> {
    let n = Numbers(eval);
    vec![fidelity(&n), hierarchy(&n)]
}

fn b(text: impl AsRef<str>) -> String {
    format!("<b>{}</b>", embed::text(text.as_ref()))
}

fn fidelity(n: &Numbers<'_>) -> Verdict {
    let mut because = Vec::new();
    let mut grades = Vec::new();
    let fvu = n.get("fidelity.level2.fvu").or_else(|| n.get("fidelity.level1.fvu"));
    let l0 = n.get("level1.l0_mean").unwrap_or(0.0) + n.get("level2.l0_mean").unwrap_or(0.0);
    let latents = n.get("level1.latents").unwrap_or(0.0) + n.get("level2.latents").unwrap_or(0.0);
    let rows = match n.0["held_out"].as_bool() {
        Some(true) => " on rows that training held out",
        Some(false) => " on rows that it may have been trained on",
        None => "",
    };
    if let Some(fvu) = fvu {
        because.push(format!(
            "It explains {} of the variance{rows} (FVU {}; the mean row alone leaves 1), with {} of {} latents on for a \
             token.",
            b(percent(1.0 - fvu)),
            show(fvu),
            b(show(l0)),
            show(latents),
        ));
    }
    let recovered = n.get("splice.recovered2").or_else(|| n.get("splice.recovered1"));
    match (recovered, n.get("splice.clean"), n.get("splice.level2"), n.get("splice.mean_ablated")) {
        (Some(r), Some(clean), Some(spliced), Some(ablated)) => {
            because.push(format!(
                "Put back into the language model, it keeps {} of what the layer is worth: cross-entropy {} nats a token \
                 clean, {} with the reconstruction, {} with the mean row.",
                b(percent(r)),
                show(clean),
                show(spliced),
                show(ablated),
            ));
            grades.push(Grade::above(r, 0.95, 0.8));
        }
        _ => grades.extend(fvu.map(|fvu| Grade::below(fvu, 0.1, 0.3))),
    }
    let dead = ["level1", "level2"].map(|level| {
        n.get(&format!("{level}.dead")).unwrap_or(0.0) * n.get(&format!("{level}.latents")).unwrap_or(0.0)
    });
    if latents > 0.0 {
        let share = (dead[0] + dead[1]) / latents;
        because.push(match (dead[0] + dead[1]).round() {
            0.0 => "Every latent fires somewhere.".to_owned(),
            dead => format!("{} of its latents ({}) never fire.", b(percent(share)), show(dead)),
        });
        grades.push(Grade::below(share, 0.05, 0.25));
    }
    let grade = grades.into_iter().min();
    Verdict {
        question: "Is this a good SAE?",
        answer: match grade {
            Some(Grade::Good) => "Yes.",
            Some(Grade::Fair) => "Fair.",
            Some(Grade::Poor) => "Not yet.",
            None => "Not known.",
        }
        .into(),
        grade: grade.map_or("none", Grade::class),
        because,
        rule: "\u{201c}Yes\u{201d} needs 95 % of the cross-entropy recovered (FVU of at most 0.1 where it was not spliced) and \
               at most 5 % dead latents; \u{201c}fair\u{201d} needs 80 % (FVU 0.3) and 25 %. The worse of the two counts.",
    }
}

/// The verdict of the evaluation, in words.
fn hierarchy(n: &Numbers<'_>) -> Verdict {
    let (question, rule) = ("Is the hierarchy real?", verdict::RULE);
    let found = &n.0["verdict"];
    let Some(answer) = found["answer"].as_str() else {
        let why = "This evaluation is of an earlier version, without a verdict: evaluate the run again.".to_owned();
        return Verdict { question, answer: "Not known.".into(), grade: "none", because: vec![why], rule };
    };
    let (answer, grade) = match answer {
        "yes" => ("Yes.", Grade::Good.class()),
        "partly" => ("Partly.", Grade::Fair.class()),
        "not shown" => ("Not shown.", Grade::Poor.class()),
        _ => ("There is none.", "none"),
    };
    let mut because = vec![embed::text(found["sentence"].as_str().unwrap_or_default())];
    for input in found["inputs"].as_array().into_iter().flatten() {
        let at = |key: &str| input[key].as_f64();
        let with_ends = |value: f64, low: Option<f64>, high: Option<f64>| match (low, high) {
            (Some(low), Some(high)) => format!("{} [{}, {}]", b(show(value)), show(low), show(high)),
            _ => b(show(value)),
        };
        let (Some(value), Some(bound)) = (at("value"), at("bound")) else { continue };
        let holds = if input["holds"] == true { "holds" } else { "does not hold" };
        because.push(format!(
            "{}: {} against {}: {holds}.",
            capital(input["name"].as_str().unwrap_or_default()),
            with_ends(value, at("low"), at("high")),
            with_ends(bound, at("bound_low"), at("bound_high")),
        ));
    }
    if let Some(recall) = n.get("recovery.edge_recall") {
        let mcc = n
            .get("recovery.mcc")
            .map(|m| format!(" Features match the true ones with a mean cosine of {}.", b(show(m))));
        because.push(format!(
            "The truth of this world is known: {} of its edges were found.{}",
            b(percent(recall)),
            mcc.unwrap_or_default()
        ));
    }
    Verdict { question, answer: answer.into(), grade, because, rule }
}

/// The text with a capital letter at its beginning.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

/// The tables of the headline.
pub fn tables(eval: &Value, config: Option<&Config>, docs: &Docs) -> Vec<Table> {
    let n = Numbers(eval);
    let two = n.is_two();
    let mut tables = vec![Table {
        caption: "Reconstruction and sparsity",
        columns: if two { vec!["level 1", "level 2"] } else { vec!["level 1"] },
        rows: Vec::new(),
    }];
    let mut level = |name, keys: [&'static str; 2], intervals: Option<[&str; 2]>, null: String, better, share: bool| {
        let cells: Vec<(String, String)> = (0..if two { 2 } else { 1 })
            .map(|l| {
                let value = n.get(keys[l]);
                let text = value.map_or_else(|| "\u{2013}".into(), if share { percent } else { show });
                (text, intervals.map(|i| n.interval(i[l])).unwrap_or_default())
            })
            .collect();
        if cells.iter().any(|c| c.0 != "\u{2013}") {
            let key = keys[usize::from(two)];
            tables[0].rows.push(Row { name, key, cells, null, better, doc: docs.get(key).cloned() });
        }
    };
    level(
        "Variance unexplained (FVU)",
        ["fidelity.level1.fvu", "fidelity.level2.fvu"],
        Some(["fvu1", "fvu2"]),
        "1 (the mean row)".into(),
        "lower",
        false,
    );
    let asked = match config.map(|c| [c.level1.k, c.level2.k].map(show)) {
        Some([k1, k2]) if two => format!("{k1} and {k2}, as asked for"),
        Some([k1, _]) => format!("{k1}, as asked for"),
        None => "\u{2013}".into(),
    };
    level(
        "Latents that fire a token (L0)",
        ["level1.l0_mean", "level2.l0_mean"],
        Some(["l0_1", "l0_2"]),
        asked,
        "lower, at equal FVU",
        false,
    );
    level("Dead latents", ["level1.dead", "level2.dead"], None, "0 %".into(), "lower", true);
    let ce = [n.get("splice.clean"), n.get("splice.mean_ablated")].map(|v| v.map_or_else(String::new, show));
    level(
        "Cross-entropy, nats a token",
        ["splice.level1", "splice.level2"],
        None,
        format!("{} (mean row); clean: {}", ce[1], ce[0]),
        "lower",
        false,
    );
    level(
        "Cross-entropy recovered",
        ["splice.recovered1", "splice.recovered2"],
        None,
        "0 % (mean row)".into(),
        "higher",
        true,
    );
    let mut rows = Vec::new();
    let ends = |key: &str, say: fn(f64) -> String| {
        let [low, high] = ["low", "high"].map(|end| n.get(&format!("{key}.{end}")));
        low.zip(high).map(|(low, high)| format!("[{}, {}]", say(low), say(high))).unwrap_or_default()
    };
    let mut row = |name, key: &'static str, interval: String, null: String, better, say: fn(f64) -> String| {
        if let Some(value) = n.get(key) {
            rows.push(Row {
                name,
                key,
                cells: vec![(say(value), interval)],
                null,
                better,
                doc: docs.get(key).cloned(),
            });
        }
    };
    if two {
        row(
            "Error that level 2 takes away",
            "fidelity.gain",
            ends("intervals.gain", percent),
            "0 %".into(),
            "higher",
            percent,
        );
    }
    // Without the gate: beside the control, and beside random families of the same sizes and densities.
    type Say = fn(f64) -> String;
    let ungated: [(&str, &str, &str, &str, Say); 7] = [
        ("Children keep to their parents (attachment)", "composition.attachment", "attachment", "higher", show),
        ("P(parent fires | child fires)", "composition.containment", "containment", "higher", percent),
        ("Lift of the median edge", "composition.median_lift", "median_lift", "higher", show),
        ("Edges with P > 0.8 and lift > 2", "composition.real_edges", "real_edges", "higher", percent),
        ("Phi of child and parent", "composition.phi", "phi", "higher", show),
        ("P(one child | some child)", "composition.exclusivity", "exclusivity", "higher", percent),
        ("P(the likeliest child | parent)", "composition.purity", "purity", "neither", percent),
    ];
    for (name, key, part, better, say) in ungated {
        let mut null = Vec::new();
        if let Some(value) = n.get(&format!("control.edges.{part}.value")) {
            null.push(format!("control {} {}", say(value), ends(&format!("control.edges.{part}"), say)));
        }
        let of_null = |field: &str| n.get(&format!("composition_null.{part}.{field}"));
        if let Some(mean) = of_null("null_mean") {
            let z = of_null("z").map(|z| format!(", z {}", show(z))).unwrap_or_default();
            null.push(format!("{} (random families{z})", say(mean)));
        }
        let null = if null.is_empty() { "\u{2013}".into() } else { null.join("; ") };
        row(name, key, ends(&format!("intervals.edges.{part}"), say), null, better, say);
    }
    let dash = || "\u{2013}".to_owned();
    row("With the gate: P(some child | parent)", "gated.coverage", String::new(), dash(), "neither", percent);
    row("With the gate: children that harm", "gated.harmful", String::new(), dash(), "lower", percent);
    row(
        "With the gate: P(parent fires | child fires)",
        "gated.containment_by_construction",
        String::new(),
        "100 % for any parents".into(),
        "by construction",
        percent,
    );
    for (name, key, better) in [
        ("Rows in the directions of child and parent (S_res)", "condition.s_res", "higher"),
        ("Siblings\u{2019} decoders: silhouette", "coherence.decoder.silhouette", "neither"),
        ("Siblings\u{2019} tokens: silhouette", "coherence.tokens.silhouette", "higher"),
        ("Topics of families: NPMI", "coherence.topics.npmi", "higher"),
    ] {
        let at = |part: &str| n.get(&format!("{key}.{part}"));
        if let (Some(v), Some(null)) = (at("value"), at("null_mean")) {
            let z = at("z").map(|z| format!(", z {}", show(z))).unwrap_or_default();
            let null = format!("{} (random families{z})", show(null));
            rows.push(Row {
                name,
                key,
                cells: vec![(show(v), String::new())],
                null,
                better,
                doc: docs.get(key).cloned(),
            });
        }
    }
    for (name, key, better) in [
        ("Child and parent: tokens alike", "similarity.token_corrected", "higher"),
        ("Child and parent: contexts alike", "similarity.context", "higher"),
        ("Child and parent: same logits", "similarity.logit", "neither"),
    ] {
        let at = |part: &str| n.get(&format!("{key}.{part}"));
        if let (Some(v), Some(matched), Some(auc)) = (at("connected"), at("matched"), at("auc")) {
            let interval = match (at("auc_low"), at("auc_high")) {
                (Some(low), Some(high)) => format!(" [{}, {}]", show(low), show(high)),
                _ => String::new(),
            };
            rows.push(Row {
                name,
                key,
                cells: vec![(show(v), format!("AUC {}{interval}", show(auc)))],
                null: format!("{} (random pairs); AUC 0.5", show(matched)),
                better,
                doc: docs.get(key).cloned(),
            });
        }
    }
    let f1 = n.get("level1.latents").unwrap_or(f64::NAN);
    for (name, key, null, better) in [
        ("True features found: cosine (MCC)", "recovery.mcc", "random directions: see docs".to_owned(), "higher"),
        ("True features found: firing F1", "recovery.f1", "\u{2013}".into(), "higher"),
        ("True edges found", "recovery.edge_recall", format!("{} (random parents)", percent(1.0 / f1)), "higher"),
        ("Edges that are true", "recovery.edge_precision", format!("{} (random parents)", percent(1.0 / f1)), "higher"),
        ("Roots absorbed by their children", "recovery.absorption", "100 %".into(), "lower"),
        (
            "Children of both runs with the same parent",
            "stability.parents.agreement.value",
            n.get("stability.parents.chance").map_or_else(dash, |c| format!("{} (permuted parents)", percent(c))),
            "higher",
        ),
    ] {
        if let Some(v) = n.get(key) {
            let text = if key == "recovery.mcc" || key == "recovery.f1" { show(v) } else { percent(v) };
            rows.push(Row { name, key, cells: vec![(text, String::new())], null, better, doc: docs.get(key).cloned() });
        }
    }
    if !rows.is_empty() {
        tables.push(Table { caption: "Hierarchy", columns: vec!["value"], rows });
    }
    tables
}

/// What was trained on what, in a line.
pub fn summary(eval: Option<&Value>, config: Option<&Config>, last: Option<&Value>) -> String {
    let mut parts = Vec::new();
    if let Some(c) = config {
        parts.push(match c.level2.latents {
            0 => count(c.level1.latents as u64, "latent"),
            f2 => format!("{} and {} children", count(c.level1.latents as u64, "parent"), show(f2 as f64)),
        });
    }
    if let Some(last) = last {
        let steps = last["step"].as_u64().map_or(0, |s| s + 1);
        let tokens = last["tokens"].as_u64().unwrap_or(0);
        parts.push(format!("trained for {} on {}", count(steps, "step"), count(tokens, "token")));
    }
    if let Some(eval) = eval
        && let Some(n) = eval.pointer("/rows/1").and_then(Value::as_u64)
    {
        parts.push(format!("evaluated on {} of {}", count(n, "row"), eval["dump"].as_str().unwrap_or("a dump")));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_answer_is_that_of_the_verdict_with_everything_it_rests_on() {
        let of = |eval: &Value| {
            let v = hierarchy(&Numbers(eval));
            (v.answer, v.grade, v.because)
        };
        let input = json!({ "name": "attachment, against the control", "value": 0.75, "low": 0.5, "high": 0.875,
            "bound": 0.25, "bound_low": 0.125, "bound_high": 0.375, "holds": true });
        let unmeasured = json!({ "name": "seeds", "value": null, "bound": null, "holds": null });
        let eval = json!({ "verdict":
            { "answer": "partly", "sentence": "Partly: no <seed>.", "inputs": [input, unmeasured] } });
        let (answer, grade, because) = of(&eval);
        assert_eq!((answer.as_str(), grade), ("Partly.", "fair"));
        assert_eq!(
            because,
            [
                "Partly: no &lt;seed&gt;.",
                "Attachment, against the control: <b>0.7500</b> [0.5000, 0.8750] against <b>0.2500</b> [0.1250, 0.3750]: \
                 holds."
            ]
        );
        for (said, shown, class) in
            [("yes", "Yes.", "good"), ("not shown", "Not shown.", "poor"), ("none", "There is none.", "none")]
        {
            let (answer, grade, _) = of(&json!({ "verdict": { "answer": said, "sentence": "s" } }));
            assert_eq!((answer.as_str(), grade), (shown, class));
        }
        assert_eq!(of(&json!({ "composition": {} })).0, "Not known.", "an evaluation of an earlier version");
    }

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
    fn rows_are_called_held_out_only_where_they_were() {
        let said = |held_out: Value| {
            let eval = json!({ "held_out": held_out, "fidelity": { "level1": { "fvu": 0.25 } } });
            fidelity(&Numbers(&eval)).because.join(" ")
        };
        assert!(said(json!(true)).contains("variance on rows that training held out (FVU"));
        assert!(said(json!(false)).contains("variance on rows that it may have been trained on (FVU"));
        assert!(said(Value::Null).contains("variance (FVU"));
    }
}
