//! Metrics of a trained model: reconstruction, sparsity, composition, coherence, stability, and recovery of a known
//! structure.

use crate::gate::ROOT;
use crate::{Error, Result};

pub mod absorption;
pub mod attribution;
pub mod bootstrap;
pub mod coherence;
pub mod composition;
pub mod condition;
pub mod exact;
pub mod fidelity;
pub mod fixed;
pub mod hierarchy;
pub mod leak;
pub mod matching;
pub mod patterns;
pub mod probe;
pub mod recovery;
pub mod similarity;
pub mod sparsity;
pub mod stability;
pub mod structure;

/// Checks that every parent is [`ROOT`] or below `len`.
fn check_parents(what: &'static str, parent: &[u32], len: usize) -> Result<()> {
    match parent.iter().find(|&&p| p != ROOT && p as usize >= len) {
        Some(&p) => Err(Error::Index { what, index: p as usize, len }),
        None => Ok(()),
    }
}

/// Returns the middle value, or the mean of the two in the middle; NaN for none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// Returns the mean of the values that are not NaN; NaN for none.
fn defined_mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut n) = (0.0, 0usize);
    for v in values.filter(|v| !v.is_nan()) {
        (sum, n) = (sum + v, n + 1);
    }
    sum / n as f64
}
