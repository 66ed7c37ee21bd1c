//! The C ABI of Strata: load a model, encode, decode and steer activations, keep statistics, write dumps.
//!
//! The manual is `include/strata.h`, which `generate-header.sh` makes from the doc comments of this crate; C++17 has
//! `include/strata.hpp`. Every function checks its pointers, makes views of them, calls [`strata_core`], and turns the
//! outcome into a status. From Rust use [`strata_core`] itself; the functions can be called all the same:
//!
//! ```
//! use std::ffi::CStr;
//!
//! assert_eq!(strata::strata_abi_version(), strata::STRATA_ABI_VERSION);
//! let name = strata::strata_status_name(strata::STRATA_STATUS_SHAPE);
//! // SAFETY: the function returns a static string.
//! let name = unsafe { CStr::from_ptr(name) };
//! assert_eq!(name.to_str(), Ok("STRATA_STATUS_SHAPE"));
//! ```
//!
//! # Features
//!
//! | feature | default | adds | without it |
//! |---|---|---|---|
//! | `full` | yes | all of the header | models of Strata from buffers, contexts of one thread, `strata_encode` |
//! | `std` | yes | the best instruction set of the machine, found at run time; panics become `STRATA_STATUS_PANIC` | the instruction set that the library was compiled for; a panic, which is a bug in Strata, ends the process |
//! | `cuda` | no | contexts on a GPU, by the driver that is there at run time | such a context is refused |
//!
//! The threads of a context come from a pool of its own, never from the global one.
//!
//! # Notation
//!
//! That of [`strata_core`]: `n` rows of width `d`; `f1` latents of level 1 (parents), `f2` of level 2 (children).
//!
//! # The promise of bits
//!
//! Codes and reconstructions have the same bits as those of [`strata_core`] and of the command line, for any `n_threads` and
//! on every instruction set, in the default floating-point environment.
//!
//! # Modules
//!
//! | file | purpose |
//! |---|---|
//! | `lib.rs`, `calls_dump.rs`, `calls_watch.rs` | the exported functions, in the order of the header |
//! | `params.rs` | the structs of the header; how structs of other versions are read and written |
//! | `status.rs`, `failure.rs`, `boundary.rs`, `caught.rs`, `message.rs` | status codes; failures with their sentence; the boundary that no panic crosses; sentences without allocation |
//! | `bare.rs` | what the library has in place of std, where it is built without |
//! | `handle.rs`, `memory.rs`, `pool.rs` | models and contexts; whether memory is enough; the threads of a context |
//! | `watch.rs`, `probe.rs` | watch-lists; probes, and what is kept of their scores |
//! | `pointers.rs`, `rows.rs`, `codes.rs` | the caller's handles and outputs; views of the caller's rows and codes |
//! | `model_files.rs`, `files.rs`, `dump.rs` | files of models, mapped; files; dumps that a host writes |
//!
//! # Safety
//!
//! Every pointer is NULL or, during the call, aligned (the numbers of rows excepted) and valid for what its type and the
//! documentation say: for reads where it is `const`, for reads and writes where it is not. No other thread writes through
//! it where it is `const`, or uses it at all where it is not. Handles come from the function that makes them and are freed
//! once. Strings end with a zero byte.

#![allow(unsafe_code, reason = "the boundary to C: every block says what the caller has promised")]
#![allow(clippy::missing_safety_doc, reason = "the rules of all pointers stand once, above and on top of the header")]
#![allow(rustdoc::broken_intra_doc_links, reason = "the manual of the header writes elements of C arrays, `a[i]`")]
#![allow(non_camel_case_types, reason = "the names of the header")]
#![cfg_attr(
    not(feature = "full"),
    allow(dead_code, unused_imports, reason = "no exported function reaches it, so that the linker leaves it out")
)]
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

/// cbindgen:ignore
#[cfg(not(feature = "std"))]
mod bare;
#[doc(hidden)]
pub mod boundary;
#[cfg(feature = "full")]
mod calls_dump;
#[cfg(feature = "full")]
mod calls_watch;
#[cfg(feature = "std")]
mod caught;
mod codes;
#[cfg(feature = "std")]
mod device;
#[cfg(feature = "full")]
mod dump;
#[doc(hidden)]
pub mod failure;
#[cfg(feature = "full")]
mod files;
mod handle;
mod memory;
mod message;
#[cfg(feature = "full")]
mod model_files;
mod params;
mod pointers;
#[cfg(feature = "full")]
mod pool;
#[cfg(feature = "full")]
mod probe;
mod rows;
mod status;
#[cfg(feature = "full")]
mod watch;

