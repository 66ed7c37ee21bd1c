//! A tensor of parameters: owned numbers, or a part of shared bytes such as a mapped file.

use crate::kernel::{Isa, reduce};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{Deref, DerefMut, Range};

/// Immutable bytes that may be shared: a mapped file, or a vector.
///
/// `as_ref` returns the same slice, at the same address, as long as the value lives.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Numbers, read as a slice. A clone shares them; the first mutable access to shared numbers makes a copy, which is
/// owned from then on. Nothing else copies.
#[derive(Clone)]
pub struct Tensor(Numbers);

#[derive(Clone)]
enum Numbers {
    Owned(Arc<Vec<f32>>),
    /// Numbers that cannot change, so that whether all are finite cannot change either.
    Shared {
        bytes: SharedBytes,
        range: Range<usize>,
        finite: bool,
    },
}

impl Tensor {
    /// Returns the f32 numbers in `bytes[range]`, in little-endian order: in place if this machine can read them there
    /// (at a multiple of 4, on a little-endian machine), otherwise copied. Reads all of them once: see
    /// [`Tensor::all_finite`].
    ///
    /// # Panics
    /// If the range is outside of the bytes, or does not contain whole numbers.
    pub fn shared(bytes: &SharedBytes, range: Range<usize>) -> Self {
        let piece = &(**bytes).as_ref()[range.clone()];
        assert!(piece.len().is_multiple_of(4), "{} bytes are not whole numbers", piece.len());
        if cfg!(target_endian = "little")
            && let Ok(numbers) = bytemuck::try_cast_slice(piece)
        {
            let finite = reduce::all_finite(Isa::default(), numbers);
            return Self(Numbers::Shared { bytes: bytes.clone(), range, finite });
        }
        let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        piece.chunks_exact(4).map(number).collect::<Vec<f32>>().into()
    }

    /// Returns whether the numbers are in shared bytes.
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Numbers::Shared { .. })
    }

    /// Returns whether no number is NaN or infinite. It is known for shared numbers; owned ones are all read.
    pub fn all_finite(&self) -> bool {
        match &self.0 {
            Numbers::Owned(numbers) => reduce::all_finite(Isa::default(), numbers),
            Numbers::Shared { finite, .. } => *finite,
        }
    }

    fn own(&mut self) -> &mut Vec<f32> {
        if self.is_shared() {
            *self = self.to_vec().into();
        }
        match &mut self.0 {
            Numbers::Owned(numbers) => Arc::make_mut(numbers),
            Numbers::Shared { .. } => unreachable!("copied above"),
        }
    }
}

impl Deref for Tensor {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Numbers::Owned(numbers) => numbers,
            Numbers::Shared { bytes, range, .. } => bytemuck::cast_slice(&(**bytes).as_ref()[range.clone()]),
        }
    }
}

impl DerefMut for Tensor {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.own()
    }
}

impl From<Vec<f32>> for Tensor {
    fn from(numbers: Vec<f32>) -> Self {
        Self(Numbers::Owned(Arc::new(numbers)))
    }
}

impl Default for Tensor {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<'a> IntoIterator for &'a Tensor {
    type Item = &'a f32;
    type IntoIter = core::slice::Iter<'a, f32>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Tensor {
    type Item = &'a mut f32;
    type IntoIter = core::slice::IterMut<'a, f32>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}
