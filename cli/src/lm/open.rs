//! Finds the files of a language model and reads them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Lm;
use super::families::of_config;
use super::gguf::{self, Parts};
use super::tensors::Tensors;
use super::vocab::Vocab;
use crate::files::read as input;

/// The name of the embedded model.
const EMBEDDED: &str = "char-gpt";
/// Its weights: `model.safetensors` of GPT-2, in f16.
pub const EMBEDDED_WEIGHTS: &[u8] = include_bytes!("../../assets/char-gpt/model.safetensors");

/// Returns the name of the model at `path`. The directories above it are private and stay out of files that may be
/// published.
fn name_of(path: &Path) -> String {
    let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let of_hub = |part: &OsStr| Some(part.to_string_lossy().strip_prefix("models--")?.replacen("--", "/", 1));
    let own = || whole.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
    if path.is_dir() { whole.iter().rev().find_map(of_hub).unwrap_or_else(own) } else { own() }
}

impl Lm {
    /// Opens a GGUF file, or a Hugging Face directory: `config.json`; `model.safetensors`, or several files that
    /// `model.safetensors.index.json` lists; and `tokenizer.json` or else the `"chars"` of `meta.json`.
    ///
    /// # Errors
    /// One sentence that names the file, what was expected in it and what was found.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let dir = path.as_ref();
        if dir.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) || dir.is_file() {
            let Parts { family, config, tensors, vocab, expects_bos } = gguf::open(dir)?;
            return Ok(Self { expects_bos, ..Self::new(name_of(dir), family, config, tensors, vocab)? });
        }
        let read = |file: &str, most: u64| input::bytes(&dir.join(file), most);
        let config = read("config.json", input::SMALL)?;
        // The vocabulary comes before the weights, which may be large.
        let (vocab_file, vocab) = if dir.join("tokenizer.json").exists() {
            ("tokenizer.json", read("tokenizer.json", input::VOCABULARY)?)
        } else if dir.join("meta.json").exists() {
            ("meta.json", read("meta.json", input::VOCABULARY)?)
        } else {
            bail!("{} has neither tokenizer.json nor meta.json, so text cannot be encoded", dir.display());
        };
        let mut name = name_of(dir);
        let files = weight_files(dir)?;
        if name == EMBEDDED && !is_embedded(&files) {
            name += " (another)";
        }
        let tensors = || Tensors::open_safetensors(&files);
        Self::from_parts(name, &dir.display().to_string(), &config, tensors, vocab_file, &vocab)
    }

    /// The model that is part of this program: 4 blocks of width 128 over the 65 characters of
    /// [`EMBEDDED_TEXT`](super::EMBEDDED_TEXT).
    ///
    /// # Errors
    /// Never, unless the program was built from damaged files.
    pub fn embedded() -> Result<Self> {
        Self::from_parts(
            EMBEDDED.into(),
            EMBEDDED,
            include_bytes!("../../assets/char-gpt/config.json"),
            || Tensors::in_memory("char-gpt/model.safetensors", EMBEDDED_WEIGHTS),
            "tokenizer.json",
            include_bytes!("../../assets/char-gpt/tokenizer.json"),
        )
    }

    /// `place` precedes the names of files in errors.
    fn from_parts(
        name: String,
        place: &str,
        config: &[u8],
        tensors: impl FnOnce() -> Result<Tensors>,
        vocab_file: &str,
        vocab: &[u8],
    ) -> Result<Self> {
        let read = || -> Result<_> {
            let v: Value = serde_json::from_slice(config).context("not JSON")?;
            let (family, part) = of_config(&v)?;
            Ok((family, family.config(part)?))
        };
        let (family, config) = read().with_context(|| format!("{place}/config.json"))?;
        let vocab = match vocab_file {
            "tokenizer.json" => Vocab::from_tokenizer_json(vocab),
            _ => Vocab::from_meta_json(vocab),
        };
        let vocab = vocab.with_context(|| format!("{place}/{vocab_file}"))?;
        // A tokenizer often has fewer tokens than the embedding has rows, which are padded to a round number. It may also have
        // more, for padding or later training. Such an id is refused where a text has it.
        Self::new(name, family, config, tensors()?, vocab)
    }
}

/// Returns the files that have the weights of the model in `dir`.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (one, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
    if one.exists() || !index.exists() {
        if !one.exists() && dir.join("pytorch_model.bin").exists() {
            bail!("{} has weights of PyTorch alone; save the model with `safe_serialization=True`", dir.display());
        }
        input::open(&one)?;
        return Ok(vec![one]);
    }
    let list: Value = input::json(&index, input::SMALL)?;
    let Some(map) = list["weight_map"].as_object() else {
        bail!("{}: expected an object \"weight_map\" from tensors to files, found none", index.display());
    };
    let mut files = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().map(Path::new);
        let Some(name) = name.filter(|n| n.file_name() == Some(n.as_os_str())) else {
            bail!("{}: tensor {tensor:?}: expected the name of a file beside it, found {file}", index.display());
        };
        files.insert(dir.join(name));
    }
    ensure!(!files.is_empty(), "{}: expected files of tensors in \"weight_map\", found none", index.display());
    Ok(files.into_iter().collect())
}

/// Returns whether the weights are those of the embedded model.
fn is_embedded(files: &[PathBuf]) -> bool {
    let [file] = files else { return false };
    let has_length = fs::metadata(file).is_ok_and(|m| m.len() == EMBEDDED_WEIGHTS.len() as u64);
    has_length && input::bytes(file, EMBEDDED_WEIGHTS.len() as u64).is_ok_and(|bytes| bytes == EMBEDDED_WEIGHTS)
}
