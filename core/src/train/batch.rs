//! The rows of one step.

/// The rows that a step encodes, and those that it should reconstruct.
#[derive(Clone, Copy, Debug)]
pub struct BatchRows<'a> {
    /// Rows to encode, `(n, d)`.
    pub x: &'a [f32],
    /// Rows that a transcoder should reconstruct, `(n, d_out)`, one for each row of `x`; empty for an autoencoder,
    /// which reconstructs `x`.
    pub y: &'a [f32],
}

impl<'a> From<&'a [f32]> for BatchRows<'a> {
    fn from(x: &'a [f32]) -> Self {
        Self { x, y: &[] }
    }
}

impl<'a> From<&'a alloc::vec::Vec<f32>> for BatchRows<'a> {
    fn from(x: &'a alloc::vec::Vec<f32>) -> Self {
        Self { x, y: &[] }
    }
}

impl<'a> From<(&'a [f32], &'a [f32])> for BatchRows<'a> {
    fn from((x, y): (&'a [f32], &'a [f32])) -> Self {
        Self { x, y }
    }
}
