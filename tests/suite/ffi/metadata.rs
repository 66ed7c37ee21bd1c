//! Where a model comes from, all parents in one call, and statistics of several contexts.

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use strata::*;
use strata_core::format::weights::{Origin, write_cfg, write_weights};

use super::buffers::f32_rows;
use super::fixture::{Ctx, D, F2, arch, load_bytes, model, models, new_ctx, stats, values};

fn metadata(origin: &Origin) -> (String, String, u32) {
    let handle = load_bytes(&write_cfg(&arch(), origin), &write_weights(&model(arch())).unwrap()).unwrap();
    let mut out = strata_model_metadata {
        struct_size: size_of::<strata_model_metadata>(),
        model: null(),
        hook: null(),
        layer: 77,
        reserved: 0,
    };
    let status = unsafe { strata_model_get_metadata(handle, &mut out) };
    assert_eq!(status, STRATA_STATUS_OK, "strata_model_get_metadata");
    let text = |at| unsafe { CStr::from_ptr(at) }.to_str().unwrap().to_owned();
    let found = (text(out.model), text(out.hook), out.layer);
    unsafe { strata_model_free(handle) };
    found
}

#[test]
fn a_model_says_where_it_comes_from() {
    let of =
        |model: &str, hook: &str| Origin { model: Some(model.into()), hook: Some(hook.into()), ..Origin::default() };
    let hook = "blocks.6.hook_resid_post";
    assert_eq!(metadata(&of("gpt2", hook)), ("gpt2".into(), hook.into(), 6));
    assert_eq!(metadata(&of("m", "resid_post_layer_12")), ("m".into(), "resid_post_layer_12".into(), 12));
    assert_eq!(metadata(&of("", "embed")), (String::new(), "embed".into(), STRATA_NO_LAYER));
    assert_eq!(metadata(&Origin::default()), (String::new(), String::new(), STRATA_NO_LAYER));
}

#[test]
fn all_parents_come_in_one_call() {
    for model in models() {
        let ctx = Ctx::new(&model, 0);
        let f2 = ctx.info().f2;
        let mut parents = vec![7; f2 + 1];
        assert_eq!(unsafe { strata_model_parents(ctx.model, parents.as_mut_ptr(), f2) }, STRATA_STATUS_OK);
        for (j, found) in parents[..f2].iter().enumerate() {
            let mut parent = 7;
            assert_eq!(unsafe { strata_model_parent(ctx.model, j as u32, &mut parent) }, STRATA_STATUS_OK);
            assert_eq!(*found, parent);
        }
        assert_eq!(parents[f2], 7, "nothing is written beyond f2");
    }
    let ctx = Ctx::new(&model(arch()), 0);
    let mut parents = vec![7; F2];
    assert_eq!(unsafe { strata_model_parents(ctx.model, parents.as_mut_ptr(), F2 - 1) }, STRATA_STATUS_CAPACITY);
    assert_eq!(parents, vec![7; F2], "nothing is written by a call that fails");
}

#[test]
fn merged_statistics_are_those_of_one_context() {
    for model in models() {
        let whole = Ctx::new(&model, 0);
        let parts = [0, 0, 2].map(|n_threads| new_ctx(whole.model, n_threads));
        let x = values(5 * 64 * D);
        for (at, block) in x.chunks(64 * D).enumerate() {
            let rows = f32_rows(block);
            for ctx in [whole.ctx, parts[at % 2]] {
                assert_eq!(unsafe { strata_stats_update(ctx, &rows.rows()) }, STRATA_STATUS_OK);
            }
        }
        // The third has seen no rows: it receives those of the others, and then gives nothing new.
        let merge = |into, from| unsafe { strata_stats_merge(into, from) };
        let before = stats(parts[0]);
        assert_eq!([merge(parts[2], parts[0]), merge(parts[2], parts[1])], [STRATA_STATUS_OK; 2]);
        let (got, want) = (stats(parts[2]), stats(whole.ctx));
        assert_eq!((got.rows, got.dead1, got.dead2), (want.rows, want.dead1, want.dead2));
        let numbers = |s: strata_stats| [s.fvu1, s.fvu2, s.l0_1, s.l0_2].map(f64::to_bits);
        assert_eq!(numbers(got), numbers(want), "{:?}", model.arch);
        assert_eq!(stats(parts[0]).rows, before.rows, "what was merged stays");
        let empty = new_ctx(whole.model, 0);
        assert_eq!(merge(parts[2], empty), STRATA_STATUS_OK);
        assert_eq!(stats(parts[2]).rows, want.rows);
        let other = Ctx::new(&model, 0);
        assert_eq!(merge(parts[2], other.ctx), STRATA_STATUS_PARAMS, "a context of another handle of the model");
        assert_eq!(merge(parts[2], parts[2]), STRATA_STATUS_PARAMS, "a context and itself");
        let said = unsafe { CStr::from_ptr(strata_ctx_message(parts[2])) }.to_str().unwrap();
        assert_eq!(said, "from: expected another context than into");
        assert_eq!([merge(null_mut(), parts[0]), merge(parts[0], null())], [STRATA_STATUS_NULL; 2]);
        for ctx in parts.into_iter().chain([empty]) {
            unsafe { strata_ctx_free(ctx) };
        }
    }
}
