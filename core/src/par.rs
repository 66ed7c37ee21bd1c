//! Who computes: the caller's thread, or a rayon pool. The only file that names rayon.
//!
//! Work is split at fixed sizes that never depend on the number of threads, each part writes its own output, and
//! partial sums are combined by the caller in index order. So the bits are the same for every [`Par`].

/// Where chunks of work run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Par {
    /// In the caller's thread, in index order.
    #[default]
    Seq,
    /// On the rayon pool that is current where the call is made.
    #[cfg(feature = "rayon")]
    Rayon,
}

impl Par {
    /// Calls `f(i, &mut items[i])` for every `i`.
    pub fn for_each<T: Send>(self, items: &mut [T], f: impl Fn(usize, &mut T) + Sync + Send) {
        match self {
            Self::Seq => items.iter_mut().enumerate().for_each(|(i, t)| f(i, t)),
            #[cfg(feature = "rayon")]
            Self::Rayon => {
                use rayon::prelude::*;
                items.par_iter_mut().enumerate().with_max_len(1).for_each(|(i, t)| f(i, t));
            }
        }
    }

    /// Calls `f(i, chunk_i)` for every chunk of `size` consecutive items; the last chunk may be shorter.
    pub fn for_chunks<T: Send>(self, items: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
        assert!(size > 0, "chunks of zero items");
        match self {
            Self::Seq => items.chunks_mut(size).enumerate().for_each(|(i, c)| f(i, c)),
            #[cfg(feature = "rayon")]
            Self::Rayon => {
                use rayon::prelude::*;
                items.par_chunks_mut(size).enumerate().with_max_len(1).for_each(|(i, c)| f(i, c));
            }
        }
    }

    /// Calls `f(i)` for every `i` in `0..n` and returns the results in index order.
    pub fn map<R: Send>(self, n: usize, f: impl Fn(usize) -> R + Sync + Send) -> alloc::vec::Vec<R> {
        match self {
            Self::Seq => (0..n).map(f).collect(),
            #[cfg(feature = "rayon")]
            Self::Rayon => {
                use rayon::prelude::*;
                (0..n).into_par_iter().with_max_len(1).map(f).collect()
            }
        }
    }
}
