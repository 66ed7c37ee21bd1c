//! An SAE of the decoder: whether the directions of a dictionary are themselves sparse sums of fewer directions (Leask
//! et al. 2025, arXiv 2502.04878).

use crate::console::check_interrupt;
use anyhow::Result;
use serde::Serialize;
use std::sync::Arc;
use strata_core::config::{Config, GateKind};
use strata_core::normalise::Normalisation;
use strata_core::rng::Philox;
use strata_core::train::Trainer;
use strata_core::{Codes, Compute, Encoder, Isa, Par, RowOrder};

/// Directions per latent of the meta-SAE, as in the paper (49,152 to 2,304).
const DIRECTIONS_PER_LATENT: usize = 21;
/// L0 of the meta-SAE.
const K: f64 = 4.0;
/// Number of steps of its training.
const STEPS: u64 = 1000;
/// Rows per step.
const BATCH: usize = 256;
/// The random stream of the directions of the control.
const STREAM: u64 = 0x6d65_7461 << 32;

/// A meta-SAE and its control.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Meta {
    /// Directions it was trained on.
    pub directions: usize,
    /// Its latents.
    pub latents: usize,
    /// Mean number of its latents that fire on a direction.
    pub l0: f64,
    /// `1 - ||D - D_hat||^2 / ||D - mean D||^2` over the directions it was trained on. At most 1, lower is better, the
    /// null is `random`; higher: the dictionary is made of fewer parts. SAEBench calls `1 -` this the score.
    pub explained: f64,
    /// The same for random directions, as many: what 1,000 steps can memorise.
    pub random: f64,
}

/// Trains a flat BatchTopK SAE of `n / 21` latents and L0 4 on the `n` rows of `decoder`. Returns `None` for fewer than
/// eight latents.
///
/// # Errors
/// If Ctrl-C was pressed, or the directions do not vary.
pub fn meta_sae(decoder: &[f32], d: usize, seed: u64, isa: Isa) -> Result<Option<Meta>> {
    let mut kept: Vec<f32> = decoder.chunks(d).filter(|r| r.iter().any(|w| *w != 0.0)).flatten().copied().collect();
    normalise_rows(&mut kept, d);
    let n = kept.len() / d;
    let latents = n / DIRECTIONS_PER_LATENT;
    if latents < 8 {
        return Ok(None);
    }
    let mut rng = Philox::new(seed, STREAM);
    let mut random: Vec<f32> = (0..kept.len()).map(|_| rng.normal_f32()).collect();
    normalise_rows(&mut random, d);
    let (found, null) = rayon::join(|| fit(&kept, d, latents, seed, isa), || fit(&random, d, latents, seed, isa));
    let ((explained, l0), (random, _)) = (found?, null?);
    Ok(Some(Meta { directions: n, latents, l0, explained, random }))
}

/// Trains on `rows` and returns the explained share and the L0. It runs on one thread, since the steps are too small
/// for more.
fn fit(rows: &[f32], d: usize, latents: usize, seed: u64, isa: Isa) -> Result<(f64, f64)> {
    let mut config = Config { seed, ..Config::default() };
    (config.level1.latents, config.level1.k) = (latents, K);
    config.level2.latents = 0;
    config.gate.kind = GateKind::None;
    (config.train.steps, config.train.batch) = (STEPS, BATCH);
    let n = rows.len() / d;
    // The default number of rows would be many passes over so few directions.
    config.revive.dead_after = 10 * n as u64;
    let normalisation = Normalisation::measure(isa, rows, d, &config.data)?;
    let mut normalised = rows.to_vec();
    normalisation.apply(&mut normalised);
    let mut trainer = Trainer::new(&config, normalisation, &normalised, Compute::new(isa, Par::Seq))?;
    let order = RowOrder::new(seed, n as u64, 1, n as u64);
    let (mut ids, mut batch, mut cursor) = (vec![0; BATCH], vec![0.0; BATCH * d], 0);
    for _ in 0..STEPS {
        order.fill(cursor, &mut ids);
        cursor += BATCH as u64;
        for (&id, out) in ids.iter().zip(batch.chunks_mut(d)) {
            out.copy_from_slice(&normalised[id as usize * d..][..d]);
        }
        trainer.step(&batch)?;
        check_interrupt()?;
    }
    let encoder = Encoder::new(Arc::new(trainer.model()), Compute::new(isa, Par::Seq))?;
    let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
    encoder.encode_par(Par::Seq, rows, &mut codes1, &mut codes2)?;
    let (mut hat1, mut hat2) = (vec![0.0; rows.len()], vec![0.0; rows.len()]);
    encoder.decode(&codes1, &codes2, &mut hat1, &mut hat2)?;
    let mut fidelity = strata_core::metrics::fidelity::Fidelity::new(d);
    fidelity.add(rows, &hat1, &hat1)?;
    Ok((1.0 - fidelity.report().level1.fvu, codes1.index.len() as f64 / n as f64))
}

/// Divides each row by its norm, so that none has more weight than another.
fn normalise_rows(rows: &mut [f32], d: usize) {
    for row in rows.chunks_mut(d) {
        let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt();
        row.iter_mut().for_each(|w| *w /= norm);
    }
}
