//! How much of a known structure a trained model has found: the scores of a synthetic world.
//!
//! Notation: latents `j` are those of level 1 (`0..f1`) followed by those of level 2 (`f1..f1 + f2`); true features are
//! `f`, with directions `v_f`; `C[j, f] = |cos(D_j, v_f)|`; a latent **fires** on a token if its value is `> 0`; it is
//! **firing** if it fires on at least [`FIRING_SHARE`] of the tokens; `sigma(f)` is the firing latent that feature `f`
//! is matched with. A root is a feature with children, a leaf one with a parent, a flat feature has neither.

mod counts;
mod detection;

use alloc::vec;
use alloc::vec::Vec;

use counts::{Counts, argmax, ratio};
pub use detection::{Detection, Edges};

use super::coherence::agreement::adjusted_rand;
use super::composition::pairs;
use super::matching::{Goal, assign};
use super::{check_parents, median};
use crate::gate::ROOT;
use crate::model::CodesView;
use crate::{Error, Result};

/// A latent takes part in the structural scores if it fires on this share of the tokens: near-dead duplicates must
/// not win matches.
pub const FIRING_SHARE: f64 = 1e-3;
/// A match counts as found, in an edge, above this cosine.
pub const FOUND_COSINE: f64 = 0.7;
/// A latent may be the main latent of a root above this cosine.
pub const MAIN_COSINE: f64 = 0.5;
/// A child takes part in containment and lift if it fires on more tokens than this.
pub const MIN_CHILD_TOKENS: u64 = 20;

/// The known structure.
#[derive(Clone, Copy, Debug)]
pub struct Truth<'a> {
    /// `[features, d]` row-major, any length but zero.
    pub directions: &'a [f32],
    /// `[features]`: the parent of each feature, [`ROOT`] for none.
    pub parent: &'a [u32],
    /// `[tokens, features]` row-major: the magnitudes; a feature is on where they are `> 0`.
    pub magnitude: &'a [f32],
}

/// The scores. A score with an empty denominator is NaN, never 0.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Recovery {
    /// `mean_{(j, f) matched} C[j, f]` over the best matching of **all** latents with all features, `min(f1 + f2,
    /// features)` pairs. 0 to 1, higher is better; random directions have .35 in 64 dimensions.
    pub mcc: f64,
    /// The same after the rows of latents that are not firing are set to 0. 0 to 1, higher is better.
    pub mcc_firing: f64,
    /// Latents that fire on at least [`FIRING_SHARE`] of the tokens.
    pub n_firing: usize,
    /// Latents that never fire. Lower is better.
    pub dead: usize,
    /// Features without a match (fewer firing latents than features). Below they score 0 and lie in no level.
    pub n_unmatched: usize,
    /// `mean_{f root} C[sigma(f), f]`. 0 to 1, higher is better.
    pub cos_root: f64,
    /// `mean_{f leaf} C[sigma(f), f]`. 0 to 1, higher is better.
    pub cos_leaf: f64,
    /// `mean_f 2 |on_f and fires_sigma(f)| / (|on_f| + |fires_sigma(f)|)`. 0 to 1, higher is better.
    pub f1: f64,
    /// The same over roots.
    pub f1_root: f64,
    /// The same over leaves.
    pub f1_leaf: f64,
    /// Share of roots with `sigma(f)` in level 1. 0 to 1, higher is better.
    pub root_in_level1: f64,
    /// Share of leaves with `sigma(f)` in level 2. 0 to 1, higher is better.
    pub leaf_in_level2: f64,
    /// Share of the true edges (leaf `f`, parent `g`) with `sigma(f)` in level 2, `sigma(g)` in level 1, both cosines
    /// over [`FOUND_COSINE`], and `sigma(g)` the learned parent of `sigma(f)`. 0 to 1, higher is better.
    pub edge_recall: f64,
    /// The number of true edges found, divided by the number of learned edges (child, parent) whose two latents are
    /// firing; a child of [`ROOT`] has no edge. 0 to 1, higher is better.
    pub edge_precision: f64,
    /// Adjusted Rand index of the true and the learned families of the leaves with `sigma(f)` in level 2 and a cosine
    /// over [`FOUND_COSINE`]; a latent under [`ROOT`] is a family of its own. Up to 1, higher is better, 0 is chance;
    /// NaN without such leaves.
    pub family_ari: f64,
    /// `mean_{f root} P(main latent of f off | f and one of its children on)`; the main latent is, of the firing
    /// latents of both levels with `C` over [`MAIN_COSINE`], the one with the best firing F1 (the lowest on ties). A
    /// root without a main latent counts as 1; one with, but never on with a child, is left out. 0 to 1, lower is
    /// better.
    pub absorption: f64,
    /// `mean_j P(learned parent fires | j fires)` over level-2 latents with a parent that fire on more than
    /// [`MIN_CHILD_TOKENS`] tokens. 0 to 1, higher is better; 1 by construction under a hard gate.
    #[serde(rename = "containment_by_construction")]
    pub containment: f64,
    /// Median over the same latents of `P(parent | j) / P(parent)`. 0 and up, higher is better, 1 is chance.
    #[serde(rename = "median_lift_by_construction")]
    pub median_lift: f64,
    /// Distinct best features `argmax_f C[j, f]` of the firing latents / firing latents. 0 to 1; 1: no two of them
    /// follow the same feature.
    pub uniqueness: f64,
    /// Share of the flat features with `sigma(f)` in level 2, cosine over [`FOUND_COSINE`] and a learned parent that
    /// is not [`ROOT`]. 0 to 1, lower is better. Post-hoc parents never are `ROOT`.
    pub false_parent_rate: f64,
    /// Every latent as a detector of its nearest feature, as SynthSAEBench scores it.
    pub detection: Detection,
    /// What the learned edges connect, by nearest features.
    pub edges: Edges,
}

