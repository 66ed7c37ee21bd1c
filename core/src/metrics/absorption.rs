//! Feature absorption and hedging, measured with labels: a class of tokens (such as those that begin with one letter),
//! whose members are single tokens (or whatever else a label distinguishes).
//!
//! A latent of the class is **absorbed** if it does not fire on a member because that member's own latent also has the
//! class's direction (Chanin et al. 2024, arXiv 2409.14507). The formulas are those of SAEBench's calculator, with
//! these differences: the main latents are ranked by the difference of their means, not by an L1 probe of 50 epochs;
//! and the projection on the probe is that of `x - centre`, the part that codes can explain, not that of `x`.
//!
//! All functions work on a sample of rows, which [`sample`] draws; [`SAMPLE`] rows are enough for two digits of a rate.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::probe::logistic::{Settings, dot};
use super::probe::sparse::{DenseProbe, dense_probe, on_latents, ranked};
use super::probe::{Binary, mean_difference};
use super::sparsity::ALIVE_TOKENS;
use crate::model::CodesView;
use crate::par::Par;
use crate::rng::Philox;
use crate::{Error, Result};

/// Number of rows of a sample.
pub const SAMPLE: usize = 50_000;
/// Stands for the member of a row that is not in the class.
pub const OUTSIDE: u32 = u32::MAX;
/// Members with fewer tokens than this are left out of the hedging.
pub const MIN_MEMBER_TOKENS: usize = 20;
/// The random stream of the sample.
const STREAM: u64 = 0x6162_736f << 32;

/// Returns `wanted` of the rows `start..end`, ascending, one at random from each of as many equal parts; all of them if
/// there are no more.
pub fn sample(start: u64, end: u64, wanted: usize, seed: u64) -> Vec<u64> {
    let n = end.saturating_sub(start);
    let wanted = n.min(wanted as u64);
    let mut rng = Philox::new(seed, STREAM);
    let edge = |i: u64| start + (u128::from(i) * u128::from(n) / u128::from(wanted.max(1))) as u64;
    (0..wanted).map(|i| edge(i) + rng.below(edge(i + 1) - edge(i))).collect()
}

/// Rows with their codes, and the directions of the latents.
#[derive(Clone, Copy, Debug)]
pub struct Dictionary<'a> {
    /// `[n, d]` row-major.
    pub x: &'a [f32],
    /// Width of a row, not 0.
    pub d: usize,
    /// `[d]`: the reconstruction without latents (`b_dec`).
    pub centre: &'a [f32],
    /// Codes of the latents of both levels, those of level 1 first ([`probe::joined`](super::probe::joined)).
    pub codes: CodesView<'a>,
    /// `[latents, d]` row-major.
    pub decoder: &'a [f32],
    /// Number of latents of level 1.
    pub f1: usize,
}

/// The latents that may be main latents of a class, and those that may absorb it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Main latents are chosen from these.
    pub main: Range<usize>,
    /// These may absorb.
    pub absorbers: Range<usize>,
}

impl Scope {
    /// Returns the scopes. Where level 2 `adds` to level 1 (`decoder = "cum"`): main latents of level 1 with absorbers
    /// of both levels; level 2 by itself; both levels as one dictionary, which is what SAEBench measures. Otherwise,
    /// since each level is a reconstruction of its own: level 1 by itself, and level 2 by itself. Without a level 2,
    /// level 1 by itself.
    pub fn of_levels(f1: usize, f2: usize, adds: bool) -> Vec<Self> {
        let all = f1 + f2;
        let scope = |main: Range<usize>, absorbers: Range<usize>| Self { main, absorbers };
        match (f2, adds) {
            (0, _) => vec![scope(0..f1, 0..f1)],
            (_, true) => vec![scope(0..f1, 0..all), scope(f1..all, f1..all), scope(0..all, 0..all)],
            (_, false) => vec![scope(0..f1, 0..f1), scope(f1..all, f1..all)],
        }
    }
}

/// The thresholds, which are SAEBench's unless marked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Most main latents.
    pub most_main: usize,
    /// Another main latent must raise the F1 by more than this.
    pub gain: f64,
    /// Full absorption: least cosine of the strongest latent with the probe.
    pub full_cosine: f64,
    /// Absorption fraction, and absorption by a member's latent: least cosine with the probe.
    pub cosine: f64,
    /// Least share of the projection on the probe that absorbers carry.
    pub share: f64,
    /// Absorption fraction: most absorbers.
    pub absorbers: usize,
    /// Not of SAEBench: a latent belongs to a member if more than this share of its tokens are the member's.
    pub precision: f64,
    /// Not of SAEBench: most examples per answer that the probes are fitted on.
    pub examples: usize,
    /// Seed of the random choices.
    pub seed: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            most_main: 10,
            gain: 0.03,
            full_cosine: 0.025,
            cosine: 0.1,
            share: 0.4,
            absorbers: 3,
            precision: 0.8,
            examples: 4096,
            seed: 0,
        }
    }
}

