//! The kernels, a function each: checks lengths, and computes grid and shared memory. `cu/` says what each of them does.

use super::lists::{FamiliesOn, Gate, Lists};
use super::{Arg, Launch, Part};
use crate::error::Result;
use crate::rows::Dtype;
use bytemuck::{Pod, Zeroable};

/// The names of all kernels.
pub const NAMES: [&str; 57] = [
    "product_above",
    "round_rows",
    "screen",
    "exact_above",
    "start_bars",
    "raise_bars",
    "rows_in_order",
    "keep_largest",
    "activate",
    "keep_dead",
    "mark_active",
    "scan",
    "pack_rows",
    "gather_rows",
    "gather_words",
    "scatter_lists",
    "rows_in",
    "leave_over",
    "sum_rows",
    "largest_children",
    "cut_count",
    "cut_pick",
    "count_ties",
    "keep_cut",
    "list_least",
    "settle",
    "add_children",
    "add_parents",
    "values_at",
    "contain",
    "penalties",
    "row_squares",
    "aux_rows",
    "entry_gradients",
    "count_latents",
    "place_entries",
    "order_entries",
    "decoder_gradients",
    "latent_sums",
    "encoder_gradients",
    "project_rows",
    "square_sums",
    "chunk_columns",
    "bias_start",
    "bias_groups",
    "bias_add",
    "mix_into",
    "adam_rows",
    "most_found",
    "poor_rows",
    "start_cut",
    "ordered_sum",
    "aux_weight",
    "verdict",
    "count_parents",
    "count_children",
    "scale_sums",
];

/// Bytes of a row in 8 bits: a multiple of what the screen takes at once.
pub(crate) fn width(d: usize) -> usize {
    d.next_multiple_of(64)
}

/// Numbers of what is known of a rounded row, and of a rounded latent.
pub(crate) const ROUNDED: usize = 3;
pub(crate) const WEIGHED: usize = 5;

/// What a pre-activation must exceed.
#[derive(Clone, Copy)]
pub(crate) enum Bar<'a> {
    /// One number.
    One(f32),
    /// A number per latent, `(f)`.
    Each(Part<'a, f32>),
}

impl<'a> Bar<'a> {
    fn of(self) -> (f32, Option<Part<'a, f32>>) {
        match self {
            Self::One(limit) => (limit, None),
            Self::Each(limits) => (0.0, Some(limits)),
        }
    }
}

/// Encoder rows and biases.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    /// `(f, d)`.
    pub w: Part<'a, f32>,
    /// `(f)`.
    pub bias: Part<'a, f32>,
    /// Width.
    pub d: usize,
}

impl Weights<'_> {
    /// Returns the number of latents.
    pub fn f(&self) -> usize {
        self.bias.len()
    }

    fn check(&self) {
        assert_eq!(self.w.len(), self.f() * self.d, "weights: not (f, d)");
    }
}

/// Rows or latents in 8 bits.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a> {
    /// `(n, width)`.
    pub bytes: Part<'a, i8>,
    /// `(n, ROUNDED)` of rows, `(n, WEIGHED)` of latents.
    pub known: Part<'a, f32>,
}

/// The hits of a screen, `room` places per row.
#[derive(Clone, Copy)]
pub(crate) struct Hits<'a> {
    /// Places of a row.
    pub room: usize,
    /// `(n)`.
    pub found: Part<'a, u32>,
    /// `(n, room)`.
    pub index: Part<'a, u32>,
    /// `(n, room)`: upper ends.
    pub upper: Part<'a, f32>,
    /// `(n, room)`: what they most probably exceed.
    pub likely: Part<'a, f32>,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct GateArg {
    parents: u64,
    active: u64,
    words: u32,
    pad: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FamiliesArg {
    offsets: u64,
    children: u64,
    f1: u32,
    pad: u32,
}

pub(super) fn at<T: Pod>(part: Part<'_, T>) -> Arg {
    Arg::of(part.address)
}

