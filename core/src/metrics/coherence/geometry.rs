//! How well a partition of directions fits: silhouette and other indices of clusterings, for families and for random
//! ones.

use alloc::vec;
use alloc::vec::Vec;

use super::{Draws, Partition, Score, counts_of, sizes};
use crate::compute::Compute;
use crate::error::At;
use crate::kernel::Isa;
use crate::kernel::dense;
use crate::{Error, ROOT, Result};

/// Rows that are multiplied at a time.
pub(super) const BLOCK: usize = 64;
/// Below this squared distance of two means, the distance is computed from their difference, since `|a|^2 + |b|^2 - 2 a
/// . b` would lose its digits.
const NEAR: f64 = 1e-3;

/// Fit of a partition to unit vectors `x_i`. `S_C` is the sum of cluster `C`, `mu_C = S_C / n_C`, and there are `K`
/// clusters of `n` vectors. Everything except `clusters` and `singletons` is NaN for `K < 2` and for `K = n`.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Geometry {
    /// Mean over vectors of `(b - a) / max(a, b)`, `a = 1 - (x . S_C - 1) / (n_C - 1)` the mean cosine distance to the
    /// rest of the cluster, `b = min_{C' != C} 1 - x . mu_C'`; 0 for singletons and for `max(a, b) = 0`. -1 to 1,
    /// higher is better, 0 or less is chance.
    pub silhouette: f64,
    /// The same without singletons; NaN if there are only singletons.
    pub silhouette_of_pairs: f64,
    /// `[sum_C n_C ||mu_C - mu||^2 / (K - 1)] / [sum_C sum_i ||x_i - mu_C||^2 / (n - K)]` (Calinski and Harabasz). 0
    /// and up, higher is better, 1 is chance; NaN if every vector is its cluster's mean.
    pub calinski_harabasz: f64,
    /// `mean_C max_{C' != C} (s_C + s_C') / ||mu_C - mu_C'||`, `s_C` the mean distance to `mu_C` (Davies and Bouldin);
    /// clusters with one mean are not compared. 0 and up, lower is better.
    pub davies_bouldin: f64,
    /// `sum_C (||S_C||^2 - n_C) / sum_C n_C (n_C - 1)`: mean cosine of two vectors of one cluster. -1 to 1, higher is
    /// better.
    pub intra_cosine: f64,
    /// `(||sum_C S_C||^2 - sum_C ||S_C||^2) / (n^2 - sum_C n_C^2)`: mean cosine of two vectors of different clusters.
    /// -1 to 1, lower is better.
    pub inter_cosine: f64,
}

/// One family.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct FamilyGeometry {
    /// The parent (the name of the cluster).
    pub parent: u32,
    /// Vectors in it.
    pub size: u32,
    /// Mean silhouette of its vectors. -1 to 1, higher is better; 0 for a singleton.
    pub silhouette: f64,
    /// `(||S_C||^2 - n_C) / (n_C (n_C - 1))`. -1 to 1, higher is better; NaN for a singleton.
    pub intra_cosine: f64,
}

/// The geometry of families, each score with that of random families.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct GeometryReport {
    /// Number of vectors.
    pub vectors: usize,
    /// Families with at least one vector.
    pub clusters: usize,
    /// Families with exactly one vector.
    pub singletons: usize,
    /// Latents left out: under [`ROOT`].
    pub root: usize,
    /// Latents left out: not alive.
    pub not_alive: usize,
    /// Latents left out: their vector is 0.
    pub without_direction: usize,
    /// See [`Geometry::silhouette`].
    pub silhouette: Score,
    /// See [`Geometry::silhouette_of_pairs`].
    pub silhouette_of_pairs: Score,
    /// See [`Geometry::calinski_harabasz`].
    pub calinski_harabasz: Score,
    /// See [`Geometry::davies_bouldin`]; here a negative `z` is better than chance.
    pub davies_bouldin: Score,
    /// See [`Geometry::intra_cosine`].
    pub intra_cosine: Score,
    /// See [`Geometry::inter_cosine`]; here a negative `z` is better than chance.
    pub inter_cosine: Score,
    /// Every family, by parent.
    pub family: Vec<FamilyGeometry>,
}

/// Unit vectors, `[n, d]`.
#[derive(Clone, Debug)]
pub struct Directions {
    pub(super) unit: Vec<f32>,
    pub(super) d: usize,
}

