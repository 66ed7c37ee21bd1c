//! The sentence of a failed call, which a context keeps.

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use strata::*;

use super::allocator::allocations;
use super::buffers::{Buffers, Stored, f32_rows};
use super::fixture::{Ctx, D, F1, F2, arch, model, no_stats, values};

fn said(ctx: *const strata_ctx) -> &'static str {
    unsafe { CStr::from_ptr(strata_ctx_message(ctx)) }.to_str().unwrap()
}

/// Calls that fail, and their messages.
struct Calls {
    ctx: Ctx,
    x: Stored,
    level1: Buffers,
    level2: Buffers,
}

impl Calls {
    fn encode(&mut self, change: impl FnOnce(&mut strata_rows)) -> strata_status {
        let mut x = self.x.rows();
        change(&mut x);
        unsafe { strata_encode(self.ctx.ctx, &x, &mut self.level1.c, &mut self.level2.c) }
    }

    fn decode(&mut self, offsets: &mut [usize; 3], index: &mut [u32; 2], value: &mut [f32; 2]) -> strata_status {
        let c = strata_codes {
            offsets: offsets.as_mut_ptr(),
            offsets_len: 3,
            index: index.as_mut_ptr(),
            value: value.as_mut_ptr(),
            capacity: 2,
            ..self.level1.c
        };
        let mut no_offsets = [0; 3];
        let none = strata_codes { offsets: no_offsets.as_mut_ptr(), capacity: 0, ..c };
        unsafe { strata_decode(self.ctx.ctx, &c, &none, &mut self.x.rows_mut()) }
    }

    fn steer(&mut self, edits: &[strata_edit]) -> strata_status {
        unsafe { strata_steer(self.ctx.ctx, &mut self.x.rows_mut(), edits.as_ptr(), edits.len()) }
    }
}

#[test]
fn a_failed_call_says_what_was_expected_and_found_and_allocates_nothing() {
    let (level1, level2) = (Buffers::new(2, 2 * F1), Buffers::new(2, 2 * F2));
    let mut c = Calls { ctx: Ctx::new(&model(arch()), 1), x: f32_rows(&values(2 * D)), level1, level2 };
    let edit = strata_edit { level: 1, latent: 0, strength: 1.0, mode: STRATA_EDIT_SET };
    let bad = [0, f32::NAN.to_bits(), 0].map(f32::from_bits);
    type Call<'a> = &'a dyn Fn(&mut Calls) -> strata_status;
    let cases: &[(Call<'_>, &str)] = &[
        (&|c| c.encode(|x| x.d = 7), "x: d: expected 19, found 7"),
        (
            &|c| c.encode(|x| x.row_stride_bytes = 75),
            "x: row_stride_bytes (the bytes of a row at least): expected 76, found 75",
        ),
        (
            &|c| c.encode(|x| x.n_rows = usize::MAX),
            "x: n_rows: expected rows that memory can hold, found 18446744073709551615",
        ),
        (&|c| c.encode(|x| x.dtype = 77), "x: dtype: expected a STRATA_DTYPE_..., found 77"),
        (&|c| c.encode(|x| x.data = null()), "x: data is NULL, and n_rows is not 0"),
        (&|c| c.encode(|x| x.reserved = 1), "x: a reserved field is not 0"),
        (&|c| c.encode(|x| x.struct_size = 1), "x: struct_size: expected sizeof the struct (was it set?), found 1"),
        (&|c| unsafe { strata_encode(c.ctx.ctx, null(), &mut c.level1.c, &mut c.level2.c) }, "x: the pointer is NULL"),
        (
            &|c| unsafe { strata_encode(c.ctx.ctx, &c.x.rows(), &mut c.level1.c, null_mut()) },
            "level2: the pointer is NULL",
        ),
        (
            &|c| {
                c.level2.c.capacity = 5;
                let status = c.encode(|_| ());
                c.level2.c.capacity = 2 * F2;
                status
            },
            "level2: capacity: 12 entries are needed, the buffer has 5",
        ),
        (
            &|c| {
                c.level1.c.offsets_len = 2;
                let status = c.encode(|_| ());
                c.level1.c.offsets_len = 3;
                status
            },
            "level1: offsets_len: 3 entries are needed, the buffer has 2",
        ),
        (
            &|c| c.decode(&mut [0, 1, 3], &mut [0; 2], &mut [1.0; 2]),
            "level1: offsets[n_rows]: expected at most capacity, found 3",
        ),
        (
            &|c| c.decode(&mut [1, 1, 2], &mut [0; 2], &mut [1.0; 2]),
            "level1: first offset of the codes: expected 0, found 1",
        ),
        (
            &|c| c.decode(&mut [0, 1, 2], &mut [0, 40], &mut [1.0; 2]),
            "level1: latents of the codes: index 40 is outside of 0..40",
        ),
        (
            &|c| c.decode(&mut [0, 1, 2], &mut [0; 2], &mut [1.0, f32::INFINITY]),
            "level1: value: entry 1 is NaN or infinite",
        ),
        (&|c| c.steer(&[strata_edit { level: 3, ..edit }]), "edits: level: expected 1 or 2, found 3"),
        (&|c| c.steer(&[strata_edit { latent: 40, ..edit }]), "edits: latent: index 40 is outside of 0..40"),
        (
            &|c| c.steer(&[edit, strata_edit { strength: f32::NAN, latent: 1, ..edit }]),
            "edits: strength of edit 1 is NaN or infinite",
        ),
        (
            &|c| c.steer(&[strata_edit { mode: 2, ..edit }]),
            "edits: mode: expected STRATA_EDIT_ADD or STRATA_EDIT_SET, found 2",
        ),
        (&|c| c.steer(&[edit; 2]), "edits: a latent that is SET has another edit"),
        (&|c| unsafe { strata_steer(c.ctx.ctx, null_mut(), &edit, 1) }, "x: the pointer is NULL"),
        (
            &|c| {
                let mut row = [0.0; 2 * D];
                row[D..][..3].copy_from_slice(&bad);
                c.encode(|x| x.data = row.as_ptr().cast())
            },
            "x: a number of row 1 is NaN or infinite",
        ),
        (&|c| unsafe { strata_stats_read(c.ctx.ctx, null_mut()) }, "out: the pointer is NULL"),
    ];
    // The memory of the first call is kept, and the message is empty after a success.
    assert_eq!((c.encode(|_| ()), c.steer(&[edit]), said(c.ctx.ctx)), (STRATA_STATUS_OK, STRATA_STATUS_OK, ""));
    for (call, sentence) in cases {
        let mut status = STRATA_STATUS_OK;
        let n = allocations(|| status = call(&mut c));
        assert_ne!(status, STRATA_STATUS_OK, "{sentence}");
        assert_eq!((said(c.ctx.ctx), n), (*sentence, 0));
    }
    // The message lasts until the next call.
    assert_eq!(unsafe { strata_stats_read(c.ctx.ctx, &mut no_stats()) }, STRATA_STATUS_OK);
    assert_eq!(said(c.ctx.ctx), "");
    assert_eq!(said(null()), "ctx: the pointer is NULL");
}
