//! `--device`: whether a command computes on a GPU; and `strata device`, which says what GPUs there are.

use crate::console::Console;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;
use std::str::FromStr;
use strata_core::config::{Activation, Budget, Config, Consistency, GateKind, Source};
use strata_core::device::check::{BOUNDARY, FULL, run};
use strata_core::normalise::Normalisation;
use strata_core::train::{Comm, Difference, Trainer};
use strata_core::{Compute, Device, Isa, Par, Philox, cuda};

/// The environment variable that says where to compute where `--device` is not given.
const VARIABLE: &str = "STRATA_DEVICE";

/// Where to compute. Codes have the same bits everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// On the processor.
    #[default]
    Cpu,
    /// On the GPU of NVIDIA with this number, counted from 0; without one on the first, or over several ranks on one for each.
    Cuda(Option<usize>),
    /// On the first GPU that can be used, and else on the processor.
    Auto,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ordinal = |text: &str| text.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(None)),
            "auto" => Ok(Self::Auto),
            _ => ordinal(text)
                .map(|n| Self::Cuda(Some(n)))
                .ok_or_else(|| format!("expected cpu, cuda, cuda:N or auto, found `{text}`")),
        }
    }
}

/// Variables in which launchers number the processes of one machine.
const LOCAL_RANKS: [&str; 4] = ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];

/// Opens the device of a choice, or of the one that the environment makes; none for the processor.
///
/// # Errors
/// If a GPU was asked for and cannot be used, as one sentence.
pub fn open(asked: Option<Choice>, console: &mut Console<'_>) -> Result<Option<Device>> {
    open_number(asked, 0, console)
}

/// [`open`] over several ranks: those of one machine take its GPUs in turn. All ranks compute on GPUs, or none does.
///
/// # Errors
/// As [`open`]; where only some ranks have a GPU, which with `auto` all do without.
pub fn open_over(asked: Option<Choice>, comm: &dyn Comm, console: &mut Console<'_>) -> Result<Option<Device>> {
    if comm.is_solo() {
        return open(asked, console);
    }
    let local = LOCAL_RANKS.iter().find_map(|name| std::env::var(name).ok()?.parse().ok()).unwrap_or(comm.rank());
    // Where there is no GPU, opening the first one says so.
    let number = cuda::count().map_or(0, |n| local % n.max(1));
    let device = open_number(asked, number, console)?;
    let have = comm.gather(&[u8::from(device.is_some())])?.concat();
    if have.iter().any(|has| *has != have[0]) {
        let first = |has: u8| have.iter().position(|other| *other == has).unwrap_or(0);
        let why = format!("rank {} has a GPU, and rank {} none", first(1), first(0));
        let is_auto = asked.or_else(|| std::env::var(VARIABLE).ok()?.parse().ok()) == Some(Choice::Auto);
        ensure!(is_auto, "--device: expected a GPU on all ranks or on none: {why}");
        console.note(format!("{why}; computing on the CPU"));
        return Ok(None);
    }
    Ok(device)
}

/// [`open`] with the number of the GPU where the choice names none.
fn open_number(asked: Option<Choice>, number: usize, console: &mut Console<'_>) -> Result<Option<Device>> {
    let named = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let (from, choice) = match (asked, named) {
        (Some(choice), _) => ("--device ", choice),
        (None, Some(text)) => {
            ("STRATA_DEVICE=", text.parse::<Choice>().map_err(|why| anyhow!("STRATA_DEVICE: {why}"))?)
        }
        (None, None) => return Ok(None),
    };
    match choice {
        Choice::Cpu => Ok(None),
        Choice::Cuda(n) => {
            let n = n.unwrap_or(number);
            let name = if n == 0 { "cuda".to_owned() } else { format!("cuda:{n}") };
            let device = cuda::open(n).with_context(|| format!("{from}{name}"))?;
            console
                .note(format!("computing on {}; the first start with a new driver takes some seconds", device.name()));
            Ok(Some(device))
        }
        Choice::Auto => match cuda::open(number) {
            Ok(device) => {
                console.note(format!("computing on {}", device.name()));
                Ok(Some(device))
            }
            Err(why) => {
                console.note(format!("{from}auto: {why}; computing on the CPU"));
                Ok(None)
            }
        },
    }
}

