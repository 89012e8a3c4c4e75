//! Reading: all that is asked for, or an error that says where it ended.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes of one request: Linux takes no more than 2 GiB at once, and a failure is found at the page that it is at.
pub(super) const PART: usize = 4 << 20;

/// Fills `out` with the bytes from `start` on.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), with the byte, where the disk fails or the file ends.
pub(super) fn read_exact_at(file: &File, out: &mut [u8], start: u64, path: &Path) -> Result<()> {
    fill(|part, at| read_at(file, part, at), out, start).map_err(|e| e.at(path))
}

/// The whole content of a file of `length` bytes.
///
/// # Errors
/// As [`read_exact_at`]; for a file that is written into meanwhile; and when memory is refused.
pub(super) fn whole(file: &File, metadata: &Metadata, length: usize, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| Error::out_of_memory(length).at(path))?;
    bytes.resize(length, 0);
    read_exact_at(file, &mut bytes, 0, path)?;
    let now = file.metadata().map_err(|e| Error::io("cannot read its metadata", path, e))?;
    if now.len() != metadata.len() || now.modified().ok() != metadata.modified().ok() {
        return Err(Error::new(crate::ErrorKind::Io, "was written into while it was read")
            .at(path)
            .expected(format_args!("{length} bytes that stay as they are"))
            .got(format_args!("{} bytes", now.len()))
            .hint("Open it again when nothing writes to it"));
    }
    Ok(bytes)
}

/// Fills `out` from `read`, which is asked until it has given all: it may give less, and may be interrupted.
fn fill(read: impl Fn(&mut [u8], u64) -> io::Result<usize>, out: &mut [u8], start: u64) -> Result<()> {
    let (mut done, end) = (0, out.len());
    while done < end {
        let at = start + done as u64;
        let until = end.min(done + PART);
        match read(&mut out[done..until], at) {
            Ok(0) => {
                return Err(Error::new(crate::ErrorKind::Io, "became shorter while it was open")
                    .expected(format_args!("{} bytes at least", start + end as u64))
                    .got(at));
            }
            Ok(count) => done += count,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => {
                return Err(Error::new(crate::ErrorKind::Io, format!("cannot read at byte {at}")).because(e));
            }
        }
    }
    Ok(())
}

#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, out, at)
}

#[cfg(windows)]
fn read_at(file: &File, out: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, out, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of the bytes 0, 1, 2, … that gives three of them at a time, every other time only after a signal.
    fn piecemeal(bad: u64) -> impl Fn(&mut [u8], u64) -> io::Result<usize> {
        let calls = std::cell::Cell::new(0);
        move |out: &mut [u8], at: u64| {
            calls.set(calls.get() + 1);
            if calls.get() % 2 == 0 {
                return Err(ErrorKind::Interrupted.into());
            }
            let count = out.len().min(3).min(bad.saturating_sub(at) as usize);
            if count == 0 {
                return Err(io::Error::from_raw_os_error(5));
            }
            (0..count).for_each(|i| out[i] = (at + i as u64) as u8);
            Ok(count)
        }
    }

    #[test]
    fn what_comes_in_pieces_is_put_together() {
        let mut out = [0; 11];
        fill(piecemeal(u64::MAX), &mut out, 7).unwrap();
        assert_eq!(out, std::array::from_fn(|i| 7 + i as u8));
    }

    #[test]
    fn a_failing_disk_and_a_file_that_shrinks_are_errors_with_the_place() {
        let error = fill(piecemeal(15), &mut [0; 11], 7).unwrap_err().to_string();
        assert!(error.contains("cannot read at byte 15"), "{error}");
        let error = fill(|_, at| Ok(usize::from(at < 10)), &mut [0; 11], 7).unwrap_err().to_string();
        assert!(error.contains("shorter") && error.contains("18 bytes") && error.contains("got 10"), "{error}");

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; 10_000]).unwrap();
        let metadata = file.as_file().metadata().unwrap();
        assert_eq!(whole(file.as_file(), &metadata, 10_000, file.path()).unwrap(), [1; 10_000]);
        file.as_file().set_len(9_000).unwrap();
        let error = whole(file.as_file(), &metadata, 10_000, file.path()).unwrap_err().to_string();
        assert!(error.contains("shorter") && error.contains("got 9000"), "{error}");
        file.as_file().set_len(20_000).unwrap();
        let error = whole(file.as_file(), &metadata, 10_000, file.path()).unwrap_err().to_string();
        assert!(error.contains("was written into") && error.contains("got 20000 bytes"), "{error}");
    }
}
