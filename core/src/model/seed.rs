//! The reference design `model = "seed"`, kept unchanged as a baseline.
//!
//! ```text
//! a1 = W1 x + b1,  g1 = V1 x + c1,  h1 = max(a1 s(g1), 0)          (gate mul; add: a1 + s(g1); none: a1)
//! a2 = W2 h1 + b2, g2 = V2 h1 + c2, h2 = max(a2 s(g2), 0)
//! y = h2 E2 + e2,  x_hat = y D1 + b_dec
//! loss = mean (x_hat - x)^2 + l1 mean_b sum h1 + l2 mean_b sum h2 + wc mean_ij |cos_batch(h1_i, h2_j)|
//! ```
//!
//! Its faults, measured in the tests of this crate:
//! - **The gate has no effect on which latents fire**: since `s > 0`, `max(a s, 0) = s max(a, 0)`.
//! - **The L1 penalty has no effect**: `W1, b1 -> c`, `W2, V2 -> 1/c`, `b2 -> c'`, `E2 -> 1/c'` leave `x_hat` unchanged
//!   and scale both penalties arbitrarily.
//! - **Level 1 is not a code of `x`.** `h1` is never decoded, so `D1` is only known up to an invertible matrix.
//! - **The consistency loss contains no pairwise information.** Latents are not negative, so the sum over all pairs
//!   factorises into `(sum_i h1_i / |h1_i|) . (sum_j h2_j / |h2_j|)`; minimised it makes level 2 die, maximised it
//!   makes every latent dense.
//!
//! Tensors: `W = w_enc`, `b = b_enc`, `V = gate_w`, `c = gate_b`, `E2 = level2.w_dec`, `e2 = level2.b_dec`, `D1 = level1.w_dec`.

use super::{Arch, Codes, LevelParams, Params};
use crate::kernel::{Isa, reduce};

/// Appends the codes of `x`, `(n, d)`, with `h1`, `(f1)`, as scratch.
pub(crate) fn encode_rows(
    isa: Isa,
    arch: &Arch,
    params: &Params,
    x: &[f32],
    h1: &mut [f32],
    codes1: &mut Codes,
    codes2: &mut Codes,
) {
    for row in x.chunks(arch.d) {
        layer(isa, arch, &params.level[0], row, codes1);
        h1.fill(0.0);
        let last = codes1.row(codes1.n() - 1);
        for (&j, &z) in last.index.iter().zip(last.value) {
            h1[j as usize] = z;
        }
        layer(isa, arch, &params.level[1], h1, codes2);
    }
}

fn layer(isa: Isa, arch: &Arch, params: &LevelParams, x: &[f32], codes: &mut Codes) {
    let LevelParams { w_enc: w, b_enc: b, gate_w: v, gate_b: c, .. } = params;
    let width = x.len();
    for j in 0..b.len() {
        let row = j * width..(j + 1) * width;
        let a = reduce::dot(isa, &w[row.clone()], x) + b[j];
        let g = if v.is_empty() { 0.0 } else { reduce::dot(isa, &v[row], x) + c[j] };
        let (u, _) = arch.gate.seed(a, g);
        if u > 0.0 {
            codes.index.push(j as u32);
            codes.value.push(u);
        }
    }
    codes.end_row();
}
