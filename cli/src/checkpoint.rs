//! Checkpoints: all state that a run needs to continue to the same bits, with a checksum.
//!
//! `checkpoints/step-000123/state.safetensors` holds the arrays of [`State`]; `state.sha256` is its SHA-256 in hex. A
//! checkpoint is written into a hidden directory and renamed, so that it appears whole or not at all; the last two are
//! kept.
//!
//! A training over several ranks writes a file of each rank, `state-0-of-3.safetensors` and so on: the rows of its latents,
//! and in that of the first rank all other arrays. `manifest.json` says whose rows are where, with the checksums. A
//! checkpoint of either kind is read by one process or by any number of ranks; each reads the rows that it needs.

mod shards;

pub use shards::{Loaded, Part, load_newest, load_part, save_over};

use crate::files::{self, PendingFile, io_error, read as input};
use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_core::train::{Array, State};

/// Number of checkpoints that are kept.
const KEEP: usize = 2;

/// Most bytes of the names and sizes of arrays.
const HEADER_BYTES: usize = 1 << 24;

/// Most bytes of the file with the checksum.
const SUM_BYTES: u64 = 1 << 10;

/// The arrays that may contain infinity: a limit of norms where outliers are kept.
const UNLIMITED: [&str; 2] = ["normalisation.scalars", "target.scalars"];

const STATE: &str = "state.safetensors";
const SUM: &str = "state.sha256";

/// Returns the SHA-256 of `bytes` in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes the checkpoint of `step` into `dir` and removes all but the last two.
///
/// # Errors
/// If it cannot be written; older checkpoints are then untouched.
pub fn save(dir: &Path, step: u64, state: &State) -> Result<()> {
    let name = format!("step-{step:09}");
    let (hidden, path) = (dir.join(format!(".{name}.tmp")), dir.join(&name));
    let publish = || -> io::Result<()> {
        if hidden.exists() {
            fs::remove_dir_all(&hidden)?;
        }
        fs::create_dir_all(&hidden)?;
        let sum = write(&hidden.join(STATE), state)?;
        write_text(&hidden.join(SUM), &format!("{sum}\n"))?;
        if path.exists() {
            retire(dir, &path)?;
        }
        fs::rename(&hidden, &path)
    };
    publish().map_err(|error| {
        let _ = fs::remove_dir_all(&hidden);
        io_error("writing the checkpoint", &path, &error)
    })?;
    files::sync_directory(dir)?;
    prune(dir)
}

