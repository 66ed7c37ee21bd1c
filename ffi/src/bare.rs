//! What the library has in place of std: memory from the C library, contexts for one thread at a time, and no way to go on after
//! a panic.

use crate::failure::{Failure, Outcome};
use crate::params::params;
use crate::status::STRATA_STATUS_BUSY;
use alloc::sync::Arc;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::panic::PanicInfo;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};
use strata_core::Encoder;

unsafe extern "C" {
    safe fn abort() -> !;
    fn malloc(size: usize) -> *mut c_void;
    fn calloc(n: usize, size: usize) -> *mut c_void;
    fn realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn free(block: *mut c_void);
    fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> i32;
}

/// The memory of the C library.
struct Libc;

/// The alignment of every block of `malloc`.
const ALIGN: usize = 2 * size_of::<usize>();

// SAFETY: blocks of `malloc` and its relatives are as large and, up to `ALIGN`, as aligned as asked; those of `posix_memalign` are
// as aligned as asked, which is a power of two and a multiple of the size of a pointer where it is above `ALIGN`. `free` and, up to
// `ALIGN`, `realloc` take the blocks of each of them.
unsafe impl GlobalAlloc for Libc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGN {
            // SAFETY: any size will do.
            return unsafe { malloc(layout.size()) }.cast();
        }
        let mut block = ptr::null_mut();
        // SAFETY: `block` may be written to, and the alignment is a power of two above the size of a pointer.
        let status = unsafe { posix_memalign(&mut block, layout.align(), layout.size()) };
        if status == 0 { block.cast() } else { ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGN {
            // SAFETY: any size will do.
            return unsafe { calloc(1, layout.size()) }.cast();
        }
        // SAFETY: as the caller promises.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block has this size.
            unsafe { ptr::write_bytes(block, 0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the block comes from above.
        unsafe { free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= ALIGN {
            // SAFETY: the block comes from above.
            return unsafe { realloc(block.cast(), size) }.cast();
        }
        // SAFETY: the caller promises that this size can be rounded up to the alignment.
        let layout_after = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as the caller promises.
        let to = unsafe { self.alloc(layout_after) };
        if !to.is_null() {
            // SAFETY: both blocks have as many bytes, and are different.
            unsafe { ptr::copy_nonoverlapping(block, to, size.min(layout.size())) };
            // SAFETY: the block comes from above, and is not used any more.
            unsafe { self.dealloc(block, layout) };
        }
        to
    }
}

#[global_allocator]
static MEMORY: Libc = Libc;

/// A panic is a bug in Strata. Without std nothing can catch it, and to go on would compute with what it left half changed.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    abort()
}

// The tables of the compiled `core` and `alloc` name it. Nothing calls it, since nothing unwinds; hidden, so that it is no symbol of
// the library, and weak, so that it gives way where another static library has one.
core::arch::global_asm!(".weak rust_eh_personality", ".hidden rust_eh_personality", "rust_eh_personality:");

/// Runs the body of an exported function.
pub(crate) fn run(body: impl FnOnce() -> Outcome) -> Outcome {
    body()
}

/// A value that one thread at a time may use.
#[derive(Debug)]
pub struct Guarded<T> {
    is_used: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `with` gives the value to one thread at a time.
unsafe impl<T: Send> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self { is_used: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Calls `f` with the value.
    ///
    /// # Errors
    /// Those of `f`; [`STRATA_STATUS_BUSY`] while another thread uses the value.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> Outcome<R>) -> Outcome<R> {
        if self.is_used.swap(true, Ordering::Acquire) {
            return Err(Failure::new(STRATA_STATUS_BUSY, "another thread is using this handle at this moment"));
        }
        // SAFETY: no one else uses the value until `is_used` is false again.
        let outcome = f(unsafe { &mut *self.value.get() });
        self.is_used.store(false, Ordering::Release);
        outcome
    }
}

/// The copies of a model on devices, of which there are none.
#[derive(Default)]
pub(crate) struct Copies(());

impl Copies {
    /// Returns the encoder of device 0, the CPU.
    pub fn get(&self, encoder: &Arc<Encoder>, device: u32) -> Outcome<Arc<Encoder>> {
        if device == 0 {
            Ok(encoder.clone())
        } else {
            Err(params("params: device: expected 0, the CPU, since this library is built without devices"))
        }
    }
}
