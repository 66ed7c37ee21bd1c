//! Strata's own models: `cfg.json` and `sae_weights.safetensors`.
//!
//! `cfg.json` is `{"format": "strata-sae", "version": 1, "architecture": {...}, "origin": {...}}` with the fields of
//! [`Arch`] and [`Origin`]. The weights are f32 tensors under the names of [`NAMES`](crate::model::NAMES), plus
//! `parent` (u32, `4294967295` for ROOT) where there are families, and `level1.tau`, `level2.tau` (one number) where
//! the activation is `batchtopk`. f16 and bf16 tensors are read too, and so are the models of SAELens (`saelens.rs`),
//! whose files have the same names.
//!
//! The encoder and decoder rows may be in 8 bits: an I8 tensor `level1.w_enc` and an F32 tensor `level1.w_enc.scale` with a
//! number for each row, which its integers are multiples of ([`write_weights_int8`]). [`read_packed`] uses such encoders where
//! they lie.

use super::arrays::Arrays;
use super::json::Settings;
use super::look::{Choices, Look, Parsed, What};
use super::saelens;
use crate::compute::Compute;
use crate::config::ModelKind;
use crate::error::{At, Error, Result};
use crate::kernel::weight::{self, Weight};
use crate::model::{Arch, Model, Packed, PackedWeights, ParamSpec, SharedBytes, Tensor, TopkBy, Variant};
use crate::rows::{Dtype, Rows};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};

pub use super::origin::{Origin, layer_of};

/// The value of `format` in `cfg.json`.
const FORMAT: &str = "strata-sae";
/// The version that is written and read.
const VERSION: u32 = 1;
/// The tensors that may be in 8 bits, and those of their scales.
const SCALES: [(&str, &str); 4] = [
    ("level1.w_enc", "level1.w_enc.scale"),
    ("level2.w_enc", "level2.w_enc.scale"),
    ("level1.w_dec", "level1.w_dec.scale"),
    ("level2.w_dec", "level2.w_dec.scale"),
];

#[derive(Serialize, Deserialize)]
struct Cfg {
    format: String,
    version: u32,
    architecture: Arch,
    #[serde(default)]
    origin: Origin,
}

