//! The losses that tie the levels together, one file each: value and gradient side by side.
//!
//! The two reconstructions, the sparsity penalties and AuxK live where their rows are
//! ([`train::objective`](crate::train::objective)); these are the variants of `loss.consistency`.

pub(crate) mod containment;
pub(crate) mod directions;
pub(crate) mod latent;
pub mod seed_cos;
pub(crate) mod structural;
