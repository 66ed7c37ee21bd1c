//! Commands over several processes, called ranks: how they find each other. A training gives each a part of the dictionary; an
//! evaluation, an encoding and an ablation give each a part of the rows or of the runs.
//!
//! | started by | what says so | transport |
//! |---|---|---|
//! | `torchrun`, Kubernetes, by hand | `RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT` | [`tcp`] |
//! | `mpirun`, `srun --mpi=...` | the variables of the launcher | MPI, in builds with the feature `mpi` |
//!
//! What is exchanged, and why the bits do not depend on the number of ranks, is in [`strata_core::train::comm`].

#[cfg(feature = "mpi")]
#[path = "ranks/mpi.rs"]
mod mpi;
#[cfg(not(feature = "mpi"))]
#[path = "ranks/no_mpi.rs"]
mod mpi;
mod tcp;

pub use tcp::Tcp;

use crate::checkpoint::sha256;
use crate::console::Console;
use crate::files::words::sentence;
use anyhow::{Context, Result, anyhow, bail, ensure};
use bytemuck::Pod;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::sync::Arc;
use strata_core::Error;
use strata_core::train::{Comm, Solo};

/// Variables in which launchers of MPI say how many processes they have started.
const MPI_SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"];

/// Variables in which launchers of MPI number the processes.
const MPI_RANKS: [&str; 3] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"];

/// Most ranks.
const MOST: usize = 1 << 16;

