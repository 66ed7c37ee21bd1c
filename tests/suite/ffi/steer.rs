//! Edits of activations.

use strata::*;
use strata_core::kernel::reduce;

use strata_core::{Codes, Isa};

use super::buffers::{DTYPES, Stored, f32_rows};
use super::fixture::{BLOCK, Ctx, D, F1, arch, model, models, values};

#[test]
fn steering_adds_directions_or_sets_activations() {
    for model in models() {
        let ctx = Ctx::new(&model, 2);
        let n = BLOCK + 7;
        let level = if model.arch.level[1].latents > 0 { 2 } else { 1 };
        let edits = [(1, 3, 1.5, STRATA_EDIT_SET), (level, 7, -2.0, STRATA_EDIT_SET), (1, 9, 0.25, STRATA_EDIT_ADD)]
            .map(|(level, latent, strength, mode)| strata_edit { level, latent, strength, mode });
        for dtype in DTYPES {
            let mut x = Stored::new(&values(n * D), dtype, 6);
            let before = x.wide();
            let (codes1, codes2) = ctx.expected(&before);
            assert_eq!(unsafe { strata_steer(ctx.ctx, &mut x.rows_mut(), edits.as_ptr(), 3) }, STRATA_STATUS_OK);

            let mut expected = before.clone();
            let decoder2 = ctx.core.decoder2();
            for (i, row) in expected.chunks_mut(D).enumerate() {
                for edit in &edits {
                    let (codes, all) =
                        if edit.level == 1 { (&codes1, &model.params.level[0].w_dec[..]) } else { (&codes2, decoder2) };
                    let code = codes.row(i);
                    let z = code.index.iter().position(|j| *j == edit.latent).map_or(0.0, |e| code.value[e]);
                    let alpha = edit.strength - if edit.mode == STRATA_EDIT_SET { z } else { 0.0 };
                    reduce::axpy(Isa::default(), alpha, &all[edit.latent as usize * D..][..D], row);
                }
            }
            assert_eq!(x.wide(), Stored::new(&expected, dtype, 6).wide());
            assert!(x.gaps_are_untouched());
        }
        // SET keeps the error of the SAE, and changes the reconstruction by the one replaced activation.
        let mut x = f32_rows(&values(D));
        let before = x.wide();
        let (codes1, codes2) = ctx.expected(&before);
        let latent = codes1.index[0];
        let set = strata_edit { level: 1, latent, strength: 4.0, mode: STRATA_EDIT_SET };
        assert_eq!(unsafe { strata_steer(ctx.ctx, &mut x.rows_mut(), &set, 1) }, STRATA_STATUS_OK);
        let mut edited = codes1.clone();
        edited.value[0] = 4.0;
        let hat = |codes1: &Codes| {
            let (mut hat1, mut hat2) = ([0.0; D], [0.0; D]);
            ctx.core.decode(codes1, &codes2, &mut hat1, &mut hat2).unwrap();
            hat1
        };
        let (old, new) = (hat(&codes1), hat(&edited));
        for (((after, before), old), new) in x.wide().iter().zip(&before).zip(old).zip(new) {
            assert!(((after - new) - (before - old)).abs() < 1e-5);
        }
    }
}

#[test]
fn edits_that_make_no_sense_change_nothing() {
    let ctx = Ctx::new(&model(arch()), 0);
    let mut x = f32_rows(&values(3 * D));
    let before = x.bytes.clone();
    let edit = strata_edit { level: 1, latent: 0, strength: 1.0, mode: STRATA_EDIT_SET };
    let add = strata_edit { mode: STRATA_EDIT_ADD, ..edit };
    let mut steer =
        |edits: &[strata_edit]| unsafe { strata_steer(ctx.ctx, &mut x.rows_mut(), edits.as_ptr(), edits.len()) };
    assert_eq!(steer(&[strata_edit { level: 3, ..edit }]), STRATA_STATUS_INDEX);
    assert_eq!(steer(&[add, strata_edit { latent: F1 as u32, ..edit }]), STRATA_STATUS_INDEX);
    assert_eq!(steer(&[strata_edit { mode: 2, ..edit }]), STRATA_STATUS_PARAMS);
    assert_eq!(steer(&[edit, add]), STRATA_STATUS_PARAMS);
    assert_eq!(steer(&[add, strata_edit { strength: f32::NAN, ..add }]), STRATA_STATUS_NOT_FINITE);
    assert_eq!(steer(&[]), STRATA_STATUS_OK);
    assert_eq!(x.bytes, before);
}
