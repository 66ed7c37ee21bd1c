//! Sparse rows: the code of a row, and the entries of a row with the gradients that a training step collects on them.

/// The code of one row of one level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CodeRow<'a> {
    /// Latents, ascending.
    pub index: &'a [u32],
    /// Their activations.
    pub value: &'a [f32],
}

impl<'a> CodeRow<'a> {
    /// Returns the latents that are active, in stored order.
    pub fn active(self) -> impl Iterator<Item = u32> + 'a {
        self.index.iter().zip(self.value).filter(|(_, z)| **z > 0.0).map(|(j, _)| *j)
    }
}

/// The entries of one row of one level in training, in parallel slices: every latent that some gradient needs, with its
/// gradients so far.
///
/// The gradients of level 1 come in two parts: 0 through the level's own terms, 1 through level 2.
pub(crate) struct EntryRow<'a> {
    /// Latents; those that fire come first, ascending.
    pub index: &'a [u32],
    /// Pre-activations after the gate.
    pub u: &'a [f32],
    /// Latent activations; 0 where the latent does not fire.
    pub z: &'a [f32],
    /// AuxK activations; 0 where AuxK did not select the latent. Empty where AuxK does not act.
    pub v: &'a [f32],
    /// Pre-activations before a soft gate; empty without one.
    pub a: &'a [f32],
    /// Soft gates; empty without one.
    pub g: &'a [f32],
    /// `dL/dz`.
    pub grad_z: [&'a mut [f32]; 2],
    /// `dL/du`.
    pub grad_u: [&'a mut [f32]; 2],
    /// `dL/da`, before the gate: level 2 only.
    pub grad_a: &'a mut [f32],
    /// `dL/dg`: level 2 only.
    pub grad_g: &'a mut [f32],
    /// Gradients of the parameters of the activation, in the order of
    /// [`Activation::parameters`](crate::activation::Activation::parameters).
    pub grad_p: [&'a mut [f32]; 2],
}

impl<'a> EntryRow<'a> {
    /// Returns the entries as the code of the row; those that do not fire have the value 0.
    pub fn code(&self) -> CodeRow<'a> {
        CodeRow { index: self.index, value: self.z }
    }
}