/// Runs a command on all ranks that a launcher has started: on one where it has started none. Rank 0 prints to `console`; the
/// others print nothing.
///
/// An error of one rank ends all of them: the others are told, and one rank says it, in one sentence, to which `hint` is added
/// (what to do next).
///
/// # Errors
/// Those of [`connect`] and of `command`.
pub fn run(
    console: &mut Console<'_>,
    hint: &str,
    command: impl FnOnce(Arc<dyn Comm>, &mut Console<'_>) -> Result<u8>,
) -> Result<u8> {
    let comm = match connect(hint) {
        // The first process says it for all.
        Err(_) if is_another_of_mpi() => return Ok(1),
        connected => connected?,
    };
    if comm.is_solo() {
        return command(comm, console);
    }
    let rank = comm.rank();
    let done = if rank == 0 {
        command(comm.clone(), console)
    } else {
        let (mut out, mut err) = (io::sink(), io::sink());
        command(comm.clone(), &mut Console { out: &mut out, err: &mut err, quiet: true, json: false, watch: None })
    };
    let Err(error) = done else { return done };
    let why = match error.downcast_ref() {
        // Another rank's, which it names.
        Some(Error::Rank { what }) => what.clone(),
        _ if rank == 0 => sentence(&error),
        _ => format!("rank {rank}: {}", sentence(&error)),
    };
    if comm.fail(&why) {
        return Ok(1);
    }
    Err(if hint.is_empty() { anyhow!("{why}") } else { anyhow!("{why}; {hint}") })
}

/// Returns whether a launcher of MPI has started this process as another one than its first.
fn is_another_of_mpi() -> bool {
    let number = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
    std::env::var_os("RANK").is_none() && MPI_RANKS.iter().find_map(|name| number(name)).is_some_and(|rank| rank > 0)
}

/// Returns the exchange with the other processes of this command: [`Solo`] where there are none. `hint` says what to do after an
/// error.
///
/// # Errors
/// One sentence if the variables of the launcher do not fit together, another process cannot be reached, or MPI has started
/// several processes and this build does not speak to it.
pub fn connect(hint: &str) -> Result<Arc<dyn Comm>> {
    let variable = |name: &str| std::env::var(name).ok();
    let number = |name: &str| -> Result<Option<usize>> {
        let Some(text) = variable(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|n| *n <= MOST);
        number.map(Some).with_context(|| format!("{name}: expected a number of at most {MOST}, found {text:?}"))
    };
    if let (Some(rank), Some(size)) = (number("RANK")?, number("WORLD_SIZE")?) {
        if size <= 1 {
            return Ok(Arc::new(Solo));
        }
        if rank >= size {
            bail!("RANK: expected a number below WORLD_SIZE, which is {size}, found {rank}");
        }
        let Some(host) = variable("MASTER_ADDR") else {
            bail!("MASTER_ADDR is not set: expected the host of rank 0, since WORLD_SIZE is {size}");
        };
        let Some(port) = number("MASTER_PORT")?.and_then(|port| u16::try_from(port).ok()) else {
            bail!("MASTER_PORT: expected a free port of {host}, since WORLD_SIZE is {size}");
        };
        // The agent of torchrun listens at the port itself.
        let is_taken = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        return Ok(Arc::new(Tcp::connect(&host, port + u16::from(is_taken), rank, size)?));
    }
    let started = MPI_SIZES.iter().find_map(|name| number(name).ok().flatten()).unwrap_or(1);
    // Tasks of one step of SLURM.
    let tasks = number("SLURM_STEP_NUM_TASKS").ok().flatten().filter(|_| variable("SLURM_PROCID").is_some());
    let started = started.max(tasks.unwrap_or(1));
    if started > 1 { mpi::connect(started, hint) } else { Ok(Arc::new(Solo)) }
}

/// How the ranks of a training get the rows: the first one reads them and sends them to the others, or each reads them.
#[derive(Clone, Debug)]
pub struct Reading {
    comm: Arc<dyn Comm>,
    all: bool,
}

impl Reading {
    /// Returns a way to read for the ranks of `comm`; with `all` each rank reads for itself.
    pub fn new(comm: Arc<dyn Comm>, all: bool) -> Self {
        Self { all: all || comm.is_solo(), comm }
    }

    /// Returns whether this rank reads.
    pub fn reads(&self) -> bool {
        self.all || self.comm.rank() == 0
    }

    /// Fills `numbers` with what `read` writes to them on the rank that reads. All ranks call this together.
    ///
    /// # Errors
    /// Those of `read`; if another rank has ended.
    pub fn fill<T: Pod>(&self, numbers: &mut [T], read: impl FnOnce(&mut [T]) -> Result<()>) -> Result<()> {
        if self.reads() {
            read(numbers)?;
        }
        if !self.all {
            let mut bytes = bytemuck::cast_slice(numbers).to_vec();
            self.comm.broadcast(&mut bytes)?;
            ensure!(bytes.len() == size_of_val(numbers), "rank 0 has read other rows than were expected");
            bytemuck::cast_slice_mut(numbers).copy_from_slice(&bytes);
        }
        Ok(())
    }

    /// Returns what `read` returns on the rank that reads. All ranks call this together.
    ///
    /// # Errors
    /// As [`Reading::fill`].
    pub fn value<T: Serialize + DeserializeOwned>(&self, read: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut bytes = Vec::new();
        if self.reads() {
            let value = read()?;
            if self.all {
                return Ok(value);
            }
            bytes = postcard::to_stdvec(&value)?;
        }
        self.comm.broadcast(&mut bytes)?;
        postcard::from_bytes(&bytes).context("rank 0 sent what this build cannot read")
    }
}

/// Checks that all ranks run the same program with the same input: `what` is compared, by its hash, beside the program itself.
///
/// # Errors
/// One sentence naming the first rank that differs from rank 0.
pub fn check_alike(comm: &dyn Comm, what: &str) -> Result<()> {
    if comm.is_solo() {
        return Ok(());
    }
    let program = std::env::current_exe().and_then(std::fs::read).map(|bytes| sha256(&bytes)).unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    let own = format!("{version} {program}\n{}", sha256(what.as_bytes()));
    let all = comm.gather(own.as_bytes())?;
    for (rank, other) in all.iter().enumerate() {
        let mut parts = all[0].split(|b| *b == b'\n').zip(other.split(|b| *b == b'\n'));
        for what in ["another build of strata", "other settings or rows"] {
            if parts.next().is_none_or(|(first, other)| first != other) {
                bail!("rank {rank} runs {what} than rank 0: expected the same on all ranks");
            }
        }
    }
    Ok(())
}

/// Returns, on the first rank, what each other rank has, in the order of ranks; on the others, which have `own`, nothing.
///
/// # Errors
/// If another rank has ended, or is of another build.
pub fn to_first<S: Serialize, T: DeserializeOwned>(comm: &dyn Comm, own: &S) -> Result<Vec<T>> {
    if comm.rank() > 0 {
        comm.send(0, &postcard::to_stdvec(own)?)?;
        return Ok(Vec::new());
    }
    let of = |rank| {
        postcard::from_bytes(&comm.receive(rank)?)
            .with_context(|| format!("rank {rank} sent what this build cannot read"))
    };
    (1..comm.size()).map(of).collect()
}

/// Returns whether any rank has set its flag: all get the same answer.
///
/// # Errors
/// If another rank has ended.
pub fn any(comm: &dyn Comm, flag: bool) -> Result<bool> {
    Ok(comm.gather(&[u8::from(flag)])?.concat().contains(&1))
}
