//! Two-level hierarchical sparse autoencoders with inter-level consistency.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod activation;
pub mod balance;
mod choice;
pub mod compute;
pub mod config;
pub mod decoder;
pub mod entry;
pub mod error;
pub mod format;
pub mod freeze;
pub mod gate;
pub mod kernel;
pub mod loss;
pub mod metrics;
pub mod model;
pub mod normalise;
pub mod order;
pub mod par;
pub mod rng;
pub mod row_norm;
pub mod row_rule;
pub mod rows;
mod setting;
pub mod source;
pub mod synth;
pub mod train;

pub use compute::Compute;
pub use config::Config;
pub use error::{Error, Result};
pub use gate::ROOT;
pub use kernel::Isa;
pub use model::{Codes, Encoder, Model};
pub use order::RowOrder;
pub use par::Par;
pub use rng::Philox;
pub use row_rule::RowRule;
pub use rows::{Dtype, Rows};
