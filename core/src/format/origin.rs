//! The origin of a model.

use crate::row_rule::RowRule;
use alloc::string::String;
use serde::{Deserialize, Serialize};

/// The origin of a model, and the rows that it was trained on. Nothing here changes what it computes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// The language model whose activations it was trained on.
    pub model: Option<String>,
    /// The hook point in it.
    pub hook: Option<String>,
    /// Tokens per sequence.
    pub context: Option<u64>,
    /// The name of the dump.
    pub dump: Option<String>,
    /// Training steps.
    pub steps: u64,
    /// Rows used in training.
    pub rows: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Number of passes of training over its rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passes: Option<f64>,
    /// Rows that training left out, and that every evaluation leaves out of its scores.
    #[serde(skip_serializing_if = "RowRule::keeps_all")]
    pub left_out: RowRule,
}

/// Returns the layer of a hook point: the number between its points or underscores, as in `blocks.3.hook_resid_post`,
/// or behind a word for a layer, as in `resid_post_layer3`.
pub fn layer_of(hook: Option<&str>) -> Option<u64> {
    let parts = || hook.unwrap_or_default().split(|c: char| !c.is_ascii_alphanumeric());
    let behind_a_word = |part: &str| {
        let words = ["layers", "layer", "blocks", "block", "h", "l"];
        let part = part.to_ascii_lowercase();
        words.iter().find_map(|word| part.strip_prefix(word)?.parse().ok())
    };
    parts().find_map(|part| part.parse().ok()).or_else(|| parts().find_map(behind_a_word))
}
