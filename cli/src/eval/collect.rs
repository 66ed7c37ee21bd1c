//! The accumulators of one pass over the rows.

use super::batches::{Batch, InOrder, Pair, Sequences};
use super::classes::TokenClasses;
use super::strongest::Strongest;
use super::unit::Unit;
use super::window::Reach;
use super::words::Words;
use crate::feed;
use crate::ranks;
use crate::row_filter::{LeftOut, RowFilter};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use strata_core::kernel::wide;
use strata_core::metrics::attribution::{self, Attribution};
use strata_core::metrics::bootstrap::BlockSums;
use strata_core::metrics::coherence::cofiring::Cofiring;
use strata_core::metrics::coherence::topics::Windows;
use strata_core::metrics::composition::{Composition, EdgeBlocks, Errors, MAX_PAIRS};
use strata_core::metrics::condition::Condition;
use strata_core::metrics::fidelity::Fidelity;
use strata_core::metrics::leak::Leak;
use strata_core::metrics::patterns::Patterns;
use strata_core::metrics::patterns::across::Across;
use strata_core::metrics::similarity::{NO_WORD, Profiles};
use strata_core::metrics::sparsity::Sparsity;
use strata_core::train::Comm;
use strata_core::{Codes, Compute, Encoder, Isa, Par};

/// Most pairs of children whose co-activation is counted (256 MiB). If there are more, only siblings are counted, and
/// their scores have no null.
const ALL_PAIRS: usize = 1 << 26;
/// Number of rows from which the unit is taken.
const UNIT_ROWS: usize = 4096;
/// Number of tokens of a short window for topics.
const WINDOW: usize = 10;
/// Rows around the contexts that are kept of each latent: more than a page shows at first.
const REACH: Reach = Reach { before: 96, after: 48 };
/// Terms of [`Collector::sums`] before the sums of the rows: tokens, `||e1||^2`, `||e2||^2`, active latents of both
/// levels, `||x||^2`.
pub const TERMS: usize = 6;

/// Profiles of both levels over one kind of word.
#[derive(Serialize, Deserialize)]
pub struct LevelProfiles {
    /// Profiles of level 1.
    pub level1: Profiles,
    /// Profiles of level 2.
    pub level2: Profiles,
}

/// Profiles and windows of a dump with tokens. Profiles are those of codes of level 2 without its gate, over the
/// batches that have them.
#[derive(Serialize, Deserialize)]
pub struct Text {
    /// Profiles over the token on which a latent fires.
    pub current: LevelProfiles,
    /// Profiles over the token before.
    pub previous: LevelProfiles,
    /// Profiles over the token after.
    pub next: LevelProfiles,
    /// Profiles of level 2 over the words of topics.
    pub topic: Profiles,
    /// Counts of words within short windows.
    pub windows: Windows,
    /// Counts of words within sequences.
    pub sequences: Windows,
}

/// Accumulators that depend on the learned families. Where children fire is taken from the codes of level 2 without its
/// gate, for only some batches of a long dump; `gated` and the fields after it use the codes of the model as it is.
#[derive(Serialize, Deserialize)]
pub struct Tree {
    /// Firing of both levels, without the gate.
    pub composition: Composition,
    /// Firing at the ends of the edges by block of sequences, without the gate.
    pub edges: EdgeBlocks,
    /// Statistics of the rows on which a child fires, without the gate.
    pub condition: Condition,
    /// Firings that the gate removes.
    pub leak: Leak,
    /// Firing of both levels behind the gate, and the gain of each child.
    pub gated: Composition,
    /// Firing of siblings.
    pub cofiring: Cofiring,
    /// Numbers of active latents of the levels on each token.
    pub across: Across,
    /// Shares of the subtrees in the reconstruction of a row.
    pub attribution: Attribution,
}

/// Where latents of both levels fire.
pub struct Places {
    /// Patterns of level 1.
    pub level1: Patterns,
    /// Patterns of level 2.
    pub level2: Patterns,
    /// Kinds of tokens, where the dump has their texts.
    pub classes: Option<TokenClasses>,
}

