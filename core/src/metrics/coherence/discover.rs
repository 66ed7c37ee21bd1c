//! Clusters that are found without the families: spherical k-means, and Louvain on a graph of neighbours.

use alloc::vec;
use alloc::vec::Vec;

use super::geometry::{BLOCK, Directions};
use crate::compute::Compute;
use crate::kernel::dense;
use crate::kernel::{Isa, reduce};
use crate::rng::Philox;

/// Rounds of k-means, and passes of Louvain over the nodes, after which it stops unconverged.
pub const MAX_ROUNDS: usize = 100;
/// The random streams of the restarts: this number plus that of the restart.
const STREAM: u64 = 0x6b6d_6561 << 32;
/// A gain of modularity up to this, relative to the weight of all edges, may be rounding.
const LEAST_GAIN: f64 = 1e-12;

/// The result of [`spherical_kmeans`].
#[derive(Clone, Debug, PartialEq)]
pub struct KMeans {
    /// The cluster of each vector, in `0..k`.
    pub label: Vec<u32>,
    /// `mean_i x_i . S_C(i) / ||S_C(i)||`: mean cosine with the own centre. Up to 1, higher is better.
    pub objective: f64,
    /// Restarts that still moved after [`MAX_ROUNDS`] rounds.
    pub unconverged: usize,
}

/// Clusters unit vectors by cosine: the best of `restarts` runs of Lloyd's rounds, each from its own k-means++ seeding.
///
/// Ties go to the lowest centre and to the first restart. A cluster that becomes empty takes the vector that is
/// farthest from its centre (of a cluster of at least two). Cosines in `f32`, sums in `f64`, in index order. Cost: `n k
/// d` multiplications per round, and as many for the seeding.
///
/// # Panics
/// If `k` is 0 or more than the vectors, or `restarts` is 0.
pub fn spherical_kmeans(compute: Compute, x: &Directions, k: usize, restarts: usize, seed: u64) -> KMeans {
    let Compute { isa, par } = compute;
    assert!(k > 0 && k <= x.n(), "k-means: {k} clusters of {} vectors", x.n());
    assert!(restarts > 0, "k-means: no restarts");
    let runs = par.map(restarts, |r| lloyd(isa, x, k, Philox::new(seed, STREAM + r as u64)));
    let unconverged = runs.iter().filter(|r| !r.2).count();
    let best = runs.into_iter().reduce(|best, run| if run.1 > best.1 { run } else { best });
    let (label, objective, _) = best.expect("at least one restart");
    KMeans { label, objective, unconverged }
}

/// Runs Lloyd's algorithm once: returns labels, objective, and whether it converged.
fn lloyd(isa: Isa, x: &Directions, k: usize, mut rng: Philox) -> (Vec<u32>, f64, bool) {
    let (n, d) = (x.n(), x.d);
    let mut centre = seeding(isa, x, k, &mut rng);
    let mut cosine = vec![0.0f32; BLOCK * k];
    let (mut label, mut own) = (vec![u32::MAX; n], vec![0.0f32; n]);
    let mut converged = false;
    for _ in 0..MAX_ROUNDS {
        let mut moved = false;
        for (b, rows) in x.unit.chunks(BLOCK * d).enumerate() {
            let cosine = &mut cosine[..rows.len() / d * k];
            dense::affine(isa, rows, &centre, d, None, cosine);
            for (r, cosine) in cosine.chunks_exact(k).enumerate() {
                let best = (0..k).fold(0, |best, c| if cosine[c] > cosine[best] { c } else { best });
                let i = b * BLOCK + r;
                moved |= label[i] != best as u32;
                (label[i], own[i]) = (best as u32, cosine[best]);
            }
        }
        moved |= fill_empty(&mut label, &mut own, k);
        if !moved {
            converged = true;
            break;
        }
        centre = centres(x, &label, k, &centre);
    }
    // The objective uses the centres of the final labels.
    let centre = centres(x, &label, k, &centre);
    let total: f64 = (0..n)
        .map(|i| f64::from(reduce::dot(isa, x.row(i), &centre[label[i] as usize * d..(label[i] as usize + 1) * d])))
        .sum();
    (label, total / n as f64, converged)
}

