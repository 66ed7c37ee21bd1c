//! Synthetic tokens with a known two-level structure: the seeded tree world.
//!
//! A forest of `roots` trees, each a root with `children` leaves of which at most one is on, plus `flat` features
//! without a parent. Features are directions in fewer dimensions than there are features; a token is a sparse sum of
//! them plus noise. [`BenchOptions`] make the trees deeper and the features correlated. The result of a training can
//! then be compared with the truth (see `metrics::recovery`).

mod bench;
mod config;
mod vector;

pub use config::{BenchOptions, WorldConfig};

use alloc::vec::Vec;
use bench::Bench;
use vector::{dot, unit};

use crate::Result;
use crate::gate::ROOT;
use crate::rng::Philox;

/// The Philox stream of the directions; the tokens have the streams `0, 1, 2, ...` below it.
const DIRECTIONS: u64 = u64::MAX;
/// Steps of `V <- unit(V - RATE (V V^T - I) V)` that spread the directions.
const SPREAD_STEPS: usize = 300;
const SPREAD_RATE: f64 = 0.05;
/// The ends of the geometric series of the children's weights, and of the flat features' probabilities.
const CHILD_WEIGHT: (f64, f64) = (1.0, 0.4);
const FLAT_PROBABILITY: (f64, f64) = (0.08, 0.02);
/// Magnitude `1 + ROOT_SPREAD |N|` of a root or flat feature; that of a child is its root's, times `1 + CHILD_SPREAD
/// N`.
const ROOT_SPREAD: f32 = 0.2;
const CHILD_SPREAD: f32 = 0.1;

/// A world: the directions, the forest, and any token on demand.
///
/// Features are numbered roots first, then the children of root 0, of root 1, ..., then the flat ones.
#[derive(Clone, Debug)]
pub struct World {
    config: WorldConfig,
    directions: Vec<f32>,
    parents: Vec<u32>,
    p_root: Vec<f32>,
    p_flat: Vec<f32>,
    /// `child_below[c]`: the probability that the child is one of `0..=c`, given the root.
    child_below: Vec<f32>,
    bench: Option<Bench>,
}

impl World {
    /// Draws the directions of `config.seed`.
    ///
    /// Gaussian rows of unit length, then 300 steps of `V <- unit(V - .05 (V V^T - I) V)`, then for a child `c` of `p`
    /// `v_c <- rho v_p + sqrt(1 - rho^2) w`, with `w` the unit part of `v_c` orthogonal to `v_p`. `f64` throughout, in
    /// a fixed order without fused operations, so the bits are the same everywhere. Cost: `600 n^2 d`, under a second
    /// for world A.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a constant out of its range.
    pub fn new(config: &WorldConfig) -> Result<Self> {
        let n = config.check()?;
        let (d, roots, children) = (config.d, config.roots, config.children);
        let mut rng = Philox::new(config.seed, DIRECTIONS);
        let mut v: Vec<f64> = (0..n * d).map(|_| rng.normal_f64()).collect();
        v.chunks_exact_mut(d).for_each(unit);
        let mut next = v.clone();
        if let Some(bench) = &config.bench {
            bench.spread(&mut v, d);
        }
        for _ in 0..if config.bench.is_some() { 0 } else { SPREAD_STEPS } {
            for (i, row) in next.chunks_exact_mut(d).enumerate() {
                let own = &v[i * d..(i + 1) * d];
                for (j, other) in v.chunks_exact(d).enumerate() {
                    let g = SPREAD_RATE * (dot(own, other) - f64::from(u8::from(i == j)));
                    row.iter_mut().zip(other).for_each(|(r, o)| *r -= g * o);
                }
                unit(row);
            }
            v.copy_from_slice(&next);
        }
        let parents =
            match &config.bench {
                Some(bench) => bench.parents(config, n),
                None => (0..n)
                    .map(|f| {
                        if (roots..roots * (1 + children)).contains(&f) {
                            ((f - roots) / children) as u32
                        } else {
                            ROOT
                        }
                    })
                    .collect(),
            };
        let side = libm::sqrt(1.0 - config.rho * config.rho);
        for c in (0..n).filter(|&f| parents[f] != ROOT) {
            // A parent's number is lower than those of its children.
            let (above, below) = v.split_at_mut(c * d);
            let p = &above[parents[c] as usize * d..][..d];
            let own = &mut below[..d];
            let along = dot(own, p);
            own.iter_mut().zip(p).for_each(|(w, p)| *w -= along * p);
            unit(own);
            own.iter_mut().zip(p).for_each(|(w, p)| *w = config.rho * p + side * *w);
        }
        let weights = geometric(CHILD_WEIGHT.0, CHILD_WEIGHT.1, children);
        let total: f64 = weights.iter().sum();
        let mut below = 0.0;
        let child_below = weights.iter().map(|w| {
            below += config.child_probability * w / total;
            below as f32
        });
        Ok(Self {
            bench: config.bench.as_ref().map(|options| Bench::new(config, options, &parents)),
            child_below: child_below.collect(),
            p_root: geometric(config.p_max, config.p_min, roots).into_iter().map(|p| p as f32).collect(),
            p_flat: geometric(FLAT_PROBABILITY.0, FLAT_PROBABILITY.1, config.flat)
                .into_iter()
                .map(|p| p as f32)
                .collect(),
            directions: v.into_iter().map(|x| x as f32).collect(),
            parents,
            config: config.clone(),
        })
    }

    /// Returns the constants that the world was made from.
    pub fn config(&self) -> &WorldConfig {
        &self.config
    }

    /// Returns `n = roots (1 + children) + flat`.
    pub fn n_features(&self) -> usize {
        self.parents.len()
    }

