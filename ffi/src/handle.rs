//! The opaque types and their work: rows in blocks, each encoded with scratch of its own.

#[cfg(not(feature = "std"))]
use crate::bare::Copies;
use crate::boundary::Guarded;
use crate::codes::{CodesIn, CodesOut};
#[cfg(feature = "std")]
use crate::device::Copies;
use crate::failure::{Failure, Outcome};
use crate::memory::check_memory;
use crate::message::Message;
#[cfg(feature = "full")]
use crate::model_files::Directory;
use crate::params::{STRATA_EDIT_ADD, STRATA_EDIT_SET, STRATA_ROW_OVER_LIMIT, check_reserved, params};
use crate::params::{STRATA_NO_LAYER, strata_model_metadata};
use crate::params::{STRATA_WEIGHTS_BF16, STRATA_WEIGHTS_F32, STRATA_WEIGHTS_INT8};
use crate::params::{strata_ctx_params, strata_edit, strata_model_info, strata_model_params, strata_stats};
#[cfg(feature = "full")]
use crate::pool::Pool;
use crate::rows::{RowsIn, RowsOut};
use crate::status::{STRATA_STATUS_BUSY, STRATA_STATUS_INDEX, STRATA_STATUS_PARAMS};
use alloc::boxed::Box;
use alloc::ffi::CString;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ffi::{CStr, c_char};
#[cfg(feature = "full")]
use std::path::Path;
use strata_core::config::ModelKind;
#[cfg(feature = "full")]
use strata_core::format::formats::{self, Choices};
#[cfg(feature = "full")]
use strata_core::format::weights::read_model as read_buffers;
#[cfg(not(feature = "full"))]
use strata_core::format::weights::read_own as read_buffers;
use strata_core::format::weights::{Origin, layer_of};
use strata_core::heads::Heads;
use strata_core::metrics::fidelity::Fidelity;
use strata_core::model::{Arch, CodeRow, Codes, Edit, Scratch, TopkBy, Watch, WeightType};
use strata_core::{Compute, Encoder, Error, Isa, Model, Par, RowRule};

/// A model, ready to encode. Immutable: any number of threads may use it at the same time.
pub struct strata_model {
    encoder: Arc<Encoder>,
    copies: Copies,
    max_active: [usize; 2],
    /// The rule of the rows that training left out.
    left_out: RowRule,
    /// What was assumed in loading, a sentence per line.
    notes: CString,
    /// The language model and the hook point, empty where they are unknown.
    name: CString,
    hook: CString,
}

/// What computing needs besides a model: memory, threads, statistics. One thread at a time may use it, any thread.
pub struct strata_ctx(Guarded<Ctx>);

impl strata_ctx {
    pub(crate) fn new(model: &strata_model, settings: &strata_ctx_params) -> Outcome<Self> {
        Ok(Self(Guarded::new(Ctx::new(model, settings)?)))
    }

    /// Calls `f` with the state, and keeps the message of the last call.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&Ctx) -> Outcome<R>) -> Outcome<R> {
        self.0.with(|ctx| f(ctx))
    }

    /// Runs a call, and keeps its message.
    pub(crate) fn call(&self, body: impl FnOnce(&mut Ctx) -> Outcome) -> Outcome {
        self.0.with(|ctx| {
            let outcome = body(ctx);
            ctx.message.say(outcome.as_ref().err());
            outcome
        })
    }

    /// Returns the message of the last call.
    pub(crate) fn message(&self) -> *const c_char {
        let unusable = |failure: Failure| -> &CStr {
            match failure.status {
                STRATA_STATUS_BUSY => c"another thread is using this context at this moment",
                _ => c"a bug in strata ended an earlier call: free this context",
            }
        };
        self.0.with(|ctx| Ok(ctx.message.as_ptr())).unwrap_or_else(|failure| unusable(failure).as_ptr())
    }
}

impl strata_model {
    /// Loads a model from a run directory, its `sae/`, or the files of another tool.
    #[cfg(feature = "full")]
    pub(crate) fn load(path: &Path, settings: &strata_model_params) -> Outcome<Self> {
        let files = Directory::new(path);
        Self::new(settings, 0, || {
            let loaded = formats::load(&files, &Choices::default())?;
            Ok((loaded.model, loaded.origin, loaded.notes.join("\n")))
        })
    }

