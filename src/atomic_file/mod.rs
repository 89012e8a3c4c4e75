//! Writing files so that nothing is ever lost: a file is replaced whole or not at all, by one writer at a time, and
//! keeps its mode, owner and extended attributes.

mod attributes;
mod durable;
mod lock;
mod partial;
mod place;
#[cfg(unix)]
mod unfinished;
mod version;

use std::io::ErrorKind as IoKind;
use std::path::Path;

use self::attributes::Attributes;
use self::lock::Lock;
use self::partial::{PartialFile, is_own, sweep};
use self::place::Place;
use crate::error::{Error, Result};

#[cfg(feature = "hub")]
pub(crate) use self::durable::create_folders;
pub(crate) use self::durable::sync_folder;
pub use self::lock::{OutputLock, lock_output};
pub use self::partial::PartialFolder;
#[cfg(feature = "build")]
pub(crate) use self::place::parent;
#[cfg(unix)]
pub use self::unfinished::remove_unfinished_files;
pub(crate) use self::version::FileVersion;
#[cfg(feature = "hub")]
pub(crate) use self::version::is_same;

/// Writes a file through a sibling that takes its place when it is complete and on the disk.
///
/// Whatever happens on the way, `path` holds its old content or all of the new, and a mapping of the old file stays
/// valid. Where `path` is a symbolic link, the file that it names is replaced; other hard links to a file keep its old
/// content. A file that is replaced leaves mode, owner, group and extended attributes (access lists among them) to the
/// new one, as far as this user may set them; never is more allowed than was. `inputs` are what the content comes from:
/// a `path` that is one of them, or lies in one that is a folder and exists already, is refused, as is a place in a
/// cache of the Hub. `write` is given the sibling's path; the file exists and is empty.
///
/// Of two that write the same file at once, one waits for the other ([`lock_output`]).
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for an output that is an input,
/// [`ErrorKind::Io`](crate::ErrorKind::Io) from the file system, and whatever `write` says; each names `path`.
pub fn replace_file(path: &Path, inputs: &[&Path], write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    replace_file_if(path, inputs, || Ok(()), write)
}

/// [`replace_file`] as long as `unchanged` finds nothing wrong: asked when the file is locked, and again before the new
/// one takes its place.
pub(crate) fn replace_file_if(
    path: &Path,
    inputs: &[&Path],
    unchanged: impl Fn() -> Result<()>,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let place = Place::of(path)?;
    place::check_inputs(path, inputs)?;
    let waiting = || tracing::warn!("waiting for another program that writes {}", path.display());
    let is_ours = is_own(&place.path) || lock::is_locked(&place.path);
    let _lock = if is_ours { None } else { Some(Lock::wait(&place.path, &waiting)?) };
    unchanged()?;
    let failed = |doing: &str, e: std::io::Error| unwritten(doing, path, None, e);
    sweep(&place.folder);
    let kept = Attributes::of(&place.path).map_err(|e| failed("cannot read its permissions", e))?;
    let sibling = PartialFile::in_folder(&place.folder, kept.is_some());
    let sibling = sibling.map_err(|e| failed("cannot create a file beside it", e))?;
    let failed_permissions = |e| failed("cannot set its permissions", e);
    let fresh = std::fs::metadata(sibling.path()).map_err(failed_permissions)?.permissions();
    // From here on an early return removes the sibling.
    write(sibling.path()).map_err(|e| with_room(e.about(sibling.path(), path), None))?;
    // Opened while it may be written; `write` may have put another file in the sibling's place.
    let written = std::fs::OpenOptions::new().write(true).open(sibling.path());
    let written = written.map_err(|e| failed("cannot write it to the disk", e))?;
    match kept {
        Some(kept) => kept.give(sibling.path()),
        None => std::fs::set_permissions(sibling.path(), fresh),
    }
    .map_err(failed_permissions)?;
    written.sync_all().map_err(|e| failed("cannot write it to the disk", e))?;
    drop(written);
    unchanged()?;
    sibling.take_place(&place.path).map_err(|e| failed("cannot take its place", e))?;
    // The new name is on the disk only with its folder.
    sync_folder(&place.folder).map_err(|e| failed("it is written, but its name may not be on the disk", e))
}

/// Whether a file may be written to `path`: what [`replace_file`] checks first, and whether its folder takes a new
/// file. For work that takes long, and whose result should not be refused at its end.
///
/// # Errors
/// As [`replace_file`], before anything is written.
pub fn check_output(path: &Path, inputs: &[&Path]) -> Result<()> {
    let place = Place::of(path)?;
    place::check_inputs(path, inputs)?;
    let made = PartialFile::in_folder(&place.folder, true);
    made.map(drop).map_err(|e| unwritten("cannot create a file in its folder", path, None, e))
}

/// Whether the folder `path` may be made, or take the place of an empty one, and whether the folder around it takes new
/// ones: for work whose result is a [`PartialFolder`].
#[cfg(feature = "build")]
pub(crate) fn check_output_folder(path: &Path) -> Result<()> {
    place::check_folder(path)?;
    let made = PartialFile::in_folder(place::parent(path), true);
    made.map(drop).map_err(|e| unwritten("cannot create a folder beside it", path, None, e))
}

/// Writes a small file of a folder that others share, through a sibling of it in `work`, a folder of the same file
/// system. It replaces one that is there, whatever that is.
#[cfg(feature = "hub")]
pub(crate) fn replace_small(path: &Path, work: &Path, content: &[u8]) -> std::io::Result<()> {
    let sibling = PartialFile::in_folder(work, false)?;
    let mut file = std::fs::OpenOptions::new().write(true).open(sibling.path())?;
    std::io::Write::write_all(&mut file, content)?;
    file.sync_all()?;
    drop(file);
    sibling.take_place(path)?;
    sync_folder(place::parent(path))
}

/// The error of a write to the output `path`, of `bytes` bytes where that is known.
pub(crate) fn unwritten(doing: &str, path: &Path, bytes: Option<u64>, e: std::io::Error) -> Error {
    with_room(Error::io(doing, path, e), bytes)
}

/// The error of a write, with the room that it would have needed where room was what it lacked.
pub(crate) fn with_room(error: Error, bytes: Option<u64>) -> Error {
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<std::io::Error>());
    let hint = match source.map(std::io::Error::kind) {
        Some(IoKind::StorageFull) => "Nothing of it was kept. Make room, or choose a place on another disk",
        Some(IoKind::QuotaExceeded) => "Nothing of it was kept. The user's quota does not allow it",
        Some(IoKind::FileTooLarge) => {
            "Nothing of it was kept. The file system, or a limit on the size of files (ulimit -f), does not allow it"
        }
        _ => return error,
    };
    let error = match bytes {
        Some(bytes) => error.expected(format_args!("room for {bytes} bytes")),
        None => error,
    };
    error.or_hint(hint)
}

#[cfg(test)]
mod tests;
