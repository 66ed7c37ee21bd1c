//! A dictionary that is split over shards is trained to the same bits as one in a single shard.

use strata_core::config::TrainConfig;
use strata_core::model::{Arch, Params};
use strata_core::train::comm::{GROUP, Threads, owned};
use strata_core::train::{Adam, Comm, Solo};
use strata_core::{Compute, Config, Isa, Par, Philox};

/// Numbers of latents of the levels: one is a multiple of the group size, the other is not.
const LATENTS: [usize; 2] = [3 * GROUP, 4 * GROUP + 31];

fn config() -> Config {
    let mut config = Config::default();
    config.train = TrainConfig { clip: 0.5, row_norm: 0.3, ..config.train };
    for (level, f) in [&mut config.level1, &mut config.level2].into_iter().zip(LATENTS) {
        level.latents = f;
    }
    config
}

fn drawn(arch: &Arch, rng: &mut Philox) -> Params {
    let mut params = arch.zeros();
    params.each_mut().flatten().for_each(|p| *p = rng.normal_f32());
    params
}

/// The part of `whole` that a shard has.
fn part(whole: &Params, arch: &Arch, rank: usize, n: usize) -> Params {
    let mut part = whole.clone();
    for ((_, spec), (_, tensor)) in arch.specs().tensors().into_iter().zip(part.tensors_mut()) {
        if let Some(level) = spec.level.filter(|_| spec.per_latent) {
            let own = owned(LATENTS[level], rank, n);
            *tensor = tensor[own.start * spec.width..own.end * spec.width].to_vec().into();
        }
    }
    part
}

/// The parameters of the shards put together.
fn joined(parts: &[Params], arch: &Arch) -> Params {
    let mut whole = parts[0].clone();
    for (at, (_, spec)) in arch.specs().tensors().into_iter().enumerate() {
        if spec.per_latent {
            let all: Vec<f32> = parts.iter().flat_map(|part| part.tensors()[at].1.iter().copied()).collect();
            *whole.tensors_mut()[at].1 = all.into();
        }
    }
    whole
}

#[test]
fn adam_over_shards_has_the_bits_of_one() {
    const STEPS: usize = 3;
    let (config, d) = (config(), 20);
    let arch = Arch::new(&config, d);
    let compute = Compute::new(Isa::detect(), Par::Seq);
    let mut rng = Philox::new(11, 0);
    let start = drawn(&arch, &mut rng);
    let grads: Vec<Params> = (0..STEPS).map(|_| drawn(&arch, &mut rng)).collect();
    let run = |comm: &dyn Comm, arch: &Arch, start: &Params, grads: &[Params]| {
        let (mut params, mut adam) = (start.clone(), Adam::new(arch, &config.train, start));
        let norms: Vec<u64> = grads
            .iter()
            .map(|grads| {
                let norm = adam.update(compute, comm, 1e-2, None, &mut params, &mut grads.clone());
                norm.expect("finite gradients").to_bits()
            })
            .collect();
        (params, norms)
    };
    let (whole, norms) = run(&Solo, &arch, &start, &grads);
    for n in 1..=3 {
        let over = |rank: usize, comm: &dyn Comm| {
            let (whole_arch, mut arch) = (arch, arch);
            (0..2).for_each(|level| arch.level[level].latents = owned(LATENTS[level], rank, n).len());
            let part = |params: &Params| part(params, &whole_arch, rank, n);
            run(comm, &arch, &part(&start), &grads.iter().map(part).collect::<Vec<_>>())
        };
        let shards: Vec<(Params, Vec<u64>)> = std::thread::scope(|scope| {
            let over = &over;
            let threads: Vec<_> =
                Threads::new(n).into_iter().map(|comm| scope.spawn(move || over(comm.rank(), &comm))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a shard")).collect()
        });
        for (rank, (_, found)) in shards.iter().enumerate() {
            assert_eq!(*found, norms, "the norms that shard {rank} of {n} clips by");
        }
        let parts: Vec<Params> = shards.into_iter().map(|(params, _)| params).collect();
        assert!(joined(&parts, &arch) == whole, "the weights of {n} shards");
        if n > 1 {
            assert_ne!(over(0, &Solo).1, norms, "this data cannot tell whether norms are exchanged");
        }
    }
}
