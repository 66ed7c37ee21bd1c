//! The options of SynthSAEBench on top of the tree world: deeper trees, correlated firing, Zipf's law, a bias.
//!
//! ```text
//! x = bias b + sum_f a_f v_f + noise N(0, I)
//! P(f) = p_max rank_f^-zipf, at least p_min; a child at most its share of child_probability P(parent)
//! y_f = l_f . g + sqrt(1 - |l_f|^2) N,  l_f ~ correlation N(0, I_rank),  f on where Phi(y_f) < P(f)
//! a_f = max(0, m_f + s_f N), times child_scale a_parent / m_parent for a child;  s_f = |N(spread, spread)|
//! ```
//!
//! With `compensate` probabilities are those of SAELens' generator: ranks are the features in their order, so that flat features are the
//! rarest, and each child is drawn by itself, given its parent, with a probability that is raised so that it fires about as often as the
//! law says in spite of its parent and its siblings; of exclusive children that would fire one is kept, each as likely.
//!
//! ```text
//! B(f) = p_min + (p_max - p_min) (rank_f^-zipf - n^-zipf) / (1 - n^-zipf)
//! P(f would fire | parent on) = min(1, B(f) / B(parent) (1 + (sum of B over its siblings, if exclusive) / B(parent)))
//! P(f on | parent on) = P(f would fire | parent on) E[1 / (1 + siblings that would fire)], if exclusive
//! ```
//!
//! The options and their sizes are those of the benchmark, the random numbers are not.

use super::config::{BenchOptions, WorldConfig};
use super::vector::{dot, unit};
use crate::gate::ROOT;
use crate::rng::Philox;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// The stream of the constants below; the directions have the one above it.
const CONSTANTS: u64 = u64::MAX - 1;
/// Rate of a step that spreads the directions.
const SPREAD_RATE: f64 = 3e-4;

impl BenchOptions {
    /// Makes the forest: roots, then each level of children in the order of its parents, then the flat features.
    pub(super) fn parents(&self, config: &WorldConfig, n: usize) -> Vec<u32> {
        let mut parents = vec![ROOT; n];
        let (mut above, mut start) = (0, config.roots);
        for _ in 0..self.depth {
            let size = (start - above) * config.children;
            for c in 0..size {
                parents[start + c] = (above + c / config.children.max(1)) as u32;
            }
            (above, start) = (start, start + size);
        }
        parents
    }

    /// Spreads unit rows through their `d x d` Gram matrix: `(V V^T - I) V = V (V^T V - I)`.
    pub(super) fn spread(&self, v: &mut [f64], d: usize) {
        let mut gram = vec![0.0; d * d];
        let mut next = vec![0.0; d];
        for _ in 0..self.spread_steps {
            gram.fill(0.0);
            for row in v.chunks_exact(d) {
                for (i, &x) in row.iter().enumerate() {
                    gram[i * d..(i + 1) * d].iter_mut().zip(row).for_each(|(g, y)| *g += x * y);
                }
            }
            for row in v.chunks_exact_mut(d) {
                for (i, x) in next.iter_mut().enumerate() {
                    // The Gram matrix is symmetric.
                    *x = row[i] - SPREAD_RATE * (dot(row, &gram[i * d..(i + 1) * d]) - row[i]);
                }
                unit(&mut next);
                row.copy_from_slice(&next);
            }
        }
    }
}

/// The drawn constants of a world with [`BenchOptions`].
#[derive(Clone, Debug)]
pub(super) struct Bench {
    /// `P(f)`, on any token, but for the correlations between a feature, its parent and its siblings.
    pub probability: Vec<f64>,
    exclusive: bool,
    compensate: bool,
    rank: usize,
    child_scale: f32,
    /// The first child of each feature, none where `children` is 0 or the level is the last.
    first_child: Vec<u32>,
    children: usize,
    /// `P(f would fire | parent)`, and `P(f)` without a parent.
    given: Vec<f64>,
    /// `Phi^-1(given)`.
    cut: Vec<f32>,
    /// `[n, rank]` loadings, and `1 / sqrt(1 - |l|^2)`.
    loading: Vec<f32>,
    /// `[rank, free]`, the loadings of the features of `free` in that order: these are tried on every token.
    loading_of_free: Vec<f32>,
    sharpness: Vec<f32>,
    mean: Vec<f32>,
    deviation: Vec<f32>,
    /// The vector that is added to every token.
    pub bias: Vec<f32>,
    free: [Range<usize>; 2],
    /// Upper bounds of `Phi` on the pieces of [`BOUNDS`].
    bounds: Vec<f64>,
}

