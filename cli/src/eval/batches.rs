//! The rows of an evaluation in batches of whole sequences, which are encoded and decoded in parallel, and used in
//! order.

use super::unit::Unit;
use crate::console::check_interrupt;
use crate::dump::Dump;
use crate::row_filter::{LeftOut, Reason, RowFilter};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;
use strata_core::metrics::fidelity::Fidelity;
use strata_core::model::{Lanes, TopkBy};
use strata_core::train::Comm;
use strata_core::{Codes, Encoder, Par};

/// Least number of rows of a batch, but for the last one. It is also the block of the metrics that are defined over
/// batches.
const ROWS: u64 = 1024;
/// Rows per sequence, for resampling, of a dump without starts of sequences.
const STRETCH: u64 = 128;
/// A longer sequence is evaluated as several of this many rows.
const LONGEST: u64 = 8192;
/// Number of rows on which level 2 is measured without its gate; in larger dumps some batches are skipped for that.
const OPEN_ROWS: u64 = 1 << 18;
/// Number of batches that are used together, while the next ones, as many, are encoded.
const TOGETHER: usize = 8;

/// The sequences of a dump, which bound windows and runs.
#[derive(Clone, Copy)]
pub struct Sequences<'a> {
    starts: Option<&'a [u64]>,
    context: Option<u64>,
    end: u64,
}

impl<'a> Sequences<'a> {
    /// Returns the sequences of `dump`. A dump without starts of sequences is cut into sequences of [`STRETCH`] rows,
    /// for resampling.
    pub fn new(dump: &'a Dump) -> Self {
        let context = dump.context().map(|t| t as u64).filter(|t| *t > 0);
        Self { starts: dump.sequence_starts(), context, end: dump.n_rows() }
    }

    /// Returns whether the dump has starts of sequences.
    pub fn known(&self) -> bool {
        self.starts.is_some() || self.context.is_some()
    }

    /// Returns the first row of the sequence of `row`, and the row after its last one. Long sequences are cut.
    pub fn around(&self, row: u64) -> (u64, u64) {
        let (start, end) = match (self.starts, self.context) {
            (Some(starts), _) => {
                let next = starts.partition_point(|s| *s <= row);
                let start = next.checked_sub(1).map_or(0, |i| starts[i]);
                (start, starts.get(next).copied().unwrap_or(self.end))
            }
            (None, context) => {
                let t = context.unwrap_or(STRETCH);
                (row / t * t, (row / t + 1) * t)
            }
        };
        let cut = start + (row - start) / LONGEST * LONGEST;
        (cut, end.min(cut + LONGEST).min(self.end))
    }

    /// Returns the sequences within rows `start..end`, the first and the last one cut at these limits.
    fn of(self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
        let mut at = start;
        std::iter::from_fn(move || {
            let from = at;
            (from < end).then(|| {
                at = self.around(from).1.min(end);
                (from, at)
            })
        })
    }

    /// Returns the number of sequences within rows `start..end`.
    pub fn count(self, start: u64, end: u64) -> u64 {
        self.of(start, end).count() as u64
    }
}

/// The words of the rows of a batch.
pub struct RowWords {
    /// One word of a profile per row.
    pub profile: Vec<u32>,
    /// One word of a topic per row.
    pub topic: Vec<u32>,
}

/// The rows that a model encodes, and those that it should reconstruct.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    /// The rows that are encoded.
    pub input: &'a Dump,
    /// The rows that a transcoder should reconstruct, one for each; none for an autoencoder, which reconstructs its
    /// input.
    pub target: Option<&'a Dump>,
}

impl<'a> Pair<'a> {
    /// Returns the rows that should be reconstructed.
    pub fn reconstructed(&self) -> &'a Dump {
        self.target.unwrap_or(self.input)
    }
}

impl<'a> From<&'a Dump> for Pair<'a> {
    fn from(input: &'a Dump) -> Self {
        Self { input, target: None }
    }
}

