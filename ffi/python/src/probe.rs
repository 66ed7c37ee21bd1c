//! Linear heads on the rows and codes of a model, and what is kept of their scores.

use crate::arrays::{Array, Rows};
use crate::failure;
use crate::model::{FEW, Model, TOGETHER, each_part};
use crate::pool;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use strata_cli::files::read;
use strata_core::Codes;
use strata_core::format::heads;
use strata_core::heads::{Heads, Hysteresis, Reads, Running};
use strata_core::kernel::reduce;
use strata_core::model::{CodeRow, Watch};

/// Most bytes of a file of heads: a thousand heads on rows of 4,096 numbers have 50 MB.
const MOST_BYTES: u64 = 256 << 20;

/// A head: its name, the latents that it reads (none for the row), its weights and its bias.
type HeadOut<'py> = (String, Option<Vec<u32>>, Bound<'py, PyArray1<f64>>, f64);

/// Linear heads. Immutable: any number of threads may use it at the same time.
#[pyclass(frozen, module = "strata_sae._native")]
pub(crate) struct Probe {
    model: Py<Model>,
    heads: Heads,
    /// The latents of all heads; none if every head reads rows.
    watch: Option<Watch>,
}

#[pymethods]
impl Probe {
    /// Reads the heads of a file of `strata probe --save-head`, which were fitted on this model.
    #[new]
    fn new(py: Python<'_>, model: Py<Model>, path: PathBuf) -> PyResult<Self> {
        let encoder = model.get().encoder();
        let named = |e: strata_core::Error| failure::Error::new_err(format!("{}: {e}", path.display()));
        let (heads, watch) = py.detach(|| {
            let bytes = read::bytes(&path, MOST_BYTES).map_err(|e| failure::of(&e))?;
            let heads = heads::read(&bytes).map_err(named)?;
            let watch = heads.watch(encoder).map_err(named)?;
            Ok::<_, PyErr>((heads, watch))
        })?;
        Ok(Self { model, heads, watch })
    }

    /// Returns the heads.
    fn heads<'py>(&self, py: Python<'py>) -> Vec<HeadOut<'py>> {
        let one = |head: &strata_core::heads::Head| {
            let latents = match &head.reads {
                Reads::Row => None,
                Reads::Latents(latents) => Some(latents.clone()),
            };
            (head.name.clone(), latents, PyArray1::from_slice(py, &head.weight), head.bias)
        };
        self.heads.heads.iter().map(one).collect()
    }

    /// Returns the number that rows and codes are multiplied by.
    fn unit(&self) -> f32 {
        self.heads.unit
    }

    /// Returns the scores of all heads, `(n, heads)`.
    fn score<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let array = Array::of(x, self.model.get().encoder().model().arch.d)?;
        let rows = array.rows();
        let scores = py.detach(|| self.scores(&rows))?;
        PyArray1::from_vec(py, scores).reshape([rows.n(), self.heads.heads.len()])
    }
}

impl Probe {
    fn scores(&self, rows: &Rows<'_>) -> PyResult<Vec<f64>> {
        let model = self.model.get();
        let (isa, d, h) = (model.encoder().isa(), self.heads.d, self.heads.heads.len());
        let mut out = vec![0.0; rows.n() * h];
        let mut score = |first: usize, x: &[f32], codes: Option<[&Codes; 2]>| {
            const NONE: CodeRow<'static> = CodeRow { index: &[], value: &[] };
            let n = x.len() / d;
            let some = |c: usize, out: &mut [f64]| {
                let mut features = Vec::new();
                for (i, out) in out.chunks_mut(h).enumerate() {
                    let row = c * TOGETHER + i;
                    let codes = codes.map_or([NONE; 2], |codes| codes.map(|codes| codes.row(row)));
                    self.heads.score(isa, &x[row * d..(row + 1) * d], codes, &mut features, out);
                }
            };
            let out = &mut out[first * h..(first + n) * h];
            if n <= FEW {
                some(0, out);
                return Ok(());
            }
            pool::run(|par| {
                par.for_chunks(out, TOGETHER * h, some);
                Ok(())
            })
        };
        match &self.watch {
            Some(watch) => model.each_block(rows, Some(watch), |first, block, parts| {
                each_part(first, block, d, parts, |first, some, codes| score(first, some, Some(codes)))
            })?,
            None => rows.blocks(|first, block| {
                if let Some(i) = block.chunks(d).position(|row| !reduce::all_finite(isa, row)) {
                    let row = first + i;
                    return Err(PyValueError::new_err(format!(
                        "activations: row {row} has a number that is not finite"
                    )));
                }
                score(first, block, None)
            })?,
        }
        match out.iter().position(|score| !score.is_finite()) {
            None => Ok(out),
            Some(at) => Err(PyValueError::new_err(format!(
                "activations: the score of head {} on row {} is not finite: the numbers of the row are too large",
                at % h,
                at / h
            ))),
        }
    }
}

