//! Reading checkpoints, and writing those in shards: one file per rank, and a manifest.

use super::{Arrays, STATE, SUM, SUM_BYTES, is_sum, list, prune, retire, sha256_of_file, write, write_text};
use crate::files::{self, io_error, read as input};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_core::Config;
use strata_core::train::comm::owned;
use strata_core::train::{Array, Comm, State, sharded_arrays};

const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "strata-checkpoint";
const VERSION: u32 = 1;

/// Most ranks of a checkpoint.
const RANKS: usize = 1 << 16;

/// Which rows of the arrays that have a row for each latent a rank needs: those of its latents.
#[derive(Clone, Debug)]
pub struct Part {
    /// Level and width of each of these arrays.
    arrays: BTreeMap<String, (usize, usize)>,
    /// Numbers of latents of the levels.
    latents: [usize; 2],
    rank: usize,
    size: usize,
}

impl Part {
    /// Returns the part of a rank, for rows of width `d` and, of a transcoder, `target`.
    pub fn new(config: &Config, d: usize, target: Option<usize>, comm: &dyn Comm) -> Self {
        Self {
            arrays: sharded_arrays(config, d, target),
            latents: [config.level1.latents, config.level2.latents],
            rank: comm.rank(),
            size: comm.size(),
        }
    }

