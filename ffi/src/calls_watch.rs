//! The exported functions of watch-lists and probes.

use crate::boundary::{Guarded, boundary, boundary_with};
use crate::codes::CodesOut;
use crate::dump;
use crate::failure::{Failure, Outcome};
use crate::handle::{strata_ctx, strata_model};
use crate::params::{
    check_apart, extent, init, items, params, slice_extent, strata_codes, strata_error, strata_head_info,
    strata_probe_reading, strata_probe_state_params, strata_rows, strata_watch_info, write,
};
use crate::pointers::{free, get, make, make_plain, with_ctx, writable};
use crate::probe::{State, strata_probe, strata_probe_state};
use crate::rows::RowsIn;
use crate::status::strata_status;
use crate::watch::strata_watch;
use std::ffi::c_char;
use strata_core::Error;

/// Makes a watch-list: the latents whose codes are wanted, of both levels, in any order. strata_encode_watched computes
/// no more than their values depend on, which strata_watch_get_info says. It keeps its model alive.
///
/// latents1: n1 latents of level 1; latents2: n2 latents of level 2. Either may be NULL if its number is 0. The lists are
/// copied. out: receives the watch-list, which is freed with strata_watch_free. err: may be NULL.
/// Errors: INDEX for a latent that the level does not have; PARAMS for a latent that is listed twice; MEMORY. Thread-safe,
/// also for the same model. Cost: sorts the lists; behind a hard gate one pass over the parents of all latents of level 2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_watch_new(
    model: *const strata_model,
    latents1: *const u32,
    n1: usize,
    latents2: *const u32,
    n2: usize,
    out: *mut *mut strata_watch,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let model = unsafe { get(model) }.map_err(Failure::of("model"))?;
        // SAFETY: see the crate.
        let latents1 = unsafe { items(latents1, n1) }.map_err(Failure::of("latents1"))?;
        // SAFETY: see the crate.
        let latents2 = unsafe { items(latents2, n2) }.map_err(Failure::of("latents2"))?;
        // SAFETY: see the crate.
        unsafe { make_plain(out, || strata_watch::new(model, [latents1, latents2])) }
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Frees a watch-list, once. Does nothing if watch is NULL. No other thread may be using it. Cannot fail. Cost: returns
/// the memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_watch_free(watch: *mut strata_watch) {
    // SAFETY: see the crate.
    unsafe { free(watch) }
}

/// Writes how many latents a watch-list has to compute, and why, and how many codes one row can give. Where activations
/// have thresholds (relu, batchtopk, jumprelu, gated) the listed latents are computed alone, and behind a hard gate the
/// parents of listed children too; top-k, pruning and soft gates need a whole level, and so does level 1 where level 2
/// reads the residual or the latents of level 1. out: struct_size must be set and is kept; of the other fields, those
/// within struct_size are written.
/// Errors: PARAMS if struct_size was not set. Thread-safe, also for the same watch-list. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_watch_get_info(
    watch: *const strata_watch,
    out: *mut strata_watch_info,
) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        let watch = unsafe { get(watch) }?;
        // SAFETY: see the crate.
        unsafe { write(out, watch.info()) }
    })
}

/// Encodes rows as strata_encode does, and writes only the codes of the listed latents: the entries that strata_encode
/// writes for them, to the bit. Latents keep their numbers.
///
/// x, level1, level2: as for strata_encode; n_rows * max_active entries of strata_watch_info are always enough, and so are
/// n_rows times the listed latents of the level. level2 may be NULL for a model of one level.
/// Errors: those of strata_encode; PARAMS for a watch-list of another strata_model. One thread at a time per context, any
/// number of threads per watch-list.
/// Cost: at n_rows = 1, the time to read 4 d (computed1 + computed2) bytes of encoder weights. A context on a device
/// computes all latents. No allocation after the first call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_encode_watched(
    ctx: *mut strata_ctx,
    watch: *const strata_watch,
    x: *const strata_rows,
    level1: *mut strata_codes,
    level2: *mut strata_codes,
) -> strata_status {
    with_ctx(ctx, |ctx| {
        let arch = ctx.arch();
        // SAFETY: see the crate.
        let watch = unsafe { get(watch) }.map_err(Failure::of("watch"))?;
        // SAFETY: see the crate.
        let x = unsafe { RowsIn::new(x, arch.d) }.map_err(Failure::of("x"))?;
        // SAFETY: see the crate.
        let level1 = unsafe { CodesOut::new(level1, false) }.map_err(Failure::of("level1"))?;
        // SAFETY: see the crate.
        let level2 = unsafe { CodesOut::new(level2, arch.level[1].latents == 0) }.map_err(Failure::of("level2"))?;
        let written = [&level1, &level2].map(|level| level.as_ref().map_or_else(Default::default, CodesOut::extents));
        for (i, own) in written.iter().flatten().enumerate() {
            check_apart(own, written.iter().flatten().skip(i + 1).cloned().chain([x.extent()]))?;
        }
        ctx.encode(&x, Some(&watch.watch), [level1, level2])
    })
}

