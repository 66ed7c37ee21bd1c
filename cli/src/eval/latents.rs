//! `RUN/latents.jsonl`: a line a latent, everything that a person wants to see of it.

use serde::{Deserialize, Serialize};

/// One latent, as a line of `latents.jsonl`: level 1 first, each level in the order of its latents, every latent that
/// the model has. What is undefined or not known (a dump without tokens, a flat model) is null or empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatentRecord {
    /// 1 for parents, 2 for children.
    pub level: u8,
    /// Its index in its level.
    pub latent: u32,
    /// Of a child: its parent in level 1, null under ROOT or without families.
    pub parent: Option<u32>,
    /// Of a parent: its children in level 2, those that fire most first.
    pub children: Vec<u32>,
    /// Evaluated tokens on which it fires.
    pub fires: u64,
    /// `fires / tokens`.
    pub density: f64,
    /// Mean activation over the tokens on which it fires.
    pub mean: Option<f64>,
    /// Largest activation.
    pub max: Option<f64>,
    /// Of a child: `P(parent | child)`.
    pub containment: Option<f64>,
    /// Of a child: lift of the edge to its parent.
    pub lift: Option<f64>,
    /// Of a child: by how much the squared error grows if it is removed alone, over the squared error of level 2. Below
    /// 0: it harms.
    pub gain: Option<f64>,
    /// Of a parent: `P(some child | parent)`.
    pub coverage: Option<f64>,
    /// Of a parent: `P(exactly one child | at least one)`.
    pub exclusivity: Option<f64>,
    /// The tokens with the largest shares of its activation, and the shares; largest first.
    pub tokens: Vec<(String, f64)>,
    /// The tokens whose logits its decoder direction raises most, and by how much for an activation of 1; largest first.
    pub promotes: Vec<(String, f64)>,
    /// The tokens whose logits it lowers most; lowest first.
    pub suppresses: Vec<(String, f64)>,
    /// Latents of either level with the nearest decoder directions: level, latent, cosine; nearest first.
    pub neighbours: Vec<(u8, u32, f64)>,
    /// Where it fires most strongly, at most one place a sequence; strongest first.
    pub contexts: Vec<Context>,
}

/// One place where a latent fires.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// Row of the dump.
    pub row: u64,
    /// The place of that row in `values`, and in `tokens` if the dump has any.
    pub peak: usize,
    /// Activations of the latent on the rows around, of the same sequence.
    pub values: Vec<f32>,
    /// The text of those rows; empty if the dump has no tokens.
    pub tokens: Vec<String>,
}
