//! `strata demo`: captures, trains and evaluates on the embedded model and text, or on another model, shows what was found,
//! and writes a report.

use crate::INTERRUPTED;
use crate::args;
use crate::capture::{CaptureSpec, capture_to};
use crate::console::Console;
use crate::contexts::{self, Shown};
use crate::control;
use crate::corpus::Corpus;
use crate::dump::Dump;
use crate::eval::{self, Evaluation, Found};
use crate::files::MadeDirectories;
use crate::lm::hook::Hook;
use crate::lm::{EMBEDDED_TEXT, Lm};
use crate::report;
use crate::run::Run;
use crate::settings;
use crate::settings::preset::Preset;
use crate::train::{self, End};
use anyhow::{Result, bail, ensure};
use serde_json::json;
use std::io::IsTerminal;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Instant;
use strata_core::config::Consistency;
use strata_core::train::Solo;
use strata_core::{Config, Device, Dtype, Isa};

/// The block whose residual stream the demo captures.
const LAYER: usize = 2;

/// Returns the settings of the demo: the defaults, sized for the embedded model, and the containment loss, which on
/// this text makes children fire with their parents before the gate forces them to (`docs/default.md`).
pub fn config() -> Config {
    let mut config = Config::default();
    config.loss.consistency = Consistency::Contain;
    config.level1.latents = 256;
    config.level1.k = 8.0;
    config.level2.latents = 2048;
    config.level2.k = 12.0;
    config.train.steps = 4000;
    config.train.batch = 1024;
    config
}

/// Most tokens of another model that are spliced, which takes some eight passes over them.
const SPLICED: NonZeroU64 = NonZeroU64::new(20_000).unwrap();
/// Tokens per window of another model.
const CONTEXT: usize = 256;

/// Returns the settings of the demo on another model: those for language, and few steps, since its activations are wide. A preset
/// that the user names takes their place.
fn config_of_real(preset: Option<Preset>) -> Result<Config> {
    let mut config = preset.unwrap_or(Preset::Language).config()?;
    config.level1.latents = 512;
    config.level2.latents = 4096;
    config.train.steps = 2000;
    config.train.batch = 1024;
    Ok(config)
}

/// What the demo captures.
struct Subject {
    lm: Lm,
    corpus: Corpus,
    spec: CaptureSpec,
    /// Other models have activations beyond the range of f16.
    dtype: Dtype,
    config: Config,
}

/// Returns the embedded model and text, or those that were asked for.
fn subject(args: &args::Demo) -> Result<Subject> {
    let Some(path) = &args.model else {
        ensure!(
            args.settings.preset.is_none(),
            "--preset: only with --model; the demo of the embedded model has settings of its own"
        );
        let lm = Lm::embedded()?;
        let spec = CaptureSpec::new(&lm, &[Hook::resid_post(LAYER)]);
        return Ok(Subject { lm, corpus: Corpus::of(EMBEDDED_TEXT), spec, dtype: Dtype::F16, config: config() });
    };
    let corpus = match &args.text {
        Some(text) => Corpus::open(text, None, None)?,
        None => Corpus::of(EMBEDDED_TEXT),
    };
    let lm = Lm::open(path)?;
    let hook = match &args.hook {
        Some(name) => lm.hook(name)?,
        None => Hook::resid_post((lm.config().n_layer() - 1) / 2),
    };
    let mut spec = CaptureSpec::new(&lm, &[hook]);
    spec.context = spec.context.min(CONTEXT);
    spec.max_tokens = Some(args.max_tokens.max(spec.context as u64));
    // The first token of a window has a norm far from all others; as a special token it can be left out.
    spec.bos = lm.bos().is_ok();
    let mut config = config_of_real(args.settings.preset)?;
    config.data.skip_special = spec.bos;
    Ok(Subject { lm, corpus, spec, dtype: Dtype::Bf16, config })
}

/// Runs the demo; returns the exit code.
///
/// # Errors
/// If `--out` has a run already, or the disk is full.
pub fn demo(args: &args::Demo, isa: Isa, device: Option<&Device>, console: &mut Console<'_>) -> Result<u8> {
    let started = Instant::now();
    let (dump_path, run_path) = (args.out.join("dump"), args.out.join("run"));
    if run_path.exists() {
        bail!("{} exists already: choose another --out, or remove it", run_path.display());
    }
    let s = &args.settings;
    let Subject { lm, corpus, spec, dtype, config } = subject(args)?;
    let config = settings::load(config, s.config.as_deref(), &s.sets, s.seed)?;
    config.validate(lm.width(spec.hooks[0]))?;
    // An interrupt removes the directory as long as it is empty.
    let _made = MadeDirectories::all(&args.out)?;
    if !dump_path.exists() {
        let amount = match args.model {
            None => format!("{} characters", EMBEDDED_TEXT.len()),
            Some(_) => format!("at most {} tokens", args.max_tokens),
        };
        console.note(format!("1/3 running {} over {amount}", lm.name()));
        capture_to(&lm, &corpus, &spec, dtype, &dump_path, console)?;
    }
    let dump = Dump::open(&[dump_path], None)?;
    console.note(format!("2/3 training {} parents and {} children", config.level1.latents, config.level2.latents));
    let job = train::Job {
        dump: &dump,
        target: None,
        run: &run_path,
        config,
        resume: false,
        from: None,
        isa,
        device,
        verify: 0,
        comm: Arc::new(Solo),
        read_all: true,
    };
    let end = match train::train(&job, console)? {
        End::Done if control::is_cheap(&job.config) => {
            console.note("    and its control: the same from the start of the gate, with random parents");
            train::train_control(&job, console)?
        }
        end => end,
    };
    if let End::Interrupted(step) = end {
        console.error(format!(
            "interrupted: a checkpoint was written after step {step}; continue with `strata train --dump {} --out {} --resume`",
            args.out.join("dump").display(),
            run_path.display()
        ));
        return Ok(INTERRUPTED);
    }
    console.note("3/3 evaluating on the last tenth, which neither model was trained on");
    let run = Run::open(&run_path)?;
    let job = eval::Job {
        run: &run,
        dump: &dump,
        target: None,
        all: false,
        lm: Some(&lm),
        splice: Some(if args.model.is_some() { SPLICED } else { NonZeroU64::MAX }),
        against: None,
        out: None,
        isa,
        device,
        comm: &Solo,
    };
    let Some(Found { evaluation: found, latents, .. }) = eval::eval(&job, console)? else { return Ok(0) };
    let shown = contexts::most_telling(&latents);
    let page = report::report(&report::Job { from: std::slice::from_ref(&run_path), ..report::Job::default() })?.report;
    let seconds = started.elapsed().as_secs_f64();
    if console.json {
        let shown = shown.map(|s| json!({ "parent": s.parent, "children": s.children }));
        let all = json!({ "seconds": seconds, "evaluation": found, "shown": shown, "report": page });
        console.json_pretty(&all)?;
    } else {
        print(&found, shown.as_ref(), console)?;
        console.note(format!("\n{seconds:.0} seconds in all; open {} in a browser", page.display()));
    }
    Ok(0)
}

fn print(found: &Evaluation, shown: Option<&Shown<'_>>, console: &mut Console<'_>) -> Result<()> {
    eval::print(found, &mut console.out)?;
    if let Some(shown) = shown {
        writeln!(console.out)?;
        let is_coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        contexts::print(shown, is_coloured, &mut console.out)?;
    }
    Ok(())
}
