//! Probes through the C ABI: scores by the formula, and what is kept of them per sequence.

use std::ffi::CStr;
use std::path::Path;
use std::ptr::{null, null_mut};

use strata::*;
use strata_core::format::heads;
use strata_core::heads::{Head, Heads, Reads, fingerprint};
use strata_core::{Codes, Philox};

use super::allocator::allocations;
use super::buffers::f32_rows;
use super::fixture::{BLOCK, Ctx, D, F1, F2, arch, c_path, error, message, model, models, values};

const UNIT: f32 = 0.37;

/// Two heads on latents, of which the second reads only level 2 where there is one, and one on rows.
fn some_heads(ctx: &Ctx) -> Heads {
    let model = ctx.core.model();
    let latents = model.arch.latents();
    let mut rng = Philox::new(3, 3);
    let mut weights = |n: usize| (0..n).map(|_| f64::from(rng.normal_f32())).collect::<Vec<_>>();
    let many: Vec<u32> = if latents[1] > 0 { vec![50, 3, 129, 0, 41] } else { vec![20, 3, 39, 0, 1] };
    let few: Vec<u32> = if latents[1] > 0 { vec![44, 100] } else { vec![2, 7] };
    let head = |name: &str, reads, weight, bias| Head { name: name.into(), reads, weight, bias };
    let heads = vec![
        head("a", Reads::Latents(many), weights(5), 0.25),
        head("b", Reads::Row, weights(D), -0.5),
        head("a", Reads::Latents(few), weights(2), 0.0),
    ];
    Heads { d: D, latents, model: fingerprint(model), unit: UNIT, heads }
}

/// Writes heads and loads them.
fn load(dir: &Path, ctx: &Ctx, heads: &Heads) -> Result<*mut strata_probe, (strata_status, String)> {
    let path = dir.join("heads.safetensors");
    std::fs::write(&path, heads::write(heads).unwrap()).unwrap();
    load_file(&path, ctx)
}

fn load_file(path: &Path, ctx: &Ctx) -> Result<*mut strata_probe, (strata_status, String)> {
    let (mut probe, mut err) = (null_mut(), error());
    match unsafe { strata_probe_load(c_path(path).as_ptr(), ctx.model, &mut probe, &mut err) } {
        STRATA_STATUS_OK => Ok(probe),
        status => Err((status, message(&err).to_owned())),
    }
}

/// The scores of every head of a file on every row of `x`, `(n, d)`, by the model in `run`.
pub fn scores_of_files(run: &Path, heads: &Path, x: &[f32], [d, n_heads]: [usize; 2]) -> Vec<f64> {
    let (mut model, mut ctx, mut probe) = (null_mut(), null_mut(), null_mut());
    let rows = strata_rows {
        struct_size: size_of::<strata_rows>(),
        data: x.as_ptr().cast(),
        n_rows: x.len() / d,
        d,
        row_stride_bytes: 4 * d,
        dtype: STRATA_DTYPE_F32,
        reserved: 0,
    };
    let mut out = vec![f64::NAN; rows.n_rows * n_heads];
    unsafe {
        let statuses = [
            strata_model_load(c_path(run).as_ptr(), null(), &mut model, null_mut()),
            strata_ctx_new(model, null(), &mut ctx, null_mut()),
            strata_probe_load(c_path(heads).as_ptr(), model, &mut probe, null_mut()),
            strata_probe_score(ctx, probe, null_mut(), &rows, null(), out.as_mut_ptr(), out.len()),
        ];
        assert_eq!(statuses, [STRATA_STATUS_OK; 4], "model, context, probe, scores");
        assert_eq!(strata_probe_heads(probe), n_heads, "heads of the file");
        strata_probe_free(probe);
        strata_ctx_free(ctx);
        strata_model_free(model);
    }
    out
}