    /// Returns the unit directions, `[n_features, d]` row-major.
    pub fn directions(&self) -> &[f32] {
        &self.directions
    }

    /// Returns the parent of `feature`; `None` for a root and for a flat feature.
    ///
    /// # Panics
    /// If `feature >= n_features`.
    pub fn parent(&self, feature: usize) -> Option<usize> {
        let p = self.parents[feature];
        (p != ROOT).then_some(p as usize)
    }

    /// Returns the parent of every feature, [`ROOT`] where there is none.
    pub fn parents(&self) -> &[u32] {
        &self.parents
    }

    /// Returns the probability that a feature is on, on any token; for correlated children as if they were independent.
    ///
    /// # Panics
    /// If `feature >= n_features`.
    pub fn probability(&self, feature: usize) -> f64 {
        if let Some(bench) = &self.bench {
            return bench.probability[feature];
        }
        let (roots, children) = (self.config.roots, self.config.children);
        if feature < roots {
            return f64::from(self.p_root[feature]);
        }
        if let Some(p) = self.parent(feature) {
            let c = (feature - roots) % children;
            let before = if c == 0 { 0.0 } else { self.child_below[c - 1] };
            return f64::from(self.p_root[p]) * f64::from(self.child_below[c] - before);
        }
        f64::from(self.p_flat[feature - roots * (1 + children)])
    }

    /// Returns `E[L0] = sum_f P(f on)`: in world A about 2.5 roots, 2.0 children and .7 flat features per token.
    pub fn expected_l0(&self) -> f64 {
        (0..self.n_features()).map(|f| self.probability(f)).sum()
    }

    /// Draws tokens: `x[t - start, :] = sum_f a_f v_f + noise N(0, I)` for `t` in `start..start + n`.
    ///
    /// | argument | shape | layout |
    /// |---|---|---|
    /// | `x` | `[n, d]` | row-major, written |
    /// | `truth` | `[n, n_features]` | row-major, written: the magnitudes `a`, 0 where a feature is off |
    ///
    /// Root `r` is on with `p_r` and magnitude `a_r = 1 + .2 |N|`; then child `c` with its share of `q` and magnitude
    /// `max(0, child_scale a_r (1 + .1 N))`; a flat feature like a root. Token `t` is a function of the constants, the
    /// seed and `first + t` alone (Philox stream `first + t`), so that ranges may be drawn in any order, by any thread.
    ///
    /// # Panics
    /// If `x` or `truth` does not have its shape, or `first + start + n` overflows.
    pub fn sample(&self, start: u64, n: usize, x: &mut [f32], mut truth: Option<&mut [f32]>) {
        let (d, features) = (self.config.d, self.n_features());
        assert_eq!(Some(x.len()), n.checked_mul(d), "x must have n * d entries");
        if let Some(truth) = &truth {
            assert_eq!(Some(truth.len()), n.checked_mul(features), "truth must have n * n_features entries");
        }
        let last = start.checked_add(n as u64).and_then(|end| end.checked_add(self.config.first));
        assert!(last.is_some(), "token numbers must fit in 64 bits");
        for (i, row) in x.chunks_exact_mut(d).enumerate() {
            let a = truth.as_deref_mut().map(|a| &mut a[i * features..(i + 1) * features]);
            self.token(self.config.first + start + i as u64, row, a);
        }
    }

    fn token(&self, t: u64, x: &mut [f32], mut truth: Option<&mut [f32]>) {
        let d = self.config.d;
        let mut rng = Philox::new(self.config.seed, t);
        x.fill(0.0);
        if let Some(a) = truth.as_deref_mut() {
            a.fill(0.0);
        }
        let mut add = |feature: usize, a: f32| {
            let direction = &self.directions[feature * d..(feature + 1) * d];
            x.iter_mut().zip(direction).for_each(|(x, v)| *x += a * v);
            if let Some(truth) = truth.as_deref_mut() {
                truth[feature] = a;
            }
        };
        match &self.bench {
            Some(bench) => bench.token(&mut rng, &mut add),
            None => self.two_levels(&mut rng, &mut add),
        }
        if let Some(bench) = &self.bench {
            x.iter_mut().zip(&bench.bias).for_each(|(x, b)| *x += b);
        }
        let noise = self.config.noise as f32;
        if noise > 0.0 {
            x.iter_mut().for_each(|x| *x += noise * rng.normal_f32());
        }
    }

    /// Calls `add(feature, magnitude)` for every feature that is on.
    fn two_levels(&self, rng: &mut Philox, add: &mut dyn FnMut(usize, f32)) {
        let (roots, children) = (self.config.roots, self.config.children);
        for (r, &p) in self.p_root.iter().enumerate() {
            if rng.uniform_f32() >= p {
                continue;
            }
            let a = 1.0 + ROOT_SPREAD * rng.normal_f32().abs();
            add(r, a);
            let u = rng.uniform_f32();
            if let Some(c) = self.child_below.iter().position(|&below| u < below) {
                let scale = self.config.child_scale as f32;
                let child = scale * a * (1.0 + CHILD_SPREAD * rng.normal_f32());
                if child > 0.0 {
                    add(roots + r * children + c, child);
                }
            }
        }
        for (f, &p) in self.p_flat.iter().enumerate() {
            if rng.uniform_f32() < p {
                add(roots * (1 + children) + f, 1.0 + ROOT_SPREAD * rng.normal_f32().abs());
            }
        }
    }
}

/// Returns `n` numbers from `first` to `last` with a constant ratio; `first` alone for `n = 1`.
fn geometric(first: f64, last: f64, n: usize) -> Vec<f64> {
    let step = |i| if i == 0 { 0.0 } else { i as f64 / (n - 1) as f64 };
    (0..n).map(|i| first * libm::pow(last / first, step(i))).collect()
}
