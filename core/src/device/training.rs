//! The kernels of a training step, a function each: see [`kernels`](super::kernels).

use super::kernels::{at, check_lists, num, or_null, start};
use super::lists::Lists;
use super::{Arg, Part};
use crate::error::Result;
use crate::kernel::adam::AdamStep;
use bytemuck::{Pod, Zeroable};

/// The state of a selection over a batch: the words of `Cut` in `cu/train.cuh`.
pub(crate) const CUT: usize = 5;
/// Its start, for so many that are wanted.
pub(crate) fn cut_start(wanted: usize) -> [u32; CUT] {
    [0, wanted as u32, 0, 0, u32::MAX]
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AdamArg([f32; 6]);

/// Counts candidates by eight bits of their values, and finds the bin of the last one that is wanted. Four times, from the
/// highest bits on.
pub(crate) fn cut_pass(tau: f32, lists: Lists<'_>, shift: u32, cut: Part<'_, u32>, bins: Part<'_, u32>) -> Result<()> {
    check_lists(&lists, lists.n());
    assert!(cut.len() == CUT && bins.len() == 256, "cut: no state");
    let args = [Arg::of(tau), num(lists.room), at(lists.count), at(lists.value), Arg::of(shift), at(cut), at(bins)];
    start(cut, "cut_count", [lists.n(), 1], 256, 0, &args)?;
    start(cut, "cut_pick", [1, 1], 32, 0, &[Arg::of(shift), at(cut), at(bins)])
}

/// Counts in each row the candidates that equal the cut; `ties` are zeros before.
pub(crate) fn count_ties(lists: Lists<'_>, cut: Part<'_, u32>, ties: Part<'_, u32>) -> Result<()> {
    assert!(ties.len() == lists.n() && cut.len() == CUT, "count_ties: other rows");
    let args = [num(lists.room), at(lists.count), at(lists.value), at(cut), at(ties)];
    start(cut, "count_ties", [lists.n(), 1], 128, 0, &args)
}

/// Keeps what lies above the cut, and the first of what equals it; `before` are the sums of the ties of the rows before.
pub(crate) fn keep_cut(lists: Lists<'_>, cut: Part<'_, u32>, before: Part<'_, u32>, out: Lists<'_>) -> Result<()> {
    let n = lists.n();
    check_lists(&lists, n);
    check_lists(&out, n);
    assert!(before.len() == n + 1 && cut.len() == CUT && out.room == lists.room, "keep_cut: other rows");
    let args = [
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

/// The entries of each row.
#[derive(Clone, Copy)]
pub(crate) struct Entries<'a> {
    /// Latents with their values; 0 for those that do not fire.
    pub lists: Lists<'a>,
    /// AuxK's values; none where AuxK does not act.
    pub v: Option<Part<'a, f32>>,
}

/// Merges what fires with the picks of AuxK, places in `dead`, whose latents go to `picked`.
pub(crate) fn settle(
    fires: Lists<'_>,
    dead: Part<'_, u32>,
    picks: Lists<'_>,
    picked: Part<'_, u32>,
    out: Entries<'_>,
) -> Result<()> {
    let (n, lists) = (fires.n(), out.lists);
    let Some(v) = out.v else { return Ok(()) };
    check_lists(&fires, n);
    check_lists(&picks, n);
    check_lists(&lists, n);
    assert!(picked.len() == n * picks.room && v.len() == n * lists.room, "settle: no room");
    assert!(lists.room >= fires.room + picks.room, "settle: no room for picks");
    let args = [
        num(fires.room),
        at(fires.count),
        at(fires.index),
        at(fires.value),
        at(dead),
        num(picks.room),
        at(picks.count),
        at(picks.index),
        at(picks.value),
        at(picked),
        num(lists.room),
        at(lists.count),
        at(lists.index),
        at(lists.value),
        at(v),
    ];
    start(v, "settle", [n, 1], 128, 0, &args)
}

/// Writes `|r_i|^2`.
pub(crate) fn row_squares(r: Part<'_, f32>, d: usize, squares: Part<'_, f32>) -> Result<()> {
    let n = squares.len();
    assert_eq!(r.len(), n * d, "row_squares: not (n, d)");
    start(r, "row_squares", [n.div_ceil(8), 1], 256, 0, &[at(r), num(n), num(d), at(squares)])
}

/// Writes `e = weight (v D - r)` and `|v D - r|^2` of each row.
pub(crate) fn aux_rows(
    r: Part<'_, f32>,
    decoder: Part<'_, f32>,
    weight: f32,
    d: usize,
    picks: Lists<'_>,
    e: Part<'_, f32>,
    squares: Part<'_, f32>,
) -> Result<()> {
    let n = picks.n();
    check_lists(&picks, n);
    assert!(r.len() == n * d && e.len() == n * d && squares.len() == n, "aux_rows: not (n, d)");
    let args = [
        at(r),
        at(decoder),
        Arg::of(weight),
        num(d),
        num(picks.room),
        at(picks.count),
        at(picks.index),
        at(picks.value),
        at(e),
        at(squares),
    ];
    start(r, "aux_rows", [n, 1], 256, d * 4, &args)
}

/// Writes `dL/du` of the entries: `e . D_j` where AuxK has picked the latent, less `factor r . D_j` where it fires.
pub(crate) fn entry_gradients(
    r: Part<'_, f32>,
    e: Option<Part<'_, f32>>,
    decoder: Part<'_, f32>,
    factor: f32,
    d: usize,
    entries: Entries<'_>,
    du: Part<'_, f32>,
) -> Result<()> {
    let Entries { lists, v } = entries;
    let n = lists.n();
    check_lists(&lists, n);
    assert!(r.len() == n * d && e.is_none_or(|e| e.len() == n * d), "entry_gradients: not (n, d)");
    assert!(du.len() == n * lists.room && (e.is_none() || v.is_some()), "entry_gradients: no room");
    let args = [
        at(r),
        or_null(e),
        at(decoder),
        Arg::of(factor),
        num(d),
        num(lists.room),
        at(lists.count),
        at(lists.index),
        at(lists.value),
        or_null(v),
        at(du),
    ];
    start(r, "entry_gradients", [n, 1], 256, 2 * d * 4, &args)
}

/// Entries by latent, rows ascending: `(entries)` each, and `(f + 1)` offsets.
#[derive(Clone, Copy)]
pub(crate) struct ByLatent<'a> {
    pub offsets: Part<'a, u32>,
    pub rows: Part<'a, u32>,
    pub z: Part<'a, f32>,
    pub v: Option<Part<'a, f32>>,
    pub g0: Part<'a, f32>,
    pub g1: Option<Part<'a, f32>>,
}

/// Counts the entries of each latent; `counts` are zeros before.
pub(crate) fn count_latents(lists: Lists<'_>, counts: Part<'_, u32>) -> Result<()> {
    check_lists(&lists, lists.n());
    start(
        counts,
        "count_latents",
        [lists.n(), 1],
        128,
        0,
        &[num(lists.room), at(lists.count), at(lists.index), at(counts)],
    )
}

/// Writes the row and the place of each entry by latent, in any order within its latent, from place `next` of each on.
pub(crate) fn place_entries(
    lists: Lists<'_>,
    next: Part<'_, u32>,
    row_at: Part<'_, u32>,
    entry_at: Part<'_, u32>,
) -> Result<()> {
    check_lists(&lists, lists.n());
    assert_eq!(row_at.len(), entry_at.len(), "place_entries: other entries");
    let args = [num(lists.room), at(lists.count), at(lists.index), at(next), at(row_at), at(entry_at)];
    start(next, "place_entries", [lists.n(), 1], 128, 0, &args)
}

/// Puts the entries of each latent in the order of rows, with their values and the gradients `g0` and `g1` by row.
pub(crate) fn order_entries(
    entries: Entries<'_>,
    placed: (Part<'_, u32>, Part<'_, u32>),
    g0: Part<'_, f32>,
    g1: Option<Part<'_, f32>>,
    out: ByLatent<'_>,
) -> Result<()> {
    let (Entries { lists, v }, (row_at, entry_at), n) = (entries, placed, entries.lists.n());
    check_lists(&lists, n);
    let (all, m) = (n * lists.room, out.rows.len());
    assert!(g0.len() == all && g1.is_none_or(|g| g.len() == all), "order_entries: other entries");
    assert!(
        row_at.len() == m && entry_at.len() == m && out.z.len() == m && out.g0.len() == m,
        "order_entries: no room"
    );
    assert!(g1.is_some() == out.g1.is_some() && (out.v.is_none() || v.is_some()), "order_entries: other values");
    let v = v.filter(|_| out.v.is_some());
    let args = [
        num(n),
        num(lists.room),
        at(out.offsets),
        at(row_at),
        at(entry_at),
        at(lists.value),
        or_null(v),
        at(g0),
        or_null(g1),
        at(out.rows),
        at(out.z),
        or_null(out.v),
        at(out.g0),
        or_null(out.g1),
    ];
    let spans = n.div_ceil(32).div_ceil(8);
    start(out.offsets, "order_entries", [out.offsets.len() - 1, 1], 128, spans * 9 * 4, &args)
}

/// What the gradients of decoder rows are made from.
#[derive(Clone, Copy)]
pub(crate) struct DecoderJob<'a> {
    /// `(n, d)`: the residual of the level, and its factor.
    pub r: Part<'a, f32>,
    pub recon: f32,
    /// `(n, d)`: AuxK's `e`.
    pub e: Option<Part<'a, f32>>,
    /// Whether level 2 takes part, with its residual where it adds to level 1's reconstruction, and its factor.
    pub two: bool,
    pub r2: Option<Part<'a, f32>>,
    pub through: f32,
    /// Whether level 1 sees its own part only.
    pub own_only: bool,
    /// Width.
    pub d: usize,
}

