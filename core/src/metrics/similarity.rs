//! Whether a child means something similar to its parent, measured without a language model: by directions, by the
//! words on which both fire, and by the neighbouring words.
//!
//! A parent that fires often looks similar to every latent, so each measure is reported for the learned edges, for
//! random pairs of the same densities, and for shuffled families, with the AUC of the first against the second.

use alloc::vec;
use alloc::vec::Vec;

use super::check_parents;
use super::coherence::{Draws, density_classes, shuffled};
use super::sparsity::ALIVE_TOKENS;
use crate::compute::Compute;
use crate::gate::ROOT;
use crate::kernel::{Isa, reduce};
use crate::model::CodesView;
use crate::par::Par;
use crate::rng::Philox;
use crate::{Error, Result};

mod auc;
mod profiles;

pub use auc::{Auc, auc};
pub use profiles::{MAX_CELLS, NO_WORD, Profiles};

/// Pseudo-tokens of the uniform prior of a profile.
pub const ALPHA: f64 = 1.0;
/// Number of attempts to draw a random pair for an edge.
const TRIES: usize = 64;
/// The random stream of the matched pairs.
const STREAM: u64 = 0x7369_6d69 << 32;

/// Profiles of both levels.
#[derive(Clone, Copy, Debug)]
pub struct Levels<'a> {
    /// Profiles of level 1.
    pub level1: &'a Profiles,
    /// Profiles of level 2.
    pub level2: &'a Profiles,
}

/// The inputs of the measures. A measure whose input is missing is NaN.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Width of a decoder row, not 0.
    pub d: usize,
    /// `[f1, d]`.
    pub decoder1: &'a [f32],
    /// `[f2, d]`, in the space of the activations.
    pub decoder2: &'a [f32],
    /// `[f1, w]` and `[f2, w]`, if both levels read the activations, of width `w`, which is not `d` in a transcoder.
    pub encoders: Option<(&'a [f32], &'a [f32])>,
    /// `[words, d]`: the unembedding `W_U`, one row per word.
    pub unembedding: Option<&'a [f32]>,
    /// Profiles over the current word.
    pub current: Option<Levels<'a>>,
    /// Profiles over the word before.
    pub previous: Option<Levels<'a>>,
    /// Profiles over the word after.
    pub next: Option<Levels<'a>>,
    /// `[f2]`: the parent of each child, or [`ROOT`].
    pub parent: &'a [u32],
    /// `[f1]` and `[f2]`: firing counts.
    pub fires: (&'a [u64], &'a [u64]),
}

/// One measure on three kinds of (child, parent) pairs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Contrast {
    /// Mean over the edges.
    pub connected: f64,
    /// Mean over random pairs: for each edge, a random child of the same density class as the child and a random parent
    /// of the same density class as the parent, which are not connected.
    pub matched: f64,
    /// Mean over the edges of shuffled families: parents permuted among children of one density class.
    pub shuffled: f64,
    /// Share of (edge, random pair) in which the edge has the larger value, ties half. 0 to 1, 1/2 is chance.
    pub auc: f64,
    /// Its interval of 95 %, of DeLong, DeLong and Clarke-Pearson 1988. Pairs count as independent, so with few parents
    /// it is too narrow. NaN with fewer than two of either kind.
    pub auc_low: f64,
    /// See `auc_low`.
    pub auc_high: f64,
    /// Edges on which the measure is NaN: left out.
    pub undefined: usize,
    /// Random pairs on which it is NaN: left out.
    pub undefined_matched: usize,
}

