//! Dispatches the parsed command line to the function of each command.

use crate::args::{self, Cli, Command};
use crate::capture::{CaptureSpec, capture_to};
use crate::console::Console;
use crate::corpus::Corpus;
use crate::dump::{Dump, Source};
use crate::files::read as input;
use crate::lm::hook::Hook;
use crate::lm::{self, EMBEDDED_TEXT, Lm};
use crate::run::Run;
use crate::settings::list;
use crate::{
    INTERRUPTED, ablate, console, convert, demo, device, encode, eval, export, inspect, probe, ranks, report, shell,
    sources, synth, train,
};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_core::Isa;
use strata_core::train::Comm;

/// A bound on `--threads` that no machine reaches.
const MOST_THREADS: usize = 1024;

/// The environment variable that gives the number of threads where `--threads` is not given.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Runs one command and returns its exit code.
///
/// # Errors
/// Any failure of the command, as one sentence.
pub fn run(cli: Cli, console: &mut Console<'_>) -> Result<u8> {
    let mut pool = rayon::ThreadPoolBuilder::new();
    let asked = match (cli.global.threads, std::env::var(THREADS)) {
        (Some(n), _) => Some(("--threads", n)),
        (None, Ok(text)) => text.parse().ok().filter(|n| *n > 0).map(|n| (THREADS, n)),
        (None, Err(_)) => None,
    };
    if let Some((from, n)) = asked {
        if n == 0 || n > MOST_THREADS {
            bail!("{from}: expected 1 to {MOST_THREADS}, found {n}");
        }
        pool = pool.num_threads(n);
    }
    console::listen_for_interrupt();
    let pool = pool.build().context("starting threads")?;
    pool.install(|| dispatch(cli.command, console))
}

/// Runs one command on the rayon pool that is current, and returns its exit code.
///
/// # Errors
/// Any failure of the command, as one sentence.
pub fn dispatch(command: Command, console: &mut Console<'_>) -> Result<u8> {
    let isa = instruction_set()?;
    match command {
        Command::Demo(args) => {
            let device = device::open(args.device.device, console)?;
            demo::demo(&args, isa, device.as_ref(), console)
        }
        Command::Capture(args) => capture_command(&args, console).map(|()| 0),
        Command::Synth(args) => synth_command(&args, console).map(|()| 0),
        Command::Inspect(args) => inspect_command(&args, console),
        Command::Train(args) => train_command(&args, isa, console),
        Command::Eval(args) => ranks::run(console, "", |comm, console| eval_command(&args, isa, &*comm, console)),
        Command::Probe(args) => probe_command(&args, isa, console).map(|()| 0),
        Command::Encode(args) => ranks::run(console, "", |comm, console| encode_command(&args, isa, &*comm, console)),
        Command::Export(args) => export_command(&args, isa, console).map(|()| 0),
        Command::Convert(args) => convert_command(&args, console).map(|()| 0),
        Command::Ablate(args) => {
            let dump = open(&args.dump, &args.source)?;
            ranks::run(console, "", |comm, console| {
                let device = device::open_over(args.device.device, &*comm, console)?;
                let place = ablate::Place { isa, device: device.as_ref() };
                ablate::ablate(&args, &dump, place, &*comm, console)
            })
        }
        Command::Device(args) => device::device(args.check, isa, console),
        Command::Report(args) => report_command(&args, console).map(|()| 0),
        Command::Settings(args) => settings_command(&args, console).map(|()| 0),
        Command::Completions(args) => {
            console.out.write_all(&shell::completions(args.shell))?;
            Ok(0)
        }
        Command::Man(args) => {
            let pages = shell::man(&args.directory)?;
            if console.json {
                writeln!(console.out, "{}", serde_json::json!({ "pages": pages }))?;
            } else {
                console.note(format!("wrote {} man pages into {}", pages.len(), args.directory.display()));
            }
            Ok(0)
        }
    }
}

/// Returns the best instruction set of this machine, or the one that `STRATA_SIMD` names. The results do not depend on
/// it.
fn instruction_set() -> Result<Isa> {
    match std::env::var("STRATA_SIMD") {
        Ok(name) if !name.is_empty() => Isa::named(&name).context("STRATA_SIMD"),
        _ => Ok(Isa::detect()),
    }
}

