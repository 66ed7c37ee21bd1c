//! Of each latent of a level: its strongest places in the text, a fair sample of all its places, how strong it is, its
//! tokens. One pass, bounded memory.

use super::bars::Bars;
use super::batches::Batch;
use super::window::{Reach, Subject, Window, around};
use anyhow::Result;
use std::ops::Range;

/// Places a latent.
const PLACES: usize = 10;
/// Places that are drawn at random from all on which a latent fires.
const DRAWN: usize = 24;
/// Tokens that are counted a latent: exact where it fires on no more different ones.
const TOKENS: usize = 128;

/// One place where a latent fires.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Its activation there.
    pub value: f32,
    /// Row of the dump.
    pub row: u64,
    /// The rows around.
    pub window: Window,
    pub(crate) sequence: u64,
}

/// What is known of one latent.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Rows on which it fires.
    pub fires: u64,
    /// The sum of its activations.
    pub mass: f64,
    /// How strong it is where it fires.
    pub bars: Bars,
    /// Strongest first, at most one a sequence; of equal ones the earlier.
    pub places: Vec<Place>,
    /// Places drawn from all with equal chance, in the order of the draw, which none of the values decides; of places whose
    /// windows overlap only one.
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

    /// Whether a place with this activation is among the strongest so far.
    fn is_strong(&self, value: f32) -> bool {
        self.places.len() < PLACES || value > self.places[PLACES - 1].value
    }

    /// Whether a place is drawn: the places with the lowest numbers are.
    fn is_drawn(&self, number: u64) -> bool {
        self.drawn.len() < DRAWN || number < self.drawn[DRAWN - 1].0
    }

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

/// Returns a number that looks random, from a latent and a row (the finaliser of SplitMix64).
fn number(latent: usize, row: u64) -> u64 {
    let mut z = row.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (latent as u64).wrapping_mul(0xd1b5_4a32_d192_ed03);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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

/// All latents of a level. Memory: 3 kB a latent for its tokens and bars, and for each of its 34 places 120 bytes, 6 for each
/// row around on which it fires and 12 for each child that fires there: some 8 kB where few do. With the windows of
/// `strata eval` at most 37 kB, and 270 kB for a parent.
pub struct Strongest<'a> {
    /// 0 or 1: which of the codes.
    level: usize,
    reach: Reach,
    /// The parent of each child, if the windows of parents have their children.
    parents: &'a [u32],
    /// `[latents]`.
    pub latents: Vec<Seen>,
}

impl<'a> Strongest<'a> {
    /// Of the codes `level` (0 or 1), nothing seen yet.
    pub fn new(level: usize, latents: usize, reach: Reach) -> Self {
        Self { level, reach, parents: &[], latents: vec![Seen::default(); latents] }
    }

    /// The same, with the children of `parents` in the windows of level 1.
    pub fn with_children(self, parents: &'a [u32]) -> Self {
        Self { parents: if self.level == 0 { parents } else { &[] }, ..self }
    }

    /// Takes in a batch; `tokens` are those of the whole dump.
    ///
    /// # Errors
    /// None that an encoder's own codes could cause.
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
                // Tokens ascend, and so do their sequences.
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
            // Only what is left at the end of the batch needs its window.
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
