//! How the shards of a dictionary exchange numbers, and where a dictionary may be split.
//!
//! A dictionary is sharded by latents: each shard owns a contiguous range of each level ([`owned`]), with its weights and
//! moments, and computes whatever belongs to one latent without the other shards. A sum over all latents needs them: each
//! shard computes the sums of its own groups of [`GROUP`] latents, and the groups of all shards are added in the order of
//! latents. A sum that is one chain over latents is passed from shard to shard, each of which adds its own terms
//! (`chain`). The exchange moves numbers and never adds them, so that the result has the same
//! bits for every number of shards.
//!
//! A transport only has to move bytes from one shard to another. The patterns above it never send in a circle, so a
//! transport may wait in [`Comm::send`] until the receiver takes the message.

#[cfg(feature = "std")]
mod threads;

#[cfg(feature = "std")]
pub use threads::Threads;

use crate::error::{Error, Result};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use bytemuck::Pod;
use core::fmt::Debug;
use core::ops::Range;

/// Number of latents whose terms are summed first where a sum runs over all latents of a level; the sums of these
/// groups are then added in index order. Groups are independent: they run in parallel, and a dictionary that is split
/// at multiples of this number has the same sums.
pub const GROUP: usize = 256;

/// Bytes of a piece of what one shard sends to all others.
const PIECE: usize = 1 << 20;

/// Returns the latents of a level that shard `rank` of `size` owns: a whole number of groups, but for the last group.
/// Where there are fewer groups than shards, some own none.
pub fn owned(latents: usize, rank: usize, size: usize) -> Range<usize> {
    let groups = latents.div_ceil(GROUP);
    let at = |rank: usize| (groups * rank / size * GROUP).min(latents);
    at(rank)..at(rank + 1)
}

/// The transport between the shards of a dictionary.
pub trait Comm: Debug + Send + Sync {
    /// Returns the number of this shard, from 0, in the order of latents.
    fn rank(&self) -> usize;

    /// Returns the number of shards.
    fn size(&self) -> usize;

    /// Sends a message to another shard; may wait until that shard receives it.
    ///
    /// # Errors
    /// [`Error::Rank`] if the other shard has ended or cannot be reached.
    fn send(&self, to: usize, message: &[u8]) -> Result<()>;

    /// Returns the next message of another shard, and waits for it. Messages of one shard arrive in order.
    ///
    /// # Errors
    /// As [`Comm::send`].
    fn receive(&self, from: usize) -> Result<Vec<u8>>;

    /// Says of which stage of the work the next messages are, for a transport that counts them. The default does nothing.
    fn stage(&self, name: &'static str) {
        let _ = name;
    }

    /// Tells the other shards that this one ends, and why, so that none waits for it; nothing is exchanged after that.
    /// Returns whether a shard of a lower rank knows it, which then reports it.
    ///
    /// The default says nothing: the others notice that this shard has ended.
    fn fail(&self, why: &str) -> bool {
        let _ = why;
        false
    }
}

