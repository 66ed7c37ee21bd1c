//! Finds a language model by the name that a dump gives it.

use std::env;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Directories of models, separated as in PATH.
const DIRECTORIES: &str = "STRATA_MODELS";

/// Returns where the model called `name` is: in a directory that `STRATA_MODELS` lists, in one of `beside`, or in the cache of
/// the Hugging Face hub.
pub fn find(name: &str, beside: &[PathBuf]) -> Option<PathBuf> {
    // A name comes from a file that others may have written.
    let is_plain = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    if name.is_empty() || !is_plain {
        return None;
    }
    let listed = env::var_os(DIRECTORIES).unwrap_or_default();
    let named = env::split_paths(&listed).chain(beside.iter().cloned()).map(|directory| directory.join(name));
    named.filter(|path| is_model(path)).chain(in_hub(name)).next()
}

fn is_model(path: &Path) -> bool {
    path.is_file() || path.join("config.json").is_file()
}

/// Returns the directory of a model in the cache of the hub: of the revision `main`, or else of the only one.
fn in_hub(name: &str) -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache/huggingface"));
    let hub = env::var_os("HF_HUB_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(env::var_os("HF_HOME").map(PathBuf::from).or_else(home)?.join("hub")))?;
    let model = hub.join(format!("models--{}", name.replace('/', "--")));
    let snapshots = model.join("snapshots");
    let main = fs::read_to_string(model.join("refs/main")).ok().map(|revision| snapshots.join(revision.trim()));
    let only = || {
        let mut all = fs::read_dir(&snapshots).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        all.next().filter(|_| all.next().is_none())
    };
    main.or_else(only).filter(|path| is_model(path))
}
