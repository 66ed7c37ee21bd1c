//! The structure of the decoders: how similar the directions of a level are, and how far the directions of level 2 are
//! composed of those of level 1.
//!
//! [`stability::dictionary`](super::stability::dictionary) and [`stability::levels`](super::stability::levels) have the
//! means; here are the quantiles and the compositions, each against its null.

use alloc::vec;
use alloc::vec::Vec;

use super::check_parents;
use super::coherence::{Draws, Score};
use super::stability::{DictionaryReport, LevelsReport, dictionary, for_cosines, levels, unit};
use crate::compute::Compute;
use crate::gate::ROOT;
use crate::kernel::{Isa, dense, reduce, wide};
use crate::par::Par;
use crate::rng::Philox;
use crate::{Error, Result};

/// Most atoms that a direction is composed of.
pub const ATOMS: usize = 3;
/// Most directions that are fitted; of more, every so many-th is.
pub const MAX_FITTED: usize = 4096;
/// Number of rows whose random sum is a random direction with the covariance of the rows: enough that it is nearly
/// Gaussian.
pub const MIXED: usize = 32;
/// Rows that are multiplied at a time.
const BLOCK: usize = 64;
/// Up to this many atoms, their Gram matrix is kept (64 MiB); of more, products are computed for each block, at three
/// times the cost.
const MAX_GRAM: usize = 4096;
/// A unit vector counts as linearly dependent on others if its part orthogonal to them is shorter than this.
const DEPENDENT: f64 = 1e-5;
/// The random streams of this module: this, plus the number of the draw.
const STREAM: u64 = 0x7374_7275 << 32;
/// Added to the number of the draw for the streams of mixtures.
const MIXTURES: usize = 1 << 30;

/// `max_{j != i} cos(D_i, D_j)` over the directions of a level: -1 to 1, lower is better, high where features are split
/// or composed. NaN with fewer than two directions. Quantiles are the values at rank `ceil(q n)`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Nearest {
    /// Mean.
    pub mean: f64,
    /// The 10 % quantile.
    pub q10: f64,
    /// The median.
    pub q50: f64,
    /// The 90 % quantile.
    pub q90: f64,
    /// The largest.
    pub max: f64,
}

/// Returns how near the directions of a decoder are to their nearest neighbours; rows of norm 0 are left out.
///
/// Cosines in `f32`. Cost: `latents^2 d` multiplications.
///
/// # Errors
/// [`Error::Shape`] if `decoder` is not whole rows, [`Error::NotFinite`] (with the row).
pub fn nearest(compute: Compute, decoder: &[f32], d: usize) -> Result<Nearest> {
    let rows = directions("decoder", decoder, d)?;
    let mut closest = for_cosines(compute, &rows, &rows, d, |i, cosine| {
        let others = cosine[..i].iter().chain(&cosine[i + 1..]);
        f64::from(others.copied().fold(f32::NEG_INFINITY, f32::max))
    });
    closest.sort_unstable_by(f64::total_cmp);
    let n = closest.len();
    if n < 2 {
        return Ok(Nearest { mean: f64::NAN, q10: f64::NAN, q50: f64::NAN, q90: f64::NAN, max: f64::NAN });
    }
    let at = |percent: usize| closest[(percent * n).div_ceil(100).clamp(1, n) - 1];
    Ok(Nearest { mean: closest.iter().sum::<f64>() / n as f64, q10: at(10), q50: at(50), q90: at(90), max: at(100) })
}

/// Returns the unit rows; rows of norm 0 are left out.
fn directions(what: &'static str, rows: &[f32], d: usize) -> Result<Vec<f32>> {
    let (rows, has) = unit(what, rows, d)?;
    Ok(rows.chunks_exact(d).zip(&has).filter(|(_, h)| **h).flat_map(|(r, _)| r.iter().copied()).collect())
}

