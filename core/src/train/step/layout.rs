//! Where the vectors of a row lie in the row buffer of a step.
//!
//! | vector | width | in an autoencoder | in a transcoder |
//! |---|---|---|---|
//! | `x` | `d` | `x - b_dec` | `x` |
//! | `y` | `d_out` | the same memory as `x` | `y - b_dec - W_skip x` |
//! | `r1`, `r2` | `d_out` | residuals of both levels | the same |
//! | `e1`, `e2` | `d_out` | gradients of AuxK with respect to its reconstructions | the same |
//! | `ds` | `d` | `dL/dS`, if level 2 reads the residual and the gradient flows through it | not there |
//!
//! Both levels decode to parts of `y`: `r1 = y - z1 D1`, and `r2 = r1 - z2 D2` or `y - z2 D2`.

use crate::model::Arch;
use core::ops::Range;

/// First number of each vector, in numbers from the start of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Width of `x`.
    pub d: usize,
    /// Width of the reconstructed rows.
    pub d_out: usize,
    y: usize,
    /// First number of `r1`.
    pub r1: usize,
    /// First number of `r2`.
    pub r2: usize,
    /// First number of `e1`; a flat model has no `r2` before it.
    pub e1: usize,
    /// First number of `e2`.
    pub e2: usize,
    /// First number of `ds`.
    pub ds: usize,
    /// Numbers from the start of a row to the start of the next.
    pub stride: usize,
}

impl Layout {
    /// Returns the layout of rows that end with the residuals; the stride grows when a step needs the vectors behind
    /// them.
    pub fn new(arch: &Arch) -> Self {
        let (d, o) = (arch.d, arch.d_out());
        let y = if arch.variant.target.is_some() { d } else { 0 };
        let r1 = y + o;
        let r2 = r1 + o;
        let e1 = if arch.n_levels() == 2 { r2 + o } else { r2 };
        let e2 = e1 + o;
        Self { d, d_out: o, y, r1, r2, e1, e2, ds: e2 + o, stride: e1 }
    }

    /// Returns where `y` lies.
    pub fn y(&self) -> Range<usize> {
        self.y..self.y + self.d_out
    }

    /// Returns where the residuals lie, of both levels if there are two.
    pub fn sums(&self, two: bool) -> Range<usize> {
        self.r1..if two { self.r2 + self.d_out } else { self.r1 + self.d_out }
    }

    /// Returns whether `y` has memory of its own, which it has in a transcoder.
    pub fn has_y(&self) -> bool {
        self.y > 0
    }
}
