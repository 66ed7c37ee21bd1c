//! Devices: memory and kernels beside the processor, behind the few operations that a driver has.
//!
//! A [`Device`] is a GPU, or an emulator of one in the tests. Kernels (`cu/`) give the bits of [`kernel`](crate::kernel), so
//! that a result does not depend on where it was computed:
//!
//! | on the CPU | on a device |
//! |---|---|
//! | 16 chains of a dense product, `c mod 16` | one half-warp per product, one lane per chain, and the same tree |
//! | 64 chains of a reduction | one warp, two chains per lane |
//! | a column of a sparse product, entries in order | one thread per column |
//! | `mul_add`; `*` and `+` | `__fmaf_rn`; both rounded, since the kernels are compiled without contraction |
//! | selection, ties to the lower latent | integers, by radix; appended in any order and then sorted |
//!
//! Nothing here is unsafe: memory is named by a [`Buffer`] only, a [`Launch`] is made only by the functions of this module, which
//! check every length, and what a driver does with both is its own concern.

pub mod check;
pub(crate) mod cofire;
pub(crate) mod kernels;
pub(crate) mod lists;
pub(crate) mod packing;
pub(crate) mod search;
pub(crate) mod selection;
pub(crate) mod sums;
pub(crate) mod training;
pub(crate) mod verdict;

pub use kernels::NAMES;

use crate::error::{Error, Result};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytemuck::Pod;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;

/// The kernels as PTX for devices of compute capability 8.0 and newer: made from `cu/` by `.ci/gpu`. Its first line has the
/// SHA-256 of the sources.
pub const PTX: &str = include_str!("cu/strata.ptx");

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Free now.
    pub free: usize,
    /// All of it.
    pub total: usize,
}

/// A part of the memory of a device, which a buffer owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    address: u64,
    bytes: usize,
}

impl Place {
    /// Returns the address, which the driver chose.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arg {
    bytes: [u8; Self::MOST],
    len: usize,
}

impl Arg {
    const MOST: usize = 32;

    /// Returns the bytes, as the kernel reads them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn of<T: Pod>(value: T) -> Self {
        let from = bytemuck::bytes_of(&value);
        let mut bytes = [0; Self::MOST];
        bytes[..from.len()].copy_from_slice(from);
        Self { bytes, len: from.len() }
    }
}

/// A kernel, and what it is started with.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    name: &'static str,
    grid: [u32; 2],
    block: u32,
    shared: u32,
    args: &'a [Arg],
}

impl<'a> Launch<'a> {
    /// Returns the name of the kernel, one of [`NAMES`].
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the number of blocks, in two dimensions.
    #[must_use]
    pub fn grid(&self) -> [u32; 2] {
        self.grid
    }

    /// Returns the number of threads of a block.
    #[must_use]
    pub fn block(&self) -> u32 {
        self.block
    }

    /// Returns the bytes of dynamic shared memory of a block.
    #[must_use]
    pub fn shared(&self) -> u32 {
        self.shared
    }

    /// Returns the arguments, in the order of the kernel's parameters.
    #[must_use]
    pub fn args(&self) -> &'a [Arg] {
        self.args
    }
}

/// The operations of a device. All of them run in the order of the calls; [`Driver::get`] and [`Driver::sync`] wait for the
/// end of what was started before.
///
/// # Errors
/// Each operation may return [`Error::Device`] with the driver's reason, and [`Driver::alloc`] also [`Error::Memory`].
pub trait Driver: Send + Sync {
    /// Returns the name of the device.
    fn name(&self) -> String;

    /// Returns how much memory there is.
    ///
    /// # Errors
    /// As all operations.
    fn memory(&self) -> Result<MemoryInfo>;

    /// Takes memory, aligned to 256 bytes, with any content; `bytes` is above 0.
    ///
    /// # Errors
    /// As all operations.
    fn alloc(&self, bytes: usize) -> Result<u64>;

    /// Gives memory back that [`Driver::alloc`] has returned.
    fn free(&self, place: Place);

    /// Copies to the device. `bytes` has the length of the place.
    ///
    /// # Errors
    /// As all operations.
    fn put(&self, place: Place, bytes: &[u8]) -> Result<()>;

    /// Copies from the device. `bytes` has the length of the place.
    ///
    /// # Errors
    /// As all operations.
    fn get(&self, place: Place, bytes: &mut [u8]) -> Result<()>;

    /// Sets all bytes to zero.
    ///
    /// # Errors
    /// As all operations.
    fn zero(&self, place: Place) -> Result<()>;

    /// Starts a kernel.
    ///
    /// # Errors
    /// As all operations.
    fn launch(&self, launch: &Launch<'_>) -> Result<()>;

    /// Waits for everything that was started.
    ///
    /// # Errors
    /// As all operations.
    fn sync(&self) -> Result<()>;
}

/// A device; clones are the same one.
#[derive(Clone)]
pub struct Device {
    driver: Arc<dyn Driver>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name())
    }
}

