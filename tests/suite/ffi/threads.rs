//! Rules for use by several threads, and the state after a panic.

use std::ptr::null_mut;
use std::sync::Barrier;

use strata::boundary::{Guarded, boundary};
use strata::failure::Failure;
use strata::*;
use strata_core::format::weights;

use super::buffers::{Buffers, f32_rows};
use super::fixture::{BLOCK, Ctx, D, F1, F2, arch, error, load_bytes, message, model, new_ctx, stats, values};

#[test]
fn threads_with_a_context_each_share_a_model() {
    let ctx = Ctx::new(&model(arch()), 0);
    let shared = Shared(ctx.model);
    let x = f32_rows(&values(150 * D));
    let expected = ctx.expected(&x.wide());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let shared = &shared;
                let own = new_ctx(shared.0, 0);
                for _ in 0..10 {
                    let (mut level1, mut level2) = (Buffers::new(150, 150 * F1), Buffers::new(150, 150 * F2));
                    let status = unsafe { strata_encode(own, &x.rows(), &mut level1.c, &mut level2.c) };
                    assert_eq!(status, STRATA_STATUS_OK);
                    assert_eq!((level1.codes(), level2.codes()), expected);
                }
                unsafe { strata_ctx_free(own) };
            });
        }
    });
}

#[test]
fn a_panic_is_caught_and_closes_the_handle() {
    let guarded = Guarded::new(1);
    assert_eq!(boundary(|| guarded.with(|_| Ok(()))), STRATA_STATUS_OK);
    let quiet = std::panic::AssertUnwindSafe(&guarded);
    let status = boundary(move || {
        let quiet = quiet;
        quiet.0.with(|_| std::panic::resume_unwind(Box::new("a test")))
    });
    assert_eq!(status, STRATA_STATUS_PANIC);
    let again: Result<(), Failure> = guarded.with(|_| Ok(()));
    assert_eq!(again.unwrap_err().status, STRATA_STATUS_PANIC);
}

#[test]
fn a_handle_in_use_is_busy_for_other_threads() {
    let guarded = Guarded::new(1);
    let inside = guarded.with(|_| {
        let other = std::thread::scope(|scope| scope.spawn(|| guarded.with(|_| Ok(()))).join().unwrap());
        Ok(other.unwrap_err().status)
    });
    assert_eq!(inside.unwrap(), STRATA_STATUS_BUSY);
    assert!(guarded.with(|_| Ok(())).is_ok());
}

/// A pointer that is used by several threads, as the header permits: a model by any number of them; a context by one,
/// while the others get BUSY.
struct Shared<T>(*mut T);

// SAFETY: see above.
unsafe impl<T> Sync for Shared<T> {}

#[test]
fn a_context_used_by_two_threads_gives_codes_or_is_busy() {
    let ctx = Ctx::new(&model(arch()), 0);
    let x = f32_rows(&values(70 * D));
    let (shared, expected, start) = (Shared(ctx.ctx), ctx.expected(&x.wide()), Barrier::new(2));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let shared = &shared;
                start.wait();
                let mut done = 0;
                while done < 20 {
                    let (mut level1, mut level2) = (Buffers::new(70, 70 * F1), Buffers::new(70, 70 * F2));
                    match unsafe { strata_encode(shared.0, &x.rows(), &mut level1.c, &mut level2.c) } {
                        STRATA_STATUS_OK => {
                            assert_eq!((level1.codes(), level2.codes()), expected);
                            done += 1;
                        }
                        status => assert_eq!(status, STRATA_STATUS_BUSY),
                    }
                }
            });
        }
    });
}

#[test]
fn eight_threads_use_a_model_that_is_freed_under_them() {
    let ctx = Ctx::new(&model(arch()), 0);
    let n = BLOCK + 37;
    let x = f32_rows(&values(n * D));
    let (codes1, codes2) = ctx.expected(&x.wide());
    let mut hats = [vec![0.0; n * D], vec![0.0; n * D]];
    let [hat1, hat2] = &mut hats;
    ctx.core.decode(&codes1, &codes2, hat1, hat2).unwrap();
    let bytes = (weights::write_cfg(&arch(), &Default::default()), weights::write_weights(ctx.core.model()).unwrap());
    let model = Shared(load_bytes(&bytes.0, &bytes.1).unwrap());
    let ready = Barrier::new(9);
    std::thread::scope(|scope| {
        for t in 0..8 {
            let (model, ready, x, codes1, codes2, hat2) = (&model, &ready, &x, &codes1, &codes2, &hats[1]);
            scope.spawn(move || {
                let own = new_ctx(model.0, t % 3);
                let mut row = [0.0; D];
                let status = unsafe { strata_model_decoder_row(model.0, 2, 5, row.as_mut_ptr(), D) };
                assert_eq!(status, STRATA_STATUS_OK);
                ready.wait();
                for _ in 0..10 {
                    let (mut level1, mut level2) = (Buffers::new(n, n * F1), Buffers::new(n, n * F2));
                    let mut hat = f32_rows(&vec![0.0; n * D]);
                    let edits = [STRATA_EDIT_SET, STRATA_EDIT_ADD].map(|mode| strata_edit {
                        level: 1 + mode,
                        latent: 5,
                        strength: -0.0,
                        mode,
                    });
                    let statuses = unsafe {
                        [
                            strata_encode(own, &x.rows(), &mut level1.c, &mut level2.c),
                            strata_decode(own, &level1.c, &level2.c, &mut hat.rows_mut()),
                            strata_stats_update(own, &x.rows()),
                        ]
                    };
                    assert_eq!(statuses, [STRATA_STATUS_OK; 3]);
                    assert_eq!((&level1.codes(), &level2.codes(), &hat.wide()), (codes1, codes2, hat2));
                    let status = unsafe { strata_steer(own, &mut hat.rows_mut(), edits.as_ptr(), 2) };
                    assert_eq!(status, STRATA_STATUS_OK);
                }
                assert_eq!(stats(own).rows, 10 * n as u64);
                unsafe { strata_ctx_free(own) };
            });
        }
        ready.wait();
        unsafe { strata_model_free(model.0) };
    });
}

#[test]
fn no_context_has_more_threads_than_it_may() {
    let ctx = Ctx::new(&model(arch()), 0);
    for n_threads in [1025, 1 << 20, u32::MAX] {
        let params = strata_ctx_params { struct_size: size_of::<strata_ctx_params>(), n_threads, device: 0 };
        let (mut out, mut err) = (null_mut(), error());
        assert_eq!(unsafe { strata_ctx_new(ctx.model, &params, &mut out, &mut err) }, STRATA_STATUS_PARAMS);
        assert!(out.is_null() && message(&err).contains("n_threads"), "{}", message(&err));
    }
}
