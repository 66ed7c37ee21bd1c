//! A host and the command line together: a dump is written through the C ABI and trained on with `strata train`,
//! and the model is used through the C ABI.

use std::ptr::{null, null_mut};

use safetensors::SafeTensors;
use strata::*;
use strata_core::{Codes, Dtype};

use super::buffers::Buffers;
use super::fixture::{c_path, new_ctx};
use crate::cli::{self, D, args, strata};

fn rows_of(bytes: &[u8], dtype: strata_dtype) -> strata_rows {
    let stride = D * if dtype == STRATA_DTYPE_F32 { 4 } else { 2 };
    strata_rows {
        struct_size: size_of::<strata_rows>(),
        data: bytes.as_ptr().cast(),
        n_rows: bytes.len() / stride,
        d: D,
        row_stride_bytes: stride,
        dtype,
        reserved: 0,
    }
}

/// `strata encode`'s codes of a level.
fn codes_in(file: &SafeTensors<'_>, level: usize) -> Codes {
    let bytes = |name: &str| file.tensor(&format!("z{level}.{name}")).unwrap().data().to_vec();
    let four = |name: &str| bytes(name).chunks(4).map(|b| b.try_into().unwrap()).collect::<Vec<[u8; 4]>>();
    Codes {
        offsets: bytes("indptr").chunks(8).map(|b| u64::from_le_bytes(b.try_into().unwrap()) as usize).collect(),
        index: four("indices").into_iter().map(u32::from_le_bytes).collect(),
        value: four("values").into_iter().map(f32::from_le_bytes).collect(),
    }
}

#[test]
fn a_host_writes_what_the_command_line_trains_on_and_finds_its_codes_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let [dump, run, out] = ["dump", "run", "codes"].map(|name| dir.path().join(name));
    let [mut wide, mut stored] = [Vec::new(), Vec::new()];
    let x = cli::rows(600);
    Dtype::F32.narrow(&x, &mut wide);
    Dtype::F16.narrow(&x, &mut stored);
    unsafe {
        let (mut params, mut writer) = (std::mem::zeroed(), null_mut());
        strata_dump_params_init(&mut params);
        (params.d, params.dtype) = (D, STRATA_DTYPE_F16);
        assert_eq!(strata_dump_create(c_path(&dump).as_ptr(), &params, &mut writer, null_mut()), STRATA_STATUS_OK);
        assert_eq!(strata_dump_append(writer, &rows_of(&wide, STRATA_DTYPE_F32), null(), null_mut()), STRATA_STATUS_OK);
        assert_eq!(strata_dump_close(writer, null_mut()), STRATA_STATUS_OK);
    }
    cli::train(&dump, &run, &[]);
    strata(&args!["encode", run, "--dump", dump, "--out", out]).ok();
    let bytes = std::fs::read(&out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();

    let mut model = null_mut();
    let status = unsafe { strata_model_load(c_path(&run).as_ptr(), null(), &mut model, null_mut()) };
    assert_eq!(status, STRATA_STATUS_OK);
    for n_threads in [0, 2] {
        let ctx = new_ctx(model, n_threads);
        let (mut level1, mut level2) = (Buffers::new(600, 600 * 12), Buffers::new(600, 600 * 30));
        let x = rows_of(&stored, STRATA_DTYPE_F16);
        assert_eq!(unsafe { strata_encode(ctx, &x, &mut level1.c, &mut level2.c) }, STRATA_STATUS_OK);
        for (level, found) in [(1, level1.codes()), (2, level2.codes())] {
            let expected = codes_in(&file, level);
            assert!(expected.index.len() > 300, "level {level} fires {} times", expected.index.len());
            assert_eq!(found, expected, "level {level}, {n_threads} threads");
        }
        unsafe { strata_ctx_free(ctx) };
    }
    unsafe { strata_model_free(model) };
}
