//! The C ABI, called as from C, compared with the core.

#![allow(unsafe_code, reason = "calls of exported functions, and an allocator that counts and refuses")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "every pointer comes from a reference on the same line or two up"
)]

pub mod allocator;
mod arguments;
mod buffers;
mod command_line;
mod damage;
mod device;
mod dump;
mod encode;
pub mod fixture;
mod flags;
mod header;
mod memory;
mod message;
mod metadata;
mod model;
pub mod probe;
mod reconstruct;
mod stats;
mod steer;
mod structs;
mod threads;
mod watch;
