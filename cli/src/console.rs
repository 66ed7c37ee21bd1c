//! What a person sees: progress bars, notes, interruption. Bars go to standard error, and only to a terminal.

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// When Ctrl-C was first pressed.
static INTERRUPTED: OnceLock<Instant> = OnceLock::new();
/// What comes sooner than this after the first Ctrl-C is the same one: some programs signal a process and its group.
const SAME: Duration = Duration::from_millis(500);

/// How much is said, and where.
pub struct Console<'a> {
    /// Results.
    pub out: &'a mut (dyn Write + Send),
    /// Notes and progress.
    pub err: &'a mut (dyn Write + Send),
    /// Nothing but results and errors.
    pub quiet: bool,
    /// Results as JSON.
    pub json: bool,
}

impl Console<'_> {
    /// A line on standard error, unless quiet.
    pub fn note(&mut self, line: impl AsRef<str>) {
        if !self.quiet {
            // A closed standard error must not stop the work.
            let _ = writeln!(self.err, "{}", line.as_ref());
        }
    }

    /// Writes a warning on standard error, quiet or not: a run that went wrong says so.
    pub fn warn(&mut self, sentence: impl AsRef<str>) {
        self.error(format!("warning: {}", sentence.as_ref()));
    }

    /// A line on standard error, quiet or not.
    pub fn error(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.err, "{}", line.as_ref());
    }

    /// A sign of life for work whose length is not known.
    pub fn spinner(&self, what: &'static str) -> ProgressBar {
        let spinner = ProgressBar::with_draw_target(None, self.target());
        if let Ok(style) = ProgressStyle::with_template("{msg} {elapsed} {spinner}") {
            spinner.set_style(style);
        }
        spinner.set_message(what);
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    }

    fn target(&self) -> ProgressDrawTarget {
        let visible = !self.quiet && !self.json && std::io::stderr().is_terminal();
        if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
    }

    /// A bar over `total` units, with units a second and the time left.
    pub fn bar(&self, what: &str, total: u64, unit: &str) -> ProgressBar {
        self.bar_from(what, 0, total, unit)
    }

    /// A bar that starts at `from`: the rate counts what comes after.
    pub fn bar_from(&self, what: &str, from: u64, total: u64, unit: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let template =
            format!("{{prefix:<9}} {{wide_bar}} {{human_pos}}/{{human_len}}  {{rate}} {unit}/s  {{eta}} left  {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
                let _ = write!(out, "{}", HumanCount(state.per_sec() as u64));
            };
            bar.set_style(style.with_key("rate", rate));
        }
        bar.set_prefix(what.to_owned());
        bar.set_position(from);
        bar.reset_eta();
        bar.set_draw_target(self.target());
        bar
    }
}

/// The error of work that Ctrl-C stopped.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted: nothing was written")
    }
}

impl std::error::Error for Interrupted {}

/// Makes the first Ctrl-C ask for an orderly end, and the second one end the process.
#[allow(clippy::disallowed_methods, reason = "the second Ctrl-C ends a process that does not come to its orderly end")]
pub fn listen_for_interrupt() {
    // A second call in one process (tests) keeps the first handler.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.get_or_init(Instant::now).elapsed() > SAME {
            std::process::exit(130);
        }
    });
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some()
}

/// Stops work that leaves nothing behind.
///
/// # Errors
/// [`Interrupted`] once Ctrl-C was pressed.
pub fn check_interrupt() -> Result<(), Interrupted> {
    if interrupted() { Err(Interrupted) } else { Ok(()) }
}
