//! What a trained model is worth: recovery of a known structure, and the pairing that it rests on.

use crate::{Error, Result};

pub mod matching;
pub mod recovery;

/// The parent index that says "no parent".
pub const ROOT: u32 = u32::MAX;

/// Sparse codes of `n` tokens in CSR form: token `t` has the entries `offsets[t]..offsets[t + 1]`.
///
/// A latent is **active** on a token if its value is `> 0`; entries with a value of zero or less are stored but count
/// as inactive. A latent appears at most once per token.
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a> {
    offsets: &'a [usize],
    index: &'a [u32],
    value: &'a [f32],
    latents: usize,
}

impl<'a> Codes<'a> {
    /// Codes over `latents` latents, checked once.
    ///
    /// # Errors
    /// [`Error::Shape`] if `offsets` is empty or decreases, does not begin with 0 or does not end with the number of
    /// entries, or if `index` and `value` differ in length; [`Error::Index`] if some `index[e] >= latents`.
    pub fn new(offsets: &'a [usize], index: &'a [u32], value: &'a [f32], latents: usize) -> Result<Self> {
        let shape = |what, expected, got| Err(Error::Shape { what, expected, got });
        match (offsets.first(), offsets.last()) {
            (Some(0), Some(&last)) if last == index.len() => {}
            (Some(0), Some(&last)) => return shape("last offset of the codes", index.len(), last),
            (first, _) => return shape("first offset of the codes", 0, first.copied().unwrap_or(usize::MAX)),
        }
        if let Some(w) = offsets.windows(2).find(|w| w[0] > w[1]) {
            return shape("offset of the codes (never below the one before)", w[0], w[1]);
        }
        if value.len() != index.len() {
            return shape("values of the codes", index.len(), value.len());
        }
        if let Some(&j) = index.iter().find(|&&j| j as usize >= latents) {
            return Err(Error::Index { what: "latents of the codes", index: j as usize, len: latents });
        }
        Ok(Self { offsets, index, value, latents })
    }

    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The number of latents.
    pub fn latents(&self) -> usize {
        self.latents
    }

    /// The active latents of token `t` with their values, in stored order.
    pub fn active(&self, t: usize) -> impl Iterator<Item = (usize, f32)> + 'a {
        let range = self.offsets[t]..self.offsets[t + 1];
        let (index, value) = (&self.index[range.clone()], &self.value[range]);
        index.iter().zip(value).filter(|(_, v)| **v > 0.0).map(|(j, v)| (*j as usize, *v))
    }

    /// `n_j`: the number of tokens on which each latent is active.
    pub fn counts(&self) -> alloc::vec::Vec<u64> {
        let mut n = alloc::vec![0; self.latents];
        for (j, v) in self.index.iter().zip(self.value) {
            n[*j as usize] += u64::from(*v > 0.0);
        }
        n
    }
}
