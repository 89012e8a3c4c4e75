//! The end of the process: ONNX Runtime's own destructors run in `exit`, and none of our threads may be at work in it
//! then. A program that leaves `main`, or calls `exit`, without having freed its encoders would crash now and then.

#[cfg(unix)]
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, ThreadId};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, ErrorKind, Result};

static STATE: Mutex<ExitState> = Mutex::new(ExitState { is_ending: false, at_work: Vec::new(), waits: 0 });
static ENDED: Condvar = Condvar::new();
/// The process whose threads these are: a forked child has none of them.
static PROCESS: AtomicU32 = AtomicU32::new(0);

struct ExitState {
    is_ending: bool,
    at_work: Vec<ThreadId>,
    /// The number of times that `exit` was told to wait.
    waits: u32,
}

/// Held by a thread of ours while it works in ONNX Runtime; the end of the process waits until it is dropped.
pub(in crate::encoder) struct ShutdownGuard(());

impl ShutdownGuard {
    /// Makes the end of the process refuse guards from then on, also where it comes before the first of them. To be
    /// called before work is given to another thread, which may get its turn only when `exit` is under way.
    pub(in crate::encoder) fn expect() {
        let mut state = STATE.lock();
        if state.waits == 0 {
            state.wait_at_the_end();
        }
    }

    /// A guard for the calling thread.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] when the process is ending.
    pub(in crate::encoder) fn begin() -> Result<Self> {
        let mut state = STATE.lock();
        if state.is_ending {
            return Err(Error::new(ErrorKind::Cancelled, "the process is ending"));
        }
        state.wait_at_the_end();
        state.at_work.push(thread::current().id());
        Ok(Self(()))
    }
}

impl Drop for ShutdownGuard {
    fn drop(&mut self) {
        let mut state = STATE.lock();
        // What ONNX Runtime made on the way, it destroys before what is registered here was told.
        state.wait_at_the_end();
        let own = thread::current().id();
        if let Some(at) = state.at_work.iter().position(|id| *id == own) {
            state.at_work.swap_remove(at);
        }
        ENDED.notify_all();
    }
}

impl ExitState {
    /// Makes `exit` wait before it runs what was registered until now: the destructors of ONNX Runtime among it.
    fn wait_at_the_end(&mut self) {
        /// The times that `exit` is told to wait, at most: what is registered stays so; from then on ONNX Runtime has
        /// made what it makes once.
        const MAX_WAITS: u32 = 8;

        PROCESS.store(std::process::id(), Ordering::Relaxed);
        if self.waits < MAX_WAITS {
            self.waits += 1;
            #[cfg(unix)]
            if stays_loaded() {
                // SAFETY: the function stays where it is until the process ends (`stays_loaded`). Failure only loses
                // the wait.
                let _ = unsafe { libc::atexit(wait) };
            }
        }
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

#[cfg(unix)]
extern "C" fn wait() {
    // In a forked child the lock may be held for good.
    if PROCESS.load(Ordering::Relaxed) != std::process::id() {
        return;
    }
    let own = thread::current().id();
    let mut state = STATE.lock();
    state.is_ending = true;
    // A thread that ends the process from within its own work does not wait for that work.
    while state.at_work.iter().any(|id| *id != own) {
        ENDED.wait(&mut state);
    }
}
