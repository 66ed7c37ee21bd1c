//! Metrics that are computed after the pass: whether families are clusters, whether connected latents are similar, and
//! the structure of the decoders.

use super::collect::{LevelProfiles, Text, Tree};
use super::sample::{Sampled, both_decoders, dictionary};
use anyhow::Result;
use serde::Serialize;
use strata_core::metrics::absorption::Dictionary;
use strata_core::metrics::attribution::{self, PathReport};
use strata_core::metrics::coherence::agreement::{AgreementReport, agreement};
use strata_core::metrics::coherence::cofiring::CofiringReport;
use strata_core::metrics::coherence::geometry::{GeometryReport, effective_children, geometry};
use strata_core::metrics::coherence::topics::{TopWords, TopicReport, Windows};
use strata_core::metrics::coherence::{Draws, Partition};
use strata_core::metrics::condition::ConditionReport;
use strata_core::metrics::hierarchy::{self, HierarchyReport};
use strata_core::metrics::similarity::{self, Inputs, Levels, Profiles, SimilarityReport};
use strata_core::metrics::stability::{self, StabilityReport};
use strata_core::metrics::structure::{self, Decoders, StructureReport};
use strata_core::{Compute, Encoder, Par, ROOT};

/// Number of random partitions with which each score of families is compared.
pub const DRAWS: Draws = Draws { n: 100, seed: 0 };
/// Number of random dictionaries with which compositions are compared.
const STRUCTURE_DRAWS: Draws = Draws { n: 20, seed: 0 };
/// Approximate number of random pairs with which the edges of a tree are compared.
const MATCHED_PAIRS: usize = 20_000;

/// Whether families are clusters. Each score has a null: random families of the same sizes and densities.
#[derive(Clone, Debug, Serialize)]
pub struct Coherence {
    /// For the decoder directions of children.
    pub decoder: GeometryReport,
    /// For the sum that a child writes together with its parent. Siblings share the parent, so they are near each other
    /// by construction: compare these scores with `decoder`.
    pub effective: GeometryReport,
    /// For the shares of tokens on which children fire; none without tokens.
    pub tokens: Option<GeometryReport>,
    /// Siblings that fire together.
    pub cofiring: CofiringReport,
    /// Families compared with clusters found without them, for decoder directions.
    pub agreement: AgreementReport,
    /// Words of families within windows of 10 tokens of each other; none without tokens.
    pub topics: Option<TopicReport>,
    /// Words of families within one sequence; none without tokens.
    pub topics_of_sequences: Option<TopicReport>,
}

/// Measures the families of the model.
///
/// # Errors
/// If a weight is not finite.
pub fn coherence(encoder: &Encoder, tree: &Tree, text: Option<&Text>) -> Result<Coherence> {
    let (model, Compute { isa, par }) = (encoder.model(), Compute::new(encoder.isa(), Par::Rayon));
    let d = model.arch.d_out();
    let fires = tree.cofiring.fires();
    let families = Partition::families(&model.parents, fires);
    let of = |rows: &[f32], width: usize| geometry(Compute { isa, par }, rows, width, &families, fires, DRAWS);
    let ratios = tree.cofiring.ratios();
    let effective = effective_children(d, &model.params.level[0].w_dec, encoder.decoder2(), &model.parents, &ratios)?;
    let words = text.map(|t| TopWords::new(par, &t.topic, &families, DRAWS)).transpose()?;
    let topics = |of: fn(&Text) -> &Windows| text.zip(words.as_ref()).map(|(t, w)| w.report(of(t))).transpose();
    Ok(Coherence {
        decoder: of(encoder.decoder2(), d)?,
        effective: of(&effective, d)?,
        tokens: text.map(|t| of(&shares(&t.current.level2), t.current.level2.words())).transpose()?,
        cofiring: tree.cofiring.report(par, DRAWS),
        agreement: agreement(Compute { isa, par }, encoder.decoder2(), d, &families, fires, DRAWS)?,
        topics: topics(|t| &t.windows)?,
        topics_of_sequences: topics(|t| &t.sequences)?,
    })
}

/// Returns profiles as rows, `(latents, words)`; 0 for a latent that fires on no word.
fn shares(profiles: &Profiles) -> Vec<f32> {
    let mut q = vec![0.0; profiles.words()];
    let mut rows = Vec::with_capacity(profiles.latents() * profiles.words());
    for j in 0..profiles.latents() {
        profiles.profile(j, 0.0, &mut q);
        rows.extend(q.iter().map(|q| if q.is_nan() { 0.0 } else { *q as f32 }));
    }
    rows
}