pub(super) fn or_null<T: Pod>(part: Option<Part<'_, T>>) -> Arg {
    part.map_or(Arg::of(0u64), at)
}

pub(super) fn num(n: usize) -> Arg {
    assert!(u32::try_from(n).is_ok(), "a size of {n} on a device");
    Arg::of(n as u32)
}

fn gate_arg(gate: Option<Gate<'_>>, n: usize, f: usize) -> Arg {
    let Some(Gate { parents, active, words }) = gate else {
        return Arg::of(GateArg { parents: 0, active: 0, words: 0, pad: 0 });
    };
    assert!(parents.len() == f && active.len() == n * words, "gate: other rows or children");
    Arg::of(GateArg { parents: parents.address, active: active.address, words: words as u32, pad: 0 })
}

pub(super) fn check_lists(lists: &Lists<'_>, n: usize) {
    let all = n * lists.room;
    let fits = lists.count.len() == n && lists.index.len() == all && lists.value.len() == all;
    assert!(fits, "lists: not of {n} rows with {} places", lists.room);
}

/// Starts a kernel unless it has nothing to do.
pub(super) fn start<T: Pod>(
    on: Part<'_, T>,
    name: &'static str,
    grid: [usize; 2],
    block: u32,
    shared: usize,
    args: &[Arg],
) -> Result<()> {
    if grid.contains(&0) {
        return Ok(());
    }
    let grid = grid.map(|blocks| u32::try_from(blocks).expect("a grid within 32 bits"));
    on.device.driver.launch(&Launch { name, grid, block, shared: shared as u32, args })
}

