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

use super::inputs::{Inputs, Scratch, Weights};
use crate::entry::{CodeRow, EntryRow};
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

    /// Adds the gradient of a row, and returns the row's part of the loss. Every latent of `ungated` must have an entry
    /// at level 2, and its parent one at level 1.
    pub fn add_row(&self, ungated: CodeRow<'_>, [one, two]: [&mut EntryRow<'_>; 2], scratch: Scratch<'_>) -> f64 {
        let [slots1, slots2] = scratch.slots;
        for (at, &i) in one.index.iter().enumerate() {
            slots1[i as usize] = at as u32;
        }
        for (at, &j) in two.index.iter().enumerate() {
            slots2[j as usize] = at as u32;
        }
        let scale = self.scale;
        let mut value = 0.0;
        for (&j, &v) in ungated.index.iter().zip(ungated.value) {
            let p = self.families.parents()[j as usize];
            if p == ROOT {
                continue;
            }
            let (at1, at2) = (slots1[p as usize] as usize, slots2[j as usize] as usize);
            let psi = (self.margin - one.u[at1]).max(0.0) / self.margin;
            value += f64::from((self.down + self.up) * v * psi);
            two.grad_a[at2] += scale * self.down * psi;
            if one.u[at1] < self.margin {
                one.grad_u[0][at1] -= scale * self.up * v / self.margin;
            }
        }
        one.index.iter().for_each(|i| slots1[*i as usize] = u32::MAX);
        two.index.iter().for_each(|j| slots2[*j as usize] = u32::MAX);
        f64::from(scale) * value
    }
}
