//! Models that are ready to encode.

use crate::arrays::{Array, Rows};
use crate::codes::{Csr, CsrIn, Gathered, Given, Shelf};
use crate::failure::{self, Error};
use crate::pool;
use numpy::ndarray::ArrayView2;
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use strata_cli::run::Run;
use strata_core::error::At;
use strata_core::format::formats::{Choices, Format};
use strata_core::format::weights;
use strata_core::model::{CodeRow, CodesView, Edit, Lanes, Scratch, Watch, WeightType};
use strata_core::row_norm::RowNorm;
use strata_core::{Codes, Compute, Encoder, Isa, Par};

/// Up to this many rows are encoded in the calling thread: to wake others takes longer.
pub(crate) const FEW: usize = 8;
/// Most rows that a thread alone encodes at a time.
const PART: usize = 256;
/// Rows that one thread decodes or scores at a time.
pub(crate) const TOGETHER: usize = 64;

/// A model. Immutable: any number of threads may use it at the same time.
#[pyclass(frozen, module = "strata_sae._native")]
pub(crate) struct Model {
    encoder: Encoder,
    info: Value,
    cfg: Vec<u8>,
    /// Working memory that no call uses at the moment.
    spare: Mutex<Vec<Spare>>,
    /// That of codes.
    shelf: Arc<Shelf>,
}

/// Working memory of one call.
#[derive(Default)]
struct Spare {
    lanes: Lanes,
    few: Option<Box<Scratch>>,
    one: Option<Box<Scratch>>,
}

#[pymethods]
impl Model {
    /// Opens `RUN`, `RUN/sae`, or a model of another tool.
    #[staticmethod]
    #[pyo3(signature = (path, format=None, norm_scaling_factor=None, row_norm=None, k=None, weights="f32"))]
    fn load(
        py: Python<'_>,
        path: PathBuf,
        format: Option<&str>,
        norm_scaling_factor: Option<f32>,
        row_norm: Option<&str>,
        k: Option<u64>,
        weights: &str,
    ) -> PyResult<Self> {
        let from = format.map(|name| Format::named(name).map(|f| f.name)).transpose().map_err(failure::of_core)?;
        let row_norm = row_norm.map(RowNorm::named).transpose().map_err(failure::of_core)?;
        let weights = WeightType::named(weights).map_err(failure::of_core)?;
        let pool = pool::current()?;
        py.detach(|| {
            let choices = Choices { from, norm_scaling_factor, row_norm, k };
            let run = pool.install(|| Run::open_as(&path, &choices)).map_err(|e| failure::of(&e))?;
            let (model, compute) = (run.model.clone(), Compute::new(Isa::detect(), Par::Rayon));
            let encoder = pool.install(|| Encoder::with_weights(model, compute, weights)).map_err(failure::of_core)?;
            let arch = &run.model.arch;
            let max_active = [0, 1].map(|level| run.model.max_active(level));
            let info = json!({
                "d": arch.d, "d_out": arch.d_out(), "latents": arch.latents(),
                "max_active": max_active,
                "is_transcoder": arch.variant.target.is_some(), "needs_rows": arch.variant.needs_input(),
                "weights": weights.name(), "sha256": run.hash, "format": run.format.title, "notes": run.notes,
                "directory": run.dir, "origin": run.origin,
            });
            Ok(Self {
                encoder,
                info,
                cfg: weights::write_cfg(arch, &run.origin),
                spare: Mutex::default(),
                shelf: Arc::default(),
            })
        })
    }

    /// Returns sizes, format and origin as JSON.
    fn info(&self) -> String {
        self.info.to_string()
    }

