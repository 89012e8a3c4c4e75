//! A zip archive of stored entries, written in one pass: sizes and checksums follow the data, as PyTorch writes them.
//!
//! Not by the crate `zip`, whose writer completes the archive when an entry has failed and it is dropped: what was cut
//! short would be read as whole.

use std::fmt;
use std::io::{self, Write};

use crate::error::{Error, ErrorKind, Result};

/// PyTorch begins every entry's data at a multiple of this, so that tensors can be mapped.
const ALIGNMENT: u64 = 64;
/// Sizes follow the data (bit 3) and names are UTF-8 (bit 11).
const FLAGS: u16 = 1 << 3 | 1 << 11;
/// What does not fit is written as this, and in full in a zip64 field.
const IN_ZIP64: u32 = u32::MAX;
/// The method, and no date.
const STORED_NO_DATE: [u8; 6] = [0; 6];
/// What a reader must know: 2.0, and 4.5 where zip64 is used.
const VERSION: u16 = 20;
const VERSION_ZIP64: u16 = 45;

/// Writes one archive to `out`, which need not seek.
pub struct ZipWriter<W: Write> {
    out: W,
    /// Bytes written so far.
    at: u64,
    entries: Vec<Entry>,
    zip64: bool,
}

impl<W: Write> fmt::Debug for ZipWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZipWriter").field("at", &self.at).field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

struct Entry {
    name: String,
    header: u64,
    size: u64,
    crc: u32,
}

impl<W: Write> ZipWriter<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Self { out, at: 0, entries: Vec::new(), zip64: false }
    }

    /// Writes every record in its zip64 form.
    #[must_use]
    pub fn force_zip64(mut self) -> Self {
        self.zip64 = true;
        self
    }

    /// Adds an entry with these bytes.
    ///
    /// # Errors
    /// As [`ZipWriter::entry`].
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.entry(name, bytes.len() as u64, |out| out.write_all(bytes))
    }

    /// Adds an entry of `size` bytes, which `fill` writes.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when writing fails; [`ErrorKind::InvalidArgument`] when `fill` writes more or less than
    /// `size`, or the name is longer than a zip's can be.
    pub fn entry(&mut self, name: &str, size: u64, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let name_length =
            u16::try_from(name.len()).map_err(|_| Error::invalid("an archive entry's name is too long"))?;
        let header = self.at;
        let zip64 = self.needs_zip64(size);
        let sizes: &[u64] = if zip64 { &[size, size] } else { &[] };
        let mut extra = zip64_extra(sizes);
        // A field of PyTorch's own, `FB`, fills up to the alignment.
        let before = header + 30 + name.len() as u64 + extra.len() as u64 + 4;
        let padding = before.next_multiple_of(ALIGNMENT) - before;
        extra.extend_from_slice(&Record::new(b"FB").u16s([padding as u16]).0);
        extra.resize(extra.len() + padding as usize, b'Z');
        let (version, deferred) = if zip64 { (VERSION_ZIP64, IN_ZIP64) } else { (VERSION, 0) };
        let record = Record::new(b"PK\x03\x04")
            .u16s([version, FLAGS])
            .bytes(&STORED_NO_DATE)
            .u32s([0, deferred, deferred]) // The checksum follows.
            .u16s([name_length, extra.len() as u16])
            .bytes(name.as_bytes())
            .bytes(&extra);
        self.put(record)?;

        let mut data = Data { out: &mut self.out, hasher: crc32fast::Hasher::new(), left: size };
        fill(&mut data).map_err(|e| cannot_write(name, e))?;
        if data.left > 0 {
            return Err(Error::invalid(format!("the archive's entry `{name}` was not written in full"))
                .expected(format_args!("{size} bytes"))
                .got(size - data.left));
        }
        let crc = data.hasher.finalize();
        self.at += size;

        let descriptor = Record::new(b"PK\x07\x08").u32s([crc]);
        self.put(if zip64 { descriptor.u64s([size, size]) } else { descriptor.u32s([size as u32; 2]) })?;
        self.entries.push(Entry { name: name.to_owned(), header, size, crc });
        Ok(())
    }

    /// Writes the directory and flushes.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when writing fails.
    pub fn finish(mut self) -> Result<()> {
        let start = self.at;
        for entry in std::mem::take(&mut self.entries) {
            self.put(self.central(&entry))?;
            self.entries.push(entry);
        }
        let (count, size) = (self.entries.len() as u64, self.at - start);
        let zip64 = count >= 0xffff || self.needs_zip64(start) || self.needs_zip64(size);
        if zip64 {
            let record = Record::new(b"PK\x06\x06")
                .u64s([44]) // What follows of this record.
                .u16s([VERSION_ZIP64, VERSION_ZIP64])
                .u32s([0, 0]) // One disk.
                .u64s([count, count, size, start])
                .bytes(b"PK\x06\x07\0\0\0\0")
                .u64s([self.at])
                .u32s([1]); // Of one disk.
            self.put(record)?;
        }
        let (count, size, start) =
            if zip64 { (0xffff, IN_ZIP64, IN_ZIP64) } else { (count as u16, size as u32, start as u32) };
        let no_comment = 0;
        self.put(Record::new(b"PK\x05\x06\0\0\0\0").u16s([count, count]).u32s([size, start]).u16s([no_comment]))?;
        self.out.flush().map_err(|e| Error::new(ErrorKind::Io, "cannot write the archive").because(e))
    }

    /// The entry's record in the directory.
    fn central(&self, entry: &Entry) -> Record {
        let mut in_zip64 = Vec::new();
        let mut field = |value: u64| {
            if !self.needs_zip64(value) {
                return value as u32;
            }
            in_zip64.push(value);
            IN_ZIP64
        };
        let (size, stored, header) = (field(entry.size), field(entry.size), field(entry.header));
        let extra = zip64_extra(&in_zip64);
        let version = if extra.is_empty() { VERSION } else { VERSION_ZIP64 };
        Record::new(b"PK\x01\x02")
            .u16s([version, version, FLAGS])
            .bytes(&STORED_NO_DATE)
            .u32s([entry.crc, size, stored])
            .u16s([entry.name.len() as u16, extra.len() as u16])
            .bytes(&[0; 10]) // No comment, disk 0, no attributes.
            .u32s([header])
            .bytes(entry.name.as_bytes())
            .bytes(&extra)
    }

    fn needs_zip64(&self, value: u64) -> bool {
        self.zip64 || value >= u64::from(IN_ZIP64)
    }

    fn put(&mut self, record: Record) -> Result<()> {
        self.out.write_all(&record.0).map_err(|e| Error::new(ErrorKind::Io, "cannot write the archive").because(e))?;
        self.at += record.0.len() as u64;
        Ok(())
    }
}

