//! GPUs of NVIDIA, through the driver that is there at run time: nothing is linked, and nothing but the driver is needed.

#[cfg(feature = "cuda")]
#[path = "enabled.rs"]
mod gpu;
#[cfg(not(feature = "cuda"))]
#[path = "disabled.rs"]
mod gpu;

pub use gpu::{BUILT, count, open};
