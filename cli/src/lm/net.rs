//! The forward pass over one window of `t` tokens. `h` is its residual stream, of shape (t, d).

use candle_core::{D, Device, Result, Tensor};

use super::block::{Affine, Block, Qkv};
use super::config::{Activation, Attention, Config};
use super::hook::Point;
use super::rotation::Rotation;

/// Element-wise work goes to candle in pieces of at most this many numbers.
///
/// From 65,536 numbers on, candle uses one thread pool for the whole process, whatever pool the caller is in: windows
/// on different threads would queue for that pool, which more than doubled the time of a forward pass.
const PIECE: usize = 32_768;

/// Queries for which scores are computed at once: with keys up to the last of them, half of all scores are never computed in
/// long windows.
const QUERIES: usize = 128;

/// Bytes that the scores of one head take per token of a window: scores, masked scores, exponentials, and the mask.
pub const SCORE_BYTES: u128 = (4 * 4 * QUERIES) as u128;

/// Sees the activations at the points of a block, and may replace them.
pub trait Tap {
    /// Takes what was computed at `point`; returns what the block goes on with, none if nothing more is needed.
    ///
    /// # Errors
    /// Of the tensor library.
    fn at(&mut self, point: Point, x: Tensor) -> Result<Option<Tensor>>;
}

/// Sees nothing and replaces nothing.
pub struct Untapped;

impl Tap for Untapped {
    fn at(&mut self, _: Point, x: Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x))
    }
}

/// Computes a block: `h + attention(norm(h))`, then `h + mlp(norm(h))`, or the sum of both where they are parallel. Returns
/// none where `tap` ended it.
pub fn block(
    config: &Config,
    layer: usize,
    w: &Block,
    rotations: &[Rotation],
    h: Tensor,
    tap: &mut impl Tap,
) -> Result<Option<Tensor>> {
    let attention = &config.attention[layer];
    let rotation = attention.rope.map(|i| &rotations[i]);
    let Some(h) = tap.at(Point::ResidPre, h)? else { return Ok(None) };
    let Some(x) = tap.at(Point::AttnIn, w.attention_norm.forward(&h)?)? else { return Ok(None) };
    let Some(z) = tap.at(Point::AttnZ, heads(config, attention, w, rotation, &x)?)? else { return Ok(None) };
    let Some(mut y) = tap.at(Point::AttnRaw, affine(&z, &w.attention_out)?)? else { return Ok(None) };
    if let Some(norm) = &w.attention_post {
        y = norm.forward(&y)?;
    }
    let Some(y) = tap.at(Point::AttnOut, y)? else { return Ok(None) };
    let mut mid = add(&h, &y)?;
    // Where both layers read the stream before the block, there is no stream between them.
    if !config.is_parallel {
        match tap.at(Point::ResidMid, mid)? {
            Some(x) => mid = x,
            None => return Ok(None),
        }
    }
    let source = if config.is_parallel { &h } else { &mid };
    let Some(x) = tap.at(Point::MlpIn, w.mlp_norm.forward(source)?)? else { return Ok(None) };
    let Some(u) = tap.at(Point::MlpPost, hidden(config, w, &x)?)? else { return Ok(None) };
    let Some(mut y) = tap.at(Point::MlpRaw, affine(&u, &w.down)?)? else { return Ok(None) };
    if let Some(norm) = &w.mlp_post {
        y = norm.forward(&y)?;
    }
    let Some(y) = tap.at(Point::MlpOut, y)? else { return Ok(None) };
    tap.at(Point::ResidPost, add(&mid, &y)?)
}

/// Computes the hidden activations of the feed-forward layer.
fn hidden(config: &Config, w: &Block, x: &Tensor) -> Result<Tensor> {
    let activation = |u: &Tensor| match config.activation {
        Activation::GeluNew => u.gelu(),
        Activation::Gelu => u.gelu_erf(),
        Activation::Relu => u.relu(),
        Activation::Silu => u.silu(),
    };
    let up = affine(x, &w.up)?;
    match &w.gate {
        None => in_pieces(&up, |_, u| activation(u)),
        Some(gate) => in_pieces(&affine(x, gate)?, |from, g| activation(g)? * up.narrow(0, from, g.dim(0)?)?),
    }
}

