//! How the gradients of the two reconstructions are mixed: every decision about a [`Balance`].

use crate::choice::choices;

choices! {
    /// How the gradients of the two reconstructions are mixed on the parameters that both reach.
    Balance {
        /// Their sum.
        Sum = "sum",
        /// Level 1 sees its own reconstruction only.
        Own = "own",
        /// Weights that keep the gradient norms at a fixed ratio (GradNorm without second order).
        Norm = "norm",
        /// The part of level 2's gradient that opposes level 1's is removed, row by row (PCGrad).
        Pcgrad = "pcgrad",
        /// Weights learned as uncertainties (Kendall et al. 2018).
        Uncert = "uncert",
    }
}

impl Balance {
    /// Returns whether the weights of the two reconstructions are learned, so that no schedule may move them.
    pub const fn is_learned(self) -> bool {
        match self {
            Self::Sum | Self::Own | Self::Pcgrad => false,
            Self::Norm | Self::Uncert => true,
        }
    }

    /// Returns whether the part of the gradient that reaches level 1 through level 2 is dropped.
    pub const fn drops_through(self) -> bool {
        match self {
            Self::Own => true,
            Self::Sum | Self::Norm | Self::Pcgrad | Self::Uncert => false,
        }
    }
}
