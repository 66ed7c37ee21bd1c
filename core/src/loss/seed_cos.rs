//! `mean_ij cos(z1_i, z2_j)` over the batch, the consistency loss of the seed model.
//!
//! ```text
//! n_i = sqrt(sum_b z_bi^2 + e),  h_bi = z_bi / n_i,  p_b = sum_i h1_bi,  q_b = sum_j h2_bj
//! value = (1 / (f1 f2)) sum_b p_b q_b
//! dz_bi = (t_b - h_bi (h_i . t)) / n_i      with t = q at level 1, p at level 2, times 1 / (f1 f2)
//! ```
//!
//! Latents are not negative, so the mean over all pairs factorises: it costs one pass over the entries, and not `f1 f2`
//! cosines. The loss therefore depends only on the total activity on each token, not on which pairs fire together: it
//! is smallest when a level never fires, and largest when all latents are dense. It is kept as a baseline.

use crate::entry::CodeRow;
use alloc::vec::Vec;

/// Added to the squared norms, so that a latent that never fires has a norm to divide by.
const E: f32 = 1e-6;

/// Norms and sums over the batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeedCos {
    /// `n_i` of both levels.
    norm: [Vec<f32>; 2],
    /// `h_i . t` of both levels.
    along: [Vec<f32>; 2],
    /// `q_b` for level 1, `p_b` for level 2.
    target: [Vec<f32>; 2],
}

impl SeedCos {
    /// Measures a batch of `n` rows, whose codes `levels` gives in order, with `f` latents; returns the value without
    /// its weight.
    pub fn measure<'e>(
        &mut self,
        n: usize,
        f: [usize; 2],
        levels: [impl Iterator<Item = CodeRow<'e>> + Clone; 2],
    ) -> f64 {
        let [q, p] = &mut self.target;
        let sums = [p, q];
        for (l, sums) in sums.into_iter().enumerate() {
            sums.clear();
            sums.resize(n, 0.0);
            let norm = &mut self.norm[l];
            norm.clear();
            norm.resize(f[l], 0.0);
            each(levels[l].clone(), |_, j, z| norm[j] += z * z);
            norm.iter_mut().for_each(|v| *v = libm::sqrtf(*v + E));
            each(levels[l].clone(), |b, j, z| sums[b] += z / norm[j]);
        }
        let [q, p] = &self.target;
        let value: f64 = p.iter().zip(q).map(|(p, q)| f64::from(*p) * f64::from(*q)).sum();
        for l in 0..2 {
            let (along, target, norm) = (&mut self.along[l], &self.target[l], &self.norm[l]);
            along.clear();
            along.resize(f[l], 0.0);
            each(levels[l].clone(), |b, j, z| along[j] += z / norm[j] * target[b]);
        }
        value / (f[0] as f64 * f[1] as f64)
    }

    /// Returns the numbers of latents that were measured.
    pub fn latents(&self) -> [usize; 2] {
        self.norm.each_ref().map(Vec::len)
    }

    /// Returns `(t_b - h_bj (h_j . t)) / n_j` of an entry of a level (0 or 1).
    pub fn grad(&self, level: usize, j: usize, b: usize, z: f32) -> f32 {
        let n = self.norm[level][j];
        (self.target[level][b] - z / n * self.along[level][j]) / n
    }
}

/// Calls `f(row, latent, value)` for every entry that fires.
fn each<'e>(rows: impl Iterator<Item = CodeRow<'e>>, mut f: impl FnMut(usize, usize, f32)) {
    for (b, code) in rows.enumerate() {
        for (&j, &z) in code.index.iter().zip(code.value) {
            if z > 0.0 {
                f(b, j as usize, z);
            }
        }
    }
}
