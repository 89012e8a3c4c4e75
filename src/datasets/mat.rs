//! MATLAB's files of version 5 to 7: a header, then elements, each compressed or not, of which the matrices of numbers
//! are read.
//!
//! After <https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf>. Version 7.3 is HDF5, and not read.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};

const HEADER: usize = 128;

/// Types of elements.
const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT16: u32 = 3;
const UINT16: u32 = 4;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const SINGLE: u32 = 7;
const DOUBLE: u32 = 9;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;

/// The largest matrix that is read; all of SVHN's `extra` is 1.6 GB.
const MAX_MATRIX: usize = 2 << 30;

/// A file of matrices, open.
pub(super) struct MatFile {
    mapping: Mapping,
    order: ByteOrder,
}

/// A matrix of numbers.
pub(super) struct Matrix {
    pub(super) shape: Vec<usize>,
    /// The type of the values as they are stored, which may be smaller than that of the matrix.
    pub(super) kind: u32,
    /// The values, the first dimension changing fastest.
    pub(super) bytes: Vec<u8>,
    order: ByteOrder,
}

/// The order of bytes in numbers.
#[derive(Clone, Copy)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    /// A number of up to eight bytes, the highest first.
    fn highest_first(self, bytes: &[u8]) -> [u8; 8] {
        let mut value = [0; 8];
        let start = 8usize.saturating_sub(bytes.len());
        value[start..].copy_from_slice(&bytes[..8 - start]);
        if matches!(self, Self::Little) {
            value[start..].reverse();
        }
        value
    }
}

impl MatFile {
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when it is no such file,
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it is of version 7.3.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mapping = Mapping::open(path, MapMode::Map)?;
        if mapping.starts_with(b"MATLAB 7.3") || mapping.starts_with(b"\x89HDF\r\n") {
            return Err(Error::unsupported("a MATLAB file of version 7.3, which is HDF5")
                .hint("Save it with `save(…, '-v7')`, or with scipy.io.savemat"));
        }
        let order = match mapping.get(HEADER - 2..HEADER) {
            Some(b"IM") => ByteOrder::Little,
            Some(b"MI") => ByteOrder::Big,
            _ => return Err(Error::format("no MATLAB file").expected("a header of 128 bytes that ends in IM or MI")),
        };
        Ok(Self { mapping, order })
    }

    /// The matrix called `name`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is none;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when the file is damaged or cut off.
    pub(super) fn array(&self, name: &str) -> Result<Matrix> {
        let mut elements = Elements { bytes: &self.mapping[HEADER..], order: self.order };
        let mut names = Vec::new();
        while let Some((kind, bytes)) = elements.next()? {
            let found = match kind {
                MATRIX => self.plain(bytes, name, &mut names)?,
                COMPRESSED => self.compressed(bytes, name, &mut names)?,
                _ => None,
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Err(Error::not_found(format!("no matrix `{name}` in the file; known: {}", names.join(", "))))
    }

    /// The matrix in a compressed element, if it has this name. Of others only the beginning is unpacked.
    fn compressed(&self, bytes: &[u8], name: &str, names: &mut Vec<String>) -> Result<Option<Matrix>> {
        /// The bytes that hold any name that is looked for, with what stands before it.
        const BEGINNING: usize = 4096;
        let begin = inflated(bytes, BEGINNING, true)?;
        match (Elements { bytes: &begin, order: self.order }).tag() {
            Some((MATRIX, start, _)) if head(&begin[start..], self.order)?.name == name => {}
            Some((MATRIX, start, _)) => {
                names.push(head(&begin[start..], self.order)?.name);
                return Ok(None);
            }
            _ => return Ok(None),
        }
        let mut whole = inflated(bytes, MAX_MATRIX, false)?;
        let elements = Elements { bytes: &whole, order: self.order };
        let before = elements.tag().map_or(0, |(_, start, _)| start);
        let Some((mut array, values)) = self.matrix(&whole[before..], name, names)? else { return Ok(None) };
        // Not copied: these are the large ones.
        whole.truncate(before + values.end);
        whole.drain(..before + values.start);
        array.bytes = whole;
        Ok(Some(array))
    }

    fn plain(&self, bytes: &[u8], name: &str, names: &mut Vec<String>) -> Result<Option<Matrix>> {
        let Some((mut array, values)) = self.matrix(bytes, name, names)? else { return Ok(None) };
        array.bytes.try_reserve_exact(values.len()).map_err(|_| Error::out_of_memory(values.len()))?;
        array.bytes.extend_from_slice(&bytes[values]);
        Ok(Some(array))
    }

    /// The matrix without its values, if it has this name, and where these lie.
    fn matrix(&self, bytes: &[u8], name: &str, names: &mut Vec<String>) -> Result<Option<(Matrix, Range<usize>)>> {
        let head = head(bytes, self.order)?;
        if head.name != name {
            names.push(head.name);
            return Ok(None);
        }
        let mut elements = Elements { bytes: &bytes[head.length..], order: self.order };
        let start = elements.tag().map_or(0, |(_, start, _)| head.length + start);
        let values = elements.next()?.ok_or_else(|| Error::format("the matrix has no values").tensor(name))?;
        let (kind, values) = values;
        let width = width(kind).filter(|_| head.is_plain).ok_or_else(|| {
            Error::unsupported("not a matrix of plain numbers").tensor(name).got(format_args!("values of type {kind}"))
        })?;
        let expected = crate::tensor::checked_numel(&head.shape).and_then(|count| count.checked_mul(width));
        if expected != Some(values.len()) {
            return Err(Error::format("a matrix's sizes and length disagree")
                .tensor(name)
                .expected(format_args!("{:?} values of {width} bytes", head.shape))
                .got(format_args!("{} bytes", values.len())));
        }
        let array = Matrix { shape: head.shape, kind, bytes: Vec::new(), order: self.order };
        Ok(Some((array, start..start + values.len())))
    }
}

impl Matrix {
    /// Whether the values are bytes without a sign.
    pub(super) fn is_bytes(&self) -> bool {
        self.kind == UINT8
    }

    /// The values, which must be whole numbers.
    pub(super) fn integers(&self) -> Result<Vec<i64>> {
        let width = width(self.kind).unwrap_or(1);
        self.bytes.chunks_exact(width).map(|value| self.integer(value)).collect()
    }

    fn integer(&self, value: &[u8]) -> Result<i64> {
        let bytes = self.order.highest_first(value);
        let signed = i64::from_be_bytes(bytes) << (8 * (8 - value.len())) >> (8 * (8 - value.len()));
        let float = match self.kind {
            SINGLE => f64::from(f32::from_bits(u64::from_be_bytes(bytes) as u32)),
            DOUBLE => f64::from_be_bytes(bytes),
            INT8 | INT16 | INT32 => return Ok(signed),
            _ => return Ok(i64::from_be_bytes(bytes)),
        };
        // Below 2⁵³ every whole number is exact.
        match float.fract() == 0.0 && float.abs() < (1u64 << 53) as f64 {
            true => Ok(float as i64),
            false => Err(Error::format("a value is no whole number").got(float)),
        }
    }
}

/// The part of a matrix before its values.
struct MatrixHead {
    name: String,
    shape: Vec<usize>,
    /// Real numbers, not cells, structs, sparse or complex ones.
    is_plain: bool,
    /// The bytes that it takes.
    length: usize,
}

fn head(bytes: &[u8], order: ByteOrder) -> Result<MatrixHead> {
    let broken = || Error::format("the head of a matrix is damaged or cut off");
    let mut elements = Elements { bytes, order };
    let (_, flags) = elements.next()?.ok_or_else(broken)?;
    let (_, sizes) = elements.next()?.ok_or_else(broken)?;
    let (_, name) = elements.next()?.ok_or_else(broken)?;
    let flags = order.u32(flags.get(..4).and_then(|flags| flags.try_into().ok()).ok_or_else(broken)?);
    /// Matrices of numbers: from double (6) to uint64 (15).
    const NUMBERS: std::ops::RangeInclusive<u32> = 6..=15;
    const COMPLEX: u32 = 1 << 11;
    let is_plain = NUMBERS.contains(&(flags & 0xff)) && flags & COMPLEX == 0;
    let (sizes, []) = sizes.as_chunks::<4>() else { return Err(broken()) };
    let shape = sizes.iter().map(|&size| order.u32(size) as usize).collect();
    let name = String::from_utf8_lossy(name).into_owned();
    Ok(MatrixHead { name, shape, is_plain, length: bytes.len() - elements.bytes.len() })
}

/// The bytes of one value of this type.
fn width(kind: u32) -> Option<usize> {
    match kind {
        INT8 | UINT8 => Some(1),
        INT16 | UINT16 => Some(2),
        INT32 | UINT32 | SINGLE => Some(4),
        DOUBLE => Some(8),
        _ => None,
    }
}

/// The elements of a file: type, length, and the bytes, filled up to a multiple of eight.
struct Elements<'a> {
    bytes: &'a [u8],
    order: ByteOrder,
}

