#![allow(unsafe_code, reason = "the driver is C: its functions take addresses")]

use crate::device::{Device, Driver, Launch, MemoryInfo, NAMES, PTX, Place};
use crate::error::{Error, Result};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUfunction_attribute_enum as FunctionAttribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream};
use cudarc::nvrtc::Ptx;

/// Whether this build can compute on devices. Without it the code for that is left out.
pub const BUILT: bool = true;

/// The oldest compute capability that the kernels run on.
const OLDEST: (i32, i32) = (8, 0);

/// A GPU.
struct Gpu {
    context: Arc<CudaContext>,
    /// The default stream, with which copies keep their order.
    stream: Arc<CudaStream>,
    kernels: BTreeMap<&'static str, CudaFunction>,
    name: String,
}

fn device(what: impl Into<String>) -> Error {
    Error::Device { what: what.into() }
}

/// Returns the error that the driver gives for `doing`.
fn failed(doing: &str) -> impl Fn(DriverError) -> Error + '_ {
    move |error| device(format!("{doing}: the NVIDIA driver says {:?}", error.0))
}

/// Starts the driver, and returns the number of GPUs.
///
/// # Errors
/// [`Error::Device`] without a driver or a GPU.
pub fn count() -> Result<usize> {
    // SAFETY: the function only tries to load a library by the names that the driver's has.
    let is_present = unsafe { sys::is_culib_present() };
    if !is_present {
        return Err(device("no NVIDIA driver (libcuda.so is missing)"));
    }
    let none = || device("an NVIDIA driver is present, but no GPU");
    match result::init() {
        Ok(()) => {}
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(none()),
        Err(error) => return Err(failed("starting the driver")(error)),
    }
    match result::device::get_count().map_err(failed("counting the GPUs"))? {
        n if n > 0 => Ok(n as usize),
        _ => Err(none()),
    }
}

/// Opens GPU number `ordinal`, counted from 0, and hands it the kernels.
///
/// # Errors
/// [`Error::Device`] without a driver, without this GPU, or if it is too old.
pub fn open(ordinal: usize) -> Result<Device> {
    let n = count()?;
    if ordinal >= n {
        let are = if n == 1 { "there is 1 GPU" } else { &format!("there are {n} GPUs") };
        return Err(device(format!("{are}, numbered from 0, and none has number {ordinal}")));
    }
    let gpu = result::device::get(ordinal as i32).map_err(failed("opening the GPU"))?;
    let capability = |which| {
        // SAFETY: `gpu` was returned by `device::get`, as the function asks.
        let value = unsafe { result::device::get_attribute(gpu, which) };
        value.map_err(failed("asking the GPU for its compute capability"))
    };
    let found = (
        capability(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        capability(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    if found < OLDEST {
        let (major, minor) = found;
        return Err(device(format!("GPU {ordinal} has compute capability {major}.{minor}: 8.0 or newer is needed")));
    }
    let context = CudaContext::new(ordinal).map_err(failed("opening the GPU"))?;
    let name = context.name().map_err(failed("asking the GPU for its name"))?;
    let module = context.load_module(Ptx::from_src(PTX)).map_err(failed("loading the kernels"))?;
    let most = context
        .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        .map_err(failed("asking the GPU for its shared memory"))?;
    let mut kernels = BTreeMap::new();
    for name in NAMES {
        let kernel = module.load_function(name).map_err(failed("loading a kernel"))?;
        let own = kernel
            .get_attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
            .map_err(failed("asking for the shared memory of a kernel"))?;
        kernel
            .set_attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most - own)
            .map_err(failed("setting the shared memory of a kernel"))?;
        kernels.insert(name, kernel);
    }
    let stream = context.default_stream();
    let name = format!("{name}, compute capability {}.{}", found.0, found.1);
    Ok(Device::new(Arc::new(Gpu { context, stream, kernels, name })))
}

impl Gpu {
    /// Makes the GPU the one of this thread.
    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("using the GPU"))
    }
}

impl Driver for Gpu {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn memory(&self) -> Result<MemoryInfo> {
        let (free, total) = self.context.mem_get_info().map_err(failed("asking for free memory"))?;
        Ok(MemoryInfo { free, total })
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        // SAFETY: the content is unset, and nothing reads numbers that were not written before.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => Ok(address),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Err(Error::Memory { what: "the GPU", bytes }),
            Err(error) => Err(failed("taking memory of the GPU")(error)),
        }
    }

    fn free(&self, place: Place) {
        // What fails here has failed before: the next operation reports it.
        if self.bind().is_ok() {
            // SAFETY: the place was returned by `alloc`, is given back once by the buffer that owned it, and the driver waits for
            // the kernels that use it.
            let _ = unsafe { result::free_sync(place.address()) };
        }
    }

    fn put(&self, place: Place, bytes: &[u8]) -> Result<()> {
        assert_eq!(place.bytes(), bytes.len(), "bytes for a place");
        self.bind()?;
        // SAFETY: the place is of this device and has as many bytes; the copy is over when the function returns.
        unsafe { result::memcpy_htod_sync(place.address(), bytes) }.map_err(failed("copying to the GPU"))
    }

    fn get(&self, place: Place, bytes: &mut [u8]) -> Result<()> {
        assert_eq!(place.bytes(), bytes.len(), "bytes of a place");
        self.bind()?;
        // SAFETY: the place is of this device and has as many bytes; the copy is over when the function returns.
        unsafe { result::memcpy_dtoh_sync(bytes, place.address()) }.map_err(failed("copying from the GPU"))
    }

    fn zero(&self, place: Place) -> Result<()> {
        self.bind()?;
        let stream = self.stream.cu_stream();
        // SAFETY: the place is of this device; the stream is the one that all operations use.
        unsafe { result::memset_d8_async(place.address(), 0, place.bytes(), stream) }.map_err(failed("clearing memory"))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.bind()?;
        let kernel = &self.kernels[launch.name()];
        let mut args: Vec<*mut c_void> =
            launch.args().iter().map(|arg| arg.bytes().as_ptr().cast_mut().cast()).collect();
        let ([x, y], block) = (launch.grid(), launch.block());
        let stream = self.stream.cu_stream();
        // SAFETY: the kernel is of a module that the function keeps loaded. A `Launch` is made only by `device::kernels`, which
        // gives each kernel the arguments of its parameters, and buffers of the lengths that it works on; the driver copies the
        // arguments before it returns, and only reads them.
        unsafe {
            result::launch_kernel(kernel.cu_function(), (x, y, 1), (block, 1, 1), launch.shared(), stream, &mut args)
        }
        .map_err(|error| device(format!("kernel {}: the NVIDIA driver says {:?}", launch.name(), error.0)))
    }

    fn sync(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed("computing on the GPU"))
    }
}
