//! Writing the file: every tensor gets its place first, then all are written in one pass, hashed on their way.

use std::fs::File;
use std::hash::Hasher;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_64;

use super::alignment::{ALIGNMENT, PAGE};
use super::format::{Metadata, Role, Section};
use crate::atomic_file::unwritten;
use crate::checkpoint::safetensors::{self, HeaderEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{DType, Tensor, WRITE_BUFFER, checked_numel};

type Fill<'a> = Box<dyn FnOnce(&mut Sink) -> Result<()> + 'a>;

/// A tensor to be written.
pub(super) struct Item<'a> {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// Writes exactly the bytes that type and shape say.
    pub(super) fill: Fill<'a>,
}

impl<'a> Item<'a> {
    pub(super) fn new(
        role: Role<'_>,
        dtype: DType,
        shape: &[usize],
        fill: impl FnOnce(&mut Sink) -> Result<()> + 'a,
    ) -> Self {
        Self { name: role.to_string(), dtype, shape: shape.to_vec(), fill: Box::new(fill) }
    }

    /// A copy of `tensor`, byte for byte.
    pub(super) fn copy(role: Role<'_>, tensor: &'a Tensor) -> Self {
        Self::new(role, tensor.dtype(), tensor.shape(), |sink| sink.write(&tensor.to_bytes()?))
    }

    /// A tensor of these f32 values.
    pub(super) fn f32(role: Role<'_>, shape: &[usize], values: &'a [f32]) -> Self {
        Self::new(role, DType::F32, shape, |sink| sink.write(crate::tensor::f32_bytes(values)))
    }

    fn nbytes(&self) -> Result<usize> {
        checked_numel(&self.shape)
            .and_then(|n| n.checked_mul(self.dtype.size()))
            .ok_or_else(|| Error::invalid("a tensor's shape overflows").tensor(&self.name))
    }
}

/// The file that tensors are written into, one after another; hashes the bytes of the one at work.
pub(super) struct Sink {
    out: BufWriter<File>,
    /// The file's path and the bytes that it will have, for errors.
    path: PathBuf,
    bytes: u64,
    hash: XxHash3_64,
    written: usize,
}

impl Sink {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.write(bytes);
        self.written += bytes.len();
        self.out.write_all(bytes).map_err(|e| unwritten("cannot write", &self.path, Some(self.bytes), e))
    }

    /// Writes `count` zeros.
    pub(super) fn zeros(&mut self, count: usize) -> Result<()> {
        const ZEROS: [u8; PAGE] = [0; PAGE];
        let mut left = count;
        while left > 0 {
            let count = left.min(PAGE);
            self.write(&ZEROS[..count])?;
            left -= count;
        }
        Ok(())
    }

    fn begin(&mut self) {
        (self.hash, self.written) = (XxHash3_64::new(), 0);
    }
}

/// A tensor and where it goes, from the start of the data.
struct PlacedItem<'a> {
    item: Item<'a>,
    section: Option<Section>,
    bytes: std::ops::Range<usize>,
}

/// Places the tensors in the order of their sections, with padding between them.
fn place(items: Vec<Item<'_>>) -> Result<Vec<PlacedItem<'_>>> {
    let mut sorted = items
        .into_iter()
        .map(|item| match Role::of(&item.name).and_then(Role::section) {
            Some(section) => Ok((section, item)),
            None => Err(Error::new(ErrorKind::Internal, "a tensor of no section").tensor(&item.name)),
        })
        .collect::<Result<Vec<_>>>()?;
    // Stable: within a section tensors stay in the order in which they were given.
    sorted.sort_by_key(|(section, _)| *section);
    let mut placed: Vec<PlacedItem<'_>> = Vec::new();
    let mut end = 0usize;
    let mut paddings = 0usize;
    let mut before = None;
    for (section, item) in sorted {
        let too_large = || Error::invalid("a bundle larger than this machine's address space");
        let alignment = if before == Some(section) { ALIGNMENT } else { PAGE };
        let start = end.checked_next_multiple_of(alignment).ok_or_else(too_large)?;
        if start > end {
            let length = start - end;
            let role = paddings.to_string();
            let zeros = Item::new(Role::Padding(&role), DType::U8, &[length], move |sink| sink.zeros(length));
            placed.push(PlacedItem { item: zeros, section: None, bytes: end..start });
            paddings += 1;
        }
        end = start.checked_add(item.nbytes()?).ok_or_else(too_large)?;
        placed.push(PlacedItem { item, section: Some(section), bytes: start..end });
        before = Some(section);
    }
    Ok(placed)
}

/// The header with its length before it, filled with spaces to a whole page.
fn header(metadata: &Metadata, placed: &[PlacedItem<'_>]) -> Result<Vec<u8>> {
    let tensors = placed.iter().map(|PlacedItem { item, bytes, .. }| HeaderEntry {
        name: &item.name,
        dtype: item.dtype,
        shape: &item.shape,
        bytes: bytes.clone(),
    });
    safetensors::header(metadata.pairs()?, tensors, PAGE)
}

/// The bytes of the bundle that [`write`] would write.
pub(super) fn planned_bytes(metadata: &Metadata, mut items: Vec<Item<'_>>) -> Result<u64> {
    items.push(checksums(items.len()));
    let placed = place(items)?;
    Ok((header(metadata, &placed)?.len() + placed.last().map_or(0, |last| last.bytes.end)) as u64)
}

/// The checksums of so many tensors and of the header. Their bytes are known last; this is their place.
fn checksums<'a>(tensors: usize) -> Item<'a> {
    Item::new(Role::Checksums, DType::U64, &[1 + tensors], |_| Ok(()))
}

/// Writes a whole bundle into the file at `path`, which exists; [`replace_file`](crate::replace_file) gives such a
/// one. Tensors are put into the order of their sections, and their checksums after them. Returns the file's size.
pub(super) fn write(path: &Path, metadata: &Metadata, mut items: Vec<Item<'_>>) -> Result<u64> {
    items.push(checksums(items.len()));
    let placed = place(items)?;
    let header = header(metadata, &placed)?;

    let file = std::fs::OpenOptions::new().write(true).truncate(true).open(path);
    let file = file.map_err(|e| Error::io("cannot write", path, e))?;
    let bytes = (header.len() + placed.last().map_or(0, |last| last.bytes.end)) as u64;
    let out = BufWriter::with_capacity(WRITE_BUFFER, file);
    let mut sink = Sink { out, path: path.to_path_buf(), bytes, hash: XxHash3_64::new(), written: 0 };
    sink.write(&header)?;
    let mut sums = vec![sink.hash.finish()];
    let mut total = header.len();
    for PlacedItem { item, section, bytes } in placed {
        sink.begin();
        let written = match section {
            Some(Section::Checksums) => {
                let sums: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
                sink.write(&sums)
            }
            _ => (item.fill)(&mut sink),
        };
        written.map_err(|e| e.tensor(&item.name).at(path))?;
        if section.is_some() {
            sums.push(sink.hash.finish());
        }
        if sink.written != bytes.len() {
            return Err(Error::new(ErrorKind::Internal, "a tensor of another size than was planned")
                .tensor(item.name)
                .expected(format_args!("{} bytes", bytes.len()))
                .got(sink.written));
        }
        total += bytes.len();
    }
    sink.out.flush().map_err(|e| unwritten("cannot write", path, Some(sink.bytes), e))?;
    Ok(total as u64)
}
