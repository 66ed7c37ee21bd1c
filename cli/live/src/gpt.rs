//! A GPT-2 that reads one token at a time, with the keys and values of those before it. In f32, without the promise of bits.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use half::f16;
use safetensors::{Dtype, SafeTensors};

/// The numbers of a model that its tensors do not say.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Heads of the attention.
    pub n_head: usize,
    /// What is added to the variance in a norm.
    pub epsilon: f32,
}

struct Affine {
    /// `(in, out)`, row-major.
    w: Vec<f32>,
    b: Vec<f32>,
}

struct Norm {
    w: Vec<f32>,
    b: Vec<f32>,
}

struct Block {
    ln_1: Norm,
    qkv: Affine,
    attention_out: Affine,
    ln_2: Norm,
    up: Affine,
    down: Affine,
}

/// The weights.
pub struct Gpt {
    shape: Shape,
    d: usize,
    context: usize,
    /// `(vocabulary, d)`: the embedding, which is the head too.
    tokens: Vec<f32>,
    /// `(context, d)`
    positions: Vec<f32>,
    blocks: Vec<Block>,
    last: Norm,
}

/// The keys and values of the tokens that were read, and the numbers of the present one.
#[derive(Clone, Default)]
pub struct Past {
    /// Per block `(n, d)`.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    n: usize,
}

impl Past {
    /// Returns the number of tokens that were read.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Forgets all tokens but the first `n`.
    pub fn truncate(&mut self, n: usize, d: usize) {
        self.n = self.n.min(n);
        for rows in self.keys.iter_mut().chain(&mut self.values) {
            rows.truncate(self.n * d);
        }
    }
}

impl Gpt {
    /// Reads the tensors of a `model.safetensors` of GPT-2 whose head is its embedding, in f16 or f32.
    ///
    /// # Errors
    /// One sentence that names the tensor.
    pub fn read(bytes: &[u8], shape: Shape) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| format!("the language model: {e}"))?;
        let get = |name: &str, expected: [usize; 2]| tensor(&file, name, expected).map(|(numbers, _)| numbers);
        let (tokens, size) = tensor(&file, "transformer.wte.weight", [0, 0])?;
        let (positions, context) = tensor(&file, "transformer.wpe.weight", [0, size[1]])?;
        let d = size[1];
        if d == 0 || shape.n_head == 0 || !d.is_multiple_of(shape.n_head) {
            return Err(format!("the language model: expected a width that {} heads divide, found {d}", shape.n_head));
        }
        let norm = |name: &str| -> Result<Norm, String> {
            Ok(Norm { w: get(&format!("{name}.weight"), [d, 1])?, b: get(&format!("{name}.bias"), [d, 1])? })
        };
        let affine = |name: &str, n_in: usize, n_out: usize| -> Result<Affine, String> {
            Ok(Affine {
                w: get(&format!("{name}.weight"), [n_in, n_out])?,
                b: get(&format!("{name}.bias"), [n_out, 1])?,
            })
        };
        let mut blocks = Vec::new();
        while file.tensor(&format!("transformer.h.{}.ln_1.weight", blocks.len())).is_ok() {
            let layer = blocks.len();
            let name = |part: &str| format!("transformer.h.{layer}.{part}");
            let (_, [_, inner]) = tensor(&file, &name("mlp.c_fc.weight"), [d, 0])?;
            blocks.push(Block {
                ln_1: norm(&name("ln_1"))?,
                qkv: affine(&name("attn.c_attn"), d, 3 * d)?,
                attention_out: affine(&name("attn.c_proj"), d, d)?,
                ln_2: norm(&name("ln_2"))?,
                up: affine(&name("mlp.c_fc"), d, inner)?,
                down: affine(&name("mlp.c_proj"), inner, d)?,
            });
        }
        let last = norm("transformer.ln_f")?;
        Ok(Self { shape, d, context: context[0], tokens, positions, blocks, last })
    }

    /// Returns the width of the residual stream.
    pub fn width(&self) -> usize {
        self.d
    }

    /// Returns the number of tokens of a window.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Returns the number of blocks.
    pub fn n_layer(&self) -> usize {
        self.blocks.len()
    }

    /// Returns the number of tokens of the vocabulary.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len() / self.d
    }

    /// Reads one more token, and returns the logits of the next one. `tap` sees the residual stream after each block, and may
    /// change it.
    ///
    /// # Panics
    /// If the window is full, or there is no such token.
    pub fn step(&self, past: &mut Past, token: u32, mut tap: impl FnMut(usize, &mut [f32])) -> Vec<f32> {
        let (d, at) = (self.d, past.n);
        assert!(at < self.context, "a full window");
        let row = |table: &'_ [f32], i: usize| table[i * d..(i + 1) * d].to_vec();
        let mut h = row(&self.tokens, token as usize);
        add(&mut h, &self.positions[at * d..(at + 1) * d]);
        past.keys.resize_with(self.blocks.len(), Vec::new);
        past.values.resize_with(self.blocks.len(), Vec::new);
        past.n += 1;
        for (layer, block) in self.blocks.iter().enumerate() {
            let qkv = block.qkv.of(&block.ln_1.of(&h, self.shape.epsilon));
            past.keys[layer].extend_from_slice(&qkv[d..2 * d]);
            past.values[layer].extend_from_slice(&qkv[2 * d..]);
            let z = self.attention(&qkv[..d], &past.keys[layer], &past.values[layer], past.n);
            add(&mut h, &block.attention_out.of(&z));
            let mut u = block.up.of(&block.ln_2.of(&h, self.shape.epsilon));
            u.iter_mut().for_each(|u| *u = gelu(*u));
            add(&mut h, &block.down.of(&u));
            tap(layer, &mut h);
        }
        let h = self.last.of(&h, self.shape.epsilon);
        self.tokens.chunks_exact(d).map(|row| row.iter().zip(&h).map(|(w, h)| w * h).sum()).collect()
    }

    /// Returns the weighted values of all heads for one query.
    fn attention(&self, q: &[f32], keys: &[f32], values: &[f32], n: usize) -> Vec<f32> {
        let (d, width) = (self.d, self.d / self.shape.n_head);
        let scale = 1.0 / libm::sqrtf(width as f32);
        let mut z = vec![0.0; d];
        let mut weights = vec![0.0f32; n];
        for from in (0..d).step_by(width) {
            for (weight, key) in weights.iter_mut().zip(keys.chunks_exact(d)) {
                let product: f32 = q[from..from + width].iter().zip(&key[from..]).map(|(q, k)| q * k).sum();
                *weight = product * scale;
            }
            softmax(&mut weights);
            for (weight, value) in weights.iter().zip(values.chunks_exact(d)) {
                z[from..from + width].iter_mut().zip(&value[from..]).for_each(|(z, v)| *z += weight * v);
            }
        }
        z
    }
}

