//! Total parsers on bytes: no I/O, no panic on any input, no allocation beyond the size of the input.

pub mod dump;
pub mod dump_builder;
pub mod npy;
mod saelens;
pub mod weights;
