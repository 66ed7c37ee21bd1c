//! GGUF files: their metadata as a `config.json` and a `tokenizer.json`.

mod datum;
mod tokenizer;

use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;
use candle_core::quantized::gguf_file::Content;
use serde_json::{Map, Value, json};

use super::config::Config;
use super::families::of_architecture;
use super::family::Family;
use super::tensors::{Tensors, first_line};
use super::vocab::Vocab;
use crate::files::read as input;
use crate::panics::caught;
use datum::number;

/// A model of a GGUF file.
pub struct Parts {
    pub family: &'static dyn Family,
    pub config: Config,
    pub tensors: Tensors,
    pub vocab: Vocab,
    /// The model was trained on texts that begin with the BOS token.
    pub expects_bos: bool,
}

/// Reads the header of a GGUF file; its tensors are read when they are needed.
///
/// # Errors
/// One sentence with the file, the key or tensor, what was expected and what was found.
pub fn open(path: &Path) -> Result<Parts> {
    read(path).with_context(|| path.display().to_string())
}

fn read(path: &Path) -> Result<Parts> {
    let mut bytes = BufReader::new(input::open(path)?);
    // The reader bounds what it allocates by the size of the file, but may panic on sizes that overflow.
    let header = caught(|| Content::read(&mut bytes)).map_err(|panic| anyhow!("not a GGUF file: {panic}"))?;
    let content = header.map_err(|e| anyhow!("not a whole GGUF file: {}", first_line(&e)))?;
    let text = |key: &str| content.metadata.get(key).and_then(|v| v.to_string().ok()).map(String::as_str);
    let Some(architecture) = text("general.architecture") else {
        bail!("its metadata must have `general.architecture`, found nothing");
    };
    let family = of_architecture(architecture)?;
    let mut g = fields_of(&content, architecture);
    let Some(embedding) = content.tensor_infos.get("token_embd.weight") else {
        bail!("tensor \"token_embd.weight\" is missing");
    };
    g.insert("vocab_size".into(), embedding.shape.dims().first().copied().unwrap_or(0).into());
    g.insert("architecture".into(), architecture.into());
    let bos = content.metadata.get("tokenizer.ggml.bos_token_id").map_or(Value::Null, number);
    g.insert("bos_token_id".into(), bos);
    if content.tensor_infos.contains_key("rope_freqs.weight") {
        let factors = content.tensor(&mut bytes, "rope_freqs.weight", &Device::Cpu);
        let factors = factors.and_then(|f| f.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>());
        let factors = factors.map_err(|e| anyhow!("reading tensor \"rope_freqs.weight\": {}", first_line(&e)))?;
        g.insert("rope_factors".into(), json!(factors));
    }
    let has = |name: &str| content.tensor_infos.contains_key(name);
    let config = family.config(&family.config_of_gguf(&Value::Object(g), &has)?)?;
    let vocab = Vocab::from_tokenizer(&tokenizer::tokenizer_json(&content.metadata)?)?;
    let expects_bos =
        content.metadata.get("tokenizer.ggml.add_bos_token").and_then(|v| v.to_bool().ok()).unwrap_or(false);
    Ok(Parts { family, config, vocab, expects_bos, tensors: Tensors::of_gguf(path, content)? })
}

/// Returns the numbers, texts and switches of `architecture`, by their keys without its name.
fn fields_of(content: &Content, architecture: &str) -> Map<String, Value> {
    let own = |key: &String| key.strip_prefix(architecture)?.strip_prefix('.').map(str::to_owned);
    content.metadata.iter().filter_map(|(key, value)| Some((own(key)?, number(value)))).collect()
}
