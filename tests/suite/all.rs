//! The tests of the project, in one binary.

mod kernel;
mod order;
mod rng;
mod rows;