/// Loads a probe: linear heads that `strata probe --save-head` has fitted on the rows and codes of a model. Each head gives
/// one number per row, its score, which is above 0 where the class of the head is more likely than the others. It keeps its
/// model alive.
///
/// path: the file, as for strata_model_load. out: receives the probe, which is freed with strata_probe_free. err: may be
/// NULL. The file is read and is not needed afterwards; it is treated as data.
/// Errors: IO if the file cannot be read; FORMAT if it is damaged or has no heads; VERSION for a file of a newer library;
/// SHAPE for heads of a model of other sizes; PARAMS for heads on the latents of another model; MEMORY. Thread-safe, also
/// for the same model. Cost: reads the file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_probe_load(
    path: *const c_char,
    model: *const strata_model,
    out: *mut *mut strata_probe,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let path = unsafe { dump::path(path) }.map_err(Failure::of("path"))?;
        // SAFETY: see the crate.
        let model = unsafe { get(model) }.map_err(Failure::of("model"))?;
        // SAFETY: see the crate.
        unsafe { make_plain(out, || strata_probe::load(path, model)) }
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Frees a probe, once. Does nothing if probe is NULL. States made from it go on working. No other thread may be using
/// the probe pointer itself. Cannot fail. Cost: returns the memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_probe_free(probe: *mut strata_probe) {
    // SAFETY: see the crate.
    unsafe { free(probe) }
}

/// Returns the number of heads of a probe; 0 if probe is NULL. Cannot fail. Thread-safe, also for the same probe. Cost:
/// none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_probe_heads(probe: *const strata_probe) -> usize {
    // SAFETY: see the crate.
    unsafe { get(probe) }.map_or(0, strata_probe::n_heads)
}

/// Writes the name of a head and what it reads. out: struct_size must be set and is kept; of the other fields, those
/// within struct_size are written.
/// Errors: INDEX if head is not below strata_probe_heads; PARAMS if struct_size was not set. Thread-safe, also for the same
/// probe. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_probe_get_head(
    probe: *const strata_probe,
    head: usize,
    out: *mut strata_head_info,
) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        let found = unsafe { get(probe) }?.head(head)?;
        // SAFETY: see the crate.
        unsafe { write(out, found) }
    })
}

/// Initialises the struct with its size and the defaults (one sequence, thresholds of 0). Does nothing if params is NULL.
/// Cannot fail. Thread-safe. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_probe_state_params_init(params: *mut strata_probe_state_params) {
    // SAFETY: see the crate.
    unsafe { init(params) }
}

/// Makes a state: what strata_probe_score keeps of the scores of each sequence, their number, maximum, mean, and an alarm with
/// two thresholds per head. It keeps its probe alive.
///
/// params: may be NULL for the defaults; on and off have one number per head and are copied. out: receives the state, which
/// is freed with strata_probe_state_free. err: may be NULL.
/// Errors: PARAMS if n_sequences is 0, or for thresholds that are NaN or an off above its on; MEMORY. Thread-safe, also for
/// the same probe. Cost: 64 bytes per sequence and head.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_probe_state_new(
    probe: *const strata_probe,
    params: *const strata_probe_state_params,
    out: *mut *mut strata_probe_state,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let probe = unsafe { get(probe) }.map_err(Failure::of("probe"))?;
        let new = |settings: &strata_probe_state_params| {
            // SAFETY: see the crate.
            let on = unsafe { thresholds(settings.on, probe.n_heads()) }.map_err(Failure::of("params: on"))?;
            // SAFETY: see the crate.
            let off = unsafe { thresholds(settings.off, probe.n_heads()) }.map_err(Failure::of("params: off"))?;
            Ok(strata_probe_state(Guarded::new(State::new(probe, settings, on, off)?)))
        };
        // SAFETY: see the crate.
        unsafe { make(out, params, new) }
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// `n` thresholds, or none where the pointer is NULL.
///
/// # Safety
/// See the crate.
unsafe fn thresholds<'a>(at: *const f64, n: usize) -> Outcome<&'a [f64]> {
    // SAFETY: see the crate.
    unsafe { items(at, if at.is_null() { 0 } else { n }) }
}

/// Frees a state, once. Does nothing if state is NULL. No other thread may be using it. Cannot fail. Cost: returns the
/// memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_probe_state_free(state: *mut strata_probe_state) {
    // SAFETY: see the crate.
    unsafe { free(state) }
}

/// Forgets the rows of a sequence, whose number is then free for another one.
/// Errors: INDEX if sequence is not below n_sequences; BUSY. One thread at a time per state. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_probe_state_reset(state: *mut strata_probe_state, sequence: u32) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        unsafe { get(state) }?.0.with(|state| state.reset(sequence))
    })
}

