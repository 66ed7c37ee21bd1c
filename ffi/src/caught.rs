//! Panics, caught before they reach the caller.

use crate::failure::{Failure, Outcome};
use crate::status::{STRATA_STATUS_BUSY, STRATA_STATUS_PANIC};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, TryLockError};

/// Runs the body of an exported function.
pub(crate) fn run(body: impl FnOnce() -> Outcome) -> Outcome {
    // This is unwind safe: state that a panic leaves half changed is behind a `Guarded`, which then stays closed.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
        Err(Failure::new(STRATA_STATUS_PANIC, format!("a bug in strata: {}", text.unwrap_or("a panic"))))
    })
}

/// A value that one thread at a time may use. A panic may leave it half changed, so that it cannot be used afterwards.
#[derive(Debug)]
pub struct Guarded<T>(Mutex<T>);

impl<T> Guarded<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Calls `f` with the value; if `f` panics, later calls fail.
    ///
    /// # Errors
    /// Those of `f`; [`STRATA_STATUS_BUSY`] while another thread uses the value, [`STRATA_STATUS_PANIC`] if an earlier call
    /// has panicked.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> Outcome<R>) -> Outcome<R> {
        match self.0.try_lock() {
            Ok(mut value) => f(&mut value),
            Err(TryLockError::WouldBlock) => {
                Err(Failure::new(STRATA_STATUS_BUSY, "another thread is using this handle at this moment"))
            }
            Err(TryLockError::Poisoned(_)) => {
                Err(Failure::new(STRATA_STATUS_PANIC, "a bug in strata ended an earlier call: free this handle"))
            }
        }
    }
}
