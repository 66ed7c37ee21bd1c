//! Codes in arrays of numpy.

use crate::failure;
use numpy::ndarray::ArrayViewMut1;
use numpy::{Element, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};
use strata_core::Codes;
use strata_core::model::CodesView;

/// The codes of a level: offsets, latents, values.
pub(crate) type Csr<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f32>>);
/// The same as an argument.
pub(crate) type CsrIn<'py> = (PyReadonlyArray1<'py, i64>, PyReadonlyArray1<'py, u32>, PyReadonlyArray1<'py, f32>);

/// Most bytes of codes that are kept for later calls.
const MOST_KEPT: usize = 64 << 20;

/// The memory of codes that no array uses any more. New pages cost more than what is written to them: a loop that encodes batch
/// after batch, and forgets the codes of one before the next but one, is given the same memory again and again.
#[derive(Default)]
pub(crate) struct Shelf(Mutex<Vec<Memory>>);

/// The memory of the codes of one level.
#[derive(Default)]
pub(crate) struct Memory {
    offsets: Vec<i64>,
    index: Vec<u32>,
    value: Vec<f32>,
}

impl Memory {
    /// Returns the bytes that it holds.
    fn bytes(&self) -> usize {
        8 * self.offsets.capacity() + 4 * (self.index.capacity() + self.value.capacity())
    }
}

impl Shelf {
    /// Returns empty memory, if there is some with the capacity for so many entries or for more, but not for far more.
    fn take(&self, rows: usize, entries: usize) -> Memory {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |memory: &Memory| {
            let room = memory.index.capacity().min(memory.value.capacity());
            memory.offsets.capacity() > rows && room >= entries && room / 4 <= entries + 1024
        };
        // The one that was put back last is the likeliest to be in the cache.
        let found = kept.iter().rposition(fits);
        let mut memory = found.map_or_else(Memory::default, |at| kept.remove(at));
        drop(kept);
        memory.offsets.clear();
        memory.index.clear();
        memory.value.clear();
        memory
    }

    /// Keeps memory, the newest of it up to a bound.
    fn put(&self, memory: Memory) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(memory);
        let mut left = MOST_KEPT;
        let first = kept.iter().rposition(|memory| {
            let fits = memory.bytes() <= left;
            left = left.saturating_sub(memory.bytes());
            !fits
        });
        kept.drain(..first.map_or(0, |at| at + 1));
    }
}

/// What arrays of codes keep alive: the memory that they show.
#[pyclass(module = "strata_sae._native")]
pub(crate) struct Held {
    memory: Memory,
    shelf: Arc<Shelf>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shelf.put(std::mem::take(&mut self.memory));
    }
}

/// Codes of one level while blocks of rows are encoded.
pub(crate) struct Gathered {
    memory: Memory,
    shelf: Arc<Shelf>,
}

impl Gathered {
    /// Makes room for codes of so many rows and entries, and more if need be.
    pub(crate) fn new(shelf: &Arc<Shelf>, rows: usize, entries: usize) -> Self {
        let mut memory = shelf.take(rows, entries);
        memory.offsets.reserve(rows + 1);
        memory.index.reserve(entries);
        memory.value.reserve(entries);
        memory.offsets.push(0);
        Self { memory, shelf: shelf.clone() }
    }

    /// Appends the codes of rows.
    pub(crate) fn append(&mut self, codes: &Codes) {
        let Memory { offsets, index, value } = &mut self.memory;
        let base = index.len();
        // Offsets of entries in memory are below 2^63.
        offsets.extend(codes.offsets.iter().skip(1).map(|end| (base + end) as i64));
        index.extend_from_slice(&codes.index);
        value.extend_from_slice(&codes.value);
    }

    /// Returns them as arrays, without a copy.
    ///
    /// # Errors
    /// If the interpreter has no memory for the objects.
    pub(crate) fn into_csr(self, py: Python<'_>) -> PyResult<Csr<'_>> {
        let held = Bound::new(py, Held { memory: self.memory, shelf: self.shelf })?;
        let mut inside = held.borrow_mut();
        let Memory { offsets, index, value } = &mut inside.memory;
        Ok((array(&held, offsets), array(&held, index), array(&held, value)))
    }
}

/// Returns an array of the numbers of `held`, which it keeps alive.
#[allow(unsafe_code, reason = "arrays of numpy cannot express the lifetime of what they borrow")]
fn array<'py, T: Element>(held: &Bound<'py, Held>, numbers: &mut [T]) -> Bound<'py, PyArray1<T>> {
    let view: ArrayViewMut1<'_, T> = ArrayViewMut1::from(numbers);
    // SAFETY: the array owns a reference to `held`, which therefore outlives it. Nothing reads, writes or moves the numbers
    // until `held` is dropped: the class has no methods, and its fields are touched here and in `drop` alone.
    unsafe { PyArray1::<T>::borrow_from_array(&view, held.clone().into_any()) }
}

/// Codes of both levels that are read where they lie.
pub(crate) struct Given<'a> {
    offsets: [Vec<usize>; 2],
    index: [&'a [u32]; 2],
    value: [&'a [f32]; 2],
}

impl<'a> Given<'a> {
    /// Reads the codes of both levels.
    ///
    /// # Errors
    /// `ValueError` for a negative offset, and for arrays whose numbers do not lie one after the other.
    pub(crate) fn new(one: &'a CsrIn<'_>, two: &'a CsrIn<'_>) -> PyResult<Self> {
        Ok(Self {
            offsets: [offsets(&one.0)?, offsets(&two.0)?],
            index: [one.1.as_slice()?, two.1.as_slice()?],
            value: [one.2.as_slice()?, two.2.as_slice()?],
        })
    }

    /// Returns views of both levels, checked, of the same number of rows.
    ///
    /// # Errors
    /// `ValueError` and `IndexError` for codes that are none of a model with so many latents.
    pub(crate) fn views(&self, latents: [usize; 2]) -> PyResult<[CodesView<'_>; 2]> {
        let view = |l: usize| CodesView::new(&self.offsets[l], self.index[l], self.value[l], latents[l]);
        let (one, two) = (view(0).map_err(failure::of_core)?, view(1).map_err(failure::of_core)?);
        if one.tokens() != two.tokens() {
            let (expected, found) = (one.tokens(), two.tokens());
            return Err(PyValueError::new_err(format!("codes of level 2: expected {expected} rows, found {found}")));
        }
        Ok([one, two])
    }
}

fn offsets(given: &PyReadonlyArray1<'_, i64>) -> PyResult<Vec<usize>> {
    let one = |o: &i64| usize::try_from(*o).map_err(|_| PyValueError::new_err("codes: an offset is negative"));
    given.as_slice()?.iter().map(one).collect()
}
