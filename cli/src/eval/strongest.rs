//! Of each latent of a level: its strongest places in the text, its tokens, its mean. One pass, bounded memory.

use super::batches::Batch;
use anyhow::Result;
use std::ops::Range;

/// Places a latent.
const PLACES: usize = 10;
/// Rows before the one that fires, and after it, of the same sequence.
const BEFORE: usize = 28;
const AFTER: usize = 12;
/// Tokens that are counted a latent: exact where it fires on no more different ones.
const TOKENS: usize = 128;

/// One place where a latent fires.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Its activation there.
    pub value: f32,
    /// Row of the dump.
    pub row: u64,
    /// First row of `around`.
    pub first: u64,
    /// Activations on the rows around.
    pub around: Vec<f32>,
    sequence: u64,
}

/// What is known of one latent.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Rows on which it fires.
    pub fires: u64,
    /// The sum of its activations.
    pub mass: f64,
    /// Strongest first, at most one a sequence; of equal ones the earlier.
    pub places: Vec<Place>,
    tokens: Counted,
}

impl Seen {
    /// Tokens with the largest shares of its activation, largest first; see [`Counted`].
    pub fn tokens(&self) -> Vec<(u32, f64)> {
        let mut tokens = self.tokens.0.clone();
        tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        tokens.into_iter().map(|(token, mass)| (token, mass / self.mass)).collect()
    }
}

/// Sums of values by token, of at most [`TOKENS`] tokens: a new one takes the place of the smallest, and its sum (Metwally,
/// Agrawal and El Abbadi 2005). A sum is too high by `total / TOKENS` at most.
#[derive(Clone, Debug, Default)]
struct Counted(Vec<(u32, f64)>);

impl Counted {
    fn add(&mut self, token: u32, value: f64) {
        let found = self.0.iter().position(|(t, _)| *t == token);
        let at = match found {
            Some(at) => at,
            None if self.0.len() < TOKENS => {
                self.0.push((token, 0.0));
                self.0.len() - 1
            }
            None => {
                let smallest = |best: usize, i: usize| if self.0[i].1 < self.0[best].1 { i } else { best };
                let at = (1..TOKENS).fold(0, smallest);
                self.0[at].0 = token;
                at
            }
        };
        self.0[at].1 += value;
        // What is met often moves to the front, where it is found at once.
        if at > 0 && self.0[at].1 > self.0[at - 1].1 {
            self.0.swap(at, at - 1);
        }
    }
}

/// All latents of a level. Memory: 4 kB a latent that fires, at most.
pub struct Strongest {
    /// 0 or 1: which of the codes.
    level: usize,
    /// `[latents]`.
    pub latents: Vec<Seen>,
}

impl Strongest {
    /// Of the codes `level` (0 or 1), nothing seen yet.
    pub fn new(level: usize, latents: usize) -> Self {
        Self { level, latents: vec![Seen::default(); latents] }
    }

    /// Takes in a batch; `tokens` are those of the whole dump.
    ///
    /// # Errors
    /// None that an encoder's own codes could cause.
    pub fn add(&mut self, batch: &Batch, tokens: Option<&[u32]>) -> Result<()> {
        let codes = &batch.codes[self.level];
        let sequences: Vec<(u64, Range<usize>)> = batch.sequences().collect();
        let by_latent = codes.view(self.latents.len())?.by_latent();
        for (j, seen) in self.latents.iter_mut().enumerate() {
            let mut at = 0;
            for (t, value) in by_latent.tokens(j) {
                let row = batch.rows[t];
                seen.fires += 1;
                seen.mass += f64::from(value);
                if let Some(tokens) = tokens {
                    seen.tokens.add(tokens[row as usize], f64::from(value));
                }
                if seen.places.len() == PLACES && value <= seen.places[PLACES - 1].value {
                    continue;
                }
                // Tokens ascend, and so do their sequences.
                while sequences[at].1.end <= t {
                    at += 1;
                }
                let (sequence, rows) = &sequences[at];
                if let Some(same) = seen.places.iter().position(|p| p.sequence == *sequence) {
                    if value <= seen.places[same].value {
                        continue;
                    }
                    seen.places.remove(same);
                }
                let first = batch.rows[rows.start].max(row.saturating_sub(BEFORE as u64));
                let last = batch.rows[rows.end - 1].min(row + AFTER as u64);
                let around = (first..=last).map(|row| {
                    // A row that is left out has no activation here.
                    let Ok(t) = batch.rows.binary_search(&row) else { return 0.0 };
                    let code = codes.row(t);
                    code.index.iter().position(|i| *i as usize == j).map_or(0.0, |at| code.value[at].max(0.0))
                });
                let around = around.collect();
                let place = Place { value, row, first, around, sequence: *sequence };
                let at = seen.places.partition_point(|p| p.value >= value);
                seen.places.insert(at, place);
                seen.places.truncate(PLACES);
            }
        }
        Ok(())
    }
}
