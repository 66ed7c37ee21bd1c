//! Level 2 behind a hard gate: only the children of the parents that fire, and those of ROOT.
//!
//! A row costs `d (f1 + k1 c + r)` multiply-adds instead of `d (f1 + f2)`, with `k1` active parents of `c` children each
//! and `r` children under ROOT. Children are packed by family; the pairs of a row and an active parent are taken in the
//! order of the parents, so that a family is read once a block of rows. The codes are those of the dense product behind
//! [`gate::hard`](crate::gate::hard), bit for bit.

use crate::activation::Rule;
use crate::gate::{Families, ROOT};
use crate::kernel::strips::{self, Pair, STRIP, Strips};
use crate::kernel::{Isa, Packed, dense, select};
use crate::model::Codes;
use crate::par::Par;
use alloc::vec;
use alloc::vec::Vec;

/// Pairs that are computed at a time, where no family has more strips.
const PAIRS: usize = 512;

/// The weights of level 2 by family.
#[derive(Clone, Debug)]
pub(crate) struct Hierarchy {
    /// `[f1 + 1]`: the first strip of each family.
    start: Vec<u32>,
    strips: Strips,
    /// `[lanes]`: children of the strips; the spare lanes of a family's last strip have none.
    child: Vec<Option<u32>>,
    bias: Vec<f32>,
    root: Vec<u32>,
    packed_root: Packed,
    bias_root: Vec<f32>,
    /// Numbers of the activation, in the order of the strips and of ROOT's children.
    rule: [OwnRule; 2],
    /// Of each family only the largest child can fire.
    top1: bool,
    /// Strips of the largest family.
    widest: usize,
}

/// A [`Rule`] with its numbers in another order.
#[derive(Clone, Debug)]
enum OwnRule {
    Above(f32),
    Topk(usize),
    AboveEach(Vec<f32>),
    Gated { r_mag: Vec<f32>, b_mag: Vec<f32> },
}

/// A child that fires.
#[derive(Clone, Copy, Debug)]
struct Hit {
    row: u32,
    child: u32,
    value: f32,
}

/// What a block of rows needs; reused from block to block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    /// Active parents of the block, `parent << 32 | row`.
    active: Vec<u64>,
    pairs: Vec<Pair>,
    /// `(pairs, 16)`.
    u: Vec<f32>,
    /// `(n, ROOT's children)`.
    u_root: Vec<f32>,
    hits: Vec<Hit>,
    index: Vec<u32>,
    value: Vec<f32>,
}

impl OwnRule {
    fn new(rule: Rule<'_>, order: &[Option<u32>]) -> Self {
        let of = |values: &[f32]| order.iter().map(|j| j.map_or(0.0, |j| values[j as usize])).collect();
        match rule {
            Rule::Above(t) => Self::Above(t),
            Rule::Topk(k) => Self::Topk(k),
            Rule::AboveEach(t) => Self::AboveEach(of(t)),
            Rule::Gated { r_mag, b_mag } => Self::Gated { r_mag: of(r_mag), b_mag: of(b_mag) },
        }
    }

    /// The rule for `n` places from `from` on; where top-k chooses, everything that it may choose from.
    fn at(&self, from: usize, n: usize) -> Rule<'_> {
        match self {
            Self::Above(t) => Rule::Above(*t),
            Self::Topk(_) => Rule::Above(0.0),
            Self::AboveEach(t) => Rule::AboveEach(&t[from..from + n]),
            Self::Gated { r_mag, b_mag } => {
                Rule::Gated { r_mag: &r_mag[from..from + n], b_mag: &b_mag[from..from + n] }
            }
        }
    }
}

impl Hierarchy {
    /// Packs the encoder `w`, `(f2, width)`, and its bias by family.
    pub fn new(
        isa: Isa,
        par: Par,
        w: &[f32],
        bias: &[f32],
        width: usize,
        families: &Families,
        f1: usize,
        rule: Rule<'_>,
        top1: bool,
    ) -> Self {
        let (mut start, mut child) = (vec![0u32], Vec::new());
        let mut widest = 0;
        for p in 0..f1 as u32 {
            let children = families.children(p);
            let strips = children.len().div_ceil(STRIP);
            child.extend(children.iter().map(|j| Some(*j)));
            child.resize((start[p as usize] as usize + strips) * STRIP, None);
            start.push(start[p as usize] + strips as u32);
            widest = widest.max(strips);
        }
        let root = families.children(ROOT).to_vec();
        let rows: Vec<f32> =
            root.iter().flat_map(|j| &w[*j as usize * width..(*j as usize + 1) * width]).copied().collect();
        let mut packed_root = Packed::new(root.len(), width);
        packed_root.pack(isa, par, &rows);
        let under_root: Vec<Option<u32>> = root.iter().map(|j| Some(*j)).collect();
        Self {
            strips: Strips::new(w, width, &child),
            // A spare lane never fires.
            bias: child.iter().map(|j| j.map_or(f32::NEG_INFINITY, |j| bias[j as usize])).collect(),
            bias_root: root.iter().map(|j| bias[*j as usize]).collect(),
            rule: [OwnRule::new(rule, &child), OwnRule::new(rule, &under_root)],
            start,
            child,
            root,
            packed_root,
            top1,
            widest,
        }
    }

