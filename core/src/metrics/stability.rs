//! How similar the directions of a dictionary are to each other, and whether another run finds the same dictionary and
//! the same tree. It needs the weights only.

use alloc::vec;
use alloc::vec::Vec;

use super::bootstrap::{Interval, Resamples, clustered};
use super::check_parents;
use super::matching::{Goal, assign};
use crate::compute::Compute;
use crate::error::At;
use crate::gate::ROOT;
use crate::kernel::dense;
use crate::kernel::{Isa, reduce};
use crate::{Error, Result};

/// A latent of level 2 with a larger cosine to one of level 1 is its duplicate.
pub const DUPLICATE_COSINE: f64 = 0.8;
/// Two runs have found the same child if the directions of a matched pair have at least this `|cos|`.
pub const SAME_COSINE: f64 = 0.7;
/// Levels with more latents than this are matched greedily.
pub const MAX_EXACT: usize = 4096;
/// Number of best columns per row among which a greedy matching chooses first.
const CANDIDATES: usize = 64;
/// Rows that are multiplied at a time.
const BLOCK: usize = 64;

/// One decoder; its rows of norm 0 are left out.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct DictionaryReport {
    /// Latents with a direction.
    pub latents: usize,
    /// Latents without: their row is 0.
    pub without_direction: usize,
    /// `c_dec = mean_{i < j} |cos(D_i, D_j)|`. 0 to 1, lower is better; about `sqrt(2 / (pi d))` for random directions;
    /// NaN with fewer than two latents. Too low an L0 mixes features and raises it.
    pub c_dec: f64,
    /// `mean_i max_{j != i} cos(D_i, D_j)`. -1 to 1, lower is better: high where features are split or composed.
    pub max_cosine: f64,
}

/// How similar the directions of the two levels are; rows of norm 0 are left out.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct LevelsReport {
    /// Share of latents of level 2 with `max_i cos(D1_i, D2_j) >` [`DUPLICATE_COSINE`]. 0 to 1, lower is better.
    pub duplicates: f64,
    /// `mean_j max_i cos(D1_i, D2_j)`. -1 to 1, lower is better.
    pub max_cosine: f64,
    /// Edges: children with a parent, both with a direction.
    pub edges: usize,
    /// Mean over edges of `cos(D1_p, D2_c)`. -1 to 1, 0: children are orthogonal offsets from their parents. Where
    /// level 2 adds to level 1, a value below 0 means that the parent contains the mean of its children (hedging), from
    /// which they are offsets.
    pub hedging: f64,
    /// Mean over parents with an edge of `cos(D1_p, m_p)`, `m_p` the sum of their children's unit rows, which is what
    /// the children have in common. -1 to 1, 0: the parent contains none of it.
    pub hedging_of_mean: f64,
    /// Parents with an edge whose children's rows add up to 0: left out of `hedging_of_mean`.
    pub parents_without_mean: usize,
}

/// The matching of one level of two runs.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Matched {
    /// `sigma`: the latent of the other run of each latent of this one; `None` for the rest of the larger run.
    pub partner: Vec<Option<u32>>,
    /// `mean |cos(D_i, D'_sigma(i))|` over the pairs: the pairwise MCC. 0 to 1, higher is better; compare with
    /// [`pairwise_mcc`] of random directions. NaN without latents.
    pub mcc: f64,
    /// Whether `sigma` is the best of all matchings. Over [`MAX_EXACT`] latents it is not: pairs are taken in
    /// descending order of `|cos|`, first among the 64 best of each row, and `mcc` may be too low.
    pub exact: bool,
}

/// How far two runs have found the same dictionary and the same tree.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StabilityReport {
    /// Level 1.
    pub level1: Matched,
    /// Level 2.
    pub level2: Matched,
    /// Edges of this run.
    pub edges: usize,
    /// Edges with an end that has no partner: they count as lost.
    pub edges_unmatched: usize,
    /// Share of the edges `(c, p)` of this run for which `(sigma2(c), sigma1(p))` is an edge of the other run. 0 to 1,
    /// higher is better; NaN without edges.
    pub edge_agreement: f64,
    /// What `edge_agreement` would be if the other run's parents were drawn at random: `1 / f1'`, with `f1'` its
    /// latents of level 1, times the share of the partners of children that have a parent.
    pub edge_chance: f64,
    /// Whether the children that both runs have found have the same parents.
    pub parents: ParentAgreement,
}

