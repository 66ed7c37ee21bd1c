//! Latents as detectors of the true feature that their decoder direction is nearest to, as SynthSAEBench scores them
//! (Chanin et al. 2026, arXiv 2602.14687), and what the learned edges connect by that measure.
//!
//! ```text
//! near(j) = argmax_f |cos(D_j, v_f)|, the lowest on ties; of all latents, dead ones too
//! precision_j = |fires_j and on_near(j)| / |fires_j|;  recall_j = the same / |on_near(j)|;  0 where nothing is divided by
//! ```

use alloc::vec;
use alloc::vec::Vec;

use super::counts::{Counts, argmax, ratio};
use crate::gate::ROOT;

/// Means over **all** latents, unlike the scores of [`super::Recovery`], which are means over features. NaN without latents.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Detection {
    /// `mean_j precision_j`. 0 to 1, higher is better.
    pub precision: f64,
    /// `mean_j recall_j`. 0 to 1, higher is better.
    pub recall: f64,
    /// `mean_j 2 precision_j recall_j / (precision_j + recall_j)`. 0 to 1, higher is better.
    pub f1: f64,
    /// Distinct `near(j)` / latents. 0 to 1; 1: no two latents are nearest to the same feature.
    pub uniqueness: f64,
}

/// Where the learned edges lead: for an edge of child `j` and parent `i`, both firing, `near(i)` beside the ancestors of
/// `near(j)`. Shares are NaN without such edges.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Edges {
    /// Learned edges whose two latents are firing.
    pub edges: usize,
    /// Share with `near(i)` the parent of `near(j)`. 0 to 1, higher is better.
    pub to_parent: f64,
    /// Share with `near(i)` an ancestor of `near(j)`: its parent, the parent of that, and so on. 0 to 1, higher is better.
    pub to_ancestor: f64,
    /// The mean of [`Edges::to_ancestor`] if the parents were permuted among the edges: what chance gives.
    pub to_ancestor_chance: f64,
    /// Share with `near(i) = near(j)`: both ends follow one feature. 0 to 1, lower is better.
    pub to_itself: f64,
}

/// Returns `near(j)` of every latent; empty without features.
pub(super) fn nearest(cosine: &[f64], features: usize) -> Vec<usize> {
    if features == 0 { Vec::new() } else { cosine.chunks_exact(features).map(argmax).collect() }
}

/// Scores every latent as a detector of `near[j]`.
pub(super) fn detection(near: &[usize], counts: &Counts) -> Detection {
    let features = counts.on.len();
    let share = |part: u32, whole: u64| if whole == 0 { 0.0 } else { f64::from(part) / whole as f64 };
    let mut found = Detection { precision: 0.0, recall: 0.0, f1: 0.0, uniqueness: 0.0 };
    let mut followed = vec![false; features];
    for (j, &f) in near.iter().enumerate() {
        let both = counts.both[j * features + f];
        let (precision, recall) = (share(both, counts.fires[j]), share(both, counts.on[f]));
        found.precision += precision;
        found.recall += recall;
        found.f1 += if both == 0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) };
        followed[f] = true;
    }
    let n = near.len() as f64;
    Detection {
        precision: found.precision / n,
        recall: found.recall / n,
        f1: found.f1 / n,
        uniqueness: ratio(followed.iter().filter(|f| **f).count(), near.len()),
    }
}

/// Compares the edges from level 1, of `f1` latents, with the true tree.
pub(super) fn edges(near: &[usize], firing: &[bool], f1: usize, parent: &[u32], truth: &[u32]) -> Edges {
    // The features at the two ends.
    let learned = parent.iter().enumerate().filter(|(j, p)| **p != ROOT && firing[f1 + j] && firing[**p as usize]);
    let ends: Vec<(usize, usize)> =
        learned.filter(|_| !near.is_empty()).map(|(j, p)| (near[f1 + j], near[*p as usize])).collect();
    // A tree has no circles, but a caller may pass one: no chain is longer than the features.
    let ancestors = |f: usize| {
        let above = |f: usize| Some(truth[f]).filter(|p| *p != ROOT).map(|p| p as usize);
        core::iter::successors(above(f), move |p| above(*p)).take(truth.len())
    };
    let mut above = vec![0usize; truth.len()];
    ends.iter().for_each(|(_, p)| above[*p] += 1);
    let count = |holds: &dyn Fn(usize, usize) -> bool| ends.iter().filter(|(c, p)| holds(*c, *p)).count();
    let by_chance: usize = ends.iter().map(|(c, _)| ancestors(*c).map(|a| above[a]).sum::<usize>()).sum();
    Edges {
        edges: ends.len(),
        to_parent: ratio(count(&|c, p| truth[c] as usize == p), ends.len()),
        to_ancestor: ratio(count(&|c, p| ancestors(c).any(|a| a == p)), ends.len()),
        to_ancestor_chance: ratio(by_chance, ends.len() * ends.len()),
        to_itself: ratio(count(&|c, p| c == p), ends.len()),
    }
}
