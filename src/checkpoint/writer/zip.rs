//! A zip archive of stored entries, written in one pass: sizes and checksums follow the data, as PyTorch writes them.

use std::fmt;
use std::io::{self, Write};

use crate::error::{Error, ErrorKind, Result};

/// PyTorch begins every entry's data at a multiple of this, so that tensors can be mapped.
const ALIGNMENT: u64 = 64;
/// Sizes follow the data (bit 3) and names are UTF-8 (bit 11).
const FLAGS: u16 = 1 << 3 | 1 << 11;
/// Whatever does not fit is written as this, and in full in a zip64 field.
const IN_ZIP64: u32 = u32::MAX;
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
        let mut extra = Vec::new();
        if zip64 {
            zip64_extra(&mut extra, &[size, size]);
        }
        // A field of PyTorch's own, `FB`, fills up to the alignment.
        let before = header + 30 + name.len() as u64 + extra.len() as u64 + 4;
        let padding = before.next_multiple_of(ALIGNMENT) - before;
        extra.extend_from_slice(b"FB");
        extra.extend_from_slice(&(padding as u16).to_le_bytes());
        extra.resize(extra.len() + padding as usize, b'Z');

        let mut record = Vec::with_capacity(30 + name.len() + extra.len());
        record.extend_from_slice(b"PK\x03\x04");
        record.extend_from_slice(&if zip64 { VERSION_ZIP64 } else { VERSION }.to_le_bytes());
        record.extend_from_slice(&FLAGS.to_le_bytes());
        record.extend_from_slice(&[0; 6]); // Stored; no date.
        record.extend_from_slice(&0u32.to_le_bytes()); // The checksum follows.
        let deferred = if zip64 { IN_ZIP64 } else { 0 };
        record.extend_from_slice(&deferred.to_le_bytes());
        record.extend_from_slice(&deferred.to_le_bytes());
        record.extend_from_slice(&name_length.to_le_bytes());
        record.extend_from_slice(&(extra.len() as u16).to_le_bytes());
        record.extend_from_slice(name.as_bytes());
        record.extend_from_slice(&extra);
        self.put(&record)?;

        let mut data = Data { out: &mut self.out, hasher: crc32fast::Hasher::new(), left: size };
        fill(&mut data).map_err(|e| cannot_write(name, e))?;
        if data.left > 0 {
            return Err(Error::invalid(format!("the archive's entry `{name}` was not written in full"))
                .expected(format_args!("{size} bytes"))
                .got(size - data.left));
        }
        let crc = data.hasher.finalize();
        self.at += size;

        let mut descriptor = b"PK\x07\x08".to_vec();
        descriptor.extend_from_slice(&crc.to_le_bytes());
        for _ in 0..2 {
            if zip64 {
                descriptor.extend_from_slice(&size.to_le_bytes());
            } else {
                descriptor.extend_from_slice(&(size as u32).to_le_bytes());
            }
        }
        self.put(&descriptor)?;
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
            self.put(&self.central(&entry))?;
            self.entries.push(entry);
        }
        let (count, size) = (self.entries.len() as u64, self.at - start);
        let zip64 = count >= 0xffff || self.needs_zip64(start) || self.needs_zip64(size);
        if zip64 {
            let at = self.at;
            let mut record = b"PK\x06\x06".to_vec();
            record.extend_from_slice(&44u64.to_le_bytes()); // What follows of this record.
            record.extend_from_slice(&VERSION_ZIP64.to_le_bytes());
            record.extend_from_slice(&VERSION_ZIP64.to_le_bytes());
            record.extend_from_slice(&[0; 8]); // One disk.
            for value in [count, count, size, start] {
                record.extend_from_slice(&value.to_le_bytes());
            }
            record.extend_from_slice(b"PK\x06\x07\0\0\0\0");
            record.extend_from_slice(&at.to_le_bytes());
            record.extend_from_slice(&1u32.to_le_bytes()); // Of one disk.
            self.put(&record)?;
        }
        let mut record = b"PK\x05\x06\0\0\0\0".to_vec();
        let (short_count, short_size, short_start) =
            if zip64 { (0xffff, IN_ZIP64, IN_ZIP64) } else { (count as u16, size as u32, start as u32) };
        record.extend_from_slice(&short_count.to_le_bytes());
        record.extend_from_slice(&short_count.to_le_bytes());
        record.extend_from_slice(&short_size.to_le_bytes());
        record.extend_from_slice(&short_start.to_le_bytes());
        record.extend_from_slice(&[0; 2]); // No comment.
        self.put(&record)?;
        self.out.flush().map_err(|e| Error::new(ErrorKind::Io, "cannot write the archive").because(e))
    }

    /// The entry's record in the directory.
    fn central(&self, entry: &Entry) -> Vec<u8> {
        let mut deferred = Vec::new();
        let mut field = |value: u64, zip64: bool| {
            if zip64 {
                deferred.push(value);
            }
            if zip64 { IN_ZIP64 } else { value as u32 }
        };
        let large = self.needs_zip64(entry.size);
        let (size, _) = (field(entry.size, large), field(entry.size, large));
        let header = field(entry.header, self.needs_zip64(entry.header));
        let mut extra = Vec::new();
        if !deferred.is_empty() {
            zip64_extra(&mut extra, &deferred);
        }
        let version = if extra.is_empty() { VERSION } else { VERSION_ZIP64 };
        let mut record = b"PK\x01\x02".to_vec();
        record.extend_from_slice(&version.to_le_bytes());
        record.extend_from_slice(&version.to_le_bytes());
        record.extend_from_slice(&FLAGS.to_le_bytes());
        record.extend_from_slice(&[0; 6]); // Stored; no date.
        record.extend_from_slice(&entry.crc.to_le_bytes());
        record.extend_from_slice(&size.to_le_bytes());
        record.extend_from_slice(&size.to_le_bytes());
        record.extend_from_slice(&(entry.name.len() as u16).to_le_bytes());
        record.extend_from_slice(&(extra.len() as u16).to_le_bytes());
        record.extend_from_slice(&[0; 10]); // No comment, disk 0, no attributes.
        record.extend_from_slice(&header.to_le_bytes());
        record.extend_from_slice(entry.name.as_bytes());
        record.extend_from_slice(&extra);
        record
    }

    fn needs_zip64(&self, value: u64) -> bool {
        self.zip64 || value >= u64::from(IN_ZIP64)
    }

    fn put(&mut self, record: &[u8]) -> Result<()> {
        self.out.write_all(record).map_err(|e| Error::new(ErrorKind::Io, "cannot write the archive").because(e))?;
        self.at += record.len() as u64;
        Ok(())
    }
}

fn zip64_extra(extra: &mut Vec<u8>, values: &[u64]) {
    extra.extend_from_slice(&1u16.to_le_bytes());
    extra.extend_from_slice(&(8 * values.len() as u16).to_le_bytes());
    values.iter().for_each(|value| extra.extend_from_slice(&value.to_le_bytes()));
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
