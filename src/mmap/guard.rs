//! Pages that the disk does not give, told as an error by a program before it ends.
//!
//! A mapping's page is read when it is first touched, and there is no call that could fail: the operating system sends
//! SIGBUS. Whose signal that is, only a program can decide; a library leaves it alone.

/// Work for the moment before the process ends. It is called in a signal handler, so that it may make system calls and
/// read atomics, and may not allocate or take a lock.
pub type Cleanup = fn();

#[cfg(unix)]
pub use unix::end_on_lost_pages;
#[cfg(unix)]
pub(super) use unix::{Guarded, watch};

#[cfg(unix)]
mod unix {
    use std::io::IsTerminal;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    use parking_lot::Mutex;

    use super::Cleanup;
    use crate::error::{Error, ErrorKind, Result};

    /// The place of one mapping. Slots live as long as the process: a handler may look at any at any time.
    #[derive(Debug, Default)]
    pub(in crate::mmap) struct Slot {
        /// The first address; 0 for a slot that is free.
        start: AtomicUsize,
        end: AtomicUsize,
        path: OnceLock<&'static [u8]>,
        next: AtomicPtr<Slot>,
    }

    /// The slots, as a list that only grows at its front.
    static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(std::ptr::null_mut());
    /// What to do in the end. Set once the handler is.
    static CLEANUP: OnceLock<Cleanup> = OnceLock::new();
    /// What the signal did before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
    static IS_ENDING: AtomicBool = AtomicBool::new(false);
    /// Whether a person reads the error.
    static IS_TERMINAL: AtomicBool = AtomicBool::new(false);

    /// A mapping that is in the list.
    #[derive(Debug)]
    pub(in crate::mmap) struct Guarded(&'static Slot);

    impl Drop for Guarded {
        fn drop(&mut self) {
            self.0.start.store(0, Ordering::Release);
        }
    }

    /// Puts a mapping into the list, where [`end_on_lost_pages`] was called. Its memory for a mapping stays taken, but
    /// a program that opens the same files again and again takes it once for each name.
    pub(in crate::mmap) fn watch(bytes: &[u8], path: &Path) -> Option<Guarded> {
        CLEANUP.get()?;
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock();
        let name = path.as_os_str().as_bytes();
        let is_free = |slot: &&Slot| slot.start.load(Ordering::Relaxed) == 0 && slot.path.get() == Some(&name);
        let slot = slots().find(is_free).unwrap_or_else(|| {
            let slot: &'static Slot = Box::leak(Box::new(Slot {
                path: OnceLock::from(&*Vec::leak(name.to_vec())),
                next: AtomicPtr::new(SLOTS.load(Ordering::Relaxed)),
                ..Slot::default()
            }));
            SLOTS.store(std::ptr::from_ref(slot).cast_mut(), Ordering::Release);
            slot
        });
        slot.end.store(bytes.as_ptr_range().end.addr(), Ordering::Release);
        slot.start.store(bytes.as_ptr().addr(), Ordering::Release);
        Some(Guarded(slot))
    }

    fn slots() -> impl Iterator<Item = &'static Slot> {
        let at = |place: &AtomicPtr<Slot>| {
            // SAFETY: `watch` alone puts pointers there, to slots that are never freed.
            unsafe { place.load(Ordering::Acquire).as_ref() }
        };
        std::iter::successors(at(&SLOTS), move |slot| at(&slot.next))
    }

    /// Makes of a page that cannot be read an error on stderr, in the form of the program's others, and the end of the
    /// process with status 1, `cleanup` before it. For programs, before they open anything; other faults end the
    /// process as before.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where the operating system refuses.
    pub fn end_on_lost_pages(cleanup: Cleanup) -> Result<()> {
        // SAFETY: all-zero bytes are a `sigaction`: no handler, no flags, an empty mask.
        let (mut action, mut before): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_lost_page;
        action.sa_sigaction = handler as usize;
        // On the stack of the thread that faults, which has room: the smaller one is for stacks that have none.
        action.sa_flags = libc::SA_SIGINFO;
        IS_TERMINAL.store(std::io::stderr().is_terminal(), Ordering::Relaxed);
        // SAFETY: all are whole structures that outlive the calls, and the handler takes what SA_SIGINFO passes.
        let refused = unsafe {
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before) != 0
        };
        if refused {
            let why = std::io::Error::last_os_error();
            return Err(Error::new(ErrorKind::Io, "cannot install a handler for pages that are lost").because(why));
        }
        // The first one says where faults went before; later calls would only name this handler.
        BEFORE.get_or_init(|| before);
        CLEANUP.get_or_init(|| cleanup);
        Ok(())
    }

    /// Everything in here may be done in a signal handler: system calls, atomics, memory of the stack.
    extern "C" fn on_lost_page(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel passes what SA_SIGINFO promises.
        let address = unsafe { (*info).si_addr() }.addr();
        let found = slots().find(|slot| {
            let (start, end) = (slot.start.load(Ordering::Acquire), slot.end.load(Ordering::Acquire));
            start != 0 && (start..end).contains(&address)
        });
        let Some(slot) = found else {
            if let Some(before) = BEFORE.get() {
                // SAFETY: it is what the kernel said before. An instruction faults again when this returns; what
                // another process sent (a code of 0 or less) is sent again.
                unsafe {
                    libc::sigaction(libc::SIGBUS, std::ptr::from_ref(before), std::ptr::null_mut());
                    if (*info).si_code <= 0 {
                        libc::raise(libc::SIGBUS);
                    }
                }
            }
            return;
        };
        if IS_ENDING.swap(true, Ordering::AcqRel) {
            loop {
                // SAFETY: it only waits; the thread that was first ends the process.
                unsafe { libc::pause() };
            }
        }
        let byte = address - slot.start.load(Ordering::Acquire);
        let mut digits = [0u8; 20];
        // A bar may be where the cursor is.
        let start: &[u8] = if IS_TERMINAL.load(Ordering::Relaxed) { b"\r\x1b[K" } else { b"" };
        let parts = [
            start,
            b"error: ",
            slot.path.get().copied().unwrap_or_default(),
            b": a mapped file could not be read (an I/O error, or it was shortened) at byte ",
            decimal(byte, &mut digits),
            b". --read reads files instead of mapping them\n",
        ];
        let parts = parts.map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
        // SAFETY: six buffers that outlive the call.
        unsafe { libc::writev(libc::STDERR_FILENO, parts.as_ptr(), 6) };
        if let Some(cleanup) = CLEANUP.get() {
            cleanup();
        }
        // SAFETY: it ends the process at once; nothing that was half done goes on.
        unsafe { libc::_exit(1) }
    }

    /// `number` in digits.
    fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 || at == 0 {
                return &digits[at..];
            }
        }
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn numbers_are_written_without_allocating() {
            for number in [0, 7, 10, 4096, usize::MAX] {
                assert_eq!(super::decimal(number, &mut [0; 20]), number.to_string().as_bytes());
            }
        }
    }
}

/// Elsewhere a lost page is not a signal.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn end_on_lost_pages(_: Cleanup) -> crate::Result<()> {
    Ok(())
}

#[cfg(not(unix))]
pub(super) type Guarded = std::convert::Infallible;

#[cfg(not(unix))]
pub(super) fn watch(_: &[u8], _: &std::path::Path) -> Option<Guarded> {
    None
}
