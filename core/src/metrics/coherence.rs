//! Whether families are clusters: of directions, of co-activation, of words.
//!
//! Raw scores of a high-dimensional dictionary are near 0 even for good clusters, so every score comes with its null
//! ([`Score`]): the same score of random families of the same sizes, with the same densities.
//!
//! | part | question |
//! |---|---|
//! | [`geometry`] | are siblings closer to each other than to other families? |
//! | [`cofiring`] | do siblings fire together, or apart, also given their parent? |
//! | [`topics`] | do the words of a family belong together? |
//! | [`discover`] | what clusters does an unsupervised method find, and |
//! | [`agreement`] | how far do they agree with the families? |
//!
//! Latents under [`ROOT`] are in no family and are left out, and so are latents that are not alive.

use alloc::vec;
use alloc::vec::Vec;

use super::sparsity::ALIVE_TOKENS;
use crate::gate::ROOT;
use crate::par::Par;
use crate::rng::Philox;

pub mod agreement;
pub mod cofiring;
pub mod discover;
pub mod geometry;
pub mod topics;

/// Random partitions keep the number of latents that each family has in each density class; this is the number of
/// classes (deciles).
pub const DENSITY_CLASSES: usize = 10;
/// There are fewer classes, down to one, where they would have fewer latents than this: in smaller classes a random
/// partition too often equals the original.
pub const CLASS_LATENTS: usize = 8;
/// The random streams of this module: this number plus that of the draw.
const STREAM: u64 = 0x636f_6865 << 32;

/// A partition of latents into clusters.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// Latents, ascending.
    latent: Vec<u32>,
    /// The cluster of each of them.
    label: Vec<u32>,
    /// Number of latents of each cluster.
    size: Vec<u32>,
    /// The name of each cluster: the parent, for families.
    name: Vec<u32>,
    /// Latents left out under [`ROOT`].
    root: usize,
    /// Latents left out because they are not alive.
    not_alive: usize,
}

impl Partition {
    /// Makes the families of the latents that are alive and not under [`ROOT`]; `fires` has their firing counts.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn families(parent: &[u32], fires: &[u64]) -> Self {
        assert_eq!(parent.len(), fires.len(), "a parent and a firing count for each latent");
        let root = parent.iter().filter(|p| **p == ROOT).count();
        let latent: Vec<u32> =
            (0..parent.len()).filter(|&j| parent[j] != ROOT && fires[j] >= ALIVE_TOKENS).map(|j| j as u32).collect();
        let not_alive = parent.len() - root - latent.len();
        Self::named(latent.iter().map(|&j| parent[j as usize]).collect(), latent, root, not_alive)
    }

    /// Makes clusters of latents `0..names.len()`, those with equal names in one cluster.
    pub fn of(names: &[u32]) -> Self {
        Self::named(names.to_vec(), (0..names.len() as u32).collect(), 0, 0)
    }

    /// Makes clusters of the latents `latent`, whose clusters have the names `names`.
    fn named(names: Vec<u32>, latent: Vec<u32>, root: usize, not_alive: usize) -> Self {
        let mut name = names.clone();
        name.sort_unstable();
        name.dedup();
        let label: Vec<u32> = names.iter().map(|n| name.partition_point(|m| m < n) as u32).collect();
        let size = sizes(&label, name.len());
        Self { latent, label, size, name, root, not_alive }
    }

    /// Returns the partition of the latents for which `keep` holds; clusters that become empty are dropped.
    fn retain(&self, keep: impl Fn(usize) -> bool) -> Self {
        let kept = || (0..self.len()).filter(|&i| keep(self.latent[i] as usize));
        let names = kept().map(|i| self.name[self.label[i] as usize]).collect();
        Self::named(names, kept().map(|i| self.latent[i]).collect(), self.root, self.not_alive)
    }

    /// Returns the number of latents in clusters.
    pub fn len(&self) -> usize {
        self.latent.len()
    }

    /// Returns whether no latent is in a cluster.
    pub fn is_empty(&self) -> bool {
        self.latent.is_empty()
    }

    /// Returns the number of clusters, none of them empty.
    pub fn clusters(&self) -> usize {
        self.size.len()
    }

    /// Returns the latents, ascending.
    pub fn latents(&self) -> &[u32] {
        &self.latent
    }

    /// Returns the cluster of each latent, in `0..clusters()`.
    pub fn labels(&self) -> &[u32] {
        &self.label
    }

    /// Returns the name of each cluster: the parent, for families. Ascending.
    pub fn names(&self) -> &[u32] {
        &self.name
    }

    /// Returns the number of latents left out because they are under [`ROOT`].
    pub fn root(&self) -> usize {
        self.root
    }

    /// Returns the number of other latents left out because they fire on fewer than [`ALIVE_TOKENS`] tokens.
    pub fn not_alive(&self) -> usize {
        self.not_alive
    }

    /// Returns whether scores are defined: there are several clusters, and a cluster of at least two latents.
    fn is_proper(&self) -> bool {
        self.clusters() > 1 && self.clusters() < self.len()
    }
}

