//! What level 2 reads: every decision about a [`Source`].

use crate::choice::choices;
use crate::entry::{CodeRow, EntryRow};
use crate::kernel::{Isa, sparse};
use alloc::vec::Vec;

choices! {
    /// What level 2 reads.
    Source {
        /// The centred activations, beside level 1.
        X = "x",
        /// The residual of level 1.
        Res = "res",
        /// The latents of level 1.
        Z1 = "z1",
    }
}

impl Source {
    /// Returns the width of a row that level 2 reads, for activations of width `d` and `f1` latents of level 1.
    pub const fn width(self, d: usize, f1: usize) -> usize {
        match self {
            Self::X | Self::Res => d,
            Self::Z1 => f1,
        }
    }

    /// Returns whether level 2 reads the same rows as level 1, so that neither waits for the other.
    pub const fn is_parallel(self) -> bool {
        match self {
            Self::X => true,
            Self::Res | Self::Z1 => false,
        }
    }

    /// Returns whether level 2 reads vectors in the space of the activations, not codes.
    pub const fn is_activations(self) -> bool {
        match self {
            Self::X | Self::Res => true,
            Self::Z1 => false,
        }
    }

    /// Returns what level 2 reads before the residual switch (`source_start`), for a source that has one.
    pub const fn before_switch(self) -> Option<Self> {
        match self {
            Self::Res => Some(Self::X),
            Self::X | Self::Z1 => None,
        }
    }

    /// Returns whether the decoder of level 1 takes part in what level 2 reads, so that the gradient `dL/dS` of each row
    /// reaches it. With `detach` no gradient flows that way.
    pub const fn reaches_decoder1(self, detach: bool) -> bool {
        match self {
            Self::Res => !detach,
            Self::X | Self::Z1 => false,
        }
    }

    /// Writes what level 2 reads, `(n, width)`, from the centred rows `xt`, `(n, d)`, and the latents of level 1 of each. `d1`
    /// are level 1's decoder rows, `(f1, d)`.
    pub(crate) fn fill<'c>(
        self,
        isa: Isa,
        d1: &[f32],
        xt: &[f32],
        d: usize,
        z1: impl Fn(usize) -> CodeRow<'c>,
        s: &mut [f32],
    ) {
        let n = xt.len() / d;
        match self {
            Self::X => s.copy_from_slice(xt),
            Self::Res => {
                for (i, (row, xt)) in s.chunks_mut(d).zip(xt.chunks(d)).enumerate() {
                    let code = z1(i);
                    row.fill(0.0);
                    sparse::accumulate_rows(isa, code.index, code.value, d1, d, row);
                    for (r, &x) in row.iter_mut().zip(xt) {
                        *r = x - *r;
                    }
                }
            }
            Self::Z1 => {
                let f1 = (s.len() / n.max(1)).max(1);
                s.fill(0.0);
                for (i, row) in s.chunks_mut(f1).enumerate() {
                    let code = z1(i);
                    for (&j, &z) in code.index.iter().zip(code.value) {
                        row[j as usize] = z;
                    }
                }
            }
        }
    }

    /// Adds to `dL/dz1` of a row the gradient that comes through level 2's encoder, from `dL/da2`.
    ///
    /// ```text
    /// res  dS = da2 W2,  dz1_i -= dS . D1_i        (nothing with `detach`)
    /// z1   dz1_i += sum_j da2_j W2_ji
    /// ```
    pub(crate) fn backward(self, by: Backward<'_>, one: &mut EntryRow<'_>, two: &EntryRow<'_>) {
        let Backward { isa, w2, d1, f1, detach, grad_s, row } = by;
        match self {
            Self::X => {}
            Self::Res if detach => {}
            Self::Res => {
                let d = grad_s.len();
                grad_s.fill(0.0);
                sparse::accumulate_rows(isa, two.index, two.grad_a, w2, d, grad_s);
                row.resize(one.index.len(), 0.0);
                sparse::dot_rows(isa, one.index, d1, d, grad_s, row);
                for (grad, dot) in one.grad_z[1].iter_mut().zip(row.iter()) {
                    *grad -= dot;
                }
            }
            Self::Z1 => {
                for (grad, &i) in one.grad_z[1].iter_mut().zip(one.index) {
                    let mut sum = 0.0f32;
                    for (&j, da) in two.index.iter().zip(two.grad_a.iter()) {
                        sum += da * w2[j as usize * f1 + i as usize];
                    }
                    *grad += sum;
                }
            }
        }
    }

    /// Adds `sum_b da_bj s_b`, the gradient of one encoder row of level 2, from the entries of its latent. `z1` gives level 1's
    /// latents on the row of an entry.
    pub(crate) fn add_encoder_row<'c>(self, by: EncoderRow<'_>, z1: impl Fn(u32) -> CodeRow<'c>, out: &mut [f32]) {
        let EncoderRow { isa, at, grad, xt, r1, stride } = by;
        match self {
            Self::X => sparse::accumulate_strided(isa, at, grad, xt, stride, out),
            Self::Res => sparse::accumulate_strided(isa, at, grad, r1, stride, out),
            Self::Z1 => {
                for (&at, &grad) in at.iter().zip(grad) {
                    let code = z1(at);
                    for (&i, &z) in code.index.iter().zip(code.value) {
                        out[i as usize] = libm::fmaf(grad, z, out[i as usize]);
                    }
                }
            }
        }
    }
}

/// What the gradient of one encoder row of level 2 reads.
pub(crate) struct EncoderRow<'a> {
    pub isa: Isa,
    /// The rows of the latent's entries.
    pub at: &'a [u32],
    /// `dL/da` of the entries.
    pub grad: &'a [f32],
    /// What the encoder of level 1 reads, rows `stride` numbers apart.
    pub xt: &'a [f32],
    /// Residuals of level 1, likewise.
    pub r1: &'a [f32],
    /// Numbers from the start of a row to the start of the next.
    pub stride: usize,
}

/// What the backward pass of a source reads and works in.
pub(crate) struct Backward<'a> {
    pub isa: Isa,
    /// Encoder rows of level 2, `(f2, width)`.
    pub w2: &'a [f32],
    /// Decoder rows of level 1, `(f1, d)`.
    pub d1: &'a [f32],
    /// Latents of level 1.
    pub f1: usize,
    /// No gradient flows through the residual.
    pub detach: bool,
    /// `(d)`: `dL/dS` is written here where [`Source::reaches_decoder1`]; else empty.
    pub grad_s: &'a mut [f32],
    /// Scratch of one number per entry.
    pub row: &'a mut Vec<f32>,
}
