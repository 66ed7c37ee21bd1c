//! Times the encoder alone: rows from a `.npy` file, a trained model or one of random weights, one line of JSON.
//!
//! Each call takes the next `n` rows, so that no row is encoded twice in a row. With one thread it is
//! [`Encoder::encode`] with scratch that was made before, as an inference engine has it; with more,
//! [`Encoder::encode_par_in`].

use clap::Parser;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata_benches::random::random_model;
use strata_benches::{PEAK_FLOPS, cpu_s, fma_peak, normal};
use strata_core::format::npy::NpyHeader;
use strata_core::format::weights::read_model;
use strata_core::model::{Lanes, Scratch, WeightType};
use strata_core::{Codes, Compute, Encoder, Isa, Par, ROOT, Rows};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Tokens a second of the encoder.
#[derive(Parser)]
struct Args {
    /// A trained model: the directory `sae` of a run
    #[arg(long, value_name = "DIR", conflicts_with = "random", required_unless_present = "random")]
    sae: Option<PathBuf>,
    /// Random weights of these sizes: d,f1,f2,k1,k2; f2 = 0 is a flat top-k SAE, else level 2 is behind a hard gate
    #[arg(long, value_name = "SIZES", value_delimiter = ',', num_args = 1)]
    random: Option<Vec<usize>>,
    /// Rows to encode [default: normal numbers]
    #[arg(long, value_name = "FILE.npy")]
    rows: Option<PathBuf>,
    /// First of the rows
    #[arg(long, value_name = "I", default_value_t = 0)]
    from: usize,
    /// Rows a call
    #[arg(long, value_name = "N")]
    n: usize,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// What weights are kept in: f32, bf16 or int8
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = weight_type)]
    weights: WeightType,
    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let isa = match std::env::var("STRATA_SIMD") {
        Ok(name) if !name.is_empty() => Isa::named(&name)?,
        _ => Isa::detect(),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build()?;
    let line = pool.install(|| measure(&args, isa))?;
    println!("{line}");
    Ok(())
}

fn measure(args: &Args, isa: Isa) -> Result<serde_json::Value> {
    let model = match (&args.sae, &args.random) {
        (Some(dir), _) => read_model(&read(&dir.join("cfg.json"))?, &read(&dir.join("sae_weights.safetensors"))?)?.0,
        (None, Some(sizes)) => match sizes[..] {
            [d, f1, f2, k1, k2] => random_model(d, [f1, f2], [k1, k2]),
            _ => return Err("--random: expected d,f1,f2,k1,k2".into()),
        },
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let arch = model.arch;
    let under_root = model.parents.iter().filter(|p| **p == ROOT).count();
    let rows = rows(args, arch.d)?;
    let batches: Vec<&[f32]> = rows.chunks_exact(args.n * arch.d).collect();
    let encoder = Encoder::with_weights(Arc::new(model), Compute::new(isa, Par::Rayon), args.weights)?;
    let mut scratch = Scratch::new(&arch).reserved(&encoder);
    let mut lanes = Lanes::default();
    let (mut one, mut two) = (Codes::new(), Codes::new());
    let mut call = |x: &[f32], one: &mut Codes, two: &mut Codes| -> Result<f64> {
        one.clear();
        two.clear();
        let started = Instant::now();
        if args.threads == 1 {
            encoder.encode(x, &mut scratch, one, two)?;
        } else {
            encoder.encode_par_in(Par::Rayon, x, &mut lanes, one, two)?;
        }
        Ok(started.elapsed().as_secs_f64())
    };
    for x in [batches[batches.len() - 1], batches[0]] {
        call(x, &mut one, &mut two)?;
    }
    let l0 = [&one, &two].map(|codes| codes.index.len() as f64 / args.n as f64);
    let sum: f64 = one.value.iter().chain(&two.value).map(|v| f64::from(*v)).sum();
    let peak = flop_per_s(args.threads);
    let mut seconds = Vec::new();
    let (started, cpu_before) = (Instant::now(), cpu_s());
    while started.elapsed() < Duration::from_secs_f64(args.seconds) || seconds.len() < 3 {
        seconds.push(call(batches[seconds.len() % batches.len()], &mut one, &mut two)?);
    }
    let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_s().zip(cpu_before).map(|(now, before)| now - before));
    let calls = seconds.len();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[calls / 2];
    let (bytes, bandwidth) = if args.n == 1 && args.threads == 1 {
        let work = weights_read(&encoder, &batches, &mut scratch)?;
        (Some(work), Some(bytes_per_s()))
    } else {
        (None, None)
    };
    let dense_flop = 2.0 * (arch.d * (arch.level[0].latents + arch.level[1].latents)) as f64;
    Ok(json!({
        "tokens_per_s": args.n as f64 / median, "call_us": median * 1e6, "best_call_us": seconds[0] * 1e6,
        "calls": calls, "wall_s": wall, "cpu_s": cpu, "n": args.n, "threads": args.threads, "isa": isa.name(),
        "d": arch.d, "f1": arch.level[0].latents, "f2": arch.level[1].latents, "under_root": under_root, "l0": l0, "sum": sum,
        "weights": args.weights.name(), "weight_bytes": bytes, "read_bytes_per_s": bandwidth,
        "share_of_bandwidth": bytes.zip(bandwidth).map(|(bytes, most)| bytes / median / most),
        "fma_peak_flop_per_s": peak, "dense_flop_share_of_peak": args.n as f64 / median * dense_flop / peak,
    }))
}

