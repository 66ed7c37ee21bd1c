//! Held-out rows during and right after training: FVU, L0 and dead latents, and the speed of encoding.

use crate::dump::Dump;
use crate::ranks::Reading;
use crate::row_filter::{LeftOut, RowFilter};
use crate::run::Run;
use anyhow::Result;
use std::path::Path;
use std::time::Instant;
use strata_core::train::Trainer;
use strata_core::{Codes, Isa, Par};

/// Rows per call of the encoder.
const BLOCK: usize = 4096;

/// Rows that are in memory at a time.
const PART: usize = 512;

/// Rows that training never sees.
pub struct HeldOut {
    start: u64,
    /// Number of rows from `start` on over which those that are scored are spread.
    span: u64,
    n: usize,
}

/// The scores of a model on held-out rows, with the rule of inference.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Watched {
    /// Rows that were scored.
    pub rows: u64,
    /// Rows that were not scored, since training leaves them out.
    pub left_out: LeftOut,
    /// Fraction of variance unexplained of each level; NaN for rows that are all equal.
    pub fvu: [f64; 2],
    /// The same over all rows, those that were left out included.
    pub fvu_of_all: [f64; 2],
    /// Mean number of latents that fire per row, of each level.
    pub l0: [f64; 2],
    /// Share of the latents of each level that fire on none of the rows; NaN for a level without latents.
    pub dead: [f64; 2],
}

/// Sums over rows, in `f64`.
struct Sums {
    rows: u64,
    mean: Vec<f64>,
    total: f64,
    sse: [f64; 2],
}

impl Sums {
    fn new(d: usize) -> Self {
        Self { rows: 0, mean: vec![0.0; d], total: 0.0, sse: [0.0; 2] }
    }

    fn fvu(&self) -> [f64; 2] {
        self.sse.map(|sse| if self.total > 0.0 { sse / self.total } else { f64::NAN })
    }
}

impl HeldOut {
    /// Returns up to `most` of the held-out rows, in parts that are spread over all of them: rows at one end may be those
    /// of a few documents. Where there are none, the last training rows.
    pub fn watched(n_train: u64, n_rows: u64, most: u64) -> Self {
        if n_rows > n_train {
            let span = n_rows - n_train;
            return Self { start: n_train, span, n: span.min(most) as usize };
        }
        let n = n_rows.min(most);
        Self { start: n_rows - n, span: n, n: n as usize }
    }

    /// Returns the first row and the number of rows of each part.
    fn parts(&self) -> impl Iterator<Item = (u64, usize)> {
        let gaps = self.n.div_ceil(PART).saturating_sub(1).max(1) as u64;
        let spare = self.span - self.n as u64;
        (0..self.n)
            .step_by(PART)
            .zip(0..)
            .map(move |(first, part)| (self.start + first as u64 + spare * part / gaps, PART.min(self.n - first)))
    }

