//! The cache on the disk, in the layout that every client of the Hub shares:
//!
//! ```text
//! models--owner--repo/blobs/HASH                     contents, by the hash that the repository lists
//!                     blobs/HASH.incomplete          what has come of one so far
//!                     refs/REVISION                  the commit that a branch or tag was at
//!                     snapshots/COMMIT/folder/file   links to ../../../blobs/HASH
//!                     .taskbasis/COMMIT/folder/.files   which files the folder has: ours, to know it whole
//! .locks/models--owner--repo/HASH.lock               held while HASH is written
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::address::HubPath;
use super::event::{HubEvent, Listener};
use super::listing::{Digest, ListedFile, is_hex};
use crate::atomic_file::replace_file;
use crate::error::{Error, Result};
use crate::mmap::read_small_text;

/// The interval at which a lock that another process holds is tried.
const POLL: Duration = Duration::from_millis(100);
/// Missing files that an error names.
const MAX_NAMED: usize = 5;
/// The largest file that says which commit a revision is: one has 40 bytes.
const MAX_REF: usize = 4096;
/// The largest list of a commit's files that is read.
const MAX_LIST: usize = 64 << 20;
/// The name of a folder's list.
const LIST: &str = ".files";

/// One repository's part of the cache.
pub(super) struct RepoCache {
    root: PathBuf,
    name: String,
}

