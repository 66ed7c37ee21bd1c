//! Checkpoints: all state that a run needs to continue to the same bits, with a checksum.
//!
//! `checkpoints/step-000123/state.safetensors` holds the arrays of [`State`]; `state.sha256` is its SHA-256 in hex. A
//! checkpoint is written into a hidden directory and renamed, so that it appears whole or not at all; the last two are
//! kept.

use crate::files::{self, io_error, read as input};
use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
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
        let mut file = File::create_new(hidden.join(SUM))?;
        file.write_all(format!("{sum}\n").as_bytes())?;
        file.sync_all()?;
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

/// A checkpoint in memory.
pub struct Loaded {
    /// Number of steps taken.
    pub step: u64,
    /// The arrays.
    pub state: State,
    /// Damaged newer checkpoints, with the fault of each.
    pub damaged: Vec<(PathBuf, String)>,
}

/// Reads the newest checkpoint in `dir` that is whole; `None` if there are none.
///
/// # Errors
/// If all are damaged, one sentence about the newest; if one cannot be read, for instance without permission.
pub fn load_newest(dir: &Path) -> Result<Option<Loaded>> {
    let mut damaged = Vec::new();
    for (step, path) in list(dir)?.into_iter().rev() {
        match load(&path)? {
            Ok(state) => return Ok(Some(Loaded { step, state, damaged })),
            Err(what) => damaged.push((path, what)),
        }
    }
    match &damaged[..] {
        [] => Ok(None),
        [(_, what), ..] => bail!("{what}; no older checkpoint is whole: remove {} to start over", dir.display()),
    }
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

/// Returns the state of one checkpoint, or the fault of a damaged one.
///
/// # Errors
/// If the operating system does not let it be read, which says nothing about its content.
fn load(path: &Path) -> Result<Result<State, String>> {
    let (file, sum_file) = (path.join(STATE), path.join(SUM));
    for file in [&file, &sum_file] {
        match fs::metadata(file) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Err(format!("{} is missing", file.display())));
            }
            Err(e) => return Err(io_error("reading", file, &e)),
            Ok(_) => {}
        }
    }
    let expected = input::bytes(&sum_file, SUM_BYTES)?;
    let Some(expected) = std::str::from_utf8(&expected).ok().map(str::trim).filter(|sum| is_sum(sum)) else {
        return Ok(Err(format!("{} is damaged: expected a SHA-256 in hex, found something else", sum_file.display())));
    };
    let found = sha256_of_file(&file)?;
    if expected != found {
        return Ok(Err(format!("{} is damaged: expected the SHA-256 {expected}, found {found}", file.display())));
    }
    Ok(read(&file).map_err(|e| format!("{} is damaged: {}", file.display(), files::words::sentence(&e))))
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

/// Reads a checkpoint array by array: the memory for it is that of the arrays.
fn read(path: &Path) -> Result<State> {
    let mut file = input::open(path)?;
    let [n_header] = numbers::<u64>(&mut file, 1)?[..] else { bail!("it ends before its header") };
    let n_header = usize::try_from(n_header).ok().filter(|n| *n <= HEADER_BYTES).context("its header has no end")?;
    let header: Metadata = serde_json::from_slice(&numbers::<u8>(&mut file, n_header)?)?;
    let mut state = State::default();
    // In the order in which they lie in the file, which has no gaps.
    for name in header.offset_keys() {
        let info = header.info(&name).with_context(|| format!("tensor `{name}`"))?;
        let n = info.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).unwrap_or(usize::MAX);
        let array = match info.dtype {
            Dtype::F32 => Array::F32(numbers::<f32>(&mut file, n)?.into()),
            Dtype::F64 => Array::F64(numbers(&mut file, n)?),
            Dtype::U16 => Array::U16(Arc::new(numbers(&mut file, n)?)),
            Dtype::U32 => Array::U32(numbers(&mut file, n)?),
            Dtype::U64 => Array::U64(numbers(&mut file, n)?),
            other => bail!("tensor `{name}` has the type {other:?}, which no checkpoint holds"),
        };
        // Training stops before any other number could get here that is not finite; one would never be moved again.
        let is_finite = match &array {
            Array::F32(v) => v.iter().all(|v| v.is_finite()),
            Array::F64(v) => v.iter().all(|v| v.is_finite()),
            _ => true,
        };
        ensure!(is_finite || UNLIMITED.contains(&&*name), "tensor `{name}`: expected finite numbers, found another");
        state.put(name, array);
    }
    Ok(state)
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
