//! The parameter tensors by name, and the one iteration over them that the optimiser, the files and the checkpoint
//! share.

use super::tensor::Tensor;
use crate::activation::{Parameter, Parameters};

/// Number of tensors that a model can have.
pub const N_TENSORS: usize = 22;

/// The tensors of one level, with `f` its latents and `s` the width of its input: `d`, or `f1` for a level 2 with
/// `source = "z1"`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LevelParams<T = Tensor> {
    /// Encoder rows, `(f, s)`.
    pub w_enc: T,
    /// Encoder biases, `(f)`.
    pub b_enc: T,
    /// Decoder rows, `(f, d_out)`, of norm 1; `(f2, f1)` for `decoder = "comp"`.
    pub w_dec: T,
    /// `jumprelu`: thresholds, `(f)`, never negative.
    pub threshold: T,
    /// `gated`: logarithms of the slopes, `(f)`.
    pub r_mag: T,
    /// `gated`: offsets, `(f)`.
    pub b_mag: T,
    /// Level 1 of a model of another tool: factors of its latents in codes, `(f)`.
    pub scale: T,
    /// Seed model: encoder rows of the gate, `(f, s)`.
    pub gate_w: T,
    /// Seed model: biases of the gate, `(f)`.
    pub gate_b: T,
}

impl<T> LevelParams<T> {
    /// Returns the tensor of a parameter of the activation.
    pub fn parameter(&self, parameter: Parameter) -> &T {
        match parameter {
            Parameter::Threshold => &self.threshold,
            Parameter::RMag => &self.r_mag,
            Parameter::BMag => &self.b_mag,
        }
    }

    /// Returns a mutable reference to the tensor of a parameter of the activation.
    pub fn parameter_mut(&mut self, parameter: Parameter) -> &mut T {
        match parameter {
            Parameter::Threshold => &mut self.threshold,
            Parameter::RMag => &mut self.r_mag,
            Parameter::BMag => &mut self.b_mag,
        }
    }
}

impl LevelParams {
    /// Returns the parameters of the activation.
    pub fn activation(&self) -> Parameters<'_> {
        Parameters { threshold: &self.threshold, r_mag: &self.r_mag, b_mag: &self.b_mag }
    }
}

/// The tensors of a soft gate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GateParams<T = Tensor> {
    /// `G`, `(f1, f2)`: an active parent adds one contiguous row.
    pub w: T,
    /// `c`, `(f2)`.
    pub b: T,
}

/// Parameters, or anything with one item per tensor: gradients, moments, [`ParamSpec`]s. A tensor that the architecture
/// does not have is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params<T = Tensor> {
    /// Decoder bias, `(d_out)`.
    pub b_dec: T,
    /// The two levels.
    pub level: [LevelParams<T>; 2],
    /// The soft gate between them.
    pub gate: GateParams<T>,
    /// Seed model: bias of level 2's decoder, `(f1)`.
    pub b_dec2: T,
    /// Skip connection, `(d_out, d)`.
    pub w_skip: T,
}

/// Shape and meaning of one tensor in one architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParamSpec {
    /// Number of rows; 0 where the architecture has no such tensor.
    pub rows: usize,
    /// Numbers per row. A vector has rows of one number.
    pub width: usize,
    /// The level whose code and reconstruction depend on it: 0 for the tensors of level 1 and for `b_dec`, 1 for those
    /// of level 2; none for those between the levels.
    pub level: Option<usize>,
    /// Whether its rows are those of the latents of `level`: where a dictionary is sharded, each shard has its own rows of such a
    /// tensor, and all of every other one.
    pub per_latent: bool,
    /// Whether its rows are kept at norm 1.
    pub unit_rows: bool,
    /// Whether its numbers are kept at 0 or above.
    pub nonnegative: bool,
    /// The power of the unit of the activations in its numbers: a model that reads rows `s` times as large has these
    /// numbers `s^scales_with_x` times as large.
    pub scales_with_x: i32,
}

impl ParamSpec {
    /// Returns the number of elements.
    pub const fn len(&self) -> usize {
        self.rows * self.width
    }

    /// Returns whether the architecture has no such tensor.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Declares the order of the tensors, with their names in files, and the iterations over them.
macro_rules! walk {
    (($this:ident, $one:ident, $two:ident) $($name:literal => $($place:ident).+,)+) => {
        /// Names of the tensors in `sae_weights.safetensors` and in checkpoints.
        pub const NAMES: [&str; N_TENSORS] = [$($name),+];

        impl<T> Params<T> {
            /// Returns every tensor with its name, in the order of [`NAMES`].
            pub fn tensors(&self) -> [(&'static str, &T); N_TENSORS] {
                let $this = self;
                let [$one, $two] = &$this.level;
                [$(($name, &$($place).+)),+]
            }

            /// Returns a mutable reference to every tensor with its name, in the order of [`NAMES`].
            pub fn tensors_mut(&mut self) -> [(&'static str, &mut T); N_TENSORS] {
                let $this = self;
                let [$one, $two] = &mut $this.level;
                [$(($name, &mut $($place).+)),+]
            }
        }
    };
}

walk! {
    (all, one, two)
    "b_dec" => all.b_dec,
    "level1.w_enc" => one.w_enc,
    "level1.b_enc" => one.b_enc,
    "level1.w_dec" => one.w_dec,
    "level1.threshold" => one.threshold,
    "level1.r_mag" => one.r_mag,
    "level1.b_mag" => one.b_mag,
    "level2.w_enc" => two.w_enc,
    "level2.b_enc" => two.b_enc,
    "level2.w_dec" => two.w_dec,
    "level2.threshold" => two.threshold,
    "level2.r_mag" => two.r_mag,
    "level2.b_mag" => two.b_mag,
    "gate.w" => all.gate.w,
    "gate.b" => all.gate.b,
    "level1.gate_w" => one.gate_w,
    "level1.gate_b" => one.gate_b,
    "level2.gate_w" => two.gate_w,
    "level2.gate_b" => two.gate_b,
    "level2.b_dec" => all.b_dec2,
    "level1.scale" => one.scale,
    "w_skip" => all.w_skip,
}

impl<T: Default> Params<T> {
    /// Returns one item per tensor, made from that tensor.
    pub fn map<U: Default>(&self, mut f: impl FnMut(&T) -> U) -> Params<U> {
        let mut out = Params::default();
        for ((_, to), (_, from)) in out.tensors_mut().into_iter().zip(self.tensors()) {
            *to = f(from);
        }
        out
    }
}

impl Params {
    /// Returns zeros of the same shapes.
    pub fn zeros_like(&self) -> Self {
        self.map(|t| alloc::vec![0.0; t.len()].into())
    }

    /// Returns a mutable reference to every tensor, in the order of [`NAMES`].
    pub fn each_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.tensors_mut().into_iter().map(|(_, tensor)| tensor)
    }

    /// Returns the number of parameters.
    pub fn len(&self) -> usize {
        self.tensors().iter().map(|(_, t)| t.len()).sum()
    }

    /// Returns whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