/// Appends to each row of `out`, in any order, what exceeds the bar where the gate is open; counts may pass the room. Where `there` is
/// given, only as many rows are computed as its number says, less the rows before these.
pub(crate) fn product_above(
    x: Part<'_, f32>,
    weights: Weights<'_>,
    bar: Bar<'_>,
    gate: Option<Gate<'_>>,
    there: Option<(Part<'_, u32>, usize)>,
    out: Lists<'_>,
) -> Result<()> {
    let (Weights { w, bias, d }, n, f) = (weights, out.n(), weights.f());
    weights.check();
    check_lists(&out, n);
    assert_eq!(x.len(), n * d, "product_above: not (n, d)");
    let (limit, limits) = bar.of();
    assert!(limits.is_none_or(|l| l.len() == f), "product_above: other limits");
    let args = [
        at(x),
        at(w),
        at(bias),
        Arg::of(limit),
        or_null(limits),
        gate_arg(gate, n, f),
        num(n),
        num(f),
        num(d),
        or_null(there.map(|(there, _)| there)),
        num(there.map_or(0, |(_, first)| first)),
        num(out.room),
        at(out.count),
        at(out.index),
        at(out.value),
    ];
    start(x, "product_above", [f.div_ceil(64), n.div_ceil(32)], 256, 3 * 96 * 64 * 4, &args)
}

/// Rounds rows to 8 bits.
pub(crate) fn round_rows(x: Part<'_, f32>, d: usize, out: Bytes<'_>) -> Result<()> {
    round(x, d, None, None, out)
}

/// Rounds encoder rows to 8 bits; `below` is subtracted from pre-activations.
pub(crate) fn round_weights(weights: Weights<'_>, below: Option<Part<'_, f32>>, out: Bytes<'_>) -> Result<()> {
    weights.check();
    assert!(below.is_none_or(|b| b.len() == weights.f()), "round_rows: other limits");
    round(weights.w, weights.d, Some(weights.bias), below, out)
}

fn round(
    x: Part<'_, f32>,
    d: usize,
    bias: Option<Part<'_, f32>>,
    below: Option<Part<'_, f32>>,
    out: Bytes<'_>,
) -> Result<()> {
    let n = x.len() / d;
    let known = if bias.is_some() { WEIGHED } else { ROUNDED };
    assert!(out.bytes.len() == n * width(d) && out.known.len() == n * known, "round_rows: no room for {n} rows");
    let null = Arg::of(0u64);
    let [rows, latents] = if bias.is_some() { [null, at(out.known)] } else { [at(out.known), null] };
    let args = [at(x), or_null(bias), or_null(below), num(d), num(width(d)), at(out.bytes), rows, latents];
    start(x, "round_rows", [n, 1], 32, d * 4, &args)
}

/// Appends to `hits` the latents that may exceed the bars `(n)` of the rows where the gate is open; counts may pass the room.
pub(crate) fn screen(
    rows: Bytes<'_>,
    latents: Bytes<'_>,
    d: usize,
    bar: Part<'_, f32>,
    share: f32,
    gate: Option<Gate<'_>>,
    hits: Hits<'_>,
) -> Result<()> {
    let (n, f, width) = (bar.len(), latents.known.len() / WEIGHED, width(d));
    assert!(rows.bytes.len() == n * width && rows.known.len() == n * ROUNDED, "screen: other rows");
    assert!(latents.bytes.len() == f * width, "screen: other latents");
    let all = n * hits.room;
    let fits = hits.index.len() == all && hits.upper.len() == all && hits.likely.len() == all;
    assert!(fits && hits.found.len() == n, "screen: no room for {n} rows");
    let args = [
        at(rows.bytes),
        at(latents.bytes),
        at(rows.known),
        at(latents.known),
        at(bar),
        Arg::of(share),
        gate_arg(gate, n, f),
        num(n),
        num(f),
        num(width),
        num(hits.room),
        at(hits.found),
        at(hits.index),
        at(hits.upper),
        at(hits.likely),
    ];
    start(bar, "screen", [f.div_ceil(128), n.div_ceil(128)], 256, 4 * 256 * 64, &args)
}

/// Appends to each row of `out` those of its candidates whose exact product exceeds the bar of the row, or that of the latent.
pub(crate) fn exact_above(
    x: Part<'_, f32>,
    weights: Weights<'_>,
    bar: Part<'_, f32>,
    limits: Option<Part<'_, f32>>,
    candidates: (Part<'_, u32>, Part<'_, u32>),
    out: Lists<'_>,
) -> Result<()> {
    let (Weights { w, bias, d }, n, (found, candidate)) = (weights, out.n(), candidates);
    weights.check();
    check_lists(&out, n);
    assert!(x.len() == n * d && bar.len() == n && found.len() == n, "exact_above: other rows");
    assert!(candidate.len() == n * out.room, "exact_above: candidates and results have different room");
    assert!(limits.is_none_or(|l| l.len() == weights.f()), "exact_above: other limits");
    let args = [
        at(x),
        at(w),
        at(bias),
        at(bar),
        or_null(limits),
        num(d),
        num(out.room),
        at(found),
        at(candidate),
        at(out.count),
        at(out.index),
        at(out.value),
    ];
    start(x, "exact_above", [n, 1], 256, d.next_multiple_of(16) * 4, &args)
}

/// Sets the bars of the rows: `ratio` times the norm if it is above 0, else `limit`.
pub(crate) fn start_bars(rows: Part<'_, f32>, ratio: f32, limit: f32, bar: Part<'_, f32>) -> Result<()> {
    let n = bar.len();
    assert_eq!(rows.len(), n * ROUNDED, "start_bars: other rows");
    let args = [at(rows), Arg::of(ratio), Arg::of(limit), num(n), at(bar)];
    start(bar, "start_bars", [n.div_ceil(256), 1], 256, 0, &args)
}

/// Raises the bars to what the `k` strongest hits most probably exceed; what may still exceed them goes to `left`.
pub(crate) fn raise_bars(
    k: usize,
    hits: Hits<'_>,
    bar: Part<'_, f32>,
    left: (Part<'_, u32>, Part<'_, u32>),
) -> Result<()> {
    let (n, (left, index)) = (bar.len(), left);
    assert!(hits.found.len() == n && left.len() == n && index.len() == n * hits.room, "raise_bars: other rows");
    let args = [
        num(k),
        num(hits.room),
        at(hits.found),
        at(hits.index),
        at(hits.upper),
        at(hits.likely),
        at(bar),
        at(left),
        at(index),
    ];
    start(bar, "raise_bars", [n, 1], 128, 0, &args)
}

/// Sorts the lists of rows by latent, of `f` latents.
pub(crate) fn rows_in_order(f: usize, from: Lists<'_>, out: Lists<'_>) -> Result<()> {
    let n = from.n();
    check_lists(&from, n);
    check_lists(&out, n);
    assert_eq!(out.room, from.room, "rows_in_order: other room");
    let args = [
        num(f),
        num(from.room),
        at(from.count),
        at(from.index),
        at(from.value),
        at(out.count),
        at(out.index),
        at(out.value),
    ];
    let spans = f.div_ceil(32).div_ceil(8);
    start(from.count, "rows_in_order", [n, 1], 128, spans * 9 * 4, &args)
}

/// Keeps the `k` largest of each row; `least` receives the smallest of them where there are `k`, else 0.
pub(crate) fn keep_largest(k: usize, from: Lists<'_>, least: Part<'_, f32>, out: Lists<'_>) -> Result<()> {
    let n = from.n();
    check_lists(&from, n);
    check_lists(&out, n);
    assert!(least.len() == n, "keep_largest: other rows");
    let args = [
        num(k),
        num(from.room),
        at(from.count),
        at(from.index),
        at(from.value),
        num(out.room),
        at(out.count),
        at(out.index),
        at(out.value),
        at(least),
    ];
    assert!(out.room >= k.min(from.room), "keep_largest: no room for {k} entries");
    start(from.count, "keep_largest", [n, 1], 128, 0, &args)
}

/// How the value of a latent follows from a pre-activation above 0.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    /// `max(e^r u + b, 0)`, from the slopes `e^r` and the offsets `b`, `(f)` each.
    Gated(Part<'a, f32>, Part<'a, f32>),
    /// `u` where it exceeds the threshold, `(f)`.
    Above(Part<'a, f32>),
}

/// Keeps the latents that fire with their values, or with their pre-activations where `keep_u`; `all` receives the value of every
/// entry of `from`.
pub(crate) fn activate(
    by: Values<'_>,
    keep_u: bool,
    from: Lists<'_>,
    all: Option<Part<'_, f32>>,
    out: Lists<'_>,
) -> Result<()> {
    let n = from.n();
    check_lists(&from, n);
    check_lists(&out, n);
    let (slope, offset, threshold) = match by {
        Values::Gated(slope, offset) => (Some(slope), Some(offset), None),
        Values::Above(threshold) => (None, None, Some(threshold)),
    };
    assert!(out.room == from.room && all.is_none_or(|z| z.len() == n * from.room), "activate: other lists");
    let args = [
        or_null(slope),
        or_null(offset),
        or_null(threshold),
        Arg::of(u32::from(keep_u)),
        num(from.room),
        at(from.count),
        at(from.index),
        at(from.value),
        or_null(all),
        at(out.count),
        at(out.index),
        at(out.value),
    ];
    start(from.count, "activate", [n, 1], 128, 0, &args)
}

/// Keeps those of the latents `dead`, which ascend, as places in `dead`.
pub(crate) fn keep_dead(dead: Part<'_, u32>, from: Lists<'_>, out: Lists<'_>) -> Result<()> {
    let n = from.n();
    check_lists(&from, n);
    check_lists(&out, n);
    assert_eq!(out.room, from.room, "keep_dead: other room");
    let args = [
        at(dead),
        num(dead.len()),
        num(from.room),
        at(from.count),
        at(from.index),
        at(from.value),
        at(out.count),
        at(out.index),
        at(out.value),
    ];
    start(from.count, "keep_dead", [n, 1], 128, 0, &args)
}

/// Marks the latents of each row that fire, a bit each in `words` words per row.
pub(crate) fn mark_active(lists: Lists<'_>, words: usize, active: Part<'_, u32>) -> Result<()> {
    let n = lists.n();
    check_lists(&lists, n);
    assert_eq!(active.len(), n * words, "mark_active: no room for {n} rows");
    let args = [num(lists.room), at(lists.count), at(lists.index), at(lists.value), num(words), at(active)];
    start(active, "mark_active", [n, 1], 128, 0, &args)
}

/// How many entries there are places for, where the host does not look: the sum goes to `total`, and `bad` says if it is larger.
#[derive(Clone, Copy)]
pub(crate) struct Most<'a> {
    pub most: usize,
    pub total: Part<'a, u32>,
    pub bad: Part<'a, u32>,
}

