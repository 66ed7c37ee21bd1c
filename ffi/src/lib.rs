//! The C ABI. The manual is `include/strata.h`, generated from this crate by `generate-header.sh`.
//!
//! Every function checks its pointers, makes views of them, calls the core, and turns the outcome into a status.
//!
//! # Safety Every pointer is NULL or, during the call: aligned (the numbers of rows excepted) and valid for what its
//! type and the documentation say, for reading where it is `const` and for reading and writing where it is not; not
//! written by anybody else where it is `const`, not touched by anybody else where it is not. Handles come from the
//! function that makes them and are freed once. Strings end with a zero.

#![allow(unsafe_code, reason = "the boundary to C: every block says what the caller has promised")]
#![allow(clippy::missing_safety_doc, reason = "the rules of all pointers stand once, above and on top of the header")]
#![allow(non_camel_case_types, reason = "the names of the header")]

mod codes;
mod dump;
mod files;
mod handle;
mod message;
mod params;
mod rows;
#[doc(hidden)]
pub mod status;

use codes::{CodesIn, CodesOut};
use dump::Dump;
use handle::Ctx;
use rows::{RowsIn, RowsOut};
use status::{Failure, Guarded, Outcome, boundary, boundary_with};
use std::ffi::{c_char, c_void};
use std::ptr;
use strata_core::Error;

pub use dump::strata_dump;
pub use handle::{strata_ctx, strata_model};
pub use params::*;
pub use status::{
    STRATA_STATUS_BUSY, STRATA_STATUS_CAPACITY, STRATA_STATUS_DEVICE, STRATA_STATUS_DTYPE, STRATA_STATUS_FORMAT,
    STRATA_STATUS_INDEX, STRATA_STATUS_IO, STRATA_STATUS_MEMORY, STRATA_STATUS_NOT_FINITE, STRATA_STATUS_NULL,
    STRATA_STATUS_OK, STRATA_STATUS_PANIC, STRATA_STATUS_PARAMS, STRATA_STATUS_SHAPE, STRATA_STATUS_VERSION,
    strata_status,
};

/// Raised only when a program compiled against an older header would break.
pub const STRATA_ABI_VERSION: u32 = 1_u32;

/// The STRATA_ABI_VERSION of the library: compare it with that of the header at start-up, and stop if they differ.
/// Cannot fail. Any thread. Cost: none.
#[unsafe(no_mangle)]
pub extern "C" fn strata_abi_version() -> u32 {
    STRATA_ABI_VERSION
}

/// The version of the library, "0.1.0". Static: not to be freed. Cannot fail. Any thread. Cost: none.
#[unsafe(no_mangle)]
pub extern "C" fn strata_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The name of a status, "STRATA_STATUS_OK"; "STRATA_STATUS_UNKNOWN" of a number that is none. Static, never NULL: not
/// to be freed. Cannot fail. Any thread. Cost: none.
#[unsafe(no_mangle)]
pub extern "C" fn strata_status_name(status: strata_status) -> *const c_char {
    status::name(status).as_ptr()
}

/// Writes the whole struct: its size and the defaults, STRATA_WEIGHTS_F32. NULL does nothing. Cannot fail. Any thread.
/// Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_params_init(params: *mut strata_model_params) {
    // SAFETY: see the crate.
    unsafe { init(params) }
}

/// Writes the whole struct: its size and the defaults, by which the caller's thread computes. NULL does nothing. Cannot
/// fail. Any thread. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_ctx_params_init(params: *mut strata_ctx_params) {
    // SAFETY: see the crate.
    unsafe { init(params) }
}

/// Writes the whole struct: its size and the defaults: float, files of 1 GiB, no names. d is 0 and must be
/// set. NULL does nothing. Cannot fail. Any thread. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_params_init(params: *mut strata_dump_params) {
    // SAFETY: see the crate.
    unsafe { init(params) }
}

