//! Writes a dump directory in bounded memory; it appears whole or not at all.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, ensure};
use strata_core::Rows;
use strata_core::format::dump::SHARD_HEADER;
use strata_core::format::dump_builder::{DumpBuilder, DumpFiles, DumpPart, Refusal};

pub use strata_core::format::dump_builder::DumpSpec;

use crate::files::{PendingDirectory, io_error};

/// A dump that has been written.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct DumpSummary {
    /// The directory.
    pub path: PathBuf,
    /// Rows of all shards.
    pub n_rows: u64,
    /// Files with rows.
    pub n_shards: usize,
    /// Bytes of all rows.
    pub n_bytes: u64,
    /// `mean_i ||x_i||` of the rows as stored; none where no rows are.
    pub mean_norm: Option<f64>,
}

/// Writes a dump. Until [`DumpWriter::finish`] everything is in a hidden directory beside `path`; dropping the writer
/// removes it.
#[derive(Debug)]
pub struct DumpWriter {
    files: Directory,
    builder: DumpBuilder,
}

/// The directory of a dump that is being written.
#[derive(Debug)]
struct Directory {
    /// The path of the finished dump.
    path: PathBuf,
    /// The open file of each [`DumpPart`]. It is closed before the directory is removed: some operating systems do not
    /// delete open files.
    open: [Option<(PathBuf, File)>; 2],
    directory: PendingDirectory,
}

impl Directory {
    fn create_beside(path: &Path) -> Result<Self> {
        let directory = PendingDirectory::create(path)?;
        Ok(Self { path: path.to_owned(), directory, open: [None, None] })
    }

    /// Calls `f` with the open file of `part`, and adds the path to its error.
    fn with(&mut self, part: DumpPart, f: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
        let (path, file) = self.open[part as usize].as_mut().expect("the builder writes to files that it has created");
        f(file).map_err(|e| io_error("writing", path, &e))
    }
}

impl DumpFiles for Directory {
    type Error = Error;

    fn create(&mut self, part: DumpPart, name: &str) -> Result<()> {
        let path = self.directory.hidden().join(name);
        let file = File::create_new(&path).map_err(|e| io_error("writing", &path, &e))?;
        self.open[part as usize] = Some((path, file));
        self.write(part, &[0; SHARD_HEADER])
    }

    fn write(&mut self, part: DumpPart, bytes: &[u8]) -> Result<()> {
        self.with(part, |file| file.write_all(bytes))
    }

    fn close(&mut self, part: DumpPart, header: &[u8]) -> Result<()> {
        self.with(part, |file| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(header)?;
            file.sync_all()
        })?;
        self.open[part as usize] = None;
        Ok(())
    }

    fn write_whole(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.directory.hidden().join(name);
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|e| io_error("writing", &path, &e))
    }

    fn refuse(&self, why: Refusal) -> Error {
        anyhow!("writing `{}`: {why}", self.path.display())
    }
}

impl DumpWriter {
    /// Starts the dump that will be at `path`.
    ///
    /// # Errors
    /// If `path` exists, if its parent does not, or if the specification makes no sense.
    pub fn create(path: &Path, spec: DumpSpec) -> Result<Self> {
        let mut files = Directory::create_beside(path)?;
        let builder = DumpBuilder::new(spec, &mut files)?;
        Ok(Self { files, builder })
    }

    /// Returns the number of rows appended so far.
    pub fn n_rows(&self) -> u64 {
        self.builder.n_rows()
    }

    /// Declares that the next row starts a sequence. Not needed where all sequences have `context` rows.
    pub fn start_sequence(&mut self) {
        self.builder.start_sequence();
    }

    /// Adds ids to the special tokens of the dump.
    pub fn mark_special(&mut self, ids: &[u32]) {
        self.builder.mark_special(ids);
    }

    /// Appends `rows`, `(n, d)`, and the token id of each. Either every call gives tokens or none does.
    ///
    /// # Errors
    /// For a number that is not finite or tokens that do not match, after which the dump is unchanged. For a number
    /// beyond the range of the stored type or a file that cannot be written, after which nothing more can be appended
    /// and the dump cannot be finished.
    pub fn append(&mut self, rows: &[f32], tokens: Option<&[u32]>) -> Result<()> {
        let (d, path) = (self.builder.d(), self.files.path.display());
        ensure!(rows.len().is_multiple_of(d), "writing `{path}`: expected rows of {d}, found {} numbers", rows.len());
        let rows = Rows::from_f32(rows, d)?;
        self.builder.append([rows].into_iter(), tokens, &mut self.files)
    }

    /// Adds another file to the directory. Readers of dumps ignore it.
    ///
    /// # Errors
    /// If there is a file of that name, or it cannot be written.
    pub fn attach(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.files.write_whole(name, bytes)
    }

    /// Writes buffered data, makes the files durable, and gives the directory its name.
    ///
    /// # Errors
    /// If no row was appended, if an append failed, or if a file cannot be written; `path` then does not exist.
    pub fn finish(self) -> Result<DumpSummary> {
        let Self { mut files, mut builder } = self;
        let manifest = builder.finish(&mut files)?;
        files.directory.finish()?;
        Ok(DumpSummary {
            path: files.path,
            n_rows: manifest.rows,
            n_shards: manifest.shards.len(),
            n_bytes: manifest.rows * (manifest.d * manifest.dtype.size_bytes()) as u64,
            mean_norm: manifest.stats.as_ref().map(|stats| stats.mean_norm),
        })
    }
}
