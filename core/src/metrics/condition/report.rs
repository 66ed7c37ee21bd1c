//! The scores of the reconstruction condition: class means compared with decoder directions.

use alloc::vec;
use alloc::vec::Vec;

use super::super::bootstrap::{Interval, Resamples, clustered};
use super::super::coherence::{Draws, Score};
use super::super::defined_mean;
use super::super::sparsity::ALIVE_TOKENS;
use super::Condition;
use crate::compute::Compute;
use crate::gate::ROOT;
use crate::kernel::dense;
use crate::kernel::{Isa, reduce};
use crate::{Error, Result};

/// An edge meets the condition if both of its decoder rows are among this many that are nearest to `d*`.
pub const TOP: u32 = 5;
/// Edges that are compared with the decoder together.
const CHUNK: usize = 32;

/// One edge between an alive child and its parent.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct EdgeCondition {
    /// The child, in level 2.
    pub child: u32,
    /// Its parent, in level 1.
    pub parent: u32,
    /// `cos(d*_j, D2_j)`. -1 to 1, higher is better; NaN if `d*_j` does not exist or is 0, or if the row is 0.
    pub cos_child: f64,
    /// `cos(d*_j, D1_parent)`. As above.
    pub cos_parent: f64,
    /// `S_res = min(cos_child, cos_parent)`. -1 to 1, higher is better; NaN if either is.
    pub s_res: f64,
    /// Decoder rows of both levels with a larger cosine to `d*_j` than the child's, equal ones of a lower index
    /// included (level 1 comes first). 0 is best; none if `s_res` is NaN.
    pub rank_child: Option<u32>,
    /// The same of the parent's.
    pub rank_parent: Option<u32>,
    /// `cos(d**_j, D2_j)`. -1 to 1, higher is better; NaN if `d**_j` does not exist or is 0, or if the row is 0.
    pub strict_child: f64,
    /// `cos(d**_j, D1_parent)`. -1 to 1, should be below `strict_child`; NaN as above.
    pub strict_parent: f64,
}

/// The reconstruction condition. Shares and means are over the alive edges (children with a parent that fire on at
/// least [`ALIVE_TOKENS`] tokens) where they are defined; NaN where there is none.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ConditionReport {
    /// Tokens seen.
    pub tokens: u64,
    /// Other tokens, left out: an activation is too large for the sums.
    pub tokens_left_out: u64,
    /// Children under [`ROOT`].
    pub root_children: usize,
    /// Children with a parent that are not alive: left out.
    pub edges_not_alive: usize,
    /// Alive edges without an `s_res`: the child fires on every token, or `d*` or a decoder row is 0.
    pub edges_without_direction: usize,
    /// Alive edges without the strict cosines: the parent never fires without the child, or `d**` or a decoder row is
    /// 0.
    pub edges_without_strict_direction: usize,
    /// Mean `s_res`, with that of shuffled families. -1 to 1, higher is better.
    pub s_res: Score,
    /// Mean `s_res` with an interval by a bootstrap over families.
    pub s_res_interval: Interval,
    /// Share of the edges with child and parent both among the [`TOP`] decoder rows nearest to `d*`. 0 to 1, higher is
    /// better; by chance about `(TOP / (f1 + f2))^2`.
    pub both_in_top: f64,
    /// Share of the edges with the child among them. 0 to 1, higher is better; by chance `TOP / (f1 + f2)`.
    pub child_in_top: f64,
    /// Share of the edges with the parent among them. As above.
    pub parent_in_top: f64,
    /// Mean `strict_child`. -1 to 1, higher is better.
    pub strict_child: f64,
    /// Mean `strict_parent`. -1 to 1, near 0 or below: what the child adds is not the parent once more.
    pub strict_parent: f64,
    /// Share of the edges with `strict_child > strict_parent`. 0 to 1, higher is better.
    pub strict: f64,
    /// Every alive edge.
    pub edge: Vec<EdgeCondition>,
}