/// Scores a two-level model against a known structure.
///
/// | argument | shape | layout |
/// |---|---|---|
/// | `decoder1` | `[f1, d]` | row-major; `f1` is `codes1.latents()` |
/// | `decoder2` | `[f2, d]` | row-major; `f2` is `codes2.latents()` |
/// | `codes1`, `codes2` | `[tokens]` | the codes of the tokens of `truth` |
/// | `learned_parent` | `[f2]` | latents of level 1, or [`ROOT`] |
///
/// Without learned parents, the parent of `j` is the level-1 latent `i` with the largest
/// `P(i | j) ln(max(P(i | j), 1e-6) / max(P(i), 1e-6))`, the lowest on ties ([`parents_by_lift`]).
///
/// Counts are integers and sums run in index order in `f64`: the scores are a function of the inputs alone.
/// Cost: `(f1 + f2) * features` cosines and counts, two matchings, two passes over the codes.
///
/// # Errors
/// [`Error::Shape`] where sizes disagree, [`Error::Index`] for a parent out of range, [`Error::NotFinite`] if a
/// decoder or direction is not finite, [`Error::Config`] if post-hoc parents need a table of more than 2^27 pairs.
pub fn recovery(
    d: usize,
    decoder1: &[f32],
    decoder2: &[f32],
    codes1: &CodesView<'_>,
    codes2: &CodesView<'_>,
    truth: &Truth<'_>,
    learned_parent: Option<&[u32]>,
) -> Result<Recovery> {
    let (f1, f2) = (codes1.latents(), codes2.latents());
    let (latents, features, tokens) = (f1 + f2, truth.parent.len(), codes1.tokens());
    let shapes = [
        ("decoder of level 1", f1 * d, decoder1.len()),
        ("decoder of level 2", f2 * d, decoder2.len()),
        ("tokens of the codes of level 2", tokens, codes2.tokens()),
        ("true directions", features * d, truth.directions.len()),
        ("true magnitudes", tokens * features, truth.magnitude.len()),
        ("learned parents", f2, learned_parent.map_or(f2, <[u32]>::len)),
    ];
    if let Some(&(what, expected, got)) = shapes.iter().find(|(_, expected, got)| expected != got) {
        return Err(Error::Shape { what, expected, got });
    }
    check_parents("parents of true features", truth.parent, features)?;
    if let Some(parent) = learned_parent {
        check_parents("learned parents", parent, f1)?;
    }

    let cosine = cosines(d, decoder1, decoder2, truth.directions);
    let both = Firing { codes1, codes2 };
    let counts = count(&both, truth, latents);
    let firing: Vec<bool> = counts.fires.iter().map(|&n| n as f64 >= FIRING_SHARE * tokens as f64).collect();

    let mcc = matched_mean(&cosine, &assign(&cosine, latents, features, Goal::Maximise)?, features);
    let mut among_firing = cosine.clone();
    for j in (0..latents).filter(|&j| !firing[j]) {
        among_firing[j * features..(j + 1) * features].fill(0.0);
    }
    let pairs = assign(&among_firing, latents, features, Goal::Maximise)?;
    let mcc_firing = matched_mean(&among_firing, &pairs, features);
    let mut sigma = vec![None; features];
    for (j, f) in pairs.iter().enumerate() {
        if let Some(f) = f.filter(|f| among_firing[j * features + f] > 0.0) {
            sigma[f] = Some(j);
        }
    }
    drop(among_firing);

    let posthoc;
    let parent = match learned_parent {
        Some(parent) => parent,
        None => {
            posthoc = parents_by_lift(codes1, codes2)?;
            &posthoc
        }
    };

    let mut has_children = vec![false; features];
    truth.parent.iter().filter(|&&p| p != ROOT).for_each(|&p| has_children[p as usize] = true);
    let roots: Vec<usize> = (0..features).filter(|&f| truth.parent[f] == ROOT && has_children[f]).collect();
    let leaves: Vec<usize> = (0..features).filter(|&f| truth.parent[f] != ROOT).collect();
    let flats: Vec<usize> = (0..features).filter(|&f| truth.parent[f] == ROOT && !has_children[f]).collect();
    let all: Vec<usize> = (0..features).collect();

    let cos = |f: usize| sigma[f].map_or(0.0, |j| cosine[j * features + f]);
    let firing_f1 = |j: usize, f: usize| {
        let total = counts.fires[j] + counts.on[f];
        2.0 * counts.both[j * features + f] as f64 / total.max(1) as f64
    };
    let f1_of = |f: usize| sigma[f].map_or(0.0, |j| firing_f1(j, f));
    let found_in_level2 = |f: usize| sigma[f].filter(|&j| j >= f1 && cos(f) > FOUND_COSINE).map(|j| j - f1);

    let recovered = leaves.iter().filter(|&&f| {
        let g = truth.parent[f] as usize;
        found_in_level2(f)
            .is_some_and(|j| parent[j] != ROOT && sigma[g] == Some(parent[j] as usize) && cos(g) > FOUND_COSINE)
    });
    let recovered = recovered.count();
    let learned = (0..f2).filter(|&j| parent[j] != ROOT && firing[f1 + j] && firing[parent[j] as usize]).count();

    let (mut true_family, mut learned_family) = (Vec::new(), Vec::new());
    for (f, j) in leaves.iter().filter_map(|&f| Some((f, found_in_level2(f)?))) {
        true_family.push(truth.parent[f]);
        learned_family.push(if parent[j] == ROOT { (f1 + j) as u32 } else { parent[j] });
    }

    let main: Vec<Main> = (0..features)
        .map(|f| {
            if truth.parent[f] != ROOT || !has_children[f] {
                return Main::NotARoot;
            }
            let candidates = (0..latents).filter(|&j| firing[j] && cosine[j * features + f] > MAIN_COSINE);
            let best = candidates.fold(None, |best: Option<(usize, f64)>, j| {
                let score = firing_f1(j, f);
                if best.is_some_and(|(_, s)| s >= score) { best } else { Some((j, score)) }
            });
            best.map_or(Main::Missing, |(j, _)| Main::Latent(j))
        })
        .collect();
    let absorption = absorption(&both, truth, &main, latents);
    let (containment, median_lift) = containment(codes1, codes2, &counts.fires, parent);

    let mut followed = vec![false; features];
    for j in (0..latents).filter(|&j| firing[j] && features > 0) {
        followed[argmax(&cosine[j * features..(j + 1) * features])] = true;
    }
    let near = detection::nearest(&cosine, features);
    let n_firing = firing.iter().filter(|f| **f).count();
    Ok(Recovery {
        mcc,
        mcc_firing,
        n_firing,
        dead: counts.fires.iter().filter(|n| **n == 0).count(),
        n_unmatched: sigma.iter().filter(|j| j.is_none()).count(),
        cos_root: mean(&roots, cos),
        cos_leaf: mean(&leaves, cos),
        f1: mean(&all, f1_of),
        f1_root: mean(&roots, f1_of),
        f1_leaf: mean(&leaves, f1_of),
        root_in_level1: mean(&roots, |f| f64::from(sigma[f].is_some_and(|j| j < f1))),
        leaf_in_level2: mean(&leaves, |f| f64::from(sigma[f].is_some_and(|j| j >= f1))),
        edge_recall: ratio(recovered, leaves.len()),
        edge_precision: ratio(recovered, learned),
        family_ari: adjusted_rand(&true_family, &learned_family),
        absorption,
        containment,
        median_lift,
        uniqueness: ratio(followed.iter().filter(|f| **f).count(), n_firing),
        false_parent_rate: mean(&flats, |f| f64::from(found_in_level2(f).is_some_and(|j| parent[j] != ROOT))),
        detection: detection::detection(&near, &counts),
        edges: detection::edges(&near, &firing, f1, parent, truth.parent),
    })
}

