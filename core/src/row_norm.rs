//! Normalisation of each row by itself, before the encoder and undone on the reconstruction.
//!
//! | name | a row that the encoder reads | undone |
//! |---|---|---|
//! | none | `x` | |
//! | layer | `(x - m) / (s + 1e-5)`, `m` its mean, `s` its standard deviation over `d - 1` | `y s + m` |
//! | constant | `x c`, `c = sqrt(d) / norm(x)` | `y / c` |
//!
//! These are the conventions of SAELens (`layer_norm`, `constant_norm_rescale`) and of OpenAI's autoencoders (`layer`):
//! the small constant takes no part in undoing.

use crate::choice::choices;
use crate::error::{Error, Result};
use alloc::format;

choices! {
    /// How each row is normalised by itself.
    #[derive(Default)]
    RowNorm {
        /// Not at all.
        #[default]
        None = "none",
        /// To mean 0 and standard deviation 1.
        Layer = "layer",
        /// To the norm `sqrt(d)`.
        Constant = "constant",
    }
}

impl RowNorm {
    /// The normalisation called `name`.
    ///
    /// # Errors
    /// [`Error::Config`] if there is none of that name.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().copied().find(|norm| norm.name() == name);
        found.ok_or_else(|| Error::config("row_norm", format!("expected {}, found `{name}`", Self::NAMES.join(", "))))
    }
}

/// Keeps a row of equal numbers finite under [`RowNorm::Layer`].
const EPSILON: f64 = 1e-5;

/// How one row is normalised: `x' = (x - shift) scale`, undone as `y size + shift`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowScale {
    shift: f64,
    scale: f64,
    size: f64,
}

impl RowNorm {
    /// The normalisation of `row`. A row of zeros stays as it is.
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
    /// What a direction that is added to the normalised row is multiplied by in the row itself.
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
