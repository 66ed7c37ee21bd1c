//! A device on the processor: the kernels as C++, run by the emulator beside them.
#![allow(unsafe_code, reason = "the emulator is C++, and the addresses that it reads are of this process")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use strata_core::device::{Device, Driver, Launch, MemoryInfo, Place};
use strata_core::{Error, Result};

unsafe extern "C" {
    fn strata_emulate(
        name: *const c_char,
        grid: *const u32,
        block: *const u32,
        shared: u32,
        order: u32,
        args: *const *const c_void,
        why: *mut c_char,
        room: usize,
    ) -> c_int;
}

/// Bytes before and behind each allocation that no kernel may write.
const GUARD: usize = 256;
/// What they hold.
const UNTOUCHED: u8 = 0xa5;

/// The orders of threads and blocks that tests run: ascending, descending, shuffled.
pub const ORDERS: [u32; 3] = [0, 1, 77];

/// The number of bytes that a device of [`device`] has.
const ALL: usize = 1 << 34;

/// A block of memory, aligned as a GPU's.
#[derive(Clone, Copy)]
#[repr(align(256))]
struct Block([u8; 256]);

struct Emulator {
    order: u32,
    total: usize,
    used: AtomicUsize,
    /// The allocations by their addresses.
    memory: Mutex<BTreeMap<u64, Vec<Block>>>,
}

/// Returns a device that runs threads and blocks in an order: 0 ascending, 1 descending, others shuffled.
pub fn device(order: u32) -> Device {
    limited(order, ALL)
}

/// [`device`] with `total` bytes of memory.
pub fn limited(order: u32, total: usize) -> Device {
    Device::new(Arc::new(Emulator { order, total, used: AtomicUsize::new(0), memory: Mutex::default() }))
}

impl Emulator {
    fn memory(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<Block>>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f` with the bytes of a place.
    fn with<R>(&self, place: Place, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut memory = self.memory();
        let (base, blocks) = memory.range_mut(..=place.address()).next_back().expect("an allocation");
        let bytes: &mut [u8] = blocks_mut(blocks);
        let from = GUARD + (place.address() - base) as usize;
        assert!(from + place.bytes() <= bytes.len() - GUARD, "a place within its allocation");
        f(&mut bytes[from..from + place.bytes()])
    }

    /// Returns an error if a kernel has written beside an allocation.
    fn check_guards(&self, name: &str) -> Result<()> {
        for blocks in self.memory().values_mut() {
            let bytes = blocks_mut(blocks);
            let end = bytes.len() - GUARD;
            if bytes[..GUARD].iter().chain(&bytes[end..]).any(|b| *b != UNTOUCHED) {
                return Err(Error::Device {
                    what: format!("kernel {name} has written beside a buffer of {} bytes", end - GUARD),
                });
            }
        }
        Ok(())
    }
}

fn blocks_mut(blocks: &mut [Block]) -> &mut [u8] {
    let n = size_of_val(blocks);
    // SAFETY: a block is 256 bytes without padding, so that consecutive ones are as many bytes in a row.
    unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast(), n) }
}

impl Driver for Emulator {
    fn name(&self) -> String {
        "emulator".into()
    }

    fn memory(&self) -> Result<MemoryInfo> {
        Ok(MemoryInfo { free: self.total - self.used.load(Ordering::Relaxed), total: self.total })
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        if self.used.fetch_add(bytes, Ordering::Relaxed) + bytes > self.total {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Error::Memory { what: "the GPU", bytes });
        }
        // Numbers that were never written are NaN. What lies behind the last of them up to the guard may be written, unnoticed.
        let mut blocks = vec![Block([0xff; 256]); 2 + bytes.div_ceil(256)];
        blocks[0] = Block([UNTOUCHED; 256]);
        *blocks.last_mut().expect("two blocks") = Block([UNTOUCHED; 256]);
        let address = blocks[1].0.as_ptr() as u64;
        self.memory().insert(address, blocks);
        Ok(address)
    }

    fn free(&self, place: Place) {
        self.used.fetch_sub(place.bytes(), Ordering::Relaxed);
        self.memory().remove(&place.address()).expect("memory that was taken");
    }

    fn put(&self, place: Place, bytes: &[u8]) -> Result<()> {
        self.with(place, |to| to.copy_from_slice(bytes));
        Ok(())
    }

    fn get(&self, place: Place, bytes: &mut [u8]) -> Result<()> {
        self.with(place, |from| bytes.copy_from_slice(from));
        Ok(())
    }

    fn zero(&self, place: Place) -> Result<()> {
        self.with(place, |bytes| bytes.fill(0));
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let ([x, y], mut why) = (launch.grid(), [0u8; 256]);
        let args: Vec<*const c_void> = launch.args().iter().map(|arg| arg.bytes().as_ptr().cast()).collect();
        let name = CString::new(launch.name()).expect("a name without zeros");
        // SAFETY: the arrays are as long as the function reads, and the arguments are those of the kernel's parameters, since
        // `Launch` is made only by core; the kernel writes to the memory of its buffers.
        let failed = unsafe {
            strata_emulate(
                name.as_ptr(),
                [x, y, 1].as_ptr(),
                [launch.block(), 1, 1].as_ptr(),
                launch.shared(),
                self.order,
                args.as_ptr(),
                why.as_mut_ptr().cast(),
                why.len(),
            )
        };
        if failed != 0 {
            let why = CStr::from_bytes_until_nul(&why).map(|why| why.to_string_lossy().into_owned());
            return Err(Error::Device { what: why.unwrap_or_default() });
        }
        self.check_guards(launch.name())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}
