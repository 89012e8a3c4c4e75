//! The one writer of .onnx models: built graphs, graphs whose weights come from elsewhere, exports, and users' graphs
//! with other weights in them.
//!
//! Weights go to the disk as they stand in memory: no second copy of them is made. What one message of protocol buffers
//! cannot hold (2 GiB and more) goes to a file of its own beside the model, as the ONNX format foresees.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::byte_chain::{ByteChain, MAX_MESSAGE_BYTES};
use super::types::{TensorType, element_size};
use crate::atomic_file::{replace_file, unwritten};
use crate::error::{Error, Result};
use crate::tensor::WRITE_BUFFER;

/// The file that constants without values claim to be in. It is never opened: what makes a session supplies the values.
const PLACEHOLDERS: &str = "taskbasis.weights";
/// The bytes of a model's name that the file of its values is called by.
const LONGEST_STEM: usize = 240;

/// An extent as graphs have it. What is checked before bounds every one far below `i64::MAX`.
pub(crate) fn int(extent: usize) -> i64 {
    i64::try_from(extent).unwrap_or(i64::MAX)
}

/// A parameter of an operator: its name and value.
#[derive(Clone)]
pub(crate) enum Attribute {
    Float(&'static str, f32),
    Int(&'static str, i64),
    Ints(&'static str, Vec<i64>),
}

impl Attribute {
    fn message(&self) -> ByteChain<'static> {
        let mut message = ByteChain::default();
        let (name, kind) = match self {
            Self::Float(name, value) => {
                message.float(2, *value);
                (name, 1)
            }
            Self::Int(name, value) => {
                message.integer(3, *value);
                (name, 2)
            }
            Self::Ints(name, values) => {
                values.iter().for_each(|value| message.integer(8, *value));
                (name, 7)
            }
        };
        message.text(1, name);
        message.integer(20, kind);
        message
    }
}

/// An extent of an input or output.
pub(crate) enum Extent {
    Fixed(usize),
    /// Known only in a run; equal names are equal extents.
    Named(&'static str),
}

/// One application of an operator.
pub(crate) struct Operator<'n> {
    /// The node's own name, for people and error messages.
    pub(crate) name: &'n str,
    /// Empty for ONNX's own.
    pub(crate) domain: &'n str,
    pub(crate) op: &'n str,
    pub(crate) inputs: &'n [&'n str],
    pub(crate) outputs: &'n [&'n str],
    pub(crate) attributes: &'n [Attribute],
}

/// The values of a constant.
#[derive(Clone, Copy)]
pub(crate) enum ConstantValues<'a> {
    /// Here, as bytes of its type.
    Bytes(&'a [u8]),
    /// Here, to be rounded to f16 on the way.
    Halves(&'a [f32]),
    /// Nowhere: what makes a session supplies them.
    Elsewhere,
}

/// A model that is being written. Fields of a message may come in any order, so each goes to the end.
#[derive(Default)]
pub(crate) struct ModelWriter<'a> {
    /// The model's fields but its graph.
    pub(super) around: ByteChain<'a>,
    /// The graph's fields but the constants below.
    pub(super) graph: ByteChain<'a>,
    /// The constants whose values may go to a second file.
    constants: Vec<WrittenConstant<'a>>,
}

struct WrittenConstant<'a> {
    /// The constant's fields but the values.
    head: ByteChain<'a>,
    /// The bytes of the constant's values; `None` where they are elsewhere.
    values: Option<ByteChain<'a>>,
    /// The bytes that the values take.
    length: usize,
}

impl<'a> ModelWriter<'a> {
    /// A model of the graph called `name`, of operators of these sets: a domain and its version each.
    pub(crate) fn new(name: &str, ir_version: i64, operator_sets: &[(&str, i64)]) -> Self {
        let mut writer = Self::default();
        writer.around.integer(1, ir_version);
        writer.around.text(2, env!("CARGO_PKG_NAME"));
        writer.around.text(3, env!("CARGO_PKG_VERSION"));
        for (domain, version) in operator_sets {
            writer.operator_set(domain, *version);
        }
        writer.graph.text(2, name);
        writer
    }

