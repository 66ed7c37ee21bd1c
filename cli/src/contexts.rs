//! Where latents fire, in the text: the parent that tells the most, its children, and their strongest contexts.

use crate::dump::Dump;
use crate::eval::{Evaluation, each_batch};
use crate::run::Run;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use strata_core::{Isa, ROOT};

/// A latent is worth showing if it fires on this many of the evaluated tokens.
const MIN_FIRES: u64 = 30;
/// Contexts a latent.
const CONTEXTS: usize = 5;
/// Tokens of text before the one that fires, and after it.
const BEFORE: usize = 24;
const AFTER: usize = 8;
/// Children that are shown.
const CHILDREN: usize = 8;

/// One place in the text where a latent fires.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Context {
    /// Activation of the latent there.
    pub activation: f32,
    /// Text before the token, the token, text after.
    pub before: String,
    /// The token.
    pub token: String,
    /// Text after it.
    pub after: String,
}

/// A latent with its strongest contexts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownLatent {
    /// Its index in its level.
    pub latent: u32,
    /// Evaluated tokens on which it fires.
    pub fires: u64,
    /// The token it fires on most, and the share of its firings that this is.
    pub top_token: (String, f64),
    /// Strongest first.
    pub contexts: Vec<Context>,
}

/// A parent and its children.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// The parent.
    pub parent: ShownLatent,
    /// Its children, those that fire most first.
    pub children: Vec<ShownLatent>,
}

/// Firing of the latents of a level by token.
struct Profiles(Vec<BTreeMap<u32, u64>>);

impl Profiles {
    fn total(&self, j: usize) -> u64 {
        self.0[j].values().sum()
    }

    /// `KL(q_child || q_parent)` in bits, add-one smoothed over the tokens that the parent fires on: how much more
    /// specific the child is.
    fn divergence(&self, child: usize, parents: &Self, parent: usize) -> f64 {
        let n = self.total(child) as f64;
        let (q, m) = (&parents.0[parent], parents.0[parent].len() as f64);
        let total = parents.total(parent) as f64 + m;
        self.0[child]
            .iter()
            .map(|(token, &c)| {
                let p = c as f64 / n;
                p * (p * total / (q.get(token).copied().unwrap_or(0) as f64 + 1.0)).log2()
            })
            .sum()
    }
}

