//! Checkpoints: everything a run needs to go on to the same bits, checksummed.
//!
//! `checkpoints/step-000123/state.safetensors` holds the arrays of [`State`]; `state.sha256` its SHA-256 in hex. A
//! checkpoint is written into a hidden directory and renamed, so it is there whole or not at all; the last two are kept.

use crate::files;
use anyhow::{Context, Result, bail, ensure};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorView};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_core::train::{Array, State};

/// Checkpoints that are kept.
const KEEP: usize = 2;

/// The most that the names and sizes of arrays take.
const HEADER_BYTES: usize = 1 << 24;

/// Lower-case hex of the SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes the checkpoint of `step` into `dir` and drops all but the last two.
///
/// # Errors
/// If it cannot be written; older checkpoints are then untouched.
pub fn save(dir: &Path, step: u64, state: &State) -> Result<()> {
    let name = format!("step-{step:09}");
    let (hidden, path) = (dir.join(format!(".{name}.tmp")), dir.join(&name));
    let publish = || -> Result<()> {
        if hidden.exists() {
            fs::remove_dir_all(&hidden)?;
        }
        fs::create_dir_all(&hidden)?;
        let file = hidden.join("state.safetensors");
        write(&file, state)?;
        files::write_atomic(&hidden.join("state.sha256"), format!("{}\n", sha256_of_file(&file)?).as_bytes())?;
        if path.exists() {
            retire(dir, &path)?;
        }
        fs::rename(&hidden, &path)?;
        Ok(())
    };
    if let Err(error) = publish() {
        let _ = fs::remove_dir_all(&hidden);
        return Err(error.context(format!("writing the checkpoint {}", path.display())));
    }
    files::sync_directory(dir)?;
    prune(dir)
}

/// Drops all checkpoints but the last two.
///
/// # Errors
/// If one cannot be removed.
pub fn prune(dir: &Path) -> Result<()> {
    for (_, old) in list(dir)?.iter().rev().skip(KEEP) {
        retire(dir, old).with_context(|| format!("removing the old checkpoint {}", old.display()))?;
    }
    Ok(())
}

/// Removes a checkpoint such that a kill in between leaves no half of it behind under its name.
fn retire(dir: &Path, path: &Path) -> Result<()> {
    let hidden = dir.join(format!(".{}.old.tmp", path.file_name().unwrap_or_default().to_string_lossy()));
    if hidden.exists() {
        fs::remove_dir_all(&hidden)?;
    }
    fs::rename(path, &hidden)?;
    fs::remove_dir_all(&hidden)?;
    Ok(())
}

/// The checkpoints in `dir`, by step.
///
/// # Errors
/// If the directory cannot be read; one that is not there holds none.
pub fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    if dir.exists() {
        for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
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

/// Reads the newest checkpoint in `dir`; `None` if there is none.
///
/// # Errors
/// One sentence naming the file if it is missing, damaged or no checkpoint.
pub fn load_newest(dir: &Path) -> Result<Option<(u64, State)>> {
    let all = list(dir)?;
    let Some((step, path)) = all.last() else { return Ok(None) };
    let file = path.join("state.safetensors");
    let found = sha256_of_file(&file).with_context(|| format!("reading {}", file.display()))?;
    let sum_file = path.join("state.sha256");
    let expected = fs::read_to_string(&sum_file).with_context(|| format!("reading {}", sum_file.display()))?;
    if expected.trim() != found {
        let hint = match all.len() {
            1 => format!("remove {} to start over", path.display()),
            n => format!("remove {} to go on from step {}", path.display(), all[n - 2].0),
        };
        bail!(
            "{} is damaged: expected the SHA-256 {}, found {found}; {hint}",
            file.display(),
            expected.trim().chars().take(64).collect::<String>()
        );
    }
    let state = read(&file).with_context(|| format!("reading {}", file.display()))?;
    Ok(Some((*step, state)))
}

/// Lower-case hex of the SHA-256 of a file, which need not fit into memory.
fn sha256_of_file(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// Writes the arrays one after the other, without a copy of them in memory, and makes them last.
fn write(path: &Path, state: &State) -> Result<()> {
    let mut tensors = Vec::new();
    for (name, array) in &state.0 {
        let (dtype, n, bytes): (_, _, &[u8]) = match array {
            Array::F32(v) => (Dtype::F32, v.len(), bytemuck::cast_slice(v)),
            Array::F64(v) => (Dtype::F64, v.len(), bytemuck::cast_slice(v)),
            Array::U16(v) => (Dtype::U16, v.len(), bytemuck::cast_slice(v)),
            Array::U32(v) => (Dtype::U32, v.len(), bytemuck::cast_slice(v)),
            Array::U64(v) => (Dtype::U64, v.len(), bytemuck::cast_slice(v)),
        };
        tensors.push((name.as_str(), TensorView::new(dtype, vec![n], bytes).context("checkpoint")?));
    }
    safetensors::serialize_to_file(tensors, None, path)?;
    Ok(File::open(path)?.sync_all()?)
}

/// Reads a checkpoint array by array: the memory for it is that of the arrays.
fn read(path: &Path) -> Result<State> {
    let mut file = File::open(path)?;
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
        state.put(name, array);
    }
    Ok(state)
}

fn numbers<T: bytemuck::Pod>(file: &mut File, n: usize) -> Result<Vec<T>> {
    let there = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX) / size_of::<T>();
    ensure!(n <= there, "expected {n} numbers in an array, found room for {there} in the file");
    let mut numbers = vec![T::zeroed(); n];
    file.read_exact(bytemuck::cast_slice_mut(&mut numbers))?;
    Ok(numbers)
}