/// Loads the model of a run, or one of SAELens. path: the directory of the run, the sae/ in it, or that of SAELens,
/// with cfg.json and sae_weights.safetensors; UTF-8 on Windows, bytes elsewhere. Of SAELens the architectures standard,
/// topk, jumprelu and gated are read, as models of one level with the same latents. Files are data: whatever their
/// bytes, the outcome is a model or an error.
///
/// params: NULL for the defaults. out: receives the model, to be freed with strata_model_free. err: may be NULL.
///
/// The weights are mapped, and f32 ones are used where they lie. Until the model and all contexts made from it are
/// freed, nobody may change or truncate sae_weights.safetensors: the weights would change with it, and a truncated file
/// ends the process with SIGBUS. Replacing it by renaming another file over it, or deleting it, is safe. Where this
/// cannot be promised, read the files and use strata_model_load_buffers.
///
/// Errors: IO where there is no model at path, or a file cannot be read; FORMAT where a file is not what it should be:
/// damaged, of sizes that do not fit each other, or of an architecture that is not read; PARAMS for a type of weights
/// that is none, or that an architecture does not have (the seed has F32 alone); VERSION for a cfg.json of a newer
/// library; NOT_FINITE for a weight that is NaN or infinite; MEMORY where the system gives none. Any thread.
/// Cost: one pass over the weights, to see that they are finite; processes that load the same file share its memory.
/// Other weights than F32 cost a second pass and a copy of the encoder's in that type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_load(
    path: *const c_char,
    params: *const strata_model_params,
    out: *mut *mut strata_model,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let path = unsafe { dump::path(path) }.map_err(Failure::of("path"))?;
        // SAFETY: see the crate.
        unsafe { make(out, params, |params| strata_model::load(path, params)) }
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Loads a model from the bytes of its two files, cfg.json and sae_weights.safetensors, at any alignment. They are
/// copied: nothing of them is needed afterwards. A length of 0 is an empty file, and its pointer may be NULL.
///
/// params: NULL for the defaults. out: receives the model, to be freed with strata_model_free. err: may be NULL.
/// Errors: FORMAT, VERSION, NOT_FINITE, PARAMS, MEMORY, for what they are at strata_model_load. Any thread.
/// Cost: one copy of the weights, as float.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_load_buffers(
    cfg: *const c_void,
    cfg_len: usize,
    weights: *const c_void,
    weights_len: usize,
    params: *const strata_model_params,
    out: *mut *mut strata_model,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let cfg = unsafe { items::<u8>(cfg.cast(), cfg_len) }.map_err(Failure::of("cfg"))?;
        // SAFETY: see the crate.
        let weights = unsafe { items::<u8>(weights.cast(), weights_len) }.map_err(Failure::of("weights"))?;
        // SAFETY: see the crate.
        unsafe { make(out, params, |params| strata_model::parse(cfg, weights, params)) }
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Frees a model, once. NULL does nothing. Contexts made from it go on working: what they share goes with the last of
/// them. No other thread may be using the model pointer itself any more. Cannot fail. Cost: gives the memory back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_free(model: *mut strata_model) {
    // SAFETY: see the crate.
    unsafe { free(model) }
}

/// The sizes of a model. out: struct_size must be set; it stays, and of the other fields those within it are written.
/// Errors: PARAMS for a struct_size that was not set. Any thread, at the same time as others. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_get_info(
    model: *const strata_model,
    out: *mut strata_model_info,
) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        let model = unsafe { get(model) }?;
        // SAFETY: see the crate.
        unsafe { write(out, model.info()) }
    })
}

/// Writes to parent the latent of level 1 that is the parent of latent2 of level 2, or STRATA_ROOT where it has none
/// (so for all latents of a model without families).
/// Errors: INDEX for latent2 of f2 or above. Any thread, at the same time as others. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_parent(
    model: *const strata_model,
    latent2: u32,
    parent: *mut u32,
) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        let found = unsafe { get(model) }?.parent(latent2)?;
        // SAFETY: see the crate.
        unsafe { put(parent, found) }
    })
}

