//! Ranks that exchange messages over TCP: each is connected with each.
//!
//! Rank 0 listens at an address that all know. The others connect to it and say where they listen themselves; it sends the
//! list of these addresses to all, and the others connect among themselves. A message is its length in 8 bytes, little
//! endian, and its bytes. A rank that fails sends [`FAILED`] in place of the length, and then why; one that is killed closes
//! its connections. Either ends those that wait for it.

use anyhow::{Context, Result, bail, ensure};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};
use strata_core::train::Comm;
use strata_core::{Error, Result as CoreResult};

/// The first bytes of a connection.
const HELLO: [u8; 8] = *b"strata-1";
/// Time for all ranks to start.
const START: Duration = Duration::from_secs(120);
/// Time between two tries to connect.
const AGAIN: Duration = Duration::from_millis(100);
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
        let mut others: Vec<Option<Mutex<TcpStream>>> = (0..size).map(|_| None).collect();
        let is_reported = AtomicBool::new(false);
        if rank == 0 {
            let listener = TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("listening at port {port}"))?;
            let mut addresses = vec![String::new(); size];
            for _ in 1..size {
                let (stream, from) = accept(&listener, end, &others)?;
                let mut stream = prepared(stream)?;
                let (other, of) = (number(&mut stream)?, number(&mut stream)?);
                let at = number(&mut stream)?;
                ensure!(of == size, "rank {other} expects {of} ranks, and rank 0 expects {size}");
                ensure!((1..size).contains(&other) && others[other].is_none(), "two processes have rank {other}");
                addresses[other] = SocketAddr::new(from.ip(), u16::try_from(at)?).to_string();
                others[other] = Some(Mutex::new(stream));
            }
            for stream in others.iter_mut().flatten() {
                let stream = stream.get_mut().unwrap_or_else(PoisonError::into_inner);
                write_message(stream, addresses.join("\n").as_bytes())?;
            }
            return Ok(Self { rank, others, is_reported });
        }
        let listener = TcpListener::bind(("0.0.0.0", 0)).context("listening at a free port")?;
        let mut first = dial(&format!("{host}:{port}"), 0, end)?;
        first.write_all(&HELLO)?;
        for n in [rank, size, listener.local_addr()?.port().into()] {
            first.write_all(&(n as u64).to_le_bytes())?;
        }
        let addresses = read_message(&mut first).context("rank 0 has ended before all ranks had come")?;
        let addresses = String::from_utf8(addresses)?;
        others[0] = Some(Mutex::new(first));
        // Of two ranks the higher one connects.
        for (other, address) in addresses.split('\n').enumerate().take(rank).skip(1) {
            let mut stream = dial(address, other, end)?;
            stream.write_all(&HELLO)?;
            stream.write_all(&(rank as u64).to_le_bytes())?;
            others[other] = Some(Mutex::new(stream));
        }
        for _ in rank + 1..size {
            let mut stream = prepared(accept(&listener, end, &others)?.0)?;
            let other = number(&mut stream)?;
            ensure!((rank + 1..size).contains(&other) && others[other].is_none(), "two processes have rank {other}");
            others[other] = Some(Mutex::new(stream));
        }
        Ok(Self { rank, others, is_reported })
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
            let ended = stream.set_nonblocking(true).is_err() || matches!(stream.peek(&mut [0]), Ok(0));
            if ended || stream.set_nonblocking(false).is_err() || stream.set_write_timeout(Some(TELL)).is_err() {
                continue;
            }
            let told =
                stream.write_all(&FAILED.to_le_bytes()).and_then(|()| write_message(&mut stream, why.as_bytes()));
            is_known |= told.is_ok() && other < self.rank;
        }
        is_known
    }
}

/// Waits for the next connection.
fn accept(
    listener: &TcpListener,
    end: Instant,
    others: &[Option<Mutex<TcpStream>>],
) -> Result<(TcpStream, SocketAddr)> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok(accepted) => return Ok(accepted),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => sleep(AGAIN),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let missing = others.iter().filter(|other| other.is_none()).count() - 1;
                bail!("{missing} of {} ranks have not come within {} s", others.len(), START.as_secs());
            }
            Err(e) => return Err(e).context("waiting for the other ranks"),
        }
    }
}

/// Checks that a new connection is one of a rank.
fn prepared(mut stream: TcpStream) -> Result<TcpStream> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(START))?;
    let mut hello = [0; 8];
    stream.read_exact(&mut hello).context("a connection that is not of another rank")?;
    ensure!(hello == HELLO, "another program connects to the port of this training");
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// Connects to a rank that may not listen yet.
fn dial(address: &str, rank: usize, end: Instant) -> Result<TcpStream> {
    loop {
        let tried = address.to_socket_addrs().and_then(|mut all| {
            let first = all.next().ok_or_else(|| io::Error::other("it has no address"))?;
            TcpStream::connect_timeout(&first, Duration::from_secs(5))
        });
        match tried {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(_) if Instant::now() < end => sleep(AGAIN),
            Err(e) => return Err(e).with_context(|| format!("connecting to rank {rank} at {address}")),
        }
    }
}

fn number(stream: &mut TcpStream) -> Result<usize> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes).context("another rank has ended before all had come")?;
    Ok(usize::try_from(u64::from_le_bytes(bytes))?)
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
