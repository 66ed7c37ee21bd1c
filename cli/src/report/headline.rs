//! The first answers of a run's report: whether it is a good SAE, and whether the hierarchy is real.

use super::docs::inline;
use super::embed;
use super::number::{count, percent, show};
use super::tables::Numbers;
use crate::eval::verdict;
use serde_json::Value;
use strata_core::Config;

/// A question, its answer, and the evidence.
pub struct Verdict {
    /// The question.
    pub question: &'static str,
    /// Yes, partly, no.
    pub answer: String,
    /// The quality of the answer, for its colour: `good`, `fair`, `poor`, `none`.
    pub grade: &'static str,
    /// The evidence, each a sentence as HTML.
    pub because: Vec<String>,
    /// How the answer follows from the numbers.
    pub rule: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Poor,
    Fair,
    Good,
}

impl Grade {
    /// Grades a value for which higher is better.
    fn above(v: f64, good: f64, fair: f64) -> Self {
        if v >= good {
            Self::Good
        } else if v >= fair {
            Self::Fair
        } else {
            Self::Poor
        }
    }

    /// Grades a value for which lower is better.
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

/// Returns both answers.
pub fn verdicts(eval: &Value) -> Vec<Verdict> {
    let n = Numbers(eval);
    vec![fidelity(&n), hierarchy(&n)]
}

/// Returns the text in bold, as HTML.
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
                "Spliced into the language model, it recovers {} of the cross-entropy: {} nats per token \
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

/// Returns the verdict of the evaluation, in words.
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
    let mut because = vec![inline(found["sentence"].as_str().unwrap_or_default())];
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

/// Returns the text with a capital first letter.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

/// Describes the training in one line.
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