/// Writes the gradients of decoder rows, and of level 1 the statistics of the two parts, `(f, 3)`.
pub(crate) fn decoder_gradients(
    job: DecoderJob<'_>,
    list: ByLatent<'_>,
    grad: Part<'_, f32>,
    stats: Option<Part<'_, f32>>,
) -> Result<()> {
    let DecoderJob { r, recon, e, two, r2, through, own_only, d } = job;
    let f = list.offsets.len() - 1;
    assert!(grad.len() == f * d && stats.is_none_or(|s| s.len() == 3 * f), "decoder_gradients: no room");
    assert!(e.is_none() || list.v.is_some(), "decoder_gradients: no picks");
    let args = [
        at(r),
        Arg::of(recon),
        or_null(e),
        or_null(r2),
        Arg::of(through),
        Arg::of(u32::from(two)),
        Arg::of(u32::from(own_only)),
        num(d),
        at(list.offsets),
        at(list.rows),
        at(list.z),
        or_null(list.v),
        at(grad),
        or_null(stats),
    ];
    start(r, "decoder_gradients", [f, 1], 256, 2 * d * 4, &args)
}

/// Writes the gradients of encoder rows, of biases, and of level 1 of two levels what reaches its biases through level 2.
pub(crate) fn encoder_gradients(
    x: Part<'_, f32>,
    d: usize,
    own_only: bool,
    list: ByLatent<'_>,
    grad: Part<'_, f32>,
    bias: Part<'_, f32>,
    bias2: Option<Part<'_, f32>>,
) -> Result<()> {
    let f = list.offsets.len() - 1;
    assert!(grad.len() == f * d && bias.len() == f && bias2.is_none_or(|b| b.len() == f), "encoder_gradients: no room");
    assert_eq!(bias2.is_some(), list.g1.is_some(), "encoder_gradients: one part without the other");
    let args = [
        at(x),
        Arg::of(u32::from(own_only)),
        num(d),
        at(list.offsets),
        at(list.rows),
        at(list.g0),
        or_null(list.g1),
        at(grad),
        at(bias),
        or_null(bias2),
    ];
    start(x, "encoder_gradients", [f, 1], 256, 0, &args)
}

