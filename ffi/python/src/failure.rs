//! Errors as Python exceptions.

use pyo3::PyErr;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyIndexError, PyKeyboardInterrupt, PyMemoryError, PyValueError};
use strata_cli::console::Interrupted;
use strata_cli::files::words;

create_exception!(strata_sae, Error, PyException, "What went wrong, in one sentence that says what to do about it.");

/// Returns the exception of an error of core: `ValueError` for shapes and numbers, `IndexError` for latents, [`Error`] for
/// everything else.
pub(crate) fn of_core(error: strata_core::Error) -> PyErr {
    use strata_core::Error as Core;
    let sentence = error.to_string();
    match error {
        Core::Shape { .. } | Core::NotFinite { .. } | Core::Range { .. } => PyValueError::new_err(sentence),
        Core::Index { .. } => PyIndexError::new_err(sentence),
        Core::Memory { .. } => PyMemoryError::new_err(sentence),
        _ => Error::new_err(sentence),
    }
}

/// Returns the exception of a command: `KeyboardInterrupt` for one that was stopped, otherwise [`Error`].
pub(crate) fn of(error: &anyhow::Error) -> PyErr {
    if error.chain().any(|e| e.is::<Interrupted>()) {
        return PyKeyboardInterrupt::new_err(Interrupted.to_string());
    }
    Error::new_err(words::sentence(error))
}