/// Whether two runs give the same parent to a child that both have found.
///
/// Compared are the matched pairs `(j, j')` of children with `|cos| >=` [`SAME_COSINE`] of which `j` has a parent. They
/// agree if the parent of `j'` is the partner of the parent of `j`; a `j'` under [`ROOT`], or a parent without a
/// partner, disagrees.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ParentAgreement {
    /// Pairs compared.
    pub pairs: usize,
    /// Those pairs as a share of the children of this run that have a parent. 0 to 1, higher is better.
    pub found_again: f64,
    /// Share of the pairs that agree, with an interval by a bootstrap over the families of this run. 0 to 1, higher is
    /// better; NaN without pairs.
    pub agreement: Interval,
    /// What `agreement` would be if the parents of the other run were permuted among the partners.
    pub chance: f64,
}

/// Returns the unit rows in `f32`, with zeros for a row of norm 0, and whether each row has a norm.
pub(super) fn unit(what: &'static str, rows: &[f32], d: usize) -> Result<(Vec<f32>, Vec<bool>)> {
    if d == 0 || !rows.len().is_multiple_of(d) {
        return Err(Error::Shape { what, expected: d, got: rows.len() });
    }
    let (mut out, mut has) = (rows.to_vec(), Vec::with_capacity(rows.len() / d));
    for (j, row) in out.chunks_exact_mut(d).enumerate() {
        let norm = libm::sqrt(row.iter().map(|w| f64::from(*w) * f64::from(*w)).sum());
        if !norm.is_finite() {
            return Err(Error::NotFinite { what: what.into(), at: At::Row(j as u64) });
        }
        has.push(norm > 0.0);
        if norm > 0.0 {
            row.iter_mut().for_each(|w| *w = (f64::from(*w) / norm) as f32);
        }
    }
    Ok((out, has))
}

/// Returns `f(i, [cos(a_i, b_j)]_j)` for each unit row of `a`, in order.
pub(super) fn for_cosines<R: Send>(
    compute: Compute,
    a: &[f32],
    b: &[f32],
    d: usize,
    f: impl Fn(usize, &[f32]) -> R + Sync + Send,
) -> Vec<R> {
    let Compute { isa, par } = compute;
    let (n, m) = (a.len() / d, b.len() / d);
    let blocks = par.map(n.div_ceil(BLOCK), |block| {
        let rows = &a[block * BLOCK * d..((block + 1) * BLOCK).min(n) * d];
        let mut cosine = vec![0.0f32; rows.len() / d * m];
        dense::affine(isa, rows, b, d, None, &mut cosine);
        let row = |k: usize| &cosine[k * m..(k + 1) * m];
        (0..rows.len() / d).map(|k| f(block * BLOCK + k, row(k))).collect::<Vec<R>>()
    });
    blocks.into_iter().flatten().collect()
}