/// The accumulators of a pass. Memory, with `V` words of a profile and `T` of a topic at most:
/// `8 f1 f2 + 4 f2^2 / 2 + 24 (f1 + f2) V + 8 f2 T + 4 T^2 + 8192 (f1 + f2)` bytes.
pub struct Collector<'a> {
    encoder: &'a Encoder,
    /// The unit of all collected numbers.
    pub unit: Unit,
    /// `b_dec`, in that unit.
    b_dec: Vec<f32>,
    tokens: Option<&'a [u32]>,
    words: Option<Words<'a>>,
    /// Reconstruction by both levels.
    pub fidelity: Fidelity,
    /// Per block of sequences: [`TERMS`] terms, and the sum of the rows.
    pub sums: BlockSums,
    /// Sparsity of level 1.
    pub level1: Sparsity,
    /// Sparsity of level 2, unless the model is flat.
    pub level2: Option<Sparsity>,
    /// Statistics of the families; none without learned families, or with more than [`MAX_PAIRS`] pairs of latents.
    pub tree: Option<Tree>,
    /// Where latents fire; none for a dump without starts of sequences.
    pub places: Option<Places>,
    /// Profiles and windows; none for a dump without tokens.
    pub text: Option<Text>,
    /// The strongest latents of both levels.
    pub strongest: [Strongest<'a>; 2],
    /// First row whose codes are kept to compare them with a known truth.
    first_scored: u64,
    /// The codes that are kept.
    pub scored: [Codes; 2],
    /// The rows of these codes.
    pub scored_rows: Vec<u64>,
    /// Rows that are left out.
    pub left_out: LeftOut,
    /// [`Collector::fidelity`] with the rows that are left out; none where a reconstruction of them is not finite.
    pub fidelity_of_all: Option<Fidelity>,
}

