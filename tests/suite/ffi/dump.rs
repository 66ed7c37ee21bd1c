//! Dumps that a host writes.

use std::ffi::{CString, c_char};
use std::path::Path;
use std::ptr::{null, null_mut};

use strata::*;
use strata_core::Dtype;

use super::buffers::{Stored, f32_rows};
use super::fixture::{D, c_path, error, message, values};

#[test]
fn a_dump_has_the_texts_of_its_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    let texts =
        [c"a".as_ptr(), c"\"\n\\\u{1}".as_ptr(), null(), c"".as_ptr(), c"\xe2\x8f".as_ptr(), c"\u{23ce}".as_ptr()];
    let dump = create(&path, |_| ()).unwrap();
    let set = |texts: &[*const c_char], err| unsafe { strata_dump_set_vocab(dump, texts.as_ptr(), texts.len(), err) };
    let x = f32_rows(&values(3 * D));
    assert_eq!(set(&[], null_mut()), STRATA_STATUS_SHAPE);
    assert_eq!(unsafe { strata_dump_set_vocab(dump, null(), 1, null_mut()) }, STRATA_STATUS_NULL);
    assert_eq!(set(&texts, null_mut()), STRATA_STATUS_OK);
    let mut err = error();
    assert_eq!(set(&texts, &mut err), STRATA_STATUS_PARAMS);
    assert_eq!(message(&err), "a vocabulary is given once, before the first rows");
    let mark = |ids: *const u32, n| unsafe { strata_dump_mark_special(dump, ids, n, null_mut()) };
    assert_eq!(mark(null(), 1), STRATA_STATUS_NULL);
    assert_eq!(mark(null(), 0), STRATA_STATUS_OK);
    assert_eq!(mark([5, 2].as_ptr(), 2), STRATA_STATUS_OK);
    assert_eq!(append(dump, &x, Some(&[0, 6, 1])), STRATA_STATUS_INDEX);
    assert_eq!(append(dump, &x, Some(&[0, 5, 1])), STRATA_STATUS_OK);
    assert_eq!(mark([2, 0].as_ptr(), 2), STRATA_STATUS_OK);
    assert_eq!(close(dump), STRATA_STATUS_OK);
    let read = crate::dump::open(&path).unwrap();
    assert_eq!(read.vocab().unwrap(), ["a", "\"\n\\\u{1}", "", "", "\\xE2\\x8F", "\u{23ce}"]);
    assert_eq!(read.tokens(), Some(&[0, 5, 1][..]));
    assert_eq!(read.special_tokens(), Some(&[0, 2, 5][..]));
    assert_eq!(entries(dir.path()), 1);
}

#[test]
fn a_dump_without_a_width_says_so() {
    let (mut out, mut err) = (null_mut(), error());
    let status = unsafe { strata_dump_create(c"x".as_ptr(), null(), &mut out, &mut err) };
    assert_eq!(status, STRATA_STATUS_SHAPE);
    assert_eq!(message(&err), "params: d is 0: set it to the numbers in a row");
}

/// Starts a dump; `change` may set the parameters after the size and the width are set.
fn create(path: &Path, change: impl FnOnce(&mut strata_dump_params)) -> Result<*mut strata_dump, strata_status> {
    let mut params = std::mem::MaybeUninit::uninit();
    unsafe { strata_dump_params_init(params.as_mut_ptr()) };
    let mut params = unsafe { params.assume_init() };
    params.d = D;
    change(&mut params);
    let mut out = null_mut();
    match unsafe { strata_dump_create(c_path(path).as_ptr(), &params, &mut out, null_mut()) } {
        STRATA_STATUS_OK => Ok(out),
        status => Err(status),
    }
}

fn append(dump: *mut strata_dump, x: &Stored, tokens: Option<&[u32]>) -> strata_status {
    let tokens = tokens.map_or(null(), <[u32]>::as_ptr);
    unsafe { strata_dump_append(dump, &x.rows(), tokens, null_mut()) }
}

