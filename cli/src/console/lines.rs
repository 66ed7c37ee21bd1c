//! Progress on an output that is not a terminal: single lines, at intervals that grow with the time so far.

use indicatif::TermLike;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shorter work prints no progress.
const FIRST: Duration = Duration::from_secs(2);
/// Shortest time between two lines.
const LEAST: Duration = Duration::from_secs(5);
/// The time between two lines is at least this share of the time so far.
const PART: u32 = 20;

/// Standard error as a target of progress bars.
#[derive(Debug)]
pub(super) struct Lines {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    started: Instant,
    next: Duration,
    text: String,
}

impl Lines {
    pub(super) fn new() -> Self {
        let state = State { started: Instant::now(), next: FIRST, text: String::new() };
        Self { state: Mutex::new(state) }
    }
}

impl State {
    /// Returns the line to write after `elapsed`, if one is due, and clears what was drawn.
    fn line(&mut self, elapsed: Duration) -> Option<String> {
        let text = std::mem::take(&mut self.text);
        let text = text.trim();
        if text.is_empty() || elapsed < self.next {
            return None;
        }
        self.next = elapsed + LEAST.max(elapsed / PART);
        Some(text.to_owned())
    }
}

impl TermLike for Lines {
    fn width(&self) -> u16 {
        // Lines are never cut.
        1000
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).text.push_str(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = state.started.elapsed();
        if let Some(line) = state.line(elapsed) {
            // A closed standard error must not stop the work.
            let _ = writeln!(io::stderr(), "{line}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST, State};
    use std::time::{Duration, Instant};

    #[test]
    fn lines_come_less_and_less_often() {
        let mut state = State { started: Instant::now(), next: FIRST, text: String::new() };
        let mut at = Vec::new();
        for second in 0..1000 {
            state.text = format!("  second {second}  ");
            if let Some(line) = state.line(Duration::from_secs(second)) {
                assert_eq!(line, format!("second {second}"));
                at.push(second);
            }
        }
        assert_eq!(&at[..4], [2, 7, 12, 17]);
        assert!(at.len() < 70 && at.windows(2).all(|w| w[1] - w[0] >= 5), "{at:?}");
        state.text = "   ".into();
        assert_eq!(state.line(Duration::from_secs(2000)), None, "nothing was drawn");
    }
}
