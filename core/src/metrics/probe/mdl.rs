//! Description length: the bits that the codes of a token need.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use crate::metrics::exact::ExactSum;
use crate::model::CodesView;
use crate::{Error, Result};

/// Number of bin widths that a report is made for: the finest, and each twice the one before.
pub const STEPS: usize = 8;
/// Values must be less than this many of the finest bins.
pub const MAX_BINS: u32 = 1 << 24;

/// Streaming histograms of the values of every latent, in bins of equal width.
///
/// Integer counts and exact sums: merged parts equal the whole to the bit. Memory: that of the bins that occur.
#[derive(Clone, Debug)]
pub struct Mdl {
    /// Width of the finest bins.
    step: f64,
    tokens: u64,
    /// Number of values in each of the finest bins, per latent.
    bins: Vec<BTreeMap<u32, u64>>,
    /// Sum of the squared errors of rounding to bins, per width.
    error: [ExactSum; STEPS],
}

/// The bits at one width of the bins.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct MdlPoint {
    /// Width of a bin, in units of the activations (decoder rows have norm 1).
    pub step: f64,
    /// `sum_j p_j H(bin of z_j | j on)`: bits per token for the values. 0 and up, lower is better at equal error.
    pub value_bits: f64,
    /// `on_off_bits + value_bits`.
    pub bits: f64,
    /// `sum_tokens sum_j (z_j - middle of its bin)^2 / N`: what rounding to bins adds to the squared error of a token,
    /// without the products of different latents, which have mean 0 if their errors are independent.
    pub squared_error: f64,
}

/// The description length of the codes of a level.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct MdlReport {
    /// Tokens seen.
    pub tokens: u64,
    /// `sum_j H(p_j)`, `p_j` the share of tokens on which `j` is on: bits per token to say which latents are on, each
    /// coded by itself. 0 and up, lower is better at equal error. 0 for a latent that is always or never on; NaN
    /// without tokens.
    pub on_off_bits: f64,
    /// From the finest bins to the coarsest.
    pub points: Vec<MdlPoint>,
}

/// Returns the width of bins that adds about `share` of the variance to the squared error: `sqrt(12 share variance /
/// l0)`, since a uniform error in a bin has the variance `step^2 / 12` and `l0` latents are on.
pub fn step_for(share: f64, variance: f64, l0: f64) -> f64 {
    libm::sqrt(12.0 * share * variance / l0)
}

impl Mdl {
    /// Makes an empty accumulator; `step` is the width of the finest bins.
    ///
    /// # Errors
    /// [`Error::Config`] for a step that is not above 0 and at most 1e30.
    pub fn new(latents: usize, step: f64) -> Result<Self> {
        if !(step > 0.0 && step <= 1e30) {
            return Err(Error::config("step", alloc::format!("expected more than 0, up to 1e30, found {step}")));
        }
        Ok(Self { step, tokens: 0, bins: vec![BTreeMap::new(); latents], error: Default::default() })
    }

    /// Adds a block.
    ///
    /// # Errors
    /// [`Error::Shape`] for codes over another number of latents, [`Error::Capacity`] for a value of [`MAX_BINS`] steps
    /// or more (infinity is one); nothing is added then.
    pub fn add(&mut self, codes: &CodesView<'_>) -> Result<()> {
        if codes.latents() != self.bins.len() {
            return Err(Error::Shape { what: "latents of the codes", expected: self.bins.len(), got: codes.latents() });
        }
        let tokens = codes.tokens();
        let entries = || (0..tokens).flat_map(|t| codes.active(t)).map(|(j, z)| (j, f64::from(z)));
        if let Some((_, z)) = entries().find(|(_, z)| z / self.step >= f64::from(MAX_BINS)) {
            let needed = libm::ceil((z / self.step).min(1e18)) as usize;
            return Err(Error::Capacity { what: "bins of the values of a latent", needed, got: MAX_BINS as usize });
        }
        for (j, z) in entries() {
            let bin = (z / self.step) as u32;
            *self.bins[j].entry(bin).or_default() += 1;
            for (c, error) in self.error.iter_mut().enumerate() {
                let width = self.step * f64::from(1u32 << c);
                let off = z - (f64::from(bin >> c) + 0.5) * width;
                error.add(off * off);
            }
        }
        self.tokens += tokens as u64;
        Ok(())
    }

    /// Adds the tokens of `other`.
    ///
    /// # Panics
    /// If latents or steps differ.
    pub fn merge(&mut self, other: &Self) {
        assert!(self.step == other.step && self.bins.len() == other.bins.len(), "merged histograms must be alike");
        self.tokens += other.tokens;
        for (a, b) in self.bins.iter_mut().zip(&other.bins) {
            b.iter().for_each(|(bin, n)| *a.entry(*bin).or_default() += n);
        }
        self.error.iter_mut().zip(&other.error).for_each(|(a, b)| a.merge(b));
    }

    /// Returns the description length of the tokens added.
    pub fn report(&self) -> MdlReport {
        let n = self.tokens as f64;
        let fires: Vec<u64> = self.bins.iter().map(|b| b.values().sum()).collect();
        let on_off_bits = match self.tokens {
            0 => f64::NAN,
            all => fires.iter().map(|&on| entropy([on, all - on].into_iter(), all)).sum(),
        };
        let points = (0..STEPS).map(|c| {
            let mut value_bits = 0.0;
            for (bins, &on) in self.bins.iter().zip(&fires).filter(|(_, on)| **on > 0) {
                let (mut merged, mut last) = (Vec::new(), None);
                for (bin, count) in bins {
                    if last == Some(bin >> c) {
                        *merged.last_mut().expect("a bin before") += count;
                    } else {
                        merged.push(*count);
                        last = Some(bin >> c);
                    }
                }
                value_bits += on as f64 / n * entropy(merged.into_iter(), on);
            }
            let value_bits = if self.tokens == 0 { f64::NAN } else { value_bits };
            MdlPoint {
                step: self.step * f64::from(1u32 << c),
                value_bits,
                bits: on_off_bits + value_bits,
                squared_error: self.error[c].value() / n,
            }
        });
        MdlReport { tokens: self.tokens, on_off_bits, points: points.collect() }
    }
}

/// Returns `-sum p log2 p` of counts that add up to `total`.
fn entropy(counts: impl Iterator<Item = u64>, total: u64) -> f64 {
    let total = total as f64;
    let bits = counts.filter(|c| *c > 0).map(|c| {
        let p = c as f64 / total;
        -p * libm::log2(p)
    });
    // A certain outcome would have -0.
    bits.sum::<f64>().max(0.0)
}
