//! The rows that each step trains on: a stateless order without the rows that the filter leaves out, one integer for the
//! cursor, one batch read ahead.

use crate::dump::Dump;
use crate::row_filter::{LeftOut, RowFilter};
use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use strata_core::metrics::absorption::sample as stratified;
use strata_core::normalise::Normalisation;
use strata_core::rows::{Dtype, Rows};
use strata_core::train::{BatchRows, Comm, StepReport, Trainer};
use strata_core::{Config, RowOrder};

/// Returns the number of rows to train on, and of all rows. The last rows are held out: whole sequences of them where
/// the dump has sequences.
pub fn split(dump: &Dump, holdout: f64) -> (u64, u64) {
    let n = dump.n_rows();
    let train = n - (n as f64 * holdout) as u64;
    let Some(starts) = dump.sequence_starts().filter(|_| train < n) else { return (train, n) };
    let whole = starts[..starts.partition_point(|s| *s <= train)].last().copied().unwrap_or(0);
    (if whole > 0 { whole } else { train }, n)
}

/// Rows that a thread reads at a time.
const PART: usize = 256;

/// Threads that read rows. A row that is not in memory costs a request to the disk and the wait for its answer, so that
/// several requests at once are faster on any number of cores.
const READERS: usize = 4;

/// Reads the batches of a training in their order.
pub struct Reader<'a> {
    dump: &'a Dump,
    /// What a transcoder should reconstruct of the same rows.
    target: Option<(&'a Dump, Normalisation)>,
    filter: &'a RowFilter<'a>,
    order: RowOrder,
    normalisation: Normalisation,
    cursor: u64,
    ids: Vec<u64>,
    kept: Vec<u64>,
    /// Whether rows are given as they lie.
    raw: bool,
    threads: rayon::ThreadPool,
    /// The ranks to which the first one sends every batch; none where this process reads for itself.
    to_others: Option<Arc<dyn Comm>>,
}

impl<'a> Reader<'a> {
    /// Prepares to read the first `n_train` rows of `dump` without those that `filter` leaves out, in the order of
    /// `config.seed`, normalised. `cursor` counts the positions of the order that have been used: 0, or what
    /// [`Feed::cursor`] was.
    ///
    /// # Errors
    /// If the operating system does not start the threads that read.
    pub fn new(
        dump: &'a Dump,
        n_train: u64,
        config: &Config,
        filter: &'a RowFilter<'a>,
        normalisation: Normalisation,
        cursor: u64,
    ) -> Result<Self> {
        let order = RowOrder::new(config.seed, n_train, config.data.block, config.data.window);
        let threads = rayon::ThreadPoolBuilder::new().num_threads(READERS).thread_name(|i| format!("reader {i}"));
        let threads = threads.build().context("starting threads")?;
        let (ids, kept) = (Vec::new(), Vec::new());
        Ok(Self {
            dump,
            target: None,
            filter,
            order,
            normalisation,
            cursor,
            ids,
            kept,
            raw: false,
            threads,
            to_others: None,
        })
    }

    /// Only the first rank reads, and sends every batch to the others.
    #[must_use]
    pub fn sent_to_others(self, comm: Arc<dyn Comm>) -> Self {
        Self { to_others: Some(comm), ..self }
    }

    /// Reads the same rows of `target` too, which has as many, normalised in their own way. Which rows are left out depends on
    /// `dump` alone.
    #[must_use]
    pub fn with_target(mut self, target: &'a Dump, normalisation: Normalisation) -> Self {
        self.target = Some((target, normalisation));
        self
    }

    /// Gives the rows as they lie, without their normalisation, where there is no target: for a device, which reads fewer bytes then.
    #[must_use]
    pub fn raw(mut self, raw: bool) -> Self {
        self.raw = raw;
        self
    }

