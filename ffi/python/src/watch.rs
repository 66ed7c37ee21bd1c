//! Watch-lists of a model.

use crate::codes::Csr;
use crate::failure;
use crate::model::Model;
use pyo3::prelude::*;
use strata_core::model;

/// The latents of a model whose codes are wanted. Immutable: any number of threads may use it at the same time.
#[pyclass(frozen, module = "strata_sae._native")]
pub(crate) struct Watch {
    model: Py<Model>,
    watch: model::Watch,
}

#[pymethods]
impl Watch {
    /// Makes a watch-list of latents of level 1 and of level 2.
    #[new]
    fn new(py: Python<'_>, model: Py<Model>, level1: Vec<u32>, level2: Vec<u32>) -> PyResult<Self> {
        let encoder = model.get().encoder();
        let watch = py.detach(|| encoder.watch([&level1, &level2])).map_err(failure::of_core)?;
        Ok(Self { model, watch })
    }

    /// Returns the codes of both levels, those of the listed latents alone.
    fn encode<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<(Csr<'py>, Csr<'py>)> {
        self.model.get().encode_all(py, x, Some(&self.watch))
    }

    /// Returns the listed latents of each level, ascending.
    fn latents(&self) -> [Vec<u32>; 2] {
        [0, 1].map(|level| self.watch.latents(level).to_vec())
    }

    /// Returns how many latents of each level are computed, and why these are more than the listed ones where they are.
    fn computed(&self) -> [(usize, Option<String>); 2] {
        self.watch.computed().map(|of| (of.latents, of.why.map(|why| why.to_string())))
    }
}
