//! Profiles: how the activation of a latent is distributed over words.

use super::*;
use crate::error::At;
use crate::rng::mix;

/// Marks a token without a word, as before the first token of a context and after the last one.
pub const NO_WORD: u32 = u32::MAX;
/// Most cells, latents times words (1 GiB).
pub const MAX_CELLS: usize = 1 << 27;
/// A table of up to this many cells stays in the cache of a core; larger ones are filled latent by latent.
const CACHED: usize = 1 << 17;
/// Units per 1: values are counted in units of `2^-24`.
const UNIT: f64 = 16_777_216.0;
/// Values must be below this, `2^40`.
const LIMIT: f32 = 1_099_511_627_776.0;

/// Streaming profiles of the latents of one level over words: the current token, the one before or after, or whatever
/// numbers in `0..words` the caller gives to tokens.
///
/// Values are counted in whole units of `2^-24` (so those below `2^-25` count as fired with no weight): integers, of
/// which merged parts equal the whole to the bit, in any order.
/// Memory: 8 bytes per latent and word, at most 1 GiB; large vocabularies need fewer words ([`Profiles::bucket`]).
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Profiles {
    words: usize,
    /// `[latents]`: tokens with a word on which the latent fires.
    fires: Vec<u64>,
    /// `[latents, words]`.
    mass: Vec<u64>,
    /// `[words]`: tokens with the word.
    seen: Vec<u64>,
    /// The sum of `mass`: bounds every sum of some of it.
    all: u64,
}

impl Profiles {
    /// Makes an empty accumulator.
    ///
    /// # Errors
    /// [`Error::Config`] for more than [`MAX_CELLS`] cells.
    pub fn new(latents: usize, words: usize) -> Result<Self> {
        let cells = latents.checked_mul(words).filter(|n| *n <= MAX_CELLS).ok_or_else(|| {
            let why = alloc::format!("expected at most {MAX_CELLS} cells, found {latents} latents x {words} words");
            Error::config("words", why)
        })?;
        Ok(Self { words, fires: vec![0; latents], mass: vec![0; cells], seen: vec![0; words], all: 0 })
    }

    /// Returns a word in `0..words` for a token: the token itself if the vocabulary is not larger, else a hash. Tokens
    /// that share a word make profiles more alike, never less.
    ///
    /// # Panics
    /// If there are no words.
    pub fn bucket(token: u32, vocabulary: usize, words: usize) -> u32 {
        assert!(words > 0, "expected at least one word");
        if vocabulary <= words {
            return token;
        }
        // The high part of the product of a mixed 64-bit number and `words` is uniform over the buckets.
        let mixed = mix(u64::from(token).wrapping_add(0x9E37_79B9_7F4A_7C15));
        ((u128::from(mixed) * words as u128) >> 64) as u32
    }

