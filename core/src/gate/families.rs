//! Which child belongs to which parent.

use alloc::vec;
use alloc::vec::Vec;

/// The parent of a child that belongs to no family.
pub const ROOT: u32 = u32::MAX;

/// The table of parents and its inverse.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Families {
    parent: Vec<u32>,
    offsets: Vec<u32>,
    child: Vec<u32>,
    f1: usize,
}

impl Families {
    /// Makes the families from the parent of every child: an index below `f1`, or [`ROOT`].
    ///
    /// # Panics
    /// If a parent is neither.
    pub fn new(parent: Vec<u32>, f1: usize) -> Self {
        for &p in &parent {
            assert!(p == ROOT || (p as usize) < f1, "parent {p} of {f1}");
        }
        let children = 0..parent.len() as u32;
        Self::with_children(parent, f1, children)
    }

    /// Returns the families with only the children `kept`, ascending; the others are in no family, not even in that of ROOT.
    pub(crate) fn only(&self, kept: &[u32]) -> Self {
        Self::with_children(self.parent.clone(), self.f1, kept.iter().copied())
    }

    fn with_children(parent: Vec<u32>, f1: usize, children: impl ExactSizeIterator<Item = u32> + Clone) -> Self {
        let mut offsets = vec![0u32; f1 + 2];
        for j in children.clone() {
            offsets[group(parent[j as usize], f1) + 1] += 1;
        }
        for g in 0..=f1 {
            offsets[g + 1] += offsets[g];
        }
        let mut next = offsets.clone();
        let mut child = vec![0u32; children.len()];
        for j in children {
            let at = &mut next[group(parent[j as usize], f1)];
            child[*at as usize] = j;
            *at += 1;
        }
        Self { parent, offsets, child, f1 }
    }

    /// Puts every one of `f2` children under ROOT.
    pub fn all_root(f1: usize, f2: usize) -> Self {
        Self::new(vec![ROOT; f2], f1)
    }

    /// Returns the parent of every child, `(f2)`.
    pub fn parents(&self) -> &[u32] {
        &self.parent
    }

    /// Returns the number of possible parents, `f1`.
    pub fn n_parents(&self) -> u32 {
        self.f1 as u32
    }

    /// Returns the children of `parent`, ascending; for [`ROOT`] those without a parent.
    pub fn children(&self, parent: u32) -> &[u32] {
        let g = group(parent, self.f1);
        &self.child[self.offsets[g] as usize..self.offsets[g + 1] as usize]
    }
}

fn group(parent: u32, f1: usize) -> usize {
    if parent == ROOT { f1 } else { parent as usize }
}
