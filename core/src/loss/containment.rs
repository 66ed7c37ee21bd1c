//! A child implies its parent:
//!
//! ```text
//! v_bj = max(a2_bj, 0)  the UNGATED drive, where it is above the level's threshold
//! psi_b = max(tau - u1_b,pi(j), 0) / tau  how far the parent's PRE-activation falls short of the margin tau
//! value = (1/n) sum_bj [down v_bj sg(psi_b) + up sg(v_bj) psi_b]
//! da2_bj += (wc down / n) psi_b        du1_b,pi(j) -= (wc up / (n tau)) v_bj 1[u1 < tau]
//! ```
//!
//! `down` trains the child's encoder to stay inside its parent, `up` trains the parent to cover its child, against
//! absorption. Children of ROOT are not charged.

use crate::gate::{Families, ROOT};
use crate::train::entries::{Entries, List};
use alloc::vec::Vec;

/// Weights of the two sides, and the margin `tau`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights {
    pub down: f32,
    pub up: f32,
    pub margin: f32,
}

/// Adds the gradient of row `i` with `scale = wc / n`; returns the row's value without `scale`.
///
/// Every drive of the row has an entry at level 2, and its parent one at level 1.
pub(crate) fn row(
    families: &Families,
    w: &Weights,
    drives: &List,
    i: usize,
    e1: &mut Entries,
    e2: &mut Entries,
    scale: f32,
    place: &mut [Vec<u32>; 2],
) -> f64 {
    let [place1, place2] = place;
    for at in e1.row(i) {
        place1[e1.index[at] as usize] = at as u32;
    }
    for at in e2.row(i) {
        place2[e2.index[at] as usize] = at as u32;
    }
    let mut value = 0.0;
    for at in drives.row(i) {
        let j = drives.index[at] as usize;
        let p = families.parents()[j];
        if p == ROOT {
            continue;
        }
        let (at1, at2) = (place1[p as usize] as usize, place2[j] as usize);
        let v = drives.u[at];
        let psi = (w.margin - e1.u[at1]).max(0.0) / w.margin;
        value += f64::from((w.down + w.up) * v * psi);
        e2.grad.a[at2] += scale * w.down * psi;
        if e1.u[at1] < w.margin {
            e1.grad.u[0][at1] -= scale * w.up * v / w.margin;
        }
    }
    for at in e1.row(i) {
        place1[e1.index[at] as usize] = u32::MAX;
    }
    for at in e2.row(i) {
        place2[e2.index[at] as usize] = u32::MAX;
    }
    value
}
