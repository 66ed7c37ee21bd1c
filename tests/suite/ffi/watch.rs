//! Watch-lists through the C ABI: the codes of `strata_encode`, less those that are not listed.

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use strata::*;
use strata_core::Codes;

use super::allocator::allocations;
use super::buffers::{Buffers, DTYPES, Stored, f32_rows};
use super::fixture::{BLOCK, Ctx, D, F1, arch, error, message, model, models, values};

const LIST1: [u32; 3] = [31, 4, 0];
const LIST2: [u32; 5] = [89, 3, 17, 9, 60];

/// A watch-list of a model; a model of one level has no list of children.
pub struct Watch(pub *mut strata_watch);

impl Watch {
    pub fn new(ctx: &Ctx) -> Self {
        let list2 = if ctx.info().f2 > 0 { &LIST2[..] } else { &[] };
        let (mut watch, mut err) = (null_mut(), error());
        let (one, two) = (LIST1.as_ptr(), list2.as_ptr());
        let status = unsafe { strata_watch_new(ctx.model, one, LIST1.len(), two, list2.len(), &mut watch, &mut err) };
        assert_eq!(status, STRATA_STATUS_OK, "{}", message(&err));
        Self(watch)
    }

    pub fn info(&self) -> strata_watch_info {
        let mut info: strata_watch_info = unsafe { std::mem::zeroed() };
        info.struct_size = size_of::<strata_watch_info>();
        assert_eq!(unsafe { strata_watch_get_info(self.0, &mut info) }, STRATA_STATUS_OK, "strata_watch_get_info");
        info
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        unsafe { strata_watch_free(self.0) };
    }
}

fn listed(codes: &Codes, list: &[u32]) -> Codes {
    let mut out = Codes::new();
    for i in 0..codes.n() {
        let row = codes.row(i);
        let kept = row.index.iter().zip(row.value).filter(|(j, _)| list.contains(j));
        kept.for_each(|(j, z)| {
            out.index.push(*j);
            out.value.push(*z);
        });
        out.end_row();
    }
    out
}

#[test]
fn watched_codes_are_those_of_encode_that_are_listed() {
    let mut fires = 0;
    for (model, n_threads) in models().iter().flat_map(|m| [(m, 0), (m, 3)]) {
        let ctx = Ctx::new(model, n_threads);
        let watch = Watch::new(&ctx);
        let info = watch.info();
        assert!(info.max_active1 <= LIST1.len() && info.max_active2 <= LIST2.len(), "{info:?}");
        assert!(info.computed1 <= ctx.info().f1 && info.computed2 <= ctx.info().f2, "{info:?}");
        for n in [0, 1, 5 * BLOCK + 3] {
            for (dtype, gap) in DTYPES.into_iter().flat_map(|t| [(t, 0), (t, 7)]) {
                let x = Stored::new(&values(n * D), dtype, gap);
                let (codes1, codes2) = ctx.expected(&x.wide());
                let mut level1 = Buffers::new(n, n * info.max_active1);
                let mut level2 = Buffers::new(n, n * info.max_active2);
                let status =
                    unsafe { strata_encode_watched(ctx.ctx, watch.0, &x.rows(), &mut level1.c, &mut level2.c) };
                assert_eq!(status, STRATA_STATUS_OK);
                assert_eq!(level1.codes(), listed(&codes1, &LIST1), "{:?}", model.arch);
                assert_eq!(level2.codes(), listed(&codes2, &LIST2), "{:?}", model.arch);
                fires += level1.c.n + level2.c.n;
            }
        }
    }
    assert!(fires > 1000, "{fires} codes");
}

