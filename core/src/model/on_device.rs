//! A model on a device, made ready to encode: the codes of [`Encoder`](super::Encoder), to the bit.

use super::stored::Stored;
use super::stored::with_weights;
use super::{Arch, Codes, Model, TopkBy};
use crate::config::ModelKind;
use crate::device::kernels::{self, Bytes, ROUNDED, Values, WEIGHED, Weights, width};
use crate::device::lists::{FamiliesOn, Gate, ListSlots};
use crate::device::packing::{Packed, Packing};
use crate::device::search::{Guess, Limit, Search, Work, is_screened};
use crate::device::sums;
use crate::device::{Buffer, Device, Part, Slot};
use crate::error::{Error, Result};
use crate::gate::{Families, Reads};
use crate::kernel::dense::Matrix;
use crate::kernel::fire;
use crate::kernel::weight::Weight;
use crate::row_norm::RowNorm;
use crate::rows::Dtype;
use alloc::format;
use alloc::vec::Vec;

/// Rows that are encoded together.
const BLOCK: usize = 1 << 12;

/// A model on a device.
#[derive(Debug)]
pub(crate) struct OnDevice {
    device: Device,
    arch: Arch,
    levels: Vec<Level>,
    /// What is taken from the rows, unless the host has done so.
    b_dec: Option<Buffer<f32>>,
    /// Decoder rows of level 1, where level 2 reads what they leave over.
    decoder1: Option<Buffer<f32>>,
    families: Option<FamiliesOn>,
}

/// The encoder of one level.
#[derive(Debug)]
struct Level {
    w: Buffer<f32>,
    bias: Buffer<f32>,
    d: usize,
    /// In 8 bits, where that pays.
    bytes: Option<(Buffer<i8>, Buffer<f32>)>,
    rule: Rule,
}

/// By which rule its latents fire.
#[derive(Debug)]
enum Rule {
    Above(f32),
    Each(Buffer<f32>),
    Topk(usize),
    /// Slopes `e^r`, and offsets.
    Gated(Buffer<f32>, Buffer<f32>),
}

/// Working memory on a device; a clone has none.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    rows: Slot<u8>,
    xt: Slot<f32>,
    rest: Slot<f32>,
    bytes: Slot<i8>,
    rounded: Slot<f32>,
    active: Slot<u32>,
    kept: [ListSlots; 2],
    gated: ListSlots,
    open: ListSlots,
    packing: Packing,
    packed: Packed,
    /// Level 1, level 2, and level 2 without its gate.
    guesses: [Guess; 3],
    work: Work,
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Returns the sentence that a choice is not computed on a device.
fn refused(key: &str, value: &str) -> Error {
    Error::Device { what: format!("`{key} = \"{value}\"` is not computed on a GPU yet: use the CPU") }
}

/// Returns an error for models that are not encoded on a device.
fn check(arch: &Arch) -> Result<()> {
    let (two, variant) = (arch.n_levels() == 2, &arch.variant);
    if arch.model == ModelKind::Seed {
        return Err(refused("model", "seed"));
    }
    if variant.topk_by != TopkBy::Value {
        let what = "a top-k by absolute values or by groups is not computed on a GPU yet: use the CPU";
        return Err(Error::Device { what: what.into() });
    }
    if variant.prune != [0.0; 2] {
        let what = "a model that is pruned (`level1.prune`, `level2.prune`) is not encoded on a GPU yet: use the CPU";
        return Err(Error::Device { what: what.into() });
    }
    if variant.scale && two {
        return Err(Error::Device {
            what: "latents with scales of two levels are not computed on a GPU yet: use the CPU".into(),
        });
    }
    if two && !arch.source.is_activations() {
        return Err(refused("source", arch.source.name()));
    }
    if two && arch.gate.has_weights() {
        return Err(refused("gate.kind", arch.gate.name()));
    }
    Ok(())
}