/// How similar connected latents are: `q_p`, `q_c` are the profiles ([`Profiles::profile`]) of parent and child, `D`
/// decoder rows. Entropies and divergences in bits. Alive latents only.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SimilarityReport {
    /// Edges compared: both ends alive.
    pub edges: usize,
    /// Children left out: under [`ROOT`].
    pub root: usize,
    /// Edges left out: an end is not alive.
    pub not_alive: usize,
    /// Random pairs compared.
    pub matched_pairs: usize,
    /// Random pairs that were not found, since every pair that was drawn was connected.
    pub not_found: usize,
    /// `cos(D1_p, D2_c)`. -1 to 1. Children that are offsets from their parents have about 0.
    pub decoder: Contrast,
    /// Cosine of the encoder rows. -1 to 1.
    pub encoder: Contrast,
    /// `1 - JSD(q_p, q_c)` of the current word, `JSD = H((q_p + q_c) / 2) - (H(q_p) + H(q_c)) / 2`. 0 to 1, 1: equal.
    pub token: Contrast,
    /// `1 - max(0, JSD - (V' - 1) / (8 ln 2) (1 / n_p + 1 / n_c))`: less what samples of `n_p` and `n_c` tokens of one
    /// distribution on `V'` words differ by; `V'` are the words that either has met. 0 to 1, 1: equal up to sampling.
    /// The samples of a contained child and its parent overlap and differ by less.
    pub token_corrected: Contrast,
    /// `1 - JSD` of the previous word. 0 to 1.
    pub previous: Contrast,
    /// `1 - JSD` of the next word. 0 to 1.
    pub next: Contrast,
    /// Cosine of the contexts, `(q - q_all)` of the previous and of the next word side by side, `q_all` the profile of
    /// all tokens. -1 to 1; 0 is chance for latents that fire on different tokens. The tokens of a contained child are
    /// its parent's too: with contexts that mean nothing it has about `sqrt(n_c / n_p)`, and a high AUC.
    pub context: Contrast,
    /// Cosine of the direct effects on the logits, `W_U D` less its mean over words. -1 to 1.
    pub logit: Contrast,
    /// `KL(q_c || q_p)`. 0 and up, low: the parent's words cover the child's; for a good edge the AUC is below 1/2.
    pub kl_child_parent: Contrast,
    /// `KL(q_p || q_c)`. 0 and up; for a hierarchy larger than `kl_child_parent`, for synonyms both are small.
    pub kl_parent_child: Contrast,
    /// `H(q_p) - H(q_c)`. Above 0: the child is more specific.
    pub entropy_drop: Contrast,
    /// Share with `KL(q_c || q_p) < KL(q_p || q_c)` and `H(q_p) > H(q_c)`: the parent subsumes the child. 0 to 1,
    /// higher is better.
    pub subsumed: Contrast,
}

/// Number of measures.
const MEASURES: usize = 12;

/// Compares the edges of a tree, with `draws.n` random pairs for each edge and as many shuffles.
///
/// Sums in `f64`, in the order of the children; seeded: a function of the inputs alone.
/// Cost: `edges (1 + 2 draws.n)` comparisons of `d + words` steps each. Memory: 8 bytes for each cell of a profile, and
/// `d^2` numbers for the logits.
///
/// # Errors
/// [`Error::Shape`] where sizes disagree, [`Error::Index`] for a parent out of range.
pub fn similarity(compute: Compute, inputs: &Inputs<'_>, draws: Draws) -> Result<SimilarityReport> {
    let Compute { par, .. } = compute;
    inputs.check()?;
    let pairs = Pairs::new(compute, inputs);
    let (parent, fires1, fires2) = (inputs.parent, inputs.fires.0, inputs.fires.1);
    let alive1: Vec<u32> = (0..fires1.len() as u32).filter(|&i| fires1[i as usize] >= ALIVE_TOKENS).collect();
    let alive2: Vec<u32> = (0..parent.len() as u32).filter(|&j| fires2[j as usize] >= ALIVE_TOKENS).collect();
    let is_alive = |p: u32| p != ROOT && fires1[p as usize] >= ALIVE_TOKENS;
    let edges: Vec<(u32, u32)> =
        alive2.iter().map(|&j| (j, parent[j as usize])).filter(|&(_, p)| is_alive(p)).collect();

    let (classes1, classes2) = (Classes::new(alive1, fires1), Classes::new(alive2, fires2));
    let mut matched = Vec::with_capacity(edges.len() * draws.n);
    let mut rng = Philox::new(draws.seed, STREAM);
    for &(j, p) in &edges {
        for _ in 0..draws.n {
            let found = (0..TRIES)
                .map(|_| (classes2.like(j, &mut rng), classes1.like(p, &mut rng)))
                .find(|&(c, q)| parent[c as usize] != q);
            matched.extend(found);
        }
    }
    let children: Vec<u64> = edges.iter().map(|e| fires2[e.0 as usize]).collect();
    let class = density_classes(&children);
    let parents: Vec<u32> = edges.iter().map(|e| e.1).collect();
    let mut mixed = Vec::with_capacity(edges.len() * draws.n);
    for draw in 0..draws.n {
        let parents = shuffled(&parents, &class, draws.seed, draw as u64);
        mixed.extend(edges.iter().zip(parents).map(|(e, p)| (e.0, p)));
    }

    let measure = |list: &[(u32, u32)]| par.map(list.len(), |k| pairs.measure(list[k].0 as usize, list[k].1 as usize));
    let (on_edges, on_matched, on_mixed) = (measure(&edges), measure(&matched), measure(&mixed));
    let contrast = |m: usize| {
        let defined =
            |rows: &[[f64; MEASURES]]| -> Vec<f64> { rows.iter().map(|r| r[m]).filter(|v| !v.is_nan()).collect() };
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let (edges, matched, mixed) = (defined(&on_edges), defined(&on_matched), defined(&on_mixed));
        let Auc { auc, low, high } = auc(&edges, &matched);
        Contrast {
            connected: mean(&edges),
            matched: mean(&matched),
            shuffled: mean(&mixed),
            auc,
            auc_low: low,
            auc_high: high,
            undefined: on_edges.len() - edges.len(),
            undefined_matched: on_matched.len() - matched.len(),
        }
    };
    let root = parent.iter().filter(|p| **p == ROOT).count();
    Ok(SimilarityReport {
        edges: edges.len(),
        root,
        not_alive: parent.len() - root - edges.len(),
        matched_pairs: matched.len(),
        not_found: edges.len() * draws.n - matched.len(),
        decoder: contrast(0),
        encoder: contrast(1),
        token: contrast(2),
        token_corrected: contrast(3),
        previous: contrast(4),
        next: contrast(5),
        context: contrast(6),
        logit: contrast(7),
        kl_child_parent: contrast(8),
        kl_parent_child: contrast(9),
        entropy_drop: contrast(10),
        subsumed: contrast(11),
    })
}