/// Returns the parents that the codes suggest: `argmax_i P(i | j) ln(max(P(i | j), 1e-6) / max(P(i), 1e-6))`.
///
/// | argument | shape |
/// |---|---|
/// | result | `[codes2.latents()]`, latents of level 1; the lowest on ties; [`ROOT`] only if level 1 has no latents |
///
/// # Errors
/// [`Error::Shape`] if the numbers of tokens differ, [`Error::Config`] for more than 2^27 pairs of latents.
pub fn parents_by_lift(codes1: &CodesView<'_>, codes2: &CodesView<'_>) -> Result<Vec<u32>> {
    let (f1, f2, tokens) = (codes1.latents(), codes2.latents(), codes1.tokens());
    if codes2.tokens() != tokens {
        return Err(Error::Shape { what: "tokens of the codes of level 2", expected: tokens, got: codes2.tokens() });
    }
    let mut together = vec![0u32; pairs(f1, f2)?];
    for t in 0..tokens {
        for (j, _) in codes2.active(t) {
            codes1.active(t).for_each(|(i, _)| together[j * f1 + i] += 1);
        }
    }
    let (n1, n2) = (codes1.counts(), codes2.counts());
    let mut score = vec![0.0; f1];
    let best = |j: usize| {
        if f1 == 0 {
            return ROOT;
        }
        for i in 0..f1 {
            let given = f64::from(together[j * f1 + i]) / (n2[j] as f64).max(1e-9);
            let alone = n1[i] as f64 / tokens as f64;
            score[i] = given * libm::log(given.max(1e-6) / alone.max(1e-6));
        }
        argmax(&score) as u32
    };
    Ok((0..f2).map(best).collect())
}

