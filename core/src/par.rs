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
    /// How many parts can run at once. For the number of scratch spaces only: results must not depend on it.
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
    /// Array `a` has `n_rows` rows of `widths[a]` items; a width of 0 marks an array that is not there. The last block
    /// may be shorter.
    pub fn for_rows<const N: usize>(
        self,
        n_rows: usize,
        block: usize,
        arrays: [&mut [f32]; N],
        widths: [usize; N],
        f: impl Fn(usize, [&mut [f32]; N]) + Sync + Send,
    ) {
        assert!(block > 0, "blocks of zero rows");
        for (array, width) in arrays.iter().zip(widths) {
            assert_eq!(array.len(), n_rows * width, "rows of an array");
        }
        if n_rows > 0 {
            self.split_rows(0, n_rows, block, arrays, &widths, &f);
        }
    }

    fn split_rows<const N: usize>(
        self,
        first: usize,
        n_rows: usize,
        block: usize,
        arrays: [&mut [f32]; N],
        widths: &[usize; N],
        f: &(impl Fn(usize, [&mut [f32]; N]) + Sync + Send),
    ) {
        let n_blocks = n_rows.div_ceil(block);
        if n_blocks == 1 {
            f(first, arrays);
            return;
        }
        let left_rows = n_blocks / 2 * block;
        let (left, right) = split(arrays, widths, left_rows);
        self.join(
            || self.split_rows(first, left_rows, block, left, widths, f),
            || self.split_rows(first + left_rows, n_rows - left_rows, block, right, widths, f),
        );
    }

    /// [`Par::for_rows`] with a scratch space: calls `f(lane, first_row, [rows of each array])`, where no other call uses
    /// the lane at the same time. What a lane held before must not show in the results.
    pub fn for_rows_in<L: Send, const N: usize>(
        self,
        lanes: &mut [L],
        n_rows: usize,
        block: usize,
        arrays: [&mut [f32]; N],
        widths: [usize; N],
        f: impl Fn(&mut L, usize, [&mut [f32]; N]) + Sync + Send,
    ) {
        assert!(block > 0 && !lanes.is_empty(), "blocks of zero rows, or no lane");
        for (array, width) in arrays.iter().zip(widths) {
            assert_eq!(array.len(), n_rows * width, "rows of an array");
        }
        self.split_rows_in(lanes, 0, n_rows, block, arrays, &widths, &f);
    }

    fn split_rows_in<L: Send, const N: usize>(
        self,
        lanes: &mut [L],
        first: usize,
        n_rows: usize,
        block: usize,
        arrays: [&mut [f32]; N],
        widths: &[usize; N],
        f: &(impl Fn(&mut L, usize, [&mut [f32]; N]) + Sync + Send),
    ) {
        let blocks = n_rows.div_ceil(block);
        if lanes.len() == 1 || blocks <= 1 {
            let mut rest = arrays;
            for at in (0..n_rows).step_by(block) {
                let (here, after) = split(rest, widths, block.min(n_rows - at));
                rest = after;
                f(&mut lanes[0], first + at, here);
            }
            return;
        }
        let half = lanes.len() / 2;
        let left_rows = (blocks * half / lanes.len()).max(1) * block;
        let (left_lanes, right_lanes) = lanes.split_at_mut(half);
        let (left, right) = split(arrays, widths, left_rows);
        self.join(
            || self.split_rows_in(left_lanes, first, left_rows, block, left, widths, f),
            || self.split_rows_in(right_lanes, first + left_rows, n_rows - left_rows, block, right, widths, f),
        );
    }

    /// Calls `f(lane, i, &mut items[i], rows of i)` for every item, where item `i` owns `rows[i * width..][..width]`
    /// (the last may be shorter) and `lane` is a scratch space that no other call uses at the same time.
    ///
    /// Which lane serves which item depends on the number of lanes, so `f` must not let its results depend on what a
    /// lane held before.
    pub fn for_items<L: Send, T: Send>(
        self,
        lanes: &mut [L],
        items: &mut [T],
        rows: &mut [f32],
        width: usize,
        f: impl Fn(&mut L, usize, &mut T, &mut [f32]) + Sync + Send,
    ) {
        assert!(!lanes.is_empty(), "no lane to compute in");
        self.split_items(lanes, 0, items, rows, width, &f);
    }

    fn split_items<L: Send, T: Send>(
        self,
        lanes: &mut [L],
        first: usize,
        items: &mut [T],
        rows: &mut [f32],
        width: usize,
        f: &(impl Fn(&mut L, usize, &mut T, &mut [f32]) + Sync + Send),
    ) {
        if lanes.len() == 1 || items.len() <= 1 {
            for (i, (item, part)) in items.iter_mut().zip(rows.chunks_mut(width)).enumerate() {
                f(&mut lanes[0], first + i, item, part);
            }
            return;
        }
        let half = lanes.len() / 2;
        let left_items = (items.len() * half / lanes.len()).max(1);
        let (left_lanes, right_lanes) = lanes.split_at_mut(half);
        let (left, right) = items.split_at_mut(left_items);
        let (left_rows, right_rows) = rows.split_at_mut(left_items * width);
        self.join(
            || self.split_items(left_lanes, first, left, left_rows, width, f),
            || self.split_items(right_lanes, first + left_items, right, right_rows, width, f),
        );
    }

    /// [`Par::map`] with a scratch space: `f(lane, i)`, where no other call uses the lane at the same time. What a lane held
    /// before must not show in the results.
    pub fn map_in<L: Send, R: Send>(
        self,
        lanes: &mut [L],
        n: usize,
        f: impl Fn(&mut L, usize) -> R + Sync + Send,
    ) -> alloc::vec::Vec<R> {
        assert!(!lanes.is_empty(), "no lane to compute in");
        let mut out: alloc::vec::Vec<Option<R>> = (0..n).map(|_| None).collect();
        self.fill(lanes, 0, &mut out, &f);
        out.into_iter().flatten().collect()
    }

    fn fill<L: Send, R: Send>(
        self,
        lanes: &mut [L],
        first: usize,
        out: &mut [Option<R>],
        f: &(impl Fn(&mut L, usize) -> R + Sync + Send),
    ) {
        if lanes.len() == 1 || out.len() <= 1 {
            out.iter_mut().enumerate().for_each(|(i, out)| *out = Some(f(&mut lanes[0], first + i)));
            return;
        }
        let half = lanes.len() / 2;
        let n_left = (out.len() * half / lanes.len()).max(1);
        let (left_lanes, right_lanes) = lanes.split_at_mut(half);
        let (left, right) = out.split_at_mut(n_left);
        self.join(|| self.fill(left_lanes, first, left, f), || self.fill(right_lanes, first + n_left, right, f));
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

/// The first `rows` rows of each array, and the others.
fn split<'a, const N: usize>(
    arrays: [&'a mut [f32]; N],
    widths: &[usize; N],
    rows: usize,
) -> ([&'a mut [f32]; N], [&'a mut [f32]; N]) {
    let mut after: [&mut [f32]; N] = core::array::from_fn(|_| Default::default());
    let mut i = 0;
    let before = arrays.map(|array| {
        let (b, a) = array.split_at_mut(rows * widths[i]);
        after[i] = a;
        i += 1;
        b
    });
    (before, after)
}