/// Writes the sums of the counts before each, and of all; `next` receives them but for the last. All are 0 where they pass `most`.
pub(crate) fn scan(
    counts: Part<'_, u32>,
    offsets: Part<'_, u32>,
    next: Option<Part<'_, u32>>,
    most: Option<Most<'_>>,
) -> Result<()> {
    let n = counts.len();
    assert!(offsets.len() == n + 1 && next.is_none_or(|next| next.len() == n), "scan: no room for {n} sums");
    assert!(most.is_none_or(|m| m.total.len() == 1 && m.bad.len() == 1), "scan: one number");
    let (total, bad) = (most.map(|m| m.total), most.map(|m| m.bad));
    let limit = num(most.map_or(0, |m| m.most));
    start(
        counts,
        "scan",
        [1, 1],
        1024,
        0,
        &[num(n), at(counts), at(offsets), or_null(next), limit, or_null(total), or_null(bad)],
    )
}

/// Writes the largest of some counts to `most`, one number that was 0, and says in `bad` if it passes `room`.
pub(crate) fn most_found(found: Part<'_, u32>, room: usize, most: Part<'_, u32>, bad: Part<'_, u32>) -> Result<()> {
    let n = found.len();
    assert!(most.len() == 1 && bad.len() == 1, "most_found: one number");
    let args = [num(n), at(found), num(room), at(most), at(bad)];
    start(found, "most_found", [n.div_ceil(256).min(64), 1], 256, 0, &args)
}

