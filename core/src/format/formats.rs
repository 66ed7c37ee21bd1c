//! The table of formats of models: the files of each, how it is recognised, and its reader. File names of other tools'
//! models occur nowhere else.
//!
//! | `--from` | files, in a directory | tool |
//! |---|---|---|
//! | `strata` | `cfg.json`, `sae_weights.safetensors`, in the directory or in `sae/` | Strata |
//! | `saelens` | `cfg.json`, `sae_weights.safetensors` | SAELens, 2 to 6 |
//! | `saelens-levels` | the same | SAELens, both levels of a model of Strata side by side; only with `--from` |
//! | `llamascopium` | `config.json`, `sae_weights.safetensors` | Llamascopium, Llama Scope 2 |
//! | `llama-scope-r1` | `config.json`, `sae_weights.safetensors` | Llama Scope R1 Distill |
//! | `llama-scope` | `hyperparams.json`, `checkpoints/final.safetensors` | Llama Scope |
//! | `gemma-scope-2` | `config.json`, `params.safetensors` or `params_layer_N.safetensors` | Gemma Scope 2 |
//! | `gemma-scope`, `-transcoder`, `-embedding` | `params.npz` | Gemma Scope |
//! | `sparsify` | `cfg.json`, `sae.safetensors` | sparsify |
//! | `circuit-tracer` | `layer_N.safetensors` | circuit-tracer |
//! | `cross-layer` | `W_enc_N.safetensors`, `W_dec_N.safetensors` | circuit-tracer's cross-layer transcoders |
//! | `openai` | a pickle | OpenAI's sparse_autoencoder |
//! | `qwen-scope` | a pickle | Qwen Scope |
//! | `goodfire` | a pickle | Goodfire |
//! | `hook-z` | a pickle | attention SAEs of Kissane and Krzyzanowski |
//! | `dictionary-learning`, with `-topk`, `-batchtopk` | `ae.pt`, `config.json` | dictionary_learning, DeepSeek R1 |
//!
//! The user may also name a single file; the others are then expected beside it.

use super::arrays::Arrays;
use super::json::Settings;
use super::look::{Look, Parsed};
use super::origin::Origin;
use super::{
    circuit_tracer, dictionary_learning, gemma_scope, goodfire, hook_z, llama_scope, llamascopium, openai, qwen_scope,
    saelens, saelens_levels, sparsify, weights, zip,
};
use crate::error::{Error, Result};
use crate::model::{Model, SharedBytes};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub use super::look::{Choices, Files};