impl<'a> Collector<'a> {
    /// Makes empty accumulators; codes are kept from row `first_scored` on.
    ///
    /// # Errors
    /// If a table would be too large.
    pub fn new(
        encoder: &'a Encoder,
        pair: Pair<'a>,
        filter: &RowFilter<'_>,
        rows: Range<u64>,
        first_scored: u64,
    ) -> Result<Self> {
        let [f1, f2] = encoder.model().arch.latents();
        let (d, dump, target) = (encoder.model().arch.d_out(), pair.input, pair.reconstructed());
        let parents = &encoder.model().parents;
        let words = Words::new(dump, filter, rows.clone(), f1.max(f2));
        let sequences = Sequences::new(dump);
        let pairs = f2.saturating_mul(f2.saturating_sub(1)) / 2;
        // The filter applies to the rows that are encoded, not to their targets.
        let all = RowFilter::none(encoder.isa());
        let sampled = if pair.target.is_some() { &all } else { filter };
        let mut sample = feed::sample(target, sampled, target.n_rows(), UNIT_ROWS)?.rows;
        let unit = Unit::of(&sample, d);
        unit.divide(&mut sample);
        let mut b_dec = encoder.model().params.b_dec.to_vec();
        unit.divide(&mut b_dec);
        let tree = || -> Result<Tree> {
            let cofiring = if pairs <= ALL_PAIRS { Cofiring::with_all_pairs } else { Cofiring::new };
            Ok(Tree {
                composition: Composition::new(f1, parents)?,
                edges: EdgeBlocks::new(f1, parents, sequences.count(rows.start, rows.end))?,
                gated: Composition::new(f1, parents)?,
                cofiring: cofiring(f1, parents)?,
                across: Across::new(f1, parents)?,
                leak: Leak::new(f1, parents)?,
                attribution: Attribution::new(f1, parents)?,
                condition: Condition::new(f1, parents, d, &sample)?,
            })
        };
        let places = || -> Result<Places> {
            let classes = dump.vocab().filter(|_| dump.tokens().is_some()).map(TokenClasses::new);
            let n = classes.as_ref().map_or(0, |c| c.names().len());
            Ok(Places { level1: Patterns::new(f1, n)?, level2: Patterns::new(f2, n)?, classes })
        };
        let text = |words: &Words<'_>| -> Result<Text> {
            let v = words.profile_words();
            let both = || -> Result<LevelProfiles> {
                Ok(LevelProfiles { level1: Profiles::new(f1, v)?, level2: Profiles::new(f2, v)? })
            };
            let t = words.topic_words();
            Ok(Text {
                current: both()?,
                previous: both()?,
                next: both()?,
                topic: Profiles::new(f2, t)?,
                windows: Windows::new(t, Some(WINDOW))?,
                sequences: Windows::new(t, None)?,
            })
        };
        Ok(Self {
            encoder,
            unit,
            b_dec,
            tokens: dump.tokens(),
            fidelity: Fidelity::new(d),
            sums: BlockSums::new(TERMS + d, sequences.count(rows.start, rows.end)),
            level1: Sparsity::new(f1),
            level2: (f2 > 0).then(|| Sparsity::new(f2)),
            tree: (!parents.is_empty() && f1.saturating_mul(f2) <= MAX_PAIRS).then(tree).transpose()?,
            places: sequences.known().then(places).transpose()?,
            text: words.as_ref().map(text).transpose()?,
            words,
            strongest: [Strongest::new(0, f1, REACH).with_children(parents), Strongest::new(1, f2, REACH)],
            first_scored,
            scored: [Codes::new(), Codes::new()],
            scored_rows: Vec::new(),
            left_out: LeftOut::default(),
            fidelity_of_all: Some(Fidelity::new(d)),
        })
    }

    /// Adds the rows of all other ranks to those of the first: the sums of [`Jobs::of_any_rows`], which merge to the same bits
    /// in any split of the rows. All ranks call this; the others have only the sums of their own rows.
    ///
    /// # Errors
    /// If another rank has ended.
    pub fn merge(&mut self, comm: &dyn Comm) -> Result<()> {
        type Sums = (
            (Fidelity, Option<Fidelity>, LeftOut),
            BlockSums,
            (Sparsity, Option<Sparsity>),
            Option<Tree>,
            Option<Text>,
        );
        let Self { fidelity, fidelity_of_all, left_out, sums, level1, level2, tree, text, .. } = self;
        let own = ((&*fidelity, &*fidelity_of_all, &*left_out), &*sums, (&*level1, &*level2), &*tree, &*text);
        for other in ranks::to_first::<_, Sums>(comm, &own)? {
            let ((of_fidelity, of_all, of_left_out), of_sums, of_levels, of_tree, of_text) = other;
            fidelity.merge(&of_fidelity);
            *fidelity_of_all = fidelity_of_all.take().zip(of_all).map(|(mut all, others)| {
                all.merge(&others);
                all
            });
            left_out.merge(of_left_out);
            sums.merge(&of_sums);
            level1.merge(&of_levels.0);
            level2.iter_mut().zip(of_levels.1).for_each(|(level2, other)| level2.merge(&other));
            tree.iter_mut().zip(of_tree).try_for_each(|(tree, other)| tree.merge(&other))?;
            text.iter_mut().zip(of_text).try_for_each(|(text, other)| text.merge(&other))?;
        }
        Ok(())
    }

    /// Returns the accumulators, each as a job that takes one batch after the other: the jobs run in parallel.
    pub fn jobs(&mut self) -> Jobs<'_> {
        let [f1, f2] = self.encoder.model().arch.latents();
        let (d, encoder) = (self.encoder.model().arch.d_out(), self.encoder);
        let (tokens, words, b_dec) = (self.tokens, self.words.as_ref(), &self.b_dec[..]);
        let (fidelity, sums, level1) = (&mut self.fidelity, &mut self.sums, &mut self.level1);
        let mut jobs: Vec<Job<'_>> = Vec::new();
        let (left_out, of_all) = (&mut self.left_out, &mut self.fidelity_of_all);
        jobs.push(Box::new(|b| {
            fidelity.merge(&b.fidelity);
            left_out.merge(b.left_out);
            *of_all = of_all.take().zip(b.fidelity_left_out.as_ref()).map(|(mut all, others)| {
                all.merge(&b.fidelity);
                all.merge(others);
                all
            });
            Ok(())
        }));
        jobs.push(Box::new(move |b| add_sums(sums, d, b)));
        jobs.push(Box::new(move |b| Ok(level1.add(&b.codes[0].view(f1)?)?)));
        if let Some(level2) = &mut self.level2 {
            jobs.push(Box::new(move |b| Ok(level2.add(&b.codes[1].view(f2)?)?)));
        }
        if let Some(tree) = &mut self.tree {
            let Tree { composition, edges, condition, leak, gated, cofiring, across, attribution } = tree;
            let model = encoder.model();
            let cumulative = model.arch.decoder.is_cumulative();
            let decoders = attribution::Decoders {
                d,
                decoder1: cumulative.then(|| &model.params.level[0].w_dec[..]),
                decoder2: encoder.decoder2(),
                b_dec,
            };
            jobs.push(Box::new(move |b| Ok(across.add(&b.codes[0].view(f1)?, &b.codes[1].view(f2)?)?)));
            jobs.push(Box::new(move |b| {
                let Some(open) = b.ungated() else { return Ok(()) };
                Ok(leak.add(&b.codes[0].view(f1)?, &open.view(f2)?)?)
            }));
            jobs.push(Box::new(move |b| {
                let Some(open) = b.ungated() else { return Ok(()) };
                Ok(composition.add(&b.codes[0].view(f1)?, &open.view(f2)?, None)?)
            }));
            jobs.push(Box::new(move |b| add_edges(edges, b, f1, f2)));
            jobs.push(Box::new(move |b| {
                let Some(open) = b.ungated() else { return Ok(()) };
                Ok(condition.add(Par::Seq, &b.codes[0].view(f1)?, &open.view(f2)?, &b.x)?)
            }));
            jobs.push(Box::new(move |b| {
                let (codes1, codes2) = (b.codes[0].view(f1)?, b.codes[1].view(f2)?);
                let block = attribution::Block { codes1, codes2, x: &b.x, error: &b.error };
                Ok(attribution.add(Compute::new(encoder.isa(), Par::Seq), &block, decoders)?)
            }));
            jobs.push(Box::new(move |b| {
                let errors = Errors { error: &b.error, decoder2: encoder.decoder2(), d };
                Ok(gated.add(&b.codes[0].view(f1)?, &b.codes[1].view(f2)?, Some(errors))?)
            }));
            jobs.push(Box::new(move |b| Ok(cofiring.add(&b.codes[0].view(f1)?, &b.codes[1].view(f2)?)?)));
        }
        let mut in_order: Vec<Job<'_>> = Vec::new();
        if let Some(Places { level1, level2, classes }) = &mut self.places {
            let classes = &*classes;
            for (patterns, level, f) in [(level1, 0, f1), (level2, 1, f2)] {
                in_order.push(Box::new(move |b| {
                    let of_rows = classes.as_ref().zip(tokens);
                    let class = |(c, t): (&TokenClasses, &[u32])| b.rows.iter().map(|r| c.of(t[*r as usize])).collect();
                    let class: Option<Vec<u32>> = of_rows.map(class);
                    Ok(patterns.add(&b.codes[level].view(f)?, &b.positions, class.as_deref())?)
                }));
            }
        }
        if let (Some(text), Some(words)) = (&mut self.text, words) {
            let Text { current, previous, next, topic, windows, sequences } = text;
            for (profiles, side) in [(current, 0), (previous, -1), (next, 1)] {
                for (profiles, level, f) in [(&mut profiles.level1, 0, f1), (&mut profiles.level2, 1, f2)] {
                    jobs.push(Box::new(move |b| {
                        let Some(open) = b.ungated() else { return Ok(()) };
                        let codes = if level == 0 { &b.codes[0] } else { open };
                        Ok(profiles.add(&codes.view(f)?, &beside(b, &words.of(b).profile, side))?)
                    }));
                }
            }
            jobs.push(Box::new(move |b| {
                let Some(open) = b.ungated() else { return Ok(()) };
                Ok(topic.add(&open.view(f2)?, &words.of(b).topic)?)
            }));
            for windows in [windows, sequences] {
                jobs.push(Box::new(move |b| {
                    let topics = &words.of(b).topic;
                    b.sequences().try_for_each(|(_, bounds)| Ok(windows.add(&topics[bounds])?))
                }));
            }
        }
        for strongest in &mut self.strongest {
            in_order.push(Box::new(move |b| strongest.add(b, tokens)));
        }
        let ([scored1, scored2], rows, first) = (&mut self.scored, &mut self.scored_rows, self.first_scored);
        in_order.push(Box::new(move |b| {
            for t in (0..b.n()).filter(|t| b.rows[*t] >= first) {
                rows.push(b.rows[t]);
                for (scored, codes) in [&mut *scored1, &mut *scored2].into_iter().zip(&b.codes) {
                    let row = codes.row(t);
                    scored.index.extend(row.index);
                    scored.value.extend(row.value);
                    scored.end_row();
                }
            }
            Ok(())
        }));
        Jobs { of_any_rows: jobs, in_order }
    }
}