/// Lists the rows with fewer than `k` entries whose bar was above 0; the rest of `which` is no row. `poor` receives how many there are,
/// and `bad` says if that is more than `which` has places.
pub(crate) fn poor_rows(
    k: usize,
    count: Part<'_, u32>,
    bar: Part<'_, f32>,
    which: Part<'_, u32>,
    poor: Part<'_, u32>,
    bad: Part<'_, u32>,
) -> Result<()> {
    let n = count.len();
    assert!(bar.len() == n && poor.len() == 1 && bad.len() == 1, "poor_rows: other rows");
    let args = [num(n), num(k), at(count), at(bar), num(which.len()), at(which), at(poor), at(bad)];
    start(count, "poor_rows", [1, 1], 1024, 0, &args)
}

/// Copies lists one behind the other.
pub(crate) fn pack_rows(
    from: Lists<'_>,
    offsets: Part<'_, u32>,
    index: Part<'_, u32>,
    value: Part<'_, f32>,
) -> Result<()> {
    let n = from.n();
    check_lists(&from, n);
    assert!(offsets.len() == n + 1 && index.len() == value.len(), "pack_rows: other rows");
    let args = [num(from.room), at(offsets), at(from.index), at(from.value), at(index), at(value)];
    start(from.count, "pack_rows", [n, 1], 128, 0, &args)
}

/// Copies the rows `which`.
pub(crate) fn gather_rows(which: Part<'_, u32>, x: Part<'_, f32>, d: usize, out: Part<'_, f32>) -> Result<()> {
    assert_eq!(out.len(), which.len() * d, "gather_rows: no room");
    start(x, "gather_rows", [which.len(), 1], 128, 0, &[at(which), at(x), num(d), at(out)])
}

