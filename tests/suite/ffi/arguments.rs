//! Invalid arguments: a status, and nothing is written.

use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};

use strata::*;

use super::buffers::{Buffers, f32_rows};
use super::fixture::{BLOCK, Ctx, D, F1, F2, arch, error, model, stats, values};

#[test]
fn a_capacity_that_is_too_small_says_what_is_needed() {
    let ctx = Ctx::new(&model(arch()), 0);
    let n = BLOCK + 9;
    let x = f32_rows(&values(n * D));
    let (codes1, codes2) = ctx.expected(&x.wide());
    let need = [codes1.index.len(), codes2.index.len()];
    for (less1, less2) in [(1, 0), (0, 1), (1, 1), (need[0], need[1])] {
        let (mut level1, mut level2) = (Buffers::new(n, need[0] - less1), Buffers::new(n, need[1] - less2));
        let status = unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, &mut level2.c) };
        assert_eq!(status, STRATA_STATUS_CAPACITY);
        assert_eq!([level1.c.n, level2.c.n], need);
    }
    let (mut level1, mut level2) = (Buffers::new(n, need[0]), Buffers::new(n, need[1]));
    assert_eq!(unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, &mut level2.c) }, STRATA_STATUS_OK);
    assert_eq!((level1.codes(), level2.codes()), (codes1, codes2));
    // The answer is the same with too few offsets, or none.
    (level1.c.offsets_len, level1.c.n, level2.c.n) = (n, 0, 0);
    let status = unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, &mut level2.c) };
    assert_eq!((status, [level1.c.n, level2.c.n]), (STRATA_STATUS_CAPACITY, need));
    let nothing = strata_codes {
        struct_size: size_of::<strata_codes>(),
        offsets: null_mut(),
        offsets_len: 0,
        index: null_mut(),
        value: null_mut(),
        capacity: 0,
        n: 0,
    };
    let (mut ask1, mut ask2) = (nothing, nothing);
    let status = unsafe { strata_encode(ctx.ctx, &x.rows(), &mut ask1, &mut ask2) };
    assert_eq!((status, [ask1.n, ask2.n]), (STRATA_STATUS_CAPACITY, need));
}

