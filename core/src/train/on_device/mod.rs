//! A training step on a device, with the bits of [`Objective`](super::step::Objective) and [`Adam`].
//!
//! Parameters, gradients and moments lie there, and so do all lists of a step; the host reads how many candidates there are, sums
//! of squares per row, the codes, and the statistics of gradients, and adds these in f64 in the order of the CPU. It has a copy of
//! parameters and moments only after [`OnDevice::fetch`].

mod level;

use super::observed::{Losses, Observed};
use super::step::{self, Adam, StepSettings};
use crate::activation::{Candidacy, Rule, Selection};
use crate::config::{Budget, Config, ModelKind};
use crate::device::kernels::{self, Bytes, ROUNDED, WEIGHED, Weights, width};
use crate::device::lists::{FamiliesOn, Gate, ListSlots, Lists};
use crate::device::packing::{Packed, Packing};
use crate::device::search::{Guess, Limit, Search, Work, is_screened};
use crate::device::training::{self, CUT, DecoderJob, Entries, cut_start};
use crate::device::{Buffer, Device, Slot};
use crate::error::{At, Error, Result};
use crate::gate::Families;
use crate::model::{Arch, LevelParams, ParamSpec, Params};
use alloc::format;
use alloc::vec::Vec;
use level::Level;

/// Rows whose sums of squares are added first, as on the CPU.
const CHUNK: usize = crate::model::CHUNK;

/// Numbers of a vector that one block of threads updates.
const VECTOR: usize = 1024;

/// Bytes per parameter: itself, its gradient, two moments, and its copy in 8 bits.
const BYTES: usize = 17;

/// Where the newest parameters and moments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newest {
    Device,
    Both,
    Host,
}

/// A model that is trained on a device.
#[derive(Debug)]
pub(super) struct OnDevice {
    device: Device,
    config: Config,
    arch: Arch,
    /// `b_dec`, then encoder, biases and decoder of each level.
    tensors: Vec<Learned>,
    levels: Vec<Level>,
    /// The families that the next step reads, if they are others than those of the last.
    changed: Option<Families>,
    families: Option<FamiliesOn>,
    /// Latents that start anew before the next step.
    anew: Vec<(usize, usize, LevelParams<Vec<f32>>)>,
    newest: Newest,
    rows: RowSlots,
    selection: SelectionSlots,
    bias: BiasSlots,
    work: Work,
    packing: Packing,
    packed: Packed,
    /// `(n, d)`: what the last level left over of the last batch, if it was asked for.
    left: Vec<f32>,
}

/// A tensor with its gradient and moments.
#[derive(Debug)]
struct Learned {
    name: &'static str,
    spec: ParamSpec,
    p: Buffer<f32>,
    g: Buffer<f32>,
    m: Buffer<f32>,
    v: Buffer<f32>,
    squares: Buffer<f64>,
}

#[derive(Debug, Default)]
struct RowSlots {
    raw: Slot<f32>,
    xt: Slot<f32>,
    bytes: Slot<i8>,
    rounded: Slot<f32>,
    active: Slot<u32>,
}

#[derive(Debug, Default)]
struct SelectionSlots {
    cut: Slot<u32>,
    bins: Slot<u32>,
    ties: Slot<u32>,
    before: Slot<u32>,
    least: Slot<u32>,
}

#[derive(Debug, Default)]
struct BiasSlots {
    columns: Slot<f32>,
    sums: Slot<f32>,
    through: Slot<f32>,
    through2: Slot<f32>,
    stats: Slot<f32>,
}

/// Place of the encoder of a level in `tensors`; its biases and its decoder follow.
const fn encoder(level: usize) -> usize {
    1 + 3 * level
}

/// Returns the error of a setting that is not computed on devices.
fn refused(key: &str, value: &str) -> Error {
    Error::Device { what: format!("`{key} = {value}` is not trained on a GPU yet: use the CPU") }
}

