//! The kernels of a training step, a function each: see [`kernels`](super::kernels).

use super::kernels::{Weights, at, check_lists, num, or_null, start};
use super::lists::Lists;
use super::{Arg, Part};
use crate::error::Result;
use crate::kernel::adam::AdamStep;
use alloc::vec::Vec;
use bytemuck::{Pod, Zeroable};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AdamArg([f32; 5]);

/// The entries of each row: runs of ascending latents, of which the first are the candidates of the level.
#[derive(Clone, Copy)]
pub(crate) struct Entries<'a> {
    /// Latents with their values; 0 for those that do not fire.
    pub lists: Lists<'a>,
    /// Pre-activations, `(n, room)`.
    pub u: Part<'a, f32>,
    /// AuxK's values, `(n, room)`; none where AuxK does not act.
    pub v: Option<Part<'a, f32>>,
}

/// AuxK's picks: places in `dead`, whose latents go to `picked`, `(n, room)`.
#[derive(Clone, Copy)]
pub(crate) struct Picks<'a> {
    pub dead: Part<'a, u32>,
    pub lists: Lists<'a>,
    pub picked: Part<'a, u32>,
}

/// Merges candidates, with the values `z` of each, with the picks of AuxK.
pub(crate) fn settle(
    candidates: Lists<'_>,
    z: Part<'_, f32>,
    picks: Option<Picks<'_>>,
    out: Entries<'_>,
) -> Result<()> {
    let (n, lists) = (candidates.n(), out.lists);
    let u = out.u;
    check_lists(&candidates, n);
    check_lists(&lists, n);
    let all = n * lists.room;
    assert!(u.len() == all && out.v.is_none_or(|v| v.len() == all), "settle: no room");
    assert!(z.len() == n * candidates.room && picks.is_some() == out.v.is_some(), "settle: other entries");
    let room = picks.map_or(0, |picks| picks.lists.room);
    if let Some(Picks { lists: of, picked, .. }) = &picks {
        check_lists(of, n);
        assert!(picked.len() == n * of.room, "settle: no room for latents");
    }
    assert!(lists.room >= candidates.room + room, "settle: no room for picks");
    let args = [
        num(candidates.room),
        at(candidates.count),
        at(candidates.index),
        at(candidates.value),
        at(z),
        or_null(picks.map(|picks| picks.dead)),
        num(room),
        or_null(picks.map(|picks| picks.lists.count)),
        or_null(picks.map(|picks| picks.lists.index)),
        or_null(picks.map(|picks| picks.lists.value)),
        or_null(picks.map(|picks| picks.picked)),
        num(lists.room),
        at(lists.count),
        at(lists.index),
        at(u),
        at(lists.value),
        or_null(out.v),
    ];
    start(u, "settle", [n, 1], 128, 0, &args)
}

/// Ungated pre-activations of level 2 above their threshold, and where the entries of these latents and of their parents are,
/// `(n, room)`.
#[derive(Clone, Copy)]
pub(crate) struct Open<'a> {
    pub lists: Lists<'a>,
    pub child_at: Part<'a, u32>,
    pub parent_at: Part<'a, u32>,
    /// The pre-activations of the parents, infinity for ROOT, where these are of several shards.
    pub known: Option<Part<'a, f32>>,
}

impl Open<'_> {
    /// Checks that `entries`, of which the first `first` of each row are candidates, have room for one more per latent.
    fn check(&self, entries: Entries<'_>, first: Part<'_, u32>, most: usize) {
        let n = self.lists.n();
        check_lists(&self.lists, n);
        check_lists(&entries.lists, n);
        let all = n * self.lists.room;
        assert!(first.len() == n && self.child_at.len() == all && self.parent_at.len() == all, "contain: other rows");
        assert!(entries.lists.room >= self.lists.room.min(most), "contain: no room");
    }
}

/// Appends a silent entry to each row for every child of `open` that has none.
pub(crate) fn add_children(entries: Entries<'_>, first: Part<'_, u32>, open: Open<'_>) -> Result<()> {
    let u = entries.u;
    open.check(entries, first, usize::MAX);
    let lists = entries.lists;
    let args = [
        at(first),
        num(open.lists.room),
        at(open.lists.count),
        at(open.lists.index),
        at(open.child_at),
        num(lists.room),
        at(lists.count),
        at(lists.index),
        at(u),
        at(lists.value),
        or_null(entries.v),
    ];
    start(u, "add_children", [lists.n(), 1], 128, 0, &args)
}

