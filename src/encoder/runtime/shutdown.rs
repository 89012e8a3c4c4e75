//! The end of the process: ONNX Runtime's own destructors run in `exit`, and no thread may be at work in it then, ours
//! or the host's. Every call into it is made under a [`ShutdownGuard`]; `exit` waits for those there are, and what
//! comes later is refused.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
#[cfg(unix)]
use std::os::unix::ffi::OsStrExt;
#[cfg(unix)]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
#[cfg(unix)]
use std::time::Duration;

use super::gate::Gate;
use crate::error::{Error, ErrorKind, Result};

/// The longest that `exit` waits: a run that never ends must not keep the process for ever. It goes on then, as it
/// would have without us.
#[cfg(unix)]
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The longest wait where `exit` is called by what ONNX Runtime calls back, on whatever thread: a run may wait for that
/// very call.
#[cfg(unix)]
const MAX_WAIT_IN_CALLBACK: Duration = Duration::from_secs(1);

static GATE: Gate = Gate::new();
/// The occasions to tell `exit` that it has to wait.
static OCCASIONS: AtomicU32 = AtomicU32::new(0);
/// The runs since a session was made.
static RUNS: AtomicU32 = AtomicU32::new(0);
/// The process that was told.
#[cfg(unix)]
static PROCESS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Guards that the thread holds.
    static HELD: Cell<usize> = const { Cell::new(0) };
    /// Calls of ONNX Runtime's that the thread is in.
    static CALLBACKS: Cell<usize> = const { Cell::new(0) };
}

/// Held by a thread while it works in ONNX Runtime; the end of the process waits until it is dropped. Never held while
/// waiting for another thread's turn.
pub(in crate::encoder) struct ShutdownGuard {
    work: Work,
    /// It counts as the thread's that began it.
    _of_thread: PhantomData<*const ()>,
}

/// The work that is done under a guard.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Session,
    Run,
}

impl ShutdownGuard {
    /// A guard for loading ONNX Runtime, and for making or dropping something of it.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] when the process is ending.
    pub(in crate::encoder) fn for_session() -> Result<Self> {
        Self::begin(Work::Session)
    }

    /// A guard for a run.
    ///
    /// # Errors
    /// As [`ShutdownGuard::for_session`].
    pub(in crate::encoder) fn for_run() -> Result<Self> {
        Self::begin(Work::Run)
    }

    fn begin(work: Work) -> Result<Self> {
        if !GATE.enter() {
            return Err(Error::new(ErrorKind::Cancelled, "the process is ending"));
        }
        HELD.set(HELD.get() + 1);
        if OCCASIONS.load(Ordering::Relaxed) == 0 {
            wait_at_the_end();
        }
        Ok(Self { work, _of_thread: PhantomData })
    }
}

impl Drop for ShutdownGuard {
    fn drop(&mut self) {
        // What ONNX Runtime made on the way, it destroys before what is registered here was told. A session is made of
        // much that is made once, and so are its first runs.
        let is_occasion = match self.work {
            Work::Session => {
                RUNS.store(0, Ordering::Relaxed);
                true
            }
            Work::Run => RUNS.fetch_add(1, Ordering::Relaxed).wrapping_add(1).is_power_of_two(),
        };
        if is_occasion {
            wait_at_the_end();
        }
        HELD.set(HELD.get() - 1);
        GATE.leave();
    }
}

/// Does what ONNX Runtime calls back for.
pub(super) fn in_callback(call: impl FnOnce()) {
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            CALLBACKS.set(CALLBACKS.get() - 1);
        }
    }
    CALLBACKS.set(CALLBACKS.get() + 1);
    let _end = End;
    call();
}

/// A thing of ONNX Runtime's. At the end of the process it is left as it is instead of being dropped.
pub(in crate::encoder) struct Owned<T>(ManuallyDrop<T>);

impl<T> Owned<T> {
    pub(in crate::encoder) fn new(thing: T) -> Self {
        Self(ManuallyDrop::new(thing))
    }

