//! Steering: adding decoder directions to rows.

use super::{CodeRow, Encoder};
use crate::error::{Error, Result};
use crate::kernel::reduce;

/// A change of one latent in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edit {
    /// 1 or 2.
    pub level: usize,
    /// The latent within its level.
    pub latent: u32,
    /// What is added to the latent, or what it becomes.
    pub strength: f32,
    /// Whether the latent becomes `strength`; otherwise `strength` is added to it.
    pub set: bool,
}

impl Encoder {
    /// Returns the decoder direction of a latent of level 1 or 2 in the space of the reconstruction, `(d_out)`.
    ///
    /// # Errors
    /// [`Error::Config`] for another level, [`Error::Index`] for a latent that the level does not have.
    pub fn decoder_row(&self, level: usize, latent: u32) -> Result<&[f32]> {
        let rows = match level {
            1 => &self.model().params.level[0].w_dec[..],
            2 => self.decoder2(),
            _ => return Err(Error::config("level", alloc::format!("expected 1 or 2, found {level}"))),
        };
        let d = self.model().arch.d_out();
        let row = rows.chunks_exact(d).nth(latent as usize);
        row.ok_or(Error::Index { what: "latent", index: latent as usize, len: rows.len() / d })
    }

    /// `x += sum_e (strength_e - z_e) D_e` over the edits that set their latent, and `strength_e D_e` over all others;
    /// in the units of rows that the model normalises one by one. The other latents keep the part of the row that they
    /// do not explain.
    ///
    /// `codes` are those of both levels of the row; without them every `z_e` is taken as 0, which is right if no edit
    /// sets its latent.
    ///
    /// # Errors
    /// As [`Encoder::decoder_row`].
    pub fn steer_row(
        &self,
        edits: impl Iterator<Item = Edit>,
        codes: Option<[CodeRow<'_>; 2]>,
        x: &mut [f32],
    ) -> Result<()> {
        // Latents of rows that are normalised one by one are in units of the normalised row.
        let size = self.model().arch.variant.row_norm.of(x).size();
        for edit in edits {
            let direction = self.decoder_row(edit.level, edit.latent)?;
            let mut alpha = edit.strength;
            if edit.set
                && let Some(codes) = codes
            {
                let code = codes[edit.level - 1];
                alpha -= code.index.binary_search(&edit.latent).map_or(0.0, |e| code.value[e]);
            }
            reduce::axpy(self.isa(), alpha * size, direction, x);
        }
        Ok(())
    }
}