/// The pieces on which `Phi` is bounded: `BOUNDS` to the unit, from `-REACH` to `REACH`.
const BOUNDS: usize = 8;
const REACH: usize = 8;

impl Bench {
    pub fn new(config: &WorldConfig, options: &BenchOptions, parents: &[u32]) -> Self {
        let n = parents.len();
        let tree = n - config.flat;
        let mut rng = Philox::new(config.seed, CONSTANTS);
        let (mut probability, mut given) = (vec![0.0; n], vec![0.0; n]);
        let mut first_child = vec![ROOT; n];
        let children = config.children;
        for f in (0..n).filter(|_| options.compensate) {
            let law = |f: usize| {
                let (rank, last) = (libm::pow(f as f64 + 1.0, -options.zipf), libm::pow(n as f64, -options.zipf));
                let share = if last < 1.0 { (rank - last) / (1.0 - last) } else { 1.0 };
                config.p_min + (config.p_max - config.p_min) * share
            };
            given[f] = match parents[f] {
                ROOT => law(f),
                parent => {
                    let first = &mut first_child[parent as usize];
                    *first = (*first).min(f as u32);
                    let siblings = *first as usize..*first as usize + children;
                    let others: f64 = siblings.filter(|s| options.exclusive && *s != f).map(law).sum();
                    (law(f) / law(parent as usize) * (1.0 + others / law(parent as usize))).min(1.0)
                }
            };
        }
        for f in (0..n).filter(|_| options.compensate) {
            probability[f] = match parents[f] {
                ROOT => given[f],
                parent => {
                    let first = first_child[parent as usize] as usize;
                    let kept =
                        if options.exclusive { kept_of(&given[first..first + children], f - first) } else { given[f] };
                    probability[parent as usize] * kept
                }
            };
        }
        for f in (0..n).filter(|_| !options.compensate) {
            // Flat features are spread over all ranks; those of the trees follow the order of their levels.
            let rank = if f < tree { f } else { (f - tree) * n / config.flat };
            let p = (config.p_max * libm::pow(rank as f64 + 1.0, -options.zipf)).max(config.p_min);
            let p = p.min(1.0);
            (probability[f], given[f]) = match parents[f] {
                ROOT => (p, p),
                parent => {
                    let most = config.child_probability * probability[parent as usize];
                    let most = if options.exclusive { most / config.children as f64 } else { most };
                    let own = p.min(most);
                    if first_child[parent as usize] == ROOT {
                        first_child[parent as usize] = f as u32;
                    }
                    (own, own / probability[parent as usize].max(f64::MIN_POSITIVE))
                }
            };
        }
        let loading: Vec<f32> = (0..n * options.rank).map(|_| options.correlation as f32 * rng.normal_f32()).collect();
        let square = |f: usize| -> f32 {
            let own = &loading[f * options.rank..(f + 1) * options.rank];
            own.iter().map(|l| l * l).sum::<f32>().min(0.99)
        };
        let sharpness = (0..n).map(|f| 1.0 / libm::sqrtf(1.0 - square(f))).collect();
        let along = |f: usize| if n > 1 { f as f64 / (n - 1) as f64 } else { 0.0 };
        let (first, last) = (options.magnitude_first, options.magnitude_last);
        let mean = (0..n).map(|f| (first + (last - first) * along(f)) as f32).collect();
        let deviation = (0..n).map(|_| (options.magnitude_spread * (1.0 + rng.normal_f64())).abs() as f32).collect();
        let mut bias: Vec<f64> = (0..config.d).map(|_| rng.normal_f64()).collect();
        unit(&mut bias);
        let free = [0..config.roots, tree..n];
        let rank = if options.correlation > 0.0 { options.rank } else { 0 };
        let of_free = |r: usize| free.iter().cloned().flatten().map(move |f| f * options.rank + r);
        let loading_of_free = (0..rank).flat_map(of_free).map(|at| loading[at]).collect();
        // The margin is far above the error of `erfc`, so that no feature is passed over that fires.
        let bound = |i: usize| normal_below((i + 1) as f64 / BOUNDS as f64 - REACH as f64) * (1.0 + 1e-9);
        Self {
            cut: given.iter().map(|p| quantile(*p) as f32).collect(),
            probability,
            given,
            exclusive: options.exclusive,
            compensate: options.compensate,
            rank,
            loading_of_free,
            bounds: (0..2 * REACH * BOUNDS).map(bound).collect(),
            child_scale: config.child_scale as f32,
            first_child,
            children: config.children,
            loading: if options.correlation > 0.0 { loading } else { Vec::new() },
            sharpness,
            mean,
            deviation,
            bias: bias.iter().map(|b| (options.bias * b) as f32).collect(),
            free,
        }
    }

