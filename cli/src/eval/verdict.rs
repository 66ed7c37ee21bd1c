//! Whether the hierarchy is real: one rule over scores that a gate cannot produce, with the evidence for each part of
//! it.

use super::control::ControlReport;
use super::intervals::Intervals;
use crate::control;
use crate::run::Run;
use anyhow::Result;
use serde::Serialize;
use strata_core::metrics::bootstrap::Interval;
use strata_core::metrics::composition::{CompositionNull, CompositionReport};
use strata_core::metrics::stability::StabilityReport;
use strata_core::{Config, ROOT};

/// Share of the living children that must have a parent.
const UNDER_A_PARENT: f64 = 0.1;
/// Blocks of sequences that an interval needs: with fewer the bootstrap is unreliable, and with one it has no width.
const BLOCKS: usize = 8;
/// Margin by which the attachment must exceed that of the control: two draws of random parents differ by less than
/// this, and by more than the intervals over sequences suggest.
const ATTACHMENT_MARGIN: f64 = 0.1;
/// Share of the children found again whose parents must agree between seeds, by the lower end of the interval.
const AGREEMENT: f64 = 0.5;

/// The rule, as it is printed.
pub const RULE: &str = "\"Yes\" needs all of these. Families: at least one living child in ten has a parent. Attachment: \
    where children fire without the gate, (P(parent | child) - P(parent)) / (1 - P(parent)), a mean over edges, is above \
    that of shuffled families, and by a tenth above that of the control run, the same training with random parents from \
    the moment of gating. Reconstruction: behind the gate the control leaves more variance unexplained on the same rows. \
    Seeds: of the children that another seed of the same settings has found too, more have the same parent there than by \
    chance, and at least half. Intervals of 95 % must not touch what they are compared with. \"Partly\" needs attachment and \
    reconstruction, and seeds that agree beyond chance if they were compared; anything else is \"not shown\". Rows of fewer \
    than eight blocks of sequences have no intervals, and show nothing.";

/// The answer with its evidence.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Whether the hierarchy is real.
    pub answer: Answer,
    /// The answer and what is missing, as one sentence.
    pub sentence: String,
    /// How the answer follows from the inputs.
    pub rule: &'static str,
    /// The parts of the rule, in its order.
    pub inputs: Vec<Input>,
}

/// How well a hierarchy has been shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Answer {
    /// All parts of the rule hold.
    #[serde(rename = "yes")]
    Yes,
    /// It beats its control, but another part does not hold.
    #[serde(rename = "partly")]
    Partly,
    /// It does not beat its control, or there is none.
    #[serde(rename = "not shown")]
    NotShown,
    /// The model has no hierarchy.
    #[serde(rename = "none")]
    None,
}

/// One part of the rule.
#[derive(Clone, Debug, Serialize)]
pub struct Input {
    /// The comparison: `families`, `attachment`, `reconstruction` or `seeds`, and the bound.
    pub name: &'static str,
    /// The value of the run.
    pub value: f64,
    /// Lower end of its interval of 95 %; undefined where it has none.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The bound.
    pub bound: f64,
    /// Lower end of the interval of the bound; undefined where it has none.
    pub bound_low: f64,
    /// Upper end.
    pub bound_high: f64,
    /// Whether the run is on the right side; none if it was not measured.
    pub holds: Option<bool>,
    /// What is missing, in words; none if the part holds.
    pub missing: Option<String>,
}

/// The evidence for a verdict.
pub struct Evidence<'a> {
    /// Whether the model has two levels.
    pub two_levels: bool,
    /// Composition without the gate; none without families.
    pub composition: Option<&'a CompositionReport>,
    /// Composition of shuffled families.
    pub null: Option<&'a CompositionNull>,
    /// Intervals of the run.
    pub intervals: &'a Intervals,
    /// Scores of the control.
    pub control: Option<&'a ControlReport>,
    /// Agreement with another run.
    pub stability: Option<&'a StabilityReport>,
    /// The relation of that run to this one; none without one.
    pub seeds: Option<Seeds>,
    /// The origin of the parents.
    pub trained: Trained,
}

/// The relation of another run to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seeds {
    /// Another seed of the same settings.
    Other,
    /// The same seed.
    Same,
    /// Other settings, or unknown settings.
    Unlike,
}

