//! The documents of a text: a file, JSON lines, a column of a Parquet file, or a directory of these, read one at a time.

#[cfg_attr(not(feature = "parquet"), path = "corpus/no_parquet.rs")]
mod parquet;

use std::borrow::Cow;
use std::fs;
use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use strata_core::rng::Philox;

use crate::files::{io_error, read};

/// Most bytes of a document in a file of JSON lines.
const LINE_BYTES: u64 = 1 << 30;
/// Begins a UTF-8 file of some editors, and is no part of its text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Files that are texts, of a directory.
const TEXTS: [&str; 4] = ["txt", "text", "md", "rst"];
/// Files that have a document in each line.
const LINES: [&str; 2] = ["jsonl", "ndjson"];
/// Files that have a document in each row.
const ROWS: &str = "parquet";

/// A text that is one document, or many.
pub struct Corpus {
    files: Vec<TextFile>,
    /// A text in memory.
    embedded: Option<Cow<'static, str>>,
    /// Where each document begins (byte, or row), in the order in which they are read; none in the order of the files.
    order: Option<Vec<(usize, u64)>>,
}

struct TextFile {
    path: PathBuf,
    bytes: u64,
    kind: Kind,
}

/// How a file holds documents.
enum Kind {
    /// It is one.
    Whole,
    /// One per line of JSON, in this field.
    Lines(String),
    /// One per row, in this column.
    Rows(String),
}

/// A document.
pub struct Document<'a> {
    /// Its text, in UTF-8.
    pub text: Box<dyn Read + 'a>,
    /// What errors call it; empty for a text in memory.
    pub name: String,
}

impl Corpus {
    /// Returns a text in memory as one document.
    pub fn of(text: impl Into<Cow<'static, str>>) -> Self {
        Self { files: Vec::new(), embedded: Some(text.into()), order: None }
    }

    /// Finds the documents of `path`: a file is one document; in JSON lines (`.jsonl`, `.ndjson`, or any file with a `field`)
    /// there is one per line, in the field of that name, `text` by default; in Parquet files one per row, in the column of that
    /// name; a directory has those of its files in the order of their paths. With a `seed` the documents are shuffled.
    ///
    /// # Errors
    /// One sentence with the path.
    pub fn open(path: &Path, field: Option<&str>, seed: Option<u64>) -> Result<Self> {
        let mut paths = Vec::new();
        if path.is_dir() {
            walk(path, &mut paths)?;
            paths.sort();
            ensure!(
                !paths.is_empty(),
                "reading `{}`: expected files ending in .{}, found none",
                path.display(),
                [&TEXTS[..], &LINES, &[ROWS]].concat().join(", .")
            );
        } else {
            paths.push(path.to_owned());
        }
        let is_directory = path.is_dir();
        let mut files = Vec::new();
        for path in paths {
            let file = read::open(&path)?;
            let mut bytes = file.metadata().map_err(|e| io_error("reading", &path, &e))?.len();
            let (end, column) = (extension(&path), field.unwrap_or("text").to_owned());
            let kind = if end == ROWS {
                bytes = parquet::Documents::open(&path, &column)?.n_bytes();
                Kind::Rows(column)
            } else if LINES.contains(&end.as_str()) || (field.is_some() && !is_directory) {
                Kind::Lines(column)
            } else {
                Kind::Whole
            };
            files.push(TextFile { path, bytes, kind });
        }
        let mut corpus = Self { files, embedded: None, order: None };
        if let Some(seed) = seed {
            let mut places = corpus.places()?;
            Philox::new(seed, 0).shuffle(&mut places);
            corpus.order = Some(places);
        }
        Ok(corpus)
    }

    /// Returns the bytes of all texts, with the syntax around them.
    pub fn n_bytes(&self) -> u64 {
        self.embedded.as_ref().map_or(0, |text| text.len() as u64) + self.files.iter().map(|f| f.bytes).sum::<u64>()
    }

    /// Returns the documents in order.
    pub fn documents(&self) -> Box<dyn Iterator<Item = Result<Document<'_>>> + '_> {
        if let Some(text) = &self.embedded {
            let text = Box::new(Cursor::new(text.as_bytes()));
            return Box::new(std::iter::once(Ok(Document { text, name: String::new() })));
        }
        match &self.order {
            Some(order) => Box::new(order.iter().map(|(file, at)| self.files[*file].document_at(*at))),
            None => Box::new(self.files.iter().flat_map(TextFile::documents)),
        }
    }

    /// Returns where each document begins.
    fn places(&self) -> Result<Vec<(usize, u64)>> {
        let mut places = Vec::new();
        for (i, file) in self.files.iter().enumerate() {
            match &file.kind {
                Kind::Whole => places.push((i, 0)),
                Kind::Rows(column) => {
                    places.extend((0..parquet::Documents::open(&file.path, column)?.n_rows()?).map(|row| (i, row)));
                }
                Kind::Lines(_) => {
                    let mut lines = Lines::open(file)?;
                    while let Some((at, line)) = lines.next_line()? {
                        if !line.trim_ascii().is_empty() {
                            places.push((i, at));
                        }
                    }
                }
            }
        }
        Ok(places)
    }
}