    /// A set of operators that nodes are of.
    pub(super) fn operator_set(&mut self, domain: &str, version: i64) {
        let mut set = ByteChain::default();
        set.text(1, domain);
        set.integer(2, version);
        self.around.message(8, set);
    }

    /// Appends a node. Nodes stand in an order in which they can be computed.
    pub(crate) fn node(&mut self, node: &Operator<'_>) {
        let mut message = ByteChain::default();
        node.inputs.iter().for_each(|name| message.text(1, name));
        node.outputs.iter().for_each(|name| message.text(2, name));
        message.text(3, node.name);
        message.text(4, node.op);
        node.attributes.iter().for_each(|attribute| message.message(5, attribute.message()));
        if !node.domain.is_empty() {
            message.text(7, node.domain);
        }
        self.graph.message(1, message);
    }

    pub(crate) fn input(&mut self, name: &str, data_type: TensorType, shape: &[Extent]) {
        self.graph.message(11, value_info(name, data_type, shape));
    }

    pub(crate) fn output(&mut self, name: &str, data_type: TensorType, shape: &[Extent]) {
        self.graph.message(12, value_info(name, data_type, shape));
    }

    /// A small tensor of integers that is part of the graph: a shape, an index.
    pub(crate) fn integers(&mut self, name: &str, shape: &[usize], values: &[i64]) {
        let (mut tensor, mut bytes) = (tensor_head(name, TensorType::Int64, shape), ByteChain::default());
        values.iter().for_each(|value| bytes.own(&value.to_le_bytes()));
        tensor.message(9, bytes);
        self.graph.message(5, tensor);
    }

    /// A small tensor of f32 that is part of the graph: a table.
    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let (mut tensor, mut bytes) = (tensor_head(name, TensorType::Float, shape), ByteChain::default());
        values.iter().for_each(|value| bytes.own(&value.to_le_bytes()));
        tensor.message(9, bytes);
        self.graph.message(5, tensor);
    }

    /// A tensor that is part of the graph.
    pub(crate) fn constant(&mut self, name: &str, data_type: TensorType, shape: &[usize], values: ConstantValues<'a>) {
        let head = tensor_head(name, data_type, shape);
        match values {
            ConstantValues::Elsewhere => {
                let length = shape.iter().product::<usize>() * element_size(data_type as i32);
                self.constants.push(WrittenConstant { head, values: None, length });
            }
            ConstantValues::Bytes(bytes) => self.constant_of(head, bytes),
            ConstantValues::Halves(floats) => {
                let mut values = ByteChain::default();
                values.halves(floats);
                self.constants.push(WrittenConstant { head, length: values.len(), values: Some(values) });
            }
        }
    }

    /// A tensor whose fields but the values are `head`.
    pub(super) fn constant_of(&mut self, head: ByteChain<'a>, bytes: &'a [u8]) {
        let mut values = ByteChain::default();
        values.borrow(bytes);
        self.constants.push(WrittenConstant { head, length: bytes.len(), values: Some(values) });
    }

    /// The model in memory, with all of its values inside.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for 2 GiB and more;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn to_vec(&self) -> Result<Vec<u8>> {
        self.assembled(None).to_vec()
    }

    /// Writes the model as a file, which is replaced whole or not at all; none of `inputs` is overwritten
    /// ([`replace_file`]). Where it would take 2 GiB or more, the values of its constants go into a file beside it,
    /// called like it and after their checksum: a file of other weights never takes the place of the one that an older
    /// `path` names.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for an output that is an input, or a name of
    /// the second file that is not text; [`ErrorKind::Io`](crate::ErrorKind::Io);
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where what remains takes 2 GiB.
    pub(super) fn write(&self, path: &Path, inputs: &[&Path]) -> Result<()> {
        self.write_within(MAX_MESSAGE_BYTES, path, inputs)
    }

    fn write_within(&self, longest: usize, path: &Path, inputs: &[&Path]) -> Result<()> {
        let whole = self.assembled(None);
        if whole.len() <= longest {
            return replace(path, inputs, &whole);
        }
        let mut data = ByteChain::default();
        self.constants.iter().filter_map(|constant| constant.values.clone()).for_each(|values| data.append(values));
        let mut checksum = crc32fast::Hasher::new();
        let counted = data.for_each(|bytes| {
            checksum.update(bytes);
            Ok(())
        });
        counted.map_err(|e| Error::io("cannot write", path, e))?;
        let name = path.file_name().and_then(OsStr::to_str).ok_or_else(|| {
            Error::invalid("weights of this size go into a second file, whose name must be text").at(path)
        })?;
        // As much of the name as leaves room for the rest: names have 255 bytes at most.
        let stem = &name[..name.floor_char_boundary(LONGEST_STEM)];
        let name = format!("{stem}.{:08x}.data", checksum.finalize());
        let model = self.assembled(Some(&name));
        model.check_length().map_err(|e| e.at(path))?;
        // The data first: a model that is there names data that is there.
        replace(&path.with_file_name(&name), inputs, &data)?;
        replace(path, inputs, &model)
    }

    /// The message, with the values of the constants in it or in the file that `beside` names.
    fn assembled(&self, beside: Option<&str>) -> ByteChain<'a> {
        let (mut model, mut graph, mut offset) = (self.around.clone(), self.graph.clone(), 0);
        for constant in &self.constants {
            let mut tensor = constant.head.clone();
            match (&constant.values, beside) {
                (Some(values), None) => tensor.message(9, values.clone()),
                (_, beside) => {
                    let place = [
                        ("location", beside.unwrap_or(PLACEHOLDERS).to_owned()),
                        ("offset", offset.to_string()),
                        ("length", constant.length.to_string()),
                    ];
                    for (key, value) in place {
                        let mut entry = ByteChain::default();
                        entry.text(1, key);
                        entry.text(2, &value);
                        tensor.message(13, entry);
                    }
                    tensor.integer(14, 1);
                    offset += constant.length;
                }
            }
            graph.message(5, tensor);
        }
        model.message(7, graph);
        model
    }
}