/// Returns the bytes of `cfg.json` for a model.
pub fn write_cfg(arch: &Arch, origin: &Origin) -> Vec<u8> {
    let cfg = Cfg { format: FORMAT.into(), version: VERSION, architecture: *arch, origin: origin.clone() };
    let mut bytes = serde_json::to_vec_pretty(&cfg).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Returns the bytes of `sae_weights.safetensors` for a model. They depend on the model alone.
///
/// # Errors
/// What [`Model::check`] finds.
pub fn write_weights(model: &Model) -> Result<Vec<u8>> {
    write(model, false)
}

/// Returns the bytes of `sae_weights.safetensors` as [`write_weights`] does, with encoder and decoder rows in 8 bits: the
/// nearest multiples, at most 127 in size, of `max |w| / 127` of their row. Every reader reads them; the encoder is that of
/// [`WeightType::Int8`](crate::model::WeightType::Int8), and the decoder rows have norm 1 up to that rounding.
///
/// # Errors
/// What [`Model::check`] finds; [`Error::NotFinite`] for a row whose numbers are too large to be scaled.
pub fn write_weights_int8(model: &Model) -> Result<Vec<u8>> {
    write(model, true)
}

fn write(model: &Model, in_8_bits: bool) -> Result<Vec<u8>> {
    model.check()?;
    let specs = model.arch.specs();
    let mut packed = Vec::new();
    for ((name, data), (_, spec)) in model.params.tensors().into_iter().zip(specs.tensors()) {
        if let Some((name, scale)) =
            SCALES.iter().find(|(one, _)| *one == name).filter(|_| in_8_bits && !data.is_empty())
        {
            let (q, scales) = weight::to_int8(data, spec.width);
            check_scales(scale, &scales)?;
            packed.push((*name, *scale, spec, q, scales));
        }
    }
    let mut tensors: Vec<(&str, TensorView<'_>)> = Vec::new();
    let view = |dtype, shape, bytes| {
        TensorView::new(dtype, shape, bytes).map_err(|e| Error::format(0, format!("weights: {e}")))
    };
    for ((name, data), (_, spec)) in model.params.tensors().into_iter().zip(specs.tensors()) {
        if !data.is_empty() && !packed.iter().any(|(one, ..)| *one == name) {
            let shape = if spec.width == 1 { vec![spec.rows] } else { vec![spec.rows, spec.width] };
            tensors.push((name, view(safetensors::Dtype::F32, shape, bytemuck::cast_slice(data))?));
        }
    }
    for (name, scale, spec, q, scales) in &packed {
        tensors.push((*name, view(safetensors::Dtype::I8, vec![spec.rows, spec.width], bytemuck::cast_slice(q))?));
        tensors.push((*scale, view(safetensors::Dtype::F32, vec![spec.rows], bytemuck::cast_slice(scales))?));
    }
    if !model.parents.is_empty() {
        let shape = vec![model.parents.len()];
        tensors.push((PARENT, view(safetensors::Dtype::U32, shape, bytemuck::cast_slice(&model.parents))?));
    }
    for (l, name) in TAU.into_iter().enumerate() {
        if has_tau(&model.arch, l) {
            tensors.push((name, view(safetensors::Dtype::F32, vec![1], bytemuck::bytes_of(&model.tau[l]))?));
        }
    }
    safetensors::serialize(tensors, None).map_err(|e| Error::format(0, format!("weights: {e}")))
}

/// The layout of `sae_weights.safetensors`, for a writer that does not have the whole model: the file is the header, and then
/// the bytes of each tensor ([`tensor_bytes`]) in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Everything before the first tensor.
    pub header: Vec<u8>,
    /// The tensors in their order, and whether they have one row for each latent of a level: where a dictionary is sharded, such
    /// a tensor is the rows of all shards one after the other.
    pub tensors: Vec<(&'static str, bool)>,
}

impl Layout {
    /// Returns the layout of the file of a model of this architecture.
    pub fn new(arch: &Arch) -> Self {
        let mut tensors: Vec<(&'static str, &str, Vec<usize>, bool)> = Vec::new();
        for (name, spec) in arch.specs().tensors().into_iter().filter(|(_, spec)| !spec.is_empty()) {
            let shape = if spec.width == 1 { vec![spec.rows] } else { vec![spec.rows, spec.width] };
            tensors.push((name, "F32", shape, spec.per_latent));
        }
        for (_, name) in TAU.into_iter().enumerate().filter(|(l, _)| has_tau(arch, *l)) {
            tensors.push((name, "F32", vec![1], false));
        }
        // As safetensors orders them: by type, then by name.
        tensors.sort_by_key(|(name, ..)| *name);
        if arch.gate.has_families() && arch.level[1].latents > 0 {
            tensors.push((PARENT, "U32", vec![arch.level[1].latents], false));
        }
        let mut end = 0;
        let mut entries = Vec::new();
        for (name, dtype, shape, _) in &tensors {
            let start = end;
            end += 4 * shape.iter().product::<usize>();
            entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#));
        }
        let mut text = format!("{{{}}}", entries.join(",")).replace(", ", ",");
        text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(text.as_bytes());
        Self { header, tensors: tensors.into_iter().map(|(name, _, _, sharded)| (name, sharded)).collect() }
    }
}

/// Returns the bytes of a tensor of [`Layout`] in a model, or in a shard of one.
///
/// # Panics
/// If no model has such a tensor.
pub fn tensor_bytes<'m>(model: &'m Model, name: &str) -> &'m [u8] {
    if name == PARENT {
        return bytemuck::cast_slice(&model.parents);
    }
    if let Some(l) = TAU.iter().position(|tau| *tau == name) {
        return bytemuck::bytes_of(&model.tau[l]);
    }
    let tensors = model.params.tensors();
    let found = tensors.into_iter().find(|(tensor, _)| *tensor == name);
    let Some((_, tensor)) = found else { panic!("no model has the tensor {name}") };
    bytemuck::cast_slice(tensor)
}

/// Names of what is no parameter.
const PARENT: &str = "parent";
const TAU: [&str; 2] = ["level1.tau", "level2.tau"];

fn has_tau(arch: &Arch, level: usize) -> bool {
    arch.level[level].activation.has_tau() && arch.level[level].latents > 0
}

/// Reads a model from the bytes of its two files. Total: any bytes give a model or one clear error, and nothing larger
/// than the files is allocated.
///
/// # Errors
/// [`Error::Format`] for bytes that are not such a file, [`Error::Version`] for another version, [`Error::Shape`],
/// [`Error::Index`] or [`Error::NotFinite`] for tensors that do not fit the architecture, [`Error::Memory`] if there is
/// too little memory.
pub fn read_model(cfg: &[u8], weights: &[u8]) -> Result<(Model, Origin)> {
    if let Some(settings) = of_saelens(cfg) {
        let mut copy = reserved(weights.len())?;
        copy.extend_from_slice(weights);
        return read_saelens(&settings, &(Arc::new(copy) as SharedBytes), false);
    }
    read_own(cfg, weights)
}

/// Reads a model as [`read_model`] does, but only from files of [`write_weights`] and [`write_weights_int8`], not from those that
/// Strata writes for SAELens: for programs in which the code for that counts.
///
/// # Errors
/// As [`read_model`].
pub fn read_own(cfg: &[u8], weights: &[u8]) -> Result<(Model, Origin)> {
    let (model, origin) = read(cfg, weights, &mut Widen { in_place: None })?;
    model.check()?;
    Ok((model, origin))
}

/// Reads a model as [`read_model`] does, without copying tensors that are f32 and aligned to 4 bytes: they share
/// `weights`. That holds for files of [`write_weights`] that are mapped from their start.
///
/// # Errors
/// As [`read_model`].
pub fn read_model_shared(cfg: &[u8], weights: &SharedBytes) -> Result<(Model, Origin)> {
    if let Some(settings) = of_saelens(cfg) {
        return read_saelens(&settings, weights, true);
    }
    let (model, origin) = read(cfg, (**weights).as_ref(), &mut Widen { in_place: Some(weights) })?;
    model.check()?;
    Ok((model, origin))
}

/// Reads the encoder of a model whose encoder rows are in 8 bits ([`write_weights_int8`]), which stay where they lie in
/// `weights`; decoder rows are not read, and may be missing. The other tensors are used in place if they are aligned to 4
/// bytes, as they are if the bytes are aligned to 8.
///
/// # Errors
/// As [`read_model`] and [`Packed::new`]; [`Error::Format`] for encoders that are not in 8 bits.
pub fn read_packed(cfg: &[u8], weights: &SharedBytes, compute: Compute) -> Result<(Packed, Origin)> {
    let mut pack = Pack { bytes: weights, encoders: Default::default() };
    let (model, origin) = read(cfg, (**weights).as_ref(), &mut pack)?;
    Ok((Packed::new(model, weights, pack.encoders, compute)?, origin))
}

/// What becomes of the tensors of a file.
trait Place {
    /// Returns whether the tensor called `name` is read.
    fn wants(&self, name: &str) -> bool;

    /// Takes numbers.
    fn floats(&mut self, name: &str, view: &TensorView<'_>, dtype: Dtype) -> Result<Tensor>;

    /// Takes rows of `width` numbers in 8 bits, with their scales.
    fn int8(&mut self, name: &str, view: &TensorView<'_>, width: usize, scales: Vec<f32>) -> Result<Tensor>;
}

/// Numbers become f32, or stay where they lie if they are.
struct Widen<'a> {
    in_place: Option<&'a SharedBytes>,
}

impl Place for Widen<'_> {
    fn wants(&self, _: &str) -> bool {
        true
    }

    fn floats(&mut self, _: &str, view: &TensorView<'_>, dtype: Dtype) -> Result<Tensor> {
        match self.in_place {
            Some(bytes) if dtype == Dtype::F32 => Ok(Tensor::shared(bytes, place(view, bytes))),
            _ => widened(view, dtype).map(Tensor::from),
        }
    }

    fn int8(&mut self, _: &str, view: &TensorView<'_>, width: usize, scales: Vec<f32>) -> Result<Tensor> {
        let mut out = reserved(view.data().len())?;
        for (row, scale) in view.data().chunks_exact(width).zip(scales) {
            out.extend(row.iter().map(|q| (*q as i8).widen(scale)));
        }
        Ok(out.into())
    }
}

/// Encoder rows stay where they lie, and decoder rows are left out.
struct Pack<'a> {
    bytes: &'a SharedBytes,
    encoders: [PackedWeights; 2],
}

