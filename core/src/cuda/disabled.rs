use crate::device::Device;
use crate::error::{Error, Result};

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
