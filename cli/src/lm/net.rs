//! The forward pass: matrix products by candle, everything between them by [`super::ops`].
//!
//! `h` is the residual stream, a tensor of shape (b * t, d), of windows of `t` tokens one below the other.

use candle_core::{CpuStorage, CustomOp1, DType, Device, InplaceOp1, InplaceOp2, Layout, Result, Shape, Tensor, bail};

use super::config::{Activation, Config};
use super::ops;
use super::weights::{Affine, Block, Norm, Weights};

/// Token and position embeddings, added: the residual stream before the first block.
pub fn embed(w: &Weights, ids: &[u32], t: usize) -> Result<Tensor> {
    let ids = Tensor::from_slice(ids, ids.len(), &Device::Cpu)?;
    let h = w.wte.index_select(&ids, 0)?;
    let wpe = w.wpe.narrow(0, 0, t)?.flatten_all()?;
    let add = |h: &mut [f32], wpe: &[f32]| ops::add_bias(h, wpe);
    h.inplace_op2(&wpe, &Edit2(add))?;
    Ok(h)
}

/// Block number `layer`: `h += attention(ln_1(h))`, then `h += mlp(ln_2(h))`, in place.
pub fn block(config: &Config, w: &Block, layer: usize, h: &Tensor, t: usize) -> Result<()> {
    let qkv = norm(&w.ln_1, config, h)?.matmul(&w.attn_in.w)?;
    let y = attention(config, &w.attn_in.b, config.attention_scale(layer), &qkv, t)?;
    add_affine(h, &y, &w.attn_out)?;

    let u = norm(&w.ln_2, config, h)?.matmul(&w.mlp_in.w)?;
    let b = &w.mlp_in.b;
    let u = match config.activation {
        Activation::GeluNew => edit(u, |u| ops::gelu_new_bias(u, b))?,
        Activation::Relu => edit(u, |u| ops::relu_bias(u, b))?,
        Activation::Gelu => edit(u, |u| ops::add_bias(u, b))?.gelu_erf()?,
    };
    add_affine(h, &u, &w.mlp_out)
}

/// The logits of rows `h`, of shape (rows, vocab).
pub fn head(config: &Config, w: &Weights, h: &Tensor) -> Result<Tensor> {
    norm(&w.ln_f, config, h)?.matmul(&w.head)
}

/// Causal attention within each window, from `qkv` of shape (b * t, 3d) without its bias, to (b * t, d).
fn attention(config: &Config, bias: &[f32], scale: f32, qkv: &Tensor, t: usize) -> Result<Tensor> {
    let (n, d, heads) = (qkv.dim(0)?, config.n_embd, config.n_head);
    let (bh, dh) = (n / t * heads, d / heads);
    let qkv = edit(qkv.clone(), |x| ops::add_bias(x, bias))?;
    let split = Map { shape: (3, bh, t, dh).into(), f: |x: &[f32]| split_heads(x, t, d, dh) };
    let qkv = qkv.apply_op1_no_bwd(&split)?;
    let (q, k, v) = (qkv.get(0)?, qkv.get(1)?, qkv.get(2)?);
    let s = edit(q.matmul(&k.t()?)?, |s| ops::causal_softmax(s, t, scale))?;
    let merge = Map { shape: (n, d).into(), f: |y: &[f32]| merge_heads(y, t, d, dh) };
    s.matmul(&v)?.apply_op1_no_bwd(&merge)
}

/// (b, t, 3, heads, dh) to (3, b, heads, t, dh)
fn split_heads(x: &[f32], t: usize, d: usize, dh: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for part in 0..3 {
        for window in x.chunks_exact(t * 3 * d) {
            for head in 0..d / dh {
                for row in window.chunks_exact(3 * d) {
                    out.extend_from_slice(&row[part * d + head * dh..][..dh]);
                }
            }
        }
    }
    out
}

/// (b, heads, t, dh) to (b, t, heads, dh)
fn merge_heads(y: &[f32], t: usize, d: usize, dh: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(y.len());
    for window in y.chunks_exact(t * d) {
        for i in 0..t {
            for head in window.chunks_exact(t * dh) {
                out.extend_from_slice(&head[i * dh..][..dh]);
            }
        }
    }
    out
}

fn norm(w: &Norm, config: &Config, h: &Tensor) -> Result<Tensor> {
    let eps = config.layer_norm_epsilon;
    let f = |x: &[f32]| {
        let mut out = vec![0.0; x.len()];
        ops::layer_norm(x, &w.gain, &w.bias, eps, &mut out);
        out
    };
    h.apply_op1_no_bwd(&Map { shape: h.shape().clone(), f })
}

/// `h += x W + b`
fn add_affine(h: &Tensor, x: &Tensor, a: &Affine) -> Result<()> {
    let y = x.matmul(&a.w)?;
    let add = |h: &mut [f32], y: &[f32]| ops::add_rows_bias(h, y, &a.b);
    h.inplace_op2(&y, &Edit2(add))
}

/// Changes the elements of a tensor that nothing else uses.
fn edit(x: Tensor, f: impl Fn(&mut [f32])) -> Result<Tensor> {
    x.inplace_op1(&Edit(f))?;
    Ok(x)
}

/// A function from all elements of a tensor to those of a new one.
struct Map<F> {
    shape: Shape,
    f: F,
}

/// A function that changes all elements of a tensor.
struct Edit<F>(F);

/// A function that changes all elements of a tensor, by those of another.
struct Edit2<F>(F);

impl<F: Fn(&[f32]) -> Vec<f32>> CustomOp1 for Map<F> {
    fn name(&self) -> &'static str {
        "map"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32((self.f)(elements(x, l)?)), self.shape.clone()))
    }
}

impl<F: Fn(&mut [f32])> InplaceOp1 for Edit<F> {
    fn name(&self) -> &'static str {
        "edit"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, l: &Layout) -> Result<()> {
        (self.0)(elements_mut(x, l)?);
        Ok(())
    }
}

impl<F: Fn(&mut [f32], &[f32])> InplaceOp2 for Edit2<F> {
    fn name(&self) -> &'static str {
        "edit2"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, x_l: &Layout, y: &CpuStorage, y_l: &Layout) -> Result<()> {
        (self.0)(elements_mut(x, x_l)?, elements(y, y_l)?);
        Ok(())
    }
}

fn elements<'a>(x: &'a CpuStorage, l: &Layout) -> Result<&'a [f32]> {
    match l.contiguous_offsets() {
        Some((from, to)) => Ok(&x.as_slice::<f32>()?[from..to]),
        None => bail!("elements that are not contiguous"),
    }
}

fn elements_mut<'a>(x: &'a mut CpuStorage, l: &Layout) -> Result<&'a mut [f32]> {
    match (x, l.contiguous_offsets()) {
        (CpuStorage::F32(x), Some((from, to))) => Ok(&mut x[from..to]),
        (x, _) => bail!("elements that are not contiguous {:?}, but {:?}", DType::F32, candle_core::backend::BackendStorage::dtype(x)),
    }
}
