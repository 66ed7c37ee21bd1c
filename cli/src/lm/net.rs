//! The forward pass, on candle tensors: products by [`super::dense`], everything between them by [`super::ops`].
//!
//! `h` is the residual stream, a tensor of shape (b * t, d), of windows of `t` tokens one below the other.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Device, InplaceOp1, InplaceOp2, Layout, Result, Shape, Tensor, bail,
};

use super::config::{Activation, Config};
use super::weights::{Affine, Block, Norm, Weights};
use super::{dense, ops};

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
    let (d, dh) = (config.n_embd, config.n_embd / config.n_head);
    let qkv = edit(matmul(&norm(&w.ln_1, config, h)?, &w.attn_in.w)?, |x| ops::add_bias(x, &w.attn_in.b))?;
    let attend = |qkv: &[f32]| dense::attention(qkv, t, d, dh, config.attention_scale(layer));
    let y = qkv.apply_op1_no_bwd(&Map { shape: h.shape().clone(), f: attend })?;
    add_affine(h, &y, &w.attn_out)?;

    let u = matmul(&norm(&w.ln_2, config, h)?, &w.mlp_in.w)?;
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
    matmul(&norm(&w.ln_f, config, h)?, &w.head)
}

/// `x w`, of shape (rows, columns of `w`).
fn matmul(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (n_in, n_out) = w.dims2()?;
    if x.dim(1)? != n_in {
        bail!("a product of {:?} and {:?}", x.shape(), w.shape());
    }
    let f = |x: &[f32], w: &[f32]| dense::matmul(x, w, n_in, n_out);
    x.apply_op2_no_bwd(w, &Map2 { shape: (x.dim(0)?, n_out).into(), f })
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
    let y = matmul(x, &a.w)?;
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

/// A function from all elements of two tensors to those of a new one.
struct Map2<F> {
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

impl<F: Fn(&[f32], &[f32]) -> Vec<f32>> CustomOp2 for Map2<F> {
    fn name(&self) -> &'static str {
        "map2"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_l: &Layout, y: &CpuStorage, y_l: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32((self.f)(elements(x, x_l)?, elements(y, y_l)?)), self.shape.clone()))
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
        _ => bail!("elements that are not contiguous, or not f32"),
    }
}