fn max_of(values: impl Iterator<Item = f32>) -> f64 {
    f64::from(values.fold(f32::NEG_INFINITY, f32::max))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Measures the directions of one decoder, `[latents, d]` row-major.
///
/// Cosines in `f32`, sums in `f64` in index order. Cost: `latents^2 d` multiplications.
///
/// # Errors
/// [`Error::Shape`] if `decoder` is not whole rows, [`Error::NotFinite`] (with the row).
pub fn dictionary(compute: Compute, decoder: &[f32], d: usize) -> Result<DictionaryReport> {
    let (rows, has) = unit("decoder", decoder, d)?;
    let kept: Vec<f32> =
        rows.chunks_exact(d).zip(&has).filter(|(_, h)| **h).flat_map(|(r, _)| r.iter().copied()).collect();
    let latents = kept.len() / d;
    let parts = for_cosines(compute, &kept, &kept, d, |i, cosine| {
        let others = || cosine[..i].iter().chain(&cosine[i + 1..]).copied();
        (cosine[..i].iter().map(|c| f64::from(c.abs())).sum::<f64>(), max_of(others()))
    });
    let pairs = latents as f64 * (latents as f64 - 1.0) / 2.0;
    let max_cosine = if latents > 1 { parts.iter().map(|p| p.1).sum::<f64>() / latents as f64 } else { f64::NAN };
    Ok(DictionaryReport {
        latents,
        without_direction: has.len() - latents,
        c_dec: parts.iter().map(|p| p.0).sum::<f64>() / pairs,
        max_cosine,
    })
}

/// Compares the directions of the two levels.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `decoder1`, `decoder2` | `[f1, d]`, `[f2, d]` | row-major |
/// | `parent` | `[f2]` | latents of level 1, or [`ROOT`] |
///
/// # Errors
/// [`Error::Shape`] where sizes disagree, [`Error::Index`] for a parent out of range, [`Error::NotFinite`].
pub fn levels(compute: Compute, decoder1: &[f32], decoder2: &[f32], d: usize, parent: &[u32]) -> Result<LevelsReport> {
    let (one, has1) = unit("decoder of level 1", decoder1, d)?;
    let (two, has2) = unit("decoder of level 2", decoder2, d)?;
    if parent.len() != has2.len() {
        return Err(Error::Shape { what: "learned parents", expected: has2.len(), got: parent.len() });
    }
    check_parents("learned parents", parent, has1.len())?;
    let closest = for_cosines(compute, &two, &one, d, |_, cosine| {
        max_of(cosine.iter().zip(&has1).filter(|(_, h)| **h).map(|(c, _)| *c))
    });
    let closest: Vec<f64> =
        closest.into_iter().zip(&has2).filter(|(c, h)| **h && c.is_finite()).map(|(c, _)| c).collect();
    let dot = |a: &[f32], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum() };
    let mut sum = vec![0.0f64; one.len()];
    let (mut cosines, mut has_edge) = (Vec::new(), vec![false; has1.len()]);
    for (j, &p) in parent.iter().enumerate() {
        if p != ROOT && has1[p as usize] && has2[j] {
            let p = p as usize;
            let child: Vec<f64> = two[j * d..(j + 1) * d].iter().map(|w| f64::from(*w)).collect();
            cosines.push(dot(&one[p * d..(p + 1) * d], &child));
            sum[p * d..(p + 1) * d].iter_mut().zip(&child).for_each(|(s, w)| *s += w);
            has_edge[p] = true;
        }
    }
    let (mut along, mut parents_without_mean) = (Vec::new(), 0);
    for p in (0..has1.len()).filter(|&p| has_edge[p]) {
        let sum = &sum[p * d..(p + 1) * d];
        let norm = libm::sqrt(sum.iter().map(|s| s * s).sum());
        if norm > 1e-6 {
            along.push(dot(&one[p * d..(p + 1) * d], sum) / norm);
        } else {
            parents_without_mean += 1;
        }
    }
    let duplicates = closest.iter().filter(|c| **c > DUPLICATE_COSINE).count();
    Ok(LevelsReport {
        duplicates: duplicates as f64 / closest.len() as f64,
        max_cosine: mean(&closest),
        edges: cosines.len(),
        hedging: mean(&cosines),
        hedging_of_mean: mean(&along),
        parents_without_mean,
    })
}

/// Matches the rows of `a`, `[n, d]`, with those of `b`, `[m, d]`, so that the sum of `|cos|` is largest; a row of norm
/// 0 has cosine 0 with everything.
///
/// Cosines in `f32`. Cost: `n m d` multiplications and, up to [`MAX_EXACT`] latents per run, `min(n, m)^2 max(n, m)`
/// steps and 16 bytes per pair; above, a greedy matching of 64 candidates per row.
///
/// # Errors
/// [`Error::Shape`] if `a` or `b` are not whole rows, [`Error::NotFinite`] (with the row).
pub fn pairwise_mcc(compute: Compute, a: &[f32], b: &[f32], d: usize) -> Result<Matched> {
    matched(compute, a, b, d, MAX_EXACT)
}

