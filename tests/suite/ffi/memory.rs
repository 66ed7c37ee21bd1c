//! A system without memory: a status, never the end of the process.

use std::ptr::null_mut;

use strata::*;
use strata_core::format::weights;
use strata_core::model::Arch;

use super::allocator::refusing;
use super::fixture::{arch, error, load_bytes, message, model};

/// Smaller pieces are always there: the tests need some themselves.
const LARGE: usize = 40_000;

#[test]
fn a_model_that_memory_does_not_hold_is_refused() {
    // Four matrices of LARGE bytes at least, and the vectors far below.
    let model = model(Arch { d: 64, f1: 160, f2: 320, ..arch() });
    let cfg = weights::write_cfg(&model.arch, &Default::default());
    let bytes = weights::write_weights(&model).unwrap();
    // The question whether all of it fits, then each matrix.
    for before in 0..5 {
        let outcome = refusing(LARGE, before, || load_bytes(&cfg, &bytes));
        let (status, message) = outcome.unwrap_err();
        assert_eq!(status, STRATA_STATUS_MEMORY, "after {before} pieces: {message}");
        assert!(message.contains("memory"), "{message}");
    }
    let loaded = load_bytes(&cfg, &bytes).unwrap();

    let (mut ctx, mut err) = (null_mut(), error());
    let status = refusing(LARGE, 0, || unsafe { strata_ctx_new(loaded, std::ptr::null(), &mut ctx, &mut err) });
    assert_eq!((status, ctx.is_null()), (STRATA_STATUS_MEMORY, true), "{}", message(&err));
    unsafe { strata_model_free(loaded) };
}
