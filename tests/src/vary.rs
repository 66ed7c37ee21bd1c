//! Builder methods that change one property of both levels of an architecture.

use strata_core::config::Activation;
use strata_core::model::Arch;

/// Changes one property of both levels.
pub trait Vary: Sized {
    /// Returns the architecture with these numbers of latents.
    fn sized(self, latents: [usize; 2]) -> Self;
    /// Returns the architecture with these target L0s.
    fn keeping(self, k: [f64; 2]) -> Self;
    /// Returns the architecture with these activations.
    fn activated(self, activations: [Activation; 2]) -> Self;
}

impl Vary for Arch {
    fn sized(mut self, latents: [usize; 2]) -> Self {
        self.level.iter_mut().zip(latents).for_each(|(level, f)| level.latents = f);
        self
    }

    fn keeping(mut self, k: [f64; 2]) -> Self {
        self.level.iter_mut().zip(k).for_each(|(level, k)| level.k = k);
        self
    }

    fn activated(mut self, activations: [Activation; 2]) -> Self {
        self.level.iter_mut().zip(activations).for_each(|(level, a)| level.activation = a);
        self
    }
}
