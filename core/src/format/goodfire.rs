//! Goodfire: a pickle with `encoder_linear.weight (f, d)`, `encoder_linear.bias (f)`, `decoder_linear.weight (d, f)`
//! and `decoder_linear.bias (d)`. The activation is relu, and the encoder reads rows as they are.

use super::flat::{Flat, FlatRule};
use super::look::{Choices, Look, Parsed};
use super::origin::Origin;
use crate::error::Result;

/// Reads a model.
pub(super) fn read(look: &Look<'_>, _: &Choices) -> Result<Parsed> {
    let arrays = look.arrays;
    let [f, d] = arrays.sizes("encoder_linear.weight")?;
    let names = ["encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias"];
    arrays.only(&names, "Goodfire's autoencoder")?;
    let flat = Flat::new(
        arrays.matrix(names[0], f, d)?,
        arrays.vector(names[1], f)?,
        arrays.matrix_transposed(names[2], d, f)?,
        arrays.vector(names[3], d)?,
        FlatRule::Relu,
        false, // the encoder does not subtract `b_dec`
    );
    Ok(Parsed::flat(flat, Origin::default()))
}