fn weight_type(name: &str) -> std::result::Result<WeightType, String> {
    WeightType::named(name).map_err(|e| e.to_string())
}

/// Bytes of weights that one row needs, in the mean: one a place of the screen, and those of the weights that are multiplied.
fn weights_read(encoder: &Encoder, batches: &[&[f32]], scratch: &mut Scratch) -> Result<f64> {
    let (before, rows) = (scratch.work(), batches.len().min(256));
    let (mut one, mut two) = (Codes::new(), Codes::new());
    for x in &batches[..rows] {
        encoder.encode(x, scratch, &mut one, &mut two)?;
    }
    let work = scratch.work();
    let screened = (work.screened - before.screened) as f64;
    let exact = (work.exact - before.exact) as f64 * encoder.weight_type().size_bytes() as f64;
    Ok((screened + exact) * encoder.model().arch.d as f64 / rows as f64)
}

/// Memory that one thread reads, from a buffer that no cache holds: the best of some rounds.
fn bytes_per_s() -> f64 {
    let buffer = vec![1u64; 1 << 26];
    let round = || {
        let started = Instant::now();
        let sum = buffer.chunks_exact(32).fold([0u64; 32], |mut sums, chunk| {
            sums.iter_mut().zip(chunk).for_each(|(sum, v)| *sum = sum.wrapping_add(*v));
            sums
        });
        std::hint::black_box(sum);
        (buffer.len() * 8) as f64 / started.elapsed().as_secs_f64()
    };
    (0..5).map(|_| round()).fold(0.0, f64::max)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| format!("reading {}: {e}", path.display()).into())
}

/// At least 16 batches where the file has them, as f32.
fn rows(args: &Args, d: usize) -> Result<Vec<f32>> {
    let wanted = (16 * args.n).max(4096);
    let Some(path) = &args.rows else { return Ok(normal(wanted * d, 100)) };
    let bytes = read(path)?;
    let header = NpyHeader::parse(&bytes)?;
    let [n, width] = header.shape;
    if width != d || n < args.from + args.n {
        let expected = args.from + args.n;
        return Err(format!("{}: expected {expected} rows of {d}, found {n} of {width}", path.display()).into());
    }
    let all = Rows::new(&bytes[header.data_offset..], n, d, d * header.dtype.size_bytes(), header.dtype)?;
    let range = args.from..(args.from + wanted).min(n);
    let mut out = vec![0.0; range.len() * d];
    all.widen(range, &mut out);
    Ok(out)
}

/// Multiply-adds in registers, of all threads together: the best of some rounds.
fn flop_per_s(threads: usize) -> f64 {
    let level = fearless_simd::Level::new();
    let round = || {
        let started = Instant::now();
        rayon::broadcast(|_| {
            for _ in 0..50 {
                std::hint::black_box(fma_peak(std::hint::black_box(level)));
            }
        });
        50.0 * threads as f64 * PEAK_FLOPS as f64 / started.elapsed().as_secs_f64()
    };
    (0..10).map(|_| round()).fold(0.0, f64::max)
}
