//! The C ABI. The manual is `include/strata.h`, generated from this crate by `generate-header.sh`.
//!
//! Every function checks its pointers, makes views of them, calls the core, and turns the outcome into a status.
//!
//! # Safety
//! Every pointer is NULL or, during the call: aligned (the numbers of rows excepted) and valid for what its type and the
//! documentation say, for reading where it is `const` and for reading and writing where it is not; not written by
//! anybody else where it is `const`, not touched by anybody else where it is not. Handles come from the function that
//! makes them and are freed once. Strings end with a zero.

#![allow(unsafe_code, reason = "the boundary to C: every block says what the caller has promised")]
#![allow(clippy::missing_safety_doc, reason = "the rules of all pointers stand once, above and on top of the header")]
#![allow(non_camel_case_types, reason = "the names of the header")]

mod codes;
mod dump;
mod files;
mod handle;
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

pub use dump::strata_dump;
pub use handle::{strata_ctx, strata_model};
pub use params::*;
pub use status::{
    STRATA_STATUS_CAPACITY, STRATA_STATUS_DEVICE, STRATA_STATUS_DTYPE, STRATA_STATUS_FORMAT, STRATA_STATUS_INDEX,
    STRATA_STATUS_IO, STRATA_STATUS_MEMORY, STRATA_STATUS_NOT_FINITE, STRATA_STATUS_NULL, STRATA_STATUS_OK,
    STRATA_STATUS_PANIC, STRATA_STATUS_PARAMS, STRATA_STATUS_SHAPE, STRATA_STATUS_VERSION, strata_status,
};

/// Raised only when a program compiled against an older header would break.
pub const STRATA_ABI_VERSION: u32 = 1;

/// The STRATA_ABI_VERSION of the library: compare it with that of the header at start-up.
#[unsafe(no_mangle)]
pub extern "C" fn strata_abi_version() -> u32 {
    STRATA_ABI_VERSION
}

/// The version of the library, "0.1.0". Static.
#[unsafe(no_mangle)]
pub extern "C" fn strata_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The name of a status, "STRATA_STATUS_OK"; "STRATA_STATUS_UNKNOWN" of any other number. Static, never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn strata_status_name(status: strata_status) -> *const c_char {
    status::name(status).as_ptr()
}

/// Fills in the defaults. NULL does nothing; so for every function that ends in _init.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_params_init(params: *mut strata_model_params) {
    // SAFETY: see the crate.
    unsafe { init(params) }
}

/// Fills in the defaults: the caller's thread computes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_ctx_params_init(params: *mut strata_ctx_params) {
    // SAFETY: see the crate.
    unsafe { init(params) }
}

/// Fills in the defaults: float, files of 1 GiB. d is 0 and must be set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_params_init(params: *mut strata_dump_params) {
    // SAFETY: see the crate.
    unsafe { init(params) }
}

/// Loads the model of a run: path is the run's directory or the sae/ in it (cfg.json, sae_weights.safetensors). Files are
/// data: whatever their bytes, the outcome is a model or an error.
///
/// params: NULL for the defaults. out: to be freed with strata_model_free. err: may be NULL.
/// Errors: IO, FORMAT, VERSION, NOT_FINITE, MEMORY. Cost: reads the files; holds the weights twice, as float.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_load(
    path: *const c_char,
    params: *const strata_model_params,
    out: *mut *mut strata_model,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let path = unsafe { dump::path(path) }?;
        // SAFETY: see the crate.
        unsafe { make(out, params, |params| strata_model::load(path, params)) }
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// The same from the bytes of the two files, which are not needed any more afterwards.
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
        let cfg = unsafe { items::<u8>(cfg.cast(), cfg_len) }?;
        // SAFETY: see the crate.
        let weights = unsafe { items::<u8>(weights.cast(), weights_len) }?;
        // SAFETY: see the crate.
        unsafe { make(out, params, |params| strata_model::parse(cfg, weights, params)) }
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Frees a model. NULL does nothing. Contexts made from it go on working.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_free(model: *mut strata_model) {
    // SAFETY: see the crate.
    unsafe { free(model) }
}

