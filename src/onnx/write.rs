//! A graph with its weights, as an .onnx file that any program reads.
//!
//! The weights go to the disk as they stand in memory: the file is written field by field, so no second copy of them is
//! made. What a message of protocol buffers cannot hold (2 GiB and more) goes to a file of its own beside it, as the
//! ONNX format foresees.

use std::borrow::Cow;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::proto::{AttributeProto, AttributeType, ModelProto, NodeProto, TensorProto, TensorType};
use super::stub::with_external_parameters;
use crate::atomic_file::replace_file;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{f32_bytes, u16_bytes};

/// Field numbers of the schema.
const MODEL_GRAPH: u32 = 7;
const GRAPH_INITIALIZER: u32 = 5;
const TENSOR_RAW_DATA: u32 = 9;

/// The largest message that other readers of protocol buffers take.
const LARGEST_MESSAGE: u64 = (1 << 31) - 1;

/// Values that are converted at once on their way to the disk.
const PIECE: usize = 1 << 14;

/// How a file keeps weights that the graph computes with as f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// As they are.
    F32,
    /// Rounded to f16, and cast to f32 by the graph.
    F16,
}

/// What a constant in f16 is called whose cast takes the name of the parameter.
pub(super) fn narrowed_name(name: &str) -> String {
    format!("{name}.f16")
}

/// The node that makes f32 values of a constant in f16. ONNX Runtime computes it once, when it loads the file.
pub(super) fn widening(narrowed: &str, name: &str) -> NodeProto {
    let to = AttributeProto {
        name: Some("to".into()),
        i: Some(TensorType::Float as i64),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    };
    NodeProto {
        input: vec![narrowed.into()],
        output: vec![name.into()],
        name: Some(format!("widen {name}")),
        op_type: Some("Cast".into()),
        attribute: vec![to],
        ..NodeProto::default()
    }
}

/// Refuses what f16 would make infinite: its largest value is 65,504, and halfway to the next one rounding goes up.
pub(super) fn check_range(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().find(|value| value.is_finite() && f16::from_f32(**value).is_infinite()) {
        None => Ok(()),
        Some(value) => Err(Error::unsupported("a value beyond the range of f16")
            .tensor(name)
            .expected("at most 65504, positive or negative")
            .got(value)
            .hint("Write the weights as f32 instead")),
    }
}

/// Hands out the bytes of `values` as they are stored, piece by piece.
fn pieces<E>(
    values: &[f32],
    stored: Stored,
    mut take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    if stored == Stored::F32 {
        return take(f32_bytes(values));
    }
    let mut halves = vec![f16::ZERO; PIECE.min(values.len())];
    values.chunks(PIECE).try_for_each(|piece| {
        let halves = &mut halves[..piece.len()];
        halves.convert_from_f32_slice(piece);
        take(u16_bytes(halves.reinterpret_cast()))
    })
}

/// The bytes of `values` as f16.
pub(super) fn halves(values: &[f32]) -> Result<Vec<u8>> {
    let length = values.len().saturating_mul(2);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| Error::out_of_memory(length))?;
    pieces(values, Stored::F16, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes)
}

/// The model with the inputs that `names` holds as f16, each cast to f32 first of all.
fn narrowed(model: &[u8], names: &[&str]) -> Result<Vec<u8>> {
    let defect = |what: &str| Error::new(ErrorKind::Internal, what.to_owned());
    let mut model = ModelProto::decode(model).map_err(|e| defect("a graph cannot be decoded").because(e))?;
    let graph = model.graph.as_mut().ok_or_else(|| defect("a model has no graph"))?;
    let mut nodes = Vec::with_capacity(names.len() + graph.node.len());
    for input in graph.input.iter_mut().filter(|input| names.contains(&input.name())) {
        let narrowed = narrowed_name(input.name());
        nodes.push(widening(&narrowed, input.name()));
        input.name = Some(narrowed);
        if let Some(tensor) = input.r#type.as_mut().and_then(|t| t.tensor_type.as_mut()) {
            tensor.elem_type = Some(TensorType::Float16 as i32);
        }
    }
    nodes.append(&mut graph.node);
    graph.node = nodes;
    Ok(model.encode_to_vec())
}