impl Directions {
    /// Returns `rows[j] / ||rows[j]||` for the latents of `partition`, and the partition of those whose row is not 0.
    ///
    /// | argument | shape | layout |
    /// |---|---|---|
    /// | `rows` | `[latents, d]` | row-major, `d > 0` |
    ///
    /// Norms in `f64`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `rows` are not whole rows, [`Error::Index`] if a latent has none, [`Error::NotFinite`]
    /// (with the latent).
    pub fn new(rows: &[f32], d: usize, partition: &Partition) -> Result<(Self, Partition)> {
        if d == 0 || !rows.len().is_multiple_of(d) {
            return Err(Error::Shape { what: "entries of a row of directions", expected: d, got: rows.len() });
        }
        let len = rows.len() / d;
        if let Some(&j) = partition.latent.iter().find(|&&j| j as usize >= len) {
            return Err(Error::Index { what: "the direction", index: j as usize, len });
        }
        let row = |j: usize| &rows[j * d..(j + 1) * d];
        let norm = |j: usize| libm::sqrt(row(j).iter().map(|w| f64::from(*w) * f64::from(*w)).sum::<f64>());
        if let Some(&j) = partition.latent.iter().find(|&&j| !norm(j as usize).is_finite()) {
            return Err(Error::NotFinite { what: "the direction".into(), at: At::Latent(u64::from(j)) });
        }
        let kept = partition.retain(|j| norm(j) > 0.0);
        let mut unit = Vec::with_capacity(kept.len() * d);
        for &j in &kept.latent {
            let norm = norm(j as usize);
            unit.extend(row(j as usize).iter().map(|w| (f64::from(*w) / norm) as f32));
        }
        Ok((Self { unit, d }, kept))
    }

    /// Does what [`Directions::new`] does, and checks that there is a firing count for each row.
    pub(super) fn with_counts(
        rows: &[f32],
        d: usize,
        partition: &Partition,
        fires: &[u64],
    ) -> Result<(Self, Partition)> {
        let made = Self::new(rows, d, partition)?;
        if fires.len() != rows.len() / d {
            return Err(Error::Shape { what: "firing counts", expected: rows.len() / d, got: fires.len() });
        }
        Ok(made)
    }

    /// Returns the number of vectors.
    pub fn n(&self) -> usize {
        self.unit.len() / self.d
    }

    pub(super) fn row(&self, i: usize) -> &[f32] {
        &self.unit[i * self.d..(i + 1) * self.d]
    }

    /// Returns the scores of the labelling `label` with values in `0..clusters`, none of them empty.
    ///
    /// Cosines with means in `f32`, everything else in `f64`, in index order: the same bits on every instruction set.
    /// Cost: `n K d` multiplications; `K (d + 64)` numbers of memory.
    ///
    /// # Panics
    /// If there is not one label for each vector, or a cluster is empty.
    pub fn score(&self, isa: Isa, label: &[u32], clusters: usize) -> Geometry {
        self.score_each(isa, label, clusters).0
    }