use boundary::{boundary, boundary_with};
use codes::{CodesIn, CodesOut};
use core::ffi::{c_char, c_void};
use core::ptr;
use failure::Failure;
use pointers::{free, get, make, put, with_ctx, writable};
use rows::{RowsIn, RowsOut};
use strata_core::Error;

#[cfg(feature = "full")]
pub use calls_dump::*;
#[cfg(feature = "full")]
pub use calls_watch::*;
#[cfg(feature = "full")]
pub use dump::strata_dump;
pub use handle::{strata_ctx, strata_model};
pub use params::*;
use params::{check_apart, slice_extent};
#[cfg(feature = "full")]
pub use probe::{strata_probe, strata_probe_state};
pub use status::{
    STRATA_STATUS_BUSY, STRATA_STATUS_CAPACITY, STRATA_STATUS_DEVICE, STRATA_STATUS_DTYPE, STRATA_STATUS_FORMAT,
    STRATA_STATUS_INDEX, STRATA_STATUS_IO, STRATA_STATUS_MEMORY, STRATA_STATUS_NOT_FINITE, STRATA_STATUS_NULL,
    STRATA_STATUS_OK, STRATA_STATUS_PANIC, STRATA_STATUS_PARAMS, STRATA_STATUS_SHAPE, STRATA_STATUS_VERSION,
    strata_status,
};
#[cfg(feature = "full")]
pub use watch::strata_watch;

/// The version of the ABI. It is raised only when a program compiled against an older header would break.
pub const STRATA_ABI_VERSION: u32 = 1_u32;

/// Returns the STRATA_ABI_VERSION of the library. Compare it with that of the header at start-up, and stop if they
/// differ. Cannot fail. Thread-safe. Cost: none.
#[unsafe(no_mangle)]
pub extern "C" fn strata_abi_version() -> u32 {
    STRATA_ABI_VERSION
}

/// Returns the version of the library, "0.1.0". The string is static and must not be freed. Cannot fail. Thread-safe.
/// Cost: none.
#[unsafe(no_mangle)]
pub extern "C" fn strata_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Returns the name of a status, such as "STRATA_STATUS_OK", or "STRATA_STATUS_UNKNOWN" for a number that is no status.
/// The string is static, never NULL, and must not be freed. Cannot fail. Thread-safe. Cost: none.
#[unsafe(no_mangle)]
pub extern "C" fn strata_status_name(status: strata_status) -> *const c_char {
    status::name(status).as_ptr()
}

/// Initialises the struct with its size and the defaults (STRATA_WEIGHTS_F32). Does nothing if params is NULL. Cannot
/// fail. Thread-safe. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_params_init(params: *mut strata_model_params) {
    // SAFETY: see the crate.
    unsafe { init(params) }
}

/// Initialises the struct with its size and the defaults (no threads: the caller's thread computes). Does nothing if
/// params is NULL. Cannot fail. Thread-safe. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_ctx_params_init(params: *mut strata_ctx_params) {
    // SAFETY: see the crate.
    unsafe { init(params) }
}

/// Initialises the struct with its size and the defaults (float, files of 1 GiB, no names). d is 0 and must be set.
/// Does nothing if params is NULL. Cannot fail. Thread-safe. Cost: none.
#[cfg(feature = "full")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_params_init(params: *mut strata_dump_params) {
    // SAFETY: see the crate.
    unsafe { init(params) }
}

/// Loads the model of a run, or one of another tool whose weights are safetensors or npz: SAELens, Gemma Scope, Llama
/// Scope, Llamascopium, sparsify, circuit-tracer. path is the directory of the run, the sae/ directory in it, or the
/// directory or the file of the other tool; it is UTF-8 on Windows and bytes elsewhere. Models of other tools have one
/// level, and the latents that the tool gives them; `strata convert` makes a model of Strata of a pickle, and of files that
/// need to be told what they are. What was assumed, where the files do not say it, is in strata_model_notes. Files are treated
/// as data: whatever their bytes, the outcome is a model or an error.
///
/// params: may be NULL for the defaults. out: receives the model, which is freed with strata_model_free. err: may be
/// NULL.
///
/// The weights are mapped, and f32 weights are used in place. Until the model and all contexts made from it are freed,
/// do not modify or truncate the file of weights: the weights would change with the file, and a truncated file ends
/// the process with SIGBUS. Replacing the file by a rename, or deleting it, is safe. Where this cannot be promised,
/// read the files and use strata_model_load_buffers. On file systems that refuse shared maps the file is mapped
/// privately or read.
///
/// Errors: IO if there is no model at path or a file cannot be read; FORMAT if a file is damaged, has sizes that do not
/// fit each other, or has an architecture that is not read; PARAMS for an unknown type of weights, or one that the
/// architecture does not have (the seed model has F32 alone); VERSION for a cfg.json of a newer library; NOT_FINITE for
/// a weight that is NaN or infinite; MEMORY. Thread-safe.
/// Cost: one pass over the weights, to check that they are finite. Processes that load the same file share its memory.
/// Types of weights other than F32 cost a second pass and a copy of the encoder's weights in that type.
#[cfg(feature = "full")]
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

