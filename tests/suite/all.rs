//! The tests of the project, in one binary.

mod matching;
mod recovery;
mod synth;