impl Level {
    fn new<W: Weight>(device: &Device, model: &Model, l: usize, w: Matrix<'_, W>) -> Result<Self> {
        let (params, d) = (&model.params.level[l], w.d);
        let mut wide = Vec::with_capacity(w.values.len());
        for j in 0..w.rows.len() {
            let (row, scale) = w.of(j);
            wide.extend(row.iter().map(|w| w.widen(scale)));
        }
        let rule = model.rule(l);
        let rule = match rule.limit() {
            fire::Limit::Topk(k) => Rule::Topk(k),
            fire::Limit::AboveEach(limits) => Rule::Each(device.upload(limits)?),
            fire::Limit::Above(limit) => match rule.magnitudes() {
                Some((slopes, offsets)) => Rule::Gated(device.upload(&slopes)?, device.upload(offsets)?),
                None => Rule::Above(limit),
            },
        };
        let (w, bias) = (device.upload(&wide)?, device.upload(&params.b_enc)?);
        let mut level = Self { w, bias, d, bytes: None, rule };
        let f = level.bias.len();
        if is_screened(f, d) {
            let (bytes, known) = (device.alloc(f * width(d))?, device.alloc(f * WEIGHED)?);
            let below = if let Rule::Each(limits) = &level.rule { Some(limits.all()) } else { None };
            kernels::round_weights(level.weights(), below, Bytes { bytes: bytes.all(), known: known.all() })?;
            level.bytes = Some((bytes, known));
        }
        Ok(level)
    }

    fn weights(&self) -> Weights<'_> {
        Weights { w: self.w.all(), bias: self.bias.all(), d: self.d }
    }

    fn limit(&self) -> Limit<'_> {
        match &self.rule {
            Rule::Above(limit) => Limit::Above(*limit),
            Rule::Each(limits) => Limit::Each(limits.all()),
            Rule::Topk(k) => Limit::Topk(*k),
            Rule::Gated(..) => Limit::Above(0.0),
        }
    }

    /// Returns the search of rows without a gate.
    fn search<'a>(&'a self, x: Part<'a, f32>, rows: Option<Bytes<'a>>) -> Search<'a> {
        let latents = self.bytes.as_ref().map(|(bytes, known)| Bytes { bytes: bytes.all(), known: known.all() });
        let screen = rows.zip(latents).map(|(rows, latents)| [rows, latents]);
        Search { x, weights: self.weights(), screen, limit: self.limit(), gate: None, largest_of: None }
    }

    /// Turns the pre-activations of `lists` into the values of those that fire; `spare` is used.
    fn settle(&self, n: usize, room: usize, lists: &mut ListSlots, spare: &mut ListSlots) -> Result<()> {
        if let Rule::Gated(slope, offset) = &self.rule {
            let out = spare.room(self.bias.all().device(), n, room)?;
            kernels::activate(Values::Gated(slope.all(), offset.all()), false, lists.of(n, room), None, out)?;
            core::mem::swap(lists, spare);
        }
        Ok(())
    }
}

impl OnDevice {
    /// Copies a model to a device.
    pub fn new(device: &Device, model: &Model, stored: &Stored, families: &Families) -> Result<Self> {
        let arch = model.arch;
        check(&arch)?;
        let needed = model.params.level.iter().map(|level| 5 * level.w_enc.len() + 24 * level.b_enc.len()).sum();
        device.check_memory("this model", needed)?;
        let two = arch.n_levels() == 2;
        let levels = with_weights!(stored, model, |w1, w2| {
            let mut levels = Vec::new();
            levels.push(Level::new(device, model, 0, w1)?);
            if two {
                levels.push(Level::new(device, model, 1, w2)?);
            }
            levels
        });
        // Rows that are normalised one by one are centred by the host.
        let centred = arch.variant.row_norm == RowNorm::None && !arch.variant.raw_input;
        let reads_rest = two && !arch.source.is_parallel();
        let gated = two && arch.gate.has_families();
        Ok(Self {
            b_dec: if centred { Some(device.upload(&model.params.b_dec)?) } else { None },
            decoder1: if reads_rest { Some(device.upload(&model.params.level[0].w_dec)?) } else { None },
            families: if gated { Some(FamiliesOn::new(device, families)?) } else { None },
            device: device.clone(),
            arch,
            levels,
        })
    }

