//! The tests of the project, in one binary.

mod kernel;
mod matching;
mod order;
mod quality;
mod recovery;
mod rng;
mod rows;
mod synth;
