//! Sparse codes: the latents that fire on each row, with their activations.

use crate::entry::CodeRow;
use crate::error::{Error, Result};
use alloc::vec::Vec;

/// Codes of `n` rows in CSR form: row `i` holds entries `offsets[i]..offsets[i + 1]`, indices ascending, values positive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Codes {
    /// `n + 1` offsets, the first 0.
    pub offsets: Vec<usize>,
    /// Latents.
    pub index: Vec<u32>,
    /// Activations of the latents.
    pub value: Vec<f32>,
}

impl Codes {
    /// Makes codes of no rows.
    pub fn new() -> Self {
        let mut codes = Self::default();
        codes.clear();
        codes
    }

    /// Removes every row and keeps the memory.
    pub fn clear(&mut self) {
        self.offsets.clear();
        self.offsets.push(0);
        self.index.clear();
        self.value.clear();
    }

    /// Returns the number of rows.
    pub fn n(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Returns the code of row `i`.
    pub fn row(&self, i: usize) -> CodeRow<'_> {
        let range = self.offsets[i]..self.offsets[i + 1];
        CodeRow { index: &self.index[range.clone()], value: &self.value[range] }
    }

    /// Ends a row whose entries have been pushed.
    pub fn end_row(&mut self) {
        self.offsets.push(self.index.len());
    }

    /// Removes the rows from row `n` on.
    pub(crate) fn truncate(&mut self, n: usize) {
        let end = self.offsets.get(n).copied().unwrap_or(0);
        self.offsets.truncate(n + 1);
        self.index.truncate(end);
        self.value.truncate(end);
    }

    /// Removes, from row `first` on, the entries of all latents but `latents`, which ascend.
    pub(crate) fn keep_only(&mut self, first: usize, latents: &[u32]) {
        let (mut from, mut to) = (self.offsets[first], self.offsets[first]);
        for end in &mut self.offsets[first + 1..] {
            for at in from..*end {
                if latents.binary_search(&self.index[at]).is_ok() {
                    (self.index[to], self.value[to]) = (self.index[at], self.value[at]);
                    to += 1;
                }
            }
            (from, *end) = (*end, to);
        }
        self.index.truncate(to);
        self.value.truncate(to);
    }

    /// Reserves capacity for so many more rows and entries.
    pub fn reserve(&mut self, rows: usize, entries: usize) {
        self.offsets.reserve(rows);
        self.index.reserve(entries);
        self.value.reserve(entries);
    }

    /// Appends the rows of `other`.
    pub fn append(&mut self, other: &Self) {
        let base = self.index.len();
        self.index.extend_from_slice(&other.index);
        self.value.extend_from_slice(&other.value);
        self.offsets.extend(other.offsets.iter().skip(1).map(|o| o + base));
    }

    /// Returns a view of these codes as codes over `latents` latents.
    ///
    /// # Errors
    /// As [`CodesView::new`].
    pub fn view(&self, latents: usize) -> Result<CodesView<'_>> {
        CodesView::new(&self.offsets, &self.index, &self.value, latents)
    }
}

/// [`Codes`] in borrowed slices, with the number of latents: token `t` has the entries `offsets[t]..offsets[t + 1]`.
///
/// A latent is **active** on a token if its value is `> 0`; entries with a value of zero or less are stored but count
/// as inactive. A latent appears at most once per token.
#[derive(Clone, Copy, Debug)]
pub struct CodesView<'a> {
    offsets: &'a [usize],
    index: &'a [u32],
    value: &'a [f32],
    latents: usize,
}

