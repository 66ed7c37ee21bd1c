//! Ranks that exchange messages over TCP: each is connected with each.
//!
//! Rank 0 listens at an address that all know. The others connect to it and say where they listen themselves; it sends the
//! list of these addresses to all, and the others connect among themselves. A message is its length in 8 bytes, little
//! endian, and its bytes. A rank that fails sends [`FAILED`] in place of the length, and then why; one that is killed closes
//! its connections. Either ends those that wait for it.

mod meet;

use anyhow::{Context, Result, ensure};
use meet::{START, accept, dial};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use strata_core::train::Comm;
use strata_core::{Error, Result as CoreResult};

/// Longest message: of longer ones the length is not one.
const LONGEST: u64 = 1 << 40;
/// In place of the length of a message: the sender has failed, and the message says why.
const FAILED: u64 = u64::MAX;
/// Time to tell another rank of a failure.
const TELL: Duration = Duration::from_secs(1);

/// A rank that is connected with all others.
#[derive(Debug)]
pub struct Tcp {
    rank: usize,
    /// One connection for each other rank; none to itself.
    others: Vec<Option<Mutex<TcpStream>>>,
    /// Whether a lower rank has said that it fails, which reports it.
    is_reported: AtomicBool,
}

impl Tcp {
    /// Connects this rank with the `size - 1` others; rank 0 listens at `host`, `port`.
    ///
    /// # Errors
    /// One sentence if another rank does not come within two minutes, or is of another training.
    pub fn connect(host: &str, port: u16, rank: usize, size: usize) -> Result<Self> {
        let end = Instant::now() + START;
        let at = if rank == 0 { port } else { 0 };
        let listener = TcpListener::bind(("0.0.0.0", at)).with_context(|| format!("listening at port {at}"))?;
        let own = [rank, size, listener.local_addr()?.port().into()];
        let mut others: Vec<Option<Mutex<TcpStream>>> = (0..size).map(|_| None).collect();
        if rank > 0 {
            let mut first = dial(&format!("{host}:{port}"), 0, own, end)?;
            let addresses = read_message(&mut first).context("rank 0 has ended before all ranks had come")?;
            others[0] = Some(Mutex::new(first));
            // Of two ranks the higher one connects.
            for (other, address) in String::from_utf8(addresses)?.split('\n').enumerate().take(rank).skip(1) {
                others[other] = Some(Mutex::new(dial(address, other, own, end)?));
            }
        }
        let mut addresses = vec![String::new(); size];
        for missing in (1..size - rank).rev() {
            let (stream, from, [other, of, port]) = accept(&listener, end, missing)?;
            ensure!(of == size, "rank {other} expects {of} ranks, and rank {rank} expects {size}");
            ensure!((rank + 1..size).contains(&other) && others[other].is_none(), "two processes have rank {other}");
            addresses[other] = SocketAddr::new(from, u16::try_from(port)?).to_string();
            others[other] = Some(Mutex::new(stream));
        }
        if rank == 0 {
            for stream in others.iter_mut().flatten() {
                let stream = stream.get_mut().unwrap_or_else(PoisonError::into_inner);
                write_message(stream, addresses.join("\n").as_bytes())?;
            }
        }
        Ok(Self { rank, others, is_reported: AtomicBool::new(false) })
    }

    fn with<T>(&self, other: usize, f: impl FnOnce(&mut TcpStream) -> io::Result<T>) -> CoreResult<T> {
        let Some(Some(stream)) = self.others.get(other) else {
            return Err(Error::Rank { what: format!("rank {other} does not exist") });
        };
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut stream).map_err(|mut error| {
            // What stops a message to a rank is what that rank has said last.
            while error.kind() != io::ErrorKind::Other {
                match read_message(&mut stream) {
                    Ok(_) => {}
                    Err(last) if last.kind() == io::ErrorKind::Other => error = last,
                    Err(_) => break,
                }
            }
            let what = match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    format!("rank {other} has ended")
                }
                io::ErrorKind::Other => {
                    self.is_reported.fetch_or(other < self.rank, Ordering::Relaxed);
                    error.to_string()
                }
                _ => format!("rank {other} cannot be reached: {error}"),
            };
            Error::Rank { what }
        })
    }
}

impl Comm for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.others.len()
    }

    fn send(&self, to: usize, message: &[u8]) -> CoreResult<()> {
        self.with(to, |stream| write_message(stream, message))
    }

    fn receive(&self, from: usize) -> CoreResult<Vec<u8>> {
        self.with(from, read_message)
    }

    fn fail(&self, why: &str) -> bool {
        let mut is_known = self.is_reported.load(Ordering::Relaxed);
        for (other, stream) in self.others.iter().enumerate() {
            let Some(stream) = stream else { continue };
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            // A rank that has ended has closed the connection; what it may have sent before is its own report.
            if stream.set_nonblocking(true).is_err() || matches!(stream.peek(&mut [0]), Ok(0)) {
                continue;
            }
            if stream.set_nonblocking(false).is_err() || stream.set_write_timeout(Some(TELL)).is_err() {
                continue;
            }
            let told =
                stream.write_all(&FAILED.to_le_bytes()).and_then(|()| write_message(&mut stream, why.as_bytes()));
            // Or it fails at the same time, as all do with an error that all of them see, and has said so.
            let is_told = told.is_ok() || has_failed(&mut stream);
            is_known |= is_told && other < self.rank;
        }
        is_known
    }
}

/// Returns whether a rank that has ended has said that it fails, behind what it sent before.
fn has_failed(stream: &mut TcpStream) -> bool {
    if stream.set_nonblocking(false).is_err() || stream.set_read_timeout(Some(TELL)).is_err() {
        return false;
    }
    loop {
        match read_message(stream) {
            Ok(_) => {}
            Err(last) => return last.kind() == io::ErrorKind::Other,
        }
    }
}

fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    // One write for what is short, so that it goes in one packet.
    let mut head = (message.len() as u64).to_le_bytes().to_vec();
    let (first, rest) = message.split_at(message.len().min(1 << 12));
    head.extend_from_slice(first);
    stream.write_all(&head)?;
    stream.write_all(rest)
}

fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 8];
    stream.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    if len == FAILED {
        let why = read_message(stream)?;
        return Err(io::Error::other(String::from_utf8_lossy(&why).into_owned()));
    }
    if len > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {len} bytes")));
    }
    let mut message = Vec::new();
    message.try_reserve_exact(len as usize).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    message.resize(len as usize, 0);
    stream.read_exact(&mut message)?;
    Ok(message)
}
