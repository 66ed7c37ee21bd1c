//! Training: the forward pass, backward pass and update of a step, and the state that is carried from step to step.

mod batch;
mod calibrate;
mod cofire;
pub mod comm;
mod controller;
mod counts;
mod engine;
mod inference;
mod init;
mod l0;
mod observed;
mod on_device;
mod revive;
mod schedule;
pub mod seed_objective;
mod shard;
mod state;
mod step;
mod trainer;

pub use crate::balance::RowNorms;
pub use batch::BatchRows;
pub use cofire::Cofire;
pub use comm::{Comm, Solo};
pub use controller::ThresholdTracker;
pub use counts::{Block, Counts};
pub use engine::{Engine, LatentRows};
pub use inference::Inference;
pub use l0::L0Control;
pub use observed::{Losses, Observed, SparseRows};
pub use schedule::{agree, annealed_k, annealed_w1, highest_rate, is_long, learning_rate};
pub use shard::sharded_arrays;
pub use state::{Array, Difference, State};
pub use step::{Adam, Objective, StepSettings};
pub use trainer::{StepReport, Trainer};
