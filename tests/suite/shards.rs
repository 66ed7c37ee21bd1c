//! A dictionary that is split over shards is trained to the same bits as one in a single shard.

use std::sync::{Arc, Barrier, Mutex};
use strata_core::config::TrainConfig;
use strata_core::model::{Arch, Params};
use strata_core::train::comm::GROUP;
use strata_core::train::{Adam, Comm, Solo};
use strata_core::{Compute, Config, Isa, Par, Philox, Result};

/// Shards that are threads of one process.
struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

struct Shared {
    numbers: Mutex<Vec<Vec<f64>>>,
    barrier: Barrier,
}

impl Comm for Threads {
    fn all_gather(&self, numbers: &mut Vec<f64>) -> Result<()> {
        let Shared { numbers: all, barrier } = &*self.shared;
        all.lock().expect("no shard has panicked")[self.rank] = numbers.clone();
        barrier.wait();
        *numbers = all.lock().expect("no shard has panicked").concat();
        barrier.wait();
        Ok(())
    }
}

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

/// Returns the latents of a level that shard `rank` of `n` owns, a whole number of groups.
fn owned(level: usize, rank: usize, n: usize) -> std::ops::Range<usize> {
    let groups = LATENTS[level].div_ceil(GROUP);
    let at = |rank: usize| (groups * rank / n * GROUP).min(LATENTS[level]);
    at(rank)..at(rank + 1)
}

/// The part of `whole` that a shard has.
fn part(whole: &Params, arch: &Arch, rank: usize, n: usize) -> Params {
    let mut part = whole.clone();
    for ((_, spec), (_, tensor)) in arch.specs().tensors().into_iter().zip(part.tensors_mut()) {
        if let Some(level) = spec.level.filter(|_| spec.per_latent) {
            let own = owned(level, rank, n);
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
        let shared = Arc::new(Shared { numbers: Mutex::new(vec![Vec::new(); n]), barrier: Barrier::new(n) });
        let over = |rank: usize, comm: &dyn Comm| {
            let (whole_arch, mut arch) = (arch, arch);
            (0..2).for_each(|level| arch.level[level].latents = owned(level, rank, n).len());
            let part = |params: &Params| part(params, &whole_arch, rank, n);
            run(comm, &arch, &part(&start), &grads.iter().map(part).collect::<Vec<_>>())
        };
        let shards: Vec<(Params, Vec<u64>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..n)
                .map(|rank| {
                    let (over, shared) = (&over, shared.clone());
                    scope.spawn(move || over(rank, &Threads { rank, shared }))
                })
                .collect();
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
