//! Activations in their stored form, on disk or in a caller's memory, and their widening to `f32`.

use crate::error::{Error, Result};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::str::FromStr;
use half::{bf16, f16};
use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

/// The type of a stored number, always little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16: 10 bits of fraction, largest finite value 65504.
    F16,
    /// The upper half of a binary32: 7 bits of fraction, the range of `f32`.
    Bf16,
}

impl Dtype {
    /// Returns the bytes per number.
    #[must_use]
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Returns `f32`, `f16` or `bf16`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// `out += bytes(round(src))`: appends `src` in this type, rounded to nearest, ties to even.
    ///
    /// A finite value beyond the range of the type becomes an infinity, as in IEEE 754; the caller must check for that.
    pub fn narrow(self, src: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend(src.iter().flat_map(|v| v.to_le_bytes())),
            Self::F16 => out.extend(src.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes())),
            Self::Bf16 => out.extend(src.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes())),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dtype {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            _ => Err(Error::config("dtype", alloc::format!("expected f32, f16 or bf16, found `{s}`"))),
        }
    }
}

/// `n` rows of `d` numbers in little-endian bytes, row `i` at byte `i * stride_bytes`, at any alignment. A view.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    data: &'a [u8],
    n: usize,
    d: usize,
    stride_bytes: usize,
    dtype: Dtype,
    /// The bytes are `f32` in the byte order of this machine rather than little-endian.
    native: bool,
}

impl fmt::Debug for Rows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows [{}, {}] {}, stride {} bytes", self.n, self.d, self.dtype, self.stride_bytes)
    }
}

impl<'a> Rows<'a> {
    /// Makes a view of `n` rows of `d` numbers in `data`. Bytes between and after the rows are ignored.
    ///
    /// # Errors
    /// [`Error::Shape`] if `d` is 0, if rows overlap (`stride_bytes < d * size`), or if `data` is too short, as it is
    /// for any size that overflows.
    pub fn new(data: &'a [u8], n: usize, d: usize, stride_bytes: usize, dtype: Dtype) -> Result<Self> {
        if d == 0 {
            return Err(Error::Shape { what: "numbers in a row", expected: 1, got: 0 });
        }
        let row_bytes = d.saturating_mul(dtype.size_bytes());
        if stride_bytes < row_bytes {
            return Err(Error::Shape { what: "bytes from row to row", expected: row_bytes, got: stride_bytes });
        }
        let needed = if n == 0 { 0 } else { (n - 1).saturating_mul(stride_bytes).saturating_add(row_bytes) };
        if data.len() < needed {
            return Err(Error::Shape { what: "bytes of the rows", expected: needed, got: data.len() });
        }
        Ok(Self { data, n, d, stride_bytes, dtype, native: false })
    }

    /// Makes a view of `values.len() / d` contiguous rows.
    ///
    /// # Errors
    /// [`Error::Shape`] if `d` is 0 or does not divide the length.
    pub fn from_f32(values: &'a [f32], d: usize) -> Result<Self> {
        let n = values.len().checked_div(d).unwrap_or(0);
        if n.saturating_mul(d) != values.len() {
            return Err(Error::Shape { what: "values in whole rows", expected: n * d, got: values.len() });
        }
        let mut rows = Self::new(bytemuck::cast_slice(values), n, d, d.saturating_mul(4), Dtype::F32)?;
        rows.native = true;
        Ok(rows)
    }

    /// Makes a view of an array of `n` rows and `d` columns.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no columns, or if the array is not in standard layout (row-major, contiguous);
    /// copy it with `as_standard_layout` then.
    pub fn from_array(array: ArrayView2<'a, f32>) -> Result<Self> {
        let (n, d) = array.dim();
        match array.to_slice() {
            Some(values) => {
                let rows = Self::from_f32(values, d)?;
                Ok(Self { n, ..rows })
            }
            None => Err(Error::Shape {
                what: "array in standard layout (row-major, contiguous): elements from row to row",
                expected: d,
                got: array.strides()[0].unsigned_abs(),
            }),
        }
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Returns the width of a row.
    #[must_use]
    pub fn d(&self) -> usize {
        self.d
    }

    /// Returns the type of the numbers.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Returns the bytes from the start of a row to that of the next.
    #[must_use]
    pub fn stride_bytes(&self) -> usize {
        self.stride_bytes
    }

    /// Returns the bytes of all rows where they follow each other without gaps, as little-endian numbers; else none.
    #[must_use]
    pub fn contiguous(&self) -> Option<&'a [u8]> {
        let bytes = self.n * self.d * self.dtype.size_bytes();
        let is_plain = !self.native || cfg!(target_endian = "little");
        (self.stride_bytes == self.d * self.dtype.size_bytes() && is_plain).then(|| &self.data[..bytes])
    }

