//! Encodes level 2 behind a hard gate: computes only the children of active parents, and those of ROOT.
//!
//! A row costs `d (f1 + k1 c + r)` multiply-adds instead of `d (f1 + f2)`, with `k1` active parents of `c` children each
//! and `r` children under ROOT. The pairs of a row and an active parent are taken in the order of the parents: the rows of
//! a block that share a parent are multiplied with its children together, so that a family is read once per block. The codes
//! are those of the dense product behind [`gate::hard`](crate::gate::hard), bit for bit.

use crate::gate::{Families, ROOT};
use crate::kernel::dense::{self, Matrix, Pick};
use crate::kernel::fire::{self, Limit, RowLists, Search};
use crate::kernel::screen::{Group, NONE, Visits};
use crate::kernel::weight::Weight;
use crate::kernel::{Isa, LANES, Screen, select};
use alloc::vec::Vec;

/// Most products of a family that are in memory at a time, unless a single row has more.
const TILE: usize = 1 << 14;

/// Level 2 behind its gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hierarchy<'a, W = f32> {
    /// `(f2, width)`, all of them.
    pub w: Matrix<'a, W>,
    /// `(f2)`.
    pub bias: &'a [f32],
    /// The parents of the children.
    pub families: &'a Families,
    /// All children in 8 bits, with their order, where that pays.
    pub screen: Option<(&'a Screen, &'a Order)>,
    /// Whether only the largest child of each family can fire.
    pub largest_only: bool,
}

/// The rows that meet the children of their active parents.
#[derive(Clone, Copy)]
pub(crate) struct Behind<'a, F> {
    /// `(n, width)`: what level 2 reads.
    pub s: &'a [f32],
    /// What a pre-activation must reach.
    pub limit: Limit<'a>,
    /// Gives the active parents of a row.
    pub active: F,
    /// Whether the scratch of the fused encoder was used with these rows last.
    pub rounded: bool,
}

/// The children, family by family, ROOT's last. No family lies in more strips of sixteen slots than it must.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    /// The child in each slot, or none.
    pub places: Vec<u32>,
    /// `(f1 + 1)`: the slots of each family.
    spans: Vec<(u32, u32)>,
    /// Numbers of children, and of strips that families lie in.
    children: usize,
    strips: usize,
}

impl Order {
    /// Orders the children of these families.
    pub fn set(&mut self, families: &Families) {
        self.places.clear();
        self.spans.clear();
        (self.children, self.strips) = (families.parents().len(), 0);
        for p in (0..families.n_parents()).chain([ROOT]) {
            let (children, from) = (families.children(p), self.places.len());
            let least = children.len().div_ceil(LANES);
            if least > 0 && (from % LANES + children.len()).div_ceil(LANES) > least {
                self.places.resize(from.next_multiple_of(LANES), NONE);
            }
            let from = self.places.len() as u32;
            self.places.extend_from_slice(children);
            self.spans.push((from, self.places.len() as u32));
            self.strips += least;
        }
    }

    /// Returns whether a screen in this order can pay: a strip costs about as much as four children.
    pub fn pays(&self) -> bool {
        self.children >= 4 * self.strips
    }

    /// Returns the number of panels, of two strips each, that are read where every family is active.
    fn panels(&self) -> usize {
        self.spans
            .iter()
            .map(|(from, to)| (*to as usize).div_ceil(LANES) - *from as usize / LANES)
            .map(|s| s.div_ceil(2))
            .sum()
    }

    /// Returns the slots of the children of `parent`.
    fn span(&self, parent: u32) -> (u32, u32) {
        if parent == ROOT { self.spans[self.spans.len() - 1] } else { self.spans[parent as usize] }
    }
}

/// A child whose pre-activation reaches the limit.
#[derive(Clone, Copy, Debug)]
struct Hit {
    row: u32,
    child: u32,
    u: f32,
}

