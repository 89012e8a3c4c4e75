//! The calls of a pickle that would have made tensors, and what wraps them: parameters, tensors with attributes,
//! subclasses of `torch.Tensor`, DTensors.

use std::ops::Range;

use super::super::pickle::{NodeId, Object, PickleNode};
use super::archive::Archive;
use super::node::Node;
use super::types;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// The most wraps around a tensor: a parameter of a subclass with attributes has three.
const MAX_WRAPS: usize = 4;

/// PyTorch keys storages by a number, and marks a tensor with at most two flags. What thousands of tensors may share
/// must be short, or a small file could cost any amount of time.
const MAX_KEY: usize = 64;
const MAX_METADATA: usize = 16;

impl Archive {
    /// The tensor that the object stands for, or `None` where it is no tensor.
    pub(super) fn tensor(&self, object: &Object) -> Result<Option<Tensor>> {
        tensor(self, object.class, object.args, MAX_WRAPS)
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata)`; the oldest form ends after
    /// the stride, and v3 puts the dtype before the metadata.
    fn rebuild(&self, function: &str, args: NodeId) -> Result<Tensor> {
        let args = self.pickle.tuple(args).unwrap_or(&[]);
        let (&[storage, offset, size, stride], rest) =
            args.split_first_chunk::<4>().ok_or_else(|| Error::format("a tensor has too few arguments"))?;
        let rest = rest.get(2..).unwrap_or(&[]);
        let (dtype, metadata) = match (function, rest) {
            ("_rebuild_tensor_v3", [dtype, rest @ ..]) => (Some(types::dtype(Node::new(self, *dtype))?), rest.first()),
            ("_rebuild_tensor_v3", []) => return Err(Error::format("a tensor has no dtype")),
            (_, rest) => (None, rest.first()),
        };
        if let Some(&metadata) = metadata {
            let metadata = Node::new(self, metadata);
            if metadata.width() > MAX_METADATA {
                return Err(Error::format("a tensor has too much metadata").got(metadata.width()));
            }
            for flag in ["neg", "conj"] {
                if metadata.get(flag).and_then(|value| value.as_bool()) == Some(true) {
                    return Err(Error::unsupported(format!("a lazily transformed tensor ({flag})"))
                        .hint("Call resolve_neg() or resolve_conj() and save it again"));
                }
            }
        }
        let (range, stored) = self.storage(Node::new(self, storage))?;
        let dtype = dtype
            .or(stored)
            .ok_or_else(|| Error::format("a tensor over an untyped storage does not say its own dtype"))?;
        let offset = Node::new(self, offset).extent()?;
        let (size, stride) = (Node::new(self, size).extents()?, Node::new(self, stride).extents()?);
        Tensor::strided(&self.mapping, range, dtype, offset, &size, &stride)
    }

    /// The bytes and type of `('storage', class, key, location, numel)`. The location, such as `cuda:0`, is where the
    /// tensor lived; it says nothing about the file.
    fn storage(&self, node: Node<'_>) -> Result<(Range<usize>, Option<DType>)> {
        let broken = || Error::format("a tensor's storage cannot be read");
        let id = node.persistent().ok_or_else(broken)?;
        let fields: Vec<_> = id.items().take(5).collect();
        let &[kind, class, key, _location, numel] = fields.as_slice() else { return Err(broken()) };
        if kind.as_str() != Some("storage") {
            return Err(broken());
        }
        let key = key.as_str().filter(|key| key.len() <= MAX_KEY).ok_or_else(broken)?;
        let dtype = types::of_storage(class)?;
        let bytes = numel.extent()?.checked_mul(dtype.map_or(1, DType::size));
        let range = self.directory.range(&self.mapping, &format!("{}data/{key}", self.folder))?;
        if Some(range.len()) != bytes {
            return Err(Error::format(format!("storage `{key}` has another size than the pickle says"))
                .expected(bytes.map_or("more than memory holds".into(), |bytes| format!("{bytes} bytes")))
                .got(range.len()));
        }
        Ok((range, dtype))
    }
}

/// The tensor that calling `function` with the tuple `args` would make, or `None` where it makes no tensor.
fn tensor(archive: &Archive, function: NodeId, args: NodeId, wraps: usize) -> Result<Option<Tensor>> {
    let pickle = &archive.pickle;
    let Some((module, name)) = pickle.global(function) else { return Ok(None) };
    let items = pickle.tuple(args).unwrap_or(&[]);
    match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor" | "_rebuild_tensor_v3") => {
            archive.rebuild(name, args).map(Some)
        }
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            let broken = || Error::format("a parameter holds no tensor");
            let inner = items.first().and_then(|&id| pickle.object(id)).ok_or_else(broken)?;
            let wraps = wraps.checked_sub(1).ok_or_else(broken)?;
            tensor(archive, inner.class, inner.args, wraps)?.ok_or_else(broken).map(Some)
        }
        ("torch._tensor", "_rebuild_from_type_v2" | "_rebuild_from_type") => of_type(archive, items, wraps).map(Some),
        _ => {
            // The storage is the first argument of every known function; a shared, endless tuple is not searched.
            let storage = items.iter().take(8).any(|&arg| matches!(pickle.value(arg), PickleNode::Persistent(_)));
            if storage || name.starts_with("_rebuild") {
                return Err(unsupported(module, name));
            }
            Ok(None)
        }
    }
}

/// `_rebuild_from_type_v2(function, type, args, state)`: what the function makes, as an object of the type with these
/// attributes. The elements are the function's.
fn of_type(archive: &Archive, items: &[NodeId], wraps: usize) -> Result<Tensor> {
    let broken = || Error::format("a tensor of a subclass cannot be read");
    let &[function, class, args, state] = items else {
        return Err(unsupported("torch._tensor", "_rebuild_from_type_v2"));
    };
    let wraps = wraps.checked_sub(1).ok_or_else(broken)?;
    if archive.pickle.global(function) == Some(("torch._utils", "_rebuild_wrapper_subclass")) {
        let Some((module, name)) = archive.pickle.global(class) else { return Err(broken()) };
        return match name {
            "DTensor" => dtensor(archive, args, state, wraps),
            _ => Err(unsupported(module, name)),
        };
    }
    tensor(archive, function, args, wraps)?.ok_or_else(broken)
}

/// A DTensor whose local tensor is all of it: `args` are `(class, dtype, size, …)`, `state` holds `_local_tensor` and
/// how it is placed on the processes.
fn dtensor(archive: &Archive, args: NodeId, state: NodeId, wraps: usize) -> Result<Tensor> {
    let broken = || Error::format("a DTensor cannot be read");
    let part = |expected: String, got: String| {
        Error::unsupported("a DTensor of which this file holds one process's part").expected(expected).got(got).hint(
            "Save its full_tensor(); a folder of .distcp files becomes one file by `python -m \
                   torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt`",
        )
    };
    let size = archive.pickle.tuple(args).and_then(|args| args.get(2)).ok_or_else(broken)?;
    let size = Node::new(archive, *size).extents()?;
    let state = Node::new(archive, state);
    // A class with slots gives a pair: its attributes, its slots.
    let state = if state.is_sequence() { state.items().next().ok_or_else(broken)? } else { state };
    let placements = state.get("_spec").and_then(|spec| spec.get("placements")).ok_or_else(broken)?;
    // A sum that is still to be made has the whole's shape.
    let sums = |node: Node<'_>| node.class_name().is_some_and(|(_, name)| name.trim_start_matches('_') == "Partial");
    if placements.items().take(8).any(sums) {
        return Err(part("the whole tensor".into(), "one process's summand".into()));
    }
    let local = state.get("_local_tensor").and_then(|local| local.call()).ok_or_else(broken)?;
    let local = tensor(archive, local.0, local.1, wraps)?.ok_or_else(broken)?;
    if local.shape() != size {
        return Err(part(format!("{size:?}"), format!("{:?}", local.shape())));
    }
    Ok(local)
}

/// The error for a tensor that `function` would have made, with what makes a dense one of it.
fn unsupported(module: &str, function: &str) -> Error {
    let hint = match function {
        name if name.contains("sparse") => "Convert it with to_dense() and save it again",
        name if name.contains("qtensor") || name.contains("Quantized") => {
            "Convert it with dequantize() and save it again"
        }
        name if name.contains("meta") => "It was saved without its data (device meta): load the weights first",
        name if name.contains("nested") => "Convert it with to_padded_tensor() and save it again",
        _ => "Convert it (dequantize, to_dense, detach) and save it again",
    };
    Error::unsupported(format!("a tensor of a kind that is not supported: {module}.{function}"))
        .expected("a dense tensor of numbers")
        .hint(hint)
}