/// Checks that a model of these settings is trained on devices.
fn check(config: &Config, arch: &Arch) -> Result<()> {
    let two = arch.n_levels() == 2;
    if config.model == ModelKind::Seed {
        return Err(refused("model", "\"seed\""));
    }
    if arch.variant.target.is_some() {
        return Err(Error::Device { what: "transcoders are not trained on a GPU yet: use the CPU".into() });
    }
    for (l, level) in arch.level.iter().enumerate().take(arch.n_levels()) {
        if level.activation.selection() == Selection::Each {
            return Err(refused(&format!("level{}.activation", l + 1), &format!("\"{}\"", level.activation)));
        }
        let lambda = config.level(l).lambda;
        if lambda != 0.0 {
            return Err(refused(&format!("level{}.lambda", l + 1), &format!("{lambda}")));
        }
    }
    if two && !arch.source.is_parallel() {
        return Err(refused("source", &format!("\"{}\"", arch.source)));
    }
    if two && arch.decoder.is_composed() {
        return Err(refused("decoder", &format!("\"{}\"", arch.decoder)));
    }
    if two && arch.gate.is_dense_in_training() {
        return Err(refused("gate.kind", &format!("\"{}\"", arch.gate)));
    }
    if two && config.budget == Budget::Shared {
        return Err(refused("budget", &format!("\"{}\"", config.budget)));
    }
    let loss = config.loss.consistency;
    if two && !loss.is_none() {
        return Err(refused("loss.consistency", &format!("\"{loss}\"")));
    }
    if two && config.train.balance.projects() {
        return Err(refused("train.balance", &format!("\"{}\"", config.train.balance)));
    }
    if config.train.freeze.fixes_encoders()
        || config.train.freeze.fixes_decoders()
        || config.train.freeze.anchors_decoders()
    {
        return Err(refused("train.freeze", &format!("\"{}\"", config.train.freeze)));
    }
    if config.train.row_norm > 0.0 {
        return Err(refused("train.row_norm", &format!("{}", config.train.row_norm)));
    }
    Ok(())
}

impl OnDevice {
    /// Copies parameters and moments to a device.
    pub fn new(device: &Device, config: &Config, arch: &Arch, params: &Params, adam: &Adam) -> Result<Self> {
        check(config, arch)?;
        device.check_memory("this training", BYTES * params.len())?;
        let mut tensors = Vec::new();
        let all = arch.specs().tensors().map(|(name, spec)| (name, *spec));
        let moments = adam.m.tensors().into_iter().zip(adam.v.tensors());
        for (((name, spec), (_, p)), ((_, m), (_, v))) in all.into_iter().zip(params.tensors()).zip(moments) {
            if spec.is_empty() {
                continue;
            }
            let (p, m, v) = (device.upload(p)?, device.upload(m)?, device.upload(v)?);
            let blocks = spec.len().div_ceil(step::adam::rows_of_block(spec.width) * spec.width);
            tensors.push(Learned { name, spec, p, m, v, g: device.alloc(spec.len())?, squares: device.alloc(blocks)? });
        }
        let mut levels = Vec::new();
        for l in 0..arch.n_levels() {
            let (f, d) = (arch.level[l].latents, arch.d);
            let mut level = Level::default();
            if is_screened(f, d) {
                level.bytes = Some((device.alloc(f * width(d))?, device.alloc(f * WEIGHED)?));
            }
            levels.push(level);
        }
        Ok(Self {
            device: device.clone(),
            config: config.clone(),
            arch: *arch,
            tensors,
            levels,
            changed: None,
            families: None,
            anew: Vec::new(),
            newest: Newest::Both,
            rows: RowSlots::default(),
            selection: SelectionSlots::default(),
            bias: BiasSlots::default(),
            work: Work::default(),
            packing: Packing::default(),
            packed: Packed::default(),
            left: Vec::new(),
        })
    }

    /// Puts other families behind the gate.
    pub fn set_families(&mut self, families: &Families) {
        self.changed = Some(families.clone());
    }

    /// Starts a latent anew before the next step, with moments of zero.
    pub fn set_latent(&mut self, level: usize, j: usize, encoder: &[f32], bias: f32, decoder: &[f32]) {
        let rows = LevelParams {
            w_enc: encoder.into(),
            b_enc: [bias].into(),
            w_dec: decoder.into(),
            ..LevelParams::default()
        };
        self.anew.push((level, j, rows));
        self.newest = Newest::Device;
    }

