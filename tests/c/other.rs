//! Any other library in Rust that a host links statically, for instance a tokenizer.

/// The sum of all integers below `x`, by a thread, so that much of the standard library comes along.
#[unsafe(no_mangle)]
pub extern "C" fn other_sum(x: i32) -> i32 {
    std::thread::spawn(move || (0..x).sum()).join().unwrap_or(-1)
}