/// Chooses the first centres by k-means++: each next centre is a vector drawn with a probability in proportion to its
/// cosine distance to the nearest centre so far.
fn seeding(isa: Isa, x: &Directions, k: usize, rng: &mut Philox) -> Vec<f32> {
    let n = x.n();
    let mut nearest = vec![f32::INFINITY; n];
    let mut centre = Vec::with_capacity(k * x.d);
    let mut chosen = vec![false; n];
    let mut next = rng.below(n as u64) as usize;
    loop {
        chosen[next] = true;
        centre.extend_from_slice(x.row(next));
        if centre.len() == k * x.d {
            return centre;
        }
        for i in 0..n {
            nearest[i] = nearest[i].min((1.0 - reduce::dot(isa, x.row(i), x.row(next))).max(0.0));
        }
        let weight = |i: usize| if chosen[i] { 0.0 } else { f64::from(nearest[i]) };
        let mut left = rng.uniform_f64() * (0..n).map(weight).sum::<f64>();
        let drawn = (0..n).filter(|&i| weight(i) > 0.0).find(|&i| {
            left -= weight(i);
            left < 0.0
        });
        // If all other vectors are copies of centres, or rounding passes the end, take the first vector that is not a
        // centre.
        next = drawn.or_else(|| (0..n).find(|&i| !chosen[i])).expect("fewer centres than vectors");
    }
}

/// Moves the vector farthest from its centre into each empty cluster; returns whether any was empty.
fn fill_empty(label: &mut [u32], own: &mut [f32], k: usize) -> bool {
    let mut size = super::sizes(label, k);
    let mut filled = false;
    for c in 0..k {
        if size[c] == 0 {
            let worst = (0..label.len())
                .filter(|&i| size[label[i] as usize] > 1)
                .reduce(|worst, i| if own[i] < own[worst] { i } else { worst })
                .expect("fewer clusters than vectors");
            size[label[worst] as usize] -= 1;
            size[c] = 1;
            (label[worst], own[worst]) = (c as u32, 1.0);
            filled = true;
        }
    }
    filled
}

/// Returns the centres `S_C / ||S_C||`, with `S_C` the sum of the vectors of cluster `C`; the old centre where `S_C =
/// 0`.
fn centres(x: &Directions, label: &[u32], k: usize, old: &[f32]) -> Vec<f32> {
    let d = x.d;
    let mut sum = vec![0.0f64; k * d];
    for (i, &c) in label.iter().enumerate() {
        sum[c as usize * d..][..d].iter_mut().zip(x.row(i)).for_each(|(s, x)| *s += f64::from(*x));
    }
    let mut centre = old.to_vec();
    for (centre, sum) in centre.chunks_exact_mut(d).zip(sum.chunks_exact(d)) {
        let norm = libm::sqrt(sum.iter().map(|s| s * s).sum());
        if norm > 0.0 {
            centre.iter_mut().zip(sum).for_each(|(c, s)| *c = (s / norm) as f32);
        }
    }
    centre
}

