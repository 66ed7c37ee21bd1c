//! The tests of the project, in one binary: a module a subject.
#![allow(clippy::useless_vec, reason = "the arguments of every command are made in one way")]

mod ablate;
mod absorption;
mod arrows;
mod attribution;
mod bad_input;
mod cli;
mod cofire;
mod coherence;
mod condition;
mod dump;
mod eval;
mod export;
mod feed;
mod ffi;
mod fire;
mod fold;
mod gemm;
mod golden;
mod gradient;
mod hierarchy;
mod inspect;
mod kernel;
mod lm;
mod matching;
mod metrics;
mod metrics_doc;
mod npy;
mod order;
mod patterns;
mod probe;
mod probe_cli;
mod procedure;
mod quality;
mod recovery;
mod report;
#[cfg(unix)]
mod resume;
mod rng;
mod rows;
mod saelens;
mod settings;
mod similarity;
mod stability;
mod stored;
mod structure;
mod sums;
mod synth;
mod synth_cli;
mod tensor;
#[cfg(unix)]
mod torture;
mod training;
