//! Reconstructions of rows, models of other tools, and what was assumed of them, through the C ABI.

use std::ffi::CStr;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use strata::*;
use strata_cli::run::Run;
use strata_core::model::{Arch, Variant};
use strata_core::row_norm::RowNorm;
use strata_core::{Codes, Compute, Dtype, Encoder, Isa, Par};

use super::allocator::allocations;
use super::buffers::{Buffers, DTYPES, Stored, f32_rows};
use super::fixture::{BLOCK, Ctx, D, F1, F2, arch, c_path, model, models, new_ctx, values};
use crate::formats::{cases, dense, distance};

fn rows_of(values: &mut [f32], d: usize) -> strata_rows_mut {
    strata_rows_mut {
        struct_size: size_of::<strata_rows_mut>(),
        data: values.as_mut_ptr().cast(),
        n_rows: values.len() / d,
        d,
        row_stride_bytes: 4 * d,
        dtype: STRATA_DTYPE_F32,
        reserved: 0,
    }
}

/// Returns the same rows as a struct of rows that are read; the two structs have the same layout.
fn read(rows: &strata_rows_mut) -> *const strata_rows {
    (&raw const *rows).cast()
}

fn load(path: &Path) -> Result<*mut strata_model, String> {
    let (mut out, mut err) = (null_mut(), super::fixture::error());
    let status = unsafe { strata_model_load(c_path(path).as_ptr(), null(), &mut out, &mut err) };
    if status == STRATA_STATUS_OK { Ok(out) } else { Err(super::fixture::message(&err).to_owned()) }
}

#[test]
fn every_model_of_another_tool_but_pickles_is_loaded_and_reconstructs_its_rows() {
    let (mut loaded, mut pickles) = (0, 0);
    for case in cases() {
        let needs_to_be_told = case.choices.k.is_some() || case.choices.norm_scaling_factor.is_some();
        let handle = match load(&case.model) {
            Ok(handle) => handle,
            Err(why) => {
                pickles += 1;
                assert!(why.contains("pickle") || why.contains(".pt"), "{}: {why}", case.name);
                continue;
            }
        };
        if needs_to_be_told {
            unsafe { strata_model_free(handle) };
            continue;
        }
        let run = Run::open_as(&case.model, &case.choices).unwrap();
        let arch = run.model.arch;
        let ctx = Ctx { ctx: new_ctx(handle, 0), model: handle, core: run.encoder(Isa::default()).unwrap() };
        let info = ctx.info();
        assert_eq!((info.d, info.d_out, info.f1), (arch.d, arch.d_out(), arch.latents()[0]), "{}", case.name);
        assert_eq!(info.needs_rows, u32::from(arch.variant.needs_input()), "{}", case.name);
        let mut x = case.rows();
        let n = x.len() / arch.d;
        let x = rows_of(&mut x, arch.d);
        let (mut level1, mut hat) = (Buffers::new(n, n * info.max_active1), vec![0.0; n * info.d_out]);
        let statuses = unsafe {
            [
                strata_encode(ctx.ctx, read(&x), &mut level1.c, null_mut()),
                strata_reconstruct(ctx.ctx, read(&x), null(), null(), &mut rows_of(&mut hat, info.d_out)),
            ]
        };
        assert_eq!(statuses, [STRATA_STATUS_OK; 2], "{}", case.name);
        let z = dense(&level1.codes(), info.f1);
        let (dz, dx) = (distance(&z, &case.expected("latents")), distance(&hat, &case.expected("reconstruction")));
        assert!(dz <= 1e-5 && dx <= 1e-5, "{}: latents differ by {dz:.1e}, reconstructions by {dx:.1e}", case.name);
        // The reconstruction from codes is the same, and where it does not depend on the row, so is the decoding.
        let (mut of_codes, mut decoded) = (vec![0.0; n * info.d_out], vec![0.0; n * info.d_out]);
        let statuses = unsafe {
            [
                strata_reconstruct(ctx.ctx, read(&x), &level1.c, null(), &mut rows_of(&mut of_codes, info.d_out)),
                strata_decode(ctx.ctx, &level1.c, null(), &mut rows_of(&mut decoded, info.d_out)),
            ]
        };
        let refused = if info.needs_rows == 1 { STRATA_STATUS_PARAMS } else { STRATA_STATUS_OK };
        assert_eq!(statuses, [STRATA_STATUS_OK, refused], "{}", case.name);
        assert_eq!(of_codes, hat, "{}", case.name);
        assert!(info.needs_rows == 1 || decoded == hat, "{}", case.name);
        let mut direction = vec![0.0; info.d_out];
        let row = |len| unsafe { strata_model_decoder_row(handle, 1, 0, direction.as_mut_ptr(), len) };
        assert_eq!([info.d_out - 1, info.d_out].map(row), [STRATA_STATUS_CAPACITY, STRATA_STATUS_OK], "{}", case.name);
        loaded += 1;
    }
    assert!(loaded >= 35 && pickles >= 8, "{loaded} were loaded, {pickles} are pickles");
}