/// The codes of both levels as one list of latents.
struct Firing<'a> {
    codes1: &'a CodesView<'a>,
    codes2: &'a CodesView<'a>,
}

impl Firing<'_> {
    /// Returns the latents that fire on token `t`.
    fn of(&self, t: usize) -> impl Iterator<Item = usize> {
        let f1 = self.codes1.latents();
        self.codes1.active(t).map(|(j, _)| j).chain(self.codes2.active(t).map(move |(j, _)| f1 + j))
    }
}

/// Counts the tokens on which latents fire, on which features are on, and on which both do.
fn count(firing: &Firing<'_>, truth: &Truth<'_>, latents: usize) -> Counts {
    let features = truth.parent.len();
    let mut c = Counts { fires: vec![0; latents], on: vec![0; features], both: vec![0; latents * features] };
    let mut on = Vec::new();
    for t in 0..firing.codes1.tokens() {
        features_on(truth, t, &mut on);
        on.iter().for_each(|&f| c.on[f] += 1);
        for j in firing.of(t) {
            c.fires[j] += 1;
            on.iter().for_each(|&f| c.both[j * features + f] += 1);
        }
    }
    c
}

/// Writes the features that are on at token `t` to `on`.
fn features_on(truth: &Truth<'_>, t: usize, on: &mut Vec<usize>) {
    let features = truth.parent.len();
    let row = &truth.magnitude[t * features..(t + 1) * features];
    on.clear();
    on.extend(row.iter().enumerate().filter(|(_, a)| **a > 0.0).map(|(f, _)| f));
}

/// The main latent of a feature.
enum Main {
    /// The feature is not a root.
    NotARoot,
    /// No latent is near enough.
    Missing,
    Latent(usize),
}