    /// Returns the device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Appends the codes of the bytes of rows, `(n, d)`, and to `open` those that level 2 would have without its gate.
    pub fn encode(
        &self,
        (x, dtype): (&[u8], Dtype),
        memory: &mut Memory,
        [codes1, codes2]: [&mut Codes; 2],
        mut open: Option<&mut Codes>,
    ) -> Result<()> {
        for block in x.chunks(BLOCK * self.arch.d * dtype.size_bytes()) {
            self.encode_block((block, dtype), memory, [codes1, codes2], open.as_deref_mut())?;
        }
        Ok(())
    }

    fn encode_block(
        &self,
        (x, dtype): (&[u8], Dtype),
        memory: &mut Memory,
        [codes1, codes2]: [&mut Codes; 2],
        open: Option<&mut Codes>,
    ) -> Result<()> {
        let (device, d) = (&self.device, self.arch.d);
        let n = x.len() / (d * dtype.size_bytes());
        let Memory { rows, xt, rest, bytes, rounded, active, kept: [one, two], gated, open: lists, .. } = memory;
        let Memory { packing, packed, guesses: [guess1, guess2, guess3], work, .. } = memory;
        let mut download = |lists: &ListSlots, room: usize, codes: &mut Codes| {
            packing.download(lists.of(n, room), packed)?;
            let base = codes.index.len();
            codes.index.extend_from_slice(&packed.index);
            codes.value.extend_from_slice(&packed.value);
            codes.offsets.extend(packed.offsets[1..].iter().map(|o| base + *o as usize));
            Ok::<(), Error>(())
        };
        let rows = rows.room(device, x.len())?;
        rows.put(x)?;
        let xt = xt.room(device, n * d)?;
        kernels::rows_in((rows, dtype), None, self.b_dec.as_ref().map(Buffer::all), d, xt)?;
        let mut round = |x: Part<'_, f32>| {
            bytes.room(device, n * width(d))?;
            rounded.room(device, n * ROUNDED)?;
            kernels::round_rows(x, d, Bytes { bytes: bytes.of(n * width(d)), known: rounded.of(n * ROUNDED) })
        };
        let screened = self.levels.iter().any(|level| level.bytes.is_some());
        if screened {
            round(xt)?;
        }
        let level = &self.levels[0];
        let known = screened.then(|| Bytes { bytes: bytes.of(n * width(d)), known: rounded.of(n * ROUNDED) });
        let room = level.search(xt, known).run(guess1, work, one)?;
        level.settle(n, room, one, gated)?;
        download(one, room, codes1)?;
        let Some(level) = self.levels.get(1) else {
            (0..n).for_each(|_| codes2.end_row());
            if let Some(open) = open {
                (0..n).for_each(|_| open.end_row());
            }
            return Ok(());
        };
        let parents = one.of(n, room);
        let mut s = xt;
        if let Some(decoder) = &self.decoder1 {
            let rest = rest.room(device, n * d)?;
            sums::leave_over(xt, decoder.all(), d, parents, rest)?;
            s = rest;
            if level.bytes.is_some() {
                let known = Bytes { bytes: bytes.of(n * width(d)), known: rounded.of(n * ROUNDED) };
                kernels::round_rows(s, d, known)?;
            }
        }
        let known =
            level.bytes.is_some().then(|| Bytes { bytes: bytes.of(n * width(d)), known: rounded.of(n * ROUNDED) });
        let ungated = level.search(s, known);
        let mut search = ungated;
        match (&self.families, self.arch.gate.reads()) {
            (Some(families), Reads::ActiveParents { largest_only: true }) => {
                search.largest_of = Some((families, parents))
            }
            (Some(families), _) => {
                let words = self.arch.level[0].latents.div_ceil(32);
                let active = active.room(device, n * words)?;
                kernels::mark_active(parents, words, active)?;
                search.gate = Some(Gate { parents: families.parents.all(), active, words });
            }
            (None, _) => {}
        }
        let room = search.run(guess2, work, two)?;
        level.settle(n, room, two, gated)?;
        download(two, room, codes2)?;
        if let Some(open) = open {
            let room = ungated.run(guess3, work, lists)?;
            level.settle(n, room, lists, gated)?;
            download(lists, room, open)?;
        }
        Ok(())
    }
}
