//! Proof that `strata-core` builds, reads a model and encodes without std: nothing here links it, so a dependency that
//! does is a compile error (E0152, two panic handlers).

#![no_std]

extern crate alloc;

use alloc::sync::Arc;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};
use strata_core::config::{Activation, Decoder, GateKind, ModelKind, Source};
use strata_core::format::weights;
use strata_core::model::{Arch, Id, Scratch};
use strata_core::{Codes, Encoder, Isa, Model, Par, Result};

const HEAP: usize = 4 << 20;

#[repr(C, align(64))]
struct Arena(UnsafeCell<[u8; HEAP]>);

// SAFETY: the allocator below hands out each byte at most once.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([0; HEAP]));
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Gives memory out, and never takes it back.
struct Bump;

// SAFETY: every block lies in the arena, is aligned as asked, and begins where all earlier ones have ended.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = ARENA.0.get().cast::<u8>();
        let mut next = NEXT.load(Ordering::Relaxed);
        loop {
            let start = (base as usize + next).next_multiple_of(layout.align()) - base as usize;
            let Some(end) = start.checked_add(layout.size()).filter(|end| *end <= HEAP) else {
                return ptr::null_mut();
            };
            match NEXT.compare_exchange(next, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return base.wrapping_add(start),
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

/// Four latents that read one number each, and two children of each: the first reads its parent's number, the second
/// twice the number after it, so that only the gate keeps latent 1 (drive 6, its parent silent) from winning.
fn model() -> Model {
    let (d, f1, f2) = (4, 4, 8);
    let arch = Arch {
        model: ModelKind::Tree,
        d,
        f1,
        f2,
        activation1: Activation::Topk,
        activation2: Activation::Topk,
        k1: 1.0,
        k2: 1.0,
        source: Source::X,
        decoder: Decoder::Cum,
        gate: GateKind::Hard,
    };
    let mut params = arch.zeros();
    for j in 0..f1 {
        params[Id::WEnc1][j * d + j] = 1.0;
        params[Id::WDec1][j * d + j] = 1.0;
        for (child, reads, weight) in [(2 * j, j, 1.0), (2 * j + 1, (j + 1) % d, 2.0)] {
            params[Id::WEnc2][child * d + reads] = weight;
            params[Id::WDec2][child * d + reads] = 1.0;
        }
    }
    Model { arch, params, parents: (0..f2 as u32).map(|j| j / 2).collect(), tau: [0.0; 2] }
}

fn encode() -> Result<bool> {
    let model = model();
    // There and back through the files' bytes, so that the readers are linked too.
    let (cfg, bytes) = (weights::write_cfg(&model.arch, &Default::default()), weights::write_weights(&model)?);
    let (read, _) = weights::read_model(&cfg, &bytes)?;
    let same = read == model;
    let encoder = Encoder::new(Arc::new(read), Isa::baseline(), Par::Seq)?;
    let (mut codes1, mut codes2) = (Codes::new(), Codes::new());
    let mut scratch = Scratch::new(&model.arch);
    encoder.encode(&[0.0, 3.0, 0.5, 0.0], &mut scratch, &mut codes1, &mut codes2)?;
    Ok(same
        && (&codes1.index[..], &codes1.value[..]) == (&[1][..], &[3.0][..])
        && (&codes2.index[..], &codes2.value[..]) == (&[2][..], &[3.0][..]))
}

/// 0 if the codes are right.
#[unsafe(no_mangle)]
pub extern "C" fn strata_no_std() -> i32 {
    match encode() {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(_) => 2,
    }
}
