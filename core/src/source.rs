//! What level 2 reads: every decision about a [`Source`].

use crate::choice::choices;

choices! {
    /// What level 2 reads.
    Source {
        /// The centred activations, beside level 1.
        X = "x",
        /// The residual of level 1.
        Res = "res",
        /// The latents of level 1.
        Z1 = "z1",
    }
}

impl Source {
    /// Returns the width of a row that level 2 reads, for activations of width `d` and `f1` latents of level 1.
    pub const fn width(self, d: usize, f1: usize) -> usize {
        match self {
            Self::X | Self::Res => d,
            Self::Z1 => f1,
        }
    }

    /// Returns whether level 2 reads the very rows that level 1 reads, so that neither waits for the other.
    pub const fn is_parallel(self) -> bool {
        match self {
            Self::X => true,
            Self::Res | Self::Z1 => false,
        }
    }

    /// Returns whether level 2 reads vectors in the space of the activations, not codes.
    pub const fn is_activations(self) -> bool {
        match self {
            Self::X | Self::Res => true,
            Self::Z1 => false,
        }
    }

    /// Returns what level 2 reads before the residual switch (`source_start`), for a source that has one.
    pub const fn before_switch(self) -> Option<Self> {
        match self {
            Self::Res => Some(Self::X),
            Self::X | Self::Z1 => None,
        }
    }

    /// Returns whether the decoder of level 1 takes part in what level 2 reads, so that the gradient `dL/dS` of each row
    /// reaches it. With `detach` no gradient flows that way.
    pub const fn reaches_decoder1(self, detach: bool) -> bool {
        match self {
            Self::Res => !detach,
            Self::X | Self::Z1 => false,
        }
    }
}