impl TextFile {
    fn documents(&self) -> Box<dyn Iterator<Item = Result<Document<'_>>> + '_> {
        match &self.kind {
            Kind::Whole => Box::new(std::iter::once(self.document_at(0))),
            Kind::Lines(field) => match Lines::open(self) {
                Ok(mut lines) => Box::new(std::iter::from_fn(move || {
                    loop {
                        match lines.next_line() {
                            Ok(None) => return None,
                            Ok(Some((_, line))) if line.trim_ascii().is_empty() => {}
                            Ok(Some((at, line))) => return Some(self.of_line(&line, at, field)),
                            Err(error) => return Some(Err(error)),
                        }
                    }
                })),
                Err(error) => Box::new(std::iter::once(Err(error))),
            },
            Kind::Rows(column) => match parquet::Documents::open(&self.path, column) {
                Ok(mut rows) => Box::new(std::iter::from_fn(move || {
                    rows.next_text().map(|found| found.map(|(row, text)| self.of_row(row, text))).transpose()
                })),
                Err(error) => Box::new(std::iter::once(Err(error))),
            },
        }
    }

    /// Returns the document that begins at a byte, or in a row.
    fn document_at(&self, at: u64) -> Result<Document<'_>> {
        match &self.kind {
            Kind::Whole => {
                let mut text = BufReader::new(read::open(&self.path)?);
                let head = text.fill_buf().map_err(|e| io_error("reading", &self.path, &e))?;
                if head.starts_with(BYTE_ORDER_MARK) {
                    text.consume(BYTE_ORDER_MARK.len());
                }
                let text = Box::new(text);
                Ok(Document { text, name: format!("`{}`", self.path.display()) })
            }
            Kind::Lines(field) => {
                let mut lines = Lines::open(self)?;
                lines.skip_to(at)?;
                let (_, line) = lines.next_line()?.context("the file became shorter")?;
                self.of_line(&line, at, field)
            }
            Kind::Rows(column) => {
                let mut rows = parquet::Documents::open(&self.path, column)?;
                rows.skip_to(at)?;
                let (row, text) = rows.next_text()?.context("the file became shorter")?;
                Ok(self.of_row(row, text))
            }
        }
    }

    /// Returns the document of a row.
    fn of_row(&self, row: u64, text: String) -> Document<'_> {
        Document {
            text: Box::new(Cursor::new(text.into_bytes())),
            name: format!("`{}`: row {row}", self.path.display()),
        }
    }

    /// Returns the document of a line of JSON that begins at byte `at`.
    fn of_line(&self, line: &[u8], at: u64, field: &str) -> Result<Document<'_>> {
        let place = || format!("reading `{}`: the line at byte {at}", self.path.display());
        let v: Value = serde_json::from_slice(line).with_context(|| format!("{}: expected JSON", place()))?;
        let Value::Object(mut object) = v else { bail!("{}: expected an object, found {v}", place()) };
        match object.remove(field) {
            Some(Value::String(text)) => Ok(Document {
                text: Box::new(Cursor::new(text.into_bytes())),
                name: place().replacen("reading ", "", 1),
            }),
            found => {
                let fields: Vec<&str> = object.keys().map(String::as_str).collect();
                bail!(
                    "{}: expected a text in the field \"{field}\", found {} (the others are {}); name it with --field",
                    place(),
                    found.map_or("nothing".into(), |v| v.to_string().chars().take(40).collect::<String>()),
                    fields.join(", ")
                )
            }
        }
    }
}

/// The lines of a file, and where they begin.
struct Lines<'a> {
    file: &'a TextFile,
    bytes: BufReader<fs::File>,
    at: u64,
}

impl<'a> Lines<'a> {
    fn open(file: &'a TextFile) -> Result<Self> {
        Ok(Self { file, bytes: BufReader::new(read::open(&file.path)?), at: 0 })
    }

    fn skip_to(&mut self, at: u64) -> Result<()> {
        self.bytes.seek(SeekFrom::Start(at)).map_err(|e| io_error("reading", &self.file.path, &e))?;
        self.at = at;
        Ok(())
    }

    fn next_line(&mut self) -> Result<Option<(u64, Vec<u8>)>> {
        let (mut line, path) = (Vec::new(), &self.file.path);
        let n = (&mut self.bytes)
            .take(LINE_BYTES)
            .read_until(b'\n', &mut line)
            .map_err(|e| io_error("reading", path, &e))?;
        let at = self.at;
        self.at += n as u64;
        ensure!(
            (n as u64) < LINE_BYTES,
            "reading `{}`: the line at byte {at} has {LINE_BYTES} bytes or more",
            path.display()
        );
        if at == 0 && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        Ok((n > 0).then_some((at, line)))
    }
}

fn extension(path: &Path) -> String {
    path.extension().map_or_else(String::new, |e| e.to_string_lossy().to_lowercase())
}

/// Finds the files of texts below a directory; those whose names begin with a dot are left out.
fn walk(directory: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(|e| io_error("reading", directory, &e))? {
        let entry = entry.map_err(|e| io_error("reading", directory, &e))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(|e| io_error("reading", directory, &e))?);
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let end = extension(&path);
        if kind.is_dir() {
            walk(&path, into)?;
        } else if TEXTS.contains(&end.as_str()) || LINES.contains(&end.as_str()) || end == ROWS {
            into.push(path);
        }
    }
    Ok(())
}
