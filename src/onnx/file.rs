//! A user's `.onnx`: what it consists of, as places in the mapped file.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::constant::{self, Constant, ExternalFiles};
pub use super::node::Port;
pub(super) use super::node::{Node, is_onnx};
use super::wire::{Field, fields, last};
use super::{halves, sniff, sorted};
use crate::checkpoint::sniff::HEAD;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::Tensor;

/// An ONNX model as a file holds it: its graph's nodes, constants, inputs and outputs. Values are not read before
/// they are asked for, and what nothing here understands stays as it is in the file.
pub struct OnnxFile {
    pub(super) mapping: Arc<Mapping>,
    /// The fields of the model but its graph, in order.
    pub(super) around: Vec<Range<usize>>,
    /// The fields of the graph that are none of those below.
    pub(super) rest: Vec<Range<usize>>,
    pub(super) nodes: Vec<Node>,
    /// The nodes' places in an order in which they can be computed.
    pub(super) order: Vec<usize>,
    pub(super) constants: Vec<Constant>,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    others: Vec<PathBuf>,
    /// Whether anything in it may be half floats.
    has_halves: bool,
    /// Whether it has functions of its own, whose constants are not looked at.
    pub(super) has_functions: bool,
}

/// The depth of subgraphs in subgraphs, at most: no model has many.
const MAX_DEPTH: usize = 16;

