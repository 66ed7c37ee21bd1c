//! Which latents an encoder computes, and which of their codes it keeps.

use super::Codes;
use crate::gate::Families;
use crate::kernel::Screen;
use crate::kernel::dense::{Matrix, Pick};
use alloc::vec::Vec;

/// A plan of encoding. What it computes must include whatever the codes that it keeps depend on.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The latents of each level that are computed, ascending; none for all of them.
    pub computed: [Option<Vec<u32>>; 2],
    /// The families of the children that are computed, where a hard gate decides and not all of them are.
    pub families: Option<Families>,
    /// The latents of each level whose codes are kept, ascending; none for all of them.
    pub kept: Option<[Vec<u32>; 2]>,
}

/// Computes and keeps every latent.
pub(super) static EVERYTHING: Plan = Plan { computed: [None, None], families: None, kept: None };

impl Plan {
    /// Returns the weights of a level that take part, and the screen if that has the same latents.
    pub fn level<'a, W>(
        &'a self,
        level: usize,
        w: Matrix<'a, W>,
        screen: Option<&'a Screen>,
    ) -> (Matrix<'a, W>, Option<&'a Screen>) {
        match &self.computed[level] {
            None => (w, screen),
            Some(latents) => (w.only(Pick::List(latents)), None),
        }
    }

    /// Returns whether nothing of a level is computed.
    pub fn is_empty(&self, level: usize) -> bool {
        self.computed[level].as_ref().is_some_and(Vec::is_empty)
    }

    /// Removes the codes that are not kept, from the rows `first` of both levels on.
    pub fn keep(&self, codes: [&mut Codes; 2], first: [usize; 2]) {
        if let Some(kept) = &self.kept {
            for ((codes, first), latents) in codes.into_iter().zip(first).zip(kept) {
                codes.keep_only(first, latents);
            }
        }
    }
}
