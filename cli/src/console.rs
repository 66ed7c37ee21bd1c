//! Progress, notes and interruption. Progress goes to standard error: a bar on a terminal, otherwise a line at growing
//! intervals.

mod interrupt;
mod lines;

use crate::escape::{escaped_json, escaped_lines};
use anyhow::Result;
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use interrupt::{
    Interrupted, Orderly, ask_to_stop, check_interrupt, forget_interrupt, interrupted, listen_for_interrupt,
};
use lines::Lines;

/// The output streams of a command, and what it prints to them.
pub struct Console<'a> {
    /// Standard output, for results.
    pub out: &'a mut (dyn Write + Send),
    /// Standard error, for notes, warnings and errors.
    pub err: &'a mut (dyn Write + Send),
    /// Print nothing but results and errors.
    pub quiet: bool,
    /// Print results as JSON.
    pub json: bool,
    /// A host that shows progress itself, and is shown every bar.
    pub watch: Option<Watch>,
}

/// The bar of the work that a command is doing, for a host that asks for it from another thread.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<Mutex<Option<Watched>>>);

#[derive(Clone, Debug)]
struct Watched {
    what: String,
    unit: String,
    bar: ProgressBar,
}

/// The progress of the work that a command is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, as in "training".
    pub what: String,
    /// What is counted, as in "tokens".
    pub unit: String,
    /// How much is done.
    pub done: u64,
    /// How much there is to do.
    pub total: u64,
    /// What the bar says besides.
    pub message: String,
}

impl Watch {
    /// Returns the progress of the newest bar, unless it is finished or there has been none.
    pub fn progress(&self) -> Option<Progress> {
        let watched = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let Watched { what, unit, bar } = watched;
        let (done, total, message) = (bar.position(), bar.length()?, bar.message());
        (!bar.is_finished()).then_some(Progress { what, unit, done, total, message })
    }

    fn show(&self, what: &str, unit: &str, bar: &ProgressBar) {
        let watched = Watched { what: what.to_owned(), unit: unit.to_owned(), bar: bar.clone() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(watched);
    }
}

impl Console<'_> {
    /// Prints a line on standard error, unless quiet.
    pub fn note(&mut self, line: impl AsRef<str>) {
        if !self.quiet {
            self.error(line);
        }
    }

    /// Prints a warning on standard error, also with `quiet`, since it says that something is wrong with a run.
    pub fn warn(&mut self, sentence: impl AsRef<str>) {
        self.error(format!("warning: {}", sentence.as_ref()));
    }

    /// Prints a line on standard error, also with `quiet`. Names from files are escaped so that they cannot control the
    /// terminal.
    pub fn error(&mut self, line: impl AsRef<str>) {
        // A closed standard error must not stop the work.
        let _ = writeln!(self.err, "{}", escaped_lines(line.as_ref()));
    }

    /// Prints a result as one line of JSON.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        Ok(writeln!(self.out, "{}", escaped_json(&serde_json::to_string(value)?))?)
    }

    /// Prints a result as JSON of several lines.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub fn json_pretty(&mut self, value: &impl Serialize) -> Result<()> {
        Ok(writeln!(self.out, "{}", escaped_json(&serde_json::to_string_pretty(value)?))?)
    }

    /// Returns a spinner for work of unknown length.
    pub fn spinner(&self, what: &'static str) -> ProgressBar {
        let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if self.watch.is_some() || self.shows() == Shows::Nothing {
            return spinner;
        }
        if self.shows() == Shows::Lines {
            let _ = writeln!(std::io::stderr(), "{what}");
            return spinner;
        }
        spinner.set_draw_target(ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg} {elapsed} {spinner}") {
            spinner.set_style(style);
        }
        spinner.set_message(what);
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    }

    /// Returns how progress is drawn.
    fn shows(&self) -> Shows {
        match self.quiet || self.json {
            true => Shows::Nothing,
            false if std::io::stderr().is_terminal() => Shows::Bars,
            false => Shows::Lines,
        }
    }

    /// Returns a bar over `total` units, with the rate and the remaining time.
    pub fn bar(&self, what: &str, total: u64, unit: &str) -> ProgressBar {
        self.bar_from(what, 0, total, unit)
    }

    /// Returns a bar that starts at `from`; the rate counts only units after that.
    pub fn bar_from(&self, what: &str, from: u64, total: u64, unit: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        if let Some(watch) = &self.watch {
            bar.set_position(from);
            watch.show(what, unit, &bar);
            return bar;
        }
        let (target, template) = match self.shows() {
            Shows::Nothing => return bar,
            Shows::Bars => (ProgressDrawTarget::stderr(), "{prefix:<9} {wide_bar} {human_pos}/{human_len}  "),
            Shows::Lines => (
                ProgressDrawTarget::term_like_with_hz(Box::new(Lines::new()), 1),
                "{prefix}: {percent} %, {human_pos} of {human_len}  ",
            ),
        };
        let template = format!("{template}{{rate}} {unit}/s  {{left}} left  {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            // Since the start: an estimate from the last seconds says nothing where one batch takes longer than these.
            let begun = Instant::now();
            let per_second = move |pos: u64| pos.saturating_sub(from) as f64 / begun.elapsed().as_secs_f64();
            let rate = move |state: &ProgressState, out: &mut dyn fmt::Write| {
                let rate = per_second(state.pos());
                let _ = if rate < 10.0 { write!(out, "{rate:.2}") } else { write!(out, "{}", HumanCount(rate as u64)) };
            };
            let left = move |state: &ProgressState, out: &mut dyn fmt::Write| {
                let seconds = state.len().unwrap_or(0).saturating_sub(state.pos()) as f64 / per_second(state.pos());
                let _ = match Duration::try_from_secs_f64(seconds) {
                    Ok(left) => write!(out, "{:#}", HumanDuration(left)),
                    Err(_) => write!(out, "?"),
                };
            };
            bar.set_style(style.with_key("rate", rate).with_key("left", left));
        }
        bar.set_prefix(what.to_owned());
        bar.set_position(from);
        bar.set_draw_target(target);
        bar
    }
}

/// How progress is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    Nothing,
    Lines,
    Bars,
}
