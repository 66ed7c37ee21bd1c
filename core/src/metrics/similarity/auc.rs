//! The area under the receiver operating characteristic (ROC) curve.

use alloc::vec::Vec;

/// An AUC with its interval of 95 %.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Auc {
    /// `P(x > y) + P(x = y) / 2` over all pairs of a positive `x` and a negative `y`. 0 to 1, 1/2 is chance; NaN
    /// without either.
    pub auc: f64,
    /// `auc -+ 1.96 sd`, inside of 0 to 1, with the variance of DeLong, DeLong and Clarke-Pearson 1988; NaN with fewer
    /// than two of either.
    pub low: f64,
    /// See `low`.
    pub high: f64,
}

/// The 97.5 % quantile of the normal distribution.
const QUANTILE: f64 = 1.959_963_984_540_054;

/// Returns the AUC of `positive` against `negative` values, by ranks: `O(n log n)`.
///
/// # Panics
/// If a value is NaN.
pub fn auc(positive: &[f64], negative: &[f64]) -> Auc {
    assert!(positive.iter().chain(negative).all(|v| !v.is_nan()), "expected values to rank, found NaN");
    let sorted = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(|a, b| a.partial_cmp(b).expect("numbers"));
        sorted
    };
    // The share of `others` that each value exceeds, ties half.
    let beats = |values: &[f64], others: &[f64]| -> Vec<f64> {
        let others = sorted(others);
        let share = |v: f64| (others.partition_point(|o| *o < v) + others.partition_point(|o| *o <= v)) as f64;
        values.iter().map(|&v| share(v) / (2 * others.len()) as f64).collect()
    };
    let (up, down) = (beats(positive, negative), beats(negative, positive));
    let auc = up.iter().sum::<f64>() / up.len() as f64;
    let variance = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        if values.len() < 2 { f64::NAN } else { squares / (values.len() - 1) as f64 / values.len() as f64 }
    };
    let sd = libm::sqrt(variance(&up) + variance(&down));
    if sd.is_nan() {
        return Auc { auc, low: f64::NAN, high: f64::NAN };
    }
    Auc { auc, low: (auc - QUANTILE * sd).max(0.0), high: (auc + QUANTILE * sd).min(1.0) }
}