impl Place for Pack<'_> {
    fn wants(&self, name: &str) -> bool {
        !name.ends_with(".w_dec")
    }

    fn floats(&mut self, name: &str, view: &TensorView<'_>, dtype: Dtype) -> Result<Tensor> {
        if name.ends_with(".w_enc") {
            let why = format!("tensor `{name}`: expected I8, since it is to be used in place, found {dtype}");
            return Err(Error::format(0, why));
        }
        Widen { in_place: Some(self.bytes) }.floats(name, view, dtype)
    }

    fn int8(&mut self, name: &str, view: &TensorView<'_>, _: usize, scales: Vec<f32>) -> Result<Tensor> {
        self.encoders[usize::from(name.starts_with("level2"))] =
            PackedWeights { range: place(view, self.bytes), scales };
        Ok(Tensor::default())
    }
}

/// Returns where a tensor lies in the bytes of its file.
fn place(view: &TensorView<'_>, bytes: &SharedBytes) -> core::ops::Range<usize> {
    let start = view.data().as_ptr() as usize - (**bytes).as_ref().as_ptr() as usize;
    start..start + view.data().len()
}

/// Checks that the scales of a tensor in 8 bits give finite weights.
fn check_scales(name: &str, scales: &[f32]) -> Result<()> {
    match scales.iter().position(|s| !(127.0 * s).is_finite()) {
        Some(row) => Err(Error::NotFinite { what: name.to_string(), at: At::Element(row as u64) }),
        None => Ok(()),
    }
}

