//! Where the entries of a zip archive lie: what is needed of the format to map stored entries in place.
//!
//! PyTorch writes pickles and tensors stored (not compressed), so each is a byte range of the file; what it does
//! compress, TorchScript's code, is not needed here. The central directory lists the entries; where an entry's data
//! begins is known only from the header in front of it, which is read when the entry is first asked for: opening an
//! archive of thousands of tensors touches its directory and nothing else.
//!
//! Field names and numbers follow PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 (layout) and 4.5.3 (zip64).

use std::ops::Range;

use indexmap::IndexMap;

use crate::error::{Error, Result};
use crate::mmap::Mapping;

const LOCAL_HEADER: u32 = 0x0403_4b50;
const CENTRAL_HEADER: u32 = 0x0201_4b50;
const END_OF_DIRECTORY: u32 = 0x0605_4b50;
const ZIP64_END_OF_DIRECTORY: u32 = 0x0606_4b50;
const ZIP64_LOCATOR: u32 = 0x0706_4b50;

const LOCAL_HEADER_SIZE: usize = 30;
/// The bytes of a local header that are read at first.
const HEADER_GUESS: usize = 256;
const CENTRAL_HEADER_SIZE: usize = 46;
const END_OF_DIRECTORY_SIZE: usize = 22;
const ZIP64_END_OF_DIRECTORY_SIZE: usize = 56;
const ZIP64_LOCATOR_SIZE: usize = 20;
/// An archive's comment comes after the end record, so the record is searched for at most this far from the end.
const MAX_COMMENT: usize = 0xffff;

/// Bytes that are read at once for a checksum.
const PART: usize = 4 << 20;

const ZIP64_EXTRA: u16 = 1;
/// The 32-bit field that says that the value is in the zip64 extra field.
const IN_ZIP64: u32 = u32::MAX;
const FLAG_ENCRYPTED: u16 = 1;
/// The sizes follow the data instead of standing in the local header.
const FLAG_DATA_DESCRIPTOR: u16 = 1 << 3;
const STORED: u16 = 0;

/// The directory of one archive: names and byte ranges. Memory is linear in the file's own directory.
#[derive(Debug)]
pub struct Directory {
    entries: IndexMap<Box<str>, ZipEntry>,
}

/// An entry as the central directory has it, checked against the other entries but not yet against its header.
#[derive(Debug)]
struct ZipEntry {
    header: usize,
    /// The entry ends here at the latest: where the next one, or the directory, begins. So no two overlap.
    limit: usize,
    /// The bytes it occupies.
    size: usize,
    crc: u32,
    /// Neither compressed nor encrypted.
    stored: bool,
}

impl Directory {
    /// Whether `bytes` begin as an archive's first entry does.
    pub fn is_zip(bytes: &[u8]) -> bool {
        u32_at(bytes, 0) == Some(LOCAL_HEADER)
    }

    /// Reads the central directory.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when the file is truncated, a range leaves it, two entries have
    /// one name or overlap, or the archive is spread over several disks; as [`Mapping::read_at`].
    pub fn parse(file: &Mapping) -> Result<Self> {
        let (directory, count) = find_directory(file)?;
        let end = directory.end;
        let bytes = file.read_at(directory.clone())?;
        let mut rest = &*bytes;
        let mut entries = IndexMap::new();
        for _ in 0..count {
            let (name, entry, length) = central_entry(rest, directory.start)?;
            rest = rest.get(length..).ok_or_else(|| truncated("its directory"))?;
            let wanted = (entries.len() + 1) * size_of::<(Box<str>, ZipEntry)>();
            entries.try_reserve(1).map_err(|_| Error::out_of_memory(wanted))?;
            if entries.insert(Box::from(name), entry).is_some() {
                return Err(Error::format(format!("two entries of the archive are named `{name}`")));
            }
        }
        if !rest.is_empty() {
            return Err(Error::format("the archive's directory is longer than its entries")
                .got(format_args!("{} bytes after {count} entries, before byte {end}", rest.len())));
        }
        set_limits(&mut entries, directory.start)?;
        Ok(Self { entries })
    }

