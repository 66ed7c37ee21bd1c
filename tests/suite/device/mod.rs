//! The device path on the emulator: the bits of the CPU, in several orders of threads and blocks.

mod encode;
mod kernels;
mod shards;
mod train;