/// Loads a model from the bytes of its two files, cfg.json and sae_weights.safetensors, at any alignment. The bytes are
/// copied and are not needed afterwards. A length of 0 is an empty file, and its pointer may be NULL.
///
/// params: may be NULL for the defaults. out: receives the model, which is freed with strata_model_free. err: may be
/// NULL.
/// Errors: FORMAT, VERSION, NOT_FINITE, PARAMS and MEMORY, as for strata_model_load. Thread-safe.
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

/// Returns what strata_model_load had to assume as the files of another tool do not say it, such as a scale of the rows that
/// is kept in a list of that tool alone: one sentence in UTF-8 per line, or "" if nothing was assumed, or if model is NULL.
/// Show it to whoever chose the model. The string belongs to the model and must not be freed. Cannot fail. Thread-safe,
/// also for the same model. Cost: none.
#[cfg(feature = "full")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_notes(model: *const strata_model) -> *const c_char {
    // SAFETY: see the crate.
    unsafe { get(model) }.map_or(c"", strata_model::notes).as_ptr()
}

/// Frees a model, once. Does nothing if model is NULL. Contexts made from it go on working: what they share is freed
/// with the last of them. No other thread may be using the model pointer itself. Cannot fail. Cost: returns the memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_free(model: *mut strata_model) {
    // SAFETY: see the crate.
    unsafe { free(model) }
}

/// Writes the sizes of a model. out: struct_size must be set and is kept; of the other fields, those within struct_size
/// are written.
/// Errors: PARAMS if struct_size was not set. Thread-safe, also for the same model. Cost: none.
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

/// Writes to parent the level-1 latent that is the parent of latent2 of level 2, or STRATA_ROOT if it has none (as all
/// latents of a model without families).
/// Errors: INDEX if latent2 is f2 or above. Thread-safe, also for the same model. Cost: none.
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

/// Writes the parents of all latents of level 2: parents[j] is what strata_model_parent writes for j. parents_len: the
/// capacity of parents, at least f2. parents may be NULL if f2 is 0.
/// Errors: CAPACITY if parents_len is below f2. Thread-safe, also for the same model. Cost: the copy of 4 f2 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_parents(
    model: *const strata_model,
    parents: *mut u32,
    parents_len: usize,
) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        let found = unsafe { get(model) }.map_err(Failure::of("model"))?.parents();
        if found.is_empty() {
            return Ok(());
        }
        writable(parents).map_err(Failure::of("parents"))?;
        if parents_len < found.len() {
            return Err(Error::Capacity { what: "parents", needed: found.len(), got: parents_len }.into());
        }
        // SAFETY: `parents` has as many places.
        unsafe { ptr::copy_nonoverlapping(found.as_ptr(), parents, found.len()) };
        Ok(())
    })
}

/// Writes where a model comes from: the language model, the hook point and its layer. out: struct_size must be set and is
/// kept; of the other fields, those within struct_size are written. The strings belong to the model and must not be freed.
/// Errors: PARAMS if struct_size was not set. Thread-safe, also for the same model. Cost: none.
#[cfg(feature = "full")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_model_get_metadata(
    model: *const strata_model,
    out: *mut strata_model_metadata,
) -> strata_status {
    boundary(|| {
        // SAFETY: see the crate.
        let model = unsafe { get(model) }?;
        // SAFETY: see the crate.
        unsafe { write(out, model.metadata()) }
    })
}

/// Copies the decoder direction of a latent, which it adds to the reconstruction, into out: d_out floats. level: 1 or 2.
/// out_len: the capacity of out in floats, at least d_out.
/// Errors: INDEX for a level other than 1 and 2, or a latent that the level does not have; CAPACITY if out_len is below
/// d_out. Thread-safe, also for the same model. Cost: the copy.
#[cfg(feature = "full")]
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

