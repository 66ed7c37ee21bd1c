//! The documents of a column of a Parquet file, a few at a time.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::files::read;

/// Documents that are read together.
const TOGETHER: usize = 64;
/// Most rows of a file.
const ROWS: u64 = 1 << 40;

/// The documents of a file, from the first one or another.
pub struct Documents {
    path: PathBuf,
    field: String,
    file: SerializedFileReader<File>,
    /// The number of the column.
    column: usize,
    /// The row group that comes next, and the column of the one that is being read.
    group: usize,
    open: Option<ColumnReader>,
    /// Documents that were read, the next one last; none where the column has no value.
    ready: Vec<Option<ByteArray>>,
    /// The row of the next document.
    row: u64,
}

impl Documents {
    /// Opens the column `field` of the file.
    ///
    /// # Errors
    /// One sentence with the path: a file that is not Parquet, or without such a column of texts.
    pub fn open(path: &Path, field: &str) -> Result<Self> {
        let fail = |e| anyhow!("reading `{}`: {e}", path.display());
        let file = SerializedFileReader::new(read::open(path)?).map_err(fail)?;
        let columns = file.metadata().file_metadata().schema_descr().columns();
        let texts = |c: &&parquet::schema::types::ColumnDescPtr| {
            c.physical_type() == parquet::basic::Type::BYTE_ARRAY && c.max_rep_level() == 0
        };
        let Some(column) = columns.iter().position(|c| c.path().string() == field && texts(&c)) else {
            let known: Vec<String> = columns.iter().filter(texts).map(|c| c.path().string()).collect();
            bail!(
                "reading `{}`: expected a column \"{field}\" of texts, found {}; name it with --field",
                path.display(),
                if known.is_empty() { "none of any name".into() } else { known.join(", ") }
            );
        };
        let (path, field) = (path.to_owned(), field.to_owned());
        Ok(Self { path, field, file, column, group: 0, open: None, ready: Vec::new(), row: 0 })
    }

    /// Returns the number of rows.
    ///
    /// # Errors
    /// A count that no file can have.
    pub fn n_rows(&self) -> Result<u64> {
        let n = self.file.metadata().file_metadata().num_rows();
        match u64::try_from(n) {
            Ok(rows) if rows <= ROWS => Ok(rows),
            _ => bail!("reading `{}`: expected a number of rows, found {n}", self.path.display()),
        }
    }

    /// Returns the bytes of the column, not compressed.
    pub fn n_bytes(&self) -> u64 {
        let groups = self.file.metadata().row_groups();
        groups.iter().map(|g| u64::try_from(g.column(self.column).uncompressed_size()).unwrap_or(0)).sum()
    }

    /// Goes to a row, at most the one after the last.
    ///
    /// # Errors
    /// One sentence with the path.
    pub fn skip_to(&mut self, row: u64) -> Result<()> {
        let (mut group, mut before) = (0, 0_u64);
        let groups = self.file.metadata().row_groups();
        while let Some(rows) = groups.get(group).map(|g| u64::try_from(g.num_rows()).unwrap_or(0)) {
            if row < before + rows {
                break;
            }
            (group, before) = (group + 1, before + rows);
        }
        (self.group, self.open, self.row) = (group, None, row);
        self.ready.clear();
        if row > before && self.next_group()? {
            let n = usize::try_from(row - before)?;
            let skipped = match self.open.as_mut() {
                Some(ColumnReader::ByteArrayColumnReader(column)) => column.skip_records(n),
                _ => Ok(0),
            };
            let skipped = skipped.map_err(|e| self.failed(&e))?;
            ensure!(skipped == n, "reading `{}`: row {row} is missing", self.path.display());
        }
        Ok(())
    }

    /// Returns the row and the text of the next document; none after the last.
    ///
    /// # Errors
    /// One sentence with path and row: a file that is damaged, a row without a text, or one that is no UTF-8.
    pub fn next_text(&mut self) -> Result<Option<(u64, String)>> {
        while self.ready.is_empty() {
            if self.open.is_none() && !self.next_group()? {
                return Ok(None);
            }
            if !self.read_some()? {
                self.open = None;
            }
        }
        let (row, path) = (self.row, self.path.display());
        self.row += 1;
        let Some(text) = self.ready.pop().flatten() else {
            bail!("reading `{path}`: expected a text in the column \"{}\" of row {row}, found none", self.field);
        };
        match String::from_utf8(text.data().to_vec()) {
            Ok(text) => Ok(Some((row, text))),
            Err(_) => bail!("reading `{path}`: the column \"{}\" of row {row} is not UTF-8", self.field),
        }
    }

    /// Opens the next row group; false after the last.
    fn next_group(&mut self) -> Result<bool> {
        if self.group == self.file.num_row_groups() {
            return Ok(false);
        }
        let column = self.file.get_row_group(self.group).and_then(|g| g.get_column_reader(self.column));
        self.open = Some(column.map_err(|e| self.failed(&e))?);
        self.group += 1;
        Ok(true)
    }

    /// Reads some documents of the open row group; false at its end.
    fn read_some(&mut self) -> Result<bool> {
        let Some(ColumnReader::ByteArrayColumnReader(column)) = &mut self.open else { return Ok(false) };
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let read = column.read_records(TOGETHER, Some(&mut levels), None, &mut values);
        let (records, _, _) = read.map_err(|e| self.failed(&e))?;
        let columns = self.file.metadata().file_metadata().schema_descr();
        let full = columns.column(self.column).max_def_level();
        let mut values = values.into_iter();
        let present = |i: usize| full == 0 || levels.get(i) == Some(&full);
        self.ready = (0..records).map(|i| if present(i) { values.next() } else { None }).collect();
        self.ready.reverse();
        Ok(records > 0)
    }

    fn failed(&self, error: &parquet::errors::ParquetError) -> anyhow::Error {
        anyhow!("reading `{}`: {error}", self.path.display())
    }
}