fn close(dump: *mut strata_dump) -> strata_status {
    unsafe { strata_dump_close(dump, null_mut()) }
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_dump_can_be_read_by_the_command_line() {
    for (dtype, with_tokens) in [(Dtype::F32, true), (Dtype::F16, false), (Dtype::Bf16, true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump");
        let (model, hook) = (CString::new("gpt \"x\"").unwrap(), CString::new("l_out-3").unwrap());
        let dump = create(&path, |p| {
            p.dtype = dtype as u32;
            p.context = 4;
            p.max_shard_bytes = (30 * D * dtype.size_bytes()) as u64;
            (p.model, p.hook) = (model.as_ptr(), hook.as_ptr());
        })
        .unwrap();
        let (all, tokens) = (values(100 * D), (0..100).rev().collect::<Vec<u32>>());
        for part in [0..1, 1..71, 71..71, 71..100] {
            let x = Stored::new(&all[part.start * D..part.end * D], Dtype::F32, 3);
            let tokens = with_tokens.then_some(&tokens[part]);
            assert_eq!(append(dump, &x, tokens), STRATA_STATUS_OK);
        }
        assert!(!path.exists());
        assert_eq!(close(dump), STRATA_STATUS_OK);
        assert_eq!(entries(dir.path()), 1, "only the dump");

        let read = crate::dump::open(&path).unwrap();
        assert_eq!((read.n_rows(), read.d(), read.dtype(), read.n_shards()), (100, D, dtype, 4));
        assert_eq!((read.context(), read.model(), read.hook()), (Some(4), Some("gpt \"x\""), Some("l_out-3")));
        assert_eq!(read.tokens(), with_tokens.then_some(&tokens[..]));
        let mut rows = vec![0.0; 100 * D];
        read.read_range(0, 100, &mut rows).unwrap();
        let stored = Stored::new(&all, dtype, 0).wide();
        assert_eq!(rows, stored);
        let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let mean_norm = stored.chunks(D).map(norm).sum::<f64>() / 100.0;
        assert!((read.mean_norm().unwrap() - mean_norm).abs() < 1e-12 * mean_norm);
        let mean0 = stored.iter().step_by(D).sum::<f32>() / 100.0;
        assert!((read.mean().unwrap()[0] - mean0).abs() < 1e-5);
    }
}

#[test]
fn a_dump_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    let x = f32_rows(&values(3 * D));

    // Refused rows leave the dump as it was; a number that the type cannot represent ends it.
    let dump = create(&path, |p| p.dtype = STRATA_DTYPE_F16).unwrap();
    assert_eq!(append(dump, &x, None), STRATA_STATUS_OK);
    assert_eq!(append(dump, &f32_rows(&[f32::NAN; D]), None), STRATA_STATUS_NOT_FINITE);
    assert_eq!(append(dump, &x, Some(&[1, 2, 3])), STRATA_STATUS_PARAMS);
    assert_eq!(append(dump, &x, None), STRATA_STATUS_OK);
    assert_eq!(append(dump, &f32_rows(&[1e6; D]), None), STRATA_STATUS_NOT_FINITE);
    assert_eq!(append(dump, &x, None), STRATA_STATUS_IO);
    assert_eq!(close(dump), STRATA_STATUS_IO);
    assert_eq!(entries(dir.path()), 0);

    let dump = create(&path, |_| ()).unwrap();
    assert_eq!((append(dump, &x, Some(&[1, 2, 3])), entries(dir.path())), (STRATA_STATUS_OK, 1));
    unsafe { strata_dump_abandon(dump) };
    assert_eq!(entries(dir.path()), 0);

    assert_eq!(close(create(&path, |_| ()).unwrap()), STRATA_STATUS_SHAPE);
    assert_eq!(create(&path, |p| p.d = 0).err(), Some(STRATA_STATUS_SHAPE));
    assert_eq!(create(&path, |p| p.dtype = 9).err(), Some(STRATA_STATUS_DTYPE));
    assert_eq!(create(&path, |p| p.reserved = 9).err(), Some(STRATA_STATUS_PARAMS));
    assert_eq!(create(&path.join("no/parent"), |_| ()).err(), Some(STRATA_STATUS_IO));
    assert_eq!(entries(dir.path()), 0);

    // Of two dumps at the same path, the first to be closed gets the name, and it is never replaced.
    let (a, b) = (create(&path, |_| ()).unwrap(), create(&path, |_| ()).unwrap());
    assert_eq!((append(a, &x, None), append(b, &x, None)), (0, 0));
    assert_eq!((close(b), close(a)), (STRATA_STATUS_OK, STRATA_STATUS_IO));
    assert_eq!(create(&path, |_| ()).err(), Some(STRATA_STATUS_IO));
    assert_eq!(entries(dir.path()), 1);
}
