//! The order of the sums that run over all latents: groups of 256 in index order, so that they can be computed in
//! parallel, on a device, or by shards of a dictionary, to the same bits.

use strata_core::config::{Activation, Balance, GateKind};
use strata_core::gate::Families;
use strata_core::kernel::{dense, reduce, sparse};
use strata_core::model::{Arch, Params};
use strata_core::train::{Adam, Losses, Objective, Solo, StepSettings};
use strata_core::{Compute, Config, Isa, Par, Philox};

const GROUP: usize = 256;
const D: usize = 24;

/// A flat or two-level model whose weights have no short binary fractions, so that every sum is rounded, and rows to
/// run it on.
struct Case {
    config: Config,
    params: Params,
    families: Families,
    settings: StepSettings,
    x: Vec<f32>,
}

fn case(f: [usize; 2], n: usize, edit: impl Fn(&mut Config)) -> Case {
    let mut config = Config::default();
    (config.level1.latents, config.level2.latents) = (f[0], f[1]);
    (config.level1.k, config.level2.k) = (8.0, 8.0);
    (config.level1.activation, config.level2.activation) = (Activation::Topk, Activation::Topk);
    config.gate.kind = GateKind::None;
    config.loss.aux = 0.0;
    edit(&mut config);
    let mut rng = Philox::new(7, 1);
    let mut params = Arch::new(&config, D).zeros();
    params.each_mut().for_each(|t| t.iter_mut().for_each(|v| *v = rng.normal_f32()));
    let settings = StepSettings {
        lr: 0.0,
        fixed_level: None,
        k: [config.level1.k, config.level2.k],
        surplus: [1.0; 2],
        lambda: [0.0; 2],
        w: [0.4, 1.0],
        gate: GateKind::None,
        source: config.source,
        variance: 1.7,
        tau: [0.0; 2],
        observe_ungated: false,
        dead: [Vec::new(), Vec::new()],
    };
    let x = (0..n * D).map(|_| rng.normal_f32()).collect();
    Case { families: Families::all_root(f[0], f[1]), config, params, settings, x }
}

impl Case {
    fn objective(&self, par: Par) -> Objective {
        Objective::new(&self.config, D, Compute::new(Isa::detect(), par)).expect("valid settings")
    }

    fn run(&self, objective: &mut Objective) -> (Losses, Params) {
        let mut grads = self.params.zeros_like();
        let losses = objective.loss_and_gradient(&self.params, &self.families, &self.settings, &self.x, &mut grads);
        (losses.expect("a finite loss"), grads)
    }
}

#[test]
fn the_gradient_of_the_decoder_bias_is_summed_by_groups_of_latents() {
    let isa = Isa::detect();
    for f in [255, 256, 257, 1000] {
        let case = case([f, 0], 40, |_| {});
        let mut objective = case.objective(Par::Rayon);
        let (_, grads) = case.run(&mut objective);
        let mut start = [0.0f32; D];
        (0..objective.n()).for_each(|b| reduce::axpy(isa, 1.0, objective.residual(b), &mut start));
        let unit = 1.0 / (objective.n() as f64 * f64::from(case.settings.variance));
        reduce::scale(isa, -((2.0 * f64::from(case.settings.w[0]) * unit) as f32), &mut start);
        let minus: Vec<f32> = grads.level[0].b_enc.iter().map(|b| -b).collect();
        let latents: Vec<u32> = (0..f as u32).collect();
        let by = |group: usize| {
            let mut out = start;
            for (index, coef) in latents.chunks(group).zip(minus.chunks(group)) {
                let mut sum = [0.0f32; D];
                sparse::accumulate_rows(isa, index, coef, &case.params.level[0].w_enc, D, &mut sum);
                reduce::axpy(isa, 1.0, &sum, &mut out);
            }
            out
        };
        assert_eq!(grads.b_dec[..], by(GROUP), "{f} latents in groups of {GROUP}");
        if f > 2 * GROUP {
            assert_ne!(by(GROUP), by(f), "{f} latents: this data cannot tell groups from one chain");
        }
    }
}

/// Returns numbers of such different sizes that sums of their squares are rounded even in f64.
fn magnitude(rng: &mut Philox) -> f32 {
    (rng.below(30) as f32 - 15.0).exp2()
}

/// Returns the sum of `parts` by chains of at most `group` of them.
fn grouped(parts: &[f64], group: usize) -> f64 {
    parts.chunks(group).map(|group| group.iter().sum::<f64>()).sum()
}

#[test]
fn the_norm_of_the_gradient_is_summed_by_groups_of_rows() {
    let isa = Isa::detect();
    let case = case([3000, 0], 1, |config| config.train.clip = 0.0);
    let arch = Arch::new(&case.config, D);
    let mut rng = Philox::new(3, 1);
    let mut grads = case.params.zeros_like();
    // Only encoder rows have a gradient, since those of decoder rows are projected.
    grads.level[0].w_enc.chunks_mut(64).for_each(|piece| {
        let size = magnitude(&mut rng);
        piece.iter_mut().for_each(|g| *g = size * rng.normal_f32());
    });
    let squares: Vec<f64> = grads.level[0].w_enc.chunks(64).map(|c| f64::from(reduce::sum_squares(isa, c))).collect();
    // At this width a group of rows is a whole number of pieces of 64 numbers and of blocks of 256 rows.
    let want = grouped(&squares, GROUP * D / 64).sqrt();
    let mut norms = Vec::new();
    for par in [Par::Seq, Par::Rayon] {
        let mut params = case.params.clone();
        let mut adam = Adam::new(&arch, &case.config.train, &params);
        let mut grads = grads.clone();
        norms.push(adam.update(Compute { isa, par }, &Solo, 1e-3, None, &mut params, &mut grads).expect("finite"));
    }
    assert_eq!(norms, [want; 2], "the norm, in one thread and in several");
    assert_ne!(want, squares.iter().sum::<f64>().sqrt(), "this data cannot tell groups from one chain");
}

