//! Where an output goes, and whether it can: what can be known of that before the work.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind as IoKind};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Links that are followed one after the other, as by the operating system.
const MAX_LINKS: usize = 40;

/// The place of an output.
#[derive(Debug)]
pub(super) struct Place {
    /// The file itself: what a link names is replaced, not the link.
    pub(super) path: PathBuf,
    pub(super) folder: PathBuf,
}

impl Place {
    /// The place that `path` names, which may hold a file or nothing.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let refused = |why: &str| Err(Error::new(ErrorKind::Io, why).at(path));
        if path.is_dir() {
            return refused("is a folder: give the name of a file to write");
        }
        let spelled = path.as_os_str().as_encoded_bytes();
        if path.file_name().is_none() || [&b"/"[..], b"/."].iter().any(|end| spelled.ends_with(end)) {
            return refused("is the name of a folder: give the name of a file to write");
        }
        let around = parent(path);
        if !around.is_dir() {
            return refused("cannot create a file there: its folder does not exist");
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() && !path.exists() => {
                return refused("is a link to a file that is not there");
            }
            // A device or a pipe would be gone, a file in its place.
            Ok(_) if !path.is_file() => return refused("is no regular file, and cannot be replaced by one"),
            Ok(_) => {}
            Err(e) if e.kind() == IoKind::NotFound => {}
            Err(e) => return Err(Error::io("cannot write a file of this name", path, e)),
        }
        let resolve = || match path.canonicalize() {
            Err(e) if e.kind() == IoKind::NotFound => {
                Ok(around.canonicalize()?.join(path.file_name().unwrap_or(OsStr::new(""))))
            }
            resolved => resolved,
        };
        let resolved = resolve().map_err(|e: io::Error| Error::io("cannot find the place of it", path, e))?;
        check_hub(path)?;
        check_replaceable(path, &resolved)?;
        let folder = parent(&resolved).to_path_buf();
        Ok(Self { path: resolved, folder })
    }
}

/// Whether a folder may be made at `path`, or take the place of one that is there.
#[cfg(feature = "build")]
pub(super) fn check_folder(path: &Path) -> Result<()> {
    // As a name of its own, without what marks it as a folder's.
    let path: PathBuf = path.components().collect();
    match path.is_dir() {
        true => check_hub(&path).and_then(|()| check_replaceable(&path, &path)),
        false => Place::of(&path).map(drop),
    }
}

/// The folder that `path` lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Refuses a place in the Hub's cache, be it this user's or another: its files go by their hashes, and every program
/// that reads them takes them for what their names say. Each link on the way is looked at, for blobs may be links into
/// a store elsewhere.
fn check_hub(path: &Path) -> Result<()> {
    let is_repository = |folder: &&Path| {
        let name = folder.file_name().unwrap_or(OsStr::new("")).as_encoded_bytes();
        let is_called_so = ["models--", "datasets--", "spaces--"].iter().any(|kind| name.starts_with(kind.as_bytes()));
        is_called_so && ["blobs", "snapshots"].iter().any(|inner| folder.join(inner).is_dir())
    };
    let mut at = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Ok(around) = parent(&at).canonicalize() else { return Ok(()) };
        if let Some(folder) = around.ancestors().find(is_repository) {
            let message = "would write into the Hub's cache, whose files all programs share";
            return Err(Error::new(ErrorKind::Io, format!("{message}: {}", folder.display()))
                .at(path)
                .hint("Choose another place for the output"));
        }
        match fs::read_link(&at) {
            Ok(target) => at = around.join(target),
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

/// Refuses a file that no other can take the place of, as far as that can be told.
#[cfg(unix)]
fn check_replaceable(path: &Path, resolved: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;

    let Ok(found) = fs::metadata(resolved) else { return Ok(()) };
    let refused = |why: &str| {
        Err(Error::new(ErrorKind::Io, format!("cannot be replaced: {why}")).at(path).hint("Choose another name"))
    };
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{Access, AtFlags, CWD, StatxAttributes, StatxFlags, access, statx};

        let of_mount = statx(CWD, resolved, AtFlags::empty(), StatxFlags::TYPE);
        if of_mount.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)) {
            return refused("it is a mount point");
        }
        if access(resolved, Access::WRITE_OK) == Err(rustix::io::Errno::PERM) {
            return refused("it is immutable");
        }
    }
    let me = rustix::process::geteuid().as_raw();
    let folder = fs::metadata(parent(resolved));
    let is_sticky = |folder: fs::Metadata| folder.mode() & 0o1000 != 0 && folder.uid() != me;
    if me != 0 && found.uid() != me && folder.is_ok_and(is_sticky) {
        return refused("it is another user's, and its folder lets none but the owner replace it");
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_replaceable(_: &Path, _: &Path) -> Result<()> {
    Ok(())
}

/// Refuses an output that is one of `inputs`, or lies in one.
pub(super) fn check_inputs(path: &Path, inputs: &[&Path]) -> Result<()> {
    let Some(input) = inputs.iter().find(|input| overlaps(path, input)) else { return Ok(()) };
    let what = if input.is_dir() { "a file of the input folder" } else { "the input" };
    Err(Error::invalid(format!("would overwrite {what} {}", input.display()))
        .at(path)
        .hint("Choose another name for the output"))
}

fn overlaps(output: &Path, input: &Path) -> bool {
    match (output.canonicalize(), input.canonicalize()) {
        (Ok(output), Ok(input)) => output.starts_with(input),
        _ => false, // An output that does not exist yet overwrites nothing.
    }
}
