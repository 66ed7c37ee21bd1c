//! One test binary.
mod order;
mod rng;
mod rows;
