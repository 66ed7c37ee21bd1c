//! `(1 / (n nu)) sum_b sum_p |z_p D_p - sum_{c of p} z_c D_c|^2`: a parent is the sum of its children (HSAE, Luo et
//! al.).
//!
//! ```text
//! delta_bp = z_bp D_p - sum_c z_bc D_c,  k = 2 wc / (n nu)
//! dz_bp += k delta_bp . D_p     dD_p += k sum_b z_bp delta_bp
//! dz_bc -= k delta_bp . D_c     dD_c -= k sum_b z_bc delta_bp
//! ```
//!
//! Children of ROOT belong to no family and are not penalised.

use super::inputs::{Inputs, Scratch, Weights};
use crate::entry::{CodeRow, EntryRow};
use crate::gate::{Families, ROOT};
use crate::kernel::{Isa, reduce};

/// The structural loss with the numbers of one step.
#[derive(Clone, Copy)]
pub(crate) struct Structural<'a> {
    isa: Isa,
    d: usize,
    d1: &'a [f32],
    d2: &'a [f32],
    families: &'a Families,
    /// `wc / (n nu)`.
    scale: f32,
    /// `k`, the factor for the gradients of `z` and of decoder rows. It is rounded to f32 at different points of the
    /// two, and is kept apart so that the bits of trained models stay as they are.
    k: [f32; 2],
}

impl<'a> Structural<'a> {
    pub fn new(weights: &Weights, inputs: Inputs<'a>) -> Self {
        let Inputs { isa, n, variance, d, d1, d2, families, .. } = inputs;
        let unit = 1.0 / (n as f64 * f64::from(variance));
        let weight = weights.weight as f32;
        let k = [2.0 * weight * unit as f32, (2.0 * weights.weight * unit) as f32];
        Self { isa, d, d1, d2, families, scale: weight * unit as f32, k }
    }

    /// Writes `delta_bp` of one row, `(d)`.
    fn delta(&self, p: u32, [z1, z2]: [CodeRow<'_>; 2], out: &mut [f32]) {
        out.fill(0.0);
        for (&i, &z) in z1.index.iter().zip(z1.value) {
            if i == p && z > 0.0 {
                reduce::axpy(self.isa, z, &self.d1[p as usize * self.d..][..self.d], out);
            }
        }
        for (&c, &z) in z2.index.iter().zip(z2.value) {
            if z > 0.0 && self.families.parents()[c as usize] == p {
                reduce::axpy(self.isa, -z, &self.d2[c as usize * self.d..][..self.d], out);
            }
        }
    }

    /// Adds the gradient to the entries of a row; returns its value.
    pub fn add_row(&self, [one, two]: [&mut EntryRow<'_>; 2], scratch: Scratch<'_>) -> f64 {
        let Scratch { vector, slots: [slots1, _], .. } = scratch;
        let (d, k, codes) = (self.d, self.k[0], [one.code(), two.code()]);
        let family = |c: u32, z: f32| if z > 0.0 { self.families.parents()[c as usize] } else { ROOT };
        let of_children = codes[1].index.iter().zip(codes[1].value).map(|(c, z)| family(*c, *z));
        let mut value = 0.0;
        // Every parent that fires, or that has a child that fires, is processed once: its slot marks it as done.
        for p in codes[0].index.iter().copied().chain(of_children.clone()) {
            if p == ROOT || slots1[p as usize] != u32::MAX {
                continue;
            }
            slots1[p as usize] = 0;
            self.delta(p, codes, vector);
            value += f64::from(reduce::sum_squares(self.isa, vector));
            for (at, &i) in one.index.iter().enumerate() {
                if i == p {
                    one.grad_z[0][at] += k * reduce::dot(self.isa, vector, &self.d1[p as usize * d..][..d]);
                }
            }
            for (at, &c) in two.index.iter().enumerate() {
                if self.families.parents()[c as usize] == p {
                    two.grad_z[0][at] -= k * reduce::dot(self.isa, vector, &self.d2[c as usize * d..][..d]);
                }
            }
        }
        for p in codes[0].index.iter().copied().chain(of_children).filter(|p| *p != ROOT) {
            slots1[p as usize] = u32::MAX;
        }
        f64::from(self.scale) * value
    }

    /// Adds `k sum_b z_bp delta_bp` to the row of a parent, or subtracts `k sum_b z_bc delta_bp` from that of a child.
    pub fn add_decoder_row<'e>(
        &self,
        level: usize,
        j: usize,
        entries: impl Iterator<Item = (f32, [CodeRow<'e>; 2])>,
        vector: &mut [f32],
        grad: &mut [f32],
    ) {
        let (p, k) = if level == 0 { (j as u32, self.k[1]) } else { (self.families.parents()[j], -self.k[1]) };
        if p == ROOT {
            return;
        }
        for (z, codes) in entries.filter(|(z, _)| *z > 0.0) {
            self.delta(p, codes, vector);
            reduce::axpy(self.isa, k * z, vector, grad);
        }
    }
}