    /// Returns the `cfg.json` and the `sae_weights.safetensors` of the model as a run has them.
    fn files<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let weights = py.detach(|| weights::write_weights(self.encoder.model())).map_err(failure::of_core)?;
        Ok((PyBytes::new(py, &self.cfg), PyBytes::new(py, &weights)))
    }

    /// Returns the codes of both levels.
    fn encode<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<(Csr<'py>, Csr<'py>)> {
        self.encode_all(py, x, None)
    }

    /// Returns the reconstruction `(n, d_out)` by level 1 alone, or by both.
    fn reconstruct<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        level: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let array = Array::of(x, self.d())?;
        let rows = array.rows();
        let (d, d_out, [f1, f2]) = (self.d(), self.encoder.model().arch.d_out(), self.latents());
        let mut out = vec![0.0; rows.n() * d_out];
        py.detach(|| {
            self.each_block(&rows, None, |first, block, parts| {
                each_part(first, block, d, parts, |first, some, [one, two]| {
                    let out = &mut out[first * d_out..][..some.len() / d * d_out];
                    let views = [one.view(f1).map_err(failure::of_core)?, two.view(f2).map_err(failure::of_core)?];
                    self.decode_block(Some(some), views, level, out)
                })
            })
        })?;
        PyArray1::from_vec(py, out).reshape([rows.n(), d_out])
    }

    /// Decodes the codes of both levels, of the rows `x` where the model needs them.
    fn decode<'py>(
        &self,
        py: Python<'py>,
        one: CsrIn<'py>,
        two: CsrIn<'py>,
        x: Option<&Bound<'py, PyAny>>,
        level: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let array = x.map(|x| Array::of(x, self.d())).transpose()?;
        let given = Given::new(&one, &two)?;
        let codes = given.views(self.latents())?;
        let (n, d_out) = (codes[0].tokens(), self.encoder.model().arch.d_out());
        let rows = array.as_ref().map(Array::rows);
        match &rows {
            None if self.encoder.model().arch.variant.needs_input() => {
                let what = "decode: this model's reconstruction depends on the rows too: give them as `rows`";
                return Err(Error::new_err(what));
            }
            Some(rows) if rows.n() != n => {
                return Err(PyValueError::new_err(format!(
                    "rows: expected {n}, as the codes have, found {}",
                    rows.n()
                )));
            }
            _ => {}
        }
        let mut out = vec![0.0; n * d_out];
        py.detach(|| match &rows {
            None => self.decode_block(None, codes, level, &mut out),
            Some(rows) => {
                let mut all = Vec::with_capacity(n * self.d());
                rows.blocks(|_, block| {
                    all.extend_from_slice(block);
                    Ok(())
                })?;
                self.decode_block(Some(&all), codes, level, &mut out)
            }
        })?;
        PyArray1::from_vec(py, out).reshape([n, d_out])
    }

    /// Returns the rows with edits `(level, latent, strength, set)` of their latents.
    fn steer<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        edits: Vec<(usize, u32, f32, bool)>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        if self.encoder.model().arch.variant.target.is_some() {
            return Err(Error::new_err("steer: a transcoder's latents do not add to the rows that it reads"));
        }
        let edits: Vec<Edit> =
            edits.into_iter().map(|(level, latent, strength, set)| Edit { level, latent, strength, set }).collect();
        self.check_edits(&edits)?;
        let array = Array::of(x, self.d())?;
        let rows = array.rows();
        let d = self.d();
        let mut out = vec![0.0; rows.n() * d];
        py.detach(|| {
            let steer = |row: &mut [f32], codes: Option<[CodeRow<'_>; 2]>| {
                self.encoder.steer_row(edits.iter().copied(), codes, row).map_err(failure::of_core)
            };
            if edits.iter().any(|edit| edit.set) {
                return self.each_block(&rows, None, |first, block, parts| {
                    each_part(first, block, d, parts, |first, some, codes| {
                        let out = &mut out[first * d..][..some.len()];
                        out.copy_from_slice(some);
                        let mut rows = out.chunks_mut(d).enumerate();
                        rows.try_for_each(|(i, row)| steer(row, Some(codes.map(|codes| codes.row(i)))))
                    })
                });
            }
            rows.blocks(|first, block| {
                let out = &mut out[first * d..][..block.len()];
                out.copy_from_slice(block);
                out.chunks_mut(d).try_for_each(|row| steer(row, None))
            })
        })?;
        PyArray1::from_vec(py, out).reshape([rows.n(), d])
    }

    /// Returns the decoder directions of a level, `(latents, d_out)`, where they lie: a read-only array that keeps the model.
    #[allow(unsafe_code, reason = "arrays of numpy cannot express the lifetime of what they borrow")]
    fn decoder<'py>(slf: &Bound<'py, Self>, level: usize) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let encoder = &slf.get().encoder;
        let rows = match level {
            1 => &encoder.model().params.level[0].w_dec[..],
            2 => encoder.decoder2(),
            _ => return Err(PyIndexError::new_err(format!("level: expected 1 or 2, found {level}"))),
        };
        let d_out = encoder.model().arch.d_out();
        let view = ArrayView2::from_shape((rows.len() / d_out, d_out), rows);
        let view = view.map_err(|e| Error::new_err(format!("a bug in strata: decoder directions: {e}")))?;
        // SAFETY: the array owns a reference to the model, which therefore outlives it. The class is frozen and nothing in it
        // writes or moves the weights of its encoder, and the array is made read-only before anybody else has it.
        let array = unsafe { PyArray2::borrow_from_array(&view, slf.clone().into_any()) };
        array.try_readwrite()?.make_nonwriteable();
        Ok(array)
    }

    /// Returns the parent of each latent of level 2; 4294967295 for none.
    fn parents<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        PyArray1::from_slice(py, self.encoder.families().parents())
    }
}