    /// Calls `train` with a feed of `n_batches` batches of `batch` rows. While `train` computes with one batch, threads of
    /// the reader read the next one: two batches are held at a time.
    ///
    /// The threads end before this function returns, whether `train` has taken all batches or not.
    ///
    /// # Errors
    /// Those of `train`, and of starting a thread.
    pub fn ahead<T>(
        mut self,
        batch: usize,
        n_batches: u64,
        train: impl FnOnce(&mut Feed<'_>) -> Result<T>,
    ) -> Result<T> {
        let (give_back, free) = channel();
        let (full, batches) = channel();
        let stop = AtomicBool::new(false);
        for _ in 0..2 {
            let _ = give_back.send(Batch::default());
        }
        let cursor = self.cursor;
        let to_others = self.to_others.clone();
        let reads = to_others.as_ref().is_none_or(|comm| comm.rank() == 0);
        let lens = [batch * self.dump.d(), self.target.as_ref().map_or(0, |(target, _)| batch * target.d())];
        let (reader, stop) = (&mut self, &stop);
        thread::scope(|scope| {
            // Both ends of the channels move into the thread: each side sees that the other one has ended.
            let read = move || {
                for mut next in free.into_iter().take(usize::try_from(n_batches).unwrap_or(usize::MAX)) {
                    let (d, dtype, of_target) = (reader.dump.d(), reader.dump.dtype(), reader.target.as_ref());
                    let is_raw = reader.raw && of_target.is_none();
                    next.x.resize(batch * d, 0.0);
                    next.y.resize(of_target.map_or(0, |(target, _)| batch * target.d()), 0.0);
                    next.stored.resize(if is_raw { batch * d * dtype.size_bytes() } else { 0 }, 0);
                    (next.d, next.dtype) = (d, dtype);
                    let read = reader.fill(&mut next, stop);
                    next.cursor = reader.cursor;
                    let read = read.map(|()| next);
                    let failed = read.is_err();
                    // The receiver is gone where the training has ended early.
                    if full.send(read).is_err() || failed {
                        return;
                    }
                }
            };
            if reads {
                thread::Builder::new().name("feed".into()).spawn_scoped(scope, read).context("starting a thread")?;
            }
            let batch = Batch { cursor, ..Batch::default() };
            let mut feed = Feed { give_back, batches, batch, stop, to_others, lens };
            train(&mut feed)
        })
    }

    /// Fills a batch with the next rows that the filter keeps, normalised unless they are given as they lie, and with the same rows
    /// of the target. Once `stop` is set the content is arbitrary.
    ///
    /// No more rows are read than are needed, so that the cursor counts rows that were used or left out.
    fn fill(&mut self, next: &mut Batch, stop: &AtomicBool) -> Result<()> {
        let Self { dump, target, filter, order, normalisation, cursor, ids, kept, threads, .. } = self;
        let Batch { x: out, y: targets, stored, .. } = next;
        let d = dump.d();
        // Bytes of a row as it lies, or 0.
        let width = if stored.is_empty() { 0 } else { d * dump.dtype().size_bytes() };
        kept.clear();
        let mut filled = 0;
        let mut skipped = 0;
        while filled < out.len() / d && !stop.load(Ordering::Relaxed) {
            let missing = &mut out[filled * d..];
            ids.resize(missing.len() / d, 0);
            order.fill(*cursor, ids);
            read(threads, dump, ids, missing, &mut stored[filled * width..])?;
            *cursor += ids.len() as u64;
            let first = filled;
            for i in first..out.len() / d {
                if filter.keeps(ids[i - first], &out[i * d..(i + 1) * d]) {
                    out.copy_within(i * d..(i + 1) * d, filled * d);
                    stored.copy_within(i * width..(i + 1) * width, filled * width);
                    kept.push(ids[i - first]);
                    filled += 1;
                    skipped = 0;
                } else {
                    skipped += 1;
                    if skipped > order.n_rows() {
                        bail!(
                            "every row of {} is left out: by `data.skip_first`, `data.skip_tokens` or `data.skip_special`, or as its norm is \
                             more than `data.outlier` times the median",
                            dump.name()
                        );
                    }
                }
            }
        }
        if width == 0 {
            normalisation.apply(out);
        }
        if let Some((target, normalisation)) = target {
            // Fewer rows than asked for where the reading was stopped.
            let targets = &mut targets[..kept.len() * target.d()];
            read(threads, target, kept, targets, &mut [])?;
            normalisation.apply(targets);
        }
        Ok(())
    }
}

/// Reads rows of `dump` by their numbers, several parts of them at a time, and their bytes unless `stored` is empty.
fn read(threads: &rayon::ThreadPool, dump: &Dump, ids: &[u64], rows: &mut [f32], stored: &mut [u8]) -> Result<()> {
    let parts: Vec<Result<()>> = threads.install(|| {
        let parts = ids.par_chunks(PART).zip(rows.par_chunks_mut(PART * dump.d()));
        if stored.is_empty() {
            return parts.map(|(ids, rows)| dump.read_rows(ids, rows)).collect();
        }
        let parts = parts.zip(stored.par_chunks_mut(PART * dump.d() * dump.dtype().size_bytes()));
        parts.map(|((ids, rows), stored)| dump.read_rows_with(ids, rows, stored)).collect()
    });
    // In order, so that the first row that cannot be read is the one that is named.
    parts.into_iter().collect()
}

/// The rows of one step.
struct Batch {
    /// `(n, d)`: normalised, unless there are `stored` ones.
    x: Vec<f32>,
    /// `(n, d_out)`; empty without a target.
    y: Vec<f32>,
    /// The bytes of the rows as they lie; empty unless they are given so.
    stored: Vec<u8>,
    dtype: Dtype,
    d: usize,
    /// The cursor of the reader after them.
    cursor: u64,
}

impl Default for Batch {
    fn default() -> Self {
        Self { x: Vec::new(), y: Vec::new(), stored: Vec::new(), dtype: Dtype::F32, d: 0, cursor: 0 }
    }
}

/// The rows of a step, for a trainer to take.
#[derive(Clone, Copy, Debug)]
pub enum Given<'a> {
    /// Normalised.
    Normalised(BatchRows<'a>),
    /// As they lie.
    Raw(Rows<'a>),
}

impl Given<'_> {
    /// Takes a step on them.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step(&self, trainer: &mut Trainer) -> strata_core::Result<StepReport> {
        match *self {
            Self::Normalised(rows) => trainer.step(rows),
            Self::Raw(rows) => trainer.step_raw(rows),
        }
    }
}