/// One class in one [`Scope`]. Rates are over the test tokens of the class that the probe finds; NaN without one.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Absorption {
    /// The main latents of the class, the strongest first, with latents of both levels numbered together.
    pub main: Vec<u32>,
    /// F1 of a probe on them, on balanced test rows. 0 to 1, higher is better.
    pub main_f1: f64,
    /// Share of the tokens on which every main latent is off: false negatives. 0 to 1, lower is better. It is
    /// `absorbed + missed`.
    pub silent: f64,
    /// Share on which every main latent is off and the latent of the largest projection `z_j cos(D_j, w)` has a cosine
    /// of at least `full_cosine` and at least `share` of the projection of the row: SAEBench's full absorption. 0 to 1,
    /// lower is better.
    pub absorbed: f64,
    /// `silent - absorbed`: no other latent fires in place of the main ones. 0 to 1, lower is better.
    pub missed: f64,
    /// The part of `absorbed` whose strongest latent is of level 1, and of level 2. 0 to 1, lower is better.
    pub absorbed_by_level: [f64; 2],
    /// Share on which every main latent is off while a latent that belongs to a member, with a cosine over `cosine`,
    /// has at least `share` of the projection. This is the stricter definition: the absorber is known to be a member's.
    /// 0 to 1, lower is better.
    pub absorbed_by_member: f64,
    /// Mean of SAEBench's fraction: 0 if the main latents have the whole projection or the up to `absorbers` strongest
    /// others with a cosine of at least `cosine` have less than `share` of it, 1 if the main ones have nothing,
    /// otherwise `a / (a + m)`, where `m` is the part of the main latents and `a` the part of the others in the rest. 0
    /// to 1, lower is better.
    pub fraction: f64,
    /// Mean over members of `|cos(D_main, mean(x | member) - mean(x | class))|` for the first main latent: how far it
    /// is biased towards single members. 0 to 1, lower is better, about `sqrt(2 / (pi d))` for a random direction; NaN
    /// with fewer than two members of [`MIN_MEMBER_TOKENS`] training tokens.
    pub hedging: f64,
    /// Members with a token in the rates, ascending.
    pub member: Vec<Member>,
}

/// One member of a class.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Member {
    /// The member.
    pub member: u32,
    /// Its tokens in the rates.
    pub tokens: u64,
    /// Tokens on which every main latent is off.
    pub silent: u64,
    /// Of those, fully absorbed ones.
    pub absorbed: u64,
}

/// One class.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ClassAbsorption {
    /// Test tokens of the class.
    pub tokens: u64,
    /// Those that the probe finds and whose projection is above 0: the denominator of the rates.
    pub found: u64,
    /// The probe on the rows, on balanced test rows. SAEBench leaves out classes with an F1 under 0.6.
    pub probe: DenseProbe,
    /// One entry for each scope.
    pub scope: Vec<Absorption>,
}