    /// The names of all entries, in the order of their places in the file.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.entries.keys().map(|name| &**name)
    }

    /// Whether there is an entry of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Checks that no entry whose name begins with `prefix` is compressed or encrypted.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) naming the entry.
    pub fn check_stored(&self, prefix: &str) -> Result<()> {
        match self.entries.iter().find(|(name, entry)| name.starts_with(prefix) && !entry.stored) {
            Some((name, _)) => Err(not_stored(name)),
            None => Ok(()),
        }
    }

    /// The place of the data of the entry `name` in `bytes`, which must be those that the directory was read from.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is no such entry;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it is compressed or encrypted;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when its own header contradicts the directory or its data reach
    /// into the next entry.
    pub fn range(&self, bytes: &Mapping, name: &str) -> Result<Range<usize>> {
        let entry =
            self.entries.get(name).ok_or_else(|| Error::not_found(format!("the archive has no entry `{name}`")))?;
        if !entry.stored {
            return Err(not_stored(name));
        }
        let room = entry.header..entry.limit.min(bytes.len());
        if room.start > room.end {
            return Err(damaged(name, "has no header").got(format_args!("the file's end before {}", entry.header)));
        }
        // Usually a header is some hundred bytes: PyTorch pads it so that the data are aligned.
        let mut header = bytes.read_at(room.start..room.end.min(room.start + HEADER_GUESS))?;
        if let Some(size) = header_size(&header).filter(|&size| size > header.len()) {
            header = bytes.read_at(room.start..room.end.min(room.start + size))?;
        }
        let header = &*header;
        if u32_at(header, 0) != Some(LOCAL_HEADER) {
            return Err(damaged(name, "has no header").got(format_args!("other bytes at {}", entry.header)));
        }
        let short = || damaged(name, "has a header that reaches into the next entry");
        let flags = u16_at(header, 6).ok_or_else(short)?;
        let method = u16_at(header, 8).ok_or_else(short)?;
        let crc = u32_at(header, 14).ok_or_else(short)?;
        let compressed = u32_at(header, 18).ok_or_else(short)?;
        let uncompressed = u32_at(header, 22).ok_or_else(short)?;
        let name_end = LOCAL_HEADER_SIZE + usize::from(u16_at(header, 26).ok_or_else(short)?);
        let start = name_end + usize::from(u16_at(header, 28).ok_or_else(short)?);
        let local_name = header.get(LOCAL_HEADER_SIZE..name_end).ok_or_else(short)?;
        let extra = header.get(name_end..start).ok_or_else(short)?;
        if local_name != name.as_bytes() {
            return Err(damaged(name, "has another name in its own header")
                .got(format_args!("`{}`", String::from_utf8_lossy(local_name))));
        }
        if method != STORED || flags & FLAG_ENCRYPTED != 0 {
            return Err(damaged(name, "is compressed or encrypted, as its own header says and the directory does not"));
        }
        // PyTorch streams an entry out: its header then says zero, and the truth follows the data.
        let streamed = flags & FLAG_DATA_DESCRIPTOR != 0;
        let mut zip64 = Zip64::find(extra);
        for field in [uncompressed, compressed] {
            let size = zip64.resolve(field).ok_or_else(|| damaged(name, "lacks its zip64 sizes"))?;
            if size != entry.size as u64 && !(streamed && size == 0) {
                return Err(damaged(name, "has two sizes")
                    .expected(format_args!("{} bytes, as the directory says", entry.size))
                    .got(size));
            }
        }
        if crc != entry.crc && !(streamed && crc == 0) {
            return Err(damaged(name, "has two checksums"));
        }
        if room.len() - start < entry.size {
            return Err(damaged(name, "reaches into the next entry or past the end")
                .expected(format_args!("{} bytes", entry.size))
                .got(format_args!("room for {}", room.len() - start)));
        }
        let start = entry.header + start;
        Ok(start..start + entry.size)
    }
}

impl Directory {
    /// Reads the data of every entry and compares their checksums; gives the names of those that are compressed or
    /// encrypted, whose data are what they are.
    ///
    /// # Errors
    /// As [`Directory::range`] and [`Mapping::read_at`]; [`ErrorKind::Format`](crate::ErrorKind::Format), naming entry,
    /// place and both checksums, where one is another.
    pub fn verify(&self, file: &Mapping) -> Result<Vec<&str>> {
        let mut unchecked = Vec::new();
        for (name, entry) in &self.entries {
            if !entry.stored {
                unchecked.push(&**name);
                continue;
            }
            let range = self.range(file, name)?;
            let mut sum = crc32fast::Hasher::new();
            for start in range.clone().step_by(PART) {
                sum.update(&file.read_at(start..range.end.min(start + PART))?);
            }
            let got = sum.finalize();
            if got != entry.crc {
                return Err(damaged(
                    name,
                    &format!("has another checksum than its {} bytes at {}", range.len(), range.start),
                )
                .expected(format_args!("{:08x}", entry.crc))
                .got(format_args!("{got:08x}"))
                .hint("Its bytes were changed: copy or download it again"));
            }
        }
        Ok(unchecked)
    }
}

