//! Sizes, offsets, numbers, and structs of other versions.

use std::ffi::{CStr, CString};
use std::mem::offset_of;
use std::ptr::{null, null_mut};

use strata::*;

use super::buffers::{Buffers, f32_rows};
use super::fixture::{Ctx, D, F1, F2, arch, error, message, model, values};

#[test]
fn structs_of_other_versions_follow_the_rule_of_their_size() {
    #[repr(C)]
    struct Longer {
        rows: strata_rows,
        tail: [u64; 2],
    }
    let ctx = Ctx::new(&model(arch()), 0);
    let (x, mut level1, mut level2) = (f32_rows(&values(D)), Buffers::new(1, F1), Buffers::new(1, F2));
    let mut longer = Longer { rows: x.rows(), tail: [0; 2] };
    let mut encode = |size: usize, tail: u64| {
        (longer.rows.struct_size, longer.tail[1]) = (size, tail);
        unsafe { strata_encode(ctx.ctx, (&raw const longer).cast(), &mut level1.c, &mut level2.c) }
    };
    let full = size_of::<strata_rows>();
    assert_eq!(encode(full, 1), STRATA_STATUS_OK);
    assert_eq!(encode(full + 16, 0), STRATA_STATUS_OK);
    assert_eq!(encode(full + 16, 1), STRATA_STATUS_PARAMS);
    // Without `dtype`, which is F32 then; without `d`, which is 0 then.
    assert_eq!(encode(offset_of!(strata_rows, dtype), 0), STRATA_STATUS_OK);
    assert_eq!(encode(offset_of!(strata_rows, d), 0), STRATA_STATUS_SHAPE);
    for size in [0, 1, 4, 7, full - 1, full + 1, 1 << 20, usize::MAX] {
        assert_eq!(encode(size, 0), STRATA_STATUS_PARAMS, "struct_size {size}");
    }
    level1.c.struct_size = offset_of!(strata_codes, n);
    let status = unsafe { strata_encode(ctx.ctx, &x.rows(), &mut level1.c, &mut level2.c) };
    assert_eq!(status, STRATA_STATUS_PARAMS);

    // Outputs are written only up to the size of the caller's struct.
    let mut info = strata_model_info { struct_size: 24, f1: 77, f2: 77, max_active1: 77, ..ctx.info() };
    info.d = 77;
    assert_eq!(unsafe { strata_model_get_info(ctx.model, &mut info) }, STRATA_STATUS_OK);
    assert_eq!((info.struct_size, info.d, info.f1, info.f2, info.max_active1), (24, D, F1, 77, 77));
    // The struct of programs compiled before `d_out` existed: nothing after its end is written.
    let mut info = strata_model_info { struct_size: offset_of!(strata_model_info, d_out), d_out: 77, ..ctx.info() };
    assert_eq!(unsafe { strata_model_get_info(ctx.model, &mut info) }, STRATA_STATUS_OK);
    assert_eq!((info.f2, info.d_out), (F2, 77));

    // A message is cut to the room for it.
    let mut err = error();
    err.struct_size = 24;
    let path = CString::new("/nonexistent").unwrap();
    let status = unsafe { strata_model_load(path.as_ptr(), null(), &mut null_mut(), &mut err) };
    assert_eq!((status, message(&err)), (STRATA_STATUS_IO, "/nonexi"));
}

#[test]
fn numbers_are_pinned() {
    let names = [
        (0, "OK"),
        (10, "NULL"),
        (12, "SHAPE"),
        (14, "INDEX"),
        (16, "PARAMS"),
        (18, "CAPACITY"),
        (20, "FORMAT"),
        (22, "DTYPE"),
        (24, "VERSION"),
        (26, "NOT_FINITE"),
        (30, "IO"),
        (32, "MEMORY"),
        (34, "BUSY"),
        (40, "DEVICE"),
        (99, "PANIC"),
        (-1, "UNKNOWN"),
        (11, "UNKNOWN"),
    ];
    for (status, name) in names {
        let got = unsafe { CStr::from_ptr(strata_status_name(status)) }.to_str().unwrap();
        assert_eq!(got, format!("STRATA_STATUS_{name}"));
    }
    assert_eq!(strata_abi_version(), STRATA_ABI_VERSION);
    let version = unsafe { CStr::from_ptr(strata_version()) }.to_str().unwrap();
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
}

/// Expands to the lines of `layout.c` for structs with these fields, and does not compile if a field is missing.
macro_rules! layout {
    ($($type:ident { $($field:ident),* })*) => {{
        let mut lines = Vec::new();
        $(
            let _ = |$type { $($field: _),* }: $type| ();
            $(lines.push(format!(
                concat!("AT(", stringify!($type), ", ", stringify!($field), ", {});"),
                offset_of!($type, $field)
            ));)*
            lines.push(format!(concat!("SIZE(", stringify!($type), ", {});"), size_of::<$type>()));
        )*
        lines
    }};
}

#[test]
#[cfg(target_pointer_width = "64")]
fn layouts_are_those_that_c_asserts() {
    let lines = layout! {
        strata_rows { struct_size, data, n_rows, d, row_stride_bytes, dtype, reserved }
        strata_rows_mut { struct_size, data, n_rows, d, row_stride_bytes, dtype, reserved }
        strata_codes { struct_size, offsets, offsets_len, index, value, capacity, n }
        strata_edit { level, latent, strength, mode }
        strata_error { struct_size, status, reserved, message }
        strata_model_params { struct_size, weights, reserved }
        strata_ctx_params { struct_size, n_threads, device }
        strata_dump_params { struct_size, d, dtype, context, max_shard_bytes, model, hook, reserved }
        strata_model_info { struct_size, d, f1, f2, max_active1, max_active2, reserved, d_out, needs_rows, reserved2 }
        strata_stats { struct_size, rows, fvu1, fvu2, l0_1, l0_2, dead1, dead2, reserved }
        strata_model_metadata { struct_size, model, hook, layer, reserved }
        strata_watch_info { struct_size, max_active1, max_active2, computed1, computed2, why1, why2 }
        strata_head_info { struct_size, name, n, reads, reserved }
        strata_probe_state_params { struct_size, n_sequences, on, off }
        strata_probe_reading { struct_size, rows, last, max, mean, max_row, alarms, is_on, reserved }
    };
    let asserted = include_str!("../../c/layout.c").lines().filter(|l| l.starts_with("AT(") || l.starts_with("SIZE("));
    assert_eq!(lines, asserted.collect::<Vec<_>>());
}
