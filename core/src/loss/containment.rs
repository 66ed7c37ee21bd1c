//! The containment loss: a child that fires implies its parent.
//!
//! ```text
//! v_bj   = max(a2_bj, 0)                        where a2_bj is above the threshold of level 2
//! psi_bj = max(tau - u1_b,pi(j), 0) / tau       how far the parent falls short of the margin tau
//! value  = (1/n) sum_bj [down v_bj sg(psi_bj) + up sg(v_bj) psi_bj]
//! da2_bj += (wc down / n) psi_bj        du1_b,pi(j) -= (wc up / (n tau)) v_bj 1[u1 < tau]
//! ```
//!
//! It uses the pre-activation of the child before the gate, since behind the gate a child cannot fire without its
//! parent. `down` trains the child's encoder to fire only where the parent does; `up` trains the parent to fire
//! wherever the child does, against absorption. Children of ROOT are not penalised.

use super::inputs::{Inputs, Scratch, Ungated, Weights};
use crate::entry::EntryRow;
use crate::gate::{Families, ROOT};

/// The containment loss with the numbers of one step.
#[derive(Clone, Copy)]
pub(crate) struct Containment<'a> {
    families: &'a Families,
    down: f32,
    up: f32,
    margin: f32,
    /// `wc / n`.
    scale: f32,
}

impl<'a> Containment<'a> {
    pub fn new(weights: &Weights, inputs: Inputs<'a>) -> Self {
        let Weights { weight, down, up, margin } = *weights;
        Self { families: inputs.families, down, up, margin, scale: weight as f32 / inputs.n as f32 }
    }

    /// Adds the gradient of a row, and returns the row's part of the loss. Every latent of `ungated` that is of this shard
    /// must have an entry at level 2, and every such parent one at level 1.
    pub fn add_row(&self, ungated: Ungated<'_>, [one, two]: [&mut EntryRow<'_>; 2], scratch: Scratch<'_>) -> f64 {
        let [slots1, slots2] = scratch.slots;
        for (at, &i) in one.index.iter().enumerate() {
            slots1[i as usize] = at as u32;
        }
        for (at, &j) in two.index.iter().enumerate() {
            slots2[j as usize] = at as u32;
        }
        let scale = self.scale;
        let mut value = 0.0;
        let Ungated { code, parents, own: [own1, own2] } = ungated;
        for (k, (&j, &v)) in code.index.iter().zip(code.value).enumerate() {
            let p = self.families.parents()[j as usize];
            if p == ROOT {
                continue;
            }
            let at1 = own1.contains(&p).then(|| slots1[(p - own1.start) as usize] as usize);
            let at2 = own2.contains(&j).then(|| slots2[(j - own2.start) as usize] as usize);
            let Some(u) = parents.get(k).copied().or_else(|| at1.map(|at1| one.u[at1])) else { continue };
            let psi = (self.margin - u).max(0.0) / self.margin;
            value += f64::from((self.down + self.up) * v * psi);
            if let Some(at2) = at2 {
                two.grad_a[at2] += scale * self.down * psi;
            }
            if let Some(at1) = at1.filter(|_| u < self.margin) {
                one.grad_u[0][at1] -= scale * self.up * v / self.margin;
            }
        }
        one.index.iter().for_each(|i| slots1[*i as usize] = u32::MAX);
        two.index.iter().for_each(|j| slots2[*j as usize] = u32::MAX);
        f64::from(scale) * value
    }
}