impl Inputs<'_> {
    /// Width of an encoder row, at least 1.
    fn encoder_width(&self) -> usize {
        let f1 = self.fires.0.len().max(1);
        self.encoders.map_or(1, |(one, _)| one.len().div_ceil(f1).max(1))
    }

    /// Checks that the sizes agree.
    fn check(&self) -> Result<()> {
        let (d, f1, f2) = (self.d, self.fires.0.len(), self.parent.len());
        let width = self.encoder_width();
        let (encoder1, encoder2) = self.encoders.map_or((f1 * width, f2 * width), |(a, b)| (a.len(), b.len()));
        let unembedding = self.unembedding.map_or(0, <[f32]>::len);
        for (what, expected, got) in [
            ("decoder of level 1", f1 * d, self.decoder1.len()),
            ("decoder of level 2", f2 * d, self.decoder2.len()),
            ("encoder of level 1", f1 * width, encoder1),
            ("encoder of level 2", f2 * width, encoder2),
            ("firing counts of level 2", f2, self.fires.1.len()),
            ("unembedding", unembedding.next_multiple_of(d.max(1)), unembedding),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        for Levels { level1, level2 } in [self.current, self.previous, self.next].into_iter().flatten() {
            for (what, expected, got) in [
                ("profiles of level 1", f1, level1.latents()),
                ("profiles of level 2", f2, level2.latents()),
                ("words of the profiles", level1.words(), level2.words()),
            ] {
                if expected != got {
                    return Err(Error::Shape { what, expected, got });
                }
            }
        }
        check_parents("learned parents", self.parent, f1)
    }
}

/// Alive latents by density class.
struct Classes {
    /// `[latents]`: the class of an alive latent.
    class: Vec<u32>,
    /// The latents of each class.
    member: Vec<Vec<u32>>,
}

impl Classes {
    fn new(alive: Vec<u32>, fires: &[u64]) -> Self {
        let counts: Vec<u64> = alive.iter().map(|&i| fires[i as usize]).collect();
        let (mut class, mut member) = (vec![0; fires.len()], vec![Vec::new(); super::coherence::DENSITY_CLASSES]);
        for (&i, c) in alive.iter().zip(density_classes(&counts)) {
            class[i as usize] = c;
            member[c as usize].push(i);
        }
        Self { class, member }
    }

    /// Draws an alive latent of the class of `i`.
    fn like(&self, i: u32, rng: &mut Philox) -> u32 {
        let member = &self.member[self.class[i as usize] as usize];
        member[rng.below(member.len() as u64) as usize]
    }
}

