//! Ranks that exchange messages by MPI.

use crate::console::interrupted;
use crate::escape::escaped;
use anyhow::{Context, Result, ensure};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Destination, Source};
use std::io::Write;
use std::mem::forget;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};
use strata_core::train::Comm;
use strata_core::{Error, Result as CoreResult};

/// Most bytes of one message of MPI, whose counts have 32 bits; longer ones are sent in pieces.
const PIECE: usize = 1 << 30;

/// Tags of messages, and of the word that a rank has failed.
const MESSAGE: i32 = 0;
const FAILED: i32 = 1;

/// Time in which a lower rank may say that it has failed too.
const ALIKE: Duration = Duration::from_millis(500);

/// The ranks of `MPI_COMM_WORLD`.
struct Mpi {
    rank: usize,
    size: usize,
    /// What to do after an error.
    hint: String,
    /// MPI is called by one thread at a time.
    turn: Mutex<()>,
    /// Ends MPI when it is dropped, which waits for all ranks and for their launcher.
    universe: Option<Universe>,
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // The others would wait for messages of this rank, and this rank for their end.
        if std::thread::panicking() {
            self.abort();
        }
        // A launcher that was interrupted ends its ranks and answers them no more, so that the end of MPI would wait for ever.
        let flags = (&*self as &dyn Comm).gather(&[u8::from(interrupted())]);
        if flags.is_ok_and(|flags| flags.concat().contains(&1)) {
            forget(self.universe.take());
        }
    }
}

impl Mpi {
    /// Ends all ranks.
    fn abort(&self) -> ! {
        SimpleCommunicator::world().abort(1)
    }
}

/// Starts MPI. After an error of this rank `hint` says what to do next.
///
/// # Errors
/// One sentence if it does not start, or does not know the `started` processes of its launcher.
pub(super) fn connect(started: usize, hint: &str) -> Result<Arc<dyn Comm>> {
    let (universe, _) =
        mpi::initialize_with_threading(mpi::Threading::Serialized).context("MPI is already in use in this process")?;
    let world = universe.world();
    let (rank, size) = (world.rank() as usize, world.size() as usize);
    ensure!(
        size == started,
        "{started} processes were started, and MPI knows {size} of them: start strata with the launcher of the MPI that it was \
         built with"
    );
    Ok(Arc::new(Mpi { rank, size, hint: hint.into(), turn: Mutex::new(()), universe: Some(universe) }))
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {} by MPI", self.rank, self.size)
    }
}

impl Comm for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn send(&self, to: usize, message: &[u8]) -> CoreResult<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let world = SimpleCommunicator::world();
        let other = world.process_at_rank(to as i32);
        other.send_with_tag(&(message.len() as u64), MESSAGE);
        message.chunks(PIECE).for_each(|piece| other.send_with_tag(piece, MESSAGE));
        Ok(())
    }

    fn receive(&self, from: usize) -> CoreResult<Vec<u8>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let world = SimpleCommunicator::world();
        let other = world.process_at_rank(from as i32);
        let (len, _) = other.receive_with_tag::<u64>(MESSAGE);
        let mut message = Vec::new();
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        message.try_reserve_exact(len).map_err(|_| Error::Memory { what: "a message of another rank", bytes: len })?;
        message.resize(len, 0);
        message.chunks_mut(PIECE).for_each(|piece| {
            other.receive_into_with_tag(piece, MESSAGE);
        });
        Ok(message)
    }

    fn fail(&self, why: &str) -> bool {
        // A rank that waits for a message of another one cannot be told: MPI ends it. Of several that fail alike, as where
        // they find that their settings differ, the first one says it. So short a message does not wait for its receiver.
        if let Ok(_turn) = self.turn.try_lock() {
            let world = SimpleCommunicator::world();
            (self.rank + 1..self.size).for_each(|rank| world.process_at_rank(rank as i32).send_with_tag(&1u8, FAILED));
            let end = Instant::now() + ALIKE;
            while self.rank > 0 && Instant::now() < end {
                if world.any_process().immediate_probe_with_tag(FAILED).is_some() {
                    self.abort();
                }
                sleep(Duration::from_millis(10));
            }
        }
        let hint = if self.hint.is_empty() { String::new() } else { format!("; {}", self.hint) };
        let _ = writeln!(std::io::stderr(), "error: {}{hint}", escaped(why));
        self.abort()
    }
}
