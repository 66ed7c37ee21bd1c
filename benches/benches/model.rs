//! Whole calls: a training step and an encode, in tokens.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use strata_benches::{Shape, normal};
use strata_core::config::Config;
use strata_core::normalise::Normalisation;
use strata_core::train::Trainer;
use strata_core::{Codes, Encoder, Isa, Par};

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
    let trainer = Trainer::new(&config, normalisation, &x, isa, Par::Rayon).expect("a valid configuration");
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
        let encoder =
            Encoder::new(Arc::new(trainer.model_unfolded()), Isa::detect(), Par::Rayon).expect("a valid model");
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

criterion_group!(benches, step, encode);
criterion_main!(benches);