/// Working memory for one block of rows; reused from block to block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    /// Active parents of rows, `parent << 32 | row`.
    active: Vec<u64>,
    rows: Vec<u32>,
    groups: Vec<Group>,
    /// The end of the rows of each parent.
    ends: Vec<u32>,
    /// Rows that are multiplied with a family together.
    together: Vec<u32>,
    /// Pre-activations of some rows and one family.
    u: Vec<f32>,
    /// The children of ROOT, and all children, that fire.
    root: RowLists,
    lists: RowLists,
    hits: Vec<Hit>,
    index: Vec<u32>,
    value: Vec<f32>,
}

impl<W: Weight> Hierarchy<'_, W> {
    /// Reserves capacity for blocks of `n` rows on each of which at most `active1` parents and `active2` children fire.
    pub fn reserve(
        &self,
        fire_t: &mut fire::Scratch,
        t: &mut Scratch,
        n: usize,
        active1: usize,
        active2: usize,
        limit: Limit<'_>,
    ) {
        let largest = (0..self.families.n_parents()).map(|p| self.families.children(p).len()).max().unwrap_or(0);
        t.active.reserve(n * active1);
        t.rows.reserve(n * (active1 + 1));
        t.together.reserve(n);
        t.ends.reserve(self.families.n_parents() as usize);
        t.groups.reserve((n * active1).min(self.families.n_parents() as usize) + 1);
        t.u.reserve(TILE.max(largest).max(active2));
        let roots = self.families.children(ROOT).len();
        fire_t.reserve(n, roots, self.w.d, None, limit);
        if let Some((screen, order)) = self.screen {
            fire_t.reserve(n, self.families.parents().len(), self.w.d, Some(screen), limit);
            fire_t.reserve_panels(order.panels());
        }
        t.root.reserve(n, roots, limit);
        t.lists.reserve_unsorted(n, active2);
        t.hits.reserve(n * active2);
        t.index.reserve(2 * active2 + 256);
        t.value.reserve(4 * active2 + 256);
    }

    /// Calls `row(i, children, u)` for each row, in order: the children, ascending, that the gate lets fire and whose
    /// pre-activation reaches the limit.
    pub fn run<A: Iterator<Item = u32>>(
        &self,
        isa: Isa,
        behind: Behind<'_, impl Fn(usize) -> A>,
        fire_t: &mut fire::Scratch,
        t: &mut Scratch,
        mut row: impl FnMut(usize, &[u32], &[f32]),
    ) {
        let Behind { s, limit, active, rounded } = &behind;
        let (limit, rounded, n) = (*limit, *rounded, s.len() / self.w.d);
        if matches!(limit, Limit::Topk(0)) {
            t.lists.reset(n, 0.0);
        } else if let Some((screen, order)) = self.screen.filter(|_| !self.largest_only) {
            self.group(order, n, active, t);
            let visits = Visits::Groups { rows: &t.rows, groups: &t.groups };
            let search = Search { x: s, w: self.w, bias: self.bias, limit };
            let left = fire::behind(isa, search, screen, visits, rounded, fire_t, &mut t.lists);
            if !left.is_empty() {
                t.rows.clear();
                t.rows.extend_from_slice(left);
                let left = core::mem::take(&mut t.rows);
                self.in_full(isa, &behind, Pick::List(&left), fire_t, t);
                t.rows = left;
            }
        } else {
            t.lists.reset(n, 0.0);
            self.in_full(isa, &behind, Pick::Range(0, n), fire_t, t);
        }
        for i in 0..n {
            let (index, u) = t.lists.row(i);
            row(i, index, u);
        }
    }

    /// Assigns rows to slots: the slots of the children of each parent get the rows on which it is active, ascending;
    /// those of ROOT get all `n`.
    fn group<A: Iterator<Item = u32>>(&self, order: &Order, n: usize, active: impl Fn(usize) -> A, t: &mut Scratch) {
        let ends = &mut t.ends;
        ends.clear();
        ends.resize(self.families.n_parents() as usize, 0);
        (0..n).flat_map(&active).for_each(|p| ends[p as usize] += 1);
        t.groups.clear();
        let mut from = 0;
        for (p, end) in ends.iter_mut().enumerate() {
            let rows = (from, from + *end);
            if *end > 0 {
                t.groups.push(Group { places: order.span(p as u32), rows });
            }
            (*end, from) = (from, rows.1);
        }
        t.rows.clear();
        t.rows.resize(from as usize, 0);
        for i in 0..n {
            for p in active(i) {
                let at = &mut ends[p as usize];
                t.rows[*at as usize] = i as u32;
                *at += 1;
            }
        }
        t.rows.extend(0..n as u32);
        t.groups.push(Group { places: order.span(ROOT), rows: (from, from + n as u32) });
    }

    /// Fills the lists of the rows `which`, which are empty; computes every pre-activation that the gate lets through.
    fn in_full<A: Iterator<Item = u32>>(
        &self,
        isa: Isa,
        behind: &Behind<'_, impl Fn(usize) -> A>,
        which: Pick<'_>,
        fire_t: &mut fire::Scratch,
        t: &mut Scratch,
    ) {
        let Behind { s, limit, active, .. } = behind;
        let limit = *limit;
        t.active.clear();
        for i in (0..which.len()).map(|at| which.row(at)) {
            t.active.extend(active(i).map(|p| u64::from(p) << 32 | i as u64));
        }
        t.active.sort_unstable();
        t.hits.clear();
        let mut from = 0;
        let mut rows = core::mem::take(&mut t.together);
        while from < t.active.len() {
            let parent = (t.active[from] >> 32) as u32;
            let end = from + t.active[from..].partition_point(|key| (*key >> 32) as u32 == parent);
            let children = self.families.children(parent);
            let together = (TILE / children.len().max(1)).max(1);
            for from in (from..end).step_by(together) {
                rows.clear();
                rows.extend(t.active[from..end.min(from + together)].iter().map(|key| *key as u32));
                fire_t.work.exact += (rows.len() * children.len()) as u64;
                self.family(isa, s, children, limit, &rows, t);
            }
            from = end;
        }
        t.together = rows;
        let root = self.families.children(ROOT);
        if !root.is_empty() {
            let all = self.w.only(Pick::List(root));
            t.root.reset(s.len() / self.w.d, if let Limit::Above(t) = limit { t } else { 0.0 });
            let search = Search { x: s, w: all, bias: self.bias, limit };
            fire::in_full(isa, search, which, fire_t, &mut t.root);
            for i in (0..which.len()).map(|at| which.row(at)) {
                let (index, u) = t.root.row(i);
                t.hits.extend(index.iter().zip(u).map(|(&child, &u)| Hit { row: i as u32, child, u }));
            }
        }
        t.hits.sort_unstable_by_key(|h| u64::from(h.row) << 32 | u64::from(h.child));
        for own in t.hits.chunk_by(|a, b| a.row == b.row) {
            let row = own[0].row as usize;
            if let Limit::Topk(k) = limit {
                t.u.clear();
                t.u.extend(own.iter().map(|h| h.u));
                t.index.clear();
                t.value.clear();
                select::topk_row(isa, &t.u, k, &mut t.index, &mut t.value);
                t.index.iter().zip(&t.value).for_each(|(at, u)| t.lists.push(row, own[*at as usize].child, *u));
            } else {
                own.iter().for_each(|h| t.lists.push(row, h.child, h.u));
            }
        }
    }

    /// Collects which of the children of a parent reach the limit on the rows `rows`, where the parent is active.
    fn family(&self, isa: Isa, s: &[f32], children: &[u32], limit: Limit<'_>, rows: &[u32], t: &mut Scratch) {
        if children.is_empty() {
            return;
        }
        let Scratch { u, hits, .. } = t;
        u.resize(rows.len() * children.len(), 0.0);
        let x = Matrix::all(s, self.w.d).only(Pick::List(rows));
        let w = self.w.only(Pick::List(children));
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
            if self.largest_only {
                let best = (1..u.len()).fold(0, |best, c| if u[c] > u[best] { c } else { best });
                note(row, children[best], u[best]);
            } else {
                children.iter().zip(u).for_each(|(&child, &u)| note(row, child, u));
            }
        }
    }
}
