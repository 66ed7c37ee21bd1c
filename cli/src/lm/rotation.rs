//! Rotates queries and keys by their position.

use candle_core::{Device, Result, Tensor};
use candle_nn::rotary_emb::{rope_i, rope_thd};

use super::config::Rope;

/// A rotation of the positions of a window.
pub struct Rotation {
    /// (t, pairs)
    cos: Tensor,
    sin: Tensor,
    is_interleaved: bool,
}

impl Rotation {
    /// Returns the rotation of positions `0..t`.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn new(rope: &Rope, t: usize) -> Result<Self> {
        let (cos, sin) = rope.tables(t);
        let table = |v| Tensor::from_vec(v, (t, rope.frequencies.len()), &Device::Cpu);
        Ok(Self { cos: table(cos)?, sin: table(sin)?, is_interleaved: rope.interleaved })
    }

    /// Returns `x`, (t, heads, head_dim), with the first numbers of each head rotated.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn turn(&self, x: &Tensor) -> Result<Tensor> {
        let (t, _, width) = x.dims3()?;
        let (cos, sin) = (self.cos.narrow(0, 0, t)?, self.sin.narrow(0, 0, t)?);
        let dims = 2 * cos.dim(1)?;
        let turned = x.narrow(2, 0, dims)?.contiguous()?.unsqueeze(0)?;
        let turned = if self.is_interleaved {
            rope_i(&turned.transpose(1, 2)?.contiguous()?, &cos, &sin)?.transpose(1, 2)?
        } else {
            rope_thd(&turned, &cos, &sin)?
        };
        let turned = turned.squeeze(0)?;
        if dims == width { Ok(turned) } else { Tensor::cat(&[turned, x.narrow(2, dims, width - dims)?], 2) }
    }
}