impl dyn Comm + '_ {
    /// Returns whether one shard owns all latents, so that nothing is exchanged.
    pub fn is_solo(&self) -> bool {
        self.size() == 1
    }

    /// Returns the numbers of each shard, in the order of their latents; shards may have different counts of them.
    ///
    /// Each shard passes on what it has received last, `size - 1` times: it sends and receives the numbers of all others
    /// once.
    ///
    /// # Errors
    /// As [`Comm::send`].
    pub fn gather<T: Pod>(&self, own: &[T]) -> Result<Vec<Vec<T>>> {
        let (rank, size) = (self.rank(), self.size());
        let mut all: Vec<Vec<T>> = vec![Vec::new(); size];
        all[rank] = own.to_vec();
        let (next, last) = ((rank + 1) % size, (rank + size - 1) % size);
        for hop in 1..size {
            let from = (rank + size - hop) % size;
            let sent = (from + 1) % size;
            // Neighbours do the two in different order, so that none waits for itself; the first and the last shard may have
            // the same, and then the last one's message waits for the first one's receiver.
            if rank.is_multiple_of(2) {
                self.send(next, bytemuck::cast_slice(&all[sent]))?;
                all[from] = self.receive_numbers(last)?;
            } else {
                let received = self.receive_numbers(last)?;
                self.send(next, bytemuck::cast_slice(&all[sent]))?;
                all[from] = received;
            }
        }
        Ok(all)
    }

    /// Replaces the numbers of this shard with those of all shards, in the order of their latents.
    ///
    /// # Errors
    /// As [`Comm::send`].
    pub fn all_gather<T: Pod>(&self, numbers: &mut Vec<T>) -> Result<()> {
        if !self.is_solo() {
            *numbers = self.gather(numbers)?.concat();
        }
        Ok(())
    }

    /// Computes sums that are chains over the latents of all shards, in ascending order, part by part: the first shard
    /// starts with what `write` sets where it gets no numbers, each shard adds its terms to what the shard before it has
    /// sent, and the last one's result goes to all. While a shard adds to one part, the shards before it add to the next
    /// ones.
    ///
    /// `read` returns the numbers of a part, `write` replaces them, and `add` adds the terms of this shard to them.
    ///
    /// # Errors
    /// As [`Comm::send`].
    pub fn chain<S>(
        &self,
        parts: usize,
        state: &mut S,
        add: impl Fn(&mut S, usize),
        read: impl Fn(&S, usize, &mut Vec<f32>),
        write: impl Fn(&mut S, usize, Option<&[f32]>) -> Result<()>,
    ) -> Result<()> {
        let (rank, last) = (self.rank(), self.size() - 1);
        let mut numbers = Vec::new();
        for part in 0..parts {
            if rank == 0 {
                write(state, part, None)?;
            } else {
                write(state, part, Some(&self.receive_numbers(rank - 1)?))?;
            }
            add(state, part);
            if rank < last {
                read(state, part, &mut numbers);
                self.send(rank + 1, bytemuck::cast_slice(&numbers))?;
            }
        }
        // The result goes round: from the last shard to the first, and on to the one before the last.
        for part in 0..parts {
            if rank < last {
                let from = if rank == 0 { last } else { rank - 1 };
                let received = self.receive_numbers(from)?;
                write(state, part, Some(&received))?;
                if rank + 1 < last {
                    self.send(rank + 1, bytemuck::cast_slice(&received))?;
                }
            } else if last > 0 {
                read(state, part, &mut numbers);
                self.send(0, bytemuck::cast_slice(&numbers))?;
            }
        }
        Ok(())
    }

    /// Replaces `bytes` on every shard with those of the first, which go from shard to shard in pieces: all links are used at
    /// once. The piece that is shorter than the others is the last.
    ///
    /// # Errors
    /// As [`Comm::send`].
    pub fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<()> {
        let (rank, last) = (self.rank(), self.size() - 1);
        if rank == 0 {
            let pieces = if last > 0 { bytes.len() / PIECE + 1 } else { 0 };
            let piece = |at: usize| &bytes[at * PIECE..bytes.len().min((at + 1) * PIECE)];
            return (0..pieces).try_for_each(|at| self.send(1, piece(at)));
        }
        bytes.clear();
        loop {
            let piece = self.receive(rank - 1)?;
            if rank < last {
                self.send(rank + 1, &piece)?;
            }
            bytes.extend_from_slice(&piece);
            if piece.len() < PIECE {
                return Ok(());
            }
        }
    }

    fn receive_numbers<T: Pod>(&self, from: usize) -> Result<Vec<T>> {
        let bytes = self.receive(from)?;
        let size = size_of::<T>();
        if !bytes.len().is_multiple_of(size) {
            let what = format!("rank {from} sent {} bytes where numbers of {size} bytes were expected", bytes.len());
            return Err(Error::Rank { what });
        }
        let mut numbers = vec![T::zeroed(); bytes.len() / size];
        bytemuck::cast_slice_mut(&mut numbers).copy_from_slice(&bytes);
        Ok(numbers)
    }
}

/// One shard that owns all latents: nothing is exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Solo;

impl Comm for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn send(&self, to: usize, _: &[u8]) -> Result<()> {
        Err(Error::Rank { what: format!("rank {to} does not exist: one process has the whole dictionary") })
    }

    fn receive(&self, from: usize) -> Result<Vec<u8>> {
        self.send(from, &[]).map(|()| Vec::new())
    }
}
