//! Encoding alone, with weights in 8 bits that are used where they lie: in flash, or in a mapped file.

use super::stored::{Bytes, Stored};
use super::{Arch, Encoder, Model, Scratch, SharedBytes};
use crate::compute::Compute;
use crate::config::ModelKind;
use crate::error::{Error, Result};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

/// The encoder of one level in 8 bits: row `j` has the weights `scales[j] q`, with `q` the signed bytes of the row.
#[derive(Clone, Debug, Default)]
pub struct PackedWeights {
    /// The place of the integers, `(f, width)`, in the shared bytes.
    pub range: Range<usize>,
    /// `(f)`: the scale of each row.
    pub scales: Vec<f32>,
}

/// A model that only encodes. Its encoders stay in shared bytes, and it has no decoders: in memory are the scales, the
/// families, and what a [`Scratch`] for as many rows as the caller wants takes.
///
/// The codes have the bits of an [`Encoder`] of the model with the weights `scale q`, and of one with
/// [`WeightType::Int8`](super::WeightType::Int8) of the model that was rounded to them.
///
/// Models whose encoder reads a decoder are refused: level 2 of the residual (`source = "res"`), and pruned latents.
#[derive(Clone, Debug)]
pub struct Packed(Encoder);

/// The tensors that it does not have, or has in another place.
const ABSENT: [&str; 4] = ["level1.w_enc", "level2.w_enc", "level1.w_dec", "level2.w_dec"];

impl Packed {
    /// Makes the encoder of `model`, whose encoder and decoder rows are not read, and of the encoders in `bytes`.
    ///
    /// # Errors
    /// [`Error::Config`] for a model whose encoder reads a decoder, and for the seed model; [`Error::Shape`] for encoders of
    /// another shape than the architecture has; otherwise what [`Model::check`] finds.
    pub fn new(model: Model, bytes: &SharedBytes, encoders: [PackedWeights; 2], compute: Compute) -> Result<Self> {
        let arch = &model.arch;
        let reads_decoder = arch.n_levels() == 2 && arch.source.reaches_decoder1(false);
        for (key, is_refused, expected, found) in [
            ("model", arch.model == ModelKind::Seed, "tree", arch.model.to_string()),
            ("source", reads_decoder, "x or z1, since a packed model has no decoders", arch.source.to_string()),
            ("prune", arch.variant.prune != [0.0; 2], "0, since a packed model has no decoders", "a share".to_string()),
        ] {
            if is_refused {
                return Err(Error::config(key, alloc::format!("expected {expected}, found {found}")));
            }
        }
        model.check_without(&ABSENT)?;
        let specs = arch.specs();
        let len = (**bytes).as_ref().len();
        for (level, spec) in encoders.iter().zip(&specs.level) {
            for (what, expected, got) in [
                ("weights in 8 bits", spec.w_enc.len(), level.range.len()),
                ("scales of weights in 8 bits", spec.w_enc.rows, level.scales.len()),
            ] {
                if got != expected {
                    return Err(Error::Shape { what, expected, got });
                }
            }
            if level.range.end > len {
                return Err(Error::Index { what: "weights in 8 bits", index: level.range.end, len });
            }
        }
        let stored =
            encoders.map(|PackedWeights { range, scales }| (Bytes::Shared { bytes: bytes.clone(), range }, scales));
        Ok(Self(Encoder::assemble(Arc::new(model), Stored::Int8(stored), compute)?))
    }

    /// Returns the architecture.
    #[must_use]
    pub fn arch(&self) -> &Arch {
        &self.0.model.arch
    }

    /// Returns the parent of every child, empty without families.
    #[must_use]
    pub fn parents(&self) -> &[u32] {
        &self.0.model.parents
    }

    /// Makes working memory for blocks of `rows` rows, with which [`Packed::encode_block`] allocates nothing.
    ///
    /// # Panics
    /// If `rows` is 0.
    #[must_use]
    pub fn scratch(&self, rows: usize) -> Scratch {
        Scratch::for_rows(self.arch(), rows).reserved(&self.0)
    }

    /// Encodes up to a block of rows and leaves their codes in the scratch, as [`Encoder::encode_block`] does.
    ///
    /// # Errors
    /// As [`Encoder::encode_block`].
    pub fn encode_block(&self, x: &[f32], scratch: &mut Scratch) -> Result<()> {
        self.0.encode_block(x, scratch)
    }
}
