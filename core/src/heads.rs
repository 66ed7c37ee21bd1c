//! Linear heads: one number per row, read from the row or from a few latents, and what of these numbers is kept per sequence.
//!
//! ```text
//! score = w . f + b          f = c x (rows)  |  c z_j of the head's latents j
//! on_t  = score_t > on  or  (on_{t-1} and score_t > off)          with off <= on
//! ```
//!
//! `c` is one number for rows and codes: probes are fitted in a unit in which the rows have variance 1. `strata probe`
//! fits heads, [`crate::format::heads`] reads and writes them, and [`Heads::watch`] makes the watch-list of their latents.

use crate::error::{Error, Result};
use crate::kernel::{Isa, wide};
use crate::model::{CodeRow, Encoder, Model, Watch};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What a head reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The row, as the encoder is given it.
    Row,
    /// These latents, in the order of the weights: `j` of level 1, and `f1 + j` of level 2.
    Latents(Vec<u32>),
}

/// A linear head.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Its name; several heads may have the same.
    pub name: String,
    /// What it reads.
    pub reads: Reads,
    /// `w`: `(d)`, or one number per latent.
    pub weight: Vec<f64>,
    /// `b`.
    pub bias: f64,
}

/// Heads that were fitted on the rows and codes of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Heads {
    /// Width of a row.
    pub d: usize,
    /// Latents of both levels.
    pub latents: [usize; 2],
    /// [`fingerprint`] of the model.
    pub model: u64,
    /// `c`: rows and codes are multiplied by it.
    pub unit: f32,
    /// The heads.
    pub heads: Vec<Head>,
}

