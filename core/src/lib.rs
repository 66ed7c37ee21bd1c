//! Two-level hierarchical sparse autoencoders with inter-level consistency.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod error;
pub mod kernel;
pub mod par;

pub use error::{Error, Result};
pub use kernel::Isa;
pub use par::Par;