/// How well directions are composed of a few atoms.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Composed {
    /// Directions fitted.
    pub directions: usize,
    /// `mean_j R^2_j(s)` for `s` of 1 to [`ATOMS`]: the share of `||v_j||^2` in the span of the `s` atoms that
    /// orthogonal matching pursuit picks, of either sign. 0 to 1, 1: nothing but compositions. The null are random
    /// directions, the same number of them in each draw; a positive `z` is better than those.
    pub r2: [Score; ATOMS],
    /// The same values against random directions of the rows' own covariance: each the sum of [`MIXED`] of them, drawn
    /// at random, with random signs. What both levels share only because activations lie in few dimensions is in this
    /// null.
    pub r2_mixed: [Score; ATOMS],
}

/// Measures how far the rows of `rows` are composed of up to [`ATOMS`] rows of `atoms`. Rows of norm 0 are left out of
/// both.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `rows` | `[n, d]` | row-major: the directions of level 2, or [`effective_children`] |
/// | `atoms` | `[m, d]` | row-major: the directions of level 1 |
///
/// An effective child holds its parent's direction by construction: look at the bare directions too.
/// Cost: `(1 + 2 draws) n m d + m^2 d` multiplications, `n` at most [`MAX_FITTED`].
///
/// # Errors
/// [`Error::Shape`] if rows or atoms are not whole rows, [`Error::NotFinite`] (with the row).
///
/// [`effective_children`]: super::coherence::geometry::effective_children
pub fn composed(compute: Compute, rows: &[f32], atoms: &[f32], d: usize, draws: Draws) -> Result<Composed> {
    let Compute { par, .. } = compute;
    let atoms = directions("decoder of level 1", atoms, d)?;
    Pursuit::new(compute, &atoms, d).composed(par, rows, draws, &mut None)
}

/// The number of random directions, and their mean `R^2(s)` in each draw.
type Random = (usize, Vec<[f64; ATOMS]>);

/// Orthogonal matching pursuit over one set of unit atoms.
struct Pursuit<'a> {
    isa: Isa,
    atoms: &'a [f32],
    d: usize,
    /// `[m, m]`: the products of the atoms, of at most [`MAX_GRAM`] of them.
    gram: Option<Vec<f32>>,
}

impl<'a> Pursuit<'a> {
    fn new(compute: Compute, atoms: &'a [f32], d: usize) -> Self {
        let Compute { isa, par } = compute;
        let m = atoms.len() / d;
        let gram = (m <= MAX_GRAM).then(|| {
            let blocks: Vec<&[f32]> = atoms.chunks(BLOCK * d).collect();
            let products = par.map(blocks.len(), |b| products(isa, blocks[b], atoms, d));
            products.into_iter().flatten().collect()
        });
        Self { isa, atoms, d, gram }
    }

    /// Computes [`composed`]. `random` caches the values of random directions, which depend on the number of rows
    /// alone.
    fn composed(&self, par: Par, rows: &[f32], draws: Draws, random: &mut Option<Random>) -> Result<Composed> {
        let d = self.d;
        let all = directions("directions of level 2", rows, d)?;
        let n = (all.len() / d).min(MAX_FITTED);
        let thinned: Vec<f32> = (0..n).flat_map(|i| all[i * (all.len() / d) / n * d..][..d].iter().copied()).collect();
        let value = self.mean(par, &thinned);
        let rng = |draw: usize| Philox::new(draws.seed, STREAM + draw as u64);
        // Mixtures of very few rows may have norm 0, and are left out.
        let mean = |rows: &[f32]| self.mean(Par::Seq, &directions("random directions", rows, d).unwrap_or_default());
        let known = random.take().filter(|known| known.0 == n);
        let (_, random) = random.insert(known.unwrap_or_else(|| {
            let of = |draw| {
                let mut rng = rng(draw);
                mean(&Vec::from_iter((0..n * d).map(|_| rng.normal_f32())))
            };
            (n, par.map(draws.n, of))
        }));
        let mixed = par.map(draws.n, |draw| {
            let mut rng = rng(MIXTURES + draw);
            let mut mixed = vec![0.0; n * d];
            for out in mixed.chunks_exact_mut(d) {
                for _ in 0..MIXED {
                    let (sign, i) = (if rng.below(2) == 0 { 1.0 } else { -1.0 }, rng.below(n as u64) as usize);
                    reduce::axpy(self.isa, sign, &thinned[i * d..(i + 1) * d], out);
                }
            }
            mean(&mixed)
        });
        let scores = |null: &[[f64; ATOMS]]| core::array::from_fn(|s| Score::new(value[s], null.iter().map(|r| r[s])));
        Ok(Composed { directions: n, r2: scores(random), r2_mixed: scores(&mixed) })
    }