/// Makes a context. It keeps its model alive: model may be freed before it. Make one context per thread that encodes.
///
/// params: may be NULL for the defaults. out: receives the context, which is freed with strata_ctx_free. err: may be
/// NULL.
/// Errors: PARAMS if n_threads is above 1024; MEMORY if there is not enough memory, or a thread cannot be started.
/// Thread-safe, also for the same model.
/// Cost: per thread of the context at most 1024 * (2048 + 2 d + 4 (f1 + f2) + 16 (max_active1 + max_active2)) bytes of
/// address space, of which the pages that are used take memory, and the start of the thread.
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

/// Frees a context, once, and ends its threads: they have ended when the call returns. Does nothing if ctx is NULL. No
/// other thread may be using the context. In the child of a fork, where the threads of the context are missing, nothing
/// is waited for. Cannot fail. Cost: waits for the threads to end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_ctx_free(ctx: *mut strata_ctx) {
    // SAFETY: see the crate.
    unsafe { free(ctx) }
}

/// Returns one sentence in UTF-8 about what went wrong in the last call of strata_encode, strata_decode,
/// strata_reconstruct, strata_steer, strata_stats_update, strata_stats_read, strata_stats_merge (into), strata_row_flags,
/// strata_encode_watched or strata_probe_score with this context, or "" if the call succeeded. Never NULL. The string belongs to the context, is valid until the next call with it, and must not be freed. A NULL context,
/// a context in use by another thread, and a context after PANIC each have a sentence of their own. Cannot fail. One
/// thread at a time per context. Cost: none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_ctx_message(ctx: *const strata_ctx) -> *const c_char {
    // SAFETY: see the crate.
    unsafe { get(ctx) }.map_or(c"ctx: the pointer is NULL".as_ptr(), strata_ctx::message)
}

/// Encodes rows: finds which latents of both levels are active on each row, and their activations. The codes of a row
/// depend on that row alone; their bits depend neither on the vector instructions of the machine, nor on n_threads, nor
/// on how rows are grouped into calls.
///
/// x: may have no rows; offsets[0] and n are 0 then. level1, level2: buffers that overlap neither each other nor x;
/// level2 may be NULL for a model of one level. If a buffer is too small, both n say what is needed, and the other
/// contents of the buffers are unspecified; n_rows * max_active entries are always enough. Rows that are not finite are
/// refused before anything is written.
///
/// Errors: SHAPE if x->d is not the width of the model, if row_stride_bytes is below the bytes of a row where there are
/// rows, or if there are more rows than memory can hold; DTYPE for an unknown x->dtype; NOT_FINITE for a number of x
/// that is NaN or infinite; PARAMS for buffers that overlap; CAPACITY if offsets_len is below n_rows + 1 or a capacity
/// is below n; BUSY. One thread at a time per context.
/// Cost: at n_rows = 1, the time to read the encoder weights once: 4 d (f1 + f2) bytes, or, behind a hard gate, 4 d times
/// the number of latents of level 1 and of children whose parent is active or that have no parent. More rows share that
/// read, 256 at a time. With n_threads above 1, blocks of 32 to 256 rows are spread over the threads. No allocation after
/// the first call.
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
        // What is written comes into being as a view only after it is known to lie apart from everything else.
        let written = [&level1, &level2].map(|level| level.as_ref().map_or_else(Default::default, CodesOut::extents));
        for (i, own) in written.iter().flatten().enumerate() {
            check_apart(own, written.iter().flatten().skip(i + 1).cloned().chain([x.extent()]))?;
        }
        ctx.encode(&x, None, [level1, level2])
    })
}