/// What is kept of the scores of a probe per sequence. One call at a time.
#[pyclass(frozen, module = "strata_sae._native")]
pub(crate) struct ProbeState {
    probe: Py<Probe>,
    n_sequences: usize,
    /// For each head.
    at: Vec<Hysteresis>,
    /// `[n_sequences, heads]`
    running: Mutex<Vec<Running>>,
}

#[pymethods]
impl ProbeState {
    /// Makes a state of so many sequences; `on` and `off` are thresholds of all heads.
    #[new]
    fn new(probe: Py<Probe>, n_sequences: usize, on: Vec<f64>, off: Vec<f64>) -> PyResult<Self> {
        let h = probe.get().heads.heads.len();
        if on.len() != h || off.len() != h {
            let found = on.len().min(off.len());
            return Err(PyValueError::new_err(format!(
                "on, off: expected {h} thresholds, one per head, found {found}"
            )));
        }
        let at: Vec<Hysteresis> = on.into_iter().zip(off).map(|(on, off)| Hysteresis { on, off }).collect();
        // NaN is in no order.
        if !at.iter().all(|at| at.off <= at.on) {
            return Err(PyValueError::new_err("off: expected thresholds that are numbers, at most those of on"));
        }
        let running = n_sequences.checked_mul(h).filter(|n| *n > 0 && *n <= isize::MAX as usize / size_of::<Running>());
        let Some(n) = running else {
            return Err(PyValueError::new_err(format!("sequences: expected 1 or more that fit, found {n_sequences}")));
        };
        Ok(Self { probe, n_sequences, at, running: Mutex::new(vec![Running::default(); n]) })
    }

    /// Scores rows, adds the scores to those of their sequences, all or none, and returns them.
    fn update<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        sequences: Option<PyReadonlyArray1<'py, u32>>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let probe = self.probe.get();
        let array = Array::of(x, probe.heads.d)?;
        let sequences = sequences.as_ref().map(|s| s.as_slice()).transpose()?;
        let rows = array.rows();
        let (n, h) = (rows.n(), self.at.len());
        if let Some(s) = sequences.filter(|s| s.len() != n) {
            return Err(PyValueError::new_err(format!("sequences: expected {n}, one per row, found {}", s.len())));
        }
        if let Some(s) = sequences.and_then(|s| s.iter().find(|s| **s as usize >= self.n_sequences)) {
            return Err(self.no_such_sequence(*s as usize));
        }
        let scores = py.detach(|| {
            let scores = probe.scores(&rows)?;
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            for (i, scores) in scores.chunks(h).enumerate() {
                let from = sequences.map_or(0, |s| s[i] as usize) * h;
                running[from..].iter_mut().zip(&self.at).zip(scores).for_each(|((r, at), score)| r.add(*score, *at));
            }
            Ok::<_, PyErr>(scores)
        })?;
        PyArray1::from_vec(py, scores).reshape([n, h])
    }

    /// Forgets the rows of a sequence.
    fn reset(&self, sequence: usize) -> PyResult<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let own = running.chunks_exact_mut(self.at.len()).nth(sequence);
        own.ok_or_else(|| self.no_such_sequence(sequence))?.fill(Running::default());
        Ok(())
    }

    /// Returns which alarms are on, `(n_sequences, heads)`.
    fn alarms<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<bool>>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.each(py, &running, |running| running.is_on)
    }

    /// Returns rows, last score, maximum, its row, mean, and alarms that have begun, `(n_sequences, heads)` each.
    #[allow(clippy::type_complexity, reason = "a tuple, as Python has it")]
    fn read<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(
        Bound<'py, PyArray2<i64>>,
        Bound<'py, PyArray2<f64>>,
        Bound<'py, PyArray2<f64>>,
        Bound<'py, PyArray2<i64>>,
        Bound<'py, PyArray2<f64>>,
        Bound<'py, PyArray2<i64>>,
    )> {
        let or_nan = |r: &Running, value: f64| if r.rows == 0 { f64::NAN } else { value };
        let all = self.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Counts of rows are below 2^63.
        Ok((
            self.each(py, &all, |r| r.rows as i64)?,
            self.each(py, &all, |r| or_nan(r, r.last))?,
            self.each(py, &all, |r| or_nan(r, r.max))?,
            self.each(py, &all, |r| if r.rows == 0 { -1 } else { r.max_row as i64 })?,
            self.each(py, &all, Running::mean)?,
            self.each(py, &all, |r| r.alarms as i64)?,
        ))
    }
}

impl ProbeState {
    fn each<'py, T: numpy::Element>(
        &self,
        py: Python<'py>,
        running: &[Running],
        f: impl Fn(&Running) -> T,
    ) -> PyResult<Bound<'py, PyArray2<T>>> {
        PyArray1::from_vec(py, running.iter().map(f).collect()).reshape([self.n_sequences, self.at.len()])
    }

    fn no_such_sequence(&self, found: usize) -> PyErr {
        PyIndexError::new_err(format!("sequence: expected 0 to {}, found {found}", self.n_sequences - 1))
    }
}
