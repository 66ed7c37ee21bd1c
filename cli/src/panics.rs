//! Turns panics of libraries on hostile input into errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is expected and becomes an error.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, which calls a library that may panic on its input and whose objects are dropped or only read afterwards.
///
/// # Errors
/// The message of the panic, in one line. Nothing is printed.
pub(crate) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                print(info);
            }
        }));
    });
    EXPECTED.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    EXPECTED.set(false);
    result.map_err(|payload| message(payload.as_ref()).split_whitespace().collect::<Vec<_>>().join(" "))
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("it panicked")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(super::caught(|| 7), Ok(7));
        assert_eq!(super::caught(|| panic!("two\n  lines of {}", "it")), Err::<(), _>("two lines of it".into()));
        assert_eq!(super::caught(|| -> () { std::panic::panic_any(3) }), Err("it panicked".into()));
    }
}