/// The bytes of a local header with its name and extra fields.
fn header_size(header: &[u8]) -> Option<usize> {
    Some(LOCAL_HEADER_SIZE + usize::from(u16_at(header, 26)?) + usize::from(u16_at(header, 28)?))
}

/// The directory's range and the number of its entries, from the records at the end of the file.
fn find_directory(file: &Mapping) -> Result<(Range<usize>, u64)> {
    let (end, record) = find_end_record(file)?;
    let record = &*record;
    let short = || truncated("its end record");
    let disks = u32_at(record, 4).ok_or_else(short)?;
    let here = u16_at(record, 8).ok_or_else(short)?;
    let count = u16_at(record, 10).ok_or_else(short)?;
    let size = u32_at(record, 12).ok_or_else(short)?;
    let start = u32_at(record, 16).ok_or_else(short)?;
    let several = || Error::unsupported("the archive is spread over several disks");
    if disks != 0 || here != count {
        return Err(several());
    }
    let (mut count, mut size, mut start) = (u64::from(count), u64::from(size), u64::from(start));
    let mut limit = end;
    if let Some(place) = end.checked_sub(ZIP64_LOCATOR_SIZE)
        && let locator = file.read_at(place..end)?
        && u32_at(&locator, 0) == Some(ZIP64_LOCATOR)
    {
        let short = || truncated("its zip64 end record");
        let at = u64_at(&locator, 8).and_then(|at| usize::try_from(at).ok()).ok_or_else(short)?;
        let fits = at.checked_add(ZIP64_END_OF_DIRECTORY_SIZE).filter(|end| *end <= place);
        let record = file.read_at(fits.map_or(0..0, |end| at..end))?;
        if u32_at(&record, 0) != Some(ZIP64_END_OF_DIRECTORY) {
            return Err(Error::format("the archive has no zip64 end record where it should be")
                .got(format_args!("other bytes at {at}")));
        }
        if u64_at(&record, 16) != Some(0) || u64_at(&record, 24) != u64_at(&record, 32) {
            return Err(several());
        }
        // Where the 32-bit record does not defer to this one, the two must agree.
        for (value, offset, deferred) in
            [(&mut count, 32, 0xffff), (&mut size, 40, u64::from(IN_ZIP64)), (&mut start, 48, u64::from(IN_ZIP64))]
        {
            let exact = u64_at(&record, offset).ok_or_else(short)?;
            if *value != deferred && *value != exact {
                return Err(Error::format("the archive's two end records disagree").expected(exact).got(*value));
            }
            *value = exact;
        }
        limit = at;
    }
    let range = usize::try_from(start)
        .ok()
        .zip(usize::try_from(size).ok())
        .and_then(|(start, size)| Some(start..start.checked_add(size)?))
        .filter(|range| range.end <= limit)
        .ok_or_else(|| {
            Error::format("the archive's directory lies outside the file")
                .got(format_args!("{size} bytes at {start}, in a file of {}", file.len()))
                .hint(TRUNCATED_HINT)
        })?;
    Ok((range, count))
}

/// The end record and its place: the last one whose comment fills the file exactly. Nearly always there is no comment.
fn find_end_record(file: &Mapping) -> Result<(usize, Vec<u8>)> {
    let last = file.len().checked_sub(END_OF_DIRECTORY_SIZE).ok_or_else(|| truncated("its end record"))?;
    for first in [last, last.saturating_sub(MAX_COMMENT)] {
        let tail = file.read_at(first..file.len())?;
        let found = (0..=last - first).rev().find(|&at| {
            u32_at(&tail, at) == Some(END_OF_DIRECTORY)
                && u16_at(&tail, at + 20).is_some_and(|comment| usize::from(comment) == last - first - at)
        });
        if let Some(at) = found {
            return Ok((first + at, tail[at..].to_vec()));
        }
    }
    Err(truncated("its end record"))
}

