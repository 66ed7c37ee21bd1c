//! Gates between the levels: forward and backward side by side.
//!
//! With `g = z1 G + c`, one number a child, and `a2` the ungated drive of level 2:
//!
//! | gate | forward | backward |
//! |---|---|---|
//! | none | `u2 = a2` | `da2 = du2` |
//! | mul | `u2 = a2 s(g)` | `da2 = du2 s(g)`, `dg = du2 a2 s(g) (1 - s(g))` |
//! | add | `u2 = a2 + g` | `da2 = du2`, `dg = du2` |
//! | hard | `u2 = a2` where the parent fires or is ROOT, else the child cannot fire | `da2 = du2` where it can |
//! | group-top1 | hard, and of each family only the largest child can fire | the same |
//!
//! A soft gate in front of a threshold at zero never changes which latents fire (`s(g) > 0`); in front of top-k,
//! batch-top-k or jumprelu it changes their ranking, and so which fire.

use crate::choice::choices;
use crate::kernel::{Isa, sparse};
use alloc::vec;
use alloc::vec::Vec;

choices! {
    /// How level 1 acts on level 2.
    GateKind {
        /// Not at all.
        None = "none",
        /// `u2 = a2 sigmoid(z1 G + c)`.
        Mul = "mul",
        /// `u2 = a2 + z1 G + c`.
        Add = "add",
        /// `u2 = a2 1[z1_parent > 0]`; a child whose parent is ROOT is never masked.
        Hard = "hard",
        /// [`GateKind::Hard`], and of each family only the largest child may fire (H-SAE).
        GroupTop1 = "group-top1",
    }
}

/// What a gate must know before it can say which children may fire on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Nothing: every child may fire.
    Nothing,
    /// Which parents are active: only their children, and those of ROOT, may fire.
    ActiveParents {
        /// Of each family only the child of the largest pre-activation may fire.
        largest_only: bool,
    },
    /// The latents of level 1 and every ungated pre-activation of level 2, which it changes by weights of its own.
    AllPreActivations,
}

impl GateKind {
    /// Returns what the gate reads.
    pub const fn reads(self) -> Reads {
        match self {
            Self::None => Reads::Nothing,
            Self::Hard => Reads::ActiveParents { largest_only: false },
            Self::GroupTop1 => Reads::ActiveParents { largest_only: true },
            Self::Mul | Self::Add => Reads::AllPreActivations,
        }
    }

    /// Returns whether families decide which children may fire: a hard gate.
    pub const fn has_families(self) -> bool {
        matches!(self.reads(), Reads::ActiveParents { .. })
    }

    /// Returns whether the gate has weights: a soft gate.
    pub const fn has_weights(self) -> bool {
        matches!(self.reads(), Reads::AllPreActivations)
    }

    /// Returns the powers of the unit of the activations that the weights `G` and `c` of a soft gate carry: `z1` and the
    /// pre-activations carry one, the sigmoid of `mul` takes none.
    pub const fn units(self) -> [i32; 2] {
        match self {
            Self::None | Self::Hard | Self::GroupTop1 => [0, 0],
            Self::Mul => [-1, 0],
            Self::Add => [0, 1],
        }
    }

    /// Returns where the bias `c` of a soft gate starts: `s(2) = .88` is open, with space to learn both ways.
    pub const fn initial_bias(self) -> f32 {
        match self {
            Self::Mul => 2.0,
            Self::None | Self::Add | Self::Hard | Self::GroupTop1 => 0.0,
        }
    }

    /// Returns whether training computes every pre-activation of a row before the gate.
    ///
    /// A gate that lets only the largest child of a family fire has to rank the whole family, which the candidate lists
    /// of training do not hold.
    pub const fn is_dense_in_training(self) -> bool {
        matches!(self.reads(), Reads::AllPreActivations | Reads::ActiveParents { largest_only: true })
    }
}

/// The parent of a child that belongs to no family.
pub const ROOT: u32 = u32::MAX;

/// Who is whose parent: the table and its inverse.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Families {
    parent: Vec<u32>,
    offsets: Vec<u32>,
    child: Vec<u32>,
    f1: usize,
}

impl Families {
    /// From the parent of every child: an index below `f1`, or [`ROOT`].
    ///
    /// # Panics
    /// If a parent is neither.
    pub fn new(parent: Vec<u32>, f1: usize) -> Self {
        let mut offsets = vec![0u32; f1 + 2];
        for &p in &parent {
            assert!(p == ROOT || (p as usize) < f1, "parent {p} of {f1}");
            offsets[group(p, f1) + 1] += 1;
        }
        for g in 0..=f1 {
            offsets[g + 1] += offsets[g];
        }
        let mut next = offsets.clone();
        let mut child = vec![0u32; parent.len()];
        for (j, &p) in parent.iter().enumerate() {
            let at = &mut next[group(p, f1)];
            child[*at as usize] = j as u32;
            *at += 1;
        }
        Self { parent, offsets, child, f1 }
    }

    /// Every one of `f2` children under ROOT.
    pub fn all_root(f1: usize, f2: usize) -> Self {
        Self::new(vec![ROOT; f2], f1)
    }

    /// The parent of every child, `(f2)`.
    pub fn parents(&self) -> &[u32] {
        &self.parent
    }

    /// Parents that there can be.
    pub fn n_parents(&self) -> u32 {
        self.f1 as u32
    }

    /// The children of `parent`, ascending; of nobody for [`ROOT`].
    pub fn children(&self, parent: u32) -> &[u32] {
        let g = group(parent, self.f1);
        &self.child[self.offsets[g] as usize..self.offsets[g + 1] as usize]
    }
}

fn group(parent: u32, f1: usize) -> usize {
    if parent == ROOT { f1 } else { parent as usize }
}

/// `s(g) = 1 / (1 + e^-g)`.
pub fn sigmoid(g: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-g))
}

/// `g = z1 G + c` for one row: `index1`, `z1` its latents of level 1, `weight` `(f1, f2)`, `bias` and `g` `(f2)`.
pub fn soft(isa: Isa, index1: &[u32], z1: &[f32], weight: &[f32], bias: &[f32], g: &mut [f32]) {
    g.copy_from_slice(bias);
    sparse::accumulate_rows(isa, index1, z1, weight, bias.len(), g);
}

/// `u = a s(g)`.
pub fn mul(a: &[f32], g: &[f32], u: &mut [f32]) {
    for ((u, &a), &g) in u.iter_mut().zip(a).zip(g) {
        *u = a * sigmoid(g);
    }
}

/// `(da, dg)` of `u = a s(g)`.
pub fn mul_backward(a: f32, g: f32, grad_u: f32) -> (f32, f32) {
    let s = sigmoid(g);
    (grad_u * s, grad_u * a * s * (1.0 - s))
}

/// `u = a + g`.
pub fn add(a: &[f32], g: &[f32], u: &mut [f32]) {
    for ((u, &a), &g) in u.iter_mut().zip(a).zip(g) {
        *u = a + g;
    }
}

/// `u = a` for the children of the parents in `active` and of ROOT, minus infinity for the others; with `top1` only for
/// the largest child of each family (ties to the lower index), ROOT's children not being a family.
pub fn hard(families: &Families, active: impl Iterator<Item = u32>, top1: bool, a: &[f32], u: &mut [f32]) {
    u.fill(f32::NEG_INFINITY);
    for p in active {
        let children = families.children(p);
        if top1 {
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