impl Tree {
    fn merge(&mut self, other: &Self) -> Result<()> {
        let Self { composition, edges, condition, leak, gated, cofiring, across, attribution } = self;
        composition.merge(&other.composition)?;
        edges.merge(&other.edges)?;
        condition.merge(&other.condition)?;
        leak.merge(&other.leak);
        gated.merge(&other.gated)?;
        cofiring.merge(&other.cofiring)?;
        across.merge(&other.across);
        attribution.merge(&other.attribution);
        Ok(())
    }
}

impl LevelProfiles {
    fn merge(&mut self, other: &Self) -> Result<()> {
        self.level1.merge(&other.level1)?;
        Ok(self.level2.merge(&other.level2)?)
    }
}

impl Text {
    fn merge(&mut self, other: &Self) -> Result<()> {
        let Self { current, previous, next, topic, windows, sequences } = self;
        current.merge(&other.current)?;
        previous.merge(&other.previous)?;
        next.merge(&other.next)?;
        topic.merge(&other.topic)?;
        windows.merge(&other.windows)?;
        Ok(sequences.merge(&other.sequences)?)
    }
}

/// Adds one batch to an accumulator.
pub type Job<'a> = Box<dyn FnMut(&Batch) -> Result<()> + Send + Sync + 'a>;

