//! Safetensors files: the header is parsed with the `safetensors` crate, which checks that the tensors cover the file
//! exactly; tensors are views of the file's bytes, at whatever alignment they have.
//!
//! Headers are written here: the crate keeps the metadata in no order, so that the same content would give other bytes
//! every time.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::unread_type::{Stored, Unread};
use super::zip::TRUNCATED_HINT;
use crate::error::{Error, ErrorKind, Result};
use crate::mmap::Mapping;
use crate::tensor::{DType, Tensor, try_with_room};

/// The length of the header comes first.
const PREFIX: usize = 8;
/// The header's entry that is no tensor.
const METADATA: &str = "__metadata__";
/// The format's own limit.
const MAX_HEADER: usize = 100_000_000;

/// The content of one file: tensors in the order of their bytes, and the free-form `__metadata__`.
#[derive(Debug)]
pub struct Contents {
    /// Name and tensor, or why it is not read.
    pub tensors: Vec<(String, Stored)>,
    /// The text pairs under `__metadata__`; none where there is no such key.
    pub metadata: HashMap<String, String>,
    /// The length of the header, what comes before it included.
    pub header_bytes: usize,
}

/// Whether `bytes` may be such a file: a plausible length and the `{` of the header.
pub fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.get(PREFIX) == Some(&b'{') && matches!(bytes.get(..PREFIX), Some([_, _, _, _, 0, 0, 0, 0]))
}

/// Reads the header of the file in `mapping`; no tensor is read.
///
/// # Errors
/// [`ErrorKind::Format`] when the header is too long, no JSON of the right form, names a
/// tensor twice, or its tensors overlap, leave gaps, or reach outside the file.
pub fn read(mapping: &Arc<Mapping>) -> Result<Contents> {
    read_here(mapping).map_err(|error| error.at(mapping.path()))
}

fn read_here(mapping: &Arc<Mapping>) -> Result<Contents> {
    let truncated = || Error::format("the file is too short for its header").hint(TRUNCATED_HINT);
    let prefix = mapping.head(PREFIX)?;
    let prefix = prefix.first_chunk::<PREFIX>().ok_or_else(truncated)?;
    let length = u64::from_le_bytes(*prefix);
    let length = usize::try_from(length).ok().filter(|&length| length <= MAX_HEADER).ok_or_else(|| {
        Error::format("the header is too long").expected(format_args!("at most {MAX_HEADER} bytes")).got(length)
    })?;
    let data = PREFIX + length;
    if data > mapping.len() {
        return Err(truncated());
    }
    let header = mapping.read_at(PREFIX..data)?;
    let mut header: Header =
        serde_json::from_slice(&header).map_err(|e| Error::format("the header is broken").because(e))?;
    // A file may have none.
    let metadata = header.metadata.clone().unwrap_or_default();
    // The crate checks that each begins where the one before it ends.
    header.tensors.sort_by_key(|(_, info)| info.data_offsets);
    let checked = Metadata::new(header.metadata, header.tensors)
        .map_err(|e| Error::format("the tensors' places or shapes are wrong").because(e))?;
    if checked.data_len() != mapping.len() - data {
        let error = Error::format("the tensors do not cover the file exactly")
            .expected(format_args!("{} bytes after the header", checked.data_len()))
            .got(mapping.len() - data);
        return Err(if mapping.len() - data < checked.data_len() { error.hint(TRUNCATED_HINT) } else { error });
    }
    let mut tensors = try_with_room(checked.offset_keys().len())?;
    for name in checked.offset_keys() {
        let Some(info) = checked.info(&name) else { continue };
        let tensor = dtype(info.dtype).and_then(|dtype| {
            // Both ends are at most `data_len`, which is what the file holds after the header.
            Tensor::contiguous(mapping, data + info.data_offsets.0..data + info.data_offsets.1, dtype, &info.shape)
        });
        let stored = Unread::or_stored(tensor).map_err(|error| error.tensor(&name))?;
        tensors.push((name, stored));
    }
    Ok(Contents { tensors, metadata, header_bytes: data })
}

/// The type that the format calls so: its names are ours in capital letters.
fn dtype(dtype: Dtype) -> Result<DType> {
    let name = format!("{dtype:?}");
    let known = DType::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(&name));
    known.ok_or_else(|| Error::unsupported("the elements' type is not supported").got(name))
}

/// The entry of one tensor in a header that is to be written.
#[derive(Clone, Debug)]
pub(crate) struct HeaderEntry<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    /// Its bytes, from the first after the header.
    pub(crate) bytes: Range<usize>,
}

/// The header of a file with its length before it, everything in the order in which it is given, filled with spaces so
/// that what follows begins at a multiple of `alignment`.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for two tensors of one name.
pub(crate) fn header<'a, K: Into<String>>(
    metadata: impl IntoIterator<Item = (K, String)>,
    tensors: impl IntoIterator<Item = HeaderEntry<'a>>,
    alignment: usize,
) -> Result<Vec<u8>> {
    let mut map = serde_json::Map::new();
    let metadata: serde_json::Map<_, _> = metadata.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    if !metadata.is_empty() {
        map.insert(METADATA.to_owned(), metadata.into());
    }
    for HeaderEntry { name, dtype, shape, bytes } in tensors {
        let entry = serde_json::json!({
            "dtype": dtype.name().to_ascii_uppercase(), "shape": shape, "data_offsets": [bytes.start, bytes.end],
        });
        if map.insert(name.to_owned(), entry).is_some() {
            return Err(Error::invalid("two tensors of one name").tensor(name));
        }
    }
    let mut text =
        serde_json::to_vec(&map).map_err(|e| Error::new(ErrorKind::Internal, "a header that is no JSON").because(e))?;
    text.resize((PREFIX + text.len()).next_multiple_of(alignment) - PREFIX, b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    Ok(bytes)
}

/// The header as it stands. A map would let a second entry of one name replace the first in silence.
struct Header {
    metadata: Option<HashMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header { metadata: None, tensors: Vec::new() };
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("two tensors are named `{name}`")));
                    }
                    if name == METADATA {
                        header.metadata = Some(map.next_value()?);
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}
