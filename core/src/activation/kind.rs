//! The questions that each activation answers, and code that several share.

use crate::entry::EntryRow;
use crate::kernel::Isa;
use crate::kernel::fire::Limit;
use alloc::vec::Vec;

/// The state that decides in training which pre-activations become candidates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidacy<'a> {
    /// The floor that a candidate of `batchtopk` must exceed, where there was a batch before.
    pub floor: Option<f32>,
    /// `jumprelu`: the lower end of the band of each threshold, `theta - bandwidth / 2`.
    pub band: &'a [f32],
}

/// Input of the backward pass of an activation besides the entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backward {
    /// Whether only the level's own terms reach the activation's parameters, and not what comes through level 2.
    pub own: bool,
    /// `lambda / n`.
    pub penalty: f32,
    /// Width of the straight-through kernel.
    pub bandwidth: f32,
}

/// Input and scratch of the auxiliary reconstruction of a level.
pub(crate) struct Auxiliary<'a> {
    pub isa: Isa,
    /// `2 wg / (n nu)`.
    pub weight: f32,
    /// `(d)`: the row to be reconstructed.
    pub base: &'a [f32],
    /// `(f, d)`, frozen.
    pub decoder: &'a [f32],
    /// `(d)` scratch.
    pub vector: &'a mut [f32],
    /// Whether `vector` holds the reconstruction already, as where it is a sum over the shards of a dictionary.
    pub is_summed: bool,
    /// Scratch of one number per entry.
    pub row: &'a mut Vec<f32>,
    /// Scratch of one number per entry.
    pub magnitude: &'a mut Vec<f32>,
}

/// The operations of an activation. Each activation has a file of its own; the defaults are those of an activation
/// whose latents have the value of their pre-activation.
pub(super) trait Kind {
    /// Whether [`Kind::limit`] is the whole rule, so that a pre-activation that reaches it fires with the value `u`.
    const LIMIT_DECIDES: bool;

    /// Returns the limit that a pre-activation must reach to fire at inference.
    fn limit(&self) -> Limit<'_>;

    /// Returns the limit that a pre-activation must reach in training to become a candidate, before the batch decides.
    fn candidates<'b>(&'b self, by: &Candidacy<'b>) -> Limit<'b>;

    /// Returns the value of latent `j` at a pre-activation that was selected; 0 where it does not fire.
    fn value(&self, _j: usize, u: f32) -> f32 {
        u
    }

    /// Carries `dL/dz` to `dL/du` and to the activation's parameters.
    fn backward(&self, _by: &Backward, row: &mut EntryRow<'_>) {
        pass_through(row);
    }

    /// Calls `add` with the terms of the sparsity penalty, `penalty = lambda / n`, in the order of the entries, and adds
    /// its gradient to the entries. `norms` are those of the decoder rows.
    fn penalise(&self, penalty: f32, norms: &[f32], row: &mut EntryRow<'_>, add: impl FnMut(f64)) {
        penalise_l1(penalty, norms, row, add);
    }

    /// Adds the gradient of the auxiliary reconstruction to the entries, and returns its value; 0 for an activation
    /// that has none.
    fn auxiliary(&self, _by: Auxiliary<'_>, _row: &mut EntryRow<'_>) -> f64 {
        0.0
    }
}

/// Adds both parts of `dL/dz` to `dL/du`, since `dz/du = 1` where a latent fires.
pub(super) fn pass_through(row: &mut EntryRow<'_>) {
    let [own, through] = &mut row.grad_u;
    for at in 0..row.z.len() {
        if row.z[at] > 0.0 {
            own[at] += row.grad_z[0][at];
            through[at] += row.grad_z[1][at];
        }
    }
}

/// Adds `lambda/n sum z |D_j|`: the L1 norm of the latents, each in the unit of its contribution to the reconstruction.
fn penalise_l1(penalty: f32, norms: &[f32], row: &mut EntryRow<'_>, mut add: impl FnMut(f64)) {
    for at in 0..row.z.len() {
        let norm = norms[row.index[at] as usize];
        if row.z[at] > 0.0 {
            add(f64::from(penalty) * f64::from(row.z[at] * norm));
            row.grad_z[0][at] += penalty * norm;
        }
    }
}
