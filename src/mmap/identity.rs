//! Which bytes are the same: files that are mapped now, told apart and known again.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The identity of bytes within a process. Mappings of one file have the same as long as one of them lives, whatever
/// paths lead to it and however it is opened again; once none lives, it is never anyone's again. Bytes that were read
/// or made equal only themselves.
///
/// A file that is deleted leaves its inode to the next one, which may well have its length and times: only while it is
/// open do these say which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity(u64);

impl Identity {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What tells files that are open from each other, and one from itself after it was written into: device, inode,
/// length, and the times of the last change of content and of anything. The content's can be put back; the other
/// cannot.
type State = [i128; 5];

/// The files of the mappings that live, and how many live of each.
static LIVING: Mutex<BTreeMap<State, (Identity, usize)>> = Mutex::new(BTreeMap::new());

/// A mapping's identity, which is free for others once the last of the same file is dropped.
pub(super) struct Token {
    identity: Identity,
    state: Option<State>,
}

impl Token {
    /// One of its own.
    pub(super) fn unique() -> Self {
        Self { identity: Identity::new(), state: None }
    }

    /// That of a file. The file must be open until the token is dropped.
    pub(super) fn of_file(file: &File, metadata: &Metadata) -> Self {
        let Some(state) = state(file, metadata) else { return Self::unique() };
        let mut living = LIVING.lock();
        let (identity, count) = living.entry(state).or_insert_with(|| (Identity::new(), 0));
        *count += 1;
        Self { identity: *identity, state: Some(state) }
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let Some(state) = self.state else { return };
        let mut living = LIVING.lock();
        if let Some((_, count)) = living.get_mut(&state) {
            *count -= 1;
            if *count == 0 {
                living.remove(&state);
            }
        }
    }
}

#[cfg(unix)]
fn state(_: &File, metadata: &Metadata) -> Option<State> {
    use std::os::unix::fs::MetadataExt;

    let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    Some([
        metadata.dev().into(),
        metadata.ino().into(),
        metadata.len().into(),
        time(metadata.mtime(), metadata.mtime_nsec()),
        time(metadata.ctime(), metadata.ctime_nsec()),
    ])
}

/// Volume and index say which file it is while it is open; of its times Windows has that of the content alone.
#[cfg(windows)]
fn state(file: &File, metadata: &Metadata) -> Option<State> {
    use std::os::windows::fs::MetadataExt;

    let found = winapi_util::file::information(file).ok()?;
    Some([
        found.volume_serial_number().into(),
        found.file_index().into(),
        metadata.len().into(),
        metadata.last_write_time().into(),
        0,
    ])
}

/// Nothing tells files apart elsewhere: each opening is one.
#[cfg(not(any(unix, windows)))]
fn state(_: &File, _: &Metadata) -> Option<State> {
    None
}

#[cfg(any(unix, windows))]
#[cfg(test)]
mod tests {
    use std::fs::{self, File, FileTimes};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use crate::mmap::{MapMode, Mapping};

    /// Writes a file whose time is always the same.
    fn write(path: &Path, bytes: &[u8]) {
        fs::write(path, bytes).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    #[test]
    fn one_file_is_itself_by_every_name() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link, copy) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        write(&file, b"1234");
        fs::hard_link(&file, &link).unwrap();
        write(&copy, b"1234");
        let [a, b, c] = [&file, &link, &copy].map(|path| Mapping::open(path, MapMode::Map).unwrap());
        assert_eq!(a.identity(), b.identity());
        assert_ne!(a.identity(), c.identity());
        let read = || Mapping::open(&file, MapMode::Read).unwrap().identity();
        assert!(read() != a.identity() && read() != read(), "what was read is its own");
        drop(a);
        assert_eq!(b.identity(), Mapping::open(&link, MapMode::Map).unwrap().identity());
    }

    /// A deleted file's inode is reused at once, with the same length and the same time.
    #[test]
    fn another_file_in_the_same_place_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut seen = std::collections::HashSet::new();
        for round in 0..50 {
            write(&path, format!("{round:04}").as_bytes());
            let mapping = Mapping::open(&path, MapMode::Map).unwrap();
            assert_eq!(mapping.identity(), Mapping::open(&path, MapMode::Map).unwrap().identity());
            assert!(seen.insert(mapping.identity()), "round {round}");
            drop(mapping);
            fs::remove_file(&path).unwrap();
        }
    }

    /// Even one that lives is not what it was once something was written into it.
    #[cfg(unix)]
    #[test]
    fn a_file_that_was_written_into_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write(&path, b"1234");
        let before = Mapping::open(&path, MapMode::Map).unwrap();
        // Clocks of file systems tick some hundred times a second.
        std::thread::sleep(Duration::from_millis(30));
        write(&path, b"5678");
        let after = Mapping::open(&path, MapMode::Map).unwrap();
        assert_ne!(before.identity(), after.identity());
    }
}
