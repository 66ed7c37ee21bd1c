//! The rows of one step.

/// Rows that a step reads, and what it should reconstruct of them.
#[derive(Clone, Copy, Debug)]
pub struct BatchRows<'a> {
    /// What is encoded, `(n, d)`.
    pub x: &'a [f32],
    /// What a transcoder should reconstruct, `(n, d_out)`, a row for each of `x`; empty for an autoencoder, which
    /// reconstructs `x`.
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
