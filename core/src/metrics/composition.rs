//! Composition of the two levels: co-activation counts, the learned tree, and the gain of each child.

use alloc::vec;
use alloc::vec::Vec;

use super::check_parents;
use super::fixed::{self, FixedSum};
use crate::gate::ROOT;
use crate::kernel::{Isa, wide};
use crate::model::CodesView;
use crate::{Error, Result};

mod edges;
mod gated;
mod null;
mod report;

pub use edges::{EdgeBlocks, EdgeIntervals};
pub use gated::{GatedChild, GatedReport};
pub use null::CompositionNull;
pub use report::{Child, CompositionReport, Parent};

/// Most entries of the co-activation table (512 MiB).
pub const MAX_PAIRS: usize = 1 << 27;
/// An edge is real if its lift exceeds this and its containment exceeds [`REAL_CONTAINMENT`].
pub const REAL_LIFT: f64 = 2.0;
/// See [`REAL_LIFT`].
pub const REAL_CONTAINMENT: f64 = 0.8;

/// Streaming co-activation counts of the two levels, and the families of a learned tree.
///
/// Counts of level 2 without its gate ([`crate::Encoder::encode_open_par`]) measure what the children have learned:
/// [`Composition::report`], [`Composition::null`]. Behind a hard gate `P(parent | child)` is 1 whatever the parents
/// are, and every lift is `1 / P(parent)`, so counts of the gated codes describe what the model does, and do not show
/// whether the parents are the right ones: [`Composition::gated`].
///
/// Integer counts, and gains in fixed point ([`FixedSum`]): the report depends on the tokens alone, not on their order,
/// nor on blocks, nor on how they are split among accumulators that are merged.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Composition {
    parent: Vec<u32>,
    f1: usize,
    tokens: u64,
    fires1: Vec<u64>,
    fires2: Vec<u64>,
    /// `[f2, f1]`: `N_ij` at `j * f1 + i`.
    together: Vec<u32>,
    /// `[f1]`: tokens on which some child fires.
    any_child: Vec<u64>,
    /// `[f1]`: tokens on which exactly one child fires.
    one_child: Vec<u64>,
    /// `[f1]`: tokens on which the parent and some child fire.
    covered: Vec<u64>,
    /// `[f2]`: the gain of each child, see [`GatedChild::gain`].
    gain: Vec<FixedSum>,
    /// Whether all blocks came with errors, so that there are gains.
    gained: bool,
}

/// Input of the gains: the error of level 2 on a block, and the decoder.
#[derive(Clone, Copy, Debug)]
pub struct Errors<'a> {
    /// `x_hat2 - x`, `[n, d]` row-major.
    pub error: &'a [f32],
    /// `[f2, d]` row-major.
    pub decoder2: &'a [f32],
    /// Width of a row, not 0.
    pub d: usize,
}

impl Composition {
    /// Makes empty counts. `parent` has an entry for each latent of level 2.
    ///
    /// # Errors
    /// [`Error::Index`] for a parent that is neither below `f1` nor [`ROOT`]; [`Error::Config`] for more than
    /// [`MAX_PAIRS`] pairs of latents.
    pub fn new(f1: usize, parent: &[u32]) -> Result<Self> {
        check_parents("learned parents", parent, f1)?;
        let f2 = parent.len();
        let size = pairs(f1, f2)?;
        Ok(Self {
            parent: parent.to_vec(),
            f1,
            tokens: 0,
            fires1: vec![0; f1],
            fires2: vec![0; f2],
            together: vec![0; size],
            any_child: vec![0; f1],
            one_child: vec![0; f1],
            covered: vec![0; f1],
            gain: vec![FixedSum::default(); f2],
            gained: true,
        })
    }

