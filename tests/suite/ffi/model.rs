//! Loading, and the properties of a model.

use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use strata::*;
use strata_core::config::ModelKind;
use strata_core::format::weights;
use strata_core::model::{Arch, WeightType};
use strata_core::{Compute, Encoder, Isa, Model, Par, ROOT};
use strata_tests::vary::Vary;

use super::buffers::f32_rows;
use super::fixture::{Ctx, D, F1, F2, arch, c_path, load_as, model, models, new_ctx, values};

#[test]
fn the_model_says_its_sizes_parents_and_directions() {
    for model in models() {
        let ctx = Ctx::new(&model, 0);
        let info = ctx.info();
        assert_eq!((info.d, info.f1, info.f2), (D, F1, model.arch.level[1].latents));
        let (codes1, codes2) = ctx.expected(&values(200 * D));
        for (codes, most) in [(&codes1, info.max_active1), (&codes2, info.max_active2)] {
            let active = codes.offsets.windows(2).map(|w| w[1] - w[0]).max().unwrap();
            assert!(active <= most, "{active} codes in a row, {most} announced");
        }
        let mut parent = 5;
        for j in 0..model.arch.level[1].latents {
            assert_eq!(unsafe { strata_model_parent(ctx.model, j as u32, &mut parent) }, STRATA_STATUS_OK);
            assert_eq!(parent, model.parents.get(j).copied().unwrap_or(STRATA_ROOT));
        }
        parent = 5;
        assert_eq!(unsafe { strata_model_parent(ctx.model, info.f2 as u32, &mut parent) }, STRATA_STATUS_INDEX);
        assert_eq!(parent, 5);

        let mut row = [0.0; D];
        for (level, latent) in [(1, 3), (2, 8)].into_iter().take(1 + usize::from(info.f2 > 0)) {
            let get = |row: &mut [f32]| unsafe {
                strata_model_decoder_row(ctx.model, level, latent, row.as_mut_ptr(), row.len())
            };
            assert_eq!(get(&mut row), STRATA_STATUS_OK);
            let all = if level == 1 {
                &model.params.level[0].w_dec[..]
            } else {
                &model.decoder2(Compute::new(Isa::default(), Par::Seq))
            };
            assert_eq!(row, all[latent as usize * D..][..D]);
            assert_eq!(get(&mut row[1..]), STRATA_STATUS_CAPACITY);
        }
        for (level, latent) in [(0, 0), (3, 0), (1, F1 as u32), (2, info.f2 as u32), (u32::MAX, u32::MAX)] {
            let status = unsafe { strata_model_decoder_row(ctx.model, level, latent, row.as_mut_ptr(), D) };
            assert_eq!(status, STRATA_STATUS_INDEX);
        }
    }
    // Two active parents with families of at most three children each, and the nine children without a parent.
    let few = Model { parents: (0..F2 as u32).map(|j| if j < 9 { ROOT } else { j % 30 }).collect(), ..model(arch()) };
    let few = Model { arch: few.arch.keeping([2.0, 50.0]), ..few };
    assert_eq!((few.max_active(0), few.max_active(1)), (2, 15));
}

#[test]
fn weights_can_be_kept_in_fewer_bits() {
    let x = values(70 * D);
    for model in models() {
        let (cfg, bytes) =
            (weights::write_cfg(&model.arch, &Default::default()), weights::write_weights(&model).unwrap());
        let is_seed = model.arch.model == ModelKind::Seed;
        for (weights, of) in [
            (STRATA_WEIGHTS_F32, WeightType::F32),
            (STRATA_WEIGHTS_BF16, WeightType::Bf16),
            (STRATA_WEIGHTS_INT8, WeightType::Int8),
        ] {
            let params = strata_model_params { struct_size: size_of::<strata_model_params>(), weights, reserved: 0 };
            let loaded = load_as(&cfg, &bytes, &params);
            let core = Encoder::with_weights(Arc::new(model.clone()), Compute::new(Isa::default(), Par::Seq), of);
            if is_seed && weights != STRATA_WEIGHTS_F32 {
                let (status, message) = loaded.unwrap_err();
                assert_eq!(status, STRATA_STATUS_PARAMS);
                assert!(message.contains("seed") && core.is_err(), "{message}");
                continue;
            }
            let model = loaded.unwrap();
            let ctx = Ctx { ctx: new_ctx(model, 0), model, core: core.unwrap() };
            assert_eq!(ctx.encode(&f32_rows(&x).rows()), ctx.expected(&x));
        }
        let other = strata_model_params { struct_size: size_of::<strata_model_params>(), weights: 3, reserved: 0 };
        let (status, message) = load_as(&cfg, &bytes, &other).unwrap_err();
        assert_eq!(status, STRATA_STATUS_PARAMS);
        assert!(message.contains("weights") && message.contains('3'), "{message}");
    }
}

#[test]
fn a_run_or_its_sae_directory_can_be_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let sae = dir.path().join("sae");
    std::fs::create_dir(&sae).unwrap();
    let model = model(arch());
    std::fs::write(sae.join("cfg.json"), weights::write_cfg(&model.arch, &Default::default())).unwrap();
    std::fs::write(sae.join("sae_weights.safetensors"), weights::write_weights(&model).unwrap()).unwrap();
    let saelens = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/saelens/topk-rescaled");
    for path in [dir.path(), &sae, &saelens] {
        let (mut out, path) = (null_mut(), c_path(path));
        let status = unsafe { strata_model_load(path.as_ptr(), null(), &mut out, null_mut()) };
        assert_eq!(status, STRATA_STATUS_OK);
        unsafe { strata_model_free(out) };
    }
}

#[test]
#[cfg(unix)]
fn a_loaded_model_outlives_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(arch());
    let weights = dir.path().join("sae_weights.safetensors");
    std::fs::write(dir.path().join("cfg.json"), weights::write_cfg(&model.arch, &Default::default())).unwrap();
    std::fs::write(&weights, weights::write_weights(&model).unwrap()).unwrap();
    let mut loaded = null_mut();
    let status = unsafe { strata_model_load(c_path(dir.path()).as_ptr(), null(), &mut loaded, null_mut()) };
    assert_eq!(status, STRATA_STATUS_OK);
    let ctx = Ctx { ctx: new_ctx(loaded, 0), model: loaded, core: Ctx::core(&model) };
    let x = f32_rows(&values(5 * D));
    let expected = ctx.expected(&x.wide());
    assert_eq!(ctx.encode(&x.rows()), expected);
    // Replace the files by renaming, as careful programs do, and then delete them.
    let other = dir.path().join("other");
    std::fs::write(&other, vec![0xff; 100]).unwrap();
    std::fs::rename(&other, &weights).unwrap();
    assert_eq!(ctx.encode(&x.rows()), expected);
    std::fs::remove_file(&weights).unwrap();
    assert_eq!(ctx.encode(&x.rows()), expected);
}

#[test]
fn the_example_model_is_what_the_writers_write() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/sae");
    let model = model(Arch { d: 6, ..arch() }.sized([8, 16]).keeping([2.0, 3.0]));
    let files = [
        ("cfg.json", weights::write_cfg(&model.arch, &Default::default())),
        ("sae_weights.safetensors", weights::write_weights(&model).unwrap()),
    ];
    for (name, bytes) in files {
        assert!(std::fs::read(dir.join(name)).unwrap() == bytes, "{name}");
    }
}
