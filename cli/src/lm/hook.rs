//! Hook points: places in the computation of a block whose activations can be captured or replaced.

use std::fmt;

use anyhow::{Result, bail, ensure};

/// A place in a block, in the order in which a block computes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// The residual stream before the block.
    ResidPre,
    /// What the attention reads: the stream after the norm before it.
    AttnIn,
    /// The weighted values of all heads, one after the other: what the output matrix of the attention reads.
    AttnZ,
    /// The output of the attention, before the norm that some families put behind it.
    AttnRaw,
    /// What the attention adds to the stream.
    AttnOut,
    /// The residual stream between attention and feed-forward layer.
    ResidMid,
    /// What the feed-forward layer reads: the stream after the norm before it.
    MlpIn,
    /// The hidden activations of the feed-forward layer: what its last matrix reads.
    MlpPost,
    /// The output of the feed-forward layer, before the norm that some families put behind it.
    MlpRaw,
    /// What the feed-forward layer adds to the stream.
    MlpOut,
    /// The residual stream after the block.
    ResidPost,
}

/// The name of each point within a block, as TransformerLens writes it, and its short name, as in `resid_post.10`.
const NAMES: [(Point, &str, &str); 11] = [
    (Point::ResidPre, "hook_resid_pre", "resid_pre"),
    (Point::AttnIn, "attn.hook_in", "attn_in"),
    (Point::AttnZ, "attn.hook_z", "attn_z"),
    (Point::AttnRaw, "attn.hook_out", "attn_raw"),
    (Point::AttnOut, "hook_attn_out", "attn_out"),
    (Point::ResidMid, "hook_resid_mid", "resid_mid"),
    (Point::MlpIn, "mlp.hook_in", "mlp_in"),
    (Point::MlpPost, "mlp.hook_post", "mlp_post"),
    (Point::MlpRaw, "mlp.hook_out", "mlp_raw"),
    (Point::MlpOut, "hook_mlp_out", "mlp_out"),
    (Point::ResidPost, "hook_resid_post", "resid_post"),
];

/// A hook point of a model: a block, counted from 0, and a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hook {
    /// The block.
    pub layer: usize,
    /// The place in the block.
    pub point: Point,
}

impl Hook {
    /// Returns the residual stream after block `layer`.
    pub fn resid_post(layer: usize) -> Self {
        Self { layer, point: Point::ResidPost }
    }

    /// Reads a name: `blocks.10.hook_resid_post`; a short form, `resid_post.10` or `resid_post_layer_10`; or the path of a
    /// module of `transformers`, `model.layers.10.mlp`, which stands for its output and is looked up in `modules`.
    ///
    /// # Errors
    /// One sentence with the names that there are.
    pub fn parse(name: &str, modules: &[(&str, Point)]) -> Result<Self> {
        if let Some(found) = canonical(name).or_else(|| short(name)).or_else(|| module(name, modules)) {
            return Ok(found);
        }
        let points: Vec<&str> = NAMES.iter().map(|(_, name, _)| *name).collect();
        let paths: Vec<&str> = modules.iter().map(|(path, _)| *path).collect();
        bail!(
            "hook point `{name}`: expected blocks.L.POINT with a block L and one of the points {}; a short form as in \
             resid_post.L; or a module of the model: {}",
            points.join(", "),
            paths.join(", ").replace("{}", "L")
        )
    }

    /// Checks that the block exists in a model of `n_layer` blocks.
    ///
    /// # Errors
    /// One sentence with the range.
    pub fn check(&self, n_layer: usize, model: &str) -> Result<()> {
        ensure!(self.layer < n_layer, "the layer must be from 0 to {} in {model}, found {}", n_layer - 1, self.layer);
        Ok(())
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(point, ..)| *point == self.point).map_or("", |(_, name, _)| *name);
        write!(f, "blocks.{}.{name}", self.layer)
    }
}

fn canonical(name: &str) -> Option<Hook> {
    let (layer, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    let (point, ..) = NAMES.iter().find(|(_, name, _)| *name == rest)?;
    Some(Hook { layer: number(layer)?, point: *point })
}

fn short(name: &str) -> Option<Hook> {
    let (rest, layer) = name.split_once("_layer_").or_else(|| name.split_once('.'))?;
    let (point, ..) = NAMES.iter().find(|(.., short)| *short == rest)?;
    Some(Hook { layer: number(layer)?, point: *point })
}

fn module(name: &str, modules: &[(&str, Point)]) -> Option<Hook> {
    modules.iter().find_map(|(path, point)| {
        let (before, after) = path.split_once("{}")?;
        let layer = number(name.strip_prefix(before)?.strip_suffix(after)?)?;
        Some(Hook { layer, point: *point })
    })
}

/// Reads a block: digits alone.
fn number(text: &str) -> Option<usize> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}
