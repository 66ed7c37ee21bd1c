//! Qwen Scope: `layerN.sae.pt`, a pickle with `W_enc (f, d)`, `W_dec (d, f)`, `b_enc (f)` and `b_dec (d)`. The latents
//! of the `k` largest positive pre-activations fire, and the encoder reads rows as they are. Only the name of the
//! repository tells `k` (`...-L0_50`).

use super::flat::{Flat, FlatRule};
use super::look::{Choices, Look, Parsed};
use super::origin::Origin;
use crate::error::Result;
use alloc::format;

/// Returns the number after the last `L0_` of `path`.
fn k_of(path: &str) -> Option<u64> {
    let (_, after) = path.rsplit_once("L0_")?;
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    after[..digits].parse().ok()
}

/// Reads a model.
pub(super) fn read(look: &Look<'_>, choices: &Choices) -> Result<Parsed> {
    let arrays = look.arrays;
    let [f, d] = arrays.sizes("W_enc")?;
    arrays.only(&["W_enc", "W_dec", "b_enc", "b_dec"], "Qwen Scope")?;
    let named = k_of(&look.files.whole_path());
    let k = Flat::checked_k(choices.k.or(named), f, |why| {
        arrays
            .wrong(format_args!("{why}: it is in the name of the repository, such as 50 in `L0_50`; give it with --k"))
    })?;
    let flat = Flat::new(
        arrays.matrix("W_enc", f, d)?,
        arrays.vector("b_enc", f)?,
        arrays.matrix_transposed("W_dec", d, f)?,
        arrays.vector("b_dec", d)?,
        FlatRule::Topk(k),
        false,
    );
    let parsed = Parsed::flat(flat, Origin::default());
    Ok(match (choices.k, named) {
        (None, Some(k)) => {
            parsed.note(format!("k is {k} latents per row, taken from the name of the directory; --k changes it"))
        }
        _ => parsed,
    })
}
