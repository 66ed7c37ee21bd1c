//! The tests of the project, in one binary.

mod gradient;
mod kernel;
mod order;
mod rng;
mod rows;
