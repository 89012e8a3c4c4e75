//! Constants of a graph: where a `TensorProto` keeps its values, found without copying them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::sniff;
use super::types::{TensorType, element_size, float_dtype};
use super::wire::{Field, FieldValue, fields, last};
use crate::checkpoint::sniff::is_lfs_pointer;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::{Tensor, checked_numel};

/// A tensor that is part of the model.
#[derive(Clone, Debug)]
pub(super) struct Constant {
    /// The name of the value.
    pub(super) name: String,
    /// The extents.
    pub(super) shape: Vec<usize>,
    /// The type of the elements, a [`TensorType`].
    pub(super) data_type: i32,
    /// The constant's values, where they are floats.
    pub(super) tensor: Option<Tensor>,
    /// The values' bytes, where they are in another file.
    pub(super) external: Option<(Arc<Mapping>, Range<usize>)>,
    /// The constant's message in the file.
    pub(super) message: Range<usize>,
}

/// The files beside a model that hold values of its constants; each is mapped once.
pub(super) struct ExternalFiles {
    folder: Option<PathBuf>,
    mode: MapMode,
    open: HashMap<String, Arc<Mapping>>,
}

impl ExternalFiles {
    /// The files beside `model`, or none for a model that is in no folder.
    pub(super) fn beside(model: Option<&Path>, mode: MapMode) -> Self {
        let folder = model.map(|path| match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
            _ => PathBuf::from("."),
        });
        Self { folder, mode, open: HashMap::new() }
    }

    /// The file that a model calls `location`. Only names inside the model's folder are followed; a symbolic link there
    /// is the user's own doing, and caches of downloaded models consist of them.
    fn get(&mut self, location: &str) -> Result<Arc<Mapping>> {
        if let Some(mapping) = self.open.get(location) {
            return Ok(Arc::clone(mapping));
        }
        let inside = |path: &Path| {
            let mut parts = path.components().peekable();
            parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        };
        // A backslash separates on other systems, and is in no honest name.
        if location.contains(['\\', '\0']) || !inside(Path::new(location)) {
            return Err(Error::format("names a file outside the model's folder").got(format_args!("`{location}`")));
        }
        let folder = self.folder.as_ref().ok_or_else(|| {
            Error::unsupported("a model in memory cannot have values in other files").got(format_args!("`{location}`"))
        })?;
        let opened = Mapping::open(folder.join(location), self.mode);
        let mapping =
            Arc::new(opened.map_err(|e| e.or_hint("Values of the model are in it: put it beside the model"))?);
        if is_lfs_pointer(&mapping.head(256)?) {
            return Err(sniff::lfs_pointer().at(mapping.path()));
        }
        self.open.insert(location.to_owned(), Arc::clone(&mapping));
        Ok(mapping)
    }

    /// All that were opened.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.open.values().map(|mapping| mapping.path())
    }
}

/// The places where the values of a tensor may be, as the fields come.
#[derive(Default)]
struct TensorFields {
    raw: Option<Range<usize>>,
    /// Packed `float_data` or `double_data`: pieces of the file.
    packed: Vec<Range<usize>>,
    /// Numbers that are not packed, or `int32_data` of half floats: copied.
    bytes: Vec<u8>,
    external: Vec<(String, String)>,
    is_external: bool,
}

/// Reads the `TensorProto` that fills `message`.
///
/// # Errors
/// [`ErrorKind::Format`](crate::ErrorKind::Format) where values and shape disagree or lie outside their file;
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where another file cannot be opened.
pub(super) fn read(file: &Arc<Mapping>, message: Range<usize>, others: &mut ExternalFiles) -> Result<Constant> {
    let mut constant = Constant {
        name: String::new(),
        shape: Vec::new(),
        data_type: 0,
        tensor: None,
        external: None,
        message: message.clone(),
    };
    let mut values = TensorFields::default();
    for field in fields(file, message.clone()) {
        let field = field?;
        match field.number {
            1 => field.integers(file, |extent| {
                let extent = usize::try_from(extent).map_err(|_| Error::format("a negative extent").got(extent))?;
                if constant.shape.len() == MAX_RANK {
                    return Err(Error::format("too many dimensions").expected(format_args!("at most {MAX_RANK}")));
                }
                constant.shape.push(extent);
                Ok(())
            })?,
            2 => constant.data_type = i32::try_from(field.integer()?).unwrap_or(0),
            8 => constant.name = field.text(file)?,
            _ => values.take(file, &field)?,
        }
    }
    let tensor = constant.find_values(file, values, others);
    constant.tensor = tensor.map_err(|error| error.at(file.path()).tensor(&constant.name))?;
    Ok(constant)
}

/// The rank of a tensor is small; a file that says otherwise wants to waste time.
const MAX_RANK: usize = 64;