/// The sizes of a model. out: struct_size must be set; only the fields within it are written. Any thread.
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

/// The latent of level 1 that is the parent of latent2 of level 2, or STRATA_ROOT where it has none. Any thread.
/// Errors: INDEX.
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

/// The direction that a latent adds to the reconstruction: d floats. out_len: places of out, d at least. Any thread.
/// Errors: INDEX, CAPACITY.
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
        if out.is_null() {
            return Err(Failure::null());
        }
        if out_len < row.len() {
            return Err(Failure::new(STRATA_STATUS_CAPACITY, "out: d places are needed"));
        }
        // SAFETY: `out` has as many places.
        unsafe { ptr::copy_nonoverlapping(row.as_ptr(), out, row.len()) };
        Ok(())
    })
}

/// Makes a context for a model, which it keeps alive: model may be freed before it. Make one for each thread.
///
/// params: NULL for the defaults. out: to be freed with strata_ctx_free. err: may be NULL.
/// Errors: PARAMS, MEMORY. Cost: for each thread, room for 64 rows of every latent and of the most codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_ctx_new(
    model: *const strata_model,
    params: *const strata_ctx_params,
    out: *mut *mut strata_ctx,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let model = unsafe { get(model) }?;
        // SAFETY: see the crate.
        unsafe { make(out, params, |params| Ok(strata_ctx(Guarded::new(Ctx::new(model, params)?)))) }
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Frees a context and ends its threads. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_ctx_free(ctx: *mut strata_ctx) {
    // SAFETY: see the crate.
    unsafe { free(ctx) }
}

/// Encodes rows: which latents of both levels fire on each, and how strongly. The codes of a row depend on that row
/// alone, and their bits neither on the machine's vector instructions nor on n_threads.
///
/// level2: may be NULL for a model of one level. If a capacity is too small, both n say what is needed, and what else
/// is in the buffers is unspecified. Rows that are not finite are refused before anything is written.
/// Errors: SHAPE, CAPACITY, DTYPE, NOT_FINITE.
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
        let x = unsafe { RowsIn::new(x, arch.d) }?;
        // SAFETY: see the crate.
        let level1 = unsafe { CodesOut::new(level1, x.n, false) }?;
        // SAFETY: see the crate.
        let level2 = unsafe { CodesOut::new(level2, x.n, arch.f2 == 0) }?;
        ctx.encode(&x, [level1, level2])
    })
}

/// Reconstructs x_hat->n_rows rows from their codes: what the whole model says, of both levels where there are two. Of
/// the codes n is not read; rows may use fewer latents than were encoded, or others, in any order.
///
/// level2: may be NULL for a model of one level. A number beyond the range of x_hat's type becomes infinite.
/// Errors: SHAPE, INDEX, DTYPE, NOT_FINITE. The caller's thread computes.
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
        let mut x_hat = unsafe { RowsOut::new(x_hat, arch.d) }?;
        // SAFETY: see the crate.
        let level1 = unsafe { CodesIn::new(level1, x_hat.rows.n, arch.f1) }?;
        // SAFETY: see the crate.
        let level2 = unsafe { CodesIn::new(level2, x_hat.rows.n, arch.f2) }?;
        ctx.decode([&level1, &level2], &mut x_hat)
    })
}

/// Changes rows in place. For each edit, with D its latent's decoder row:
///   ADD: x += strength * D
///   SET: x += (strength - z) * D, z the latent's activation on the row as it came: the reconstruction has the latent at
///        strength, and what the SAE does not explain of the row stays as it is.
/// All edits see the rows as they came. A latent that is SET may have no other edit.
///
/// edits: n_edits of them; with 0 nothing happens. Nothing is written on an error.
/// Errors: SHAPE, INDEX, PARAMS, DTYPE, NOT_FINITE. Cost: SET encodes the rows, ADD alone does not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_steer(
    ctx: *mut strata_ctx,
    x: *mut strata_rows_mut,
    edits: *const strata_edit,
    n_edits: usize,
) -> strata_status {
    with_ctx(ctx, |ctx| {
        // SAFETY: see the crate.
        let mut x = unsafe { RowsOut::new(x, ctx.arch().d) }?;
        // SAFETY: see the crate.
        let edits = unsafe { items(edits, n_edits) }?;
        ctx.steer(&mut x, edits)
    })
}

