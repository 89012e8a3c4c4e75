//! A device for tests: its memory is the host's, and its kernels are `combine.cu` and `relayout.cu`, compiled as C++.
//!
//! What is put into a queue is not done then, but when something waits for it, and which queue goes on is left to
//! chance. So work that should have waited for other work will not, sooner or later, and a copy whose source is
//! overwritten too soon brings the wrong bytes. Work that touches memory that is not there, or misaligned, is a panic.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use libloading::Library;
use parking_lot::{Mutex, MutexGuard};

use super::cuda_host;
use super::device::{Device, DeviceInfo, Queue};
use super::launch::{DeviceKernel, Launch};
use crate::error::{Error, Result};

/// The tally of what has happened on a [`SimulatedDevice`] so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Bytes allocated now, and at most.
    pub(crate) bytes: usize,
    pub(crate) peak: usize,
    /// Bytes copied from the host.
    pub(crate) copied: usize,
    /// Launches of the combine kernel, those among them by rows, and launches of the relayout kernel.
    pub(crate) combined: usize,
    pub(crate) by_rows: usize,
    pub(crate) relaid: usize,
}

#[derive(Debug)]
pub(crate) struct SimulatedDevice {
    info: DeviceInfo,
    capacity: usize,
    state: Mutex<SimulatedState>,
}

#[derive(Debug, Default)]
struct SimulatedState {
    /// Memory by address.
    memory: BTreeMap<u64, Vec<u8>>,
    pinned: BTreeMap<usize, usize>,
    queues: HashMap<Queue, VecDeque<Work>>,
    /// Whether it has happened.
    events: HashMap<u64, bool>,
    /// Addresses and events are never given twice.
    next: u64,
    random: u64,
    tally: Tally,
}

#[derive(Debug)]
enum Work {
    Copy { to: u64, from: usize, bytes: usize },
    Move { from: u64, to: u64, bytes: usize },
    Launch(Box<Launch>),
    Record(u64),
    Wait(u64),
    Read { from: u64, to: Arc<Mutex<Vec<u8>>> },
}

impl SimulatedDevice {
    /// A device with this many bytes of memory. `seed` decides what is done when.
    pub(crate) fn new(capacity: usize, seed: u64) -> Self {
        let info =
            DeviceInfo { name: "host".to_owned(), ordinal: 0, architecture: 90, multiprocessors: 1, driver: (12, 8) };
        let state = SimulatedState { next: 1 << 20, random: seed | 1, ..SimulatedState::default() };
        Self { info, capacity, state: Mutex::new(state) }
    }

    /// Puts a use of memory into a queue; what it saw is there once the queue has come past it.
    pub(crate) fn read(&self, queue: Queue, from: u64, bytes: usize) -> Arc<Mutex<Vec<u8>>> {
        let to = Arc::new(Mutex::new(vec![0; bytes]));
        let work = Work::Read { from, to: Arc::clone(&to) };
        self.put(queue, work);
        to
    }

    fn put(&self, queue: Queue, work: Work) {
        self.lock().queues.entry(queue).or_default().push_back(work);
    }

    /// Does all that waits.
    pub(crate) fn finish(&self) {
        self.lock().until(|state| state.queues.values().all(VecDeque::is_empty));
    }

    pub(crate) fn tally(&self) -> Tally {
        self.lock().tally
    }

    fn lock(&self) -> MutexGuard<'_, SimulatedState> {
        self.state.lock()
    }
}