/// Copies the decoder row of a latent, the direction that it adds to the reconstruction, into out: d floats. level: 1
/// or 2. out_len: places of out, d at least.
/// Errors: INDEX for a level other than 1 and 2, or a latent that it does not have; CAPACITY for out_len below d. Any
/// thread, at the same time as others. Cost: the copy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_decoder_row(
    model: *const strata_model,
    level: u32,
    latent: u32,
    out: *mut f32,
    out_len: usize,
) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        let row = unsafe { get(model) }?.decoder_row(level, latent)?;
        writable(out)?;
        if out_len < row.len() {
            return Err(Error::Capacity { what: "out", needed: row.len(), got: out_len }.into());
        }
        // SAFETY: `out` has as many places.
        unsafe { ptr::copy_nonoverlapping(row.as_ptr(), out, row.len()) };
        Ok(())
    })
}

/// Makes a context, which keeps its model alive: model may be freed before it. Make one for each thread that encodes.
///
/// params: NULL for the defaults. out: receives the context, to be freed with strata_ctx_free. err: may be NULL.
/// Errors: PARAMS for n_threads above 1024; MEMORY where the system gives neither that much memory nor that many
/// threads. Any thread, with the same model as others.
/// Cost: for each thread of the context at most 1024 * (2048 + 2 d + 4 (f1 + f2) + 16 (max_active1 + max_active2))
/// bytes, of which the system backs those that are used, and its start.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_ctx_new(
    model: *const strata_model,
    params: *const strata_ctx_params,
    out: *mut *mut strata_ctx,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let model = unsafe { get(model) }.map_err(Failure::of("model"))?;
        // SAFETY: see the crate.
        unsafe { make(out, params, |params| strata_ctx::new(model, params)) }
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Frees a context, once, and ends its threads. NULL does nothing. No other thread may be using it. Cannot fail. Cost:
/// waits for its threads to end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_ctx_free(ctx: *mut strata_ctx) {
    // SAFETY: see the crate.
    unsafe { free(ctx) }
}

/// What went wrong in the last call of strata_encode, strata_decode, strata_steer, strata_stats_update or
/// strata_stats_read with this context: one sentence in UTF-8, or "" if it went well. Never NULL. It belongs to the
/// context and is there until its next call; not to be freed. NULL, a context in use by another thread, and one after
/// PANIC have sentences of their own. Cannot fail. One thread at a time for each context. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_ctx_message(ctx: *const strata_ctx) -> *const c_char {
    // SAFETY: see the crate.
    unsafe { get(ctx) }.map_or(c"ctx: the pointer is NULL".as_ptr(), strata_ctx::message)
}

/// Encodes rows: which latents of both levels fire on each, and how strongly. The codes of a row depend on that row
/// alone, and their bits neither on the machine's vector instructions nor on n_threads nor on how rows are grouped in
/// calls.
///
/// x: may have no rows; offsets[0] and n are 0 then. level1, level2: buffers that overlap neither each other nor x;
/// level2 may be NULL for a model of one level. If a buffer is too small, both n say what is needed, and what else is
/// in the buffers is unspecified; n_rows * max_active entries are always enough. Rows that are not finite are refused
/// before anything is written.
///
/// Errors: SHAPE for an x->d that is not the model's, a row_stride_bytes below the bytes of a row where there are rows,
/// or more rows than memory can hold; DTYPE for an x->dtype that is not known; NOT_FINITE for a number of x that is NaN
/// or infinite; CAPACITY for offsets_len below n_rows + 1 or a capacity below n; BUSY. One thread at a time for each
/// context.
/// Cost: at n_rows = 1 the time to read the encoder weights once: 4 d (f1 + f2) bytes, or behind a hard gate 4 d (f1 +
/// the children of the parents that fire, and of none); more rows share that read, 256 at a time. With n_threads
/// above 1 blocks of 32 to 256 rows are spread over the threads. No allocation after the first call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_encode(
    ctx: *mut strata_ctx,
    x: *const strata_rows,
    level1: *mut strata_codes,
    level2: *mut strata_codes,
) -> strata_status {
    with_ctx(ctx, |ctx| {
        let arch = ctx.arch();
        // SAFETY: see the crate.
        let x = unsafe { RowsIn::new(x, arch.d) }.map_err(Failure::of("x"))?;
        // SAFETY: see the crate.
        let level1 = unsafe { CodesOut::new(level1, false) }.map_err(Failure::of("level1"))?;
        // SAFETY: see the crate.
        let level2 = unsafe { CodesOut::new(level2, arch.level[1].latents == 0) }.map_err(Failure::of("level2"))?;
        ctx.encode(&x, [level1, level2])
    })
}

