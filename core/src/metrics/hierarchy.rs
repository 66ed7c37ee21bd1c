//! The hierarchy score of Tree SAE (Cao et al. 2026, arXiv 2605.07922, Section 5.2): whether the direction that tells where a child
//! fires is that of the child and of its parent.
//!
//! For each pair of a parent and a child a linear probe ([`together`](super::probe::together)) is fitted to tell the rows on which the
//! child fires from all others. The pair counts if both decoder rows are among the [`TOP`] that are nearest to the weights of the probe.
//! The formulas are those of the paper's public code, with these differences: a parent is drawn once; the children of the comparison by
//! coverage are chosen among those that fire often enough, where the code chooses 20 first; nearness is the cosine for decoder rows of any
//! norm; and where a gate decides when a child fires, the caller gives the codes without it, since a child that can only fire with its
//! parent has the parent in its probe by construction.
//!
//! [`condition`](super::condition) asks the same of every edge, with class means in place of probes.

use alloc::vec;
use alloc::vec::Vec;

use super::absorption::Dictionary;
use super::bootstrap::{Interval, Resamples, clustered};
use super::check_parents;
use super::probe::together::{Settings, fit};
use super::stability::{for_cosines, unit};
use crate::compute::Compute;
use crate::gate::ROOT;
use crate::model::CodesView;
use crate::rng::Philox;
use crate::{Error, Result};

/// A pair counts if both of its decoder rows are among this many.
pub const TOP: u32 = 5;
/// Children of one parent at most.
pub const CHILDREN: usize = 5;
/// A child fires on at least this many rows.
pub const MIN_ROWS: usize = 100;
/// Pairs of either kind at most. The paper draws 2,000 parents.
pub const PAIRS: usize = 100;
/// The random streams: the parents that are drawn, and those of the null.
const STREAM: u64 = 0x6869_6572 << 32;

/// The score of some pairs of a parent and a child. NaN without pairs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct PairScore {
    /// Pairs.
    pub pairs: usize,
    /// Share of the pairs with both among the [`TOP`] decoder rows nearest to the probe, with an interval by a bootstrap over
    /// parents: the hierarchy score. 0 to 1, higher is better.
    pub both: Interval,
    /// Share with the child among them. 0 to 1, higher is better.
    pub child: f64,
    /// Share with the parent among them. 0 to 1, higher is better.
    pub parent: f64,
    /// What `both` is with another of the parents in the place of each parent.
    pub null: f64,
}

/// The hierarchy score.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct HierarchyReport {
    /// Rows that the probes are fitted on.
    pub rows: usize,
    /// Pairs of the tree: at most [`CHILDREN`] children of each of some random parents. None without a child of a parent that fires on
    /// [`MIN_ROWS`] rows.
    pub tree: Option<PairScore>,
    /// Of the same parents at most as many pairs that their activations alone suggest: of all other latents of both levels the ones that
    /// fire with the parent on the largest share of their rows, `S_cov = n_both / n_child`. Without pairs of the tree of random latents
    /// among the half that fires most.
    pub coverage: PairScore,
}

/// A pair, of latents of both levels.
#[derive(Clone, Copy)]
struct Pair {
    parent: u32,
    child: u32,
}

