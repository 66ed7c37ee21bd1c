//! What a page computes with: core as WebAssembly, the model with its rows in 8 bits, and the embedded language model where the
//! run was trained on it.

use super::embed;
use crate::lm::{EMBEDDED_WEIGHTS, Lm, hook::Hook};
use crate::run::Run;
use anyhow::{Result, ensure};
use serde::Serialize;
use std::path::Path;
use strata_core::config::ModelKind;
use strata_core::format::weights::{write_cfg, write_weights_int8};

/// The module, which `cli/live/build.sh` makes.
const MODULE: &[u8] = include_bytes!("../../assets/live.wasm");

/// The text that a page begins with.
const TEXT: &str = "ROMEO:\nWhat light through yonder window breaks?\n\nJULIET:\nO, ";

/// The data of a page that computes. All but `info` is [packed](embed::packed).
pub struct Live {
    /// Sizes, families and the language model, as JSON.
    pub info: String,
    /// The module.
    pub module: String,
    /// The files of the model.
    pub cfg: String,
    /// See `cfg`.
    pub weights: String,
    /// The weights of the language model.
    pub language: Option<String>,
}

#[derive(Serialize)]
struct Info<'a> {
    d: usize,
    f1: usize,
    f2: usize,
    /// Of each child; -1 for none.
    parents: Vec<i64>,
    language: Option<Language<'a>>,
}

#[derive(Serialize)]
struct Language<'a> {
    name: &'a str,
    heads: usize,
    epsilon: f64,
    layer: usize,
    tokens: Vec<String>,
    text: &'a str,
}

impl Live {
    /// Packs the model of a run.
    ///
    /// # Errors
    /// If it cannot be read, or is one that a page does not compute.
    pub fn of(dir: &Path) -> Result<Self> {
        let run = Run::open(dir)?;
        let arch = &run.model.arch;
        ensure!(arch.model == ModelKind::Tree, "--live: expected a model `tree`, found `{}`", arch.model);
        let lm = Lm::embedded()?;
        let layer = layer_of(&run, &lm);
        let language = layer.map(|layer| Language {
            name: lm.name(),
            heads: lm.config().n_head,
            epsilon: lm.config().epsilon,
            layer,
            tokens: lm.vocab(),
            text: TEXT,
        });
        let parents = if run.model.parents.is_empty() {
            vec![-1; arch.level[1].latents]
        } else {
            run.model.parents.iter().map(|p| if *p == strata_core::ROOT { -1 } else { i64::from(*p) }).collect()
        };
        let [f1, f2] = arch.latents();
        Ok(Self {
            language: layer.map(|_| embed::packed(EMBEDDED_WEIGHTS)),
            info: embed::json(&Info { d: arch.d, f1, f2, parents, language })?,
            module: embed::packed(MODULE),
            cfg: embed::packed(write_cfg(arch, &run.origin)),
            weights: embed::packed(write_weights_int8(&run.model)?),
        })
    }
}

/// Returns the block after which the run reads the residual stream of the embedded model; none if it reads something else.
fn layer_of(run: &Run, lm: &Lm) -> Option<usize> {
    if run.origin.model.as_deref() != Some(lm.name()) {
        return None;
    }
    let hook = lm.hook(run.origin.hook.as_deref()?).ok()?;
    (hook == Hook::resid_post(hook.layer) && lm.width(hook) == run.model.arch.d).then_some(hook.layer)
}
