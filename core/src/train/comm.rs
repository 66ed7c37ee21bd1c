//! How the shards of a dictionary exchange numbers, and where a dictionary may be split.
//!
//! A dictionary is sharded by latents: each shard owns a contiguous range of each level, with its weights and moments,
//! and computes whatever belongs to one latent without the other shards. A sum over all latents needs them: each shard
//! computes the sums of its own groups of [`GROUP`] latents, and the groups of all shards are added in the order of
//! latents. The exchange moves numbers and never adds them, so that the result has the same bits for every number of
//! shards.

use crate::error::Result;
use alloc::vec::Vec;

/// Number of latents whose terms are summed first where a sum runs over all latents of a level; the sums of these
/// groups are then added in index order. Groups are independent: they run in parallel, and a dictionary that is split
/// at multiples of this number has the same sums.
pub const GROUP: usize = 256;

/// The exchange between the shards of a dictionary.
pub trait Comm {
    /// Replaces the numbers of this shard with those of all shards, in the order of their latents.
    ///
    /// # Errors
    /// The exchange failed, for example because another shard does not answer.
    fn all_gather(&self, numbers: &mut Vec<f64>) -> Result<()>;
}

/// One shard that owns all latents: nothing is exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Solo;

impl Comm for Solo {
    fn all_gather(&self, _: &mut Vec<f64>) -> Result<()> {
        Ok(())
    }
}
