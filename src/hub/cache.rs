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
//!
//! Whatever is written is on the disk, with the folder that names it, before what relies on it: contents and the list
//! of a folder's files before the links, links before the reference. A list ends with its length, so that half of one,
//! or an empty one, is none.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::address::HubPath;
use super::event::{HubEvent, Listener};
use super::listing::{Digest, ListedFile, is_hex};
use crate::atomic_file::{PartialFolder, create_folders, is_same, replace_small, sync_folder};
use crate::error::{Error, Result};
use crate::mmap::read_small_text;
use crate::present;

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
/// The folder of a repository that is ours: lists, and what is in the making.
const OURS: &str = ".taskbasis";

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
            create_folders(&folder).map_err(|e| Error::io("cannot create the cache's folder", &folder, e))?;
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
                Ok(()) if is_same(&file, &path).map_err(failed)? => return Ok(Lock(file)),
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
        // Where that cannot be told, the file would be missing in silence.
        if !present::is_file(&blob)? {
            // `has` found it there.
            return Ok(());
        }
        if place.canonicalize().is_ok_and(|there| blob.canonicalize().is_ok_and(|blob| blob == there)) {
            return Ok(());
        }
        let folder = place.parent().unwrap_or(&place);
        let ours = self.ours();
        create_folders(folder).and_then(|()| create_folders(&ours)).map_err(failed)?;
        let up = "../".repeat(2 + entry.path.matches('/').count());
        // Renamed into place: two processes may do this at once, and a link of old may be there.
        let partial = PartialFolder::in_folder(&ours)?;
        let link = partial.path().join("link");
        symlink(Path::new(&format!("{up}blobs/{}", entry.digest.text())), &link)
            .or_else(|_| fs::hard_link(&blob, &link))
            .or_else(|_| fs::copy(&blob, &link).and_then(|_| File::open(&link)?.sync_all()))
            .and_then(|()| fs::rename(&link, &place))
            .and_then(|()| sync_folder(folder))
            .map_err(failed)
    }

    /// Whether the snapshot shows the file already, be it as a link or as a copy.
    fn shows(&self, commit: &str, entry: &ListedFile) -> bool {
        let place = self.snapshot(commit).join(&entry.path);
        fs::metadata(place).is_ok_and(|found| found.is_file() && found.len() == entry.size)
    }

    /// Notes that the folder `path` has `entries` and nothing else.
    pub(super) fn mark(&self, commit: &str, path: &str, entries: &[ListedFile]) -> Result<()> {
        self.replace(&self.list(commit, path), &list(entries))
    }

    fn list(&self, commit: &str, path: &str) -> PathBuf {
        self.ours().join(commit).join(path).join(LIST)
    }

    fn ours(&self) -> PathBuf {
        self.folder().join(OURS)
    }

    /// Whether everything of the folder `path` is there, by what was noted of it or of a folder around it.
    pub(super) fn whole(&self, commit: &str, path: &str) -> Whole {
        let mut folder = path;
        let list = loop {
            let list = read_small_text(&self.list(commit, folder), MAX_LIST, "a list of files").ok();
            match (list.and_then(whole_list), folder.rsplit_once('/')) {
                (Some(list), _) => break list,
                (None, Some((around, _))) => folder = around,
                (None, None) => return Whole::Unknown,
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
        self.replace(&self.folder().join("refs").join(revision), commit)
    }

    /// Notes that the commit has no file `path`, as Python's client does.
    pub(super) fn mark_absent(&self, commit: &str, path: &str) -> Result<()> {
        self.replace(&self.absent(commit, path), "")
    }

    pub(super) fn is_absent(&self, commit: &str, path: &str) -> bool {
        self.absent(commit, path).exists()
    }

    fn absent(&self, commit: &str, path: &str) -> PathBuf {
        self.folder().join(".no_exist").join(commit).join(path)
    }

    /// A small file, whole or not at all. It is made where no other program looks for names.
    fn replace(&self, path: &Path, text: &str) -> Result<()> {
        let (ours, folder) = (self.ours(), path.parent().unwrap_or(path));
        create_folders(&ours)
            .and_then(|()| create_folders(folder))
            .and_then(|()| replace_small(path, &ours, text.as_bytes()))
            .map_err(|e| Error::io("cannot write", path, e))
    }

    /// The files that hold the content of `entry`: the blob, and a copy of it in the snapshot, where links are not to
    /// be had.
    pub(super) fn contents(&self, commit: &str, entry: &ListedFile) -> Vec<PathBuf> {
        let (blob, place) = (self.blob(&entry.digest), self.snapshot(commit).join(&entry.path));
        let is_file = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.is_file());
        let is_link = place.canonicalize().ok().is_some_and(|place| blob.canonicalize().ok() == Some(place));
        [Some(blob), Some(place).filter(|_| !is_link)].into_iter().flatten().filter(is_file).collect()
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

/// The text of a list: a line for each file, and one that says how many.
fn list(entries: &[ListedFile]) -> String {
    let lines: String = entries.iter().map(|entry| format!("{} {}\n", entry.size, entry.path)).collect();
    format!("{lines}{END}{}\n", entries.len())
}

/// The begin of a list's last line.
const END: &str = "end ";

/// The lines of a list; `None` for one that is not all there, as a loss of power may leave it.
fn whole_list(text: String) -> Option<String> {
    let (files, end) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let count: usize = end.strip_prefix(END)?.parse().ok()?;
    (count > 0 && files.lines().count() == count).then(|| files.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_whole_or_none() {
        let entries: Vec<_> = ["a", "b c", "end 2"].map(|path| ListedFile::local(path.into(), 12)).into();
        let text = list(&entries);
        assert_eq!(whole_list(text.clone()).unwrap(), "12 a\n12 b c\n12 end 2");
        for length in 0..text.len() {
            assert_eq!(whole_list(text[..length].into()), None, "{length} bytes of it");
        }
        assert_eq!(whole_list("12 a\n".into()), None, "what an older version wrote may be half of it");
        assert_eq!(whole_list("\0".repeat(text.len())), None);
        assert_eq!(whole_list("end 0\n".into()), None);
    }
}
