//! Ranks that exchange messages by MPI.

use crate::escape::escaped;
use anyhow::{Context, Result, ensure};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Destination, Source};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use strata_core::train::Comm;
use strata_core::{Error, Result as CoreResult};

/// Most bytes of one message of MPI, whose counts have 32 bits; longer ones are sent in pieces.
const PIECE: usize = 1 << 30;

/// The ranks of `MPI_COMM_WORLD`.
struct Mpi {
    rank: usize,
    size: usize,
    /// MPI is called by one thread at a time.
    turn: Mutex<()>,
    /// Ends MPI when it is dropped, which waits for all ranks.
    _universe: Universe,
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // The others would wait for messages of this rank, and this rank for their end.
        if std::thread::panicking() {
            self.abort();
        }
    }
}

impl Mpi {
    /// Ends all ranks.
    fn abort(&self) -> ! {
        SimpleCommunicator::world().abort(1)
    }
}

/// Starts MPI.
///
/// # Errors
/// One sentence if it does not start, or does not know the `started` processes of its launcher.
pub(super) fn connect(started: usize) -> Result<Arc<dyn Comm>> {
    let (universe, _) =
        mpi::initialize_with_threading(mpi::Threading::Serialized).context("MPI is already in use in this process")?;
    let world = universe.world();
    let (rank, size) = (world.rank() as usize, world.size() as usize);
    ensure!(
        size == started,
        "{started} processes were started, and MPI knows {size} of them: start strata with the launcher of the MPI that it was \
         built with"
    );
    Ok(Arc::new(Mpi { rank, size, turn: Mutex::new(()), _universe: universe }))
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
        other.send(&(message.len() as u64));
        message.chunks(PIECE).for_each(|piece| other.send(piece));
        Ok(())
    }

    fn receive(&self, from: usize) -> CoreResult<Vec<u8>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let world = SimpleCommunicator::world();
        let other = world.process_at_rank(from as i32);
        let (len, _) = other.receive::<u64>();
        let mut message = Vec::new();
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        message.try_reserve_exact(len).map_err(|_| Error::Memory { what: "a message of another rank", bytes: len })?;
        message.resize(len, 0);
        message.chunks_mut(PIECE).for_each(|piece| {
            other.receive_into(piece);
        });
        Ok(message)
    }

    fn fail(&self, why: &str) -> bool {
        // A rank that waits for a message of another one cannot be told: MPI ends it.
        let _ = writeln!(std::io::stderr(), "error: {}", escaped(why));
        self.abort()
    }
}