/// The accumulators of a pass as jobs.
pub struct Jobs<'a> {
    /// Sums that merge to the same bits in any split of the rows.
    of_any_rows: Vec<Job<'a>>,
    /// Statistics that depend on the order of the rows, of which they read only the codes.
    in_order: Vec<Job<'a>>,
}

impl Jobs<'_> {
    /// Gives every job all of `batches` in order, with the jobs in parallel. Of several errors, that of the first job is
    /// returned. Over several ranks, which call this together, the first one gets the codes of the others for the
    /// statistics that depend on the order.
    ///
    /// # Errors
    /// Whatever a job returns; if another rank has ended.
    pub fn take_in(&mut self, comm: &dyn Comm, batches: &[Batch]) -> Result<()> {
        use rayon::prelude::*;
        let Self { of_any_rows, in_order } = self;
        let own: Vec<InOrder> = if comm.rank() == 0 { Vec::new() } else { batches.iter().map(InOrder::from).collect() };
        let others: Vec<Batch> =
            ranks::to_first::<_, Vec<InOrder>>(comm, &own)?.into_iter().flatten().map(Batch::from).collect();
        let in_order = if comm.rank() == 0 { &mut in_order[..] } else { &mut [] };
        let any = of_any_rows.par_iter_mut().with_max_len(1).map(|job| batches.iter().try_for_each(&mut **job));
        let ordered =
            in_order.par_iter_mut().with_max_len(1).map(|job| batches.iter().chain(&others).try_for_each(&mut **job));
        let done: Vec<Result<()>> = any.chain(ordered).collect();
        done.into_iter().collect()
    }
}

/// Returns the words `side` rows from each row of the batch (0, -1 or 1); none where that row is in another sequence or
/// left out.
fn beside(b: &Batch, words: &[u32], side: isize) -> Vec<u32> {
    let of = |t: usize, bounds: &Range<usize>| {
        let at = t.checked_add_signed(side).filter(|at| bounds.contains(at));
        let at = at.filter(|at| b.rows[t].checked_add_signed(side as i64) == Some(b.rows[*at]));
        at.map_or(NO_WORD, |at| words[at])
    };
    b.sequences().flat_map(|(_, bounds)| bounds.clone().map(move |t| of(t, &bounds))).collect()
}

/// Adds the firing of the two latents of each edge to the sums of their sequence.
pub fn add_edges(edges: &mut EdgeBlocks, b: &Batch, f1: usize, f2: usize) -> Result<()> {
    let Some(open) = b.ungated() else { return Ok(()) };
    let (one, two) = (b.codes[0].view(f1)?, open.view(f2)?);
    b.sequences().try_for_each(|(sequence, rows)| Ok(edges.add(sequence, rows, &one, &two)?))
}

/// Adds the terms of the intervals to the sums of each sequence.
pub fn add_sums(sums: &mut BlockSums, d: usize, b: &Batch) -> Result<()> {
    let isa = Isa::default();
    for (sequence, rows) in b.sequences() {
        let mut terms = vec![0.0f64; TERMS + d];
        let (x, hat1) = (&b.x[rows.start * d..rows.end * d], &b.hat1[rows.start * d..rows.end * d]);
        let active = |level: usize| (b.codes[level].offsets[rows.end] - b.codes[level].offsets[rows.start]) as f64;
        terms[0] = rows.len() as f64;
        terms[1] = wide::distance(isa, hat1, x);
        terms[2] = wide::sum_squares(isa, &b.error[rows.start * d..rows.end * d]);
        (terms[3], terms[4]) = (active(0), active(1));
        terms[5] = wide::sum_squares(isa, x);
        x.chunks_exact(d).for_each(|row| wide::add(isa, row, &mut terms[TERMS..]));
        sums.add(sequence, &terms)?;
    }
    Ok(())
}
