//! A dictionary in shards, each on a device of its own: the state of one process on the CPU, bit for bit, for any number of them.

use super::train::{World, assert_same, demo, trainer};
use crate::ranks::{joined, part};
use std::sync::Arc;
use strata_core::config::{Activation, Balance, Budget, Config, Consistency, Decoder, GateKind};
use strata_core::train::comm::{GROUP, Threads};
use strata_core::train::{Array, Comm, State, StepReport, Trainer, sharded_arrays};
use strata_core::{Compute, Isa, Par};
use strata_tests::emulator::device;

/// Rows of a batch, and their width.
const N: usize = 40;
const D: usize = 12;
const SIZES: [usize; 4] = [1, 2, 3, 5];

/// Levels of two and of three groups of latents, the last of each not whole: of five shards some have no latents of a level.
fn config(steps: u64) -> Config {
    let mut config = demo([GROUP + 20, 2 * GROUP + 9], [4.0, 5.0], steps);
    config.train.lr = 0.02;
    (config.gate.start, config.gate.min_count, config.gate.root_below) = (0.25, 1.0, 0.2);
    (config.revive.dead_after, config.revive.k_aux) = (3 * N as u64, 5);
    config
}

/// The rows of a step, normalised.
fn batches(t: &Trainer, steps: u64) -> Vec<Vec<f32>> {
    let mut world = World::new(N, D);
    world.batch();
    let mut batch = || {
        let mut x = world.batch();
        t.normalisation().apply(&mut x);
        x
    };
    (0..steps).map(|_| batch()).collect()
}

/// Takes steps from a state, and returns the reports and the state after them.
fn steps(mut t: Trainer, all: &[Vec<f32>]) -> (Vec<StepReport>, State) {
    let reports = all.iter().map(|x| t.step(x).expect("finite rows")).collect();
    t.fetch().expect("weights");
    (reports, t.state())
}