    /// Says that the host has other parameters now, which the next step reads.
    pub fn replaced(&mut self) {
        self.newest = Newest::Host;
    }

    /// Returns whether the host has the parameters and moments as they are.
    pub fn is_fetched(&self) -> bool {
        self.newest != Newest::Device
    }

    /// Copies parameters and moments to the host.
    pub fn fetch(&mut self, params: &mut Params, adam: &mut Adam) -> Result<()> {
        self.start_anew()?;
        if self.newest != Newest::Device {
            return Ok(());
        }
        let mut all = self.tensors.iter();
        let specs = self.arch.specs().tensors().map(|(_, spec)| spec.is_empty());
        let moments = adam.m.tensors_mut().into_iter().zip(adam.v.tensors_mut());
        for ((empty, (_, p)), ((_, m), (_, v))) in specs.into_iter().zip(params.tensors_mut()).zip(moments) {
            let Some(tensor) = (if empty { None } else { all.next() }) else { continue };
            tensor.p.all().get(p)?;
            tensor.m.all().get(m)?;
            tensor.v.all().get(v)?;
        }
        self.newest = Newest::Both;
        Ok(())
    }

    /// Copies what the last level left over of the last batch to the host.
    pub fn fetch_rows(&mut self) -> Result<()> {
        if let Some(level) = self.levels.last() {
            let n = self.packed.offsets.len().saturating_sub(1);
            self.left.resize(n * self.arch.d, 0.0);
            level.r.of(self.left.len()).get(&mut self.left)?;
        }
        Ok(())
    }

    /// Returns what the last level left over of a row; empty unless it was fetched.
    pub fn residual(&self, row: usize) -> &[f32] {
        let d = self.arch.d;
        self.left.get(row * d..(row + 1) * d).unwrap_or(&[])
    }

    fn start_anew(&mut self) -> Result<()> {
        for (level, j, rows) in self.anew.drain(..) {
            for (at, new) in [&rows.w_enc, &rows.b_enc, &rows.w_dec].into_iter().enumerate() {
                let Learned { p, m, v, .. } = &self.tensors[encoder(level) + at];
                let row = j * new.len()..(j + 1) * new.len();
                p.part(row.clone()).put(new)?;
                m.part(row.clone()).zero()?;
                v.part(row).zero()?;
            }
        }
        Ok(())
    }

    /// Takes one step on normalised rows, and writes what it has seen. `params` are read only where the host has newer ones.
    pub fn step(
        &mut self,
        x: &[f32],
        settings: &StepSettings,
        params: &Params,
        floors: &mut [Option<f32>; 2],
        adam: &mut Adam,
        observed: &mut Observed,
    ) -> Result<()> {
        let (n, d) = (x.len() / self.arch.d, self.arch.d);
        assert!(n > 0 && x.len() == n * d, "{} numbers are no whole number of rows of {d}", x.len());
        assert!(settings.fixed_level.is_none(), "a level that does not learn");
        self.begin(settings, params)?;
        let Self { device, rows, tensors, .. } = self;
        let raw = rows.raw.room(device, n * d)?;
        raw.put(x)?;
        kernels::rows_in(raw, Some(tensors[0].p.all()), d, rows.xt.room(device, n * d)?)?;
        self.round(n)?;
        let mut losses = Losses::default();
        observed.ungated.clear();
        for l in 0..self.arch.n_levels() {
            (losses.selected_min[l], losses.above_tau[l]) = self.collect(l, n, settings, &mut floors[l], observed)?;
        }
        if !settings.observe_ungated || self.arch.n_levels() < 2 {
            (0..n).for_each(|_| observed.ungated.end_row());
        }
        self.decode(n, settings, observed, &mut losses)?;
        self.backward(n, settings, &mut losses)?;
        step::check(&losses)?;
        let norm = self.project(adam)?;
        let update = adam.next_step(settings.lr, norm);
        for Learned { spec, p, g, m, v, .. } in &self.tensors {
            let width = if spec.width > 1 { spec.width } else { VECTOR };
            training::adam_rows(&update, width, spec.unit_rows, g.all(), [p.all(), m.all(), v.all()])?;
        }
        self.newest = Newest::Device;
        (observed.losses, observed.grad_norm) = (losses, norm);
        Ok(())
    }

