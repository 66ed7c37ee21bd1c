//! The types in which an encoder can store its weights.

use super::{Model, SharedBytes};
use crate::error::{At, Error, Result};
use crate::kernel::weight::{to_bf16, to_int8};
use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{Deref, Range};
use half::bf16;

/// The type in which an encoder stores the encoder weights. The model's own tensors and decoder directions stay `f32`.
///
/// | | bytes per weight | codes |
/// |---|---|---|
/// | `F32` | 4, those of the model | |
/// | `Bf16` | 2 | those of a model whose encoders are rounded to bf16, bit for bit |
/// | `Int8` | 1, and 4 per row | those of a model whose encoders are `q max abs(w) / 127` of their row, `q` the nearest integers |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightType {
    /// The unchanged weights.
    #[default]
    F32,
    /// The upper half of an `f32`.
    Bf16,
    /// Integers with a scale for each row.
    Int8,
}

impl WeightType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// Returns the name that [`WeightType::named`] accepts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Returns the type called `name`.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no such type.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|weights| weights.name() == name);
        found.ok_or_else(|| Error::config("weights", format!("expected f32, bf16 or int8, found `{name}`")))
    }

    /// Returns the bytes of one weight.
    #[must_use]
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::Int8 => 1,
        }
    }
}

/// Weights in 8 bits: owned, or a part of shared bytes, where they are used in place.
#[derive(Clone)]
pub(crate) enum Bytes {
    Owned(Vec<i8>),
    Shared { bytes: SharedBytes, range: Range<usize> },
}

impl Deref for Bytes {
    type Target = [i8];

    fn deref(&self) -> &[i8] {
        match self {
            Self::Owned(weights) => weights,
            Self::Shared { bytes, range } => bytemuck::cast_slice(&(**bytes).as_ref()[range.clone()]),
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Encoders of both levels.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    F32,
    Bf16([Vec<bf16>; 2]),
    Int8([(Bytes, Vec<f32>); 2]),
}

impl Stored {
    pub fn new(weights: WeightType, model: &Model) -> Self {
        let [one, two] = model.params.level.each_ref().map(|level| &level.w_enc);
        match weights {
            WeightType::F32 => Self::F32,
            WeightType::Bf16 => Self::Bf16([to_bf16(one), to_bf16(two)]),
            WeightType::Int8 => {
                let [one, two] = [to_int8(one, model.arch.d), to_int8(two, model.arch.source_width().max(1))];
                Self::Int8([one, two].map(|(q, scales)| (Bytes::Owned(q), scales)))
            }
        }
    }

    /// Checks that every weight is still finite as it is stored.
    pub fn check(&self) -> Result<()> {
        let bad = match self {
            Self::F32 => [None; 2],
            Self::Bf16(levels) => levels.each_ref().map(|w| w.iter().position(|w| !w.is_finite()).map(At::element)),
            Self::Int8(levels) => {
                levels.each_ref().map(|(_, s)| s.iter().position(|s| !(127.0 * s).is_finite()).map(At::latent))
            }
        };
        match bad.into_iter().enumerate().find_map(|(l, at)| Some((l, at?))) {
            None => Ok(()),
            Some((l, at)) => {
                let what = format!("a weight of level {} in {}", l + 1, self.weight_type().name());
                Err(Error::NotFinite { what, at })
            }
        }
    }

    pub fn weight_type(&self) -> WeightType {
        match self {
            Self::F32 => WeightType::F32,
            Self::Bf16(_) => WeightType::Bf16,
            Self::Int8(_) => WeightType::Int8,
        }
    }
}

/// Evaluates `$body` with `$w1` and `$w2` the matrices of both levels, whatever their stored type.
macro_rules! with_weights {
    ($stored:expr, $model:expr, |$w1:ident, $w2:ident| $body:expr) => {{
        let (d, width) = ($model.arch.d, $model.arch.source_width().max(1));
        match $stored {
            $crate::model::stored::Stored::F32 => {
                let ($w1, $w2) =
                    (Matrix::all(&$model.params.level[0].w_enc, d), Matrix::all(&$model.params.level[1].w_enc, width));
                $body
            }
            $crate::model::stored::Stored::Bf16([w1, w2]) => {
                let ($w1, $w2) = (Matrix::all(w1, d), Matrix::all(w2, width));
                $body
            }
            $crate::model::stored::Stored::Int8([w1, w2]) => {
                let ($w1, $w2) = (Matrix::scaled(&w1.0, &w1.1, d), Matrix::scaled(&w2.0, &w2.1, width));
                $body
            }
        }
    }};
}
pub(super) use with_weights;
