//! Rows in the caller's memory, read one at a time, since the bytes between them may be in use elsewhere.

use crate::failure::{Failure, Outcome};
use crate::params::{self, check_reserved, extent, strata_dtype, strata_rows, strata_rows_mut};
use crate::params::{STRATA_DTYPE_BF16, STRATA_DTYPE_F16, STRATA_DTYPE_F32};
use crate::status::{STRATA_STATUS_DTYPE, STRATA_STATUS_NULL, STRATA_STATUS_SHAPE};
use alloc::vec::Vec;
use core::mem::offset_of;
use core::ops::Range;
use core::{ptr, slice};
use strata_core::{Dtype, Error, Rows};

pub(crate) fn dtype(dtype: strata_dtype) -> Outcome<Dtype> {
    match dtype {
        STRATA_DTYPE_F32 => Ok(Dtype::F32),
        STRATA_DTYPE_F16 => Ok(Dtype::F16),
        STRATA_DTYPE_BF16 => Ok(Dtype::Bf16),
        other => Err(Failure::found(STRATA_STATUS_DTYPE, "dtype: expected a STRATA_DTYPE_...", other)),
    }
}

/// [`strata_rows`], checked.
#[derive(Clone, Copy)]
pub(crate) struct RowsIn {
    data: *const u8,
    pub n: usize,
    d: usize,
    stride_bytes: usize,
    dtype: Dtype,
}

// SAFETY: the rows are only read, and the caller of `new` promises that they are not written.
unsafe impl Sync for RowsIn {}

impl RowsIn {
    /// Rows of width `d`.
    ///
    /// # Safety
    /// `rows` is NULL or points to a struct of `struct_size` bytes; while the result is used the rows that it describes
    /// are there and are not written.
    pub unsafe fn new(rows: *const strata_rows, d: usize) -> Outcome<Self> {
        // SAFETY: as the caller promises.
        let rows = unsafe { params::read(rows) }?;
        check_reserved(rows.reserved.into())?;
        let dtype = dtype(rows.dtype)?;
        if rows.d != d {
            return Err(Error::Shape { what: "d", expected: d, got: rows.d }.into());
        }
        if rows.n_rows > 0 {
            let row_bytes = d * dtype.size_bytes();
            if rows.row_stride_bytes < row_bytes {
                let what = "row_stride_bytes (the bytes of a row at least)";
                return Err(Error::Shape { what, expected: row_bytes, got: rows.row_stride_bytes }.into());
            }
            let before_last = (rows.n_rows - 1).checked_mul(rows.row_stride_bytes);
            let end = before_last.and_then(|n| n.checked_add(row_bytes));
            if end.is_none_or(|end| end > isize::MAX as usize) {
                return Err(Failure::found(
                    STRATA_STATUS_SHAPE,
                    "n_rows: expected rows that memory can hold",
                    rows.n_rows,
                ));
            }
            if rows.data.is_null() {
                return Err(Failure::new(STRATA_STATUS_NULL, "data is NULL, and n_rows is not 0"));
            }
        }
        Ok(Self { data: rows.data.cast(), n: rows.n_rows, d, stride_bytes: rows.row_stride_bytes, dtype })
    }

    /// The addresses of the rows and of what lies between them.
    pub fn extent(&self) -> Range<usize> {
        let last = self.n.saturating_sub(1) * self.stride_bytes;
        let len = if self.n == 0 { 0 } else { last + self.d * self.dtype.size_bytes() };
        extent(self.data, len)
    }

    /// Whether these are the same rows, each at the same address and in the same type.
    pub fn is_same(&self, other: &Self) -> bool {
        self.extent() == other.extent()
            && (self.d, self.stride_bytes) == (other.d, other.stride_bytes)
            && self.dtype == other.dtype
    }

    pub fn row(&self, i: usize) -> Rows<'_> {
        assert!(i < self.n, "row {i} of {}", self.n);
        let row_bytes = self.d * self.dtype.size_bytes();
        // SAFETY: inside of the rows, whose bytes `new` has found to be at most `isize::MAX`.
        let start = unsafe { self.data.add(i * self.stride_bytes) };
        // SAFETY: row `i` has as many bytes, which are not written.
        let bytes = unsafe { slice::from_raw_parts(start, row_bytes) };
        Rows::new(bytes, 1, self.d, row_bytes, self.dtype).expect("one row of its own size")
    }

    /// Writes rows `first` to `first + out.len() / d` to `out`.
    pub fn widen(&self, first: usize, out: &mut [f32]) {
        for (i, out) in out.chunks_exact_mut(self.d).enumerate() {
            self.row(first + i).widen_row(0, out);
        }
    }

    /// Returns the first row with a number that is NaN or infinite.
    pub fn first_not_finite(&self) -> Option<usize> {
        (0..self.n).find(|&i| self.row(i).first_not_finite().is_some())
    }

    pub fn check_finite(&self) -> Outcome {
        match self.first_not_finite() {
            None => Ok(()),
            Some(i) => Err(Failure::not_finite("a number of row", i)),
        }
    }
}

/// [`strata_rows_mut`], checked.
pub(crate) struct RowsOut {
    /// To read them.
    pub rows: RowsIn,
    data: *mut u8,
}

impl RowsOut {
    /// Rows of width `d`.
    ///
    /// # Safety
    /// As [`RowsIn::new`], and no one else reads the rows either.
    pub unsafe fn new(rows: *const strata_rows_mut, d: usize) -> Outcome<Self> {
        const {
            assert!(
                size_of::<strata_rows>() == size_of::<strata_rows_mut>(),
                "the two structs differ in the type of `data` only"
            );
            assert!(
                offset_of!(strata_rows, data) == offset_of!(strata_rows_mut, data),
                "`data` lies at the same offset in both"
            );
            assert!(
                offset_of!(strata_rows, dtype) == offset_of!(strata_rows_mut, dtype),
                "`dtype` lies at the same offset in both"
            );
        }
        // SAFETY: both structs are the same but for the type of `data`.
        let rows = unsafe { RowsIn::new(rows.cast(), d) }?;
        Ok(Self { data: rows.data.cast_mut(), rows })
    }

    /// Writes `values` to row `i`, rounded to its type; `bytes` is scratch.
    pub fn store(&mut self, i: usize, values: &[f32], bytes: &mut Vec<u8>) {
        assert!(i < self.rows.n && values.len() == self.rows.d, "row {i} of {}", self.rows.n);
        bytes.clear();
        self.rows.dtype.narrow(values, bytes);
        // SAFETY: inside of the rows, whose bytes `RowsIn::new` has found to be at most `isize::MAX`.
        let start = unsafe { self.data.add(i * self.rows.stride_bytes) };
        // SAFETY: row `i` has `d` numbers of this type, and no one else accesses it during the call.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len()) };
    }
}
