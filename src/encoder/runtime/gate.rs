//! A gate that threads pass to do something, until it is closed.

use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};

/// Counts those inside; closed, it lets no more in, and the thread that closes it can wait until the others have left.
///
/// Passing it costs a few atomic operations and no lock.
pub(in crate::encoder) struct Gate {
    inside: AtomicUsize,
    is_closed: AtomicBool,
    /// Held to tell, and while waiting, that one has left a closed gate.
    leaving: Mutex<()>,
    left: Condvar,
}

impl Gate {
    pub(in crate::encoder) const fn new() -> Self {
        Self {
            inside: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            leaving: Mutex::new(()),
            left: Condvar::new(),
        }
    }

    /// Enters, to be followed by [`Gate::leave`]; false where the gate is closed.
    pub(in crate::encoder) fn enter(&self) -> bool {
        // All in one order (SeqCst): either this thread sees the gate closed, or the one that closes it sees this one.
        self.inside.fetch_add(1, Ordering::SeqCst);
        if self.is_closed.load(Ordering::SeqCst) {
            self.leave();
            return false;
        }
        true
    }

    /// Leaves.
    pub(in crate::encoder) fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::SeqCst);
        if self.is_closed.load(Ordering::SeqCst) {
            // With the lock: not between the other's look at the number and its wait.
            let _leaving = self.leaving.lock();
            self.left.notify_all();
        }
    }

    /// Closes the gate and waits until no more than `own` are inside, for as long as `patience`; whether that was so.
    #[cfg_attr(not(unix), allow(dead_code))] // `exit` waits on Unix only.
    pub(in crate::encoder) fn close(&self, own: usize, patience: Duration) -> bool {
        self.is_closed.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + patience;
        let Some(mut leaving) = self.leaving.try_lock_until(deadline) else { return false };
        while self.inside.load(Ordering::SeqCst) > own {
            if self.left.wait_until(&mut leaving, deadline).timed_out() {
                return self.inside.load(Ordering::SeqCst) <= own;
            }
        }
        true
    }

    /// Opens the gate with `own` inside: in a forked child, which has one thread.
    #[cfg_attr(not(unix), allow(dead_code))] // `exit` waits on Unix only.
    pub(in crate::encoder) fn reset(&self, own: usize) {
        self.inside.store(own, Ordering::SeqCst);
        self.is_closed.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn closing_waits_for_the_others_alone() {
        let gate = Gate::new();
        assert!(gate.enter() && gate.enter());
        assert!(!gate.close(1, Duration::ZERO), "one other is inside");
        assert!(!gate.enter(), "it is closed");
        let (leaves, left) = channel();
        std::thread::scope(|scope| {
            let gate = &gate;
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                leaves.send(()).unwrap();
                gate.leave();
            });
            assert!(gate.close(1, LONG));
            left.try_recv().unwrap();
        });
        gate.leave();
        assert!(gate.close(0, Duration::ZERO) && !gate.enter());
        gate.reset(1);
        assert!(gate.enter());
    }
}
