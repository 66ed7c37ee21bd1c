//! Codes in the caller's buffers: filled block by block, or read in place.

use crate::failure::{Failure, Outcome};
use crate::params::{self, extent, items, params, slice_extent, strata_codes};
use crate::status::{STRATA_STATUS_NULL, STRATA_STATUS_SHAPE};
use core::ops::Range;
use core::ptr;
use strata_core::Error;
use strata_core::model::{CodeRow, Codes, CodesView};

/// [`strata_codes`] while it is filled. Entries beyond its capacity are only counted.
pub(crate) struct CodesOut {
    to: *mut strata_codes,
    at: strata_codes,
    rows: usize,
    n: usize,
}

impl CodesOut {
    /// Makes a writer of codes; `None` for NULL, where that is `optional`.
    ///
    /// # Safety
    /// `to` is NULL or points to a struct of `struct_size` bytes, whose buffers are as long as it says; while the result is
    /// used no one else accesses any of them.
    pub unsafe fn new(to: *mut strata_codes, optional: bool) -> Outcome<Option<Self>> {
        if to.is_null() && optional {
            return Ok(None);
        }
        // SAFETY: as the caller promises.
        let at = unsafe { params::read(to) }?;
        if at.struct_size < size_of::<strata_codes>() {
            return Err(params("struct_size: strata_codes has no room for `n`"));
        }
        if at.offsets.is_null() && at.offsets_len > 0 {
            return Err(Failure::new(STRATA_STATUS_NULL, "offsets is NULL, and offsets_len is not 0"));
        }
        if (at.index.is_null() || at.value.is_null()) && at.capacity > 0 {
            return Err(Failure::new(STRATA_STATUS_NULL, "index or value is NULL, and capacity is not 0"));
        }
        if !(at.offsets.is_aligned() && at.index.is_aligned() && at.value.is_aligned()) {
            return Err(params("a buffer of the codes does not lie at its alignment"));
        }
        Ok(Some(Self { to, at, rows: 0, n: 0 }))
    }

    /// Returns the addresses of all memory that is written.
    pub fn extents(&self) -> [Range<usize>; 4] {
        let strata_codes { offsets, offsets_len, index, value, capacity, .. } = self.at;
        [extent(self.to, 1), extent(offsets, offsets_len), extent(index, capacity), extent(value, capacity)]
    }

    /// Adds the rows of a block.
    pub fn append(&mut self, codes: &Codes) {
        for &end in &codes.offsets[1..] {
            self.rows += 1;
            if self.rows < self.at.offsets_len {
                // SAFETY: `rows < offsets_len`.
                let place = unsafe { self.at.offsets.add(self.rows) };
                // SAFETY: the slot is the caller's to write.
                unsafe { place.write(self.n + end) };
            }
        }
        let n = codes.index.len();
        assert_eq!(n, codes.value.len(), "as many values as latents");
        if n > 0 && self.n + n <= self.at.capacity {
            let (index, value) = (self.at.index.wrapping_add(self.n), self.at.value.wrapping_add(self.n));
            // SAFETY: `n` of the `capacity` places are left from here on, and they are not ours.
            unsafe { ptr::copy_nonoverlapping(codes.index.as_ptr(), index, n) };
            // SAFETY: the same.
            unsafe { ptr::copy_nonoverlapping(codes.value.as_ptr(), value, n) };
        }
        self.n += n;
    }

    /// Writes the number of entries, and returns whether all fit.
    pub fn finish(self) -> Outcome {
        if self.at.offsets_len > 0 {
            // SAFETY: there is a first place, and it is the caller's to write.
            unsafe { self.at.offsets.write(0) };
        }
        // SAFETY: `new` has found the struct to be long enough.
        unsafe { (*self.to).n = self.n };
        let fits = |what, needed, got| if needed <= got { Ok(()) } else { Err(Error::Capacity { what, needed, got }) };
        fits("offsets_len", self.rows + 1, self.at.offsets_len)?;
        fits("capacity", self.n, self.at.capacity)?;
        Ok(())
    }
}

/// [`strata_codes`] while it is read: the codes of `n_rows` rows, or none where it is NULL.
pub(crate) struct CodesIn<'a> {
    view: Option<CodesView<'a>>,
    extents: [Range<usize>; 3],
}

impl CodesIn<'_> {
    /// Makes a reader of codes of `n_rows` rows over `latents` latents; NULL is valid where there are no latents.
    ///
    /// # Safety
    /// `from` is NULL or points to a struct of `struct_size` bytes, whose buffers are as long as it says; while the
    /// result is used none of them is written.
    pub unsafe fn new(from: *const strata_codes, n_rows: usize, latents: usize) -> Outcome<Self> {
        if from.is_null() {
            return if latents == 0 {
                Ok(Self { view: None, extents: Default::default() })
            } else {
                Err(Failure::null())
            };
        }
        // SAFETY: as the caller promises.
        let at = unsafe { params::read(from) }?;
        if at.offsets_len <= n_rows {
            let (expected, got) = (n_rows.saturating_add(1), at.offsets_len);
            return Err(Error::Shape { what: "offsets_len (n_rows + 1 at least)", expected, got }.into());
        }
        // SAFETY: there are more places than rows.
        let offsets = unsafe { items(at.offsets, n_rows + 1) }?;
        let n = offsets[n_rows];
        if n > at.capacity {
            return Err(Failure::found(STRATA_STATUS_SHAPE, "offsets[n_rows]: expected at most capacity", n));
        }
        // SAFETY: `n <= capacity`, which the buffer has.
        let index = unsafe { items(at.index, n) }?;
        // SAFETY: the same.
        let value = unsafe { items(at.value, n) }?;
        let view = CodesView::new(offsets, index, value, latents)?;
        if let Some(e) = value.iter().position(|v| !v.is_finite()) {
            return Err(Failure::not_finite("value: entry", e));
        }
        Ok(Self { view: Some(view), extents: [slice_extent(offsets), slice_extent(index), slice_extent(value)] })
    }

    /// Returns the addresses of the codes.
    pub fn extents(&self) -> [Range<usize>; 3] {
        self.extents.clone()
    }

    pub fn row(&self, i: usize) -> CodeRow<'_> {
        self.view.map_or(CodeRow { index: &[], value: &[] }, |view| view.row(i))
    }
}
