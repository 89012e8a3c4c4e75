//! The paths that a process which is ended by a signal has to remove, kept where a signal handler may read them: no
//! locks and no allocation, only atomics of a fixed size.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, absolute};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD};

/// Paths that are kept at once; of further ones the next writer finds what is left.
const SLOTS: usize = 32;
/// The longest path that is kept, with its end: the stack of a signal handler may be small. A longer one is left to the
/// next writer too.
const LONGEST: usize = 1024;
/// The times that a folder is emptied which others fill meanwhile.
const TRIES: usize = 10;
/// Folders within a folder that are looked into.
const DEPTH: usize = 3;

const FREE: u8 = 0;
const TAKEN: u8 = 1;
const FILE: u8 = 2;
const FOLDER: u8 = 3;

struct Slot {
    state: AtomicU8,
    length: AtomicUsize,
    path: [AtomicU8; LONGEST],
}

static KEPT: [Slot; SLOTS] = [const {
    Slot { state: AtomicU8::new(FREE), length: AtomicUsize::new(0), path: [const { AtomicU8::new(0) }; LONGEST] }
}; SLOTS];

/// Whether a signal is about to end the process.
static ENDING: AtomicBool = AtomicBool::new(false);

/// A path that is to be removed should a signal end the process, until this is dropped.
#[derive(Debug)]
pub(super) struct Unfinished(Option<usize>);

impl Unfinished {
    /// A file that is about to be created.
    pub(super) fn file(path: &Path) -> Self {
        Self::keep(path, FILE)
    }

    /// A folder that is about to be created, with all that will be in it.
    pub(super) fn folder(path: &Path) -> Self {
        Self::keep(path, FOLDER)
    }

    fn keep(path: &Path, kind: u8) -> Self {
        // The working folder may be another one by then.
        let Ok(path) = absolute(path) else { return Self(None) };
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() >= LONGEST {
            return Self(None);
        }
        let is_ours =
            |slot: &Slot| slot.state.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let found = KEPT.iter().position(is_ours);
        if let Some(slot) = found.map(|i| &KEPT[i]) {
            slot.path.iter().zip(bytes).for_each(|(kept, byte)| kept.store(*byte, Ordering::Relaxed));
            slot.length.store(bytes.len(), Ordering::Relaxed);
            slot.state.store(kind, Ordering::SeqCst);
        }
        // Either the one that ends the process finds the path, or this finds that it ends.
        wait_for_the_end();
        Self(found)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        wait_for_the_end();
        if let Some(slot) = self.0 {
            KEPT[slot].state.store(FREE, Ordering::Release);
        }
    }
}

/// Keeps a thread that would find its files gone from saying so: the process ends of its signal.
fn wait_for_the_end() {
    while ENDING.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Removes the files and folders that this process is writing, which have not taken their places: for the signal
/// handler of a program that then ends. Threads that write wait for that end.
///
/// Safe to call in a signal handler: it makes system calls, takes no lock, and allocates nothing; it needs 4 KiB of
/// stack. The library calls it never, and installs no handler.
pub fn remove_unfinished_files() {
    ENDING.store(true, Ordering::SeqCst);
    let mut path = [0; LONGEST];
    for slot in &KEPT {
        let kind = slot.state.load(Ordering::SeqCst);
        if kind != FILE && kind != FOLDER {
            continue;
        }
        let length = slot.length.load(Ordering::Relaxed).min(LONGEST - 1);
        path.iter_mut().zip(&slot.path).for_each(|(byte, kept)| *byte = kept.load(Ordering::Relaxed));
        path[length] = 0;
        let Ok(path) = std::ffi::CStr::from_bytes_until_nul(&path) else { continue };
        // What cannot be removed is left for the next writer.
        if kind == FOLDER {
            // Another thread may just have made a file in it.
            for _ in 0..TRIES {
                empty(CWD, path, DEPTH);
                if rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) != Err(rustix::io::Errno::NOTEMPTY) {
                    break;
                }
            }
        } else {
            let _ = rustix::fs::unlinkat(CWD, path, AtFlags::empty());
        }
    }
}

/// Removes what is in a folder, folders in it down to `depth`.
#[cfg(target_os = "linux")]
fn empty(around: rustix::fd::BorrowedFd<'_>, name: &std::ffi::CStr, depth: usize) {
    use rustix::fs::{Mode, OFlags, RawDir, openat};

    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(folder) = openat(around, name, flags, Mode::empty()) else { return };
    let folder = rustix::fd::AsFd::as_fd(&folder);
    // Room for one entry of the longest name.
    let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
    let mut entries = RawDir::new(folder, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name();
        if name == c"." || name == c".." || rustix::fs::unlinkat(folder, name, AtFlags::empty()).is_ok() {
            continue;
        }
        if depth > 0 {
            empty(folder, name, depth - 1);
            let _ = rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR);
        }
    }
}

/// Folders are listed with memory of the heap here, which a signal handler may not take.
#[cfg(not(target_os = "linux"))]
fn empty(_: rustix::fd::BorrowedFd<'_>, _: &std::ffi::CStr, _: usize) {}