impl Condition {
    /// Returns the scores of all tokens added.
    ///
    /// | argument | shape | layout |
    /// |---|---|---|
    /// | `decoder1` | `[f1, d]` | row-major |
    /// | `decoder2` | `[f2, d]` | row-major, in the space of the activations |
    ///
    /// Cosines are in `f32`. Cost: `2 f2 (f1 + f2) d` operations.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes disagree.
    pub fn report(
        &self,
        compute: Compute,
        decoder1: &[f32],
        decoder2: &[f32],
        draws: Draws,
    ) -> Result<ConditionReport> {
        let Compute { isa, par } = compute;
        let (d, f1, f2) = (self.d, self.on.len(), self.parent.len());
        for (what, expected, got) in
            [("decoder of level 1", f1 * d, decoder1.len()), ("decoder of level 2", f2 * d, decoder2.len())]
        {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        let mut rows = decoder1.to_vec();
        rows.extend_from_slice(decoder2);
        // A row of zeros has no cosine, and stays one of zeros here.
        let mut defined = vec![false; f1 + f2];
        rows.chunks_mut(d).zip(&mut defined).for_each(|(row, defined)| *defined = normalise(isa, row));
        let edges: Vec<usize> = (0..f2).filter(|&j| self.parent[j] != ROOT && self.fires2[j] >= ALIVE_TOKENS).collect();
        let parts = par.map(edges.len().div_ceil(CHUNK), |c| {
            let edges = &edges[c * CHUNK..edges.len().min((c + 1) * CHUNK)];
            self.compare(isa, edges, &rows, &defined)
        });
        let (mut edge, mut direction) = (Vec::with_capacity(edges.len()), Vec::with_capacity(edges.len() * d));
        for (part, directions) in parts {
            edge.extend(part);
            direction.extend(directions);
        }
        let with: Vec<usize> = (0..edge.len()).filter(|&e| !edge[e].s_res.is_nan()).collect();
        let label: Vec<u32> = with.iter().map(|&e| edge[e].parent).collect();
        let fires: Vec<u64> = with.iter().map(|&e| self.fires2[edge[e].child as usize]).collect();
        let [s_res] = Score::of(par, draws, &fires, &label, |label| {
            let of = label.iter().zip(&with).map(|(&p, &e)| {
                // This product is summed in another order than that of `compare`: a learned edge keeps the bits it has
                // there.
                if p == edge[e].parent {
                    return edge[e].s_res;
                }
                let (row, along) = (&rows[p as usize * d..][..d], &direction[e * d..(e + 1) * d]);
                edge[e].cos_child.min(f64::from(reduce::dot(isa, row, along)))
            });
            [defined_mean(of)]
        });
        let value: Vec<f64> = with.iter().map(|&e| edge[e].s_res).collect();
        let share = |f: &dyn Fn(&EdgeCondition) -> bool| {
            with.iter().filter(|&&e| f(&edge[e])).count() as f64 / with.len() as f64
        };
        let top = |rank: Option<u32>| rank.is_some_and(|r| r < TOP);
        let strict: Vec<&EdgeCondition> =
            edge.iter().filter(|e| !e.strict_child.is_nan() && !e.strict_parent.is_nan()).collect();
        let root_children = self.parent.iter().filter(|p| **p == ROOT).count();
        Ok(ConditionReport {
            tokens: self.tokens,
            tokens_left_out: self.left_out,
            root_children,
            edges_not_alive: f2 - root_children - edges.len(),
            edges_without_direction: edge.len() - with.len(),
            edges_without_strict_direction: edge.len() - strict.len(),
            s_res,
            s_res_interval: clustered(&label, &value, Resamples::default()),
            both_in_top: share(&|e| top(e.rank_child) && top(e.rank_parent)),
            child_in_top: share(&|e| top(e.rank_child)),
            parent_in_top: share(&|e| top(e.rank_parent)),
            strict_child: defined_mean(strict.iter().map(|e| e.strict_child)),
            strict_parent: defined_mean(strict.iter().map(|e| e.strict_parent)),
            strict: strict.iter().filter(|e| e.strict_child > e.strict_parent).count() as f64 / strict.len() as f64,
            edge,
        })
    }

    /// Compares some edges with all unit rows of the decoder; also returns their unit directions `d*`, `[edges, d]`.
    fn compare(&self, isa: Isa, edges: &[usize], rows: &[f32], defined: &[bool]) -> (Vec<EdgeCondition>, Vec<f32>) {
        let (d, f1, all) = (self.d, self.on.len(), defined.len());
        let mut exact = vec![0.0; d];
        let mut unit = |found: &dyn Fn(&mut [f64]) -> bool, out: &mut [f32]| {
            let there = found(&mut exact);
            let norm = libm::sqrt(exact.iter().map(|v| v * v).sum());
            if !there || norm == 0.0 {
                return false;
            }
            out.iter_mut().zip(&exact).for_each(|(o, v)| *o = (v / norm) as f32);
            true
        };
        let mut direction = vec![0.0; edges.len() * d];
        let mut there = vec![false; edges.len()];
        for (e, &j) in edges.iter().enumerate() {
            there[e] = unit(&|out| self.direction(j, out), &mut direction[e * d..(e + 1) * d]);
        }
        let mut cosine = vec![0.0; edges.len() * all];
        dense::affine(isa, &direction, rows, d, None, &mut cosine);
        let mut strict = vec![0.0; d];
        let of = edges.iter().enumerate().map(|(e, &j)| {
            let (p, c) = (self.parent[j] as usize, f1 + j);
            let cosine = &cosine[e * all..(e + 1) * all];
            let of = |row: usize| if there[e] && defined[row] { f64::from(cosine[row]) } else { f64::NAN };
            let (cos_child, cos_parent) = (of(c), of(p));
            let s_res = if cos_child.is_nan() || cos_parent.is_nan() { f64::NAN } else { cos_child.min(cos_parent) };
            let rank = |row: usize| {
                let ahead = (0..all).filter(|&k| cosine[k] > cosine[row] || cosine[k] == cosine[row] && k < row);
                (!s_res.is_nan()).then(|| ahead.count() as u32)
            };
            let is_strict = unit(&|out| self.strict_direction(j, out), &mut strict);
            let along = |row: usize| match is_strict && defined[row] {
                true => f64::from(reduce::dot(isa, &rows[row * d..(row + 1) * d], &strict)),
                false => f64::NAN,
            };
            EdgeCondition {
                child: j as u32,
                parent: self.parent[j],
                cos_child,
                cos_parent,
                s_res,
                rank_child: rank(c),
                rank_parent: rank(p),
                strict_child: along(c),
                strict_parent: along(p),
            }
        });
        (of.collect(), direction)
    }
}

/// Divides a row by its norm, and returns whether it has one.
fn normalise(isa: Isa, row: &mut [f32]) -> bool {
    let norm = libm::sqrt(f64::from(reduce::sum_squares(isa, row)));
    if norm > 0.0 {
        reduce::scale(isa, (1.0 / norm) as f32, row);
    }
    norm > 0.0
}