impl SimulatedState {
    /// Does work of some queue; whether there was any that could be done.
    fn step(&mut self) -> bool {
        let mut ready: Vec<Queue> = Vec::new();
        for (queue, work) in &self.queues {
            match work.front() {
                Some(Work::Wait(event)) if !self.events.get(event).copied().unwrap_or(true) => {}
                Some(_) => ready.push(*queue),
                None => {}
            }
        }
        if ready.is_empty() {
            return false;
        }
        ready.sort_by_key(|queue| format!("{queue:?}"));
        // Xorshift.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let queue = ready[(self.random >> 33) as usize % ready.len()];
        let work = self.queues.get_mut(&queue).and_then(VecDeque::pop_front).unwrap();
        match work {
            Work::Copy { to, from, bytes } => {
                let (start, length) = self.pinned.range(..=from).next_back().expect("a copy from memory that is gone");
                assert!(from + bytes <= start + length, "a copy from memory that is gone");
                // SAFETY: pinned memory that is still there, initialised when it was allocated.
                let source = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) }.to_vec();
                self.bytes_mut(to, bytes).copy_from_slice(&source);
                self.tally.copied += bytes;
            }
            Work::Move { from, to, bytes } => {
                let bytes = self.bytes(from, bytes).to_vec();
                self.bytes_mut(to, bytes.len()).copy_from_slice(&bytes);
            }
            Work::Launch(launch) => {
                kernels().lock().launch(&launch, &mut self.memory);
                match launch.kernel {
                    DeviceKernel::Combine => self.tally.combined += 1,
                    DeviceKernel::CombineByRows => {
                        self.tally.combined += 1;
                        self.tally.by_rows += 1;
                    }
                    DeviceKernel::Relayout => self.tally.relaid += 1,
                }
            }
            Work::Record(event) => {
                self.events.insert(event, true);
            }
            Work::Wait(_) => {}
            Work::Read { from, to } => {
                let mut to = to.lock();
                let bytes = self.bytes(from, to.len()).to_vec();
                to.copy_from_slice(&bytes);
            }
        }
        true
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            assert!(self.step(), "the queues wait for each other");
        }
    }

    fn bytes(&self, address: u64, bytes: usize) -> &[u8] {
        let (start, memory) = self.memory.range(..=address).next_back().expect("no such memory");
        &memory[(address - start) as usize..][..bytes]
    }

    fn bytes_mut(&mut self, address: u64, bytes: usize) -> &mut [u8] {
        let (start, memory) = self.memory.range_mut(..=address).next_back().expect("no such memory");
        &mut memory[(address - start) as usize..][..bytes]
    }
}

/// The kernels as a library of this machine's C++ compiler, made once. One launch at a time: a thread's index, and what
/// it may touch, are variables of the library's own.
fn kernels() -> &'static Mutex<Kernels> {
    static KERNELS: OnceLock<Option<Mutex<Kernels>>> = OnceLock::new();
    // Failed once, not for every test.
    let kernels = KERNELS.get_or_init(|| std::panic::catch_unwind(|| Mutex::new(Kernels::compile())).ok());
    kernels.as_ref().expect("the first test that failed says why there is nothing to run the kernels")
}

struct Kernels {
    library: Library,
    _folder: tempfile::TempDir,
}