impl TensorFields {
    fn take(&mut self, file: &[u8], field: &Field) -> Result<()> {
        match (field.number, &field.value) {
            (4 | 10, FieldValue::Bytes(range)) => self.packed.push(range.clone()),
            (4, FieldValue::Fixed32(value)) => self.bytes.extend(value),
            (10, FieldValue::Fixed64(value)) => self.bytes.extend(value),
            // Half floats are kept as the numbers that their bits make. Four bytes of memory at most for one of the
            // file.
            (5, _) => field.integers(file, |value| {
                self.bytes.extend((value as u16).to_le_bytes());
                Ok(())
            })?,
            (9, _) => self.raw = Some(field.range()?),
            (13, _) => {
                let text = |number| {
                    let text = last(file, field.range()?, &[number])?;
                    text.map_or(Ok(String::new()), |text| text.text(file))
                };
                self.external.push((text(1)?, text(2)?));
            }
            (14, FieldValue::Varint(location)) => self.is_external = *location == 1,
            _ => {}
        }
        Ok(())
    }
}

impl Constant {
    /// The number of elements.
    pub(super) fn numel(&self) -> usize {
        checked_numel(&self.shape).unwrap_or(usize::MAX)
    }

    /// Whether its elements are integers of a kind that shapes and places are said in, or truth values: no weights.
    pub(super) fn is_indices(&self) -> bool {
        let data_type = TensorType::of(self.data_type);
        matches!(data_type, Some(TensorType::Int64 | TensorType::Int32 | TensorType::Bool | TensorType::String))
    }

    /// Whether its elements are integers of a byte or less, as quantised weights are.
    pub(super) fn is_of_few_bits(&self) -> bool {
        /// The types of four bits and of two: U4, I4, U2, I2.
        const PACKED: [i32; 4] = [21, 22, 25, 26];
        /// E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ; E2M1.
        const FLOATS: [i32; 5] = [17, 18, 19, 20, 23];
        matches!(TensorType::of(self.data_type), Some(TensorType::Int8 | TensorType::Uint8))
            || PACKED.contains(&self.data_type)
            || FLOATS.contains(&self.data_type)
    }

    fn find_values(
        &mut self,
        file: &Arc<Mapping>,
        values: TensorFields,
        others: &mut ExternalFiles,
    ) -> Result<Option<Tensor>> {
        let size = element_size(self.data_type);
        let length = checked_numel(&self.shape).and_then(|numel| numel.checked_mul(size));
        let length =
            length.ok_or_else(|| Error::format("its shape overflows").got(format_args!("{:?}", self.shape)))?;
        if values.is_external {
            if size == 0 {
                return Err(Error::unsupported("values in another file of a type that is no number"));
            }
            let (mapping, range) = external(&values.external, length, others)?;
            self.external = Some((Arc::clone(&mapping), range.clone()));
            return self.view(&mapping, range);
        }
        if float_dtype(self.data_type).is_none() {
            return Ok(None);
        }
        match (values.raw, &*values.packed, values.bytes.is_empty()) {
            (Some(raw), [], true) => self.view(file, raw),
            (None, [one], true) => self.view(file, one.clone()),
            (None, pieces, _) => {
                let total = pieces.iter().map(Range::len).sum::<usize>() + values.bytes.len();
                if total != length {
                    return Err(wrong_length(length, total));
                }
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(total).map_err(|_| Error::out_of_memory(total))?;
                pieces.iter().for_each(|piece| bytes.extend_from_slice(&file[piece.clone()]));
                bytes.extend_from_slice(&values.bytes);
                self.view(&Arc::new(Mapping::from_vec(bytes, file.path())), 0..total)
            }
            _ => Err(Error::format("its values are given in two ways")),
        }
    }

    fn view(&self, mapping: &Arc<Mapping>, range: Range<usize>) -> Result<Option<Tensor>> {
        let Some(dtype) = float_dtype(self.data_type) else { return Ok(None) };
        Tensor::contiguous(mapping, range, dtype, &self.shape).map(Some)
    }
}

/// The place in another file that the entries name.
fn external(
    entries: &[(String, String)],
    length: usize,
    others: &mut ExternalFiles,
) -> Result<(Arc<Mapping>, Range<usize>)> {
    let get = |key: &str| entries.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
    let number = |key: &str| match get(key) {
        None => Ok(None),
        Some(text) => text.parse::<usize>().map(Some).map_err(|_| {
            Error::format("a place in another file is no number").got(format_args!("`{text}` for its {key}"))
        }),
    };
    let location = get("location").ok_or_else(|| Error::format("its values are in another file without a name"))?;
    let offset = number("offset")?.unwrap_or(0);
    let given = number("length")?;
    let mapping = others.get(location)?;
    if let Some(given) = given.filter(|given| *given != length) {
        return Err(wrong_length(length, given));
    }
    match offset.checked_add(length) {
        Some(end) if end <= mapping.len() => Ok((mapping, offset..end)),
        _ => Err(Error::format(format!("its values lie outside `{location}`"))
            .expected(format_args!("at most {} bytes", mapping.len()))
            .got(format_args!("{length} bytes from {offset} on"))),
    }
}

fn wrong_length(expected: usize, got: usize) -> Error {
    Error::format("its values do not fill its shape")
        .expected(format_args!("{expected} bytes"))
        .got(format_args!("{got} bytes"))
}
