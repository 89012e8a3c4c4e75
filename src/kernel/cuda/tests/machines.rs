//! What runs the kernels here without a GPU: their source, compiled as C++, and the code that NVRTC makes of it.

use std::sync::OnceLock;

use libloading::Library;
use parking_lot::Mutex;

use super::super::SOURCE;
use super::super::device::Architecture;
use super::super::form;
use super::super::launch::{Geometry, Parameter};
use super::super::nvrtc;
use super::{cuda_host, ptx};
use crate::kernel::input::Input;

/// The kernels, by their names in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    Combine,
    LayOut,
}

impl Kernel {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Combine => "taskbasis_combine",
            Self::LayOut => "taskbasis_lay_out",
        }
    }
}

pub(super) enum Machine {
    /// One at a time: the C++ keeps a thread's index, and what it may touch, in variables of its own.
    Host(Mutex<Host>),
    Ptx {
        target: String,
        kernels: [ptx::Kernel; 2],
    },
}

impl Machine {
    /// All that there are, made once; what is missing is said aloud. A test over none of them shows nothing.
    pub(super) fn all() -> &'static [Self] {
        static ALL: OnceLock<Option<Vec<Machine>>> = OnceLock::new();
        let make = || {
            let host = Host::compile().map(|host| Self::Host(Mutex::new(host)));
            host.into_iter().chain(Self::of_nvrtc()).collect()
        };
        // Failed once, not for every case of every property.
        let all = ALL.get_or_init(|| std::panic::catch_unwind(make).ok());
        all.as_ref().expect("the first test that failed says why there is nothing to run the kernels")
    }

    /// PTX of the oldest architecture that it is made for, of the newest, and of one between: they are not the same.
    fn of_nvrtc() -> Vec<Self> {
        let Some(nvrtc) = nvrtc::tests::nvrtc() else { return Vec::new() };
        let known = nvrtc.architectures();
        let of = |architecture: &Architecture| {
            let text = String::from_utf8(nvrtc.ptx(SOURCE, *architecture).unwrap().image).unwrap();
            let kernels = [Kernel::Combine, Kernel::LayOut].map(|kernel| ptx::Kernel::parse(&text, kernel.name()));
            Self::Ptx { target: format!("compute_{architecture}"), kernels }
        };
        known.iter().filter(|known| [75, 90].contains(*known)).chain(known.last()).map(of).collect()
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Host(_) => "C++",
            Self::Ptx { target, .. } => target,
        }
    }

    /// Launches a kernel, which may touch nothing but these ranges of memory. What was in `out` before is gone.
    ///
    /// # Panics
    /// When the kernel touches anything else, or misaligned.
    pub(super) fn launch<const BYTES: usize>(
        &self,
        kernel: Kernel,
        launch: &Parameter<BYTES>,
        readable: &[&Memory],
        out: &mut Memory,
    ) {
        out.words.fill(u128::MAX);
        match self {
            Self::Host(host) => host.lock().launch(kernel, launch, readable, out),
            Self::Ptx { kernels, .. } => {
                let readable = readable.iter().map(|memory| (memory.address(), memory.as_bytes())).collect();
                let mut memory = ptx::Memory::new(readable, out.address(), out.as_bytes_mut());
                let Geometry { blocks, threads, .. } = launch.geometry();
                kernels[kernel as usize].run(blocks, threads, launch.bytes(), &mut memory);
            }
        }
    }
}

/// A library of the source, compiled by this machine's C++ compiler.
pub(super) struct Host {
    library: Library,
    _folder: tempfile::TempDir,
}

impl Host {
    /// `None`, said aloud, where there is no C++ compiler.
    fn compile() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libhost.so");
        if !cuda_host::compile("host.cpp", &library) {
            return None;
        }
        // SAFETY: the library was just made of sources that are known, and runs nothing when it is loaded.
        let library = unsafe { Library::new(&library) }.unwrap();
        Some(Self { library, _folder: folder })
    }

    fn launch<const BYTES: usize>(
        &mut self,
        kernel: Kernel,
        launch: &Parameter<BYTES>,
        readable: &[&Memory],
        out: &mut Memory,
    ) {
        type Allow = unsafe extern "C" fn(i32, u64, u64);
        type Run = unsafe extern "C" fn(u32, u32, *const u8);
        let [name, size] = match kernel {
            Kernel::Combine => ["host_launch", "host_launch_bytes"],
            Kernel::LayOut => ["host_lay_out", "host_lay_out_bytes"],
        };
        let Geometry { blocks, threads, .. } = launch.geometry();
        // SAFETY: the types are those of tests/cuda_host/host.cpp. The kernel touches only what is allowed here, all
        // of it alive until the call ends, and `out` borrowed by nobody else.
        unsafe {
            let bytes = self.library.get::<unsafe extern "C" fn() -> u64>(size.as_bytes()).unwrap();
            assert_eq!(bytes() as usize, BYTES);
            self.library.get::<unsafe extern "C" fn()>(b"host_forget").unwrap()();
            let allow = self.library.get::<Allow>(b"host_allow").unwrap();
            readable.iter().for_each(|memory| allow(0, memory.address(), memory.bytes as u64));
            allow(1, out.address(), out.bytes as u64);
            let run = self.library.get::<Run>(name.as_bytes()).unwrap();
            run(blocks, threads, launch.bytes().as_ptr());
            let faults = self.library.get::<unsafe extern "C" fn() -> u64>(b"host_faults").unwrap()();
            assert_eq!(faults, 0, "accesses outside of what there is, and (above bit 32) misaligned ones");
        }
    }
}

/// Memory at an address as a device gives it, of exactly so many bytes.
pub(super) struct Memory {
    words: Vec<u128>,
    bytes: usize,
}

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        Self { words: vec![u128::MAX; bytes.div_ceil(16)], bytes }
    }

    pub(super) fn address(&self) -> u64 {
        self.words.as_ptr().addr() as u64
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        // SAFETY: any bytes may be read as such, and the words cover them.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.bytes) }
    }

    pub(super) fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; any bytes are words.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.bytes) }
    }

    /// An input's tiles.
    pub(super) fn of(input: Input<'_>) -> Self {
        let tiles = form::tiles(input.numel());
        let mut memory = Self::new(tiles * form::tile_bytes(form::format(input)));
        form::pack(input, 0..tiles, memory.as_bytes_mut()).unwrap();
        memory
    }
}
