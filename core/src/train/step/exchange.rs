//! What the shards of a dictionary exchange about the rows of a batch: candidates that compete, codes, and terms of sums.
//!
//! Every shard has all rows. What stands in a chunk about latents is of the shard's own, counted from its first one,
//! except where it says that it is of all shards.

use super::entries::List;
use super::inputs::Inputs;
use super::workspace::{Addends, CHUNK, Chunk, Lane, Shared};
use crate::entry::CodeRow;
use crate::error::{Error, Result};
use crate::gate::ROOT;
use crate::kernel::select;
use crate::model::Codes;
use crate::train::comm::owned;
use crate::train::shard::Shard;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Keeps, of one list of every chunk, the `k` largest pre-activations of each row over all shards; ties go to the lower
/// latent. Every shard has kept its own `k` largest already.
pub(super) fn keep_largest(
    shard: &Shard,
    k: usize,
    chunks: &mut [Chunk],
    mut list: impl FnMut(&mut Chunk) -> &mut List,
) -> Result<()> {
    let comm = &*shard.comm;
    let mut own = Vec::new();
    for chunk in chunks.iter_mut() {
        let list = list(chunk);
        for i in 0..list.n_rows() {
            own.push(list.row(i).len() as u32);
            own.extend(list.u[list.row(i)].iter().map(|u| u.to_bits()));
        }
    }
    let all = comm.gather(&own)?;
    let mut readers: Vec<Reader<'_>> = all.iter().map(|all| Reader { from: all }).collect();
    let mut values = Vec::new();
    let mut ranked = Vec::new();
    // Where this shard's values of a row begin.
    let mut own_at = 0;
    for chunk in chunks {
        let list = list(chunk);
        let mut kept = 0;
        let mut start = 0;
        for i in 0..list.n_rows() {
            values.clear();
            for (rank, reader) in readers.iter_mut().enumerate() {
                if rank == comm.rank() {
                    own_at = values.len();
                }
                let n = reader.word()? as usize;
                values.extend(reader.words(n)?.iter().map(|u| f32::from_bits(*u)));
            }
            let end = list.offsets[i + 1] as usize;
            let (mut cut, mut ties) = (f32::NEG_INFINITY, 0);
            if values.len() > k {
                ranked.clone_from(&values);
                cut = select::kth_largest(&mut ranked, k);
                let greater = values.iter().filter(|v| **v > cut).count();
                let equal = |of: &[f32]| of.iter().filter(|v| **v == cut).count();
                ties = (k - greater).saturating_sub(equal(&values[..own_at]));
            }
            for at in start..end {
                let u = list.u[at];
                let is_tie = u == cut && ties > 0;
                ties -= usize::from(is_tie);
                if u > cut || is_tie {
                    (list.index[kept], list.u[kept]) = (list.index[at], u);
                    kept += 1;
                }
            }
            start = end;
            list.offsets[i + 1] = kept as u32;
        }
        list.index.truncate(kept);
        list.u.truncate(kept);
    }
    Ok(())
}

/// Returns how many of the first `ties` pre-activations that equal `cut`, over the lists of all shards, are in each of
/// this shard's lists: they are counted list by list, row by row, and within a row in the order of latents.
pub(super) fn ties<'l>(
    shard: &Shard,
    cut: f32,
    ties: usize,
    lists: impl Iterator<Item = &'l List>,
) -> Result<Vec<usize>> {
    let mut own = Vec::new();
    let mut kept = Vec::new();
    for (at, list) in lists.enumerate() {
        kept.push(0);
        for i in 0..list.n_rows() {
            let equal = list.u[list.row(i)].iter().filter(|v| **v == cut).count();
            own.extend(core::iter::repeat_n((at * CHUNK + i) as u64, equal));
        }
    }
    let all = shard.comm.gather(&own)?;
    let all = all.iter().enumerate().flat_map(|(rank, rows)| rows.iter().map(move |row| (*row, rank)));
    let mut all: Vec<(u64, usize)> = all.collect();
    all.sort_unstable();
    for (row, _) in all.into_iter().take(ties).filter(|(_, rank)| *rank == shard.comm.rank()) {
        kept[row as usize / CHUNK] += 1;
    }
    Ok(kept)
}