/// Computes the absorption of one class.
///
/// | argument | shape | meaning |
/// |---|---|---|
/// | `member` | `[n]` | the member of a row, [`OUTSIDE`] if the row is not in the class |
/// | `is_test` | `[n]` | probes, main latents and members' latents are from the other rows, rates from these |
///
/// Cost: a [`fit`](super::probe::logistic::fit) on up to `2 examples` rows of `d` numbers, up to `most_main` fits per
/// scope on a few latents, and a pass over the codes.
///
/// # Errors
/// [`Error::Shape`] where sizes disagree, or if either answer lacks an example on either side of the split.
pub fn absorption(
    par: Par,
    dictionary: &Dictionary<'_>,
    member: &[u32],
    is_test: &[bool],
    scopes: &[Scope],
    t: &Thresholds,
) -> Result<ClassAbsorption> {
    let Dictionary { x, d, centre, codes, decoder, .. } = *dictionary;
    let n = codes.tokens();
    for (what, expected, got) in [
        ("numbers per row", d.max(1), d),
        ("numbers of the rows", n * d, x.len()),
        ("numbers of the centre", d, centre.len()),
        ("decoder of the latents", codes.latents() * d, decoder.len()),
        ("members of the rows", n, member.len()),
        ("sides of the split", n, is_test.len()),
    ] {
        if expected != got {
            return Err(Error::Shape { what, expected, got });
        }
    }
    let ends = scopes.iter().flat_map(|s| [s.main.end, s.absorbers.end]);
    if let Some(index) = ends.max().filter(|end| *end > codes.latents()) {
        return Err(Error::Index { what: "latents of a scope", index, len: codes.latents() });
    }
    let of: Vec<Option<u32>> = member.iter().map(|m| Some(u32::from(*m != OUTSIDE))).collect();
    let task = Binary::one_against_rest(&of, 1, is_test, t.examples, t.seed);
    for (what, set) in [("training examples of a class", &task.train), ("test examples of a class", &task.test)] {
        if set.is_empty() {
            return Err(Error::Shape { what, expected: 2, got: 0 });
        }
    }
    let (probe, found) = dense_probe(x, d, &task, &Settings::default())?;
    let norm = libm::sqrt(probe.weight.iter().map(|w| w * w).sum());
    let unit: Vec<f64> = probe.weight.iter().map(|w| w / norm).collect();
    let origin = dot(centre, &unit);
    let cosine: Vec<f64> = decoder.chunks_exact(d).map(|row| cosine_with(row, &unit)).collect();

    let in_test = || (0..n).filter(|&i| is_test[i] && member[i] != OUTSIDE);
    let row = |i: usize| &x[i * d..(i + 1) * d];
    let tokens: Vec<Token> = in_test()
        .filter(|&i| probe.margin(row(i)) > 0.0)
        .map(|i| Token { row: i, member: member[i], projection: dot(row(i), &unit) - origin })
        .filter(|token| token.projection > 0.0)
        .collect();
    let difference = mean_difference(&codes, &task.train)?;
    let owner = owners(&codes, member, is_test, t.precision);
    let offsets = member_offsets(dictionary, member, is_test);
    let judge = Judge { codes, cosine: &cosine, owner: &owner, f1: dictionary.f1, t };
    let scope = par.map(scopes.len(), |s| {
        let scope = &scopes[s];
        let (main, main_f1) = main_latents(&codes, &difference, scope, &task, t)?;
        let hedging = main.first().map_or(f64::NAN, |&j| {
            let row = &decoder[j as usize * d..][..d];
            let leans = offsets.iter().map(|offset| cosine_with(row, offset).abs());
            if offsets.len() < 2 { f64::NAN } else { leans.sum::<f64>() / offsets.len() as f64 }
        });
        Ok(Absorption { hedging, ..judge.rates(&tokens, scope, main, main_f1) })
    });
    Ok(ClassAbsorption {
        tokens: in_test().count() as u64,
        found: tokens.len() as u64,
        probe: found,
        scope: scope.into_iter().collect::<Result<_>>()?,
    })
}

/// A test token of the class that the probe finds.
struct Token {
    row: usize,
    member: u32,
    /// `w . (x - centre) / ||w||`.
    projection: f64,
}

/// Returns `cos(row, v)`; 0 if either is 0.
fn cosine_with(row: &[f32], v: &[f64]) -> f64 {
    let square: f64 = row.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
    let norm = libm::sqrt(square * v.iter().map(|v| v * v).sum::<f64>());
    if norm > 0.0 { dot(row, v) / norm } else { 0.0 }
}

/// Returns the main latents, and the F1 of a probe on them: the latents of the largest difference of means, as many as
/// raise the F1 by more than `t.gain` each.
fn main_latents(
    codes: &CodesView<'_>,
    difference: &[f64],
    scope: &Scope,
    task: &Binary,
    t: &Thresholds,
) -> Result<(Vec<u32>, f64)> {
    let only: Vec<f64> =
        difference.iter().enumerate().map(|(j, v)| if scope.main.contains(&j) { v.max(0.0) } else { 0.0 }).collect();
    let order = ranked(&only);
    let (mut main, mut best) = (Vec::new(), f64::NAN);
    for &j in order.iter().take(t.most_main) {
        main.push(j);
        let f1 = on_latents(codes, &main, task, &Settings::default())?.0.f1();
        if main.len() > 1 && (f1.is_nan() || f1 - best <= t.gain) {
            main.pop();
            break;
        }
        best = f1;
    }
    Ok((main, best))
}

/// Returns the member that each latent belongs to by its training tokens, [`OUTSIDE`] for none.
fn owners(codes: &CodesView<'_>, member: &[u32], is_test: &[bool], precision: f64) -> Vec<u32> {
    let mut fires = vec![0u64; codes.latents()];
    let mut pairs = Vec::new();
    for i in (0..codes.tokens()).filter(|&i| !is_test[i]) {
        for (j, _) in codes.active(i) {
            fires[j] += 1;
            if member[i] != OUTSIDE {
                pairs.push((j as u32, member[i]));
            }
        }
    }
    pairs.sort_unstable();
    let mut owner = vec![OUTSIDE; fires.len()];
    for run in pairs.chunk_by(|a, b| a == b) {
        let (j, m) = run[0];
        let n = fires[j as usize];
        if n >= ALIVE_TOKENS && run.len() as f64 > precision * n as f64 {
            owner[j as usize] = m;
        }
    }
    owner
}

