//! Pruning in every step: what stays is what the definition says, and its gradients are those of the formulas.

use super::gradient::{SOURCES, Worst, check, draw, settings, small};
use strata_core::Config;
use strata_core::config::{Activation, Balance, Budget, Consistency, Decoder, GateKind, ModelKind, Source};

#[test]
fn pruned_steps_train_what_stays_and_their_gradients_are_those_of_the_formulas() {
    let mut worst = Worst::default();
    let (mut removed, mut kept) = (0.0, 0.0);
    for seed in 0..240 {
        let gate = [GateKind::None, GateKind::Hard, GateKind::GroupTop1][seed % 3];
        let (source, detach) = SOURCES[seed / 3 % 4];
        let mut c = settings([Activation::Batchtopk; 2], gate, source, Decoder::ALL[seed / 12 % 3]);
        c.source_detach = detach;
        c.loss.consistency = Consistency::ALL[seed / 2 % 7];
        c.train.balance = Balance::ALL[seed / 3 % 5];
        c.train.prune = [0.3, 1.0, 2.5][seed / 5 % 3];
        if seed % 7 == 0 {
            (c.budget, c.gate.kind, c.source) = (Budget::Shared, GateKind::None, Source::X);
        }
        if seed % 11 == 0 {
            c.level2.latents = 0;
        }
        let mut d = small(c, seed as u64);
        d.n = if seed % 5 == 0 { 70 } else { 7 };
        if seed % 13 == 0 {
            d.target = Some(4);
        }
        if !check(&d, &mut worst) {
            continue;
        }
        let (drawn, at) = draw(&d).expect("drawn before");
        let mut plain = drawn.problem.clone();
        plain.config.train.prune = 0.0;
        kept += at.fires[0].sum();
        removed += plain.look(&drawn.params).fires[0].sum() - at.fires[0].sum();
    }
    assert!(removed > 0.1 * kept && kept > removed, "{kept} latents stay, {removed} are removed");
    worst.assert();
}

#[test]
fn pruning_in_training_is_refused_where_a_step_cannot_prune() {
    let pruned = |change: &dyn Fn(&mut Config)| {
        let mut c = settings([Activation::Batchtopk; 2], GateKind::Hard, Source::X, Decoder::Cum);
        c.train.prune = 0.6;
        change(&mut c);
        c.validate(6).map_err(|e| e.to_string())
    };
    pruned(&|_| ()).expect("batchtopk behind a hard gate");
    pruned(&|c| (c.level2.latents, c.level2.activation) = (0, Activation::Relu)).expect("a flat model");
    type Change<'a> = &'a dyn Fn(&mut Config);
    let refused: [(Change<'_>, &str); 3] = [
        (&|c| c.level2.activation = Activation::Jumprelu, "`level2.activation = \"batchtopk\"`, found `jumprelu`"),
        (&|c| c.gate.kind = GateKind::Mul, "a gate without weights (`none`, `hard` or `group-top1`), found `mul`"),
        (&|c| c.model = ModelKind::Seed, "`model = \"tree\"`, found `seed`"),
    ];
    for (change, why) in refused {
        let error = pruned(change).expect_err("cannot be pruned");
        assert!(error.contains("train.prune") && error.contains(why), "{error}");
    }
}