/// Measures a dictionary, whose codes of level 2 should be those without its gate. None without a pair, as where no latent fires on
/// [`MIN_ROWS`] rows. `parent` has the parent of each latent of level 2, or [`ROOT`]; it is empty without a tree.
///
/// Cost: at most 2 [`PAIRS`] probes of `4 n d` operations in each of 50 epochs. Memory: 4 bytes for each latent and parent that was drawn
/// and for each latent and probe, the entries of `codes` once more, and what [`fit`] takes.
///
/// # Errors
/// [`Error::Shape`] where sizes disagree, [`Error::Index`] for a parent out of range, [`Error::NotFinite`] for a decoder row that is
/// not finite.
pub fn hierarchy(compute: Compute, of: &Dictionary<'_>, parent: &[u32], seed: u64) -> Result<Option<HierarchyReport>> {
    let (n, latents) = (of.codes.tokens(), of.codes.latents());
    for (what, expected, got) in
        [("x", n.saturating_mul(of.d), of.x.len()), ("decoder", latents.saturating_mul(of.d), of.decoder.len())]
    {
        if expected != got {
            return Err(Error::Shape { what, expected, got });
        }
    }
    let f1 = of.f1;
    if !parent.is_empty() && f1.checked_add(parent.len()) != Some(latents) {
        return Err(Error::Shape {
            what: "parents of level 2",
            expected: latents.saturating_sub(f1),
            got: parent.len(),
        });
    }
    check_parents("learned parents", parent, f1)?;
    let (rows, has_direction) = unit("decoder", of.decoder, of.d)?;
    let counts = of.codes.counts();
    let fits = |j: usize| counts[j] >= MIN_ROWS as u64 && counts[j] < n as u64 && has_direction[j];
    let mut rng = Philox::new(seed, STREAM);
    let tree = of_tree(parent, f1, &fits, &mut rng);
    let (tree, coverage) = if !tree.is_empty() {
        let coverage = by_coverage(&of.codes, &counts, &fits, &wanted(&tree));
        (Some(tree), coverage)
    } else {
        // Some of those that fire most; each has as many children as it may.
        let mut dense: Vec<u32> = (0..latents as u32).collect();
        dense.sort_by_key(|j| core::cmp::Reverse(counts[*j as usize]));
        dense.truncate(latents.div_ceil(2));
        rng.shuffle(&mut dense);
        dense.truncate(PAIRS.div_ceil(CHILDREN));
        let wanted: Vec<(u32, usize)> = dense.into_iter().map(|p| (p, CHILDREN)).collect();
        (None, by_coverage(&of.codes, &counts, &fits, &wanted))
    };
    if tree.is_none() && coverage.is_empty() {
        return Ok(None);
    }
    // A probe for each child, once.
    let mut children: Vec<u32> = tree.iter().flatten().chain(&coverage).map(|pair| pair.child).collect();
    children.sort_unstable();
    children.dedup();
    let by_latent = of.codes.by_latent();
    let fires: Vec<Vec<u32>> =
        children.iter().map(|j| by_latent.tokens(*j as usize).map(|(row, _)| row as u32).collect()).collect();
    let fires: Vec<&[u32]> = fires.iter().map(Vec::as_slice).collect();
    let probes = fit(compute, of.x, of.d, &fires, &Settings { seed, ..Settings::default() })?;
    let nearest = for_cosines(compute, &probes, &rows, of.d, |_, cosine| {
        let mut best: Vec<u32> = (0..latents as u32).filter(|j| has_direction[*j as usize]).collect();
        let order = |a: &u32, b: &u32| cosine[*b as usize].total_cmp(&cosine[*a as usize]).then(a.cmp(b));
        let top = best.len().min(TOP as usize);
        if top < best.len() {
            best.select_nth_unstable_by(top, order);
        }
        best.truncate(top);
        best
    });
    let score = |pairs: &[Pair]| {
        let is_near =
            |child: u32, latent: u32| children.binary_search(&child).is_ok_and(|at| nearest[at].contains(&latent));
        let label: Vec<u32> = pairs.iter().map(|pair| pair.parent).collect();
        let both: Vec<bool> =
            pairs.iter().map(|&Pair { parent, child }| is_near(child, child) && is_near(child, parent)).collect();
        let share =
            |found: &dyn Fn(&Pair) -> bool| pairs.iter().filter(|pair| found(pair)).count() as f64 / pairs.len() as f64;
        let mut parents = label.clone();
        parents.dedup();
        let mut rng = Philox::new(seed, STREAM + 1);
        let other = |pair: &Pair| {
            // A child may be a parent of other pairs, and is near itself.
            let others: Vec<u32> = parents.iter().copied().filter(|p| ![pair.parent, pair.child].contains(p)).collect();
            let other = *others.get(rng.below(others.len().max(1) as u64) as usize)?;
            Some(f64::from(is_near(pair.child, pair.child) && is_near(pair.child, other)))
        };
        let others: Vec<f64> = pairs.iter().filter_map(other).collect();
        let value: Vec<f64> = both.iter().map(|both| f64::from(*both)).collect();
        PairScore {
            pairs: pairs.len(),
            both: clustered(&label, &value, Resamples::default()),
            child: share(&|pair| is_near(pair.child, pair.child)),
            parent: share(&|pair| is_near(pair.child, pair.parent)),
            null: others.iter().sum::<f64>() / others.len() as f64,
        }
    };
    Ok(Some(HierarchyReport { rows: n, tree: tree.as_deref().map(score), coverage: score(&coverage) }))
}

