//! The strongest contexts of each latent of a level, a random sample of all its contexts, a histogram of its
//! activations, and its tokens, in one pass and bounded memory.

use super::bars::Bars;
use super::batches::Batch;
use super::window::{Reach, Subject, Window, around};
use anyhow::Result;
use std::ops::Range;

/// Strongest contexts that are kept per latent.
const PLACES: usize = 10;
/// Random contexts that are kept per latent.
const DRAWN: usize = 24;
/// Tokens that are counted per latent: the counts are exact where it fires on no more different ones.
const TOKENS: usize = 128;

/// One context in which a latent fires.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Its activation there.
    pub value: f32,
    /// Row of the dump.
    pub row: u64,
    /// The surrounding rows.
    pub window: Window,
    pub(crate) sequence: u64,
}

/// Statistics of one latent.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Rows on which it fires.
    pub fires: u64,
    /// The sum of its activations.
    pub mass: f64,
    /// Histogram of its activations.
    pub bars: Bars,
    /// Strongest first, at most one per sequence; of equal ones the earlier.
    pub places: Vec<Place>,
    /// Contexts drawn with equal probability from all, in the order of the draw, independently of their values; of
    /// contexts whose windows overlap only one.
    pub drawn: Vec<(u64, Place)>,
    tokens: Counted,
}

impl Seen {
    /// Tokens with the largest shares of its activation, largest first; see [`Counted`].
    pub fn tokens(&self) -> Vec<(u32, f64)> {
        let mut tokens = self.tokens.0.clone();
        tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        tokens.into_iter().map(|(token, mass)| (token, mass / self.mass)).collect()
    }

    /// Returns whether a context with this activation is among the strongest so far.
    fn is_strong(&self, value: f32) -> bool {
        self.places.len() < PLACES || value > self.places[PLACES - 1].value
    }

    /// Returns whether a context is drawn: those with the lowest numbers are.
    fn is_drawn(&self, number: u64) -> bool {
        self.drawn.len() < DRAWN || number < self.drawn[DRAWN - 1].0
    }

    /// Adds a context to the strongest.
    fn add_strong(&mut self, place: Place) {
        if let Some(same) = self.places.iter().position(|p| p.sequence == place.sequence) {
            if place.value <= self.places[same].value {
                return;
            }
            self.places.remove(same);
        }
        let at = self.places.partition_point(|p| p.value >= place.value);
        self.places.insert(at, place);
        self.places.truncate(PLACES);
    }

    /// Adds a context that is drawn.
    fn add_drawn(&mut self, number: u64, place: Place, reach: Reach) {
        let overlaps =
            |p: &Place| p.sequence == place.sequence && p.row.abs_diff(place.row) <= reach.before + reach.after;
        if self.drawn.iter().any(|(other, p)| overlaps(p) && *other <= number) {
            return;
        }
        self.drawn.retain(|(_, p)| !overlaps(p));
        let at = self.drawn.partition_point(|(other, _)| *other <= number);
        self.drawn.insert(at, (number, place));
        self.drawn.truncate(DRAWN);
    }
}

/// Returns a pseudo-random number from a latent and a row (the finaliser of SplitMix64).
fn number(latent: usize, row: u64) -> u64 {
    let mut z = row.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (latent as u64).wrapping_mul(0xd1b5_4a32_d192_ed03);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Sums of values by token, for at most [`TOKENS`] tokens: a new token replaces the one with the smallest sum and
/// inherits that sum (Metwally, Agrawal and El Abbadi 2005). A sum is too high by at most `total / TOKENS`.
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
        // Frequent tokens move to the front, where they are found at once.
        if at > 0 && self.0[at].1 > self.0[at - 1].1 {
            self.0.swap(at, at - 1);
        }
    }
}

/// All latents of a level. Memory: 3 kB per latent for its tokens and bars, and for each of its 34 contexts 120 bytes,
/// 6 for each surrounding row on which it fires and 12 for each child that fires there: some 8 kB where few do. With
/// the windows of `strata eval` at most 37 kB, and 270 kB for a parent.
pub struct Strongest<'a> {
    /// The level of the codes, 0 or 1.
    level: usize,
    reach: Reach,
    /// The parent of each child, if the windows of parents include their children.
    parents: &'a [u32],
    /// `[latents]`.
    pub latents: Vec<Seen>,
}

impl<'a> Strongest<'a> {
    /// Makes empty statistics of `level` (0 or 1).
    pub fn new(level: usize, latents: usize, reach: Reach) -> Self {
        Self { level, reach, parents: &[], latents: vec![Seen::default(); latents] }
    }

    /// Includes the children of `parents` in the windows of level 1.
    pub fn with_children(self, parents: &'a [u32]) -> Self {
        Self { parents: if self.level == 0 { parents } else { &[] }, ..self }
    }

    /// Adds a batch; `tokens` are those of the whole dump.
    ///
    /// # Errors
    /// The codes of an encoder cause none.
    pub fn add(&mut self, batch: &Batch, tokens: Option<&[u32]>) -> Result<()> {
        let sequences: Vec<(u64, Range<usize>)> = batch.sequences().collect();
        let by_latent = batch.codes[self.level].view(self.latents.len())?.by_latent();
        let mut fires: Vec<(u32, f32)> = Vec::new();
        let Self { reach, parents, latents, .. } = self;
        for (j, seen) in latents.iter_mut().enumerate() {
            fires.clear();
            fires.extend(by_latent.tokens(j).map(|(t, v)| (t as u32, v)));
            if fires.is_empty() {
                continue;
            }
            let mut at = 0;
            for &(t, value) in &fires {
                let t = t as usize;
                let row = batch.rows[t];
                seen.fires += 1;
                seen.mass += f64::from(value);
                seen.bars.add(value);
                if let Some(tokens) = tokens {
                    seen.tokens.add(tokens[row as usize], f64::from(value));
                }
                let number = number(j, row);
                let (is_strong, is_drawn) = (seen.is_strong(value), seen.is_drawn(number));
                if !is_strong && !is_drawn {
                    continue;
                }
                // Rows ascend, and so do their sequences.
                while sequences[at].1.end <= t {
                    at += 1;
                }
                let place = Place { value, row, window: Window::default(), sequence: sequences[at].0 };
                if is_drawn {
                    seen.add_drawn(number, place.clone(), *reach);
                }
                if is_strong {
                    seen.add_strong(place);
                }
            }
            // Only contexts that remain at the end of the batch need their windows.
            let subject = Subject { latent: j as u32, fires: &fires, parents };
            let places = seen.places.iter_mut().chain(seen.drawn.iter_mut().map(|(_, place)| place));
            for place in places.filter(|p| p.window.length == 0) {
                let bounds = &sequences[(place.sequence - batch.sequence) as usize].1;
                place.window = around(batch, bounds, place.row, *reach, &subject);
            }
        }
        Ok(())
    }
}