/// Writes to `to` of every chunk the latents of all shards with their values, from those of this shard, which `from`
/// calls its second argument with: a latent and its value, in the order of each row.
pub(super) fn codes(
    shard: &Shard,
    level: usize,
    chunks: &mut [Chunk],
    from: impl Fn(&Chunk, usize, &mut dyn FnMut(u32, f32)),
    mut to: impl FnMut(&mut Chunk) -> &mut List,
) -> Result<()> {
    let first = shard.first(level);
    let mut own = Vec::new();
    for chunk in chunks.iter() {
        for i in 0..chunk.n_rows {
            let at = own.len();
            own.push(0);
            from(chunk, i, &mut |j, value| own.extend([first + j, value.to_bits()]));
            own[at] = (own.len() - at - 1) as u32 / 2;
        }
    }
    let all = shard.comm.gather(&own)?;
    let mut readers: Vec<Reader<'_>> = all.iter().map(|all| Reader { from: all }).collect();
    for chunk in chunks {
        let n_rows = chunk.n_rows;
        let list = to(chunk);
        list.clear();
        for _ in 0..n_rows {
            for reader in &mut readers {
                let n = reader.word()? as usize;
                for pair in reader.words(2 * n)?.chunks(2) {
                    list.index.push(pair[0]);
                    list.u.push(f32::from_bits(pair[1]));
                }
            }
            list.end_row(None);
        }
    }
    Ok(())
}

/// Writes the latents of a level that fire, of all shards with their values.
pub(super) fn firing(shard: &Shard, level: usize, chunks: &mut [Chunk]) -> Result<()> {
    let own = |chunk: &Chunk, i: usize, push: &mut dyn FnMut(u32, f32)| {
        let CodeRow { index, value } = chunk.level[level].code(i);
        index.iter().zip(value).filter(|(_, z)| **z > 0.0).for_each(|(j, z)| push(*j, *z));
    };
    shard.comm.stage("codes");
    codes(shard, level, chunks, own, |chunk| &mut chunk.shared.codes[level])?;
    for chunk in chunks {
        chunk.sums.fired[level] = chunk.shared.codes[level].index.len() as u64;
    }
    Ok(())
}

/// Decides which shard has the largest child of each active parent of each row: ties go to the lower shard.
pub(super) fn families(shard: &Shard, chunks: &mut [Chunk]) -> Result<()> {
    let own: Vec<f32> = chunks.iter().flat_map(|chunk| chunk.shared.families.0.iter().copied()).collect();
    let all = shard.comm.gather(&own)?;
    if all.iter().any(|other| other.len() != own.len()) {
        return Err(short());
    }
    let rank = shard.comm.rank();
    let mut wins = (0..own.len()).map(|at| {
        all.iter().take(rank).all(|lower| own[at] > lower[at]) && all.iter().skip(rank + 1).all(|v| own[at] >= v[at])
    });
    for (values, won) in chunks.iter_mut().map(|chunk| &mut chunk.shared.families) {
        won.clear();
        won.extend(wins.by_ref().take(values.len()));
    }
    Ok(())
}

/// Returns the codes of a level over all shards, from those of this shard; where `largest` says so, only the largest of
/// each row.
pub(in crate::train) fn over_shards(shard: &Shard, level: usize, largest: Option<usize>, own: &Codes) -> Result<Codes> {
    let mut chunks = [chunk_of(level, own)];
    if let Some(k) = largest {
        keep_largest(shard, k, &mut chunks, |chunk| &mut chunk.candidates[level])?;
    }
    let from = |chunk: &Chunk, i: usize, push: &mut dyn FnMut(u32, f32)| {
        let CodeRow { index, value } = chunk.candidates[level].code(i);
        index.iter().zip(value).for_each(|(j, z)| push(*j, *z));
    };
    codes(shard, level, &mut chunks, from, |chunk| &mut chunk.shared.codes[level])?;
    let [Chunk { mut shared, .. }] = chunks;
    Ok(codes_of(core::mem::take(&mut shared.codes[level])))
}