    /// Returns what [`Directions::score`] does, the silhouette of each vector, and the squared norm of each cluster's
    /// sum.
    fn score_each(&self, isa: Isa, label: &[u32], clusters: usize) -> (Geometry, Vec<f64>, Vec<f64>) {
        assert_eq!(label.len(), self.n(), "a label for each vector");
        let (n, d, size) = (self.n(), self.d, sizes(label, clusters));
        assert!(size.iter().all(|s| *s > 0), "clusters are not empty");
        let mut mean = vec![0.0f64; clusters * d];
        for (i, &c) in label.iter().enumerate() {
            let mean = &mut mean[c as usize * d..][..d];
            mean.iter_mut().zip(self.row(i)).for_each(|(m, x)| *m += f64::from(*x));
        }
        let mut all = vec![0.0f64; d];
        mean.chunks_exact(d).for_each(|m| all.iter_mut().zip(m).for_each(|(a, m)| *a += m));
        let total: f64 = all.iter().map(|a| a * a).sum();
        let mut sum_square = vec![0.0f64; clusters];
        for (c, m) in mean.chunks_exact_mut(d).enumerate() {
            sum_square[c] = m.iter().map(|m| m * m).sum();
            m.iter_mut().for_each(|m| *m /= f64::from(size[c]));
        }
        let mut each = vec![0.0; n];
        if clusters < 2 || clusters == n {
            let nan = f64::NAN;
            let geometry = Geometry {
                silhouette: nan,
                silhouette_of_pairs: nan,
                calinski_harabasz: nan,
                davies_bouldin: nan,
                intra_cosine: nan,
                inter_cosine: nan,
            };
            return (geometry, each, sum_square);
        }

        let single: Vec<f32> = mean.iter().map(|m| *m as f32).collect();
        let mut cosine = vec![0.0f32; BLOCK * clusters];
        for (b, rows) in self.unit.chunks(BLOCK * d).enumerate() {
            let cosine = &mut cosine[..rows.len() / d * clusters];
            dense::affine(isa, rows, &single, d, None, cosine);
            for (k, cosine) in cosine.chunks_exact(clusters).enumerate() {
                let i = b * BLOCK + k;
                each[i] = silhouette(cosine, label[i] as usize, f64::from(size[label[i] as usize]));
            }
        }

        let (mut within, mut spread) = (0.0, vec![0.0; clusters]);
        for (i, &c) in label.iter().enumerate() {
            let mean = &mean[c as usize * d..][..d];
            let square: f64 =
                self.row(i).iter().zip(mean).map(|(x, m)| (f64::from(*x) - m) * (f64::from(*x) - m)).sum();
            within += square;
            spread[c as usize] += libm::sqrt(square) / f64::from(size[c as usize]);
        }
        let count = |c: usize| f64::from(size[c]);
        let of = |f: &dyn Fn(usize) -> f64| (0..clusters).map(f).sum::<f64>();
        let (n, k) = (n as f64, clusters as f64);
        let between = of(&|c| sum_square[c] / count(c)) - total / n;
        let squares = of(&|c| sum_square[c]);
        let pairs = n - size.iter().filter(|s| **s == 1).count() as f64;
        let sum: f64 = each.iter().sum();
        let geometry = Geometry {
            silhouette: sum / n,
            silhouette_of_pairs: sum / pairs,
            calinski_harabasz: if within > 0.0 { between / (k - 1.0) / (within / (n - k)) } else { f64::NAN },
            davies_bouldin: davies_bouldin(isa, &mean, &single, &spread),
            intra_cosine: (squares - n) / of(&|c| count(c) * (count(c) - 1.0)),
            inter_cosine: (total - squares) / (n * n - of(&|c| count(c) * count(c))),
        };
        (geometry, each, sum_square)
    }
}

/// Returns the silhouette of a vector with these cosines to the mean of each cluster; `own` is its cluster, of size
/// `size`.
fn silhouette(cosine: &[f32], own: usize, size: f64) -> f64 {
    if size == 1.0 {
        return 0.0;
    }
    let nearest = cosine.iter().enumerate().filter(|(c, _)| *c != own).fold(f32::NEG_INFINITY, |m, (_, v)| m.max(*v));
    let a = (1.0 - (f64::from(cosine[own]) * size - 1.0) / (size - 1.0)).max(0.0);
    let b = (1.0 - f64::from(nearest)).max(0.0);
    if a.max(b) > 0.0 { (b - a) / a.max(b) } else { 0.0 }
}

/// Returns the index of Davies and Bouldin. `means` is `mean` in `f32`, `spread` the mean distance of each cluster to
/// its mean.
fn davies_bouldin(isa: Isa, mean: &[f64], means: &[f32], spread: &[f64]) -> f64 {
    let (k, d) = (spread.len(), mean.len() / spread.len().max(1));
    let row = |c: usize| &mean[c * d..(c + 1) * d];
    let square: Vec<f64> = mean.chunks_exact(d).map(|m| m.iter().map(|m| m * m).sum()).collect();
    let (mut single, mut product) = (vec![0.0f32; d], vec![0.0f32; k]);
    let mut sum = 0.0;
    for a in 0..k {
        single.iter_mut().zip(row(a)).for_each(|(s, m)| *s = *m as f32);
        dense::affine(isa, &single, means, d, None, &mut product);
        let mut worst = 0.0f64;
        for b in (0..k).filter(|&b| b != a) {
            let mut distance = square[a] + square[b] - 2.0 * f64::from(product[b]);
            if distance < NEAR {
                distance = row(a).iter().zip(row(b)).map(|(a, b)| (a - b) * (a - b)).sum();
            }
            if distance > 0.0 {
                worst = worst.max((spread[a] + spread[b]) / libm::sqrt(distance));
            }
        }
        sum += worst;
    }
    sum / k as f64
}

