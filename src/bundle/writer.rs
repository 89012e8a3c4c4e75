//! Writing the file: places first, then every tensor in one pass, hashed on its way.

use std::fs::File;
use std::hash::Hasher;
use std::io::{BufWriter, Write};
use std::path::Path;

use twox_hash::XxHash3_64;

use super::format::{ALIGNMENT, About, PAGE, Section, name};
use crate::checkpoint::safetensors::{self, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{DType, Tensor, checked_numel};

/// Bytes that are gathered before they go to the operating system.
const BUFFER: usize = 1 << 20;

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
        name: impl Into<String>,
        dtype: DType,
        shape: &[usize],
        fill: impl FnOnce(&mut Sink) -> Result<()> + 'a,
    ) -> Self {
        Self { name: name.into(), dtype, shape: shape.to_vec(), fill: Box::new(fill) }
    }

    /// A tensor that is there, byte for byte.
    pub(super) fn copy(name: impl Into<String>, tensor: &'a Tensor) -> Self {
        Self::new(name, tensor.dtype(), tensor.shape(), |sink| sink.write(&tensor.to_bytes()?))
    }

    /// f32 values.
    pub(super) fn f32(name: impl Into<String>, shape: &[usize], values: &'a [f32]) -> Self {
        Self::new(name, DType::F32, shape, |sink| sink.write(crate::tensor::f32_bytes(values)))
    }

    fn nbytes(&self) -> Result<usize> {
        checked_numel(&self.shape)
            .and_then(|n| n.checked_mul(self.dtype.size()))
            .ok_or_else(|| Error::invalid("a tensor's shape overflows").tensor(&self.name))
    }
}

/// Takes the bytes of one tensor.
pub(super) struct Sink {
    out: BufWriter<File>,
    hash: XxHash3_64,
    written: usize,
}

impl Sink {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.write(bytes);
        self.written += bytes.len();
        self.out.write_all(bytes).map_err(|e| Error::new(ErrorKind::Io, "cannot write").because(e))
    }

    /// `count` zeros.
    pub(super) fn zeros(&mut self, count: usize) -> Result<()> {
        const ZEROS: [u8; PAGE] = [0; PAGE];
        let mut left = count;
        while left > 0 {
            let part = left.min(PAGE);
            self.write(&ZEROS[..part])?;
            left -= part;
        }
        Ok(())
    }

    fn begin(&mut self) {
        (self.hash, self.written) = (XxHash3_64::new(), 0);
    }
}

/// A tensor and where it goes, from the start of the data.
struct Placed<'a> {
    /// `None`: padding.
    item: Option<Item<'a>>,
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    place: std::ops::Range<usize>,
}

/// Places the sections' tensors and the padding between them.
fn place<'a>(sections: Vec<(Section, Vec<Item<'a>>)>) -> Result<Vec<Placed<'a>>> {
    let mut placed = Vec::new();
    let (mut end, mut paddings) = (0usize, 0usize);
    for (_, items) in sections {
        for (i, item) in items.into_iter().enumerate() {
            let too_large = || Error::invalid("a bundle larger than this machine's address space");
            let start = end.checked_next_multiple_of(if i == 0 { PAGE } else { ALIGNMENT }).ok_or_else(too_large)?;
            if start > end {
                placed.push(Placed {
                    item: None,
                    name: format!("{}{paddings}", name::PADDING),
                    dtype: DType::U8,
                    shape: vec![start - end],
                    place: end..start,
                });
                paddings += 1;
            }
            end = start.checked_add(item.nbytes()?).ok_or_else(too_large)?;
            let (name, dtype, shape) = (item.name.clone(), item.dtype, item.shape.clone());
            placed.push(Placed { item: Some(item), name, dtype, shape, place: start..end });
        }
    }
    Ok(placed)
}

/// The header with its length before it, filled with spaces to a whole page.
fn header(about: &About, placed: &[Placed<'_>]) -> Result<Vec<u8>> {
    let tensors = placed.iter().map(|Placed { name, dtype, shape, place, .. }| Entry {
        name,
        dtype: *dtype,
        shape,
        place: place.clone(),
    });
    safetensors::header(about.metadata()?, tensors, PAGE)
}

/// Writes a whole bundle into the file at `path`, which exists; [`replace_file`](crate::replace_file) gives such a
/// one. Sections are put into their order, and their checksums after them. Returns the file's size.
pub(super) fn write(path: &Path, about: &About, mut sections: Vec<(Section, Vec<Item<'_>>)>) -> Result<u64> {
    sections.sort_by_key(|(section, _)| *section);
    let count: usize = sections.iter().map(|(_, items)| items.len()).sum();
    // Its bytes are known last; it only takes its place here.
    let checksums = Item::new(name::CHECKSUMS, DType::U64, &[1 + count], |_| Ok(()));
    sections.push((Section::Checksums, vec![checksums]));
    let placed = place(sections)?;
    let header = header(about, &placed)?;

    let file = std::fs::OpenOptions::new().write(true).truncate(true).open(path);
    let file = file.map_err(|e| Error::io("cannot write", path, e))?;
    let mut sink = Sink { out: BufWriter::with_capacity(BUFFER, file), hash: XxHash3_64::new(), written: 0 };
    sink.write(&header).map_err(|e| e.at(path))?;
    let mut sums = vec![sink.hash.finish()];
    let mut total = header.len();
    for Placed { item, name, place, .. } in placed {
        sink.begin();
        match item {
            None => sink.zeros(place.len()).map_err(|e| e.at(path))?,
            Some(_) if name == name::CHECKSUMS => {
                let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
                sink.write(&bytes).map_err(|e| e.at(path))?;
            }
            Some(item) => {
                (item.fill)(&mut sink).map_err(|e| e.tensor(&name).at(path))?;
                sums.push(sink.hash.finish());
            }
        }
        if sink.written != place.len() {
            return Err(Error::new(ErrorKind::Internal, "a tensor of another size than was planned")
                .tensor(name)
                .expected(format_args!("{} bytes", place.len()))
                .got(sink.written));
        }
        total += place.len();
    }
    sink.out.flush().map_err(|e| Error::io("cannot write", path, e))?;
    Ok(total as u64)
}