/// Writes what is known of the scores of one head on the rows of one sequence. out: struct_size must be set and is kept; of
/// the other fields, those within struct_size are written.
/// Errors: INDEX if sequence is not below n_sequences, or head not below strata_probe_heads; PARAMS if struct_size was not
/// set; BUSY. One thread at a time per state. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_probe_state_read(
    state: *const strata_probe_state,
    sequence: u32,
    head: usize,
    out: *mut strata_probe_reading,
) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        let reading = unsafe { get(state) }?.0.with(|state| state.reading(sequence, head))?;
        // SAFETY: see the crate.
        unsafe { write(out, reading) }
    })
}

/// Writes which alarms are on, of all sequences in one call: alarms[sequence * heads + head] becomes 1 or 0. alarms_len: the
/// capacity of alarms, at least n_sequences * heads.
/// Errors: CAPACITY if alarms_len is too small; BUSY. One thread at a time per state. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_probe_state_alarms(
    state: *const strata_probe_state,
    alarms: *mut u8,
    alarms_len: usize,
) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        unsafe { get(state) }.map_err(Failure::of("state"))?.0.with(|state| {
            writable(alarms).map_err(Failure::of("alarms"))?;
            let needed = state.alarms().len();
            if alarms_len < needed {
                return Err(Error::Capacity { what: "alarms", needed, got: alarms_len }.into());
            }
            for (i, is_on) in state.alarms().enumerate() {
                // SAFETY: `i < alarms_len`.
                let place = unsafe { alarms.add(i) };
                // SAFETY: the place is the caller's to write; see the crate.
                unsafe { place.write(is_on.into()) };
            }
            Ok(())
        })
    })
}

/// Scores rows with all heads of a probe, and adds the scores to the running values of their sequences. One call per decode
/// step is enough: its rows may be of any sequences, those of one sequence in their order.
///
/// state: may be NULL, if only scores are wanted. x: as for strata_encode. sequences: the sequence of each row, x->n_rows
/// numbers below n_sequences of the state, or NULL for sequence 0. scores: scores[row * heads + head], or NULL if they are
/// not wanted; scores_len: its capacity, at least x->n_rows * heads.
/// A score has the bits of the probe that the command line has fitted, if x is f32 or has the type of the dump.
///
/// Errors: SHAPE, DTYPE and NOT_FINITE for x as for strata_encode; INDEX for a sequence that the state does not have;
/// CAPACITY if scores_len is too small; PARAMS for a probe of another model, a state of another probe, sequences without a
/// state, or scores that overlap x or sequences; BUSY for the context or the state. Nothing is added then. NOT_FINITE for a
/// score that is not finite, as a code is not; rows before it were added. One thread at a time per context and per state, any
/// number of threads per probe.
/// Cost: that of strata_encode_watched for the latents of all heads, none if all heads read rows; in addition 8 bytes per
/// weight of the heads. A watch-list beside it is computed by a call of its own, also where both have the same latents. No allocation after the first call with a probe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_probe_score(
    ctx: *mut strata_ctx,
    probe: *const strata_probe,
    state: *mut strata_probe_state,
    x: *const strata_rows,
    sequences: *const u32,
    scores: *mut f64,
    scores_len: usize,
) -> strata_status {
    with_ctx(ctx, |ctx| {
        // SAFETY: see the crate.
        let probe = unsafe { get(probe) }.map_err(Failure::of("probe"))?;
        // SAFETY: see the crate.
        let x = unsafe { RowsIn::new(x, ctx.arch().d) }.map_err(Failure::of("x"))?;
        let n_heads = probe.n_heads();
        if state.is_null() && !sequences.is_null() {
            return Err(params("sequences: expected a state for them, found NULL"));
        }
        let n_sequences = if sequences.is_null() { 0 } else { x.n };
        // SAFETY: see the crate.
        let sequences = unsafe { items(sequences, n_sequences) }.map_err(Failure::of("sequences"))?;
        if !scores.is_null() {
            writable(scores).map_err(Failure::of("scores"))?;
            let needed = x.n.saturating_mul(n_heads);
            if scores_len < needed {
                return Err(Error::Capacity { what: "scores", needed, got: scores_len }.into());
            }
            check_apart(&extent(scores, scores_len), [x.extent(), slice_extent(sequences)])?;
        }
        let write_scores = |i: usize, found: &[f64]| {
            if scores.is_null() {
                return;
            }
            for (h, score) in found.iter().enumerate() {
                // SAFETY: `i < x.n` and `h < n_heads`, and there are as many places as their product.
                let place = unsafe { scores.add(i * n_heads + h) };
                // SAFETY: the place is the caller's to write; see the crate.
                unsafe { place.write(*score) };
            }
        };
        let (heads, watch) = (&probe.0.heads, probe.0.watch.as_ref());
        if heads.d != ctx.arch().d {
            return Err(params("probe: expected one for a model of the same width"));
        }
        if state.is_null() {
            return ctx.score(heads, watch, &x, write_scores);
        }
        // SAFETY: see the crate.
        let state = unsafe { get(state) }.map_err(Failure::of("state"))?;
        state.0.with(|state| {
            state.check(probe, sequences)?;
            ctx.score(heads, watch, &x, |i, found| {
                write_scores(i, found);
                state.add(sequences.get(i).copied().unwrap_or(0), found);
            })
        })
    })
}