/// Returns the geometry of the families of `partition` in the rows of `rows`, `[latents, d]`: decoder rows, or
/// [`effective_children`].
///
/// Cost: `n K d` multiplications for the families and for each draw.
///
/// # Errors
/// As [`Directions::new`], and [`Error::Shape`] if there is not a firing count for each row.
pub fn geometry(
    compute: Compute,
    rows: &[f32],
    d: usize,
    partition: &Partition,
    fires: &[u64],
    draws: Draws,
) -> Result<GeometryReport> {
    let Compute { isa, par } = compute;
    let (directions, kept) = Directions::with_counts(rows, d, partition, fires)?;
    let (clusters, label) = (kept.clusters(), kept.labels());
    let draws = if kept.is_proper() { draws } else { Draws { n: 0, ..draws } };
    let [silhouette, silhouette_of_pairs, calinski_harabasz, davies_bouldin, intra_cosine, inter_cosine] =
        Score::of(par, draws, &counts_of(&kept, fires), label, |label| {
            let g = directions.score(isa, label, clusters);
            let silhouettes = [g.silhouette, g.silhouette_of_pairs];
            let [s, p] = silhouettes;
            [s, p, g.calinski_harabasz, g.davies_bouldin, g.intra_cosine, g.inter_cosine]
        });
    let (_, each, sum_square) = directions.score_each(isa, label, clusters);
    let mut sums = vec![0.0; clusters];
    label.iter().zip(&each).for_each(|(&c, s)| sums[c as usize] += s);
    let family = (0..clusters)
        .map(|c| {
            let size = f64::from(kept.size[c]);
            FamilyGeometry {
                parent: kept.name[c],
                size: kept.size[c],
                silhouette: if kept.is_proper() { sums[c] / size } else { f64::NAN },
                intra_cosine: if size > 1.0 { (sum_square[c] - size) / (size * (size - 1.0)) } else { f64::NAN },
            }
        })
        .collect();
    Ok(GeometryReport {
        vectors: kept.len(),
        clusters,
        singletons: kept.size.iter().filter(|s| **s == 1).count(),
        root: kept.root,
        not_alive: kept.not_alive,
        without_direction: partition.len() - kept.len(),
        silhouette,
        silhouette_of_pairs,
        calinski_harabasz,
        davies_bouldin,
        intra_cosine,
        inter_cosine,
        family,
    })
}

/// Returns the effective direction of each child, which it writes together with its parent: `v_j = D2_j + rho_j
/// D1_pi(j)`, with `pi(j)` the parent of `j`, and `D2_j` under [`ROOT`].
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `decoder1`, `decoder2` | `[f1, d]`, `[f2, d]` | row-major |
/// | `rho` | `[f2]` | [`Cofiring::ratios`](super::cofiring::Cofiring::ratios); where NaN, `v_j = 0` (no direction) |
/// | result | `[f2, d]` | row-major |
///
/// Siblings share `D1_pi(j)`, so they are close to each other by construction: compare with the null, and with the
/// decoder rows.
///
/// # Errors
/// [`Error::Shape`] where sizes disagree, [`Error::Index`] for a parent out of range.
pub fn effective_children(
    d: usize,
    decoder1: &[f32],
    decoder2: &[f32],
    parent: &[u32],
    rho: &[f64],
) -> Result<Vec<f32>> {
    let f2 = parent.len();
    for (what, expected, got) in [("decoder of level 2", f2 * d, decoder2.len()), ("ratios", f2, rho.len())] {
        if expected != got {
            return Err(Error::Shape { what, expected, got });
        }
    }
    super::super::check_parents("learned parents", parent, decoder1.len() / d.max(1))?;
    let mut out = decoder2.to_vec();
    for j in (0..f2).filter(|&j| parent[j] != ROOT) {
        let v = &mut out[j * d..(j + 1) * d];
        if rho[j].is_nan() {
            v.fill(0.0);
        } else {
            let p = parent[j] as usize;
            let row = &decoder1[p * d..(p + 1) * d];
            v.iter_mut().zip(row).for_each(|(v, w)| *v = (f64::from(*v) + rho[j] * f64::from(*w)) as f32);
        }
    }
    Ok(out)
}