    /// Returns the mean `R^2(s)` of the unit rows of `rows`; NaN without rows.
    fn mean(&self, par: Par, rows: &[f32]) -> [f64; ATOMS] {
        let blocks: Vec<&[f32]> = rows.chunks(BLOCK * self.d).collect();
        let parts = par.map(blocks.len(), |b| self.block(blocks[b]));
        let mut sum = [0.0; ATOMS];
        for r2 in parts.iter().flatten() {
            sum.iter_mut().zip(r2).for_each(|(s, r)| *s += r);
        }
        sum.map(|s| s / (rows.len() / self.d) as f64)
    }

    /// Returns `R^2(s)` of each row of a block. With the products `c = A v` and the Gram matrix `G = A A^T`, the
    /// residual of a row after the atoms `S` has the products `c - G_S w` with all atoms, `w = G_SS^-1 c_S`. Atoms are
    /// chosen by products in `f32`; the fit itself is in `f64`.
    fn block(&self, rows: &[f32]) -> Vec<[f64; ATOMS]> {
        let (d, m) = (self.d, self.atoms.len() / self.d);
        let n = rows.len() / d;
        let whole = products(self.isa, rows, self.atoms, d);
        let mut left = whole.clone();
        let mut fit = vec![Fit::default(); n];
        let mut r2 = vec![[0.0f64; ATOMS]; n];
        for s in 0..ATOMS {
            for i in 0..n {
                let scores = &left[i * m..(i + 1) * m];
                let largest = scores.iter().fold(0.0f32, |most, s| if s.abs() > most { s.abs() } else { most });
                if let Some(j) = scores.iter().position(|s| s.abs() == largest) {
                    fit[i].add(
                        j,
                        |k| wide::dot(self.isa, self.atom(j), self.atom(k)),
                        || wide::dot(self.isa, self.atom(j), &rows[i * d..(i + 1) * d]),
                    );
                }
                r2[i][s] = fit[i].explained().min(1.0);
            }
            if s + 1 == ATOMS {
                break;
            }
            left.copy_from_slice(&whole);
            for k in 0..=s {
                let own;
                let all = if let Some(gram) = &self.gram {
                    gram
                } else {
                    let chosen = fit.iter().flat_map(|f| self.atom(f.atom[k]).iter().copied());
                    own = products(self.isa, &Vec::from_iter(chosen), self.atoms, d);
                    &own
                };
                for (i, left) in left.chunks_exact_mut(m).enumerate().filter(|(i, _)| k < fit[*i].len) {
                    let row = if self.gram.is_some() { fit[i].atom[k] } else { i };
                    let w = fit[i].weights()[k] as f32;
                    reduce::axpy(self.isa, -w, &all[row * m..(row + 1) * m], left);
                }
            }
        }
        r2
    }

    fn atom(&self, j: usize) -> &[f32] {
        &self.atoms[j * self.d..(j + 1) * self.d]
    }
}

/// Returns the products of all rows with all atoms, `[n, m]`.
fn products(isa: Isa, rows: &[f32], atoms: &[f32], d: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows.len() / d * (atoms.len() / d)];
    dense::affine(isa, rows, atoms, d, None, &mut out);
    out
}

/// A least-squares fit to a few atoms by a Cholesky decomposition, `L L^T = G_SS` and `L y = c_S`, in the notation of
/// [`Pursuit::block`].
#[derive(Clone, Copy, Default)]
struct Fit {
    len: usize,
    atom: [usize; ATOMS],
    l: [[f64; ATOMS]; ATOMS],
    y: [f64; ATOMS],
}

