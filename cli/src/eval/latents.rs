//! `RUN/latents.jsonl`: one line per latent, with what a person wants to see of it.

use super::bars::Bars;
use super::collect::{Collector, Text};
use super::strongest::{Place, Seen};
use super::texts::Texts;
use super::unit::Unit;
use crate::dump::Dump;
use crate::files::{PendingFile, io_error, read};
use crate::texts::join_characters;
use anyhow::{Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use strata_core::kernel::dense;
use strata_core::metrics::coherence::Partition;
use strata_core::metrics::coherence::discover::nearest;
use strata_core::metrics::coherence::geometry::Directions;
use strata_core::metrics::composition::{CompositionReport, GatedReport, Parent};
use strata_core::metrics::similarity::ALPHA;
use strata_core::{Compute, Encoder, Isa, Par, ROOT};

/// One latent, as a line of `latents.jsonl`: level 1 first, each level in the order of its latents, every latent of the
/// model. What is undefined or unknown (for a dump without tokens, or a flat model) is null or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatentRecord {
    /// 1 for parents, 2 for children.
    pub level: u8,
    /// Its index in its level.
    pub latent: u32,
    /// For a child: its parent in level 1, null under ROOT or without families.
    pub parent: Option<u32>,
    /// For a parent: its children in level 2, the most frequent first.
    pub children: Vec<u32>,
    /// Evaluated tokens on which it fires.
    pub fires: u64,
    /// `fires / tokens`.
    pub density: f64,
    /// Mean activation over the tokens on which it fires.
    pub mean: Option<f64>,
    /// Largest activation.
    pub max: Option<f64>,
    /// For a child: `P(parent | child)` where it fires without its gate.
    pub containment: Option<f64>,
    /// For a child: lift of the edge to its parent, without the gate.
    pub lift: Option<f64>,
    /// For a child: the relative growth of the squared error of level 2 if this child alone is removed. Below 0 it
    /// harms.
    pub gain: Option<f64>,
    /// For a child: `KL(q_child || q_parent)` in bits, `q` the shares of tokens in the activation: how much more
    /// specific it is than its parent.
    pub divergence: Option<f64>,
    /// For a parent: `P(some child | parent)`, without the gate.
    pub coverage: Option<f64>,
    /// For a parent: `P(exactly one child | at least one)`, without the gate.
    pub exclusivity: Option<f64>,
    /// The tokens with the largest shares of its activation, and the shares; largest first.
    pub tokens: Vec<(String, f64)>,
    /// The tokens whose logits its decoder direction raises most, and by how much at an activation of 1; largest first.
    pub promotes: Vec<(String, f64)>,
    /// The tokens whose logits it lowers most; lowest first.
    pub suppresses: Vec<(String, f64)>,
    /// Latents of either level with the nearest decoder directions: level, latent, cosine; nearest first.
    pub neighbours: Vec<(u8, u32, f64)>,
    /// Histogram of its activations.
    pub histogram: Bars,
    /// The contexts in which it fires most strongly, at most one per sequence; strongest first.
    pub contexts: Vec<Context>,
    /// Contexts drawn from all in which it fires, at most three from each quarter of its activations; strongest first.
    pub sampled: Vec<Context>,
}

/// One context in which a latent fires, with the surrounding rows of the same sequence. Rows are given by their offset
/// in the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// Row of the dump.
    pub row: u64,
    /// The offset of that row in the window.
    pub peak: usize,
    /// Number of rows of the window.
    pub length: usize,
    /// Share of its activations that are weaker than this one.
    pub quantile: f64,
    /// Rows on which it fires, ascending.
    pub at: Vec<u16>,
    /// Its activations there.
    pub values: Vec<f32>,
    /// For a parent: where its children fire, the four strongest on each row.
    pub children: Children,
    /// The text of the rows; empty if the dump has no tokens.
    pub tokens: Texts,
}

/// The activity of children: lists of equal length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Children {
    /// The row, ascending.
    pub at: Vec<u16>,
    /// The child, the strongest of a row first.
    pub child: Vec<u32>,
    /// Its activation.
    pub values: Vec<f32>,
}

impl Context {
    /// Returns the activation on the central row of the context.
    pub fn strength(&self) -> f32 {
        self.at.iter().position(|at| usize::from(*at) == self.peak).map_or(0.0, |i| self.values[i])
    }

    /// Returns the activations of all rows of the window.
    pub fn dense(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.length];
        self.at.iter().zip(&self.values).for_each(|(at, v)| all[usize::from(*at)] = *v);
        all
    }

    /// Returns whether offsets are in the window and all lists have the right length.
    fn is_sound(&self) -> bool {
        let Children { at, child, values } = &self.children;
        let inside = |list: &[u16]| list.iter().all(|at| usize::from(*at) < self.length);
        self.peak < self.length
            && self.length <= usize::from(u16::MAX)
            && self.at.len() == self.values.len()
            && at.len() == child.len()
            && at.len() == values.len()
            && inside(&self.at)
            && inside(at)
            && (self.tokens.is_empty() || self.tokens.len() == self.length)
    }
}