/// Copies the words of the rows `which`.
pub(crate) fn gather_words(which: Part<'_, u32>, words: Part<'_, u32>, width: usize, out: Part<'_, u32>) -> Result<()> {
    assert_eq!(out.len(), which.len() * width, "gather_words: no room");
    start(words, "gather_words", [which.len(), 1], 128, 0, &[at(which), at(words), num(width), at(out)])
}

/// Puts the lists of some rows to the rows `which` of `out`.
pub(crate) fn scatter_lists(which: Part<'_, u32>, from: Lists<'_>, out: Lists<'_>) -> Result<()> {
    check_lists(&from, which.len());
    check_lists(&out, out.n());
    assert!(from.room <= out.room, "scatter_lists: no room");
    let args = [
        at(which),
        num(from.room),
        at(from.count),
        at(from.index),
        at(from.value),
        num(out.room),
        at(out.count),
        at(out.index),
        at(out.value),
    ];
    start(from.count, "scatter_lists", [which.len(), 1], 128, 0, &args)
}

/// `xt = (x - mean) scale - b_dec`, of what there is: `x` are the bytes of numbers of a type.
pub(crate) fn rows_in(
    (x, dtype): (Part<'_, u8>, Dtype),
    affine: Option<(Part<'_, f32>, f32)>,
    b_dec: Option<Part<'_, f32>>,
    d: usize,
    xt: Part<'_, f32>,
) -> Result<()> {
    let numbers = xt.len();
    let of_width = |part: Option<Part<'_, f32>>| part.is_none_or(|part| part.len() == d);
    assert!(x.len() == numbers * dtype.size_bytes(), "rows_in: not (n, d)");
    assert!(of_width(affine.map(|(mean, _)| mean)) && of_width(b_dec), "rows_in: not (n, d)");
    let of = match dtype {
        Dtype::F32 => 0u32,
        Dtype::F16 => 1,
        Dtype::Bf16 => 2,
    };
    let (mean, scale) = (affine.map(|(mean, _)| mean), affine.map_or(1.0, |(_, scale)| scale));
    let args =
        [at(x), Arg::of(of), or_null(mean), Arg::of(scale), or_null(b_dec), num(d), Arg::of(numbers as u64), at(xt)];
    start(x, "rows_in", [numbers.div_ceil(256).min(1 << 16), 1], 256, 0, &args)
}

/// Appends to each row of `out` the largest child of each active parent, and the children of ROOT, that exceed the bar.
pub(crate) fn largest_children(
    x: Part<'_, f32>,
    weights: Weights<'_>,
    bar: Bar<'_>,
    families: &FamiliesOn,
    parents: Lists<'_>,
    out: Lists<'_>,
) -> Result<()> {
    let (Weights { w, bias, d }, n, f) = (weights, out.n(), weights.f());
    weights.check();
    check_lists(&parents, n);
    check_lists(&out, n);
    assert!(x.len() == n * d && families.children.len() == f, "largest_children: other rows or children");
    let (limit, limits) = bar.of();
    assert!(limits.is_none_or(|l| l.len() == f), "largest_children: other limits");
    let (offsets, children) = (families.offsets.all(), families.children.all());
    let f1 = offsets.len() as u32 - 2;
    let families = Arg::of(FamiliesArg { offsets: offsets.address, children: children.address, f1, pad: 0 });
    let args = [
        at(x),
        at(w),
        at(bias),
        Arg::of(limit),
        or_null(limits),
        families,
        num(d),
        num(parents.room),
        at(parents.count),
        at(parents.index),
        at(parents.value),
        num(out.room),
        at(out.count),
        at(out.index),
        at(out.value),
    ];
    start(x, "largest_children", [n, 1], 256, d.next_multiple_of(16) * 4, &args)
}