#[test]
fn null_is_an_error_everywhere_and_nothing_to_free() {
    let ctx = Ctx::new(&model(arch()), 0);
    let (x, mut level1, mut level2) = (f32_rows(&values(D)), Buffers::new(1, F1), Buffers::new(1, F2));
    let (mut hat, none) = (f32_rows(&[0.0; D]), Buffers::of(vec![0; 2], vec![], vec![]));
    let edit = strata_edit { level: 1, latent: 0, strength: 1.0, mode: STRATA_EDIT_ADD };
    let (mut model, mut ctx2, mut dump) = (null_mut(), null_mut(), null_mut());
    let (mut watch, mut probe, mut state) = (null_mut(), null_mut(), null_mut());
    let dir = CString::new("/nonexistent/dump").unwrap();
    let mut holes = x.rows();
    holes.data = null();
    let statuses = unsafe {
        [
            strata_model_load(null(), null(), &mut model, null_mut()),
            strata_model_load(dir.as_ptr(), null(), null_mut(), null_mut()),
            strata_model_load_buffers(null(), 3, null(), 3, null(), &mut model, null_mut()),
            strata_model_get_info(null(), &mut ctx.info()),
            strata_model_get_info(ctx.model, null_mut()),
            strata_model_parent(null(), 0, &mut 0),
            strata_model_parent(ctx.model, 0, null_mut()),
            strata_model_decoder_row(null(), 1, 0, level1.value.as_mut_ptr(), D),
            strata_model_decoder_row(ctx.model, 1, 0, null_mut(), D),
            strata_ctx_new(null(), null(), &mut ctx2, null_mut()),
            strata_ctx_new(ctx.model, null(), null_mut(), null_mut()),
            strata_encode(null_mut(), &x.rows(), &mut level1.c, &mut level2.c),
            strata_encode(ctx.ctx, null(), &mut level1.c, &mut level2.c),
            strata_encode(ctx.ctx, &holes, &mut level1.c, &mut level2.c),
            strata_encode(ctx.ctx, &x.rows(), null_mut(), &mut level2.c),
            strata_encode(ctx.ctx, &x.rows(), &mut level1.c, null_mut()),
            strata_decode(ctx.ctx, null(), &level2.c, &mut hat.rows_mut()),
            strata_decode(ctx.ctx, &none.c, null(), &mut hat.rows_mut()),
            strata_decode(ctx.ctx, &none.c, &none.c, null_mut()),
            strata_steer(ctx.ctx, null_mut(), &edit, 1),
            strata_steer(ctx.ctx, &mut hat.rows_mut(), null(), 1),
            strata_stats_update(ctx.ctx, null()),
            strata_stats_update(null_mut(), &x.rows()),
            strata_stats_read(ctx.ctx, null_mut()),
            strata_dump_create(null(), null(), &mut dump, null_mut()),
            strata_dump_create(dir.as_ptr(), null(), null_mut(), null_mut()),
            strata_dump_append(null_mut(), &x.rows(), null(), null_mut()),
            strata_dump_set_vocab(null_mut(), &null(), 1, null_mut()),
            strata_dump_mark_special(null_mut(), &0, 1, null_mut()),
            strata_model_get_metadata(null(), null_mut()),
            strata_model_get_metadata(ctx.model, null_mut()),
            strata_model_parents(null(), &mut 0, 1),
            strata_model_parents(ctx.model, null_mut(), F2),
            strata_stats_merge(null_mut(), ctx.ctx),
            strata_stats_merge(ctx.ctx, null()),
            strata_watch_new(null(), null(), 0, null(), 0, &mut watch, null_mut()),
            strata_watch_new(ctx.model, null(), 1, null(), 0, &mut watch, null_mut()),
            strata_watch_new(ctx.model, null(), 0, null(), 1, &mut watch, null_mut()),
            strata_watch_new(ctx.model, null(), 0, null(), 0, null_mut(), null_mut()),
            strata_watch_get_info(null(), null_mut()),
            strata_encode_watched(ctx.ctx, null(), &x.rows(), &mut level1.c, &mut level2.c),
            strata_probe_load(null(), ctx.model, &mut probe, null_mut()),
            strata_probe_load(dir.as_ptr(), null(), &mut probe, null_mut()),
            strata_probe_load(dir.as_ptr(), ctx.model, null_mut(), null_mut()),
            strata_probe_get_head(null(), 0, null_mut()),
            strata_probe_state_new(null(), null(), &mut state, null_mut()),
            strata_probe_state_reset(null_mut(), 0),
            strata_probe_state_read(null(), 0, 0, null_mut()),
            strata_probe_state_alarms(null(), &mut 0, 1),
            strata_probe_score(null_mut(), null(), null_mut(), &x.rows(), null(), null_mut(), 0),
            strata_probe_score(ctx.ctx, null(), null_mut(), &x.rows(), null(), null_mut(), 0),
        ]
    };
    assert_eq!(statuses, [STRATA_STATUS_NULL; 51]);
    assert!(model.is_null() && ctx2.is_null() && dump.is_null());
    assert!(watch.is_null() && probe.is_null() && state.is_null());
    unsafe {
        strata_model_free(null_mut());
        strata_ctx_free(null_mut());
        strata_model_params_init(null_mut());
        strata_ctx_params_init(null_mut());
        strata_dump_params_init(null_mut());
        strata_dump_abandon(null_mut());
        strata_watch_free(null_mut());
        strata_probe_free(null_mut());
        strata_probe_state_free(null_mut());
        strata_probe_state_params_init(null_mut());
        assert_eq!(strata_probe_heads(null()), 0);
        assert_eq!(strata_dump_close(null_mut(), null_mut()), STRATA_STATUS_OK);
    }
}

