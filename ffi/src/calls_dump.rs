//! The exported functions of dumps.

use crate::boundary::{Guarded, boundary_with};
use crate::dump::{self, Dump, strata_dump};
use crate::failure::Failure;
use crate::params::{items, strata_dump_params, strata_error, strata_rows};
use crate::pointers::{free, get, make};
use crate::rows::RowsIn;
use crate::status::strata_status;
use std::ffi::c_char;

/// Starts a dump of activations, on which the command line program can train. dir is the path that the dump will have,
/// as for strata_model_load: it must not exist, and its parent must. Until strata_dump_close everything lies in a
/// hidden directory beside it.
///
/// params: must be given, with d set; its strings are copied. out: receives the dump, which is ended with
/// strata_dump_close or strata_dump_abandon. err: may be NULL.
/// Errors: SHAPE if d is 0 or a row is above 1 GiB; DTYPE for an unknown dtype; PARAMS for a model or hook that is not
/// UTF-8; IO if dir exists or cannot be made; MEMORY. Thread-safe. Cost: a directory, and buffers of 3 MiB and three
/// rows.
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

/// Stores the text of each token in a dump, for reports to show: texts[i] for token i, NULL for a token without text.
/// May be called once, before the first rows. n_texts: at least 1. A token is often a part of a character: bytes that
/// are not UTF-8 are stored as \xE2, and reports put the character together. The texts are copied. err: may be NULL.
///
/// Errors: SHAPE if n_texts is 0; PARAMS if there are rows or texts already; IO if the file cannot be written, after
/// which strata_dump_close fails; BUSY. One thread at a time per dump. Cost: a file of the texts.
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

/// Declares tokens special: beginnings, ends and padding, whose rows training and evaluation leave out where
/// data.skip_special is set. May be called at any time before strata_dump_close; ids add up. err: may be NULL.
///
/// Errors: NULL; BUSY. One thread at a time per dump. Cost: memory for the ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_mark_special(
    dump: *mut strata_dump,
    ids: *const u32,
    n_ids: usize,
    err: *mut strata_error,
) -> strata_status {
    let body = || {
        // SAFETY: see the crate.
        let dump = unsafe { get(dump) }.map_err(Failure::of("dump"))?;
        // SAFETY: see the crate.
        let ids = unsafe { items(ids, n_ids) }.map_err(Failure::of("ids"))?;
        dump.0.with(|dump| {
            dump.mark_special(ids);
            Ok(())
        })
    };
    // SAFETY: see the crate.
    unsafe { boundary_with(err, body) }
}

/// Appends rows, which are stored in the type of the dump whatever their own type is. tokens: the token id of each row,
/// n_rows of them, or NULL; either all rows of a dump have tokens or none has. err: may be NULL.
///
/// Errors that leave the dump as it was: SHAPE and DTYPE for x as for strata_encode, with the d of the dump; NOT_FINITE
/// for a number of x that is NaN or infinite; PARAMS for tokens if earlier rows had none, or no tokens if they had;
/// INDEX for a token beyond the vocabulary; BUSY. Errors after which nothing more can be appended and strata_dump_close
/// fails: IO if a file cannot be written; NOT_FINITE for a number beyond the range of the dump's type. One thread at a
/// time per dump.
/// Cost: the bytes of the rows, written 1 MiB at a time; a full file is synced to the disk.
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

/// Ends a dump: either it appears under its name, complete, or nothing appears and err says why. Frees dump in both
/// cases. Does nothing if dump is NULL. err: may be NULL.
/// Errors: SHAPE if no rows were appended; IO if a file cannot be written, dir exists by now, or an append has failed.
/// There is one case in which IO is returned and the dump is there, complete: its name could not be synced to the disk,
/// so that it may be missing after a loss of power; the sentence in err says so. No other thread may be using the dump.
/// Cost: the last file is synced to the disk.
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

/// Ends a dump that is not wanted: what was written is deleted, and nothing appears. Frees dump, in place of
/// strata_dump_close. Does nothing if dump is NULL. Cannot fail; what cannot be deleted stays in the hidden directory.
/// No other thread may be using the dump. Cost: the deletion.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_dump_abandon(dump: *mut strata_dump) {
    // SAFETY: see the crate.
    unsafe { free(dump) }
}