    /// Brings what the host has changed to the device.
    fn begin(&mut self, settings: &StepSettings, params: &Params) -> Result<()> {
        if self.newest == Newest::Host {
            let specs = self.arch.specs().tensors().map(|(_, spec)| spec.is_empty());
            let there = specs.into_iter().zip(params.tensors()).filter(|(empty, _)| !empty);
            for (tensor, (_, (_, p))) in self.tensors.iter().zip(there) {
                tensor.p.all().put(p)?;
            }
        }
        self.start_anew()?;
        if let Some(families) = self.changed.take_if(|_| settings.gate.has_families()) {
            self.families = Some(FamiliesOn::new(&self.device, &families)?);
        }
        self.left.clear();
        Ok(())
    }

    /// Rounds rows and encoders to 8 bits.
    fn round(&mut self, n: usize) -> Result<()> {
        let Self { device, arch, tensors, levels, rows, .. } = self;
        let d = arch.d;
        for (l, level) in levels.iter().enumerate() {
            if let Some((bytes, known)) = &level.bytes {
                kernels::round_weights(weights(tensors, l, d), None, Bytes { bytes: bytes.all(), known: known.all() })?;
            }
        }
        if levels.iter().any(|level| level.bytes.is_some()) {
            let known = rows.rounded.room(device, n * ROUNDED)?;
            let bytes = rows.bytes.room(device, n * width(d))?;
            kernels::round_rows(rows.xt.of(n * d), d, Bytes { bytes, known })?;
        }
        Ok(())
    }