    /// Adds a block. Without `errors` in some block there are no gains.
    ///
    /// # Errors
    /// [`Error::Shape`] where sizes disagree, [`Error::Capacity`] for more than `2^32 - 1` tokens,
    /// [`Error::NotFinite`] if a gain would not be finite, [`Error::Range`] if it would be over [`fixed::LIMIT`];
    /// nothing is added then.
    pub fn add(&mut self, codes1: &CodesView<'_>, codes2: &CodesView<'_>, errors: Option<Errors<'_>>) -> Result<()> {
        let (n, f1, f2) = (codes1.tokens(), self.f1, self.parent.len());
        let (error, decoder) = errors.map_or(((0, 0), (0, 0)), |e| {
            ((n.saturating_mul(e.d), e.error.len()), (f2.saturating_mul(e.d), e.decoder2.len()))
        });
        for (what, expected, got) in [
            ("latents of the codes of level 1", f1, codes1.latents()),
            ("latents of the codes of level 2", f2, codes2.latents()),
            ("tokens of the codes of level 2", n, codes2.tokens()),
            ("errors of level 2", error.0, error.1),
            ("decoder of level 2", decoder.0, decoder.1),
        ] {
            if expected != got {
                return Err(Error::Shape { what, expected, got });
            }
        }
        self.check_room(self.tokens + n as u64)?;
        let gains = self.gains(codes2, errors)?;
        for (j, gain) in gains {
            self.gain[j].add(gain);
        }
        self.gained &= errors.is_some() || n == 0;
        let (mut children, mut families) = (vec![0u32; f1], Vec::new());
        for t in 0..n {
            for (j, _) in codes2.active(t) {
                self.fires2[j] += 1;
                codes1.active(t).for_each(|(i, _)| self.together[j * f1 + i] += 1);
                if self.parent[j] != ROOT {
                    let p = self.parent[j] as usize;
                    if children[p] == 0 {
                        families.push(p);
                    }
                    children[p] += 1;
                }
            }
            for (i, _) in codes1.active(t) {
                self.fires1[i] += 1;
                self.covered[i] += u64::from(children[i] > 0);
            }
            for p in families.drain(..) {
                self.any_child[p] += 1;
                self.one_child[p] += u64::from(children[p] == 1);
                children[p] = 0;
            }
        }
        self.tokens += n as u64;
        Ok(())
    }

    /// Returns the gain of every active latent of level 2 on a block; none without errors.
    fn gains(&self, codes2: &CodesView<'_>, errors: Option<Errors<'_>>) -> Result<Vec<(usize, f64)>> {
        let Some(Errors { error, decoder2, d }) = errors else { return Ok(Vec::new()) };
        let (mut gains, isa) = (Vec::new(), Isa::default());
        let mut squares = vec![f64::NAN; self.parent.len()];
        for t in 0..codes2.tokens() {
            let e = &error[t * d..(t + 1) * d];
            for (j, z) in codes2.active(t) {
                let row = &decoder2[j * d..(j + 1) * d];
                if squares[j].is_nan() {
                    squares[j] = wide::sum_squares(isa, row);
                }
                let z = f64::from(z);
                let gain = z * (z * squares[j] - 2.0 * wide::dot(isa, e, row));
                fixed::check("gain of a child", gain, self.tokens + t as u64)?;
                gains.push((j, gain));
            }
        }
        Ok(gains)
    }

    /// Checks that counts of 32 bits can hold `tokens` tokens.
    fn check_room(&self, tokens: u64) -> Result<()> {
        if tokens > u64::from(u32::MAX) {
            let (needed, got) = (usize::try_from(tokens).unwrap_or(usize::MAX), u32::MAX as usize);
            return Err(Error::Capacity { what: "tokens in a co-firing table", needed, got });
        }
        Ok(())
    }

    /// Adds the tokens of `other`.
    ///
    /// # Errors
    /// [`Error::Capacity`] for more than `2^32 - 1` tokens together; nothing is added then.
    ///
    /// # Panics
    /// If the levels or parents differ.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        assert!(self.f1 == other.f1 && self.parent == other.parent, "merged accumulators must be of one tree");
        self.check_room(self.tokens + other.tokens)?;
        self.tokens += other.tokens;
        self.gained &= other.gained;
        self.together.iter_mut().zip(&other.together).for_each(|(a, b)| *a += b);
        self.gain.iter_mut().zip(&other.gain).for_each(|(a, b)| a.merge(b));
        for (a, b) in [
            (&mut self.fires1, &other.fires1),
            (&mut self.fires2, &other.fires2),
            (&mut self.any_child, &other.any_child),
            (&mut self.one_child, &other.one_child),
            (&mut self.covered, &other.covered),
        ] {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
        Ok(())
    }

    /// Returns the number of tokens on which each latent of level 1 fires, and each one of level 2.
    pub fn fires(&self) -> (&[u64], &[u64]) {
        (&self.fires1, &self.fires2)
    }

    /// Returns `N_ij`: the number of tokens on which `i` of level 1 and `j` of level 2 fire together.
    ///
    /// # Panics
    /// If `i` or `j` is out of range.
    pub fn together(&self, i: usize, j: usize) -> u32 {
        assert!(i < self.f1, "latent {i} of level 1 is outside of 0..{}", self.f1);
        self.together[j * self.f1 + i]
    }
}

/// Returns the number of entries of a co-activation table.
pub(super) fn pairs(f1: usize, f2: usize) -> Result<usize> {
    f1.checked_mul(f2).filter(|n| *n <= MAX_PAIRS).ok_or_else(|| {
        Error::config("f1 * f2", alloc::format!("expected at most {MAX_PAIRS} pairs of latents, found {f1} x {f2}"))
    })
}