fn open(paths: &[PathBuf], flags: &args::SourceArgs) -> Result<Dump> {
    sources::with_flags(Source::new(paths), flags).open()
}

fn capture_command(args: &args::Capture, console: &mut Console<'_>) -> Result<()> {
    let lm = match &args.model {
        Some(dir) => Lm::open(dir)?,
        None => Lm::embedded()?,
    };
    let corpus = match &args.text {
        Some(path) => Corpus::open(path, args.field.as_deref(), args.shuffle)?,
        None => Corpus::of(EMBEDDED_TEXT),
    };
    let mut hooks = args.hooks.iter().map(|name| lm.hook(name)).collect::<Result<Vec<_>>>()?;
    hooks.extend(args.layer.map(Hook::resid_post));
    if let Some(hook) = hooks.iter().enumerate().find_map(|(i, hook)| hooks[..i].contains(hook).then_some(hook)) {
        bail!("hook point {hook} is named twice");
    }
    let mut spec = CaptureSpec::new(&lm, &hooks);
    (spec.max_tokens, spec.bos, spec.skip_first) = (args.max_tokens, args.bos, args.skip_first);
    spec.per_document = args.per_document;
    if let Some(context) = args.context {
        spec.context = context;
    }
    if lm.expects_bos() && !args.bos {
        console.warn(format!("{} was trained on texts that begin with its BOS token: consider --bos", lm.name()));
    }
    capture_to(&lm, &corpus, &spec, args.dtype, &args.out, console)
}

fn synth_command(args: &args::Synth, console: &mut Console<'_>) -> Result<()> {
    let summary = synth::synth(args, console)?;
    if console.json {
        console.json(&summary)?;
    }
    Ok(())
}

fn inspect_command(args: &args::DumpArgs, console: &mut Console<'_>) -> Result<u8> {
    let dump = open(&args.dump, &args.source)?;
    let bar = console.bar("reading", dump.n_rows(), "rows");
    let found = inspect::inspect_with_progress(&dump, |rows| {
        bar.inc(rows);
        Ok(console::check_interrupt()?)
    })?;
    bar.finish_and_clear();
    if console.json {
        console.json_pretty(&found)?;
    } else {
        inspect::print(&found, &mut console.out)?;
    }
    Ok(u8::from(!found.is_ready))
}

fn train_command(args: &args::Train, isa: Isa, console: &mut Console<'_>) -> Result<u8> {
    let hint = "the last checkpoint stands: continue with --resume";
    ranks::run(console, hint, |comm, console| train_rank(args, isa, comm, console))
}

fn train_rank(args: &args::Train, isa: Isa, comm: Arc<dyn Comm>, console: &mut Console<'_>) -> Result<u8> {
    let dump = open(&args.dump, &args.source)?;
    let target = args.target.as_ref().map(|path| open(std::slice::from_ref(path), &args.source)).transpose()?;
    let s = &args.settings;
    let config = train::settings_of(&args.out, args.resume, s.preset, s.config.as_deref(), &s.sets, s.seed)?;
    let (target, resume) = (target.as_ref(), args.resume);
    let device = device::open_over(args.device.device, &*comm, console)?;
    let (device, verify) = (device.as_ref(), args.verify.unwrap_or(0));
    let (run, from, read_all) = (&*args.out, None, args.read == args::Read::All);
    let job = train::Job { dump: &dump, target, run, config, resume, from, isa, device, verify, comm, read_all };
    let end = match train::train(&job, console)? {
        train::End::Done if args.control => train::train_control(&job, console)?,
        end => end,
    };
    match end {
        train::End::Done => {
            if console.json {
                let path = args.out.join("final_info.json");
                let info = input::text(&path, input::SMALL)?;
                write!(console.out, "{info}")?;
            } else {
                console.note(format!("the model is in {}", args.out.join("sae").display()));
            }
            Ok(0)
        }
        train::End::Interrupted(step) => {
            console.error(format!(
                "interrupted: a checkpoint was written after step {step}; continue with the same command and --resume"
            ));
            Ok(INTERRUPTED)
        }
    }
}