#[test]
fn what_was_assumed_is_said() {
    let notes = |name: &str| {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let handle = load(&case.model).unwrap();
        let said = unsafe { CStr::from_ptr(strata_model_notes(handle)) }.to_str().unwrap().to_owned();
        unsafe { strata_model_free(handle) };
        (said, Run::open(&case.model).unwrap().notes)
    };
    for name in ["saelens-standard", "saelens-standard-expected-average", "gemma-scope-1"] {
        let (said, expected) = notes(name);
        assert_eq!(said, expected.join("\n"), "{name}");
    }
    assert!(notes("gemma-scope-1").0.contains("transcoder"));
    assert_eq!(unsafe { CStr::from_ptr(strata_model_notes(null())) }, c"");
}

/// Returns models of Strata whose reconstruction depends on the row; one of them reconstructs rows of another width.
fn variants() -> Vec<strata_core::Model> {
    let base = arch();
    let of = |variant| model(Arch { variant, ..base });
    let skip = Variant { target: Some(D + 4), skip: true, raw_input: true, ..Variant::default() };
    vec![
        of(skip),
        of(Variant { skip: false, ..skip }),
        of(Variant { row_norm: RowNorm::Layer, ..Variant::default() }),
        of(Variant { row_norm: RowNorm::Constant, ..Variant::default() }),
    ]
}

#[test]
fn reconstructions_have_the_bits_of_the_core() {
    for (model, n_threads) in models().iter().chain(&variants()).flat_map(|m| [(m, 0), (m, 3)]) {
        let ctx = Ctx::new(model, n_threads);
        let d_out = model.arch.d_out();
        assert_eq!(ctx.info().d_out, d_out);
        for (n, dtype, gap) in [(0, 0, 0), (1, 1, 7), (BLOCK + 1, 2, 0), (3 * BLOCK + 3, 0, 64)] {
            let mut x = Stored::new(&values(n * D), DTYPES[dtype], gap);
            let wide = x.wide();
            let (codes1, codes2) = ctx.expected(&wide);
            let (mut hat1, mut hat2) = (vec![0.0; n * d_out], vec![0.0; n * d_out]);
            ctx.core.decode_of(&wide, &codes1, &codes2, &mut hat1, &mut hat2).unwrap();
            let mut hat = vec![0.0; n * d_out];
            let (level1, level2) = (Buffers::from(&codes1), Buffers::from(&codes2));
            let call = |from: [*const strata_codes; 2], to: &mut strata_rows_mut| unsafe {
                strata_reconstruct(ctx.ctx, &x.rows(), from[0], from[1], to)
            };
            assert_eq!(call([null(); 2], &mut rows_of(&mut hat, d_out)), STRATA_STATUS_OK);
            assert_eq!(hat, hat2, "{:?}, {n} rows", model.arch);
            hat.fill(0.0);
            assert_eq!(call([&level1.c, &level2.c], &mut rows_of(&mut hat, d_out)), STRATA_STATUS_OK);
            assert_eq!(hat, hat2, "{:?}, {n} rows, from codes", model.arch);
            // In place.
            if d_out == D {
                let mut to = x.rows_mut();
                let status = unsafe { strata_reconstruct(ctx.ctx, read(&to), null(), null(), &mut to) };
                assert_eq!(status, STRATA_STATUS_OK);
                assert_eq!(x.wide(), Stored::new(&hat2, DTYPES[dtype], gap).wide());
                assert!(x.gaps_are_untouched());
            }
        }
    }
}