/// Appends a silent entry to each row for the parent of every child of `open` that has none, with its pre-activation.
pub(crate) fn add_parents(
    x: Part<'_, f32>,
    weights: Weights<'_>,
    parents: Part<'_, u32>,
    entries: Entries<'_>,
    first: Part<'_, u32>,
    open: Open<'_>,
) -> Result<()> {
    let u = entries.u;
    let (Weights { w, bias, d }, f, lists) = (weights, weights.f(), entries.lists);
    open.check(entries, first, f);
    assert!(x.len() == lists.n() * d && w.len() == f * d, "add_parents: not (n, d)");
    let args = [
        at(x),
        at(w),
        at(bias),
        num(d),
        num(f),
        at(parents),
        at(first),
        num(open.lists.room),
        at(open.lists.count),
        at(open.lists.index),
        at(open.parent_at),
        num(lists.room),
        at(lists.count),
        at(lists.index),
        at(u),
        at(lists.value),
        or_null(entries.v),
    ];
    start(u, "add_parents", [lists.n(), 1], 128, f.div_ceil(32) * 4, &args)
}

/// Writes the pre-activations of the parents of `open` that have entries; 0 for the others.
pub(crate) fn parent_values(open: Open<'_>, entries: Entries<'_>, out: Part<'_, f32>) -> Result<()> {
    let (lists, n) = (open.lists, open.lists.n());
    assert!(out.len() == open.parent_at.len() && entries.lists.n() == n, "values_at: other rows");
    let args = [num(lists.room), at(lists.count), at(open.parent_at), num(entries.lists.room), at(entries.u), at(out)];
    start(out, "values_at", [n, 1], 128, 0, &args)
}

/// The numbers of the containment loss: the weights of its two directions, its margin, and `wc / n`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contain {
    pub down: f32,
    pub up: f32,
    pub margin: f32,
    pub scale: f32,
}

/// Adds the containment loss to `dL/du` of the entries of both levels, and writes its value per row.
pub(crate) fn contain(
    by: Contain,
    open: Open<'_>,
    [one, two]: [(Entries<'_>, Part<'_, f32>); 2],
    sums: Part<'_, f64>,
) -> Result<()> {
    let (n, Contain { down, up, margin, scale }) = (open.lists.n(), by);
    let u1 = one.0.u;
    check_lists(&open.lists, n);
    let fits = |(entries, du): &(Entries<'_>, Part<'_, f32>)| du.len() == n * entries.lists.room;
    assert!(open.known.is_none_or(|known| known.len() == open.parent_at.len()), "contain: other parents");
    assert!(fits(&one) && fits(&two) && sums.len() == n && u1.len() == one.1.len(), "contain: other rows");
    let args = [
        num(n),
        Arg::of(down),
        Arg::of(up),
        Arg::of(margin),
        Arg::of(scale),
        num(open.lists.room),
        at(open.lists.count),
        at(open.lists.value),
        or_null(open.known),
        at(open.parent_at),
        at(open.child_at),
        num(one.0.lists.room),
        at(u1),
        at(one.1),
        num(two.0.lists.room),
        at(two.1),
        at(sums),
    ];
    start(sums, "contain", [n.div_ceil(32), 1], 32, 0, &args)
}

/// What a penalty on sparsity adds up, times its factor.
#[derive(Clone, Copy)]
pub(crate) enum Penalised<'a> {
    /// Values times the norms of the decoder rows, `(f)`.
    Norms(Part<'a, f32>),
    /// How many fire.
    Counts,
    /// Pre-activations above 0.
    Pre,
}

/// Writes the penalty of each chunk of 64 rows.
pub(crate) fn penalties(penalty: f32, of: Penalised<'_>, entries: Entries<'_>, sums: Part<'_, f64>) -> Result<()> {
    let (lists, n) = (entries.lists, entries.lists.n());
    check_lists(&lists, n);
    assert_eq!(sums.len(), n.div_ceil(64), "penalties: no room");
    let (norms, z) = match of {
        Penalised::Norms(norms) => (Some(norms), Some(lists.value)),
        Penalised::Counts => (None, Some(lists.value)),
        Penalised::Pre => (None, None),
    };
    let args = [
        num(n),
        Arg::of(penalty),
        or_null(norms),
        num(lists.room),
        at(lists.count),
        at(lists.index),
        at(entries.u),
        or_null(z),
        at(sums),
    ];
    start(sums, "penalties", [sums.len(), 1], 32, 0, &args)
}