/// What the measures of a pair are computed from.
struct Pairs<'a> {
    isa: Isa,
    inputs: &'a Inputs<'a>,
    current: Option<[Table; 2]>,
    previous: Option<[Table; 2]>,
    next: Option<[Table; 2]>,
    /// Profiles of all tokens over the word before, and over the word after.
    base: [Vec<f64>; 2],
    /// `[f1, d]`: `G D1`, `G` the Gram matrix of the centred unembedding; and `D G D` of both levels.
    effect: Option<(Vec<f32>, [Vec<f64>; 2])>,
}

/// The profiles of a level with their entropies.
struct Table {
    words: usize,
    profile: Vec<f64>,
    entropy: Vec<f64>,
}

impl Table {
    fn new(par: Par, profiles: &Profiles) -> Self {
        let words = profiles.words();
        let rows = par.map(profiles.latents(), |j| {
            let mut q = vec![0.0; words];
            profiles.profile(j, ALPHA, &mut q);
            let entropy = q.iter().map(|&q| -xlog2x(q)).sum::<f64>();
            (q, entropy)
        });
        let entropy = rows.iter().map(|r| r.1).collect();
        Self { words, profile: rows.into_iter().flat_map(|r| r.0).collect(), entropy }
    }

    fn row(&self, j: usize) -> &[f64] {
        &self.profile[j * self.words..(j + 1) * self.words]
    }
}

/// Returns `x log2 x`; 0 at 0, and NaN for NaN.
fn xlog2x(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x * libm::log2(x) }
}

impl<'a> Pairs<'a> {
    fn new(compute: Compute, inputs: &'a Inputs<'a>) -> Self {
        let Compute { isa, par } = compute;
        let tables = |l: Option<Levels<'_>>| l.map(|l| [Table::new(par, l.level1), Table::new(par, l.level2)]);
        let base = [inputs.previous, inputs.next].map(|l| l.map_or(Vec::new(), |l| l.level1.base()));
        let effect = inputs.unembedding.map(|u| effects(compute, inputs, u));
        Self {
            isa,
            inputs,
            current: tables(inputs.current),
            previous: tables(inputs.previous),
            next: tables(inputs.next),
            base,
            effect,
        }
    }

    /// Returns all measures of a pair, in the order of the fields of [`SimilarityReport`].
    fn measure(&self, child: usize, parent: usize) -> [f64; MEASURES] {
        let d = self.inputs.d;
        let cosine =
            |width, one: &[f32], two: &[f32]| cosine(self.isa, row(one, width, parent), row(two, width, child));
        let decoder = cosine(d, self.inputs.decoder1, self.inputs.decoder2);
        let width = self.inputs.encoder_width();
        let encoder = self.inputs.encoders.map_or(f64::NAN, |(one, two)| cosine(width, one, two));
        let of = |tables: &Option<[Table; 2]>| {
            tables.as_ref().map_or(f64::NAN, |[one, two]| {
                1.0 - divergence(one.row(parent), two.row(child), one.entropy[parent], two.entropy[child])
            })
        };
        let token = of(&self.current);
        let mut out = [f64::NAN; MEASURES];
        out[0] = decoder;
        out[1] = encoder;
        out[2] = token;
        if let (Some(levels), Some([one, two])) = (self.inputs.current, &self.current) {
            let floor = levels.level1.floor(parent, levels.level2, child);
            // `max` would hide a NaN.
            let rest = 1.0 - token - floor;
            out[3] = if rest < 0.0 { 1.0 } else { 1.0 - rest };
            let (p, c) = (one.row(parent), two.row(child));
            out[8] = relative_entropy(c, p);
            out[9] = relative_entropy(p, c);
            out[10] = one.entropy[parent] - two.entropy[child];
            if !out[10].is_nan() {
                out[11] = f64::from(u8::from(out[8] < out[9] && out[10] > 0.0));
            }
        }
        out[4] = of(&self.previous);
        out[5] = of(&self.next);
        out[6] = self.context(child, parent);
        if let Some((image, [square1, square2])) = &self.effect {
            let product = row_dot(row(image, d, parent), row(self.inputs.decoder2, d, child));
            let square = square1[parent] * square2[child];
            out[7] = if square > 0.0 { (product / libm::sqrt(square)).clamp(-1.0, 1.0) } else { f64::NAN };
        }
        out
    }

