//! Whether a file can be given to the system's loader at all.
//!
//! The loader maps a library and trusts its headers: one whose tail is missing (an interrupted copy, a full disk) ends
//! the process with SIGBUS instead of an error. So the headers are read first. Only ELF is looked into; elsewhere the
//! loader's own checks have to do. And which other libraries it needs, to say which of them are missing.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::rc::Rc;

use object::LittleEndian;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};

type Header = FileHeader64<LittleEndian>;
type Segment = ProgramHeader64<LittleEndian>;

/// Bytes of tags, at most: more than any library has.
const MAX_TAGS: u64 = 64 << 10;
/// Bytes of a library's name, at most.
const MAX_NAME: u64 = 256;

/// The `e_machine` of this build, where it is known.
const MACHINE: Option<elf::Machine> = if cfg!(target_arch = "x86_64") {
    Some(elf::EM_X86_64)
} else if cfg!(target_arch = "aarch64") {
    Some(elf::EM_AARCH64)
} else {
    None
};

/// Why the file at `path` cannot be a shared library for this process, if that can be told.
///
/// # Errors
/// Where it cannot be told, because the file cannot be read: why, as a clause.
pub(super) fn objection(path: &Path) -> Result<Option<String>, String> {
    use std::io::ErrorKind::{NotADirectory, NotFound};

    // Opening a device or a pipe could block, so the type comes first.
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if matches!(e.kind(), NotFound | NotADirectory) => return Ok(Some("no such file".into())),
        Err(e) => return Err(format!("cannot be read ({e})")),
    };
    if metadata.is_dir() {
        return Ok(Some("a directory, not the library in it".into()));
    }
    if !metadata.is_file() {
        return Ok(Some("not a regular file".into()));
    }
    let file = File::open(path).map_err(|e| format!("cannot be opened ({e})"))?;
    if cfg!(not(target_os = "linux")) {
        return Ok(None);
    }
    let failed = Rc::default();
    let objection = elf_objection(&ReadCache::new(Noting { file, failed: Rc::clone(&failed) }), metadata.len()).err();
    match failed.take() {
        Some(e) => Err(format!("cannot be read ({e})")),
        None => Ok(objection),
    }
}

/// A file that notes how reading failed: the parser says only that something is wrong.
struct Noting {
    file: File,
    failed: Rc<Cell<Option<io::Error>>>,
}

impl Read for Noting {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.file.read(to).inspect_err(|e| {
            // What is interrupted is read again.
            if e.kind() != io::ErrorKind::Interrupted {
                self.failed.set(Some(e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error)));
            }
        })
    }
}

impl Seek for Noting {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Reads the headers of a file of `length` bytes.
fn elf_objection<'f>(file: impl ReadRef<'f>, length: u64) -> Result<(), String> {
    let magic = file.read_bytes_at(0, length.min(5)).map_err(|()| "cannot be read")?;
    if !magic.starts_with(&elf::ELFMAG) {
        return Err("not a shared library".into());
    }
    if magic.get(4) == Some(&elf::ELFCLASS32.0) && cfg!(target_pointer_width = "64") {
        return Err("a 32-bit library in a 64-bit process".into());
    }
    if length < size_of::<Header>() as u64 {
        return Err(format!("a truncated library of {length} bytes"));
    }
    let header = Header::parse(file).map_err(|_| "a library for another kind of machine")?;
    if header.e_type(LittleEndian) != elf::ET_DYN {
        return Err("an ELF file, but not a shared library".into());
    }
    let machine = header.e_machine(LittleEndian);
    if MACHINE.is_some_and(|ours| ours != machine) {
        return Err(format!("a library for another processor (ELF machine {})", machine.0));
    }
    if usize::from(header.e_phentsize(LittleEndian)) != size_of::<Segment>() {
        return Err("a damaged library".into());
    }
    let table = u64::from(header.e_phnum(LittleEndian)) * size_of::<Segment>() as u64;
    let table_end = header.e_phoff(LittleEndian).saturating_add(table);
    let truncated = |end: u64| format!("a truncated library: {length} bytes of at least {end}");
    if table_end > length {
        return Err(truncated(table_end));
    }
    let segments = header.program_headers(LittleEndian, file).map_err(|_| "a damaged library")?;
    let loaded = segments.iter().filter(|segment| segment.p_type(LittleEndian) == elf::PT_LOAD);
    let end = loaded.map(|segment| segment.p_offset(LittleEndian).saturating_add(segment.p_filesz(LittleEndian))).max();
    match end {
        Some(end) if end > length => Err(truncated(end)),
        _ => Ok(()),
    }
}

/// The libraries that the one at `path` says it needs, by name, in its order. Empty where it is no such library.
pub(in crate::encoder) fn needed(path: &Path) -> Vec<String> {
    if objection(path) != Ok(None) || cfg!(not(target_os = "linux")) {
        return Vec::new();
    }
    File::open(path).ok().and_then(|file| names_of_needed(&ReadCache::new(file))).unwrap_or_default()
}

/// `None` where an offset or a length leads nowhere.
fn names_of_needed<'f>(file: impl ReadRef<'f>) -> Option<Vec<String>> {
    let segments = Header::parse(file).ok()?.program_headers(LittleEndian, file).ok()?;
    let dynamic = segments.iter().find(|segment| segment.p_type(LittleEndian) == elf::PT_DYNAMIC)?;
    if dynamic.p_filesz(LittleEndian) > MAX_TAGS {
        return None;
    }
    let tags = dynamic.dynamic(LittleEndian, file).ok()??;
    // An address, which is at another place in the file.
    let names = tags.iter().find(|tag| tag.tag(LittleEndian) == elf::DT_STRTAB)?.val(LittleEndian);
    let within = |segment: &&Segment| {
        let offset = names.checked_sub(segment.p_vaddr(LittleEndian));
        segment.p_type(LittleEndian) == elf::PT_LOAD && offset.is_some_and(|at| at < segment.p_filesz(LittleEndian))
    };
    let segment = segments.iter().find(within)?;
    let names = (names - segment.p_vaddr(LittleEndian)).checked_add(segment.p_offset(LittleEndian))?;
    let length = file.len().ok()?;
    tags.iter()
        .filter(|tag| tag.tag(LittleEndian) == elf::DT_NEEDED)
        .map(|tag| {
            let start = names.checked_add(tag.val(LittleEndian))?;
            let name = file.read_bytes_at_until(start..start.checked_add(MAX_NAME)?.min(length), 0).ok()?;
            String::from_utf8(name.to_vec()).ok()
        })
        .collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The tags `DT_NEEDED` and `DT_STRTAB`.
    const NEEDED: u64 = 1;
    const NAMES: u64 = 5;

    /// An ELF file with one segment, of 200 bytes.
    fn library() -> Vec<u8> {
        let mut bytes = vec![0; 200];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[16] = 3;
        bytes[18..20].copy_from_slice(&MACHINE.map_or(0, |machine| machine.0).to_le_bytes());
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
        elf_objection(&*bytes, length).err().unwrap_or_default()
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
        let names = |bytes: &[u8]| names_of_needed(bytes);
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
        for at in (56..64).chain(64..64 + 2 * size_of::<Segment>()).chain(200..264) {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let _ = names(&changed);
                changed[at..at + 8].fill(value);
                let _ = names(&changed);
            }
        }
        for length in size_of::<Header>()..bytes.len() {
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