/// Reconstructs x_hat->n_rows rows from their codes: what the whole model says, of both levels where there are two. Of
/// the codes n is not read; rows may use fewer latents than were encoded, or others, in any order. The bytes between
/// the rows of x_hat stay as they are.
///
/// level2: may be NULL for a model of one level. A number beyond the range of x_hat's type becomes infinite.
/// Errors: SHAPE and DTYPE for x_hat as for x at strata_encode, SHAPE also for offsets_len below n_rows + 1, or offsets
/// that do not ascend from 0 to at most capacity; INDEX for a latent that the level does not have; NOT_FINITE for a
/// value that is NaN or infinite; BUSY. x_hat is then as it was. One thread at a time for each context; the caller's
/// thread computes.
/// Cost: 4 d bytes of decoder weights read for each code. No allocation after the first call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_decode(
    ctx: *mut strata_ctx,
    level1: *const strata_codes,
    level2: *const strata_codes,
    x_hat: *mut strata_rows_mut,
) -> strata_status {
    with_ctx(ctx, |ctx| {
        let arch = ctx.arch();
        // SAFETY: see the crate.
        let mut x_hat = unsafe { RowsOut::new(x_hat, arch.d) }.map_err(Failure::of("x_hat"))?;
        // SAFETY: see the crate.
        let level1 =
            unsafe { CodesIn::new(level1, x_hat.rows.n, arch.level[0].latents) }.map_err(Failure::of("level1"))?;
        // SAFETY: see the crate.
        let level2 =
            unsafe { CodesIn::new(level2, x_hat.rows.n, arch.level[1].latents) }.map_err(Failure::of("level2"))?;
        ctx.decode([&level1, &level2], &mut x_hat)
    })
}

/// Changes rows in place. For each edit, with D its latent's decoder row:
///   ADD: x += strength * D
///   SET: x += (strength - z) * D, z the latent's activation on the row as it came: the reconstruction has the latent
///        at strength, and what the SAE does not explain of the row stays as it is.
/// All edits see the rows as they came. A latent that is SET may have no other edit.
///
/// edits: n_edits of them; with 0 nothing happens, and edits may be NULL. A number beyond the range of x's type becomes
/// infinite.
/// Errors: SHAPE and DTYPE for x as at strata_encode; NOT_FINITE for a number of x or a strength that is NaN or
/// infinite; INDEX for a level other than 1 and 2, or a latent that it does not have; PARAMS for an unknown mode, or
/// two edits of a latent one of which is SET; BUSY. Nothing is written then. One thread at a time for each context.
/// Cost: SET encodes the rows, ADD alone does not; besides, one decoder row for each row and edit. No allocation after
/// the first call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_steer(
    ctx: *mut strata_ctx,
    x: *mut strata_rows_mut,
    edits: *const strata_edit,
    n_edits: usize,
) -> strata_status {
    with_ctx(ctx, |ctx| {
        // SAFETY: see the crate.
        let mut x = unsafe { RowsOut::new(x, ctx.arch().d) }.map_err(Failure::of("x"))?;
        // SAFETY: see the crate.
        let edits = unsafe { items(edits, n_edits) }.map_err(Failure::of("edits"))?;
        ctx.steer(&mut x, edits)
    })
}