impl OnnxFile {
    /// Maps the file at `path` and reads what it consists of. Values in other files must be inside its folder.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when a file cannot be opened;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when it is damaged, or no ONNX model.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, MapMode::Map)
    }

    /// Opens a model, mapping its files or reading them into memory.
    ///
    /// # Errors
    /// As [`OnnxFile::open`].
    pub fn open_with(path: impl AsRef<Path>, mode: MapMode) -> Result<Self> {
        let path = path.as_ref();
        let mapping = Arc::new(Mapping::open(path, mode)?);
        let all = 0..mapping.len();
        Self::read(mapping, all, ExternalFiles::beside(Some(path), mode)).map_err(|e| e.at(path))
    }

    /// Reads a model in memory that has all of its values inside.
    ///
    /// # Errors
    /// As [`OnnxFile::open`], and [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for values in other files.
    pub fn parse(mapping: Arc<Mapping>) -> Result<Self> {
        let all = 0..mapping.len();
        Self::parse_within(mapping, all)
    }

    /// Reads a model in memory that was made of the one at `path`: its values may be in files beside that.
    pub(crate) fn parse_beside(mapping: Arc<Mapping>, path: &Path, mode: MapMode) -> Result<Self> {
        let all = 0..mapping.len();
        Self::read(mapping, all, ExternalFiles::beside(Some(path), mode)).map_err(|e| e.at(path))
    }

    /// Reads a model in memory that is the bytes `range` of something larger.
    ///
    /// # Panics
    /// When the range leaves the mapping.
    pub(crate) fn parse_within(mapping: Arc<Mapping>, range: Range<usize>) -> Result<Self> {
        let path = mapping.path().to_path_buf();
        Self::read(mapping, range, ExternalFiles::beside(None, MapMode::Map)).map_err(|e| e.at(path))
    }

    /// The version of ONNX's own operator set that the graph is written in, where it says.
    pub(super) fn opset(&self) -> Result<Option<i64>> {
        for field in &self.around {
            if let Some((domain, version)) = self.operator_set(field)?
                && is_onnx(&domain)
            {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    /// The domain and version that this field of the model imports, where it is such a field.
    pub(super) fn operator_set(&self, field: &Range<usize>) -> Result<Option<(String, i64)>> {
        let Some(field) = fields(&self.mapping, field.clone()).next().transpose()?.filter(|field| field.number == 8)
        else {
            return Ok(None);
        };
        let within = |number| last(&self.mapping, field.range()?, &[number]);
        let domain = within(1)?.map_or(Ok(String::new()), |domain| domain.text(&self.mapping))?;
        let version = within(2)?.map_or(Ok(0), |version| version.integer())?;
        Ok(Some((domain, version)))
    }

    /// Whether any node is of this domain.
    pub(super) fn has_domain(&self, domain: &str) -> bool {
        self.nodes.iter().any(|node| node.domain == domain)
    }

    fn read(mapping: Arc<Mapping>, model: Range<usize>, mut others: ExternalFiles) -> Result<Self> {
        if let Some(objection) = sniff::objection(&mapping.read_at(model.start..model.end.min(model.start + HEAD))?) {
            return Err(objection);
        }
        let (mut around, mut graph, mut has_functions) = (Vec::new(), None, false);
        for field in fields(&mapping, model) {
            let field = field?;
            match (field.number, &graph) {
                (7, None) => graph = Some(field.range()?),
                (7, Some(_)) => return Err(Error::format("the model has two graphs")),
                _ => {
                    has_functions |= field.number == 25;
                    around.push(field.whole);
                }
            }
        }
        let graph = graph.ok_or_else(|| Error::format("no graph in it").hint("Is it an ONNX model?"))?;
        let mut file = Self {
            mapping: Arc::clone(&mapping),
            around,
            rest: Vec::new(),
            nodes: Vec::new(),
            order: Vec::new(),
            constants: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            others: Vec::new(),
            has_halves: has_functions,
            has_functions,
        };
        for field in fields(&mapping, graph) {
            let field = field?;
            match field.number {
                1 => {
                    let node = file.read_node(field.range()?, &mut others)?;
                    file.nodes.push(node);
                }
                5 => file.constants.push(constant::read(&mapping, field.range()?, &mut others)?),
                11 => file.inputs.push(port(&mapping, &field)?),
                12 => file.outputs.push(port(&mapping, &field)?),
                _ => file.rest.push(field.whole),
            }
        }
        file.order = sorted::order(&file.nodes)?;
        let ports = file.inputs.iter().chain(&file.outputs).map(|port| port.data_type);
        let mut types = file.constants.iter().map(|constant| constant.data_type).chain(ports);
        file.has_halves |= types.any(|data_type| halves::is_half(data_type.into()));
        file.others = others.paths().map(Path::to_path_buf).collect();
        file.others.sort();
        Ok(file)
    }

    fn read_node(&mut self, message: Range<usize>, others: &mut ExternalFiles) -> Result<Node> {
        let mapping = Arc::clone(&self.mapping);
        let mut node = Node { message: message.clone(), ..Node::default() };
        let mut value = None;
        for field in fields(&mapping, message) {
            let field = field?;
            match field.number {
                1 => node.inputs.push(field.text(&mapping)?),
                2 => node.outputs.push(field.text(&mapping)?),
                4 => node.op = field.text(&mapping)?,
                7 => node.domain = field.text(&mapping)?,
                5 => {
                    self.has_halves |= halves::in_attribute(&mapping, field.range()?)?;
                    let attribute = attribute(&mapping, &field, MAX_DEPTH, &mut node.captured)?;
                    value = value.or(attribute.filter(|(name, _)| name == "value"));
                }
                _ => {}
            }
        }
        if let ("Constant", true, [output], Some((_, tensor))) =
            (&*node.op, is_onnx(&node.domain), &*node.outputs, value)
        {
            let constant = constant::read(&mapping, tensor, others)?;
            node.constant = Some(self.constants.len());
            // The value's name is the node's output; the tensor's own says nothing.
            self.constants.push(Constant { name: output.clone(), ..constant });
        }
        Ok(node)
    }

    /// The nodes with their places in the file, in an order in which they can be computed.
    pub(super) fn sorted(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.order.iter().map(|&i| (i, &self.nodes[i]))
    }

    /// The path that the model came from.
    pub fn path(&self) -> &Path {
        self.mapping.path()
    }

    /// Every file that it consists of: the model, and those that hold its values.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.path()).chain(self.others.iter().map(PathBuf::as_path))
    }

    /// The constants that are floats: name and values.
    pub(crate) fn floats(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.constants.iter().filter_map(|constant| Some((constant.name.as_str(), constant.tensor.as_ref()?)))
    }

    /// The inputs of a run. Models of old also list their constants here.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs of a run.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Whether anything in it may be half floats; where that cannot be known, yes.
    pub(crate) fn has_halves(&self) -> bool {
        self.has_halves
    }

    /// The number of nodes.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }
}

impl std::fmt::Debug for OnnxFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OnnxFile({}, {} nodes, {} constants)", self.path().display(), self.nodes.len(), self.constants.len())
    }
}