/// A lock, until it is dropped.
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// Whether a folder is known to be whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Yes,
    /// A file of the snapshot that is missing.
    No(String),
    /// A snapshot that another program put there.
    Unknown,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, address: &HubPath) -> Self {
        Self { root: cache.into(), name: format!("models--{}", address.repo().replace('/', "--")) }
    }

    fn folder(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// The path where the content is, or is to be.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder().join("blobs").join(digest.text())
    }

    /// The path of the content while it is downloaded.
    pub(super) fn incomplete(&self, digest: &Digest) -> PathBuf {
        self.folder().join("blobs").join(format!("{}.incomplete", digest.text()))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// The commit that the cache knows `revision` by.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_hex(revision, 40) {
            return Some(revision.to_owned());
        }
        let commit = read_small_text(&self.folder().join("refs").join(revision), MAX_REF, "a reference").ok()?;
        Some(commit.trim()).filter(|commit| is_hex(commit, 40)).map(str::to_owned)
    }

    /// Whether the file's content is there, as a blob or (where links are not to be had) in the snapshot itself.
    pub(super) fn has(&self, commit: &str, entry: &ListedFile) -> bool {
        let blob = fs::metadata(self.blob(&entry.digest));
        blob.is_ok_and(|found| found.is_file() && found.len() == entry.size) || self.shows(commit, entry)
    }

    pub(super) fn create(&self) -> Result<()> {
        for folder in [self.folder().join("blobs"), self.locks()] {
            fs::create_dir_all(&folder).map_err(|e| Error::io("cannot create the cache's folder", &folder, e))?;
        }
        Ok(())
    }

    /// The error of a download into a cache that may not be written: says what is missing, of how many files.
    pub(super) fn unwritable(&self, error: Error, missing: &[&ListedFile], all: usize) -> Error {
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        let kinds = [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem];
        if !source.is_some_and(|source| kinds.contains(&source.kind())) {
            return error;
        }
        let names: Vec<&str> = missing.iter().take(MAX_NAMED).map(|entry| entry.path.as_str()).collect();
        let more = if missing.len() > MAX_NAMED { ", …" } else { "" };
        let lacks = format!(
            "the cache lacks {}{more} ({} of {all} files) and may not be written",
            names.join(", "),
            missing.len()
        );
        Error::new(error.kind(), lacks)
            .at(error.path().unwrap_or(&self.root))
            .because(error.to_string())
            .hint("Download it as a user who may write there, or set HF_HUB_CACHE to another folder")
    }

    fn locks(&self) -> PathBuf {
        self.root.join(".locks").join(&self.name)
    }

    /// Waits until no other process writes `digest`; `what` is its file.
    pub(super) fn lock(&self, digest: &Digest, what: &str, listener: Listener<'_>) -> Result<Lock> {
        let path = self.locks().join(format!("{}.lock", digest.text()));
        let failed = |e| Error::io("cannot lock it", &path, e);
        let mut told = false;
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(failed)?;
            match file.try_lock() {
                // The process that had it may have removed the file, and a third may hold a lock on a new one.
                Ok(()) if is_same(&file, &path) => return Ok(Lock(file)),
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
            if !told {
                listener(HubEvent::Waiting { path: what });
                told = true;
            }
            thread::sleep(POLL);
        }
    }

    /// Makes the snapshot show the file, whose blob is there.
    pub(super) fn link(&self, commit: &str, entry: &ListedFile) -> Result<()> {
        let (blob, place) = (self.blob(&entry.digest), self.snapshot(commit).join(&entry.path));
        let failed = |e| Error::io("cannot put it into the snapshot", &place, e);
        if !blob.exists() {
            // `has` found it there.
            return Ok(());
        }
        if place.canonicalize().is_ok_and(|there| blob.canonicalize().is_ok_and(|blob| blob == there)) {
            return Ok(());
        }
        let folder = place.parent().unwrap_or(&place);
        fs::create_dir_all(folder).map_err(failed)?;
        let up = "../".repeat(2 + entry.path.matches('/').count());
        // Renamed into place: two processes may do this at once, and a link of old may be there.
        let partial = tempfile::Builder::new().prefix(".taskbasis-").tempdir_in(folder).map_err(failed)?;
        let link = partial.path().join("link");
        symlink(Path::new(&format!("{up}blobs/{}", entry.digest.text())), &link)
            .or_else(|_| fs::hard_link(&blob, &link))
            .or_else(|_| fs::copy(&blob, &link).map(drop))
            .and_then(|()| fs::rename(&link, &place))
            .map_err(failed)
    }

    /// Whether the snapshot shows the file already, be it as a link or as a copy.
    fn shows(&self, commit: &str, entry: &ListedFile) -> bool {
        let place = self.snapshot(commit).join(&entry.path);
        fs::metadata(place).is_ok_and(|found| found.is_file() && found.len() == entry.size)
    }

    /// Notes that the folder `path` has `entries` and nothing else.
    pub(super) fn mark(&self, commit: &str, path: &str, entries: &[ListedFile]) -> Result<()> {
        let lines: String = entries.iter().map(|entry| format!("{} {}\n", entry.size, entry.path)).collect();
        replace(&self.list(commit, path), &lines)
    }

    fn list(&self, commit: &str, path: &str) -> PathBuf {
        self.folder().join(".taskbasis").join(commit).join(path).join(LIST)
    }

    /// Whether everything of the folder `path` is there, by what was noted of it or of a folder around it.
    pub(super) fn whole(&self, commit: &str, path: &str) -> Whole {
        let mut folder = path;
        let list = loop {
            match (read_small_text(&self.list(commit, folder), MAX_LIST, "a list of files"), folder.rsplit_once('/')) {
                (Ok(list), _) => break list,
                (Err(_), Some((around, _))) => folder = around,
                (Err(_), None) => return Whole::Unknown,
            }
        };
        let mut files = list
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, file)| path.is_empty() || file.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')));
        let snapshot = self.snapshot(commit);
        let missing = files
            .find(|(size, file)| !fs::metadata(snapshot.join(file)).is_ok_and(|found| size.parse() == Ok(found.len())));
        missing.map_or(Whole::Yes, |(_, file)| Whole::No(file.to_owned()))
    }

    /// Notes where the revision is; a commit is where it is.
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        replace(&self.folder().join("refs").join(revision), commit)
    }

    /// Bytes that can still be written, where the system says so.
    pub(super) fn free(&self) -> Option<u64> {
        #[cfg(unix)]
        {
            let found = rustix::fs::statvfs(self.folder()).ok()?;
            Some(found.f_bavail.saturating_mul(found.f_frsize))
        }
        #[cfg(not(unix))]
        None
    }
}

/// Whether an open file is still the one that `path` names.
fn is_same(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |found: &fs::Metadata| (found.dev(), found.ino());
        matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if identity(&a) == identity(&b))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::symlink(target, link);
    #[cfg(not(unix))]
    {
        // Windows allows links to few; what comes next in `link` works for all.
        let _ = (target, link);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A small file, whole or not at all.
fn replace(path: &Path, text: &str) -> Result<()> {
    let failed = |e| Error::io("cannot write", path, e);
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(failed)?;
    replace_file(path, &[], |sibling| fs::write(sibling, text).map_err(failed))
}
