//! A bounded sample of a dump with its codes, for what needs rows more than once.

use crate::console::check_interrupt;
use crate::dump::Dump;
use anyhow::Result;
use strata_core::metrics::absorption::{Dictionary, sample};
use strata_core::metrics::probe::{joined, pool, split};
use strata_core::model::CodesView;
use strata_core::{Codes, Encoder, Par};

/// Rows that are read together.
const BLOCK: usize = 1 << 14;
/// Rows of a stretch, where a dump does not say its sequences.
const STRETCH: u64 = 128;
/// Share of the stretches that are tested on.
const TEST_SHARE: f64 = 0.2;

/// Examples with the codes of both levels: rows, or rows pooled by sequence.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// The row of each example, ascending; of a sequence, its first.
    pub row: Vec<u64>,
    /// `[n, d]`.
    pub x: Vec<f32>,
    /// Level 1, level 2, and both: level 1 first.
    pub codes: [Codes; 3],
    /// Whether an example is tested on: whole stretches of sequences are.
    pub is_test: Vec<bool>,
}

impl Sampled {
    /// At most `wanted` of the rows `start..end`.
    ///
    /// # Errors
    /// If a row cannot be read or is not finite.
    pub fn rows(encoder: &Encoder, dump: &Dump, start: u64, end: u64, wanted: usize, seed: u64) -> Result<Self> {
        let row = sample(start, end, wanted, seed);
        let d = dump.d();
        let mut x = vec![0.0; row.len() * d];
        let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
        for (ids, x) in row.chunks(BLOCK).zip(x.chunks_mut(BLOCK * d)) {
            dump.read_rows(ids, x)?;
            encoder.encode_par(Par::Rayon, x, &mut codes1, &mut codes2)?;
            check_interrupt()?;
        }
        let sequence: Vec<u64> = match dump.sequence_starts() {
            Some(starts) => row.iter().map(|r| starts.partition_point(|s| s <= r) as u64 - 1).collect(),
            None => row.iter().map(|r| r / STRETCH).collect(),
        };
        Self::new(encoder, row, x, [codes1, codes2], &sequence, seed)
    }

    /// At most `wanted` whole sequences of `dump`, each pooled into one example. `starts` are all sequences.
    ///
    /// # Errors
    /// If a row cannot be read or is not finite.
    pub fn sequences(
        encoder: &Encoder,
        dump: &Dump,
        starts: &[u64],
        wanted: usize,
        seed: u64,
    ) -> Result<(Self, Vec<u64>)> {
        let chosen = sample(0, starts.len() as u64, wanted, seed);
        let arch = encoder.model().arch;
        let (mut row, mut x, mut codes) = (Vec::new(), Vec::new(), [Codes::new(), Codes::new()]);
        for &s in &chosen {
            let start = starts[s as usize];
            let n = (starts.get(s as usize + 1).copied().unwrap_or(dump.n_rows()) - start) as usize;
            let mut rows = vec![0.0; n * dump.d()];
            dump.read_range(start, n, &mut rows)?;
            let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
            encoder.encode_par(Par::Rayon, &rows, &mut codes1, &mut codes2)?;
            let (mean, pooled1) = pool(&rows, dump.d(), &codes1.view(arch.level[0].latents)?, &[0])?;
            let (_, pooled2) = pool(&rows, dump.d(), &codes2.view(arch.level[1].latents)?, &[0])?;
            row.push(start);
            x.extend(mean);
            codes[0].append(&pooled1);
            codes[1].append(&pooled2);
            check_interrupt()?;
        }
        Ok((Self::new(encoder, row, x, codes, &chosen, seed)?, chosen))
    }

    fn new(
        encoder: &Encoder,
        row: Vec<u64>,
        x: Vec<f32>,
        [codes1, codes2]: [Codes; 2],
        sequence: &[u64],
        seed: u64,
    ) -> Result<Self> {
        let arch = encoder.model().arch;
        let both = joined(&codes1.view(arch.level[0].latents)?, &codes2.view(arch.level[1].latents)?)?;
        // The split is over the sequences that are here, in order.
        let mut here = sequence.to_vec();
        here.dedup();
        let side = split(here.len(), TEST_SHARE, seed);
        let is_test = sequence.iter().map(|s| here.binary_search(s).is_ok_and(|i| side[i])).collect();
        Ok(Self { row, x, codes: [codes1, codes2, both], is_test })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.row.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.row.is_empty()
    }

    /// The codes of level 1, of level 2, and of both.
    ///
    /// # Errors
    /// None that an encoder's own codes could cause.
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

/// The decoder directions of both levels, level 1 first.
pub fn both_decoders(encoder: &Encoder) -> Vec<f32> {
    [&encoder.model().params.level[0].w_dec[..], encoder.decoder2()].concat()
}

/// The sample as absorption wants it; `decoder` is [`both_decoders`].
///
/// # Errors
/// As [`Sampled::views`].
pub fn dictionary<'a>(sampled: &'a Sampled, encoder: &'a Encoder, decoder: &'a [f32]) -> Result<Dictionary<'a>> {
    let model = encoder.model();
    let [_, _, codes] = sampled.views(encoder)?;
    Ok(Dictionary {
        x: &sampled.x,
        d: model.arch.d,
        centre: &model.params.b_dec,
        codes,
        decoder,
        f1: model.arch.level[0].latents,
    })
}
