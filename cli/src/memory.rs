//! Out of memory: one sentence and exit code 1, not an abort.
//!
//! Large allocations are announced to [`check`] before work begins. For all others [`Allocator`] reports a failed
//! allocation and ends the process.

use anyhow::{Result, bail};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    /// Whether this thread only probes an allocation.
    static TRYING: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread is reporting that there is no memory.
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// Refuses work that needs `bytes` of memory if the machine, the container or the limits of the process have less.
///
/// # Errors
/// One sentence: `what`, which names the sizes that cause it, needs that much.
pub(crate) fn check(bytes: u128, what: impl FnOnce() -> String) -> Result<()> {
    TRYING.set(true);
    let is_given = usize::try_from(bytes).is_ok_and(|n| Vec::<u8>::new().try_reserve_exact(n).is_ok());
    TRYING.set(false);
    if !is_given || most_bytes().is_some_and(|most| bytes > most) {
        let amount = match bytes >> 30 {
            0 => format!("{} MB", bytes >> 20),
            gigabytes => format!("{gigabytes} GB"),
        };
        bail!("{} at least {amount} of memory", what());
    }
    Ok(())
}

/// Returns the memory of the machine, or the limit of the process group of this process. Known on Linux only.
pub(crate) fn most_bytes() -> Option<u128> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:").map(str::to_owned))?;
        Some(line.split_whitespace().next()?.parse::<u128>().ok()? * 1024)
    });
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(group).min()
}

/// The allocator of the operating system; where an allocation fails, the process ends with a sentence.
pub struct Allocator;

// SAFETY: every call is forwarded to `System`, which fulfils the contract. A null pointer, as from `System`, is
// returned only where `check` probes; otherwise the process ends, which never returns and does not unwind.
#[allow(unsafe_code, reason = "there is no other way to be told that the system has no memory; see the SAFETY comment")]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is that of this function.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is that of this function.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is that of this function.
        given(unsafe { System.realloc(old, layout, size) }, size)
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is that of this function.
        unsafe { System.dealloc(old, layout) }
    }
}

fn given(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() && !TRYING.get() {
        end(size);
    }
    pointer
}

/// Reports that `size` bytes are not available, and ends the process. Unfinished files are lost.
#[allow(clippy::disallowed_methods, reason = "an allocator can neither return an error nor unwind")]
fn end(size: usize) -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    if TELLING.replace(true) {
        // Removing unfinished files would take memory, too. The next command that writes there removes them.
        std::process::exit(1);
    }
    if ENDING.swap(true, Ordering::SeqCst) {
        // Another thread is ending the process.
        loop {
            std::thread::park();
        }
    }
    let mut line = [0; 96];
    let room = line.len();
    let mut rest = &mut line[..];
    let _ = writeln!(rest, "error: out of memory: an allocation needs {size} bytes more");
    let n = room - rest.len();
    let _ = std::io::stderr().write_all(&line[..n]);
    crate::files::remove_unfinished();
    std::process::exit(1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_no_machine_has_is_refused() {
        assert!(super::check(1 << 20, || unreachable!()).is_ok());
        for (bytes, amount) in [(1 << 60, "1073741824 GB"), (u128::MAX, "GB of memory")] {
            let error = super::check(bytes, || "`x` needs".into()).expect_err("too much").to_string();
            assert!(error.starts_with("`x` needs at least ") && error.contains(amount), "{error}");
        }
    }
}
