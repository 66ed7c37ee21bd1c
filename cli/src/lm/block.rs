//! The weights of a block.

use candle_core::Tensor;

use super::norm::Norm;

/// An affine map `x W + b`.
pub struct Affine {
    /// `W`, of shape (in, out).
    pub w: Tensor,
    /// `b`, of shape (out).
    pub b: Option<Tensor>,
}

/// How queries, keys and values are computed.
pub enum Qkv {
    /// One matrix each.
    Apart([Affine; 3]),
    /// One matrix whose outputs are all queries, then all keys, then all values.
    Joined(Affine),
    /// One matrix whose outputs are the query, key and value of the first head, then of the second, and so on.
    ByHead(Affine),
}

/// The weights of one block, in `f32`.
pub struct Block {
    /// Before the attention.
    pub attention_norm: Norm,
    pub qkv: Qkv,
    /// Of the queries and keys of each head.
    pub head_norms: Option<[Norm; 2]>,
    pub attention_out: Affine,
    /// Behind the attention, before the sum.
    pub attention_post: Option<Norm>,
    /// Before the feed-forward layer.
    pub mlp_norm: Norm,
    /// The hidden activations are `activation(x gate) * (x up)`; without a gate, `activation(x up)`.
    pub gate: Option<Affine>,
    pub up: Affine,
    pub down: Affine,
    /// Behind the feed-forward layer, before the sum.
    pub mlp_post: Option<Norm>,
}