/// The score of every head on every row, by the formula and a plain sum.
fn expected(heads: &Heads, x: &[f32], codes: [&Codes; 2]) -> Vec<f64> {
    let f1 = heads.latents[0] as u32;
    let mut scores = Vec::new();
    for (i, row) in x.chunks(D).enumerate() {
        for head in &heads.heads {
            let features: Vec<f64> = match &head.reads {
                Reads::Row => row.iter().map(|x| f64::from(x * UNIT)).collect(),
                Reads::Latents(latents) => latents
                    .iter()
                    .map(|j| {
                        let (codes, j) = if *j < f1 { (codes[0], *j) } else { (codes[1], j - f1) };
                        let row = codes.row(i);
                        let z = row.index.iter().position(|of| *of == j).map_or(0.0, |at| row.value[at]);
                        f64::from(z.max(0.0) * UNIT)
                    })
                    .collect(),
            };
            scores.push(features.iter().zip(&head.weight).map(|(f, w)| f * w).sum::<f64>() + head.bias);
        }
    }
    scores
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-12 * (1.0 + b.abs()))
}

fn new_state(probe: *const strata_probe, n_sequences: usize, on: &[f64], off: &[f64]) -> *mut strata_probe_state {
    let mut params: strata_probe_state_params = unsafe { std::mem::zeroed() };
    unsafe { strata_probe_state_params_init(&mut params) };
    params.n_sequences = n_sequences;
    (params.on, params.off) = (on.as_ptr(), off.as_ptr());
    let (mut state, mut err) = (null_mut(), error());
    let status = unsafe { strata_probe_state_new(probe, &params, &mut state, &mut err) };
    assert_eq!(status, STRATA_STATUS_OK, "{}", message(&err));
    state
}

fn read(state: *const strata_probe_state, sequence: u32, head: usize) -> strata_probe_reading {
    let mut out: strata_probe_reading = unsafe { std::mem::zeroed() };
    out.struct_size = size_of::<strata_probe_reading>();
    let status = unsafe { strata_probe_state_read(state, sequence, head, &mut out) };
    assert_eq!(status, STRATA_STATUS_OK, "strata_probe_state_read");
    out
}

#[test]
fn scores_are_those_of_the_formula_for_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    for model in models() {
        let mut before: Option<Vec<f64>> = None;
        for n_threads in [0, 3] {
            let ctx = Ctx::new(&model, n_threads);
            let heads = some_heads(&ctx);
            let probe = load(dir.path(), &ctx, &heads).unwrap();
            assert_eq!(unsafe { strata_probe_heads(probe) }, 3);
            let n = 2 * BLOCK + 5;
            let x = f32_rows(&values(n * D));
            let (codes1, codes2) = ctx.expected(&x.wide());
            let mut scores = vec![f64::NAN; 3 * n];
            let mut score = |x: &strata_rows| unsafe {
                strata_probe_score(ctx.ctx, probe, null_mut(), x, null(), scores.as_mut_ptr(), scores.len())
            };
            assert_eq!(score(&x.rows()), STRATA_STATUS_OK);
            assert_eq!(allocations(|| assert_eq!(score(&x.rows()), STRATA_STATUS_OK)), 0, "{:?}", model.arch);
            assert!(close(&scores, &expected(&heads, &x.wide(), [&codes1, &codes2])), "{:?}", model.arch);
            if let Some(before) = &before {
                assert_eq!(before, &scores, "the bits do not depend on threads");
            }
            before = Some(scores);
            unsafe { strata_probe_free(probe) };
        }
    }
}

#[test]
fn heads_have_names_and_say_what_they_read() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = Ctx::new(&model(arch()), 0);
    let probe = load(dir.path(), &ctx, &some_heads(&ctx)).unwrap();
    let head = |h| {
        let mut out: strata_head_info = unsafe { std::mem::zeroed() };
        out.struct_size = size_of::<strata_head_info>();
        let status = unsafe { strata_probe_get_head(probe, h, &mut out) };
        (status, out)
    };
    for (h, (name, n, reads)) in
        [(c"a", 5, STRATA_HEAD_LATENTS), (c"b", D, STRATA_HEAD_ROW), (c"a", 2, STRATA_HEAD_LATENTS)]
            .into_iter()
            .enumerate()
    {
        let (status, out) = head(h);
        assert_eq!((status, out.n, out.reads), (STRATA_STATUS_OK, n, reads));
        assert_eq!(unsafe { CStr::from_ptr(out.name) }, name);
    }
    assert_eq!(head(3).0, STRATA_STATUS_INDEX);
    unsafe { strata_probe_free(probe) };
}