    /// Returns the numbers of an array that are of one of `size` ranks; none if the array is the same on all.
    fn range(&self, name: &str, rank: usize, size: usize) -> Option<Range<usize>> {
        let (level, width) = *self.arrays.get(name)?;
        let own = owned(self.latents[level], rank, size);
        Some(own.start * width..own.end * width)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: String,
    version: u32,
    /// Numbers of latents of the levels.
    latents: [usize; 2],
    /// The file of each rank, in the order of latents.
    files: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    /// The first latent and the one after the last, per level.
    owns: [[usize; 2]; 2],
}

/// Writes the checkpoint of `step` of all ranks into `dir`, which all of them see, and removes all but the last two. Every rank
/// calls this with its own state.
///
/// # Errors
/// If a file cannot be written or another rank has ended; older checkpoints are then untouched.
pub fn save_over(dir: &Path, step: u64, state: &State, part: &Part, comm: &dyn Comm) -> Result<()> {
    if comm.is_solo() {
        return super::save(dir, step, state);
    }
    let name = format!("step-{step:09}");
    let (hidden, path) = (dir.join(format!(".{name}.tmp")), dir.join(&name));
    let is_first = comm.rank() == 0;
    let failed = |error: io::Error| {
        let _ = fs::remove_dir_all(&hidden);
        io_error("writing the checkpoint", &path, &error)
    };
    if is_first {
        let make = || {
            if hidden.exists() {
                fs::remove_dir_all(&hidden)?;
            }
            fs::create_dir_all(&hidden)
        };
        make().map_err(failed)?;
    }
    // The others write once the directory is there.
    comm.broadcast(&mut Vec::new())?;
    let mut own = state.clone();
    if !is_first {
        own.0.retain(|name, _| part.arrays.contains_key(name));
    }
    let file = file_name(comm.rank(), comm.size());
    let sum = write(&hidden.join(&file), &own).map_err(failed)?;
    let sums = comm.gather(sum.as_bytes())?;
    if is_first {
        let owns = |rank| {
            part.latents.map(|f| {
                let own = owned(f, rank, comm.size());
                [own.start, own.end]
            })
        };
        let files = sums.into_iter().enumerate().map(|(rank, sum)| Entry {
            name: file_name(rank, comm.size()),
            sha256: String::from_utf8_lossy(&sum).into_owned(),
            owns: owns(rank),
        });
        let manifest =
            Manifest { format: FORMAT.into(), version: VERSION, latents: part.latents, files: files.collect() };
        let text = format!("{}\n", serde_json::to_string_pretty(&manifest)?);
        let publish = || {
            write_text(&hidden.join(MANIFEST), &text)?;
            if path.exists() {
                retire(dir, &path)?;
            }
            fs::rename(&hidden, &path)
        };
        publish().map_err(failed)?;
        files::sync_directory(dir)?;
        prune(dir)?;
    }
    // No rank goes on before the checkpoint is there.
    Ok(comm.broadcast(&mut Vec::new())?)
}

fn file_name(rank: usize, size: usize) -> String {
    format!("state-{rank}-of-{size}.safetensors")
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

/// Reads the newest checkpoint in `dir` that is whole, the rows `part` of it; `None` if there are none.
///
/// # Errors
/// If all are damaged, one sentence about the newest; if one cannot be read, for instance without permission.
pub fn load_newest(dir: &Path, part: &Part) -> Result<Option<Loaded>> {
    let mut damaged = Vec::new();
    for (step, path) in list(dir)?.into_iter().rev() {
        match load(&path, part)? {
            Ok(state) => return Ok(Some(Loaded { step, state, damaged })),
            Err(what) => damaged.push((path, what)),
        }
    }
    match &damaged[..] {
        [] => Ok(None),
        [(_, what), ..] => bail!("{what}; no older checkpoint is whole: remove {} to start over", dir.display()),
    }
}

/// Returns the state of one checkpoint, or the fault of a damaged one.
///
/// # Errors
/// If the operating system does not let it be read, which says nothing about its content.
fn load(path: &Path, part: &Part) -> Result<Result<State, String>> {
    if is_sharded(path)? {
        return load_shards(path, part);
    }
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
    Ok(load_whole(&file, part).map_err(|e| format!("{} is damaged: {}", file.display(), files::words::sentence(&e))))
}

/// Returns whether a checkpoint is in shards.
fn is_sharded(path: &Path) -> Result<bool> {
    let manifest = path.join(MANIFEST);
    match fs::metadata(&manifest) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(io_error("reading", &manifest, &e)),
    }
}

/// Returns the rows `part` of a checkpoint in shards, or the fault of a damaged one.
///
/// # Errors
/// If the operating system does not let it be read.
fn load_shards(path: &Path, part: &Part) -> Result<Result<State, String>> {
    let manifest = match manifest(path)? {
        Ok(manifest) => manifest,
        Err(fault) => return Ok(Err(fault)),
    };
    for Entry { name, sha256: expected, .. } in &manifest.files {
        let file = path.join(name);
        if !file.exists() {
            return Ok(Err(format!("{} is missing", file.display())));
        }
        let found = sha256_of_file(&file)?;
        if *expected != found {
            return Ok(Err(format!("{} is damaged: expected the SHA-256 {expected}, found {found}", file.display())));
        }
    }
    Ok(assemble(path, &manifest, part)
        .map_err(|e| format!("{} is damaged: {}", path.display(), files::words::sentence(&e))))
}

/// Returns the rows `part` of the checkpoint of `step` in `dir`, which another rank has found to be whole.
///
/// # Errors
/// One sentence if it cannot be read.
pub fn load_part(dir: &Path, step: u64, part: &Part) -> Result<State> {
    let path = dir.join(format!("step-{step:09}"));
    if !is_sharded(&path)? {
        let file = path.join(STATE);
        return load_whole(&file, part).with_context(|| format!("{} cannot be read", file.display()));
    }
    match manifest(&path)? {
        Ok(manifest) => assemble(&path, &manifest, part).with_context(|| format!("{} cannot be read", path.display())),
        Err(fault) => bail!("{fault}"),
    }
}

fn manifest(path: &Path) -> Result<Result<Manifest, String>> {
    let file = path.join(MANIFEST);
    let bytes = input::bytes(&file, SUM_BYTES * RANKS as u64)?;
    let checked = || -> Result<Manifest> {
        let manifest: Manifest = serde_json::from_slice(&bytes)?;
        ensure!(manifest.format == FORMAT, "expected the format {FORMAT}, found {}", manifest.format);
        ensure!(manifest.version == VERSION, "expected version {VERSION}, found {}", manifest.version);
        let size = manifest.files.len();
        ensure!((1..=RANKS).contains(&size), "expected 1 to {RANKS} files, found {size}");
        for (rank, entry) in manifest.files.iter().enumerate() {
            let expected = file_name(rank, size);
            ensure!(entry.name == expected, "expected the file {expected}, found {}", entry.name);
            ensure!(is_sum(&entry.sha256), "expected a SHA-256 in hex, found {}", entry.sha256);
        }
        Ok(manifest)
    };
    Ok(checked().map_err(|e| format!("{} is damaged: {}", file.display(), files::words::sentence(&e))))
}

/// Reads the rows `part` from the files that have them.
fn assemble(path: &Path, manifest: &Manifest, part: &Part) -> Result<State> {
    let size = manifest.files.len();
    ensure!(
        manifest.latents == part.latents,
        "expected {:?} latents, found {:?} in its manifest",
        part.latents,
        manifest.latents
    );
    let mut state = State::default();
    for (rank, entry) in manifest.files.iter().enumerate() {
        let mut arrays = Arrays::open(&path.join(&entry.name))?;
        for name in arrays.names() {
            let Some(has) = part.range(&name, rank, size) else {
                ensure!(rank == 0, "tensor `{name}` is in the file of rank {rank}: expected it in that of rank 0");
                state.put(name.clone(), arrays.read(&name, None)?);
                continue;
            };
            let wants = part.range(&name, part.rank, part.size).unwrap_or(0..0);
            let common = wants.start.max(has.start)..wants.end.min(has.end);
            let common = if common.start < common.end { common } else { has.start..has.start };
            let found = arrays.read(&name, Some(common.start - has.start..common.end - has.start))?;
            let joined = match state.0.remove(&name) {
                Some(before) => join(&name, before, found)?,
                None => found,
            };
            state.put(name, joined);
        }
    }
    Ok(state)
}

/// Appends rows of an array.
fn join(name: &str, before: Array, after: Array) -> Result<Array> {
    Ok(match (before, after) {
        (Array::F32(a), Array::F32(b)) if a.is_empty() => Array::F32(b),
        (Array::F32(a), Array::F32(b)) if b.is_empty() => Array::F32(a),
        (Array::F32(a), Array::F32(b)) => Array::F32([&a[..], &b[..]].concat().into()),
        (Array::U16(a), Array::U16(b)) => Array::U16(Arc::new([&a[..], &b[..]].concat())),
        _ => bail!("tensor `{name}` has another type in the file of another rank"),
    })
}

/// Reads the rows `part` of a checkpoint in one file.
fn load_whole(file: &Path, part: &Part) -> Result<State> {
    let mut arrays = Arrays::open(file)?;
    let mut state = State::default();
    for name in arrays.names() {
        let range = if part.size == 1 { None } else { part.range(&name, part.rank, part.size) };
        let array = arrays.read(&name, range)?;
        state.put(name, array);
    }
    Ok(state)
}