impl Model {
    fn d(&self) -> usize {
        self.encoder.model().arch.d
    }

    fn latents(&self) -> [usize; 2] {
        self.encoder.model().arch.latents()
    }

    /// Returns the encoder.
    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Returns the codes of both levels, of all latents or of those of a watch-list.
    pub(crate) fn encode_all<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        watch: Option<&Watch>,
    ) -> PyResult<(Csr<'py>, Csr<'py>)> {
        let array = Array::of(x, self.d())?;
        let rows = array.rows();
        let (n, d) = (rows.n(), self.d());
        let [one, two] = py.detach(|| {
            let mut gathered: Option<[Gathered; 2]> = None;
            self.each_block(&rows, watch, |_, block, parts| {
                let [one, two] = gathered.get_or_insert_with(|| {
                    // The other blocks, where there are some, will have about as many.
                    let blocks = n.div_ceil(block.len() / d);
                    [0, 1].map(|l| {
                        let entries: usize = parts.iter().map(|part| part[l].index.len()).sum();
                        let room = if blocks > 1 { (entries + entries / 8).saturating_mul(blocks) } else { entries };
                        Gathered::new(&self.shelf, n, room)
                    })
                });
                for part in parts {
                    one.append(part[0]);
                    two.append(part[1]);
                }
                Ok(())
            })?;
            Ok::<_, PyErr>(gathered.unwrap_or_else(|| [0, 1].map(|_| Gathered::new(&self.shelf, 0, 0))))
        })?;
        Ok((one.into_csr(py)?, two.into_csr(py)?))
    }

    /// Encodes rows block by block, all latents or those of a watch-list: `f(its first row, the block, the codes of both levels of
    /// consecutive rows of it)`. Between blocks it looks at signals.
    pub(crate) fn each_block(
        &self,
        rows: &Rows<'_>,
        watch: Option<&Watch>,
        mut f: impl FnMut(usize, &[f32], &[[&Codes; 2]]) -> PyResult<()>,
    ) -> PyResult<()> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        rows.blocks(|first, block| {
            if first > 0 {
                Python::attach(|py| py.check_signals())?;
            }
            let (d, arch) = (self.d(), &self.encoder.model().arch);
            let Spare { lanes, few, one } = &mut spare;
            let mut in_place = |first: usize, part: &[f32], scratch: &mut Scratch| {
                let encoded = match watch {
                    None => self.encoder.encode_block(part, scratch),
                    Some(watch) => self.encoder.encode_watched_block(watch, part, scratch),
                };
                encoded.map_err(|error| within(first, error))?;
                f(first, part, &[scratch.codes().each_ref()])
            };
            if block.len() <= FEW * d {
                return in_place(first, block, few.get_or_insert_with(|| Box::new(Scratch::for_rows(arch, FEW))));
            }
            let Some(pool) = pool::several()? else {
                // The codes of a part are used while the cache has them.
                let scratch = one.get_or_insert_with(|| Box::new(Scratch::for_rows(arch, PART)));
                let mut parts = block.chunks(PART * d).enumerate();
                return parts.try_for_each(|(p, part)| in_place(first + p * PART, part, scratch));
            };
            pool.install(|| match watch {
                None => self.encoder.encode_in(Par::Rayon, block, lanes),
                Some(watch) => self.encoder.encode_watched_in(watch, Par::Rayon, block, lanes),
            })
            .map_err(|error| within(first, error))?;
            let parts: Vec<_> = lanes.parts().collect();
            f(first, block, &parts)
        })?;
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(spare);
        Ok(())
    }

    /// Writes the reconstruction by level 1 alone, or by both, `(n, d_out)`.
    fn decode_block(
        &self,
        x: Option<&[f32]>,
        codes: [CodesView<'_>; 2],
        level: usize,
        out: &mut [f32],
    ) -> PyResult<()> {
        if !matches!(level, 1 | 2) {
            return Err(PyIndexError::new_err(format!("level: expected 1 or 2, found {level}")));
        }
        let (d, d_out) = (self.d(), self.encoder.model().arch.d_out());
        let one_row = |other: &mut [f32], i: usize, out: &mut [f32]| {
            let (hat1, hat2) = if level == 1 { (out, other) } else { (other, out) };
            self.encoder.decode_row(codes[0].row(i), codes[1].row(i), hat1, hat2);
            if let Some(x) = x {
                self.encoder.finish_row(&x[i * d..(i + 1) * d], hat1, hat2);
            }
        };
        let some = |c: usize, out: &mut [f32]| {
            let mut other = vec![0.0; d_out];
            out.chunks_mut(d_out).enumerate().for_each(|(i, out)| one_row(&mut other, c * TOGETHER + i, out));
        };
        if codes[0].tokens() <= FEW {
            some(0, out);
        } else {
            pool::run(|par| {
                par.for_chunks(out, TOGETHER * d_out, some);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn check_edits(&self, edits: &[Edit]) -> PyResult<()> {
        for (i, edit) in edits.iter().enumerate() {
            self.encoder.decoder_row(edit.level, edit.latent).map_err(failure::of_core)?;
            if !edit.strength.is_finite() {
                return Err(PyValueError::new_err(format!("edits: the strength of edit {i} is not finite")));
            }
            let is_same = |other: &&Edit| (other.level, other.latent) == (edit.level, edit.latent);
            if edit.set && edits.iter().filter(is_same).count() > 1 {
                return Err(PyValueError::new_err("edits: a latent that is set has another edit"));
            }
        }
        Ok(())
    }
}

/// Calls `f(its first row, the part, its codes)` for every part of a block that begins at row `first`.
pub(crate) fn each_part(
    first: usize,
    block: &[f32],
    d: usize,
    parts: &[[&Codes; 2]],
    mut f: impl FnMut(usize, &[f32], [&Codes; 2]) -> PyResult<()>,
) -> PyResult<()> {
    let mut at = 0;
    parts.iter().try_for_each(|codes| {
        let rows = at..at + codes[0].n();
        at = rows.end;
        f(first + rows.start, &block[rows.start * d..rows.end * d], *codes)
    })
}

/// Returns the exception of an error in a block that begins at row `first`.
fn within(first: usize, error: strata_core::Error) -> PyErr {
    match error {
        strata_core::Error::NotFinite { what, at: At::Row(i) } => {
            failure::of_core(strata_core::Error::NotFinite { what, at: At::Row(first as u64 + i) })
        }
        error => failure::of_core(error),
    }
}
