//! The table of parameter tensors: one fixed set of names for both models, an empty tensor where a model has none.

use crate::model::Tensor;

/// Number of places in the table.
pub const N_TENSORS: usize = 20;

/// Names of the tensors, as they stand in `sae_weights.safetensors`.
pub const NAMES: [&str; N_TENSORS] = [
    "b_dec",
    "level1.w_enc",
    "level1.b_enc",
    "level1.w_dec",
    "level1.threshold",
    "level1.r_mag",
    "level1.b_mag",
    "level2.w_enc",
    "level2.b_enc",
    "level2.w_dec",
    "level2.threshold",
    "level2.r_mag",
    "level2.b_mag",
    "gate.w",
    "gate.b",
    "level1.gate_w",
    "level1.gate_b",
    "level2.gate_w",
    "level2.gate_b",
    "level2.b_dec",
];

/// A place in the table. Shapes, with `d` the width of a row, `f1` and `f2` the numbers of latents, and `s` the width
/// of what level 2 reads (`d`, or `f1` for `source = "z1"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Id {
    /// `(d)`.
    BDec,
    /// `(f1, d)`.
    WEnc1,
    /// `(f1)`.
    BEnc1,
    /// `(f1, d)`, unit rows.
    WDec1,
    /// `(f1)`, jumprelu.
    Threshold1,
    /// `(f1)`, gated: logarithm of the slope.
    RMag1,
    /// `(f1)`, gated.
    BMag1,
    /// `(f2, s)`.
    WEnc2,
    /// `(f2)`.
    BEnc2,
    /// `(f2, d)`; for `decoder = "comp"` `(f2, f1)`; unit rows.
    WDec2,
    /// `(f2)`, jumprelu.
    Threshold2,
    /// `(f2)`, gated.
    RMag2,
    /// `(f2)`, gated.
    BMag2,
    /// `(f1, f2)`: an active parent adds one contiguous row.
    GateW,
    /// `(f2)`.
    GateB,
    /// Seed only: `(f1, d)`.
    GateEnc1,
    /// Seed only: `(f1)`.
    GateBias1,
    /// Seed only: `(f2, f1)`.
    GateEnc2,
    /// Seed only: `(f2)`.
    GateBias2,
    /// Seed only: `(f1)`, bias of the decoder of level 2.
    BDec2,
}

/// Width of a row of each tensor, in the order of [`NAMES`]. Vectors have rows of one number; 0 marks an absent tensor.
pub type Widths = [usize; N_TENSORS];

/// Parameters, or anything shaped like them: gradients, moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params {
    /// The tensors, row-major, in the order of [`NAMES`].
    pub tensors: [Tensor; N_TENSORS],
}

impl Params {
    /// Zeros of the same shapes.
    pub fn zeros_like(&self) -> Self {
        Self { tensors: core::array::from_fn(|i| alloc::vec![0.0; self.tensors[i].len()].into()) }
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.tensors.iter().map(|t| t.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl core::ops::Index<Id> for Params {
    type Output = Tensor;
    fn index(&self, id: Id) -> &Tensor {
        &self.tensors[id as usize]
    }
}

impl core::ops::IndexMut<Id> for Params {
    fn index_mut(&mut self, id: Id) -> &mut Tensor {
        &mut self.tensors[id as usize]
    }
}
