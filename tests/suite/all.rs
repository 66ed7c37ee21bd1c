//! The tests of the project, in one binary: a module a subject.

mod coherence;
mod dump;
mod inspect;
mod kernel;
mod lm;
mod matching;
mod metrics;
mod npy;
mod order;
mod quality;
mod recovery;
mod rng;
mod rows;
mod similarity;
mod stability;
mod synth;
