//! The settings with default, range and meaning: as a table for the terminal, as JSON, and as `docs/settings.md`.

use super::preset::Preset;
use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value as Json, json};
use std::fmt::Write;
use strata_core::Config;
use strata_core::config::{Allowed, Section, Setting, Value};

/// Width of the table in the terminal.
const WIDTH: usize = 110;
/// Widest range that is printed on one line.
const RANGE: usize = 26;

/// Returns the settings that `keys` name, each a setting or a section, with their defaults; all of them if there are none.
///
/// # Errors
/// For a key that names nothing, with the nearest one that does.
pub fn select(keys: &[String]) -> Result<Vec<Section>> {
    let mut sections = Config::default().sections();
    let names: Vec<&str> = sections.iter().map(|s| s.name).filter(|n| !n.is_empty()).collect();
    let settings = sections.iter().flat_map(|s| &s.settings).map(|s| s.key.as_str());
    let known: Vec<&str> = names.iter().copied().chain(settings).collect();
    if let Some(key) = keys.iter().find(|k| !known.contains(&k.as_str())) {
        return Err(super::unknown("settings", key, known.into_iter()));
    }
    if !keys.is_empty() {
        for section in &mut sections {
            if !keys.iter().any(|k| k == section.name) {
                section.settings.retain(|s| keys.contains(&s.key));
            }
        }
        sections.retain(|s| !s.settings.is_empty());
    }
    Ok(sections)
}

/// Formats the settings as an aligned table, section by section.
pub fn table(sections: &[Section]) -> String {
    let every = || sections.iter().flat_map(|s| &s.settings);
    let key = every().map(|s| s.key.len()).max().unwrap_or(0);
    let default = every().map(|s| s.value.to_string().len()).max().unwrap_or(0).max("default".len());
    let meaning = WIDTH - (key + default + RANGE + 6);
    let mut out = String::new();
    let mut line = |cells: [&str; 4]| {
        let text = format!("{:<key$}  {:<default$}  {:<RANGE$}  {}", cells[0], cells[1], cells[2], cells[3]);
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(["setting", "default", "range", "meaning"]);
    for section in sections {
        line([""; 4]);
        for setting in &section.settings {
            let ranges = wrap(&setting.allowed.to_string(), RANGE);
            let meanings = wrap(setting.meaning, meaning);
            let value = setting.value.to_string();
            for i in 0..ranges.len().max(meanings.len()) {
                let cell = |lines: &[String]| lines.get(i).cloned().unwrap_or_default();
                let [first, second] = if i == 0 { [setting.key.as_str(), &value] } else { [""; 2] };
                line([first, second, &cell(&ranges), &cell(&meanings)]);
            }
        }
    }
    out
}

/// Returns an array with an object per setting: `key`, `default`, `meaning`, and `choices` or `low` and `high`, which are
/// null where there is no limit.
pub fn json(sections: &[Section]) -> Json {
    let finite = |x: f64| if x.is_finite() { json!(x) } else { Json::Null };
    let object = |s: &Setting| {
        let default = match s.value {
            Value::Switch(value) => json!(value),
            Value::Integer(value) => json!(value),
            Value::Number(value) => json!(value),
            Value::Word(value) => json!(value),
            // Defaults are empty.
            Value::List(n) => json!(vec![Json::Null; n]),
        };
        let mut object = json!({ "key": s.key, "default": default, "range": s.allowed.to_string() });
        match &s.allowed {
            Allowed::Switch => object["choices"] = json!([true, false]),
            Allowed::Choice(words) => object["choices"] = json!(words),
            Allowed::Integer(range) => {
                object["low"] = json!(range.start());
                object["high"] =
                    Some(range.end()).filter(|high| **high != u64::MAX).map_or(Json::Null, |high| json!(high));
            }
            Allowed::Number(range) => {
                object["low"] = finite(*range.start());
                object["high"] = finite(*range.end());
            }
            Allowed::Tokens => {}
        }
        object["meaning"] = json!(s.meaning);
        object
    };
    sections.iter().flat_map(|s| &s.settings).map(object).collect()
}

/// Formats the settings as `docs/settings.md`.
pub fn markdown(sections: &[Section]) -> String {
    let mut out = String::from(
        "# Settings

Every setting of a run, with its default, its range and its meaning. A run takes them from the file of `--config`, then from
each `--set KEY=VALUE`, as in `--set gate.kind=none`; what is left out has its default, or the value of the `--preset`. The
`config.toml` of a run holds all of them as they were used. `strata settings` prints this list, `strata settings gate` a section of it, and
`strata settings --markdown` this page.
",
    );
    for preset in Preset::value_variants() {
        let _ = write!(out, "\n`--preset {}`: {}.\n", preset.name(), preset.text());
    }
    for section in sections {
        let title = if section.name.is_empty() { "Top level".into() } else { format!("`[{}]`", section.name) };
        let _ = write!(out, "\n## {title}\n\n{}\n\n", section.meaning);
        out.push_str("| setting | default | range | meaning |\n|---|---|---|---|\n");
        for s in &section.settings {
            let range = match &s.allowed {
                Allowed::Choice(words) => words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "),
                other => other.to_string(),
            };
            let _ = writeln!(out, "| `{}` | {} | {range} | {} |", s.key, s.value, s.meaning);
        }
    }
    out
}

/// Breaks a text between words into lines of at most `width` characters; a longer word has a line of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}