#[test]
fn what_is_not_aligned_is_refused() {
    let ctx = Ctx::new(&model(arch()), 0);
    let (x, mut hat) = (f32_rows(&values(D)), f32_rows(&[0.0; D]));
    let (level1, mut level2) = (Buffers::new(1, F1), Buffers::new(1, F2));
    let edits = [strata_edit { level: 1, latent: 0, strength: 1.0, mode: STRATA_EDIT_ADD }; 2];
    let off = |at: *mut c_void| at.wrapping_byte_add(1);
    let mut struct_off = x.rows();
    struct_off.reserved = 0;
    let encode_to = |change: &dyn Fn(&mut strata_codes)| {
        let (mut to, mut other) = (level1.c, Buffers::new(1, F2));
        change(&mut to);
        unsafe { strata_encode(ctx.ctx, &x.rows(), &mut to, &mut other.c) }
    };
    let statuses = unsafe {
        [
            strata_encode(ctx.ctx, off((&raw mut struct_off).cast()).cast(), &mut { level1.c }, &mut level2.c),
            encode_to(&|to| to.offsets = off(to.offsets.cast()).cast()),
            encode_to(&|to| to.index = off(to.index.cast()).cast()),
            encode_to(&|to| to.value = off(to.value.cast()).cast()),
            strata_steer(ctx.ctx, &mut hat.rows_mut(), off(edits.as_ptr().cast_mut().cast()).cast(), 1),
            strata_model_parent(ctx.model, 0, off([0_u32; 2].as_mut_ptr().cast()).cast()),
            strata_model_decoder_row(ctx.model, 1, 0, off(vec![0.0_f32; D + 1].as_mut_ptr().cast()).cast(), D),
            strata_ctx_new(ctx.model, null(), off([0_usize; 2].as_mut_ptr().cast()).cast(), null_mut()),
        ]
    };
    assert_eq!(statuses, [STRATA_STATUS_PARAMS; 8]);
    // A message for a misaligned error struct is not written.
    let mut errors = [error(); 2];
    let status = unsafe { strata_ctx_new(null(), null(), &mut null_mut(), off(errors.as_mut_ptr().cast()).cast()) };
    assert_eq!((status, errors[0].status, errors[1].status), (STRATA_STATUS_NULL, 0, 0));
}

#[test]
fn no_rows_give_no_codes() {
    for n_threads in [0, 2] {
        let ctx = Ctx::new(&model(arch()), n_threads);
        let none = f32_rows(&[]);
        let (mut level1, mut level2) = (Buffers::new(0, 0), Buffers::new(0, 0));
        (level1.c.index, level1.c.value) = (null_mut(), null_mut());
        let mut hat = f32_rows(&[]);
        let statuses = unsafe {
            [
                strata_encode(ctx.ctx, &none.rows(), &mut level1.c, &mut level2.c),
                strata_decode(ctx.ctx, &level1.c, &level2.c, &mut hat.rows_mut()),
                strata_steer(ctx.ctx, &mut hat.rows_mut(), null(), 0),
                strata_stats_update(ctx.ctx, &none.rows()),
            ]
        };
        assert_eq!(statuses, [STRATA_STATUS_OK; 4]);
        assert_eq!((level1.offsets[0], level1.c.n, level2.offsets[0], level2.c.n), (0, 0, 0, 0));
        let after = stats(ctx.ctx);
        assert!(after.rows == 0 && after.fvu1.is_nan() && after.l0_1.is_nan());
    }
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let ctx = Ctx::new(&model(arch()), 0);
    let (x, mut level1, mut level2) = (f32_rows(&values(4 * D)), Buffers::new(4, 4 * F1), Buffers::new(4, 4 * F2));
    let mut encode = |change: &dyn Fn(&mut strata_rows)| {
        let mut rows = x.rows();
        change(&mut rows);
        unsafe { strata_encode(ctx.ctx, &rows, &mut level1.c, &mut level2.c) }
    };
    assert_eq!(encode(&|_| ()), STRATA_STATUS_OK);
    assert_eq!(encode(&|x| x.d = D - 1), STRATA_STATUS_SHAPE);
    assert_eq!(encode(&|x| x.d = 0), STRATA_STATUS_SHAPE);
    assert_eq!(encode(&|x| x.row_stride_bytes = 4 * D - 1), STRATA_STATUS_SHAPE);
    assert_eq!(encode(&|x| x.n_rows = usize::MAX), STRATA_STATUS_SHAPE);
    assert_eq!(encode(&|x| x.row_stride_bytes = usize::MAX / 2), STRATA_STATUS_SHAPE);
    assert_eq!(encode(&|x| x.dtype = 3), STRATA_STATUS_DTYPE);
    assert_eq!(encode(&|x| x.reserved = 1), STRATA_STATUS_PARAMS);
    assert_eq!(encode(&|x| (x.n_rows, x.data) = (0, null())), STRATA_STATUS_OK);
}

