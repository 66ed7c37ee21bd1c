//! Which rows a step trains on: the stateless order, outliers left out, one integer for the cursor.

use crate::dump::Dump;
use anyhow::{Result, bail};
use strata_core::config::DataConfig;
use strata_core::metrics::absorption::sample as stratified;
use strata_core::normalise::Normalisation;
use strata_core::{Isa, RowOrder};

/// Rows to train on, and all rows: the last ones are held out, whole sequences of them where the dump has any.
pub fn split(dump: &Dump, holdout: f64) -> (u64, u64) {
    let n = dump.n_rows();
    let train = n - (n as f64 * holdout) as u64;
    let Some(starts) = dump.sequence_starts().filter(|_| train < n) else { return (train, n) };
    let whole = starts[..starts.partition_point(|s| *s <= train)].last().copied().unwrap_or(0);
    (if whole > 0 { whole } else { train }, n)
}

/// Rows that are read at a time, into room of their own.
const PART: usize = 256;

/// Batches of normalised rows.
pub struct Feed<'a> {
    dump: &'a Dump,
    isa: Isa,
    order: RowOrder,
    /// Places of the order that have been used: the whole state of the feed.
    pub cursor: u64,
    ids: Vec<u64>,
    raw: Vec<f32>,
}

impl<'a> Feed<'a> {
    /// Over the first `n_train` rows of `dump`.
    pub fn new(dump: &'a Dump, n_train: u64, data: &DataConfig, seed: u64, isa: Isa) -> Self {
        let order = RowOrder::new(seed, n_train, data.block, data.window);
        Self { dump, isa, order, cursor: 0, ids: Vec::new(), raw: Vec::new() }
    }

    /// Fills `out`, `(n, d)`, with the next rows that are no outliers, normalised.
    ///
    /// # Errors
    /// If a row cannot be read or is not finite, or if a whole epoch holds only outliers.
    pub fn next(&mut self, normalisation: &Normalisation, out: &mut [f32]) -> Result<()> {
        let d = self.dump.d();
        let wanted = out.len() / d;
        let mut filled = 0;
        let mut skipped = 0;
        while filled < wanted {
            self.ids.resize((wanted - filled).min(PART), 0);
            self.order.fill(self.cursor, &mut self.ids);
            self.raw.resize(self.ids.len() * d, 0.0);
            self.dump.read_rows(&self.ids, &mut self.raw)?;
            for row in self.raw.chunks(d) {
                self.cursor += 1;
                if normalisation.keeps(self.isa, row) {
                    out[filled * d..(filled + 1) * d].copy_from_slice(row);
                    filled += 1;
                    skipped = 0;
                } else {
                    skipped += 1;
                    if skipped > self.order.n_rows() {
                        bail!(
                            "every row of {} is an outlier: its norm is more than `data.outlier` times the median",
                            self.dump.name()
                        );
                    }
                }
            }
        }
        normalisation.apply(out);
        Ok(())
    }
}

/// A sample of at most `wanted` rows of the first `n`: one at random from each of as many equal parts, so that no place in
/// a sequence is preferred. Always the same one.
///
/// # Errors
/// If a row cannot be read or is not finite.
pub fn sample(dump: &Dump, n: u64, wanted: usize) -> Result<Vec<f32>> {
    let ids = stratified(0, n, wanted, 0);
    let mut rows = vec![0.0; ids.len() * dump.d()];
    dump.read_rows(&ids, &mut rows)?;
    Ok(rows)
}