#[test]
fn the_norms_that_a_balance_reads_are_summed_by_groups_of_latents() {
    let isa = Isa::detect();
    let mut case = case([1000, 40], 40, |config| {
        config.level1.activation = Activation::Relu;
        config.train.balance = Balance::Own;
    });
    let mut rng = Philox::new(4, 1);
    case.params.level[0].w_enc.chunks_mut(D).for_each(|row| {
        let size = magnitude(&mut rng);
        row.iter_mut().for_each(|w| *w *= size);
    });
    let (losses, grads) = case.run(&mut case.objective(Par::Rayon));
    // With `own`, the gradient of the decoder is that of level 1's reconstruction alone.
    let squares: Vec<f64> =
        grads.level[0].w_dec.chunks(D).map(|row| f64::from(reduce::sum_squares(isa, row))).collect();
    let of = |group| grouped(&squares, group).sqrt() / f64::from(case.settings.w[0]);
    assert_eq!(losses.balance.own, of(GROUP), "groups of {GROUP} latents");
    assert_ne!(of(GROUP), of(squares.len()), "this data cannot tell groups from one chain");
}

/// One row, in which dead latents that fire stand between dead ones that do not: the reconstruction of AuxK is the sum
/// over the selected latents by ascending index, not in the order of the entries, where those that fire come first.
#[test]
fn auxk_sums_the_selected_latents_by_ascending_index() {
    let isa = Isa::detect();
    let f = 64;
    let mut case = case([f, 0], 1, |config| {
        config.loss.aux = 0.3;
        config.revive.k_aux = 24;
    });
    case.settings.dead[0] = (0..f as u32).collect();
    let mut objective = case.objective(Par::Seq);
    let (losses, grads) = case.run(&mut objective);
    let mut picked: Vec<(u32, f32)> =
        objective.entries(0).filter(|e| e.4 > 0.0).map(|(_, j, _, _, v)| (j as u32, v)).collect();
    let of = |picked: &[(u32, f32)]| {
        let (index, coef): (Vec<u32>, Vec<f32>) = picked.iter().copied().unzip();
        let mut e = vec![0.0; D];
        sparse::accumulate_rows(isa, &index, &coef, &case.params.level[0].w_dec, D, &mut e);
        e.iter_mut().zip(objective.residual(0)).for_each(|(e, r)| *e -= r);
        let alpha = case.config.loss.aux / losses.fvu[0] * (f as f64 / 24.0).min(1.0);
        reduce::scale(isa, (2.0 * alpha / f64::from(case.settings.variance)) as f32, &mut e);
        e
    };
    let by_entry = of(&picked);
    picked.sort_unstable_by_key(|p| p.0);
    let ascending = of(&picked);
    assert_ne!(by_entry, ascending, "this data cannot tell the two orders apart");
    // A latent that does not fire has no other gradient than that of AuxK.
    let silent: Vec<u32> = objective.entries(0).filter(|e| e.3 == 0.0).map(|(_, j, ..)| j as u32).collect();
    assert!(!silent.is_empty(), "every selected latent fires");
    let mut want = vec![0.0; silent.len()];
    sparse::dot_rows(isa, &silent, &case.params.level[0].w_dec, D, &ascending, &mut want);
    let got: Vec<f32> = silent.iter().map(|j| grads.level[0].b_enc[*j as usize]).collect();
    assert_eq!(got, want, "gradients of the biases of selected latents");
}

/// Entries that do not fire are not part of the reconstruction, which is the chain over those that do, in ascending
/// order.
#[test]
fn only_what_fires_is_decoded() {
    let isa = Isa::detect();
    let mut case = case([64, 0], 3, |config| {
        config.level1.activation = Activation::Jumprelu;
        config.level1.bandwidth = 1.5;
    });
    // Silent entries come between firing ones, and a decoder row that is infinite shows where it is multiplied by 0.
    case.params.level[0].threshold.fill(1.0);
    let mut objective = case.objective(Par::Seq);
    case.run(&mut objective);
    let silent = objective.entries(0).find(|e| e.3 == 0.0 && !objective.fired(0).any(|fires| fires.1 == e.1));
    let (_, silent, ..) = silent.expect("a latent in the band that fires on no row");
    case.params.level[0].w_dec[silent * D] = f32::INFINITY;
    let mut grads = case.params.zeros_like();
    // The gradient of the latent itself is not finite then; the reconstruction is.
    let _ = objective.loss_and_gradient(&case.params, &case.families, &case.settings, &case.x, &mut grads);
    for b in 0..3 {
        let xt: Vec<f32> = case.x[b * D..][..D].iter().zip(&*case.params.b_dec).map(|(x, b)| x - b).collect();
        let mut u = vec![0.0; 64];
        dense::affine(isa, &xt, &case.params.level[0].w_enc, D, Some(&case.params.level[0].b_enc), &mut u);
        let fires: Vec<u32> = (0..64).filter(|j| u[*j as usize] > 1.0).collect();
        let z: Vec<f32> = fires.iter().map(|j| u[*j as usize]).collect();
        let mut sum = vec![0.0; D];
        sparse::accumulate_rows(isa, &fires, &z, &case.params.level[0].w_dec, D, &mut sum);
        let want: Vec<f32> = xt.iter().zip(&sum).map(|(x, s)| x - s).collect();
        assert_eq!(objective.residual(b), want, "row {b}");
    }
}
