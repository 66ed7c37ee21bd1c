//! `labels.json`: names and notes that people give to latents, kept beside a run.

use crate::files::read;
use anyhow::{Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// The name of the file in a run.
pub const FILE: &str = "labels.json";
/// The required value of `format`.
const FORMAT: &str = "strata-labels";

/// A file of labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// `strata-labels`.
    pub format: String,
    /// 1.
    pub version: u32,
    /// The name of the run, for people.
    #[serde(default)]
    pub run: Option<String>,
    /// SHA-256 of the weights that the labels are of, if known.
    #[serde(default)]
    pub model: Option<String>,
    /// The labels, each of a different latent.
    pub labels: Vec<Label>,
}

/// A person's label of a latent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// 1 or 2.
    pub level: u8,
    /// Its index in its level.
    pub latent: u32,
    /// Its name.
    #[serde(default)]
    pub label: String,
    /// Notes.
    #[serde(default)]
    pub note: String,
}

/// The run whose labels are read.
pub struct Subject<'a> {
    /// Latents of each level.
    pub latents: [usize; 2],
    /// SHA-256 of its weights, if known.
    pub model: Option<&'a str>,
}

/// Reads a file of labels and compares it with the run.
///
/// # Errors
/// One sentence naming the file: if it is not such a file, names a latent that the run does not have, or one twice, or
/// belongs to other weights.
pub fn read(path: &Path, of: &Subject<'_>) -> Result<Vec<Label>> {
    let text = read::text(path, read::SMALL)?;
    let at = path.display();
    let file: Labels = serde_json::from_str(&text).map_err(|e| anyhow!("reading {at}: {e}"))?;
    ensure!(
        file.format == FORMAT && file.version == 1,
        "reading {at}: expected format \"{FORMAT}\" and version 1, found \"{}\" and {}",
        file.format,
        file.version
    );
    if let (Some(theirs), Some(ours)) = (&file.model, of.model) {
        ensure!(
            theirs == ours,
            "reading {at}: its labels are of other weights than those of the run; move it away, or take `model` out of it \
             to use its labels all the same"
        );
    }
    let mut seen = BTreeSet::new();
    for Label { level, latent, .. } in &file.labels {
        let known = match level {
            1 => of.latents[0],
            2 => of.latents[1],
            _ => 0,
        };
        ensure!(
            (*latent as usize) < known,
            "reading {at}: latent {level}/{latent}: expected a latent of the run, which has {} and {}",
            of.latents[0],
            of.latents[1]
        );
        ensure!(seen.insert((*level, *latent)), "reading {at}: latent {level}/{latent}: it has two labels");
    }
    Ok(file.labels)
}
