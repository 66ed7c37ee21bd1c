//! A bounded sample of a dump with its codes, for metrics that read rows more than once.

use super::batches::{Pair, magnitudes};
use crate::console::check_interrupt;
use crate::row_filter::{LeftOut, RowFilter};
use anyhow::{Result, bail};
use strata_core::metrics::absorption::{Dictionary, sample};
use strata_core::metrics::probe::{joined, pool, split};
use strata_core::model::{CodesView, Lanes};
use strata_core::{Codes, Encoder, Par};

/// Rows that are read and encoded in one call.
const BLOCK: usize = 1 << 14;
/// In a dump without starts of sequences, this many consecutive rows count as a sequence.
pub const STRETCH: u64 = 128;
/// Share of the blocks of sequences that are used for tests.
const TEST_SHARE: f64 = 0.2;

/// Examples with the codes of both levels: rows, or rows pooled by sequence.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// The row of each example, ascending; for a sequence, its first.
    pub row: Vec<u64>,
    /// `s = sqrt(E||x - mean x||^2 / d)` of the examples, 1 where they do not vary. Rows and codes are divided by it,
    /// since the effect of a probe's penalty depends on the unit.
    pub scale: f64,
    /// The rows that should be reconstructed, `[n, d_out]`, divided by `scale`.
    pub x: Vec<f32>,
    /// Codes of level 1, of level 2, and of both, level 1 first, divided by `scale`.
    pub codes: [Codes; 3],
    /// Codes of both where nothing gates level 2, which then differ from `codes`; none without a tree, or where they were not asked for.
    pub open: Option<Codes>,
    /// `[d_out]`: `b_dec`, divided by `scale`.
    pub centre: Vec<f32>,
    /// Whether an example is used for tests; that is decided for whole blocks of consecutive sequences.
    pub is_test: Vec<bool>,
    /// Number of rows that were drawn and left out.
    pub left_out: LeftOut,
}

impl Sampled {
    /// Draws at most `wanted` of the rows `start..end`, without those that `filter` leaves out; with `opens` also encodes them without
    /// the gate.
    ///
    /// # Errors
    /// If a row cannot be read or is not finite, or if none is left.
    pub fn rows(
        encoder: &Encoder,
        pair: Pair<'_>,
        filter: &RowFilter<'_>,
        (start, end): (u64, u64),
        wanted: usize,
        opens: bool,
        seed: u64,
    ) -> Result<Self> {
        let Pair { input: dump, target } = pair;
        let drawn = sample(start, end, wanted, seed);
        let d = dump.d();
        let (mut row, mut x, mut left_out) = (Vec::new(), Vec::new(), LeftOut::default());
        let (mut codes1, mut codes2, mut open) = (Codes::new(), Codes::new(), Codes::new());
        let opens = opens && !encoder.model().parents.is_empty();
        let mut lanes = Lanes::default();
        for ids in drawn.chunks(BLOCK) {
            let mut ids = ids.to_vec();
            let mut rows = vec![0.0; ids.len() * d];
            dump.read_rows(&ids, &mut rows)?;
            left_out.merge(filter.retain(&mut ids, &mut rows));
            if opens {
                encoder.encode_open_par(Par::Rayon, &rows, &mut lanes, &mut codes1, &mut codes2, &mut open)?;
            } else {
                encoder.encode_par(Par::Rayon, &rows, &mut codes1, &mut codes2)?;
            }
            row.extend(ids);
            x.extend(rows);
            check_interrupt()?;
        }
        if row.is_empty() {
            bail!(
                "the {} rows of {} that were drawn are all left out, as they were in training",
                drawn.len(),
                dump.name()
            );
        }
        if let Some(target) = target {
            x.resize(row.len() * target.d(), 0.0);
            target.read_rows(&row, &mut x)?;
        }
        let sequence: Vec<u64> = match dump.sequence_starts() {
            Some(starts) => row.iter().map(|r| starts.partition_point(|s| s <= r) as u64 - 1).collect(),
            None => row.iter().map(|r| r / STRETCH).collect(),
        };
        let mut sampled = Self::new(encoder, row, x, [codes1, codes2], left_out, &sequence, seed)?;
        if opens {
            let [f1, f2] = encoder.model().arch.latents();
            let inverse = (1.0 / sampled.scale) as f32;
            open.value.iter_mut().for_each(|v| *v *= inverse);
            sampled.open = Some(joined(&sampled.codes[0].view(f1)?, &open.view(f2)?)?);
        }
        Ok(sampled)
    }

