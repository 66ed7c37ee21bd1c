//! The truth of a synthetic dump: `truth.json` and `truth.safetensors` beside its rows.
//!
//! `truth.json` is `{"format": "strata-truth", "version": 1, "rows": n, "stored": [first, n], "world": {...}}`: the
//! constants and the seed of the world, of which row `t` is token `t`, so that the truth of any row can be made again.
//! `truth.safetensors` holds, for readers without the generator, `directions` (f32, features x d), `parents` (u32,
//! 4294967295 for none), and the magnitudes of the last rows in CSR form: `indptr` (u64), `index` (u32), `value` (f32).

use crate::dump::Dump;
use crate::dump::world::{DESCRIPTION, Description};
use anyhow::{Context, Result, bail};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use strata_core::metrics::recovery::{Recovery, Truth, recovery};

use strata_core::synth::World;
use strata_core::{Codes, Encoder};

/// The arrays.
const ARRAYS: &str = "truth.safetensors";
/// Most rows whose magnitudes are stored, which are also no more than the tenth that a run holds out by default.
const STORED: u64 = 10_000;
/// Most rows on which a model is scored.
const SCORED: u64 = 20_000;
/// Most magnitudes that are made at once when a model is scored, where that leaves [`LEAST`] rows.
const MAGNITUDES: u64 = 1 << 27;
const LEAST: u64 = 1024;

/// Writes the truth of `rows` tokens of `world`, by `write(name, bytes)` for each file.
///
/// # Errors
/// Those of `write`.
pub fn write(world: &World, rows: u64, mut write: impl FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
    let n = (rows / 10).clamp(1, STORED);
    let (first, d, features) = (rows - n, world.config().d, world.n_features());
    let (mut x, mut a) = (vec![0.0; d], vec![0.0; features]);
    let (mut indptr, mut index, mut value) = (vec![0u64], Vec::<u32>::new(), Vec::<f32>::new());
    for t in first..rows {
        world.sample(t, 1, &mut x, Some(&mut a));
        for (f, &v) in a.iter().enumerate().filter(|(_, v)| **v > 0.0) {
            index.push(f as u32);
            value.push(v);
        }
        indptr.push(index.len() as u64);
    }
    let arrays: [(&str, Dtype, Vec<usize>, &[u8]); 5] = [
        ("directions", Dtype::F32, vec![features, d], bytemuck::cast_slice(world.directions())),
        ("parents", Dtype::U32, vec![features], bytemuck::cast_slice(world.parents())),
        ("indptr", Dtype::U64, vec![indptr.len()], bytemuck::cast_slice(&indptr)),
        ("index", Dtype::U32, vec![index.len()], bytemuck::cast_slice(&index)),
        ("value", Dtype::F32, vec![value.len()], bytemuck::cast_slice(&value)),
    ];
    let views = arrays.into_iter().map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(dtype, shape, bytes)?)));
    let views: Vec<_> = views.collect::<Result<_>>().context(ARRAYS)?;
    write(ARRAYS, &safetensors::serialize(views, None).context(ARRAYS)?)?;
    let description = Description::new(world, rows, first..rows);
    write(DESCRIPTION, format!("{}\n", serde_json::to_string_pretty(&description)?).as_bytes())
}

/// Returns the world of a dump that has a truth; `None` for any other dump.
///
/// # Errors
/// One sentence if `truth.json` is damaged or belongs to another dump.
pub fn open(dump: &Dump) -> Result<Option<World>> {
    let Some(path) = dump.directory().map(|d| d.join(DESCRIPTION)).filter(|p| p.exists()) else { return Ok(None) };
    let found = Description::read(&path)?;
    if (found.rows, found.world.d) != (dump.n_rows(), dump.d()) {
        bail!(
            "{} is the truth of {} rows of width {}, and {} has {} of width {}",
            path.display(),
            found.rows,
            found.world.d,
            dump.name(),
            dump.n_rows(),
            dump.d()
        );
    }
    Ok(Some(World::new(&found.world).with_context(|| path.display().to_string())?))
}

/// Returns the first of the rows `start..end` on which a model is scored: the last ones.
pub fn first_scored(world: &World, start: u64, end: u64) -> u64 {
    let most = SCORED.min(MAGNITUDES / world.n_features().max(1) as u64).max(LEAST);
    end - most.min(end - start)
}

/// Scores a model against the world, given its codes of the tokens `rows`, ascending.
///
/// # Errors
/// As [`recovery`].
pub fn score(world: &World, encoder: &Encoder, rows: &[u64], codes1: &Codes, codes2: &Codes) -> Result<Recovery> {
    let arch = encoder.model().arch;
    let (n, features) = (rows.len(), world.n_features());
    let mut magnitude = vec![0.0; n * features];
    let mut x = vec![0.0; n * arch.d];
    let mut from = 0;
    for run in rows.chunk_by(|a, b| a + 1 == *b) {
        let to = from + run.len();
        let part = &mut magnitude[from * features..to * features];
        world.sample(run[0], run.len(), &mut x[from * arch.d..to * arch.d], Some(part));
        from = to;
    }
    let truth = Truth { directions: world.directions(), parent: world.parents(), magnitude: &magnitude };
    let parents = &encoder.model().parents;
    Ok(recovery(
        arch.d,
        &encoder.model().params.level[0].w_dec,
        encoder.decoder2(),
        &codes1.view(arch.level[0].latents)?,
        &codes2.view(arch.level[1].latents)?,
        &truth,
        (!parents.is_empty()).then_some(&parents[..]),
    )?)
}
