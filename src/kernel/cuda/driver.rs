//! A GPU, through the CUDA driver: `libcuda` (on Windows `nvcuda.dll`), which comes with NVIDIA's driver and is loaded
//! when it is first needed.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use cudarc::driver::result::{self, DriverError, device, event, module, primary_ctx, stream};
use cudarc::driver::sys;
use parking_lot::Mutex;

use super::device::{Device, DeviceInfo, Queue};
use super::launch::{DeviceKernel, Launch};
use crate::error::{Error, ErrorKind, Result};

/// The kernels, as PTX, of which the driver makes machine code: `scripts/make-ptx` says how they came about.
const KERNELS: &str = concat!(include_str!("kernels.ptx"), "\0");

/// CUDA 11.4, whose driver has all functions that are used here, and knows the kernels' version of PTX.
const MIN_VERSION: i32 = 11_040;

/// The compute capability that the kernels are for, and every newer one: 7.5.
const MIN_ARCHITECTURE: u32 = 75;

/// A GPU, with the kernels loaded. It lives in the device's primary context, which every user of the CUDA runtime in
/// this process shares, ONNX Runtime among them: addresses of one are those of the other.
#[derive(Debug)]
pub(super) struct Driver {
    info: DeviceInfo,
    device: sys::CUdevice,
    context: sys::CUcontext,
    copy: sys::CUstream,
    combine: sys::CUstream,
    module: sys::CUmodule,
    combine_kernel: sys::CUfunction,
    combine_by_rows_kernel: sys::CUfunction,
    relayout_kernel: sys::CUfunction,
}

// SAFETY: handles of the driver, whose functions may be called from any thread.
unsafe impl Send for Driver {}
// SAFETY: the driver's functions may be called from any thread, and by several at once.
unsafe impl Sync for Driver {}

/// The GPU of this number: as it is open elsewhere in this process, else opened now.
///
/// # Errors
/// Those of [`Driver::open`].
pub(super) fn open(ordinal: usize) -> Result<Arc<Driver>> {
    static OPEN: Mutex<Vec<(usize, Weak<Driver>)>> = Mutex::new(Vec::new());

    // Held meanwhile, so that another thread finds what this one opens.
    let mut open = OPEN.lock();
    open.retain(|(_, driver)| driver.strong_count() > 0);
    if let Some(driver) = open.iter().find(|(number, _)| *number == ordinal).and_then(|(_, driver)| driver.upgrade()) {
        return Ok(driver);
    }
    let driver = Arc::new(Driver::open(ordinal)?);
    open.push((ordinal, Arc::downgrade(&driver)));
    Ok(driver)
}

/// Loads the driver. The newest CUDA that it knows, as it counts: 12080 is 12.8.
fn init() -> Result<i32> {
    let missing = |message: &str| {
        Error::new(ErrorKind::RuntimeMissing, message).hint("Install NVIDIA's driver, or run on the CPU")
    };
    // `cudarc` panics where the library is not there, so that is asked first.
    // SAFETY: loading the driver's library runs only its own initialisers.
    if !unsafe { sys::is_culib_present() } {
        let library = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
        return Err(missing("the library of the CUDA driver was not found").expected(library));
    }
    let mut version = 0;
    // SAFETY: writes one number. It may be asked before anything else.
    let answer = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    answer.map_err(|e| missing("the CUDA driver does not answer").because(text(e)))?;
    if version < MIN_VERSION {
        return Err(missing("the CUDA driver is too old")
            .expected("one for CUDA 11.4 or newer")
            .got(version_text(version)));
    }
    result::init().map_err(|e| missing("the CUDA driver finds no GPU that it can use").because(text(e)))?;
    Ok(version)
}

/// `7.5` for 75.
fn capability(architecture: u32) -> String {
    format!("{}.{}", architecture / 10, architecture % 10)
}

fn version_text(version: i32) -> String {
    format!("one for CUDA {}.{}", version / 1000, version % 1000 / 10)
}

