//! Attention SAEs of Kissane and Krzyzanowski (`gpt2-small-hook-z-kk`): a pickle with `W_enc (d, f)`, `W_dec (f, d)`,
//! `b_enc (f)` and `b_dec (d)`. The activation is relu, and the encoder reads `x - b_dec`.

use super::flat::{Flat, FlatRule};
use super::look::{Choices, Look, Parsed};
use super::origin::Origin;
use crate::error::Result;

const NAMES: [&str; 4] = ["W_enc", "W_dec", "b_enc", "b_dec"];

/// Returns whether the encoder is stored column by column, unlike that of Qwen Scope.
pub(super) fn is_one(look: &Look<'_>) -> bool {
    let arrays = look.arrays;
    let width = |name: &str| arrays.get(name).map_or(0, super::array::Array::len);
    arrays.has_all(&NAMES)
        && !arrays.has("threshold")
        && arrays.sizes("W_enc").is_ok_and(|sizes| sizes == [width("b_dec"), width("b_enc")] && sizes[0] != sizes[1])
}

/// Reads a model.
pub(super) fn read(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    let arrays = look.arrays;
    let [d, f] = arrays.sizes("W_enc")?;
    arrays.only(&NAMES, "an attention SAE")?;
    let flat = Flat::new(
        arrays.matrix_transposed("W_enc", d, f)?,
        arrays.vector("b_enc", f)?,
        arrays.matrix("W_dec", f, d)?,
        arrays.vector("b_dec", d)?,
        FlatRule::Relu,
        true,
    );
    let parsed = Parsed::flat(flat, Origin::default());
    Ok(if choices.from.is_some() || look.any_name(|name| name.contains("hcat_z") || name.contains("hook_z")) {
        parsed
    } else {
        parsed.note(
            "no file says what it is: by its arrays it is read as an attention SAE of Kissane and Krzyzanowski, with relu and \
             an encoder that reads x - b_dec",
        )
    })
}
