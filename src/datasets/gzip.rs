//! Files that may be compressed, as data sets are distributed.

#[cfg(feature = "images")]
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};

/// The most bytes that a file may unpack to, more than any known file of this kind does.
#[cfg(feature = "images")]
const MAX_UNPACKED: usize = 2 << 30;

/// The file as it is, or what it holds where it begins as gzip does.
///
/// # Errors
/// [`ErrorKind::Format`](crate::ErrorKind::Format) when the compressed data is damaged or cut off;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it unpacks to more than 2 GiB.
pub(super) fn open(path: &Path) -> Result<Mapping> {
    let mapping = Mapping::open(path, MapMode::Map)?;
    if !mapping.starts_with(&[0x1f, 0x8b]) {
        return Ok(mapping);
    }
    Ok(Mapping::from_vec(unpacked(&mapping).map_err(|e| e.at(path))?, path))
}

#[cfg(feature = "images")]
fn unpacked(bytes: &[u8]) -> Result<Vec<u8>> {
    read_all(flate2::read::MultiGzDecoder::new(bytes), MAX_UNPACKED)
}

#[cfg(not(feature = "images"))]
fn unpacked(_: &[u8]) -> Result<Vec<u8>> {
    Err(Error::unsupported("the file is compressed, and this build cannot unpack it").hint("Unpack it with gunzip"))
}

/// Everything that a decompressor gives, in memory that grows with it, at most `limit` bytes.
#[cfg(feature = "images")]
pub(super) fn read_all(mut from: impl Read, limit: usize) -> Result<Vec<u8>> {
    const STEP: usize = 1 << 20;
    let mut bytes = Vec::new();
    loop {
        let room = STEP.min((limit + 1).saturating_sub(bytes.len()));
        bytes.try_reserve(room).map_err(|_| Error::out_of_memory(bytes.len() + room))?;
        let read = from
            .by_ref()
            .take(room as u64)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::format("the compressed data is damaged or cut off").because(e))?;
        if bytes.len() > limit {
            return Err(
                Error::unsupported("the file unpacks to too much").expected(format_args!("at most {limit} bytes"))
            );
        }
        if read == 0 {
            return Ok(bytes);
        }
    }
}