/// Returns the first children of random parents, together at most [`PAIRS`] pairs.
fn of_tree(parent: &[u32], f1: usize, fits: &dyn Fn(usize) -> bool, rng: &mut Philox) -> Vec<Pair> {
    let mut families: Vec<Vec<u32>> = vec![Vec::new(); f1];
    for (j, p) in parent.iter().enumerate().filter(|(j, p)| **p != ROOT && fits(f1 + j)) {
        let family = &mut families[*p as usize];
        if family.len() < CHILDREN {
            family.push((f1 + j) as u32);
        }
    }
    let mut parents: Vec<u32> = (0..f1 as u32).filter(|p| !families[*p as usize].is_empty()).collect();
    rng.shuffle(&mut parents);
    let pairs =
        parents.iter().flat_map(|p| families[*p as usize].iter().map(|child| Pair { parent: *p, child: *child }));
    pairs.take(PAIRS).collect()
}

/// Returns the parents of pairs, and how many pairs each has.
fn wanted(pairs: &[Pair]) -> Vec<(u32, usize)> {
    let mut wanted: Vec<(u32, usize)> = Vec::new();
    for pair in pairs {
        match wanted.last_mut() {
            Some((parent, n)) if *parent == pair.parent => *n += 1,
            _ => wanted.push((pair.parent, 1)),
        }
    }
    wanted
}

/// Returns for each parent the latents that fire with it on the largest share of their rows, as many as are wanted; of equal ones the
/// lower.
fn by_coverage(
    codes: &CodesView<'_>,
    counts: &[u64],
    fits: &dyn Fn(usize) -> bool,
    wanted: &[(u32, usize)],
) -> Vec<Pair> {
    let latents = codes.latents();
    let mut place = vec![u32::MAX; latents];
    wanted.iter().enumerate().for_each(|(at, (parent, _))| place[*parent as usize] = at as u32);
    let mut both = vec![0u32; wanted.len() * latents];
    for t in 0..codes.tokens() {
        for at in codes.active(t).map(|(j, _)| place[j]).filter(|at| *at != u32::MAX) {
            let row = &mut both[at as usize * latents..][..latents];
            codes.active(t).for_each(|(j, _)| row[j] += 1);
        }
    }
    let mut pairs = Vec::new();
    for (&(parent, n), both) in wanted.iter().zip(both.chunks_exact(latents.max(1))) {
        let coverage = |j: u32| f64::from(both[j as usize]) / counts[j as usize] as f64;
        let mut children: Vec<u32> =
            (0..latents as u32).filter(|j| *j != parent && both[*j as usize] > 0 && fits(*j as usize)).collect();
        children.sort_by(|a, b| coverage(*b).total_cmp(&coverage(*a)).then(a.cmp(b)));
        pairs.extend(children.iter().take(n).map(|child| Pair { parent, child: *child }));
    }
    pairs
}
