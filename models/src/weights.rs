//! The cache of reconstructed weights: callers, prefetches, leases.

#[path = "../../src/weights/arena.rs"]
mod arena;
#[path = "../../src/weights/cache/mod.rs"]
mod cache;
mod values;

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};

use self::arena::BufferPool;
pub(crate) use self::cache::Key;
use self::cache::{CacheLease, Holder, Owner, PrefetchJob, WeightsCache};
use self::values::Weights;
use crate::Model;
use crate::error::{Error, Result};
use crate::mmap;
use crate::sync::atomic::{AtomicBool, AtomicUsize};
use crate::sync::{Condvar, Mutex, thread};

pub const MODELS: &[Model] = &[
    ("cache: one reconstructs and the others wait", one_reconstructs),
    ("cache: a failure is no dead end for those who wait", a_failure_is_no_dead_end),
    ("cache: the budget holds", the_budget_holds),
    ("prefetch: none is built after it was called off", none_is_built_after_it_was_called_off),
    ("prefetch: a caller gets what it needs, whatever is called off", a_caller_gets_what_it_needs),
    ("prefetch: what two want, one alone does not call off", one_alone_does_not_call_off),
    ("lease: what it stands for goes with it", what_it_stands_for_goes_with_it),
];

/// The elements of the weights of a task.
const LENGTH: usize = 64;
const BYTES: usize = 4 * LENGTH;

pub(crate) fn key(number: u32, layout: u64) -> Key {
    Key { files: Arc::new([]), factors: Arc::new([number]), layout }
}

/// What was reconstructed, by key.
#[derive(Debug, Default)]
struct Log {
    under_way: [AtomicBool; 8],
    built: [AtomicUsize; 8],
    ended: Mutex<bool>,
    ends: Condvar,
}

impl Log {
    /// A reconstruction; never two of the same key at a time.
    fn build(&self, number: u32, spares: &Arc<BufferPool>) -> Result<Weights> {
        let which = number as usize;
        assert!(!self.under_way[which].swap(true, SeqCst), "two reconstruct {which} at once");
        self.built[which].fetch_add(1, SeqCst);
        let weights = Weights::new(spares);
        thread::yield_now();
        assert!(self.under_way[which].swap(false, SeqCst));
        weights
    }

    fn built(&self, number: u32) -> usize {
        self.built[number as usize].load(SeqCst)
    }
}

fn get(cache: &WeightsCache, log: &Log, number: u32) -> Arc<Weights> {
    cache.get_or_build(&key(number, 0), BYTES, |spares| log.build(number, spares)).unwrap()
}

/// Holds as long as weights in some layout are wanted.
#[derive(Debug)]
struct Layout(CacheLease);

#[derive(Debug)]
struct Job {
    log: Arc<Log>,
    number: u32,
    layout: Option<Weak<Layout>>,
    held: Option<Arc<Layout>>,
    /// It needs something else that is gone.
    is_orphaned: bool,
}

/// The last job of a model, after which the worker has done all before it.
const LAST: u32 = 7;

impl PrefetchJob<Weights> for Job {
    fn hold(&mut self) -> Option<usize> {
        if let Some(layout) = &self.layout {
            self.held = Some(layout.upgrade()?);
            thread::yield_now();
        }
        (!self.is_orphaned).then_some(BYTES)
    }

    fn build(&self, spares: &Arc<BufferPool>, cancel: &AtomicBool) -> Result<Weights> {
        if cancel.load(SeqCst) {
            return Err(Error::invalid("called off"));
        }
        let weights = self.log.build(self.number, spares);
        if self.number == LAST {
            *self.log.ended.lock() = true;
            self.log.ends.notify_all();
        }
        weights
    }
}

fn prefetch(cache: &Arc<WeightsCache>, log: &Arc<Log>, number: u32, by: Owner) {
    let job = Job { log: Arc::clone(log), number, layout: None, held: None, is_orphaned: false };
    cache.prefetch(&key(number, 0), by, Box::new(job)).unwrap();
}

/// Waits until the worker has done what it was given until now.
fn wait_for_the_worker(cache: &Arc<WeightsCache>, log: &Arc<Log>) {
    prefetch(cache, log, LAST, Owner::new());
    let mut ended = log.ended.lock();
    while !*ended {
        log.ends.wait(&mut ended);
    }
}

fn in_threads(count: u32, work: impl Fn(u32) + Clone + Send + 'static) -> Vec<thread::JoinHandle<()>> {
    (0..count)
        .map(|number| {
            let work = work.clone();
            thread::spawn(move || work(number))
        })
        .collect()
}

