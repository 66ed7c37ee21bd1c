//! The latents, packed for the browser: an index that the map and the search read at once, and a line a latent that is
//! read when its page is opened.

use super::embed;
use crate::eval::latents::LatentRecord;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;

/// What goes into the page.
pub struct Atlas {
    /// The columns of all latents, as JSON.
    pub index: String,
    /// A line a latent, as JSON.
    pub records: String,
}

/// One column a field, one entry a latent; level 1 first.
#[derive(Serialize)]
struct Index<'a> {
    f1: usize,
    f2: usize,
    /// Every token text once; elsewhere tokens are places in it.
    strings: Vec<&'a str>,
    /// -1 for none.
    parent: Vec<i64>,
    fires: Vec<u64>,
    density: Vec<f64>,
    gain: Vec<Option<f64>>,
    containment: Vec<Option<f64>>,
    lift: Vec<Option<f64>>,
    coverage: Vec<Option<f64>>,
    exclusivity: Vec<Option<f64>>,
    /// What it fires on most, or promotes most if that is not known.
    top: Vec<Vec<usize>>,
}

/// What the index does not hold of a latent.
#[derive(Serialize)]
struct Line {
    mean: Option<f64>,
    max: Option<f64>,
    divergence: Option<f64>,
    tokens: Vec<(usize, f64)>,
    promotes: Vec<(usize, f64)>,
    suppresses: Vec<(usize, f64)>,
    neighbours: Vec<(u8, u32, f64)>,
    contexts: Vec<Place>,
}

#[derive(Serialize)]
struct Place {
    row: u64,
    peak: usize,
    /// Rows of the context.
    n: usize,
    /// Where it fires there, and how strongly.
    at: Vec<(usize, f64)>,
    /// Empty if the dump has no tokens.
    tokens: Vec<usize>,
}

/// Packs the records.
///
/// # Errors
/// If they cannot be written as JSON.
pub fn pack(records: &[LatentRecord]) -> Result<Atlas> {
    let mut places = BTreeMap::new();
    for r in records {
        places.extend([&r.tokens, &r.promotes, &r.suppresses].into_iter().flatten().map(|(t, _)| (t.as_str(), 0)));
        places.extend(r.contexts.iter().flat_map(|c| &c.tokens).map(|t| (t.as_str(), 0)));
    }
    let strings: Vec<&str> = places.keys().copied().collect();
    places.values_mut().enumerate().for_each(|(i, place)| *place = i);
    let place = |t: &str| places.get(t).copied().unwrap_or(0);
    let list = |list: &[(String, f64)]| list.iter().map(|(t, v)| (place(t), rounded(*v))).collect::<Vec<_>>();
    let column = |get: fn(&LatentRecord) -> Option<f64>| records.iter().map(|r| get(r).map(rounded)).collect();

    let index = Index {
        f1: records.iter().filter(|r| r.level == 1).count(),
        f2: records.iter().filter(|r| r.level == 2).count(),
        parent: records.iter().map(|r| r.parent.map_or(-1, i64::from)).collect(),
        fires: records.iter().map(|r| r.fires).collect(),
        density: records.iter().map(|r| rounded(r.density)).collect(),
        gain: column(|r| r.gain),
        containment: column(|r| r.containment),
        lift: column(|r| r.lift),
        coverage: column(|r| r.coverage),
        exclusivity: column(|r| r.exclusivity),
        top: records
            .iter()
            .map(|r| if r.tokens.is_empty() { &r.promotes } else { &r.tokens })
            .map(|known| known.iter().map(|(t, _)| place(t)).collect())
            .collect(),
        strings,
    };
    let mut lines = Vec::with_capacity(records.len());
    for r in records {
        let contexts = r.contexts.iter().map(|c| Place {
            row: c.row,
            peak: c.peak,
            n: c.values.len(),
            at: c
                .values
                .iter()
                .enumerate()
                .filter(|(_, v)| **v != 0.0)
                .map(|(i, v)| (i, rounded(f64::from(*v))))
                .collect(),
            tokens: c.tokens.iter().map(|t| place(t)).collect(),
        });
        lines.push(embed::json(&Line {
            mean: r.mean.map(rounded),
            max: r.max.map(rounded),
            divergence: r.divergence.map(rounded),
            tokens: list(&r.tokens),
            promotes: list(&r.promotes),
            suppresses: list(&r.suppresses),
            neighbours: r.neighbours.iter().map(|(level, j, cos)| (*level, *j, rounded(*cos))).collect(),
            contexts: contexts.collect(),
        })?);
    }
    Ok(Atlas { index: embed::json(&index)?, records: lines.join("\n") })
}

/// Four significant digits are what a page shows.
fn rounded(v: f64) -> f64 {
    format!("{v:.3e}").parse().unwrap_or(v)
}