/// What `strata device` has found.
#[derive(Debug, Serialize)]
struct Found {
    /// The GPUs.
    gpus: Vec<Gpu>,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// A GPU.
#[derive(Debug, Serialize)]
struct Gpu {
    /// What `--device` takes.
    device: String,
    /// Its name, with its compute capability.
    name: Option<String>,
    /// Bytes of memory.
    memory: Option<usize>,
    /// Of them, those that are free.
    free: Option<usize>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Comparisons with the CPU in which every bit was the same, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    checked: Option<usize>,
}

/// Lists the GPUs; with `check` compares every kernel on each of them with the CPU, to the bit. Returns the exit code: 1 if a
/// check was asked for and no GPU passes it.
///
/// # Errors
/// If the result cannot be printed.
pub fn device(check: bool, isa: Isa, console: &mut Console<'_>) -> Result<u8> {
    let mut found = Found { gpus: Vec::new(), why: None };
    match cuda::count() {
        Ok(n) => {
            for ordinal in 0..n {
                let gpu = look(ordinal, check, isa, console);
                found.gpus.push(gpu);
            }
        }
        Err(why) => found.why = Some(why.to_string()),
    }
    if console.json {
        console.json_pretty(&found)?;
    } else {
        let gib = |bytes: Option<usize>| bytes.unwrap_or(0) as f64 / f64::from(1u32 << 30);
        for Gpu { device, name, memory, free, why, checked } in &found.gpus {
            match (name, why) {
                (Some(name), None) => {
                    let [memory, free] = [gib(*memory), gib(*free)];
                    writeln!(console.out, "{device}: {name}, {memory:.1} GiB of memory, {free:.1} free")?;
                }
                (_, why) => writeln!(console.out, "{device}: {}", why.as_deref().unwrap_or("unknown"))?,
            }
            if let (Some(n), None) = (checked, why) {
                writeln!(console.out, "{device}: {n} comparisons with the CPU, every bit the same")?;
            }
        }
        if let Some(why) = &found.why {
            writeln!(console.out, "no GPU: {why}")?;
        }
    }
    let good = found.gpus.iter().any(|gpu| gpu.why.is_none());
    Ok(u8::from(check && !good))
}

/// The size of a training that is compared.
#[derive(Clone, Copy, Debug)]
pub struct Training {
    /// Rows of a batch.
    pub n: usize,
    /// Width.
    pub d: usize,
    /// Latents of both levels.
    pub latents: [usize; 2],
    /// Steps.
    pub steps: u64,
}

/// Sizes around those that the kernels work in: levels that are screened in 8 bits and levels that are not, rows and widths that are no
/// whole numbers of tiles.
pub const SMALL_TRAININGS: [Training; 3] = [
    Training { n: 66, d: 100, latents: [520, 600], steps: 8 },
    Training { n: 50, d: 33, latents: [20, 60], steps: 8 },
    Training { n: 129, d: 257, latents: [65, 513], steps: 6 },
];

/// Sizes of real models.
pub const FULL_TRAININGS: [Training; 2] = [
    Training { n: 4096, d: 768, latents: [1536, 24_576], steps: 4 },
    Training { n: 1024, d: 2304, latents: [2048, 32_768], steps: 3 },
];

/// Trains models of several settings and of one size on a device and on the CPU, and compares every bit of their states after each
/// step, so that the kernels of training are compared too. Returns the number of trainings.
///
/// # Errors
/// At the first bit that differs, naming settings, step, tensor and place; and whatever the driver reports.
pub fn check_trainings(device: &Device, isa: Isa, of: Training) -> Result<usize> {
    use Activation::{Batchtopk, Gated, Jumprelu, Relu, Topk};
    let Training { n, d, latents, steps } = of;
    let all = [
        (Batchtopk, Topk, Source::X, GateKind::Hard),
        (Jumprelu, Gated, Source::Res, GateKind::Hard),
        (Gated, Relu, Source::X, GateKind::GroupTop1),
        (Batchtopk, Batchtopk, Source::X, GateKind::None),
    ];
    for (one, two, source, gate) in all {
        let mut config = Config { source, ..Config::default() };
        [config.level1.latents, config.level2.latents] = latents;
        [config.level1.k, config.level2.k] = [6.0, 5.0];
        (config.level1.activation, config.level2.activation) = (one, two);
        [config.level1.bandwidth, config.level2.bandwidth] = [0.3; 2];
        (config.train.steps, config.train.batch, config.train.clip) = (steps, n, 0.5);
        (config.gate.kind, config.gate.start, config.gate.root_below) = (gate, 0.25, 0.0);
        (config.gate.reassign_every, config.revive.dead_after) = (2, 2 * n as u64);
        (config.loss.consistency, config.loss.contain_margin) = (Consistency::Contain, 2.0);
        if !gate.has_families() {
            (config.budget, config.loss.consistency) = (Budget::Shared, Consistency::None);
        }
        let mut rng = Philox::new(5, 5);
        let mut rows = || -> Vec<f32> { (0..n * d).map(|_| rng.normal_f32() * rng.normal_f32()).collect() };
        let sample = rows();
        let normalisation = Normalisation::measure(isa, &sample, d, &config.data)?;
        let mut normalised = sample;
        normalisation.apply(&mut normalised);
        let trainer = || Trainer::new(&config, normalisation.clone(), &normalised, Compute::new(isa, Par::Rayon));
        let (mut cpu, mut gpu) = (trainer()?, trainer()?.on(device)?);
        for step in 0..steps {
            let mut x = rows();
            normalisation.apply(&mut x);
            let (wanted, found) = (cpu.step(&x)?, gpu.step(&x)?);
            gpu.fetch()?;
            let named = format!(
                "level1 {one}, level2 {two}, source {source}, gate {gate}, n {n} d {d} latents {latents:?}, step {step}"
            );
            if let Some(Difference { name, index, words }) = gpu.state().difference(&cpu.state()) {
                let [found, wanted] = words.map(|word| word.map_or("nothing".into(), |word| format!("{word:08x}")));
                bail!("a training, {named}: number {index} of `{name}` is {found} on the device, {wanted} on the CPU");
            }
            if wanted != found {
                bail!("a training, {named}: the device reports {found:?}, the CPU {wanted:?}");
            }
        }
    }
    Ok(all.len())
}

/// Looks at one GPU.
fn look(ordinal: usize, check: bool, isa: Isa, console: &mut Console<'_>) -> Gpu {
    let mut gpu =
        Gpu { device: format!("cuda:{ordinal}"), name: None, memory: None, free: None, why: None, checked: None };
    let found = cuda::open(ordinal).map_err(anyhow::Error::from).and_then(|device| {
        let memory = device.memory()?;
        (gpu.name, gpu.memory, gpu.free) = (Some(device.name()), Some(memory.total), Some(memory.free));
        if check {
            let mut n = 0;
            for shape in BOUNDARY.into_iter().chain(FULL) {
                console.note(format!("cuda:{ordinal}: rows {}, latents {}, width {}", shape.n, shape.f, shape.d));
                run(&device, Compute::new(isa, Par::Rayon), shape, |_| n += 1)?;
            }
            for of in SMALL_TRAININGS.into_iter().chain(FULL_TRAININGS) {
                let Training { n: rows, d, latents: [f1, f2], .. } = of;
                console.note(format!("cuda:{ordinal}: trainings, rows {rows}, latents {f1} and {f2}, width {d}"));
                n += check_trainings(&device, isa, of)?;
            }
            gpu.checked = Some(n);
        }
        Ok(())
    });
    gpu.why = found.err().map(|why| why.to_string());
    gpu
}