/// Takes from the gradients of unit rows their part along the row.
pub(crate) fn project_rows(p: Part<'_, f32>, d: usize, g: Part<'_, f32>) -> Result<()> {
    assert_eq!(p.len(), g.len(), "project_rows: other rows");
    start(g, "project_rows", [g.len() / d, 1], 256, 0, &[at(p), num(d), at(g)])
}

/// Writes the sums of squares of blocks of `block` numbers, each of runs of `run` numbers.
pub(crate) fn square_sums(g: Part<'_, f32>, block: usize, run: usize, sums: Part<'_, f64>) -> Result<()> {
    assert_eq!(sums.len(), g.len().div_ceil(block), "square_sums: no room");
    let args = [at(g), Arg::of(g.len() as u64), num(block), num(run), at(sums)];
    start(g, "square_sums", [sums.len(), 1], 256, block.div_ceil(run) * 4, &args)
}

/// Writes the sums of the columns of `r` over chunks of 64 rows.
pub(crate) fn chunk_columns(r: Part<'_, f32>, d: usize, sums: Part<'_, f32>) -> Result<()> {
    let n = r.len() / d;
    let chunks = n.div_ceil(64);
    assert_eq!(sums.len(), chunks * d, "chunk_columns: no room");
    start(r, "chunk_columns", [d.div_ceil(128), chunks], 128, 0, &[at(r), num(n), num(d), at(sums)])
}

