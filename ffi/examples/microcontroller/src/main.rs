//! Strata on a microcontroller: no operating system, no libc, no std. The weights of a 64 + 256 model stay in flash, in 8 bits;
//! one row is encoded, and its codes are printed through the debugger.
//!
//! ```sh
//! strata convert --to int8 RUN firmware
//! STRATA_MODEL=firmware/sae cargo build --release --target thumbv7em-none-eabihf
//! ```

#![no_std]
#![no_main]

extern crate alloc;

mod board;
mod memory;

use alloc::sync::Arc;
use alloc::vec::Vec;
use board::print;
use strata_core::format::weights::read_packed;
use strata_core::model::SharedBytes;
use strata_core::{Compute, Isa, Par, Result};

/// The files of a model, at addresses from which their numbers can be read in place.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static CFG: &[u8] = include_bytes!(env!("MODEL_CFG"));
static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("MODEL_WEIGHTS")));

/// Bytes in flash.
struct Flash(&'static [u8]);

impl AsRef<[u8]> for Flash {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

fn encode() -> Result<()> {
    let weights: SharedBytes = Arc::new(Flash(&WEIGHTS.0));
    let (model, origin) = read_packed(CFG, &weights, Compute::new(Isa::baseline(), Par::Seq))?;
    let arch = model.arch();
    let [f1, f2] = arch.latents();
    print!("{f1} + {f2} latents of rows of {}, {}", arch.d, origin.hook.as_deref().unwrap_or("any hook point"));

    // One row at a time. All working memory is allocated here.
    let mut scratch = model.scratch(1);
    // In a product: the activations of the network, from wherever it leaves them.
    let x: Vec<f32> = (0..arch.d).map(row).collect();
    let before = memory::allocations();
    model.encode_block(&x, &mut scratch)?;
    print!("encoding allocated {} times", memory::allocations() - before);
    let [parents, children] = scratch.codes();
    for (name, codes) in [("parent", parents), ("child", children)] {
        for (index, value) in codes.index.iter().zip(&codes.value) {
            print!("{name} {index} = {value} ({:08x})", value.to_bits());
        }
    }
    Ok(())
}

/// A row that needs no sensor.
fn row(i: usize) -> f32 {
    (i * 37 % 64) as f32 / 8.0 - 4.0
}

/// Called by the start-up code, with all memory in place.
fn main() -> u32 {
    if let Err(error) = encode() {
        print!("microcontroller: {error}");
        return 1;
    }
    let (heap, stack, fixed) = (memory::used(), board::stack_used(), board::static_bytes());
    print!("RAM: {} bytes: heap {heap}, stack {stack}, static {fixed}", heap + stack + fixed);
    0
}