/// Replaces latents that may be below 0 (AbsTopK) by their absolute values, so that statistics count them as active.
pub fn magnitudes(encoder: &Encoder, codes: &mut Codes) {
    if encoder.model().arch.variant.topk_by == TopkBy::Absolute {
        codes.value.iter_mut().for_each(|z| *z = z.abs());
    }
}

/// Whole sequences without the rows that the filter leaves out, encoded and decoded; all numbers are in [`Unit`]s.
pub struct Batch {
    /// Its rows in the dump, ascending.
    pub rows: Vec<u64>,
    /// The position of each of its rows in its sequence; rows that are left out count.
    pub positions: Vec<u32>,
    /// Rows of its sequences that are left out.
    pub left_out: LeftOut,
    /// The sums of the rows that are left out; none where a reconstruction of them is not finite.
    pub fidelity_left_out: Option<Fidelity>,
    /// The number of its first sequence among those evaluated.
    pub sequence: u64,
    /// The first row of each of its sequences in the batch; then the number of rows.
    pub bounds: Vec<usize>,
    /// The rows that should be reconstructed, `(n, d_out)`; empty for a transcoder without its target.
    pub x: Vec<f32>,
    /// Codes of both levels.
    pub codes: [Codes; 2],
    /// Codes of level 2 without its gate, for one batch in [`open_every`] where families gate it: they need the ungated
    /// pre-activation of every child.
    pub open: Option<Codes>,
    /// Whether families gate level 2.
    pub gated: bool,
    /// `x_hat1`, `(n, d_out)`; empty without a target.
    pub hat1: Vec<f32>,
    /// `x_hat2 - x`, `(n, d_out)`; empty without a target.
    pub error: Vec<f32>,
    /// Sums over its rows.
    pub fidelity: Fidelity,
    /// The words of its rows, computed at the first request.
    pub words: OnceLock<RowWords>,
}

/// What another rank needs of a batch for sums that depend on the order of the rows.
#[derive(Serialize, Deserialize)]
pub struct InOrder {
    rows: Vec<u64>,
    positions: Vec<u32>,
    sequence: u64,
    bounds: Vec<usize>,
    /// Offsets, indices and values of the codes of both levels.
    codes: [(Vec<usize>, Vec<u32>, Vec<f32>); 2],
    gated: bool,
}

impl From<&Batch> for InOrder {
    fn from(batch: &Batch) -> Self {
        let codes = batch.codes.each_ref().map(|codes| {
            let Codes { offsets, index, value } = codes;
            (offsets.clone(), index.clone(), value.clone())
        });
        let Batch { rows, positions, sequence, bounds, gated, .. } = batch;
        let (rows, positions, bounds) = (rows.clone(), positions.clone(), bounds.clone());
        Self { rows, positions, sequence: *sequence, bounds, codes, gated: *gated }
    }
}

impl From<InOrder> for Batch {
    /// Returns the batch without what is not there: rows, reconstructions and codes without the gate.
    fn from(batch: InOrder) -> Self {
        let InOrder { rows, positions, sequence, bounds, codes, gated } = batch;
        Self {
            rows,
            positions,
            left_out: LeftOut::default(),
            fidelity_left_out: None,
            sequence,
            bounds,
            x: Vec::new(),
            codes: codes.map(|(offsets, index, value)| Codes { offsets, index, value }),
            open: None,
            gated,
            hat1: Vec::new(),
            error: Vec::new(),
            fidelity: Fidelity::new(0),
            words: OnceLock::new(),
        }
    }
}

impl Batch {
    /// Returns its rows.
    pub fn n(&self) -> usize {
        self.codes[0].n()
    }

    /// Returns the codes of level 2 without its gate, if this is one of the batches that have them. Without families
    /// they are the codes of level 2.
    pub fn ungated(&self) -> Option<&Codes> {
        if self.gated { self.open.as_ref() } else { Some(&self.codes[1]) }
    }

    /// Returns its sequences, as ranges of its rows, with their numbers among all sequences.
    pub fn sequences(&self) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> + '_ {
        self.bounds.windows(2).enumerate().map(|(i, w)| (self.sequence + i as u64, w[0]..w[1]))
    }
}

