//! The tests of the project, in one binary.

mod fold;
mod golden;
mod gradient;
mod kernel;
mod order;
mod rng;
mod rows;
mod training;
