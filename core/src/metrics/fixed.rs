//! Sums in fixed point: exact under merging like [`super::exact::ExactSum`], and cheap enough for every active latent.

use crate::error::At;
use crate::{Error, Result};

/// Terms are under this in magnitude, so that `2^40` of them fit.
pub const LIMIT: f64 = (1u64 << 46) as f64;
/// A term counts in units of `2^-40`.
const UNIT: f64 = (1u64 << 40) as f64;

/// A sum of terms that are each rounded to a whole number of `2^-40` (off by no more than one of them). The sum of the
/// rounded terms is exact: equal multisets of terms give equal bits, in any order and grouping.
///
/// It suits terms whose scale is known: `strata eval` divides values by a power of two near the size of the rows, which
/// changes no digit, and multiplies results by it. [`super::exact::ExactSum`] has no such limit, and is 34 times as
/// large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FixedSum(i128);

impl FixedSum {
    /// Adds `x`.
    ///
    /// # Panics
    /// If `x` is NaN, or `|x| >= ` [`LIMIT`].
    pub fn add(&mut self, x: f64) {
        assert!(fits(x), "a term of a sum in fixed point is under 2^46");
        let y = x * UNIT;
        // Conversions of floats to 128 bits are slow; nearly every term fits into 64.
        self.0 += if y.abs() < (1u64 << 62) as f64 { i128::from((y + 0.5f64.copysign(y)) as i64) } else { y as i128 };
    }

    /// Adds all terms of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.0 += other.0;
    }

    /// Returns the sum, rounded to the nearest `f64`.
    pub fn value(&self) -> f64 {
        self.0 as f64 / UNIT
    }
}

/// Returns whether a term can be added.
pub fn fits(x: f64) -> bool {
    x.abs() < LIMIT
}

/// Checks a term as [`fits`] does, and returns an error with the reason; `step` is the number of the token.
///
/// # Errors
/// [`Error::NotFinite`] for NaN or an infinite number, [`Error::Range`] from [`LIMIT`] on.
pub fn check(what: &'static str, x: f64, step: u64) -> Result<()> {
    if fits(x) {
        Ok(())
    } else if x.is_finite() {
        Err(Error::Range { what, value: x, limit: LIMIT })
    } else {
        Err(Error::NotFinite { what: what.into(), at: At::Token(step) })
    }
}