/// Returns `mean(x | member) - mean(x | class)` over the training rows, for members with enough of them.
fn member_offsets(dictionary: &Dictionary<'_>, member: &[u32], is_test: &[bool]) -> Vec<Vec<f64>> {
    let Dictionary { x, d, .. } = *dictionary;
    let mut rows: Vec<(u32, usize)> =
        (0..member.len()).filter(|&i| !is_test[i] && member[i] != OUTSIDE).map(|i| (member[i], i)).collect();
    rows.sort_unstable();
    let mean = |rows: &[(u32, usize)]| -> Vec<f64> {
        let mut sum = vec![0.0; d];
        for (_, i) in rows {
            sum.iter_mut().zip(&x[i * d..(i + 1) * d]).for_each(|(s, x)| *s += f64::from(*x));
        }
        sum.iter().map(|s| s / rows.len() as f64).collect()
    };
    let all = mean(&rows);
    let enough = rows.chunk_by(|a, b| a.0 == b.0).filter(|run| run.len() >= MIN_MEMBER_TOKENS);
    enough.map(|run| mean(run).iter().zip(&all).map(|(m, a)| m - a).collect()).collect()
}

/// What the rates of every scope are computed from.
struct Judge<'a> {
    codes: CodesView<'a>,
    cosine: &'a [f64],
    owner: &'a [u32],
    f1: usize,
    t: &'a Thresholds,
}

/// The outcome for one token.
#[derive(Default)]
struct Verdict {
    silent: bool,
    /// The absorber.
    full: Option<usize>,
    by_member: bool,
    fraction: f64,
}

impl Judge<'_> {
    /// Returns the rates of a scope, all but the hedging, over the test tokens.
    fn rates(&self, tokens: &[Token], scope: &Scope, main: Vec<u32>, main_f1: f64) -> Absorption {
        let (mut silent, mut full, mut by_level, mut by_member, mut fraction) = (0u64, 0u64, [0u64; 2], 0u64, 0.0);
        let mut each = Vec::new();
        for token in tokens {
            let v = self.verdict(token, scope, &main);
            silent += u64::from(v.silent);
            full += u64::from(v.full.is_some());
            if let Some(j) = v.full {
                by_level[usize::from(j >= self.f1)] += 1;
            }
            by_member += u64::from(v.by_member);
            fraction += v.fraction;
            each.push((token.member, v.silent, v.full.is_some()));
        }
        each.sort_unstable();
        let member = each.chunk_by(|a, b| a.0 == b.0).map(|run| Member {
            member: run[0].0,
            tokens: run.len() as u64,
            silent: run.iter().filter(|e| e.1).count() as u64,
            absorbed: run.iter().filter(|e| e.2).count() as u64,
        });
        let share = |n: u64| n as f64 / tokens.len() as f64;
        Absorption {
            main,
            main_f1,
            silent: share(silent),
            absorbed: share(full),
            missed: share(silent - full),
            absorbed_by_level: by_level.map(share),
            absorbed_by_member: share(by_member),
            fraction: fraction / tokens.len() as f64,
            hedging: f64::NAN,
            member: member.collect(),
        }
    }

    /// Decides for one token whether the main latents are absorbed.
    fn verdict(&self, token: &Token, scope: &Scope, main: &[u32]) -> Verdict {
        let (t, whole) = (self.t, token.projection);
        let (mut by_main, mut any_main) = (0.0, false);
        let mut others = Vec::new();
        let mut strongest: Option<(f64, usize)> = None;
        let mut verdict = Verdict::default();
        for (j, z) in self.codes.active(token.row) {
            let projection = f64::from(z) * self.cosine[j];
            if main.contains(&(j as u32)) {
                any_main = true;
                by_main += projection;
            } else if scope.absorbers.contains(&j) {
                if strongest.is_none_or(|(p, _)| projection > p) {
                    strongest = Some((projection, j));
                }
                if self.cosine[j] >= t.cosine && projection > 0.0 {
                    others.push(projection);
                }
                let owned = self.owner[j] != OUTSIDE && self.cosine[j] > t.cosine;
                verdict.by_member |= owned && projection >= t.share * whole;
            }
        }
        verdict.silent = !any_main;
        verdict.by_member &= verdict.silent;
        verdict.full = strongest
            .filter(|&(p, j)| verdict.silent && self.cosine[j] >= t.full_cosine && p >= t.share * whole)
            .map(|(_, j)| j);
        others.sort_unstable_by(|a: &f64, b| b.total_cmp(a));
        let by_others: f64 = others.iter().take(t.absorbers).sum();
        verdict.fraction = if by_main >= whole || by_others < t.share * whole {
            0.0
        } else if by_main <= 0.0 {
            1.0
        } else {
            let absorbed = by_others.min(whole - by_main);
            absorbed / (absorbed + by_main)
        };
        verdict
    }
}