    pub(crate) fn parse(cfg: &[u8], weights: &[u8], settings: &strata_model_params) -> Outcome<Self> {
        Self::new(settings, weights.len(), || {
            let (model, origin) = read_buffers(cfg, weights)?;
            Ok((model, origin, String::new()))
        })
    }

    fn new(
        settings: &strata_model_params,
        weights_len: usize,
        read: impl FnOnce() -> strata_core::Result<(Model, Origin, String)>,
    ) -> Outcome<Self> {
        check_reserved(settings.reserved.into())?;
        let weights = match settings.weights {
            STRATA_WEIGHTS_F32 => WeightType::F32,
            STRATA_WEIGHTS_BF16 => WeightType::Bf16,
            STRATA_WEIGHTS_INT8 => WeightType::Int8,
            other => {
                let expected = "params: weights: expected STRATA_WEIGHTS_F32, _BF16 or _INT8";
                return Err(Failure::found(STRATA_STATUS_PARAMS, expected, other));
            }
        };
        // Twice as f32; in the file the numbers may be f16.
        check_memory(weights_len.saturating_mul(4))?;
        let (model, origin, notes) = read().map_err(Failure::reading)?;
        if model.arch.model == ModelKind::Seed && weights != WeightType::F32 {
            return Err(params("params: weights: expected STRATA_WEIGHTS_F32, all that the seed model has"));
        }
        let max_active = [model.max_active(0), model.max_active(1)];
        let encoder = Encoder::with_weights(Arc::new(model), Compute::new(Isa::default(), Par::Seq), weights);
        let encoder = encoder.map_err(Failure::reading)?;
        let string = |text: &str| CString::new(text.replace('\0', " ")).unwrap_or_default();
        Ok(Self {
            encoder: Arc::new(encoder),
            copies: Copies::default(),
            max_active,
            notes: string(&notes),
            name: string(origin.model.as_deref().unwrap_or_default()),
            hook: string(origin.hook.as_deref().unwrap_or_default()),
            left_out: origin.left_out,
        })
    }

    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    pub(crate) fn metadata(&self) -> strata_model_metadata {
        let layer = layer_of(self.hook.to_str().ok()).and_then(|layer| u32::try_from(layer).ok());
        strata_model_metadata {
            struct_size: 0,
            model: self.name.as_ptr(),
            hook: self.hook.as_ptr(),
            layer: layer.unwrap_or(STRATA_NO_LAYER),
            reserved: 0,
        }
    }

    /// Returns the parent of every child.
    pub(crate) fn parents(&self) -> &[u32] {
        self.encoder.families().parents()
    }

    pub(crate) fn notes(&self) -> &CStr {
        &self.notes
    }

    pub(crate) fn info(&self) -> strata_model_info {
        let arch = &self.encoder.model().arch;
        let [f1, f2] = arch.latents();
        let [max_active1, max_active2] = self.max_active;
        strata_model_info {
            struct_size: 0,
            d: arch.d,
            f1,
            f2,
            max_active1,
            max_active2,
            reserved: 0,
            d_out: arch.d_out(),
            needs_rows: arch.variant.needs_input().into(),
            reserved2: 0,
        }
    }

    pub(crate) fn parent(&self, latent2: u32) -> Outcome<u32> {
        let parents = self.encoder.families().parents();
        parents.get(latent2 as usize).copied().ok_or_else(|| no_such_latent(latent2, parents.len()))
    }

    pub(crate) fn decoder_row(&self, level: u32, latent: u32) -> Outcome<&[f32]> {
        decoder_row(&self.encoder, level, latent)
    }
}

fn decoder_row(encoder: &Encoder, level: u32, latent: u32) -> Outcome<&[f32]> {
    if !matches!(level, 1 | 2) {
        return Err(Failure::found(STRATA_STATUS_INDEX, "level: expected 1 or 2", level));
    }
    Ok(encoder.decoder_row(level as usize, latent)?)
}

fn edit_of(edit: &strata_edit) -> Edit {
    let strata_edit { level, latent, strength, mode, .. } = *edit;
    Edit { level: level as usize, latent, strength, set: mode == STRATA_EDIT_SET }
}

#[cold]
fn no_such_latent(latent: u32, len: usize) -> Failure {
    Error::Index { what: "latent", index: latent as usize, len }.into()
}

/// Most rows that a thread encodes together.
const BLOCK: usize = 256;
/// Rows whose sums are taken together, so that statistics do not depend on threads.
const TOGETHER: usize = 32;