/// One format of the table.
#[derive(Clone, Copy)]
pub struct Format {
    /// The value of `--from`.
    pub name: &'static str,
    /// The name of the tool, for messages.
    pub title: &'static str,
    /// Names of the file of weights in a directory; a `*` stands for any part of a name.
    weights: &'static [&'static str],
    /// Names of the file of settings.
    settings: &'static [&'static str],
    /// Returns whether the names of the arrays, the settings and the path are those of this format.
    detect: fn(&Look<'_>) -> bool,
    /// Reads the model.
    read: fn(&Look<'_>, &Choices) -> Result<Parsed>,
}

impl core::fmt::Debug for Format {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// Every format, in the order in which they are tried.
pub static FORMATS: [Format; 21] = [
    Format {
        name: "strata",
        title: "a run of Strata",
        weights: &["sae_weights.safetensors", "sae/sae_weights.safetensors"],
        settings: &["cfg.json", "sae/cfg.json"],
        detect: |look| look.settings.as_ref().is_some_and(|cfg| cfg.has("format")),
        read: weights::read_look,
    },
    Format {
        name: "saelens",
        title: "SAELens",
        weights: &["sae_weights.safetensors", "*.safetensors"],
        settings: &["cfg.json"],
        detect: |look| look.settings.as_ref().is_some_and(saelens::is_one),
        read: saelens::read_look,
    },
    Format {
        name: "saelens-levels",
        title: "two levels of Strata side by side in SAELens",
        weights: &["sae_weights.safetensors"],
        settings: &["cfg.json"],
        // For SAELens these files are a model of one level; they are read as two levels only if the user says so.
        detect: |_| false,
        read: saelens_levels::read_both,
    },
    Format {
        name: "llamascopium",
        title: "Llamascopium",
        weights: &["sae_weights.safetensors"],
        settings: &["config.json"],
        detect: |look| look.arrays.has_all(&["W_E", "W_D"]),
        read: llamascopium::read,
    },
    Format {
        name: "llama-scope-r1",
        title: "Llama Scope R1 Distill",
        weights: &["sae_weights.safetensors"],
        settings: &["config.json"],
        detect: |look| look.arrays.has_all(&["encoder.weight", "log_jumprelu_threshold"]),
        read: llama_scope::read_r1,
    },
    Format {
        name: "llama-scope",
        title: "Llama Scope",
        weights: &["checkpoints/final.safetensors", "final.safetensors"],
        settings: &["hyperparams.json", "../hyperparams.json"],
        detect: |look| look.settings.is_some() && look.arrays.has("encoder.weight"),
        read: llama_scope::read,
    },
    Format {
        name: "gemma-scope-2",
        title: "Gemma Scope 2",
        weights: &["params.safetensors", "params_layer_*.safetensors"],
        settings: &["config.json"],
        detect: |look| look.arrays.has_all(&["w_enc", "w_dec", "threshold"]),
        read: gemma_scope::read_2,
    },
    Format {
        name: "gemma-scope-embedding",
        title: "Gemma Scope, embeddings",
        weights: &["params.npz"],
        settings: &[],
        detect: |look| gemma_scope::is_one(look) && gemma_scope::is_embedding(look),
        read: gemma_scope::read_embedding,
    },
    Format {
        name: "gemma-scope-transcoder",
        title: "Gemma Scope, transcoders",
        weights: &["params.npz"],
        settings: &[],
        detect: |look| gemma_scope::is_one(look) && gemma_scope::is_transcoder(look),
        read: gemma_scope::read_transcoder,
    },
    Format {
        name: "gemma-scope",
        title: "Gemma Scope",
        weights: &["params.npz", "*.npz"],
        settings: &[],
        detect: gemma_scope::is_one,
        read: gemma_scope::read,
    },
    Format {
        name: "sparsify",
        title: "sparsify",
        weights: &["sae.safetensors"],
        settings: &["cfg.json"],
        detect: |look| look.arrays.has_all(&["encoder.weight", "W_dec"]),
        read: sparsify::read,
    },
    Format {
        name: "cross-layer",
        title: "cross-layer transcoders of circuit-tracer",
        weights: &["W_enc_*.safetensors"],
        settings: &["config.yaml"],
        detect: |look| circuit_tracer::layer(look).is_some(),
        read: circuit_tracer::read_cross_layer,
    },
    Format {
        name: "circuit-tracer",
        title: "circuit-tracer",
        weights: &["layer_*.safetensors"],
        settings: &["config.yaml"],
        detect: circuit_tracer::is_one,
        read: circuit_tracer::read,
    },
    Format {
        name: "openai",
        title: "OpenAI's sparse_autoencoder",
        weights: &["*.pt"],
        settings: &[],
        detect: |look| look.arrays.has_all(&["pre_bias", "latent_bias", "encoder.weight"]),
        read: openai::read,
    },
    Format {
        name: "goodfire",
        title: "Goodfire",
        weights: &["*.pt", "*.pth"],
        settings: &[],
        detect: |look| look.arrays.has_all(&["encoder_linear.weight", "decoder_linear.weight"]),
        read: goodfire::read,
    },
    Format {
        name: "dictionary-learning-topk",
        title: "dictionary_learning, AutoEncoderTopK",
        weights: &["ae.pt", "*.pt"],
        settings: &["config.json", "../config.json"],
        detect: |look| dictionary_learning::is_one(look, "AutoEncoderTopK"),
        read: dictionary_learning::read_topk,
    },
    Format {
        name: "dictionary-learning-batchtopk",
        title: "dictionary_learning, BatchTopKSAE",
        weights: &["ae.pt", "*.pt"],
        settings: &["config.json", "../config.json"],
        detect: |look| dictionary_learning::is_one(look, "BatchTopKSAE"),
        read: dictionary_learning::read_batchtopk,
    },
    Format {
        name: "dictionary-learning",
        title: "dictionary_learning",
        weights: &["ae.pt", "*.pt"],
        settings: &["config.json", "../config.json"],
        detect: |look| dictionary_learning::is_one(look, ""),
        read: dictionary_learning::read,
    },
    Format {
        name: "hook-z",
        title: "attention SAEs of Kissane and Krzyzanowski",
        weights: &["*.pt"],
        settings: &[],
        detect: |look| is_pickle(look) && hook_z::is_one(look),
        read: hook_z::read,
    },
    Format {
        name: "qwen-scope",
        title: "Qwen Scope",
        weights: &["*.sae.pt", "*.pt"],
        settings: &[],
        detect: |look| {
            let names = ["W_enc", "W_dec", "b_enc", "b_dec"];
            is_pickle(look) && look.arrays.has_all(&names) && !look.arrays.has("threshold")
        },
        read: qwen_scope::read,
    },
    Format {
        name: "temporal",
        title: "temporal autoencoders",
        weights: &["latest_ckpt.safetensors"],
        settings: &["conf.yaml"],
        detect: |look| look.settings_name.is_some(),
        read: |_, _| {
            let why = "a temporal autoencoder: its latents depend on earlier rows, which is not supported";
            Err(Error::format(0, why))
        },
    },
];

/// Returns whether the arrays come from a pickle.
fn is_pickle(look: &Look<'_>) -> bool {
    ![".safetensors", ".npz"].iter().any(|end| look.arrays.file.ends_with(end))
}

impl Format {
    /// Returns the format called `name`.
    ///
    /// # Errors
    /// [`Error::Config`] listing all of them.
    pub fn named(name: &str) -> Result<&'static Self> {
        FORMATS.iter().find(|format| format.name == name).ok_or_else(|| {
            let all: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
            Error::config("from", format!("expected one of {}, found `{name}`", all.join(", ")))
        })
    }

    /// Returns whether it is the format of Strata's own runs.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.name == FORMATS[0].name
    }

    /// Returns the error of reading the file of weights that belongs to the settings `name`; none if the format does
    /// not fix its name.
    fn missing_beside(&self, files: &dyn Files, name: &str) -> Option<Error> {
        let certain = |file: &&&str| !file.contains('*');
        let beside = self.weights.iter().filter(certain).find(|file| folder(file) == folder(name));
        let weights = beside.or_else(|| self.weights.iter().find(certain))?;
        files.read(name).and_then(|_| files.read(weights)).err()
    }

    /// Returns the name of the file of weights of this format in `files`, if there is one.
    ///
    /// # Errors
    /// [`Error::Format`] if several files fit.
    fn weights_of(&self, files: &dyn Files) -> Result<Option<String>> {
        if let Some(name) = files.named() {
            return Ok(Some(name.to_owned()));
        }
        for pattern in self.weights {
            let Some((before, after)) = pattern.split_once('*') else {
                if files.has(pattern) {
                    return Ok(Some((*pattern).to_owned()));
                }
                continue;
            };
            let fits = |name: &String| {
                name.len() >= pattern.len() - 1 && name.starts_with(before) && name.ends_with(after) && files.has(name)
            };
            let mut found: Vec<String> = files.list().into_iter().filter(fits).collect();
            found.sort_unstable();
            if found.len() > 1 {
                let why = format!("{} holds {}: name one of them", files.path(), some_of(&found));
                return Err(Error::format(0, why));
            }
            if let Some(name) = found.pop() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}

/// Returns the directory of a name, with a final `/`.
fn folder(name: &str) -> &str {
    name.rfind('/').map_or("", |at| &name[..=at])
}

/// Formats names as `a, b, c and 4 more`.
fn some_of(names: &[String]) -> String {
    let shown = names.iter().take(6).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 6 { format!("{shown} and {} more", names.len() - 6) } else { shown }
}

/// A model that has been read.
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// Its origin.
    pub origin: Origin,
    /// Assumptions that no file confirms, each one sentence for the user.
    pub notes: Vec<String>,
    /// Its format.
    pub format: &'static Format,
    /// Name and bytes of the file of weights.
    pub weights: (String, SharedBytes),
}

/// Reads the model in `files`. Total: any files give a model or one clear error.
///
/// # Errors
/// [`Error::Format`] if no format is recognised, or the files do not fit the format; what [`Model::check`] finds; the
/// error of the host for files that it cannot read.
pub fn load(files: &dyn Files, choices: &Choices) -> Result<Loaded> {
    let mut read: Vec<(String, SharedBytes, Arrays)> = Vec::new();
    // What a file that is there says is more informative than that one of several has to be named, and that than a name
    // that was looked for in vain: settings such as `config.json` are those of several formats.
    let (mut unreadable, mut several, mut absent_weights) = (None, None, None);
    let named = choices.from.map(Format::named).transpose()?;
    let tried = named.map_or(&FORMATS[..], core::slice::from_ref);
    for format in tried {
        let settings_name = format.settings.iter().copied().find(|name| files.has(name));
        let name = match format.weights_of(files) {
            Ok(Some(name)) => name,
            Ok(None) => {
                // The error that the weights are missing beside the settings says more than that there is no model.
                if let Some(error) = settings_name.and_then(|name| format.missing_beside(files, name)) {
                    absent_weights.get_or_insert(error);
                }
                continue;
            }
            // Without the settings of the format beside them, files that fit a pattern may be something else.
            Err(_) if !format.settings.is_empty() && settings_name.is_none() => continue,
            Err(error) => {
                several.get_or_insert(error);
                continue;
            }
        };
        let settings = match settings_name.filter(|name| name.ends_with(".json")) {
            None => None,
            Some(name) => match files.read(name).and_then(|bytes| Settings::parse(name, (*bytes).as_ref())) {
                Ok(settings) => Some(settings),
                Err(error) => {
                    unreadable.get_or_insert(error);
                    continue;
                }
            },
        };
        let at = match read.iter().position(|(of, ..)| *of == name) {
            Some(at) => at,
            None => match open(files, &name) {
                Ok((bytes, arrays)) => {
                    read.push((name.clone(), bytes, arrays));
                    read.len() - 1
                }
                Err(error) => {
                    unreadable.get_or_insert(error);
                    continue;
                }
            },
        };
        let (_, bytes, arrays) = &read[at];
        let look = Look { files, arrays, settings, bytes, settings_name };
        if choices.from.is_none() && !(format.detect)(&look) {
            continue;
        }
        let (model, origin, notes) = (format.read)(&look, choices)?.finish(choices)?;
        return Ok(Loaded { model, origin, notes, format, weights: (name, bytes.clone()) });
    }
    let is_there = unreadable.is_some() || several.is_some();
    Err(match (unreadable.or(several).or(absent_weights), read.first()) {
        // A directory that contains models in directories may have a file of settings for all of them.
        (Some(_), None) if !is_there && named.is_none() && !models_inside(files).is_empty() => absent(files, named),
        (Some(error), _) => error,
        (None, Some((name, _, arrays))) => {
            let names: Vec<String> = arrays.arrays.keys().map(ToString::to_string).collect();
            let mut settings: Vec<String> = Vec::new();
            for format in tried.iter().filter(|format| format.weights.contains(&name.as_str())) {
                let mut beside = format.settings.iter().filter(|file| folder(file) == folder(name) && !files.has(file));
                if let Some(file) = beside.next().map(ToString::to_string).filter(|file| !settings.contains(file)) {
                    settings.push(file);
                }
            }
            let missing =
                if settings.is_empty() { String::new() } else { format!(" ({} is missing)", settings.join(" or ")) };
            let why = "is of no format that is recognised";
            let path = files.path();
            let at = if files.named().is_some() { path } else { format!("{path}/{name}") };
            let what = format!("{at} {why}{missing}; it holds the tensors");
            Error::format(0, format!("{what} {}: say which it is with --from", some_of(&names)))
        }
        (None, None) => absent(files, named),
    })
}

/// Reads the file of weights `name`: its bytes and arrays.
fn open(files: &dyn Files, name: &str) -> Result<(SharedBytes, Arrays)> {
    let bytes = files.read(name)?;
    let all = (*bytes).as_ref();
    let is_pickle = if zip::is_zip(all) {
        zip::members(all)
            .map_err(|e| match e {
                Error::Format { offset, what } => Error::format(offset, format!("{name}: {what}")),
                other => other,
            })?
            .iter()
            .any(|member| member.name.ends_with("data.pkl"))
    } else {
        // Files of old versions of PyTorch are bare pickles, which begin with 0x80 and the version of the protocol. A
        // safetensors file begins with the length of its header, which may be the same bytes.
        !name.ends_with(".safetensors")
            && matches!(all.first(), Some(0x80))
            && all.get(1).is_some_and(|protocol| *protocol <= 5)
    };
    let mut arrays = if is_pickle {
        files.pickle(name, &bytes)?
    } else if zip::is_zip(all) {
        Arrays::of_npz(name, &bytes)?
    } else {
        Arrays::of_safetensors(name, &bytes)?
    };
    arrays.keep = files.keeps();
    Ok((bytes, arrays))
}

/// Returns the directories inside of this one that contain models.
fn models_inside(files: &dyn Files) -> Vec<String> {
    let certain = || FORMATS.iter().flat_map(|f| f.weights).filter(|file| !file.contains(['*', '/']));
    let mut inside = files.list();
    inside.retain(|name| certain().any(|file| files.has(&format!("{name}/{file}"))));
    inside.sort_unstable();
    inside
}

/// Returns the error for a path without a model.
fn absent(files: &dyn Files, named: Option<&Format>) -> Error {
    let path = files.path();
    if let Some(format) = named {
        let why = format!("{path} holds no model of {}: expected {}", format.title, format.weights.join(" or "));
        return Error::file(why);
    }
    let inside = models_inside(files);
    if !inside.is_empty() {
        let inside: Vec<String> = inside.iter().map(|name| format!("{path}/{name}")).collect();
        return Error::file(format!("{path} is not a model, but has models inside: name one of {}", some_of(&inside)));
    }
    let why = format!(
        "{path} is neither a run nor a model of another tool: expected sae/cfg.json of a run, or cfg.json or config.json with \
         .safetensors, params.npz, or a .pt"
    );
    Error::file(why)
}