/// Rows of several sequences, some of them in one call and in turn, as an engine decodes a batch.
#[test]
fn running_values_are_those_of_each_sequence_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = Ctx::new(&models()[2], 0);
    let heads = some_heads(&ctx);
    let probe = load(dir.path(), &ctx, &heads).unwrap();
    let (on, off) = ([0.6, 0.1, f64::INFINITY], [-0.2, 0.1, 0.0]);
    let state = new_state(probe, 3, &on, &off);
    // The handles may be freed in any order.
    unsafe { strata_probe_free(probe) };
    let probe = load(dir.path(), &ctx, &heads).unwrap();
    let own = new_state(probe, 3, &on, &off);
    let (steps, sequence_of) = (40, [2u32, 0, 1, 0]);
    let x = values(4 * steps * D);
    let mut kept: Vec<Vec<[f64; 3]>> = vec![Vec::new(); 3];
    for step in x.chunks(4 * D) {
        let rows = f32_rows(step);
        let mut scores = [0.0; 12];
        let status = unsafe {
            strata_probe_score(ctx.ctx, probe, own, &rows.rows(), sequence_of.as_ptr(), scores.as_mut_ptr(), 12)
        };
        assert_eq!(status, STRATA_STATUS_OK);
        for (s, scores) in sequence_of.iter().zip(scores.chunks(3)) {
            kept[*s as usize].push(scores.try_into().unwrap());
        }
        let refused =
            unsafe { strata_probe_score(ctx.ctx, probe, state, &rows.rows(), sequence_of.as_ptr(), null_mut(), 0) };
        assert_eq!(refused, STRATA_STATUS_PARAMS, "the state of another probe");
    }
    let mut alarms_seen = 0;
    let mut alarms = [9u8; 10];
    assert_eq!(unsafe { strata_probe_state_alarms(own, alarms.as_mut_ptr(), 10) }, STRATA_STATUS_OK);
    assert_eq!(unsafe { strata_probe_state_alarms(own, alarms.as_mut_ptr(), 8) }, STRATA_STATUS_CAPACITY);
    assert_eq!(alarms[9], 9, "nothing is written beyond the flags");
    for (s, scores) in kept.iter().enumerate() {
        for h in 0..3 {
            let found = read(own, s as u32, h);
            let of: Vec<f64> = scores.iter().map(|row| row[h]).collect();
            let (mut is_on, mut begun) = (false, 0);
            for score in &of {
                let next = if is_on { *score > off[h] } else { *score > on[h] };
                begun += u64::from(next && !is_on);
                is_on = next;
            }
            let max = of.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mean = of.iter().sum::<f64>() / of.len() as f64;
            assert_eq!((found.rows, found.last, found.max), (of.len() as u64, of[of.len() - 1], max));
            assert_eq!((found.mean, found.max_row), (mean, of.iter().position(|v| *v == max).unwrap() as u64));
            assert_eq!((found.is_on, found.alarms), (u32::from(is_on), begun), "head {h} of sequence {s}");
            assert_eq!(alarms[3 * s + h], u8::from(is_on));
            alarms_seen += begun;
        }
    }
    assert!(
        alarms_seen > 3 && read(own, 0, 2).alarms == 0,
        "{alarms_seen} alarms; a threshold of infinity is never exceeded"
    );
    // One sequence is forgotten, the others are not.
    assert_eq!(unsafe { strata_probe_state_reset(own, 0) }, STRATA_STATUS_OK);
    let (gone, stays) = (read(own, 0, 1), read(own, 1, 1));
    assert!(gone.rows == 0 && gone.max.is_nan() && gone.mean.is_nan() && gone.last.is_nan() && gone.alarms == 0);
    assert_eq!(stays.rows, steps as u64);
    // Without sequences every row is of the first.
    let rows = f32_rows(&x[..2 * D]);
    let score = |sequences: *const u32, n: usize| unsafe {
        let (mut scores, rows) = ([0.0; 6], rows.rows());
        strata_probe_score(ctx.ctx, probe, own, &rows, sequences, scores.as_mut_ptr(), n)
    };
    assert_eq!(allocations(|| assert_eq!(score(null(), 6), STRATA_STATUS_OK)), 0);
    assert_eq!(read(own, 0, 0).rows, 2);
    // What is refused adds nothing and allocates nothing.
    let mut statuses = [0; 3];
    let n = allocations(|| {
        statuses = [score([0, 3].as_ptr(), 6), score(null(), 5), unsafe {
            strata_probe_score(ctx.ctx, probe, null_mut(), &rows.rows(), [0, 0].as_ptr(), null_mut(), 0)
        }];
    });
    assert_eq!((statuses, n), ([STRATA_STATUS_INDEX, STRATA_STATUS_CAPACITY, STRATA_STATUS_PARAMS], 0));
    let mut bad = x[..2 * D].to_vec();
    bad[D] = f32::NAN;
    let status = unsafe { strata_probe_score(ctx.ctx, probe, own, &f32_rows(&bad).rows(), null(), null_mut(), 0) };
    assert_eq!((status, read(own, 0, 0).rows), (STRATA_STATUS_NOT_FINITE, 2));
    unsafe {
        assert_eq!(strata_probe_state_reset(own, 3), STRATA_STATUS_INDEX);
        let mut out = read(own, 0, 0);
        assert_eq!(strata_probe_state_read(own, 3, 0, &mut out), STRATA_STATUS_INDEX);
        assert_eq!(strata_probe_state_read(own, 0, 3, &mut out), STRATA_STATUS_INDEX);
        strata_probe_state_free(state);
        strata_probe_state_free(own);
        strata_probe_free(probe);
    }
}

