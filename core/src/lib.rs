//! Two-level hierarchical sparse autoencoders with inter-level consistency.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod error;
pub mod format;
pub mod order;
pub mod par;
pub mod rng;
pub mod rows;

pub use error::{Error, Result};
pub use order::RowOrder;
pub use par::Par;
pub use rng::Philox;
pub use rows::{Dtype, Rows};