impl Affine {
    /// Returns `x W + b`.
    fn of(&self, x: &[f32]) -> Vec<f32> {
        let mut y = self.b.clone();
        for (x, row) in x.iter().zip(self.w.chunks_exact(y.len())) {
            y.iter_mut().zip(row).for_each(|(y, w)| *y += x * w);
        }
        y
    }
}

impl Norm {
    /// Returns `(x - mean) / sqrt(variance + epsilon) * w + b`.
    fn of(&self, x: &[f32], epsilon: f32) -> Vec<f32> {
        let n = x.len() as f32;
        let mean = x.iter().sum::<f32>() / n;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
        let scale = 1.0 / libm::sqrtf(variance + epsilon);
        x.iter().zip(&self.w).zip(&self.b).map(|((x, w), b)| (x - mean) * scale * w + b).collect()
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// The approximation of GELU by a hyperbolic tangent.
fn gelu(x: f32) -> f32 {
    const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
    0.5 * x * (1.0 + libm::tanhf(ROOT * (x + 0.044_715 * x * x * x)))
}

/// Replaces numbers by their exponentials over the sum of these.
pub fn softmax(x: &mut [f32]) {
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|x| *x = libm::expf(*x - most));
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

/// Returns the numbers of a tensor and its shape, that of a vector being `[n, 1]`; an expected size of 0 is any.
fn tensor(file: &SafeTensors<'_>, name: &str, expected: [usize; 2]) -> Result<(Vec<f32>, [usize; 2]), String> {
    let view = file.tensor(name).map_err(|e| format!("the language model: tensor `{name}`: {e}"))?;
    let shape = match *view.shape() {
        [n] => [n, 1],
        [n, m] => [n, m],
        _ => [0, 0],
    };
    if shape.iter().zip(expected).any(|(found, wanted)| *found == 0 || (wanted != 0 && *found != wanted)) {
        return Err(format!("the language model: tensor `{name}`: expected the shape {expected:?}, found {shape:?}"));
    }
    let numbers = match view.dtype() {
        Dtype::F16 => view.data().chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        other => return Err(format!("the language model: tensor `{name}`: expected F16 or F32, found {other:?}")),
    };
    Ok((numbers, shape))
}