/// Returns the tensor called `name` and the scales of its rows, with the name of these, if it is in 8 bits.
fn in_8_bits<'a>(
    file: &SafeTensors<'a>,
    name: &str,
    spec: &ParamSpec,
) -> Result<Option<(TensorView<'a>, Vec<f32>, &'static str)>> {
    let Some(&(_, scale)) = SCALES.iter().find(|(one, _)| *one == name) else { return Ok(None) };
    let view = find(file, name)?;
    if view.dtype() != safetensors::Dtype::I8 {
        return Ok(None);
    }
    let expected = spec.rows as u128 * spec.width as u128;
    if view.data().len() as u128 != expected {
        let why = format!("tensor `{name}`: expected {expected} numbers, found {}", view.data().len());
        return Err(Error::format(0, why));
    }
    let (scales, dtype) = floats(file, scale, spec.rows as u128)?;
    let scales = widened(&scales, dtype)?;
    check_scales(scale, &scales)?;
    Ok(Some((view, scales, scale)))
}

/// Returns the settings, if they are those of SAELens.
fn of_saelens(cfg: &[u8]) -> Option<Settings> {
    Settings::parse("cfg.json", cfg).ok().filter(saelens::is_one)
}

fn read_saelens(settings: &Settings, weights: &SharedBytes, keep: bool) -> Result<(Model, Origin)> {
    let mut arrays = Arrays::of_safetensors("sae_weights.safetensors", weights)?;
    arrays.keep = keep;
    let (model, origin, _) = saelens::read(settings, &arrays, &Choices::default())?.finish(&Choices::default())?;
    Ok((model, origin))
}

/// Reads a model from a directory.
pub(super) fn read_look(look: &Look<'_>, _: &Choices) -> Result<Parsed> {
    let name = look.settings_name.unwrap_or("cfg.json");
    let cfg = look.files.read(name)?;
    let cfg = (*cfg).as_ref();
    let (model, origin) =
        if look.arrays.keep { read_model_shared(cfg, look.bytes)? } else { read_model(cfg, (**look.bytes).as_ref())? };
    Ok(Parsed { what: What::Model(Box::new(model)), origin, notes: Vec::new(), is_scaled: true })
}

