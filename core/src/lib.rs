//! Two-level hierarchical sparse autoencoders: the model, its training, its metrics and the file formats.
//!
//! A sparse autoencoder (SAE) writes a row of activations of a neural network as a sum of few learned directions. Here the
//! directions have two levels: **parents** (level 1), which reconstruct the row by themselves, and **children** (level 2),
//! which refine the parents they belong to. A model whose level 2 is empty is a flat SAE.
//!
//! This crate is the mathematics. It is `no_std` with `alloc`, has no `unsafe` code but to call a GPU's driver, does no I/O, prints nothing, reads no
//! environment, and starts no thread. Reading files, memory maps and language models are the business of its hosts: the
//! command line `strata` and the C library `libstrata`.
//!
//! # Example
//!
//! Train a flat top-k SAE on rows in memory, and encode them:
//!
//! ```
//! use std::sync::Arc;
//! use strata_core::config::{Activation, Config};
//! use strata_core::model::Scratch;
//! use strata_core::normalise::Normalisation;
//! use strata_core::train::Trainer;
//! use strata_core::{Codes, Compute, Encoder, Isa, Par, Philox};
//!
//! # fn main() -> strata_core::Result<()> {
//! let (n, d) = (256, 8);
//! let mut rng = Philox::new(0, 0);
//! let x: Vec<f32> = (0..n * d).map(|_| rng.normal_f32()).collect();
//!
//! let mut config = Config::default();
//! config.level1.latents = 16;
//! config.level1.activation = Activation::Topk;
//! config.level1.k = 4.0;
//! config.level2.latents = 0; // a flat SAE
//! config.train.steps = 20;
//!
//! let compute = Compute::new(Isa::detect(), Par::Seq);
//! let normalisation = Normalisation::measure(compute.isa, &x, d, &config.data)?;
//! let mut normalised = x.clone();
//! normalisation.apply(&mut normalised);
//! let mut trainer = Trainer::new(&config, normalisation, &normalised, compute)?;
//! for _ in 0..config.train.steps {
//!     trainer.step(&normalised)?;
//! }
//!
//! let model = trainer.model(); // reads raw rows: the normalisation is folded in
//! let mut scratch = Scratch::new(&model.arch);
//! let encoder = Encoder::new(Arc::new(model), compute)?;
//! let (mut codes, mut none) = (Codes::new(), Codes::new());
//! encoder.encode(&x, &mut scratch, &mut codes, &mut none)?;
//! assert_eq!(codes.n(), n);
//! assert!(codes.row(0).index.len() <= 4);
//! # Ok(())
//! # }
//! ```
//!
//! `core/examples/` has three programs: `encode` (a saved model), `train_in_memory` (two levels on a world with a known
//! tree) and `read_saelens` (a model of another tool).
//!
//! # Features
//!
//! | feature | default | adds | without it |
//! |---|---|---|---|
//! | `std` | yes | [`Isa::detect`] asks the processor for its instruction set | kernels have the one instruction set that the target was compiled for, whatever [`Isa`] is passed |
//! | `cuda` | no | [`cuda::open`] finds GPUs, by the driver that is there at run time | it says that it is not built |
//! | `rayon` | no | `Par::Rayon` runs chunks on the current rayon pool | [`Par::Seq`] computes in the caller's thread |
//!
//! Neither changes a result.
//!
//! # The promise of bits
//!
//! The same seed, data and settings give the same bits of every weight, code and metric, for any number of threads and on
//! every instruction set (scalar, AVX2, AVX-512, NEON). Every sum is one chain of fused multiply-adds in a documented order,
//! or a fixed tree over fixed lanes; work is split at sizes that do not depend on the number of threads; partial sums are
//! added in index order; transcendental functions come from `libm`. A saved training state continues to the same bits as
//! an uninterrupted run. The promise holds for one version of the crate: a version that changes the bits says so in the
//! changelog.
//!
//! # Notation
//!
//! Matrices are row-major. Rows of a batch are row vectors, so a latent is a contiguous row of the weights that it reads and
//! of those that it writes.
//!
//! | symbol | shape | meaning |
//! |---|---|---|
//! | `n` | | rows (tokens) of a batch |
//! | `d`, `d_out` | | width of a row that is read (`d_in`), and of one that is reconstructed; they differ only in transcoders |
//! | `f1`, `f2` | | latents of level 1 (parents) and of level 2 (children); `f` is either |
//! | `k` | | target number of active latents per row (L0), per level |
//! | `x`, `xt` | `(n, d)` | rows; the same less `b_dec` |
//! | `W`, `b` | `(f, d)`, `(f)` | encoder rows and biases |
//! | `D` | `(f, d_out)` | decoder rows, of norm 1 |
//! | `a`, `g` | `(n, f2)` | ungated pre-activations of level 2; the gate |
//! | `u` | `(n, f)` | pre-activations after the gate |
//! | `z` | `(n, f)` | latents, at least 0 and sparse |
//! | `x_hat1`, `x_hat2` | `(n, d_out)` | reconstruction by level 1; by both levels |
//! | `r` | `(n, d_out)` | residual, `x - x_hat` |
//! | `nu` | | total variance of the rows, fixed at the start: every loss is a fraction of it |
//!
//! A digit behind a symbol is its level, 1 or 2. In code levels are indices, 0 or 1. [`model`] has the forward pass.
//!
//! # Modules
//!
//! | module | purpose |
//! |---|---|
//! | [`config`] | every setting, with its default and range |
//! | [`model`] | architecture, parameters, [`Encoder`] and [`Codes`] |
//! | [`activation`], [`gate`], [`source`], [`decoder`], [`loss`], [`balance`] | the choices that define a model and its loss: one module per concept, with forward and backward pass side by side |
//! | [`train`] | one training step, and all state between steps |
//! | [`normalise`], [`row_norm`], [`row_rule`] | normalisation of rows, and which rows are left out |
//! | [`heads`] | linear heads on rows or codes, and what of their scores is kept per sequence |
//! | [`metrics`] | streaming, mergeable metrics; scores against a known truth |
//! | [`format`](mod@format) | parsers and writers of dumps and models, on bytes |
//! | [`kernel`] | dense and sparse products, selection, reductions, Adam |
//! | [`device`], [`cuda`] | the same on a GPU, to the bit |
//! | [`synth`] | synthetic rows with a known tree |
//! | [`order`], [`rng`] | the stateless order of rows; the seeded generator |
//! | [`compute`], [`par`] | instruction set and parallel execution policy, passed as one value |
//! | [`rows`], [`error`] | views of stored rows; the error type |
#![no_std]
#![deny(unsafe_code)]

// Files are little-endian, and weights, bytes of rows and words of four bytes are read and written as they lie in memory.
#[cfg(target_endian = "big")]
compile_error!("strata computes on little-endian processors only");

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod activation;
pub mod balance;
mod choice;
pub mod compute;
pub mod config;
pub mod cuda;
pub mod decoder;
pub mod device;
pub mod entry;
pub mod error;
pub mod format;
pub mod freeze;
pub mod gate;
pub mod heads;
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
pub use device::Device;
pub use error::{Error, Result};
pub use gate::ROOT;
pub use kernel::Isa;
pub use model::{Codes, Encoder, Model};
pub use order::RowOrder;
pub use par::Par;
pub use rng::Philox;
pub use row_rule::RowRule;
pub use rows::{Dtype, Rows};

/// The blocks of Rust in the README of the project and of this crate, compiled and run.
#[cfg(doctest)]
mod readme {
    #[doc = include_str!("../../README.md")]
    mod project {}
    #[doc = include_str!("../README.md")]
    mod package {}
}