fn eval_command(args: &args::Eval, isa: Isa, comm: &dyn Comm, console: &mut Console<'_>) -> Result<u8> {
    let (run, dump, target) = sources::open_pair(&args.subject, args.target.as_ref(), "eval", console)?;
    let lm = match (&args.model, args.splice) {
        (Some(dir), _) => Some(Lm::open(dir)?),
        (None, true) => Some(model_of(&dump, console)?),
        (None, false) => embedded_for(&dump).ok().filter(|lm| lm.config().d == dump.d()),
    };
    let against = args.against.as_deref().map(Run::open).transpose()?;
    let device = device::open_over(args.device.device, comm, console)?;
    let job = eval::Job {
        run: &run,
        dump: &dump,
        target: target.as_ref(),
        all: args.all,
        lm: lm.as_ref(),
        splice: args.splice.then_some(args.splice_tokens),
        against: against.as_ref(),
        out: args.out.as_deref(),
        isa,
        device: device.as_ref(),
        comm,
    };
    // The result is printed even if it cannot be written, since computing it took long.
    let Some((found, written)) = eval::find_and_write(&job, console)? else { return Ok(0) };
    if console.json {
        console.json_pretty(&found.evaluation)?;
    } else {
        eval::print(&found.evaluation, &mut console.out)?;
    }
    written.map(|()| u8::from(found.is_meaningless))
}

/// Opens the language model that the dump came from, by its name in the dump.
fn model_of(dump: &Dump, console: &mut Console<'_>) -> Result<Lm> {
    let Err(why) = embedded_for(dump) else { return Lm::embedded() };
    let parents = dump.source().paths.iter().filter_map(|path| Some(path.parent()?.to_owned()));
    let beside: Vec<PathBuf> = parents.chain([PathBuf::from(".")]).collect();
    let Some(path) = dump.model().and_then(|name| lm::find(name, &beside)) else { return Err(why) };
    console.note(format!("the language model is {}", path.display()));
    Lm::open(path)
}

/// Returns the embedded model if the dump came from it.
fn embedded_for(dump: &Dump) -> Result<Lm> {
    let lm = Lm::embedded()?;
    match dump.model() {
        Some(name) if name == lm.name() => Ok(lm),
        Some(name) => bail!(
            "{} was captured from `{name}`: name its file or directory with --model, or put it beside the dump or into a \
             directory of STRATA_MODELS",
            dump.name()
        ),
        None => {
            bail!("{} does not say which language model it came from: name its directory with --model", dump.name())
        }
    }
}

fn probe_command(args: &args::Probe, isa: Isa, console: &mut Console<'_>) -> Result<()> {
    let (run, dump, target) = sources::open_pair(&args.subject, args.target.as_ref(), "probe", console)?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => run.output(None)?.join("probe.json"),
    };
    let read = [dump.source().paths.as_slice(), std::slice::from_ref(&args.labels)].concat();
    refuse_own_input("--out", &read, &out)?;
    let save = args.save_head.as_deref().map(|file| probe::heads::Save { file, latents: args.head_latents });
    if let Some(save) = &save {
        refuse_own_input("--save-head", &read, save.file)?;
        ensure!(save.file != out, "--save-head {}: it is the report, --out; choose another name", out.display());
    }
    let (labels, sample, seed) = (&args.labels, args.sample, args.seed);
    let job =
        probe::Job { run: &run, dump: &dump, target: target.as_ref(), labels, sample, seed, out: &out, save, isa };
    let found = probe::probe(&job, console)?;
    if console.json {
        console.json_pretty(&found)?;
    } else {
        probe::print(&found, &mut console.out)?;
    }
    Ok(())
}

fn encode_command(args: &args::Encode, isa: Isa, comm: &dyn Comm, console: &mut Console<'_>) -> Result<u8> {
    let (run, dump) = sources::open(&args.subject, "encode", console)?;
    refuse_own_input("--out", &dump.source().paths, &args.out)?;
    if args.out.is_file() && !args.force {
        bail!("--out {}: it exists already; pass --force to replace it, or choose another name", args.out.display());
    }
    let device = device::open_over(args.device.device, comm, console)?;
    let (f16, weights, device) = (args.f16, args.weights, device.as_ref());
    let job = encode::Job { run: &run, dump: &dump, out: &args.out, f16, weights, isa, device, comm };
    let report = encode::encode(&job, console)?;
    if console.json {
        console.json(&report)?;
    }
    Ok(0)
}