/// Writes `|r_i|^2`, or `|r_i|` where `root`.
pub(crate) fn row_squares(r: Part<'_, f32>, d: usize, root: bool, squares: Part<'_, f32>) -> Result<()> {
    let n = squares.len();
    assert_eq!(r.len(), n * d, "row_squares: not (n, d)");
    let args = [at(r), num(n), num(d), Arg::of(u32::from(root)), at(squares)];
    start(r, "row_squares", [n.div_ceil(8), 1], 256, 0, &args)
}

/// What an activation adds to gradients: the slopes `e^r` of a gated level or the thresholds of a jumprelu one, and its penalty,
/// with the norms of the decoder rows where it weighs values by them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Activation<'a> {
    pub slope: Option<Part<'a, f32>>,
    pub threshold: Option<Part<'a, f32>>,
    pub norms: Option<Part<'a, f32>>,
    /// `lambda / n`.
    pub penalty: f32,
    pub bandwidth: f32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ActivationArg {
    slope: u64,
    threshold: u64,
    norms: u64,
    penalty: f32,
    bandwidth: f32,
}

/// What the gradients of the entries of a level are made from.
#[derive(Clone, Copy)]
pub(crate) struct EntryJob<'a> {
    /// `(n, d)`: the residual of the level, and its factor.
    pub r: (Part<'a, f32>, f32),
    /// `(n, d)`: the residual of level 2, where it takes part, and its factor.
    pub r2: (Option<Part<'a, f32>>, f32),
    /// `(n, d)`: the gradient of what level 2 reads, where that depends on level 1.
    pub ds: Option<Part<'a, f32>>,
    /// `(n, d)`: AuxK's `e`, and its weight.
    pub e: Option<(Part<'a, f32>, Part<'a, f32>)>,
    /// `(n, d)`: what the auxiliary reconstruction of a gated level lacks, and its weight.
    pub gated: (Option<Part<'a, f32>>, f32),
    /// `(f, d)`.
    pub decoder: Part<'a, f32>,
    pub activation: Activation<'a>,
    /// Whether level 1 sees its own part only.
    pub own_only: bool,
    /// Whether `du` has the start of the sum.
    pub starts: bool,
    /// Width.
    pub d: usize,
}

/// Gradients of entries, `(n, room)` each; those that a level does not have are none.
#[derive(Clone, Copy)]
pub(crate) struct EntryGradients<'a> {
    pub du: Part<'a, f32>,
    pub through: Option<Part<'a, f32>>,
    pub own: [Option<Part<'a, f32>>; 2],
}

/// Writes the gradients of the entries of a level.
pub(crate) fn entry_gradients(job: EntryJob<'_>, entries: Entries<'_>, out: EntryGradients<'_>) -> Result<()> {
    let Entries { lists, u, v } = entries;
    let EntryJob { r: (r, factor), r2: (r2, factor2), ds, e, gated: (a, weight), decoder, activation, .. } = job;
    let (n, d) = (lists.n(), job.d);
    check_lists(&lists, n);
    let (e, aux) = (e.map(|(e, _)| e), e.map(|(_, aux)| aux));
    let rows = |x: &Option<Part<'_, f32>>| x.is_none_or(|x| x.len() == n * d);
    assert!(r.len() == n * d && [r2, ds, e, a].iter().all(rows), "entry_gradients: not (n, d)");
    let all = |x: &Option<Part<'_, f32>>| x.is_none_or(|x| x.len() == n * lists.room);
    let EntryGradients { du, through, own: [p0, p1] } = out;
    assert!(
        [Some(du), through, p0, p1, Some(u), v].iter().all(all) && (e.is_none() || v.is_some()),
        "entry_gradients: no room"
    );
    let Activation { slope, threshold, norms, penalty, bandwidth } = activation;
    assert!((threshold.is_none() && slope.is_none()) || p0.is_some(), "entry_gradients: no parameters");
    assert!(slope.is_none() || p1.is_some(), "entry_gradients: no parameters");
    let address = |part: Option<Part<'_, f32>>| part.map_or(0, |part| part.address);
    let by = ActivationArg {
        slope: address(slope),
        threshold: address(threshold),
        norms: address(norms),
        penalty,
        bandwidth,
    };
    let vectors = 1 + [r2, ds, e, a].iter().flatten().count();
    let args = [
        at(r),
        Arg::of(factor),
        or_null(r2),
        Arg::of(factor2),
        or_null(ds),
        or_null(e),
        or_null(aux),
        or_null(a),
        Arg::of(weight),
        at(decoder),
        num(d),
        Arg::of(by),
        Arg::of(u32::from(job.own_only)),
        Arg::of(u32::from(job.starts)),
        num(lists.room),
        at(lists.count),
        at(lists.index),
        at(u),
        at(lists.value),
        or_null(v),
        at(du),
        or_null(through),
        or_null(p0),
        or_null(p1),
    ];
    start(r, "entry_gradients", [n, 1], 256, vectors * d * 4, &args)
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
    /// Gradients of the activation's parameters.
    pub own: [Option<Part<'a, f32>>; 2],
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
    let most = num(row_at.len());
    let args = [num(lists.room), at(lists.count), at(lists.index), most, at(next), at(row_at), at(entry_at)];
    start(next, "place_entries", [lists.n(), 1], 128, 0, &args)
}

/// Puts the entries of each latent in the order of rows, with their values and their gradients by row.
pub(crate) fn order_entries(
    entries: Entries<'_>,
    placed: (Part<'_, u32>, Part<'_, u32>),
    by_row: EntryGradients<'_>,
    out: ByLatent<'_>,
) -> Result<()> {
    let (Entries { lists, v, .. }, (row_at, entry_at), n) = (entries, placed, entries.lists.n());
    check_lists(&lists, n);
    let (all, m) = (n * lists.room, out.rows.len());
    let EntryGradients { du: g0, through: g1, own: [p0, p1] } = by_row;
    assert!([Some(g0), g1, p0, p1].iter().flatten().all(|g| g.len() == all), "order_entries: other entries");
    assert!(
        row_at.len() == m && entry_at.len() == m && out.z.len() == m && out.g0.len() == m,
        "order_entries: no room"
    );
    let same = |a: &Option<Part<'_, f32>>, b: &Option<Part<'_, f32>>| a.is_some() == b.is_some();
    assert!(same(&g1, &out.g1) && same(&p0, &out.own[0]) && same(&p1, &out.own[1]), "order_entries: other gradients");
    assert!(out.v.is_none() || v.is_some(), "order_entries: other values");
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
        or_null(p0),
        or_null(p1),
        at(out.rows),
        at(out.z),
        or_null(out.v),
        at(out.g0),
        or_null(out.g1),
        or_null(out.own[0]),
        or_null(out.own[1]),
    ];
    let spans = n.div_ceil(32).div_ceil(8);
    start(out.offsets, "order_entries", [out.offsets.len() - 1, 1], 128, spans * 9 * 4, &args)
}

/// Puts the rows of the entries of each latent in order.
pub(crate) fn order_rows(
    lists: Lists<'_>,
    offsets: Part<'_, u32>,
    placed: (Part<'_, u32>, Part<'_, u32>),
    rows: Part<'_, u32>,
) -> Result<()> {
    let (n, (row_at, entry_at), none) = (lists.n(), placed, Arg::of(0u64));
    check_lists(&lists, n);
    assert!(row_at.len() == rows.len() && entry_at.len() == rows.len(), "order_rows: no room");
    let (from, to) = ([none; 6], [none; 6]);
    let first = [num(n), num(lists.room), at(offsets), at(row_at), at(entry_at)];
    let args: Vec<Arg> = first.into_iter().chain(from).chain([at(rows)]).chain(to).collect();
    let spans = n.div_ceil(32).div_ceil(8);
    start(offsets, "order_entries", [offsets.len() - 1, 1], 128, spans * 9 * 4, &args)
}

/// What the gradients of decoder rows are made from.
#[derive(Clone, Copy)]
pub(crate) struct DecoderJob<'a> {
    /// `(n, d)`: the residual of the level, and its factor.
    pub r: Part<'a, f32>,
    pub recon: f32,
    /// `(n, d)`: AuxK's `e`, and its weight.
    pub e: Option<(Part<'a, f32>, Part<'a, f32>)>,
    /// Whether level 2 takes part, with its residual where it adds to level 1's reconstruction, and its factor.
    pub two: bool,
    pub r2: Option<Part<'a, f32>>,
    pub through: f32,
    /// `(n, d)`: the gradient of what level 2 reads, where that depends on level 1.
    pub ds: Option<Part<'a, f32>>,
    /// Whether level 1 sees its own part only.
    pub own_only: bool,
    /// The penalty `lambda / n` on values times the norms of the decoder rows, `(f)`, where there is one, and these rows.
    pub shrink: Option<(f32, Part<'a, f32>, Part<'a, f32>)>,
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
    let DecoderJob { r, recon, e, two, r2, through, ds, own_only, shrink, d } = job;
    let f = list.offsets.len() - 1;
    assert!(grad.len() == f * d && stats.is_none_or(|s| s.len() == 3 * f), "decoder_gradients: no room");
    assert!(e.is_none() || list.v.is_some(), "decoder_gradients: no picks");
    assert!(
        shrink.is_none_or(|(_, norms, rows)| norms.len() == f && rows.len() == f * d),
        "decoder_gradients: other norms"
    );
    let args = [
        at(r),
        Arg::of(recon),
        or_null(e.map(|(e, _)| e)),
        or_null(e.map(|(_, aux)| aux)),
        or_null(r2),
        Arg::of(through),
        or_null(ds),
        Arg::of(u32::from(two)),
        Arg::of(u32::from(own_only)),
        num(d),
        Arg::of(shrink.map_or(0.0, |(penalty, ..)| penalty)),
        or_null(shrink.map(|(_, norms, _)| norms)),
        or_null(shrink.map(|(.., rows)| rows)),
        at(list.offsets),
        at(list.rows),
        at(list.z),
        or_null(list.v),
        at(grad),
        or_null(stats),
    ];
    start(r, "decoder_gradients", [f, 1], 256, 2 * d * 4, &args)
}

/// Writes the sum of the values of each latent.
pub(crate) fn latent_sums(offsets: Part<'_, u32>, value: Part<'_, f32>, sums: Part<'_, f32>) -> Result<()> {
    let f = sums.len();
    assert_eq!(offsets.len(), f + 1, "latent_sums: other latents");
    start(sums, "latent_sums", [f.div_ceil(8), 1], 256, 0, &[num(f), at(offsets), at(value), at(sums)])
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

/// Writes `-sum_j grad_j w_j` of each group of 256 latents.
pub(crate) fn bias_groups(grad_b: Part<'_, f32>, w: Part<'_, f32>, d: usize, sums: Part<'_, f32>) -> Result<()> {
    let f = grad_b.len();
    let groups = f.div_ceil(256);
    assert!(w.len() == f * d && sums.len() == groups * d, "bias_groups: not (f, d)");
    let args = [at(grad_b), at(w), num(f), num(d), at(sums)];
    start(sums, "bias_groups", [d.div_ceil(128), groups], 128, 0, &args)
}

/// Adds the sums of all groups to `out`, in order.
pub(crate) fn bias_add(sums: Part<'_, f32>, out: Part<'_, f32>) -> Result<()> {
    let d = out.len();
    let groups = sums.len() / d;
    start(out, "bias_add", [d.div_ceil(128), 1], 128, 0, &[at(sums), num(groups), num(d), at(out)])
}

/// `g += other`, or `g += 0` where level 1 sees its own part only.
pub(crate) fn mix_into(other: Part<'_, f32>, own_only: bool, g: Part<'_, f32>) -> Result<()> {
    assert_eq!(other.len(), g.len(), "mix_into: other numbers");
    let args = [at(other), Arg::of(u32::from(own_only)), num(g.len()), at(g)];
    start(g, "mix_into", [g.len().div_ceil(256), 1], 256, 0, &args)
}

/// One step of Adam of rows of `width` numbers, which have norm 1 afterwards where `unit`, or no number below 0 where `positive`;
/// `p`, `m` and `v` are updated, with the factor of the verdict on the gradient, and not at all where it is against it. With `norms`, one
/// number per row, unit rows step as `train.row_norm` says.
pub(crate) fn adam_rows(
    step: &AdamStep,
    (scale, ok): (Part<'_, f32>, Part<'_, u32>),
    width: usize,
    [unit, positive]: [bool; 2],
    grad: Part<'_, f32>,
    [p, m, v]: [Part<'_, f32>; 3],
    norms: Option<Part<'_, f32>>,
) -> Result<()> {
    let len = grad.len();
    assert!(norms.is_none_or(|norms| unit && norms.len() * width == len), "adam_rows: one norm per unit row");
    assert!(p.len() == len && m.len() == len && v.len() == len, "adam_rows: the lengths differ");
    assert!(!unit || len.is_multiple_of(width), "adam_rows: no whole number of rows");
    assert!(scale.len() == 1 && ok.len() == 1, "adam_rows: one number");
    let AdamStep { lr, beta1, beta2, eps, correction2, grad_scale: _ } = *step;
    let step = Arg::of(AdamArg([lr, beta1, beta2, eps, correction2]));
    let (unit, positive) = (Arg::of(u32::from(unit)), Arg::of(u32::from(positive)));
    let (numbers, norms) = (Arg::of(len as u64), or_null(norms));
    let args = [step, at(scale), at(ok), num(width), numbers, unit, positive, at(grad), at(p), at(m), at(v), norms];
    start(p, "adam_rows", [len.div_ceil(width), 1], 256, width * 4, &args)
}
