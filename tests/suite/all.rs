//! The tests of the project, in one binary.

mod dump;
mod inspect;
mod kernel;
mod matching;
mod npy;
mod order;
mod quality;
mod recovery;
mod rng;
mod rows;
mod synth;