/// Writes a small file and makes it last.
fn write_text(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Removes all checkpoints but the last two.
///
/// # Errors
/// If one cannot be removed.
pub fn prune(dir: &Path) -> Result<()> {
    for (_, old) in list(dir)?.iter().rev().skip(KEEP) {
        retire(dir, old).map_err(|e| io_error("removing the old checkpoint", old, &e))?;
    }
    Ok(())
}

/// Removes a checkpoint such that a kill in between leaves no half of it under its name.
fn retire(dir: &Path, path: &Path) -> io::Result<()> {
    let hidden = dir.join(format!(".{}.old.tmp", path.file_name().unwrap_or_default().to_string_lossy()));
    if hidden.exists() {
        fs::remove_dir_all(&hidden)?;
    }
    match fs::rename(path, &hidden) {
        Ok(()) => fs::remove_dir_all(&hidden),
        // In a container a directory of the image cannot be renamed. Without its checksum it counts as damaged.
        Err(e) if e.kind() == ErrorKind::CrossesDevices => {
            match fs::remove_file(path.join(SUM)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            fs::remove_dir_all(path)
        }
        Err(e) => Err(e),
    }
}

/// Returns the checkpoints in `dir`, by step.
///
/// # Errors
/// If the directory cannot be read; a missing one has no checkpoints.
pub fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    if dir.exists() {
        for entry in fs::read_dir(dir).map_err(|e| io_error("reading", dir, &e))? {
            let path = entry.map_err(|e| io_error("reading", dir, &e))?.path();
            let step = path
                .file_name()
                .and_then(|n| n.to_str())
                .and_then(|n| n.strip_prefix("step-"))
                .and_then(|n| n.parse().ok());
            if let Some(step) = step {
                found.push((step, path));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Removes checkpoints that are damaged.
///
/// # Errors
/// If one cannot be removed.
pub fn discard(dir: &Path, damaged: &[(PathBuf, String)]) -> Result<()> {
    damaged
        .iter()
        .try_for_each(|(path, _)| retire(dir, path).map_err(|e| io_error("removing the damaged checkpoint", path, &e)))
}

fn is_sum(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Lower-case hex of the SHA-256 of a file, which need not fit into memory.
fn sha256_of_file(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut input::open(path)?, &mut hash).map_err(|e| io_error("reading", path, &e))?;
    Ok(hex(hash.finalize().as_slice()))
}

/// Writes to a file and hashes what is written.
struct Hashing<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a file piece by piece, which appears when it is whole, and returns its SHA-256.
///
/// # Errors
/// Those of `write`, and one sentence with the path if it cannot be written.
pub(crate) fn write_hashed(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<String> {
    let pending = BufWriter::with_capacity(1 << 20, PendingFile::create(path)?);
    let mut out = Hashing { out: pending, hash: Sha256::new() };
    write(&mut out)?;
    let pending = out.out.into_inner().map_err(|e| io_error("writing", path, &e.into_error()))?;
    pending.finish()?;
    Ok(hex(out.hash.finalize().as_slice()))
}

/// Writes the arrays one after the other, without a copy of them in memory, and makes them last; returns the SHA-256 of
/// the file. Its permissions follow the umask, as those of every other file do.
fn write(path: &Path, state: &State) -> io::Result<String> {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, array) in &state.0 {
        let (dtype, n, bytes) = parts(array);
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": [n], "data_offsets": [end, end + bytes.len()] }));
        end += bytes.len();
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut out = Hashing { out: BufWriter::with_capacity(1 << 20, File::create_new(path)?), hash: Sha256::new() };
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    state.0.values().try_for_each(|array| out.write_all(parts(array).2))?;
    let file = out.out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(hex(out.hash.finalize().as_slice()))
}

/// The type, the number of numbers and the bytes of an array.
fn parts(array: &Array) -> (Dtype, usize, &[u8]) {
    match array {
        Array::F32(v) => (Dtype::F32, v.len(), bytemuck::cast_slice(v)),
        Array::F64(v) => (Dtype::F64, v.len(), bytemuck::cast_slice(v)),
        Array::U16(v) => (Dtype::U16, v.len(), bytemuck::cast_slice(v)),
        Array::U32(v) => (Dtype::U32, v.len(), bytemuck::cast_slice(v)),
        Array::U64(v) => (Dtype::U64, v.len(), bytemuck::cast_slice(v)),
    }
}

/// The arrays of a file, which are read one by one: the memory for them is that of what is read.
struct Arrays {
    file: File,
    header: Metadata,
    /// The position of the first array.
    start: u64,
}

impl Arrays {
    fn open(path: &Path) -> Result<Self> {
        let mut file = input::open(path)?;
        let [n_header] = numbers::<u64>(&mut file, 1)?[..] else { bail!("it ends before its header") };
        let n_header =
            usize::try_from(n_header).ok().filter(|n| *n <= HEADER_BYTES).context("its header has no end")?;
        let header: Metadata = serde_json::from_slice(&numbers::<u8>(&mut file, n_header)?)?;
        Ok(Self { file, header, start: 8 + n_header as u64 })
    }

    /// Returns the names of the arrays, in the order in which they lie in the file.
    fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Reads an array, or the numbers `range` of it.
    fn read(&mut self, name: &str, range: Option<Range<usize>>) -> Result<Array> {
        let info = self.header.info(name).with_context(|| format!("tensor `{name}`"))?;
        let len = info.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).unwrap_or(usize::MAX);
        let range = range.unwrap_or(0..len);
        ensure!(range.end <= len, "tensor `{name}`: expected {} numbers, found {len}", range.end);
        let (n, from) = (range.len(), info.data_offsets.0 as u64);
        let size = info.dtype.bitsize() as u64 / 8;
        let dtype = info.dtype;
        let file = &mut self.file;
        file.seek(SeekFrom::Start(
            self.start.saturating_add(from).saturating_add((range.start as u64).saturating_mul(size)),
        ))?;
        let array = match dtype {
            Dtype::F32 => Array::F32(numbers::<f32>(file, n)?.into()),
            Dtype::F64 => Array::F64(numbers(file, n)?),
            Dtype::U16 => Array::U16(Arc::new(numbers(file, n)?)),
            Dtype::U32 => Array::U32(numbers(file, n)?),
            Dtype::U64 => Array::U64(numbers(file, n)?),
            other => bail!("tensor `{name}` has the type {other:?}, which no checkpoint holds"),
        };
        // Training stops before any other number could get here that is not finite; one would never be moved again.
        let is_finite = match &array {
            Array::F32(v) => v.iter().all(|v| v.is_finite()),
            Array::F64(v) => v.iter().all(|v| v.is_finite()),
            _ => true,
        };
        ensure!(is_finite || UNLIMITED.contains(&name), "tensor `{name}`: expected finite numbers, found another");
        Ok(array)
    }
}

fn numbers<T: bytemuck::Pod>(file: &mut File, n: usize) -> Result<Vec<T>> {
    let there = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX) / size_of::<T>();
    ensure!(n <= there, "expected {n} numbers in an array, found room for {there} in the file");
    let mut numbers = Vec::new();
    numbers.try_reserve_exact(n).map_err(|_| anyhow!("out of memory: an array needs {} bytes", n * size_of::<T>()))?;
    numbers.resize(n, T::zeroed());
    file.read_exact(bytemuck::cast_slice_mut(&mut numbers))?;
    Ok(numbers)
}
