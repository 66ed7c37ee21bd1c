//! The consistency losses, which tie the levels together: the variants of `loss.consistency`, one file each, value and
//! gradient side by side. The two reconstructions, the sparsity penalties and AuxK are in [`train`](crate::train).
//!
//! Notation of this folder: `wc` is `loss.consistency_weight`; `n` the rows of the batch; `nu` the total variance of
//! the rows; `b` a row, `i` or `p` a parent, `j` or `c` a child, `pi(j)` the parent of `j`; `z1`, `z2` the latents;
//! `u1` the pre-activations of level 1 and `a2` the ungated pre-activations of level 2; `D1`, `D2` the decoder rows;
//! `E2` the decoder rows of `decoder = "comp"`, which are weights of level 1's; `sg(v)` is `v` without a gradient.
//!
//! [`Consistency`] names the choice, and [`Term`] is the choice with the numbers of one step. A step asks it in a fixed
//! order: [`Consistency::measure`] once per batch, [`Term::add_level`], [`Term::add_rows`] and [`Term::add_ungated`]
//! once per row, [`Term::value`] and [`Term::add_decoder_row`] once the rows are done. Each answers for every variant.

mod containment;
mod directions;
mod inputs;
mod latent;
mod measured;
pub(crate) mod seed_cos;
mod structural;

pub(crate) use inputs::{Inputs, Scratch, Ungated, Weights};

use crate::choice::choices;
use crate::entry::{CodeRow, EntryRow};
use containment::Containment;
use directions::{OffsetOrthogonal, Sibling};
use latent::Latent;
use measured::Measured;
use seed_cos::SeedCos;
use structural::Structural;

choices! {
    /// The loss that ties the levels together.
    Consistency {
        /// None.
        None = "none",
        /// Mean cosine of all pairs of latents over the batch: minimised for a positive weight, maximised for a
        /// negative one.
        SeedCos = "seed-cos",
        /// `||sg(z1) - z2 E2||^2`, for `decoder = "comp"`.
        Latent = "latent",
        /// `||z_p D_p - sum_children z_c D_c||^2` (HSAE).
        Struct = "struct",
        /// The ungated pre-activation of a child where its parent is silent is penalised, on both sides.
        Contain = "contain",
        /// `cos^2` of a child's decoder direction with its parent's.
        OffsetOrthogonal = "offset-orthogonal",
        /// Squared positive cosines between siblings.
        Sibling = "sibling",
    }
}

/// The kind of decoder that a loss needs at level 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeededDecoder {
    /// Any.
    Any,
    /// One whose rows are directions in the space of the activations.
    Directions,
    /// One whose rows are weights of level 1's directions (`comp`).
    Composed,
}

/// The requirements of a consistency loss on the settings and on a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Two levels to tie together.
    pub two_levels: bool,
    /// Families, as a hard gate has them.
    pub families: bool,
    /// The decoder of level 2 that it needs.
    pub decoder: NeededDecoder,
    /// Every ungated pre-activation of level 2 above its threshold, with an entry for its latent and for the parent.
    pub ungated: bool,
    /// Whether the seed model can be trained with it.
    pub seed_has_it: bool,
}

impl Consistency {
    /// Returns what the loss needs.
    pub const fn needs(self) -> Needs {
        let none = Needs {
            two_levels: true,
            families: false,
            decoder: NeededDecoder::Any,
            ungated: false,
            seed_has_it: false,
        };
        let directions = Needs { families: true, decoder: NeededDecoder::Directions, ..none };
        match self {
            Self::None => Needs { two_levels: false, seed_has_it: true, ..none },
            Self::SeedCos => Needs { seed_has_it: true, ..none },
            Self::Latent => Needs { decoder: NeededDecoder::Composed, ..none },
            Self::Contain => Needs { families: true, ungated: true, ..none },
            Self::Struct | Self::OffsetOrthogonal | Self::Sibling => directions,
        }
    }

    /// Returns whether devices compute the loss.
    pub(crate) const fn is_on_devices(self) -> bool {
        match self {
            Self::None | Self::Contain => true,
            Self::SeedCos | Self::Latent | Self::Struct | Self::OffsetOrthogonal | Self::Sibling => false,
        }
    }

    /// Returns whether the loss is computed over the shards of a dictionary, each of which has the decoder rows of its own
    /// latents only.
    pub(crate) const fn is_over_shards(self) -> bool {
        match self {
            Self::None | Self::Contain => true,
            Self::SeedCos | Self::Latent | Self::Struct | Self::OffsetOrthogonal | Self::Sibling => false,
        }
    }

    /// Returns the number of scratch values that the loss needs per thread, for rows of width `d` and `f1` latents of
    /// level 1.
    pub(crate) const fn scratch_width(self, d: usize, f1: usize) -> usize {
        match self {
            Self::Struct => d,
            Self::Latent => f1,
            Self::None | Self::SeedCos | Self::Contain | Self::OffsetOrthogonal | Self::Sibling => 0,
        }
    }