/// The name and the tensor of an attribute, where it has one; names that its graphs read are added to `captured`.
fn attribute(
    file: &[u8],
    field: &Field,
    depth: usize,
    captured: &mut Vec<String>,
) -> Result<Option<(String, Range<usize>)>> {
    let (mut name, mut tensor) = (String::new(), None);
    for field in fields(file, field.range()?) {
        let field = field?;
        match field.number {
            1 => name = field.text(file)?,
            5 => tensor = Some(field.range()?),
            6 | 11 => capture(file, field.range()?, depth, captured)?,
            _ => {}
        }
    }
    Ok(tensor.map(|tensor| (name, tensor)))
}

/// What a subgraph reads from outside: of what it makes itself nothing is wanted.
fn capture(file: &[u8], graph: Range<usize>, depth: usize, captured: &mut Vec<String>) -> Result<()> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Error::format("graphs are nested too deeply").expected(format_args!("at most {MAX_DEPTH} levels")));
    };
    let (mut read, mut own) = (Vec::new(), HashSet::new());
    for field in fields(file, graph) {
        let field = field?;
        match field.number {
            1 => {
                for field in fields(file, field.range()?) {
                    let field = field?;
                    match field.number {
                        1 => read.push(field.text(file)?),
                        2 => drop(own.insert(field.text(file)?)),
                        5 => drop(attribute(file, &field, depth, &mut read)?),
                        _ => {}
                    }
                }
            }
            5 => {
                let name = last(file, field.range()?, &[8])?;
                own.extend(name.map(|name| name.text(file)).transpose()?);
            }
            11 => drop(own.insert(port(file, &field)?.name)),
            // A subgraph may give back an outer value as it is.
            12 => read.push(port(file, &field)?.name),
            _ => {}
        }
    }
    captured.extend(read.into_iter().filter(|name| !name.is_empty() && !own.contains(name)));
    Ok(())
}

/// An input or output; of what is no tensor only the name.
fn port(file: &[u8], field: &Field) -> Result<Port> {
    let message = field.range()?;
    let read = || {
        let find = |path: &[u32]| last(file, message.clone(), path);
        let name = find(&[1])?.map_or(Ok(String::new()), |name| name.text(file))?;
        let data_type = find(&[2, 1, 1])?.map_or(Ok(0), |data_type| data_type.integer())?;
        let shape = find(&[2, 1, 2])?.map(|shape| {
            let dimensions = fields(file, shape.range()?);
            let dimensions = dimensions.filter(|field| field.as_ref().map_or(true, |field| field.number == 1));
            dimensions.map(|dimension| extent(file, &dimension?)).collect::<Result<Vec<_>>>()
        });
        let data_type = i32::try_from(data_type).unwrap_or(0);
        Ok(Port { name, data_type, shape: shape.transpose()?, message: message.clone() })
    };
    read().map_err(|e: Error| Error::format("an input or output of the graph is damaged").because(e))
}

/// An extent, where it is a number.
fn extent(file: &[u8], dimension: &Field) -> Result<Option<usize>> {
    let extent = last(file, dimension.range()?, &[1])?.map(|extent| extent.integer()).transpose()?;
    Ok(extent.and_then(|extent| usize::try_from(extent).ok()))
}
