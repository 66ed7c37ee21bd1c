//! Normalisation of each row before the encoder, which is undone on the reconstruction.
//!
//! | name | row that the encoder reads | undone by |
//! |---|---|---|
//! | none | `x` | |
//! | layer | `(x - m) / (s + 1e-5)`, `m` its mean, `s` its standard deviation over `d - 1` | `y s + m` |
//! | constant | `x c`, `c = sqrt(d) / norm(x)` | `y / c` |
//!
//! These are the conventions of SAELens (`layer_norm`, `constant_norm_rescale`) and of OpenAI's autoencoders (`layer`):
//! the small constant is not part of the inverse.

use crate::choice::choices;
use crate::error::{Error, Result};
use alloc::format;

choices! {
    /// The normalisation of each row.
    #[derive(Default)]
    RowNorm {
        /// None.
        #[default]
        None = "none",
        /// To mean 0 and standard deviation 1.
        Layer = "layer",
        /// To the norm `sqrt(d)`.
        Constant = "constant",
    }
}

impl RowNorm {
    /// Returns the normalisation called `name`.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no such normalisation.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().copied().find(|norm| norm.name() == name);
        found.ok_or_else(|| Error::config("row_norm", format!("expected {}, found `{name}`", Self::NAMES.join(", "))))
    }
}

/// Keeps a row of equal numbers finite under [`RowNorm::Layer`].
const EPSILON: f64 = 1e-5;

/// The normalisation of one row: `x' = (x - shift) scale`, undone as `y size + shift`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowScale {
    shift: f64,
    scale: f64,
    size: f64,
}

impl RowNorm {
    /// Computes the normalisation of `row`. A row of zeros is not changed.
    ///
    /// Sums are f64, added from the first number to the last, so that every machine gives the same bits.
    #[must_use]
    pub fn of(self, row: &[f32]) -> RowScale {
        const KEPT: RowScale = RowScale { shift: 0.0, scale: 1.0, size: 1.0 };
        let n = row.len().max(1) as f64;
        match self {
            Self::None => KEPT,
            Self::Layer => {
                let shift = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
                let squares: f64 = row.iter().map(|x| (f64::from(*x) - shift) * (f64::from(*x) - shift)).sum();
                let size = libm::sqrt(squares / (n - 1.0).max(1.0));
                RowScale { shift, scale: 1.0 / (size + EPSILON), size }
            }
            Self::Constant => {
                let norm = libm::sqrt(row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum());
                if norm == 0.0 {
                    return KEPT;
                }
                let scale = libm::sqrt(n) / norm;
                RowScale { shift: 0.0, scale, size: 1.0 / scale }
            }
        }
    }
}

impl RowScale {
    /// Returns the factor of a direction in the row itself, if it is added to the normalised row.
    #[must_use]
    pub fn size(self) -> f32 {
        self.size as f32
    }

    /// Normalises the row.
    pub fn apply(self, row: &mut [f32]) {
        row.iter_mut().for_each(|x| *x = ((f64::from(*x) - self.shift) * self.scale) as f32);
    }

    /// Undoes the normalisation on the reconstruction `y` of the row.
    pub fn undo(self, y: &mut [f32]) {
        y.iter_mut().for_each(|y| *y = (f64::from(*y) * self.size + self.shift) as f32);
    }
}
