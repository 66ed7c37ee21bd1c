//! The constants of a synthetic world.

use crate::{Error, Result};
use alloc::format;

/// The most features of a world, and the most numbers of their directions: 2 GiB in f64. A description may come from
/// anyone.
const MOST_FEATURES: usize = 1 << 20;
const MOST_NUMBERS: usize = 1 << 28;

/// The constants of a world.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct WorldConfig {
    /// Dimensions of a token.
    pub d: usize,
    /// Trees.
    pub roots: usize,
    /// Children of each root; at most one of them is on.
    pub children: usize,
    /// Features without parent and children.
    pub flat: usize,
    /// `q`: the probability that some child is on, given that its root is on.
    pub child_probability: f64,
    /// The probability of root 0; the others fall geometrically to `p_min`.
    pub p_max: f64,
    /// The probability of the last root.
    pub p_min: f64,
    /// Standard deviation of the noise on each coordinate.
    pub noise: f64,
    /// A child's magnitude relative to its root's.
    pub child_scale: f64,
    /// `rho`: the cosine between a child's direction and its root's.
    pub rho: f64,
    /// Two worlds with equal constants and seed are equal, directions and tokens.
    pub seed: u64,
    /// The number of the first token: row `t` is token `first + t`. Rows to test on begin where those of the training end.
    #[serde(default)]
    pub first: u64,
    /// Deeper trees, correlations and the rest of SynthSAEBench; none in worlds A, B and C. With it, `p_min` is the
    /// least probability of any feature before its parent's, and `child_probability` the most that the children of a
    /// feature (each child, where they are not exclusive) have, given their parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bench: Option<BenchOptions>,
}

/// Most children of which one is kept at random: how often that is takes the cube of their number for each family.
const MOST_RIVALS: usize = 64;

impl WorldConfig {
    /// World A: 24 roots with 5 children each and 16 flat features in 64 dimensions, children entangled (`rho = .3`).
    pub fn a() -> Self {
        Self {
            d: 64,
            roots: 24,
            children: 5,
            flat: 16,
            child_probability: 0.8,
            p_max: 0.25,
            p_min: 0.03,
            noise: 0.02,
            child_scale: 0.8,
            rho: 0.3,
            seed: 0,
            first: 0,
            bench: None,
        }
    }

    /// World B is world A: what differs is the budget of the model, 30 % below the true L0.
    pub fn b() -> Self {
        Self::a()
    }

    /// World C: 48 dimensions, children orthogonal to their roots, more noise, fewer tokens with a child.
    pub fn c() -> Self {
        Self { d: 48, rho: 0.0, noise: 0.05, child_probability: 0.6, ..Self::a() }
    }

    /// Checks the constants; returns the number of features.
    pub(super) fn check(&self) -> Result<usize> {
        let probability = |key, p: f64, low: f64| {
            if (low..=1.0).contains(&p) {
                return Ok(());
            }
            Err(Error::config(key, format!("expected a number from {low} to 1, found {p}")))
        };
        probability("child_probability", self.child_probability, 0.0)?;
        probability("p_max", self.p_max, f64::MIN_POSITIVE)?;
        probability("p_min", self.p_min, f64::MIN_POSITIVE)?;
        for (key, v) in [("noise", self.noise), ("child_scale", self.child_scale)] {
            if !(0.0..f64::INFINITY).contains(&v) {
                return Err(Error::config(key, format!("expected a finite number >= 0, found {v}")));
            }
        }
        if !(self.rho > -1.0 && self.rho < 1.0) {
            return Err(Error::config("rho", format!("expected a cosine between -1 and 1, found {}", self.rho)));
        }
        // The streams from there on draw the constants.
        if self.first > 1 << 62 {
            return Err(Error::config("first", format!("expected at most 2^62, found {}", self.first)));
        }
        if self.d < 2 {
            return Err(Error::config("d", format!("expected at least 2 dimensions, found {}", self.d)));
        }
        let features = match &self.bench {
            Some(bench) => {
                bench.check(self)?;
                bench.n_tree(self)
            }
            None => self.roots.checked_mul(self.children).and_then(|c| c.checked_add(self.roots)),
        };
        // Tables of the children, and of SynthSAEBench also of pairs of dimensions and of factors.
        let (rank, square) = self.bench.as_ref().map_or((0, 0), |b| (b.rank, self.d));
        let fits = |n: usize| {
            let sizes = [n.checked_mul(self.d), n.checked_mul(rank), square.checked_mul(square)];
            n.max(self.children) <= MOST_FEATURES && sizes.iter().all(|s| s.is_some_and(|s| s <= MOST_NUMBERS))
        };
        match features.and_then(|n| n.checked_add(self.flat)) {
            Some(0) => Err(Error::config("roots", "expected at least one feature, found none")),
            Some(n) if fits(n) => Ok(n),
            _ => Err(Error::config(
                "roots",
                format!(
                    "expected at most {MOST_FEATURES} features (`roots`, `children`, `flat`), and at most {MOST_NUMBERS} \
                     numbers of their directions in {} dimensions, found more",
                    self.d
                ),
            )),
        }
    }
}