/// Computes the weighted values of all heads, one after the other: (t, d) to (t, n_head * head_dim).
fn heads(config: &Config, attention: &Attention, w: &Block, rotation: Option<&Rotation>, x: &Tensor) -> Result<Tensor> {
    let (t, width) = (x.dim(0)?, config.head_dim);
    let [q, k, v] = queries_keys_values(config, w, x)?;
    let prepare = |x: Tensor, norm: usize| -> Result<Tensor> {
        let x = match &w.head_norms {
            Some(norms) => norms[norm].forward(&x)?,
            None => x,
        };
        match rotation {
            Some(rotation) => rotation.turn(&x),
            None => Ok(x),
        }
    };
    let (q, k) = (prepare(q, 0)?, prepare(k, 1)?);
    let group = config.n_head / config.n_kv;
    let mut rows = Vec::new();
    for from in (0..t).step_by(QUERIES) {
        let n = QUERIES.min(t - from);
        let first = attention.window.map_or(0, |window| (from + 1).saturating_sub(window));
        let keys = from + n - first;
        let mask = mask(from, n, first, keys, attention.window)?;
        let mut parts = Vec::with_capacity(config.n_head);
        for head in 0..config.n_head {
            // Views of shape (rows, head_dim), which a product accepts as they are.
            let of = |x: &Tensor, head: usize, from, n| x.narrow(0, from, n)?.narrow(1, head, 1)?.squeeze(1);
            let (q, k, v) =
                (of(&q, head, from, n)?, of(&k, head / group, first, keys)?, of(&v, head / group, first, keys)?);
            let scores = q.matmul(&k.t()?)?;
            let scores = in_pieces(&scores, |from, s| {
                let mut s = s.affine(attention.scale, 0.0)?;
                if let Some(cap) = config.attention_cap {
                    s = (s.affine(1.0 / cap, 0.0)?.tanh()? * cap)?;
                }
                let rows = s.dim(0)?;
                s + mask.narrow(0, from, rows)?
            })?;
            parts.push(candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?);
        }
        rows.push(Tensor::cat(&parts, 1)?);
    }
    debug_assert_eq!(rows.iter().map(|r| r.dims()[1]).max(), Some(config.n_head * width), "all heads");
    Tensor::cat(&rows, 0)
}

/// Returns what is added to the scores of the queries `from..from + n` with the keys `first..first + keys`: 0 where a query
/// attends to a key, otherwise minus infinity.
fn mask(from: usize, n: usize, first: usize, keys: usize, window: Option<usize>) -> Result<Tensor> {
    let at = |i: usize| {
        let (query, key) = (from + i / keys, first + i % keys);
        let attends = key <= query && window.is_none_or(|window| query - key < window);
        if attends { 0.0 } else { f32::NEG_INFINITY }
    };
    let numbers: Vec<f32> = (0..n * keys).map(at).collect();
    Tensor::from_vec(numbers, (n, keys), &Device::Cpu)
}

/// Returns queries, keys and values, each (t, heads, head_dim).
fn queries_keys_values(config: &Config, w: &Block, x: &Tensor) -> Result<[Tensor; 3]> {
    let (t, width) = (x.dim(0)?, config.head_dim);
    Ok(match &w.qkv {
        Qkv::Apart([q, k, v]) => [
            affine(x, q)?.reshape((t, config.n_head, width))?,
            affine(x, k)?.reshape((t, config.n_kv, width))?,
            affine(x, v)?.reshape((t, config.n_kv, width))?,
        ],
        Qkv::Joined(w) => {
            let all = affine(x, w)?.reshape((t, 3, config.n_head, width))?;
            [all.narrow(1, 0, 1)?.squeeze(1)?, all.narrow(1, 1, 1)?.squeeze(1)?, all.narrow(1, 2, 1)?.squeeze(1)?]
        }
        Qkv::ByHead(w) => {
            let all = affine(x, w)?.reshape((t, config.n_head, 3, width))?;
            [all.narrow(2, 0, 1)?.squeeze(2)?, all.narrow(2, 1, 1)?.squeeze(2)?, all.narrow(2, 2, 1)?.squeeze(2)?]
        }
    })
}

/// Returns `cap * tanh(x / cap)`.
pub fn capped(x: &Tensor, cap: f64) -> Result<Tensor> {
    in_pieces(x, |_, x| x.affine(1.0 / cap, 0.0)?.tanh()? * cap)
}

/// Returns `x * factor`.
pub fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    in_pieces(x, |_, x| x.affine(factor, 0.0))
}

/// Returns `x W + b`.
fn affine(x: &Tensor, a: &Affine) -> Result<Tensor> {
    let y = x.matmul(&a.w)?;
    match &a.b {
        Some(b) => in_pieces(&y, |_, y| y.broadcast_add(b)),
        None => Ok(y),
    }
}

/// Returns `x + y`, of the same shape.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
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