/// Returns the `k` other vectors of highest cosine for each vector, highest first (ties to the lower index), with the
/// cosines.
///
/// Cosines in `f32`. Cost: `n^2 d` multiplications.
pub fn nearest(compute: Compute, x: &Directions, k: usize) -> Vec<Vec<(u32, f32)>> {
    let Compute { isa, par } = compute;
    let (n, d) = (x.n(), x.d);
    let blocks = par.map(n.div_ceil(BLOCK), |b| {
        let rows = &x.unit[b * BLOCK * d..((b + 1) * BLOCK).min(n) * d];
        let mut cosine = vec![0.0f32; rows.len() / d * n];
        dense::affine(isa, rows, &x.unit, d, None, &mut cosine);
        let near = cosine.chunks_exact(n).enumerate().map(|(r, cosine)| {
            let i = b * BLOCK + r;
            let mut order: Vec<u32> = (0..n as u32).filter(|&j| j as usize != i).collect();
            let by = |a: &u32, b: &u32| cosine[*b as usize].total_cmp(&cosine[*a as usize]).then(a.cmp(b));
            if order.len() > k {
                order.select_nth_unstable_by(k, by);
                order.truncate(k);
            }
            order.sort_unstable_by(by);
            order.iter().map(|&j| (j, cosine[j as usize])).collect()
        });
        near.collect::<Vec<Vec<_>>>()
    });
    blocks.into_iter().flatten().collect()
}

/// An undirected weighted graph as the rows of its symmetric matrix `A`, `A_ii` being twice the weight of a loop.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    offset: Vec<usize>,
    to: Vec<u32>,
    weight: Vec<f64>,
}

impl Graph {
    /// Makes a graph from edges `(a, b, weight)`, `a != b`, each edge once.
    ///
    /// # Panics
    /// If an end is not below `n`, or a weight is negative or not finite.
    pub fn new(n: usize, edges: &[(u32, u32, f64)]) -> Self {
        let mut entries = Vec::with_capacity(2 * edges.len());
        for &(a, b, w) in edges {
            assert!(a != b && (a as usize) < n && (b as usize) < n, "edge {a}-{b} of {n} nodes");
            assert!(w >= 0.0 && w.is_finite(), "weight {w} of an edge");
            entries.extend([(a, b, w), (b, a, w)]);
        }
        Self::from_entries(n, entries)
    }

    /// Makes a graph from the entries of its matrix; entries of one position are added.
    fn from_entries(n: usize, mut entries: Vec<(u32, u32, f64)>) -> Self {
        // Stable, so that parallel entries are added in one order.
        entries.sort_by_key(|e| (e.0, e.1));
        let mut graph = Self { offset: vec![0; n + 1], to: Vec::new(), weight: Vec::new() };
        let mut last = None;
        for (a, b, w) in entries {
            if last == Some((a, b)) {
                *graph.weight.last_mut().expect("an entry before") += w;
            } else {
                graph.to.push(b);
                graph.weight.push(w);
                graph.offset[a as usize + 1] += 1;
            }
            last = Some((a, b));
        }
        (0..n).for_each(|i| graph.offset[i + 1] += graph.offset[i]);
        graph
    }

    /// Returns the number of nodes.
    pub fn n(&self) -> usize {
        self.offset.len() - 1
    }

    /// Returns the neighbours of a node with their weights.
    fn row(&self, i: usize) -> impl Iterator<Item = (usize, f64)> {
        let range = self.offset[i]..self.offset[i + 1];
        self.to[range.clone()].iter().zip(&self.weight[range]).map(|(j, w)| (*j as usize, *w))
    }

    /// Returns the sum of the weights at each node.
    fn degrees(&self) -> Vec<f64> {
        (0..self.n()).map(|i| self.row(i).map(|(_, w)| w).sum()).collect()
    }

    /// Makes the graph of the cosines of mutual neighbours: an edge where each is among the `k` of highest cosine of
    /// the other (ties to the lower index) and the cosine is positive.
    ///
    /// Cosines in `f32`. Cost: `n^2 d` multiplications.
    pub fn mutual_neighbours(compute: Compute, x: &Directions, k: usize) -> Self {
        let n = x.n();
        let mut near = nearest(compute, x, k);
        near.iter_mut().for_each(|row| row.sort_unstable_by_key(|e| e.0));
        let mut edges = Vec::new();
        for (i, row) in near.iter().enumerate() {
            for &(j, w) in row.iter().filter(|(j, w)| (*j as usize) > i && *w > 0.0) {
                if near[j as usize].binary_search_by_key(&(i as u32), |e| e.0).is_ok() {
                    edges.push((i as u32, j, f64::from(w)));
                }
            }
        }
        Self::new(n, &edges)
    }

