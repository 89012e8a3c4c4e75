//! Names that are on the disk: a new name in a folder is there for good only when the folder is synced.

use std::fs::File;
use std::io::{self, ErrorKind as IoKind};
use std::path::Path;

/// Waits until the names in `folder` are on the disk. A file system that has no such thing, or a folder that may not be
/// read, has nothing to wait for.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(e) if is_unknown(&e) => Ok(()),
        synced => synced,
    }
}

fn is_unknown(e: &io::Error) -> bool {
    #[cfg(unix)]
    let is_unknown = matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EBADF | libc::ENOTSUP | libc::EROFS));
    #[cfg(not(unix))]
    let is_unknown = true;
    is_unknown || matches!(e.kind(), IoKind::PermissionDenied | IoKind::Unsupported)
}

/// Creates a folder and those around it that are missing, and waits until their names are on the disk.
#[cfg(feature = "hub")]
pub(crate) fn create_folders(folder: &Path) -> io::Result<()> {
    match std::fs::metadata(folder) {
        Ok(found) if found.is_dir() => return Ok(()),
        Err(e) if e.kind() != IoKind::NotFound => return Err(e),
        _ => {}
    }
    let around = super::place::parent(folder);
    // Above the root, or the working folder, nothing can be created.
    if around != folder {
        create_folders(around)?;
    }
    match std::fs::create_dir(folder) {
        Err(e) if e.kind() == IoKind::AlreadyExists && folder.is_dir() => {}
        made => made?,
    }
    sync_folder(around)
}