/// The rows of a batch, before they are read.
struct BatchRows {
    /// Whether it is also encoded without the gate.
    open: bool,
    /// Its first row in the dump.
    start: u64,
    /// As [`Batch::sequence`] and [`Batch::bounds`].
    sequence: u64,
    bounds: Vec<usize>,
}

/// Returns `m` such that one of `m` batches is encoded without the gate, for `rows` rows in all.
fn open_every(rows: u64) -> u64 {
    (rows / OPEN_ROWS).max(1)
}

/// Returns the rows of every batch: whole sequences, cut at `start` and `end`.
fn batches_of(sequences: Sequences<'_>, start: u64, end: u64) -> impl Iterator<Item = BatchRows> {
    let mut left = sequences.of(start, end).enumerate().peekable();
    let open_every = open_every(end - start);
    (0..).map_while(move |number| {
        let (sequence, (from, to)) = left.next()?;
        let mut bounds = vec![0, (to - from) as usize];
        while let Some((_, (_, to))) = left.next_if(|(_, (_, to))| to - from <= ROWS) {
            bounds.push((to - from) as usize);
        }
        let open = (number as u64).is_multiple_of(open_every);
        Some(BatchRows { open, start: from, sequence: sequence as u64, bounds })
    })
}

/// Encodes and decodes rows `start..end` without those that `filter` leaves out, and gives them to `use_batches` in
/// order, some batches at a time; the next ones are encoded meanwhile. Over several ranks each gets its turn of groups of
/// batches: all ranks are called equally often, the last ones maybe with none.
///
/// Memory: 16 batches of rows, their codes, and three times their size for reconstructions.
///
/// # Errors
/// If a row cannot be read or is not finite; whatever `use_batches` returns.
pub fn each_group(
    encoder: &Encoder,
    pair: Pair<'_>,
    filter: &RowFilter<'_>,
    unit: Unit,
    (start, end): (u64, u64),
    comm: &dyn Comm,
    mut use_batches: impl FnMut(&[Batch]) -> Result<()> + Send,
) -> Result<()> {
    let mut coming = batches_of(Sequences::new(pair.input), start, end);
    let (rank, size) = (comm.rank(), comm.size());
    // None after the last group of any rank.
    let mut next = || -> Option<Vec<BatchRows>> {
        let all: Vec<BatchRows> = coming.by_ref().take(TOGETHER * size).collect();
        (!all.is_empty()).then(|| all.into_iter().skip(TOGETHER * rank).take(TOGETHER).collect())
    };
    let mut lanes = vec![Lanes::default(); rayon::current_num_threads()];
    let mut read = |group: Option<Vec<BatchRows>>| -> Result<Option<Vec<Batch>>> {
        let Some(group) = group else { return Ok(None) };
        let one = |lanes: &mut Lanes, i: usize| read_batch(encoder, pair, filter, unit, &group[i], lanes);
        Par::Rayon.map_in(&mut lanes, group.len(), one).into_iter().collect::<Result<_>>().map(Some)
    };
    let mut batches = read(next())?;
    while let Some(some) = &batches {
        let following = next();
        let (used, read) = rayon::join(|| use_batches(some), || read(following));
        used?;
        batches = read?;
        check_interrupt()?;
    }
    Ok(())
}

