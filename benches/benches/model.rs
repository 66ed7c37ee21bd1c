//! Whole calls: a training step and an encode, in tokens.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use strata_benches::{Shape, normal};
use strata_core::config::{Activation, Config, Decoder, GateKind, ModelKind, Source};
use strata_core::model::{Arch, LevelArch, Model, Scratch};
use strata_core::normalise::Normalisation;
use strata_core::train::{Adam, Solo, Trainer};
use strata_core::{Codes, Compute, Encoder, Isa, Par, ROOT};

/// The embedded default, and MiniLM at the width of its peers.
const SHAPES: [(Shape, usize, usize); 2] =
    [(Shape { n: 1024, d: 128, f: 2304 }, 256, 2048), (Shape { n: 2048, d: 384, f: 12288 }, 1024, 11264)];

fn trainer(shape: &Shape, f1: usize, f2: usize) -> (Trainer, Vec<f32>) {
    let mut config = Config::default();
    config.level1.latents = f1;
    config.level2.latents = f2;
    config.level1.k = 16.0;
    config.level2.k = 16.0;
    config.train.batch = shape.n;
    let isa = Isa::detect();
    let mut x = normal(shape.n * shape.d, 8);
    let normalisation = Normalisation::measure(isa, &x, shape.d, &config.data).expect("normal rows vary");
    normalisation.apply(&mut x);
    let trainer =
        Trainer::new(&config, normalisation, &x, Compute::new(isa, Par::Rayon)).expect("a valid configuration");
    (trainer, x)
}

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("training step, in tokens");
    group.sample_size(10);
    for (shape, f1, f2) in SHAPES {
        let (mut trainer, x) = trainer(&shape, f1, f2);
        group.throughput(Throughput::Elements(shape.n as u64));
        group.bench_function(BenchmarkId::from_parameter(shape.name()), |b| {
            b.iter(|| trainer.step(black_box(&x)).expect("finite rows"));
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode, in tokens");
    group.sample_size(10);
    for (shape, f1, f2) in SHAPES {
        let (mut trainer, x) = trainer(&shape, f1, f2);
        trainer.step(&x).expect("finite rows");
        let encoder = Encoder::new(Arc::new(trainer.model_unfolded()), Compute::new(Isa::detect(), Par::Rayon))
            .expect("a valid model");
        let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
        group.throughput(Throughput::Elements(shape.n as u64));
        group.bench_function(BenchmarkId::from_parameter(shape.name()), |b| {
            b.iter(|| {
                codes1.clear();
                codes2.clear();
                encoder.encode_par(Par::Rayon, black_box(&x), &mut codes1, &mut codes2).expect("finite rows");
            });
        });
    }
    group.finish();
}

/// The optimiser's part of a step: projection, norm of the gradient, Adam and the norms of rows, for the shapes of
/// `step`.
fn optimiser(c: &mut Criterion) {
    let mut group = c.benchmark_group("optimiser of a training step, in tokens");
    group.sample_size(10);
    for (shape, f1, f2) in SHAPES {
        let (trainer, _) = trainer(&shape, f1, f2);
        let model = trainer.model_unfolded();
        let (arch, train) = (model.arch, trainer.config().train.clone());
        let (mut params, mut grads) = (model.params.clone(), model.params.zeros_like());
        for (stream, grad) in grads.each_mut().enumerate() {
            let values = normal(grad.len(), stream as u64);
            grad.iter_mut().zip(values).for_each(|(g, v)| *g = 1e-4 * v);
        }
        let mut adam = Adam::new(&arch, &train, &params);
        group.throughput(Throughput::Elements(shape.n as u64));
        group.bench_function(BenchmarkId::from_parameter(shape.name()), |b| {
            let isa = Isa::detect();
            b.iter(|| {
                adam.update(Compute::new(isa, Par::Rayon), &Solo, 1e-3, None, &mut params, black_box(&mut grads))
                    .expect("finite gradients")
            });
        });
    }
    group.finish();
}

/// Level 2 behind a hard gate, of 1,536 parents and 24,576 children, against a flat level of as many latents.
fn hierarchy(c: &mut Criterion) {
    let (d, f1, f2) = (768, 1536, 24_576);
    let tree = Arch {
        model: ModelKind::Tree,
        d,
        level: [
            LevelArch { latents: f1, activation: Activation::Topk, k: 16.0 },
            LevelArch { latents: f2, activation: Activation::Batchtopk, k: 16.0 },
        ],
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::Hard,
        variant: Default::default(),
    };
    let [one, two] = tree.level;
    let level = [LevelArch { latents: f1 + f2, k: 32.0, ..one }, LevelArch { latents: 0, ..two }];
    let flat = Arch { level, gate: GateKind::None, ..tree };
    let mut group = c.benchmark_group("encode behind a hard gate, in tokens");
    group.sample_size(10);
    for (name, arch) in [("hierarchical 1536 + 24576", tree), ("flat 26112", flat)] {
        let mut params = arch.zeros();
        for (stream, tensor) in params.each_mut().enumerate() {
            let values = normal(tensor.len(), stream as u64);
            tensor.iter_mut().zip(values).for_each(|(w, v)| *w = 0.03 * v);
        }
        // One child in 200 has no parent; with this threshold about ten children fire per token.
        let parent = |j: usize| if j.is_multiple_of(200) { ROOT } else { (j * 7919 % f1) as u32 };
        let parents = (0..arch.level[1].latents).map(parent).collect();
        let model = Model { arch, params, parents, tau: [0.0, 1.6] };
        let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::detect(), Par::Seq)).expect("a model");
        let mut scratch = Scratch::new(&arch);
        for n in [1, 256] {
            let x = normal(n * d, 100);
            let (mut one, mut two) = (Codes::new(), Codes::new());
            group.throughput(Throughput::Elements(n as u64));
            group.bench_function(BenchmarkId::new(name, format!("n={n} d={d} k1=16")), |b| {
                b.iter(|| {
                    one.clear();
                    two.clear();
                    encoder.encode(black_box(&x), &mut scratch, &mut one, &mut two).expect("finite rows");
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, step, optimiser, encode, hierarchy);
criterion_main!(benches);
