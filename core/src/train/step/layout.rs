//! Where the vectors of a row lie in the row buffer of a step.
//!
//! | vector | width | an autoencoder | a transcoder |
//! |---|---|---|---|
//! | `x` | `d` | `x - b_dec` | `x` |
//! | `y` | `d_out` | the same numbers as `x` | `y - b_dec - W_skip x` |
//! | `r1`, `r2` | `d_out` | residuals of both levels | |
//! | `e1`, `e2` | `d_out` | gradients of AuxK with respect to its reconstructions | |
//! | `ds` | `d` | `dL/dS`, for a residual source with gradient | has none |
//!
//! Both levels decode to parts of `y`: `r1 = y - z1 D1`, and `r2 = r1 - z2 D2` or `y - z2 D2`.

use crate::model::Arch;
use core::ops::Range;

/// First number of each vector, in numbers from the start of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Width of `x`.
    pub d: usize,
    /// Width of what is reconstructed.
    pub d_out: usize,
    y: usize,
    /// `r1`.
    pub r1: usize,
    /// `r2`.
    pub r2: usize,
    /// `e1`; a flat model has no `r2` before it.
    pub e1: usize,
    /// `e2`.
    pub e2: usize,
    /// `dL/dS`.
    pub ds: usize,
    /// Numbers from the start of a row to the start of the next.
    pub stride: usize,
}

impl Layout {
    /// Of rows without room behind `r1` and `r2`.
    pub fn new(arch: &Arch) -> Self {
        let (d, o) = (arch.d, arch.d_out());
        let y = if arch.variant.target.is_some() { d } else { 0 };
        let r1 = y + o;
        let r2 = r1 + o;
        let e1 = if arch.n_levels() == 2 { r2 + o } else { r2 };
        let e2 = e1 + o;
        Self { d, d_out: o, y, r1, r2, e1, e2, ds: e2 + o, stride: e1 }
    }

    /// Where the row to reconstruct lies.
    pub fn y(&self) -> Range<usize> {
        self.y..self.y + self.d_out
    }

    /// Whether the row to reconstruct has a place of its own.
    pub fn has_y(&self) -> bool {
        self.y > 0
    }
}
