//! The kernels of a selection over a batch, a function each.

use super::kernels::{at, check_lists, num, start};
use super::lists::Lists;
use super::{Arg, Part};
use crate::error::Result;

/// The state of a selection over a batch: the words of `Cut` in `cu/train.cuh`.
pub(crate) const CUT: usize = 5;
/// Of these, how many were above the tracked threshold, how many there were, and the bits of the smallest.
pub(crate) const ABOVE: usize = 2;
pub(crate) const FOUND: usize = 3;
pub(crate) const LEAST: usize = 4;
/// Its start, for so many that are wanted, with empty bins.
pub(crate) fn start_cut(wanted: usize, cut: Part<'_, u32>, bins: Part<'_, u32>) -> Result<()> {
    assert!(cut.len() == CUT && bins.len() == 256, "cut: no state");
    start(cut, "start_cut", [1, 1], 256, 0, &[num(wanted), at(cut), at(bins)])
}

/// Counts the candidates of some levels by eight bits of their values. With [`cut_pick`] after it four times, from the highest bits on.
pub(crate) fn cut_count(
    tau: f32,
    levels: &[Lists<'_>],
    shift: u32,
    cut: Part<'_, u32>,
    bins: Part<'_, u32>,
) -> Result<()> {
    assert!(cut.len() == CUT && bins.len() == 256, "cut: no state");
    for lists in levels {
        check_lists(lists, lists.n());
        let args = [Arg::of(tau), num(lists.room), at(lists.count), at(lists.value), Arg::of(shift), at(cut), at(bins)];
        start(cut, "cut_count", [lists.n(), 1], 256, 0, &args)?;
    }
    Ok(())
}

/// Finds the bin of the last candidate that is wanted, and empties the bins. Where `above` says that not all were collected, `bad` says
/// if too few were.
pub(crate) fn cut_pick((shift, above): (u32, bool), [cut, bins, bad]: [Part<'_, u32>; 3]) -> Result<()> {
    assert!(cut.len() == CUT && bins.len() == 256 && bad.len() == 1, "cut: no state");
    start(cut, "cut_pick", [1, 1], 32, 0, &[Arg::of(shift), Arg::of(u32::from(above)), at(cut), at(bins), at(bad)])
}

/// Counts in each row of level `level` of `levels` the candidates that equal the cut; `ties` are zeros before.
pub(crate) fn count_ties(
    (level, levels): (usize, usize),
    lists: Lists<'_>,
    cut: Part<'_, u32>,
    ties: Part<'_, u32>,
) -> Result<()> {
    assert!(ties.len() == lists.n() * levels && cut.len() == CUT, "count_ties: other rows");
    let args = [num(level), num(levels), num(lists.room), at(lists.count), at(lists.value), at(cut), at(ties)];
    start(cut, "count_ties", [lists.n(), 1], 128, 0, &args)
}

/// Keeps what lies above the cut, and the first of what equals it; `before` are the sums of the ties before each row of each level.
pub(crate) fn keep_cut(
    (level, levels): (usize, usize),
    lists: Lists<'_>,
    cut: Part<'_, u32>,
    before: Part<'_, u32>,
    out: Lists<'_>,
) -> Result<()> {
    let n = lists.n();
    check_lists(&lists, n);
    check_lists(&out, n);
    assert!(before.len() == n * levels + 1 && cut.len() == CUT && out.room == lists.room, "keep_cut: other rows");
    let args = [
        num(level),
        num(levels),
        num(lists.room),
        at(lists.count),
        at(lists.index),
        at(lists.value),
        at(cut),
        at(before),
        at(out.count),
        at(out.index),
        at(out.value),
    ];
    start(cut, "keep_cut", [n, 1], 128, 0, &args)
}

/// Lowers `least`, one number, to the bits of the smallest value of all lists.
pub(crate) fn list_least(lists: Lists<'_>, least: Part<'_, u32>) -> Result<()> {
    check_lists(&lists, lists.n());
    assert_eq!(least.len(), 1, "list_least: one number");
    let args = [num(lists.room), at(lists.count), at(lists.value), at(least)];
    start(least, "list_least", [lists.n(), 1], 128, 0, &args)
}
