//! Decoding: from codes to the reconstruction of rows.

use super::{Arch, CodeRow, Codes, Encoder};
use crate::config::ModelKind;
use crate::error::{Error, Result};
use crate::kernel::{reduce, sparse};
use crate::row_norm::RowNorm;

impl Encoder {
    /// Decodes codes of both levels of the rows `x`, `(n, d)`, as [`Encoder::decode`] does, and adds what depends on
    /// the rows: it undoes their own normalisation and adds the skip connection. `x_hat1` and `x_hat2` are `(n,
    /// d_out)`.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Index`] as of [`Encoder::decode`].
    pub fn decode_of(
        &self,
        x: &[f32],
        codes1: &Codes,
        codes2: &Codes,
        x_hat1: &mut [f32],
        x_hat2: &mut [f32],
    ) -> Result<()> {
        let (d, d_out) = (self.model().arch.d, self.model().arch.d_out());
        if x.len() != codes1.n() * d {
            return Err(Error::Shape { what: "numbers in the rows", expected: codes1.n() * d, got: x.len() });
        }
        self.check_codes(codes1, codes2, x_hat1, x_hat2)?;
        let hats = x_hat1.chunks_mut(d_out).zip(x_hat2.chunks_mut(d_out));
        for ((i, row), (hat1, hat2)) in x.chunks(d).enumerate().zip(hats) {
            self.decode_row(codes1.row(i), codes2.row(i), hat1, hat2);
            self.finish_row(row, hat1, hat2);
        }
        Ok(())
    }

    /// Completes the decoded row: undoes the normalisation of the row `x` and adds the skip connection. Does nothing
    /// unless [`Variant::needs_input`](super::Variant::needs_input).
    ///
    /// # Panics
    /// If `x` is not `(d)`.
    pub fn finish_row(&self, x: &[f32], x_hat1: &mut [f32], x_hat2: &mut [f32]) {
        let Arch { d, variant, .. } = self.model().arch;
        assert_eq!(x.len(), d, "a row of another width");
        for hat in [x_hat1, x_hat2] {
            if variant.row_norm != RowNorm::None {
                variant.row_norm.of(x).undo(hat);
            }
            if variant.skip {
                let skip = self.model().params.w_skip.chunks_exact(d);
                hat.iter_mut().zip(skip).for_each(|(y, w)| *y += reduce::dot(self.isa(), w, x));
            }
        }
    }

    /// Decodes codes of both levels: `x_hat1 = b_dec + z1 D1` and `x_hat2` as the architecture says, each `(n, d_out)`.
    ///
    /// A flat model has `x_hat2 = x_hat1`. The seed has no level-1 reconstruction of its own; its `x_hat1` is
    /// `h1 D1 + b_dec`, the reading that its documentation shows to be meaningless.
    ///
    /// # Errors
    /// [`Error::Shape`] if the four do not have the same number of rows, [`Error::Index`] if a latent is out of range;
    /// nothing is written then. [`Error::Config`] if the reconstruction depends on the rows too: see
    /// [`Encoder::decode_of`].
    pub fn decode(&self, codes1: &Codes, codes2: &Codes, x_hat1: &mut [f32], x_hat2: &mut [f32]) -> Result<()> {
        if self.model().arch.variant.needs_input() {
            return Err(Error::config(
                "decode",
                "expected the rows beside the codes: this model's reconstruction needs them",
            ));
        }
        self.check_codes(codes1, codes2, x_hat1, x_hat2)?;
        let d_out = self.model().arch.d_out();
        for (i, (hat1, hat2)) in x_hat1.chunks_mut(d_out).zip(x_hat2.chunks_mut(d_out)).enumerate() {
            self.decode_row(codes1.row(i), codes2.row(i), hat1, hat2);
        }
        Ok(())
    }

    fn check_codes(&self, codes1: &Codes, codes2: &Codes, x_hat1: &[f32], x_hat2: &[f32]) -> Result<()> {
        let [f1, f2] = self.model().arch.latents();
        let (n, d) = (codes1.n(), self.model().arch.d_out());
        for (what, got) in
            [("rows of codes of level 2", codes2.n() * d), ("x_hat1", x_hat1.len()), ("x_hat2", x_hat2.len())]
        {
            if got != n * d {
                return Err(Error::Shape { what, expected: n * d, got });
            }
        }
        for (what, codes, len) in [("latent of level 1", codes1, f1), ("latent of level 2", codes2, f2)] {
            if let Some(&j) = codes.index.iter().find(|&&j| j as usize >= len) {
                return Err(Error::Index { what, index: j as usize, len });
            }
        }
        Ok(())
    }

    /// Decodes the codes of one row; [`Encoder::finish_row`] completes its reconstruction.
    ///
    /// # Panics
    /// If a latent is out of range, or if an output is not `(d_out)`.
    pub fn decode_row(&self, z1: CodeRow<'_>, z2: CodeRow<'_>, x_hat1: &mut [f32], x_hat2: &mut [f32]) {
        let Arch { model, decoder, .. } = self.model().arch;
        let [_, f2] = self.model().arch.latents();
        let (d, isa, params) = (self.model().arch.d_out(), self.isa(), &self.model().params);
        x_hat1.copy_from_slice(&params.b_dec);
        sparse::accumulate_rows(isa, z1.index, z1.value, &params.level[0].w_dec, d, x_hat1);
        let cumulative = f2 == 0 || decoder.is_cumulative();
        x_hat2.copy_from_slice(if cumulative { x_hat1 } else { &params.b_dec });
        if model == ModelKind::Seed {
            for (j, &e) in params.b_dec2.iter().enumerate() {
                reduce::axpy(isa, e, &params.level[0].w_dec[j * d..(j + 1) * d], x_hat2);
            }
        }
        if f2 > 0 {
            sparse::accumulate_rows(isa, z2.index, z2.value, self.decoder2(), d, x_hat2);
        }
    }
}
