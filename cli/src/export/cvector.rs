//! Control vectors of llama.cpp: decoder directions that are added to the residual stream after a block.
//!
//! A GGUF file without a model: the metadata of its kind, and for each block a tensor `direction.BLOCK` of f32. llama.cpp adds it,
//! times the number that stands behind the file on its command line, to the output of that block for every token
//! (`--control-vector-scaled FILE:SCALE`). It has none for block 0.

use crate::addend::Addend;
use crate::console::Console;
use crate::files::write_atomic;
use crate::lm::hook::{Hook, Point};
use crate::run::Run;
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::path::Path;
use strata_core::kernel::reduce;
use strata_core::row_norm::RowNorm;
use strata_core::{Compute, Encoder, Isa, Par};

/// The kind of file, as llama.cpp names it.
const ARCHITECTURE: &str = "controlvector";
/// Tensors begin at multiples of so many bytes.
const ALIGNMENT: usize = 32;
/// The types of values and tensors that are written.
const U32: u32 = 4;
const STRING: u32 = 8;
const F32: u32 = 0;

/// What is written where.
pub struct Job<'a> {
    /// The run.
    pub run: &'a Run,
    /// The latents; one that is named twice is added twice.
    pub addends: &'a [Addend],
    /// The hook point, in place of that of the run.
    pub hook: Option<&'a str>,
    /// The language model, for people.
    pub model: Option<&'a str>,
    /// The file to write.
    pub out: &'a Path,
}

/// The file that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Written {
    /// The block after which llama.cpp adds the vector, counted from 0.
    pub block: usize,
    /// The width of the residual stream.
    pub d: usize,
    /// The length of the vector.
    pub norm: f64,
}

/// Writes the sum of decoder directions, times their strengths, as a control vector.
///
/// # Errors
/// One sentence: for a model whose latents do not add to the residual stream after a block above the first, for a latent that it
/// does not have, or where the file cannot be written.
pub fn export(job: &Job<'_>, console: &mut Console<'_>) -> Result<Written> {
    let run = job.run;
    let shown = run.dir.display();
    ensure!(!job.addends.is_empty(), "--add: expected at least one latent, as --add 1:109+6");
    ensure!(
        run.model.arch.variant.target.is_none(),
        "{shown}: a transcoder's latents do not add to the rows that it reads"
    );
    ensure!(
        run.model.arch.variant.row_norm == RowNorm::None,
        "{shown}: it normalises rows one by one, so that what a latent adds depends on the row, and is no one vector"
    );
    let name = job.hook.or(run.origin.hook.as_deref());
    let name = name.with_context(|| {
        format!("{shown} does not say its hook point: name the block, as --hook blocks.14.hook_resid_post")
    })?;
    let block = block_of(name)?;
    let compute = Compute::new(Isa::detect(), Par::Rayon);
    let encoder = Encoder::new(run.model.clone(), compute)?;
    let d = run.model.arch.d;
    let mut sum = vec![0.0f32; d];
    for addend in job.addends {
        let row = encoder.decoder_row(addend.level as usize, addend.latent)?;
        reduce::axpy(encoder.isa(), addend.strength, row, &mut sum);
    }
    ensure!(sum.iter().all(|x| x.is_finite()), "--add: the strengths are so large that the vector is not finite");
    write_atomic(job.out, &file(block, job.model.or(run.origin.model.as_deref()), &sum))?;
    let norm = sum.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    console.note(format!(
        "a control vector of length {norm:.3} after block {block}: llama.cpp adds it with --control-vector {}",
        job.out.display()
    ));
    Ok(Written { block, d, norm })
}

/// Returns the block after which the rows of a hook point are taken.
fn block_of(name: &str) -> Result<usize> {
    let hook = Hook::parse(name, &[("model.layers.{}", Point::ResidPost)]);
    let hook = hook.with_context(|| format!("hook point {name}"))?;
    let block = match hook.point {
        Point::ResidPost => Some(hook.layer),
        Point::ResidPre => hook.layer.checked_sub(1),
        _ => {
            bail!("{name}: llama.cpp adds to the residual stream after a block alone, as at blocks.14.hook_resid_post")
        }
    };
    match block {
        Some(block) if block > 0 => Ok(block),
        _ => bail!("{name}: llama.cpp has no control vector for block 0 or before it"),
    }
}

/// Returns the bytes of the file.
fn file(block: usize, model: Option<&str>, direction: &[f32]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    let metadata = 2 + u64::from(model.is_some());
    out.extend(1u64.to_le_bytes());
    out.extend(metadata.to_le_bytes());
    text(&mut out, "general.architecture");
    out.extend(STRING.to_le_bytes());
    text(&mut out, ARCHITECTURE);
    if let Some(model) = model {
        text(&mut out, "controlvector.model_hint");
        out.extend(STRING.to_le_bytes());
        text(&mut out, model);
    }
    text(&mut out, "controlvector.layer_count");
    out.extend(U32.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    // The one tensor: its name, its dimensions, its type, and where it begins behind the header.
    text(&mut out, &format!("direction.{block}"));
    out.extend(1u32.to_le_bytes());
    out.extend((direction.len() as u64).to_le_bytes());
    out.extend(F32.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out.extend(direction.iter().flat_map(|x| x.to_le_bytes()));
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

/// Appends a text with its length.
fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
