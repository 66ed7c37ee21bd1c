//! Every bound on a rounding error, each with its reason. A bound that its test no longer needs fails that test, where
//! the test says so.

/// Gradients in f32 against differences in f64, relative to the largest entry of the tensor.
///
/// An entry of a gradient is a sum over a batch of up to some hundred products, each of a residual that itself is a
/// difference of numbers of order 1: about `sqrt(100) * 6e-8` relative to the terms, and the terms are some ten times
/// larger than what is left of them where they cancel. The same on every machine, since the engine's bits are.
pub const GRADIENT: f64 = 2e-5;

/// The same for the seed's cosine loss on a batch of one row: it divides by the norm of a latent over the batch, which is
/// then a single pre-activation and may have lost two digits to cancellation.
pub const GRADIENT_OF_ONE_COSINE: f64 = 5e-5;

/// A test that measures how much of its bound it needs must need at least this part, or the bound is too wide.
pub const NEEDED: f64 = 0.1;

/// Part of the largest gradient of all tensors that is added to a tensor's own largest one: where every entry of a
/// tensor is small only because its terms cancel, they are no more exact than those of the others.
pub const GRADIENT_FLOOR: f64 = 1e-2;

/// Terms of the loss in f32 rows and f64 sums against f64, relative to the whole loss.
pub const LOSS: f64 = 1e-5;

/// Gradients in f32 against autograd in f64 on the goldens: tighter than [`GRADIENT`], since what cancels badly in a few
/// hundred draws does not in these few, which are fixed.
pub const GOLDEN: f64 = 2e-6;

/// How near a number may come to a decision (a selection, a sign, the edge of a kernel) before f32 and f64, or both
/// ends of a difference of `2e-6`, may decide it differently. Such inputs are drawn anew.
pub const NEAR: f64 = 8e-6;

/// Reconstructions of the folded model against the unfolded one, relative to the largest number: one rounding of each
/// folded weight and of the normalised row, through two products.
pub const FOLD: f64 = 2e-6;