    /// Draws at most `wanted` whole sequences of `dump`, each pooled into one example, without the rows that `filter`
    /// leaves out; a sequence without any other row is not an example. `starts` are all sequences. Also returns the
    /// sequences.
    ///
    /// # Errors
    /// If a row cannot be read or is not finite, or if no sequence is left.
    pub fn sequences(
        encoder: &Encoder,
        pair: Pair<'_>,
        filter: &RowFilter<'_>,
        starts: &[u64],
        wanted: usize,
        seed: u64,
    ) -> Result<(Self, Vec<u64>)> {
        let Pair { input: dump, target } = pair;
        let d = pair.reconstructed().d();
        let drawn = sample(0, starts.len() as u64, wanted, seed);
        let (mut chosen, mut left_out) = (Vec::new(), LeftOut::default());
        let arch = encoder.model().arch;
        let (mut row, mut x, mut codes) = (Vec::new(), Vec::new(), [Codes::new(), Codes::new()]);
        for &s in &drawn {
            let start = starts[s as usize];
            let n = (starts.get(s as usize + 1).copied().unwrap_or(dump.n_rows()) - start) as usize;
            let mut rows = vec![0.0; n * dump.d()];
            dump.read_range(start, n, &mut rows)?;
            let mut ids = (start..start + n as u64).collect();
            left_out.merge(filter.retain(&mut ids, &mut rows));
            if rows.is_empty() {
                continue;
            }
            chosen.push(s);
            let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
            encoder.encode_par(Par::Rayon, &rows, &mut codes1, &mut codes2)?;
            if let Some(target) = target {
                rows.resize(ids.len() * d, 0.0);
                target.read_rows(&ids, &mut rows)?;
            }
            let (mean, pooled1) = pool(&rows, d, &codes1.view(arch.level[0].latents)?, &[0])?;
            let (_, pooled2) = pool(&rows, d, &codes2.view(arch.level[1].latents)?, &[0])?;
            row.push(start);
            x.extend(mean);
            codes[0].append(&pooled1);
            codes[1].append(&pooled2);
            check_interrupt()?;
        }
        if chosen.is_empty() {
            bail!("every row of the sequences of {} is left out, as it was in training", dump.name());
        }
        Ok((Self::new(encoder, row, x, codes, left_out, &chosen, seed)?, chosen))
    }

    fn new(
        encoder: &Encoder,
        row: Vec<u64>,
        mut x: Vec<f32>,
        [mut codes1, mut codes2]: [Codes; 2],
        left_out: LeftOut,
        sequence: &[u64],
        seed: u64,
    ) -> Result<Self> {
        let arch = encoder.model().arch;
        magnitudes(encoder, &mut codes1);
        let scale = scale_of(&x, arch.d_out());
        let inverse = (1.0 / scale) as f32;
        let mut centre = encoder.model().params.b_dec.to_vec();
        for values in [&mut x, &mut codes1.value, &mut codes2.value, &mut centre] {
            values.iter_mut().for_each(|v| *v *= inverse);
        }
        let both = joined(&codes1.view(arch.level[0].latents)?, &codes2.view(arch.level[1].latents)?)?;
        // Split the sequences of the sample, so that no sequence has examples in both parts.
        let mut here = sequence.to_vec();
        here.dedup();
        let side = split(here.len(), TEST_SHARE, seed);
        let is_test = sequence.iter().map(|s| here.binary_search(s).is_ok_and(|i| side[i])).collect();
        Ok(Self { row, scale, x, centre, codes: [codes1, codes2, both], open: None, is_test, left_out })
    }

    /// Returns the number of examples.
    pub fn len(&self) -> usize {
        self.row.len()
    }

    /// Returns whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.row.is_empty()
    }

    /// Returns the codes of level 1, of level 2, and of both.
    ///
    /// # Errors
    /// The codes of an encoder cause none.
    pub fn views(&self, encoder: &Encoder) -> Result<[CodesView<'_>; 3]> {
        let arch = encoder.model().arch;
        let [one, two, both] = &self.codes;
        Ok([
            one.view(arch.level[0].latents)?,
            two.view(arch.level[1].latents)?,
            both.view(arch.level[0].latents + arch.level[1].latents)?,
        ])
    }
}

/// Returns `sqrt(E||x - mean x||^2 / d)` of rows, 1 where they do not vary.
fn scale_of(x: &[f32], d: usize) -> f64 {
    let n = (x.len() / d).max(1) as f64;
    let mut mean = vec![0.0f64; d];
    x.chunks_exact(d).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x)));
    mean.iter_mut().for_each(|m| *m /= n);
    let rows = x.chunks_exact(d).flat_map(|row| row.iter().zip(&mean));
    let scale = (rows.map(|(x, m)| (f64::from(*x) - m).powi(2)).sum::<f64>() / (n * d as f64)).sqrt();
    // Its inverse is a finite number in f32.
    if scale.is_normal() { scale.clamp(2f64.powi(-120), 2f64.powi(120)) } else { 1.0 }
}

/// Returns the decoder directions of both levels, level 1 first.
pub fn both_decoders(encoder: &Encoder) -> Vec<f32> {
    [&encoder.model().params.level[0].w_dec[..], encoder.decoder2()].concat()
}

/// Returns the sample in the form that absorption needs; `decoder` is [`both_decoders`].
///
/// # Errors
/// As [`Sampled::views`].
pub fn dictionary<'a>(sampled: &'a Sampled, encoder: &'a Encoder, decoder: &'a [f32]) -> Result<Dictionary<'a>> {
    let model = encoder.model();
    let [_, _, codes] = sampled.views(encoder)?;
    Ok(Dictionary {
        x: &sampled.x,
        d: model.arch.d_out(),
        centre: &sampled.centre,
        codes,
        decoder,
        f1: model.arch.level[0].latents,
    })
}

#[cfg(test)]
mod tests {
    use super::scale_of;

    #[test]
    fn rows_can_be_divided_by_their_scale_whatever_their_size() {
        for size in [0.0, 1e-42, 1e-30, 1.0, 1e38] {
            let rows = [size, -size, 0.5 * size, 0.0];
            let inverse = (1.0 / scale_of(&rows, 2)) as f32;
            assert!(inverse > 0.0 && rows.iter().all(|x| (x * inverse).is_finite()), "{size}: {inverse}");
        }
    }
}