#[test]
fn rows_that_are_not_finite_are_refused_before_anything_is_written() {
    let ctx = Ctx::new(&model(arch()), 0);
    let n = 2 * BLOCK + 5;
    for (bad, row) in [(f32::NAN, 0), (f32::INFINITY, BLOCK), (f32::NEG_INFINITY, n - 1)] {
        let mut x = values(n * D);
        x[row * D + D - 1] = bad;
        let mut x = f32_rows(&x);
        let (mut level1, mut level2) = (Buffers::new(n, n * F1), Buffers::new(n, n * F2));
        let status = unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, &mut level2.c) };
        assert_eq!(status, STRATA_STATUS_NOT_FINITE);
        let untouched =
            |b: &Buffers| b.c.n == 0 && b.offsets.iter().all(|o| *o == usize::MAX) && b.index[0] == u32::MAX;
        assert!(untouched(&level1) && untouched(&level2));
        assert_eq!(unsafe { strata_stats_update(ctx.ctx, &x.rows()) }, STRATA_STATUS_NOT_FINITE);
        assert_eq!(stats(ctx.ctx).rows, 0);
        let before = x.bytes.clone();
        let edit = strata_edit { level: 1, latent: 0, strength: 1.0, mode: STRATA_EDIT_ADD };
        assert_eq!(unsafe { strata_steer(ctx.ctx, &mut x.rows_mut(), &edit, 1) }, STRATA_STATUS_NOT_FINITE);
        assert_eq!(x.bytes, before);
    }
}

#[test]
fn hostile_codes_are_refused() {
    let ctx = Ctx::new(&model(arch()), 0);
    let mut hat = f32_rows(&[0.0; 2 * D]);
    let none = Buffers::of(vec![0; 3], vec![], vec![]);
    let mut decode = |offsets: &[usize], index: &[u32], value: &[f32]| {
        let level1 = Buffers::of(offsets.into(), index.into(), value.into());
        unsafe { strata_decode(ctx.ctx, &level1.c, &none.c, &mut hat.rows_mut()) }
    };
    assert_eq!(decode(&[0, 1, 2], &[9, 0], &[1.0, 2.0]), STRATA_STATUS_OK);
    assert_eq!(decode(&[0, 1, 3], &[9, 0], &[1.0, 2.0]), STRATA_STATUS_SHAPE);
    assert_eq!(decode(&[0, 2, 1], &[9, 0], &[1.0, 2.0]), STRATA_STATUS_SHAPE);
    assert_eq!(decode(&[1, 1, 2], &[9, 0], &[1.0, 2.0]), STRATA_STATUS_SHAPE);
    assert_eq!(decode(&[0, usize::MAX, 2], &[9, 0], &[1.0, 2.0]), STRATA_STATUS_SHAPE);
    assert_eq!(decode(&[0, 2], &[9, 0], &[1.0, 2.0]), STRATA_STATUS_SHAPE);
    assert_eq!(decode(&[0, 1, 2], &[9, F1 as u32], &[1.0, 2.0]), STRATA_STATUS_INDEX);
    assert_eq!(decode(&[0, 1, 2], &[9, 0], &[1.0, f32::NAN]), STRATA_STATUS_NOT_FINITE);
}