/// Does what [`pairwise_mcc`] does, with `max_exact` in place of [`MAX_EXACT`].
///
/// # Errors
/// As [`pairwise_mcc`].
pub fn matched(compute: Compute, a: &[f32], b: &[f32], d: usize, max_exact: usize) -> Result<Matched> {
    let ((a, has_a), (b, has_b)) = (unit("decoder of this run", a, d)?, unit("decoder of the other run", b, d)?);
    let (n, m) = (has_a.len(), has_b.len());
    let exact = n.max(m) <= max_exact;
    let partner: Vec<Option<u32>> = if exact {
        let rows = for_cosines(compute, &a, &b, d, |_, c| c.iter().map(|c| f64::from(c.abs())).collect::<Vec<_>>());
        let matrix: Vec<f64> = rows.into_iter().flatten().collect();
        assign(&matrix, n, m, Goal::Maximise)?.into_iter().map(|j| j.map(|j| j as u32)).collect()
    } else {
        greedy(compute, &a, &b, d)
    };
    let cosine = |i: usize, j: u32| -> f64 {
        let (a, b) = (&a[i * d..(i + 1) * d], &b[j as usize * d..(j as usize + 1) * d]);
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>().abs()
    };
    let cosines: Vec<f64> = partner.iter().enumerate().filter_map(|(i, j)| j.map(|j| cosine(i, j))).collect();
    Ok(Matched { partner, mcc: mean(&cosines), exact })
}

/// Matches greedily: takes pairs in descending order of `|cos|` (ties to the lowest row, then column) among the
/// candidates of the rows; then pairs each remaining row, in order, with the best remaining column.
fn greedy(compute: Compute, a: &[f32], b: &[f32], d: usize) -> Vec<Option<u32>> {
    let Compute { isa, .. } = compute;
    let (n, m) = (a.len() / d, b.len() / d);
    let best = for_cosines(compute, a, b, d, |i, cosine| {
        let mut order: Vec<u32> = (0..m as u32).collect();
        let by = |a: &u32, b: &u32| cosine[*b as usize].abs().total_cmp(&cosine[*a as usize].abs()).then(a.cmp(b));
        if m > CANDIDATES {
            order.select_nth_unstable_by(CANDIDATES, by);
            order.truncate(CANDIDATES);
        }
        order.into_iter().map(|j| (cosine[j as usize].abs(), i as u32, j)).collect::<Vec<_>>()
    });
    let mut candidates: Vec<(f32, u32, u32)> = best.into_iter().flatten().collect();
    candidates.sort_unstable_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
    let (mut partner, mut taken) = (vec![None; n], vec![false; m]);
    for (_, i, j) in candidates {
        if partner[i as usize].is_none() && !taken[j as usize] {
            partner[i as usize] = Some(j);
            taken[j as usize] = true;
        }
    }
    best_of_the_rest(isa, a, b, d, &mut partner, &mut taken);
    partner
}

/// Pairs each row without a partner, in order, with the best column that is not taken.
fn best_of_the_rest(isa: Isa, a: &[f32], b: &[f32], d: usize, partner: &mut [Option<u32>], taken: &mut [bool]) {
    for (i, partner) in partner.iter_mut().enumerate().filter(|(_, p)| p.is_none()) {
        let row = &a[i * d..(i + 1) * d];
        let mut best: Option<(f32, usize)> = None;
        for j in (0..taken.len()).filter(|&j| !taken[j]) {
            let cosine = reduce::dot(isa, row, &b[j * d..(j + 1) * d]).abs();
            if best.is_none_or(|(c, _)| cosine > c) {
                best = Some((cosine, j));
            }
        }
        let Some((_, j)) = best else { return };
        *partner = Some(j as u32);
        taken[j] = true;
    }
}

/// One run: its decoders and its tree.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// `[f1, d]` row-major.
    pub decoder1: &'a [f32],
    /// `[f2, d]` row-major, in the space of the activations.
    pub decoder2: &'a [f32],
    /// `[f2]`: latents of level 1, or [`ROOT`].
    pub parent: &'a [u32],
}

