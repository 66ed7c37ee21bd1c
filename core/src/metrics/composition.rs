//! How the latents of level 2 are composed with those of level 1: co-firing, the learned tree, what each child adds.

use alloc::vec;
use alloc::vec::Vec;

use super::exact::ExactSum;
use super::sparsity::ALIVE_TOKENS;
use super::{check_parents, median};
use crate::gate::ROOT;
use crate::model::CodesView;
use crate::{Error, Result};

/// The co-firing table may have this many entries (512 MiB).
pub const MAX_PAIRS: usize = 1 << 27;
/// An edge is real if its lift is over this and [`REAL_CONTAINMENT`] is exceeded too.
pub const REAL_LIFT: f64 = 2.0;
/// See [`REAL_LIFT`].
pub const REAL_CONTAINMENT: f64 = 0.8;

/// Streaming co-firing counts of the two levels, and the families of a learned tree.
///
/// Integer counts, and exact sums of per-entry terms: the report depends on the tokens alone, not on their order, nor on
/// blocks, nor on how they are split among accumulators that are merged.
#[derive(Clone, Debug)]
pub struct Composition {
    parent: Vec<u32>,
    f1: usize,
    tokens: u64,
    fires1: Vec<u64>,
    fires2: Vec<u64>,
    /// `[f2, f1]`: `N_ij` at `j * f1 + i`.
    together: Vec<u32>,
    /// `[f1]`: tokens with some child on, with exactly one on, and with the parent and some child on.
    any_child: Vec<u64>,
    one_child: Vec<u64>,
    covered: Vec<u64>,
    gain: Vec<ExactSum>,
    gained: bool,
}

/// One latent of level 2.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Child {
    /// Its parent in level 1, [`ROOT`] for none.
    pub parent: u32,
    /// `n_j`: tokens on which it fires.
    pub fires: u64,
    /// `P(parent | j) = N_ij / n_j`. 0 to 1, higher is better; NaN for [`ROOT`] or `n_j = 0`.
    pub containment: f64,
    /// `N N_ij / (n_i n_j)`. 0 and up, higher is better, 1 is chance; NaN for [`ROOT`], if either never fires, or if
    /// either fires on every token.
    pub lift: f64,
    /// `max_i w_ij / sum_i w_ij`, `w_ij = P(i | j)` where the lift of `(i, j)` is over [`REAL_LIFT`], else 0. 0 to 1,
    /// 1: a single parent; NaN if no `i` has such a lift.
    pub treeness: f64,
    /// `(sum_i w_ij)^2 / sum_i w_ij^2`: effective parents. 1 and up; NaN as above.
    pub effective_parents: f64,
    /// `sum_tokens -2 z_j e . D_j + z_j^2 ||D_j||^2`, `e = x_hat2 - x`: by how much the squared error grows if `j` is
    /// removed alone. Higher is better; below 0: `j` harms. NaN if the blocks came without errors.
    pub gain: f64,
}

/// One latent of level 1 with children.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Parent {
    /// The latent.
    pub latent: u32,
    /// Its children.
    pub children: usize,
    /// `n_i`: tokens on which it fires.
    pub fires: u64,
    /// `P(some child | i)`. 0 to 1; NaN if `n_i = 0`.
    pub coverage: f64,
    /// `P(exactly one child | at least one)`. 0 to 1, 1: siblings exclude each other; NaN if none ever fires.
    pub exclusivity: f64,
}

/// The composition of the levels. Means are over what is defined and alive (at least [`ALIVE_TOKENS`] tokens); NaN
/// where nothing is.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct CompositionReport {
    /// Tokens seen.
    pub tokens: u64,
    /// Children that hang on [`ROOT`].
    pub root_children: usize,
    /// Children with a parent that are not alive: left out below.
    pub edges_not_alive: usize,
    /// Alive edges without a lift: their parent never fires, or an end is always on.
    pub edges_without_lift: usize,
    /// Mean `containment` of the alive edges. 0 to 1, higher is better.
    pub containment: f64,
    /// Median `lift` of the alive edges that have one. 0 and up, higher is better.
    pub median_lift: f64,
    /// Share of the alive edges with a lift over [`REAL_LIFT`] and a containment over [`REAL_CONTAINMENT`]. 0 to 1,
    /// higher is better.
    pub real_edges: f64,
    /// Mean `treeness` of the alive children. 0 to 1, higher is better.
    pub treeness: f64,
    /// Alive children without a treeness.
    pub children_without_treeness: usize,
    /// Mean `coverage` of the alive parents. 0 to 1.
    pub coverage: f64,
    /// Mean `exclusivity` of the alive parents with at least two children. 0 to 1.
    pub exclusivity: f64,
    /// Share of the alive children with `gain < 0`. 0 to 1, lower is better.
    pub harmful: f64,
    /// `[f2]`.
    pub child: Vec<Child>,
    /// The latents of level 1 that have children.
    pub parent: Vec<Parent>,
}

