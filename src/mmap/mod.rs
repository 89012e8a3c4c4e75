//! The bytes of a file: mapped, or read into memory. The only user of `memmap2`.
//!
//! A mapping costs nothing to open, and an I/O error at one of its pages ends the process. What is looked at first in
//! any file, and what is checked, is therefore read ([`Mapping::read_at`]), with an error that names the place.

mod anonymous;
mod guard;
mod identity;
mod read;
mod small;

use std::borrow::Cow;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::did_you_mean;
use crate::error::{Error, Result};

pub use anonymous::Anonymous;
pub use guard::{Cleanup, end_on_lost_pages};
pub use identity::Identity;
pub use small::{read_small, read_small_text};

use identity::Token;
use read::read_exact_at;

/// The way in which a file's bytes are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapMode {
    /// Map the file: opening costs nothing, its pages live in the page cache and are shared between processes.
    ///
    /// The file must not be shortened while it is open, and its disk must be able to read it: the operating system
    /// ends a process that touches pages that it cannot get (SIGBUS). Where another program may shorten it, or the disk
    /// (a network's, a card) may fail, use [`MapMode::Read`].
    #[default]
    Map,
    /// Read the whole file into memory that belongs to this process. What cannot be read is an error that names the
    /// place; nothing that happens to the file afterwards matters.
    Read,
}

/// Whether [`MapMode::Map`] reads too.
static ALWAYS_READ: AtomicBool = AtomicBool::new(false);

/// Reads every file that this process opens from now on, whichever [`MapMode`] is asked for. For programs, at their
/// start; a library's callers have the mode.
pub fn read_all_files() {
    ALWAYS_READ.store(true, Ordering::Relaxed);
}

/// The bytes of one file, immutable, with the path they came from.
pub struct Mapping {
    /// The first field: dropped before the file is closed, so that no other file has its inode meanwhile.
    token: Token,
    /// Dropped before the mapping goes.
    _guarded: Option<guard::Guarded>,
    bytes: Bytes,
    path: PathBuf,
}

enum Bytes {
    /// The file stays open beside its mapping, for [`Mapping::read_at`].
    Mmap(memmap2::Mmap, File),
    Heap(Vec<u8>),
}

/// The bytes from one page that [`Mapping::is_resident`] asks after to the next.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const PROBE_EVERY: usize = 16 << 20;

/// Linux reads no more for one piece of advice than it would read ahead by itself, which is 128 KiB by default.
#[cfg(unix)]
const ADVICE_BYTES: usize = 128 << 10;

/// Whether reading the byte at `at` would wait for the disk.
///
/// This and not `mincore`, which tells the truth only to those who might write to the file.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn would_wait(file: &File, at: usize) -> bool {
    use std::os::fd::AsRawFd;

    let mut byte = 0u8;
    let buffer = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let Ok(at) = libc::off64_t::try_from(at) else { return false };
    // SAFETY: one buffer of one byte, which outlives the call; the descriptor is open as long as `file` is.
    let read = unsafe { libc::preadv64v2(file.as_raw_fd(), &raw const buffer, 1, at, libc::RWF_NOWAIT) };
    read < 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock
}

fn regular(path: &Path, metadata: &std::fs::Metadata) -> Result<()> {
    let refused = |what| Error::new(crate::ErrorKind::Io, what).at(path);
    match metadata.file_type() {
        file if file.is_file() => Ok(()),
        file if file.is_dir() => Err(refused("cannot open").expected("a file").got("a folder")),
        _ => Err(refused("not a regular file")),
    }
}

/// The file at `path`, which is a regular one.
fn open_regular(path: &Path) -> Result<(File, std::fs::Metadata)> {
    // Asked before it is opened too: opening a pipe waits for a program at its other end.
    let metadata = std::fs::metadata(path).map_err(|e| {
        let hint = did_you_mean::hub_path(path).filter(|_| e.kind() == std::io::ErrorKind::NotFound);
        let error = Error::io("cannot open", path, e);
        hint.into_iter().fold(error, Error::hint)
    })?;
    regular(path, &metadata)?;
    let file = File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
    let metadata = file.metadata().map_err(|e| Error::io("cannot read its metadata", path, e))?;
    regular(path, &metadata)?;
    Ok((file, metadata))
}