    /// Finds what fires at a level, the picks of AuxK, and ungated pre-activations; returns the smallest selected
    /// pre-activation and how many lie above the tracked threshold.
    fn collect(
        &mut self,
        l: usize,
        n: usize,
        settings: &StepSettings,
        floor: &mut Option<f32>,
        observed: &mut Observed,
    ) -> Result<(f32, usize)> {
        let Self { device, config, arch, tensors, levels, families, rows, selection, work, packing, packed, .. } = self;
        let d = arch.d;
        let (before, level) = levels.split_at_mut(l);
        let level = &mut level[0];
        let screen = level.bytes.as_ref().map(|(bytes, known)| {
            let own = Bytes { bytes: rows.bytes.of(n * width(d)), known: rows.rounded.of(n * ROUNDED) };
            [own, Bytes { bytes: bytes.all(), known: known.all() }]
        });
        let gate = match (families, before.last()) {
            (Some(families), Some(one)) if settings.gate.has_families() => {
                let words = arch.level[0].latents.div_ceil(32);
                let active = rows.active.room(device, n * words)?;
                kernels::mark_active(one.kept.of(n, one.room), words, active)?;
                Some(Gate { parents: families.parents.all(), active, words })
            }
            _ => None,
        };
        let x = rows.xt.of(n * d);
        let search = |limit| Search { x, weights: weights(tensors, l, d), screen, limit, gate, largest_of: None };
        let (k, tau) = (settings.k[l], settings.tau[l]);
        let [guess, first_guess, open_guess] = &mut level.guesses;
        let rule = Rule::new(arch.level[l].activation, k, tau, Default::default());
        let candidates = |floor| rule.candidates(&Candidacy { floor, band: &[] }).one();
        let chosen = if let Some(k) = rule.limit().largest() {
            level.room = search(Limit::Topk(k)).run(guess, work, &mut level.kept)?;
            let least = selection.least.room(device, 1)?;
            least.put(&[u32::MAX])?;
            training::list_least(level.kept.of(n, level.room), least)?;
            let least = least.to_vec()?[0];
            (if least < u32::MAX { f32::from_bits(least) } else { 0.0 }, 0)
        } else {
            if floor.is_none() {
                let few = n.min(CHUNK);
                let most = rule.candidates(&Candidacy { floor: None, band: &[] }).largest().unwrap_or(0);
                let mut values = ListSlots::default();
                let room = search(Limit::Topk(most)).only(0, few).run(first_guess, work, &mut values)?;
                packing.download(values.of(few, room), packed)?;
                *floor = Some(step::first_floor(&mut packed.value, k, few));
            }
            let keep = step::keep_of(k, n);
            loop {
                let now = floor.unwrap_or(0.0);
                let bar = candidates(Some(if tau > 0.0 { now.min(tau) } else { now }));
                level.room = search(Limit::Above(bar)).run(guess, work, &mut level.candidates)?;
                let found: u64 = level.candidates.of(n, level.room).count.to_vec()?.into_iter().map(u64::from).sum();
                if found >= keep as u64 || now <= 0.0 {
                    break;
                }
                *floor = Some(step::lower_floor(now));
            }
            let found = level.candidates.of(n, level.room);
            let kept = level.kept.room(device, n, level.room)?;
            let [bits, _, above, n_found, least] = selection.run(device, found, tau, keep, kept)?;
            let cut = n_found as usize > keep;
            let least = if cut {
                f32::from_bits(bits)
            } else if n_found > 0 {
                f32::from_bits(least)
            } else {
                0.0
            };
            *floor = Some(step::next_floor(cut, least));
            (least, above as usize)
        };
        level.aux.room = None;
        let dead = &settings.dead[l];
        if config.loss.aux > 0.0 && !dead.is_empty() {
            let aux = &mut level.aux;
            let places = aux.dead.room(device, dead.len())?;
            places.put(dead)?;
            let all = weights(tensors, l, d);
            let w = aux.w.room(device, dead.len() * d)?;
            kernels::gather_rows(places, all.w, d, w)?;
            let bias = aux.bias.room(device, dead.len())?;
            kernels::gather_rows(places, all.bias, 1, bias)?;
            let mut gate = gate;
            if let Some(gate) = &mut gate {
                let parents = aux.parents.room(device, dead.len())?;
                kernels::gather_words(places, gate.parents, 1, parents)?;
                gate.parents = parents;
            }
            let limit = Limit::Topk(step::k_aux(config, arch));
            let search = Search { x, weights: Weights { w, bias, d }, screen: None, limit, gate, largest_of: None };
            let room = search.run(&mut Guess::default(), work, &mut aux.picks)?;
            aux.room = Some(room);
            let picked = aux.picked.room(device, n * room)?;
            let lists = aux.settled.room(device, n, level.room + room)?;
            let v = Some(aux.v.room(device, n * (level.room + room))?);
            training::settle(
                level.kept.of(n, level.room),
                places,
                aux.picks.of(n, room),
                picked,
                Entries { lists, v },
            )?;
        }
        if l == 1 && settings.observe_ungated {
            let open = Search { gate: None, ..search(Limit::Above(rule.ungated(tau).limit().one())) };
            let room = open.run(open_guess, work, &mut level.open)?;
            packing.download(level.open.of(n, room), packed)?;
            observed.ungated.offsets.clone_from(&packed.offsets);
            observed.ungated.index.clone_from(&packed.index);
            observed.ungated.value.clone_from(&packed.value);
        }
        Ok(chosen)
    }

