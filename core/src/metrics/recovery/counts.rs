//! Counts of tokens on which latents fire and features are on, and what is read from them.

use alloc::vec::Vec;

/// Counts of tokens.
pub(super) struct Counts {
    /// `[latents]`: tokens on which the latent fires.
    pub(super) fires: Vec<u64>,
    /// `[features]`: tokens on which the feature is on.
    pub(super) on: Vec<u64>,
    /// `[latents, features]`: tokens on which both are.
    pub(super) both: Vec<u32>,
}

/// Returns the share `part / whole`; NaN for a whole of 0.
pub(super) fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// Returns the lowest index of the largest value.
pub(super) fn argmax(values: &[f64]) -> usize {
    values.iter().enumerate().fold(0, |best, (i, v)| if *v > values[best] { i } else { best })
}