/// Reconstructs x_hat->n_rows rows from their codes, of both levels where there are two. n of the codes is not read; a
/// row may have fewer codes than were encoded, or others, in any order. The bytes between the rows of x_hat are left as
/// they are.
///
/// level2: may be NULL for a model of one level. x_hat->d is the d_out of the model. A number beyond the range of x_hat's type becomes infinite.
/// Errors: SHAPE and DTYPE for x_hat as for x of strata_encode, and SHAPE if offsets_len is below n_rows + 1, or
/// offsets do not ascend from 0 to at most capacity; INDEX for a latent that the level does not have; NOT_FINITE for a
/// value that is NaN or infinite; PARAMS if x_hat overlaps the codes, or if the reconstruction of this model depends on
/// the row itself (needs_rows; call strata_reconstruct); BUSY. x_hat is unchanged then. One thread at a
/// time per context; the caller's thread computes.
/// Cost: 4 d_out bytes of decoder weights are read per code. No allocation after the first call.
#[cfg(feature = "full")]
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
        let mut x_hat = unsafe { RowsOut::new(x_hat, arch.d_out()) }.map_err(Failure::of("x_hat"))?;
        // SAFETY: see the crate.
        let level1 =
            unsafe { CodesIn::new(level1, x_hat.rows.n, arch.level[0].latents) }.map_err(Failure::of("level1"))?;
        // SAFETY: see the crate.
        let level2 =
            unsafe { CodesIn::new(level2, x_hat.rows.n, arch.level[1].latents) }.map_err(Failure::of("level2"))?;
        check_apart(&x_hat.rows.extent(), level1.extents().into_iter().chain(level2.extents()))?;
        ctx.decode([&level1, &level2], &mut x_hat)
    })
}

/// Reconstructs rows from the codes that strata_encode finds on them, or from others: of every model, those included whose
/// reconstruction depends on the row itself, as it has a skip connection or normalises each row. For all other models the
/// result is that of strata_encode and strata_decode, to the bit.
///
/// x: as for strata_encode. level1, level2: both NULL for the codes that strata_encode would find, or codes of x->n_rows
/// rows as for strata_decode; level2 may be NULL for a model of one level. x_hat: x->n_rows rows of the d_out of the model.
/// It may be x itself, with the same data, stride and type: the rows are replaced then. A number beyond the range of x_hat's
/// type becomes infinite.
/// Errors: SHAPE, DTYPE and NOT_FINITE for x as for strata_encode; SHAPE and DTYPE for x_hat likewise, and SHAPE if it has
/// another number of rows; errors of codes as of strata_decode; NULL for level2 without level1; PARAMS if x_hat overlaps
/// the codes, or x without being x; BUSY. x_hat is unchanged then. One thread at a time per context; where codes are given
/// the caller's thread computes.
/// Cost: that of strata_encode, unless codes are given, and of strata_decode; a skip connection reads 4 d d_out bytes per
/// row. No allocation after the first call.
#[cfg(feature = "full")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_reconstruct(
    ctx: *mut strata_ctx,
    x: *const strata_rows,
    level1: *const strata_codes,
    level2: *const strata_codes,
    x_hat: *mut strata_rows_mut,
) -> strata_status {
    with_ctx(ctx, |ctx| {
        let arch = ctx.arch();
        // SAFETY: see the crate.
        let x = unsafe { RowsIn::new(x, arch.d) }.map_err(Failure::of("x"))?;
        // SAFETY: see the crate.
        let mut x_hat = unsafe { RowsOut::new(x_hat, arch.d_out()) }.map_err(Failure::of("x_hat"))?;
        if x_hat.rows.n != x.n {
            let error = Error::Shape { what: "n_rows", expected: x.n, got: x_hat.rows.n };
            return Err(Failure::of("x_hat")(error.into()));
        }
        let written = x_hat.rows.extent();
        if !x.is_same(&x_hat.rows) {
            check_apart(&written, [x.extent()])?;
        }
        if level1.is_null() && level2.is_null() {
            return ctx.reconstruct(&x, None, &mut x_hat);
        }
        // SAFETY: see the crate.
        let level1 = unsafe { CodesIn::new(level1, x.n, arch.level[0].latents) }.map_err(Failure::of("level1"))?;
        // SAFETY: see the crate.
        let level2 = unsafe { CodesIn::new(level2, x.n, arch.level[1].latents) }.map_err(Failure::of("level2"))?;
        check_apart(&written, level1.extents().into_iter().chain(level2.extents()))?;
        ctx.reconstruct(&x, Some([level1, level2]), &mut x_hat)
    })
}

/// Changes rows in place. For each edit, with D the decoder direction of its latent:
///   ADD: x += strength * D
///   SET: x += (strength - z) * D, where z is the latent's activation on the original row: the reconstruction then has the
///        latent at strength, and the error of the SAE on the row is kept.
/// All edits see the original rows. A latent that is SET may have no other edit.
///
/// edits: n_edits of them; with 0 nothing happens, and edits may be NULL. A number beyond the range of x's type becomes
/// infinite.
/// Errors: SHAPE and DTYPE for x as for strata_encode; NOT_FINITE for a number of x or a strength that is NaN or
/// infinite; INDEX for a level other than 1 and 2, or a latent that the level does not have; PARAMS for a transcoder,
/// whose latents do not add to the rows that it reads, for an unknown mode, for two edits of one latent of which one is SET, or if edits lie inside of x; BUSY. Nothing is written then.
/// One thread at a time per context.
/// Cost: SET encodes the rows, ADD alone does not; in addition one decoder direction is read per row and edit. No
/// allocation after the first call.
#[cfg(feature = "full")]
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
        check_apart(&x.rows.extent(), [slice_extent(edits)])?;
        ctx.steer(&mut x, edits)
    })
}

