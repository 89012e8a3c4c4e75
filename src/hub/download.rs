//! One file's way into the cache: resumed, counted, hashed, and only then given its place.

use std::fs::{self, File};
use std::io::{self, ErrorKind as IoKind, Read, Write};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::address::HubPath;
use super::cache::RepoCache;
use super::event::{HubEvent, Listener};
use super::http::{Answer, Ask, Client, of_body};
use super::listing::{Digest, ListedFile};
use super::retry::{Again, Failure};
use crate::atomic_file::sync_folder;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::try_zeroed;

/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;

/// The hash of a file as it comes.
enum Hash {
    Sha256(Sha256),
    /// SHA-1 with git's header.
    Git(Sha1),
    /// SHA-1 with git's header, and without.
    Sha1(Sha1, Sha1),
    Unchecked,
}

impl Hash {
    fn new(entry: &ListedFile) -> Self {
        // What git calls a blob: its length, a zero byte, its content.
        let git = || Sha1::new_with_prefix(format!("blob {}\0", entry.size));
        match entry.digest {
            Digest::Sha256(_) => Self::Sha256(Sha256::new()),
            Digest::Git(_) => Self::Git(git()),
            Digest::Sha1(_) => Self::Sha1(git(), Sha1::new()),
            Digest::Unchecked(_) => Self::Unchecked,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
            Self::Sha1(git, plain) => {
                git.update(bytes);
                plain.update(bytes);
            }
            Self::Unchecked => {}
        }
    }

    /// The hash, where it is not the one of `digest`.
    fn other_than(&self, digest: &Digest) -> Option<String> {
        let found = match self {
            Self::Sha256(hash) => hex(&hash.clone().finalize()),
            Self::Git(hash) => hex(&hash.clone().finalize()),
            Self::Sha1(_, plain) if hex(&plain.clone().finalize()) == digest.text() => return None,
            Self::Sha1(git, _) => hex(&git.clone().finalize()),
            Self::Unchecked => return None,
        };
        (found != digest.text()).then_some(found)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::Git(_) => "git's SHA-1",
            Self::Sha1(..) => "the SHA-1",
            Self::Unchecked => "the hash",
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the file at `path` is instead of what is listed: another hash, or another length; `None` where it is that, as
/// far as anything tells.
pub(super) fn look(path: &Path, listed: &ListedFile) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length != listed.size {
        return Ok(Some(format!("{length} bytes, not {}", listed.size)));
    }
    let mut hash = Hash::new(listed);
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hash.other_than(&listed.digest)),
            Ok(n) => hash.update(&piece[..n]),
            Err(e) if e.kind() == IoKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(unix)]
fn make_read_only(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata()?.permissions().mode();
    file.set_permissions(fs::Permissions::from_mode(mode & 0o444))
}

/// What came of it.
pub(super) struct Done {
    pub(super) downloaded: bool,
    /// Whether the cache had something else in its place.
    pub(super) damaged: bool,
}

/// A file on its way.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) cache: &'a RepoCache,
    /// The file's own address, which errors name.
    pub(super) address: &'a HubPath,
    pub(super) commit: &'a str,
    /// The revision by which the content is asked for.
    pub(super) at: &'a str,
    pub(super) entry: &'a ListedFile,
    /// Whether what the cache has is hashed.
    pub(super) verify: bool,
    /// The caller to tell how many of the file's bytes are there.
    pub(super) progress: &'a dyn Fn(u64),
    pub(super) listener: Listener<'a>,
}

/// The part of a file that has come so far.
struct PartialFile<'a> {
    path: &'a Path,
    file: File,
    have: u64,
    hash: Hash,
}