/// Returns those of the codes of this shard that are among the `k` largest of each row over all shards.
pub(in crate::train) fn largest_over_shards(shard: &Shard, k: usize, own: &Codes) -> Result<Codes> {
    let mut chunks = [chunk_of(0, own)];
    keep_largest(shard, k, &mut chunks, |chunk| &mut chunk.candidates[0])?;
    let [Chunk { candidates: [kept, _], .. }] = chunks;
    Ok(codes_of(kept))
}

/// Returns the pre-activation of the parent of every ungated pre-activation of all shards, in place of `own`, which has those of
/// this shard's parents; `parents` are the parents of all children.
pub(in crate::train) fn parents_over_shards(
    shard: &Shard,
    of: &[u32],
    ungated: &Codes,
    own: Vec<f32>,
) -> Result<Vec<f32>> {
    let mut chunk = Chunk::default();
    (chunk.shared.ungated.index, chunk.shared.parents) = (ungated.index.clone(), own);
    let mut chunks = [chunk];
    parents(shard, of, &mut chunks)?;
    let [Chunk { shared, .. }] = chunks;
    Ok(shared.parents)
}

/// Returns the sum of the terms of all shards, in the order of [`add_terms`] and of chunks; `counts` has this shard's number of terms
/// of each row.
pub(in crate::train) fn sum_over_shards(shard: &Shard, counts: &[u32], values: &[f64]) -> Result<f64> {
    let mut at = 0;
    let chunk = |counts: &[u32]| {
        let from = at;
        at += counts.iter().sum::<u32>() as usize;
        let mut chunk = Chunk { n_rows: counts.len(), ..Chunk::default() };
        chunk.shared.penalty[0] = Addends { counts: counts.to_vec(), values: values[from..at].to_vec() };
        chunk
    };
    let mut chunks: Vec<Chunk> = counts.chunks(CHUNK).map(chunk).collect();
    add_terms(shard, &mut chunks, |chunk| &chunk.shared.penalty[0], |chunk| &mut chunk.sums.sparsity[0])?;
    let mut sum = 0.0;
    chunks.iter().for_each(|chunk| sum += chunk.sums.sparsity[0]);
    Ok(sum)
}

/// Returns codes as the candidates of a level of one chunk.
fn chunk_of(level: usize, own: &Codes) -> Chunk {
    let mut chunk = Chunk { n_rows: own.n(), ..Chunk::default() };
    let list = &mut chunk.candidates[level];
    list.offsets.extend(own.offsets.iter().map(|at| *at as u32));
    list.index.extend_from_slice(&own.index);
    list.u.extend_from_slice(&own.value);
    chunk
}

fn codes_of(list: List) -> Codes {
    let List { offsets, index, u: value, .. } = list;
    Codes { offsets: offsets.iter().map(|at| *at as usize).collect(), index, value }
}

/// Writes the pre-activation of the parent of every ungated pre-activation, which the shard that owns the parent has
/// written; `parents` are the parents of all children.
pub(super) fn parents(shard: &Shard, parents: &[u32], chunks: &mut [Chunk]) -> Result<()> {
    let comm = &*shard.comm;
    let owner = |j: u32| match parents[j as usize] {
        ROOT => None,
        p => (0..comm.size()).find(|rank| owned(shard.latents[0], *rank, comm.size()).contains(&(p as usize))),
    };
    let shared = chunks.iter().map(|chunk| &chunk.shared);
    let pairs = shared.flat_map(|shared| shared.ungated.index.iter().zip(&shared.parents));
    let own: Vec<f32> = pairs.filter(|(j, _)| owner(**j) == Some(comm.rank())).map(|(_, u)| *u).collect();
    let all = comm.gather(&own)?;
    let mut all: Vec<_> = all.iter().map(|all| all.iter()).collect();
    for Shared { ungated, parents, .. } in chunks.iter_mut().map(|chunk| &mut chunk.shared) {
        for (j, u) in ungated.index.iter().zip(parents) {
            if let Some(rank) = owner(*j) {
                *u = *all[rank].next().ok_or_else(short)?;
            }
        }
    }
    Ok(())
}

