//! Writing dumps.

use crate::arrays::Array;
use crate::failure;
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use strata_cli::dump::{DumpSpec, DumpWriter};
use strata_core::kernel::reduce;
use strata_core::{Dtype, Isa};

/// A dump that is being written; it appears when it is finished.
#[pyclass(frozen, module = "strata_sae._native")]
pub(crate) struct Writer {
    d: usize,
    writer: Mutex<Option<DumpWriter>>,
}

impl Writer {
    fn with<T>(&self, f: impl FnOnce(&mut DumpWriter) -> PyResult<T>) -> PyResult<T> {
        match &mut *self.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(writer) => f(writer),
            None => Err(PyValueError::new_err("the dump is finished, or was given up: make another writer")),
        }
    }
}

#[pymethods]
impl Writer {
    #[new]
    #[pyo3(signature = (path, d, dtype, max_shard_bytes, model=None, hook=None, context=None, vocab=None, special=Vec::new()))]
    #[allow(clippy::too_many_arguments, reason = "the Python layer gives them by name")]
    fn new(
        path: PathBuf,
        d: usize,
        dtype: &str,
        max_shard_bytes: u64,
        model: Option<String>,
        hook: Option<String>,
        context: Option<usize>,
        vocab: Option<Vec<String>>,
        special: Vec<u32>,
    ) -> PyResult<Self> {
        let dtype: Dtype = dtype.parse().map_err(failure::of_core)?;
        let spec = DumpSpec {
            max_shard_bytes,
            model,
            hook,
            context,
            vocab,
            special_tokens: special,
            ..DumpSpec::new(d, dtype)
        };
        let writer = DumpWriter::create(&path, spec).map_err(|e| failure::of(&e))?;
        Ok(Self { d, writer: Mutex::new(Some(writer)) })
    }

    /// Appends rows, all of them or none, with the token of each.
    fn append(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        tokens: Option<PyReadonlyArray1<'_, u32>>,
        starts: bool,
    ) -> PyResult<()> {
        let array = Array::of(x, self.d)?;
        let rows = array.rows();
        let tokens = tokens.as_ref().map(|t| t.as_slice()).transpose()?;
        let (d, n) = (self.d, rows.n());
        if let Some(tokens) = tokens.filter(|t| t.len() != n) {
            return Err(PyValueError::new_err(format!("token_ids: expected {n}, one per row, found {}", tokens.len())));
        }
        py.detach(|| {
            rows.blocks(|first, block| {
                let bad = block.chunks(d).position(|row| !reduce::all_finite(Isa::detect(), row));
                bad.map_or(Ok(()), |i| {
                    let row = first + i;
                    Err(PyValueError::new_err(format!("activations: row {row} has a number that is not finite")))
                })
            })?;
            self.with(|writer| {
                if starts {
                    writer.start_sequence();
                }
                rows.blocks(|first, block| {
                    let tokens = tokens.map(|t| &t[first..first + block.len() / d]);
                    writer.append(block, tokens).map_err(|e| failure::of(&e))
                })
            })
        })
    }

    /// Adds ids to the special tokens.
    fn mark_special(&self, ids: Vec<u32>) -> PyResult<()> {
        self.with(|writer| {
            writer.mark_special(&ids);
            Ok(())
        })
    }

    /// Returns the number of rows so far.
    fn n_rows(&self) -> PyResult<u64> {
        self.with(|writer| Ok(writer.n_rows()))
    }

    /// Makes the files durable and gives the directory its name; returns the summary as JSON.
    fn finish(&self, py: Python<'_>) -> PyResult<String> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return Err(PyValueError::new_err("the dump is finished, or was given up")) };
        let summary = py.detach(|| writer.finish()).map_err(|e| failure::of(&e))?;
        Ok(serde_json::json!(summary).to_string())
    }

    /// Deletes what was written.
    fn abandon(&self) {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
