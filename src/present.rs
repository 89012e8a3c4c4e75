//! Whether a file or folder is there. `Path::is_file` says no as well where that cannot be told, as of a disk that
//! errs: a file beside others would then be left out in silence.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};

/// Whether there is a file at `path`, itself or through links.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where that cannot be told.
pub fn is_file(path: &Path) -> Result<bool> {
    Ok(metadata(path)?.is_some_and(|found| found.is_file()))
}

/// Whether there is a folder at `path`, itself or through links.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where that cannot be told.
pub fn is_folder(path: &Path) -> Result<bool> {
    Ok(metadata(path)?.is_some_and(|found| found.is_dir()))
}

/// The length of the file at `path`, in bytes.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where it is not there, or cannot be told.
pub fn file_bytes(path: &Path) -> Result<u64> {
    std::fs::metadata(path).map(|found| found.len()).map_err(|e| Error::io("cannot read its metadata", path, e))
}

/// Those of the paths at which there is a file.
///
/// # Errors
/// As [`is_file`].
pub fn files<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Result<Vec<P>> {
    let mut there = Vec::new();
    for path in paths {
        if is_file(path.as_ref())? {
            there.push(path);
        }
    }
    Ok(there)
}

/// `None` where nothing is there.
fn metadata(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(found)),
        // Nothing can be at a path through a file, of a name that is too long, or of links in a circle.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename) => {
            Ok(None)
        }
        #[cfg(unix)]
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => Ok(None),
        Err(e) => Err(Error::io("cannot tell whether it is there", path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_there_and_it_cannot_be_told_are_two() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        assert!(is_file(&at("file")).unwrap() && !is_folder(&at("file")).unwrap());
        assert!(is_folder(folder.path()).unwrap() && !is_file(folder.path()).unwrap());
        for none in ["none", "file/below", &"long".repeat(100)] {
            assert!(!is_file(&at(none)).unwrap() && !is_folder(&at(none)).unwrap(), "{none}");
        }
        assert_eq!(files([at("none"), at("file")]).unwrap(), [at("file")]);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("circle", at("circle")).unwrap();
            assert!(!is_file(&at("circle")).unwrap());
        }
        // No file system is asked for what has a NUL in its name.
        let error = is_file(Path::new("a\0b")).unwrap_err();
        assert!(error.kind() == crate::ErrorKind::Io && error.to_string().contains(r"a\u{0}b"), "{error}");
    }
}
