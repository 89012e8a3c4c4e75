//! Small inputs: configurations, maps, lists. One reader for all of them, so that none waits for the other end of a
//! pipe or takes memory for a file that is something else.

use std::path::Path;

use super::{open_regular, read};
use crate::error::{Error, Result};

/// The content of the file at `path`, of at most `most` bytes; `what` says what it is to be, as in `a map`.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be opened or read, or is no regular file;
/// [`ErrorKind::Format`](crate::ErrorKind::Format) where it is longer.
pub fn read_small(path: &Path, most: usize, what: &str) -> Result<Vec<u8>> {
    let (file, metadata) = open_regular(path)?;
    match usize::try_from(metadata.len()) {
        // A file of the system's (/proc) says 0 and has more.
        Ok(length) if length <= most => read::whole(&file, &metadata, length, path),
        _ => Err(Error::format(format!("too large for {what}"))
            .at(path)
            .expected(format_args!("at most {most} bytes"))
            .got(format_args!("{} bytes", metadata.len()))),
    }
}

/// [`read_small`], as text.
///
/// # Errors
/// As [`read_small`]; [`ErrorKind::Format`](crate::ErrorKind::Format), with the place, where it is not UTF-8.
pub fn read_small_text(path: &Path, most: usize, what: &str) -> Result<String> {
    String::from_utf8(read_small(path, most, what)?).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::format(format!("not {what}")).at(path).expected("text in UTF-8").got(format_args!("other bytes at {at}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_is_too_large_or_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.json");
        std::fs::write(&path, "12345678").unwrap();
        assert_eq!(read_small(&path, 8, "a map").unwrap(), b"12345678");
        let error = read_small(&path, 7, "a map").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format);
        let error = error.to_string();
        assert!(error.ends_with("map.json: too large for a map: expected at most 7 bytes, got 8 bytes"), "{error}");
        std::fs::write(&path, b"ab\xff").unwrap();
        let error = read_small_text(&path, 8, "a map").unwrap_err().to_string();
        assert!(error.contains("not a map") && error.contains("other bytes at 2"), "{error}");
        assert!(read_small(folder.path(), 8, "a map").unwrap_err().to_string().contains("got a folder"));
    }

    /// Opening a pipe would wait for a program that writes into it.
    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = read_small(&pipe, 8, "a map").unwrap_err().to_string();
        assert!(error.ends_with("pipe: not a regular file"), "{error}");
        assert!(read_small(Path::new("/dev/zero"), 8, "a map").is_err());
    }
}
