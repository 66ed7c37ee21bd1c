//! The proof in WebAssembly: `prove` computes, `text` and `text_len` say where its lines lie in the memory of the module.

#![no_std]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use strata_core::Isa;

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// The lines. A module has one thread.
struct Text(UnsafeCell<String>);

// SAFETY: there is one thread.
unsafe impl Sync for Text {}

static TEXT: Text = Text(UnsafeCell::new(String::new()));

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// Computes the proof. Returns 0, or 1 with the error as the text.
#[unsafe(no_mangle)]
pub extern "C" fn prove() -> u32 {
    let (text, status) = match proof::prove(Isa::baseline()) {
        Ok(proof) => (proof.lines(), 0),
        Err(error) => (format!("{error}\n"), 1),
    };
    // SAFETY: there is one thread, and no reference to the text outlives a call.
    unsafe { *TEXT.0.get() = text };
    status
}

/// Returns the address of the text.
#[unsafe(no_mangle)]
pub extern "C" fn text() -> *const u8 {
    // SAFETY: as above.
    unsafe { (&*TEXT.0.get()).as_ptr() }
}

/// Returns its length in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn text_len() -> usize {
    // SAFETY: as above.
    unsafe { (&*TEXT.0.get()).len() }
}