/// Encodes and decodes rows and adds them to the statistics of the context: one pass, and memory that does not grow
/// with the number of rows. Rows are added 64 at a time; rows that are not finite are refused before any is added.
/// Errors: SHAPE, DTYPE, NOT_FINITE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_stats_update(ctx: *mut strata_ctx, x: *const strata_rows) -> strata_status {
    with_ctx(ctx, |ctx| {
        // SAFETY: see the crate.
        let x = unsafe { RowsIn::new(x, ctx.arch().d) }?;
        ctx.update_stats(&x)
    })
}

/// The statistics of all rows since the context was made. out: struct_size must be set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_stats_read(ctx: *const strata_ctx, out: *mut strata_stats) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        let ctx = unsafe { get(ctx) }?.0.get()?;
        // SAFETY: see the crate.
        unsafe { write(out, ctx.stats()) }
    })
}

/// Starts a dump of activations, to be trained on with the command line program. dir: where it will be; it must not
/// exist, its parent must. Until strata_dump_close everything lies in a hidden directory beside it.
///
/// params: d must be set, so it may not be NULL. out: to be ended with strata_dump_close. err: may be NULL.
/// Errors: PARAMS, SHAPE, DTYPE, IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_create(
    dir: *const c_char,
    params: *const strata_dump_params,
    out: *mut *mut strata_dump,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let path = unsafe { dump::path(dir) }?;
        // SAFETY: see the crate.
        let create = |params: &_| unsafe { Dump::create(path, params) };
        // SAFETY: see the crate.
        unsafe { make(out, params, |params| Ok(strata_dump(Guarded::new(create(params)?)))) }
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Appends rows. tokens: the id of each row's token, or NULL: for all rows of the dump, or for none. err: may be NULL.
///
/// Rows that are not finite are refused and the dump stays as it was. After any other error of the class 20 or 30
/// nothing more can be appended, and close reports it.
/// Errors: SHAPE, PARAMS, DTYPE, NOT_FINITE, IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_append(
    dump: *mut strata_dump,
    x: *const strata_rows,
    tokens: *const u32,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let dump = unsafe { dump.as_mut() }.ok_or_else(Failure::null)?;
        dump.0.with(|dump| {
            // SAFETY: see the crate.
            let x = unsafe { RowsIn::new(x, dump.d()) }?;
            // SAFETY: see the crate.
            unsafe { dump.append(&x, tokens) }
        })
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Ends a dump: it appears under its name, whole and on disk, or not at all and err says why. Frees dump either way.
/// NULL does nothing. err: may be NULL.
/// Errors: SHAPE (no rows), IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_close(dump: *mut strata_dump, err: *mut strata_error) -> strata_status {
    let body = || {
        if dump.is_null() {
            return Ok(());
        }
        // SAFETY: it comes from `make`, and is freed once.
        let mut dump = unsafe { Box::from_raw(dump) };
        dump.0.with(Dump::finish)
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Runs `body` with the inside of a context.
fn with_ctx(ctx: *mut strata_ctx, body: impl FnOnce(&mut Ctx) -> Outcome) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        let ctx = unsafe { ctx.as_mut() }.ok_or_else(Failure::null)?;
        ctx.0.with(body)
    })
}

/// Makes a handle with `params`, or with the defaults.
///
/// # Safety
/// See the crate.
unsafe fn make<T, P: Versioned>(out: *mut *mut T, params: *const P, make: impl FnOnce(&P) -> Outcome<T>) -> Outcome {
    if out.is_null() {
        return Err(Failure::null());
    }
    // SAFETY: see the crate.
    let params = unsafe { read_or_default(params) }?;
    let handle = Box::new(make(&params)?);
    // SAFETY: not NULL; see the crate.
    unsafe { put(out, Box::into_raw(handle)) }
}

/// # Safety
/// See the crate.
unsafe fn put<T>(out: *mut T, value: T) -> Outcome {
    if out.is_null() {
        return Err(Failure::null());
    }
    // SAFETY: not NULL; see the crate.
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
