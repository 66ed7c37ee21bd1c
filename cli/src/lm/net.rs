//! The forward pass over one window of `t` tokens. `h` is its residual stream, of shape (t, d).

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::Module;
use candle_nn::ops::softmax_last_dim;

use super::config::{Activation, Config};
use super::weights::{Affine, Block, Weights};

/// Element-wise work goes to candle in pieces of at most this many numbers.
///
/// From 65,536 numbers on, candle uses one thread pool for the whole process, whatever pool the caller is in: windows
/// on different threads would queue for that pool, which more than doubled the time of a forward pass.
const PIECE: usize = 32_768;

/// Adds token and position embeddings: the residual stream before the first block.
pub fn embed(w: &Weights, ids: &[u32]) -> Result<Tensor> {
    let tokens = w.wte.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
    add(&tokens, &w.wpe.narrow(0, 0, ids.len())?)
}

/// Returns which of `t` tokens (columns) each of them (rows) attends to: itself and those before it.
pub fn causal_mask(t: usize) -> Result<Tensor> {
    Tensor::tril2(t, DType::U8, &Device::Cpu)
}

/// Computes block `layer`: `h + attention(ln_1(h))`, then `h + mlp(ln_2(h))`.
pub fn block(config: &Config, w: &Block, layer: usize, h: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let qkv = affine(&w.ln_1.forward(h)?, &w.attn_in)?;
    let y = attention(&qkv, config.n_head, config.attention_scale(layer), mask)?;
    let h = add(h, &affine(&y, &w.attn_out)?)?;

    let u = affine(&w.ln_2.forward(&h)?, &w.mlp_in)?;
    let u = in_pieces(&u, |_, u| match config.activation {
        Activation::GeluNew => u.gelu(),
        Activation::Gelu => u.gelu_erf(),
        Activation::Relu => u.relu(),
    })?;
    add(&h, &affine(&u, &w.mlp_out)?)
}

/// Returns the logits of rows `h`, of shape (rows, vocab).
pub fn head(w: &Weights, h: &Tensor) -> Result<Tensor> {
    w.ln_f.forward(h)?.matmul(&w.head)
}

/// Computes attention from the queries, keys and values of each token, which its row holds one after the other: shape
/// (t, 3 * d) to (t, d).
fn attention(qkv: &Tensor, n_head: usize, scale: f32, mask: &Tensor) -> Result<Tensor> {
    let (t, width) = qkv.dims2()?;
    let qkv = qkv.reshape((t, 3, n_head, width / 3 / n_head))?;
    // Shape (n_head, t, d / n_head): a view, which a product accepts as it is.
    let part = |i| qkv.narrow(1, i, 1)?.squeeze(1)?.transpose(0, 1);
    let scores = part(0)?.matmul(&part(1)?.t()?)?.affine(f64::from(scale), 0.0)?;
    let never = Tensor::new(f32::NEG_INFINITY, &Device::Cpu)?.broadcast_as(scores.shape())?;
    let scores = mask.broadcast_as(scores.shape())?.where_cond(&scores, &never)?;
    softmax_last_dim(&scores)?.matmul(&part(2)?)?.transpose(0, 1)?.flatten_from(1)
}

/// `x W + b`
fn affine(x: &Tensor, a: &Affine) -> Result<Tensor> {
    in_pieces(&x.matmul(&a.w)?, |_, y| y.broadcast_add(&a.b))
}

/// `x + y`, of the same shape.
fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    in_pieces(x, |from, x| x + y.narrow(0, from, x.dim(0)?)?)
}

/// Applies `f(from, rows of x from there on)` to a few rows at a time; see [`PIECE`].
fn in_pieces(x: &Tensor, f: impl Fn(usize, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let n = x.dim(0)?;
    let step = (PIECE / x.dim(D::Minus1)?).max(1);
    let piece = |from| f(from, &x.narrow(0, from, step.min(n - from))?);
    let pieces: Vec<_> = (0..n).step_by(step).map(piece).collect::<Result<_>>()?;
    Tensor::cat(&pieces, 0)
}
