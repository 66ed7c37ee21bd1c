//! A device on the processor: the kernels as C++, run by the emulator beside them.
#![allow(unsafe_code, reason = "the emulator is C++, and the addresses that it reads are of this process")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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

/// The orders of threads and blocks that tests run: ascending; descending and ascending, each warp ahead of the others as far as it can;
/// shuffled.
pub const ORDERS: [u32; 4] = [0, 1, 2, 77];

/// The number of bytes that a device of [`device`] has.
const ALL: usize = 1 << 34;

/// A block of memory, aligned as a GPU's.
#[derive(Clone, Copy)]
#[repr(align(256))]
struct Block([u8; 256]);

/// An error of a device that is planted for a test: after a launch of a kernel one bit of a buffer changes.
#[derive(Clone, Copy, Debug)]
pub struct Flaw {
    /// The kernel.
    pub kernel: &'static str,
    /// How many launches of it are right before, of those that count: the word that this argument is the address of is not 0.
    pub after: usize,
    /// See above.
    pub counts: usize,
    /// Which of its arguments is the address of the buffer.
    pub arg: usize,
    /// The 32-bit number whose last bit changes.
    pub index: usize,
}

struct Emulator {
    order: u32,
    total: usize,
    used: AtomicUsize,
    /// Whether something was started that the host has not waited for, and how often it has waited.
    started: AtomicBool,
    waits: Arc<AtomicUsize>,
    flaw: Option<(Flaw, AtomicUsize)>,
    /// The allocations by their addresses.
    memory: Mutex<BTreeMap<u64, Vec<Block>>>,
}

/// Returns a device that runs threads and blocks in an order: see [`ORDERS`]; others are shuffled.
pub fn device(order: u32) -> Device {
    limited(order, ALL)
}

/// [`device`] with `total` bytes of memory.
pub fn limited(order: u32, total: usize) -> Device {
    Device::new(Arc::new(Emulator::new(order, total)))
}

/// [`device`] with a number that counts how often the host has waited for it: an operation that a GPU orders behind what was started
/// before it, and that the host sees the end of.
pub fn counted(order: u32) -> (Device, Arc<AtomicUsize>) {
    let emulator = Emulator::new(order, ALL);
    let waits = emulator.waits.clone();
    (Device::new(Arc::new(emulator)), waits)
}

/// [`device`] with an error.
pub fn flawed(flaw: Flaw) -> Device {
    let flaw = Some((flaw, AtomicUsize::new(0)));
    Device::new(Arc::new(Emulator { flaw, ..Emulator::new(0, ALL) }))
}

impl Emulator {
    fn new(order: u32, total: usize) -> Self {
        Self {
            order,
            total,
            used: AtomicUsize::new(0),
            started: AtomicBool::new(false),
            waits: Arc::default(),
            flaw: None,
            memory: Mutex::default(),
        }
    }

    /// Waits for what was started.
    fn wait(&self) {
        if self.started.swap(false, Ordering::Relaxed) {
            self.waits.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Changes a bit where a test has planted an error.
    fn spoil(&self, launch: &Launch<'_>) {
        let Some((flaw, launches)) = self.flaw.as_ref().filter(|(flaw, _)| flaw.kernel == launch.name()) else {
            return;
        };
        let address = |arg: usize| u64::from_le_bytes(launch.args()[arg].bytes().try_into().expect("an address"));
        let mut memory = self.memory();
        let mut byte_of = |address: u64, change: u8| {
            let (base, blocks) = memory.range_mut(..=address).next_back().expect("an allocation");
            let byte = &mut blocks_mut(blocks)[GUARD + (address - base) as usize];
            *byte ^= change;
            *byte
        };
        if byte_of(address(flaw.counts), 0) != 0 && launches.fetch_add(1, Ordering::Relaxed) == flaw.after {
            byte_of(address(flaw.arg) + 4 * flaw.index as u64, 1);
        }
    }

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
            // Of whole slices, since it is done after each launch.
            if bytes[..GUARD] != [UNTOUCHED; GUARD] || bytes[end..] != [UNTOUCHED; GUARD] {
                return Err(Error::Device {
                    what: format!("kernel {name} has written beside a buffer of {} bytes", end - GUARD),
                });
            }
        }
        Ok(())
    }
}

/// Appends the name of a kernel that is launched for the first time to the file that a variable names: `.ci/mutations` then knows which
/// tests may find an error in it.
fn note_kernel(name: &'static str) {
    /// The file, and the names that it has.
    type Notes = Mutex<(File, BTreeSet<&'static str>)>;
    static NOTED: OnceLock<Option<Notes>> = OnceLock::new();
    let open = || {
        let file = OpenOptions::new().create(true).append(true).open(std::env::var_os("STRATA_KERNELS")?).ok()?;
        Some(Mutex::new((file, BTreeSet::new())))
    };
    let Some(noted) = NOTED.get_or_init(open) else { return };
    let (file, names) = &mut *noted.lock().unwrap_or_else(PoisonError::into_inner);
    if names.insert(name) {
        writeln!(file, "{name}").expect("a file that can be written");
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
        self.wait();
        self.with(place, |to| to.copy_from_slice(bytes));
        Ok(())
    }

    fn get(&self, place: Place, bytes: &mut [u8]) -> Result<()> {
        self.wait();
        self.with(place, |from| bytes.copy_from_slice(from));
        Ok(())
    }

    fn zero(&self, place: Place) -> Result<()> {
        self.started.store(true, Ordering::Relaxed);
        self.with(place, |bytes| bytes.fill(0));
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.started.store(true, Ordering::Relaxed);
        note_kernel(launch.name());
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
        self.spoil(launch);
        self.check_guards(launch.name())
    }

    fn sync(&self) -> Result<()> {
        self.wait();
        Ok(())
    }
}
