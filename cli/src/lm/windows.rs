//! Batches of windows, computed in parallel and used in order.

use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context, Result};

/// Tokens per batch, which one thread computes: a few milliseconds for a small model, so that passing it between
/// threads costs little.
const BATCH_TOKENS: usize = 512;

/// Returns the batches in which `n_windows` windows of `t` tokens are computed.
pub fn batches(n_windows: usize, t: usize) -> Vec<Range<usize>> {
    let size = (BATCH_TOKENS / t).max(1);
    (0..n_windows).step_by(size).map(|from| from..n_windows.min(from + size)).collect()
}

/// Calls `emit(i, compute(i))` for `i` in `0..n`: `compute` on as many threads as the current rayon pool has, `emit` in
/// order on the caller's thread, with at most two results per thread waiting.
///
/// Each thread has a rayon pool of one thread, so that all that `compute` calls runs on it alone: products of this size
/// gain nothing from more threads, and the bits cannot depend on their number.
///
/// # Errors
/// The first error in order, of either function; nothing is emitted after it.
pub fn ordered<T: Send>(
    n: usize,
    compute: impl Fn(usize) -> Result<T> + Sync,
    mut emit: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    let n_threads = rayon::current_num_threads().min(n).max(1);
    let pools: Vec<_> = (0..n_threads)
        .map(|_| rayon::ThreadPoolBuilder::new().num_threads(1).build().context("starting a thread"))
        .collect::<Result<_>>()?;
    thread::scope(|scope| {
        let compute = &compute;
        let mut results = Vec::new();
        for (first, pool) in pools.iter().enumerate() {
            let (sender, receiver) = sync_channel(1);
            results.push(receiver);
            let work = move || {
                // A closed channel says that no more results are wanted.
                for i in (first..n).step_by(n_threads) {
                    let result = compute(i);
                    let failed = result.is_err();
                    if sender.send(result).is_err() || failed {
                        break;
                    }
                }
            };
            let spawned = thread::Builder::new().spawn_scoped(scope, move || pool.install(work));
            spawned.context("starting a thread")?;
        }
        for i in 0..n {
            let result = results[i % n_threads].recv().context("a thread of the language model stopped")?;
            emit(i, result?)?;
        }
        Ok(())
    })
}