impl Driver {
    /// The GPU of this number, with the kernels loaded: the driver compiles them the first time, and keeps the result.
    ///
    /// # Errors
    /// [`ErrorKind::RuntimeMissing`] without a driver or a GPU; [`ErrorKind::NotFound`] for a number beyond the last;
    /// [`ErrorKind::Unsupported`] for a GPU that is too old; [`ErrorKind::Runtime`] with the driver's words.
    fn open(ordinal: usize) -> Result<Self> {
        let version = init()?;
        let count = device::get_count().map_err(failed("cannot count the GPUs"))?;
        let number = i32::try_from(ordinal).ok().filter(|&number| number < count).ok_or_else(|| {
            Error::not_found(format!("there is no GPU {ordinal}")).expected(format_args!("below {count}"))
        })?;
        let device = device::get(number).map_err(failed("cannot find the GPU"))?;
        let attribute = |attribute| {
            // SAFETY: the device was just found.
            unsafe { device::get_attribute(device, attribute) }.map_err(failed("cannot ask the GPU what it is"))
        };
        use sys::CUdevice_attribute_enum as Attribute;
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let info = DeviceInfo {
            name: device::get_name(device).map_err(failed("cannot ask the GPU what it is"))?,
            ordinal: number.unsigned_abs(),
            architecture: (10 * major + minor).unsigned_abs(),
            multiprocessors: multiprocessors.unsigned_abs(),
            driver: ((version / 1000).unsigned_abs(), (version % 1000 / 10).unsigned_abs()),
        };
        if info.architecture < MIN_ARCHITECTURE {
            return Err(Error::unsupported(format!("{} is too old for the kernels", info.name))
                .expected(format_args!("a GPU of compute capability {} or newer", capability(MIN_ARCHITECTURE)))
                .got(capability(info.architecture)));
        }
        // SAFETY: the device was just found.
        let context = unsafe { primary_ctx::retain(device) }.map_err(failed("cannot use the GPU"))?;
        // What was made by then is given back where a later step fails.
        let mut driver = Self {
            info,
            device,
            context,
            copy: std::ptr::null_mut(),
            combine: std::ptr::null_mut(),
            module: std::ptr::null_mut(),
            combine_kernel: std::ptr::null_mut(),
            combine_by_rows_kernel: std::ptr::null_mut(),
            relayout_kernel: std::ptr::null_mut(),
        };
        let here = driver.enter()?;
        driver.copy = stream::create(stream::StreamKind::NonBlocking).map_err(failed("cannot make a stream"))?;
        driver.combine = stream::create(stream::StreamKind::NonBlocking).map_err(failed("cannot make a stream"))?;
        let refused = |e: DriverError| {
            Error::new(ErrorKind::Runtime, format!("the driver, {}, refuses the kernels", version_text(version)))
                .because(text(e))
        };
        // SAFETY: PTX that is committed, with a zero at its end.
        driver.module = unsafe { module::load_data(KERNELS.as_ptr().cast()) }.map_err(refused)?;
        let function = |name: &std::ffi::CStr| {
            // SAFETY: the module was just loaded.
            unsafe { module::get_function(driver.module, name.to_owned()) }.map_err(refused)
        };
        driver.combine_kernel = function(c"taskbasis_combine")?;
        driver.combine_by_rows_kernel = function(c"taskbasis_combine_by_rows")?;
        driver.relayout_kernel = function(c"taskbasis_relayout")?;
        drop(here);
        Ok(driver)
    }

    /// Makes the device's context that of this thread, until what it gives is dropped. Meanwhile nothing that others
    /// capture concerns this thread: while another thread captures a CUDA graph, as ONNX Runtime does, memory could not
    /// be allocated otherwise, nor events be asked, and the capture would fail as well. What is asked for here is never
    /// part of a graph.
    fn enter(&self) -> Result<Entered> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { sys::cuCtxPushCurrent_v2(self.context) }.result().map_err(failed("cannot use the GPU"))?;
        Ok(Entered { captures: exchange(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED), here: PhantomData })
    }

    /// Calls the driver in the device's context.
    fn call<T>(&self, doing: &'static str, call: impl FnOnce() -> Result<T, DriverError>) -> Result<T> {
        let _here = self.enter()?;
        call().map_err(failed(doing))
    }

    fn stream(&self, queue: Queue) -> sys::CUstream {
        match queue {
            Queue::Copy => self.copy,
            Queue::Combine => self.combine,
            Queue::Foreign(stream) => std::ptr::with_exposed_provenance_mut(stream as usize),
        }
    }
}

