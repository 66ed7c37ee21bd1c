//! Gates by families: a child may fire only where its parent does.

use super::{Families, ROOT};

/// Writes `u = a` for the children of the parents in `active` and of ROOT, minus infinity for the others. With
/// `largest_only` only the largest child of each family stays (ties to the lower index); ROOT's children are no family.
///
/// The gradient is `da = du` where the child may fire, and 0 elsewhere.
pub fn hard(families: &Families, active: impl Iterator<Item = u32>, largest_only: bool, a: &[f32], u: &mut [f32]) {
    u.fill(f32::NEG_INFINITY);
    for p in active {
        let children = families.children(p);
        if largest_only {
            let mut best: Option<usize> = None;
            for &j in children {
                if best.is_none_or(|b| a[j as usize] > a[b]) {
                    best = Some(j as usize);
                }
            }
            if let Some(j) = best {
                u[j] = a[j];
            }
        } else {
            for &j in children {
                u[j as usize] = a[j as usize];
            }
        }
    }
    for &j in families.children(ROOT) {
        u[j as usize] = a[j as usize];
    }
}
