//! Processor time and memory that this process has used so far, from `/proc`.

use std::fs;

/// Ticks of `/proc/self/stat` per second: the same on every Linux, whatever the kernel's own clock.
const TICKS_PER_S: f64 = 100.0;

/// Use of the machine; `None` where the operating system does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time in seconds, over all threads and including the kernel's.
    pub cpu_s: Option<f64>,
    /// The largest resident memory, mapped files included.
    pub peak_resident_bytes: Option<u64>,
}

impl Usage {
    /// Measures this process, from its start until now.
    pub fn now() -> Self {
        Self {
            cpu_s: fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_s),
            peak_resident_bytes: fs::read_to_string("/proc/self/status").ok().as_deref().and_then(peak_resident_bytes),
        }
    }
}

/// Parses `utime + stime`, fields 14 and 15. The name of the program, field 2, is in brackets and may contain blanks.
fn cpu_s(stat: &str) -> Option<f64> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / TICKS_PER_S)
}

fn peak_resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
