//! What is wanted ahead: one thread, in turn, and taken back at any time.

use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::ThreadId;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// How a reconstruction goes.
#[derive(Debug)]
enum Course {
    Ends,
    /// Ends when it is told to, or has been called off.
    Held(Receiver<()>),
    /// Ends well when it is told to, whether it has been called off or not.
    Deaf(Receiver<()>),
    Panics,
    Fails,
    /// Nothing is left that could ask for it.
    Gone,
}

#[derive(Debug)]
struct Job {
    cache: Weak<WeightsCache>,
    n: u32,
    course: Course,
    log: Arc<Log>,
}

/// What was reconstructed in the background: which weights, by whom.
#[derive(Debug, Default)]
struct Log {
    begun: Mutex<Vec<(u32, ThreadId)>>,
    at_work: AtomicUsize,
    most_at_work: AtomicUsize,
    /// The most that the cache kept while one was at work.
    most_bytes: AtomicUsize,
    changed: Condvar,
}

impl Log {
    fn begun(&self) -> Vec<u32> {
        self.begun.lock().iter().map(|(n, _)| *n).collect()
    }

    fn wait_for(&self, n: u32) {
        let mut begun = self.begun.lock();
        let has_not = |begun: &mut Vec<(u32, ThreadId)>| !begun.iter().any(|(other, _)| *other == n);
        let waited = self.changed.wait_while_for(&mut begun, has_not, PATIENCE);
        assert!(!waited.timed_out(), "{n} never begins");
    }
}

impl PrefetchJob<Weights> for Job {
    fn hold(&mut self) -> Option<usize> {
        (!matches!(self.course, Course::Gone)).then_some(256)
    }

    fn build(&self, spares: &Arc<BufferPool>, cancel: &AtomicBool) -> Result<Weights> {
        let thread = std::thread::current();
        assert_eq!(thread.name(), Some("taskbasis-prefetch"));
        self.log.most_at_work.fetch_max(self.log.at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let kept = self.cache.upgrade().unwrap().stats().bytes;
        self.log.most_bytes.fetch_max(kept, Ordering::SeqCst);
        self.log.begun.lock().push((self.n, thread.id()));
        self.log.changed.notify_all();
        let is_cancelled = match &self.course {
            Course::Ends | Course::Gone => false,
            Course::Fails => true,
            Course::Panics => {
                self.log.at_work.fetch_sub(1, Ordering::SeqCst);
                panic!("as the test wants it")
            }
            Course::Deaf(told) => told.recv_timeout(PATIENCE).is_err(),
            Course::Held(told) => {
                let began = Instant::now();
                while told.try_recv().is_err() && !cancel.load(Ordering::Relaxed) {
                    assert!(began.elapsed() < PATIENCE, "neither told nor called off");
                    std::thread::yield_now();
                }
                cancel.load(Ordering::Relaxed)
            }
        };
        self.log.at_work.fetch_sub(1, Ordering::SeqCst);
        if is_cancelled { Err(Error::invalid("called off")) } else { build(spares) }
    }
}

/// A cache, and those who prefetch into it.
struct Stage {
    cache: Arc<WeightsCache>,
    log: Arc<Log>,
}

impl Stage {
    fn new(budget: usize) -> Self {
        Self { cache: Arc::new(WeightsCache::new(budget)), log: Arc::default() }
    }

    fn job(&self, n: u32, course: Course) -> Box<Job> {
        Box::new(Job { cache: Arc::downgrade(&self.cache), n, course, log: Arc::clone(&self.log) })
    }

    fn prefetch(&self, n: u32, by: Owner) {
        self.prefetch_as(n, by, Course::Ends);
    }

    fn prefetch_as(&self, n: u32, by: Owner, course: Course) {
        self.cache.prefetch(&key(n), by, self.job(n, course)).unwrap();
    }

    /// The thread is at work on these weights until it is told to end.
    fn jam(&self, n: u32, by: Owner) -> Sender<()> {
        self.jam_as(n, by, Course::Held)
    }

    /// The thread is at work on these weights, which are wanted no more, until it is told to end.
    fn jam_stopped(&self, n: u32, by: Owner) -> Sender<()> {
        let tell = self.jam_as(n, by, Course::Deaf);
        assert!(self.cache.cancel(&key(n), by));
        tell
    }

    fn jam_as(&self, n: u32, by: Owner, course: fn(Receiver<()>) -> Course) -> Sender<()> {
        let (tell, told) = channel();
        self.prefetch_as(n, by, course(told));
        self.log.wait_for(n);
        tell
    }

    fn wait_for_a_waiter(&self, n: u32) {
        let began = Instant::now();
        while self.cache.state.lock().waiting(&key(n)) == 0 {
            assert!(began.elapsed() < PATIENCE, "no caller waits for {n}");
            std::thread::yield_now();
        }
    }