/// The first entry of `rest`: its name, what is known of it, and the length of its record.
fn central_entry(rest: &[u8], directory: usize) -> Result<(&str, ZipEntry, usize)> {
    let short = || truncated("its directory");
    if u32_at(rest, 0).ok_or_else(short)? != CENTRAL_HEADER {
        return Err(Error::format("the archive's directory has something else where an entry should be"));
    }
    let flags = u16_at(rest, 8).ok_or_else(short)?;
    let method = u16_at(rest, 10).ok_or_else(short)?;
    let crc = u32_at(rest, 16).ok_or_else(short)?;
    let compressed = u32_at(rest, 20).ok_or_else(short)?;
    let uncompressed = u32_at(rest, 24).ok_or_else(short)?;
    let name_end = CENTRAL_HEADER_SIZE + usize::from(u16_at(rest, 28).ok_or_else(short)?);
    let extra_end = name_end + usize::from(u16_at(rest, 30).ok_or_else(short)?);
    let end = extra_end + usize::from(u16_at(rest, 32).ok_or_else(short)?);
    let disk = u16_at(rest, 34).ok_or_else(short)?;
    let header = u32_at(rest, 42).ok_or_else(short)?;
    let name = rest.get(CENTRAL_HEADER_SIZE..name_end).ok_or_else(short)?;
    let extra = rest.get(name_end..extra_end).ok_or_else(short)?;
    let name = std::str::from_utf8(name)
        .map_err(|_| Error::format("an entry's name is not UTF-8").got(String::from_utf8_lossy(name)))?;
    if disk != 0 {
        return Err(Error::unsupported(format!("the archive's entry `{name}` is on another disk")));
    }
    let mut zip64 = Zip64::find(extra);
    let missing = || damaged(name, "lacks its zip64 sizes");
    let uncompressed = zip64.resolve(uncompressed).ok_or_else(missing)?;
    let compressed = zip64.resolve(compressed).ok_or_else(missing)?;
    let header = zip64.resolve(header).ok_or_else(missing)?;
    let stored = method == STORED && flags & FLAG_ENCRYPTED == 0;
    if stored && compressed != uncompressed {
        return Err(damaged(name, "is stored but has two sizes").expected(uncompressed).got(compressed));
    }
    let outside = || {
        damaged(name, "lies outside the file's data")
            .expected(format_args!("all of it before the directory at {directory}"))
            .got(format_args!("{compressed} bytes with a header at {header}"))
            .hint(TRUNCATED_HINT)
    };
    let size = usize::try_from(compressed).map_err(|_| outside())?;
    let header = usize::try_from(header).map_err(|_| outside())?;
    let ends = header.checked_add(LOCAL_HEADER_SIZE + name.len()).and_then(|data| data.checked_add(size));
    if ends.is_none_or(|ends| ends > directory) {
        return Err(outside());
    }
    Ok((name, ZipEntry { header, limit: directory, size, crc, stored }, end))
}

/// Orders the entries by place and gives each the room up to the next.
fn set_limits(entries: &mut IndexMap<Box<str>, ZipEntry>, directory: usize) -> Result<()> {
    entries.sort_unstable_by(|_, a, _, b| a.header.cmp(&b.header));
    let mut limit = directory;
    for (name, entry) in entries.iter_mut().rev() {
        entry.limit = limit;
        let least = LOCAL_HEADER_SIZE + name.len() + entry.size;
        if limit - entry.header < least {
            return Err(damaged(name, "overlaps the next entry")
                .expected(format_args!("at least {least} bytes from {} on", entry.header))
                .got(format_args!("the next entry at {limit}")));
        }
        limit = entry.header;
    }
    Ok(())
}

/// The 64-bit values of an entry's extra field, to be taken in the order in which their fields defer to it.
struct Zip64<'a>(&'a [u8]);

impl<'a> Zip64<'a> {
    fn find(mut extra: &'a [u8]) -> Self {
        while let (Some(id), Some(size)) = (u16_at(extra, 0), u16_at(extra, 2)) {
            let Some(body) = extra.get(4..4 + usize::from(size)) else { break };
            if id == ZIP64_EXTRA {
                return Self(body);
            }
            extra = &extra[4 + body.len()..];
        }
        Self(&[])
    }

    /// The field's own value, or the next 64-bit one where it defers.
    fn resolve(&mut self, field: u32) -> Option<u64> {
        if field != IN_ZIP64 {
            return Some(field.into());
        }
        let value = u64_at(self.0, 0)?;
        self.0 = &self.0[8..];
        Some(value)
    }
}

pub(super) const TRUNCATED_HINT: &str = "Was the download or copy cut off?";

fn truncated(what: &str) -> Error {
    Error::format(format!("the archive is truncated: {what} is not there")).hint(TRUNCATED_HINT)
}

fn damaged(name: &str, what: &str) -> Error {
    Error::format(format!("the archive's entry `{name}` {what}"))
}

fn not_stored(name: &str) -> Error {
    Error::unsupported(format!("the archive's entry `{name}` is compressed or encrypted"))
        .hint("Was the file zipped again? PyTorch stores its entries: open it there and save it again")
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
