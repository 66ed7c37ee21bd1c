//! The counts of which latents fire together, on a device: the kernels of `cu/cofire.cuh`.

use super::kernels::{at, check_lists, num, start};
use super::lists::Lists;
use super::{Arg, Part};
use crate::error::Result;

/// Words of a child's row before its counts.
pub(crate) const HEAD: usize = 4;

/// Adds `w` to the count of each parent for every row on which it fires, and `w` times the energy of the row to its energy. Entries
/// are by latent, `(f + 1)` offsets; those with `z` above 0 fire.
pub(crate) fn count_parents(
    [offsets, rows]: [Part<'_, u32>; 2],
    z: Part<'_, f32>,
    energy: Part<'_, f32>,
    w: f64,
    [parent, sums]: [Part<'_, f64>; 2],
) -> Result<()> {
    let f = parent.len();
    assert!(offsets.len() == f + 1 && sums.len() == f && rows.len() == z.len(), "count_parents: other latents");
    let args = [num(f), at(offsets), at(rows), at(z), at(energy), Arg::of(w), at(parent), at(sums)];
    start(parent, "count_parents", [f.div_ceil(128), 1], 128, 0, &args)
}

/// How a step is counted: how often the counts fade before it, how many tokens each row stands for, and its weight in the sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    pub fades: u32,
    pub tokens: u32,
    pub w: f64,
}

/// Counts the children by latent, `(f2 + 1)` offsets, with the parents that fire on their rows.
pub(crate) fn count_children(
    by: Counted,
    [offsets, rows]: [Part<'_, u32>; 2],
    parents: Lists<'_>,
    child: Part<'_, f64>,
    both: Part<'_, u16>,
) -> Result<()> {
    let f2 = child.len();
    check_lists(&parents, parents.n());
    assert!(
        offsets.len() == f2 + 1 && both.len().is_multiple_of(f2) && rows.len() > 0,
        "count_children: other latents"
    );
    let f1 = both.len() / f2 - HEAD;
    let args = [
        num(f2),
        num(f1),
        Arg::of(by.fades),
        Arg::of(by.tokens),
        Arg::of(by.w),
        at(offsets),
        at(rows),
        num(parents.room),
        at(parents.count),
        at(parents.index),
        at(child),
        at(both),
    ];
    start(child, "count_children", [f2.div_ceil(8), 1], 256, 0, &args)
}

/// `v *= by`.
pub(crate) fn scale_sums(by: f64, v: Part<'_, f64>) -> Result<()> {
    start(v, "scale_sums", [v.len().div_ceil(256), 1], 256, 0, &[num(v.len()), Arg::of(by), at(v)])
}
