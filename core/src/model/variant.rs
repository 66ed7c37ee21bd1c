//! Differences of a model from an autoencoder that encodes `x - b_dec` and keeps every latent over its threshold.

use crate::row_norm::RowNorm;
use serde::{Deserialize, Serialize};

/// The quantity by which the latents of a topk level compete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TopkBy {
    /// The `k` largest positive pre-activations of a row fire.
    #[default]
    Value,
    /// The `k` pre-activations of a row that are the largest by absolute value fire, and latents may be below 0 (AbsTopK).
    Absolute,
    /// Of `k` groups of neighbours the largest pre-activation of each fires, if it is positive (GroupMax).
    Group,
}

/// Additions to encoding and the reconstruction. All of them are absent by default, and then not written to files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Variant {
    /// The normalisation of each row before the encoder, which is undone on the reconstruction.
    #[serde(skip_serializing_if = "is_default")]
    pub row_norm: RowNorm,
    /// The encoder reads `x` in place of `x - b_dec`.
    #[serde(skip_serializing_if = "is_default")]
    pub raw_input: bool,
    /// Width of the rows that a transcoder reconstructs in place of its input; none for an autoencoder.
    #[serde(skip_serializing_if = "is_default")]
    pub target: Option<usize>,
    /// `W_skip x` is added to the reconstruction.
    #[serde(skip_serializing_if = "is_default")]
    pub skip: bool,
    /// Latents of level 1 are multiplied by `level1.scale` in codes and reconstruction, but compete without it.
    #[serde(skip_serializing_if = "is_default")]
    pub scale: bool,
    /// The quantity by which latents of level 1 compete, if it is topk.
    #[serde(skip_serializing_if = "is_default")]
    pub topk_by: TopkBy,
    /// Of each level: an active latent stays only if its value by least squares, given all others, exceeds this share of its
    /// threshold (leave-one-out pruning). 0: every latent stays.
    #[serde(skip_serializing_if = "is_default")]
    pub prune: [f32; 2],
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Variant {
    /// Returns whether there are no differences.
    #[must_use]
    pub fn is_none(&self) -> bool {
        is_default(self)
    }

    /// Returns whether the reconstruction depends on the row itself and not on its codes alone.
    #[must_use]
    pub fn needs_input(&self) -> bool {
        self.skip || self.row_norm != RowNorm::None
    }
}
