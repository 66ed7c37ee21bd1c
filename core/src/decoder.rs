//! What level 2 adds to: every decision about a [`Decoder`].

use crate::choice::choices;

choices! {
    /// What level 2 adds to.
    Decoder {
        /// `x_hat2 = x_hat1 + z2 D2`: children refine their parents.
        Cum = "cum",
        /// `x_hat2 = z2 D2 + b_dec`: each level alone.
        Ind = "ind",
        /// `x_hat2 = (z2 E2) D1 + b_dec`: level 2 composes decoder directions of level 1.
        Comp = "comp",
    }
}

impl Decoder {
    /// Returns whether level 2 adds to the reconstruction of level 1, and does not start from `b_dec`.
    pub const fn is_cumulative(self) -> bool {
        match self {
            Self::Cum => true,
            Self::Ind | Self::Comp => false,
        }
    }

    /// Returns whether the decoder rows of level 2 are weights `E2` of level 1's decoder directions, so that its
    /// directions in the space of the activations are `E2 D1`.
    pub const fn is_composed(self) -> bool {
        match self {
            Self::Comp => true,
            Self::Cum | Self::Ind => false,
        }
    }

    /// Returns the width of a decoder row of level 2, for activations of width `d` and `f1` latents of level 1.
    pub const fn width(self, d: usize, f1: usize) -> usize {
        if self.is_composed() { f1 } else { d }
    }
}
