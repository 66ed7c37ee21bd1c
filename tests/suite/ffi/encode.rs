//! Encoding and decoding, compared with the core.

use std::ptr::{null, null_mut};

use strata::*;

use super::allocator::allocations;
use super::buffers::{Buffers, DTYPES, Stored, f32_rows};
use super::fixture::{BLOCK, Ctx, D, F1, F2, models, no_stats, values};

#[test]
fn encode_and_decode_have_the_bits_of_the_core() {
    for (model, n_threads) in models().iter().flat_map(|m| [(m, 0), (m, 3)]) {
        let ctx = Ctx::new(model, n_threads);
        for n in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3] {
            for (dtype, gap) in DTYPES.into_iter().flat_map(|t| [(t, 0), (t, 7), (t, 64)]) {
                let x = Stored::new(&values(n * D), dtype, gap);
                let wide = x.wide();
                let (codes1, codes2) = ctx.expected(&wide);
                assert_eq!(ctx.encode(&x.rows()), (codes1.clone(), codes2.clone()), "{n} rows, {dtype}, gap {gap}");

                let mut hat = Stored::new(&vec![0.0; n * D], dtype, gap);
                let (level1, level2) = (Buffers::from(&codes1), Buffers::from(&codes2));
                let status = unsafe { strata_decode(ctx.ctx, &level1.c, &level2.c, &mut hat.rows_mut()) };
                assert_eq!(status, STRATA_STATUS_OK);
                let (mut hat1, mut hat2) = (vec![0.0; n * D], vec![0.0; n * D]);
                ctx.core.decode(&codes1, &codes2, &mut hat1, &mut hat2).unwrap();
                assert_eq!(hat.wide(), Stored::new(&hat2, dtype, gap).wide());
                assert!(hat.gaps_are_untouched());
            }
        }
    }
}

#[test]
fn a_model_of_one_level_needs_no_codes_of_a_second() {
    let ctx = Ctx::new(&models()[1], 0);
    let x = f32_rows(&values(3 * D));
    let mut level1 = Buffers::new(3, 3 * F1);
    assert_eq!(unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, null_mut()) }, STRATA_STATUS_OK);
    let mut hat = f32_rows(&[0.0; 3 * D]);
    assert_eq!(unsafe { strata_decode(ctx.ctx, &level1.c, null(), &mut hat.rows_mut()) }, STRATA_STATUS_OK);
    assert_ne!(hat.wide(), [0.0; 3 * D]);
}

#[test]
fn nothing_is_allocated_after_the_first_call() {
    for model in models() {
        let ctx = Ctx::new(&model, 1);
        let n = 2 * BLOCK + 3;
        let mut warm = 0;
        let (quiet, loud) = (values(n * D).iter().map(|v| v * 1e-3).collect::<Vec<_>>(), values(n * D));
        for (dtype, gap) in DTYPES.into_iter().flat_map(|t| [(t, 0), (t, 5)]) {
            let (first, mut then) = (Stored::new(&quiet, dtype, gap), Stored::new(&loud, dtype, gap));
            let (mut level1, mut level2) = (Buffers::new(n, n * F1), Buffers::new(n, n * F2));
            let edits = [STRATA_EDIT_ADD, STRATA_EDIT_SET].map(|mode| strata_edit {
                level: 1,
                latent: mode,
                strength: 0.5,
                mode,
            });
            let mut all = |x: &strata_rows, to: &mut strata_rows_mut| {
                let mut statuses = [1; 5];
                unsafe {
                    statuses[0] = strata_encode(ctx.ctx, x, &mut level1.c, &mut level2.c);
                    statuses[1] = strata_stats_update(ctx.ctx, x);
                    statuses[2] = strata_steer(ctx.ctx, to, edits.as_ptr(), edits.len());
                    statuses[3] = strata_decode(ctx.ctx, &level1.c, &level2.c, to);
                    let mut out = no_stats();
                    statuses[4] = strata_stats_read(ctx.ctx, &mut out);
                }
                assert_eq!(statuses, [STRATA_STATUS_OK; 5]);
            };
            let mut copy = Stored::new(&quiet, dtype, gap);
            warm += allocations(|| all(&first.rows(), &mut copy.rows_mut()));
            let again = Stored::new(&loud, dtype, gap);
            // The second call gives more codes than the first if the model allows more than k latents per row.
            assert_eq!(allocations(|| all(&again.rows(), &mut then.rows_mut())), 0, "{:?} {dtype}", model.arch);
        }
        assert!(warm > 0, "the counter counts nothing");
    }
}

#[test]
fn buffers_that_overlap_are_refused_before_anything_is_written() {
    let ctx = Ctx::new(&models()[0], 0);
    let n = 3;
    let (mut x, values) = (f32_rows(&values(n * D)), values(n * D));
    let (mut level1, mut level2) = (Buffers::new(n, n * F1), Buffers::new(n, n * F2));
    let apart = unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, &mut level2.c) };
    assert_eq!(apart, STRATA_STATUS_OK);

    // The rows of a reconstruction overlap each array of the codes, which decode reads while it writes.
    for array in [level1.c.offsets.cast::<u8>(), level1.c.index.cast(), level2.c.value.cast()] {
        let mut rows = x.rows_mut();
        rows.data = array.cast();
        let status = unsafe { strata_decode(ctx.ctx, &level1.c, &level2.c, &mut rows) };
        assert_eq!(status, STRATA_STATUS_PARAMS);
        let said = unsafe { std::ffi::CStr::from_ptr(strata_ctx_message(ctx.ctx)) };
        assert!(said.to_str().unwrap().contains("overlap"), "{said:?}");
    }
    // Codes that overlap their input rows, and each other.
    let mut over_rows = level1.c;
    over_rows.value = x.rows_mut().data.cast();
    over_rows.capacity = n * D;
    for codes in [&mut over_rows, &mut level2.c.clone()] {
        let status = unsafe { strata_encode(ctx.ctx, &x.rows(), codes, &mut level2.c) };
        assert_eq!(status, STRATA_STATUS_PARAMS);
    }
    assert_eq!(x.wide(), values, "nothing was written");
}