    /// Scores a trainer on the rows that `filter` keeps, and on all of them. `target` is what a transcoder should reconstruct.
    ///
    /// # Errors
    /// If a row cannot be read or is not finite, or another rank has ended; all ranks call this together.
    pub fn watch(
        &self,
        dump: &Dump,
        target: Option<&Dump>,
        trainer: &Trainer,
        filter: &RowFilter<'_>,
        reading: &Reading,
    ) -> Result<Watched> {
        // On normalised rows, so that the encoder shares the weights of the trainer and copies nothing.
        let model = trainer.inference()?;
        let (d_in, d) = (dump.d(), target.unwrap_or(dump).d());
        let mut x = vec![0.0; self.n.min(PART) * d_in];
        let mut y = vec![0.0; if target.is_some() { self.n.min(PART) * d } else { 0 }];
        // Normalised rows that should be reconstructed; of an autoencoder those that it reads.
        let wanted = |first: u64, n: usize, y: &mut [f32]| -> Result<()> {
            let (Some(target), Some(normalisation)) = (target, trainer.target()) else { return Ok(()) };
            reading.fill(&mut y[..n * d], |y| target.read_range(first, n, y))?;
            normalisation.apply(&mut y[..n * d]);
            Ok(())
        };
        let (mut kept, mut all) = (Sums::new(d), Sums::new(d));
        let mut left_out = LeftOut::default();
        // Whether each row is scored.
        let mut keeps = Vec::with_capacity(self.n);
        for (first, n) in self.parts() {
            let x = &mut x[..n * d_in];
            reading.fill(x, |x| dump.read_range(first, n, x))?;
            for (i, row) in x.chunks(d_in).enumerate() {
                let reason = filter.reason(first + i as u64, row);
                reason.into_iter().for_each(|r| left_out.count(r));
                keeps.push(reason.is_none());
            }
            trainer.normalisation().apply(x);
            wanted(first, n, &mut y)?;
            let rows = if target.is_some() { &y[..n * d] } else { &*x };
            for (row, keeps) in rows.chunks(d).zip(&keeps[keeps.len() - n..]) {
                for sums in if *keeps { vec![&mut kept, &mut all] } else { vec![&mut all] } {
                    sums.rows += 1;
                    sums.mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v));
                }
            }
        }
        for sums in [&mut kept, &mut all] {
            let n = sums.rows as f64;
            sums.mean.iter_mut().for_each(|m| *m /= n);
        }
        let mut fires = model.latents().map(|f| vec![0u64; f]);
        let size = self.n.min(PART) * d;
        let (mut hat1, mut hat2) = (vec![0.0; size], vec![0.0; size]);
        for (part, (first, n)) in self.parts().enumerate() {
            let x = &mut x[..n * d_in];
            reading.fill(x, |x| dump.read_range(first, n, x))?;
            trainer.normalisation().apply(x);
            wanted(first, n, &mut y)?;
            let codes = model.encode(x)?;
            let (hat1, hat2) = (&mut hat1[..n * d], &mut hat2[..n * d]);
            model.decode(x, &codes, hat1, hat2)?;
            let rows = if target.is_some() { &y[..n * d] } else { &*x };
            for i in 0..n {
                let row = i * d..(i + 1) * d;
                let keeps = keeps[part * PART + i];
                for sums in if keeps { vec![&mut kept, &mut all] } else { vec![&mut all] } {
                    for ((at, m), (h1, h2)) in
                        row.clone().zip(&sums.mean).zip(hat1[row.clone()].iter().zip(&hat2[row.clone()]))
                    {
                        let v = f64::from(rows[at]);
                        sums.total += (v - m).powi(2);
                        sums.sse[0] += (f64::from(*h1) - v).powi(2);
                        sums.sse[1] += (f64::from(*h2) - v).powi(2);
                    }
                }
                if keeps {
                    for (fires, codes) in fires.iter_mut().zip(&codes) {
                        let code = codes.row(i);
                        let on = code.index.iter().zip(code.value).filter(|(_, z)| **z > 0.0);
                        on.for_each(|(j, _)| fires[*j as usize] += 1);
                    }
                }
            }
        }
        Ok(Watched {
            rows: kept.rows,
            left_out,
            fvu: kept.fvu(),
            fvu_of_all: all.fvu(),
            l0: fires.each_ref().map(|f| f.iter().sum::<u64>() as f64 / kept.rows as f64),
            dead: fires.map(|f| f.iter().filter(|n| **n == 0).count() as f64 / f.len() as f64),
        })
    }
}

/// Returns the tokens per second that the finished run encodes, over at least one block of held-out rows.
///
/// # Errors
/// If the run or a row cannot be read.
pub fn encode_speed(dump: &Dump, n_train: u64, n_rows: u64, run: &Path, isa: Isa) -> Result<f64> {
    let encoder = Run::open(run)?.encoder(isa)?;
    let held_out = HeldOut::watched(n_train, n_rows, BLOCK as u64);
    let mut x = vec![0.0; held_out.n * dump.d()];
    dump.read_range(held_out.start, held_out.n, &mut x)?;
    let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
    let started = Instant::now();
    encoder.encode_par(Par::Rayon, &x, &mut codes1, &mut codes2)?;
    Ok(held_out.n as f64 / started.elapsed().as_secs_f64().max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_spread_over_all_held_out_rows_and_do_not_overlap() {
        for (n_train, n_rows, most) in
            [(1000, 21_000, 4096), (0, 4096, 4096), (10, 4200, 4096), (10, 700, 4096), (9, 10, 64)]
        {
            let held_out = HeldOut::watched(n_train, n_rows, most);
            let parts = Vec::from_iter(held_out.parts());
            assert_eq!(parts.iter().map(|(_, n)| *n as u64).sum::<u64>(), most.min(n_rows - n_train), "rows");
            assert_eq!(parts[0].0, n_train, "from the first");
            let (last, n) = parts[parts.len() - 1];
            assert!(parts.len() == 1 || last + n as u64 == n_rows, "to the last: {parts:?}");
            assert!(parts.windows(2).all(|w| w[0].0 + w[0].1 as u64 <= w[1].0), "apart: {parts:?}");
        }
        let none = Vec::from_iter(HeldOut::watched(5000, 5000, 1000).parts());
        assert_eq!(none, [(4000, 512), (4512, 488)], "the last rows of the training");
    }
}