/// Tokens that are shown per latent.
const TOKENS: usize = 10;
/// Tokens whose logits it changes most, in each direction.
const LOGITS: usize = 8;
/// Latents whose effects on all words are in memory at once, in each thread.
const BLOCK: usize = 32;
/// Nearest latents.
const NEIGHBOURS: usize = 8;
/// Random contexts that are kept from each quarter of the activations.
const OF_A_QUARTER: usize = 3;

/// The sources of the records.
pub struct Sources<'a> {
    /// The model.
    pub encoder: &'a Encoder,
    /// The dump.
    pub dump: &'a Dump,
    /// The accumulators of the pass.
    pub seen: &'a Collector<'a>,
    /// Composition of the levels without the gate; none without families.
    pub composition: Option<&'a CompositionReport>,
    /// Composition of the levels behind the gate; none without families.
    pub gated: Option<&'a GatedReport>,
    /// `sum ||x_hat2 - x||^2` over all rows, in the unit of `seen`.
    pub sse2: f64,
    /// The unembedding of the language model, `(words, d)`, where there is one.
    pub unembedding: Option<&'a [f32]>,
}

/// Returns the records of all latents of both levels, in order.
///
/// # Errors
/// If a weight is not finite.
pub fn records(s: &Sources<'_>) -> Result<Vec<LatentRecord>> {
    let d = s.encoder.model().arch.d_out();
    let [f1, f2] = s.encoder.model().arch.latents();
    let decoders = [&s.encoder.model().params.level[0].w_dec[..], s.encoder.decoder2()].concat();
    let near = neighbours(s.encoder, &decoders, d, f1)?;
    let vocab = s.dump.vocab();
    let text = |t: u32| vocab.and_then(|v| v.get(t as usize)).map_or_else(|| format!("<{t}>"), Clone::clone);
    let effects = Logits::new(s.unembedding, d).of(s.encoder.isa(), &decoders);
    let mut children = vec![Vec::new(); f1];
    let parents = &s.encoder.model().parents;
    for (j, p) in parents.iter().enumerate().filter(|(_, p)| **p != ROOT) {
        children[*p as usize].push(j as u32);
    }
    let fires2 = |j: u32| s.seen.strongest[1].latents[j as usize].fires;
    children.iter_mut().for_each(|c| c.sort_by_key(|j| (Reverse(fires2(*j)), *j)));
    let of_parent: BTreeMap<u32, &Parent> =
        s.composition.iter().flat_map(|c| &c.parent).map(|p| (p.latent, p)).collect();
    let tokens = s.seen.level1.report().tokens as f64;
    let finite = |v: f64| v.is_finite().then_some(v);
    let unit = s.seen.unit;

    Ok(Par::Rayon.map(f1 + f2, |at| {
        let level = usize::from(at >= f1);
        let j = if level == 0 { at } else { at - f1 };
        let seen = &s.seen.strongest[level].latents[j];
        let child = s.composition.filter(|_| level == 1).map(|c| &c.child[j]);
        let parent = child.map(|c| c.parent).filter(|p| *p != ROOT);
        let family = of_parent.get(&(j as u32)).filter(|_| level == 0);
        let named = |list: Vec<(u32, f64)>| list.into_iter().map(|(t, v)| (text(t), v)).collect::<Vec<_>>();
        let (promotes, suppresses) = effects[at].clone();
        LatentRecord {
            level: level as u8 + 1,
            latent: j as u32,
            parent,
            children: if level == 0 { children[j].clone() } else { Vec::new() },
            fires: seen.fires,
            density: seen.fires as f64 / tokens,
            mean: finite(unit.up(seen.mass / seen.fires as f64)),
            max: seen.places.first().map(|p| unit.up(f64::from(p.value))),
            containment: child.and_then(|c| finite(c.containment)),
            lift: child.and_then(|c| finite(c.lift)),
            gain: s.gated.filter(|_| level == 1).and_then(|g| finite(g.child[j].gain / s.sse2)),
            divergence: parent.and_then(|p| s.seen.text.as_ref().and_then(|t| finite(divergence(t, j, p as usize)))),
            coverage: family.and_then(|p| finite(p.coverage)),
            exclusivity: family.and_then(|p| finite(p.exclusivity)),
            tokens: named(seen.tokens().into_iter().take(TOKENS).collect()),
            promotes: named(promotes),
            suppresses: named(suppresses),
            neighbours: near[at].clone(),
            histogram: Bars { width: unit.up(seen.bars.width), counts: seen.bars.counts.clone() },
            contexts: seen.places.iter().map(|p| context(p, seen, unit, s.dump.tokens(), &text)).collect(),
            sampled: of_quarters(seen).into_iter().map(|p| context(p, seen, unit, s.dump.tokens(), &text)).collect(),
        }
    }))
}

