//! The allocator of the tests: it counts the requests of a thread, and refuses those that a test selects.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

struct Watching;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    /// The size from which on allocations are refused, and how many such allocations are granted first.
    static REFUSED: Cell<(usize, u64)> = const { Cell::new((usize::MAX, 0)) };
}

/// Counts an allocation and returns whether it is granted.
fn granted(size: usize) -> bool {
    // The counter is already destroyed while a thread ends.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
    let _ = BYTES.try_with(|n| n.set(n.get() + size));
    let _ = LARGEST.try_with(|n| n.set(n.get().max(size)));
    let granted = REFUSED.try_with(|refused| match refused.get() {
        (from, _) if size < from => true,
        (_, 0) => false,
        (from, before) => {
            refused.set((from, before - 1));
            true
        }
    });
    granted.unwrap_or(true)
}

// SAFETY: the system's allocator does everything; a refusal is what it would answer without memory.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if granted(layout.size()) { unsafe { System.alloc(layout) } } else { null_mut() }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if granted(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { null_mut() }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if granted(size) { unsafe { System.realloc(at, layout, size) } } else { null_mut() }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// Returns how often this thread allocates in `f`.
pub fn allocations(f: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    f();
    ALLOCATIONS.get() - before
}

/// Returns how many bytes this thread allocates in `f`, including those that it frees.
pub fn bytes<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let before = BYTES.get();
    (f(), BYTES.get() - before)
}

/// Returns the size in bytes of the largest allocation of this thread in `f`.
pub fn largest<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let before = LARGEST.replace(0);
    let out = f();
    let largest = LARGEST.get();
    LARGEST.set(before.max(largest));
    (out, largest)
}

/// Runs `f` with memory that gives this thread `before` pieces of `from` bytes or more, and no further one.
pub fn refusing<R>(from: usize, before: u64, f: impl FnOnce() -> R) -> R {
    REFUSED.set((from, before));
    let out = f();
    REFUSED.set((usize::MAX, 0));
    out
}