    /// Calls `add(feature, magnitude)` for every feature that is on.
    pub fn token(&self, rng: &mut Philox, add: &mut dyn FnMut(usize, f32)) {
        let mut factors = [0.0f32; 64];
        let mut more = Vec::new();
        let g = if self.rank <= factors.len() {
            &mut factors[..self.rank]
        } else {
            more.resize(self.rank, 0.0);
            &mut more[..]
        };
        g.iter_mut().for_each(|g| *g = rng.normal_f32());
        // For all features at once, each in the order of `fires`.
        let n_free = self.free.iter().map(Range::len).sum();
        let mut along = vec![0.0f32; n_free];
        for (g, loading) in g.iter().zip(self.loading_of_free.chunks_exact(n_free.max(1))) {
            along.iter_mut().zip(loading).for_each(|(a, l)| *a += l * g);
        }
        for (f, along) in self.free.iter().cloned().flatten().zip(along) {
            if self.exceeds(f, along, rng) {
                self.switch_on(f, 1.0, g, rng, add);
            }
        }
    }

    fn fires(&self, f: usize, g: &[f32], rng: &mut Philox) -> bool {
        let own = self.loading.get(f * self.rank..(f + 1) * self.rank).unwrap_or_default();
        self.exceeds(f, own.iter().zip(g).fold(0.0, |along, (l, g)| along + l * g), rng)
    }

    /// Draws whether `f` fires, given the sum of its loadings times the factors of the token.
    fn exceeds(&self, f: usize, along: f32, rng: &mut Philox) -> bool {
        let u = rng.uniform_f64();
        if self.rank == 0 {
            return u < self.given[f];
        }
        let x = f64::from((self.cut[f] - along) * self.sharpness[f]);
        // Most features do not fire, which a bound shows without `erfc`. Below the first piece its bound holds too.
        let piece = ((x + REACH as f64) * BOUNDS as f64).max(0.0) as usize;
        self.bounds.get(piece).is_none_or(|bound| u < *bound) && u < normal_below(x)
    }

    fn switch_on(&self, f: usize, scale: f32, g: &[f32], rng: &mut Philox, add: &mut dyn FnMut(usize, f32)) {
        let a = scale * (self.mean[f] + self.deviation[f] * rng.normal_f32());
        if a <= 0.0 {
            return;
        }
        add(f, a);
        if self.first_child[f] == ROOT {
            return;
        }
        let children = self.first_child[f] as usize..self.first_child[f] as usize + self.children;
        let scale = if self.mean[f] > 0.0 { self.child_scale * a / self.mean[f] } else { 0.0 };
        if self.exclusive && self.compensate {
            // One of those that would fire, each as likely.
            let (mut kept, mut would) = (None, 0);
            for c in children {
                if self.fires(c, g, rng) {
                    would += 1;
                    if rng.below(would) == 0 {
                        kept = Some(c);
                    }
                }
            }
            if let Some(c) = kept {
                self.switch_on(c, scale, g, rng, add);
            }
        } else if self.exclusive {
            let u = rng.uniform_f64();
            let mut below = 0.0;
            let hit = children.into_iter().find(|&c| {
                below += self.given[c];
                u < below
            });
            if let Some(c) = hit {
                self.switch_on(c, scale, g, rng, add);
            }
        } else {
            for c in children {
                if self.fires(c, g, rng) {
                    self.switch_on(c, scale, g, rng, add);
                }
            }
        }
    }
}

/// Returns how often one of some that are on by themselves with the given probabilities is on and kept, where one of those that are on
/// is kept, each as likely.
fn kept_of(given: &[f64], at: usize) -> f64 {
    // The probability that so many of the others are on.
    let mut on = vec![0.0; given.len()];
    on[0] = 1.0;
    for (seen, p) in given.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, p)| p).enumerate() {
        for k in (0..=seen + 1).rev() {
            let more = if k > 0 { on[k - 1] * p } else { 0.0 };
            on[k] = on[k] * (1.0 - p) + more;
        }
    }
    given[at] * on.iter().enumerate().map(|(k, p)| p / (k + 1) as f64).sum::<f64>()
}

/// `Phi(x)`.
fn normal_below(x: f64) -> f64 {
    0.5 * libm::erfc(-x * core::f64::consts::FRAC_1_SQRT_2)
}

/// `Phi^-1(p)` by bisection.
fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-12.0, 12.0);
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        if normal_below(middle) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}
