//! `strata encode`: the sparse codes of every row, streamed to a safetensors file with one matrix per level in CSR
//! form.
//!
//! `z1.indptr [N+1] u64`, `z1.indices [nnz] u32`, `z1.values [nnz] f32` (or f16), likewise `z2`; the metadata names the
//! run by the SHA-256 of its weights. Rows are encoded twice, first only to count, so that memory does not grow with N. Over
//! several ranks each encodes a contiguous part of the rows and writes their codes to their place in the file.

use crate::console::{Console, check_interrupt};
use crate::dump::Dump;
use crate::files::{PendingFile, io_error};
use crate::ranks;
use crate::run::Run;
use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use strata_core::model::{Lanes, WeightType};
use strata_core::rows::Rows;
use strata_core::train::Comm;
use strata_core::{Codes, Compute, Device, Encoder, Isa, Par};

/// Rows that are encoded together.
const BLOCK: u64 = 1 << 14;
/// The largest f16 number; a value above it by less than half a step is rounded to it.
const F16_MAX: f32 = 65519.996;

/// The file that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Encoded {
    /// Rows.
    pub rows: u64,
    /// Entries of level 1 and of level 2.
    pub entries: [u64; 2],
    /// Mean number of latents that fire per row.
    pub l0: [f64; 2],
}

/// What to encode, and how.
pub struct Job<'a> {
    /// The run.
    pub run: &'a Run,
    /// Its rows.
    pub dump: &'a Dump,
    /// The file to write.
    pub out: &'a Path,
    /// Write values as f16.
    pub f16: bool,
    /// The type in which the encoder's weights are kept.
    pub weights: WeightType,
    /// Instruction set.
    pub isa: Isa,
    /// The GPU to encode on.
    pub device: Option<&'a Device>,
    /// The ranks, each of which encodes some of the rows.
    pub comm: &'a dyn Comm,
}

/// Encodes every row into a file, which appears whole or not at all.
///
/// # Errors
/// If the widths differ, a row is not finite, the device does not encode such a model, the file cannot be written, or another
/// rank has ended or differs.
pub fn encode(job: &Job<'_>, console: &mut Console<'_>) -> Result<Encoded> {
    let Job { run, dump, out, f16, weights, isa, device, comm } = *job;
    run.check_width(dump)?;
    ranks::check_alike(comm, &format!("{} {} {f16} {weights:?}", run.hash, dump.fingerprint()))?;
    let mut encoder = Encoder::with_weights(run.model.clone(), Compute::new(isa, Par::Rayon), weights)?;
    if let Some(device) = device {
        encoder = encoder.on(device)?;
    }
    let n = dump.n_rows();
    let (rank, size) = (comm.rank() as u64, comm.size() as u64);
    let part = |rank: u64| (u128::from(n) * u128::from(rank) / u128::from(size)) as u64;
    let rows = part(rank)..part(rank + 1);
    // The others write into the file of the first rank, which gives it its name.
    let pending = if rank == 0 { Some(PendingFile::create(out)?) } else { None };
    let bar = console.bar("encoding", 2 * (rows.end - rows.start), "tokens");
    let mut own = [0u64; 2];
    each_block(&encoder, dump, rows.clone(), |codes| {
        for (total, codes) in own.iter_mut().zip(codes) {
            *total += codes.index.len() as u64;
        }
        bar.inc(codes[0].n() as u64);
        Ok(())
    })?;
    let all = comm.gather(&[own])?.concat();
    let sum = |of: &[[u64; 2]]| of.iter().fold([0; 2], |sum: [u64; 2], own| [sum[0] + own[0], sum[1] + own[1]]);
    let (entries, before) = (sum(&all), sum(&all[..comm.rank()]));

    let layout = Layout::new(n, entries, f16);
    let header = layout.header(&run.hash);
    let failed = |e: io::Error| io_error("writing", out, &e);
    let base = 8 + header.len() as u64;
    let mut hidden = pending.as_ref().map_or(Vec::new(), |file| file.hidden().as_os_str().as_encoded_bytes().to_vec());
    if let Some(mut file) = pending.as_ref().map(PendingFile::file) {
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        file.write_all(header.as_bytes()).map_err(failed)?;
        file.set_len(base + layout.end).map_err(failed)?;
    }
    comm.broadcast(&mut hidden)?;
    let shared = if pending.is_some() { None } else { Some(open_hidden(&hidden).map_err(failed)?) };
    let Some(mut file) = pending.as_ref().map(PendingFile::file).or(shared.as_ref()) else {
        bail!("no rank has started {}", out.display())
    };
    // Where the next bytes of each tensor are written: indptr, indices, values of both levels.
    let sizes = [8, 4, layout.dtype.size_bytes() as u64];
    let written = |l: usize| [if rank > 0 { rows.start + 1 } else { 0 }, before[l], before[l]];
    let tensors = layout.tensors.iter().enumerate();
    let mut at: Vec<u64> = tensors.map(|(i, t)| base + t.start + written(i / 3)[i % 3] * sizes[i % 3]).collect();
    let mut put = |i: usize, bytes: &[u8]| -> Result<()> {
        file.seek(SeekFrom::Start(at[i])).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        at[i] += bytes.len() as u64;
        Ok(())
    };
    let mut so_far = before;
    for l in (0..2).filter(|_| rank == 0) {
        put(3 * l, &0u64.to_le_bytes())?;
    }
    let mut bytes = Vec::new();
    let most = if f16 { F16_MAX } else { f32::INFINITY };
    each_block(&encoder, dump, rows, |codes| {
        for (l, codes) in codes.iter().enumerate() {
            bytes.clear();
            bytes.extend(codes.offsets[1..].iter().flat_map(|o| (so_far[l] + *o as u64).to_le_bytes()));
            put(3 * l, &bytes)?;
            bytes.clear();
            bytes.extend(codes.index.iter().flat_map(|j| j.to_le_bytes()));
            put(3 * l + 1, &bytes)?;
            bytes.clear();
            if let Some(large) = codes.value.iter().find(|v| **v > most) {
                bail!("--f16: a code of level {} is {large}, beyond the range of f16; leave --f16 out", l + 1);
            }
            layout.dtype.narrow(&codes.value, &mut bytes);
            put(3 * l + 2, &bytes)?;
            so_far[l] += codes.index.len() as u64;
        }
        bar.inc(codes[0].n() as u64);
        Ok(())
    })?;
    // The file gets its name when all ranks have written their part, and no rank ends before.
    if let Some(file) = &shared {
        file.sync_all().map_err(failed)?;
    }
    comm.gather(&[0u8])?;
    pending.map(PendingFile::finish).transpose()?;
    comm.broadcast(&mut Vec::new())?;
    bar.finish_and_clear();
    let l0 = entries.map(|e| e as f64 / n.max(1) as f64);
    let of =
        if run.origin.left_out.keeps_all() { "" } else { ", rows like those that the training left out among them" };
    console.note(format!(
        "encoded {n} rows into {}: {:.2} latents per row at level 1, {:.2} at level 2{of}",
        out.display(),
        l0[0],
        l0[1]
    ));
    Ok(Encoded { rows: n, entries, l0 })
}

