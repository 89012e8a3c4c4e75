//! A device that is none: its memory is the host's, its kernel the specification. For tests.
//!
//! What is put into a queue is not done then, but when somebody waits for it, and which queue goes on is left to
//! chance. So work that should have waited for other work will not, sooner or later, and a copy whose source is
//! overwritten too soon brings the wrong bytes. Work that touches memory that is not there is a panic.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::device::{Device, Info, Queue};
use super::form::{self, TILE};
use super::lay_out::LayOut;
use super::table::Launch;
use crate::error::{Error, Result};
use crate::kernel::cast;
use crate::tensor::VectorFormat;
use crate::tensor::{BlockFormat, DType};

/// What has happened on a [`HostDevice`] so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Bytes allocated now, and at most.
    pub(crate) bytes: usize,
    pub(crate) peak: usize,
    /// Bytes copied from the host.
    pub(crate) copied: usize,
    pub(crate) launches: usize,
    /// Launches of the kernel for layouts.
    pub(crate) laid_out: usize,
}

#[derive(Debug)]
pub(crate) struct HostDevice {
    info: Info,
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By address.
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
    Combine(Vec<u8>),
    LayOut(Vec<u8>),
    Record(u64),
    Wait(u64),
    Read { from: u64, to: Arc<Mutex<Vec<u8>>> },
}

impl HostDevice {
    /// With so many bytes of memory. `seed` decides what is done when.
    pub(crate) fn new(capacity: usize, seed: u64) -> Self {
        let info = Info { name: "host".to_owned(), ordinal: 0, architecture: 90, multiprocessors: 1, driver: (12, 8) };
        let state = State { next: 1 << 20, random: seed | 1, ..State::default() };
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
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
            Work::Combine(launch) => {
                self.combine(&launch);
                self.tally.launches += 1;
            }
            Work::LayOut(launch) => {
                self.lay_out(&launch);
                self.tally.laid_out += 1;
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

    /// What the kernel does, read from the table as it reads it, element by element by the bit contract.
    fn combine(&mut self, launch: &[u8]) {
        let (segments, terms, out) = (u64_at(launch, 0), u64_at(launch, 8), u64_at(launch, 16));
        let (count, tiles, active) = (u32_at(launch, 24), u32_at(launch, 28), u32_at(launch, 36));
        let active: Vec<(u32, f32)> = (0..active as usize)
            .map(|k| (u32_at(launch, 40 + 8 * k), f32::from_bits(u32_at(launch, 44 + 8 * k))))
            .collect();
        let all = self.bytes(segments, 32 * count as usize).to_vec();
        let segment = |i: u32| &all[32 * i as usize..][..32];
        for i in 0..count {
            let here = segment(i);
            let end = if i + 1 < count { u32_at(segment(i + 1), 16) } else { tiles };
            let (base_format, first_term) = (u32_at(here, 20), u32_at(here, 24));
            let active = if u32_at(here, 28) == 1 { active.as_slice() } else { &[] };
            for tile in 0..end - u32_at(here, 16) {
                let values = |format: u32, address: u64| {
                    let format = format_of(format);
                    let bytes = form::tile_bytes(format);
                    form::unpack(format, self.bytes(address + u64::from(tile) * bytes as u64, bytes))
                };
                let mut sums = vec![0.0f32; TILE];
                for &(term, coefficient) in active {
                    let term = self.bytes(terms + 16 * u64::from(first_term + term), 16);
                    let values = values(u32_at(term, 8), u64_at(term, 0));
                    sums.iter_mut().zip(values).for_each(|(sum, v)| *sum = f32::mul_add(coefficient, v, *sum));
                }
                if base_format != 0 {
                    let base = values(base_format, u64_at(here, 0));
                    for (sum, base) in sums.iter_mut().zip(base) {
                        *sum = if active.is_empty() { base } else { base + *sum };
                    }
                }
                let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
                let to = out + u64_at(here, 8) + u64::from(tile) * 4 * TILE as u64;
                self.bytes_mut(to, bytes.len()).copy_from_slice(&bytes);
            }
        }
    }

    /// What the kernel for layouts does, by the text in `lay_out.cu` on its table.
    fn lay_out(&mut self, launch: &[u8]) {
        let (segments, parts, dimensions) = (u64_at(launch, 0), u64_at(launch, 8), u64_at(launch, 16));
        for i in 0..u64::from(u32_at(launch, 32)) {
            let segment = self.bytes(segments + 32 * i, 32).to_vec();
            let mut sums: Vec<f32> = Vec::new();
            for p in 0..u32_at(&segment, 24) {
                let part = self.bytes(parts + 32 * u64::from(u32_at(&segment, 20) + p), 32);
                let all = self.bytes(dimensions + 16 * u64::from(u32_at(part, 8)), 16 * u32_at(part, 12) as usize);
                // From and to, of every element, whatever the order of the dimensions.
                let mut places = vec![(0u64, 0usize)];
                for dimension in all.chunks_exact(16) {
                    let [extent, stride, out] = [0, 4, 8].map(|at| u32_at(dimension, at));
                    let step = |&(from, to): &(u64, usize), k: u32| {
                        (from + u64::from(k) * u64::from(stride), to + k as usize * out as usize)
                    };
                    places = places.iter().flat_map(|at| (0..extent).map(move |k| step(at, k))).collect();
                }
                assert_eq!(places.len(), u32_at(&segment, 8) as usize);
                let mut values = vec![f32::NAN; places.len()];
                for (from, to) in places {
                    values[to] = f32::from_bits(u32_at(self.bytes(u64_at(part, 0) + 4 * from, 4), 0));
                }
                if u32_at(part, 16) == 1 {
                    let scale = f32::from_bits(u32_at(part, 20));
                    values.iter_mut().for_each(|value| *value *= scale);
                }
                if p == 0 {
                    sums = values;
                } else {
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
            }
            let dtype = match u32_at(&segment, 12) {
                1 => DType::F32,
                2 => DType::F16,
                3 => DType::BF16,
                _ => DType::F64,
            };
            let mut bytes = vec![0; sums.len() * dtype.size()];
            cast(&sums, dtype, &mut bytes);
            self.bytes_mut(u64_at(launch, 24) + u64_at(&segment, 0), bytes.len()).copy_from_slice(&bytes);
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn format_of(number: u32) -> VectorFormat {
    match number {
        1 => VectorFormat::F32,
        2 => VectorFormat::F16,
        3 => VectorFormat::BF16,
        _ => VectorFormat::Blocks(BlockFormat::ALL[number as usize - 4]),
    }
}

// SAFETY: addresses are looked up among the blocks that are allocated, with their sizes; pinned memory is a `Vec`'s,
// which lives until `free_pinned`, and copies end in the call that has them done.
unsafe impl Device for HostDevice {
    fn info(&self) -> &Info {
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
        state.next = (address + bytes as u64 + 1).next_multiple_of(256);
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
        // SAFETY: a boxed slice of so many bytes, leaked by `alloc_pinned`, and forgotten here.
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

    fn combine(&self, launch: &Launch) -> Result<()> {
        self.put(Queue::Combine, Work::Combine(launch.bytes().to_vec()));
        Ok(())
    }

    fn lay_out(&self, launch: &LayOut) -> Result<()> {
        self.put(Queue::Combine, Work::LayOut(launch.bytes().to_vec()));
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
        // Time passes for whoever only asks.
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
