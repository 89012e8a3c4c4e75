//! Sharing work between threads: each takes the next piece until none is left.

use std::num::NonZero;
use std::thread;

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Threads that may always be asked for. Beyond the processors they gain nothing, and hundreds take seconds to start.
const ALWAYS_ALLOWED: usize = 64;

fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The number of threads that may be asked for in this process, at most: one per processor that it may use, or 64 where
/// that is more. A larger number was mistaken for another one, and would take the machine down.
pub fn max_threads() -> usize {
    processors().max(ALWAYS_ALLOWED)
}

/// The number of threads that `wanted` means: itself, or for 0 as many as this process may run at once.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for more than [`max_threads`].
pub(crate) fn count(wanted: usize) -> Result<usize> {
    match wanted {
        0 => Ok(processors()),
        // The operating system is asked last: that may mean reading files.
        _ if wanted <= ALWAYS_ALLOWED || wanted <= processors() => Ok(wanted),
        _ => Err(Error::invalid("too many threads")
            .expected(format_args!("at most {} (one per processor, or {ALWAYS_ALLOWED})", max_threads()))
            .got(wanted)),
    }
}

/// Calls `work` on every piece, on the caller's thread and up to `threads − 1` others; 0 threads are one per processor.
/// Each thread has a state of its own, made by `S::default()`.
///
/// Pieces are handed out one by one, not split beforehand: cores differ in speed, and others may be using them. For
/// the same reason a thread that the operating system refuses only makes this slower.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for more than [`max_threads`]; the error of `work`
/// on the earliest piece that it fails on; pieces behind that may then be left undone.
pub(crate) fn share<T: Send, S: Default>(
    threads: usize,
    pieces: Vec<T>,
    work: impl Fn(T, &mut S) -> Result<()> + Sync,
) -> Result<()> {
    let helpers = count(threads)?.min(pieces.len()).saturating_sub(1);
    let (pieces, failed) = (Mutex::new(pieces.into_iter().enumerate()), Mutex::new(None::<(usize, Error)>));
    let run = || {
        let mut state = S::default();
        while failed.lock().is_none() {
            let next = pieces.lock().next();
            let Some((place, piece)) = next else { break };
            if let Err(error) = work(piece, &mut state) {
                let mut failed = failed.lock();
                if failed.as_ref().is_none_or(|(earlier, _)| place < *earlier) {
                    *failed = Some((place, error));
                }
            }
        }
    };
    thread::scope(|scope| {
        let spawned: Vec<_> = (0..helpers)
            .map_while(|_| thread::Builder::new().name("taskbasis".into()).spawn_scoped(scope, run).ok())
            .collect();
        run();
        for thread in spawned {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    failed.into_inner().map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_piece_is_done_once() {
        for threads in [0, 1, 2, 7] {
            let sum = AtomicUsize::new(0);
            let add = |piece: usize, (): &mut ()| {
                sum.fetch_add(piece, Ordering::Relaxed);
                Ok(())
            };
            share(threads, (0..100).collect(), add).unwrap();
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn too_many_are_an_error_that_names_the_bound() {
        assert_eq!(count(0).unwrap(), processors());
        assert_eq!(count(ALWAYS_ALLOWED).unwrap(), ALWAYS_ALLOWED);
        assert_eq!(count(max_threads()).unwrap(), max_threads());
        let error = share(max_threads() + 1, vec![()], |(), (): &mut ()| Ok(())).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(&format!("at most {}", max_threads())), "{error}");
    }

    #[test]
    fn the_earliest_error_comes_back() {
        for _ in 0..50 {
            let work = |piece: usize, (): &mut ()| match piece {
                5.. => Err(Error::invalid(format!("piece {piece}"))),
                _ => Ok(()),
            };
            let error = share(3, (0..20).collect(), work).unwrap_err();
            assert!(error.to_string().contains("piece 5"), "{error}");
        }
    }

    #[test]
    fn an_error_comes_back_whichever_thread_met_it() {
        for bad in 0..20 {
            let work = |piece: usize, (): &mut ()| {
                if piece == bad { Err(Error::invalid("bad piece")) } else { Ok(()) }
            };
            assert!(share(3, (0..20).collect(), work).is_err());
        }
    }
}
