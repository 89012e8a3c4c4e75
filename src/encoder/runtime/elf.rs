//! Whether a file can be given to the system's loader at all.
//!
//! The loader maps a library and trusts its headers: one whose tail is missing (an interrupted copy, a full disk) ends
//! the process with SIGBUS instead of an error. So the headers are read first. Only ELF is looked into; elsewhere the
//! loader's own checks have to do. And which other libraries it needs, to say which of them are missing.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes of the ELF-64 file header.
const HEADER: usize = 64;
/// Bytes of an ELF-64 program header.
const SEGMENT: usize = 56;
/// The type of a shared object (`ET_DYN`).
const SHARED_OBJECT: u16 = 3;
/// A segment that is mapped (`PT_LOAD`).
const LOADED: u32 = 1;
/// The segment of what the loader has to know (`PT_DYNAMIC`), and two of its tags: where the names are (`DT_STRTAB`),
/// and one that is the name of a library that is needed (`DT_NEEDED`).
const DYNAMIC: u32 = 2;
const NAMES: u64 = 5;
const NEEDED: u64 = 1;
/// Bytes of a tag and its value.
const TAG: usize = 16;
/// Bytes of tags, at most: more than any library has.
const MOST: usize = 64 << 10;

/// The `e_machine` of this build, where it is known.
const MACHINE: Option<u16> = if cfg!(target_arch = "x86_64") {
    Some(62)
} else if cfg!(target_arch = "aarch64") {
    Some(183)
} else {
    None
};

/// Why the file at `path` cannot be a shared library for this process, if that can be told.
pub(super) fn objection(path: &Path) -> Option<String> {
    // A device or a pipe could block whoever opens it, so the type comes first.
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Some("no such file".into()),
        Err(e) => return Some(format!("cannot be read ({e})")),
    };
    if metadata.is_dir() {
        return Some("a directory, not the library in it".into());
    }
    if !metadata.is_file() {
        return Some("not a regular file".into());
    }
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) => return Some(format!("cannot be opened ({e})")),
    };
    if cfg!(target_os = "linux") { elf_objection(&mut file, metadata.len()).err() } else { None }
}

/// Reads the headers of a file of `length` bytes.
fn elf_objection(file: &mut (impl Read + Seek), length: u64) -> Result<(), String> {
    let mut header = Vec::new();
    read_at(file, 0, HEADER, &mut header)?;
    if !header.starts_with(b"\x7fELF") {
        return Err("not a shared library".into());
    }
    if header.get(4) == Some(&1) && cfg!(target_pointer_width = "64") {
        return Err("a 32-bit library in a 64-bit process".into());
    }
    if header.len() < HEADER {
        return Err(format!("a truncated library of {length} bytes"));
    }
    if header[4] != 2 || header[5] != 1 {
        return Err("a library for another kind of machine".into());
    }
    let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    if u16_at(16) != SHARED_OBJECT {
        return Err("an ELF file, but not a shared library".into());
    }
    let machine = u16_at(18);
    if MACHINE.is_some_and(|ours| ours != machine) {
        return Err(format!("a library for another processor (ELF machine {machine})"));
    }
    let start = u64_at(&header, 32);
    if usize::from(u16_at(54)) != SEGMENT {
        return Err("a damaged library".into());
    }
    let mut segments = Vec::new();
    let table = usize::from(u16_at(56)) * SEGMENT;
    read_at(file, start, table, &mut segments)?;
    let end = segments
        .chunks_exact(SEGMENT)
        .filter(|segment| segment.starts_with(&LOADED.to_le_bytes()))
        .map(|segment| u64_at(segment, 8).saturating_add(u64_at(segment, 32)))
        .fold(start.saturating_add(table as u64), u64::max);
    if end > length {
        return Err(format!("a truncated library: {length} bytes of at least {end}"));
    }
    Ok(())
}

/// The libraries that the one at `path` says it needs, by name, in its order. Empty where it is no such library.
pub(in crate::encoder) fn needed(path: &Path) -> Vec<String> {
    if objection(path).is_some() || cfg!(not(target_os = "linux")) {
        return Vec::new();
    }
    File::open(path).ok().and_then(|mut file| names_of_needed(&mut file)).unwrap_or_default()
}

