//! What a step comes to, on the device: sums in f64, the weights that follow from them, and whether to update.

use super::kernels::{at, num, or_null, start};
use super::{Arg, Part};
use crate::error::Result;

/// Places of the numbers of a step, two levels each but for the consistency loss and the norm of the gradient: `cu/verdict.cuh`.
pub(crate) const FVU: usize = 0;
pub(crate) const SPARSITY: usize = 2;
pub(crate) const CONSISTENCY: usize = 4;
pub(crate) const AUX: usize = 5;
pub(crate) const GATED: usize = 7;
pub(crate) const NORM: usize = 9;
/// From here on the squares of the gradients of the tensors that learn.
pub(crate) const SQUARES: usize = 10;
/// How many numbers there are, for at most eleven tensors.
pub(crate) const OUT: usize = SQUARES + 11;

/// The reason in the word that says what a step lacks: no room in a list; a floor of a selection that is too high.
pub(crate) const FLOOR_TOO_HIGH: u32 = 2;

/// What is added.
#[derive(Clone, Copy)]
pub(crate) enum Terms<'a> {
    /// f64, as they are.
    Wide(Part<'a, f64>),
    /// f32, as they are in f64, times a factor.
    Times(Part<'a, f32>, f64),
    /// f32, times half of a weight; nothing where it is not above 0.
    Weighed(Part<'a, f32>, Part<'a, f32>),
}

impl Terms<'_> {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Wide(terms) => terms.len(),
            Self::Times(terms, _) | Self::Weighed(terms, _) => terms.len(),
        }
    }
}

/// Writes to `out`, one number, the sum of the terms over `divisor`, each chunk of `chunk` of them added first; `chunks` has a place
/// for each.
pub(crate) fn ordered_sum(
    terms: Terms<'_>,
    chunk: usize,
    divisor: f64,
    chunks: Part<'_, f64>,
    out: Part<'_, f64>,
) -> Result<()> {
    let n = terms.len();
    assert!(chunks.len() == n.div_ceil(chunk) && out.len() == 1, "ordered_sum: no room");
    let (narrow, wide, factor, weight) = match terms {
        Terms::Wide(wide) => (None, Some(wide), 1.0, None),
        Terms::Times(narrow, factor) => (Some(narrow), None, factor, None),
        Terms::Weighed(narrow, weight) => (Some(narrow), None, 1.0, Some(weight)),
    };
    let args = [
        or_null(narrow),
        or_null(wide),
        num(n),
        num(chunk),
        Arg::of(factor),
        or_null(weight),
        Arg::of(divisor),
        at(chunks),
        at(out),
    ];
    start(out, "ordered_sum", [1, 1], 256, 0, &args)
}

/// Writes the weight of AuxK's gradient, `2 alpha unit` with `alpha = aux / fvu * share`; 0 where nothing is left to explain.
pub(crate) fn aux_weight(fvu: Part<'_, f64>, [aux, share, unit]: [f64; 3], weight: Part<'_, f32>) -> Result<()> {
    assert!(fvu.len() == 1 && weight.len() == 1, "aux_weight: one number");
    let args = [at(fvu), Arg::of(aux), Arg::of(share), Arg::of(unit), at(weight)];
    start(weight, "aux_weight", [1, 1], 32, 0, &args)
}

/// Writes the norm of the gradient of so many tensors, the factor by which it is clipped, and whether the step counts: nothing was
/// lacking, and everything is finite.
pub(crate) fn verdict(
    tensors: usize,
    clip: f64,
    bad: Part<'_, u32>,
    out: Part<'_, f64>,
    scale: Part<'_, f32>,
    ok: Part<'_, u32>,
) -> Result<()> {
    assert!(out.len() == OUT && SQUARES + tensors <= OUT, "verdict: other numbers");
    assert!(bad.len() == 1 && scale.len() == 1 && ok.len() == 1, "verdict: one number");
    let args = [num(tensors), Arg::of(clip), at(bad), at(out), at(scale), at(ok)];
    start(out, "verdict", [1, 1], 32, 0, &args)
}