    /// Writes the residuals, and takes what the host sees of the codes and of them.
    fn decode(
        &mut self,
        n: usize,
        settings: &StepSettings,
        observed: &mut Observed,
        losses: &mut Losses,
    ) -> Result<()> {
        let Self { device, arch, tensors, levels, rows, packing, packed, .. } = self;
        let d = arch.d;
        observed.codes[1].clear();
        for l in 0..arch.n_levels() {
            let (before, level) = levels.split_at_mut(l);
            let (level, decoder) = (&mut level[0], tensors[encoder(l) + 2].p.all());
            let from = before.last().filter(|_| arch.decoder.is_cumulative()).map(|one| one.r.of(n * d));
            let kept = level.kept.of(n, level.room);
            let r = level.r.room(device, n * d)?;
            kernels::leave_over(from.unwrap_or(rows.xt.of(n * d)), decoder, d, kept, r)?;
            training::row_squares(r, d, level.squares.room(device, n)?)?;
            packing.download(kept, packed)?;
            let codes = &mut observed.codes[l];
            codes.offsets.clone_from(&packed.offsets);
            codes.index.clone_from(&packed.index);
            codes.value.clone_from(&packed.value);
            observed.energy.resize(n, 0.0);
            level.squares.of(n).get(&mut observed.energy)?;
            let squares: f64 = observed.energy.chunks(CHUNK).map(|chunk| ordered(chunk, f64::from)).sum();
            losses.fvu[l] = squares / (n as f64 * f64::from(settings.variance));
            losses.l0[l] = codes.index.len() as f64 / n as f64;
        }
        if arch.n_levels() == 1 {
            losses.fvu[1] = losses.fvu[0];
        }
        Ok(())
    }

    /// Writes every gradient, and the losses that are known then.
    fn backward(&mut self, n: usize, settings: &StepSettings, losses: &mut Losses) -> Result<()> {
        let Self { device, config, arch, tensors, levels, rows, bias, .. } = self;
        let (d, two) = (arch.d, arch.n_levels() == 2);
        let unit = 1.0 / (n as f64 * f64::from(settings.variance));
        let recon = [0, 1].map(|l| (2.0 * f64::from(settings.w[l]) * unit) as f32);
        let alpha = [0, 1].map(|l| step::aux_weight(config, arch, settings, losses.fvu[l], l));
        let aux_weight = alpha.map(|alpha| (2.0 * alpha * unit) as f32);
        for (l, level) in levels.iter_mut().enumerate() {
            level.entry_gradients(device, n, d, tensors[encoder(l) + 2].p.all(), recon[l], aux_weight[l])?;
            if level.aux.acts(aux_weight[l]) {
                let squares = level.aux.squares.of(n).to_vec()?;
                let value = |s: f32| 0.5 * f64::from(aux_weight[l]) * f64::from(s);
                squares.chunks(CHUNK).for_each(|chunk| losses.aux[l] += ordered(chunk, value));
            }
        }
        let (one, rest) = levels.split_at_mut(1);
        let (one, level2) = (&mut one[0], rest.first_mut());
        let own_only = config.train.balance.drops_through();
        let (xt, f1) = (rows.xt.of(n * d), arch.level[0].latents);
        let is_cumulative = arch.decoder.is_cumulative();
        if let Some(level2) = &level2 {
            let r2 = Some(level2.r.of(n * d)).filter(|_| is_cumulative);
            one.through_gradients(device, n, d, tensors[encoder(0) + 2].p.all(), r2, recon[1])?;
        }
        let mut r2 = None;
        if let Some(Level { by, kept, room, aux, r, du, .. }) = level2 {
            let acts = aux.acts(aux_weight[1]);
            let list = by.transpose(device, arch.level[1].latents, aux.entries(kept, *room, n), du, None, acts)?;
            let (own, e) = (r.of(n * d), if acts { Some(aux.e.of(n * d)) } else { None });
            let job = DecoderJob { r: own, recon: recon[1], e, two: false, r2: None, through: 0.0, own_only, d };
            let [w, b, dec] = [0, 1, 2].map(|at| tensors[encoder(1) + at].g.all());
            training::decoder_gradients(job, list, dec, None)?;
            training::encoder_gradients(xt, d, own_only, list, w, b, None)?;
            r2 = Some(own);
        }
        let Level { by, kept, room, aux, r, du, through, .. } = one;
        let (r1, acts) = (r.of(n * d), aux.acts(aux_weight[0]));
        let second = if two { Some(&*through) } else { None };
        let list = by.transpose(device, f1, aux.entries(kept, *room, n), du, second, acts)?;
        let e = if acts { Some(aux.e.of(n * d)) } else { None };
        let cumulative = r2.filter(|_| is_cumulative);
        let job = DecoderJob { r: r1, recon: recon[0], e, two, r2: cumulative, through: recon[1], own_only, d };
        let [w, b, dec] = [0, 1, 2].map(|at| tensors[encoder(0) + at].g.all());
        let stats = bias.stats.room(device, 3 * f1)?;
        training::decoder_gradients(job, list, dec, Some(stats))?;
        let through2 = if two { Some(bias.through2.room(device, f1)?) } else { None };
        training::encoder_gradients(xt, d, own_only, list, w, b, through2)?;
        losses.balance = step::row_norms(&stats.to_vec()?, settings.w, recon);

        // The decoder bias.
        let columns = bias.columns.room(device, n.div_ceil(CHUNK) * d)?;
        let groups = arch.latents().map(|f| f.div_ceil(256) * d);
        let sums = bias.sums.room(device, groups[0].max(groups[1]))?;
        let own = tensors[0].g.all();
        training::chunk_columns(r1, d, columns)?;
        training::bias_start(columns, recon[0], own)?;
        training::bias_take_out(b, tensors[encoder(0)].p.all(), sums.part(0..groups[0]), own)?;
        if let (Some(through2), Some(r2)) = (through2, r2) {
            let through = bias.through.room(device, d)?;
            training::chunk_columns(r2, d, columns)?;
            training::bias_start(columns, recon[1], through)?;
            training::bias_take_out(through2, tensors[encoder(0)].p.all(), sums.part(0..groups[0]), through)?;
            let (b2, w2) = (tensors[encoder(1) + 1].g.all(), tensors[encoder(1)].p.all());
            training::bias_take_out(b2, w2, sums.part(0..groups[1]), through)?;
            training::mix_into(through, own_only, own)?;
            if !own_only {
                training::mix_into(through2, false, b)?;
            }
        }
        step::add_up(settings.w, arch.n_levels(), losses);
        Ok(())
    }