/// Returns the number of items of each cluster.
fn sizes(label: &[u32], clusters: usize) -> Vec<u32> {
    let mut size = vec![0; clusters];
    label.iter().for_each(|&c| size[c as usize] += 1);
    size
}

/// Returns the members of each cluster: `member[offset[c]..offset[c + 1]]`, ascending.
fn members(label: &[u32], clusters: usize) -> (Vec<usize>, Vec<usize>) {
    let mut offset = vec![0; clusters + 1];
    label.iter().for_each(|&c| offset[c as usize + 1] += 1);
    (0..clusters).for_each(|c| offset[c + 1] += offset[c]);
    let (mut next, mut member) = (offset.clone(), vec![0; label.len()]);
    for (i, &c) in label.iter().enumerate() {
        member[next[c as usize]] = i;
        next[c as usize] += 1;
    }
    (offset, member)
}

/// The number and seed of the random partitions with which a score is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    /// Number of partitions; 0 for no null.
    pub n: usize,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Draws {
    /// Returns `f` of the labelling of each draw, which is `label` permuted within each density class.
    pub(super) fn map<R: Send>(
        self,
        par: Par,
        fires: &[u64],
        label: &[u32],
        f: impl Fn(&[u32]) -> R + Sync + Send,
    ) -> Vec<R> {
        let class = density_classes(fires);
        par.map(self.n, |draw| f(&shuffled(label, &class, self.seed, draw as u64)))
    }
}

impl Default for Draws {
    fn default() -> Self {
        Self { n: 100, seed: 0 }
    }
}

/// A score, and the same score of random partitions: the labels are permuted within each of [`DENSITY_CLASSES`] density
/// classes (equal numbers of latents, ranked by how often they fire; fewer classes under [`CLASS_LATENTS`]).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Score {
    /// The score itself.
    pub value: f64,
    /// Mean over the draws; NaN without one.
    pub null_mean: f64,
    /// Standard deviation over the draws (divisor `draws - 1`); NaN with fewer than two.
    pub null_sd: f64,
    /// `value - null_mean`. 0: as good as random families.
    pub excess: f64,
    /// `excess / null_sd`. About standard normal for random families; NaN if all draws score the same.
    pub z: f64,
    /// Draws with a defined score.
    pub draws: usize,
    /// Draws without.
    pub undefined_draws: usize,
}

impl Score {
    /// Compares `value` with the scores of the draws, of which NaN are left out.
    pub fn new(value: f64, null: impl Iterator<Item = f64> + Clone) -> Self {
        let drawn = null.clone().count();
        let defined = || null.clone().filter(|v| !v.is_nan());
        let draws = defined().count();
        let null_mean = defined().sum::<f64>() / draws as f64;
        let null_sd = match draws {
            0 | 1 => f64::NAN,
            n => libm::sqrt(defined().map(|v| (v - null_mean) * (v - null_mean)).sum::<f64>() / (n - 1) as f64),
        };
        let excess = value - null_mean;
        // Draws that differ only by rounding all have the same score.
        let same = null_sd <= 1e-12 * null_mean.abs();
        let z = if same { f64::NAN } else { excess / null_sd };
        Self { value, null_mean, null_sd, excess, z, draws, undefined_draws: drawn - draws }
    }

    /// Returns the `N` scores that `f` gives to a labelling, for `label` and for the draws.
    pub(super) fn of<const N: usize>(
        par: Par,
        draws: Draws,
        fires: &[u64],
        label: &[u32],
        f: impl Fn(&[u32]) -> [f64; N] + Sync + Send,
    ) -> [Self; N] {
        let (value, null) = (f(label), draws.map(par, fires, label, f));
        core::array::from_fn(|k| Self::new(value[k], null.iter().map(|s| s[k])))
    }
}

/// Returns the density class of each latent: latents are ranked by how often they fire (ties by index), and the ranks
/// are cut into classes of equal size.
pub(super) fn density_classes(fires: &[u64]) -> Vec<u32> {
    let n = fires.len();
    let classes = (n / CLASS_LATENTS).clamp(1, DENSITY_CLASSES);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| fires[i]);
    let mut class = vec![0; n];
    order.iter().enumerate().for_each(|(rank, &i)| class[i] = (rank * classes / n) as u32);
    class
}

/// Returns `label`, permuted within each class.
pub(super) fn shuffled(label: &[u32], class: &[u32], seed: u64, draw: u64) -> Vec<u32> {
    let mut rng = Philox::new(seed, STREAM + draw);
    let mut out = label.to_vec();
    let (offset, member) = members(class, DENSITY_CLASSES);
    for w in offset.windows(2) {
        let members = &member[w[0]..w[1]];
        let mut labels: Vec<u32> = members.iter().map(|&i| label[i]).collect();
        rng.shuffle(&mut labels);
        members.iter().zip(labels).for_each(|(&i, l)| out[i] = l);
    }
    out
}

/// Returns the firing counts of the latents of a partition.
fn counts_of(partition: &Partition, fires: &[u64]) -> Vec<u64> {
    partition.latent.iter().map(|&j| fires[j as usize]).collect()
}
