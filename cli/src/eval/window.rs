//! The rows around a row on which a latent fires, with its activations and those of its children.

use super::batches::Batch;
use std::ops::Range;

/// Children that are kept per row, the strongest ones.
const CHILDREN: usize = 4;

/// The numbers of rows of a window around its central row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Most rows before it.
    pub before: u64,
    /// Most rows after it.
    pub after: u64,
}

/// Rows of one sequence around one of them. Rows are given by their offset in the window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// The first row, in the dump.
    pub first: u64,
    /// Number of rows; 0 for a window that has not been filled yet.
    pub length: usize,
    /// Rows on which the latent fires, ascending.
    pub at: Vec<u16>,
    /// Its activations there.
    pub values: Vec<f32>,
    /// For a parent: row, child and activation where its children fire, rows ascending, the strongest of a row first.
    pub children: Vec<(u16, u32, f32)>,
}

impl Window {
    /// Returns the activations of all rows of the window.
    pub fn dense(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.length];
        self.at.iter().zip(&self.values).for_each(|(at, v)| all[usize::from(*at)] = *v);
        all
    }
}

/// The latent whose windows are filled, within one batch.
pub struct Subject<'a> {
    /// Its index in its level.
    pub latent: u32,
    /// Rows of the batch on which it fires, ascending, with its activations.
    pub fires: &'a [(u32, f32)],
    /// The parent of each child, where the latent is a parent; empty otherwise.
    pub parents: &'a [u32],
}

/// Returns the window around `row`, within the rows `bounds` of the batch, which are one sequence. A row that is left
/// out has no activation in it.
pub fn around(batch: &Batch, bounds: &Range<usize>, row: u64, reach: Reach, subject: &Subject<'_>) -> Window {
    let first = batch.rows[bounds.start].max(row.saturating_sub(reach.before));
    let last = batch.rows[bounds.end - 1].min(row + reach.after);
    let from = subject.fires.partition_point(|(t, _)| batch.rows[*t as usize] < first);
    let own = subject.fires[from..].iter().take_while(|(t, _)| batch.rows[*t as usize] <= last);
    let place = |t: usize| (batch.rows[t] - first) as u16;
    let (at, values) = own.map(|(t, v)| (place(*t as usize), *v)).unzip();
    let mut children = Vec::new();
    if !subject.parents.is_empty() {
        let rows = &batch.rows[bounds.clone()];
        let start = bounds.start + rows.partition_point(|r| *r < first);
        for t in start..bounds.start + rows.partition_point(|r| *r <= last) {
            let code = batch.codes[1].row(t);
            let is_own = |(j, v): &(&u32, &f32)| subject.parents[**j as usize] == subject.latent && **v > 0.0;
            let mut fire: Vec<(u32, f32)> =
                code.index.iter().zip(code.value).filter(is_own).map(|(j, v)| (*j, *v)).collect();
            fire.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            children.extend(fire.into_iter().take(CHILDREN).map(|(j, v)| (place(t), j, v)));
        }
    }
    Window { first, length: (last - first + 1) as usize, at, values, children }
}
