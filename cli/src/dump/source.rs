//! What a dump is read from: paths, and what they do not say themselves.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strata_core::Dtype;

/// What a raw `.bin` file does not say itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawSpec {
    /// The type of the numbers.
    pub dtype: Dtype,
    /// Numbers in a row.
    pub dim: usize,
}

/// What to open as a dump.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// A directory, or files that are shards in this order.
    pub paths: Vec<PathBuf>,
    /// How to read raw files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<RawSpec>,
    /// A file with the token id of every row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<PathBuf>,
    /// A file with the text of every token id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab: Option<PathBuf>,
    /// Rows of a sequence, where all have as many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// A file with the first row of every sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<PathBuf>,
    /// Which layer, of a dump that holds several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
}

impl Source {
    /// These paths, with nothing said about them.
    pub fn new(paths: &[PathBuf]) -> Self {
        Self { paths: paths.to_vec(), ..Self::default() }
    }

    /// Every path of it changed by `f`.
    pub fn map_paths(&self, f: impl Fn(&Path) -> PathBuf) -> Self {
        let one = |path: &Option<PathBuf>| path.as_deref().map(&f);
        Self {
            paths: self.paths.iter().map(|p| f(p)).collect(),
            tokens: one(&self.tokens),
            vocab: one(&self.vocab),
            starts: one(&self.starts),
            ..self.clone()
        }
    }
}
