//! Arrays of numbers of any type in shared bytes.

use crate::error::{Error, Result};
use crate::model::{SharedBytes, Tensor};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use half::{bf16, f16};

/// The type of a stored number, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// A signed integer of 8 bytes.
    I64,
    /// A signed integer of 4 bytes.
    I32,
    /// A signed integer of 2 bytes.
    I16,
    /// A signed byte.
    I8,
    /// An unsigned integer of 8 bytes.
    U64,
    /// An unsigned integer of 4 bytes.
    U32,
    /// An unsigned integer of 2 bytes.
    U16,
    /// An unsigned byte.
    U8,
    /// A byte that is 0 or 1.
    Bool,
}

impl Element {
    /// Returns the bytes per number.
    #[must_use]
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Returns the number in `b`, of [`Element::size_bytes`] bytes, rounded to the nearest `f32`.
    fn widen(self, b: &[u8]) -> f32 {
        match self {
            Self::F64 => b.first_chunk().map_or(0.0, |b| f64::from_le_bytes(*b) as f32),
            Self::F32 => b.first_chunk().map_or(0.0, |b| f32::from_le_bytes(*b)),
            Self::F16 => b.first_chunk().map_or(0.0, |b| f16::from_le_bytes(*b).to_f32()),
            Self::Bf16 => b.first_chunk().map_or(0.0, |b| bf16::from_le_bytes(*b).to_f32()),
            Self::I64 => b.first_chunk().map_or(0.0, |b| i64::from_le_bytes(*b) as f32),
            Self::I32 => b.first_chunk().map_or(0.0, |b| i32::from_le_bytes(*b) as f32),
            Self::I16 => b.first_chunk().map_or(0.0, |b| f32::from(i16::from_le_bytes(*b))),
            Self::U64 => b.first_chunk().map_or(0.0, |b| u64::from_le_bytes(*b) as f32),
            Self::U32 => b.first_chunk().map_or(0.0, |b| u32::from_le_bytes(*b) as f32),
            Self::U16 => b.first_chunk().map_or(0.0, |b| f32::from(u16::from_le_bytes(*b))),
            Self::I8 => b.first().map_or(0.0, |b| f32::from(*b as i8)),
            Self::U8 | Self::Bool => b.first().map_or(0.0, |b| f32::from(*b)),
        }
    }
}

/// An array of numbers in shared bytes: element `(i, j, ..)` is number `i strides[0] + j strides[1] + ..` after the
/// first.
#[derive(Clone)]
pub struct Array {
    bytes: SharedBytes,
    start: usize,
    element: Element,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.element, self.shape)
    }
}

/// Rows and columns of the tiles in which a transposed matrix is copied.
const TILE: usize = 32;

impl Array {
    /// Makes the array of `shape` whose first number begins at byte `start` of `bytes`, with `strides` in numbers.
    ///
    /// # Errors
    /// [`Error::Format`] if a number lies outside of the bytes.
    pub fn new(
        bytes: SharedBytes,
        start: usize,
        element: Element,
        shape: Vec<usize>,
        strides: Vec<usize>,
    ) -> Result<Self> {
        let outside = || Error::format(0, format!("an array of shape {shape:?} lies outside of its bytes"));
        if shape.len() != strides.len() {
            return Err(outside());
        }
        let mut last: usize = 0;
        let mut any = true;
        for (n, stride) in shape.iter().zip(&strides) {
            any &= *n > 0;
            let reach = n.saturating_sub(1).checked_mul(*stride).ok_or_else(outside)?;
            last = last.checked_add(reach).ok_or_else(outside)?;
        }
        let size = element.size_bytes();
        let end = if any { last.checked_add(1).and_then(|n| n.checked_mul(size)) } else { Some(0) };
        let end = end.and_then(|n| n.checked_add(start)).ok_or_else(outside)?;
        if end > (*bytes).as_ref().len() {
            return Err(outside());
        }
        // Strides of 0 repeat a number. No tool writes such weights, and a few bytes could stand for a copy of any
        // size.
        let repeats = shape.iter().zip(&strides).any(|(n, stride)| *n > 1 && *stride == 0);
        if any && repeats {
            return Err(Error::format(0, format!("an array of shape {shape:?} repeats numbers, which is not read")));
        }
        Ok(Self { bytes, start, element, shape, strides })
    }