impl<'a> Elements<'a> {
    /// The type of the next element, where its bytes begin, and how many there are.
    fn tag(&self) -> Option<(u32, usize, usize)> {
        let first = self.order.u32(self.bytes.get(..4)?.try_into().ok()?);
        // A short element has its length in the upper half of its type.
        if first >> 16 != 0 {
            return Some((first & 0xffff, 4, (first >> 16) as usize));
        }
        let length = self.order.u32(self.bytes.get(4..8)?.try_into().ok()?);
        Some((first, 8, length as usize))
    }

    fn next(&mut self) -> Result<Option<(u32, &'a [u8])>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let cut = || Error::format("the MATLAB file is damaged or cut off");
        let (kind, start, length) = self.tag().ok_or_else(cut)?;
        let bytes = self.bytes.get(start..).and_then(|rest| rest.get(..length)).ok_or_else(cut)?;
        // Compressed elements are not filled up; the last one need not be.
        let end = match (start, kind) {
            (4, _) => 8,
            (_, COMPRESSED) => start + length,
            _ => start + length.next_multiple_of(8),
        };
        self.bytes = self.bytes.get(end..).unwrap_or(&[]);
        Ok(Some((kind, bytes)))
    }
}

/// The bytes that a zlib stream unpacks to: all of them, which may be no more than `limit` bytes, or, if `only_begin`,
/// its first `limit` bytes.
#[cfg(feature = "images")]
fn inflated(bytes: &[u8], limit: usize, only_begin: bool) -> Result<Vec<u8>> {
    use std::io::Read;

    let decoder = flate2::read::ZlibDecoder::new(bytes);
    if only_begin {
        super::gzip::read_all(decoder.take(limit as u64), limit)
    } else {
        super::gzip::read_all(decoder, limit)
    }
}

#[cfg(not(feature = "images"))]
fn inflated(_: &[u8], _: usize, _: bool) -> Result<Vec<u8>> {
    Err(Error::unsupported("the file is compressed, and this build cannot unpack it"))
}
