//! Where arithmetic runs.

use crate::kernel::Isa;
use crate::par::Par;

/// The instruction set and the parallel execution policy of a computation. Results do not depend on either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compute {
    /// Instruction set of the kernels.
    pub isa: Isa,
    /// Parallel execution policy.
    pub par: Par,
}

impl Compute {
    /// Returns the pair of both.
    pub const fn new(isa: Isa, par: Par) -> Self {
        Self { isa, par }
    }
}
