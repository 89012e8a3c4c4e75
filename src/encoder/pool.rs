//! Pools of what runs use one at a time each, lent to as many of them as may be in progress.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::error::Result;
use crate::sync::{Condvar, Mutex};

/// The runs that may be in progress at once.
pub(super) struct Turns {
    limit: usize,
    taken: Mutex<usize>,
    given_back: Condvar,
}

/// One of the [`Turns`]. Dropping it lets another run begin.
pub(super) struct Turn<'t>(&'t Turns);

impl Turns {
    /// `limit` turns, at least one.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), taken: Mutex::default(), given_back: Condvar::new() })
    }

    /// Waits for a turn.
    pub(super) fn take(&self) -> Turn<'_> {
        let mut taken = self.taken.lock();
        while *taken >= self.limit {
            self.given_back.wait(&mut taken);
        }
        *taken += 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock() -= 1;
        self.0.given_back.notify_one();
    }
}

/// Lends things of a kind, each with a turn; makes another where all are lent.
///
/// The lock is held only to take and to give back, never while a thing is made or used.
pub(super) struct Pool<T> {
    turns: Arc<Turns>,
    shelf: Mutex<Shelf<T>>,
}

struct Shelf<T> {
    idle: Vec<T>,
    /// Idle and lent, and those being made.
    made: usize,
}

/// A thing on loan. Dropping it gives it back.
pub(super) struct Loan<'p, T> {
    pool: &'p Pool<T>,
    /// The thing on loan, there until the loan is dropped.
    thing: Option<T>,
    /// Given back after the thing.
    _turn: Turn<'p>,
}

impl<T> Pool<T> {
    /// A pool that starts with `first`. There are never more things in it than there are turns.
    pub(super) fn new(first: T, turns: Arc<Turns>) -> Self {
        Self { turns, shelf: Mutex::new(Shelf { idle: vec![first], made: 1 }) }
    }

    /// Waits for a turn and lends a thing; calls `make` where a new one is needed.
    ///
    /// # Errors
    /// What `make` says; the pool is then as before.
    pub(super) fn lend(&self, make: impl FnOnce() -> Result<T>) -> Result<Loan<'_, T>> {
        let turn = self.turns.take();
        let mut shelf = self.shelf.lock();
        let thing = shelf.idle.pop();
        shelf.made += usize::from(thing.is_none());
        drop(shelf);
        // Counts the thing out again, should `make` fail or panic.
        let mut loan = Loan { pool: self, thing, _turn: turn };
        if loan.thing.is_none() {
            loan.thing = Some(make()?);
        }
        Ok(loan)
    }

    /// Drops the things that no run uses.
    pub(super) fn trim(&self) {
        let mut shelf = self.shelf.lock();
        let idle = std::mem::take(&mut shelf.idle);
        shelf.made -= idle.len();
        drop(shelf);
    }

    /// The number of things made, lent ones included.
    pub(super) fn made(&self) -> usize {
        self.shelf.lock().made
    }
}

impl<T> Deref for Loan<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // `lend` fills it before its caller has the loan.
        self.thing.as_ref().expect("a loan holds its thing until it is dropped")
    }
}

impl<T> DerefMut for Loan<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.thing.as_mut().expect("a loan holds its thing until it is dropped")
    }
}

impl<T> Drop for Loan<'_, T> {
    fn drop(&mut self) {
        let mut shelf = self.pool.shelf.lock();
        match self.thing.take() {
            Some(thing) => shelf.idle.push(thing),
            None => shelf.made -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::Error;

    #[test]
    fn grows_only_when_all_are_lent() {
        let pool = Pool::new(0, Turns::new(2));
        let first = pool.lend(|| unreachable!()).unwrap();
        let second = pool.lend(|| Ok(1)).unwrap();
        assert_eq!((*first, *second, pool.made()), (0, 1, 2));
        drop(second);
        assert_eq!(*pool.lend(|| unreachable!()).unwrap(), 1);
    }

    #[test]
    fn trimming_spares_what_is_lent() {
        let pool = Pool::new(0, Turns::new(2));
        let lent = pool.lend(|| unreachable!()).unwrap();
        drop(pool.lend(|| Ok(1)).unwrap());
        pool.trim();
        assert_eq!((*lent, pool.made()), (0, 1));
        drop(lent);
        pool.trim();
        assert_eq!(pool.made(), 0);
        assert_eq!(*pool.lend(|| Ok(2)).unwrap(), 2);
    }

    #[test]
    fn never_more_than_the_limit_in_use() {
        let (pool, in_use, most) = (Pool::new((), Turns::new(3)), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _loan = pool.lend(|| Ok(())).unwrap();
                        most.fetch_max(in_use.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        in_use.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 3 && pool.made() <= 3);
    }

    #[test]
    fn a_turn_keeps_others_waiting_and_makes_nothing() {
        let turns = Turns::new(1);
        let pool = Pool::new(0, Arc::clone(&turns));
        pool.trim();
        let turn = turns.take();
        let lent = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _loan = pool.lend(|| Ok(1)).unwrap();
                lent.store(1, Ordering::SeqCst);
            });
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!((lent.load(Ordering::SeqCst), pool.made()), (0, 0));
            drop(turn);
        });
        assert_eq!((lent.into_inner(), pool.made()), (1, 1));
    }

    #[test]
    fn a_failure_or_panic_while_making_costs_no_place() {
        let pool = Pool::new(0, Turns::new(2));
        let first = pool.lend(|| unreachable!()).unwrap();
        assert!(pool.lend(|| Err(Error::invalid("no"))).is_err());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.lend(|| panic!()).map(|_| ())));
        assert!(panicked.is_err());
        assert_eq!(pool.made(), 1);
        assert_eq!(*pool.lend(|| Ok(1)).unwrap(), 1);
        drop(first);
    }
}
