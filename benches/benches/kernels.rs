//! Each kernel against its bound: the dense product against multiply-adds in registers, the sparse ones by bytes read.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fearless_simd::Level;
use std::hint::black_box;
use std::time::{Duration, Instant};
use strata_benches::{PEAK_FLOPS, SHAPES, Shape, fma_peak, normal, peer_product};
use strata_core::kernel::Screen;
use strata_core::kernel::dense::Matrix;
use strata_core::kernel::fire::{Limit, RowLists, Scratch, Search, fire};
use strata_core::kernel::{adam, dense, reduce, select, sparse};
use strata_core::{Compute, Isa, Par};

fn dense_product(c: &mut Criterion) {
    let mut group = c.benchmark_group("dense, in flop");
    group.throughput(Throughput::Elements(PEAK_FLOPS));
    let level = Level::new();
    group.bench_function("bound: multiply-adds in registers", |b| b.iter(|| fma_peak(black_box(level))));
    for shape in SHAPES {
        let isa = Isa::detect();
        let (x, w) = (normal(shape.n * shape.d, 0), normal(shape.f * shape.d, 1));
        let mut out = vec![0.0; shape.n * shape.f];
        group.throughput(Throughput::Elements(shape.flops()));
        group.bench_function(BenchmarkId::new("affine", shape.name()), |b| {
            b.iter(|| dense::affine(isa, black_box(&x), &w, shape.d, None, &mut out));
        });
        group.bench_function(BenchmarkId::new("matrixmultiply", shape.name()), |b| {
            b.iter(|| peer_product(black_box(&x), &w, shape, &mut out));
        });
        let ratio = ratio(
            || peer_product(black_box(&x), &w, shape, &mut out.clone()),
            || dense::affine(isa, black_box(&x), &w, shape.d, None, &mut out.clone()),
        );
        println!("dense, {}: {ratio:.2} times the speed of matrixmultiply", shape.name());
    }
    group.finish();
}

/// The time of `peer` over that of `own`, each the shortest of five runs that alternate, so that both meet the same machine.
fn ratio(peer: impl Fn(), own: impl Fn()) -> f64 {
    let time = |run: &dyn Fn()| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    let (mut of_peer, mut of_own) = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        of_peer = of_peer.min(time(&peer));
        of_own = of_own.min(time(&own));
    }
    of_peer.as_secs_f64() / of_own.as_secs_f64()
}

/// Products, bias and selection in one pass, without and with the screen: above the bound of the group before only where
/// most products need not be computed.
fn fused_encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("fused encode, in flop of the whole product");
    let isa = Isa::detect();
    for n in [1, 256] {
        for Shape { d, f, .. } in SHAPES {
            let shape = Shape { n, d, f };
            let (x, mut w, bias) = (normal(n * d, 8), normal(f * d, 9), vec![0.0; f]);
            w.iter_mut().for_each(|w| *w /= (d as f32).sqrt());
            let all = Matrix::all(&w, d);
            let mut screen = Screen::new(f, d);
            screen.quantise(Compute::new(isa, Par::Seq), all, &bias);
            let (mut t, mut lists) = (Scratch::default(), RowLists::default());
            group.throughput(Throughput::Elements(shape.flops()));
            for (name, limit) in [("32 largest", Limit::Topk(32)), ("above 3 sd", Limit::Above(3.0))] {
                for (how, screen) in [("every product", None), ("screened", Some(&screen))] {
                    group.bench_function(BenchmarkId::new(format!("{name}, {how}"), shape.name()), |b| {
                        b.iter(|| {
                            fire(
                                isa,
                                Search { x: black_box(&x), w: all, bias: &bias, limit },
                                screen,
                                &mut t,
                                &mut lists,
                            )
                        });
                    });
                }
            }
        }
    }
    group.finish();
}

fn sparse_rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("sparse, in bytes of rows read");
    let isa = Isa::detect();
    for shape in SHAPES {
        let rows = normal(shape.f * shape.d, 2);
        let k = 32;
        let index: Vec<u32> = (0..k).map(|i| ((i * 7919) % shape.f) as u32).collect();
        let coef = normal(k, 3);
        let v = normal(shape.d, 4);
        let (mut out, mut dots) = (vec![0.0; shape.d], vec![0.0; k]);
        group.throughput(Throughput::Bytes((k * shape.d * 4) as u64));
        group.bench_function(BenchmarkId::new("accumulate_rows k=32", shape.name()), |b| {
            b.iter(|| sparse::accumulate_rows(isa, black_box(&index), &coef, &rows, shape.d, &mut out));
        });
        group.bench_function(BenchmarkId::new("dot_rows k=32", shape.name()), |b| {
            b.iter(|| sparse::dot_rows(isa, black_box(&index), &rows, shape.d, &v, &mut dots));
        });
    }
    group.finish();
}

fn selection(c: &mut Criterion) {
    let mut group = c.benchmark_group("selection, in latents");
    let isa = Isa::detect();
    for shape in SHAPES {
        let u = normal(shape.f, 5);
        let (mut index, mut value) = (Vec::new(), Vec::new());
        group.throughput(Throughput::Elements(shape.f as u64));
        group.bench_function(BenchmarkId::new("topk_row k=32", shape.name()), |b| {
            b.iter(|| {
                index.clear();
                value.clear();
                select::topk_row(isa, black_box(&u), 32, &mut index, &mut value);
            });
        });
        group.bench_function(BenchmarkId::new("above 3 sd", shape.name()), |b| {
            b.iter(|| {
                index.clear();
                value.clear();
                select::above(isa, black_box(&u), 3.0, &mut index, &mut value);
            });
        });
    }
    group.finish();
}

fn update(c: &mut Criterion) {
    let mut group = c.benchmark_group("update, in parameters");
    let isa = Isa::detect();
    let n = 1 << 20;
    let grad = normal(n, 6);
    let (mut p, mut m, mut v) = (normal(n, 7), vec![0.0; n], vec![0.0; n]);
    let step = adam::AdamStep { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, correction2: 1.0, grad_scale: 1.0 };
    group.throughput(Throughput::Elements(n as u64));
    group.bench_function("adam", |b| b.iter(|| adam::adam(isa, &step, black_box(&grad), &mut p, &mut m, &mut v)));
    group.bench_function("sum_squares", |b| b.iter(|| reduce::sum_squares(isa, black_box(&grad))));
    group.finish();
}

criterion_group!(benches, dense_product, fused_encode, sparse_rows, selection, update);
criterion_main!(benches);
