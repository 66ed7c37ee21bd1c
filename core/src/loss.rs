//! The losses that tie the levels together, one file each: value and gradient side by side.
//!
//! The two reconstructions, the sparsity penalties and AuxK live where their rows are
//! ([`train::objective`](crate::train::objective)); these are the variants of `loss.consistency`.

pub(crate) mod containment;
pub(crate) mod directions;
pub(crate) mod latent;
pub mod seed_cos;
pub(crate) mod structural;

use crate::choice::choices;

choices! {
    /// The loss that ties the levels together.
    Consistency {
        /// None.
        None = "none",
        /// Mean cosine of all pairs of latents over the batch: minimised for a positive weight, maximised for a negative one.
        SeedCos = "seed-cos",
        /// `||sg(z1) - z2 E2||^2`, for `decoder = "comp"`.
        Latent = "latent",
        /// `||z_p D_p - sum_children z_c D_c||^2` (HSAE).
        Struct = "struct",
        /// A child's drive outside of its parent is charged, on both sides.
        Contain = "contain",
        /// `cos^2` of a child's decoder direction with its parent's.
        OffsetOrthogonal = "offset-orthogonal",
        /// Squared positive cosines between siblings.
        Sibling = "sibling",
    }
}

/// What the decoder of level 2 must be for a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeededDecoder {
    /// Any.
    Any,
    /// One whose rows are directions in the space of the activations.
    Directions,
    /// One whose rows are weights of level 1's directions (`comp`).
    Composed,
}

/// What a consistency loss asks of the settings and of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Two levels to tie together.
    pub two_levels: bool,
    /// Families, as a hard gate has them.
    pub families: bool,
    /// What the decoder of level 2 must be.
    pub decoder: NeededDecoder,
    /// Every ungated pre-activation of level 2 above its threshold.
    pub drives: bool,
    /// Whether the seed model can be trained with it.
    pub seed_has_it: bool,
}

impl Consistency {
    /// Returns what the loss needs.
    pub const fn needs(self) -> Needs {
        let none =
            Needs { two_levels: true, families: false, decoder: NeededDecoder::Any, drives: false, seed_has_it: false };
        let directions = Needs { families: true, decoder: NeededDecoder::Directions, ..none };
        match self {
            Self::None => Needs { two_levels: false, seed_has_it: true, ..none },
            Self::SeedCos => Needs { seed_has_it: true, ..none },
            Self::Latent => Needs { decoder: NeededDecoder::Composed, ..none },
            Self::Contain => Needs { families: true, drives: true, ..none },
            Self::Struct | Self::OffsetOrthogonal | Self::Sibling => directions,
        }
    }
}
