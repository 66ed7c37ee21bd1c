//! Working memory of encoding.

use super::on_device::Memory;
use super::{Arch, Codes, TopkBy, hierarchy, prune};
use crate::config::ModelKind;
use crate::kernel::aligned::Aligned;
use crate::kernel::fire::{self, RowLists};
use alloc::vec;
use alloc::vec::Vec;

/// Number of rows of one dense product.
pub(crate) const CHUNK: usize = 64;
/// Number of rows that are encoded together: with more rows, a weight that was read is used more often.
pub(super) const BLOCK: usize = 16 * CHUNK;

/// Working memory for one block of rows; reused from block to block.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    /// Most rows of a block.
    pub(super) rows: usize,
    /// `(rows, d)`: centred rows.
    pub(crate) xt: Aligned,
    /// `(rows, source width)`: what level 2 reads.
    pub(crate) s: Aligned,
    /// `(f1)`: latents of level 1 of the seed model.
    pub(super) h1: Vec<f32>,
    /// `(CHUNK, f2)`: ungated pre-activations of level 2, where its gate reads all of them.
    pub(crate) a2: Vec<f32>,
    /// `(f2)`: gate of one row.
    pub(crate) g2: Vec<f32>,
    /// `(f2)`: gated pre-activations of one row.
    pub(crate) u2: Vec<f32>,
    /// Working memory of the fused encoder, and the latents that it found.
    pub(crate) fire: fire::Scratch,
    pub(crate) lists: RowLists,
    /// Negated rows and lists, where latents compete by absolute value.
    pub(super) minus: Aligned,
    pub(super) below: RowLists,
    /// Working memory of a hard gate.
    pub(crate) hierarchy: hierarchy::Scratch,
    pub(super) prune: prune::Scratch,
    /// The codes of the block that was encoded last.
    pub(super) codes: [Codes; 2],
    /// The codes of level 2 without its gate of the block that was encoded last with them.
    pub(super) open: Codes,
    /// Working memory of a device.
    pub(super) device: Memory,
}

impl Scratch {
    /// Makes working memory for models of this architecture, in blocks of 1,024 rows.
    pub fn new(arch: &Arch) -> Self {
        Self::for_rows(arch, BLOCK)
    }

    /// Makes working memory for blocks of `rows` rows: smaller blocks need less memory, and read the weights more often.
    ///
    /// # Panics
    /// If `rows` is 0.
    pub fn for_rows(arch: &Arch, rows: usize) -> Self {
        assert!(rows > 0, "blocks of no rows");
        Self::with_ungated(arch, rows, if arch.gate.has_weights() { arch.level[1].latents } else { 0 })
    }

    /// Makes working memory for one chunk of the forward pass of training.
    pub(crate) fn of_chunk(arch: &Arch) -> Self {
        let dense = arch.gate.is_dense_in_training();
        Self::with_ungated(arch, CHUNK, if dense { arch.level[1].latents } else { 0 })
    }

    fn with_ungated(arch: &Arch, rows: usize, f2: usize) -> Self {
        let source = if arch.level[1].latents > 0 { rows * arch.source_width() } else { 0 };
        Self {
            rows,
            xt: Aligned::zeros(rows * arch.d),
            minus: Aligned::zeros(if arch.variant.topk_by == TopkBy::Absolute { rows * arch.d } else { 0 }),
            s: Aligned::zeros(source),
            h1: vec![0.0; if arch.model == ModelKind::Seed { arch.level[0].latents } else { 0 }],
            a2: vec![0.0; CHUNK * f2],
            g2: vec![0.0; f2],
            u2: vec![0.0; f2],
            ..Self::default()
        }
    }

    /// Returns the number of pairs of a row and a latent that encoding has computed so far. The pairs of a soft gate,
    /// which reads every ungated pre-activation, are not counted.
    pub fn work(&self) -> fire::Work {
        self.fire.work
    }

    /// Returns the codes of both levels of the block that was encoded last.
    pub fn codes(&self) -> &[Codes; 2] {
        &self.codes
    }
}

/// Working memory for each thread that encodes ([`Encoder::encode_par_in`](super::Encoder::encode_par_in)).
#[derive(Clone, Debug, Default)]
pub struct Lanes {
    pub(super) arch: Option<Arch>,
    pub(super) scratch: Vec<Scratch>,
    /// The codes of both levels, and of level 2 without its gate where they were asked for, of consecutive rows each. Those from
    /// `used` on are left from a call with more rows.
    pub(super) parts: Vec<[Codes; 3]>,
    pub(super) used: usize,
    /// Rows that were widened.
    pub(super) wide: Vec<f32>,
    /// Working memory of a device.
    pub(super) device: Memory,
}

impl Lanes {
    /// Returns the codes of both levels that [`Encoder::encode_in`](super::Encoder::encode_in) has left, of consecutive rows each.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = [&Codes; 2]> {
        self.parts[..self.used].iter().map(|[codes1, codes2, _]| [codes1, codes2])
    }

    /// Appends the codes of all parts.
    pub(super) fn append_to(&self, codes: [&mut Codes; 2]) {
        for (level, codes) in codes.into_iter().enumerate() {
            let parts = || self.parts().map(|part| part[level]);
            codes.reserve(parts().map(Codes::n).sum(), parts().map(|part| part.index.len()).sum());
            parts().for_each(|part| codes.append(part));
        }
    }
}
