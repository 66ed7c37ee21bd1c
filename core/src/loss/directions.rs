//! Losses on decoder directions alone: offset-orthogonal and sibling diversity.

use super::inputs::{Inputs, Weights};
use crate::gate::{Families, ROOT};
use crate::kernel::{Isa, reduce};

/// Returns `wc / f2`.
fn per_child(weights: &Weights, families: &Families) -> f32 {
    weights.weight as f32 / families.parents().len() as f32
}

/// `(1/f2) sum_j cos^2(D2_j, D1_pi(j))`: a child's direction is an offset from its parent's, not a copy of it (Park et
/// al. 2024). Children of ROOT are not penalised.
///
/// With `c` the cosine, `D^` the unit vector along `D`, and `k = 2 wc c / f2`:
/// `dD2_j += k (D1^ - c D2^) / |D2_j|`, `dD1_p += k (D2^ - c D1^) / |D1_p|`.
#[derive(Clone, Copy)]
pub(crate) struct OffsetOrthogonal<'a> {
    isa: Isa,
    d: usize,
    d1: &'a [f32],
    d2: &'a [f32],
    families: &'a Families,
    /// `wc / f2`.
    scale: f32,
}

impl<'a> OffsetOrthogonal<'a> {
    pub fn new(weights: &Weights, inputs: Inputs<'a>) -> Self {
        let Inputs { isa, d, d1, d2, families, .. } = inputs;
        Self { isa, d, d1, d2, families, scale: per_child(weights, families) }
    }

    /// Returns the value, with its weight.
    pub fn value(&self) -> f64 {
        let mut sum = 0.0;
        for (j, &p) in self.families.parents().iter().enumerate() {
            if p != ROOT {
                let c = self.cos(j, p as usize).0;
                sum += f64::from(c * c);
            }
        }
        f64::from(self.scale) * sum
    }

    /// Adds the gradient of the decoder row of parent `j` (level 0) or child `j` (level 1).
    pub fn add_decoder_row(&self, level: usize, j: usize, grad: &mut [f32]) {
        if level == 0 { self.add_parent(j, grad) } else { self.add_child(j, grad) }
    }

    fn add_child(&self, j: usize, grad: &mut [f32]) {
        let p = self.families.parents()[j];
        if p != ROOT {
            let (c, n2, n1) = self.cos(j, p as usize);
            let k = 2.0 * self.scale * c / n2;
            reduce::axpy(self.isa, k / n1, self.row1(p as usize), grad);
            reduce::axpy(self.isa, -k * c / n2, self.row2(j), grad);
        }
    }

    fn add_parent(&self, p: usize, grad: &mut [f32]) {
        for &j in self.families.children(p as u32) {
            let (c, n2, n1) = self.cos(j as usize, p);
            let k = 2.0 * self.scale * c / n1;
            reduce::axpy(self.isa, k / n2, self.row2(j as usize), grad);
            reduce::axpy(self.isa, -k * c / n1, self.row1(p), grad);
        }
    }

    /// Returns `(cos, |D2_j|, |D1_p|)`.
    fn cos(&self, j: usize, p: usize) -> (f32, f32, f32) {
        let (a, b) = (self.row2(j), self.row1(p));
        let na = libm::sqrtf(reduce::sum_squares(self.isa, a)).max(1e-12);
        let nb = libm::sqrtf(reduce::sum_squares(self.isa, b)).max(1e-12);
        (reduce::dot(self.isa, a, b) / (na * nb), na, nb)
    }

    fn row1(&self, p: usize) -> &[f32] {
        &self.d1[p * self.d..][..self.d]
    }

    fn row2(&self, j: usize) -> &[f32] {
        &self.d2[j * self.d..][..self.d]
    }
}

/// `(1/f2) sum over pairs of siblings of max(cos, 0)^2`: children of one parent point in different directions. Children
/// that form a simplex have negative cosines and no penalty. Children of ROOT are not siblings.
///
/// `dD2_j += (2 wc / f2) P sum_k max(cos_jk, 0) D2^_k / |D2_j|`, with `P` the projection away from `D2^_j`.
#[derive(Clone, Copy)]
pub(crate) struct Sibling<'a> {
    isa: Isa,
    d: usize,
    d2: &'a [f32],
    families: &'a Families,
    /// `wc / f2`.
    scale: f32,
}

impl<'a> Sibling<'a> {
    pub fn new(weights: &Weights, inputs: Inputs<'a>) -> Self {
        let Inputs { isa, d, d2, families, .. } = inputs;
        Self { isa, d, d2, families, scale: per_child(weights, families) }
    }

    /// Returns the value, with its weight.
    pub fn value(&self) -> f64 {
        let mut sum = 0.0;
        for j in 0..self.families.parents().len() {
            // Each pair of siblings is visited twice.
            self.each_sibling(j, |_, c, _, _| sum += 0.5 * f64::from(c * c));
        }
        f64::from(self.scale) * sum
    }

    /// Adds the gradient of the decoder row of child `j` (level 1); parents get none.
    pub fn add_decoder_row(&self, level: usize, j: usize, grad: &mut [f32]) {
        if level == 0 {
            return;
        }
        self.each_sibling(j, |k, c, nj, nk| {
            let s = 2.0 * self.scale * c / nj;
            reduce::axpy(self.isa, s / nk, self.row(k), grad);
            reduce::axpy(self.isa, -s * c / nj, self.row(j), grad);
        });
    }

    /// Calls `f(sibling, cos, |D_j|, |D_k|)` for every sibling at a positive cosine.
    fn each_sibling(&self, j: usize, mut f: impl FnMut(usize, f32, f32, f32)) {
        let p = self.families.parents()[j];
        if p == ROOT {
            return;
        }
        let nj = libm::sqrtf(reduce::sum_squares(self.isa, self.row(j))).max(1e-12);
        for &k in self.families.children(p) {
            let k = k as usize;
            if k != j {
                let nk = libm::sqrtf(reduce::sum_squares(self.isa, self.row(k))).max(1e-12);
                let c = reduce::dot(self.isa, self.row(j), self.row(k)) / (nj * nk);
                if c > 0.0 {
                    f(k, c, nj, nk);
                }
            }
        }
    }

    fn row(&self, j: usize) -> &[f32] {
        &self.d2[j * self.d..][..self.d]
    }
}
