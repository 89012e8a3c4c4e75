//! The bytes of a file: mapped, or read into memory. The only user of `memmap2`.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::did_you_mean;
use crate::error::{Error, Result};

/// The way in which a file's bytes are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapMode {
    /// Map the file: opening costs nothing, its pages live in the page cache and are shared between processes.
    ///
    /// The file must not be shortened while it is open: the operating system then ends a process that touches
    /// the lost pages (SIGBUS). Where another program may do that, use [`MapMode::Read`].
    #[default]
    Map,
    /// Read the whole file into memory that belongs to this process.
    Read,
}

/// The bytes of one file, immutable, with the path they came from.
pub struct Mapping {
    bytes: Bytes,
    path: PathBuf,
    identity: Identity,
}

/// The identity of a file's bytes within a process: the file itself, whatever paths lead to it, at one state of its
/// content. Bytes that came from no file equal only themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity([u64; 4]);

impl Identity {
    /// An identity different from every other.
    fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self([0, 0, 0, NEXT.fetch_add(1, Ordering::Relaxed)])
    }

    /// The identity of a file: device, inode, length and time of the last change. Devices are not 0, so no file is
    /// taken for one that is unique.
    #[cfg(unix)]
    fn of(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;

        let changed = metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec());
        Self([metadata.dev().max(1), metadata.ino(), metadata.len(), changed as u64])
    }

    /// An identity of its own for every opening, as there are no inodes.
    #[cfg(not(unix))]
    fn of(_: &std::fs::Metadata) -> Self {
        Self::unique()
    }
}

enum Bytes {
    /// The file stays open beside its mapping, for [`Mapping::peek`].
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

impl Mapping {
    /// The bytes of the file at `path`. An empty file is empty bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when it cannot be opened, mapped or read, or is not a regular file;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) when [`MapMode::Read`] finds no room for it.
    pub fn open(path: impl AsRef<Path>, mode: MapMode) -> Result<Self> {
        let path = path.as_ref();
        // Asked before it is opened too: opening a pipe waits for a program at its other end.
        let metadata = std::fs::metadata(path).map_err(|e| {
            let hint = did_you_mean::hub_path(path).filter(|_| e.kind() == std::io::ErrorKind::NotFound);
            let error = Error::io("cannot open", path, e);
            hint.into_iter().fold(error, Error::hint)
        })?;
        regular(path, &metadata)?;
        Self::open_file(path, mode)
    }

    fn open_file(path: &Path, mode: MapMode) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
        let metadata = file.metadata().map_err(|e| Error::io("cannot read its metadata", path, e))?;
        regular(path, &metadata)?;
        let length = usize::try_from(metadata.len())
            .map_err(|_| Error::unsupported("larger than this machine's address space").at(path))?;
        let bytes = if length == 0 {
            Bytes::Heap(Vec::new())
        } else if mode == MapMode::Map {
            // SAFETY: a mapping is sound as long as the file is not shortened or rewritten meanwhile. That cannot be
            // checked; `MapMode::Map` says so, and our own writers replace files instead of writing into them.
            let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("cannot map", path, e))?;
            Bytes::Mmap(map, file)
        } else {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(length).map_err(|_| Error::out_of_memory(length).at(path))?;
            file.read_to_end(&mut bytes).map_err(|e| Error::io("cannot read", path, e))?;
            Bytes::Heap(bytes)
        };
        Ok(Self { bytes, path: path.to_path_buf(), identity: Identity::of(&metadata) })
    }

    /// Bytes that are in memory already; `path` is the name that errors will show.
    pub fn from_vec(bytes: Vec<u8>, path: impl Into<PathBuf>) -> Self {
        Self { bytes: Bytes::Heap(bytes), path: path.into(), identity: Identity::unique() }
    }

    /// A few bytes, without bringing the pages around them into this process.
    ///
    /// Looking at one place of a mapping costs a page fault, which maps the neighbourhood too; an archive with
    /// thousands of entries has a header to be looked at before each. Reading them is several times faster.
    ///
    /// # Panics
    /// When the range leaves the file.
    pub fn peek(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        #[cfg(unix)]
        if let Bytes::Mmap(_, file) = &self.bytes {
            use std::os::unix::fs::FileExt;

            assert!(range.end <= self.len(), "range outside the file");
            let mut bytes = vec![0; range.len()];
            if file.read_exact_at(&mut bytes, range.start as u64).is_ok() {
                return Cow::Owned(bytes);
            }
        }
        Cow::Borrowed(&self[range])
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

    /// The identity of these bytes in this process.
    pub fn identity(&self) -> Identity {
        self.identity
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

/// Memory of this process, fresh from the operating system: page-aligned, zero, and no page of it in use until it is
/// written.
#[derive(Debug, Default)]
pub struct Anonymous {
    /// `None` for no bytes, which cannot be mapped.
    map: Option<memmap2::MmapMut>,
}

impl Anonymous {
    /// Room for `length` f32 values.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub fn new(length: usize) -> Result<Self> {
        if length == 0 {
            return Ok(Self { map: None });
        }
        let bytes = length.checked_mul(size_of::<f32>()).ok_or_else(|| Error::out_of_memory(usize::MAX))?;
        let map = memmap2::MmapMut::map_anon(bytes).map_err(|e| Error::out_of_memory(bytes).because(e))?;
        // A fault for every 4 KiB would cost more than the arithmetic that fills them. Only advice: it may be refused.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map: Some(map) })
    }

    /// The values.
    pub fn as_f32(&self) -> &[f32] {
        let Some(map) = &self.map else { return &[] };
        // SAFETY: every bit pattern is an f32; a mapping begins at a page's start and `new` made it whole values long.
        unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), map.len() / size_of::<f32>()) }
    }

    /// The values, to be written.
    pub fn as_f32_mut(&mut self) -> &mut [f32] {
        let Some(map) = &mut self.map else { return &mut [] };
        // SAFETY: every bit pattern is an f32, the mapping begins at a page's start and is whole values long, and `&mut
        // self` is the only access to it.
        unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), map.len() / size_of::<f32>()) }
    }
}