/// Returns a number that tells models apart whose latents may mean different things: FNV-1a over the bits of the encoder
/// biases of both levels.
pub fn fingerprint(model: &Model) -> u64 {
    let bytes = model.params.level.iter().flat_map(|level| level.b_enc.iter()).flat_map(|b| b.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Heads {
    /// Checks that the numbers fit each other.
    ///
    /// # Errors
    /// [`Error::Format`] with the head, what was expected and what was found.
    pub fn check(&self) -> Result<()> {
        let wrong = |i: usize, what: String| Err(Error::format(0, format!("head {i}: {what}")));
        if !(self.unit > 0.0 && self.unit.is_finite()) {
            return Err(Error::format(0, format!("unit: expected a positive number, found {}", self.unit)));
        }
        if self.heads.is_empty() {
            return Err(Error::format(0, "heads: expected at least 1, found 0"));
        }
        let all = self.latents[0].saturating_add(self.latents[1]);
        for (i, head) in self.heads.iter().enumerate() {
            let width = match &head.reads {
                Reads::Row => self.d,
                Reads::Latents(latents) => {
                    let mut sorted = latents.clone();
                    sorted.sort_unstable();
                    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                        return wrong(i, format!("expected each latent once, found {} twice", pair[0]));
                    }
                    if let Some(last) = sorted.last().filter(|j| **j as usize >= all) {
                        return wrong(i, format!("expected latents below {all}, found {last}"));
                    }
                    latents.len()
                }
            };
            if head.weight.len() != width || width == 0 {
                let expected = width.max(1);
                return wrong(i, format!("weight: expected {expected} numbers, found {}", head.weight.len()));
            }
            if !head.bias.is_finite() || head.weight.iter().any(|w| !w.is_finite()) {
                return wrong(i, "expected weights that are finite".into());
            }
        }
        Ok(())
    }

    /// Checks that the heads were fitted on this model; heads on rows need only its width.
    ///
    /// # Errors
    /// [`Error::Shape`] for other sizes, [`Error::Config`] for another model.
    pub fn check_model(&self, model: &Model) -> Result<()> {
        let (arch, [f1, f2]) = (&model.arch, model.arch.latents());
        let sizes = [
            ("width of the rows of the heads", arch.d, self.d),
            ("latents of level 1 of the heads", f1, self.latents[0]),
            ("latents of level 2 of the heads", f2, self.latents[1]),
        ];
        for (what, expected, got) in sizes {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        let reads_latents = self.heads.iter().any(|head| head.reads != Reads::Row);
        let found = fingerprint(model);
        if reads_latents && self.model != found {
            let why = format!(
                "expected heads of this model ({found:016x}), found those of another ({:016x}): run `strata probe --save-head` on \
                 this one",
                self.model
            );
            return Err(Error::config("heads", why));
        }
        Ok(())
    }

    /// Makes the watch-list of the latents of all heads; none if every head reads rows.
    ///
    /// # Errors
    /// As [`Heads::check_model`] and [`Encoder::watch`].
    pub fn watch(&self, encoder: &Encoder) -> Result<Option<Watch>> {
        self.check_model(encoder.model())?;
        let f1 = self.latents[0] as u32;
        let mut lists = [Vec::new(), Vec::new()];
        for head in &self.heads {
            if let Reads::Latents(latents) = &head.reads {
                for &j in latents {
                    if j < f1 { lists[0].push(j) } else { lists[1].push(j - f1) }
                }
            }
        }
        for list in &mut lists {
            list.sort_unstable();
            list.dedup();
        }
        if lists.iter().all(Vec::is_empty) {
            return Ok(None);
        }
        encoder.watch([&lists[0], &lists[1]]).map(Some)
    }

    /// Writes the score of each head on a row: `scores[h] = w_h . f + b_h`, in `f64`, with the bits of the probe that was
    /// fitted. `x` is the row, `codes` its codes of both levels, `features` scratch. Where a code is not finite, scores are
    /// not either.
    ///
    /// # Panics
    /// If `x` is not `(d)`, or there is not one score per head.
    pub fn score(&self, isa: Isa, x: &[f32], codes: [CodeRow<'_>; 2], features: &mut Vec<f32>, scores: &mut [f64]) {
        assert_eq!(x.len(), self.d, "a row of another width");
        assert_eq!(scores.len(), self.heads.len(), "one score per head");
        let f1 = self.latents[0] as u32;
        for (head, score) in self.heads.iter().zip(scores) {
            features.clear();
            match &head.reads {
                Reads::Row => features.extend(x.iter().map(|x| x * self.unit)),
                Reads::Latents(latents) => features.extend(latents.iter().map(|&j| {
                    let (code, j) = if j < f1 { (codes[0], j) } else { (codes[1], j - f1) };
                    let z = code.index.binary_search(&j).map_or(0.0, |at| code.value[at]);
                    // Latents at or below 0 are inactive, for probes too.
                    if z > 0.0 { z * self.unit } else { 0.0 }
                })),
            }
            *score = wide::dot_wide(isa, features, &head.weight) + head.bias;
        }
    }
}

/// Two thresholds: an alarm begins above the upper one, and ends at or below the lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hysteresis {
    /// A score above it begins an alarm.
    pub on: f64,
    /// A score at or below it ends the alarm; at most `on`.
    pub off: f64,
}

/// What is kept of the scores of one head on the rows of one sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Running {
    /// Rows so far.
    pub rows: u64,
    /// The score of the last row.
    pub last: f64,
    /// The largest score.
    pub max: f64,
    /// The row of the largest score, the first of equal ones; rows count from 0.
    pub max_row: u64,
    /// The sum of all scores.
    pub sum: f64,
    /// Whether there is an alarm at the last row.
    pub is_on: bool,
    /// Alarms that have begun.
    pub alarms: u64,
}

impl Running {
    /// Adds the score of the next row, which is finite.
    pub fn add(&mut self, score: f64, at: Hysteresis) {
        if self.rows == 0 || score > self.max {
            (self.max, self.max_row) = (score, self.rows);
        }
        let was_on = self.is_on;
        self.is_on = score > at.on || (was_on && score > at.off);
        self.alarms += u64::from(self.is_on && !was_on);
        self.last = score;
        self.sum += score;
        self.rows += 1;
    }

    /// Returns the mean score, which is the score of the mean row or of the mean codes; NaN without rows.
    pub fn mean(&self) -> f64 {
        self.sum / self.rows as f64
    }
}
