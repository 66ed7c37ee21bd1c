//! Held-out rows during and right after training: FVU, and the speed of encoding.

use crate::dump::Dump;
use crate::run::Run;
use anyhow::Result;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use strata_core::train::Trainer;
use strata_core::{Codes, Compute, Encoder, Isa, Par};

/// Rows that one call of the encoder takes.
const BLOCK: usize = 4096;

/// Rows that are held in memory at a time.
const PART: usize = 512;

/// Rows that training never sees.
pub struct HeldOut {
    start: u64,
    n: usize,
}

impl HeldOut {
    /// The first `most` held-out rows; without any, the last rows of training.
    pub fn watched(dump: &Dump, n_train: u64, n_rows: u64, most: u64) -> Self {
        let _ = dump;
        if n_rows > n_train {
            return Self { start: n_train, n: (n_rows - n_train).min(most) as usize };
        }
        let n = n_rows.min(most);
        Self { start: n_rows - n, n: n as usize }
    }

    /// Normalised rows from `first` of those held out on.
    fn rows<'x>(&self, dump: &Dump, trainer: &Trainer, first: u64, x: &'x mut [f32]) -> Result<&'x [f32]> {
        dump.read_range(self.start + first, x.len() / dump.d(), x)?;
        trainer.normalisation().apply(x);
        Ok(x)
    }

    /// Fraction of variance unexplained of both levels, with the rule of inference.
    ///
    /// # Errors
    /// If a row cannot be read or is not finite.
    pub fn fvu(&self, dump: &Dump, trainer: &Trainer, isa: Isa) -> Result<[f64; 2]> {
        // On normalised rows: the weights are then the trainer's own, not a copy.
        let encoder = Encoder::new(Arc::new(trainer.model_unfolded()), Compute::new(isa, Par::Rayon))?;
        let d = dump.d();
        let mut x = vec![0.0; self.n.min(PART) * d];
        let parts = || (0..self.n).step_by(PART).map(|first| (first as u64, PART.min(self.n - first)));
        let mut mean = vec![0.0f64; d];
        for (first, n) in parts() {
            let x = self.rows(dump, trainer, first, &mut x[..n * d])?;
            x.chunks(d).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v)));
        }
        mean.iter_mut().for_each(|m| *m /= self.n as f64);
        let (mut total, mut sse) = (0.0f64, [0.0f64; 2]);
        let (mut hat1, mut hat2) = (x.clone(), x.clone());
        for (first, n) in parts() {
            let x = self.rows(dump, trainer, first, &mut x[..n * d])?;
            let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
            encoder.encode_par(Par::Rayon, x, &mut codes1, &mut codes2)?;
            let (hat1, hat2) = (&mut hat1[..n * d], &mut hat2[..n * d]);
            encoder.decode(&codes1, &codes2, hat1, hat2)?;
            for (i, &v) in x.iter().enumerate() {
                let v = f64::from(v);
                total += (v - mean[i % d]).powi(2);
                sse[0] += (f64::from(hat1[i]) - v).powi(2);
                sse[1] += (f64::from(hat2[i]) - v).powi(2);
            }
        }
        Ok(sse.map(|s| s / total))
    }
}

/// Tokens a second that the finished run encodes, over at least one block of held-out rows.
///
/// # Errors
/// If the run or a row cannot be read.
pub fn encode_speed(dump: &Dump, n_train: u64, n_rows: u64, run: &Path, isa: Isa) -> Result<f64> {
    let encoder = Run::open(run)?.encoder(isa)?;
    let held_out = HeldOut::watched(dump, n_train, n_rows, BLOCK as u64);
    let mut x = vec![0.0; held_out.n * dump.d()];
    dump.read_range(held_out.start, held_out.n, &mut x)?;
    let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
    let started = Instant::now();
    encoder.encode_par(Par::Rayon, &x, &mut codes1, &mut codes2)?;
    Ok(held_out.n as f64 / started.elapsed().as_secs_f64().max(1e-9))
}