/// The headers are those of a library for this machine.
fn names_of_needed(file: &mut (impl Read + Seek)) -> Option<Vec<String>> {
    let mut header = Vec::new();
    read_at(file, 0, HEADER, &mut header).ok()?;
    let count = u16::from_le_bytes([*header.get(56)?, *header.get(57)?]);
    let mut table = Vec::new();
    read_at(file, u64_at(&header, 32), usize::from(count) * SEGMENT, &mut table).ok()?;
    // Type, place in the file, address, bytes in the file.
    let segments: Vec<_> = table
        .chunks_exact(SEGMENT)
        .map(|s| (u32::from_le_bytes([s[0], s[1], s[2], s[3]]), u64_at(s, 8), u64_at(s, 16), u64_at(s, 32)))
        .collect();
    let (_, place, _, length) = *segments.iter().find(|(kind, ..)| *kind == DYNAMIC)?;
    let mut tags = Vec::new();
    read_at(file, place, usize::try_from(length).ok()?.min(MOST), &mut tags).ok()?;
    let tags: Vec<_> = tags.chunks_exact(TAG).map(|tag| (u64_at(tag, 0), u64_at(tag, 8))).collect();
    // An address, which is at another place in the file.
    let (_, names) = *tags.iter().find(|(tag, _)| *tag == NAMES)?;
    let within = |&&(kind, _, address, length): &&(u32, u64, u64, u64)| {
        kind == LOADED && names >= address && names - address < length
    };
    let (_, place, address, _) = *segments.iter().find(within)?;
    let names = place.checked_add(names - address)?;
    tags.iter()
        .filter(|(tag, _)| *tag == NEEDED)
        .map(|(_, offset)| {
            let mut name = Vec::new();
            read_at(file, names.checked_add(*offset)?, 256, &mut name).ok()?;
            let end = name.iter().position(|byte| *byte == 0)?;
            String::from_utf8(name[..end].to_vec()).ok()
        })
        .collect()
}

/// Up to `count` bytes from `start` on; fewer where the file ends.
fn read_at(file: &mut (impl Read + Seek), start: u64, count: usize, into: &mut Vec<u8>) -> Result<(), String> {
    file.seek(SeekFrom::Start(start))
        .and_then(|_| file.take(count as u64).read_to_end(into))
        .map(|_| ())
        .map_err(|e| format!("cannot be read ({e})"))
}

/// The little-endian number at `at`, which the callers have checked to be inside.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// An ELF file with one segment, of 200 bytes.
    fn library() -> Vec<u8> {
        let mut bytes = vec![0; 200];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16] = 3;
        bytes[18..20].copy_from_slice(&MACHINE.unwrap_or(0).to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 1;
        bytes[64 + 32] = 200;
        bytes
    }

    fn objection_to(change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = library();
        change(&mut bytes);
        let length = bytes.len() as u64;
        elf_objection(&mut Cursor::new(bytes), length).err().unwrap_or_default()
    }

    #[test]
    fn headers_are_believed_only_as_far_as_the_file_goes() {
        assert_eq!(objection_to(|_| ()), "");
        for length in 0..200 {
            assert_ne!(objection_to(|bytes| bytes.truncate(length)), "", "{length} bytes");
        }
        assert!(objection_to(|bytes| bytes[64 + 8] = 1).contains("truncated"));
        assert!(objection_to(|bytes| bytes[64 + 8..64 + 16].fill(0xff)).contains("truncated"));
        assert!(objection_to(|bytes| bytes[32..40].fill(0xff)).contains("truncated"));
        assert!(objection_to(|bytes| bytes[56..58].fill(0xff)).contains("truncated"));
    }

    /// Offsets and lengths of a hostile file lead nowhere.
    #[test]
    fn what_a_library_needs_is_read_or_not_told() {
        let names = |bytes: &[u8]| names_of_needed(&mut Cursor::new(bytes));
        // Two segments: all of the file at address 4096, and the tags; then the names.
        let mut bytes = library();
        bytes.resize(400, 0);
        bytes[56] = 2;
        let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(64 + 16, 4096);
        put(64 + 32, 400);
        put(120, 2);
        put(120 + 8, 200);
        put(120 + 32, 64);
        for (i, value) in [NEEDED, 1, NAMES, 4096 + 300, NEEDED, 11].into_iter().enumerate() {
            put(200 + 8 * i, value);
        }
        bytes[300..322].copy_from_slice(b"\0libcuda.so\0libm.so.6\0");
        bytes[311] = 0;
        assert_eq!(names(&bytes), Some(vec!["libcuda.so".to_owned(), String::new()]));
        for at in (56..64).chain(64..64 + 2 * SEGMENT).chain(200..264) {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let _ = names(&changed);
                changed[at..at + 8].fill(value);
                let _ = names(&changed);
            }
        }
        for length in HEADER..bytes.len() {
            let _ = names(&bytes[..length]);
        }
    }

    #[test]
    fn other_files_and_machines_are_told_apart() {
        assert!(objection_to(|bytes| bytes[0] = b'#').contains("not a shared library"));
        assert!(objection_to(|bytes| bytes[4] = 1).contains("32-bit"));
        assert!(objection_to(|bytes| bytes[16] = 2).contains("not a shared library"));
        assert!(objection_to(|bytes| bytes[18] = 0xf3).contains("processor"));
    }
}
