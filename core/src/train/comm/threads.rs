//! Shards that are threads of one process.

use super::Comm;
use crate::error::{Error, Result};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

/// A shard that exchanges messages with the other shards of the process over channels. One that ends is missed by the
/// others: their next exchange with it is an error.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    to: Vec<Mutex<Sender<Vec<u8>>>>,
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
    sent: Mutex<Sent>,
}

/// Bytes that a shard has sent.
#[derive(Debug, Default)]
struct Sent {
    stage: &'static str,
    by_stage: BTreeMap<&'static str, u64>,
}

impl Threads {
    /// Returns `size` shards, one for each thread.
    pub fn new(size: usize) -> Vec<Self> {
        let (mut to, mut from): (Vec<Vec<_>>, Vec<Vec<_>>) = (0..size).map(|_| (Vec::new(), Vec::new())).unzip();
        for sender in &mut to {
            for receiver in &mut from {
                let (give, take) = channel();
                sender.push(Mutex::new(give));
                receiver.push(Mutex::new(take));
            }
        }
        let ends = to.into_iter().zip(from).enumerate();
        ends.map(|(rank, (to, from))| Self { rank, to, from, sent: Mutex::default() }).collect()
    }

    /// Returns the numbers of bytes that this shard has sent, by the stage that they belong to ([`Comm::stage`]).
    pub fn sent_bytes(&self) -> BTreeMap<&'static str, u64> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).by_stage.clone()
    }
}

impl Comm for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn send(&self, to: usize, message: &[u8]) -> Result<()> {
        let mut sent = self.sent.lock().map_err(|_| ended(to))?;
        let stage = sent.stage;
        *sent.by_stage.entry(stage).or_default() += message.len() as u64;
        drop(sent);
        let sender = self.to[to].lock().map_err(|_| ended(to))?;
        sender.send(message.to_vec()).map_err(|_| ended(to))
    }

    fn stage(&self, name: &'static str) {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).stage = name;
    }

    fn receive(&self, from: usize) -> Result<Vec<u8>> {
        let receiver = self.from[from].lock().map_err(|_| ended(from))?;
        receiver.recv().map_err(|_| ended(from))
    }
}

fn ended(rank: usize) -> Error {
    Error::Rank { what: format!("rank {rank} has ended") }
}