/// The fields of a constant but its values.
fn tensor_head(name: &str, data_type: TensorType, shape: &[usize]) -> ByteChain<'static> {
    let mut head = ByteChain::default();
    shape.iter().for_each(|&extent| head.integer(1, extent as i64));
    head.integer(2, data_type as i64);
    head.text(8, name);
    head
}

fn value_info(name: &str, data_type: TensorType, extents: &[Extent]) -> ByteChain<'static> {
    let mut shape = ByteChain::default();
    for extent in extents {
        let mut dimension = ByteChain::default();
        match extent {
            Extent::Fixed(extent) => dimension.integer(1, *extent as i64),
            Extent::Named(name) => dimension.text(2, name),
        }
        shape.message(1, dimension);
    }
    let (mut tensor, mut of_type, mut info) = (ByteChain::default(), ByteChain::default(), ByteChain::default());
    tensor.integer(1, data_type as i64);
    tensor.message(2, shape);
    of_type.message(1, tensor);
    info.text(1, name);
    info.message(2, of_type);
    info
}

fn replace(path: &Path, inputs: &[&Path], content: &ByteChain<'_>) -> Result<()> {
    replace_file(path, inputs, |sibling| {
        let written = File::create(sibling).and_then(|file| {
            let mut file = BufWriter::with_capacity(WRITE_BUFFER, file);
            content.for_each(|bytes| file.write_all(bytes))?;
            file.flush()
        });
        written.map_err(|e| unwritten("cannot write", path, Some(content.len() as u64), e))
    })
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::ErrorKind;
    use crate::onnx::OnnxFile;
    use crate::tensor::f32_bytes;

    /// The sum of all constants, which are called after their numbers.
    fn model<'a>(constants: &[ConstantValues<'a>], data_type: TensorType) -> ModelWriter<'a> {
        let mut writer = ModelWriter::new("sum", 8, &[("", 17)]);
        let names: Vec<String> = (0..constants.len()).map(|i| i.to_string()).collect();
        let inputs: Vec<&str> = names.iter().map(String::as_str).chain(["x"]).collect();
        let attributes = [Attribute::Ints("unused", vec![1, -2]), Attribute::Float("a", 0.5), Attribute::Int("b", 1)];
        let attributes = &attributes;
        let (inputs, outputs) = (&inputs, &["y"]);
        writer.node(&Operator { name: "all", domain: "", op: "Sum", inputs, outputs, attributes });
        writer.input("x", data_type, &[Extent::Named("n"), Extent::Fixed(3)]);
        writer.output("y", data_type, &[Extent::Named("n"), Extent::Fixed(3)]);
        for (name, values) in names.iter().zip(constants) {
            writer.constant(name, data_type, &[2, 3], *values);
        }
        writer
    }

    fn floats(i: usize) -> Vec<f32> {
        (0..6).map(|j| (10 * i + j) as f32 / 3.0).collect()
    }

    #[test]
    fn values_are_inside_or_beside_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.onnx");
        let mut values = [floats(0), floats(1), floats(2)];
        for (longest, data_type, files) in [
            (MAX_MESSAGE_BYTES, TensorType::Float, 1),
            (100, TensorType::Float, 2),
            (MAX_MESSAGE_BYTES, TensorType::Float16, 2),
            (100, TensorType::Float16, 3),
            // Other weights: another file, and the first one stays as it was.
            (100, TensorType::Float, 4),
        ] {
            values[0][0] += f32::from(u8::from(files == 4));
            let given = |v| match data_type {
                TensorType::Float => ConstantValues::Bytes(f32_bytes(v)),
                _ => ConstantValues::Halves(v),
            };
            let constants: Vec<_> = values.iter().map(|v| given(v)).collect();
            model(&constants, data_type).write_within(longest, &path, &[]).unwrap();
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), files);
            let read = OnnxFile::open(&path).unwrap();
            assert_eq!((read.inputs()[0].name.as_str(), read.outputs()[0].name.as_str()), ("x", "y"));
            assert_eq!(read.inputs()[0].shape.as_deref(), Some(&[None, Some(3)][..]));
            assert_eq!(read.nodes[0].inputs, ["0", "1", "2", "x"]);
            for (constant, values) in read.constants.iter().zip(&values) {
                assert_eq!((constant.external.is_some(), &constant.shape[..]), (longest == 100, &[2, 3][..]));
                let rounded: Vec<f32> = values.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
                let expected = if data_type == TensorType::Float { values } else { &rounded };
                assert_eq!(&constant.tensor.as_ref().unwrap().to_f32().unwrap()[..], &expected[..]);
            }
        }
    }

    /// A name that is as long as names may be leaves no room for a longer one beside it.
    #[test]
    fn the_second_file_of_a_long_name_has_a_shorter_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("{}.onnx", "é".repeat(125)));
        let values = floats(0);
        let writer = model(&[ConstantValues::Bytes(f32_bytes(&values))], TensorType::Float);
        writer.write_within(20, &path, &[]).unwrap();
        let read = OnnxFile::open(&path).unwrap();
        assert_eq!(&read.constants[0].tensor.as_ref().unwrap().to_f32().unwrap()[..], &values[..]);
    }

    #[test]
    fn placeholders_follow_each_other_in_a_file_that_is_not_there() {
        let bytes = model(&[ConstantValues::Elsewhere; 2], TensorType::Float).to_vec().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches(PLACEHOLDERS).count(), 2);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.onnx");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(OnnxFile::open(&path).unwrap_err().kind(), ErrorKind::Io);
        let values: Vec<f32> = floats(0).into_iter().chain(floats(1)).collect();
        std::fs::write(folder.path().join(PLACEHOLDERS), f32_bytes(&values)).unwrap();
        let read = OnnxFile::open(&path).unwrap();
        for (i, constant) in read.constants.iter().enumerate() {
            assert_eq!(&constant.tensor.as_ref().unwrap().to_f32().unwrap()[..], &floats(i)[..]);
        }
    }

    #[test]
    fn an_input_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.onnx");
        std::fs::write(&path, "precious").unwrap();
        let error = model(&[], TensorType::Float).write(&path, &[&path]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