/// `out = -recon sum of the chunks`.
pub(crate) fn bias_start(sums: Part<'_, f32>, recon: f32, out: Part<'_, f32>) -> Result<()> {
    let d = out.len();
    let args = [at(sums), num(sums.len() / d), Arg::of(recon), num(d), at(out)];
    start(out, "bias_start", [d.div_ceil(128), 1], 128, 0, &args)
}

/// `out -= sum_j grad_j w_j`, over groups of 256 latents.
pub(crate) fn bias_take_out(
    grad_b: Part<'_, f32>,
    w: Part<'_, f32>,
    sums: Part<'_, f32>,
    out: Part<'_, f32>,
) -> Result<()> {
    let (f, d) = (grad_b.len(), out.len());
    let groups = f.div_ceil(256);
    assert!(w.len() == f * d && sums.len() == groups * d, "bias_take_out: not (f, d)");
    let blocks = d.div_ceil(128);
    start(out, "bias_groups", [blocks, groups], 128, 0, &[at(grad_b), at(w), num(f), num(d), at(sums)])?;
    start(out, "bias_add", [blocks, 1], 128, 0, &[at(sums), num(groups), num(d), at(out)])
}

/// `g += other`, or `g += 0` where level 1 sees its own part only.
pub(crate) fn mix_into(other: Part<'_, f32>, own_only: bool, g: Part<'_, f32>) -> Result<()> {
    assert_eq!(other.len(), g.len(), "mix_into: other numbers");
    let args = [at(other), Arg::of(u32::from(own_only)), num(g.len()), at(g)];
    start(g, "mix_into", [g.len().div_ceil(256), 1], 256, 0, &args)
}

/// One step of Adam of rows of `width` numbers, which have norm 1 afterwards where `unit`; `p`, `m` and `v` are updated.
pub(crate) fn adam_rows(
    step: &AdamStep,
    width: usize,
    unit: bool,
    grad: Part<'_, f32>,
    [p, m, v]: [Part<'_, f32>; 3],
) -> Result<()> {
    let len = grad.len();
    assert!(p.len() == len && m.len() == len && v.len() == len, "adam_rows: the lengths differ");
    assert!(!unit || len.is_multiple_of(width), "adam_rows: no whole number of rows");
    let AdamStep { lr, beta1, beta2, eps, correction2, grad_scale } = *step;
    let step = Arg::of(AdamArg([lr, beta1, beta2, eps, correction2, grad_scale]));
    let args = [step, num(width), Arg::of(len as u64), Arg::of(u32::from(unit)), at(grad), at(p), at(m), at(v)];
    start(p, "adam_rows", [len.div_ceil(width), 1], 256, width * 4, &args)
}
