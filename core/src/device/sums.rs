//! The kernels of sums of decoder rows over the latents of a row, a function each: see [`kernels`](super::kernels).
//!
//! Each such sum is one chain over ascending latents. Where several shards have the latents, a shard goes on with the sum of those
//! before it, and the last one has the sum of all.

use super::kernels::{at, check_lists, num, or_null, start};
use super::lists::Lists;
use super::{Arg, Part};
use crate::error::Result;

/// `out = x - z D`.
pub(crate) fn leave_over(
    x: Part<'_, f32>,
    decoder: Part<'_, f32>,
    d: usize,
    z: Lists<'_>,
    out: Part<'_, f32>,
) -> Result<()> {
    leave(Some(x), None, (decoder, d), Some(z), out)
}

/// `out = before + z D`: the sum of the shards before this one goes on.
pub(crate) fn add_over(
    before: Part<'_, f32>,
    decoder: Part<'_, f32>,
    d: usize,
    z: Lists<'_>,
    out: Part<'_, f32>,
) -> Result<()> {
    leave(None, Some(before), (decoder, d), Some(z), out)
}

/// `out = x - sum`, with the sum of all shards.
pub(crate) fn take_from(x: Part<'_, f32>, sum: Part<'_, f32>, d: usize, out: Part<'_, f32>) -> Result<()> {
    // No row of the decoder is read.
    leave(Some(x), Some(sum), (sum, d), None, out)
}

fn leave(
    x: Option<Part<'_, f32>>,
    before: Option<Part<'_, f32>>,
    (decoder, d): (Part<'_, f32>, usize),
    z: Option<Lists<'_>>,
    out: Part<'_, f32>,
) -> Result<()> {
    let n = out.len() / d;
    let rows = |part: Option<Part<'_, f32>>| part.is_none_or(|part| part.len() == n * d);
    let whole = out.len() == n * d && decoder.len().is_multiple_of(d);
    assert!(rows(x) && rows(before) && whole, "leave_over: not (n, d)");
    let [room, count, index, value] = lists_or_null(z, n);
    let args = [or_null(x), or_null(before), at(decoder), num(d), room, count, index, value, at(out)];
    start(out, "leave_over", [n, 1], 256, 0, &args)
}

/// `out = k V`, the sum of the rows of `rows` that the lists name, with the coefficients `coef`, `(n, room)`, in their order.
pub(crate) fn sum_rows(
    rows: Part<'_, f32>,
    d: usize,
    lists: Lists<'_>,
    coef: Part<'_, f32>,
    out: Part<'_, f32>,
) -> Result<()> {
    let n = lists.n();
    check_lists(&lists, n);
    assert!(out.len() == n * d && coef.len() == n * lists.room && rows.len().is_multiple_of(d), "sum_rows: not (n, d)");
    let args = [at(rows), num(d), num(lists.room), at(lists.count), at(lists.index), at(coef), at(out)];
    start(out, "sum_rows", [n, 1], 256, 0, &args)
}

/// What an auxiliary reconstruction adds up.
#[derive(Clone, Copy)]
pub(crate) enum Addends<'a> {
    /// The rows of the decoder that lists name, of one shard with all latents.
    All(Lists<'a>),
    /// The sum of all shards, `(n, d)`.
    Sum(Part<'a, f32>),
}

/// Writes `e = weight (v D - r)` and `|v D - r|^2` of each row, of the entries with `v` above 0; without a weight it is 1.
pub(crate) fn aux_rows(
    r: Part<'_, f32>,
    decoder: Part<'_, f32>,
    weight: Option<Part<'_, f32>>,
    d: usize,
    of: Addends<'_>,
    e: Part<'_, f32>,
    squares: Part<'_, f32>,
) -> Result<()> {
    let (picks, before) = match of {
        Addends::All(picks) => (Some(picks), None),
        Addends::Sum(sum) => (None, Some(sum)),
    };
    assert_eq!(r.len(), squares.len() * d, "aux_rows: not (n, d)");
    auxiliary((Some(r), before), decoder, weight, d, picks, (e, Some(squares)))
}

/// Writes `before + v D`, of the entries with `v` above 0: the sum of the shards before this one goes on.
pub(crate) fn add_aux(
    before: Part<'_, f32>,
    decoder: Part<'_, f32>,
    d: usize,
    picks: Lists<'_>,
    out: Part<'_, f32>,
) -> Result<()> {
    auxiliary((None, Some(before)), decoder, None, d, Some(picks), (out, None))
}

fn auxiliary(
    (r, before): (Option<Part<'_, f32>>, Option<Part<'_, f32>>),
    decoder: Part<'_, f32>,
    weight: Option<Part<'_, f32>>,
    d: usize,
    picks: Option<Lists<'_>>,
    (e, squares): (Part<'_, f32>, Option<Part<'_, f32>>),
) -> Result<()> {
    let n = e.len() / d;
    let rows = |part: Option<Part<'_, f32>>| part.is_none_or(|part| part.len() == n * d);
    assert!(rows(r) && rows(before) && e.len() == n * d, "aux_rows: not (n, d)");
    let [room, count, index, value] = lists_or_null(picks, n);
    let (r, before, weight) = (or_null(r), or_null(before), or_null(weight));
    let args = [r, before, at(decoder), weight, num(d), room, count, index, value, at(e), or_null(squares)];
    start(e, "aux_rows", [n, 1], 256, d * 4, &args)
}

/// Returns the arguments of lists of `n` rows, or those of none: their room, counts, indices and values.
fn lists_or_null(lists: Option<Lists<'_>>, n: usize) -> [Arg; 4] {
    if let Some(lists) = &lists {
        check_lists(lists, n);
    }
    [
        num(lists.map_or(0, |lists| lists.room)),
        or_null(lists.map(|lists| lists.count)),
        or_null(lists.map(|lists| lists.index)),
        or_null(lists.map(|lists| lists.value)),
    ]
}