/// Batches of rows that are read before they are needed: see [`Reader::ahead`].
pub struct Feed<'s> {
    give_back: Sender<Batch>,
    batches: Receiver<Result<Batch>>,
    batch: Batch,
    stop: &'s AtomicBool,
    to_others: Option<Arc<dyn Comm>>,
    /// Numbers of a batch: of its rows and of their targets.
    lens: [usize; 2],
}

impl Feed<'_> {
    /// Returns the next batch, `(n, d)` and the same rows of the target, and waits for it where it has not been read yet.
    ///
    /// # Errors
    /// If a row of this batch cannot be read or is not finite, or if a whole epoch holds no row that is kept; after the last
    /// batch; and if another rank has ended.
    pub fn next_batch(&mut self) -> Result<BatchRows<'_>> {
        self.receive()?;
        Ok(BatchRows { x: &self.batch.x, y: &self.batch.y })
    }

    /// Returns the next batch as the reader gives it: [`Reader::raw`].
    ///
    /// # Errors
    /// As [`Feed::next_batch`].
    pub fn next_given(&mut self) -> Result<Given<'_>> {
        self.receive()?;
        let Batch { x, y, stored, dtype, d, .. } = &self.batch;
        if stored.is_empty() {
            return Ok(Given::Normalised(BatchRows { x, y }));
        }
        Ok(Given::Raw(Rows::new(stored, x.len() / d, *d, d * dtype.size_bytes(), *dtype)?))
    }

    /// Takes the next batch: from the reader, or from the first rank.
    fn receive(&mut self) -> Result<()> {
        match self.to_others.clone() {
            Some(comm) if comm.rank() > 0 => self.receive_from_first(&*comm),
            comm => {
                // After the last batch the buffers are no longer received.
                let cursor = self.batch.cursor;
                let _ = self.give_back.send(mem::take(&mut self.batch));
                self.batch.cursor = cursor;
                self.batch = self.batches.recv().context("the rows of the training have ended")??;
                comm.map_or(Ok(()), |comm| self.send(&*comm))
            }
        }
    }

    /// Sends the batch to all other ranks.
    fn send(&self, comm: &dyn Comm) -> Result<()> {
        let Batch { x, y, cursor, .. } = &self.batch;
        let mut bytes = cursor.to_ne_bytes().to_vec();
        [x, y].into_iter().for_each(|rows| bytes.extend_from_slice(bytemuck::cast_slice(rows)));
        comm.stage("rows");
        Ok(comm.broadcast(&mut bytes)?)
    }

    /// Replaces the batch by that of the first rank.
    fn receive_from_first(&mut self, comm: &dyn Comm) -> Result<()> {
        let mut bytes = Vec::new();
        comm.stage("rows");
        comm.broadcast(&mut bytes)?;
        let expected = 8 + 4 * self.lens.iter().sum::<usize>();
        ensure!(bytes.len() == expected, "rank 0 sent {} bytes of rows, expected {expected}", bytes.len());
        let (cursor, rows) = bytes.split_at(8);
        let (x, y) = rows.split_at(4 * self.lens[0]);
        self.batch.cursor = bytemuck::pod_read_unaligned(cursor);
        for (to, from) in [(&mut self.batch.x, x), (&mut self.batch.y, y)] {
            to.resize(from.len() / 4, 0.0);
            bytemuck::cast_slice_mut(to).copy_from_slice(from);
        }
        Ok(())
    }

    /// The positions of the order that the batches returned so far have used: the whole state of the feed. What has been
    /// read ahead does not count.
    pub fn cursor(&self) -> u64 {
        self.batch.cursor
    }

    /// Frees the memory of the batch at hand.
    pub fn release(&mut self) {
        (self.batch.x, self.batch.y, self.batch.stored) = Default::default();
    }
}

impl Drop for Feed<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Reads a sample of the first `n` rows, without those that `filter` leaves out: one at random from each of `wanted`
/// equal parts, so that no position in a sequence is preferred. The sample is always the same.
///
/// # Errors
/// If a row cannot be read or is not finite, or if the filter keeps none of them.
pub fn sample(dump: &Dump, filter: &RowFilter<'_>, n: u64, wanted: usize) -> Result<Sample> {
    let mut ids = stratified(0, n, wanted, 0);
    let drawn = ids.len();
    ids.retain(|row| !filter.names(*row));
    let named = (drawn - ids.len()) as u64;
    let mut rows = vec![0.0; ids.len() * dump.d()];
    dump.read_rows(&ids, &mut rows)?;
    let mut left_out = filter.retain(&mut ids, &mut rows);
    left_out.named += named;
    if rows.is_empty() {
        bail!("{}: the rows that are left out are all of a sample of {drawn} rows", dump.name());
    }
    Ok(Sample { ids, rows, left_out })
}

/// Some rows of a dump.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Their numbers in the dump, ascending.
    pub ids: Vec<u64>,
    /// `(n, d)`, raw.
    pub rows: Vec<f32>,
    /// Rows that were drawn and left out.
    pub left_out: LeftOut,
}
