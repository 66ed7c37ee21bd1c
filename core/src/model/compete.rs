//! Selection of latents of level 1 that do not compete by value: by absolute value, and by groups of neighbours.

use super::Codes;
use crate::kernel::fire::RowLists;
use crate::kernel::select;
use alloc::vec::Vec;

/// Appends the `k` largest by absolute value of one row, ties to the lower index, with their signs, in ascending order of
/// the index. `above` are the `k` largest `u > 0` and `below` the `k` largest `-u > 0`, each ascending by index.
fn either_sign(k: usize, above: (&[u32], &[f32]), below: (&[u32], &[f32]), index: &mut Vec<u32>, value: &mut Vec<f32>) {
    let (first, mut at) = (index.len(), [0, 0]);
    while at[0] < above.0.len() || at[1] < below.0.len() {
        let next = [(above, 0), (below, 1)].map(|(of, side)| of.0.get(at[side]).copied().unwrap_or(u32::MAX));
        let side = usize::from(next[1] < next[0]);
        index.push(next[side]);
        value.push([above, below][side].1[at[side]]);
        at[side] += 1;
    }
    if index.len() - first > k {
        select::keep_largest(first, k, index, value);
    }
    for (j, z) in index[first..].iter().zip(&mut value[first..]) {
        if below.0.binary_search(j).is_ok() {
            *z = -*z;
        }
    }
}

/// Appends rows of the `k` latents that are the largest by absolute value: `above` holds the `k` largest `u > 0` of each
/// row, `below` the `k` largest `-u > 0`.
pub(super) fn by_absolute(k: usize, above: &RowLists, below: &RowLists, codes: &mut Codes) {
    for i in 0..above.n() {
        either_sign(k, above.row(i), below.row(i), &mut codes.index, &mut codes.value);
        codes.end_row();
    }
}

/// Appends rows of the largest latent of each group of `width` neighbours, ties to the lower index: `above` holds all
/// `u > 0` of each row.
pub(super) fn by_group(width: usize, above: &RowLists, codes: &mut Codes) {
    for i in 0..above.n() {
        let (from, u) = above.row(i);
        let mut of = None;
        for (&j, &u) in from.iter().zip(u) {
            let group = Some(j as usize / width.max(1));
            if group != of {
                codes.index.push(j);
                codes.value.push(u);
                of = group;
            } else if let (Some(index), Some(value)) = (codes.index.last_mut(), codes.value.last_mut())
                && u > *value
            {
                (*index, *value) = (j, u);
            }
        }
        codes.end_row();
    }
}
