//! Damaged and hostile files of a model.

use std::ptr::{null, null_mut};

use proptest::prelude::*;
use strata::*;
use strata_core::Model;
use strata_core::format::weights;
use strata_core::model::Arch;
use strata_tests::vary::Vary;

use super::allocator::largest;
use super::buffers::Buffers;
use super::fixture::{Ctx, arch, c_path, error, load_bytes, message, model, models, new_ctx, values};

fn files(model: &Model) -> [Vec<u8>; 2] {
    [weights::write_cfg(&model.arch, &Default::default()), weights::write_weights(model).unwrap()]
}

#[test]
fn damaged_models_are_errors_of_the_data() {
    let model = model(Arch { d: 5, ..arch() }.sized([6, 7]).keeping([2.0, 2.0]));
    let cfg = weights::write_cfg(&model.arch, &Default::default());
    let bytes = weights::write_weights(&model).unwrap();
    let try_load = |cfg: &[u8], bytes: &[u8]| match load_bytes(cfg, bytes) {
        Ok(model) => {
            unsafe { strata_model_free(model) };
            STRATA_STATUS_OK
        }
        Err((status, message)) => {
            assert!((20..30).contains(&status) && !message.is_empty(), "{status}: {message}");
            status
        }
    };
    assert_eq!(try_load(&cfg, &bytes), STRATA_STATUS_OK);
    for end in 0..bytes.len() {
        assert_ne!(try_load(&cfg, &bytes[..end]), STRATA_STATUS_OK, "the first {end} bytes");
    }
    for end in 0..cfg.len() - 2 {
        assert_ne!(try_load(&cfg[..end], &bytes), STRATA_STATUS_OK, "the first {end} bytes");
    }
    for at in 0..cfg.len().max(bytes.len()) {
        for bit in 0..8 {
            for (which, len) in [(0, cfg.len()), (1, bytes.len())] {
                if at < len {
                    let mut files = [cfg.clone(), bytes.clone()];
                    files[which][at] ^= 1 << bit;
                    try_load(&files[0], &files[1]);
                }
            }
        }
    }
    let newer = String::from_utf8(cfg).unwrap().replace("\"version\": 1", "\"version\": 2");
    assert_eq!(try_load(newer.as_bytes(), &bytes), STRATA_STATUS_VERSION);
}

#[test]
fn sizes_that_no_file_could_have_are_refused_before_memory_is_asked_for() {
    let [cfg, bytes] = files(&model(Arch { d: 5, ..arch() }.sized([6, 7]).keeping([2.0, 2.0])));
    let cfg = String::from_utf8(cfg).unwrap();
    for (key, old) in [("d", "5"), ("f1", "6"), ("f2", "7"), ("k1", "2.0"), ("k2", "2.0")] {
        for new in ["0", "4294967294", "4294967295", "18446744073709551615", "1e300", "-1", "0.0", "1e-300", "null"] {
            let from = format!("\"{key}\": {old}");
            assert!(cfg.contains(&from), "{from}");
            let cfg = cfg.replace(&from, &format!("\"{key}\": {new}"));
            let (outcome, largest) = largest(|| load_bytes(cfg.as_bytes(), &bytes));
            assert!(largest <= 4 * bytes.len() + (1 << 14), "`{key}` of {new}: {largest} bytes");
            match outcome {
                Ok(model) => {
                    assert!(key.starts_with('k'), "`{key}` of {new}");
                    unsafe { strata_model_free(model) };
                }
                Err((status, _)) => assert!((20..30).contains(&status), "`{key}` of {new}: {status}"),
            }
        }
    }
}

#[test]
fn files_that_are_not_there_or_not_files_are_errors_of_io() {
    let dir = tempfile::tempdir().unwrap();
    let load = |path: &std::path::Path| {
        let (mut out, mut err) = (null_mut(), error());
        let status = unsafe { strata_model_load(c_path(path).as_ptr(), null(), &mut out, &mut err) };
        assert!(out.is_null() && status == err.status);
        (status, message(&err).to_owned())
    };
    for path in [&dir.path().join("absent"), dir.path()] {
        let (status, message) = load(path);
        let sentence = format!("{} is neither a run nor a model of another tool", path.display());
        assert!(status == STRATA_STATUS_IO && message.starts_with(&sentence), "{message}");
    }
    let [cfg, bytes] = files(&model(arch()));
    std::fs::create_dir(dir.path().join("cfg.json")).unwrap();
    let (status, message) = load(dir.path());
    assert!(status == STRATA_STATUS_IO && message.contains("not a file"), "{message}");
    std::fs::remove_dir(dir.path().join("cfg.json")).unwrap();
    std::fs::write(dir.path().join("cfg.json"), &cfg).unwrap();
    assert_eq!(load(dir.path()).0, STRATA_STATUS_IO);
    for len in [0, 7, 8, bytes.len() - 1] {
        std::fs::write(dir.path().join("sae_weights.safetensors"), &bytes[..len]).unwrap();
        assert_eq!(load(dir.path()).0, STRATA_STATUS_FORMAT, "{len} bytes");
    }
    std::fs::write(dir.path().join("sae_weights.safetensors"), &bytes).unwrap();
    std::fs::write(dir.path().join("cfg.json"), vec![b' '; 2 << 20]).unwrap();
    assert_eq!(load(dir.path()).0, STRATA_STATUS_FORMAT);
}

/// Loads two files and returns whether they are a model; if so, it must encode and decode.
fn try_files(cfg: &[u8], weights: &[u8]) -> bool {
    let loaded = match load_bytes(cfg, weights) {
        Ok(loaded) => loaded,
        Err((status, message)) => {
            assert!((20..30).contains(&status) && !message.is_empty(), "{status}: {message}");
            return false;
        }
    };
    let ctx = Ctx { ctx: new_ctx(loaded, 0), model: loaded, core: Ctx::core(&model(arch())) };
    let info = ctx.info();
    let mut row = values(info.d);
    let mut x = strata_rows_mut {
        struct_size: size_of::<strata_rows_mut>(),
        data: row.as_mut_ptr().cast(),
        n_rows: 1,
        d: info.d,
        row_stride_bytes: 4 * info.d,
        dtype: STRATA_DTYPE_F32,
        reserved: 0,
    };
    let (mut level1, mut level2) = (Buffers::new(1, info.max_active1), Buffers::new(1, info.max_active2));
    let status = unsafe { strata_encode(ctx.ctx, (&raw const x).cast(), &mut level1.c, &mut level2.c) };
    assert_eq!(status, STRATA_STATUS_OK, "a model that loads encodes");
    let status = unsafe { strata_decode(ctx.ctx, &level1.c, &level2.c, &mut x) };
    // All weights are finite, but what the model computes from a row need not be.
    assert!(status == STRATA_STATUS_OK || status == STRATA_STATUS_NOT_FINITE, "{status}");
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn bytes_overwritten_at_random_give_an_error_or_a_model_that_works(
        which in 0_usize..7,
        changes in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let model = &models()[which];
        let mut files = files(model);
        for (weights, at, byte) in changes {
            let file = &mut files[usize::from(weights)];
            let at = at.index(file.len());
            file[at] = byte;
        }
        try_files(&files[0], &files[1]);
    }
}

#[test]
fn inputs_that_the_fuzzer_found_give_an_error_or_a_model_that_works() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/model");
    let mut models = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let data = std::fs::read(entry.unwrap().path()).unwrap();
        let Some((len, rest)) = data.split_first_chunk::<2>() else { continue };
        let (cfg, weights) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
        models += usize::from(try_files(cfg, weights));
    }
    assert!(models >= 6, "the seeds are models, found {models}");
}