/// Reads a model without checking it as a whole; `to` says what becomes of its tensors.
fn read(cfg: &[u8], weights: &[u8], to: &mut impl Place) -> Result<(Model, Origin)> {
    let cfg: Cfg = serde_json::from_slice(cfg).map_err(|e| Error::format(0, format!("cfg.json: {e}")))?;
    if cfg.format != FORMAT {
        return Err(Error::format(0, format!("cfg.json: expected the format `{FORMAT}`, found `{}`", cfg.format)));
    }
    if cfg.version != VERSION {
        return Err(Error::Version { what: "cfg.json", expected: VERSION, got: cfg.version });
    }
    let arch = cfg.architecture;
    for (what, n) in [("d", arch.d), ("f1", arch.level[0].latents)] {
        if n == 0 || n >= u32::MAX as usize {
            return Err(Error::format(
                0,
                format!("cfg.json: `{what}` must be between 1 and {}, found {n}", u32::MAX - 1),
            ));
        }
    }
    if arch.level[1].latents >= u32::MAX as usize || !(arch.level[0].k > 0.0 && arch.level[1].k > 0.0) {
        return Err(Error::format(0, "cfg.json: `f2`, `k1` or `k2` is out of range"));
    }
    check_variant(&arch)?;
    if arch.model == ModelKind::Seed && (arch.source.is_activations() || !arch.decoder.is_composed()) {
        return Err(Error::format(0, "cfg.json: the model `seed` has the source `z1` and the decoder `comp`"));
    }
    let file =
        SafeTensors::deserialize(weights).map_err(|e| Error::format(0, format!("sae_weights.safetensors: {e}")))?;
    let specs = arch.specs();
    let mut model = Model { arch, params: Default::default(), parents: Vec::new(), tau: [0.0; 2] };
    let mut known: Vec<&str> = Vec::new();
    for ((name, data), (_, spec)) in model.params.tensors_mut().into_iter().zip(specs.tensors()) {
        if spec.rows > 0 && spec.width > 0 {
            known.push(name);
            if !to.wants(name) {
                known.extend(SCALES.iter().filter(|(one, _)| *one == name).map(|(_, scale)| *scale));
            } else if let Some((view, scales, scale)) = in_8_bits(&file, name, spec)? {
                known.push(scale);
                *data = to.int8(name, &view, spec.width, scales)?;
            } else {
                let (view, dtype) = floats(&file, name, spec.rows as u128 * spec.width as u128)?;
                *data = to.floats(name, &view, dtype)?;
            }
        }
    }
    if arch.gate.has_families() && arch.level[1].latents > 0 {
        known.push("parent");
        let view = find(&file, "parent")?;
        if view.dtype() != safetensors::Dtype::U32 {
            return Err(Error::format(0, format!("tensor `parent`: expected U32, found {:?}", view.dtype())));
        }
        model.parents = reserved(view.data().len() / 4)?;
        model.parents.extend(view.data().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    }
    for (l, name) in ["level1.tau", "level2.tau"].into_iter().enumerate() {
        if has_tau(&arch, l) {
            known.push(name);
            let (view, dtype) = floats(&file, name, 1)?;
            model.tau[l] = widened(&view, dtype)?[0];
            if !model.tau[l].is_finite() {
                return Err(Error::NotFinite { what: name.to_string(), at: At::Element(0) });
            }
        }
    }
    if let Some(extra) = file.names().into_iter().filter(|n| !known.contains(n)).min() {
        return Err(Error::format(
            0,
            format!("sae_weights.safetensors holds a tensor `{extra}` that this architecture does not have"),
        ));
    }
    Ok((model, cfg.origin))
}

/// Checks that the variant is consistent with the rest of the architecture.
fn check_variant(arch: &Arch) -> Result<()> {
    let Variant { target, raw_input, topk_by, .. } = arch.variant;
    let wrong = |what: &str| Err(Error::format(0, format!("cfg.json: {what}")));
    if arch.model == ModelKind::Seed && !arch.variant.is_none() {
        return wrong("the model `seed` has no `variant`");
    }
    if target.is_some_and(|n| n == 0 || n >= u32::MAX as usize) {
        return wrong("`target` is out of range");
    }
    if target.is_some() && (!raw_input || (arch.n_levels() == 2 && arch.source.reaches_decoder1(false))) {
        return wrong("a transcoder reads rows as they are (`raw_input`), and its level 2 does not read the residual");
    }
    if topk_by != TopkBy::Value && !arch.level[0].activation.has_whole_k() {
        return wrong("`topk_by` is for level 1 with the activation `topk`");
    }
    Ok(())
}

fn find<'a>(file: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>> {
    file.tensor(name).map_err(|_| Error::format(0, format!("sae_weights.safetensors has no tensor `{name}`")))
}

/// Returns the view of a tensor of `expected` floats, and their type.
fn floats<'a>(file: &SafeTensors<'a>, name: &str, expected: u128) -> Result<(TensorView<'a>, Dtype)> {
    let view = find(file, name)?;
    let dtype = match view.dtype() {
        safetensors::Dtype::F32 => Dtype::F32,
        safetensors::Dtype::F16 => Dtype::F16,
        safetensors::Dtype::BF16 => Dtype::Bf16,
        other => return Err(Error::format(0, format!("tensor `{name}`: expected F32, F16 or BF16, found {other:?}"))),
    };
    let got: u128 = view.shape().iter().map(|n| *n as u128).product();
    if got != expected {
        return Err(Error::format(0, format!("tensor `{name}`: expected {expected} numbers, found {got}")));
    }
    Ok((view, dtype))
}

/// Returns the numbers of a view as f32.
fn widened(view: &TensorView<'_>, dtype: Dtype) -> Result<Vec<f32>> {
    let stride = view.data().len();
    let n = stride / dtype.size_bytes();
    let mut out = reserved(n)?;
    out.resize(n, 0.0);
    Rows::new(view.data(), usize::from(n > 0), n, stride, dtype)?.widen(0..usize::from(n > 0), &mut out);
    Ok(out)
}

/// Returns an empty vector with capacity for `n` items.
fn reserved<T>(n: usize) -> Result<Vec<T>> {
    let mut out = Vec::new();
    out.try_reserve_exact(n).map_err(|_| Error::Memory { what: "weights", bytes: n.saturating_mul(size_of::<T>()) })?;
    Ok(out)
}