    /// Until nothing is wanted and the thread has ended.
    fn finish(&self) {
        let began = Instant::now();
        while !self.cache.state.lock().queue.worker().is_idle() {
            assert!(began.elapsed() < PATIENCE, "the thread never ends");
            std::thread::yield_now();
        }
        assert_eq!(self.cache.state.lock().queue.len(), 0);
    }
}

#[test]
fn one_thread_reconstructs_in_turn_within_the_budget() {
    let stage = Stage::new(512);
    let me = Owner::new();
    let tell = stage.jam(0, me);
    (1..64).for_each(|n| stage.prefetch(n, me));
    assert_eq!(stage.cache.stats().misses, 1, "nothing else has begun");
    tell.send(()).unwrap();
    stage.finish();
    assert_eq!(stage.log.begun(), (0..64).collect::<Vec<_>>(), "first come, first served");
    let thread = stage.log.begun.lock()[0].1;
    assert!(stage.log.begun.lock().iter().all(|(_, other)| *other == thread), "one thread");
    assert_eq!(stage.log.most_at_work.load(Ordering::SeqCst), 1);
    assert_eq!(stage.log.most_bytes.load(Ordering::SeqCst), 256, "room is made before the next begins");
    let stats = stage.cache.stats();
    assert_eq!((stats.misses, stats.evictions, stats.entries, stats.bytes), (64, 62, 2, 512));
    assert!(stage.cache.contains(&key(62)) && stage.cache.contains(&key(63)), "the last ones are left");

    // It starts again when there is something to do.
    stage.prefetch(1, me);
    stage.finish();
    assert!(stage.cache.contains(&key(1)));
}

#[test]
fn what_several_want_is_reconstructed_once() {
    let stage = Stage::new(usize::MAX);
    let (one, other) = (Owner::new(), Owner::new());
    let tell = stage.jam(0, one);
    for by in [one, other, one, other] {
        stage.prefetch(0, by);
        stage.prefetch(1, by);
    }
    tell.send(()).unwrap();
    stage.finish();
    stage.prefetch(1, other);
    assert!(stage.cache.state.lock().queue.worker().is_idle(), "it is there");
    assert_eq!(stage.log.begun(), [0, 1]);
}

#[test]
fn what_is_taken_back_at_once_never_becomes_ready() {
    let stage = Stage::new(usize::MAX);
    for n in 0..200 {
        let me = Owner::new();
        let (_tell, told) = channel();
        stage.prefetch_as(n, me, Course::Held(told));
        if n % 3 == 0 {
            stage.log.wait_for(n);
        }
        assert!(stage.cache.cancel(&key(n), me), "{n}");
        assert!(!stage.cache.cancel(&key(n), me), "{n} was stopped already");
    }
    stage.finish();
    let stats = stage.cache.stats();
    assert_eq!((stats.cancelled, stats.entries, stats.bytes), (200, 0, 0));
}

#[test]
fn what_ends_before_it_notices_that_it_was_stopped_is_not_kept() {
    let stage = Stage::new(usize::MAX);
    let me = Owner::new();
    let tell = stage.jam_stopped(1, me);
    // Wanted again meanwhile: what was stopped does not count.
    stage.prefetch(1, me);
    stage.prefetch(2, me);
    assert!(stage.cache.cancel(&key(1), me));
    tell.send(()).unwrap();
    stage.finish();
    assert!(!stage.cache.contains(&key(1)) && stage.cache.contains(&key(2)));
    assert_eq!(stage.cache.stats().cancelled, 2);
}

#[test]
fn what_was_stopped_can_be_wanted_again() {
    let stage = Stage::new(usize::MAX);
    let me = Owner::new();
    let tell = stage.jam_stopped(1, me);
    stage.prefetch(1, me);
    tell.send(()).unwrap();
    stage.finish();
    assert!(stage.cache.contains(&key(1)));
    assert_eq!(stage.log.begun(), [1, 1]);
}

#[test]
fn everything_asked_for_through_one_handle_is_taken_back_together() {
    let stage = Stage::new(usize::MAX);
    let me = Owner::new();
    let _tell = stage.jam(1, me);
    stage.prefetch(1, me);
    stage.prefetch(2, me);
    stage.prefetch(2, me);
    assert!(stage.cache.cancel(&key(1), me) && stage.cache.cancel(&key(2), me));
    stage.finish();
    assert_eq!((stage.log.begun(), stage.cache.stats().entries), (vec![1], 0));
}

#[test]
fn what_another_wants_goes_on() {
    let stage = Stage::new(usize::MAX);
    let (one, other, stranger) = (Owner::new(), Owner::new(), Owner::new());
    let tell = stage.jam(1, one);
    stage.prefetch(1, other);
    for by in [one, other] {
        stage.prefetch(2, by);
        stage.prefetch(3, by);
    }
    assert!(![1, 2, 3].iter().any(|&n| stage.cache.cancel(&key(n), stranger)), "wanted nothing");
    assert!(![1, 2, 3].iter().any(|&n| stage.cache.cancel(&key(n), one)), "the other one still does");
    assert!(stage.cache.cancel(&key(3), other), "the last one who did");
    tell.send(()).unwrap();
    stage.finish();
    assert!(stage.cache.contains(&key(1)) && stage.cache.contains(&key(2)) && !stage.cache.contains(&key(3)));
    assert!(!stage.cache.cancel(&key(1), other), "it has ended");
}

#[test]
fn a_waiting_caller_gets_what_is_taken_back() {
    let stage = Stage::new(usize::MAX);
    let me = Owner::new();
    let tell = stage.jam(1, me);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| get(&stage.cache, 1));
        stage.wait_for_a_waiter(1);
        assert!(!stage.cache.cancel(&key(1), me));
        tell.send(()).unwrap();
        waiter.join().unwrap();
    });
    stage.finish();
    assert_eq!((stage.log.begun(), stage.cache.stats().misses), (vec![1], 1), "the waiter had it from the background");

    // A caller that comes too late to prevent it reconstructs for itself.
    let tell = stage.jam_stopped(2, me);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| get(&stage.cache, 2));
        stage.wait_for_a_waiter(2);
        drop(tell);
        waiter.join().unwrap();
    });
    stage.finish();
    assert!(stage.cache.contains(&key(2)));
}

