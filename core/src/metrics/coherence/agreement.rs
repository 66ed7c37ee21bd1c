//! Agreement of two partitions beyond chance.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use super::discover::{Graph, spherical_kmeans};
use super::geometry::Directions;
use super::{Draws, Partition, Score, counts_of};
use crate::Result;
use crate::compute::Compute;

/// Restarts of k-means.
pub const RESTARTS: usize = 10;
/// Neighbours of a node of the graph.
pub const NEIGHBOURS: usize = 20;

/// The contingency table of two labellings of `n` items.
struct Contingency {
    n: u64,
    /// Number of items of each pair of labels that occurs, ascending.
    both: Vec<(usize, usize, u64)>,
    /// Number of items of each label of the first labelling.
    a: Vec<u64>,
    /// Number of items of each label of the second labelling.
    b: Vec<u64>,
}

impl Contingency {
    fn new(a: &[u32], b: &[u32]) -> Self {
        assert_eq!(a.len(), b.len(), "two labellings of the same items");
        let numbered = |labels: &[u32]| {
            let mut names = labels.to_vec();
            names.sort_unstable();
            names.dedup();
            labels.iter().map(|l| names.partition_point(|m| m < l)).collect::<Vec<_>>()
        };
        let (a, b) = (numbered(a), numbered(b));
        let mut pairs: Vec<(usize, usize)> = a.iter().copied().zip(b.iter().copied()).collect();
        pairs.sort_unstable();
        let mut both: Vec<(usize, usize, u64)> = Vec::new();
        for (a, b) in pairs {
            match both.last_mut() {
                Some(last) if (last.0, last.1) == (a, b) => last.2 += 1,
                _ => both.push((a, b, 1)),
            }
        }
        let count = |labels: &[usize]| {
            let mut count = vec![0; labels.iter().max().map_or(0, |m| m + 1)];
            labels.iter().for_each(|&l| count[l] += 1);
            count
        };
        Self { n: a.len() as u64, both, a: count(&a), b: count(&b) }
    }

    /// Returns the adjusted Rand index.
    fn ari(&self) -> f64 {
        let pairs = |n: u64| u128::from(n) * u128::from(n.saturating_sub(1)) / 2;
        let both: u128 = self.both.iter().map(|p| pairs(p.2)).sum();
        let a: u128 = self.a.iter().map(|&n| pairs(n)).sum();
        let b: u128 = self.b.iter().map(|&n| pairs(n)).sum();
        if self.n > 0 && both == a && both == b {
            return 1.0;
        }
        let expected = a as f64 * b as f64 / pairs(self.n) as f64;
        (both as f64 - expected) / ((a + b) as f64 / 2.0 - expected)
    }

    /// Returns the mutual information of the two labels, in nats.
    fn mutual_information(&self) -> f64 {
        let n = self.n as f64;
        let term = |&(a, b, both): &(usize, usize, u64)| {
            both as f64 / n * libm::log(n * both as f64 / (self.a[a] as f64 * self.b[b] as f64))
        };
        self.both.iter().map(term).sum()
    }

    /// Returns the mean of the mutual information over all pairs of partitions of these sizes (Vinh, Epps and Bailey
    /// 2010). Pairs of clusters of the same two sizes have the same term, which is computed once.
    fn expected_mutual_information(&self) -> f64 {
        let n = self.n;
        let mut log_factorial = vec![0.0; n as usize + 1];
        (1..=n as usize).for_each(|k| log_factorial[k] = log_factorial[k - 1] + libm::log(k as f64));
        let f = |k: u64| log_factorial[k as usize];
        let tally = |sizes: &[u64]| {
            let mut tally = BTreeMap::new();
            sizes.iter().for_each(|&s| *tally.entry(s).or_insert(0u64) += 1);
            tally
        };
        let (of_a, of_b) = (tally(&self.a), tally(&self.b));
        let mut sum = 0.0;
        for (&a, &times_a) in &of_a {
            for (&b, &times_b) in &of_b {
                let fixed = f(a) + f(b) + f(n - a) + f(n - b) - f(n);
                let mut part = 0.0;
                for both in 1.max((a + b).saturating_sub(n))..=a.min(b) {
                    let information = libm::log(n as f64 * both as f64 / (a as f64 * b as f64));
                    let ways = fixed - f(both) - f(a - both) - f(b - both) - f(n + both - a - b);
                    part += both as f64 / n as f64 * information * libm::exp(ways);
                }
                sum += part * times_a as f64 * times_b as f64;
            }
        }
        sum
    }

    /// Returns the adjusted mutual information, given its expectation.
    fn ami(&self, expected: f64) -> f64 {
        if self.n == 0 {
            return f64::NAN;
        }
        if self.a.len() == 1 && self.b.len() == 1 {
            return 1.0;
        }
        let entropy = |sizes: &[u64]| -> f64 {
            let share = |s: &u64| *s as f64 / self.n as f64;
            sizes.iter().map(|s| -share(s) * libm::log(share(s))).sum()
        };
        let mean = (entropy(&self.a) + entropy(&self.b)) / 2.0;
        let most = mean - expected;
        // If both partitions are all singletons, the difference is only rounding.
        if most.abs() < 1e-12 { 1.0 } else { (self.mutual_information() - expected) / most }
    }
}