#[test]
fn rows_that_cannot_be_reconstructed_into_are_refused_and_stay() {
    let ctx = Ctx::new(&model(arch()), 0);
    let n = 5;
    let (mut x, mut hat) = (f32_rows(&values((n + 1) * D)), vec![7.0; n * D]);
    let codes = Buffers::of(vec![0; n + 1], vec![], vec![]);
    let mut rows = x.rows();
    rows.n_rows = n;
    let said = |rows: &strata_rows, from: [*const strata_codes; 2], to: strata_rows_mut| {
        let status = unsafe { strata_reconstruct(ctx.ctx, rows, from[0], from[1], &mut { to }) };
        (status, unsafe { CStr::from_ptr(strata_ctx_message(ctx.ctx)) }.to_str().unwrap().to_owned())
    };
    let none = [null(); 2];
    let to = rows_of(&mut hat, D);
    assert_eq!(said(&rows, none, strata_rows_mut { n_rows: n - 1, ..to }).0, STRATA_STATUS_SHAPE);
    assert_eq!(said(&rows, none, strata_rows_mut { d: D + 1, ..to }).0, STRATA_STATUS_SHAPE);
    assert_eq!(said(&rows, none, strata_rows_mut { dtype: 9, ..to }).0, STRATA_STATUS_DTYPE);
    assert_eq!(said(&rows, [null(), &raw const codes.c], to).0, STRATA_STATUS_NULL);
    assert_eq!(said(&rows, [&raw const codes.c, null()], to).0, STRATA_STATUS_NULL);
    // The output begins one row after the input, so that rows would be overwritten before they are read.
    let mut shifted = x.rows_mut();
    (shifted.n_rows, shifted.data) = (n, shifted.data.wrapping_byte_add(4 * D));
    let (status, why) = said(&rows, none, shifted);
    assert!(status == STRATA_STATUS_PARAMS && why.contains("overlap"), "{why}");
    let mut bad = values(n * D);
    bad[n * D - 1] = f32::NAN;
    assert_eq!(said(&f32_rows(&bad).rows(), none, to).0, STRATA_STATUS_NOT_FINITE);
    assert_eq!(hat, vec![7.0; n * D], "nothing was written");
    let skip = Ctx::new(&variants()[0], 0);
    let mut wide = vec![0.0; (D + 4) * n];
    let (level1, level2) = (Buffers::of(vec![0; n + 1], vec![], vec![]), Buffers::of(vec![0; n + 1], vec![], vec![]));
    let status = unsafe { strata_decode(skip.ctx, &level1.c, &level2.c, &mut rows_of(&mut wide, D + 4)) };
    let why = unsafe { CStr::from_ptr(strata_ctx_message(skip.ctx)) }.to_str().unwrap();
    assert!(status == STRATA_STATUS_PARAMS && why.contains("strata_reconstruct"), "{why}");
}

#[test]
fn reconstructing_allocates_nothing_after_the_first_call() {
    for model in models().into_iter().chain(variants()) {
        let ctx = Ctx::new(&model, 1);
        let (n, d_out) = (2 * BLOCK + 3, model.arch.d_out());
        let x = Stored::new(&values(n * D), Dtype::F16, 0);
        let mut hat = vec![0.0; n * d_out];
        let (mut level1, mut level2) = (Buffers::new(n, n * F1), Buffers::new(n, n * F2));
        let mut all = || unsafe {
            let statuses = [
                strata_encode(ctx.ctx, &x.rows(), &mut level1.c, &mut level2.c),
                strata_reconstruct(ctx.ctx, &x.rows(), null(), null(), &mut rows_of(&mut hat, d_out)),
                strata_reconstruct(ctx.ctx, &x.rows(), &level1.c, &level2.c, &mut rows_of(&mut hat, d_out)),
            ];
            assert_eq!(statuses, [STRATA_STATUS_OK; 3], "{:?}", model.arch);
        };
        all();
        assert_eq!(allocations(all), 0, "{:?}", model.arch);
    }
}

#[test]
fn a_model_of_ours_with_a_skip_connection_comes_back_from_its_files() {
    for model in variants() {
        let ctx = Ctx::new(&model, 0);
        let same = Encoder::new(Arc::new(model.clone()), Compute::new(Isa::default(), Par::Seq)).unwrap();
        let x = f32_rows(&values(3 * D));
        assert_eq!(ctx.encode(&x.rows()), {
            let (mut a, mut b) = (Codes::new(), Codes::new());
            same.encode(&x.wide(), &mut strata_core::model::Scratch::new(&model.arch), &mut a, &mut b).unwrap();
            (a, b)
        });
    }
}
