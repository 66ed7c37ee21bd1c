//! `strata demo`: captures, trains and evaluates on the embedded model and text, shows what was found, and writes a
//! report.

use crate::INTERRUPTED;
use crate::args;
use crate::capture::{CaptureSpec, capture_to};
use crate::console::Console;
use crate::contexts::{self, Shown};
use crate::control;
use crate::dump::Dump;
use crate::eval::{self, Evaluation, Found};
use crate::files::MadeDirectories;
use crate::lm::{EMBEDDED_TEXT, Lm};
use crate::report;
use crate::run::Run;
use crate::settings;
use crate::train::{self, End};
use anyhow::{Result, bail};
use serde_json::json;
use std::time::Instant;
use strata_core::config::Consistency;
use strata_core::{Config, Dtype, Isa};

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

/// Runs the demo; returns the exit code.
///
/// # Errors
/// If `--out` has a run already, or the disk is full.
pub fn demo(args: &args::Demo, isa: Isa, console: &mut Console<'_>) -> Result<u8> {
    let started = Instant::now();
    let (dump_path, run_path) = (args.out.join("dump"), args.out.join("run"));
    if run_path.exists() {
        bail!("{} exists already: choose another --out, or remove it", run_path.display());
    }
    let s = &args.settings;
    let config = settings::load(config(), s.config.as_deref(), &s.sets, s.seed)?;
    let lm = Lm::embedded()?;
    config.validate(lm.config().n_embd)?;
    // An interrupt removes the directory as long as it is empty.
    let _made = MadeDirectories::all(&args.out)?;
    if !dump_path.exists() {
        console.note(format!("1/3 running {} over {} characters", lm.name(), EMBEDDED_TEXT.len()));
        capture_to(&lm, EMBEDDED_TEXT, &CaptureSpec::new(&lm, LAYER), Dtype::F16, &dump_path, console)?;
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
        device: None,
        verify: 0,
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
        splice: true,
        against: None,
        out: None,
        isa,
        device: None,
    };
    let Found { evaluation: found, latents, .. } = eval::eval(&job, console)?;
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
        contexts::print(shown, &mut console.out)?;
    }
    Ok(())
}