#[test]
fn a_watch_list_says_what_it_computes_and_allocates_nothing() {
    let whys = [
        [STRATA_WHY_GATE, STRATA_WHY_TOPK],
        [STRATA_WHY_TOPK, STRATA_WHY_LISTED],
        [STRATA_WHY_LISTED, STRATA_WHY_LISTED],
        [STRATA_WHY_GATE, STRATA_WHY_GATE],
        [STRATA_WHY_SOURCE, STRATA_WHY_GATE],
        [STRATA_WHY_SOURCE, STRATA_WHY_TOPK],
        [STRATA_WHY_SEED, STRATA_WHY_SEED],
    ];
    for (model, why) in models().iter().zip(whys) {
        let ctx = Ctx::new(model, 1);
        let watch = Watch::new(&ctx);
        let info = watch.info();
        assert_eq!([info.why1, info.why2], why, "{:?}", model.arch);
        if why == [STRATA_WHY_LISTED; 2] {
            assert_eq!((info.computed1, info.computed2), (LIST1.len(), LIST2.len()));
        }
        let n = 2 * BLOCK + 3;
        let (quiet, loud) = (values(n * D).iter().map(|v| v * 1e-3).collect::<Vec<_>>(), values(n * D));
        let (mut level1, mut level2) = (Buffers::new(n, n * 3), Buffers::new(n, n * 5));
        let mut encode = |x: &Stored| {
            let status = unsafe { strata_encode_watched(ctx.ctx, watch.0, &x.rows(), &mut level1.c, &mut level2.c) };
            assert_eq!(status, STRATA_STATUS_OK);
        };
        let (quiet, loud) = (f32_rows(&quiet), f32_rows(&loud));
        encode(&quiet);
        assert_eq!(allocations(|| encode(&loud)), 0, "{:?}", model.arch);
    }
}

#[test]
fn wrong_watch_lists_are_refused() {
    let ctx = Ctx::new(&model(arch()), 0);
    let new = |one: &[u32], two: &[u32]| {
        let (mut out, mut err) = (null_mut(), error());
        let status = unsafe {
            strata_watch_new(ctx.model, one.as_ptr(), one.len(), two.as_ptr(), two.len(), &mut out, &mut err)
        };
        assert!(out.is_null(), "an output of a call that failed");
        (status, message(&err).to_owned())
    };
    let (status, said) = new(&[1, F1 as u32], &[]);
    assert_eq!((status, &said[..]), (STRATA_STATUS_INDEX, "watch-list of level 1: index 40 is outside of 0..40"));
    let (status, said) = new(&[1], &[6, 7, 6]);
    assert!(status == STRATA_STATUS_PARAMS && said.contains("found 6 twice"), "{said}");
    let (mut out, lists) = (null_mut(), [1_u32, 2]);
    let off = lists.as_ptr().wrapping_byte_add(1);
    unsafe {
        assert_eq!(
            strata_watch_new(ctx.model, off, 1, null(), 0, &mut out, null_mut()),
            STRATA_STATUS_PARAMS,
            "a list that is not aligned"
        );
        let empty = strata_watch_new(ctx.model, null(), 0, null(), 0, &mut out, null_mut());
        assert_eq!(empty, STRATA_STATUS_OK, "empty lists");
    }
    let empty = Watch(out);
    let x = f32_rows(&values(2 * D));
    let (mut level1, mut level2) = (Buffers::new(2, 0), Buffers::new(2, 0));
    let status = unsafe { strata_encode_watched(ctx.ctx, empty.0, &x.rows(), &mut level1.c, &mut level2.c) };
    assert_eq!((status, level1.offsets, level2.offsets), (STRATA_STATUS_OK, vec![0; 3], vec![0; 3]));

    // A watch-list keeps its model alive, and belongs to it alone.
    let other = Ctx::new(&model(arch()), 0);
    let (mut level1, mut level2) = (Buffers::new(2, 6), Buffers::new(2, 10));
    let watch = Watch::new(&other);
    drop(other);
    let mut status = STRATA_STATUS_OK;
    let n = allocations(|| {
        status = unsafe { strata_encode_watched(ctx.ctx, watch.0, &x.rows(), &mut level1.c, &mut level2.c) }
    });
    let said = unsafe { CStr::from_ptr(strata_ctx_message(ctx.ctx)) }.to_str().unwrap();
    assert_eq!((status, n), (STRATA_STATUS_PARAMS, 0));
    assert_eq!(said, "watch: expected a watch-list of the model of the context");
    assert!(watch.info().computed1 > 0);
}