impl Mapping {
    /// The bytes of the file at `path`. An empty file is empty bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when it cannot be opened, mapped or read, or is not a regular file;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) when [`MapMode::Read`] finds no room for it.
    pub fn open(path: impl AsRef<Path>, mode: MapMode) -> Result<Self> {
        let path = path.as_ref();
        let (file, metadata) = open_regular(path)?;
        let length = usize::try_from(metadata.len())
            .map_err(|_| Error::unsupported("larger than this machine's address space").at(path))?;
        let path = path.to_path_buf();
        if length == 0 {
            return Ok(Self::from_vec(Vec::new(), path));
        }
        if mode == MapMode::Read || ALWAYS_READ.load(Ordering::Relaxed) {
            return Ok(Self::from_vec(read::whole(&file, &metadata, length, &path)?, path));
        }
        // SAFETY: a mapping is sound as long as the file is not shortened or rewritten meanwhile. That cannot be
        // checked; `MapMode::Map` says so, and our own writers replace files instead of writing into them.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("cannot map", &path, e))?;
        let _guarded = guard::watch(&map, &path);
        Ok(Self { token: Token::of_file(&file, &metadata), _guarded, bytes: Bytes::Mmap(map, file), path })
    }

    /// Bytes that are in memory already; `path` is the name that errors will show.
    pub fn from_vec(bytes: Vec<u8>, path: impl Into<PathBuf>) -> Self {
        Self { token: Token::unique(), _guarded: None, bytes: Bytes::Heap(bytes), path: path.into() }
    }

    /// The bytes of `range`, read from the file where it is mapped: what the disk cannot give is an error then, and not
    /// the end of the process.
    ///
    /// Of a few bytes this is also the faster way: looking at one place of a mapping costs a page fault, which maps the
    /// neighbourhood too, and an archive with thousands of entries has a header to be looked at before each.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), with the byte, where the file cannot be read or has become shorter;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    ///
    /// # Panics
    /// When the range leaves the file.
    pub fn read_at(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        assert!(range.start <= range.end && range.end <= self.len(), "range outside the file");
        let Bytes::Mmap(_, file) = &self.bytes else { return Ok(Cow::Borrowed(&self[range])) };
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(range.len()).map_err(|_| Error::out_of_memory(range.len()).at(&self.path))?;
        bytes.resize(range.len(), 0);
        read_exact_at(file, &mut bytes, range.start as u64, &self.path)?;
        Ok(Cow::Owned(bytes))
    }

    /// The first `length` bytes, or all where there are fewer, as [`Mapping::read_at`] gives them.
    ///
    /// # Errors
    /// As [`Mapping::read_at`].
    pub fn head(&self, length: usize) -> Result<Cow<'_, [u8]>> {
        self.read_at(0..length.min(self.len()))
    }

    /// Reads every byte and keeps none, so that what the disk cannot give is found. `progress` is called with the bytes
    /// of every part.
    ///
    /// # Errors
    /// As [`Mapping::read_at`].
    pub fn verify_readable(&self, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
        for start in (0..self.len()).step_by(read::PART) {
            let part = start..(start + read::PART).min(self.len());
            let bytes = part.len() as u64;
            self.read_at(part)?;
            progress(bytes);
        }
        Ok(())
    }

    /// Whether the pages of `range` are in memory, as far as one of them in every 16 MiB tells, the first among them.
    /// Each is a question of a microsecond or two.
    ///
    /// Where the operating system has no answer it is `true`: then nothing is gained by [`Mapping::read_ahead`].
    ///
    /// # Panics
    /// When the range leaves the file.
    pub fn is_resident(&self, range: Range<usize>) -> bool {
        assert!(range.start <= range.end && range.end <= self.len(), "range outside the file");
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        if let Bytes::Mmap(_, file) = &self.bytes {
            return range.step_by(PROBE_EVERY).all(|at| !would_wait(file, at));
        }
        true
    }

    /// Asks the operating system to read `range` from the disk, and does not wait for it.
    ///
    /// Page faults on several places of a file by turns look like random access, and are read a little at a time; this
    /// makes long requests of them.
    ///
    /// # Panics
    /// When the range leaves the file.
    pub fn read_ahead(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len(), "range outside the file");
        #[cfg(unix)]
        if let Bytes::Mmap(map, _) = &self.bytes {
            for at in range.clone().step_by(ADVICE_BYTES) {
                // Only advice: it may be refused.
                let _ = map.advise_range(memmap2::Advice::WillNeed, at, ADVICE_BYTES.min(range.end - at));
            }
        }
    }

    /// The path that the bytes came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity of these bytes in this process, which no others have as long as the process lives.
    pub fn identity(&self) -> Identity {
        self.token.identity()
    }

    /// Whether the bytes are mapped (their pages belong to the page cache) rather than in this process's memory.
    pub fn is_mapped(&self) -> bool {
        matches!(self.bytes, Bytes::Mmap(..))
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mmap(map, _) => map,
            Bytes::Heap(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapping({}, {} bytes)", self.path.display(), self.len())
    }
}
