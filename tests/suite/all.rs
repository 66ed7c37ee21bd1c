//! The tests of the project, in one binary: a module a subject.
#![allow(clippy::useless_vec, reason = "the arguments of every command are made in one way")]

mod ablate;
mod bad_input;
mod cli;
mod coherence;
mod dump;
mod ffi;
mod fold;
mod golden;
mod gradient;
mod inspect;
mod kernel;
mod lm;
mod matching;
mod metrics;
mod npy;
mod order;
mod procedure;
mod quality;
mod recovery;
mod report;
#[cfg(unix)]
mod resume;
mod rng;
mod rows;
mod similarity;
mod stability;
mod synth;
mod synth_cli;
mod training;