/// Takes steps from `start` on the CPU and over shards on devices, and compares reports and states. Returns the reports.
fn compare(what: &str, config: &Config, start: &State, n_steps: u64) -> Vec<StepReport> {
    let compute = Compute::new(Isa::detect(), Par::Seq);
    let arrays = &sharded_arrays(config, D, None);
    let latents = [config.level1.latents, config.level2.latents];
    let cpu = Trainer::restore(config, D, &mut start.clone(), compute).expect("its own state");
    let all = &batches(&cpu, n_steps);
    let (reports, wanted) = steps(cpu, all);
    for (order, size) in SIZES.into_iter().enumerate() {
        let shard = |comm: Arc<dyn Comm>| {
            let mut state = part(start, arrays, latents, comm.rank(), comm.size());
            let t = Trainer::restore_over(config, D, &mut state, compute, comm).expect("its own state");
            steps(t.on(&device(order as u32)).expect("settings for devices"), all)
        };
        let found: Vec<(Vec<StepReport>, State)> = std::thread::scope(|scope| {
            let shard = &shard;
            let threads: Vec<_> =
                Threads::new(size).into_iter().map(|comm| scope.spawn(move || shard(Arc::new(comm)))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a shard")).collect()
        });
        for (rank, (found, _)) in found.iter().enumerate() {
            for (found, wanted) in found.iter().zip(&reports) {
                assert_eq!(found, wanted, "{what}: step {} of shard {rank} of {size}", wanted.step);
            }
        }
        let states: Vec<State> = found.into_iter().map(|(_, state)| state).collect();
        assert_same(&format!("{what}: {size} shards"), &joined(&states, arrays), &wanted);
    }
    reports
}

/// [`compare`] from the first step on.
fn same(what: &str, config: &Config) -> Vec<StepReport> {
    compare(what, config, &trainer(config, &mut World::new(N, D)).state(), config.train.steps)
}

#[test]
fn shards_of_the_default_have_the_state_of_one_process() {
    let reports = same("default", &config(12));
    let sum = |of: &dyn Fn(&StepReport) -> f64| reports.iter().map(of).sum::<f64>();
    assert!(reports.iter().any(|r| r.gate_on) && reports.iter().any(|r| !r.gate_on), "the gate starts late");
    assert!(sum(&|r| r.losses.aux[0]) > 0.0 && sum(&|r| r.losses.aux[1]) > 0.0, "AuxK acts at both levels");
    assert!(sum(&|r| r.losses.consistency) > 0.0, "children fire without their parents");
    assert!(sum(&|r| r.moved[0] as f64) > 0.0 && sum(&|r| r.moved[1] as f64) > 0.0, "families change");
}

#[test]
fn shards_of_a_flat_model_have_the_state_of_one_process() {
    for activation in [Activation::Topk, Activation::Gated] {
        let mut config = config(6);
        (config.level2.latents, config.level1.activation) = (0, activation);
        (config.gate.kind, config.loss.consistency) = (GateKind::None, Consistency::None);
        (config.level1.lambda, config.revive.dead_after) = (0.01, N as u64);
        same(&format!("flat {activation}"), &config);
    }
}

#[test]
fn shards_with_penalties_have_the_state_of_one_process() {
    use Activation::{Gated, Jumprelu, Relu};
    for of in [[Jumprelu, Gated], [Gated, Relu]] {
        let mut config = config(7);
        [config.level1.activation, config.level2.activation] = of;
        [config.level1.lambda, config.level2.lambda] = [0.01, 0.02];
        [config.level1.bandwidth, config.level2.bandwidth] = [0.3, 0.2];
        (config.loss.contain_margin, config.train.balance) = (2.0, Balance::Norm);
        let reports = same(&format!("{} and {}", of[0], of[1]), &config);
        for l in 0..2 {
            assert!(reports.iter().any(|r| r.losses.sparsity[l] > 0.0), "a penalty on level {}", l + 1);
        }
        assert!(reports.iter().any(|r| r.losses.consistency > 0.0), "children fire without their parents");
    }
}

#[test]
fn shards_of_two_levels_have_the_state_of_one_process() {
    let mut shared = config(5);
    (shared.budget, shared.gate.kind, shared.loss.consistency) = (Budget::Shared, GateKind::None, Consistency::None);
    let mut topk = config(6);
    (topk.level1.activation, topk.level2.activation) = (Activation::Topk, Activation::Topk);
    (topk.decoder, topk.train.balance, topk.gate.start) = (Decoder::Ind, Balance::Own, 0.0);
    for (what, config) in [("a shared budget", shared), ("topk", topk)] {
        same(what, &config);
    }
}

#[test]
fn only_the_largest_children_of_all_shards_have_the_state_of_one_process() {
    for activation in [Activation::Topk, Activation::Jumprelu] {
        let mut config = config(8);
        (config.gate.kind, config.level2.activation) = (GateKind::GroupTop1, activation);
        (config.level2.lambda, config.loss.consistency) = (0.02, Consistency::None);
        let reports = same(&format!("group-top1 of {activation}"), &config);
        assert!(reports.iter().any(|r| r.losses.aux[1] > 0.0), "dead children competed");
    }
}

#[test]
fn latents_that_tie_across_shards_are_kept_as_in_one_process() {
    for activation in [Activation::Topk, Activation::Batchtopk] {
        let mut config = config(3);
        (config.level1.latents, config.level2.latents) = (3 * GROUP, 0);
        (config.gate.kind, config.loss.consistency) = (GateKind::None, Consistency::None);
        // Odd, so that a pair of equal latents is cut apart.
        (config.level1.activation, config.level1.k, config.level1.anneal, config.train.lr) =
            (activation, 5.0, 0.0, 0.0);
        let mut start = trainer(&config, &mut World::new(N, D)).state();
        for name in ["params.level1.w_enc", "params.level1.w_dec"] {
            let Some(Array::F32(rows)) = start.0.get_mut(name) else { panic!("`{name}`") };
            rows.copy_within(..GROUP * D, 2 * GROUP * D);
        }
        compare(&format!("ties of {activation}"), &config, &start, 3);
    }
}