/// Returns the adjusted Rand index (Hubert and Arabie 1985): `(s - E) / ((s_a + s_b) / 2 - E)`, `s` the pairs together
/// in both, `s_a`, `s_b` those together in either, `E = s_a s_b / C(n, 2)`. -1/2 to 1, higher is better, 0 is chance; 1
/// for equal partitions, NaN for empty ones.
///
/// # Panics
/// If the lengths differ.
pub fn adjusted_rand(a: &[u32], b: &[u32]) -> f64 {
    Contingency::new(a, b).ari()
}

/// Returns the adjusted mutual information (Vinh, Epps and Bailey 2010): `(I - E I) / ((H_a + H_b) / 2 - E I)`. Up to
/// 1, higher is better, 0 is chance; 1 for two single clusters and for equal partitions, NaN for empty ones.
///
/// # Panics
/// If the lengths differ.
pub fn adjusted_mutual_information(a: &[u32], b: &[u32]) -> f64 {
    let table = Contingency::new(a, b);
    table.ami(table.expected_mutual_information())
}

/// The families compared with clusters of the directions that were found without them.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct AgreementReport {
    /// Number of vectors.
    pub vectors: usize,
    /// Number of families, and of clusters of k-means.
    pub clusters: usize,
    /// [`KMeans::objective`](super::discover::KMeans::objective). Up to 1; NaN without vectors.
    pub kmeans_objective: f64,
    /// Restarts of k-means that did not converge.
    pub kmeans_unconverged: usize,
    /// [`adjusted_rand`] of families and k-means. Up to 1, higher is better, 0 is chance.
    pub kmeans_ari: Score,
    /// [`adjusted_mutual_information`] of families and k-means. Up to 1, higher is better, 0 is chance.
    pub kmeans_ami: Score,
    /// Number of clusters that Louvain finds on the graph of mutual neighbours.
    pub louvain_clusters: usize,
    /// Modularity of these clusters on that graph. -1/2 to 1; NaN without an edge.
    pub louvain_modularity: f64,
    /// [`adjusted_rand`] of families and Louvain. Up to 1, higher is better, 0 is chance.
    pub louvain_ari: Score,
    /// [`adjusted_mutual_information`] of families and Louvain. Up to 1, higher is better, 0 is chance.
    pub louvain_ami: Score,
    /// Modularity of the families on the same graph. -1/2 to 1, higher is better, 0 is chance.
    pub family_modularity: Score,
}

/// Clusters the rows of `rows`, `[latents, d]`, that `partition` contains, by k-means with as many clusters as families
/// ([`RESTARTS`] restarts from `draws.seed`) and by Louvain on the graph of mutual [`NEIGHBOURS`], and compares them
/// with the families.
///
/// Cost: some tens of `n K d` multiplications per restart, and `n^2 d` for the graph.
///
/// # Errors
/// As [`Directions::new`], and [`Error::Shape`](crate::Error::Shape) if there is not a firing count for each row.
pub fn agreement(
    compute: Compute,
    rows: &[f32],
    d: usize,
    partition: &Partition,
    fires: &[u64],
    draws: Draws,
) -> Result<AgreementReport> {
    let Compute { par, .. } = compute;
    let (directions, kept) = Directions::with_counts(rows, d, partition, fires)?;
    let kmeans =
        (!kept.is_empty()).then(|| spherical_kmeans(compute, &directions, kept.clusters(), RESTARTS, draws.seed));
    let graph = Graph::mutual_neighbours(compute, &directions, NEIGHBOURS);
    let louvain = graph.louvain();
    let of_kmeans = kmeans.as_ref().map_or(&[][..], |k| &k.label);
    // A draw permutes labels and so keeps the sizes: the expectation is the same for all.
    let expected = |found: &[u32]| Contingency::new(kept.labels(), found).expected_mutual_information();
    let (expected_kmeans, expected_louvain) = (expected(of_kmeans), expected(&louvain));
    let [kmeans_ari, kmeans_ami, louvain_ari, louvain_ami, family_modularity] =
        Score::of(par, draws, &counts_of(&kept, fires), kept.labels(), |label| {
            let (k, l) = (Contingency::new(label, of_kmeans), Contingency::new(label, &louvain));
            [k.ari(), k.ami(expected_kmeans), l.ari(), l.ami(expected_louvain), graph.modularity(label)]
        });
    Ok(AgreementReport {
        vectors: kept.len(),
        clusters: kept.clusters(),
        kmeans_objective: kmeans.as_ref().map_or(f64::NAN, |k| k.objective),
        kmeans_unconverged: kmeans.as_ref().map_or(0, |k| k.unconverged),
        kmeans_ari,
        kmeans_ami,
        louvain_clusters: louvain.iter().max().map_or(0, |c| *c as usize + 1),
        louvain_modularity: graph.modularity(&louvain),
        louvain_ari,
        louvain_ami,
        family_modularity,
    })
}