/// Writes the records, one per line; the file appears whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write(records: &[LatentRecord], path: &Path) -> Result<()> {
    let mut file = BufWriter::new(PendingFile::create(path)?);
    let failed = |e: std::io::Error| io_error("writing", path, &e);
    for record in records {
        serde_json::to_writer(&mut file, record).map_err(|e| failed(e.into()))?;
        file.write_all(b"\n").map_err(failed)?;
    }
    file.into_inner().map_err(|e| failed(e.into_error()))?.finish()
}

/// Reads a file that [`write()`] wrote.
///
/// # Errors
/// One sentence naming the file and the line.
pub fn read(path: &Path) -> Result<Vec<LatentRecord>> {
    let file = read::open(path)?;
    let mut records = Vec::new();
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|e| io_error("reading", path, &e))?;
        let at = || format!("{}, line {}", path.display(), i + 1);
        let again = "if `strata eval` of an earlier version wrote it, evaluate the run again";
        let record: LatentRecord = serde_json::from_str(&line).map_err(|e| anyhow!("{}: {e}; {again}", at()))?;
        let is_sound = record.contexts.iter().chain(&record.sampled).all(Context::is_sound);
        ensure!(is_sound, "{}: expected offsets within the window of a context, and lists of one length", at());
        records.push(record);
    }
    Ok(records)
}

/// Returns `KL(q_child || q_parent)` in bits over the words of profiles, with [`ALPHA`] tokens of a uniform prior.
fn divergence(text: &Text, child: usize, parent: usize) -> f64 {
    let words = text.current.level1.words();
    let (mut q, mut p) = (vec![0.0; words], vec![0.0; words]);
    text.current.level2.profile(child, ALPHA, &mut q);
    text.current.level1.profile(parent, ALPHA, &mut p);
    q.iter().zip(&p).map(|(q, p)| q * (q / p).log2()).sum::<f64>().max(0.0)
}

/// Returns the drawn contexts that are shown, strongest first: the first ones of each quarter that are not among the
/// strongest.
fn of_quarters(seen: &Seen) -> Vec<&Place> {
    let mut left = [OF_A_QUARTER; 4];
    let mut chosen: Vec<&Place> = Vec::new();
    for (_, place) in &seen.drawn {
        let quarter = (4.0 * seen.bars.share_below(f64::from(place.value))).min(3.0) as usize;
        if left[quarter] > 0 && seen.places.iter().all(|p| p.row != place.row) {
            left[quarter] -= 1;
            chosen.push(place);
        }
    }
    chosen.sort_by(|a, b| b.value.total_cmp(&a.value).then(a.row.cmp(&b.row)));
    chosen
}

/// Returns the record of a context.
fn context(place: &Place, seen: &Seen, unit: Unit, tokens: Option<&[u32]>, text: &impl Fn(u32) -> String) -> Context {
    let window = &place.window;
    let rows = window.first as usize..window.first as usize + window.length;
    let up = |v: f32| unit.up(f64::from(v)) as f32;
    Context {
        row: place.row,
        peak: (place.row - window.first) as usize,
        length: window.length,
        quantile: seen.bars.share_below(f64::from(place.value)),
        at: window.at.clone(),
        values: window.values.iter().map(|v| up(*v)).collect(),
        children: Children {
            at: window.children.iter().map(|c| c.0).collect(),
            child: window.children.iter().map(|c| c.1).collect(),
            values: window.children.iter().map(|c| up(c.2)).collect(),
        },
        tokens: tokens.map_or_else(Texts::default, |tokens| {
            let mut texts: Vec<String> = tokens[rows].iter().map(|t| text(*t)).collect();
            join_characters(&mut texts);
            texts.iter().collect()
        }),
    }
}

/// Returns the nearest other directions of each direction of both levels, one level after the other; none for a
/// direction of norm 0.
fn neighbours(encoder: &Encoder, decoders: &[f32], d: usize, f1: usize) -> Result<Vec<Vec<(u8, u32, f64)>>> {
    let n = decoders.len() / d;
    let each: Vec<u32> = (0..n as u32).collect();
    let (directions, kept) = Directions::new(decoders, d, &Partition::of(&each))?;
    let name = |at: u32| if (at as usize) < f1 { (1, at) } else { (2, at - f1 as u32) };
    let mut found = vec![Vec::new(); n];
    for (at, near) in
        kept.latents().iter().zip(nearest(Compute::new(encoder.isa(), Par::Rayon), &directions, NEIGHBOURS))
    {
        let named = near.into_iter().map(|(other, cosine)| {
            let (level, latent) = name(kept.latents()[other as usize]);
            (level, latent, f64::from(cosine))
        });
        found[*at as usize] = named.collect();
    }
    Ok(found)
}

