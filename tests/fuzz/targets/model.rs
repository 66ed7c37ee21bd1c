//! Any bytes as the two files of a model: `strata_model_load_buffers` gives a model or an error, and a model that it
//! gives can be queried, used for a context, for encoding and steering, and freed.
//!
//! An input is the length of `cfg.json` in two bytes, `cfg.json`, and `sae_weights.safetensors`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::ptr::{null, null_mut};
use strata::*;

/// Models with more latents than this are loaded and no more: a context has room for 64 rows of every latent.
const MOST_LATENTS: usize = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return };
    let (cfg, weights) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    let mut model = null_mut();
    let mut err = strata_error { struct_size: size_of::<strata_error>(), status: 0, reserved: 0, message: [0; 256] };
    // SAFETY: all pointers come from references of this function.
    let status = unsafe {
        let (c, w) = (cfg.as_ptr().cast(), weights.as_ptr().cast());
        strata_model_load_buffers(c, cfg.len(), w, weights.len(), null(), &mut model, &mut err)
    };
    if status != STRATA_STATUS_OK {
        assert!(model.is_null() && err.message[0] != 0, "status {status} without a sentence");
        assert!(matches!(status, 20..40), "status {status}");
        return;
    }
    // SAFETY: the model was made above, and is freed once.
    unsafe {
        use_model(model);
        strata_model_free(model);
    }
});

/// A watch-list of the first and the last latents gives at most their codes.
///
/// # Safety
/// All are valid, and `ctx` is of `model`.
unsafe fn watch(model: *const strata_model, ctx: *mut strata_ctx, x: *const strata_rows, info: strata_model_info) {
    let ends = |f: usize| if f > 1 { vec![f as u32 - 1, 0] } else { vec![0; f] };
    let (one, two) = (ends(info.f1), ends(info.f2));
    let (mut watch, mut offsets, mut index, mut value) = (null_mut(), [[0; 2]; 2], [[0; 2]; 2], [[0.0; 2]; 2]);
    let mut codes = [0, 1].map(|l| strata_codes {
        struct_size: size_of::<strata_codes>(),
        offsets: offsets[l].as_mut_ptr(),
        offsets_len: 2,
        index: index[l].as_mut_ptr(),
        value: value[l].as_mut_ptr(),
        capacity: 2,
        n: 0,
    });
    let [codes1, codes2] = &mut codes;
    // SAFETY: every buffer is as long as its struct says, and the lists as long as is said.
    unsafe {
        let (n1, n2) = (one.len(), two.len());
        let made = strata_watch_new(model, one.as_ptr(), n1, two.as_ptr(), n2, &mut watch, null_mut());
        assert_eq!(made, STRATA_STATUS_OK);
        assert_eq!(strata_encode_watched(ctx, watch, x, codes1, codes2), STRATA_STATUS_OK);
        strata_watch_free(watch);
    }
}

/// # Safety
/// `model` is a valid model.
unsafe fn use_model(model: *const strata_model) {
    let mut info = strata_model_info {
        struct_size: size_of::<strata_model_info>(),
        d: 0,
        f1: 0,
        f2: 0,
        max_active1: 0,
        max_active2: 0,
        reserved: 0,
        d_out: 0,
        needs_rows: 0,
        reserved2: 0,
    };
    assert_eq!(unsafe { strata_model_get_info(model, &mut info) }, STRATA_STATUS_OK);
    if info.f1.max(info.f2) > MOST_LATENTS {
        return;
    }
    let mut ctx = null_mut();
    assert_eq!(unsafe { strata_ctx_new(model, null(), &mut ctx, null_mut()) }, STRATA_STATUS_OK);
    let mut row: Vec<f32> = (0..info.d).map(|i| (i as f32).sin()).collect();
    let mut x = strata_rows_mut {
        struct_size: size_of::<strata_rows_mut>(),
        data: row.as_mut_ptr().cast(),
        n_rows: 1,
        d: info.d,
        row_stride_bytes: 4 * info.d,
        dtype: STRATA_DTYPE_F32,
        reserved: 0,
    };
    let mut offsets = [[0; 2]; 2];
    let mut index = [info.max_active1, info.max_active2].map(|n| vec![0; n]);
    let mut value = [info.max_active1, info.max_active2].map(|n| vec![0.0; n]);
    let mut codes = [0, 1].map(|l| strata_codes {
        struct_size: size_of::<strata_codes>(),
        offsets: offsets[l].as_mut_ptr(),
        offsets_len: 2,
        index: index[l].as_mut_ptr(),
        value: value[l].as_mut_ptr(),
        capacity: index[l].len(),
        n: 0,
    });
    let edit = strata_edit { level: 1, latent: 0, strength: 0.5, mode: STRATA_EDIT_SET };
    let [codes1, codes2] = &mut codes;
    // SAFETY: every buffer is as long as its struct says. Weights may be so large that codes are not finite.
    unsafe {
        let read = (&raw const x).cast();
        assert_eq!(strata_encode(ctx, read, codes1, codes2), STRATA_STATUS_OK);
        let finite = value.iter().flatten().all(|v| v.is_finite());
        watch(model, ctx, read, info);
        let decoded = strata_decode(ctx, codes1, codes2, &mut x);
        assert_eq!(decoded, if finite { STRATA_STATUS_OK } else { STRATA_STATUS_NOT_FINITE });
        let steered = strata_steer(ctx, &mut x, &edit, 1);
        assert!(steered == STRATA_STATUS_OK || steered == STRATA_STATUS_NOT_FINITE, "status {steered}");
        let mut parent = 0;
        for latent in 0..info.f2 as u32 {
            assert_eq!(strata_model_parent(model, latent, &mut parent), STRATA_STATUS_OK);
            assert!(parent == STRATA_ROOT || (parent as usize) < info.f1);
        }
        strata_ctx_free(ctx);
    }
}
