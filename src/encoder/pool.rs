//! A few things of a kind, made when needed, lent to one user at a time.

use std::ops::{Deref, DerefMut};

use parking_lot::{Condvar, Mutex};

use crate::error::Result;

/// Lends things out; makes another where all are lent and the limit allows it, else waits for one to come back.
///
/// The lock is held only to take and to give back, never while a thing is made or used.
pub(super) struct Pool<T> {
    limit: usize,
    shelf: Mutex<Shelf<T>>,
    given_back: Condvar,
}

struct Shelf<T> {
    idle: Vec<T>,
    /// Idle and lent, and those being made.
    made: usize,
}

/// A thing on loan. Dropping it gives it back.
pub(super) struct Loan<'p, T> {
    pool: &'p Pool<T>,
    /// Always there until the loan is dropped.
    thing: Option<T>,
}

impl<T> Pool<T> {
    /// A pool of at most `limit` things (at least one) that starts with `first`.
    pub(super) fn new(first: T, limit: usize) -> Self {
        let shelf = Mutex::new(Shelf { idle: vec![first], made: 1 });
        Self { limit: limit.max(1), shelf, given_back: Condvar::new() }
    }

    /// Lends a thing; calls `make` where a new one is needed.
    ///
    /// # Errors
    /// What `make` says; the pool is then as before.
    pub(super) fn lend(&self, make: impl FnOnce() -> Result<T>) -> Result<Loan<'_, T>> {
        let mut shelf = self.shelf.lock();
        loop {
            if let Some(thing) = shelf.idle.pop() {
                return Ok(Loan { pool: self, thing: Some(thing) });
            }
            if shelf.made < self.limit {
                shelf.made += 1;
                break;
            }
            self.given_back.wait(&mut shelf);
        }
        drop(shelf);
        // Gives the place back, should `make` fail or panic.
        let mut loan = Loan { pool: self, thing: None };
        loan.thing = Some(make()?);
        Ok(loan)
    }

    /// Drops the things that nobody uses.
    pub(super) fn trim(&self) {
        let mut shelf = self.shelf.lock();
        let idle = std::mem::take(&mut shelf.idle);
        shelf.made -= idle.len();
        drop(shelf);
        // Those who wait for a thing may make one now.
        self.given_back.notify_all();
    }

    /// How many things there are, lent ones included.
    pub(super) fn made(&self) -> usize {
        self.shelf.lock().made
    }
}

impl<T> Deref for Loan<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // `lend` fills it before anybody sees the loan.
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
        drop(shelf);
        self.pool.given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::Error;

    #[test]
    fn grows_only_when_all_are_lent() {
        let pool = Pool::new(0, 2);
        let first = pool.lend(|| unreachable!()).unwrap();
        let second = pool.lend(|| Ok(1)).unwrap();
        assert_eq!((*first, *second, pool.made()), (0, 1, 2));
        drop(second);
        assert_eq!(*pool.lend(|| unreachable!()).unwrap(), 1);
    }

    #[test]
    fn trimming_spares_what_is_lent() {
        let pool = Pool::new(0, 2);
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
        let (pool, in_use, most) = (Pool::new((), 3), AtomicUsize::new(0), AtomicUsize::new(0));
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
    fn a_failure_or_panic_while_making_costs_no_place() {
        let pool = Pool::new(0, 2);
        let first = pool.lend(|| unreachable!()).unwrap();
        assert!(pool.lend(|| Err(Error::invalid("no"))).is_err());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.lend(|| panic!()).map(|_| ())));
        assert!(panicked.is_err());
        assert_eq!(pool.made(), 1);
        assert_eq!(*pool.lend(|| Ok(1)).unwrap(), 1);
        drop(first);
    }
}