#[test]
fn a_caller_that_needs_them_now_does_not_queue() {
    let stage = Stage::new(0);
    let me = Owner::new();
    let tell = stage.jam(0, me);
    stage.prefetch(1, me);
    get(&stage.cache, 1);
    assert_eq!(stage.log.begun(), [0], "the thread is still at the first");
    assert!(!stage.cache.cancel(&key(1), me), "wanted no more: it was there");

    // A caller is at it, who is not to be stopped.
    let built = stage.cache.get_or_build(&key(2), 256, |spares| {
        stage.prefetch(2, me);
        assert!(!stage.cache.cancel(&key(2), me));
        build(spares)
    });
    built.unwrap();
    tell.send(()).unwrap();
    stage.finish();
    assert_eq!(stage.log.begun(), [0], "with no budget, nothing is left of them; but they are not wanted again");
}

#[test]
fn what_is_there_when_its_turn_comes_is_passed_over() {
    let stage = Stage::new(usize::MAX);
    let me = Owner::new();
    let held = get(&stage.cache, 1);
    stage.cache.trim(0);
    drop(held);
    let tell = stage.jam(0, me);
    stage.prefetch(1, me);
    // It comes back past the queue, as an encoder does with weights that it holds.
    let weights = Arc::new(build(&Arc::default()).unwrap());
    stage.cache.change(|state| state.keep(&key(1), &weights));
    tell.send(()).unwrap();
    stage.finish();
    assert_eq!(stage.log.begun(), [0]);
}

#[test]
fn the_queue_outlives_failures_and_panics() {
    let stage = Stage::new(usize::MAX);
    let me = Owner::new();
    let tell = stage.jam(0, me);
    for (n, course) in [(1, Course::Panics), (2, Course::Fails), (3, Course::Gone), (4, Course::Ends)] {
        stage.prefetch_as(n, me, course);
    }
    tell.send(()).unwrap();
    stage.finish();
    assert_eq!(stage.log.begun(), [0, 1, 2, 4]);
    let stats = stage.cache.stats();
    assert_eq!((stats.entries, stats.misses, stats.cancelled), (2, 4, 0));
    [1, 2, 3].iter().for_each(|&n| drop(get(&stage.cache, n)));
}

#[test]
fn without_a_thread_nothing_is_wanted() {
    let stage = Stage::new(usize::MAX);
    let me = Owner::new();
    let refuse = |refuses| stage.cache.state.lock().queue.worker().refuse_threads(refuses);
    refuse(true);
    assert!(stage.cache.prefetch(&key(1), me, stage.job(1, Course::Ends)).is_err());
    refuse(false);
    assert!(!stage.cache.cancel(&key(1), me));
    stage.prefetch(2, me);
    stage.finish();
    assert_eq!(stage.log.begun(), [2]);
}

#[test]
fn many_threads_prefetch_cancel_and_get() {
    let stage = Stage::new(1024);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let stage = &stage;
            scope.spawn(move || {
                let me = Owner::new();
                for step in 0..500u32 {
                    let n = (step * 7 + thread * 3) % 13;
                    match (step + thread) % 3 {
                        0 => stage.prefetch(n, me),
                        1 => drop(stage.cache.cancel(&key(n), me)),
                        _ => drop(get(&stage.cache, n)),
                    }
                }
            });
        }
    });
    stage.finish();
    assert_eq!(stage.log.most_at_work.load(Ordering::SeqCst), 1);
    let stats = stage.cache.stats();
    assert!(stats.bytes <= 1024 && stats.bytes == stats.entries * 256, "{stats:?}");
}
