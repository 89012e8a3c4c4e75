//! Which file a path names, and at which state of its content: to know it again.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// A file at one state of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileVersion {
    /// Device and inode, where the operating system has them.
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
            file: identity(&found),
            length: found.len(),
            created: found.created().ok(),
            modified: found.modified().ok(),
        })
    }
}

#[cfg(unix)]
fn identity(found: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<(u64, u64)> {
    None
}

/// Whether an open file is still the one that `path` names, links not followed.
///
/// # Errors
/// Where that cannot be told: to try again until it can may be to try for ever.
pub(crate) fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok(identity(&open) == identity(&named)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
