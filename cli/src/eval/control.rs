//! Scores of the control of a run, on the rows that the run is evaluated on.

use super::batches::{self, Pair, Sequences};
use super::collect::{Collector, TERMS, add_edges, add_sums};
use super::intervals::{fvu2, interval_of, spread};
use crate::console::Console;
use crate::ranks;
use crate::row_filter::RowFilter;
use crate::run::Run;
use anyhow::Result;
use serde::Serialize;
use std::ops::Range;
use strata_core::metrics::bootstrap::{self, BlockSums, Interval, Resamples};
use strata_core::metrics::composition::{EdgeBlocks, EdgeIntervals};
use strata_core::train::Comm;
use strata_core::{Isa, Par, ROOT};

/// Scores of the control that its run is compared with.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ControlReport {
    /// Children that have no parent.
    pub root_children: usize,
    /// Reconstruction behind the gate.
    pub fvu2: Interval,
    /// The FVU of the control minus that of its run. Its interval is that of the difference on the same rows, so that
    /// rows that are hard for both do not widen it.
    pub fvu2_more: Interval,
    /// Scores of its edges where children fire without the gate.
    pub edges: EdgeIntervals,
}

/// The rows of the evaluation of the run, and its sums over them.
pub struct Rows<'a> {
    /// The dump, and the rows that a transcoder should reconstruct.
    pub pair: Pair<'a>,
    /// The rows of the dump that are evaluated.
    pub rows: &'a Range<u64>,
    /// The accumulators of the run over these rows.
    pub own: &'a Collector<'a>,
    /// Rows that are left out.
    pub filter: &'a RowFilter<'a>,
    /// The ranks, each of which measures some of the rows.
    pub comm: &'a dyn Comm,
}

/// Scores the control on the rows that its run was evaluated on. Over several ranks the result is that of the first; none on
/// the others.
///
/// # Errors
/// If a row cannot be read or another rank has ended.
pub fn measure(
    control: &Run,
    &Rows { pair, rows, own, filter, comm }: &Rows<'_>,
    isa: Isa,
    console: &mut Console<'_>,
) -> Result<Option<ControlReport>> {
    control.check_width(pair.input)?;
    let encoder = control.encoder(isa)?;
    let d = pair.reconstructed().d();
    let [f1, f2] = encoder.model().arch.latents();
    let sequences = Sequences::new(pair.input).count(rows.start, rows.end);
    let parents = &encoder.model().parents;
    let (mut edges, mut sums) = (EdgeBlocks::new(f1, parents, sequences)?, BlockSums::new(TERMS + d, sequences));
    let bar = console.bar("measuring the control", rows.end - rows.start, "tokens");
    batches::each_group(&encoder, pair, filter, own.unit, (rows.start, rows.end), comm, |some| {
        let (edges, sums) = (&mut edges, &mut sums);
        let (a, b) = rayon::join(
            || some.iter().try_for_each(|b| add_edges(edges, b, f1, f2)),
            || some.iter().try_for_each(|b| add_sums(sums, d, b)),
        );
        bar.inc(some.iter().map(|b| b.n() as u64 + b.left_out.total()).sum());
        a.and(b)
    })?;
    bar.finish_and_clear();
    for (of_edges, of_sums) in ranks::to_first::<_, (EdgeBlocks, BlockSums)>(comm, &(&edges, &sums))? {
        edges.merge(&of_edges)?;
        sums.merge(&of_sums);
    }
    if comm.rank() > 0 {
        return Ok(None);
    }
    // Per block of sequences: the sums of the run, followed by the squared error of the control by both levels, which
    // is
    // term 2 (see `TERMS`). Both are resampled together.
    let (own, sums) = (own.sums.values(), sums.values());
    let blocks = own.chunks(TERMS + d).zip(sums.chunks(TERMS + d));
    let paired: Vec<f64> = blocks.flat_map(|(own, control)| own.iter().copied().chain([control[2]])).collect();
    let more = |s: &[f64]| s[TERMS + d] / spread(&s[..TERMS + d]) - fvu2(&s[..TERMS + d]);
    Ok(Some(ControlReport {
        root_children: parents.iter().filter(|p| **p == ROOT).count(),
        fvu2: interval_of(&sums, d, fvu2)?,
        fvu2_more: bootstrap::interval(&paired, TERMS + d + 1, Resamples::default(), more)?,
        edges: edges.report(Par::Rayon, Resamples::default()),
    }))
}
