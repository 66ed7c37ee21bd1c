//! Batches of windows, computed in parallel and used in order.

use std::collections::VecDeque;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context, Result};

/// Tokens per batch, which one thread computes: a few milliseconds for a small model, so that passing it between
/// threads costs little.
pub const BATCH_TOKENS: usize = 512;

/// Calls `emit(job, compute(&job))` for each of `jobs`: `compute` on as many threads as the current rayon pool has, `emit`
/// in order on the caller's thread. No more than two jobs per thread are taken ahead.
///
/// Each thread has a rayon pool of one thread, so that all that `compute` calls runs on it alone: products of this size
/// gain nothing from more threads, and the bits cannot depend on their number.
///
/// # Errors
/// The first error in order, of a job or of either function; nothing is emitted after it.
pub fn ordered<J: Send, T: Send>(
    jobs: impl IntoIterator<Item = Result<J>>,
    compute: impl Fn(&J) -> Result<T> + Sync,
    mut emit: impl FnMut(J, T) -> Result<()>,
) -> Result<()> {
    let n_threads = rayon::current_num_threads().max(1);
    let pools: Vec<_> = (0..n_threads)
        .map(|_| rayon::ThreadPoolBuilder::new().num_threads(1).build().context("starting a thread"))
        .collect::<Result<_>>()?;
    thread::scope(|scope| {
        let compute = &compute;
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for pool in &pools {
            // As many as can be under way for one thread, so that no sender ever waits.
            let (job_sender, job_receiver) = sync_channel::<J>(2);
            let (sender, receiver) = sync_channel(2);
            inputs.push(job_sender);
            outputs.push(receiver);
            let work = move || {
                for job in job_receiver {
                    let result = compute(&job);
                    let failed = result.is_err();
                    // A closed channel says that no more results are wanted.
                    if sender.send((job, result)).is_err() || failed {
                        break;
                    }
                }
            };
            let spawned = thread::Builder::new().spawn_scoped(scope, move || pool.install(work));
            spawned.context("starting a thread")?;
        }
        let mut jobs = jobs.into_iter();
        let mut under_way = VecDeque::new();
        let (mut next, mut ended) = (0, None);
        loop {
            while ended.is_none() && under_way.len() < 2 * n_threads {
                match jobs.next() {
                    Some(Ok(job)) => {
                        // A thread that has stopped has sent its error, which comes out in its turn.
                        let _ = inputs[next].send(job);
                        under_way.push_back(next);
                        next = (next + 1) % n_threads;
                    }
                    Some(Err(error)) => ended = Some(Err(error)),
                    None => ended = Some(Ok(())),
                }
            }
            let Some(thread) = under_way.pop_front() else { break ended.unwrap_or(Ok(())) };
            let (job, result) = outputs[thread].recv().context("a thread of the language model stopped")?;
            emit(job, result?)?;
        }
    })
}
