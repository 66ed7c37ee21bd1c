//! The parts of a dump as the reader of a format finds them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::names::directory_name;
use super::numbers::Numbers;
use super::shard::Shard;
use super::world::Drawn;
use crate::escape::escaped;

/// The parts of a dump.
#[derive(Debug)]
pub(super) struct Parts {
    /// The name of the directory or file.
    pub(super) name: String,
    /// In order, all of one width and type: at least one, or none where the rows are drawn.
    pub(super) shards: Vec<Shard>,
    /// A world whose rows are drawn when they are read.
    pub(super) drawn: Option<Drawn>,
    pub(super) tokens: Option<Numbers<u32>>,
    pub(super) sequence_starts: Option<Numbers<u64>>,
    /// Rows per sequence, where all sequences have the same number.
    pub(super) context: Option<usize>,
    pub(super) vocab: Option<Vec<String>>,
    /// Special tokens, which are no text; none if they are not known.
    pub(super) special_tokens: Option<Vec<u32>>,
    pub(super) mean: Option<Vec<f32>>,
    pub(super) mean_norm: Option<f64>,
    pub(super) model: Option<String>,
    pub(super) hook: Option<String>,
    /// The directory of the other files of the dump.
    pub(super) directory: Option<PathBuf>,
}

impl Parts {
    /// Makes the parts of shards without further information.
    pub(super) fn new(name: String, shards: Vec<Shard>) -> Self {
        Self {
            name,
            shards,
            drawn: None,
            tokens: None,
            sequence_starts: None,
            context: None,
            vocab: None,
            special_tokens: None,
            mean: None,
            mean_norm: None,
            model: None,
            hook: None,
            directory: None,
        }
    }

    /// Makes the parts of the world in `directory`.
    pub(super) fn of_world(directory: &Path, drawn: Drawn) -> Self {
        let parts = Self::new(directory_name(directory), Vec::new());
        Self { drawn: Some(drawn), directory: Some(directory.to_owned()), ..parts }
    }

    /// Sets the first row of every shard, and returns the number of rows of all.
    pub(super) fn place(&mut self) -> Result<u64> {
        let mut n_rows = 0_u64;
        // The name is shown on terminals and written into files.
        self.name = escaped(&self.name);
        if let Some(drawn) = &self.drawn {
            return Ok(drawn.n_rows);
        }
        let (first, rest) = self.shards.split_first_mut().context("a dump: expected at least one file, found none")?;
        n_rows += first.n() as u64;
        for shard in rest {
            shard.expect("width", first.layout.d, shard.layout.d, &first.path)?;
            shard.expect("dtype", first.layout.dtype, shard.layout.dtype, &first.path)?;
            shard.first_row = n_rows;
            n_rows += shard.n() as u64;
        }
        ensure!(n_rows > 0, "`{}`: rows: expected at least 1, found 0", first.path.display());
        Ok(n_rows)
    }
}