/// Encodes and decodes rows and adds them to the statistics of the context: one pass, and memory that does not grow
/// with the number of rows. Rows are added 32 at a time; rows that are not finite are refused before any is added.
/// Errors: SHAPE, DTYPE, NOT_FINITE for x as at strata_encode; BUSY. One thread at a time for each context: to use
/// several, give each a context. Cost: strata_encode and strata_decode. No allocation after the first call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_stats_update(ctx: *mut strata_ctx, x: *const strata_rows) -> strata_status {
    with_ctx(ctx, |ctx| {
        // SAFETY: see the crate.
        let x = unsafe { RowsIn::new(x, ctx.arch().d) }.map_err(Failure::of("x"))?;
        ctx.update_stats(&x)
    })
}

/// The statistics of all rows since the context was made. out: struct_size must be set; it stays, and of the other
/// fields those within it are written.
/// Errors: PARAMS for a struct_size that was not set; BUSY. One thread at a time for each context. Cost: one pass over
/// f1 + f2 counters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_stats_read(ctx: *const strata_ctx, out: *mut strata_stats) -> strata_status {
    with_ctx(ctx, |ctx| {
        // SAFETY: see the crate.
        unsafe { write(out, ctx.stats()) }.map_err(Failure::of("out"))
    })
}

/// Starts a dump of activations, to be trained on with the command line program. dir: where it will be, a path as for
/// strata_model_load; it must not exist, its parent must. Until strata_dump_close everything lies in a hidden directory
/// beside it.
///
/// params: d must be set, so it may not be NULL; its strings are copied. out: receives the dump, to be ended with
/// strata_dump_close or strata_dump_abandon. err: may be NULL.
/// Errors: SHAPE for a d of 0 or a row above 1 GiB; DTYPE for a dtype that is not known; PARAMS for a model or hook
/// that is not UTF-8; IO where dir exists, or cannot be made. Any thread. Cost: a directory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_create(
    dir: *const c_char,
    params: *const strata_dump_params,
    out: *mut *mut strata_dump,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let path = unsafe { dump::path(dir) }.map_err(Failure::of("dir"))?;
        // SAFETY: see the crate.
        let create = |params: &_| unsafe { Dump::create(path, params) };
        // SAFETY: see the crate.
        unsafe { make(out, params, |params| Ok(strata_dump(Guarded::new(create(params)?)))) }
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Gives a dump the texts of its tokens, which reports show: texts[i] for token i, NULL for one without a text. Once,
/// and before the first rows. n_texts: at least 1. A token is often a part of a character: bytes that are not UTF-8
/// become U+FFFD. The texts are copied. err: may be NULL.
///
/// Errors: SHAPE for n_texts of 0; PARAMS where there are rows or texts already; IO where the file cannot be written,
/// after which strata_dump_close fails; BUSY. One thread at a time for each dump. Cost: a file of the texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_set_vocab(
    dump: *mut strata_dump,
    texts: *const *const c_char,
    n_texts: usize,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let dump = unsafe { get(dump) }.map_err(Failure::of("dump"))?;
        // SAFETY: see the crate.
        let texts = unsafe { dump::texts(texts, n_texts) }.map_err(Failure::of("texts"))?;
        dump.0.with(|dump| dump.set_vocab(&texts))
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Appends rows, stored in the type of the dump whatever their own. tokens: the id of each row's token, n_rows of them,
/// or NULL: for all rows of the dump, or for none. err: may be NULL.
///
/// Errors that leave the dump as it was: SHAPE and DTYPE for x as at strata_encode, with the d of the dump; NOT_FINITE
/// for a number of x that is NaN or infinite; PARAMS for tokens where earlier rows had none, or none where they had;
/// INDEX for a token beyond the vocabulary; BUSY. Errors after which nothing more can be appended, and
/// strata_dump_close fails: IO for a file that cannot be written; NOT_FINITE for a number beyond the range of the
/// dump's type. One thread at a time for each dump.
/// Cost: the bytes of the rows, through a buffer of 1 MiB; a full file is synced to the disk.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_append(
    dump: *mut strata_dump,
    x: *const strata_rows,
    tokens: *const u32,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        unsafe { get(dump) }.map_err(Failure::of("dump"))?.0.with(|dump| {
            // SAFETY: see the crate.
            let x = unsafe { RowsIn::new(x, dump.d()) }.map_err(Failure::of("x"))?;
            // SAFETY: see the crate.
            unsafe { dump.append(&x, tokens) }
        })
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Ends a dump: it appears under its name, whole and on disk, or not at all and err says why. Frees dump either way.
/// NULL does nothing. err: may be NULL.
/// Errors: SHAPE where no rows were appended; IO where a file cannot be written, dir exists by now, or an append has
/// failed. No other thread may be using the dump. Cost: the last file is synced to the disk.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_close(dump: *mut strata_dump, err: *mut strata_error) -> strata_status {
    let body = || {
        if dump.is_null() {
            return Ok(());
        }
        // SAFETY: it comes from `make`, and is freed once.
        let dump = unsafe { Box::from_raw(dump) };
        dump.0.with(Dump::finish)
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Ends a dump that is not wanted: what was written is deleted, and nothing appears. Frees dump, instead of
/// strata_dump_close. NULL does nothing. Cannot fail; what the system does not delete stays in the hidden directory. No
/// other thread may be using the dump. Cost: the deletion.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_abandon(dump: *mut strata_dump) {
    // SAFETY: see the crate.
    unsafe { free(dump) }
}