/// Compares connected latents with random pairs. `unembedding` is that of the language model, where there is one.
///
/// # Errors
/// If sizes disagree.
pub fn similarity(
    encoder: &Encoder,
    text: Option<&Text>,
    fires: (&[u64], &[u64]),
    unembedding: Option<&[f32]>,
) -> Result<SimilarityReport> {
    let model = encoder.model();
    let params = &model.params;
    let edges = model.parents.iter().filter(|p| **p != ROOT).count();
    let inputs = Inputs {
        d: model.arch.d_out(),
        decoder1: &params.level[0].w_dec,
        decoder2: encoder.decoder2(),
        encoders: model.arch.source.is_parallel().then(|| (&params.level[0].w_enc[..], &params.level[1].w_enc[..])),
        unembedding,
        current: text.map(|t| t.current.levels()),
        previous: text.map(|t| t.previous.levels()),
        next: text.map(|t| t.next.levels()),
        parent: &model.parents,
        fires,
    };
    let n = (MATCHED_PAIRS / edges.max(1)).clamp(1, DRAWS.n);
    Ok(similarity::similarity(Compute::new(encoder.isa(), Par::Rayon), &inputs, Draws { n, ..DRAWS })?)
}

impl LevelProfiles {
    fn levels(&self) -> Levels<'_> {
        Levels { level1: &self.level1, level2: &self.level2 }
    }
}

/// Measures the structure of the decoders.
///
/// # Errors
/// If a weight is not finite.
pub fn structure(encoder: &Encoder, tree: Option<&Tree>) -> Result<StructureReport> {
    let model = encoder.model();
    let (d, level1) = (model.arch.d_out(), &model.params.level[0].w_dec);
    let effective =
        tree.map(|t| effective_children(d, level1, encoder.decoder2(), &model.parents, &t.cofiring.ratios()));
    let effective = effective.transpose()?;
    let decoders =
        Decoders { d, level1, level2: encoder.decoder2(), parent: &model.parents, effective: effective.as_deref() };
    Ok(structure::structure(Compute::new(encoder.isa(), Par::Rayon), &decoders, STRUCTURE_DRAWS)?)
}

/// Measures the rows on which children fire.
///
/// # Errors
/// If a weight is not finite.
pub fn condition(encoder: &Encoder, tree: &Tree) -> Result<ConditionReport> {
    let level1 = &encoder.model().params.level[0].w_dec;
    Ok(tree.condition.report(Compute::new(encoder.isa(), Par::Rayon), level1, encoder.decoder2(), DRAWS)?)
}

/// Measures whether the directions that tell where children fire are those of the children and of their parents.
///
/// # Errors
/// If a weight is not finite.
pub fn hierarchy(encoder: &Encoder, sampled: &Sampled, seed: u64) -> Result<Option<HierarchyReport>> {
    let model = encoder.model();
    let (decoder, codes) = (both_decoders(encoder), sampled.open.as_ref().unwrap_or(&sampled.codes[2]));
    let codes = codes.view(model.arch.latents().iter().sum())?;
    let ungated = Dictionary { codes, ..dictionary(sampled, encoder, &decoder)? };
    Ok(hierarchy::hierarchy(Compute::new(encoder.isa(), Par::Rayon), &ungated, &model.parents, seed)?)
}

/// Measures the paths of a decoder that composes level 1.
///
/// # Errors
/// If a weight is not finite.
pub fn paths(encoder: &Encoder) -> Result<Option<PathReport>> {
    let model = encoder.model();
    let (d, decoder) = (model.arch.d_out(), model.arch.decoder);
    let [f1, f2] = model.arch.latents();
    if f2 == 0 || !decoder.is_composed() {
        return Ok(None);
    }
    Ok(Some(attribution::paths(Par::Rayon, &model.params.level[1].w_dec, &model.params.level[0].w_dec, f1, d)?))
}

/// Measures how far another run of the same width has found the same dictionary and tree.
///
/// # Errors
/// If a weight is not finite.
pub fn stability(encoder: &Encoder, other: &Encoder) -> Result<StabilityReport> {
    let parents = |e: &Encoder| {
        let parents = &e.model().parents;
        if parents.is_empty() { vec![ROOT; e.model().arch.level[1].latents] } else { parents.clone() }
    };
    let (mine, theirs) = (parents(encoder), parents(other));
    let this = stability::Run {
        decoder1: &encoder.model().params.level[0].w_dec,
        decoder2: encoder.decoder2(),
        parent: &mine,
    };
    let other =
        stability::Run { decoder1: &other.model().params.level[0].w_dec, decoder2: other.decoder2(), parent: &theirs };
    Ok(stability::stability(Compute::new(encoder.isa(), Par::Rayon), &this, &other, encoder.model().arch.d_out())?)
}
