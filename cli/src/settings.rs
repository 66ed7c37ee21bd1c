//! From `config.toml` and `--set` to a [`Config`], and back.

use anyhow::{Context, Result, bail};
use std::path::Path;
use strata_core::Config;
use toml::{Table, Value};

/// Defaults, then the file, then each `key=value`, then the seed.
///
/// # Errors
/// One sentence naming the file or flag and the key: one that is unknown (with the nearest known one), or a value of
/// the wrong type.
pub fn load(base: Config, file: Option<&Path>, sets: &[String], seed: Option<u64>) -> Result<Config> {
    let mut table = to_table(&base)?;
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        merge(&mut table, &text, &path.display().to_string())?;
    }
    for set in sets {
        let Some((key, value)) = set.split_once('=') else {
            bail!("--set {set}: expected key=value");
        };
        let (key, value) = (key.trim(), value.trim());
        // A bare word is a string, so that `--set gate.kind=hard` needs no quotes.
        let value: Value = value.parse().unwrap_or_else(|_| Value::String(value.into()));
        put(&mut table, key, value, &format!("--set {set}"))?;
    }
    if let Some(seed) = seed {
        let Ok(seed) = i64::try_from(seed) else { bail!("--seed {seed}: expected at most {}", i64::MAX) };
        table.insert("seed".into(), Value::Integer(seed));
    }
    Value::Table(table).try_into().context("settings")
}

/// Settings from the text of a file.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, name: &str) -> Result<Config> {
    let mut table = to_table(&Config::default())?;
    merge(&mut table, text, name)?;
    Value::Table(table).try_into().with_context(|| name.to_owned())
}

/// Every setting, defaults included.
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
    let given: Table = text.parse().with_context(|| name.to_owned())?;
    let mut leaves = Vec::new();
    flatten("", &Value::Table(given), &mut leaves);
    for (key, value) in leaves {
        put(table, &key, value, name)?;
    }
    Ok(())
}

/// Replaces the value of a dotted key that must be there already.
fn put(table: &mut Table, key: &str, value: Value, origin: &str) -> Result<()> {
    let mut known = Vec::new();
    flatten("", &Value::Table(table.clone()), &mut known);
    let Some((_, old)) = known.iter().find(|(k, _)| k == key) else {
        let near = known.iter().map(|(k, _)| (strsim::damerau_levenshtein(k, key), k)).min();
        match near {
            Some((distance, near)) if distance <= near.len().max(key.len()) / 2 => {
                bail!("{origin}: unknown setting `{key}`; did you mean `{near}`?")
            }
            _ => bail!("{origin}: unknown setting `{key}`; every setting stands in the config.toml of a run"),
        }
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
    // Checked at once, so that a bad choice is reported with its key.
    if let Err(error) = Value::Table(table.clone()).try_into::<Config>() {
        bail!("{origin}: setting `{key}`: {}", error.message().trim());
    }
    Ok(())
}

/// Appends every value that is no table under its dotted key.
pub(crate) fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    if let Value::Table(table) = value {
        for (key, value) in table {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            flatten(&key, value, out);
        }
    } else {
        out.push((prefix.to_owned(), value.clone()));
    }
}

fn article(kind: &str) -> String {
    match kind {
        "integer" | "array" => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}
