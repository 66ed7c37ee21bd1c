//! Parallel execution policy: the caller's thread, or a rayon pool. This is the only file of the crate that names rayon.
//!
//! Work is split at fixed sizes that never depend on the number of threads, each part writes its own output, and
//! partial sums are combined by the caller in index order, so that the bits are the same for every [`Par`].

/// The place where chunks of work run.
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
    /// Returns how many parts can run at once: the number of scratch spaces. Results must not depend on it.
    pub fn threads(self) -> usize {
        match self {
            Self::Seq => 1,
            #[cfg(feature = "rayon")]
            Self::Rayon => rayon::current_num_threads(),
        }
    }

    /// Runs both, possibly at the same time.
    fn join(self, a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
        match self {
            Self::Seq => {
                a();
                b();
            }
            #[cfg(feature = "rayon")]
            Self::Rayon => {
                rayon::join(a, b);
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

    /// Calls `f(first_row, [rows of each array])` for every block of `block` rows of `N` arrays that are split alike.
    ///
    /// Array `a` has `n_rows` rows of `widths[a]` items; a width of 0 marks an absent array. The last block may be
    /// shorter.
    pub fn for_rows<const N: usize>(
        self,
        n_rows: usize,
        block: usize,
        arrays: [&mut [f32]; N],
        widths: [usize; N],
        f: impl Fn(usize, [&mut [f32]; N]) + Sync + Send,
    ) {
        assert!(block > 0, "blocks of zero rows");
        // There are as many scratch spaces as blocks, of size zero: each block is then a job of its own.
        let mut lanes = alloc::vec![(); n_rows.div_ceil(block).max(1)];
        self.for_rows_in(&mut lanes, n_rows, block, arrays, widths, |(), first, rows| f(first, rows));
    }

    /// Runs [`Par::for_rows`] with a scratch space: calls `f(lane, first_row, [rows of each array])`, where no other
    /// call uses the lane at the same time. The results must not depend on the previous content of a lane.
    pub fn for_rows_in<L: Send, const N: usize>(
        self,
        lanes: &mut [L],
        n_rows: usize,
        block: usize,
        arrays: [&mut [f32]; N],
        widths: [usize; N],
        f: impl Fn(&mut L, usize, [&mut [f32]; N]) + Sync + Send,
    ) {
        assert!(block > 0, "blocks of zero rows");
        for (array, width) in arrays.iter().zip(widths) {
            assert_eq!(array.len(), n_rows * width, "rows of an array");
        }
        let blocks = RowBlocks { arrays, widths, n_rows, block };
        self.split(lanes, 0, blocks, &|lane: &mut L, i, rows: RowBlocks<'_, N>| f(lane, i * block, rows.arrays));
    }

    /// Calls `f(lane, i, &mut items[i], rows of i)` for every item, where item `i` owns `rows[i * width..][..width]`
    /// (the last may be shorter) and `lane` is a scratch space that no other call uses at the same time.
    ///
    /// Which lane is used for an item depends on the number of lanes, so the results of `f` must not depend on the
    /// previous content of a lane.
    pub fn for_items<L: Send, T: Send>(
        self,
        lanes: &mut [L],
        items: &mut [T],
        rows: &mut [f32],
        width: usize,
        f: impl Fn(&mut L, usize, &mut T, &mut [f32]) + Sync + Send,
    ) {
        self.split(lanes, 0, Items { items, rows, width }, &|lane: &mut L, i, item: Items<'_, T>| {
            f(lane, i, &mut item.items[0], item.rows);
        });
    }

    /// Runs [`Par::map`] with a scratch space: `f(lane, i)`, where no other call uses the lane at the same time. The
    /// results must not depend on the previous content of a lane.
    pub fn map_in<L: Send, R: Send>(
        self,
        lanes: &mut [L],
        n: usize,
        f: impl Fn(&mut L, usize) -> R + Sync + Send,
    ) -> alloc::vec::Vec<R> {
        let mut out: alloc::vec::Vec<Option<R>> = (0..n).map(|_| None).collect();
        self.for_items(lanes, &mut out, &mut [], 0, |lane, i, out, _| *out = Some(f(lane, i)));
        out.into_iter().flatten().collect()
    }

    /// Calls `f(lane, i, part i)` for every part of `work`, whose first part is number `first`: the lanes are halved until
    /// one is left, and each half gets its share of the parts.
    fn split<L: Send, W: Parts>(
        self,
        lanes: &mut [L],
        first: usize,
        work: W,
        f: &(impl Fn(&mut L, usize, W) + Sync + Send),
    ) {
        assert!(!lanes.is_empty(), "no lane to compute in");
        let n = work.count();
        if lanes.len() == 1 || n <= 1 {
            let mut rest = work;
            for i in first..first + n {
                let (part, after) = rest.split_at(1);
                rest = after;
                f(&mut lanes[0], i, part);
            }
            return;
        }
        let half = lanes.len() / 2;
        let n_left = (n * half / lanes.len()).max(1);
        let (left_lanes, right_lanes) = lanes.split_at_mut(half);
        let (left, right) = work.split_at(n_left);
        self.join(|| self.split(left_lanes, first, left, f), || self.split(right_lanes, first + n_left, right, f));
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

/// Work that is divided into parts before it is computed.
trait Parts: Send + Sized {
    /// Returns the number of parts.
    fn count(&self) -> usize;

    /// Returns the first `n` parts, and the others.
    fn split_at(self, n: usize) -> (Self, Self);
}

/// Blocks of `block` rows of arrays that are split alike.
struct RowBlocks<'a, const N: usize> {
    arrays: [&'a mut [f32]; N],
    widths: [usize; N],
    n_rows: usize,
    block: usize,
}

impl<const N: usize> Parts for RowBlocks<'_, N> {
    fn count(&self) -> usize {
        self.n_rows.div_ceil(self.block)
    }

    fn split_at(self, n: usize) -> (Self, Self) {
        let Self { arrays, widths, n_rows, block } = self;
        let n = (n * block).min(n_rows);
        let mut after: [&mut [f32]; N] = core::array::from_fn(|_| Default::default());
        let mut i = 0;
        let before = arrays.map(|array| {
            let (b, a) = array.split_at_mut(n * widths[i]);
            after[i] = a;
            i += 1;
            b
        });
        (Self { arrays: before, widths, n_rows: n, block }, Self { arrays: after, widths, n_rows: n_rows - n, block })
    }
}

/// Items, and `width` numbers of each.
struct Items<'a, T> {
    items: &'a mut [T],
    rows: &'a mut [f32],
    width: usize,
}

impl<T: Send> Parts for Items<'_, T> {
    fn count(&self) -> usize {
        self.items.len()
    }

    fn split_at(self, n: usize) -> (Self, Self) {
        let Self { items, rows, width } = self;
        let ((left, right), n_numbers) = (items.split_at_mut(n), (n * width).min(rows.len()));
        let (left_rows, right_rows) = rows.split_at_mut(n_numbers);
        (Self { items: left, rows: left_rows, width }, Self { items: right, rows: right_rows, width })
    }
}