impl Fit {
    /// Adds atom `j` to the fit, unless it depends linearly on the others. `with` gives its product with another atom
    /// or itself, `along` that with the vector that is fitted.
    fn add(&mut self, j: usize, with: impl Fn(usize) -> f64, along: impl Fn() -> f64) {
        let n = self.len;
        let mut row = [0.0; ATOMS];
        for k in 0..n {
            let sum: f64 = (0..k).map(|i| row[i] * self.l[k][i]).sum();
            row[k] = (with(self.atom[k]) - sum) / self.l[k][k];
        }
        let pivot = libm::sqrt((with(j) - row[..n].iter().map(|l| l * l).sum::<f64>()).max(0.0));
        if pivot > DEPENDENT {
            row[n] = pivot;
            self.y[n] = (along() - (0..n).map(|k| row[k] * self.y[k]).sum::<f64>()) / pivot;
            (self.l[n], self.atom[n], self.len) = (row, j, n + 1);
        }
    }

    /// Returns the share of a unit vector's squared norm that lies in the span of the atoms.
    fn explained(&self) -> f64 {
        self.y.iter().map(|y| y * y).sum()
    }

    /// Returns the coefficients `w` of the atoms, `L^T w = y`.
    fn weights(&self) -> [f64; ATOMS] {
        let mut w = [0.0; ATOMS];
        for k in (0..self.len).rev() {
            let sum: f64 = (k + 1..self.len).map(|i| self.l[i][k] * w[i]).sum();
            w[k] = (self.y[k] - sum) / self.l[k][k];
        }
        w
    }
}

/// Returns the part of `row` that is orthogonal to the orthonormal `basis`, of norm 1; none if the row is in its span.
fn remainder(isa: Isa, row: &[f32], basis: &[Vec<f64>]) -> Option<Vec<f64>> {
    let mut v: Vec<f64> = row.iter().map(|w| f64::from(*w)).collect();
    // Twice, since after one pass the remainder may be as small as its rounding error.
    for _ in 0..2 {
        for q in basis {
            wide::subtract64(isa, wide::dot64(isa, &v, q), q, &mut v);
        }
    }
    let norm = libm::sqrt(wide::dot64(isa, &v, &v));
    v.iter_mut().for_each(|v| *v /= norm);
    (norm > DEPENDENT).then_some(v)
}

/// How much of level 2's directions lies in those of level 1.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Explained {
    /// `mean_j ||P D2_j||^2`, `P` the projection on the span of level 1's rows. 0 to 1; compare with `span_chance`. 1
    /// as soon as level 1 has `d` independent rows.
    pub span: f64,
    /// `rank / d`, the expectation for random directions.
    pub span_chance: f64,
    /// Mean over edges of `cos^2(D1_p, D2_c)`: the share of the child's direction that is its parent's. 0 to 1. The
    /// null are the same children with the parents of others.
    pub by_parent: Score,
    /// Edges: children with a parent, both with a direction.
    pub edges: usize,
}

/// Computes [`Explained`]; the arguments are those of [`levels`].
///
/// Cost: `rank f2 d` multiplications, at most.
///
/// # Errors
/// As [`levels`].
pub fn explained(
    isa: Isa,
    decoder1: &[f32],
    decoder2: &[f32],
    d: usize,
    parent: &[u32],
    draws: Draws,
) -> Result<Explained> {
    let (one, has1) = unit("decoder of level 1", decoder1, d)?;
    let (two, has2) = unit("decoder of level 2", decoder2, d)?;
    if parent.len() != has2.len() {
        return Err(Error::Shape { what: "learned parents", expected: has2.len(), got: parent.len() });
    }
    check_parents("learned parents", parent, has1.len())?;
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for row in one.chunks_exact(d) {
        if basis.len() < d
            && let Some(next) = remainder(isa, row, &basis)
        {
            basis.push(next);
        }
    }
    let kept = || two.chunks_exact(d).zip(&has2).filter(|(_, h)| **h).map(|(r, _)| r);
    let square = |v: f64| v * v;
    let shares = kept().map(|row| basis.iter().map(|q| square(wide::dot_wide(isa, row, q))).sum::<f64>().min(1.0));
    let span = shares.sum::<f64>() / kept().count() as f64;
    let edges: Vec<(usize, usize)> = (0..parent.len())
        .filter(|&j| parent[j] != ROOT && has2[j] && has1[parent[j] as usize])
        .map(|j| (j, parent[j] as usize))
        .collect();
    let cosine = |j: usize, p: usize| -> f64 { wide::dot(isa, &two[j * d..(j + 1) * d], &one[p * d..(p + 1) * d]) };
    let mean = |parents: &mut dyn Iterator<Item = usize>| {
        edges.iter().zip(parents).map(|((j, _), p)| square(cosine(*j, p))).sum::<f64>() / edges.len() as f64
    };
    let value = mean(&mut edges.iter().map(|e| e.1));
    let null: Vec<f64> = (0..draws.n)
        .map(|draw| {
            let mut parents: Vec<usize> = edges.iter().map(|e| e.1).collect();
            Philox::new(draws.seed, STREAM + (1 << 31) + draw as u64).shuffle(&mut parents);
            mean(&mut parents.into_iter())
        })
        .collect();
    Ok(Explained {
        span,
        span_chance: basis.len() as f64 / d as f64,
        by_parent: Score::new(value, null.iter().copied()),
        edges: edges.len(),
    })
}

