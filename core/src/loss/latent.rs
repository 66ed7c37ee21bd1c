//! `(1/n) |sg(z1) - z2 E2|^2`: level 2 predicts the latents of level 1, for `decoder = "comp"`.
//!
//! ```text
//! q = z2 E2,  dq = (2 wc / n) (q - z1),  dz2_j += dq . E2_j,  dE2_j += sum_b z2_bj dq_b
//! ```

use crate::kernel::{Isa, reduce, sparse};
use crate::model::CodeRow;
use crate::train::entries::Entries;
use crate::train::objective::Lane;

/// `q - z1` of one row into `out`, `(f1)`.
pub(crate) fn miss(isa: Isa, e2_rows: &[f32], f1: usize, z1: CodeRow<'_>, index2: &[u32], z2: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    sparse::accumulate_rows(isa, index2, z2, e2_rows, f1, out);
    for (&i, &z) in z1.index.iter().zip(z1.value) {
        out[i as usize] -= z;
    }
}

/// Adds `scale (q - z1) . E2_j` to the gradient of every entry of the row; returns `|q - z1|^2`.
pub(crate) fn row(
    isa: Isa,
    e2_rows: &[f32],
    f1: usize,
    z1: CodeRow<'_>,
    e2: &mut Entries,
    range: core::ops::Range<usize>,
    scale: f32,
    lane: &mut Lane,
) -> f64 {
    let Lane { dense1, row, .. } = lane;
    miss(isa, e2_rows, f1, z1, &e2.index[range.clone()], &e2.z[range.clone()], dense1);
    row.resize(range.len(), 0.0);
    sparse::dot_rows(isa, &e2.index[range.clone()], e2_rows, f1, dense1, row);
    for (at, dot) in range.zip(row.iter()) {
        e2.grad.z[0][at] += scale * dot;
    }
    f64::from(reduce::sum_squares(isa, dense1))
}
