//! Gates between the levels, forward and backward side by side: `soft` those with weights, `hard` those by families,
//! `seed` those of the seed model.
//!
//! With `g = z1 G + c`, one number per child, and `a2` the ungated pre-activations of level 2:
//!
//! | gate | forward | backward |
//! |---|---|---|
//! | none | `u2 = a2` | `da2 = du2` |
//! | mul | `u2 = a2 s(g)` | `da2 = du2 s(g)`, `dg = du2 a2 s(g) (1 - s(g))` |
//! | add | `u2 = a2 + g` | `da2 = du2`, `dg = du2` |
//! | hard | `u2 = a2` where the parent fires or is ROOT, else the child cannot fire | `da2 = du2` where it can |
//! | group-top1 | hard, and of each family only the largest child can fire | the same |
//!
//! A soft gate in front of a threshold at zero never changes which latents fire (`s(g) > 0`); in front of top-k,
//! batch-top-k or jumprelu it changes their ranking, and so which fire.

mod families;
mod hard;
mod seed;
mod soft;

pub use families::{Families, ROOT};
pub use hard::hard;
pub use soft::sigmoid;
pub(crate) use soft::{backward as soft_backward, gate as soft_gate};

use crate::choice::choices;

choices! {
    /// How level 1 acts on level 2.
    GateKind {
        /// Not at all.
        None = "none",
        /// `u2 = a2 sigmoid(z1 G + c)`.
        Mul = "mul",
        /// `u2 = a2 + z1 G + c`.
        Add = "add",
        /// `u2 = a2 1[z1_parent > 0]`; a child whose parent is ROOT is never masked.
        Hard = "hard",
        /// [`GateKind::Hard`], and of each family only the largest child may fire (H-SAE).
        GroupTop1 = "group-top1",
    }
}

/// The information that a gate needs to decide which children may fire on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Nothing: every child may fire.
    Nothing,
    /// Which parents are active: only their children, and those of ROOT, may fire.
    ActiveParents {
        /// Of each family only the child of the largest pre-activation may fire.
        largest_only: bool,
    },
    /// The latents of level 1 and every ungated pre-activation of level 2, which it changes by weights of its own.
    AllPreActivations,
}

impl GateKind {
    /// Returns what the gate reads.
    pub const fn reads(self) -> Reads {
        match self {
            Self::None => Reads::Nothing,
            Self::Hard => Reads::ActiveParents { largest_only: false },
            Self::GroupTop1 => Reads::ActiveParents { largest_only: true },
            Self::Mul | Self::Add => Reads::AllPreActivations,
        }
    }

    /// Returns whether families decide which children may fire: a hard gate.
    pub const fn has_families(self) -> bool {
        matches!(self.reads(), Reads::ActiveParents { .. })
    }

    /// Returns whether the gate has weights: a soft gate.
    pub const fn has_weights(self) -> bool {
        matches!(self.reads(), Reads::AllPreActivations)
    }

    /// Returns the powers of the unit of the activations that the weights `G` and `c` of a soft gate carry: `z1` and the
    /// pre-activations carry one, the sigmoid of `mul` takes none.
    pub const fn units(self) -> [i32; 2] {
        match self {
            Self::None | Self::Hard | Self::GroupTop1 => [0, 0],
            Self::Mul => [-1, 0],
            Self::Add => [0, 1],
        }
    }

    /// Returns where the bias `c` of a soft gate starts: `s(2) = .88` is open, with space to learn both ways.
    pub const fn initial_bias(self) -> f32 {
        match self {
            Self::Mul => 2.0,
            Self::None | Self::Add | Self::Hard | Self::GroupTop1 => 0.0,
        }
    }

    /// Returns whether training computes every pre-activation of a row before the gate.
    ///
    /// A gate that lets only the largest child of a family fire has to rank the whole family, which the candidate lists
    /// of training do not hold.
    pub const fn is_dense_in_training(self) -> bool {
        matches!(self.reads(), Reads::AllPreActivations | Reads::ActiveParents { largest_only: true })
    }
}