    /// Room for blocks of `n` rows of which `active1` parents and `active2` children fire at most.
    pub fn reserve(&self, t: &mut Scratch, n: usize, active1: usize, active2: usize) {
        let pairs = PAIRS + self.widest;
        t.active.reserve(n * active1);
        t.pairs.reserve(pairs);
        t.u.reserve(pairs * STRIP);
        t.u_root.reserve(n * self.root.len());
        t.hits.reserve(n * active2);
        t.index.reserve(2 * active2 + 256);
        t.value.reserve(4 * active2 + 256);
    }

    /// Appends the codes of level 2 of the `n` rows `s`, `(n, width)`, whose codes of level 1 are `codes1`; without them,
    /// as if every parent fired and its children did not exclude each other.
    pub fn encode(&self, isa: Isa, s: &[f32], n: usize, codes1: Option<&Codes>, t: &mut Scratch, codes2: &mut Codes) {
        t.hits.clear();
        t.active.clear();
        for i in 0..n {
            let key = |p: u32| u64::from(p) << 32 | i as u64;
            if let Some(codes1) = codes1 {
                let code = codes1.row(i);
                let active = code.index.iter().zip(code.value).filter(|(_, z)| **z > 0.0);
                t.active.extend(active.map(|(p, _)| key(*p)));
            } else {
                t.active.extend((0..self.start.len() as u32 - 1).map(key));
            }
        }
        t.active.sort_unstable();
        t.pairs.clear();
        for at in 0..t.active.len() {
            let (p, row) = ((t.active[at] >> 32) as usize, t.active[at] as u32);
            t.pairs.extend((self.start[p]..self.start[p + 1]).map(|strip| Pair { row, strip }));
            if t.pairs.len() >= PAIRS || at + 1 == t.active.len() {
                self.fire_pairs(isa, s, self.top1 && codes1.is_some(), t);
                t.pairs.clear();
            }
        }
        if !self.root.is_empty() {
            let m = self.root.len();
            t.u_root.resize(n * m, 0.0);
            dense::affine(isa, s, &self.packed_root, Some(&self.bias_root), &mut t.u_root);
            for (i, u) in t.u_root.chunks_exact(m).enumerate() {
                t.index.clear();
                t.value.clear();
                self.rule[1].at(0, m).fire(isa, u, &mut t.index, &mut t.value);
                let fired = t.index.iter().zip(&t.value);
                t.hits.extend(fired.map(|(j, z)| Hit { row: i as u32, child: self.root[*j as usize], value: *z }));
            }
        }
        t.hits.sort_unstable_by_key(|h| u64::from(h.row) << 32 | u64::from(h.child));
        self.collect(isa, n, t, codes2);
    }

    /// Computes the pairs, and notes which of their children fire.
    fn fire_pairs(&self, isa: Isa, s: &[f32], top1: bool, t: &mut Scratch) {
        let Scratch { pairs, u, hits, index, value, .. } = t;
        u.resize(pairs.len() * STRIP, 0.0);
        strips::affine(isa, s, &self.strips, &self.bias, pairs, u);
        if top1 {
            let mut from = 0;
            while from < pairs.len() {
                let end = from + self.strips_of_family(pairs[from].strip);
                keep_largest(&mut u[from * STRIP..end * STRIP]);
                from = end;
            }
        }
        for (pair, u) in pairs.iter().zip(u.chunks_exact(STRIP)) {
            let lane = pair.strip as usize * STRIP;
            index.clear();
            value.clear();
            self.rule[0].at(lane, STRIP).fire(isa, u, index, value);
            for (&l, &value) in index.iter().zip(&*value) {
                if let Some(child) = self.child[lane + l as usize] {
                    hits.push(Hit { row: pair.row, child, value });
                }
            }
        }
    }

    /// How many strips the family that begins with `strip` has.
    fn strips_of_family(&self, strip: u32) -> usize {
        // Empty families begin with it too; the last one that does is not empty.
        let next = self.start.partition_point(|s| *s <= strip);
        (self.start[next] - strip) as usize
    }

    /// The hits, in order of rows and children, as codes.
    fn collect(&self, isa: Isa, n: usize, t: &mut Scratch, codes2: &mut Codes) {
        let mut hits = &t.hits[..];
        for i in 0..n as u32 {
            let (row, rest) = hits.split_at(hits.partition_point(|h| h.row <= i));
            hits = rest;
            if let OwnRule::Topk(k) = self.rule[0] {
                // The lists serve as scratch: the values to choose from stand behind their end.
                t.u.clear();
                t.u.extend(row.iter().map(|h| h.value));
                t.index.clear();
                t.value.clear();
                select::topk_row(isa, &t.u, k, &mut t.index, &mut t.value);
                codes2.index.extend(t.index.iter().map(|at| row[*at as usize].child));
                codes2.value.extend_from_slice(&t.value);
            } else {
                codes2.index.extend(row.iter().map(|h| h.child));
                codes2.value.extend(row.iter().map(|h| h.value));
            }
            codes2.end_row();
        }
    }
}

/// Minus infinity for all but the first of the largest.
fn keep_largest(u: &mut [f32]) {
    let best = (1..u.len()).fold(0, |best, l| if u[l] > u[best] { l } else { best });
    let value = u[best];
    u.fill(f32::NEG_INFINITY);
    u[best] = value;
}