    /// Returns the rows `range` of this view, as a view.
    ///
    /// # Panics
    /// If the range ends beyond `n`.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.n, "rows {range:?} of {}", self.n);
        let data = if range.is_empty() { &[][..] } else { &self.data[range.start * self.stride_bytes..] };
        Self { data, n: range.len(), ..*self }
    }

    fn row_bytes(&self, i: usize) -> &'a [u8] {
        let start = i * self.stride_bytes;
        &self.data[start..start + self.d * self.dtype.size_bytes()]
    }

    /// `out[j] = f32(self[i, j])`, exactly. `out` is written, never read.
    ///
    /// # Panics
    /// If `i >= n` or `out.len() != d`.
    pub fn widen_row(&self, i: usize, out: &mut [f32]) {
        assert!(i < self.n, "row {i} of {}", self.n);
        assert!(out.len() == self.d, "row of {} numbers into a buffer of {}", self.d, out.len());
        self.widen_bytes(self.row_bytes(i), out);
    }

    /// `out[(i - range.start) * d + j] = f32(self[i, j])`, exactly. `out` is written, never read.
    ///
    /// # Panics
    /// If the range ends beyond `n` or `out.len() != range.len() * d`.
    pub fn widen(&self, range: Range<usize>, out: &mut [f32]) {
        let rows = self.slice(range);
        assert!(out.len() == rows.n * self.d, "[{}, {}] into a buffer of {}", rows.n, self.d, out.len());
        let row_bytes = self.d * self.dtype.size_bytes();
        if self.stride_bytes == row_bytes {
            self.widen_bytes(&rows.data[..rows.n * row_bytes], out);
        } else {
            for (i, out) in out.chunks_exact_mut(self.d).enumerate() {
                self.widen_bytes(rows.row_bytes(i), out);
            }
        }
    }

    fn widen_bytes(&self, bytes: &[u8], out: &mut [f32]) {
        match self.dtype {
            Dtype::F32 if self.native || cfg!(target_endian = "little") => {
                bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(bytes);
            }
            Dtype::F32 => widen_from(bytes, out, f32::from_le_bytes),
            Dtype::F16 => widen_from(bytes, out, |b| f16_to_f32(u16::from_le_bytes(b))),
            Dtype::Bf16 => widen_from(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        }
    }

    /// Returns `f32(self[i, j])`, exactly.
    ///
    /// # Panics
    /// If `i >= n` or `j >= d`.
    #[must_use]
    pub fn get(&self, i: usize, j: usize) -> f32 {
        assert!(i < self.n && j < self.d, "({i}, {j}) of ({}, {})", self.n, self.d);
        let size = self.dtype.size_bytes();
        let mut out = [0.0];
        self.widen_bytes(&self.row_bytes(i)[j * size..(j + 1) * size], &mut out);
        out[0]
    }

    /// Returns the first (row, column), row by row, that is NaN or infinite.
    #[must_use]
    pub fn first_not_finite(&self) -> Option<(usize, usize)> {
        (0..self.n).find_map(|i| {
            let bytes = self.row_bytes(i);
            let column = match self.dtype {
                Dtype::F32 if self.native => first_set(bytes, |b| !f32::from_ne_bytes(b).is_finite()),
                Dtype::F32 => first_set(bytes, |b| !f32::from_le_bytes(b).is_finite()),
                Dtype::F16 => first_set(bytes, |b| u16::from_le_bytes(b) & 0x7C00 == 0x7C00),
                Dtype::Bf16 => first_set(bytes, |b| u16::from_le_bytes(b) & 0x7F80 == 0x7F80),
            };
            column.map(|j| (i, j))
        })
    }
}

fn widen_from<const SIZE: usize>(bytes: &[u8], out: &mut [f32], f: impl Fn([u8; SIZE]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<SIZE>();
    assert!(chunks.len() == out.len(), "{} numbers into a buffer of {}", chunks.len(), out.len());
    for (out, &chunk) in out.iter_mut().zip(chunks) {
        *out = f(chunk);
    }
}

/// Returns the first chunk for which `f` holds. A first pass over all chunks has no branch, since nearly every row has
/// none.
fn first_set<const SIZE: usize>(bytes: &[u8], f: impl Fn([u8; SIZE]) -> bool) -> Option<usize> {
    let (chunks, _) = bytes.as_chunks::<SIZE>();
    let any = chunks.iter().fold(0_u32, |any, &c| any | u32::from(f(c)));
    if any == 0 { None } else { chunks.iter().position(|&c| f(c)) }
}

/// `f32(h)`, exactly, without a branch: the exponent is re-biased by a multiplication with `2^112`, which is exact and
/// normalises subnormals; NaN and infinity get the largest exponent back, and NaN keeps its payload.
fn f16_to_f32(h: u16) -> f32 {
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = u32::from(h & 0x7FFF) << 13;
    let scaled = (f32::from_bits(magnitude) * REBIAS).to_bits();
    let special = if h & 0x7C00 == 0x7C00 { 0x7F80_0000 | magnitude } else { scaled };
    f32::from_bits(special | u32::from(h & 0x8000) << 16)
}
