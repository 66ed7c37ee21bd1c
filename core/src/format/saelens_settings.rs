//! The settings of SAELens that are not tensors: the origin of a model, and the normalisation of rows.

use super::json::Settings;
use super::origin::Origin;
use crate::error::Result;
use crate::row_norm::RowNorm;
use alloc::borrow::ToOwned;

/// Returns the origin of a model, as far as its settings tell it.
pub(super) fn origin(cfg: &Settings) -> Origin {
    let metadata = cfg.object("metadata");
    let of = |keys: &[&str]| metadata.first_text(keys).or_else(|| cfg.first_text(keys)).map(ToOwned::to_owned);
    Origin {
        model: of(&["model_name"]),
        hook: of(&["hook_name", "hook_point"]),
        context: metadata.count("context_size").ok().flatten().or_else(|| cfg.count("context_size").ok().flatten()),
        ..Origin::default()
    }
}

/// Returns how each row is normalised by itself, and SAELens' name of the normalisation.
pub(super) fn normalisation(cfg: &Settings) -> Result<(RowNorm, &str)> {
    // Before version 6, the value was a flag, and true meant `expected_average_only_in`.
    let flag = cfg.get("normalize_activations").and_then(serde_json::Value::as_bool);
    let normalised = cfg.text("normalize_activations").unwrap_or(if flag == Some(true) { AVERAGE } else { "none" });
    let row_norm = match normalised {
        "layer_norm" => RowNorm::Layer,
        "constant_norm_rescale" => RowNorm::Constant,
        "none" | AVERAGE | "covariance_whitening" => RowNorm::None,
        other => {
            return Err(cfg.wrong(format_args!("`normalize_activations`: `{other}` is not a normalisation of SAELens")));
        }
    };
    Ok((row_norm, normalised))
}

/// The normalisation by one factor that makes the average norm of rows `sqrt(d)`.
pub(super) const AVERAGE: &str = "expected_average_only_in";