    /// Returns `Q = sum_C [A_CC / 2m - (sum_{i in C} k_i / 2m)^2]`, `k_i` the degrees, `2m` their sum. -1/2 to 1,
    /// higher is better, 0: one cluster, or chance; NaN without edges.
    ///
    /// # Panics
    /// If there is not one label for each node.
    pub fn modularity(&self, label: &[u32]) -> f64 {
        assert_eq!(label.len(), self.n(), "a label for each node");
        let clusters = label.iter().max().map_or(0, |c| *c as usize + 1);
        let (degree, mut inside, mut total) = (self.degrees(), 0.0, vec![0.0; clusters]);
        for i in 0..self.n() {
            total[label[i] as usize] += degree[i];
            inside += self.row(i).filter(|(j, _)| label[*j] == label[i]).map(|(_, w)| w).sum::<f64>();
        }
        let all: f64 = total.iter().sum();
        inside / all - total.iter().map(|t| (t / all) * (t / all)).sum::<f64>()
    }

    /// Returns the clusters of Blondel, Guillaume, Lambiotte and Lefebvre 2008: nodes move to the neighbouring cluster
    /// of the highest gain of modularity, in index order (ties to the lowest cluster), until none gains; then clusters
    /// become nodes. They are numbered by their first node; a node without edges is a cluster by itself.
    pub fn louvain(&self) -> Vec<u32> {
        let mut label: Vec<u32> = (0..self.n() as u32).collect();
        let mut graph = self.clone();
        loop {
            let cluster = graph.local_moves();
            label.iter_mut().for_each(|l| *l = cluster[*l as usize]);
            let n = cluster.iter().max().map_or(0, |c| *c as usize + 1);
            if n == graph.n() {
                return label;
            }
            let entries = (0..graph.n())
                .flat_map(|i| graph.row(i).map(|(j, w)| (cluster[i], cluster[j], w)).collect::<Vec<_>>())
                .collect();
            graph = Self::from_entries(n, entries);
        }
    }

    /// Moves nodes between clusters as long as modularity grows, from one cluster per node; returns the cluster of each
    /// node.
    fn local_moves(&self) -> Vec<u32> {
        let n = self.n();
        let degree = self.degrees();
        let all: f64 = degree.iter().sum();
        let mut cluster: Vec<usize> = (0..n).collect();
        let mut total = degree.clone();
        let (mut link, mut near) = (vec![0.0f64; n], Vec::new());
        for _ in 0..MAX_ROUNDS {
            let mut moved = false;
            for i in 0..n {
                let own = cluster[i];
                near.clear();
                near.push(own);
                for (j, w) in self.row(i).filter(|(j, _)| *j != i) {
                    if link[cluster[j]] == 0.0 && cluster[j] != own {
                        near.push(cluster[j]);
                    }
                    link[cluster[j]] += w;
                }
                near.sort_unstable();
                near.dedup();
                total[own] -= degree[i];
                let gain = |c: usize| link[c] - total[c] * degree[i] / all;
                let best = near
                    .iter()
                    .copied()
                    .fold(own, |best, c| if gain(c) > gain(best) + LEAST_GAIN * all { c } else { best });
                total[best] += degree[i];
                cluster[i] = best;
                moved |= best != own;
                near.iter().for_each(|&c| link[c] = 0.0);
            }
            if !moved {
                break;
            }
        }
        let mut number = vec![u32::MAX; n];
        let mut next = 0;
        let mut name = |c: usize| {
            if number[c] == u32::MAX {
                number[c] = next;
                next += 1;
            }
            number[c]
        };
        cluster.into_iter().map(&mut name).collect()
    }
}
