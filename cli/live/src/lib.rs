//! What `strata report --live` computes in the browser. The page writes what it gives into the memory that [`reserve`] returns, and
//! reads what it gets where the other functions say. Functions that can fail return 0, or 1 with a sentence ([`text`]).

#![no_std]

extern crate alloc;

mod gpt;
mod session;

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use gpt::{Gpt, Shape};
use session::Session;
use strata_core::model::Edit;

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// All that lives between calls.
#[derive(Default)]
struct State {
    /// What the page gives, in words of 4 bytes.
    input: Vec<u32>,
    session: Option<Session>,
    text: String,
}

struct Cell(UnsafeCell<State>);

// SAFETY: a module has one thread.
unsafe impl Sync for Cell {}

static STATE: Cell = Cell(UnsafeCell::new(State { input: Vec::new(), session: None, text: String::new() }));

/// Calls `f` with the state.
fn with<R>(f: impl FnOnce(&mut State) -> R) -> R {
    // SAFETY: there is one thread, exported functions do not call each other, and none returns a reference.
    f(unsafe { &mut *STATE.0.get() })
}

/// Runs a call that can fail.
fn run(f: impl FnOnce(&mut State) -> Result<(), String>) -> u32 {
    with(|state| match f(state) {
        Ok(()) => 0,
        Err(text) => {
            state.text = text;
            1
        }
    })
}

fn session(session: &mut Option<Session>) -> Result<&mut Session, String> {
    session.as_mut().ok_or_else(|| "no model is loaded".into())
}

/// Returns the address of `bytes` bytes that the page may write.
#[unsafe(no_mangle)]
pub extern "C" fn reserve(bytes: usize) -> *mut u32 {
    with(|state| {
        state.input.clear();
        state.input.resize(bytes.div_ceil(4), 0);
        state.input.as_mut_ptr()
    })
}

fn bytes(input: &[u32]) -> &[u8] {
    // SAFETY: the same memory; bytes have no alignment, and every pattern is one.
    unsafe { core::slice::from_raw_parts(input.as_ptr().cast(), 4 * input.len()) }
}

/// Opens a model from `cfg` and `weights` bytes, which are in the input one after the other.
#[unsafe(no_mangle)]
pub extern "C" fn load(cfg: usize, weights: usize) -> u32 {
    run(|state| {
        let bytes = bytes(&state.input);
        let loaded = Session::new(&bytes[..cfg], &bytes[cfg..cfg + weights])?;
        state.session = Some(loaded);
        Ok(())
    })
}

/// Adds the language model in the first `len` bytes of the input.
#[unsafe(no_mangle)]
pub extern "C" fn load_language(len: usize, n_head: usize, epsilon: f32, layer: usize) -> u32 {
    run(|state| {
        let gpt = Gpt::read(&bytes(&state.input)[..len], Shape { n_head, epsilon })?;
        session(&mut state.session)?.set_language(gpt, layer)
    })
}

/// Reads the first `n` words of the input as tokens.
#[unsafe(no_mangle)]
pub extern "C" fn read(n: usize) -> u32 {
    run(|state| session(&mut state.session)?.read(&state.input[..n]))
}

/// Encodes the first `n` words of the input as rows of f32.
#[unsafe(no_mangle)]
pub extern "C" fn rows(n: usize) -> u32 {
    run(|state| {
        let x: Vec<f32> = state.input[..n].iter().map(|bits| f32::from_bits(*bits)).collect();
        session(&mut state.session)?.rows(&x)
    })
}

/// Begins to write text `which`, 0 or 1, after the first `n` words of the input, with `n_edits` edits that follow them: level, latent,
/// and the bits of the strength.
#[unsafe(no_mangle)]
pub extern "C" fn begin(which: usize, n: usize, n_edits: usize, temperature: f32, seed: u32) -> u32 {
    run(|state| {
        let edit = |e: &[u32]| Edit { level: e[0] as usize, latent: e[1], strength: f32::from_bits(e[2]), set: false };
        let edits = state.input[n..n + 3 * n_edits].chunks_exact(3).map(edit).collect();
        session(&mut state.session)?.begin(which.min(1), &state.input[..n], edits, temperature, seed.into())
    })
}

/// Writes one more token of text `which`, and puts it into the first word of the input.
#[unsafe(no_mangle)]
pub extern "C" fn next(which: usize) -> u32 {
    run(|state| {
        let token = session(&mut state.session)?.next(which.min(1))?;
        state.input.clear();
        state.input.push(token);
        Ok(())
    })
}

/// Returns the address of the input.
#[unsafe(no_mangle)]
pub extern "C" fn input() -> *const u32 {
    with(|state| state.input.as_ptr())
}

/// Returns the number of rows that were encoded.
#[unsafe(no_mangle)]
pub extern "C" fn n_rows() -> usize {
    with(|state| state.session.as_ref().map_or(0, |session| session.missed.len()))
}

/// Returns the address of a list of level 0 or 1: the ends of rows, the latents, or their activations; or of the share of each row
/// that is not explained.
#[unsafe(no_mangle)]
pub extern "C" fn list(level: usize, which: usize) -> *const u32 {
    with(|state| {
        let Some(session) = &state.session else { return core::ptr::null() };
        let found = &session.found[level.min(1)];
        match which {
            0 => found.ends.as_ptr(),
            1 => found.index.as_ptr(),
            2 => found.value.as_ptr().cast(),
            _ => session.missed.as_ptr().cast(),
        }
    })
}

/// Returns the address of the sentence about the last failure.
#[unsafe(no_mangle)]
pub extern "C" fn text() -> *const u8 {
    with(|state| state.text.as_ptr())
}

/// Returns its length.
#[unsafe(no_mangle)]
pub extern "C" fn text_len() -> usize {
    with(|state| state.text.len())
}
