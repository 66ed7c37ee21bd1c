//! Level 2 behind a hard gate: only the children of the parents that fire, and those of ROOT.
//!
//! A row costs `d (f1 + k1 c + r)` multiply-adds instead of `d (f1 + f2)`, with `k1` active parents of `c` children each
//! and `r` children under ROOT. The pairs of a row and an active parent are taken in the order of the parents: the rows of
//! a block that share a parent are multiplied with its children together, so that a family is read once a block. The codes
//! are those of the dense product behind [`gate::hard`](crate::gate::hard), bit for bit.

use crate::gate::{Families, ROOT};
use crate::kernel::dense::{self, Matrix, Pick};
use crate::kernel::fire::{self, Limit, RowLists, fire};
use crate::kernel::{Isa, Screen, select};
use alloc::vec::Vec;

/// Products of a family that are held at a time, unless a single row has more.
const TILE: usize = 1 << 14;

/// Level 2 as its gate lets it be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hierarchy<'a> {
    /// `(f2, width)`.
    pub w: &'a [f32],
    /// Width of what level 2 reads.
    pub width: usize,
    /// `(f2)`.
    pub bias: &'a [f32],
    /// Who is whose parent.
    pub families: &'a Families,
    /// ROOT's children in 8 bits, where that pays.
    pub root: Option<&'a Screen>,
    /// Of each family only the largest child can fire.
    pub top1: bool,
}

/// A child whose pre-activation reaches the limit.
#[derive(Clone, Copy, Debug)]
struct Hit {
    row: u32,
    child: u32,
    u: f32,
}

/// What a block of rows needs; reused from block to block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    /// Active parents of the block, `parent << 32 | row`.
    active: Vec<u64>,
    rows: Vec<u32>,
    /// Pre-activations of some rows and a family.
    u: Vec<f32>,
    fire: fire::Scratch,
    lists: RowLists,
    hits: Vec<Hit>,
    index: Vec<u32>,
    value: Vec<f32>,
}

impl Hierarchy<'_> {
    /// Room for blocks of `n` rows of which `active1` parents and `active2` children fire at most.
    pub fn reserve(&self, t: &mut Scratch, n: usize, active1: usize, active2: usize, limit: Limit<'_>) {
        let largest = (0..self.families.n_parents()).map(|p| self.families.children(p).len()).max().unwrap_or(0);
        t.active.reserve(n * active1);
        t.rows.reserve(n);
        t.u.reserve(TILE.max(largest).max(active2));
        let roots = self.families.children(ROOT).len();
        t.fire.reserve(n, roots, self.width, self.root, limit);
        t.lists.reserve(n, roots, limit);
        t.hits.reserve(n * active2);
        t.index.reserve(2 * active2 + 256);
        t.value.reserve(4 * active2 + 256);
    }

    /// Calls `row(i, children, u)` for each of the `n` rows of `s`, `(n, width)`, in order: the children, ascending, that
    /// the gate lets fire and whose pre-activation reaches the limit. `active` gives the active parents of a row.
    pub fn run<A: Iterator<Item = u32>>(
        &self,
        isa: Isa,
        s: &[f32],
        n: usize,
        limit: Limit<'_>,
        active: impl Fn(usize) -> A,
        t: &mut Scratch,
        mut row: impl FnMut(usize, &[u32], &[f32]),
    ) {
        t.hits.clear();
        t.active.clear();
        for i in 0..n {
            t.active.extend(active(i).map(|p| u64::from(p) << 32 | i as u64));
        }
        t.active.sort_unstable();
        let mut from = 0;
        while from < t.active.len() {
            let parent = (t.active[from] >> 32) as u32;
            let end = from + t.active[from..].partition_point(|key| (*key >> 32) as u32 == parent);
            let children = self.families.children(parent);
            let together = (TILE / children.len().max(1)).max(1);
            for from in (from..end).step_by(together) {
                t.rows.clear();
                t.rows.extend(t.active[from..end.min(from + together)].iter().map(|key| *key as u32));
                self.family(isa, s, children, limit, t);
            }
            from = end;
        }
        let root = self.families.children(ROOT);
        let all = Matrix::all(self.w, self.width).only(Pick::List(root));
        fire(isa, &s[..n * self.width], all, self.bias, limit, self.root, &mut t.fire, &mut t.lists);
        for i in 0..t.lists.n() {
            let (index, u) = t.lists.row(i);
            t.hits.extend(index.iter().zip(u).map(|(&child, &u)| Hit { row: i as u32, child, u }));
        }
        t.hits.sort_unstable_by_key(|h| u64::from(h.row) << 32 | u64::from(h.child));
        let mut hits = &t.hits[..];
        for i in 0..n {
            let (own, rest) = hits.split_at(hits.partition_point(|h| h.row as usize <= i));
            hits = rest;
            t.index.clear();
            t.value.clear();
            if let Limit::Topk(k) = limit {
                t.u.clear();
                t.u.extend(own.iter().map(|h| h.u));
                select::topk_row(isa, &t.u, k, &mut t.index, &mut t.value);
                t.index.iter_mut().for_each(|at| *at = own[*at as usize].child);
            } else {
                t.index.extend(own.iter().map(|h| h.child));
                t.value.extend(own.iter().map(|h| h.u));
            }
            row(i, &t.index, &t.value);
        }
    }

    /// Notes which of the children of a parent reach the limit on the rows `t.rows`, where the parent is active.
    fn family(&self, isa: Isa, s: &[f32], children: &[u32], limit: Limit<'_>, t: &mut Scratch) {
        if children.is_empty() {
            return;
        }
        let Scratch { rows, u, hits, .. } = t;
        u.resize(rows.len() * children.len(), 0.0);
        let x = Matrix { values: s, d: self.width, rows: Pick::List(rows) };
        let w = Matrix { values: self.w, d: self.width, rows: Pick::List(children) };
        dense::product(isa, x, w, Some(self.bias), u);
        let mut note = |row: u32, child: u32, u: f32| {
            let least = match limit {
                Limit::Above(t) => t,
                Limit::AboveEach(t) => t[child as usize],
                Limit::Topk(_) => 0.0,
            };
            if u > least {
                hits.push(Hit { row, child, u });
            }
        };
        for (&row, u) in rows.iter().zip(u.chunks_exact(children.len())) {
            if self.top1 {
                let best = (1..u.len()).fold(0, |best, c| if u[c] > u[best] { c } else { best });
                note(row, children[best], u[best]);
            } else {
                children.iter().zip(u).for_each(|(&child, &u)| note(row, child, u));
            }
        }
    }
}
