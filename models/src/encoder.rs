//! The gate that the end of the process closes, and the pool of sessions.

#[path = "../../src/encoder/runtime/gate.rs"]
mod gate;
#[path = "../../src/encoder/pool.rs"]
mod pool;

use std::sync::Arc;
use std::time::Duration;

use self::gate::Gate;
use self::pool::{Pool, Turns};
use crate::Model;
use crate::error::Error;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::thread;

/// Never waited for: no time passes.
const LONG: Duration = Duration::from_secs(1);

pub const MODELS: &[Model] = &[
    ("gate: none is inside once it is closed", none_is_inside),
    ("gate: a thread that is inside itself does not wait for itself", own_work_is_not_waited_for),
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
