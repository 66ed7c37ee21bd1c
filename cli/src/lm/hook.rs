//! Names of hook points.

/// Returns the name of the residual stream after block `layer`, in the convention of the field:
/// `blocks.6.hook_resid_post`.
pub fn hook_of(layer: usize) -> String {
    format!("blocks.{layer}.hook_resid_post")
}

/// Returns the block of a hook point with a name as [`hook_of`] returns it.
pub fn layer_of(hook: &str) -> Option<usize> {
    hook.strip_prefix("blocks.")?.strip_suffix(".hook_resid_post")?.parse().ok()
}