/// Writes `model` with those of its inputs that `parameters` names as constants of these values, kept as `stored`.
///
/// The file is replaced whole or not at all, and none of `inputs` is overwritten ([`replace_file`]). Where the weights
/// take 2 GiB or more they go into a file beside it, called like it and after their checksum: a file of other weights
/// never takes the place of the one that an older `path` names.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for an output that is an input; [`ErrorKind::Io`]; [`ErrorKind::Internal`] when a
/// parameter is no input of the graph, or its values are not of its shape; [`ErrorKind::Unsupported`], naming the
/// tensor, for values beyond the range of f16 where that is wanted.
pub(crate) fn write_with_parameters(
    model: &[u8],
    parameters: &[(&str, &[f32])],
    stored: Stored,
    path: &Path,
    inputs: &[&Path],
) -> Result<()> {
    write_within(LARGEST_MESSAGE, model, parameters, stored, path, inputs)
}

fn write_within(
    largest_message: u64,
    model: &[u8],
    parameters: &[(&str, &[f32])],
    stored: Stored,
    path: &Path,
    inputs: &[&Path],
) -> Result<()> {
    let names: Vec<&str> = parameters.iter().map(|&(name, _)| name).collect();
    let (model, stored_names) = match stored {
        Stored::F32 => (Cow::Borrowed(model), names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()),
        Stored::F16 => {
            parameters.iter().try_for_each(|(name, values)| check_range(name, values))?;
            (Cow::Owned(narrowed(model, &names)?), names.iter().map(|name| narrowed_name(name)).collect())
        }
    };
    let stub = with_external_parameters(&model, stored_names.iter().map(String::as_str))?;
    let defect = |what: &str| Error::new(ErrorKind::Internal, what.to_owned());
    let mut model = ModelProto::decode(&*stub).map_err(|e| defect("a graph cannot be decoded").because(e))?;
    let graph = model.graph.as_mut().ok_or_else(|| defect("a model has no graph"))?;
    // Constants of the graph's own stay; those without values get them, in the graph's order.
    let (own, empty): (Vec<_>, Vec<_>) =
        std::mem::take(&mut graph.initializer).into_iter().partition(|tensor| tensor.external_data.is_empty());
    graph.initializer = own;
    let constants = empty
        .into_iter()
        .map(|tensor| {
            let at = stored_names.iter().position(|name| name == tensor.name());
            let values = at.map(|at| parameters[at].1);
            let count = tensor.dims.iter().product::<i64>();
            match values.filter(|values| i64::try_from(values.len()) == Ok(count)) {
                Some(values) => Ok(Constant { tensor, values, stored }),
                None => Err(defect("a parameter's values are not of its shape")
                    .tensor(at.map_or(tensor.name(), |at| parameters[at].0))),
            }
        })
        .collect::<Result<Vec<_>>>()?;

    if Message::encoded_len(&model) as u64 + constants.iter().map(Constant::inline_len).sum::<u64>() <= largest_message
    {
        return replace(path, inputs, |file| write_inline(&model, &constants, file));
    }
    let mut checksum = crc32fast::Hasher::new();
    for constant in &constants {
        let Ok(()) = pieces(constant.values, stored, |bytes| -> std::result::Result<(), Infallible> {
            checksum.update(bytes);
            Ok(())
        });
    }
    let mut data_name = path.file_name().map_or_else(OsString::new, OsString::from);
    data_name.push(format!(".{:08x}.data", checksum.finalize()));
    let data_name = data_name.to_str().ok_or_else(|| {
        Error::invalid("weights of this size go into a second file, whose name must be text").at(path)
    })?;
    // The data first: a model that is there names data that is there.
    replace(&path.with_file_name(data_name), inputs, |file| {
        constants.iter().try_for_each(|constant| constant.write_values(file))
    })?;
    let graph = model.graph.get_or_insert_default();
    graph.initializer.extend(constants.into_iter().map(|constant| constant.at(data_name)));
    replace(path, inputs, |file| file.write_all(&model.encode_to_vec()))
}

fn replace(
    path: &Path,
    inputs: &[&Path],
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    replace_file(path, inputs, |sibling| {
        let written = File::create(sibling).and_then(|file| {
            let mut file = BufWriter::with_capacity(1 << 20, file);
            write(&mut file)?;
            file.flush()
        });
        written.map_err(|e| Error::io("cannot write", path, e))
    })
}

/// A parameter: the description with a place in a file yet to be said, and the values.
struct Constant<'a> {
    tensor: TensorProto,
    values: &'a [f32],
    stored: Stored,
}