impl Device {
    /// Makes the device of a driver.
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        Self { driver }
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.driver.name()
    }

    /// Returns how much memory it has.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver does not answer.
    pub fn memory(&self) -> Result<MemoryInfo> {
        self.driver.memory()
    }

    /// Waits for everything that was started.
    ///
    /// # Errors
    /// [`Error::Device`] if a kernel has failed.
    pub fn sync(&self) -> Result<()> {
        self.driver.sync()
    }

    /// Checks that `bytes` more fit into the memory of the device.
    ///
    /// # Errors
    /// [`Error::Device`] with a sentence that says how much is free, and how much `what` needs.
    pub(crate) fn check_memory(&self, what: &str, bytes: usize) -> Result<()> {
        let free = self.memory()?.free;
        if bytes <= free {
            return Ok(());
        }
        let gib = |bytes: usize| bytes as f64 / f64::from(1u32 << 30);
        let [free, needed] = [gib(free), gib(bytes)];
        Err(Error::Device { what: alloc::format!("the GPU has {free:.1} GiB free, {what} needs {needed:.1}") })
    }

    /// Takes memory for `len` numbers, with any content.
    pub(crate) fn alloc<T: Pod>(&self, len: usize) -> Result<Buffer<T>> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(Error::Memory { what: "the GPU", bytes: usize::MAX })?;
        let address = self.driver.alloc(bytes.max(1))?;
        Ok(Buffer { device: self.clone(), address, len, of: PhantomData })
    }

    /// Takes memory and copies numbers there.
    pub(crate) fn upload<T: Pod>(&self, values: &[T]) -> Result<Buffer<T>> {
        let buffer = self.alloc(values.len())?;
        buffer.all().put(values)?;
        Ok(buffer)
    }
}

/// Numbers in the memory of a device, which is given back at the end.
pub(crate) struct Buffer<T> {
    device: Device,
    address: u64,
    len: usize,
    of: PhantomData<T>,
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer [{}] on {:?}", self.len, self.device)
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        self.device.driver.free(Place { address: self.address, bytes: (self.len * size_of::<T>()).max(1) });
    }
}

impl<T: Pod> Buffer<T> {
    /// Returns all of it.
    pub fn all(&self) -> Part<'_, T> {
        Part { device: &self.device, address: self.address, len: self.len, of: PhantomData }
    }

    /// Returns the numbers `range`.
    ///
    /// # Panics
    /// If they lie outside.
    pub fn part(&self, range: Range<usize>) -> Part<'_, T> {
        self.all().part(range)
    }

    /// Returns how many numbers there are.
    pub fn len(&self) -> usize {
        self.len
    }
}

/// Consecutive numbers of a buffer.
pub(crate) struct Part<'a, T> {
    device: &'a Device,
    address: u64,
    len: usize,
    of: PhantomData<&'a T>,
}

impl<T> Clone for Part<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Part<'_, T> {}

impl<'a, T: Pod> Part<'a, T> {
    /// Returns how many numbers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the same memory as bytes.
    pub fn bytes(self) -> Part<'a, u8> {
        Part { device: self.device, address: self.address, len: self.len * size_of::<T>(), of: PhantomData }
    }

    /// Returns the device that they lie on.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// Returns the numbers `range`.
    ///
    /// # Panics
    /// If they lie outside.
    pub fn part(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "numbers {range:?} of {}", self.len);
        Self { address: self.address + (range.start * size_of::<T>()) as u64, len: range.len(), ..self }
    }

    fn place(self) -> Place {
        Place { address: self.address, bytes: self.len * size_of::<T>() }
    }

    /// Copies numbers to the device.
    ///
    /// # Panics
    /// If they are not as many.
    pub fn put(self, values: &[T]) -> Result<()> {
        assert_eq!(values.len(), self.len, "numbers for a buffer");
        if values.is_empty() { Ok(()) } else { self.device.driver.put(self.place(), bytemuck::cast_slice(values)) }
    }

    /// Copies the numbers from the device.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn get(self, out: &mut [T]) -> Result<()> {
        assert_eq!(out.len(), self.len, "numbers of a buffer");
        if out.is_empty() { Ok(()) } else { self.device.driver.get(self.place(), bytemuck::cast_slice_mut(out)) }
    }

    /// Returns a copy of the numbers.
    pub fn to_vec(self) -> Result<Vec<T>> {
        let mut out = vec![T::zeroed(); self.len];
        self.get(&mut out)?;
        Ok(out)
    }

    /// Sets the numbers to zero.
    pub fn zero(self) -> Result<()> {
        if self.len == 0 { Ok(()) } else { self.device.driver.zero(self.place()) }
    }
}

/// Memory that is taken when it is first needed, and anew where more is needed.
#[derive(Debug)]
pub(crate) struct Slot<T>(Option<Buffer<T>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Pod> Slot<T> {
    /// Returns `len` numbers with any content; those that were there before are lost.
    pub fn room(&mut self, device: &Device, len: usize) -> Result<Part<'_, T>> {
        if self.0.as_ref().is_none_or(|buffer| buffer.len() < len) {
            // The memory is given back before more is taken.
            self.0 = None;
            self.0 = Some(device.alloc(len)?);
        }
        Ok(self.of(len))
    }

    /// Returns the first `len` numbers.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn of(&self, len: usize) -> Part<'_, T> {
        let Some(buffer) = &self.0 else { panic!("{len} numbers of no buffer") };
        buffer.part(0..len)
    }
}
