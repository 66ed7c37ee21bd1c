//! The threads of a context.

use crate::failure::{Failure, Outcome};
use crate::status::{STRATA_STATUS_BUSY, STRATA_STATUS_MEMORY};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::mem;
use std::process;
use std::thread::{self, JoinHandle};

/// Stack of a thread of a context. Encoding needs less than 32 KiB, and rayon's own frames little; the rest is for
/// tests and debuggers, which add frames of their own.
const STACK: usize = 1 << 20;

/// Threads that have ended when the pool is dropped.
pub(crate) struct Pool {
    /// Always there until `drop`.
    pool: Option<ThreadPool>,
    threads: Vec<JoinHandle<()>>,
    /// The process that has the threads.
    process: u32,
}

impl Pool {
    /// Starts `n` threads.
    pub fn new(n: usize) -> Outcome<Self> {
        let mut threads = Vec::with_capacity(n);
        let pool = ThreadPoolBuilder::new().num_threads(n).spawn_handler(|worker| {
            let thread = thread::Builder::new().name("strata".into()).stack_size(STACK);
            threads.push(thread.spawn(|| worker.run())?);
            Ok(())
        });
        match pool.build() {
            Ok(pool) => Ok(Self { pool: Some(pool), threads, process: process::id() }),
            Err(e) => {
                // Rayon has told the threads that did start to end.
                join(threads);
                Err(Failure::new(STRATA_STATUS_MEMORY, format!("cannot start {n} threads: {e}")))
            }
        }
    }

    /// Runs `f` in the pool.
    ///
    /// A child of a fork does not have the threads: it gets a failure, where waiting for them would never end.
    pub fn run(&self, f: impl FnOnce() + Send) -> Outcome {
        match &self.pool {
            Some(pool) if self.process == process::id() => {
                pool.install(f);
                Ok(())
            }
            _ => {
                let why = "the threads of this context did not survive a fork: make a context in the child";
                Err(Failure::new(STRATA_STATUS_BUSY, why))
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let (pool, threads) = (self.pool.take(), mem::take(&mut self.threads));
        if self.process == process::id() {
            // Rayon tells its threads to end and does not wait for them; hosts that fork, unload the library or count
            // threads rely on their end.
            drop(pool);
            join(threads);
        } else {
            // In the child of a fork there are no threads to end, and waiting for them would never end.
            mem::forget((pool, threads));
        }
    }
}

/// Waits until the threads have ended. A panic of one was caught where its work was waited for.
fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        let _ = thread.join();
    }
}
