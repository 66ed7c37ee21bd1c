//! The tests of the project, in one binary: a module a subject.

mod ablate;
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
mod rng;
mod rows;
mod similarity;
mod stability;
mod synth;
mod synth_cli;
mod training;
