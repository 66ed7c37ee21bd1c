use crate::device::Device;
use crate::error::{Error, Result};

/// Whether this build can compute on devices. Without it the code for that is left out.
pub const BUILT: bool = false;

/// Returns the number of GPUs.
///
/// # Errors
/// [`Error::NotBuilt`]: this build leaves out the feature.
pub fn count() -> Result<usize> {
    Err(Error::NotBuilt { feature: "cuda" })
}

/// Opens GPU number `ordinal`.
///
/// # Errors
/// [`Error::NotBuilt`]: this build leaves out the feature.
pub fn open(_ordinal: usize) -> Result<Device> {
    Err(Error::NotBuilt { feature: "cuda" })
}