/// A record of the archive, little-endian.
struct Record(Vec<u8>);

impl Record {
    fn new(signature: &[u8]) -> Self {
        Self(signature.to_vec())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16s<const N: usize>(self, values: [u16; N]) -> Self {
        self.bytes(values.map(u16::to_le_bytes).as_flattened())
    }

    fn u32s<const N: usize>(self, values: [u32; N]) -> Self {
        self.bytes(values.map(u32::to_le_bytes).as_flattened())
    }

    fn u64s<const N: usize>(self, values: [u64; N]) -> Self {
        self.bytes(values.map(u64::to_le_bytes).as_flattened())
    }
}

/// The field for what does not fit into 32 bits; none for no values.
fn zip64_extra(values: &[u64]) -> Vec<u8> {
    if values.is_empty() {
        return Vec::new();
    }
    let field = Record::new(&[]).u16s([1, 8 * values.len() as u16]);
    values.iter().fold(field, |field, value| field.u64s([*value])).0
}

fn cannot_write(name: &str, e: io::Error) -> Error {
    let kind = if e.kind() == io::ErrorKind::InvalidInput { ErrorKind::InvalidArgument } else { ErrorKind::Io };
    Error::new(kind, format!("cannot write the archive's entry `{name}`")).because(e)
}

/// An entry's data on their way: counted and summed.
struct Data<'a, W: Write> {
    out: &'a mut W,
    hasher: crc32fast::Hasher,
    left: u64,
}

impl<W: Write> Write for Data<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more bytes than the entry was declared with"));
        }
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