    /// Adds a block of codes, and the word of each of its tokens; tokens of [`NO_WORD`] are left out.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes disagree, [`Error::Index`] for a word out of range, [`Error::NotFinite`] (with the
    /// token of the block) for an infinite value, [`Error::Capacity`] if all values together reach `2^40`; nothing is
    /// added then.
    pub fn add(&mut self, codes: &CodesView<'_>, words: &[u32]) -> Result<()> {
        for (what, expected, got) in [
            ("latents of the codes", self.fires.len(), codes.latents()),
            ("words of the tokens", codes.tokens(), words.len()),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        if let Some(&w) = words.iter().find(|w| **w != NO_WORD && **w as usize >= self.words) {
            return Err(Error::Index { what: "words", index: w as usize, len: self.words });
        }
        self.check_values(codes, words)?;
        words.iter().filter(|w| **w != NO_WORD).for_each(|w| self.seen[*w as usize] += 1);
        let mut add = |j: usize, w: u32, z: f32| {
            let units = units(z);
            self.fires[j] += 1;
            self.all += units;
            self.mass[j * self.words + w as usize] += units;
        };
        if codes.latents() * self.words <= CACHED {
            for (t, &w) in words.iter().enumerate().filter(|(_, w)| **w != NO_WORD) {
                codes.active(t).for_each(|(j, z)| add(j, w, z));
            }
        } else {
            let codes = codes.by_latent();
            for j in 0..codes.latents() {
                let on_words = codes.tokens(j).filter(|(t, _)| words[*t] != NO_WORD);
                on_words.for_each(|(t, z)| add(j, words[t], z));
            }
        }
        Ok(())
    }

    /// Checks that the values of tokens with a word are finite and that their sum fits.
    fn check_values(&self, codes: &CodesView<'_>, words: &[u32]) -> Result<()> {
        let values = codes.values();
        let largest = values.iter().fold(0.0f32, |most, z| if *z > most { *z } else { most });
        let most = units(largest).checked_mul(values.len() as u64).and_then(|most| most.checked_add(self.all));
        if largest < LIMIT && most.is_some() {
            return Ok(());
        }
        let mut all = self.all;
        for (t, _) in words.iter().enumerate().filter(|(_, w)| **w != NO_WORD) {
            for (_, z) in codes.active(t) {
                if z.is_infinite() {
                    return Err(Error::NotFinite { what: "a code".into(), at: At::Row(t as u64) });
                }
                if z >= LIMIT {
                    return Err(full());
                }
                all = all.checked_add(units(z)).ok_or_else(full)?;
            }
        }
        Ok(())
    }

    /// Adds the tokens of `other`.
    ///
    /// # Errors
    /// [`Error::Capacity`] if all values together reach `2^40`; nothing is added then.
    ///
    /// # Panics
    /// If latents or words differ.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let same = self.words == other.words && self.fires.len() == other.fires.len();
        assert!(same, "merged profiles must be of the same latents and words");
        self.all = self.all.checked_add(other.all).ok_or_else(full)?;
        for (a, b) in [(&mut self.fires, &other.fires), (&mut self.mass, &other.mass), (&mut self.seen, &other.seen)] {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
        Ok(())
    }

    /// Returns the number of latents.
    pub fn latents(&self) -> usize {
        self.fires.len()
    }

    /// Returns the number of words.
    pub fn words(&self) -> usize {
        self.words
    }

    /// Returns `n_j`, the number of tokens with a word on which each latent fires.
    pub fn fires(&self) -> &[u64] {
        &self.fires
    }

    /// Returns the number of tokens with each word.
    pub fn seen(&self) -> &[u64] {
        &self.seen
    }

    /// Returns `a_j(v)`, the sum of the values of latent `j` on the tokens with each word, in units of `2^-24`.
    pub fn mass(&self, j: usize) -> &[u64] {
        &self.mass[j * self.words..(j + 1) * self.words]
    }

    /// Writes `q_j(v) = (n_j a_j(v) / a_j + alpha / V) / (n_j + alpha)`: the share of word `v` of `V` in the activation
    /// of latent `j`, with `alpha` tokens of a uniform prior. Scaling the values of a latent does not change it. NaN if
    /// `a_j = 0`.
    ///
    /// | argument | shape | layout |
    /// |---|---|---|
    /// | `q` | `[words]` | written, never read |
    ///
    /// # Panics
    /// If `q` has another length.
    pub fn profile(&self, j: usize, alpha: f64, q: &mut [f64]) {
        assert_eq!(q.len(), self.words, "a share for each word");
        let (n, total) = (self.fires[j] as f64, self.mass(j).iter().sum::<u64>() as f64);
        for (q, a) in q.iter_mut().zip(self.mass(j)) {
            *q = (n * (*a as f64 / total) + alpha / self.words as f64) / (n + alpha);
        }
    }

    /// Returns the share of each word among all tokens.
    pub(super) fn base(&self) -> Vec<f64> {
        let all = self.seen.iter().sum::<u64>() as f64;
        self.seen.iter().map(|n| *n as f64 / all).collect()
    }

    /// Returns the mean JSD of two samples of one distribution, `(V' - 1) / (8 ln 2) (1 / n_i + 1 / n_j)`, with `V'`
    /// the number of words in either.
    pub(super) fn floor(&self, i: usize, other: &Self, j: usize) -> f64 {
        let met = self.mass(i).iter().zip(other.mass(j)).filter(|(a, b)| **a > 0 || **b > 0).count();
        let inverse = 1.0 / self.fires[i] as f64 + 1.0 / other.fires[j] as f64;
        met.saturating_sub(1) as f64 / (8.0 * core::f64::consts::LN_2) * inverse
    }
}

/// Returns a value in units of `2^-24`.
fn units(z: f32) -> u64 {
    // Rounds to the nearest, half up: the product and the sum are exact, as `z` has 24 bits. The conversion saturates,
    // and a value over 2^40 is refused anyway.
    let y = f64::from(z) * UNIT + 0.5;
    // Conversions to unsigned numbers are slow; nearly every value fits a signed one.
    if y < (1u64 << 62) as f64 { y as i64 as u64 } else { y as u64 }
}

fn full() -> Error {
    Error::Capacity {
        what: "activation in a table of profiles",
        needed: usize::MAX,
        got: usize::try_from(1u64 << 40).unwrap_or(usize::MAX),
    }
}
