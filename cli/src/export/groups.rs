//! Contexts in which each latent fires weakly and strongly: random ones from groups of equal width, from 0 to its
//! largest activation.

use crate::eval::batches::Batch;
use crate::eval::strongest::Place;
use crate::eval::window::{Reach, Subject, around};
use anyhow::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Groups per latent, as in SAEDashboard.
pub const GROUPS: usize = 5;
/// Contexts per group, as in SAEDashboard.
const PLACES: usize = 5;

/// The activations of a latent that lie above `lower` and not above `upper`.
#[derive(Clone, Debug)]
pub struct Group {
    /// Lower end.
    pub lower: f32,
    /// Upper end.
    pub upper: f32,
    /// Rows on which the latent fires within the group.
    pub rows: u64,
    /// Random ones of them: those with the smallest pseudo-random numbers, with their contexts.
    drawn: Vec<(u64, Place)>,
}

impl Group {
    /// Returns the contexts, strongest first.
    pub fn places(&self) -> Vec<&Place> {
        let mut places: Vec<&Place> = self.drawn.iter().map(|(_, place)| place).collect();
        places.sort_by(|a, b| b.value.total_cmp(&a.value).then(a.row.cmp(&b.row)));
        places
    }
}

/// The groups of all latents of a level. Memory: at most 6 kB per latent that fires.
pub struct Groups {
    level: usize,
    reach: Reach,
    latents: Vec<Vec<Group>>,
}

/// Returns a pseudo-random number from a latent of a level and a row (the finaliser of SplitMix64). The contexts with
/// the smallest numbers of a group are kept, so that the choice does not depend on how the rows are divided into
/// batches.
fn draw(level: usize, latent: usize, row: u64) -> u64 {
    let mut x = (level as u64) << 62 ^ (latent as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ row;
    for factor in [0xbf58_476d_1ce4_e5b9u64, 0x94d0_49bb_1331_11eb, 0xbf58_476d_1ce4_e5b9] {
        x = (x ^ x >> 30).wrapping_mul(factor);
    }
    x ^ x >> 31
}

impl Groups {
    /// Makes empty groups for the latents of `level` (0 or 1) with these largest activations; a latent with 0, which
    /// never fires, has no groups.
    pub fn new(level: usize, reach: Reach, largest: impl Iterator<Item = f32>) -> Self {
        let edge = |max: f32, i: usize| if i == GROUPS { max } else { max * i as f32 / GROUPS as f32 };
        let group = |max: f32, i| Group { lower: edge(max, i), upper: edge(max, i + 1), rows: 0, drawn: Vec::new() };
        let of = |max: f32| if max > 0.0 { (0..GROUPS).map(|i| group(max, i)).collect() } else { Vec::new() };
        Self { level, reach, latents: largest.map(of).collect() }
    }

    /// Adds a batch.
    ///
    /// # Errors
    /// The codes of an encoder cause none.
    pub fn add(&mut self, batch: &Batch) -> Result<()> {
        let (level, reach) = (self.level, self.reach);
        let sequences: Vec<(u64, Range<usize>)> = batch.sequences().collect();
        let by_latent = batch.codes[level].view(self.latents.len())?.by_latent();
        self.latents.par_iter_mut().enumerate().for_each(|(j, groups)| {
            let fires: Vec<(u32, f32)> = by_latent.tokens(j).map(|(t, v)| (t as u32, v)).collect();
            let subject = Subject { latent: j as u32, fires: &fires, parents: &[] };
            let mut at = 0;
            for &(t, value) in &fires {
                let t = t as usize;
                // An end between two groups belongs to the lower one.
                let Some(group) = groups.iter_mut().find(|group| value <= group.upper && value > 0.0) else { continue };
                group.rows += 1;
                let number = draw(level, j, batch.rows[t]);
                let to = group.drawn.partition_point(|(other, _)| *other < number);
                if to == PLACES {
                    continue;
                }
                // Tokens ascend, and so do their sequences.
                while sequences[at].1.end <= t {
                    at += 1;
                }
                let (sequence, bounds) = &sequences[at];
                let row = batch.rows[t];
                let window = around(batch, bounds, row, reach, &subject);
                group.drawn.insert(to, (number, Place { value, row, window, sequence: *sequence }));
                group.drawn.truncate(PLACES);
            }
        });
        Ok(())
    }

    /// Returns the groups of a latent, those of the largest activations first; none if it never fires.
    pub fn of(&self, latent: usize) -> impl Iterator<Item = &Group> {
        self.latents[latent].iter().rev()
    }
}