/// Sets how captures of other threads concern this one; gives the mode of before.
fn exchange(mut mode: sys::CUstreamCaptureMode) -> sys::CUstreamCaptureMode {
    // SAFETY: reads and writes one number. Where it fails, `mode` stays, and is set again in the end.
    let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) };
    mode
}

/// Makes a context this thread's while it lives. It stays on the thread that it was made on.
struct Entered {
    captures: sys::CUstreamCaptureMode,
    here: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        exchange(self.captures);
        let mut context = std::ptr::null_mut();
        // SAFETY: `enter` pushed one, on this thread.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&raw mut context) };
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let entered = self.enter();
        // SAFETY: everything was made by `open` in this context, is used nowhere else, and is given back once. What
        // fails now can neither be told nor helped.
        unsafe {
            if entered.is_ok() {
                if !self.module.is_null() {
                    let _ = module::unload(self.module);
                }
                for stream in [self.copy, self.combine].into_iter().filter(|stream| !stream.is_null()) {
                    let _ = stream::destroy(stream);
                }
            }
            drop(entered);
            let _ = primary_ctx::release(self.device);
        }
    }
}

// SAFETY: memory and its size are the driver's; `cuMemHostAlloc` gives memory that stays until `cuMemFreeHost`, filled
// with zeros here; `free_pinned` waits for the queue before, and `copy_out` for its copy.
unsafe impl Device for Driver {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn new_stream(&self) -> Result<u64> {
        let made = self.call("cannot make a stream", || stream::create(stream::StreamKind::NonBlocking))?;
        Ok(made.expose_provenance() as u64)
    }

    fn free_stream(&self, stream: u64) {
        if let Ok(_here) = self.enter() {
            let stream = self.stream(Queue::Foreign(stream));
            // SAFETY: `new_stream` made it, and `CudaStream` gives it back once.
            unsafe {
                let _ = stream::synchronize(stream);
                let _ = stream::destroy(stream);
            }
        }
    }

    fn memory(&self) -> Result<(usize, usize)> {
        self.call("cannot ask how much memory is free", result::mem_get_info)
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        // SAFETY: nothing is asked of the caller but not to use it before it is written.
        self.call("cannot allocate memory of the GPU", || unsafe { result::malloc_sync(bytes) })
    }

