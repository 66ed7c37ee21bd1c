//! Two-level hierarchical sparse autoencoders with inter-level consistency.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod error;
pub mod metrics;
pub mod par;
pub mod rng;
pub mod synth;

pub use error::{Error, Result};
pub use par::Par;