/// What the gains need: the error of level 2 on a block, and the decoder.
#[derive(Clone, Copy, Debug)]
pub struct Errors<'a> {
    /// `x_hat2 - x`, `[n, d]` row-major.
    pub error: &'a [f32],
    /// `[f2, d]` row-major.
    pub decoder2: &'a [f32],
    /// The dimensions, not 0.
    pub d: usize,
}

impl Composition {
    /// No tokens yet. `parent` has an entry for each latent of level 2.
    ///
    /// # Errors
    /// [`Error::Index`] for a parent that is neither below `f1` nor [`ROOT`]; [`Error::Config`] for more than
    /// [`MAX_PAIRS`] pairs of latents.
    pub fn new(f1: usize, parent: &[u32]) -> Result<Self> {
        check_parents("learned parents", parent, f1)?;
        let f2 = parent.len();
        let size = pairs(f1, f2)?;
        Ok(Self {
            parent: parent.to_vec(),
            f1,
            tokens: 0,
            fires1: vec![0; f1],
            fires2: vec![0; f2],
            together: vec![0; size],
            any_child: vec![0; f1],
            one_child: vec![0; f1],
            covered: vec![0; f1],
            gain: vec![ExactSum::default(); f2],
            gained: true,
        })
    }

    /// Adds a block. Without `errors` in some block there are no gains.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes disagree, [`Error::Capacity`] for more than `2^32 - 1` tokens,
    /// [`Error::NotFinite`] if a gain would not be finite; nothing is added then.
    pub fn add(&mut self, codes1: &CodesView<'_>, codes2: &CodesView<'_>, errors: Option<Errors<'_>>) -> Result<()> {
        let (n, f1, f2) = (codes1.tokens(), self.f1, self.parent.len());
        let (error, decoder) = errors.map_or(((0, 0), (0, 0)), |e| {
            ((n.saturating_mul(e.d), e.error.len()), (f2.saturating_mul(e.d), e.decoder2.len()))
        });
        for (what, expected, got) in [
            ("latents of the codes of level 1", f1, codes1.latents()),
            ("latents of the codes of level 2", f2, codes2.latents()),
            ("tokens of the codes of level 2", n, codes2.tokens()),
            ("errors of level 2", error.0, error.1),
            ("decoder of level 2", decoder.0, decoder.1),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        self.check_room(self.tokens + n as u64)?;
        let gains = self.gains(codes2, errors)?;
        for (j, gain) in gains {
            self.gain[j].add(gain);
        }
        self.gained &= errors.is_some() || n == 0;
        let (mut children, mut families) = (vec![0u32; f1], Vec::new());
        for t in 0..n {
            for (j, _) in codes2.active(t) {
                self.fires2[j] += 1;
                codes1.active(t).for_each(|(i, _)| self.together[j * f1 + i] += 1);
                if self.parent[j] != ROOT {
                    let p = self.parent[j] as usize;
                    if children[p] == 0 {
                        families.push(p);
                    }
                    children[p] += 1;
                }
            }
            for (i, _) in codes1.active(t) {
                self.fires1[i] += 1;
                self.covered[i] += u64::from(children[i] > 0);
            }
            for p in families.drain(..) {
                self.any_child[p] += 1;
                self.one_child[p] += u64::from(children[p] == 1);
                children[p] = 0;
            }
        }
        self.tokens += n as u64;
        Ok(())
    }

    fn gains(&self, codes2: &CodesView<'_>, errors: Option<Errors<'_>>) -> Result<Vec<(usize, f64)>> {
        let Some(Errors { error, decoder2, d }) = errors else { return Ok(Vec::new()) };
        let mut gains = Vec::new();
        for t in 0..codes2.tokens() {
            let e = &error[t * d..(t + 1) * d];
            for (j, z) in codes2.active(t) {
                let (mut along, mut square) = (0.0, 0.0);
                for (e, w) in e.iter().zip(&decoder2[j * d..(j + 1) * d]) {
                    let w = f64::from(*w);
                    along += f64::from(*e) * w;
                    square += w * w;
                }
                let z = f64::from(z);
                let gain = z * (z * square - 2.0 * along);
                if !gain.is_finite() {
                    return Err(Error::NotFinite { what: "gain of a child".into(), step: self.tokens + t as u64 });
                }
                gains.push((j, gain));
            }
        }
        Ok(gains)
    }

    /// The counts are of 32 bits.
    fn check_room(&self, tokens: u64) -> Result<()> {
        if tokens > u64::from(u32::MAX) {
            let (needed, got) = (usize::try_from(tokens).unwrap_or(usize::MAX), u32::MAX as usize);
            return Err(Error::Capacity { what: "tokens in a co-firing table", needed, got });
        }
        Ok(())
    }

    /// Adds the tokens of `other`.
    ///
    /// # Errors
    /// [`Error::Capacity`] for more than `2^32 - 1` tokens together; nothing is added then.
    ///
    /// # Panics
    /// If the levels or parents differ.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        assert!(self.f1 == other.f1 && self.parent == other.parent, "merged accumulators must be of one tree");
        self.check_room(self.tokens + other.tokens)?;
        self.tokens += other.tokens;
        self.gained &= other.gained;
        self.together.iter_mut().zip(&other.together).for_each(|(a, b)| *a += b);
        self.gain.iter_mut().zip(&other.gain).for_each(|(a, b)| a.merge(b));
        for (a, b) in [
            (&mut self.fires1, &other.fires1),
            (&mut self.fires2, &other.fires2),
            (&mut self.any_child, &other.any_child),
            (&mut self.one_child, &other.one_child),
            (&mut self.covered, &other.covered),
        ] {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
        Ok(())
    }

    /// `N_ij`: the tokens on which `i` of level 1 and `j` of level 2 fire together.
    ///
    /// # Panics
    /// If `i` or `j` is out of range.
    pub fn together(&self, i: usize, j: usize) -> u32 {
        assert!(i < self.f1, "latent {i} of level 1 is outside of 0..{}", self.f1);
        self.together[j * self.f1 + i]
    }

    fn lift(&self, i: usize, j: usize) -> f64 {
        let (n, n1, n2) = (self.tokens, self.fires1[i], self.fires2[j]);
        if n1 == 0 || n2 == 0 || n1 == n || n2 == n {
            return f64::NAN;
        }
        n as f64 * f64::from(self.together(i, j)) / (n1 as f64 * n2 as f64)
    }

    fn child(&self, j: usize) -> Child {
        let (mut sum, mut squares, mut top) = (0.0, 0.0, 0.0f64);
        let given = |i: usize| f64::from(self.together(i, j)) / self.fires2[j] as f64;
        for i in (0..self.f1).filter(|&i| self.lift(i, j) > REAL_LIFT) {
            let w = given(i);
            (sum, squares, top) = (sum + w, squares + w * w, top.max(w));
        }
        let parent = (self.parent[j] != ROOT).then_some(self.parent[j] as usize);
        Child {
            parent: self.parent[j],
            fires: self.fires2[j],
            containment: parent.map_or(f64::NAN, given),
            lift: parent.map_or(f64::NAN, |i| self.lift(i, j)),
            treeness: top / sum,
            effective_parents: sum * sum / squares,
            gain: if self.gained { self.gain[j].value() } else { f64::NAN },
        }
    }

    /// The scores of all tokens added. Cost: one pass over the co-firing table.
    pub fn report(&self) -> CompositionReport {
        let child: Vec<Child> = (0..self.parent.len()).map(|j| self.child(j)).collect();
        let mut children = vec![0usize; self.f1];
        self.parent.iter().filter(|p| **p != ROOT).for_each(|p| children[*p as usize] += 1);
        let parent: Vec<Parent> = (0..self.f1)
            .filter(|&i| children[i] > 0)
            .map(|i| Parent {
                latent: i as u32,
                children: children[i],
                fires: self.fires1[i],
                coverage: self.covered[i] as f64 / self.fires1[i] as f64,
                exclusivity: self.one_child[i] as f64 / self.any_child[i] as f64,
            })
            .collect();
        let alive: Vec<&Child> = child.iter().filter(|c| c.fires >= ALIVE_TOKENS).collect();
        let edges: Vec<&Child> = alive.iter().copied().filter(|c| c.parent != ROOT).collect();
        let mut lifts: Vec<f64> = edges.iter().map(|c| c.lift).filter(|l| !l.is_nan()).collect();
        let real = edges.iter().filter(|c| c.lift > REAL_LIFT && c.containment > REAL_CONTAINMENT).count();
        let root_children = self.parent.iter().filter(|p| **p == ROOT).count();
        let parents = || parent.iter().filter(|p| p.fires >= ALIVE_TOKENS);
        let harmful = alive.iter().filter(|c| c.gain < 0.0).count() as f64 / alive.len() as f64;
        CompositionReport {
            tokens: self.tokens,
            root_children,
            edges_not_alive: child.len() - root_children - edges.len(),
            edges_without_lift: edges.len() - lifts.len(),
            containment: defined_mean(edges.iter().map(|c| c.containment)),
            median_lift: median(&mut lifts),
            real_edges: real as f64 / edges.len() as f64,
            treeness: defined_mean(alive.iter().map(|c| c.treeness)),
            children_without_treeness: alive.iter().filter(|c| c.treeness.is_nan()).count(),
            coverage: defined_mean(parents().map(|p| p.coverage)),
            exclusivity: defined_mean(parents().filter(|p| p.children > 1).map(|p| p.exclusivity)),
            harmful: if self.gained { harmful } else { f64::NAN },
            child,
            parent,
        }
    }
}

/// The size of a co-firing table.
pub(super) fn pairs(f1: usize, f2: usize) -> Result<usize> {
    f1.checked_mul(f2).filter(|n| *n <= MAX_PAIRS).ok_or_else(|| {
        Error::config("f1 * f2", alloc::format!("{f1} x {f2} pairs of latents, over the {MAX_PAIRS} that are counted"))
    })
}

fn defined_mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut n) = (0.0, 0usize);
    for v in values.filter(|v| !v.is_nan()) {
        (sum, n) = (sum + v, n + 1);
    }
    sum / n as f64
}