impl Constant<'_> {
    /// The description alone: neither values nor a place of them.
    fn header(&self) -> TensorProto {
        TensorProto { external_data: Vec::new(), data_location: None, ..self.tensor.clone() }
    }

    /// Bytes of the values as they are stored.
    fn values_len(&self) -> u64 {
        size_of_val(self.values) as u64 / if self.stored == Stored::F16 { 2 } else { 1 }
    }

    fn write_values(&self, file: &mut impl Write) -> std::io::Result<()> {
        pieces(self.values, self.stored, |bytes| file.write_all(bytes))
    }

    /// Bytes of the message with the values in it.
    fn message_len(&self) -> u64 {
        self.header().encoded_len() as u64 + field_len(TENSOR_RAW_DATA, self.values_len())
    }

    /// Bytes of it as a field of the graph.
    fn inline_len(&self) -> u64 {
        field_len(GRAPH_INITIALIZER, self.message_len())
    }

    /// The description with the place in `file`.
    fn at(mut self, file: &str) -> TensorProto {
        for entry in self.tensor.external_data.iter_mut().filter(|entry| entry.key() == "location") {
            entry.value = Some(file.into());
        }
        self.tensor
    }
}

/// The model message, its graph's constants appended one by one. Fields may come in any order.
fn write_inline(model: &ModelProto, constants: &[Constant<'_>], file: &mut impl Write) -> std::io::Result<()> {
    let mut model = model.clone();
    let graph = model.graph.take().unwrap_or_default().encode_to_vec();
    file.write_all(&model.encode_to_vec())?;
    write_prefix(MODEL_GRAPH, graph.len() as u64 + constants.iter().map(Constant::inline_len).sum::<u64>(), file)?;
    file.write_all(&graph)?;
    for constant in constants {
        write_prefix(GRAPH_INITIALIZER, constant.message_len(), file)?;
        file.write_all(&constant.header().encode_to_vec())?;
        write_prefix(TENSOR_RAW_DATA, constant.values_len(), file)?;
        constant.write_values(file)?;
    }
    Ok(())
}

/// What stands before a field of `length` bytes.
fn write_prefix(field: u32, length: u64, file: &mut impl Write) -> std::io::Result<()> {
    let mut prefix = Vec::new();
    encode_key(field, WireType::LengthDelimited, &mut prefix);
    encode_varint(length, &mut prefix);
    file.write_all(&prefix)
}

/// Bytes of such a field with what stands before it.
fn field_len(field: u32, length: u64) -> u64 {
    key_len(field) as u64 + encoded_len_varint(length) as u64 + length
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tower::graph::{self, PIXELS};
    use crate::tower::{Activation, Arch};

    fn arch() -> Arch {
        let (width, heads) = (8, 1);
        let variant = crate::tower::Variant::default();
        let activation = Activation::Gelu;
        Arch { width, layers: 2, heads, mlp_width: 8, patch: 2, grid: 1, embed_dim: 4, activation, variant }
    }

    /// Every parameter of [`arch`], each with values of its own.
    fn parameters() -> Vec<(String, Vec<f32>)> {
        let all = arch().parameters().into_iter().enumerate();
        all.map(|(i, (name, shape))| {
            (name, (0..shape.iter().product::<usize>()).map(|j| (i * 1000 + j) as f32).collect())
        })
        .collect()
    }

    fn borrowed(parameters: &[(String, Vec<f32>)]) -> Vec<(&str, &[f32])> {
        parameters.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect()
    }

    #[test]
    fn weights_within_the_file_are_the_weights() {
        let folder = tempfile::tempdir().unwrap();
        let (path, parameters, model) = (folder.path().join("x.onnx"), parameters(), graph::build(&arch()).unwrap());
        write_with_parameters(&model, &borrowed(&parameters), Stored::F32, &path, &[]).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);

        let (written, built) = (fs::read(&path).unwrap(), ModelProto::decode(&*model).unwrap());
        let mut read = ModelProto::decode(&*written).unwrap();
        assert_eq!(read.encoded_len(), written.len(), "every length is as long as what follows it");
        let graph = read.graph.as_mut().unwrap();
        assert_eq!(graph.input.iter().map(|input| input.name()).collect::<Vec<_>>(), [PIXELS]);
        for (name, values) in &parameters {
            let at = graph.initializer.iter().position(|tensor| tensor.name() == name).unwrap();
            let tensor = graph.initializer.remove(at);
            assert_eq!((tensor.raw_data(), tensor.external_data.len()), (f32_bytes(values), 0), "{name}");
        }
        let expected = built.graph.unwrap();
        assert_eq!((&graph.node, &graph.initializer), (&expected.node, &expected.initializer));
        assert_eq!(read.opset_import, built.opset_import);
    }

    #[test]
    fn more_than_a_message_holds_goes_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut parameters, model) =
            (folder.path().join("x.onnx"), parameters(), graph::build(&arch()).unwrap());
        for _ in 0..2 {
            write_within(1000, &model, &borrowed(&parameters), Stored::F32, &path, &[]).unwrap();
            let graph = ModelProto::decode(&*fs::read(&path).unwrap()).unwrap().graph.unwrap();
            for (name, values) in &parameters {
                let tensor = graph.initializer.iter().find(|tensor| tensor.name() == name).unwrap();
                let entry = |key| tensor.external_data.iter().find(|entry| entry.key() == key).unwrap().value();
                let number = |key| entry(key).parse::<usize>().unwrap();
                let data = fs::read(folder.path().join(entry("location"))).unwrap();
                assert_eq!(&data[number("offset")..][..number("length")], f32_bytes(values), "{name}");
            }
            // Other weights: another file, and the first one stays as it was.
            parameters[0].1[0] += 1.0;
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
    }

    #[test]
    fn half_floats_are_cast_before_their_use() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut parameters, model) =
            (folder.path().join("x.onnx"), parameters(), graph::build(&arch()).unwrap());
        // Within the file, and beside it.
        for (largest, files) in [(LARGEST_MESSAGE, 1), (1000, 2)] {
            write_within(largest, &model, &borrowed(&parameters), Stored::F16, &path, &[]).unwrap();
            assert_eq!(fs::read_dir(&folder).unwrap().count(), files);
            let written = fs::read(&path).unwrap();
            let read = ModelProto::decode(&*written).unwrap();
            assert_eq!(read.encoded_len(), written.len(), "every length is as long as what follows it");
            let graph = read.graph.unwrap();
            for (i, (name, values)) in parameters.iter().enumerate() {
                let cast = &graph.node[i];
                assert_eq!((cast.op_type(), &*cast.output[0]), ("Cast", name.as_str()));
                let tensor = graph.initializer.iter().find(|tensor| tensor.name() == cast.input[0]).unwrap();
                let bytes = match &tensor.raw_data {
                    Some(bytes) => bytes.clone(),
                    None => {
                        let entry = |key| tensor.external_data.iter().find(|entry| entry.key() == key).unwrap().value();
                        let number = |key| entry(key).parse::<usize>().unwrap();
                        let data = fs::read(folder.path().join(entry("location"))).unwrap();
                        data[number("offset")..][..number("length")].to_vec()
                    }
                };
                let halves: Vec<u8> = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
                assert_eq!((bytes, tensor.data_type()), (halves, TensorType::Float16 as i32), "{name}");
            }
        }
        fs::remove_file(&path).unwrap();
        // 65,519 rounds down to the largest value, 65,520 up to infinity.
        let name = parameters[2].0.clone();
        let mut write = |value: f32| {
            parameters[2].1[1] = value;
            write_with_parameters(&model, &borrowed(&parameters), Stored::F16, &path, &[])
        };
        let error = write(-65520.0).unwrap_err();
        assert_eq!((error.kind(), error.tensor_name()), (ErrorKind::Unsupported, Some(name.as_str())));
        assert!(!path.exists());
        write(65519.0).unwrap();
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, parameters, model) = (folder.path().join("x.onnx"), parameters(), graph::build(&arch()).unwrap());
        let mut short = borrowed(&parameters);
        short[3].1 = &short[3].1[1..];
        assert!(
            write_with_parameters(&model, &short, Stored::F32, &path, &[])
                .unwrap_err()
                .to_string()
                .contains(short[3].0)
        );
        let stranger = [("stranger", &[0.0][..])];
        assert!(write_with_parameters(&model, &stranger, Stored::F32, &path, &[]).is_err());
        assert!(!path.exists());

        fs::write(&path, "precious").unwrap();
        assert!(write_with_parameters(&model, &borrowed(&parameters), Stored::F32, &path, &[&path]).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
