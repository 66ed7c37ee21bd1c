//! The notes before the numbers of a report: which rows were evaluated, what was left out, and warnings.

use super::embed;
use super::number::{count, show};
use serde_json::Value;

/// Returns sentences as HTML: the rows of the numbers, and the warnings of the training and the evaluation.
pub fn notes(eval: Option<&Value>, info: Option<&Value>) -> Vec<String> {
    let training = info.and_then(Value::as_object).and_then(|all| all.values().next());
    let mut notes = Vec::from_iter(eval.and_then(rows));
    let mut warnings: Vec<&str> = Vec::new();
    for all in [training, eval].into_iter().flatten() {
        warnings.extend(all["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str));
    }
    // The evaluation often repeats warnings of the training.
    let mut said: Vec<&str> = Vec::new();
    for warning in warnings {
        if !said.contains(&warning) {
            notes.push(format!("<b>Warning</b>: {}.", embed::text(warning)));
            said.push(warning);
        }
    }
    notes
}

fn rows(eval: &Value) -> Option<String> {
    let tokens = eval.pointer("/fidelity/tokens")?.as_u64()?;
    let held_out = eval["held_out"].as_bool()?;
    let mut all = format!("The numbers are those of {}", count(tokens, if held_out { "held-out row" } else { "row" }));
    if !held_out {
        all.push_str(", those of the training among them");
    }
    if let Some(passes) = eval["passes"].as_f64() {
        all.push_str(&format!("; training went {} times over the rows it has", show(passes)));
    }
    all.push('.');
    let at = |pointer: &str| eval.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let left_out = at("/left_out/over_limit") + at("/left_out/named");
    if left_out > 0 {
        let fvu =
            |level: usize| eval["left_out"]["fvu_of_all"][level].as_f64().map_or_else(|| "undefined".into(), show);
        let verb = if left_out == 1 { "is" } else { "are" };
        all.push_str(&format!(
            " {} {verb} left out, as in training; with them FVU would be {} and {}.",
            count(left_out, "row"),
            fvu(0),
            fvu(1)
        ));
    }
    if let (Some(asked), Some(found)) = (eval["asked_l0"].as_array(), eval.pointer("/level1/l0_mean")) {
        let pairs = [Some(found), eval.pointer("/level2/l0_mean")];
        let of = |(asked, found): (&Value, Option<&Value>)| {
            Some(format!("{} (asked for {})", show(found?.as_f64()?), show(asked.as_f64()?)))
        };
        let levels: Vec<String> = asked.iter().zip(pairs).filter_map(of).collect();
        all.push_str(&format!(" Latents that fire per row: {}.", levels.join(" and ")));
    }
    if let Some(other) = eval["against"].as_str() {
        all.push_str(&format!(" The other run that was compared with is {}.", embed::text(other)));
    }
    Some(all)
}