/// Opens the hidden file of another rank for writing.
fn open_hidden(path: &[u8]) -> io::Result<File> {
    let path = std::str::from_utf8(path).map_err(io::Error::other)?;
    File::options().write(true).open(path)
}

/// Encodes the rows `rows`, and gives their codes to `f` in order, one block at a time.
///
/// # Errors
/// If a row is not finite; whatever `f` returns.
pub(crate) fn each_block(
    encoder: &Encoder,
    dump: &Dump,
    rows: Range<u64>,
    mut f: impl FnMut(&[Codes; 2]) -> Result<()>,
) -> Result<()> {
    let d = dump.d();
    let (mut x, mut stored, mut lanes) = (Vec::new(), Vec::new(), Lanes::default());
    let mut codes = [Codes::new(), Codes::new()];
    let Range { mut start, end } = rows;
    while start < end {
        let n = (end - start).min(BLOCK) as usize;
        codes.iter_mut().for_each(Codes::clear);
        let [codes1, codes2] = &mut codes;
        if encoder.reads_stored() {
            dump.read_range_stored(start, n, &mut stored)?;
            let rows = Rows::new(&stored, n, d, d * dump.dtype().size_bytes(), dump.dtype())?;
            if let Err(why) = encoder.encode_stored_in(Par::Rayon, rows, &mut lanes, codes1, codes2) {
                // The dump names the file and the place of a number that is not finite.
                x.resize(n * d, 0.0);
                dump.read_range(start, n, &mut x)?;
                return Err(why.into());
            }
        } else {
            x.resize(n * d, 0.0);
            dump.read_range(start, n, &mut x)?;
            encoder.encode_par_in(Par::Rayon, &x, &mut lanes, codes1, codes2)?;
        }
        f(&codes)?;
        check_interrupt()?;
        start += n as u64;
    }
    Ok(())
}

/// The position of each tensor.
struct Layout {
    tensors: Vec<Tensor>,
    end: u64,
    dtype: strata_core::Dtype,
}

struct Tensor {
    name: String,
    dtype: &'static str,
    n: u64,
    start: u64,
    bytes: u64,
}

impl Layout {
    fn new(n: u64, entries: [u64; 2], f16: bool) -> Self {
        let dtype = if f16 { strata_core::Dtype::F16 } else { strata_core::Dtype::F32 };
        let mut tensors = Vec::new();
        for (l, nnz) in entries.into_iter().enumerate() {
            let values = (if f16 { "F16" } else { "F32" }, dtype.size_bytes() as u64);
            for (part, n, (name, size)) in
                [("indptr", n + 1, ("U64", 8)), ("indices", nnz, ("U32", 4)), ("values", nnz, values)]
            {
                tensors.push(Tensor { name: format!("z{}.{part}", l + 1), dtype: name, n, start: 0, bytes: n * size });
            }
        }
        // Wider numbers first, so that every tensor of a mapped file is aligned.
        let mut end = 0;
        for wide in ["U64", "U32", "F32", "F16"] {
            for t in tensors.iter_mut().filter(|t| t.dtype == wide) {
                t.start = end;
                end += t.bytes;
            }
        }
        Self { tensors, end, dtype }
    }

    fn header(&self, run: &str) -> String {
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({ "format": "strata-codes", "version": "1", "run": run }));
        let mut by_start: Vec<&Tensor> = self.tensors.iter().collect();
        by_start.sort_by_key(|t| (t.start, t.bytes));
        for t in by_start {
            header.insert(
                t.name.clone(),
                json!({ "dtype": t.dtype, "shape": [t.n], "data_offsets": [t.start, t.start + t.bytes] }),
            );
        }
        let mut text = Value::Object(header).to_string();
        while !text.len().is_multiple_of(8) {
            text.push(' ');
        }
        text
    }
}
