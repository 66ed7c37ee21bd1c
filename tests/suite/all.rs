//! The tests of the project, in one binary: a module a subject.

mod kernel;
mod lm;
mod matching;
mod metrics;
mod order;
mod quality;
mod recovery;
mod rng;
mod rows;
mod synth;