    /// Returns the weight of the mean cosine over all pairs of latents, for the seed model, which has no other loss.
    pub(crate) const fn seed_weight(self, weight: f64) -> f64 {
        match self {
            Self::SeedCos => weight,
            Self::None | Self::Latent | Self::Struct | Self::Contain | Self::OffsetOrthogonal | Self::Sibling => 0.0,
        }
    }

    /// Measures the codes of a batch where the loss compares whole batches, and returns what this adds to the loss.
    /// `levels` gives the code of every row, in order, and `f` the numbers of latents.
    pub(crate) fn measure<'e>(
        self,
        weight: f64,
        seed_cos: &mut SeedCos,
        n: usize,
        f: [usize; 2],
        levels: [impl Iterator<Item = CodeRow<'e>> + Clone; 2],
    ) -> f64 {
        match self {
            Self::SeedCos => seed_cos.measure(n, f, levels) * weight,
            Self::None | Self::Latent | Self::Struct | Self::Contain | Self::OffsetOrthogonal | Self::Sibling => 0.0,
        }
    }

    /// Returns the loss with the numbers of a step.
    pub(crate) fn term<'a>(self, weights: &Weights, inputs: Inputs<'a>) -> Term<'a> {
        match self {
            Self::None => Term::None,
            Self::SeedCos => Term::SeedCos(Measured::new(weights, inputs)),
            Self::Latent => Term::Latent(Latent::new(weights, inputs)),
            Self::Struct => Term::Struct(Structural::new(weights, inputs)),
            Self::Contain => Term::Contain(Containment::new(weights, inputs)),
            Self::OffsetOrthogonal => Term::OffsetOrthogonal(OffsetOrthogonal::new(weights, inputs)),
            Self::Sibling => Term::Sibling(Sibling::new(weights, inputs)),
        }
    }
}

/// A consistency loss with the numbers of one step.
#[derive(Clone, Copy)]
pub(crate) enum Term<'a> {
    None,
    SeedCos(Measured<'a>),
    Latent(Latent<'a>),
    Struct(Structural<'a>),
    Contain(Containment<'a>),
    OffsetOrthogonal(OffsetOrthogonal<'a>),
    Sibling(Sibling<'a>),
}

impl Term<'_> {
    /// Adds to `dL/dz` of one level (0 or 1) on row `b` of the batch what depends on the latents of that level alone.
    pub fn add_level(&self, level: usize, b: usize, row: &mut EntryRow<'_>) {
        match self {
            Self::SeedCos(term) => term.add_level(level, b, row),
            Self::None
            | Self::Latent(_)
            | Self::Struct(_)
            | Self::Contain(_)
            | Self::OffsetOrthogonal(_)
            | Self::Sibling(_) => {}
        }
    }

    /// Adds to `dL/dz` of a row what depends on the latents of both levels; returns the row's part of the loss.
    pub fn add_rows(&self, rows: [&mut EntryRow<'_>; 2], scratch: Scratch<'_>) -> f64 {
        match self {
            Self::Latent(term) => term.add_row(rows, scratch),
            Self::Struct(term) => term.add_row(rows, scratch),
            Self::None | Self::SeedCos(_) | Self::Contain(_) | Self::OffsetOrthogonal(_) | Self::Sibling(_) => 0.0,
        }
    }

    /// Adds to `dL/da` of level 2 and to `dL/du` of level 1 what depends on ungated pre-activations, `ungated`: latents
    /// of level 2 with values above their threshold. Returns the row's part of the loss. Comes after the backward pass
    /// of level 2's activation and gate.
    pub fn add_ungated(&self, ungated: Ungated<'_>, rows: [&mut EntryRow<'_>; 2], scratch: Scratch<'_>) -> f64 {
        match self {
            Self::Contain(term) => term.add_row(ungated, rows, scratch),
            Self::None
            | Self::SeedCos(_)
            | Self::Latent(_)
            | Self::Struct(_)
            | Self::OffsetOrthogonal(_)
            | Self::Sibling(_) => 0.0,
        }
    }

    /// Returns what depends on the decoders alone, weighted.
    pub fn value(&self) -> f64 {
        match self {
            Self::OffsetOrthogonal(term) => term.value(),
            Self::Sibling(term) => term.value(),
            Self::None | Self::SeedCos(_) | Self::Latent(_) | Self::Struct(_) | Self::Contain(_) => 0.0,
        }
    }

    /// Adds the gradient of decoder row `j` of a level (0 or 1). `entries` are the entries of the latent, in row order:
    /// its value, and the codes of both levels on that row. `scratch` is [`Consistency::scratch_width`] numbers.
    pub fn add_decoder_row<'e>(
        &self,
        level: usize,
        j: usize,
        entries: impl Iterator<Item = (f32, [CodeRow<'e>; 2])>,
        scratch: &mut [f32],
        grad: &mut [f32],
    ) {
        match self {
            Self::Latent(term) => term.add_decoder_row(level, entries, scratch, grad),
            Self::Struct(term) => term.add_decoder_row(level, j, entries, scratch, grad),
            Self::OffsetOrthogonal(term) => term.add_decoder_row(level, j, grad),
            Self::Sibling(term) => term.add_decoder_row(level, j, grad),
            Self::None | Self::SeedCos(_) | Self::Contain(_) => {}
        }
    }
}
