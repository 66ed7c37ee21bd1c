//! The first screen of a run's report: is it a good SAE, is the hierarchy real; in words, with numbers and nulls.

use super::docs::{Doc, Docs};
use super::embed;
use super::number::{count, percent, show};
use serde_json::Value;
use strata_core::Config;
use strata_core::config::ModelKind;

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
pub fn verdicts(eval: &Value, config: Option<&Config>) -> Vec<Verdict> {
    let n = Numbers(eval);
    vec![fidelity(&n), hierarchy(&n, config)]
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

/// From where on the hierarchy is called real, and partly so; [`HIERARCHY_RULE`] says why.
mod bound {
    /// True edges found, where the truth is known.
    pub const RECALL: [f64; 2] = [0.8, 0.4];
    /// Children under a parent.
    pub const UNDER_A_PARENT: [f64; 2] = [0.5, 0.1];
    /// Agreement of parents with the children that no gate holds, chance taken out.
    pub const UNGATED: [f64; 2] = [0.5, 0.2];
    /// Standard deviations above random families.
    pub const Z: [f64; 2] = [3.0, 2.0];
    /// Lower end of the interval of the AUC of tokens.
    pub const AUC: [f64; 2] = [0.7, 0.5];
}

const HIERARCHY_RULE: &str = "With a known truth: \u{201c}yes\u{201d} needs 80 % of the true edges, \u{201c}partly\u{201d} 40 %. \
    Without, the worst of these counts. At least half of the children under a parent (a tenth): fewer are a flat model \
    with a few families. With the gate taken away, the parent on for at least half of its child\u{2019}s firings, after \
    chance is taken out as (P \u{2212} chance) / (1 \u{2212} chance) (a fifth): a gate can force a child\u{2019}s firings \
    under any parent, but not where the child would fire by itself, so random parents stay near 0 here; where this was \
    not measured the answer is at most \u{201c}partly\u{201d}. Median lift, share of real edges, phi and S_res each at \
    least 3 standard deviations above random families (2): beyond luck, though several are asked. Tokens that tell a \
    parent from a random one of its density with an AUC surely over 0.7 (0.5, which is chance). A gate makes the last \
    two kinds easy even for random parents, so they can only speak against. P(parent | child) behind a hard gate is 1 \
    by construction and is not judged. The bounds are conventions; the numbers and their nulls are what is measured.";

fn graded(v: f64, [good, fair]: [f64; 2]) -> Grade {
    Grade::above(v, good, fair)
}

fn hierarchy(n: &Numbers<'_>, config: Option<&Config>) -> Verdict {
    let rule = HIERARCHY_RULE;
    let question = "Is the hierarchy real?";
    let none =
        |why: String| Verdict { question, answer: "There is none.".into(), grade: "none", because: vec![why], rule };
    if !n.is_two() {
        return none("The model is flat: it has one level of latents.".into());
    }
    if !n.0["composition"].is_object() {
        return none("The model has two levels, but its children were given no parents (no families).".into());
    }
    let mut because = Vec::new();
    let mut grades = Vec::new();
    let children = n.get("level2.latents").unwrap_or(f64::NAN);
    let root = n.get("composition.root_children").unwrap_or(0.0);
    let edges = children - root;
    if edges < 1.0 {
        return none(format!("All {} children hang under ROOT: no parent was found to contain one.", show(children)));
    }
    because.push(format!(
        "{} of {} children ({}) hang on a parent; the others are under ROOT, free of any.",
        b(show(edges)),
        show(children),
        percent(edges / children)
    ));
    grades.push(graded(edges / children, bound::UNDER_A_PARENT));
    let (said, grade) = ungated(n);
    because.push(said);
    grades.push(grade);
    if let Some(p) = n.get("composition.containment") {
        let forced = config.is_some_and(|c| c.gate.kind.has_families() && c.model == ModelKind::Tree);
        let how = if forced { ", by construction, as the gate allows nothing else" } else { "" };
        because.push(format!("With the gate in place its parent fires too {} of the time{how}.", percent(p)));
    }
    let mut scores = Vec::new();
    for (name, key, share) in [
        ("median lift", "composition_null.median_lift", false),
        ("real edges (P over 0.8, lift over 2)", "composition_null.real_edges", true),
        ("phi of an edge", "composition_null.phi", false),
        ("rows in the child\u{2019}s and parent\u{2019}s directions (S_res)", "condition.s_res", false),
    ] {
        let at = |part: &str| n.get(&format!("{key}.{part}"));
        let (Some(v), Some(null)) = (at("value"), at("null_mean")) else { continue };
        let say = if share { percent } else { show };
        let z = at("z");
        let words = z.map_or_else(|| "z undefined".into(), |z| format!("z {}", show(z)));
        scores.push(format!("{name} {} against {} ({words})", b(say(v)), say(null)));
        grades.push(match z {
            Some(z) => graded(z, bound::Z),
            // A null without spread says which side the value is on, and not how far.
            None if v > null => Grade::Fair,
            None => Grade::Poor,
        });
    }
    if !scores.is_empty() {
        because.push(format!("Against random families of the same sizes and densities: {}.", scores.join("; ")));
    }
    let silhouette = "coherence.decoder.silhouette";
    if let (Some(value), Some(null), Some(z)) = (
        n.get(&format!("{silhouette}.value")),
        n.get(&format!("{silhouette}.null_mean")),
        n.get(&format!("{silhouette}.z")),
    ) {
        let word = if z >= 2.0 {
            "Decoders of siblings are nearer each other than in random families"
        } else if z <= -2.0 {
            "Decoders of siblings point further apart than in random families: they split their parent rather than repeat it"
        } else {
            "Decoders of siblings are no nearer each other than in random families"
        };
        because.push(format!("{word} (silhouette {} against {}, z {}).", show(value), show(null), b(show(z)),));
    }
    let tokens = "similarity.token_corrected";
    if let [Some(auc), Some(low), Some(high)] =
        ["auc", "auc_low", "auc_high"].map(|part| n.get(&format!("{tokens}.{part}")))
    {
        because.push(format!(
            "A child\u{2019}s tokens tell its parent from a random one of the same density with an AUC of {} \
             [{}, {}], where 0.5 is chance.",
            b(show(auc)),
            show(low),
            show(high)
        ));
        grades.push(graded(low, bound::AUC));
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
        // A known truth decides alone.
        grades = vec![graded(recall, bound::RECALL)];
    }
    let grade = grades.into_iter().min().unwrap_or(Grade::Poor);
    let answer = match grade {
        Grade::Good => "Yes.",
        Grade::Fair => "Partly.",
        Grade::Poor => "Hardly.",
    };
    Verdict { question, answer: answer.into(), grade: grade.class(), because, rule }
}

/// How far parents and children agree where no gate holds the children, which none can force.
fn ungated(n: &Numbers<'_>) -> (String, Grade) {
    let Some(leak) = n.get("leak.leak") else {
        let why = "Whether children fire with their parents of themselves, without the gate, is not known (no leak).";
        return (why.into(), Grade::Fair);
    };
    let p = 1.0 - leak;
    let said = format!(
        "With the gate taken away, the parent is on for {} of its child\u{2019}s firings (leak {})",
        b(percent(p)),
        b(show(leak))
    );
    match chance_of_parent(n.0) {
        Some(chance) if chance < 1.0 => {
            let agreement = (p - chance) / (1.0 - chance);
            (
                format!(
                    "{said}; {} is chance, and {} of the way from there to always.",
                    percent(chance),
                    percent(agreement)
                ),
                graded(agreement, bound::UNGATED),
            )
        }
        _ => (format!("{said}; chance is not known."), graded(p, bound::UNGATED).min(Grade::Fair)),
    }
}

/// What `P(parent | child)` would be if they fired independently: the mean density of the parents, over the edges.
fn chance_of_parent(eval: &Value) -> Option<f64> {
    let tokens = eval.pointer("/composition/tokens")?.as_f64()?;
    let fires: std::collections::BTreeMap<u64, f64> = eval
        .pointer("/composition/parent")?
        .as_array()?
        .iter()
        .filter_map(|p| Some((p["latent"].as_u64()?, p["fires"].as_f64()?)))
        .collect();
    let children = eval.pointer("/composition/child")?.as_array()?;
    let of_edges: Vec<f64> = children
        .iter()
        .filter(|c| !c["containment"].is_null())
        .filter_map(|c| fires.get(&c["parent"].as_u64()?).map(|n| n / tokens))
        .collect();
    (!of_edges.is_empty()).then(|| of_edges.iter().sum::<f64>() / of_edges.len() as f64)
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
    let mut row = |name, key: &'static str, null: String, better, share: bool| {
        if let Some(value) = n.get(key) {
            let bounds =
                ["low", "high"].map(|end| n.get(&format!("intervals.gain.{end}")).filter(|_| key == "fidelity.gain"));
            let interval = match bounds {
                [Some(low), Some(high)] => format!("[{}, {}]", percent(low), percent(high)),
                _ => String::new(),
            };
            let text = if share { percent(value) } else { show(value) };
            rows.push(Row { name, key, cells: vec![(text, interval)], null, better, doc: docs.get(key).cloned() });
        }
    };
    if two {
        row("Error that level 2 takes away", "fidelity.gain", "0 %".into(), "higher", true);
    }
    // The measured null of a measure: random families of the same sizes and densities.
    let null_of = |name: &str, say: fn(f64) -> String| {
        let at = |part: &str| n.get(&format!("composition_null.{name}.{part}"));
        at("null_mean").map(|null| {
            let z = at("z").map(|z| format!(", z {}", show(z))).unwrap_or_default();
            format!("{} (random families{z})", say(null))
        })
    };
    let or_dash = |null: Option<String>| null.unwrap_or_else(|| "\u{2013}".into());
    let is_forced = config.is_some_and(|c| c.gate.kind.has_families() && c.model == ModelKind::Tree);
    let contained_better = if is_forced { "by construction" } else { "higher" };
    let leaked = chance_of_parent(eval).map(|c| format!("{} if independent", percent(1.0 - c)));
    row("Leak: P(parent off | child, without a gate)", "leak.leak", or_dash(leaked), "lower", true);
    let contained = null_of("containment", percent)
        .or_else(|| chance_of_parent(eval).map(|c| format!("{} if independent", percent(c))));
    row("P(parent fires | child fires)", "composition.containment", or_dash(contained), contained_better, true);
    row("Lift of the median edge", "composition.median_lift", or_dash(null_of("median_lift", show)), "higher", false);
    let real = or_dash(null_of("real_edges", percent));
    row("Edges with P > 0.8 and lift > 2", "composition.real_edges", real, "higher", true);
    row("Phi of child and parent", "composition.phi", or_dash(null_of("phi", show)), "higher", false);
    row("P(some child | parent)", "composition.coverage", "depends on how many children".into(), "neither", true);
    row("P(one child | some child)", "composition.exclusivity", "lower if children overlap".into(), "higher", true);
    row("Children that harm", "composition.harmful", "\u{2013}".into(), "lower", true);
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
            "Edges that another run has too",
            "stability.edge_agreement",
            { n.get("stability.edge_chance").map_or_else(|| percent(1.0 / f1), percent) },
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

    /// Two families, every score far above its null, as a hard gate makes it whatever the parents are.
    fn behind_a_gate(leak: Option<f64>, z: f64) -> Value {
        let score = json!({ "value": 0.9, "null_mean": 0.0625, "null_sd": 0.01, "z": z });
        json!({
            "level1": { "latents": 2 }, "level2": { "latents": 4 },
            "composition": {
                "tokens": 1000, "root_children": 0, "containment": 1.0, "median_lift": 0.9, "real_edges": 0.9, "phi": 0.9,
                "parent": [{ "latent": 0, "fires": 20 }, { "latent": 1, "fires": 20 }],
                "child": ([0, 0, 1, 1].map(|p| json!({ "parent": p, "containment": 1.0 }))),
            },
            "composition_null": { "containment": score, "median_lift": score, "real_edges": score, "phi": score },
            "condition": { "s_res": score },
            "leak": leak.map(|leak| json!({ "leak": leak })),
            "similarity": { "token_corrected":
                { "connected": 0.9, "matched": 0.2, "auc": 0.98, "auc_low": 0.97, "auc_high": 0.99 } },
            "recovery": null,
        })
    }

    fn answer(eval: &Value) -> (String, String) {
        let v = hierarchy(&Numbers(eval), None);
        (v.answer, v.because.join(" "))
    }

    #[test]
    fn what_a_gate_forces_does_not_make_a_hierarchy_real() {
        // Random parents: the gate forces all but where the child would fire by itself.
        let (said, because) = answer(&behind_a_gate(Some(0.979), 50.0));
        assert_eq!(said, "Hardly.");
        assert!(because.contains("leak <b>0.9790</b>") && because.contains("2.0 % is chance"), "{because}");
        assert!(because.contains("median lift <b>0.9000</b> against 0.0625") && because.contains("z 50"), "{because}");
        assert_eq!(answer(&behind_a_gate(Some(0.53), 50.0)).0, "Partly.");
        assert_eq!(answer(&behind_a_gate(Some(0.3), 50.0)).0, "Yes.");
        assert_eq!(answer(&behind_a_gate(None, 50.0)).0, "Partly.", "not measured is never yes");
        assert_eq!(answer(&behind_a_gate(Some(0.3), 2.5)).0, "Partly.", "near the null");
        assert_eq!(answer(&behind_a_gate(Some(0.3), 1.0)).0, "Hardly.", "within the null");
    }

    #[test]
    fn parents_that_are_always_on_do_not_pass_for_agreement() {
        let mut eval = behind_a_gate(Some(0.3), 50.0);
        for parent in eval["composition"]["parent"].as_array_mut().expect("parents") {
            parent["fires"] = json!(700);
        }
        assert_eq!(answer(&eval).0, "Hardly.");
    }

    #[test]
    fn nulls_are_those_that_were_measured() {
        let docs = Docs::parse("");
        let null = |eval: &Value, key: &str| {
            let tables = tables(eval, None, &docs);
            tables.iter().flat_map(|t| &t.rows).find(|r| r.key == key).expect("a row").null.clone()
        };
        let mut eval = behind_a_gate(Some(0.5), 50.0);
        assert_eq!(null(&eval, "composition.median_lift"), "0.0625 (random families, z 50)");
        assert_eq!(null(&eval, "composition.real_edges"), "6.2 % (random families, z 50)");
        assert_eq!(null(&eval, "condition.s_res"), "0.0625 (random families, z 50)");
        assert_eq!(null(&eval, "leak.leak"), "98.0 % if independent");
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
