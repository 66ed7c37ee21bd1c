//! Runs that the user defines: settings that all share, and `[[run]]` or `[grid]`.
//!
//! ```toml
//! base = "wide"                         # the row that the others are compared with [default: the first]
//! level1.latents = 512                  # any setting of a run
//!
//! [[run]]
//! name = "wide"
//! set = { level2.latents = 8192 }
//!
//! [grid]                                # every combination of these
//! "gate.kind" = ["none", "hard"]
//! "level1.k" = [4, 8]
//! ```

use super::plan::{Row, Suite};
use crate::files::read;
use crate::settings;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::Path;
use strata_core::Config;
use toml::{Table, Value};

/// The name of the suite of user-defined runs.
const NAME: &str = "sweep";
/// The largest number of rows of a grid.
const MOST: usize = 10_000;

/// A `[[run]]` of the file: the name of its row, and its settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnRun {
    name: String,
    #[serde(default)]
    set: Table,
}

/// Returns the settings that all runs share, and the suite of the file, if it has one.
///
/// # Errors
/// One sentence naming the file and the key.
pub fn read(base: Config, file: Option<&Path>, sets: &[String]) -> Result<(Config, Option<Suite>)> {
    let Some(path) = file else { return Ok((settings::load(base, None, sets, None)?, None)) };
    let name = path.display().to_string();
    let text = read::text(path, read::SMALL)?;
    let mut table: Table = text.parse().with_context(|| name.clone())?;
    let base_row = match table.remove("base") {
        None => None,
        Some(Value::String(row)) => Some(row),
        Some(other) => bail!("{name}: `base`: expected the name of a row, found {other}"),
    };
    let runs: Vec<OwnRun> = match table.remove("run") {
        None => Vec::new(),
        Some(runs) => runs.try_into().with_context(|| format!("{name}: `run`"))?,
    };
    let grid = match table.remove("grid") {
        None => Table::new(),
        Some(Value::Table(grid)) => grid,
        Some(other) => bail!("{name}: `grid`: expected a table of lists, found {other}"),
    };
    let shared = [sets_of(&table), sets.to_vec()].concat();
    let base = settings::load(base, None, &shared, None).with_context(|| name.clone())?;

    let mut rows = Vec::new();
    for run in runs {
        let config = settings::load(base.clone(), None, &sets_of(&run.set), None)
            .with_context(|| format!("{name}: run `{}`", run.name))?;
        rows.push(Row { name: run.name, config, is_reference: false });
    }
    for sets in combinations(&grid).with_context(|| format!("{name}: `grid`"))? {
        let row = sets.join(", ");
        let config = settings::load(base.clone(), None, &sets, None).with_context(|| format!("{name}: `grid`"))?;
        rows.push(Row { name: row, config, is_reference: false });
    }
    for (i, row) in rows.iter().enumerate() {
        if rows[..i].iter().any(|r| r.name == row.name) {
            bail!("{name}: two rows are called `{}`", row.name);
        }
    }
    let at = match &base_row {
        None => 0,
        Some(wanted) => match rows.iter().position(|r| r.name == *wanted) {
            Some(at) => at,
            None => bail!("{name}: `base`: no row is called `{wanted}`"),
        },
    };
    let suite = (!rows.is_empty()).then(|| Suite { name: NAME.into(), rows, base: at });
    Ok((base, suite))
}

/// Flattens a table of settings, nested or with dotted keys, to `key=value`.
fn sets_of(table: &Table) -> Vec<String> {
    let mut leaves = Vec::new();
    settings::flatten("", &Value::Table(table.clone()), &mut leaves);
    leaves.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

/// Returns every combination of the grid's values, the last key changing fastest.
fn combinations(grid: &Table) -> Result<Vec<Vec<String>>> {
    let mut axes = Vec::new();
    settings::flatten("", &Value::Table(grid.clone()), &mut axes);
    if axes.is_empty() {
        return Ok(Vec::new());
    }
    let mut all: Vec<Vec<String>> = vec![Vec::new()];
    for (key, values) in axes {
        let values = match values {
            Value::Array(values) if !values.is_empty() => values,
            other => bail!("`{key}`: expected a list of values, found {other}"),
        };
        if all.len() * values.len() > MOST {
            bail!("more than {MOST} combinations");
        }
        all =
            all.iter().flat_map(|done| values.iter().map(|v| [&done[..], &[format!("{key}={v}")]].concat())).collect();
    }
    Ok(all)
}
