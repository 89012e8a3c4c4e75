//! Which file a path names, and at which state of its content: to know it again.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// A file at one state of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileVersion {
    /// Device and inode, or what the operating system has in their place.
    file: Option<(u64, u64)>,
    length: u64,
    created: Option<SystemTime>,
    modified: Option<SystemTime>,
}

impl FileVersion {
    /// The version of the file that `path` names now.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            file: named(path, &found),
            length: found.len(),
            created: found.created().ok(),
            modified: found.modified().ok(),
        })
    }
}

/// The file that `path` names, of which this was found.
#[cfg(not(windows))]
fn named(_: &Path, found: &Metadata) -> Option<(u64, u64)> {
    identity(found)
}

#[cfg(not(windows))]
fn opened(file: &File) -> io::Result<Option<(u64, u64)>> {
    file.metadata().map(|found| identity(&found))
}

#[cfg(unix)]
fn identity(found: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((found.dev(), found.ino()))
}

#[cfg(not(any(unix, windows)))]
fn identity(_: &Metadata) -> Option<(u64, u64)> {
    None
}

/// Windows tells it of open files only. Opened for nothing but that, as a folder can be too, it is in no one's way.
#[cfg(windows)]
fn named(path: &Path, _: &Metadata) -> Option<(u64, u64)> {
    use std::os::windows::fs::OpenOptionsExt;

    const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x0200_0000;
    let file = File::options().access_mode(0).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path);
    file.and_then(|file| opened(&file)).ok().flatten()
}

#[cfg(windows)]
fn opened(file: &File) -> io::Result<Option<(u64, u64)>> {
    winapi_util::file::information(file).map(|found| Some((found.volume_serial_number(), found.file_index())))
}

/// Whether an open file is still the one that `path` names, links not followed.
///
/// # Errors
/// Where that cannot be told: to try again until it can may be to try for ever.
pub(crate) fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let open = opened(file)?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(open == named(path, &found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