    /// Makes the array whose numbers are contiguous in `range`, the last index changing fastest.
    ///
    /// # Errors
    /// [`Error::Format`] if there are more or fewer bytes than the shape needs.
    pub fn dense(bytes: SharedBytes, range: Range<usize>, element: Element, shape: Vec<usize>) -> Result<Self> {
        let n = shape.iter().try_fold(element.size_bytes(), |n, size| n.checked_mul(*size));
        if n != Some(range.len()) {
            let why = format!("an array of shape {shape:?} ({element:?}) does not have {} bytes", range.len());
            return Err(Error::format(range.start, why));
        }
        let strides = row_major(&shape);
        Self::new(bytes, range.start, element, shape, strides)
    }

    /// Returns the size of each dimension.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns whether the array has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the array with its dimensions in reverse order, without a copy.
    #[must_use]
    pub fn transposed(mut self) -> Self {
        self.shape.reverse();
        self.strides.reverse();
        self
    }

    /// Returns whether the numbers are contiguous, the last index changing fastest.
    fn is_dense(&self) -> bool {
        let row_major = row_major(&self.shape);
        self.shape.iter().zip(self.strides.iter().zip(&row_major)).all(|(n, (a, b))| *n <= 1 || a == b)
    }

    /// Returns the numbers as `f32`, the last index changing fastest.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is too little memory.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut out = Vec::new();
        let n = self.len();
        out.try_reserve_exact(n).map_err(|_| Error::Memory { what: "weights", bytes: n.saturating_mul(4) })?;
        let (size, element) = (self.element.size_bytes(), self.element);
        let data = &(*self.bytes).as_ref()[self.start..];
        if self.is_dense() {
            out.extend(data[..n * size].chunks_exact(size).map(|b| element.widen(b)));
            return Ok(out);
        }
        out.resize(n, 0.0);
        // Matrices are copied one after another, in tiles: a transposed matrix would otherwise miss the cache at every
        // number.
        let dims = self.shape.len();
        let (rows, columns) = (if dims > 1 { self.shape[dims - 2] } else { 1 }, self.shape[dims - 1]);
        let (down, along) = (if dims > 1 { self.strides[dims - 2] } else { 0 }, self.strides[dims - 1]);
        let outer = &self.shape[..dims.saturating_sub(2)];
        for (m, out) in out.chunks_exact_mut((rows * columns).max(1)).enumerate() {
            let (mut rest, mut first) = (m, 0);
            for (n, stride) in outer.iter().zip(&self.strides).rev() {
                first += rest % n * stride;
                rest /= n;
            }
            for r0 in (0..rows).step_by(TILE) {
                for c0 in (0..columns).step_by(TILE) {
                    for r in r0..rows.min(r0 + TILE) {
                        for c in c0..columns.min(c0 + TILE) {
                            out[r * columns + c] = element.widen(&data[(first + r * down + c * along) * size..]);
                        }
                    }
                }
            }
        }
        Ok(out)
    }

    /// Returns `(rows, columns)`, the sums over the second of the three dimensions `(rows, n, columns)`.
    ///
    /// # Errors
    /// As [`Array::to_f32`]; [`Error::Format`] for another number of dimensions.
    pub fn summed_over_second(&self) -> Result<Vec<f32>> {
        let [rows, n, columns] = self.shape[..] else {
            return Err(Error::format(0, format!("expected three dimensions, found the shape {:?}", self.shape)));
        };
        let all = self.to_f32()?;
        let mut sums = vec![0.0f32; rows * columns];
        if columns > 0 && n > 0 {
            for (sum, parts) in sums.chunks_exact_mut(columns).zip(all.chunks_exact(n * columns)) {
                parts.chunks_exact(columns).for_each(|part| sum.iter_mut().zip(part).for_each(|(s, v)| *s += v));
            }
        }
        Ok(sums)
    }

    /// Returns the numbers as a tensor. It shares the bytes of the array if `keep` holds and they are contiguous f32 in
    /// the byte order of this machine; otherwise it is a copy.
    ///
    /// # Errors
    /// As [`Array::to_f32`].
    pub fn to_tensor(&self, keep: bool) -> Result<Tensor> {
        if keep && self.element == Element::F32 && self.is_dense() {
            return Ok(Tensor::shared(&self.bytes, self.start..self.start + 4 * self.len()));
        }
        self.to_f32().map(Tensor::from)
    }
}

/// Returns the strides of a contiguous array, the last index changing fastest.
fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides: Vec<usize> = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}
