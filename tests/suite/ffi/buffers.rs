//! Rows and codes in memory of the caller.

use strata::*;
use strata_core::{Codes, Dtype, Rows};

use super::fixture::D;

/// Codes with their buffers.
pub struct Buffers {
    pub offsets: Vec<usize>,
    pub index: Vec<u32>,
    pub value: Vec<f32>,
    pub c: strata_codes,
}

impl Buffers {
    pub fn new(n_rows: usize, capacity: usize) -> Self {
        Self::of(vec![usize::MAX; n_rows + 1], vec![u32::MAX; capacity], vec![f32::NAN; capacity])
    }

    pub fn of(mut offsets: Vec<usize>, mut index: Vec<u32>, mut value: Vec<f32>) -> Self {
        let c = strata_codes {
            struct_size: size_of::<strata_codes>(),
            offsets: offsets.as_mut_ptr(),
            offsets_len: offsets.len(),
            index: index.as_mut_ptr(),
            value: value.as_mut_ptr(),
            capacity: index.len(),
            n: 0,
        };
        Self { offsets, index, value, c }
    }

    pub fn codes(&self) -> Codes {
        let n = self.c.n;
        Codes { offsets: self.offsets.clone(), index: self.index[..n].to_vec(), value: self.value[..n].to_vec() }
    }
}

impl From<&Codes> for Buffers {
    fn from(codes: &Codes) -> Self {
        Self::of(codes.offsets.clone(), codes.index.clone(), codes.value.clone())
    }
}

/// Rows of `values` in `dtype`, `gap` bytes between them, the first at an odd address if `gap` is odd.
pub struct Stored {
    pub bytes: Vec<u8>,
    start: usize,
    n: usize,
    stride: usize,
    dtype: Dtype,
}

const FILL: u8 = 0xA5;

impl Stored {
    pub fn new(values: &[f32], dtype: Dtype, gap: usize) -> Self {
        let (n, stride) = (values.len() / D, D * dtype.size_bytes() + gap);
        let mut bytes = vec![FILL; n * stride + 2];
        // The address is odd if the gap is.
        let start = (bytes.as_ptr() as usize + gap) % 2;
        for (i, row) in values.chunks(D).enumerate() {
            let mut narrow = Vec::new();
            dtype.narrow(row, &mut narrow);
            bytes[start + i * stride..][..narrow.len()].copy_from_slice(&narrow);
        }
        Self { bytes, start, n, stride, dtype }
    }

    pub fn wide(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.n * D];
        Rows::new(&self.bytes[self.start..], self.n, D, self.stride, self.dtype).unwrap().widen(0..self.n, &mut out);
        out
    }

    pub fn dtype(&self) -> strata_dtype {
        [STRATA_DTYPE_F32, STRATA_DTYPE_F16, STRATA_DTYPE_BF16][self.dtype as usize]
    }

    pub fn rows(&self) -> strata_rows {
        strata_rows {
            struct_size: size_of::<strata_rows>(),
            data: self.bytes[self.start..].as_ptr().cast(),
            n_rows: self.n,
            d: D,
            row_stride_bytes: self.stride,
            dtype: self.dtype(),
            reserved: 0,
        }
    }

    pub fn rows_mut(&mut self) -> strata_rows_mut {
        strata_rows_mut {
            struct_size: size_of::<strata_rows_mut>(),
            data: self.bytes[self.start..].as_mut_ptr().cast(),
            n_rows: self.n,
            d: D,
            row_stride_bytes: self.stride,
            dtype: self.dtype(),
            reserved: 0,
        }
    }

    /// Returns whether the bytes between and around the rows are unchanged.
    pub fn gaps_are_untouched(&self) -> bool {
        let row = D * self.dtype.size_bytes();
        self.bytes.iter().enumerate().all(|(at, b)| {
            let inside =
                at >= self.start && (at - self.start) / self.stride < self.n && (at - self.start) % self.stride < row;
            inside || *b == FILL
        })
    }
}

pub fn f32_rows(values: &[f32]) -> Stored {
    Stored::new(values, Dtype::F32, 0)
}

pub const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];