    /// The thing, to be dropped by its user.
    pub(in crate::encoder) fn into_inner(self) -> T {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither used again nor dropped.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl<T> Deref for Owned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if let Ok(_guard) = ShutdownGuard::for_session() {
            // SAFETY: this is the one time, and the thing is not used again.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}

/// Makes `exit` wait before it runs what was registered until now: the destructors of ONNX Runtime among it.
fn wait_at_the_end() {
    /// The occasions that are all taken; of those after them, fewer and fewer: what is registered stays so, and ONNX
    /// Runtime has made by then what it makes once.
    #[cfg(unix)]
    const MAX_OFTEN: u32 = 64;

    let occasion = OCCASIONS.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    #[cfg(not(unix))]
    let _ = occasion;
    #[cfg(unix)]
    if (occasion <= MAX_OFTEN || occasion.is_power_of_two()) && stays_loaded() {
        if occasion == 1 {
            PROCESS.store(std::process::id(), Ordering::Relaxed);
            // SAFETY: the function stays where it is until the process ends (`stays_loaded`), and may be called where
            // little else may: it sets atomics. Failure leaves a forked child waiting for `MAX_WAIT`.
            let _ = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        }
        // SAFETY: the function stays where it is until the process ends (`stays_loaded`). Failure only loses the wait.
        let _ = unsafe { libc::atexit(wait) };
    }
}

/// Keeps what holds this code in the process until its end, and tells whether it stays. The shared library asks for
/// that when it is linked; a plugin of the host's that the static library is in does not, and `dlclose` would take
/// [`wait`] away.
#[cfg(unix)]
fn stays_loaded() -> bool {
    static STAYS: OnceLock<bool> = OnceLock::new();
    *STAYS.get_or_init(|| {
        let mut about = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: any address may be asked for, and `about` has room for the answer.
        if unsafe { libc::dladdr(wait as *const libc::c_void, about.as_mut_ptr()) } == 0 {
            // Code that the loader does not know is the program's own: it was linked statically.
            return true;
        }
        // SAFETY: zeros are a value, and `dladdr` has filled them in.
        let file = unsafe { about.assume_init() }.dli_fname;
        // SAFETY: a text of the loader's. What is loaded already runs no constructor again.
        let kept = unsafe { libc::dlopen(file, libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE) };
        // The program itself is not found by its file's name, and is never unloaded.
        // SAFETY: NULL asks for the program.
        !kept.is_null() || unsafe { is_program(file) }
    })
}

/// Whether the loader calls the program itself by this name.
///
/// # Safety
/// `file` is a name that `dladdr` gave.
#[cfg(unix)]
unsafe fn is_program(file: *const libc::c_char) -> bool {
    // SAFETY: the caller's promise.
    let file = unsafe { std::ffi::CStr::from_ptr(file) };
    let program = std::env::current_exe().ok().and_then(|path| path.canonicalize().ok());
    let named = std::path::Path::new(std::ffi::OsStr::from_bytes(file.to_bytes())).canonicalize().ok();
    program.is_some() && program == named
}

/// A forked child has none of the threads that were at work, but the one that forked.
#[cfg(unix)]
extern "C" fn in_child() {
    GATE.reset(HELD.get());
    PROCESS.store(std::process::id(), Ordering::Relaxed);
}

#[cfg(unix)]
extern "C" fn wait() {
    // A child that was made past `in_child` has no thread that could leave.
    if PROCESS.load(Ordering::Relaxed) != std::process::id() {
        return;
    }
    let is_called_back = CALLBACKS.get() > 0;
    // A thread that ends the process from within its own work does not wait for that work.
    if !GATE.close(HELD.get(), if is_called_back { MAX_WAIT_IN_CALLBACK } else { MAX_WAIT }) {
        tracing::error!("the process ends while a thread is at work in ONNX Runtime");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of the process itself is tried by `processes_end_whatever_is_under_way` (tests/capi).
    #[test]
    fn guards_nest_and_are_counted_for_their_thread() {
        let before = HELD.get();
        let outer = ShutdownGuard::for_session().unwrap();
        let inner = ShutdownGuard::for_run().unwrap();
        assert_eq!(HELD.get(), before + 2);
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(HELD.get(), 0));
        });
        drop((outer, inner));
        assert_eq!(HELD.get(), before);
        let began = std::time::Instant::now();
        for _ in 0..1_000_000 {
            drop(ShutdownGuard::for_run().unwrap());
        }
        println!("a guard costs {:.1} ns", began.elapsed().as_secs_f64() * 1e3);
        in_callback(|| assert_eq!(CALLBACKS.get(), 1));
        assert_eq!(CALLBACKS.get(), 0);
    }
}
