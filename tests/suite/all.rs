//! The tests of the project, in one binary.

mod matching;
mod metrics;
mod recovery;
mod synth;