fn export_command(args: &args::Export, isa: Isa, console: &mut Console<'_>) -> Result<()> {
    if args.format == args::ExportFormat::Saelens {
        ensure!(
            args.subject.dump.is_empty() && args.splits.is_none() && args.add.is_empty(),
            "--format saelens writes weights: it takes no --dump, no --splits and no --add"
        );
        let run = sources::open_run(&args.subject, "export", console)?;
        let context = args.subject.source.context.map(|t| t as u64);
        return convert_to(&run, &args.out, args::To::Saelens, &args.weights, context, console);
    }
    if args.format == args::ExportFormat::GgufCvector {
        ensure!(
            args.subject.dump.is_empty() && args.splits.is_none(),
            "--format gguf-cvector writes directions: it takes no --dump and no --splits"
        );
        let run = sources::open_run(&args.subject, "export", console)?;
        let (hook, model) = (args.weights.hook.as_deref(), args.weights.model_id.as_deref());
        let job = export::cvector::Job { run: &run, addends: &args.add, hook, model, out: &args.out };
        let written = export::cvector::export(&job, console)?;
        if console.json {
            console.json(&written)?;
        }
        return Ok(());
    }
    ensure!(args.add.is_empty(), "--add: it is for --format gguf-cvector");
    let (run, dump) = sources::open(&args.subject, "export", console)?;
    let (format, splits, named) = (args.format, args.splits, args.weights.metadata(None));
    let job = export::Job { run: &run, dump: &dump, format, out: &args.out, splits, named, isa };
    let report = export::export(&job, console)?;
    if console.json {
        console.json(&report)?;
    }
    Ok(())
}

fn convert_command(args: &args::Convert, console: &mut Console<'_>) -> Result<()> {
    let run = sources::open_model(&args.run, &args.model_args, console)?;
    convert_to(&run, &args.out, args.to, &args.weights, args.context, console)
}

fn convert_to(
    run: &Run,
    out: &Path,
    to: args::To,
    args: &args::WeightsArgs,
    context: Option<u64>,
    console: &mut Console<'_>,
) -> Result<()> {
    let (part, dtype, inexact, metadata) = (args.part, args.dtype, args.inexact, args.metadata(context));
    let report = convert::convert(&convert::Job { run, out, to, part, dtype, inexact, metadata }, console)?;
    if console.json {
        console.json(&report)?;
    }
    Ok(())
}

fn report_command(args: &args::Report, console: &mut Console<'_>) -> Result<()> {
    let (out, title, labels) = (args.out.as_deref(), args.title.as_deref(), args.labels.as_deref());
    let written = report::report(&report::Job { from: &args.from, out, title, labels, live: args.live })?;
    if console.json {
        console.json(&written)?;
    } else {
        let size = written.bytes as f64 / 1e6;
        console.note(format!("the report ({size:.1} MB) is in {}: open it in a browser", written.report.display()));
    }
    Ok(())
}

fn settings_command(args: &args::ListSettings, console: &mut Console<'_>) -> Result<()> {
    if args.markdown && console.json {
        bail!("--markdown: it cannot be combined with --json");
    }
    let sections = list::select(&args.keys)?;
    let text = match (args.markdown, console.json) {
        (true, _) => list::markdown(&sections),
        (_, true) => serde_json::to_string_pretty(&list::json(&sections))? + "\n",
        (false, false) => list::table(&sections),
    };
    write!(console.out, "{text}")?;
    Ok(())
}

/// Refuses an output that would replace a file of the dump.
fn refuse_own_input(flag: &str, dump: &[PathBuf], out: &Path) -> Result<()> {
    let Ok(out) = out.canonicalize() else { return Ok(()) };
    for path in dump.iter().filter_map(|p| p.canonicalize().ok()) {
        if out.starts_with(&path) {
            bail!("{flag} {}: it is a part of the dump; choose another name", out.display());
        }
    }
    Ok(())
}