/// Words and the changes of their logits.
type Effects = Vec<(u32, f64)>;

/// The direct effects of decoder directions on the logits: `W_U D` minus its mean over words.
struct Logits<'a> {
    unembedding: &'a [f32],
    mean: Vec<f64>,
}

impl<'a> Logits<'a> {
    fn new(unembedding: Option<&'a [f32]>, d: usize) -> Self {
        let unembedding = unembedding.unwrap_or_default();
        let mut mean = vec![0.0f64; d];
        for row in unembedding.chunks_exact(d) {
            mean.iter_mut().zip(row).for_each(|(m, w)| *m += f64::from(*w));
        }
        let words = (unembedding.len() / d).max(1) as f64;
        mean.iter_mut().for_each(|m| *m /= words);
        Self { unembedding, mean }
    }

    /// Returns, for each of `directions` (`(n, d)`), the words that an activation of 1 raises most, and those that it lowers most:
    /// nothing without an unembedding.
    fn of(&self, isa: Isa, directions: &[f32]) -> Vec<(Effects, Effects)> {
        let d = self.mean.len();
        let (n, words) = (directions.len() / d, self.unembedding.len() / d);
        if words == 0 {
            return vec![Default::default(); n];
        }
        let block = |at: usize| {
            let rows = &directions[at * BLOCK * d..((at + 1) * BLOCK * d).min(directions.len())];
            let mut raised = vec![0.0f32; rows.len() / d * words];
            dense::affine(isa, rows, self.unembedding, d, None, &mut raised);
            let of_row = |(x, raised): (&[f32], &[f32])| {
                let shift: f64 = self.mean.iter().zip(x).map(|(m, x)| m * f64::from(*x)).sum();
                let named = |t: u32| (t, f64::from(raised[t as usize]) - shift);
                let most = |above: fn(&f32, &f32) -> Ordering| most(raised, above).into_iter().map(named).collect();
                (most(f32::total_cmp), most(|a, b| b.total_cmp(a)))
            };
            rows.chunks_exact(d).zip(raised.chunks_exact(words)).map(of_row).collect::<Vec<_>>()
        };
        Par::Rayon.map(n.div_ceil(BLOCK), block).concat()
    }
}

/// Returns the places of the [`LOGITS`] values that come last in an order, the last one first; of equal ones, the lower places.
fn most(values: &[f32], order: fn(&f32, &f32) -> Ordering) -> Vec<u32> {
    let mut kept: Vec<u32> = Vec::with_capacity(LOGITS + 1);
    for (at, v) in values.iter().enumerate() {
        let is_above = |other: &u32| order(v, &values[*other as usize]).is_gt();
        if kept.len() < LOGITS || kept.last().is_some_and(is_above) {
            let place = kept.iter().position(is_above).unwrap_or(kept.len());
            kept.insert(place, at as u32);
            kept.truncate(LOGITS);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_products_with_the_unembedding_less_its_mean() {
        let (d, words, n) = (5, 40, 70);
        let mut rng = strata_core::Philox::new(7, 0);
        let mut draw = |len: usize| (0..len).map(|_| rng.normal_f32()).collect::<Vec<_>>();
        let (mut unembedding, directions) = (draw(words * d), draw(n * d));
        // Two words with the same row: the lower one comes first.
        unembedding.copy_within(3 * d..4 * d, 30 * d);
        let found = Logits::new(Some(&unembedding), d).of(Isa::detect(), &directions);
        assert_eq!(found.len(), n);
        for (x, (raised, lowered)) in directions.chunks(d).zip(&found) {
            let along = |w: &[f32]| w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
            let mean = unembedding.chunks(d).map(along).sum::<f64>() / words as f64;
            let mut wanted: Vec<(u32, f64)> =
                unembedding.chunks(d).enumerate().map(|(t, w)| (t as u32, along(w) - mean)).collect();
            for (found, sign) in [(raised, -1.0), (lowered, 1.0)] {
                wanted.sort_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)).then(a.0.cmp(&b.0)));
                assert_eq!(found.len(), LOGITS);
                for ((t, v), (word, effect)) in found.iter().zip(&wanted) {
                    assert_eq!(t, word);
                    assert!((v - effect).abs() < 1e-5, "{v} and {effect}");
                }
            }
        }
        assert_eq!(Logits::new(None, d).of(Isa::detect(), &directions), vec![Default::default(); n]);
    }
}
