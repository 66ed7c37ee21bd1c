//! `(1 / (n nu)) sum_b sum_p |z_p D_p - sum_{c of p} z_c D_c|^2`: a parent is the sum of its children (HSAE, Luo et al.).
//!
//! ```text
//! delta_bp = z_bp D_p - sum_c z_bc D_c,  k = 2 wc / (n nu)
//! dz_bp += k delta_bp . D_p     dD_p += k sum_b z_bp delta_bp
//! dz_bc -= k delta_bp . D_c     dD_c -= k sum_b z_bc delta_bp
//! ```
//!
//! Children of ROOT belong to no family and are not charged.

use crate::gate::{Families, ROOT};
use crate::kernel::{Isa, reduce};
use crate::model::Params;
use crate::train::entries::Entries;
use crate::train::objective::Lane;

/// `delta_bp` of one row into `out`, `(d)`.
pub(crate) fn delta(
    isa: Isa,
    params: &Params,
    families: &Families,
    d: usize,
    p: u32,
    i: usize,
    e1: &Entries,
    e2: &Entries,
    out: &mut [f32],
) {
    out.fill(0.0);
    for at in e1.row(i) {
        if e1.index[at] == p && e1.z[at] > 0.0 {
            reduce::axpy(isa, e1.z[at], &params.level[0].w_dec[p as usize * d..][..d], out);
        }
    }
    for at in e2.row(i) {
        let c = e2.index[at] as usize;
        if e2.z[at] > 0.0 && families.parents()[c] == p {
            reduce::axpy(isa, -e2.z[at], &params.level[1].w_dec[c * d..][..d], out);
        }
    }
}

/// Adds the gradient to the entries of row `i`, with `k`; returns the row's sum of squares.
pub(crate) fn row(
    isa: Isa,
    params: &Params,
    families: &Families,
    d: usize,
    i: usize,
    e1: &mut Entries,
    e2: &mut Entries,
    k: f32,
    lane: &mut Lane,
) -> f64 {
    let Lane { vector: [v, _], place: [place1, _], .. } = lane;
    let mut value = 0.0;
    // Every parent that fires or has a child that does, each once: `place` marks those that are done.
    let family =
        |at2: usize, e2: &Entries| if e2.z[at2] > 0.0 { families.parents()[e2.index[at2] as usize] } else { ROOT };
    let parents1 = e1.row(i);
    let parents2 = e2.row(i);
    for turn in parents1.clone().map(Ok).chain(parents2.clone().map(Err)) {
        let p = match turn {
            Ok(at) => e1.index[at],
            Err(at) => family(at, e2),
        };
        if p == ROOT || place1[p as usize] != u32::MAX {
            continue;
        }
        place1[p as usize] = 0;
        delta(isa, params, families, d, p, i, e1, e2, v);
        value += f64::from(reduce::sum_squares(isa, v));
        for at in parents1.clone() {
            if e1.index[at] == p {
                e1.grad.z[0][at] += k * reduce::dot(isa, v, &params.level[0].w_dec[p as usize * d..][..d]);
            }
        }
        for at in parents2.clone() {
            let c = e2.index[at] as usize;
            if families.parents()[c] == p {
                e2.grad.z[0][at] -= k * reduce::dot(isa, v, &params.level[1].w_dec[c * d..][..d]);
            }
        }
    }
    for at in parents1 {
        place1[e1.index[at] as usize] = u32::MAX;
    }
    for at in parents2 {
        let p = family(at, e2);
        if p != ROOT {
            place1[p as usize] = u32::MAX;
        }
    }
    value
}
