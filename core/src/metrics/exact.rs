//! Sums of `f64` without rounding, so that the result does not depend on how the terms are split among workers.

/// Number of digits of 32 bits: those that cover every finite `f64`, and a few more for carries.
const DIGITS: usize = 68;
/// The weight of the lowest bit is two to minus this.
const LOWEST: i32 = 1074;

/// An exact sum of `f64`, which is rounded once, by [`ExactSum::value`].
///
/// Terms may be added and sums merged in any order and grouping; equal multisets of terms give equal bits. It is a
/// fixed-point number of 2,176 bits (Kulisch's accumulator) in signed digits, whose carries are delayed.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ExactSum {
    #[serde(with = "digits")]
    digits: [i64; DIGITS],
    /// Additions since the last carry: each adds less than 2^32 to a digit.
    pending: u32,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self { digits: [0; DIGITS], pending: 0 }
    }
}

impl ExactSum {
    /// Adds `x`.
    ///
    /// # Panics
    /// If `x` is NaN or infinite.
    pub fn add(&mut self, x: f64) {
        assert!(x.is_finite(), "an exact sum has finite terms");
        let bits = x.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as usize;
        let fraction = bits & ((1 << 52) - 1);
        // A subnormal number has the exponent of the smallest normal one and no hidden bit.
        let mantissa = if exponent == 0 { fraction } else { fraction | 1 << 52 };
        let shift = exponent.max(1) - 1;
        let wide = u128::from(mantissa) << (shift % 32);
        for k in 0..3 {
            let digit = i64::from((wide >> (32 * k)) as u32);
            self.digits[shift / 32 + k] += if x < 0.0 { -digit } else { digit };
        }
        self.pending += 1;
        if self.pending == 1 << 29 {
            self.carry();
        }
    }

    /// Adds all terms of `other`.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        other.carry();
        self.carry();
        self.digits.iter_mut().zip(&other.digits).for_each(|(a, b)| *a += b);
        self.pending = 2;
    }

    /// Returns the sum, rounded to the nearest `f64` (to even on ties); infinite beyond the largest one.
    pub fn value(&self) -> f64 {
        let mut sum = self.clone();
        sum.carry();
        let negative = sum.digits[DIGITS - 1] < 0;
        if negative {
            sum.digits.iter_mut().for_each(|d| *d = -*d);
            sum.carry();
        }
        let Some(top) = sum.digits.iter().rposition(|d| *d != 0) else { return 0.0 };
        let low = top.saturating_sub(3);
        let head = (low..=top).rev().fold(0u128, |head, k| head << 32 | sum.digits[k] as u128);
        // The lower bits decide only whether the head is a tie.
        let sticky = u128::from(sum.digits[..low].iter().any(|d| *d != 0));
        let magnitude = libm::ldexp((head | sticky) as f64, 32 * low as i32 - LOWEST);
        if negative { -magnitude } else { magnitude }
    }

    /// Normalises the digits to `0..2^32`, except for the sign in the last one.
    fn carry(&mut self) {
        let mut carry = 0;
        for digit in &mut self.digits[..DIGITS - 1] {
            let sum = *digit + carry;
            *digit = sum & 0xffff_ffff;
            carry = sum >> 32;
        }
        self.digits[DIGITS - 1] += carry;
        self.pending = 0;
    }
}

/// Serialises the digits as those from the first to the last that are not 0, after the number of the first: most sums span few.
mod digits {
    use super::DIGITS;
    use alloc::vec::Vec;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(digits: &[i64; DIGITS], to: S) -> Result<S::Ok, S::Error> {
        let first = digits.iter().position(|d| *d != 0).unwrap_or(DIGITS);
        let end = digits.iter().rposition(|d| *d != 0).map_or(first, |last| last + 1);
        (first, &digits[first..end]).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[i64; DIGITS], D::Error> {
        let (first, some) = <(usize, Vec<i64>)>::deserialize(from)?;
        let mut digits = [0; DIGITS];
        let end = first.checked_add(some.len()).filter(|end| *end <= DIGITS);
        let end = end.ok_or_else(|| D::Error::custom("an exact sum has more digits than there are"))?;
        digits[first..end].copy_from_slice(&some);
        Ok(digits)
    }
}
