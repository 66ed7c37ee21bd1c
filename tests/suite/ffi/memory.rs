//! Allocations that fail: a status, never the end of the process.

use std::ptr::{null, null_mut};

use strata::*;
use strata_core::config::Activation;
use strata_core::format::weights;
use strata_core::model::Arch;
use strata_tests::vary::Vary;

use super::allocator::{bytes, refusing};
use super::fixture::{BLOCK, Ctx, arch, c_path, error, load_bytes, message, model, models};

/// Smaller allocations are always granted, since the tests themselves need some.
const LARGE: usize = 40_000;

#[test]
fn a_model_that_memory_does_not_hold_is_refused() {
    // Four matrices of at least LARGE bytes, and vectors that are much smaller.
    let model = model(Arch { d: 64, ..arch() }.sized([160, 320]));
    let cfg = weights::write_cfg(&model.arch, &Default::default());
    let bytes = weights::write_weights(&model).unwrap();
    // The first large allocation tests whether all of it fits; the others are the matrices.
    for before in 0..5 {
        let outcome = refusing(LARGE, before, || load_bytes(&cfg, &bytes));
        let (status, message) = outcome.unwrap_err();
        assert_eq!(status, STRATA_STATUS_MEMORY, "after {before} pieces: {message}");
        assert!(message.contains("memory"), "{message}");
    }
    let loaded = load_bytes(&cfg, &bytes).unwrap();

    // From files the weights are mapped and need no memory, but what is computed from them does.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cfg.json"), &cfg).unwrap();
    std::fs::write(dir.path().join("sae_weights.safetensors"), &bytes).unwrap();
    let (path, mut out, mut err) = (c_path(dir.path()), null_mut(), error());
    let status = refusing(LARGE, 0, || unsafe { strata_model_load(path.as_ptr(), null(), &mut out, &mut err) });
    assert_eq!((status, out.is_null()), (STRATA_STATUS_MEMORY, true), "{}", message(&err));

    let (mut ctx, mut err) = (null_mut(), error());
    let status = refusing(LARGE, 0, || unsafe { strata_ctx_new(loaded, null(), &mut ctx, &mut err) });
    assert_eq!((status, ctx.is_null()), (STRATA_STATUS_MEMORY, true), "{}", message(&err));
    unsafe { strata_model_free(loaded) };
}

/// What `strata_ctx_new` says that a context costs.
#[test]
fn a_context_asks_for_no_more_than_the_header_says() {
    // The last models are screened where the machine can.
    let screened = Arch { d: 100, ..arch() }.sized([600, 900]);
    let topk = screened.activated([Activation::Topk; 2]).keeping([20.0, 40.0]);
    let more = [Arch { d: 64, ..arch() }.sized([160, 320]), screened, topk].map(model);
    for model in models().into_iter().chain(more) {
        let ctx = Ctx::new(&model, 0);
        let (info, mut out) = (ctx.info(), null_mut());
        let active = info.max_active1 + info.max_active2;
        let most = 4 * BLOCK * (2048 + 2 * info.d + 4 * (info.f1 + info.f2) + 16 * active);
        let (status, asked) = bytes(|| unsafe { strata_ctx_new(ctx.model, null(), &mut out, null_mut()) });
        assert_eq!(status, STRATA_STATUS_OK);
        // The test whether the memory is available allocates it once more and frees it.
        assert!(asked <= 2 * most, "{:?}: {asked} bytes, {most} announced", model.arch);
        unsafe { strata_ctx_free(out) };
    }
}