impl<'a> CodesView<'a> {
    /// Returns the values of all entries of all tokens.
    pub(crate) fn values(&self) -> &'a [f32] {
        self.value
    }

    /// Makes codes over `latents` latents from slices, which are checked once.
    ///
    /// # Errors
    /// [`Error::Shape`] if `offsets` is empty or decreases, does not begin with 0 or does not end with the number of
    /// entries, or if `index` and `value` differ in length; [`Error::Index`] if some `index[e] >= latents`.
    pub fn new(offsets: &'a [usize], index: &'a [u32], value: &'a [f32], latents: usize) -> Result<Self> {
        let shape = |what, expected, got| Err(Error::Shape { what, expected, got });
        match (offsets.first(), offsets.last()) {
            (Some(0), Some(&last)) if last == index.len() => {}
            (Some(0), Some(&last)) => return shape("last offset of the codes", index.len(), last),
            (first, _) => return shape("first offset of the codes", 0, first.copied().unwrap_or(usize::MAX)),
        }
        if let Some(w) = offsets.windows(2).find(|w| w[0] > w[1]) {
            return shape("offset of the codes (never below the one before)", w[0], w[1]);
        }
        if value.len() != index.len() {
            return shape("values of the codes", index.len(), value.len());
        }
        // The largest index is found without a branch.
        let largest = index.iter().fold(0, |most, j| most.max(*j)) as usize;
        if !index.is_empty() && largest >= latents {
            return Err(Error::Index { what: "latents of the codes", index: largest, len: latents });
        }
        Ok(Self { offsets, index, value, latents })
    }

    /// Returns the number of tokens.
    pub fn tokens(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Returns the number of latents.
    pub fn latents(&self) -> usize {
        self.latents
    }

    /// Returns everything that is stored for token `t`.
    pub fn row(&self, t: usize) -> CodeRow<'a> {
        let range = self.offsets[t]..self.offsets[t + 1];
        CodeRow { index: &self.index[range.clone()], value: &self.value[range] }
    }

    /// Returns the active latents of token `t` with their values, in stored order.
    pub fn active(&self, t: usize) -> impl Iterator<Item = (usize, f32)> + 'a {
        let range = self.offsets[t]..self.offsets[t + 1];
        let (index, value) = (&self.index[range.clone()], &self.value[range]);
        index.iter().zip(value).filter(|(_, v)| **v > 0.0).map(|(j, v)| (*j as usize, *v))
    }

    /// Returns the active entries sorted by latent, so that a loop over them reads the data of one latent at a time.
    pub fn by_latent(&self) -> CodesByLatent {
        let mut start = alloc::vec![0usize; self.latents + 1];
        let entries = || (0..self.tokens()).flat_map(|t| self.active(t).map(move |(j, z)| (t, j, z)));
        entries().for_each(|(_, j, _)| start[j + 1] += 1);
        (0..self.latents).for_each(|j| start[j + 1] += start[j]);
        let mut next = start.clone();
        let mut entry = alloc::vec![(0, 0.0); start[self.latents]];
        for (t, j, z) in entries() {
            entry[next[j]] = (t as u32, z);
            next[j] += 1;
        }
        CodesByLatent { start, entry }
    }

    /// Returns `n_j`, the number of tokens on which each latent is active.
    pub fn counts(&self) -> Vec<u64> {
        let mut n = alloc::vec![0; self.latents];
        for (j, v) in self.index.iter().zip(self.value) {
            n[*j as usize] += u64::from(*v > 0.0);
        }
        n
    }
}

/// The active entries of [`Codes`], sorted by latent, those of each latent in the order of their tokens.
#[derive(Clone, Debug)]
pub struct CodesByLatent {
    /// `[latents + 1]`: the offset of the entries of each latent.
    start: Vec<usize>,
    /// Tokens and values.
    entry: Vec<(u32, f32)>,
}

impl CodesByLatent {
    /// Returns the number of latents.
    pub fn latents(&self) -> usize {
        self.start.len() - 1
    }

    /// Returns the tokens on which latent `j` is active, ascending, with its values.
    pub fn tokens(&self, j: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        self.entry[self.start[j]..self.start[j + 1]].iter().map(|(t, z)| (*t as usize, *z))
    }
}
