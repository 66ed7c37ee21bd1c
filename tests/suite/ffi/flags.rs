//! Flags of rows over the norm limit that a model was saved with.

use std::ptr::null_mut;

use strata::*;
use strata_core::format::weights::{Origin, write_cfg, write_weights};
use strata_core::{Dtype, RowRule};

use super::buffers::{Stored, f32_rows};
use super::fixture::{D, arch, load_bytes, model, values};

/// The flags of `rows` for a model with this limit.
fn flags(norm_limit: Option<f32>, rows: &strata_rows, flags_len: usize) -> Result<Vec<u8>, strata_status> {
    let origin = Origin { left_out: RowRule { norm_limit, ..RowRule::default() }, ..Origin::default() };
    let handle = load_bytes(&write_cfg(&arch(), &origin), &write_weights(&model(arch())).unwrap()).unwrap();
    let mut ctx = null_mut();
    let mut flags = vec![7; flags_len];
    unsafe {
        assert_eq!(strata_ctx_new(handle, std::ptr::null(), &mut ctx, null_mut()), STRATA_STATUS_OK, "a context");
        let status = strata_row_flags(ctx, rows, flags.as_mut_ptr(), flags.len());
        strata_ctx_free(ctx);
        strata_model_free(handle);
        if status == STRATA_STATUS_OK { Ok(flags) } else { Err(status) }
    }
}

#[test]
fn rows_over_the_limit_are_flagged_and_no_other_bytes_are_written() {
    let mut x = values(6 * D);
    let norm = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>().sqrt();
    let limit = 2.0 * x.chunks(D).map(norm).fold(0.0, f32::max);
    x[2 * D..3 * D].iter_mut().for_each(|v| *v *= 1000.0);
    // A norm beyond the range of float.
    x[4 * D..5 * D].fill(1e38);
    let over = STRATA_ROW_OVER_LIMIT as u8;
    let rows = f32_rows(&x);
    assert_eq!(flags(Some(limit), &rows.rows(), 8), Ok(vec![0, 0, over, 0, over, 0, 7, 7]));
    assert_eq!(flags(None, &rows.rows(), 6), Ok(vec![0; 6]));
    assert_eq!(flags(Some(limit), &rows.rows(), 5), Err(STRATA_STATUS_CAPACITY));
    // Rows of another type with a gap between them.
    let halves = Stored::new(&x[..4 * D], Dtype::Bf16, 5);
    assert_eq!(flags(Some(limit), &halves.rows(), 4), Ok(vec![0, 0, over, 0]));
    x[0] = f32::NAN;
    assert_eq!(flags(Some(limit), &f32_rows(&x).rows(), 6), Err(STRATA_STATUS_NOT_FINITE));
}
