//! The heap: from the end of the static data to the end of the RAM. Memory that is freed last is used again, other memory is
//! not: all that stays is allocated once, when the program starts.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

unsafe extern "C" {
    static heap_start: u8;
    static heap_end: u8;
}

/// The end of the memory that is given out, and the highest that it has been.
static NEXT: AtomicUsize = AtomicUsize::new(0);
static HIGHEST: AtomicUsize = AtomicUsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Heap;

fn start() -> usize {
    (&raw const heap_start).addr()
}

/// Returns the most bytes of the heap that were in use at any time.
pub fn used() -> usize {
    HIGHEST.load(Ordering::Relaxed).saturating_sub(start())
}

/// Returns how often memory was asked for.
pub fn allocations() -> usize {
    ALLOCATIONS.load(Ordering::Relaxed)
}

// SAFETY: blocks lie between the two symbols of the linker script, are aligned as asked, and begin where the last one that is
// still used has ended. The program has one thread, and no interrupt allocates.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        let next = NEXT.load(Ordering::Relaxed).max(start());
        let at = next.next_multiple_of(layout.align());
        let end = at + layout.size();
        if end > (&raw const heap_end).addr() {
            return ptr::null_mut();
        }
        NEXT.store(end, Ordering::Relaxed);
        HIGHEST.fetch_max(end, Ordering::Relaxed);
        ptr::with_exposed_provenance_mut(at)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if at.addr() + layout.size() == NEXT.load(Ordering::Relaxed) {
            NEXT.store(at.addr(), Ordering::Relaxed);
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        let is_last = at.addr() + layout.size() == NEXT.load(Ordering::Relaxed);
        let end = at.addr() + size;
        if is_last && end <= (&raw const heap_end).addr() {
            NEXT.store(end, Ordering::Relaxed);
            HIGHEST.fetch_max(end, Ordering::Relaxed);
            return at;
        }
        // SAFETY: the sizes are those of the caller, who promises that they are valid.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(at, new, layout.size().min(size));
                self.dealloc(at, layout);
            }
            new
        }
    }
}

#[global_allocator]
static HEAP: Heap = Heap;