impl Kernels {
    fn compile() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libhost.so");
        assert!(
            cuda_host::compile("host.cpp", &library),
            "the device of the tests needs a C++ compiler (`CXX` names it)"
        );
        // SAFETY: the library was just made of sources that are known, and runs nothing when it is loaded.
        let library = unsafe { Library::new(&library) }.unwrap();
        Self { library, _folder: folder }
    }

    /// Runs a kernel, which may read all memory, and write to that of its output alone.
    ///
    /// # Panics
    /// When the kernel touches anything else, or misaligned.
    fn launch(&mut self, launch: &Launch, memory: &mut BTreeMap<u64, Vec<u8>>) {
        type Run = unsafe extern "C" fn(u32, u32, *const u8) -> u64;
        let (name, out) = match launch.kernel {
            DeviceKernel::Combine => ("host_combine", u64_at(launch.bytes(), 16)),
            DeviceKernel::CombineByRows => ("host_combine_by_rows", u64_at(launch.bytes(), 16)),
            DeviceKernel::Relayout => ("host_relayout", u64_at(launch.bytes(), 24)),
        };
        let (&out, _) = memory.range(..=out).next_back().expect("no such memory");
        // SAFETY: the types are those of tests/cuda_host/host.cpp. The kernel touches only what is allowed here, which
        // is borrowed until the call ends.
        unsafe {
            self.library.get::<unsafe extern "C" fn()>(b"host_forget").unwrap()();
            let allow = self.library.get::<unsafe extern "C" fn(i32, u64, u64, *mut u8)>(b"host_allow").unwrap();
            for (&address, bytes) in memory {
                allow(i32::from(address == out), address, bytes.len() as u64, bytes.as_mut_ptr());
            }
            let run = self.library.get::<Run>(name.as_bytes()).unwrap();
            let faults = run(launch.geometry.blocks, launch.geometry.threads, launch.bytes().as_ptr());
            assert_eq!(faults, 0, "accesses outside of what there is, and (above bit 32) misaligned ones");
        }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

// SAFETY: addresses are looked up among the blocks that are allocated, with their sizes; pinned memory is a `Vec`'s,
// which lives until `free_pinned`, and copies end in the call that has them done.
unsafe impl Device for SimulatedDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn new_stream(&self) -> Result<u64> {
        let mut state = self.lock();
        state.next += 256;
        Ok(state.next)
    }

    fn free_stream(&self, stream: u64) {
        self.lock().until(|state| state.queues.get(&Queue::Foreign(stream)).is_none_or(VecDeque::is_empty));
    }

    fn memory(&self) -> Result<(usize, usize)> {
        Ok((self.capacity - self.lock().tally.bytes, self.capacity))
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let mut state = self.lock();
        if state.tally.bytes + bytes > self.capacity {
            return Err(Error::out_of_memory(bytes));
        }
        state.tally.bytes += bytes;
        state.tally.peak = state.tally.peak.max(state.tally.bytes);
        let address = state.next;
        // With a gap, so that what is read or written beyond the end is found.
        state.next = (address + bytes as u64 + 64).next_multiple_of(256);
        // NaNs, so that nothing goes unnoticed that was never written.
        state.memory.insert(address, vec![0xff; bytes]);
        Ok(address)
    }

    fn free(&self, address: u64) {
        let mut state = self.lock();
        let freed = state.memory.remove(&address).expect("freed twice");
        state.tally.bytes -= freed.len();
    }

    fn alloc_pinned(&self, bytes: usize) -> Result<NonNull<u8>> {
        let start = NonNull::from(Box::leak(vec![0u8; bytes].into_boxed_slice())).cast::<u8>();
        self.lock().pinned.insert(start.as_ptr().addr(), bytes);
        Ok(start)
    }

    fn free_pinned(&self, queue: Queue, start: NonNull<u8>, bytes: usize) {
        let mut state = self.lock();
        state.until(|state| state.queues.get(&queue).is_none_or(VecDeque::is_empty));
        assert_eq!(state.pinned.remove(&start.as_ptr().addr()), Some(bytes));
        // SAFETY: a boxed slice of `bytes` bytes, leaked by `alloc_pinned`, and forgotten here.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start.as_ptr(), bytes)) });
    }

    fn copy_in(&self, queue: Queue, to: u64, from: &[u8]) -> Result<()> {
        let work = Work::Copy { to, from: from.as_ptr().addr(), bytes: from.len() };
        self.put(queue, work);
        Ok(())
    }

    fn copy_out(&self, queue: Queue, from: u64, to: &mut [u8]) -> Result<()> {
        let mut state = self.lock();
        state.until(|state| state.queues.get(&queue).is_none_or(VecDeque::is_empty));
        to.copy_from_slice(state.bytes(from, to.len()));
        Ok(())
    }

    fn copy_within(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.put(Queue::Combine, Work::Move { from, to, bytes });
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        if launch.geometry.blocks > 0 {
            self.put(Queue::Combine, Work::Launch(Box::new(launch.clone())));
        }
        Ok(())
    }

    fn record(&self, queue: Queue) -> Result<u64> {
        let mut state = self.lock();
        let event = state.next;
        state.next += 256;
        state.events.insert(event, false);
        state.queues.entry(queue).or_default().push_back(Work::Record(event));
        Ok(event)
    }

    fn wait(&self, queue: Queue, event: u64) -> Result<()> {
        self.put(queue, Work::Wait(event));
        Ok(())
    }

    fn has_happened(&self, event: u64) -> Result<bool> {
        let mut state = self.lock();
        // Time passes while a caller only asks.
        state.step();
        Ok(state.events[&event])
    }

    fn synchronize(&self, event: u64) -> Result<()> {
        self.lock().until(|state| state.events[&event]);
        Ok(())
    }

    fn free_event(&self, event: u64) {
        // What waits for it still does; the driver keeps it as long.
        let mut state = self.lock();
        if state.events.get(&event) == Some(&true) {
            state.events.remove(&event);
        }
    }
}
