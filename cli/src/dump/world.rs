//! The description of a synthetic world beside its rows, and rows that are drawn from it whenever they are read.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use strata_core::synth::{World, WorldConfig};

use crate::files::read;

/// The description of a world beside its rows.
pub(crate) const DESCRIPTION: &str = "truth.json";
/// The format of [`DESCRIPTION`].
const FORMAT: &str = "strata-truth";
/// Rows that are drawn at a time.
const PIECE: usize = 256;

/// `truth.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    format: String,
    version: u32,
    /// Rows of the dump.
    pub(crate) rows: u64,
    /// First row whose magnitudes are stored, and their number.
    pub(crate) stored: [u64; 2],
    /// The world.
    pub(crate) world: WorldConfig,
}

impl Description {
    /// Describes `rows` rows of `world`, with the magnitudes of the rows `stored` beside it.
    pub(crate) fn new(world: &World, rows: u64, stored: Range<u64>) -> Self {
        let stored = [stored.start, stored.end - stored.start];
        Self { format: FORMAT.into(), version: 1, rows, stored, world: world.config().clone() }
    }

    /// Reads the description at `path`.
    ///
    /// # Errors
    /// One sentence if it is damaged or of another version.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let found: Self = read::json(path, read::SMALL)?;
        ensure!(
            found.format == FORMAT && found.version == 1,
            "{}: expected {FORMAT} of version 1, found {} of version {}",
            path.display(),
            found.format,
            found.version
        );
        Ok(found)
    }
}

/// Rows that are drawn when they are read.
#[derive(Debug)]
pub(super) struct Drawn {
    /// The world.
    world: World,
    /// Number of rows.
    pub(super) n_rows: u64,
    /// The file that describes it.
    pub(super) path: PathBuf,
}

impl Drawn {
    /// Opens the world that the file at `path` describes.
    ///
    /// # Errors
    /// As [`Description::read`]; for constants that make no world; if it has no rows.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let found = Description::read(&path)?;
        let world = World::new(&found.world).with_context(|| path.display().to_string())?;
        ensure!(found.rows > 0, "`{}`: rows: expected at least 1, found 0", path.display());
        Ok(Self { world, n_rows: found.rows, path })
    }

    /// Returns the width of a row.
    pub(super) fn d(&self) -> usize {
        self.world.config().d
    }

    /// Returns the constants of the world, which say what every row is.
    pub(super) fn config(&self) -> &WorldConfig {
        self.world.config()
    }

    /// Draws rows `start..start + n` into `out`, `[n, d]`.
    pub(super) fn rows(&self, start: u64, n: usize, out: &mut [f32]) {
        self.world.sample(start, n, out, None);
    }

    /// Calls `f` with the rows `start..start + n` in order, a few at a time, and the first of them.
    pub(super) fn pieces(&self, start: u64, n: usize, mut f: impl FnMut(u64, &[f32]) -> Result<()>) -> Result<()> {
        let mut piece = vec![0.0; n.min(PIECE) * self.d()];
        for at in (0..n).step_by(PIECE) {
            let piece = &mut piece[..(n - at).min(PIECE) * self.d()];
            let first = start + at as u64;
            self.rows(first, piece.len() / self.d(), piece);
            f(first, piece)?;
        }
        Ok(())
    }
}