/// The parent whose children divide it most clearly: the largest sum over its children of
/// `min(P(child | parent), .5) KL(q_child || q_parent)`, with `q` the distribution of tokens that a latent fires on.
/// `None` without families, or where the dump has no tokens with text.
///
/// # Errors
/// If a row cannot be read.
pub fn most_telling(run: &Run, dump: &Dump, found: &Evaluation, isa: Isa) -> Result<Option<Shown>> {
    let (Some(tokens), Some(vocab)) = (dump.tokens(), dump.vocab()) else { return Ok(None) };
    if run.model.parents.is_empty() {
        return Ok(None);
    }
    let encoder = run.encoder(isa)?;
    let arch = run.model.arch;
    let [start, n] = found.rows;
    let mut profiles = [Profiles(vec![BTreeMap::new(); arch.f1]), Profiles(vec![BTreeMap::new(); arch.f2])];
    each_batch(&encoder, dump, start, start + n, |batch| {
        for (codes, profiles) in batch.codes.iter().zip(&mut profiles) {
            for i in 0..codes.n() {
                let token = tokens[batch.start as usize + i];
                for &j in codes.row(i).index {
                    *profiles.0[j as usize].entry(token).or_default() += 1;
                }
            }
        }
        Ok(())
    })?;
    let [profiles1, profiles2] = &profiles;
    let alive = |j: usize| profiles2.total(j) >= MIN_FIRES;
    let mut scores = vec![0.0f64; arch.f1];
    for (j, &p) in run.model.parents.iter().enumerate() {
        if p != ROOT && alive(j) && profiles1.total(p as usize) >= MIN_FIRES {
            let share = (profiles2.total(j) as f64 / profiles1.total(p as usize) as f64).min(0.5);
            scores[p as usize] += share * profiles2.divergence(j, profiles1, p as usize);
        }
    }
    let mut parent = 0;
    for (i, score) in scores.iter().enumerate() {
        if *score > scores[parent] {
            parent = i;
        }
    }
    if scores[parent] <= 0.0 {
        return Ok(None);
    }
    let mut children: Vec<usize> =
        (0..arch.f2).filter(|j| run.model.parents[*j] == parent as u32 && alive(*j)).collect();
    children.sort_by_key(|j| (std::cmp::Reverse(profiles2.total(*j)), *j));
    children.truncate(CHILDREN);

    // One pass for the strongest places: at most one a sequence, so that they are different sentences.
    let sequence = dump.context().unwrap_or(1).max(1) as u64;
    let mut best: BTreeMap<(usize, usize), Vec<(f32, u64)>> = BTreeMap::new();
    best.insert((0, parent), Vec::new());
    for &j in &children {
        best.insert((1, j), Vec::new());
    }
    each_batch(&encoder, dump, start, start + n, |batch| {
        for (level, codes) in batch.codes.iter().enumerate() {
            for i in 0..codes.n() {
                let row = codes.row(i);
                for (&j, &z) in row.index.iter().zip(row.value) {
                    if let Some(places) = best.get_mut(&(level, j as usize)) {
                        keep_strongest(places, z, batch.start + i as u64, sequence);
                    }
                }
            }
        }
        Ok(())
    })?;
    let text = |t: u32| vocab.get(t as usize).map_or("?", String::as_str);
    let show = |level: usize, j: usize| {
        let profile = &profiles[level].0[j];
        let top = profile.iter().max_by_key(|(t, c)| (**c, std::cmp::Reverse(**t)));
        let fires = profiles[level].total(j);
        let joined = |range: std::ops::Range<usize>| tokens[range].iter().map(|t| text(*t)).collect::<String>();
        ShownLatent {
            latent: j as u32,
            fires,
            top_token: top
                .map_or_else(|| (String::new(), 0.0), |(t, c)| (text(*t).to_owned(), *c as f64 / fires as f64)),
            contexts: best[&(level, j)]
                .iter()
                .map(|&(activation, at)| {
                    let at = at as usize;
                    Context {
                        activation,
                        before: joined(at.saturating_sub(BEFORE)..at),
                        token: text(tokens[at]).to_owned(),
                        after: joined(at + 1..(at + 1 + AFTER).min(tokens.len())),
                    }
                })
                .collect(),
        }
    };
    Ok(Some(Shown { parent: show(0, parent), children: children.iter().map(|j| show(1, *j)).collect() }))
}

/// Keeps the strongest places, one a sequence, the earlier of two that are equal.
fn keep_strongest(places: &mut Vec<(f32, u64)>, z: f32, at: u64, sequence: u64) {
    if let Some(same) = places.iter_mut().find(|p| p.1 / sequence == at / sequence) {
        if z > same.0 {
            *same = (z, at);
        }
    } else {
        places.push((z, at));
    }
    places.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    places.truncate(CONTEXTS);
}

/// The parent and its children, a line a context, the token in brackets.
///
/// # Errors
/// If `out` cannot be written to.
pub fn print(shown: &Shown, out: &mut dyn Write) -> std::io::Result<()> {
    let latent = |name: &str, l: &ShownLatent, out: &mut dyn Write| -> std::io::Result<()> {
        writeln!(
            out,
            "{name} {}: fires on {} tokens, {:.0} % of them {}",
            l.latent,
            l.fires,
            100.0 * l.top_token.1,
            visible(&l.top_token.0, true)
        )?;
        for c in &l.contexts {
            writeln!(
                out,
                "  {:>6.2}  {:>24}[{}]{}",
                c.activation,
                visible(&c.before, false),
                visible(&c.token, false),
                visible(&c.after, false)
            )?;
        }
        Ok(())
    };
    writeln!(out, "The parent whose children divide it most clearly, with the places where each fires most strongly:")?;
    writeln!(out)?;
    latent("parent", &shown.parent, out)?;
    for child in &shown.children {
        latent(" child", child, out)?;
    }
    Ok(())
}

/// Line ends and other white space as signs.
fn visible(text: &str, quoted: bool) -> String {
    let plain: String = text
        .chars()
        .map(|c| match c {
            '\n' => '⏎',
            '\t' => '→',
            c if c.is_control() => '·',
            c => c,
        })
        .collect();
    if quoted { format!("`{plain}`") } else { plain }
}