/// What SynthSAEBench has and worlds A, B and C have not.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchOptions {
    /// Levels of children below the roots; every feature above the last level has `children` children.
    pub depth: usize,
    /// At most one child of a feature is on. Otherwise each is drawn by itself, given its parent.
    pub exclusive: bool,
    /// The probabilities of SAELens' generator, which the published world has: see the formulas of `synth::bench`. `child_probability`
    /// is not used then.
    #[serde(default)]
    pub compensate: bool,
    /// Factors of the Gaussian copula through which features fire together; 0: independent.
    pub rank: usize,
    /// Standard deviation of a feature's loading on a factor.
    pub correlation: f64,
    /// Exponent of Zipf's law.
    pub zipf: f64,
    /// Length of the vector that is added to every token.
    pub bias: f64,
    /// Mean magnitude of the first feature.
    pub magnitude_first: f64,
    /// Mean magnitude of the last feature; linear in between.
    pub magnitude_last: f64,
    /// Mean and deviation of the normal number whose absolute value is the deviation of a feature's magnitude.
    pub magnitude_spread: f64,
    /// Steps `V <- unit(V - 3e-4 (V V^T - I) V)` that spread the directions, at `4 n d^2` operations each.
    pub spread_steps: usize,
}

impl WorldConfig {
    /// The sizes of SynthSAEBench-16k: 128 trees of depth 3 with 4 exclusive children each and 5,504 flat features,
    /// 16,384 in all, in 768 dimensions; mean L0 about 34. Its 100 steps of Adam that spread the directions are left out: the mean
    /// squared cosine of two directions, 1 / d, cannot fall by more than 4.7 % (Welch's bound), and they would take minutes each time the
    /// world is made. `spread_steps` takes others.
    pub fn sae_bench() -> Self {
        Self {
            d: 768,
            roots: 128,
            children: 4,
            flat: 5504,
            child_probability: 0.8,
            p_max: 0.4,
            p_min: 5e-4,
            noise: 0.0,
            child_scale: 1.0,
            rho: 0.0,
            seed: 0,
            first: 0,
            bench: Some(BenchOptions {
                depth: 3,
                exclusive: true,
                compensate: true,
                rank: 25,
                correlation: 0.1,
                zipf: 0.5,
                bias: 0.5,
                magnitude_first: 5.0,
                magnitude_last: 4.0,
                magnitude_spread: 0.5,
                spread_steps: 0,
            }),
        }
    }
}

impl BenchOptions {
    /// Features of the trees.
    pub(super) fn n_tree(&self, config: &WorldConfig) -> Option<usize> {
        let (mut level, mut sum) = (config.roots, config.roots);
        for _ in 0..self.depth {
            level = level.checked_mul(config.children)?;
            sum = sum.checked_add(level)?;
        }
        Some(sum)
    }

    pub(super) fn check(&self, config: &WorldConfig) -> Result<()> {
        let bad = |key: &str, why| Err(Error::config(key, why));
        if self.depth > 16 {
            return bad("bench.depth", format!("expected at most 16, found {}", self.depth));
        }
        if self.compensate && self.exclusive && config.children > MOST_RIVALS {
            let found = config.children;
            return bad("children", format!("expected at most {MOST_RIVALS} with `bench.compensate`, found {found}"));
        }
        if self.rank > 1 << 12 {
            return bad("bench.rank", format!("expected at most 4096, found {}", self.rank));
        }
        for (key, v) in [
            ("bench.correlation", self.correlation),
            ("bench.zipf", self.zipf),
            ("bench.bias", self.bias),
            ("bench.magnitude_first", self.magnitude_first),
            ("bench.magnitude_last", self.magnitude_last),
            ("bench.magnitude_spread", self.magnitude_spread),
        ] {
            if !(0.0..1e6).contains(&v) {
                return bad(key, format!("expected 0 to 1000000, found {v}"));
            }
        }
        Ok(())
    }
}
