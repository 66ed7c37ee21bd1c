//! GGUF files: their metadata as a `config.json` and a `tokenizer.json`.

mod tokenizer;

use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value as Datum};
use serde_json::{Map, Value, json};

use super::config::Config;
use super::families::of_architecture;
use super::family::Family;
use super::tensors::Tensors;
use super::vocab::Vocab;
use crate::files::read as input;
use crate::panics::caught;

/// A model of a GGUF file.
pub struct Parts {
    pub family: &'static dyn Family,
    pub config: Config,
    pub tensors: Tensors,
    pub vocab: Vocab,
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
    let content = header.map_err(|e| anyhow!("not a whole GGUF file: {e}"))?;
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
        let factors = content.tensor(&mut bytes, "rope_freqs.weight", &Device::Cpu)?.dequantize(&Device::Cpu)?;
        g.insert("rope_factors".into(), json!(factors.flatten_all()?.to_vec1::<f32>()?));
    }
    let has = |name: &str| content.tensor_infos.contains_key(name);
    let config = family.config(&family.config_of_gguf(&Value::Object(g), &has)?)?;
    let vocab = Vocab::from_tokenizer(&tokenizer::tokenizer_json(&content.metadata)?)?;
    Ok(Parts { family, config, vocab, tensors: Tensors::of_gguf(path, content)? })
}

/// Returns the numbers, texts and switches of `architecture`, by their keys without its name.
fn fields_of(content: &Content, architecture: &str) -> Map<String, Value> {
    let own = |key: &String| key.strip_prefix(architecture)?.strip_prefix('.').map(str::to_owned);
    content.metadata.iter().filter_map(|(key, value)| Some((own(key)?, number(value)))).collect()
}

/// Returns a number, text or switch as JSON; a list of equal numbers, one per block, as the number.
fn number(value: &Datum) -> Value {
    match value {
        Datum::U8(v) => (*v).into(),
        Datum::I8(v) => (*v).into(),
        Datum::U16(v) => (*v).into(),
        Datum::I16(v) => (*v).into(),
        Datum::U32(v) => (*v).into(),
        Datum::I32(v) => (*v).into(),
        Datum::U64(v) => (*v).into(),
        Datum::I64(v) => (*v).into(),
        Datum::F32(v) => f64::from(*v).into(),
        Datum::F64(v) => (*v).into(),
        Datum::Bool(v) => (*v).into(),
        Datum::String(v) => v.as_str().into(),
        Datum::Array(values) => {
            let all: Vec<Value> = values.iter().map(number).collect();
            match all.first() {
                Some(first) if all.iter().all(|v| v == first) => first.clone(),
                _ => Value::Array(all),
            }
        }
    }
}
