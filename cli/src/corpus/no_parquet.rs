//! Builds without the feature `parquet` say how to read such files.

use std::convert::Infallible;
use std::path::Path;

use anyhow::{Result, bail};

/// The documents of a file; none can be opened.
pub struct Documents(Infallible);

impl Documents {
    /// Refuses the file.
    ///
    /// # Errors
    /// Always: what to do.
    pub fn open(path: &Path, _field: &str) -> Result<Self> {
        bail!(
            "reading `{}`: this build does not read Parquet: install it with `cargo install --path cli --features parquet`, \
             or write JSON lines, in Python: `import pandas as pd; pd.read_parquet(\"IN\").to_json(\"OUT.jsonl\", \
             orient=\"records\", lines=True)`",
            path.display()
        )
    }

    /// Returns the number of rows.
    ///
    /// # Errors
    /// None.
    pub fn n_rows(&self) -> Result<u64> {
        match self.0 {}
    }

    /// Returns the bytes of the column.
    pub fn n_bytes(&self) -> u64 {
        match self.0 {}
    }

    /// Goes to a row.
    ///
    /// # Errors
    /// None.
    pub fn skip_to(&mut self, _row: u64) -> Result<()> {
        match self.0 {}
    }

    /// Returns the next document.
    ///
    /// # Errors
    /// None.
    pub fn next_text(&mut self) -> Result<Option<(u64, String)>> {
        match self.0 {}
    }
}
