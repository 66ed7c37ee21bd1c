//! Conversion between `config.toml`, `--set` and [`Config`].

pub mod list;
pub mod preset;

use crate::files::read;
use anyhow::{Context, Result, anyhow, bail};
use std::path::Path;
use strata_core::Config;
use toml::{Table, Value};

/// Applies the file to `base`, then each `key=value`, then the seed.
///
/// # Errors
/// One sentence naming the file or flag and the key: one that is unknown (with the nearest known one), or a value of
/// the wrong type.
pub fn load(base: Config, file: Option<&Path>, sets: &[String], seed: Option<u64>) -> Result<Config> {
    let mut table = to_table(&base)?;
    if let Some(path) = file {
        let text = read::text(path, read::SMALL)?;
        merge(&mut table, &text, &path.display().to_string())?;
    }
    for set in sets {
        let Some((key, value)) = set.split_once('=') else {
            bail!("--set {set}: expected key=value");
        };
        let (key, value) = (key.trim(), value.trim());
        let value: Value = value.parse().unwrap_or_else(|_| number_or_word(value));
        put(&mut table, key, value, &format!("--set {set}"))?;
    }
    if let Some(seed) = seed {
        let Ok(seed) = i64::try_from(seed) else { bail!("--seed {seed}: expected at most {}", i64::MAX) };
        table.insert("seed".into(), Value::Integer(seed));
    }
    Value::Table(table).try_into().context("settings")
}

/// Returns the value of a text that is no TOML: a number without the digit that TOML wants on either side of the point, as in
/// `.3`, or else a bare word, so that `--set gate.kind=hard` needs no quotes.
fn number_or_word(value: &str) -> Value {
    let is_numeric = value.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+'));
    match value.parse() {
        Ok(number) if is_numeric => Value::Float(number),
        _ => Value::String(value.into()),
    }
}

/// Parses settings from the text of a file.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, name: &str) -> Result<Config> {
    let mut table = to_table(&Config::default())?;
    merge(&mut table, text, name)?;
    Value::Table(table).try_into().with_context(|| name.to_owned())
}

/// Returns every setting, defaults included, as TOML.
///
/// # Errors
/// If a number does not fit TOML.
pub fn to_toml(config: &Config) -> Result<String> {
    toml::to_string_pretty(config).context("writing the settings as TOML")
}

fn to_table(config: &Config) -> Result<Table> {
    match Value::try_from(config).context("settings as TOML")? {
        Value::Table(table) => Ok(table),
        other => bail!("settings are a {}", other.type_str()),
    }
}

fn merge(table: &mut Table, text: &str, name: &str) -> Result<()> {
    let given: Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(1, |at| text.bytes().take(at.start).filter(|b| *b == b'\n').count() + 1);
        anyhow!("{name}: line {line}: {}", one_line(e.message()))
    })?;
    let mut leaves = Vec::new();
    flatten("", &Value::Table(given), &mut leaves);
    for (key, value) in leaves {
        put(table, &key, value, name)?;
    }
    Ok(())
}

/// Replaces the value of a dotted key, which must exist.
fn put(table: &mut Table, key: &str, value: Value, origin: &str) -> Result<()> {
    let mut known = Vec::new();
    flatten("", &Value::Table(table.clone()), &mut known);
    let section = format!("{key}.");
    if matches!(&value, Value::Table(empty) if empty.is_empty()) && known.iter().any(|(k, _)| k.starts_with(&section)) {
        return Ok(());
    }
    let Some((_, old)) = known.iter().find(|(k, _)| k == key) else {
        return Err(unknown(origin, key, known.iter().map(|(k, _)| k.as_str())));
    };
    let value = match (old, value) {
        (Value::Float(_), Value::Integer(i)) => Value::Float(i as f64),
        (_, value) => value,
    };
    if value.type_str() != old.type_str() {
        bail!(
            "{origin}: setting `{key}`: expected {}, found {} `{value}`",
            article(old.type_str()),
            article(value.type_str())
        );
    }
    let mut at = &mut *table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            at.insert(part.into(), value);
            break;
        }
        match at.get_mut(part) {
            Some(Value::Table(inner)) => at = inner,
            _ => bail!("{origin}: `{part}` is no section"),
        }
    }
    // The value is checked at once, so that an error names its key.
    if let Err(error) = Value::Table(table.clone()).try_into::<Config>() {
        bail!("{origin}: setting `{key}`: {}", one_line(error.message()));
    }
    Ok(())
}

/// Returns the error of a key that is not in `known`, with the nearest key that is.
fn unknown<'a>(origin: &str, key: &str, known: impl Iterator<Item = &'a str>) -> anyhow::Error {
    let near = known.map(|k| {
        // The user may have forgotten its section.
        let last = k.rsplit('.').next().unwrap_or(k);
        (strsim::damerau_levenshtein(k, key).min(1 + strsim::damerau_levenshtein(last, key)), k)
    });
    match near.min() {
        Some((distance, near)) if distance <= key.len().div_ceil(2) => {
            anyhow!("{origin}: unknown setting `{key}`; did you mean `{near}`?")
        }
        _ => {
            anyhow!("{origin}: unknown setting `{key}`; `strata settings` lists all, as does the config.toml of a run")
        }
    }
}

/// Appends every value that is not a table, and every empty table, under its dotted key.
pub(crate) fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    if let Value::Table(table) = value
        && (prefix.is_empty() || !table.is_empty())
    {
        for (key, value) in table {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            flatten(&key, value, out);
        }
    } else {
        out.push((prefix.to_owned(), value.clone()));
    }
}

/// Joins the words of a message of several lines into one line.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the first setting in which two configurations differ, with both values.
pub fn difference(a: &Config, b: &Config) -> Result<Option<(String, Value, Value)>> {
    let (mut all_a, mut all_b) = (Vec::new(), Vec::new());
    flatten("", &Value::Table(to_table(a)?), &mut all_a);
    flatten("", &Value::Table(to_table(b)?), &mut all_b);
    let pairs = all_a.into_iter().zip(all_b);
    Ok(pairs.map(|((key, a), (_, b))| (key, a, b)).find(|(_, a, b)| a != b))
}

fn article(kind: &str) -> String {
    match kind {
        "integer" | "array" => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}
