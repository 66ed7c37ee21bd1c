//! Sparse codes: which latents of each row fire, and how strongly.

use alloc::vec::Vec;

/// Codes of `n` rows in CSR form: row `i` holds entries `offsets[i]..offsets[i + 1]`, indices ascending, values positive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Codes {
    /// `n + 1` places, the first 0.
    pub offsets: Vec<usize>,
    /// Latents.
    pub index: Vec<u32>,
    /// Activations of the latents.
    pub value: Vec<f32>,
}

/// The codes of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CodeRow<'a> {
    /// Latents, ascending.
    pub index: &'a [u32],
    /// Their activations.
    pub value: &'a [f32],
}

impl Codes {
    /// No rows.
    pub fn new() -> Self {
        let mut codes = Self::default();
        codes.clear();
        codes
    }

    /// Forgets every row, keeps the memory.
    pub fn clear(&mut self) {
        self.offsets.clear();
        self.offsets.push(0);
        self.index.clear();
        self.value.clear();
    }

    /// Number of rows.
    pub fn n(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> CodeRow<'_> {
        let range = self.offsets[i]..self.offsets[i + 1];
        CodeRow { index: &self.index[range.clone()], value: &self.value[range] }
    }

    /// Ends a row whose entries have been pushed.
    pub fn end_row(&mut self) {
        self.offsets.push(self.index.len());
    }

    /// Appends the rows of `other`.
    pub fn append(&mut self, other: &Self) {
        let base = self.index.len();
        self.index.extend_from_slice(&other.index);
        self.value.extend_from_slice(&other.value);
        self.offsets.extend(other.offsets.iter().skip(1).map(|o| o + base));
    }
}