/// Encodes and decodes rows and adds them to the statistics of the context, in one pass; memory does not grow with the
/// number of rows. Rows are added 32 at a time; rows that are not finite are refused before any is added.
/// Errors: SHAPE, DTYPE and NOT_FINITE for x as for strata_encode; PARAMS for a transcoder, which does not reconstruct the
/// rows that it reads; BUSY. One thread at a time per context: to use several threads, give each its own context. Cost: that of strata_encode and strata_decode. No allocation after the
/// first call.
#[cfg(feature = "full")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_stats_update(ctx: *mut strata_ctx, x: *const strata_rows) -> strata_status {
    with_ctx(ctx, |ctx| {
        // SAFETY: see the crate.
        let x = unsafe { RowsIn::new(x, ctx.arch().d) }.map_err(Failure::of("x"))?;
        ctx.update_stats(&x)
    })
}

/// Writes the statistics of all rows since the context was made. out: struct_size must be set and is kept; of the other
/// fields, those within struct_size are written.
/// Errors: PARAMS if struct_size was not set; BUSY. One thread at a time per context. Cost: one pass over f1 + f2
/// counters.
#[cfg(feature = "full")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_stats_read(ctx: *const strata_ctx, out: *mut strata_stats) -> strata_status {
    with_ctx(ctx, |ctx| {
        // SAFETY: see the crate.
        unsafe { write(out, ctx.stats()) }.map_err(Failure::of("out"))
    })
}

/// Adds the statistics of the context from to those of into, so that several threads can each have a context. Those of
/// from stay as they are. If each context saw a multiple of 32 rows per call, the result has the bits that one context
/// would have that saw all rows, in any order.
/// Errors: PARAMS if both are the same context, or not of the same strata_model; BUSY if either is in use. One thread at a
/// time for both contexts. Cost: one pass over f1 + f2 counters. Allocates if into has no statistics yet.
#[cfg(feature = "full")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_stats_merge(into: *mut strata_ctx, from: *const strata_ctx) -> strata_status {
    with_ctx(into, |ctx| {
        if ptr::eq(into.cast_const(), from) {
            return Err(params("from: expected another context than into"));
        }
        // SAFETY: see the crate.
        unsafe { get(from) }.map_err(Failure::of("from"))?.look(|from| ctx.merge_stats(from))
    })
}

/// Flags rows that training left out: flags[i] becomes STRATA_ROW_OVER_LIMIT for a row whose norm is over the limit that
/// the model was saved with, else 0. The first token of a sequence often has such a row. The model has learned nothing of
/// it: strata_encode, strata_decode and strata_reconstruct compute it like any other row, but its codes mean little, and its
/// reconstruction may be worse than the mean row. No other function depends on the flags. Positions and tokens that
/// training left out are in cfg.json, under origin.left_out, as rows do not contain them. A model without a limit flags
/// no row.
///
/// flags_len is the number of elements of flags, at least x->n_rows.
/// Errors: SHAPE, DTYPE, NOT_FINITE for x as for strata_encode; CAPACITY for flags_len below x->n_rows; BUSY. One thread
/// at a time per context; the calling thread computes. Cost: one pass over the rows. No allocation.
#[cfg(feature = "full")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_row_flags(
    ctx: *mut strata_ctx,
    x: *const strata_rows,
    flags: *mut u8,
    flags_len: usize,
) -> strata_status {
    with_ctx(ctx, |ctx| {
        // SAFETY: see the crate.
        let x = unsafe { RowsIn::new(x, ctx.arch().d) }.map_err(Failure::of("x"))?;
        if flags_len < x.n {
            return Err(Error::Capacity { what: "flags", needed: x.n, got: flags_len }.into());
        }
        if x.n > 0 {
            writable(flags).map_err(Failure::of("flags"))?;
        }
        ctx.row_flags(&x, |i, flag| {
            // SAFETY: `i < x.n <= flags_len`.
            let place = unsafe { flags.add(i) };
            // SAFETY: the place is the caller's to write; see the crate.
            unsafe { place.write(flag) };
        })
    })
}
