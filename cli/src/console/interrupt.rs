//! The end of a command that was asked for from outside: Ctrl-C, SIGTERM, a limit on the size of files.

use crate::files;
use std::fmt;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
#[cfg(unix)]
use std::sync::{Arc, atomic::AtomicBool};
use std::thread;
use std::time::{Duration, Instant};

/// When Ctrl-C was first pressed.
static INTERRUPTED: OnceLock<Instant> = OnceLock::new();
/// What comes sooner than this after the first Ctrl-C is the same one: some programs signal a process and its group.
const SAME: Duration = Duration::from_millis(500);
/// How long work has to come to an orderly end. Some of it (a metric of many latents, a tokenizer) looks for an
/// interrupt only now and then.
const GRACE: Duration = Duration::from_secs(2);
/// Pieces of work that come to an end by themselves, and lose something if they cannot.
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

/// Work that looks at [`interrupted`] itself and then saves what it has: the process waits for it.
#[derive(Debug)]
pub struct Orderly(());

impl Orderly {
    /// Begins such work, which lasts until the result is dropped.
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

/// Makes the first Ctrl-C (or SIGTERM) ask for an orderly end, and the second one end the process. The process also ends
/// where nothing has come to an end [`GRACE`] after the first one, unless there is [`Orderly`] work: one signal is
/// enough, wherever the command is.
pub fn listen_for_interrupt() {
    // A second call in one process (tests) keeps the first handler.
    let _ = ctrlc::set_handler(|| {
        let is_first = INTERRUPTED.get().is_none();
        if INTERRUPTED.get_or_init(Instant::now).elapsed() > SAME {
            leave();
        }
        // Without memory for a thread this one waits; it then sees no second Ctrl-C.
        if is_first && thread::Builder::new().name("deadline".into()).spawn(wait_and_leave).is_err() {
            wait_and_leave();
        }
    });
    writes_past_a_limit_fail();
}

/// Turns the signal of a write beyond the limit on the size of files into an error of that write.
fn writes_past_a_limit_fail() {
    #[cfg(unix)]
    {
        // Whether it came does not matter. Where the signal cannot be caught it ends the process, as it always did.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::<AtomicBool>::default());
    }
}

fn wait_and_leave() {
    loop {
        thread::sleep(GRACE);
        if ORDERLY.load(Ordering::SeqCst) == 0 {
            leave();
        }
    }
}

/// Ends the process, without what was not finished.
#[allow(clippy::disallowed_methods, reason = "this is for work that does not come to its orderly end")]
fn leave() -> ! {
    files::remove_unfinished();
    // A closed standard error must not stop the end.
    let _ = writeln!(std::io::stderr(), "{Interrupted}");
    std::process::exit(i32::from(crate::INTERRUPTED))
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
