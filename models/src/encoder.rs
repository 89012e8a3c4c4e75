//! The gate that the end of the process closes, the pool of sessions, and promotion.

#[path = "../../src/encoder/runtime/gate.rs"]
mod gate;
#[path = "../../src/encoder/pool.rs"]
mod pool;
#[path = "../../src/encoder/promote/queue.rs"]
mod queue;

use std::sync::Arc;
use std::time::Duration;

use self::gate::Gate;
use self::pool::{Pool, Turns};
use self::queue::{PromotionJob, PromotionQueue, PromotionState};
use crate::Model;
use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::thread;
use crate::weights::key;

/// Never waited for: no time passes.
const LONG: Duration = Duration::from_secs(1);

pub const MODELS: &[Model] = &[
    ("gate: none is inside once it is closed", none_is_inside),
    ("gate: a thread that is inside itself does not wait for itself", own_work_is_not_waited_for),
    ("promotion: who waits gets an answer, and what was demoted is not kept", what_was_demoted_is_not_kept),
    ("promotion: a task is promoted once, whatever fails before", a_task_is_promoted_once),
    ("pool: as many at once as there are turns, and none is lost", turns_are_given_back),
];

fn none_is_inside() {
    let (gate, inside) = (Arc::new(Gate::new()), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
            thread::spawn(move || {
                for _ in 0..2 {
                    if gate.enter() {
                        inside.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        gate.leave();
                    }
                }
            })
        })
        .collect();
    assert!(gate.close(0, LONG));
    for _ in 0..3 {
        assert_eq!(inside.load(Ordering::SeqCst), 0, "at work after the wait");
    }
    assert!(!gate.enter());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn own_work_is_not_waited_for() {
    let gate = Arc::new(Gate::new());
    let other = Arc::clone(&gate);
    let thread = thread::spawn(move || {
        if other.enter() {
            thread::yield_now();
            other.leave();
        }
    });
    assert!(gate.enter() && gate.close(1, LONG));
    gate.leave();
    thread.join().unwrap();
}

fn turns_are_given_back() {
    let pool = Arc::new(Pool::new(0, Turns::new(2)));
    let (in_use, fails) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let threads: Vec<_> = (0..3)
        .map(|number| {
            let (pool, in_use, fails) = (Arc::clone(&pool), Arc::clone(&in_use), Arc::clone(&fails));
            thread::spawn(move || {
                let made = pool.lend(|| {
                    // The first that has to be made cannot be.
                    if fails.swap(false, Ordering::SeqCst) { Err(Error::invalid("no")) } else { Ok(number) }
                });
                let Ok(_loan) = made else { return };
                assert!(in_use.fetch_add(1, Ordering::SeqCst) < 2);
                in_use.fetch_sub(1, Ordering::SeqCst);
            })
        })
        .collect();
    pool.trim();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(pool.made() <= 2);
    pool.trim();
    assert_eq!(pool.made(), 0, "all were given back");
}

/// The session of one task.
#[derive(Default)]
struct Session {
    is_kept: AtomicBool,
    under_way: AtomicBool,
    built: AtomicUsize,
    fails: AtomicBool,
}

struct Job(Arc<Session>);

impl PromotionJob for Job {
    fn build(&self) -> Result<()> {
        assert!(!self.0.under_way.swap(true, Ordering::SeqCst), "two build the same session");
        let fails = self.0.fails.swap(false, Ordering::SeqCst);
        if !fails {
            self.0.built.fetch_add(1, Ordering::SeqCst);
            self.0.is_kept.store(true, Ordering::SeqCst);
        }
        self.0.under_way.store(false, Ordering::SeqCst);
        if fails { Err(Error::invalid("no")) } else { Ok(()) }
    }

    fn discard(&self) {
        self.0.is_kept.store(false, Ordering::SeqCst);
    }

    fn name(&self) -> &str {
        "model"
    }
}

fn what_was_demoted_is_not_kept() {
    let (queue, session) = (Arc::new(PromotionQueue::new()), Arc::<Session>::default());
    let start = |number: u32| queue.start(&key(number, 0), || Ok(Job(Arc::clone(&session)))).unwrap();
    start(1);
    let waiter = Arc::clone(&queue);
    let waiter = thread::spawn(move || waiter.wait(&key(1, 0)).unwrap());
    queue.forget(&key(1, 0));
    // What a demotion finds, it drops.
    session.is_kept.store(false, Ordering::SeqCst);
    waiter.join().unwrap();
    queue.wait(&key(1, 0)).unwrap();
    queue.finish();
    assert!(!session.is_kept.load(Ordering::SeqCst), "it was demoted, and is there");
    assert_eq!(queue.state(&key(1, 0)), PromotionState::Inputs(0));
}

fn a_task_is_promoted_once() {
    let (queue, session) = (Arc::new(PromotionQueue::new()), Arc::<Session>::default());
    session.fails.store(true, Ordering::SeqCst);
    let runs: Vec<_> = (0..3)
        .map(|_| {
            let (queue, session) = (Arc::clone(&queue), Arc::clone(&session));
            thread::spawn(move || {
                queue.count(&key(1, 0), 2, || Ok(Job(Arc::clone(&session)))).unwrap();
            })
        })
        .collect();
    runs.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(queue.wait(&key(1, 0)).is_err(), "the first fails");
    assert!(matches!(queue.state(&key(1, 0)), PromotionState::Failed(_)));
    // Asking for it tries again; two that ask have it built once.
    let other = (Arc::clone(&queue), Arc::clone(&session));
    let asking = thread::spawn(move || other.0.start(&key(1, 0), || Ok(Job(Arc::clone(&other.1)))).unwrap());
    queue.start(&key(1, 0), || Ok(Job(Arc::clone(&session)))).unwrap();
    asking.join().unwrap();
    queue.wait(&key(1, 0)).unwrap();
    assert!(session.is_kept.load(Ordering::SeqCst));
    queue.finish();
}