    fn free(&self, address: u64) {
        if let Ok(_here) = self.enter() {
            // SAFETY: `alloc` gave it, `Memory` frees it once, and no work that uses it is left.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn alloc_pinned(&self, bytes: usize) -> Result<NonNull<u8>> {
        // SAFETY: any number of bytes may be asked for.
        let start = self.call("cannot allocate pinned memory", || unsafe { result::malloc_host(bytes, 0) })?;
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(|| Error::out_of_memory(bytes))?;
        // SAFETY: `bytes` bytes were just allocated.
        unsafe { start.write_bytes(0, bytes) };
        Ok(start)
    }

    fn free_pinned(&self, queue: Queue, start: NonNull<u8>, _bytes: usize) {
        if let Ok(_here) = self.enter() {
            // SAFETY: the stream outlives the `Pinned`; after it nothing uses the memory, which `alloc_pinned` gave and
            // `Pinned` frees once.
            unsafe {
                let _ = stream::synchronize(self.stream(queue));
                let _ = result::free_host(start.as_ptr().cast());
            }
        }
    }

    fn copy_in(&self, queue: Queue, to: u64, from: &[u8]) -> Result<()> {
        // SAFETY: `from` is part of a `Pinned`, which waits for this stream at its end.
        self.call("cannot copy to the GPU", || unsafe { result::memcpy_htod_async(to, from, self.stream(queue)) })
    }

    fn copy_out(&self, queue: Queue, from: u64, to: &mut [u8]) -> Result<()> {
        let stream = self.stream(queue);
        // SAFETY: `to` is borrowed until the stream has come to the copy's end, or to a failure that ends all its work.
        self.call("cannot copy from the GPU", || unsafe {
            let copied = result::memcpy_dtoh_async(to, from, stream);
            let ended = stream::synchronize(stream);
            copied.and(ended)
        })
    }

    fn copy_within(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: both are memory that `alloc` gave, and that stays until an event after this copy.
        self.call("cannot copy on the GPU", || unsafe { result::memcpy_dtod_async(to, from, bytes, self.combine) })
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let geometry = launch.geometry;
        if geometry.blocks == 0 {
            return Ok(());
        }
        let kernel = match launch.kernel {
            DeviceKernel::Combine => self.combine_kernel,
            DeviceKernel::CombineByRows => self.combine_by_rows_kernel,
            DeviceKernel::Relayout => self.relayout_kernel,
        };
        let mut parameters = [launch.bytes().as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the kernel's one parameter, of its size at least and of its alignment, which the driver copies during
        // the call; the module stays loaded as long as `self` lives. The addresses in it are those of memory that stays
        // until an event after this launch.
        self.call("cannot launch the kernel", || unsafe {
            let (grid, block) = ((geometry.blocks, 1, 1), (geometry.threads, 1, 1));
            result::launch_kernel(kernel, grid, block, 0, self.combine, &mut parameters)
        })
    }

    fn record(&self, queue: Queue) -> Result<u64> {
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let made = self.call("cannot make an event", || event::create(flags))?;
        let raw = made.expose_provenance() as u64;
        // SAFETY: the event was just made. A foreign stream is the caller's word.
        let recorded = self.call("cannot record an event", || unsafe { event::record(made, self.stream(queue)) });
        recorded.map(|()| raw).inspect_err(|_| self.free_event(raw))
    }

    fn wait(&self, queue: Queue, event: u64) -> Result<()> {
        let (stream, flags) = (self.stream(queue), sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT);
        // SAFETY: `Event` keeps it; the driver keeps what waits for it. A foreign stream is the caller's word.
        self.call("cannot wait for an event", || unsafe { stream::wait_event(stream, raw(event), flags) })
    }

    fn has_happened(&self, event: u64) -> Result<bool> {
        // SAFETY: `Event` keeps it.
        self.call("work on the GPU failed", || match unsafe { event::query(raw(event)) } {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            answer => answer.map(|()| true),
        })
    }

    fn synchronize(&self, event: u64) -> Result<()> {
        // SAFETY: `Event` keeps it.
        self.call("work on the GPU failed", || unsafe { event::synchronize(raw(event)) })
    }

    fn free_event(&self, event: u64) {
        if let Ok(_here) = self.enter() {
            // SAFETY: `record` made it, and `Event` frees it once. One that has not happened yet is kept by the driver.
            let _ = unsafe { event::destroy(raw(event)) };
        }
    }
}

fn raw(event: u64) -> sys::CUevent {
    std::ptr::with_exposed_provenance_mut(event as usize)
}

/// Turns an error of the driver into ours.
fn failed(doing: &'static str) -> impl Fn(DriverError) -> Error {
    move |e| {
        let kind = match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => ErrorKind::OutOfMemory,
            _ => ErrorKind::Runtime,
        };
        Error::new(kind, doing).because(text(e))
    }
}

/// Name and text of an error: `CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected`.
fn text(e: DriverError) -> String {
    let words = |words: Result<&std::ffi::CStr, DriverError>| words.map(|s| s.to_string_lossy().into_owned());
    match (words(e.error_name()), words(e.error_string())) {
        (Ok(name), Ok(what)) => format!("{name}: {what}"),
        _ => format!("{:?}", e.0),
    }
}
