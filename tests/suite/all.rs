//! The tests of the project, in one binary.

mod dump;
mod inspect;
mod npy;
mod order;
mod rng;
mod rows;
