//! Models on devices: each model is copied to a device once, however many contexts compute there.

use crate::failure::{Failure, Outcome};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use strata_core::{Encoder, cuda};

/// The copies of a model that contexts use, by the number that C gives devices: 0 is the CPU, N + 1 CUDA device N.
#[derive(Default)]
pub(crate) struct Copies(Mutex<Vec<(u32, Weak<Encoder>)>>);

impl Copies {
    /// Returns the encoder on a device.
    pub fn get(&self, encoder: &Arc<Encoder>, device: u32) -> Outcome<Arc<Encoder>> {
        let Some(ordinal) = device.checked_sub(1) else { return Ok(encoder.clone()) };
        // The lock is held while the model is copied, so that two contexts do not copy it twice.
        let mut copies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        copies.retain(|(_, copy)| copy.strong_count() > 0);
        if let Some(copy) = copies.iter().find(|(of, _)| *of == device).and_then(|(_, copy)| copy.upgrade()) {
            return Ok(copy);
        }
        let of = Failure::of("params: device");
        let gpu = cuda::open(ordinal as usize).map_err(|error| of(error.into()))?;
        let copy = Encoder::clone(encoder).on(&gpu).map_err(|error| of(error.into()))?;
        let copy = Arc::new(copy);
        copies.push((device, Arc::downgrade(&copy)));
        Ok(copy)
    }
}