/// Returns the relation of `other` to `run`, by their settings.
///
/// # Errors
/// If the settings of either cannot be read.
pub fn seeds(run: &Run, other: &Run) -> Result<Seeds> {
    let (Some(this), Some(other)) = (control::trained_with(&run.dir)?, control::trained_with(&other.dir)?) else {
        return Ok(Seeds::Unlike);
    };
    Ok(match (this.seed == other.seed, Config { seed: this.seed, ..other } == this) {
        (_, false) => Seeds::Unlike,
        (true, true) => Seeds::Same,
        (false, true) => Seeds::Other,
    })
}

/// The origin of the parents of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trained {
    /// The model was trained behind a gate over them.
    BehindThem,
    /// The model is a control.
    Control,
    /// By its settings it was trained without families, so they were computed afterwards.
    Without,
    /// The model has no settings.
    Unknown,
}

/// Returns the origin of the parents of `run`, by its settings.
///
/// # Errors
/// If they cannot be read.
pub fn trained(run: &Run) -> Result<Trained> {
    Ok(match control::trained_with(&run.dir)? {
        None => Trained::Unknown,
        Some(config) if control::settings_of(&config).is_some() => Trained::BehindThem,
        Some(config) if config.gate.shuffle => Trained::Control,
        Some(_) => Trained::Without,
    })
}

/// Returns the verdict.
pub fn of(e: &Evidence<'_>) -> Verdict {
    let none = |why: &str| Verdict {
        answer: Answer::None,
        sentence: format!("There is none: {why}."),
        rule: RULE,
        inputs: Vec::new(),
    };
    if !e.two_levels {
        return none("the model is flat, it has one level of latents");
    }
    let Some(composition) = e.composition else {
        return none("the model has two levels, but its children were given no parents");
    };
    let alive = composition.child.iter().filter(|c| c.fires >= strata_core::metrics::sparsity::ALIVE_TOKENS);
    let (mut living, mut edges) = (0usize, 0usize);
    alive.for_each(|c| (living, edges) = (living + 1, edges + usize::from(c.parent != ROOT)));
    if edges == 0 {
        return none("no living child has a parent");
    }
    let [beyond_chance, half] = between_seeds(e);
    // Without a second seed this part cannot fail.
    let is_refuted = beyond_chance.holds == Some(false);
    let inputs =
        vec![sequences(e), families(living, edges), shuffled(e), attachment(e), reconstruction(e), beyond_chance, half];
    let holds = |name: &str| inputs.iter().filter(|i| i.name.starts_with(name)).all(|i| i.holds == Some(true));
    let beats = holds("sequences") && holds("attachment") && holds("reconstruction");
    let answer = match (beats && !is_refuted, holds("families") && holds("seeds")) {
        (true, true) => Answer::Yes,
        (true, false) => Answer::Partly,
        (false, _) => Answer::NotShown,
    };
    let missing: Vec<&str> = inputs.iter().filter_map(|i| i.missing.as_deref()).collect();
    let sentence = match answer {
        Answer::Yes => {
            "Yes: it beats its control and shuffled families without the gate, and another seed has the same \
                        parents."
                .into()
        }
        Answer::Partly => format!("Partly: it beats its control, but {}.", missing.join("; ")),
        _ => format!("Not shown: {}.", missing.join("; ")),
    };
    Verdict { answer, sentence, rule: RULE, inputs }
}

/// Checks that there are enough blocks of sequences for an interval.
fn sequences(e: &Evidence<'_>) -> Input {
    let blocks = e.intervals.fvu2.blocks;
    let holds = blocks >= BLOCKS;
    let missing = (!holds).then(|| format!("the rows have {blocks} blocks of sequences, too few for an interval"));
    Input { missing, ..compared("sequences, in blocks", exact(blocks as f64), exact(BLOCKS as f64), Some(holds)) }
}

/// Checks that enough living children have a parent.
fn families(living: usize, edges: usize) -> Input {
    let value = edges as f64 / living as f64;
    let holds = value >= UNDER_A_PARENT;
    let missing = (!holds).then(|| format!("only {edges} of {living} living children have a parent"));
    Input { missing, ..compared("families", exact(value), exact(UNDER_A_PARENT), Some(holds)) }
}

/// Compares the attachment with that of shuffled families.
fn shuffled(e: &Evidence<'_>) -> Input {
    let own = e.intervals.edges.map_or(exact(f64::NAN), |i| i.attachment);
    let null = e.null.map_or(f64::NAN, |n| n.attachment.null_mean);
    let holds = own.low > null;
    let missing = (!holds).then(|| {
        format!(
            "without the gate children keep to their parents no more than in shuffled families ({})",
            of_two(&own, null)
        )
    });
    Input { missing, ..compared("attachment, against shuffled families", own, exact(null), Some(holds)) }
}

