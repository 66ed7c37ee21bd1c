//! Strata in a program without std and without a libc: a model from buffers of the caller, one row encoded into buffers of
//! the caller, in memory of the caller. Nothing here links std, so a dependency that does is a compile error (E0152, two
//! panic handlers).

#![no_std]

extern crate alloc;

use alloc::sync::Arc;
use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::{ptr, slice};
use strata_core::format::weights;
use strata_core::model::{Scratch, SharedBytes};
use strata_core::{Codes, Compute, Encoder, Error, Isa, Par, Result};

/// The memory that the caller has given, from `NEXT` to `END`.
static NEXT: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);

/// Gives memory out, and never takes it back.
struct Bump;

// SAFETY: every block lies in the caller's memory, is aligned as asked, and begins where all earlier ones have ended.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut next = NEXT.load(Ordering::Relaxed);
        loop {
            let start = next.next_multiple_of(layout.align());
            let Some(end) = start.checked_add(layout.size()).filter(|end| *end <= END.load(Ordering::Relaxed)) else {
                return ptr::null_mut();
            };
            match NEXT.compare_exchange(next, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return ptr::with_exposed_provenance_mut(start),
                Err(now) => next = now,
            }
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Bump = Bump;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    unsafe extern "C" {
        fn stop(status: i32) -> !;
    }
    // SAFETY: `start.c` defines it so.
    unsafe { stop(101) }
}

/// Bytes of the caller, which stay as they are.
struct Bytes(&'static [u8]);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

/// What `start.c` gives.
#[repr(C)]
pub struct Job {
    /// All memory that there is.
    memory: *mut u8,
    memory_len: usize,
    /// The two files of a model.
    cfg: *const u8,
    cfg_len: usize,
    weights: *const u8,
    weights_len: usize,
    row: *const f32,
    d: usize,
    /// Of each level, `capacity` places.
    index: [*mut u32; 2],
    value: [*mut f32; 2],
    capacity: usize,
    /// Codes of each level.
    n: [usize; 2],
    /// Bytes of the memory that were used.
    used: usize,
}

fn encode(cfg: &[u8], weights: &'static [u8], row: &[f32]) -> Result<[Codes; 2]> {
    let weights: SharedBytes = Arc::new(Bytes(weights));
    let (model, _) = weights::read_model_shared(cfg, &weights)?;
    if row.len() != model.arch.d {
        return Err(Error::Shape { what: "row", expected: model.arch.d, got: row.len() });
    }
    let mut scratch = Scratch::new(&model.arch);
    let encoder = Encoder::new(Arc::new(model), Compute::new(Isa::baseline(), Par::Seq))?;
    let [mut codes1, mut codes2] = [Codes::new(), Codes::new()];
    encoder.encode(row, &mut scratch, &mut codes1, &mut codes2)?;
    Ok([codes1, codes2])
}

/// 0 if the codes are in the buffers, 1 if they do not fit, 2 for a model or a row that is none.
///
/// # Safety
/// `job` points to a job whose buffers are as long as it says. The weights stay as they are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn strata_no_std(job: *mut Job) -> i32 {
    // SAFETY: as the caller promises; so below.
    let job = unsafe { &mut *job };
    let memory = job.memory.expose_provenance();
    NEXT.store(memory, Ordering::Relaxed);
    END.store(memory + job.memory_len, Ordering::Relaxed);
    let cfg = unsafe { slice::from_raw_parts(job.cfg, job.cfg_len) };
    let weights = unsafe { slice::from_raw_parts(job.weights, job.weights_len) };
    let row = unsafe { slice::from_raw_parts(job.row, job.d) };
    let Ok(codes) = encode(cfg, weights, row) else { return 2 };
    for (l, codes) in codes.iter().enumerate() {
        job.n[l] = codes.index.len();
        if job.n[l] > job.capacity {
            return 1;
        }
        let index = unsafe { slice::from_raw_parts_mut(job.index[l], job.n[l]) };
        index.copy_from_slice(&codes.index);
        let value = unsafe { slice::from_raw_parts_mut(job.value[l], job.n[l]) };
        value.copy_from_slice(&codes.value);
    }
    job.used = NEXT.load(Ordering::Relaxed) - memory;
    0
}