    /// Takes from the gradients of unit rows their part along the row, and returns the norm of the whole gradient.
    fn project(&self, adam: &Adam) -> Result<f64> {
        for Learned { spec, p, g, squares, .. } in &self.tensors {
            if spec.unit_rows {
                training::project_rows(p.all(), spec.width, g.all())?;
            }
            let block = step::adam::rows_of_block(spec.width) * spec.width;
            training::square_sums(g.all(), block, spec.width.max(64), squares.all())?;
        }
        let mut all = 0.0f64;
        for Learned { name, spec, squares, .. } in &self.tensors {
            let sum = step::adam::sum_of_blocks(&squares.all().to_vec()?, spec.width);
            if !sum.is_finite() {
                return Err(Error::NotFinite { what: format!("the gradient of {name}"), at: At::Step(adam.t) });
            }
            all += sum;
        }
        Ok(libm::sqrt(all))
    }
}

/// Returns the encoder of a level.
fn weights(tensors: &[Learned], l: usize, d: usize) -> Weights<'_> {
    Weights { w: tensors[encoder(l)].p.all(), bias: tensors[encoder(l) + 1].p.all(), d }
}

/// Adds numbers in f64, in order.
fn ordered(numbers: &[f32], value: impl Fn(f32) -> f64) -> f64 {
    let mut sum = 0.0;
    numbers.iter().for_each(|v| sum += value(*v));
    sum
}

impl SelectionSlots {
    /// Keeps the `keep` largest of all lists, and returns the state at the end.
    fn run(&mut self, device: &Device, found: Lists<'_>, tau: f32, keep: usize, kept: Lists<'_>) -> Result<[u32; CUT]> {
        let n = found.n();
        let cut = self.cut.room(device, CUT)?;
        cut.put(&cut_start(keep))?;
        let bins = self.bins.room(device, 256)?;
        bins.zero()?;
        for shift in [24, 16, 8, 0] {
            training::cut_pass(tau, found, shift, cut, bins)?;
        }
        let ties = self.ties.room(device, n)?;
        ties.zero()?;
        training::count_ties(found, cut, ties)?;
        let before = self.before.room(device, n + 1)?;
        kernels::scan(ties, before, None)?;
        training::keep_cut(found, cut, before, kept)?;
        let mut state = [0; CUT];
        cut.get(&mut state)?;
        Ok(state)
    }
}