/// Compares two runs on one set of activations, such as two seeds.
///
/// # Errors
/// As [`pairwise_mcc`], [`Error::Shape`] if a run's parents are not as many as its rows, [`Error::Index`] for a parent
/// out of range.
pub fn stability(compute: Compute, this: &Run<'_>, other: &Run<'_>, d: usize) -> Result<StabilityReport> {
    let level1 = pairwise_mcc(compute, this.decoder1, other.decoder1, d)?;
    let level2 = pairwise_mcc(compute, this.decoder2, other.decoder2, d)?;
    for run in [this, other] {
        let (f1, f2) = (run.decoder1.len() / d, run.decoder2.len() / d);
        if run.parent.len() != f2 {
            return Err(Error::Shape { what: "learned parents", expected: f2, got: run.parent.len() });
        }
        check_parents("learned parents", run.parent, f1)?;
    }
    let edges: Vec<(usize, usize)> =
        this.parent.iter().enumerate().filter(|(_, p)| **p != ROOT).map(|(j, p)| (j, *p as usize)).collect();
    let images: Vec<(u32, u32)> =
        edges.iter().filter_map(|&(j, p)| Some((level2.partner[j]?, level1.partner[p]?))).collect();
    let kept = images.iter().filter(|(j, p)| other.parent[*j as usize] == *p).count();
    let with_parent = images.iter().filter(|(j, _)| other.parent[*j as usize] != ROOT).count();
    let share = |n: usize| n as f64 / edges.len() as f64;
    let parents = parents_of_pairs(this, other, d, &edges, &level1, &level2);
    Ok(StabilityReport {
        parents,
        edges: edges.len(),
        edges_unmatched: edges.len() - images.len(),
        edge_agreement: share(kept),
        edge_chance: share(with_parent) / (other.decoder1.len() / d) as f64,
        level1,
        level2,
    })
}

/// Returns the [`ParentAgreement`] of the edges of `this`.
fn parents_of_pairs(
    this: &Run<'_>,
    other: &Run<'_>,
    d: usize,
    edges: &[(usize, usize)],
    level1: &Matched,
    level2: &Matched,
) -> ParentAgreement {
    let cosine = |j: usize, partner: usize| {
        let row =
            |rows: &[f32], j: usize| -> Vec<f64> { rows[j * d..(j + 1) * d].iter().map(|w| f64::from(*w)).collect() };
        let (a, b) = (row(this.decoder2, j), row(other.decoder2, partner));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        // This is NaN for a row of zeros, and so not above any bound.
        dot(&a, &b).abs() / libm::sqrt(dot(&a, &a) * dot(&b, &b))
    };
    let f1_other = other.decoder1.len() / d;
    // For each pair: its family in this run, and whether the parents agree.
    let (mut family, mut agrees) = (Vec::new(), Vec::new());
    // For each parent of the other run: the pairs of which the parent in this run is its partner, and the pairs whose
    // child in the other run is its child.
    let (mut expected, mut found) = (vec![0u64; f1_other], vec![0u64; f1_other]);
    for &(j, p) in edges {
        let Some(partner) = level2.partner[j].map(|j| j as usize).filter(|k| cosine(j, *k) >= SAME_COSINE) else {
            continue;
        };
        let (wanted, there) = (level1.partner[p], other.parent[partner]);
        family.push(p as u32);
        agrees.push(f64::from(u8::from(wanted == Some(there))));
        if let Some(wanted) = wanted {
            expected[wanted as usize] += 1;
        }
        if there != ROOT {
            found[there as usize] += 1;
        }
    }
    let n = family.len();
    let met: f64 = expected.iter().zip(&found).map(|(a, b)| *a as f64 * *b as f64).sum();
    ParentAgreement {
        pairs: n,
        found_again: n as f64 / edges.len() as f64,
        agreement: clustered(&family, &agrees, Resamples::default()),
        chance: met / (n as f64 * n as f64),
    }
}