    /// Returns the cosine of the contexts of a pair.
    fn context(&self, child: usize, parent: usize) -> f64 {
        let (Some(previous), Some(next)) = (&self.previous, &self.next) else { return f64::NAN };
        let (mut product, mut one, mut two) = (0.0, 0.0, 0.0);
        for (tables, base) in [previous, next].into_iter().zip(&self.base) {
            for ((p, c), q) in tables[0].row(parent).iter().zip(tables[1].row(child)).zip(base) {
                let (p, c) = (p - q, c - q);
                product += p * c;
                one += p * p;
                two += c * c;
            }
        }
        if one * two == 0.0 { f64::NAN } else { product / libm::sqrt(one * two) }
    }
}

fn row(rows: &[f32], d: usize, j: usize) -> &[f32] {
    &rows[j * d..(j + 1) * d]
}

fn cosine(isa: Isa, a: &[f32], b: &[f32]) -> f64 {
    let square = f64::from(reduce::sum_squares(isa, a)) * f64::from(reduce::sum_squares(isa, b));
    if square > 0.0 { f64::from(reduce::dot(isa, a, b)) / libm::sqrt(square) } else { f64::NAN }
}

fn row_dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Returns `G D1` and the squared norms of the effects on the logits of both levels, `G = sum_w (u_w - mean u)(u_w -
/// mean u)^T`.
fn effects(compute: Compute, inputs: &Inputs<'_>, unembedding: &[f32]) -> (Vec<f32>, [Vec<f64>; 2]) {
    let Compute { isa, par } = compute;
    let d = inputs.d;
    let words = unembedding.len() / d;
    let mut mean = vec![0.0f64; d];
    unembedding.chunks_exact(d).for_each(|u| mean.iter_mut().zip(u).for_each(|(m, u)| *m += f64::from(*u)));
    mean.iter_mut().for_each(|m| *m /= words as f64);
    let gram = par.map(d, |a| {
        let mut row = vec![0.0f64; d];
        for u in unembedding.chunks_exact(d) {
            let along = f64::from(u[a]) - mean[a];
            for b in 0..d {
                row[b] += along * (f64::from(u[b]) - mean[b]);
            }
        }
        row.into_iter().map(|g| g as f32).collect::<Vec<f32>>()
    });
    let image = |rows: &[f32]| -> Vec<f32> {
        let images = par.map(rows.len() / d, |j| {
            let row = row(rows, d, j);
            gram.iter().map(|g| reduce::dot(isa, g, row)).collect::<Vec<f32>>()
        });
        images.into_iter().flatten().collect()
    };
    let square = |rows: &[f32], image: &[f32]| -> Vec<f64> {
        rows.chunks_exact(d).zip(image.chunks_exact(d)).map(|(r, g)| row_dot(r, g)).collect()
    };
    let (image1, image2) = (image(inputs.decoder1), image(inputs.decoder2));
    let squares = [square(inputs.decoder1, &image1), square(inputs.decoder2, &image2)];
    (image1, squares)
}

/// Returns the Jensen-Shannon divergence `H((p + q) / 2) - (H(p) + H(q)) / 2` in bits. 0 to 1; NaN if a profile is.
fn divergence(p: &[f64], q: &[f64], entropy_p: f64, entropy_q: f64) -> f64 {
    let middle: f64 = p.iter().zip(q).map(|(p, q)| -xlog2x((p + q) / 2.0)).sum();
    let divergence = middle - (entropy_p + entropy_q) / 2.0;
    if divergence < 0.0 { 0.0 } else { divergence }
}

/// Returns the Jensen-Shannon divergence `H((p + q) / 2) - (H(p) + H(q)) / 2` in bits. 0 (equal) to 1 (disjoint).
///
/// # Panics
/// If the lengths differ.
pub fn jensen_shannon(p: &[f64], q: &[f64]) -> f64 {
    assert_eq!(p.len(), q.len(), "two distributions over the same words");
    let entropy = |q: &[f64]| q.iter().map(|&q| -xlog2x(q)).sum();
    divergence(p, q, entropy(p), entropy(q))
}

/// Returns `KL(p || q) = sum_v p(v) log2(p(v) / q(v))`. 0 and up, infinite if `q` is 0 where `p` is not.
fn relative_entropy(p: &[f64], q: &[f64]) -> f64 {
    let sum: f64 =
        p.iter().zip(q).map(|(&p, &q)| if p == 0.0 { 0.0 } else { p * (libm::log2(p) - libm::log2(q)) }).sum();
    if sum < 0.0 { 0.0 } else { sum }
}
