//! Readers and writers of files, on bytes: dumps of activations, and models of Strata and of other tools.
//!
//! They do no I/O. Readers are total: no input makes them panic or allocate more than a small multiple of its size.

pub mod array;
pub mod arrays;
mod circuit_tracer;
mod dictionary_learning;
pub mod dump;
pub mod dump_builder;
pub mod flat;
pub mod formats;
mod gemma_scope;
mod goodfire;
pub mod heads;
mod hook_z;
pub mod json;
mod llama_scope;
mod llamascopium;
mod look;
pub mod npy;
pub mod npz;
mod openai;
mod origin;
mod qwen_scope;
mod saelens;
mod saelens_levels;
mod saelens_settings;
pub mod saelens_writer;
mod sparsify;
pub mod weights;
pub mod zip;
