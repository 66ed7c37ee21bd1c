//! The tests of tests/suite that need core alone, compiled from the same files. What is left out needs the command line, the C
//! ABI, Python or a C++ compiler: none of it computes anything that core does not.

mod ffi;

#[path = "../../suite/absorption.rs"]
mod absorption;
#[path = "../../suite/attribution.rs"]
mod attribution;
#[path = "../../suite/cofire.rs"]
mod cofire;
#[path = "../../suite/coherence.rs"]
mod coherence;
#[path = "../../suite/condition.rs"]
mod condition;
#[path = "../../suite/engine.rs"]
mod engine;
#[path = "../../suite/fire.rs"]
mod fire;
#[path = "../../suite/fold.rs"]
mod fold;
#[path = "../../suite/freeze.rs"]
mod freeze;
#[path = "../../suite/gemm.rs"]
mod gemm;
#[path = "../../suite/golden.rs"]
mod golden;
#[path = "../../suite/gradient.rs"]
mod gradient;
#[path = "../../suite/gradient_transcoder.rs"]
mod gradient_transcoder;
#[path = "../../suite/hierarchy.rs"]
mod hierarchy;
#[path = "../../suite/hierarchy_score.rs"]
mod hierarchy_score;
#[path = "../../suite/kernel.rs"]
mod kernel;
#[path = "../../suite/matching.rs"]
mod matching;
#[path = "../../suite/metrics.rs"]
mod metrics;
#[path = "../../suite/npy.rs"]
mod npy;
#[path = "../../suite/order.rs"]
mod order;
#[path = "../../suite/packed.rs"]
mod packed;
#[path = "../../suite/params.rs"]
mod params;
#[path = "../../suite/patterns.rs"]
mod patterns;
#[path = "../../suite/probe.rs"]
mod probe;
#[path = "../../suite/procedure.rs"]
mod procedure;
#[path = "../../suite/prune.rs"]
mod prune;
#[path = "../../suite/quality.rs"]
mod quality;
#[path = "../../suite/recovery.rs"]
mod recovery;
#[path = "../../suite/rng.rs"]
mod rng;
#[path = "../../suite/rows.rs"]
mod rows;
#[path = "../../suite/shards.rs"]
mod shards;
#[path = "../../suite/siblings.rs"]
mod siblings;
#[path = "../../suite/similarity.rs"]
mod similarity;
#[path = "../../suite/stability.rs"]
mod stability;
#[path = "../../suite/stored.rs"]
mod stored;
#[path = "../../suite/structure.rs"]
mod structure;
#[path = "../../suite/sums.rs"]
mod sums;
#[path = "../../suite/synth.rs"]
mod synth;
#[path = "../../suite/tensor.rs"]
mod tensor;
#[path = "../../suite/training.rs"]
mod training;
#[path = "../../suite/watch.rs"]
mod watch;