/// Most threads of a context.
const MOST_THREADS: u32 = 1024;

/// The state of a context.
pub(crate) struct Ctx {
    engine: Engine,
    /// `(2, d)`: reconstructions of a row; for statistics `(2, TOGETHER, d)`.
    decoded: Vec<f32>,
    /// A row before it is written to the caller.
    bytes: Vec<u8>,
    /// `(f1 + f2)`: edits of each latent; zeros between calls.
    n_edits: Vec<u8>,
    /// What a head reads, and the scores of a row.
    features: Vec<f32>,
    scores: Vec<f64>,
    /// On the heap: accumulators have several kilobytes, and contexts are also made on small stacks.
    stats: Option<Box<Stats>>,
    left_out: RowRule,
    /// The message of the last call.
    message: Message,
}

/// Without the feature `full` contexts have no threads.
#[cfg(not(feature = "full"))]
enum Pool {}

#[cfg(not(feature = "full"))]
impl Pool {
    fn new(_: usize) -> Outcome<Self> {
        Err(params("params: n_threads: expected 0 or 1, since this library is built without threads"))
    }
}

struct Engine {
    encoder: Arc<Encoder>,
    pool: Option<Pool>,
    lanes: Vec<Lane>,
}

/// A block of rows and its results.
struct Lane {
    x: Vec<f32>,
    n: usize,
    /// The reason why its rows could not be encoded.
    failed: Option<Error>,
    scratch: Scratch,
}

struct Stats {
    fidelity: Fidelity,
    rows: u64,
    fires: [Vec<u64>; 2],
}

impl Stats {
    /// Makes an empty block. Not inlined, so that its copies of the accumulators are no longer on the stack when rows
    /// are encoded.
    #[inline(never)]
    fn new(d: usize, latents: [usize; 2]) -> Box<Self> {
        Box::new(Self { fidelity: Fidelity::new(d), rows: 0, fires: latents.map(|f| vec![0; f]) })
    }
}

impl Ctx {
    pub fn new(model: &strata_model, settings: &strata_ctx_params) -> Outcome<Self> {
        if settings.n_threads > MOST_THREADS {
            let expected = "params: n_threads: expected at most 1024";
            return Err(Failure::found(STRATA_STATUS_PARAMS, expected, settings.n_threads));
        }
        let n_threads = settings.n_threads.max(1) as usize;
        let encoder = model.copies.get(&model.encoder, settings.device)?;
        let d = encoder.model().arch.d;
        let d_out = encoder.model().arch.d_out();
        let [f1, f2] = encoder.model().arch.latents();
        let [max1, max2] = model.max_active;
        // Rows, lists and codes; and the hits of screening, at most a quarter of all pairs and the extra ones of top-k.
        // The manual says so too.
        let a_row = 2048 + 2 * d + 4 * (f1 + f2) + 16 * (max1 + max2);
        check_memory(a_row.saturating_mul(4 * BLOCK * n_threads))?;
        let pool = (n_threads > 1).then(|| Pool::new(n_threads)).transpose()?;
        let lane = |_| Lane {
            x: vec![0.0; BLOCK * d],
            n: 0,
            failed: None,
            scratch: Scratch::for_rows(&encoder.model().arch, BLOCK).reserved(&encoder),
        };
        let lanes = (0..n_threads).map(lane).collect();
        let (decoded, bytes, n_edits) = (vec![0.0; 2 * d_out], Vec::with_capacity(4 * d.max(d_out)), vec![0; f1 + f2]);
        let (engine, message) = (Engine { encoder, pool, lanes }, Message::new());
        let (features, scores, left_out) = (Vec::new(), Vec::new(), model.left_out.clone());
        Ok(Self { engine, decoded, bytes, n_edits, features, scores, stats: None, left_out, message })
    }

    pub fn arch(&self) -> Arch {
        self.engine.encoder.model().arch
    }

    /// Encodes all latents, or those of a watch-list.
    pub fn encode(&mut self, x: &RowsIn, watch: Option<&Watch>, mut out: [Option<CodesOut>; 2]) -> Outcome {
        x.check_finite().map_err(Failure::of("x"))?;
        if watch.is_some_and(|watch| !watch.is_of(&self.engine.encoder)) {
            return Err(params("watch: expected a watch-list of the model of the context"));
        }
        self.engine.blocks(x, watch, |_, _, lane| {
            for (out, codes) in out.iter_mut().zip(lane.scratch.codes()) {
                if let Some(out) = out {
                    out.append(codes);
                }
            }
            Ok(())
        })?;
        // Both report the capacity that they need before either fails.
        let [fits1, fits2] = out.map(|out| out.map_or(Ok(()), CodesOut::finish));
        fits1.map_err(Failure::of("level1"))?;
        fits2.map_err(Failure::of("level2"))
    }