fn join(threads: Vec<thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn made(budget: usize) -> (Arc<WeightsCache>, Arc<Log>) {
    mmap::forget();
    (Arc::new(WeightsCache::new(budget * BYTES)), Arc::default())
}

fn one_reconstructs() {
    let (cache, log) = made(4);
    let shared = (Arc::clone(&cache), Arc::clone(&log));
    join(in_threads(3, move |_| drop(get(&shared.0, &shared.1, 1))));
    assert_eq!(log.built(1), 1);
    assert_eq!((cache.stats().hits, cache.stats().misses, cache.stats().entries), (2, 1, 1));
}

fn a_failure_is_no_dead_end() {
    let (cache, _) = made(4);
    let (shared, fails) = (Arc::clone(&cache), Arc::new(AtomicBool::new(true)));
    let failed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&failed);
    join(in_threads(3, move |_| {
        let got = shared.get_or_build(&key(1, 0), BYTES, |spares| {
            if fails.swap(false, SeqCst) { Err(Error::invalid("the first fails")) } else { Weights::new(spares) }
        });
        counted.fetch_add(usize::from(got.is_err()), SeqCst);
    }));
    assert_eq!((failed.load(SeqCst), cache.stats().entries), (1, 1));
}

fn the_budget_holds() {
    const BUDGET: usize = 2;
    const CALLERS: usize = 2;

    let (cache, log) = made(BUDGET);
    let shared = (Arc::clone(&cache), Arc::clone(&log));
    prefetch(&cache, &log, 4, Owner::new());
    let callers = in_threads(CALLERS as u32, move |number| {
        for n in 0..3 {
            drop(get(&shared.0, &shared.1, 1 + (number + n) % 3));
        }
    });
    join(callers);
    wait_for_the_worker(&cache, &log);
    // Each caller may hold one that the cache has no room for; what is prefetched is within the budget.
    assert!(mmap::peak() <= (BUDGET + CALLERS) * BYTES, "{} bytes at once", mmap::peak());
    let stats = cache.stats();
    assert!(stats.bytes <= BUDGET * BYTES && stats.bytes == stats.entries * BYTES, "{stats:?}");
    cache.set_budget(0);
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.bytes, stats.spare_bytes), (0, 0, 0));
}

fn none_is_built_after_it_was_called_off() {
    let (cache, log) = made(4);
    let owner = Owner::new();
    prefetch(&cache, &log, 2, owner);
    prefetch(&cache, &log, 1, owner);
    let before = log.built(1);
    let is_called_off = cache.cancel(&key(1, 0), owner);
    let after = log.built(1);
    wait_for_the_worker(&cache, &log);
    if is_called_off {
        assert!(!cache.contains(&key(1, 0)), "it was called off, and is there");
        assert!(log.built(1) == after || after == before, "reconstructed after it was called off");
    } else {
        assert!(cache.contains(&key(1, 0)));
    }
    assert!(cache.contains(&key(2, 0)));
}

fn a_caller_gets_what_it_needs() {
    let (cache, log) = made(4);
    let owner = Owner::new();
    prefetch(&cache, &log, 1, owner);
    let shared = (Arc::clone(&cache), Arc::clone(&log));
    let callers = in_threads(2, move |number| match number {
        0 => drop(get(&shared.0, &shared.1, 1)),
        _ => drop(shared.0.cancel(&key(1, 0), owner)),
    });
    join(callers);
    wait_for_the_worker(&cache, &log);
    assert!(cache.contains(&key(1, 0)), "a caller has it");
}

fn one_alone_does_not_call_off() {
    let (cache, log) = made(4);
    let shared = (Arc::clone(&cache), Arc::clone(&log));
    let stays = Owner::new();
    prefetch(&cache, &log, 1, stays);
    join(in_threads(2, move |_| {
        let goes = Owner::new();
        prefetch(&shared.0, &shared.1, 1, goes);
        assert!(!shared.0.cancel(&key(1, 0), goes), "another wants it");
    }));
    wait_for_the_worker(&cache, &log);
    assert_eq!((log.built(1), cache.contains(&key(1, 0))), (1, true));
}

fn what_it_stands_for_goes_with_it() {
    let (cache, log) = made(8);
    let layout = Arc::new(Layout(CacheLease::new(Holder::Layout(5))));
    let shared = (Arc::clone(&cache), Arc::clone(&log));
    let callers = in_threads(2, move |number| {
        let (cache, log) = &shared;
        layout.0.register_cache(cache);
        let weak = Some(Arc::downgrade(&layout));
        let job = Job { log: Arc::clone(log), number: 2, layout: weak, held: None, is_orphaned: number == 1 };
        cache.prefetch(&key(2, 5), Owner::new(), Box::new(job)).unwrap();
        let key = key(3 + number % 2, 5);
        drop(cache.get_or_build(&key, BYTES, |spares| log.build(3 + number % 2, spares)).unwrap());
    });
    join(callers);
    wait_for_the_worker(&cache, &log);
    // What ended the wait is all that is left, or about to be.
    assert!(![2, 3, 4].iter().any(|number| cache.contains(&key(*number, 5))), "{:?}", cache.stats());
}