/// Compares the attachment with that of the control, with [`ATTACHMENT_MARGIN`].
fn attachment(e: &Evidence<'_>) -> Input {
    let own = e.intervals.edges.map_or(exact(f64::NAN), |i| i.attachment);
    let name = "attachment, against the control";
    let Some(control) = e.control else {
        let missing = match e.trained {
            Trained::BehindThem => "it has no control run (`strata train --control` trains one)",
            Trained::Control => "it is a control itself, its parents were drawn at random",
            Trained::Without => "it was trained without families, so that there can be no control",
            Trained::Unknown => "the model does not tell how it was trained, so that there can be no control",
        };
        return Input { missing: Some(missing.into()), ..compared(name, own, exact(f64::NAN), None) };
    };
    let other = control.edges.attachment;
    let holds = own.low > other.high + ATTACHMENT_MARGIN;
    let missing = (!holds).then(|| {
        format!(
            "without the gate children keep to their parents hardly more than those of the control keep to random ones ({})",
            of_two(&own, other.value)
        )
    });
    Input { missing, ..compared(name, own, other, Some(holds)) }
}

/// Compares the reconstruction behind the gate with that of the control, on the same rows.
fn reconstruction(e: &Evidence<'_>) -> Input {
    let name = "reconstruction, variance that the control leaves unexplained besides";
    // A missing control was reported above.
    let Some(control) = e.control else { return compared(name, exact(f64::NAN), exact(0.0), None) };
    let holds = control.fvu2_more.low > 0.0;
    let missing = (!holds).then(|| {
        format!(
            "random parents reconstruct as well (FVU2 {:.4} against {:.4}, a difference of {})",
            e.intervals.fvu2.value,
            control.fvu2.value,
            of_two(&control.fvu2_more, 0.0)
        )
    });
    Input { missing, ..compared(name, control.fvu2_more, exact(0.0), Some(holds)) }
}

/// Compares the parents with those of another seed: their agreement with chance, and with [`AGREEMENT`].
fn between_seeds(e: &Evidence<'_>) -> [Input; 2] {
    let names = ["seeds, against chance", "seeds, against a half"];
    let (Some(seeds), Some(stability)) = (e.seeds, e.stability) else {
        let [chance, half] = names.map(|name| compared(name, exact(f64::NAN), exact(f64::NAN), None));
        let missing = Some("no other seed was compared (`strata eval --against`)".into());
        return [Input { missing, ..chance }, half];
    };
    let parents = &stability.parents;
    let bounds = [parents.chance, AGREEMENT];
    let [chance, half] = [0, 1].map(|i| compared(names[i], parents.agreement, exact(bounds[i]), None));
    let unlike = match seeds {
        Seeds::Other => None,
        Seeds::Same => Some("the other run has the same seed"),
        Seeds::Unlike => Some("the other run is not another seed of the same settings"),
    };
    if let Some(why) = unlike {
        return [Input { missing: Some(why.into()), ..chance }, half];
    }
    if parents.pairs == 0 {
        let missing = Some("no child with a parent was found again by another seed".into());
        return [Input { holds: Some(false), missing, ..chance }, Input { holds: Some(false), ..half }];
    }
    let holds = bounds.map(|bound| parents.agreement.low > bound);
    let say =
        |i: usize, words: &str| (!holds[i]).then(|| format!("{words} ({})", of_two(&parents.agreement, bounds[i])));
    let by_chance = say(0, "another seed has the same parents for the same children no more than by chance");
    let less = say(1, "another seed has other parents for many of the same children").filter(|_| holds[0]);
    [
        Input { holds: Some(holds[0]), missing: by_chance, ..chance },
        Input { holds: Some(holds[1]), missing: less, ..half },
    ]
}

/// Makes an input from a value and the bound that it is compared with.
fn compared(name: &'static str, own: Interval, bound: Interval, holds: Option<bool>) -> Input {
    Input {
        name,
        value: own.value,
        low: own.low,
        high: own.high,
        bound: bound.value,
        bound_low: bound.low,
        bound_high: bound.high,
        holds,
        missing: None,
    }
}

/// Makes an input of a value without an interval.
fn exact(value: f64) -> Interval {
    let nan = f64::NAN;
    Interval { value, low: nan, high: nan, standard_error: nan, blocks: 0, undefined: 0 }
}

/// Formats a value with its interval, and what it is compared with.
fn of_two(own: &Interval, other: f64) -> String {
    format!("{:.3} [{:.3}, {:.3}] against {other:.3}", own.value, own.low, own.high)
}
