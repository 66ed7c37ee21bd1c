//! Integers of any size in `.npy`, safetensors and raw files: token ids, starts of sequences, labels.

use std::ops::Range;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use safetensors::Dtype as StDtype;
use strata_core::Error;
use strata_core::format::dump::Stored;
use strata_core::format::npy::NpyArray;

use super::map::Map;
use super::numbers::Numbers;

/// Integers in the bytes of a file, row-major and little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Integers {
    /// Size of each dimension.
    pub(crate) shape: Vec<usize>,
    bytes: Range<usize>,
    size: usize,
    signed: bool,
}

impl Integers {
    /// Parses a whole `.npy` file. `Ok(None)` for numbers of another type.
    pub(crate) fn npy(file: &[u8]) -> Result<Option<Self>, Error> {
        let array = NpyArray::parse(file)?;
        let Some((size, signed)) = array.integer() else { return Ok(None) };
        if array.fortran_order && array.shape.len() > 1 {
            return Ok(None);
        }
        Ok(Some(Self { shape: array.shape, bytes: array.data_offset..file.len(), size, signed }))
    }

    /// Parses a tensor of a safetensors file, if it has integers or booleans.
    pub(crate) fn stored(tensor: Stored) -> Option<Self> {
        let (size, signed) = match tensor.dtype {
            StDtype::U8 | StDtype::BOOL => (1, false),
            StDtype::I8 => (1, true),
            StDtype::U16 => (2, false),
            StDtype::I16 => (2, true),
            StDtype::U32 => (4, false),
            StDtype::I32 => (4, true),
            StDtype::U64 => (8, false),
            StDtype::I64 => (8, true),
            _ => return None,
        };
        Some(Self { shape: tensor.shape, bytes: tensor.bytes, size, signed })
    }

    /// Makes integers of `size` bytes, with or without a sign, from `bytes` of a file.
    pub(super) fn at(bytes: Range<usize>, size: usize, signed: bool) -> Self {
        Self { shape: vec![bytes.len() / size], bytes, size, signed }
    }

    /// Returns the number of integers.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.size
    }

    /// Returns the integers; those above `i64::MAX`, which are too large for any use, become `i64::MAX`.
    pub(crate) fn values<'a>(&self, file: &'a [u8]) -> impl Iterator<Item = i64> + use<'a> {
        let (size, signed) = (self.size, self.signed);
        file[self.bytes.clone()].chunks_exact(size).map(move |chunk| {
            let mut wide = [0; 8];
            wide[..size].copy_from_slice(chunk);
            let (value, unused) = (u64::from_le_bytes(wide), 64 - 8 * size as u32);
            if signed { (value << unused) as i64 >> unused } else { i64::try_from(value).unwrap_or(i64::MAX) }
        })
    }

    /// Returns token ids: a part of the map where they are stored as 32 bits, otherwise a copy.
    ///
    /// # Errors
    /// An id below 0 or above `u32::MAX`.
    pub(super) fn ids(&self, path: &Path, file: Map) -> Result<Numbers<u32>> {
        let wrong = self.values(&file).enumerate().find(|(_, id)| u32::try_from(*id).is_err());
        if let Some((i, id)) = wrong {
            bail!("`{}`: token ids: expected 0 to {}, found {id} at index {i}", path.display(), u32::MAX);
        }
        if self.size == 4 {
            return Ok(Numbers::new(file, self.bytes.clone(), |b| u32::from_le_bytes(b.try_into().expect("4 bytes"))));
        }
        Ok(Numbers::Copied(self.values(&file).map(|id| id as u32).collect()))
    }

    /// Returns the first rows of the sequences of `n_rows` rows.
    ///
    /// # Errors
    /// If they are not ascending from 0 and below `n_rows`. The number of rows may follow the last one.
    pub(super) fn starts(&self, path: &Path, file: Map, n_rows: u64) -> Result<Numbers<u64>> {
        let mut count = 0_usize;
        let mut last = -1;
        for start in self.values(&file) {
            // Many tools also write the end of the last sequence.
            if count + 1 == self.len() && start as u64 == n_rows && count > 0 {
                break;
            }
            let fits = start > last && (count > 0 || start == 0) && (start as u64) < n_rows;
            ensure!(
                fits,
                "`{}`: starts of sequences: expected ascending rows from 0 to below {n_rows}, found {start} at index {count}",
                path.display()
            );
            (last, count) = (start, count + 1);
        }
        ensure!(count > 0, "`{}`: starts of sequences: expected at least one, found none", path.display());
        if self.size == 8 {
            let bytes = self.bytes.start..self.bytes.start + 8 * count;
            return Ok(Numbers::new(file, bytes, |b| u64::from_le_bytes(b.try_into().expect("8 bytes"))));
        }
        Ok(Numbers::Copied(self.values(&file).take(count).map(|s| s as u64).collect()))
    }
}
