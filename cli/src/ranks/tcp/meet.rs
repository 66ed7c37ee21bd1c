//! How ranks find each other over TCP: one listens, the other connects and says who it is.

use anyhow::{Context, Result, bail, ensure};
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The first bytes of a connection.
const HELLO: [u8; 8] = *b"strata-1";
/// Time for all ranks to start.
pub(super) const START: Duration = Duration::from_secs(120);
/// Time between two tries to connect.
const AGAIN: Duration = Duration::from_millis(100);

/// What a rank says first on a connection: its number, the number of ranks, and the port at which it listens.
pub(super) type Greeting = [usize; 3];

/// Waits for the next of `missing` ranks to connect, and returns its connection, its address, and what it says.
pub(super) fn accept(listener: &TcpListener, end: Instant, missing: usize) -> Result<(TcpStream, IpAddr, Greeting)> {
    listener.set_nonblocking(true)?;
    let (mut stream, from) = loop {
        match listener.accept() {
            Ok(accepted) => break accepted,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => sleep(AGAIN),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                bail!("{missing} ranks have not come within {} s", START.as_secs());
            }
            Err(e) => return Err(e).context("waiting for the other ranks"),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(START))?;
    let mut words = [[0; 8]; 4];
    stream.read_exact(words.as_flattened_mut()).context("a connection that is not of another rank")?;
    ensure!(words[0] == HELLO, "another program connects to the port of this training");
    stream.set_read_timeout(None)?;
    Ok((stream, from.ip(), [1, 2, 3].map(|at| u64::from_le_bytes(words[at]) as usize)))
}

/// Connects to a rank, which may not listen yet, and says `own`.
pub(super) fn dial(address: &str, rank: usize, own: Greeting, end: Instant) -> Result<TcpStream> {
    let mut stream = loop {
        let tried = address.to_socket_addrs().and_then(|mut all| {
            let first = all.next().ok_or_else(|| io::Error::other("it has no address"))?;
            TcpStream::connect_timeout(&first, Duration::from_secs(5))
        });
        match tried {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < end => sleep(AGAIN),
            Err(e) => return Err(e).with_context(|| format!("connecting to rank {rank} at {address}")),
        }
    };
    stream.set_nodelay(true)?;
    let words = own.map(|n| (n as u64).to_le_bytes());
    stream.write_all(&[&HELLO[..], words.as_flattened()].concat())?;
    Ok(stream)
}