/// Adds the terms of all shards to one sum per chunk: row by row, and within a row in the order of latents. `terms` has
/// those of this shard: for each row of each chunk their number, and the terms.
pub(super) fn add_terms(
    shard: &Shard,
    chunks: &mut [Chunk],
    terms: impl Fn(&Chunk) -> &Addends,
    sum: impl Fn(&mut Chunk) -> &mut f64,
) -> Result<()> {
    let comm = &*shard.comm;
    let counts: Vec<u32> = chunks.iter().flat_map(|c| terms(c).counts.iter().copied()).collect();
    let values: Vec<f64> = chunks.iter().flat_map(|c| terms(c).values.iter().copied()).collect();
    let (counts, values) = (comm.gather(&counts)?, comm.gather(&values)?);
    let mut readers: Vec<Reader<'_>> = counts.iter().map(|counts| Reader { from: counts }).collect();
    let mut at = vec![0; comm.size()];
    for chunk in chunks {
        let n_rows = chunk.n_rows;
        let sum = sum(chunk);
        for _ in 0..n_rows {
            for ((reader, at), values) in readers.iter_mut().zip(&mut at).zip(&values) {
                let n = reader.word()? as usize;
                let terms = values.get(*at..*at + n).ok_or_else(short)?;
                terms.iter().for_each(|term| *sum += term);
                *at += n;
            }
        }
    }
    Ok(())
}

/// Chunks that are passed on together.
const TOGETHER: usize = 4;

/// Computes sums over the latents of all shards in the vectors `part` of every row, `stride` numbers apart: `add` adds
/// the terms of this shard to a chunk of rows, latents ascending.
pub(super) fn running_sum(
    inputs: &Inputs<'_>,
    chunks: &mut [Chunk],
    rows: &mut [f32],
    stride: usize,
    part: Range<usize>,
    lanes: &mut [Lane],
    add: impl Fn(&mut Chunk, &mut Lane, &mut [f32]) + Sync + Send,
) -> Result<()> {
    let par = inputs.compute.par;
    let width = TOGETHER * CHUNK * stride;
    let n = chunks.len().div_ceil(TOGETHER);
    let end = |at: usize, len: usize| at * width..((at + 1) * width).min(len);
    inputs.shard.comm.chain(
        n,
        &mut (chunks, rows, lanes),
        |(chunks, rows, lanes), at| {
            let chunks = &mut chunks[at * TOGETHER..];
            let n = chunks.len().min(TOGETHER);
            let range = end(at, rows.len());
            par.for_items(lanes, &mut chunks[..n], &mut rows[range], CHUNK * stride, |lane, _, chunk, buffer| {
                add(chunk, lane, buffer);
            });
        },
        |(_, rows, _), at, numbers| {
            numbers.clear();
            rows[end(at, rows.len())].chunks(stride).for_each(|row| numbers.extend_from_slice(&row[part.clone()]));
        },
        |(_, rows, _), at, numbers| {
            let range = end(at, rows.len());
            let rows = rows[range].chunks_mut(stride).map(|row| &mut row[part.clone()]);
            match numbers {
                Some(numbers) if numbers.len() != rows.len() * part.len() => return Err(short()),
                Some(numbers) => rows.zip(numbers.chunks(part.len())).for_each(|(row, from)| row.copy_from_slice(from)),
                None => rows.for_each(|row| row.fill(0.0)),
            }
            Ok(())
        },
    )
}

/// Reads the message of a shard.
pub(super) struct Reader<'a> {
    pub from: &'a [u32],
}

impl<'a> Reader<'a> {
    pub fn word(&mut self) -> Result<u32> {
        self.words(1).map(|words| words[0])
    }

    pub fn words(&mut self, n: usize) -> Result<&'a [u32]> {
        let (words, rest) = self.from.split_at_checked(n).ok_or_else(short)?;
        self.from = rest;
        Ok(words)
    }
}

fn short() -> Error {
    Error::Rank { what: "a rank sent fewer numbers about the rows of a batch than were expected".into() }
}