    pub fn decode(&mut self, codes: [&CodesIn<'_>; 2], out: &mut RowsOut) -> Outcome {
        if self.arch().variant.needs_input() {
            return Err(params(
                "this model's reconstruction depends on the rows, not on their codes alone: call strata_reconstruct",
            ));
        }
        let d = self.arch().d_out();
        let (hat1, hat2) = self.decoded[..2 * d].split_at_mut(d);
        for i in 0..out.rows.n {
            self.engine.encoder.decode_row(codes[0].row(i), codes[1].row(i), hat1, hat2);
            out.store(i, hat2, &mut self.bytes);
        }
        Ok(())
    }

    /// Reconstructs `x` from its codes, or from those that [`Ctx::encode`] finds.
    pub fn reconstruct(&mut self, x: &RowsIn, codes: Option<[CodesIn<'_>; 2]>, out: &mut RowsOut) -> Outcome {
        x.check_finite().map_err(Failure::of("x"))?;
        let (d, d_out) = (self.arch().d, self.arch().d_out());
        let Self { engine, decoded, bytes, .. } = self;
        let (hat1, hat2) = decoded[..2 * d_out].split_at_mut(d_out);
        let mut finish = |encoder: &Encoder, i: usize, row: &[f32], codes: [CodeRow<'_>; 2]| {
            encoder.decode_row(codes[0], codes[1], hat1, hat2);
            encoder.finish_row(row, hat1, hat2);
            out.store(i, hat2, bytes);
        };
        let Some([level1, level2]) = codes else {
            return engine.blocks(x, None, |encoder, first, lane| {
                let [codes1, codes2] = lane.scratch.codes();
                for (i, row) in lane.x.chunks_exact(d).enumerate().take(lane.n) {
                    finish(encoder, first + i, row, [codes1.row(i), codes2.row(i)]);
                }
                Ok(())
            });
        };
        let row = &mut engine.lanes[0].x[..d];
        for i in 0..x.n {
            x.widen(i, row);
            finish(&engine.encoder, i, row, [level1.row(i), level2.row(i)]);
        }
        Ok(())
    }

    pub fn steer(&mut self, x: &mut RowsOut, edits: &[strata_edit]) -> Outcome {
        if self.arch().variant.target.is_some() {
            return Err(params("a transcoder's latents do not add to the rows that it reads"));
        }
        self.check_edits(edits).map_err(Failure::of("edits"))?;
        let rows = x.rows;
        rows.check_finite().map_err(Failure::of("x"))?;
        let Self { engine, bytes, .. } = self;
        let d = engine.encoder.model().arch.d;
        let mut store = |i, lane: &mut Lane, codes: Option<usize>, encoder: &Encoder| {
            let row = codes.unwrap_or(0);
            let values = &mut lane.x[row * d..(row + 1) * d];
            let codes = codes.map(|i| lane.scratch.codes().each_ref().map(|codes| codes.row(i)));
            encoder.steer_row(edits.iter().map(edit_of), codes, values)?;
            x.store(i, values, bytes);
            Ok(())
        };
        if edits.iter().any(|edit| edit.mode == STRATA_EDIT_SET) {
            return engine.blocks(&rows, None, |encoder, first, lane| {
                (0..lane.n).try_for_each(|i| store(first + i, lane, Some(i), encoder))
            });
        }
        let lane = &mut engine.lanes[0];
        (0..if edits.is_empty() { 0 } else { rows.n }).try_for_each(|i| {
            rows.widen(i, &mut lane.x[..d]);
            store(i, lane, None, &engine.encoder)
        })
    }

    fn check_edits(&mut self, edits: &[strata_edit]) -> Outcome {
        let Self { engine, n_edits, .. } = self;
        for (i, edit) in edits.iter().enumerate() {
            decoder_row(&engine.encoder, edit.level, edit.latent)?;
            if !edit.strength.is_finite() {
                return Err(Failure::not_finite("strength of edit", i));
            }
            if !matches!(edit.mode, STRATA_EDIT_ADD | STRATA_EDIT_SET) {
                let expected = "mode: expected STRATA_EDIT_ADD or STRATA_EDIT_SET";
                return Err(Failure::found(STRATA_STATUS_PARAMS, expected, edit.mode));
            }
        }
        let f1 = engine.encoder.model().arch.level[0].latents;
        let place = |edit: &strata_edit| edit.latent as usize + if edit.level == 1 { 0 } else { f1 };
        for edit in edits {
            n_edits[place(edit)] = n_edits[place(edit)].saturating_add(1);
        }
        let twice = edits.iter().any(|edit| edit.mode == STRATA_EDIT_SET && n_edits[place(edit)] > 1);
        edits.iter().for_each(|edit| n_edits[place(edit)] = 0);
        if twice { Err(params("a latent that is SET has another edit")) } else { Ok(()) }
    }

    pub fn update_stats(&mut self, x: &RowsIn) -> Outcome {
        if self.arch().variant.target.is_some() {
            return Err(params("a transcoder does not reconstruct the rows that it reads"));
        }
        x.check_finite().map_err(Failure::of("x"))?;
        let Arch { d, .. } = self.arch();
        let [f1, f2] = self.arch().latents();
        let may_be_negative = self.arch().variant.topk_by == TopkBy::Absolute;
        let Self { engine, decoded, stats, .. } = self;
        decoded.resize(2 * TOGETHER * d, 0.0);
        let (hats1, hats2) = decoded.split_at_mut(TOGETHER * d);
        let stats = stats.get_or_insert_with(|| Stats::new(d, [f1, f2]));
        engine.blocks(x, None, |encoder, _, lane| {
            let [codes1, codes2] = lane.scratch.codes();
            for start in (0..lane.n).step_by(TOGETHER) {
                let rows = start..lane.n.min(start + TOGETHER);
                let hats = hats1.chunks_mut(d).zip(hats2.chunks_mut(d));
                for (i, (hat1, hat2)) in rows.clone().zip(hats) {
                    encoder.decode_row(codes1.row(i), codes2.row(i), hat1, hat2);
                    encoder.finish_row(&lane.x[i * d..(i + 1) * d], hat1, hat2);
                }
                let used = rows.len() * d;
                stats.fidelity.add(&lane.x[start * d..rows.end * d], &hats1[..used], &hats2[..used])?;
            }
            stats.rows += lane.n as u64;
            for (fires, codes) in stats.fires.iter_mut().zip([codes1, codes2]) {
                count_fires(fires, codes, may_be_negative);
            }
            Ok(())
        })
    }

    /// Adds the statistics of another context of the same model.
    pub fn merge_stats(&mut self, from: &Self) -> Outcome {
        if !self.engine.encoder.has_model_of(&from.engine.encoder) {
            return Err(params("from: expected a context of the same model"));
        }
        let Some(from) = &from.stats else { return Ok(()) };
        let arch = self.arch();
        let stats = self.stats.get_or_insert_with(|| Stats::new(arch.d, arch.latents()));
        stats.fidelity.merge(&from.fidelity);
        stats.rows += from.rows;
        for (fires, others) in stats.fires.iter_mut().zip(&from.fires) {
            fires.iter_mut().zip(others).for_each(|(n, others)| *n += others);
        }
        Ok(())
    }

    /// Calls `each(row, scores)` with the scores of all heads on each row, in order.
    pub fn score(
        &mut self,
        heads: &Heads,
        watch: Option<&Watch>,
        x: &RowsIn,
        mut each: impl FnMut(usize, &[f64]),
    ) -> Outcome {
        x.check_finite().map_err(Failure::of("x"))?;
        let Self { engine, features, scores, .. } = self;
        let d = engine.encoder.model().arch.d;
        scores.resize(heads.heads.len(), 0.0);
        let mut one = |encoder: &Encoder, i: usize, row: &[f32], codes: [CodeRow<'_>; 2]| -> Outcome {
            heads.score(encoder.isa(), row, codes, features, scores);
            if let Some(h) = scores.iter().position(|score| !score.is_finite()) {
                return Err(Failure::not_finite("the score of head", h));
            }
            each(i, scores);
            Ok(())
        };
        let Some(watch) = watch else {
            const NONE: CodeRow<'static> = CodeRow { index: &[], value: &[] };
            let row = &mut engine.lanes[0].x[..d];
            return (0..x.n).try_for_each(|i| {
                x.widen(i, row);
                one(&engine.encoder, i, row, [NONE; 2])
            });
        };
        if !watch.is_of(&engine.encoder) {
            return Err(params("probe: expected a probe of the model of the context"));
        }
        engine.blocks(x, Some(watch), |encoder, first, lane| {
            let [codes1, codes2] = lane.scratch.codes();
            let rows = lane.x.chunks_exact(d).enumerate().take(lane.n);
            rows.into_iter().try_for_each(|(i, row)| one(encoder, first + i, row, [codes1.row(i), codes2.row(i)]))
        })
    }

    /// Returns the flag of each row.
    pub fn row_flags(&mut self, x: &RowsIn, mut put: impl FnMut(usize, u8)) -> Outcome {
        x.check_finite().map_err(Failure::of("x"))?;
        let Self { engine, left_out, .. } = self;
        let encoder = &engine.encoder;
        let row = &mut engine.lanes[0].x[..encoder.model().arch.d];
        for i in 0..x.n {
            x.widen(i, row);
            put(i, if left_out.is_over(encoder.isa(), row) { STRATA_ROW_OVER_LIMIT as u8 } else { 0 });
        }
        Ok(())
    }

    pub fn stats(&self) -> strata_stats {
        let [f1, f2] = self.arch().latents();
        let Some(stats) = &self.stats else {
            let nan = f64::NAN;
            let (dead1, dead2) = (f1 as u64, f2 as u64);
            return strata_stats {
                struct_size: 0,
                rows: 0,
                fvu1: nan,
                fvu2: nan,
                l0_1: nan,
                l0_2: nan,
                dead1,
                dead2,
                reserved: 0,
            };
        };
        let report = stats.fidelity.report();
        let [l0_1, l0_2] = stats.fires.each_ref().map(|fires| fires.iter().sum::<u64>() as f64 / stats.rows as f64);
        let [dead1, dead2] = stats.fires.each_ref().map(|fires| fires.iter().filter(|n| **n == 0).count() as u64);
        let (fvu1, fvu2) = (report.level1.fvu, report.level2.fvu);
        strata_stats { struct_size: 0, rows: stats.rows, fvu1, fvu2, l0_1, l0_2, dead1, dead2, reserved: 0 }
    }
}

/// Counts the latents that fire: those above 0, and with AbsTopK those below it too.
fn count_fires(fires: &mut [u64], codes: &Codes, may_be_negative: bool) {
    for (&j, &z) in codes.index.iter().zip(&codes.value) {
        fires[j as usize] += u64::from(z > 0.0 || (may_be_negative && z < 0.0));
    }
}

impl Engine {
    /// Encodes the rows, a block of a multiple of [`TOGETHER`] rows on each lane at a time, and passes them on in
    /// order: `each(encoder, its first row, its lane)`. With a watch-list, the codes are those of its latents.
    fn blocks(
        &mut self,
        x: &RowsIn,
        watch: Option<&Watch>,
        mut each: impl FnMut(&Encoder, usize, &mut Lane) -> Outcome,
    ) -> Outcome {
        let Self { encoder, pool, lanes } = self;
        let (d, encoder) = (encoder.model().arch.d, &**encoder);
        let mut first = 0;
        while first < x.n {
            let left = x.n - first;
            let size = left.div_ceil(lanes.len()).next_multiple_of(TOGETHER).min(BLOCK);
            let used = left.div_ceil(size).min(lanes.len());
            let lanes = &mut lanes[..used];
            let encode = |l: usize, lane: &mut [Lane]| {
                let Lane { x: values, n, failed, scratch } = &mut lane[0];
                let start = first + l * size;
                *n = (x.n - start).min(size);
                let values = &mut values[..*n * d];
                x.widen(start, values);
                // They were finite when they were checked; a host may have written to them since.
                *failed = match watch {
                    None => encoder.encode_block(values, scratch),
                    Some(watch) => encoder.encode_watched_block(watch, values, scratch),
                }
                .err();
            };
            match pool {
                None => Par::Seq.for_chunks(lanes, 1, encode),
                #[cfg(feature = "full")]
                Some(pool) => pool.run(|| Par::Rayon.for_chunks(lanes, 1, encode))?,
                #[cfg(not(feature = "full"))]
                Some(none) => match *none {},
            }
            for lane in lanes {
                if let Some(error) = lane.failed.take() {
                    return Err(error.into());
                }
                each(encoder, first, lane)?;
                first += lane.n;
            }
        }
        Ok(())
    }
}