impl Download<'_> {
    /// Brings the content to its place in the cache; nothing is asked for where it is there by then.
    pub(super) fn run(&self) -> Result<Done> {
        let Self { cache, commit, entry, .. } = self;
        let _lock = cache.lock(&entry.digest, &entry.path, self.listener)?;
        let damaged = self.verify && self.remove_damaged()?;
        if cache.has(commit, entry) {
            (self.progress)(entry.size);
            return Ok(Done { downloaded: false, damaged });
        }
        let (blob, incomplete) = (cache.blob(&entry.digest), cache.incomplete(&entry.digest));
        let mut part = self.open(&incomplete)?;
        let resumed = part.have > 0;
        self.fill(&mut part)?;
        if resumed && part.hash.other_than(&entry.digest).is_some() {
            // What an earlier run left may be at fault: once more, from the start.
            self.restart(&mut part)?;
            self.fill(&mut part)?;
        }
        if let Some(found) = part.hash.other_than(&entry.digest) {
            let _ = fs::remove_file(&incomplete);
            return Err(Error::format(format!("{} differs from the one that the repository lists", part.hash.name()))
                .at(self.address.to_string())
                .expected(entry.digest.text())
                .got(found)
                .hint("Nothing of it was kept. Something between here and the Hub changed it; try again"));
        }
        // Every program that uses the cache takes it for what its name says: none is to write into it. Some file
        // systems have modes that cannot be set.
        #[cfg(unix)]
        let _ = make_read_only(&part.file);
        part.file.sync_all().map_err(|e| self.unwritten(&part, e))?;
        let folder = blob.parent().unwrap_or(&blob);
        fs::rename(&incomplete, &blob)
            .and_then(|()| sync_folder(folder))
            .map_err(|e| Error::io("cannot take its place", &blob, e))?;
        Ok(Done { downloaded: true, damaged })
    }

    /// Hashes what the cache has of the file, and removes what is not what the repository lists; whether any was.
    fn remove_damaged(&self) -> Result<bool> {
        let mut is_damaged = false;
        for path in self.cache.contents(self.commit, self.entry) {
            let listed = self.entry.digest.text();
            let found = match look(&path, self.entry) {
                Ok(None) => continue,
                Ok(Some(found)) => found,
                Err(e) => e.to_string(),
            };
            (self.listener)(HubEvent::Damaged { path: &self.entry.path, expected: listed, got: &found });
            fs::remove_file(&path).map_err(|e| Error::io("is damaged, and cannot be removed", &path, e))?;
            is_damaged = true;
        }
        Ok(is_damaged)
    }

    /// What an earlier run left, hashed; else an empty file.
    fn open<'p>(&self, path: &'p Path) -> Result<PartialFile<'p>> {
        let failed = |e| Error::io("cannot open", path, e);
        let file = File::options().read(true).append(true).create(true).open(path).map_err(failed)?;
        let have = file.metadata().map_err(failed)?.len();
        let mut part = PartialFile { path, file, have, hash: Hash::new(self.entry) };
        if have > self.entry.size {
            self.restart(&mut part)?;
        }
        let mut piece = try_zeroed::<u8>(PIECE)?;
        let mut left = part.have;
        while left > 0 {
            match part.file.read(&mut piece) {
                Ok(0) => return Err(failed(IoKind::UnexpectedEof.into())),
                Ok(n) => {
                    part.hash.update(&piece[..n]);
                    left = left.saturating_sub(n as u64);
                }
                Err(e) if e.kind() == IoKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(part)
    }

    fn restart(&self, part: &mut PartialFile<'_>) -> Result<()> {
        part.file.set_len(0).map_err(|e| Error::io("cannot empty", part.path, e))?;
        part.have = 0;
        part.hash = Hash::new(self.entry);
        Ok(())
    }

    /// Requests what is missing, again and again while that may help.
    fn fill(&self, part: &mut PartialFile<'_>) -> Result<()> {
        let url = self.client.file(self.address, self.at, &self.entry.path);
        let mut retries = self.client.retries(self.listener);
        while part.have < self.entry.size {
            let before = part.have;
            let done =
                self.client.send(Ask::Bytes(part.have), &url, self.address).and_then(|answer| self.take(answer, part));
            if part.have > before {
                retries.progressed();
            }
            if let Err(failure) = done {
                let (have, size, again) = (part.have, self.entry.size, failure.again);
                retries.wait(failure).map_err(|Failure { error, .. }| match (have, again) {
                    (0, _) | (_, Again::Never) => error,
                    _ => error.got(format!("{have} of {size} bytes, which are kept: run it again to go on from there")),
                })?;
            }
        }
        (self.progress)(part.have);
        Ok(())
    }

    /// Writes what an answer holds behind what is there.
    fn take(&self, answer: Answer, part: &mut PartialFile<'_>) -> Result<(), Failure> {
        let size = self.entry.size;
        match (answer.status, answer.range()) {
            (206, Some((from, _))) if from == part.have => {}
            // The server knows no ranges, or gives another one than was asked for: from the start then.
            (200, _) if part.have > 0 => self.restart(part)?,
            (200, _) => {}
            _ if part.have > 0 => {
                self.restart(part)?;
                return Err(Failure::later(self.wrong("the range that was asked for", answer.status)));
            }
            (status, _) => return Err(self.wrong("the file", status).into()),
        }
        if let Some((_, Some(total))) =
            answer.range().filter(|_| answer.status == 206).filter(|&(_, n)| n != Some(size))
        {
            return Err(self.other_size(total).into());
        }
        if let Some(length) = answer.length().filter(|&length| length != size - part.have) {
            return Err(self.other_size(part.have.saturating_add(length)).into());
        }
        let request = answer.request.clone();
        let mut reader = answer.into_reader();
        let mut piece = try_zeroed::<u8>(PIECE).map_err(Failure::never)?;
        loop {
            let n = match reader.read(&mut piece) {
                Ok(0) if part.have < size => return Err(of_body(IoKind::UnexpectedEof.into(), &request, self.address)),
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == IoKind::Interrupted => continue,
                Err(e) => return Err(of_body(e, &request, self.address)),
            };
            if n as u64 > size - part.have {
                let _ = fs::remove_file(part.path);
                return Err(self.other_size(part.have + n as u64).into());
            }
            part.file.write_all(&piece[..n]).map_err(|e| self.unwritten(part, e))?;
            part.hash.update(&piece[..n]);
            part.have += n as u64;
            (self.progress)(part.have);
        }
    }

    fn wrong(&self, expected: &str, status: u16) -> Error {
        Error::format("the Hub answers with something else").at(self.address.to_string()).expected(expected).got(status)
    }

    fn other_size(&self, got: u64) -> Error {
        Error::format("what comes has another length than the repository lists")
            .at(self.address.to_string())
            .expected(format!("{} bytes", self.entry.size))
            .got(format!("{got} or more"))
    }

    /// A write that failed. On a full disk the part is given up, for it takes room that others need.
    fn unwritten(&self, part: &PartialFile<'_>, error: io::Error) -> Error {
        let is_full = matches!(error.kind(), IoKind::StorageFull | IoKind::QuotaExceeded | IoKind::FileTooLarge);
        if !is_full {
            return Error::io("cannot write", part.path, error);
        }
        let _ = fs::remove_file(part.path);
        Error::new(ErrorKind::Io, format!("no room for {}", self.address))
            .at(part.path)
            .expected(format!("{} bytes", self.entry.size))
            .because(error)
            .hint("Nothing of it was kept. Make room, or set HF_HOME to a folder on another disk")
    }
}
