//! The rows that a device is given.

use crate::rows::Dtype;

/// The rows of a step.
#[derive(Clone, Copy, Debug)]
pub(in crate::train) enum Given<'a> {
    /// Normalised, `(n, d)`.
    Normalised(&'a [f32]),
    /// The bytes of raw rows, `(n, d)`, of a type.
    Raw(&'a [u8], Dtype),
}

impl Given<'_> {
    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Normalised(rows) => bytemuck::cast_slice(rows),
            Self::Raw(bytes, _) => bytes,
        }
    }

    /// Returns the type of the numbers.
    pub fn dtype(&self) -> Dtype {
        if let Self::Raw(_, dtype) = self { *dtype } else { Dtype::F32 }
    }
}
