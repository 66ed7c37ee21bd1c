//! The families of language models, a file per family.

mod gemma;
mod gpt2;
mod llama;
mod neox;

use anyhow::{Result, bail};
use serde_json::Value;

use super::family::Family;
use super::fields::shown;

/// Every family.
pub const FAMILIES: [&dyn Family; 4] = [&gpt2::Gpt2, &llama::Llama, &gemma::Gemma, &neox::NeoX];

/// Returns the family of a `config.json`, and the part of the file that describes the language model.
///
/// # Errors
/// One sentence with the types that there are.
pub fn of_config(v: &Value) -> Result<(&'static dyn Family, &Value)> {
    // Models that also read images describe their language model in a part of its own.
    let text = &v["text_config"];
    for part in [v, text] {
        let of = |f: &&&dyn Family| part["model_type"].as_str().is_some_and(|t| f.model_types().contains(&t));
        if let Some(family) = FAMILIES.iter().find(of) {
            return Ok((*family, part));
        }
    }
    let known: Vec<&str> = FAMILIES.iter().flat_map(|f| f.model_types()).copied().collect();
    bail!("\"model_type\" must be one of {}, found {}", known.join(", "), shown(&v["model_type"]))
}

/// Returns the family of an architecture of GGUF files.
///
/// # Errors
/// One sentence with the architectures that there are.
pub fn of_architecture(name: &str) -> Result<&'static dyn Family> {
    if let Some(family) = FAMILIES.iter().find(|f| f.architectures().contains(&name)) {
        return Ok(*family);
    }
    let known: Vec<&str> = FAMILIES.iter().flat_map(|f| f.architectures()).copied().collect();
    bail!("`general.architecture` must be one of {}, found {name:?}", known.join(", "))
}