/// Reads, encodes and decodes a batch.
fn read_batch(
    encoder: &Encoder,
    pair: Pair<'_>,
    filter: &RowFilter<'_>,
    unit: Unit,
    batch: &BatchRows,
    lanes: &mut Lanes,
) -> Result<Batch> {
    let Pair { input: dump, target } = pair;
    let arch = &encoder.model().arch;
    let (d_in, d) = (dump.d(), arch.d_out());
    let n = *batch.bounds.last().unwrap_or(&0);
    let mut x = vec![0.0; n * d_in];
    dump.read_range(batch.start, n, &mut x)?;
    let mut codes = [Codes::new(), Codes::new()];
    let [codes1, codes2] = &mut codes;
    let gated = !encoder.model().parents.is_empty();
    let mut open = (batch.open && gated).then(Codes::new);
    match &mut open {
        Some(open) => encoder.encode_open_par(Par::Seq, &x, lanes, codes1, codes2, open)?,
        None => encoder.encode_par_in(Par::Seq, &x, lanes, codes1, codes2)?,
    }
    // A transcoder without its target is only encoded, which is enough for an export.
    let reconstructs = target.is_some() || arch.variant.target.is_none();
    let (mut hat1, mut error) = (Vec::new(), Vec::new());
    if reconstructs {
        (hat1, error) = (vec![0.0; n * d], vec![0.0; n * d]);
        encoder.decode_of(&x, codes1, codes2, &mut hat1, &mut error)?;
    }
    magnitudes(encoder, codes1);
    // The filter reads rows before they are divided by the unit, since its limit of the norm is in the dump's units.
    let reasons = |x: &[f32]| -> Vec<Option<Reason>> {
        (batch.start..).zip(x.chunks_exact(d_in)).map(|(row, x)| filter.reason(row, x)).collect()
    };
    let reasons = if filter.keeps_all() { vec![None; n] } else { reasons(&x) };
    if let Some(target) = target {
        x.resize(n * d, 0.0);
        target.read_range(batch.start, n, &mut x)?;
    } else if !reconstructs {
        x.clear();
    }
    for values in [&mut x, &mut hat1, &mut error] {
        unit.divide(values);
    }
    codes.iter_mut().chain(&mut open).for_each(|codes| unit.divide(&mut codes.value));
    let BatchRows { start, sequence, ref bounds, .. } = *batch;
    let mut rows: Vec<u64> = (start..start + n as u64).collect();
    let mut positions: Vec<u32> = bounds.windows(2).flat_map(|w| 0..(w[1] - w[0]) as u32).collect();
    let (mut bounds, mut left_out) = (bounds.clone(), LeftOut::default());
    let mut fidelity_left_out = Some(Fidelity::new(d));
    reasons.iter().flatten().for_each(|reason| left_out.count(*reason));
    if left_out.total() > 0 {
        let kept: Vec<bool> = reasons.iter().map(Option::is_none).collect();
        let others = [&x, &hat1, &error].map(|all| pick(all, d, |t| !kept[t]));
        let mut sums = Fidelity::new(d);
        // A row of an immense norm may have a reconstruction beyond the range of f32, so that FVU with it is undefined.
        fidelity_left_out = sums.add(&others[0], &others[1], &others[2]).is_ok().then_some(sums);
        for all in [&mut x, &mut hat1, &mut error] {
            *all = pick(all, d, |t| kept[t]);
        }
        codes.iter_mut().chain(&mut open).for_each(|codes| *codes = rows_of(codes, &kept));
        bounds = bounds.iter().map(|end| kept[..*end].iter().filter(|k| **k).count()).collect();
        rows = pick(&rows, 1, |t| kept[t]);
        positions = pick(&positions, 1, |t| kept[t]);
    }
    let mut fidelity = Fidelity::new(d);
    fidelity.add(&x, &hat1, &error)?;
    // `error` held `x_hat2` until here, which the sums above read.
    error.iter_mut().zip(&x).for_each(|(e, x)| *e -= x);
    Ok(Batch {
        rows,
        positions,
        left_out,
        fidelity_left_out,
        sequence,
        bounds,
        x,
        codes,
        open,
        gated,
        hat1,
        error,
        fidelity,
        words: OnceLock::new(),
    })
}

/// Returns the rows `t` of `all`, each of `d` entries, for which `wanted(t)`.
fn pick<T: Copy>(all: &[T], d: usize, wanted: impl Fn(usize) -> bool) -> Vec<T> {
    all.chunks_exact(d).enumerate().filter(|(t, _)| wanted(*t)).flat_map(|(_, row)| row).copied().collect()
}

/// Returns the codes of the rows that are kept.
fn rows_of(codes: &Codes, kept: &[bool]) -> Codes {
    let mut out = Codes::new();
    for t in (0..kept.len()).filter(|t| kept[*t]) {
        let row = codes.row(t);
        out.index.extend(row.index);
        out.value.extend(row.value);
        out.end_row();
    }
    out
}
