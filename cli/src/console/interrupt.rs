//! Signals that end a command: Ctrl-C, SIGTERM, and the signal of a limit on the size of files.

use crate::files;
use std::fmt;
use std::io::Write;
#[cfg(unix)]
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Whether work is asked to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The time at which Ctrl-C was first pressed.
static PRESSED: OnceLock<Instant> = OnceLock::new();
/// A signal within this time after the first one counts as the same: some programs signal a process and its group.
const SAME: Duration = Duration::from_millis(500);
/// Time for an orderly end. Some work (a metric of many latents, a tokenizer) checks for an interrupt only rarely.
const GRACE: Duration = Duration::from_secs(2);
/// Number of running pieces of work that end by themselves and would lose data if they were stopped.
static ORDERLY: AtomicUsize = AtomicUsize::new(0);

/// The error of work that Ctrl-C stopped.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted: nothing was written")
    }
}

impl std::error::Error for Interrupted {}

/// Work that checks [`interrupted`] itself and then saves its data: the process waits for it.
#[derive(Debug)]
pub struct Orderly(());

impl Orderly {
    /// Marks the beginning of such work; it ends when the result is dropped.
    pub fn begin() -> Self {
        ORDERLY.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Orderly {
    fn drop(&mut self) {
        ORDERLY.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Makes the first Ctrl-C (or SIGTERM) request an orderly end, and the second one end the process. The process also
/// ends if the command has not ended [`GRACE`] after the first signal, unless there is [`Orderly`] work. One signal is
/// thus enough, wherever the command is.
pub fn listen_for_interrupt() {
    // A second call in one process (tests) keeps the first handler.
    let _ = ctrlc::set_handler(|| {
        let is_first = PRESSED.get().is_none();
        ask_to_stop();
        if PRESSED.get_or_init(Instant::now).elapsed() > SAME {
            leave();
        }
        // If there is no memory for another thread, this one waits, and does not see a second Ctrl-C.
        if is_first && thread::Builder::new().name("deadline".into()).spawn(wait_and_leave).is_err() {
            wait_and_leave();
        }
    });
    writes_past_a_limit_fail();
}

/// Turns the signal for a write beyond the limit on the size of files into an error of that write.
fn writes_past_a_limit_fail() {
    #[cfg(unix)]
    {
        // The flag is not needed: catching the signal is enough to make the write fail. If it cannot be caught, it ends
        // the process, as it would without this function.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::<AtomicBool>::default());
    }
}

/// Ends the process after [`GRACE`], or once no [`Orderly`] work is left.
fn wait_and_leave() {
    loop {
        thread::sleep(GRACE);
        if ORDERLY.load(Ordering::SeqCst) == 0 {
            leave();
        }
    }
}

/// Ends the process. Unfinished files are lost.
#[allow(clippy::disallowed_methods, reason = "the work did not end in time, so `main` cannot return the exit code")]
fn leave() -> ! {
    files::remove_unfinished();
    // A closed standard error must not stop the exit.
    let _ = writeln!(std::io::stderr(), "{Interrupted}");
    std::process::exit(i32::from(crate::INTERRUPTED))
}

/// Asks all running commands of this process to end as Ctrl-C does: for a host that has its own signals, and that calls
/// [`forget_interrupt`] once they have ended.
pub fn ask_to_stop() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Withdraws [`ask_to_stop`], so that later commands run.
pub fn forget_interrupt() {
    INTERRUPTED.store(false, Ordering::SeqCst);
}

/// Returns whether Ctrl-C was pressed, or the host asked to stop.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Stops work that needs no orderly end.
///
/// # Errors
/// [`Interrupted`] once Ctrl-C was pressed.
pub fn check_interrupt() -> Result<(), Interrupted> {
    if interrupted() { Err(Interrupted) } else { Ok(()) }
}