#[test]
fn thresholds_and_numbers_of_sequences_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = Ctx::new(&model(arch()), 0);
    let probe = load(dir.path(), &ctx, &some_heads(&ctx)).unwrap();
    let new = |n_sequences, on: *const f64, off: *const f64| {
        let params =
            strata_probe_state_params { struct_size: size_of::<strata_probe_state_params>(), n_sequences, on, off };
        let (mut state, mut err) = (null_mut(), error());
        let status = unsafe { strata_probe_state_new(probe, &params, &mut state, &mut err) };
        unsafe { strata_probe_state_free(state) };
        (status, message(&err).to_owned())
    };
    assert_eq!(new(1, null(), null()).0, STRATA_STATUS_OK);
    let (status, said) = new(0, null(), null());
    assert_eq!((status, &said[..]), (STRATA_STATUS_PARAMS, "params: n_sequences: expected at least 1, found 0"));
    assert_eq!(new(usize::MAX / 2, null(), null()).0, STRATA_STATUS_MEMORY);
    assert_eq!(new(1, [1.0, 2.0, 3.0].as_ptr(), [1.0, 2.0, 3.5].as_ptr()).0, STRATA_STATUS_PARAMS);
    assert_eq!(new(1, [1.0, f64::NAN, 3.0].as_ptr(), null()).0, STRATA_STATUS_PARAMS);
    assert_eq!(new(1, [1.0, 2.0, 3.0].as_ptr(), null()).0, STRATA_STATUS_OK);
    // NULL for the params: one sequence, thresholds of 0.
    let mut state = null_mut();
    assert_eq!(unsafe { strata_probe_state_new(probe, null(), &mut state, null_mut()) }, STRATA_STATUS_OK);
    assert!(read(state, 0, 0).max.is_nan());
    unsafe { strata_probe_state_free(state) };
    unsafe { strata_probe_free(probe) };
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = Ctx::new(&model(arch()), 0);
    let heads = some_heads(&ctx);
    let refused = |heads: &Heads| load(dir.path(), &ctx, heads).unwrap_err();
    let (status, said) = refused(&Heads { latents: [F1, F2 + 1], ..heads.clone() });
    assert_eq!((status, &said[..]), (STRATA_STATUS_SHAPE, "latents of level 2 of the heads: expected 90, found 91"));
    let (status, said) = refused(&Heads { model: 7, ..heads.clone() });
    assert!(status == STRATA_STATUS_PARAMS && said.contains("--save-head"), "{said}");
    // Heads on rows alone need no latents of this model.
    let on_rows = Heads { model: 7, heads: vec![heads.heads[1].clone()], ..heads.clone() };
    unsafe { strata_probe_free(load(dir.path(), &ctx, &on_rows).unwrap()) };
    let path = dir.path().join("heads.safetensors");
    let bytes = heads::write(&heads).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(load_file(&path, &ctx).unwrap_err().0, STRATA_STATUS_FORMAT);
    assert_eq!(load_file(&dir.path().join("none"), &ctx).unwrap_err().0, STRATA_STATUS_IO);
    assert_eq!(load_file(dir.path(), &ctx).unwrap_err().0, STRATA_STATUS_IO);
}