/// Runs `body` with the inside of a context.
fn with_ctx(ctx: *const strata_ctx, body: impl FnOnce(&mut Ctx) -> Outcome) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        unsafe { get(ctx) }.map_err(Failure::of("ctx"))?.call(body)
    })
}

/// Makes a handle with `params`, or with the defaults.
///
/// # Safety
/// See the crate.
unsafe fn make<T, P: Versioned>(out: *mut *mut T, params: *const P, make: impl FnOnce(&P) -> Outcome<T>) -> Outcome {
    writable(out).map_err(Failure::of("out"))?;
    // SAFETY: see the crate.
    let params = unsafe { read_or_default(params) }.map_err(Failure::of("params"))?;
    let handle = Box::new(make(&params)?);
    // SAFETY: see the crate.
    unsafe { put(out, Box::into_raw(handle)) }
}

/// Whether `out` can be written, as far as can be seen of a pointer.
fn writable<T>(out: *const T) -> Outcome {
    if out.is_null() {
        return Err(Failure::null());
    }
    if out.is_aligned() { Ok(()) } else { Err(params("an output does not lie at its alignment")) }
}

/// # Safety
/// See the crate.
unsafe fn put<T>(out: *mut T, value: T) -> Outcome {
    writable(out)?;
    // SAFETY: neither NULL nor misaligned; see the crate.
    unsafe { out.write(value) };
    Ok(())
}

/// # Safety
/// See the crate.
unsafe fn get<'a, T>(handle: *const T) -> Outcome<&'a T> {
    // SAFETY: see the crate.
    unsafe { handle.as_ref() }.ok_or_else(Failure::null)
}

/// # Safety
/// See the crate.
unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        boundary(|| {
            // SAFETY: it comes from `make`, and is freed once.
            drop(unsafe { Box::from_raw(handle) });
            Ok(())
        });
    }
}
