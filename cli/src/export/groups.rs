//! Places where each latent fires weakly and strongly: groups of equal width from 0 to its largest activation.

use crate::eval::batches::Batch;
use crate::eval::strongest::Place;
use crate::eval::window::{Reach, Subject, around};
use anyhow::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Groups per latent, as in SAEDashboard.
pub const GROUPS: usize = 5;
/// Places per group, as in SAEDashboard.
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
    /// Some of them, drawn at random: the smallest numbers drawn, with their places.
    drawn: Vec<(u64, Place)>,
}

impl Group {
    /// The places, strongest first.
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

/// The number that row `row` draws for latent `latent` of a level: the smallest of a group are kept, so that what is
/// drawn does not depend on how rows are cut in batches (the finaliser of SplitMix64).
fn draw(level: usize, latent: usize, row: u64) -> u64 {
    let mut x = (level as u64) << 62 ^ (latent as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ row;
    for factor in [0xbf58_476d_1ce4_e5b9u64, 0x94d0_49bb_1331_11eb, 0xbf58_476d_1ce4_e5b9] {
        x = (x ^ x >> 30).wrapping_mul(factor);
    }
    x ^ x >> 31
}

impl Groups {
    /// Nothing seen yet of the codes `level` (0 or 1), whose latents have these largest activations; 0 for a latent that
    /// never fires, which has no groups.
    pub fn new(level: usize, reach: Reach, largest: impl Iterator<Item = f32>) -> Self {
        let edge = |max: f32, i: usize| if i == GROUPS { max } else { max * i as f32 / GROUPS as f32 };
        let group = |max: f32, i| Group { lower: edge(max, i), upper: edge(max, i + 1), rows: 0, drawn: Vec::new() };
        let of = |max: f32| if max > 0.0 { (0..GROUPS).map(|i| group(max, i)).collect() } else { Vec::new() };
        Self { level, reach, latents: largest.map(of).collect() }
    }

    /// Takes in a batch.
    ///
    /// # Errors
    /// None that an encoder's own codes could cause.
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

    /// The groups of a latent, those of the largest activations first; none if it never fires.
    pub fn of(&self, latent: usize) -> impl Iterator<Item = &Group> {
        self.latents[latent].iter().rev()
    }
}