/// The structure of one model: the scores of this module, and those of [`stability`](super::stability) that concern one
/// run.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StructureReport {
    /// Level 1 by itself.
    pub level1: DictionaryReport,
    /// The nearest directions of level 1.
    pub nearest1: Nearest,
    /// The scores of level 2; none for a flat model.
    pub level2: Option<Level2Structure>,
}

/// Level 2, and level 2 against level 1.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Level2Structure {
    /// Level 2 by itself.
    pub dictionary: DictionaryReport,
    /// The nearest directions of level 2.
    pub nearest: Nearest,
    /// Duplicates and hedging.
    pub levels: LevelsReport,
    /// How much of its directions lies in those of level 1.
    pub explained: Explained,
    /// Its directions as compositions of those of level 1.
    pub composed: Composed,
    /// The same of effective children; none if they were not given.
    pub effective: Option<Composed>,
}

/// The decoders of a model.
#[derive(Clone, Copy, Debug)]
pub struct Decoders<'a> {
    /// Width of a row, not 0.
    pub d: usize,
    /// `[f1, d]` row-major.
    pub level1: &'a [f32],
    /// `[f2, d]` row-major, in the space of the activations; empty for a flat model.
    pub level2: &'a [f32],
    /// `[f2]`: latents of level 1, or [`ROOT`]; empty for a model without families, which is all [`ROOT`].
    pub parent: &'a [u32],
    /// `[f2, d]`: [`effective_children`](super::coherence::geometry::effective_children), if they are known.
    pub effective: Option<&'a [f32]>,
}

/// Measures the structure of a model's decoders.
///
/// # Errors
/// As [`dictionary`], [`levels`], [`explained`] and [`composed`].
pub fn structure(compute: Compute, of: &Decoders<'_>, draws: Draws) -> Result<StructureReport> {
    let Compute { isa, par } = compute;
    let Decoders { d, level1, level2, .. } = *of;
    let (report, nearest1) = (dictionary(compute, level1, d)?, nearest(compute, level1, d)?);
    let mut found = StructureReport { level1: report, nearest1, level2: None };
    if level2.is_empty() {
        return Ok(found);
    }
    let root;
    let parent = if of.parent.is_empty() {
        root = vec![ROOT; level2.len() / d];
        &root
    } else {
        of.parent
    };
    let atoms = directions("decoder of level 1", level1, d)?;
    let (pursuit, mut random) = (Pursuit::new(compute, &atoms, d), None);
    found.level2 = Some(Level2Structure {
        dictionary: dictionary(compute, level2, d)?,
        nearest: nearest(compute, level2, d)?,
        levels: levels(compute, level1, level2, d, parent)?,
        explained: explained(isa, level1, level2, d, parent, draws)?,
        composed: pursuit.composed(par, level2, draws, &mut random)?,
        effective: of.effective.map(|rows| pursuit.composed(par, rows, draws, &mut random)).transpose()?,
    });
    Ok(found)
}
