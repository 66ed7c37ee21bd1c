//! Training: one step forward, backward and update, and everything that is carried from step to step.

mod accumulate;
mod backward;
mod calibrate;
mod cofire;
mod controller;
mod counts;
mod engine;
pub(crate) mod entries;
mod forward;
mod init;
mod l0;
pub mod objective;
mod observed;
mod optim;
mod revive;
mod schedule;
pub mod seed_objective;
mod state;
mod trainer;

pub use crate::balance::RowNorms;
pub use cofire::Cofire;
pub use controller::ThresholdTracker;
pub use counts::{Block, Counts};
pub use engine::{Engine, LatentRows};
pub use l0::L0Control;
pub use objective::{Objective, StepSettings};
pub use observed::{Losses, Observed, SparseRows};
pub use optim::Adam;
pub use schedule::{agree, annealed_k, annealed_w1, is_long, learning_rate};
pub use state::{Array, State};
pub use trainer::{StepReport, Trainer};
