//! Every bound on a rounding error, each with its reason. Tests that measure their largest error also fail if it is far
//! below the bound ([`NEEDED`]), so that bounds stay tight.

/// Gradients in f32 compared with central differences in f64, relative to the largest entry of the tensor.
///
/// An entry of a gradient is a sum of up to a few hundred products, each with a residual that is itself a difference of
/// numbers of order 1. Its rounding error is about `sqrt(100) * 6e-8` relative to the terms, and the terms are some ten
/// times larger than their sum where they cancel. The error is the same on every machine, since the engine's bits are.
pub const GRADIENT: f64 = 2e-5;

/// As [`GRADIENT`], for the cosine loss of the seed model on a batch of one row: it divides by the norm of a latent
/// over the batch, which is then a single pre-activation and may have lost two digits to cancellation.
pub const GRADIENT_OF_ONE_COSINE: f64 = 5e-5;

/// A test that measures its largest error fails if that is below this part of the bound, since the bound is then too
/// wide.
pub const NEEDED: f64 = 0.1;

/// The error of a tensor is measured relative to its own largest gradient plus this part of the largest gradient of all
/// tensors: where all entries of a tensor are small because their terms cancel, they have the absolute error of the
/// others.
pub const GRADIENT_FLOOR: f64 = 1e-2;

/// Terms of the loss, of f32 rows with sums in f64, compared with f64, relative to the whole loss.
pub const LOSS: f64 = 1e-5;

/// Gradients in f32 compared with autograd in f64 on the stored examples. It is tighter than [`GRADIENT`], since these
/// few fixed examples have none of the strong cancellations that occur among hundreds of random ones.
pub const GOLDEN: f64 = 2e-6;

/// The distance of a number from a decision (a selection, a sign, the edge of a kernel) below which f32 and f64, or the
/// two ends of a central difference of width `2e-6`, may decide differently. Such inputs are replaced by new random
/// ones.
pub const NEAR: f64 = 8e-6;

/// Reconstructions of a model with folded normalisation compared with those of the unfolded one, relative to the
/// largest number: one rounding of each folded weight and of the normalised row, through two products.
pub const FOLD: f64 = 2e-6;
