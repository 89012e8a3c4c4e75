//! Locks on outputs: of two that write the same file, one waits for the other.
//!
//! The lock is on a small file beside the output, for the output itself is another file each time that it is replaced.
//! Its holder removes it, and those who waited for it then find another file under its name, or none, and start anew.
//! The operating system lets go of it with the process, however that ends.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::hash::Hasher;
use std::io::{self, ErrorKind as IoKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use twox_hash::XxHash3_64;

use super::partial::{LOCK_SUFFIX, PREFIX};
use super::place::Place;
#[cfg(unix)]
use super::unfinished::Unfinished;
use super::version::is_same;
use crate::error::{Error, Result};

/// The interval at which a lock that another process holds is tried.
const POLL: Duration = Duration::from_millis(20);
/// The time after which a wait is told.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// The times that another file is found under the name of the one that was locked, before it is given up.
const MAX_TRIES: usize = 1000;

/// The outputs that [`lock_output`] has locked in this process.
static LOCKED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A lock on an output, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    /// `None` where the file system has no locks.
    #[expect(dead_code, reason = "held, not read")]
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    path: PathBuf,
    file: File,
    #[cfg(unix)]
    _unfinished: Unfinished,
}

/// A locked output: until this is dropped, other programs that would write the file with this library wait. What this
/// process writes to it goes through.
#[derive(Debug)]
pub struct OutputLock {
    path: PathBuf,
    _lock: Lock,
}

/// Locks the output `path`, be the file there or not. For programs that read a file and then replace it: nothing that
/// others write in between is lost, for they wait. `waiting` is called once, when the wait has taken a second.
///
/// Where the file system knows no locks there is none; what replaces a file that it has read refuses then to replace
/// another one ([`BundleUpdate::write`](crate::BundleUpdate::write)).
///
/// # Errors
/// As [`check_output`](super::check_output), but for inputs.
pub fn lock_output(path: &Path, waiting: &dyn Fn()) -> Result<OutputLock> {
    let path = Place::of(path)?.path;
    let lock = Lock::wait(&path, waiting)?;
    LOCKED.lock().push(path.clone());
    Ok(OutputLock { path, _lock: lock })
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        let mut locked = LOCKED.lock();
        if let Some(i) = locked.iter().position(|path| *path == self.path) {
            locked.swap_remove(i);
        }
    }
}

/// Whether this process has locked the output already.
pub(super) fn is_locked(path: &Path) -> bool {
    LOCKED.lock().iter().any(|locked| locked == path)
}

/// The lock's file of the output `path`, whose name may be as long as names can be.
fn beside(path: &Path) -> PathBuf {
    let mut hash = XxHash3_64::new();
    hash.write(path.file_name().unwrap_or(OsStr::new("")).as_encoded_bytes());
    path.with_file_name(format!("{PREFIX}{:016x}{LOCK_SUFFIX}", hash.finish()))
}

impl Lock {
    /// Waits until no other holds the lock of `path`, which is resolved.
    pub(super) fn wait(path: &Path, waiting: &dyn Fn()) -> Result<Self> {
        let lock = beside(path);
        let began = Instant::now();
        let (mut is_told, mut tries) = (false, 0);
        let failed = |e| Error::io("cannot lock it for writing", path, e);
        let none = |why: &str| {
            tracing::debug!("{}: no locks here: {why}", path.display());
            Self { held: None }
        };
        loop {
            let file = match open(&lock) {
                Ok(file) => file,
                // Gone between two looks at it.
                Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::AlreadyExists) => continue,
                Err(e) => return Err(failed(e)),
            };
            match file.try_lock() {
                Ok(()) if is_same(&file, &lock).map_err(failed)? => {
                    #[cfg(unix)]
                    let unfinished = Unfinished::file(&lock);
                    return Ok(Self {
                        held: Some(Held {
                            path: lock,
                            file,
                            #[cfg(unix)]
                            _unfinished: unfinished,
                        }),
                    });
                }
                // Its last holder has removed the file, and a third may hold a lock on a new one.
                Ok(()) if tries < MAX_TRIES => tries += 1,
                Ok(()) => return Ok(none("a file is another each time that it is looked at")),
                Err(TryLockError::WouldBlock) => {
                    if !is_told && began.elapsed() >= TOLD_AFTER {
                        waiting();
                        is_told = true;
                    }
                    std::thread::sleep(POLL);
                }
                Err(TryLockError::Error(e)) => {
                    let _ = fs::remove_file(&lock);
                    return Ok(none(&e.to_string()));
                }
            }
        }
    }
}

/// The lock's file, removed while it is held, so that no other's is.
impl Drop for Held {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        // A process that was forked from this one would hold it on.
        let _ = self.file.unlock();
    }
}

/// Opens the lock's file, or creates it. In folders that all may write to, others' files are not to be opened for
/// creation, nor links to be followed.
fn open(path: &Path) -> io::Result<File> {
    let options = |write: bool| {
        let mut options = File::options();
        options.read(true).write(write);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).mode(0o644);
        }
        options
    };
    match options(true).open(path) {
        Err(e) if e.kind() == IoKind::NotFound => {
            let made = options(true).create_new(true).open(path)?;
            // Whatever the umask says: others lock it too.
            #[cfg(unix)]
            let _ = made.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
            Ok(made)
        }
        Err(e) if e.kind() == IoKind::PermissionDenied => options(false).open(path),
        opened => opened,
    }
}