/// Returns [`Recovery::absorption`].
fn absorption(firing: &Firing<'_>, truth: &Truth<'_>, main: &[Main], latents: usize) -> f64 {
    let features = truth.parent.len();
    let (mut with_child, mut off) = (vec![0u64; features], vec![0u64; features]);
    // One more than the last token on which a latent fired, a feature was on, or a root was counted: nothing has to be
    // cleared between tokens.
    let (mut fired, mut on_at, mut seen) = (vec![0; latents], vec![0; features], vec![0; features]);
    let mut on = Vec::new();
    for t in 0..firing.codes1.tokens() {
        features_on(truth, t, &mut on);
        on.iter().for_each(|&f| on_at[f] = t + 1);
        firing.of(t).for_each(|j| fired[j] = t + 1);
        for &f in &on {
            let root = truth.parent[f] as usize;
            if truth.parent[f] == ROOT || on_at[root] != t + 1 || seen[root] == t + 1 {
                continue;
            }
            seen[root] = t + 1;
            with_child[root] += 1;
            if let Main::Latent(j) = main[root] {
                off[root] += u64::from(fired[j] != t + 1);
            }
        }
    }
    let (mut sum, mut n) = (0.0, 0usize);
    for f in 0..features {
        match main[f] {
            Main::Missing => sum += 1.0,
            Main::Latent(_) if with_child[f] > 0 => sum += off[f] as f64 / with_child[f] as f64,
            _ => continue,
        }
        n += 1;
    }
    sum / n as f64
}

/// Returns the mean of `P(parent | child)` and the median of `P(parent | child) / P(parent)`.
fn containment(codes1: &CodesView<'_>, codes2: &CodesView<'_>, fires: &[u64], parent: &[u32]) -> (f64, f64) {
    let (f1, tokens) = (codes1.latents(), codes1.tokens());
    let (mut fired, mut with_parent) = (vec![0; f1], vec![0u64; codes2.latents()]);
    for t in 0..tokens {
        codes1.active(t).for_each(|(i, _)| fired[i] = t + 1);
        for (j, _) in codes2.active(t) {
            with_parent[j] += u64::from(parent[j] != ROOT && fired[parent[j] as usize] == t + 1);
        }
    }
    let live: Vec<usize> =
        (0..parent.len()).filter(|&j| parent[j] != ROOT && fires[f1 + j] > MIN_CHILD_TOKENS).collect();
    let given = |j: usize| with_parent[j] as f64 / fires[f1 + j] as f64;
    let mut lift: Vec<f64> =
        live.iter().map(|&j| given(j) / (fires[parent[j] as usize] as f64 / tokens as f64).max(1e-9)).collect();
    (mean(&live, given), median(&mut lift))
}

/// Returns `|cos|` of every latent with every feature, `[latents, features]`; 0 for a row of zeros.
fn cosines(d: usize, decoder1: &[f32], decoder2: &[f32], directions: &[f32]) -> Vec<f64> {
    if d == 0 {
        return Vec::new();
    }
    let unit = |row: &[f32]| -> Vec<f64> {
        let norm = libm::sqrt(row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>());
        row.iter().map(|&x| f64::from(x) / (norm + 1e-9)).collect()
    };
    let truth: Vec<f64> = directions.chunks_exact(d).flat_map(unit).collect();
    let mut cosine = Vec::with_capacity((decoder1.len() + decoder2.len()) / d * (truth.len() / d));
    for row in decoder1.chunks_exact(d).chain(decoder2.chunks_exact(d)) {
        let row = unit(row);
        cosine.extend(truth.chunks_exact(d).map(|v| row.iter().zip(v).map(|(a, b)| a * b).sum::<f64>().abs()));
    }
    cosine
}

/// Returns the mean of the matched entries of `matrix`.
fn matched_mean(matrix: &[f64], column: &[Option<usize>], cols: usize) -> f64 {
    let pairs: Vec<f64> = column.iter().enumerate().filter_map(|(i, j)| j.map(|j| matrix[i * cols + j])).collect();
    pairs.iter().sum::<f64>() / pairs.len() as f64
}

fn mean(of: &[usize], value: impl Fn(usize) -> f64) -> f64 {
    of.iter().map(|&f| value(f)).sum::<f64>() / of.len() as f64
}
