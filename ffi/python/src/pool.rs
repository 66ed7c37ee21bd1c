//! The threads that compute.

use crate::failure::Error;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::{Arc, Mutex, PoisonError};
use strata_core::Par;

/// A bound on the number of threads that no machine reaches.
const MOST_THREADS: usize = 1024;

#[derive(Default)]
struct State {
    /// The number that was asked for; none for one per core, or for what `RAYON_NUM_THREADS` says.
    n: Option<usize>,
    /// The pool, with the process that made it.
    pool: Option<(u32, Arc<ThreadPool>)>,
}

static STATE: Mutex<State> = Mutex::new(State { n: None, pool: None });

/// Sets the number of threads of every later call. `None`: one per core. Results do not depend on it.
#[pyfunction]
#[pyo3(signature = (n=None))]
pub(crate) fn set_threads(n: Option<i64>) -> PyResult<()> {
    let threads = |n: i64| usize::try_from(n).ok().filter(|n| (1..=MOST_THREADS).contains(n));
    let refused = |n: i64| PyValueError::new_err(format!("threads: expected 1 to {MOST_THREADS}, found {n}"));
    let n = n.map(|n| threads(n).ok_or_else(|| refused(n))).transpose()?;
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    state.n = n;
    // A pool of another size is made by the next call that needs one; calls that run keep theirs.
    drop(forget_if_forked(state.pool.take()));
    Ok(())
}

/// Returns the pool of this process.
///
/// # Errors
/// If threads cannot be started.
pub(crate) fn current() -> PyResult<Arc<ThreadPool>> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    state.pool = forget_if_forked(state.pool.take());
    if let Some((_, pool)) = &state.pool {
        return Ok(pool.clone());
    }
    let mut builder = ThreadPoolBuilder::new().thread_name(|i| format!("strata-{i}"));
    if let Some(n) = state.n {
        builder = builder.num_threads(n);
    }
    let pool = builder.build().map_err(|e| Error::new_err(format!("starting threads: {e}")))?;
    let pool = Arc::new(pool);
    state.pool = Some((std::process::id(), pool.clone()));
    Ok(pool)
}

/// Runs `f` on the pool of this process, or in the calling thread where the pool has one thread: to wake it takes longer.
///
/// # Errors
/// Those of [`current`] and of `f`.
pub(crate) fn run<T: Send>(f: impl FnOnce(Par) -> PyResult<T> + Send) -> PyResult<T> {
    match several()? {
        None => f(Par::Seq),
        Some(pool) => pool.install(|| f(Par::Rayon)),
    }
}

/// Returns the pool of this process; `None` where it has one thread.
///
/// # Errors
/// Those of [`current`].
pub(crate) fn several() -> PyResult<Option<Arc<ThreadPool>>> {
    Ok(Some(current()?).filter(|pool| pool.current_num_threads() > 1))
}

/// A process that was forked (by `multiprocessing`, or for the workers of a data loader) has the pool of its parent without
/// its threads. It can neither be used nor dropped.
fn forget_if_forked(pool: Option<(u32, Arc<ThreadPool>)>) -> Option<(u32, Arc<ThreadPool>)> {
    match pool {
        Some((process, pool)) if process != std::process::id() => {
            std::mem::forget(pool);
            None
        }
        pool => pool,
    }
}
