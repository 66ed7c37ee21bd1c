//! The source of a dump: paths, and information that the files do not have.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strata_core::Dtype;

/// The layout of a raw `.bin` file, which has no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawSpec {
    /// The type of the numbers.
    pub dtype: Dtype,
    /// Width of a row.
    pub dim: usize,
}

/// A dump to open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// A directory, or files, which are shards in this order.
    pub paths: Vec<PathBuf>,
    /// The layout of raw files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<RawSpec>,
    /// A file with the token id of every row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<PathBuf>,
    /// A file with the text of every token id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab: Option<PathBuf>,
    /// Rows per sequence, where all sequences have the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// A file with the first row of every sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<PathBuf>,
    /// The layer, for a dump that has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
}

impl Source {
    /// Makes the source of these paths, with no further information.
    pub fn new(paths: &[PathBuf]) -> Self {
        Self { paths: paths.to_vec(), ..Self::default() }
    }

    /// Returns the source with every path changed by `f`.
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
