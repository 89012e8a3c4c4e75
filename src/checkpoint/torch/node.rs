//! A cursor over the pickled object.

use super::super::pickle::{NodeId, Object, PickleNode};
use super::archive::Archive;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Classes whose objects are dicts: `collections.OrderedDict`, and `dict` itself where a pickle calls it.
const DICTS: [(&str, &str); 4] =
    [("collections", "OrderedDict"), ("collections", "defaultdict"), ("builtins", "dict"), ("__builtin__", "dict")];

/// An object of a pickle. Copying it costs nothing.
///
/// A pickle may hold cycles: code that follows nodes downwards must stop at some depth of its own.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    archive: &'a Archive,
    id: NodeId,
}

impl Archive {
    /// The pickled object.
    pub fn root(&self) -> Node<'_> {
        Node::new(self, self.pickle.root())
    }
}

impl<'a> Node<'a> {
    pub(super) fn new(archive: &'a Archive, id: NodeId) -> Self {
        Self { archive, id }
    }

    fn value(self) -> &'a PickleNode {
        self.archive.pickle.value(self.id)
    }

    fn at(self, id: NodeId) -> Self {
        Self { id, ..self }
    }

    /// The value of a dict's key, or of an object's attribute. Where a key was set twice, the later value, as in
    /// Python.
    ///
    /// Looks at every key in turn: for more than a few names of a large dict, walk [`Node::entries`] once instead.
    pub fn get(self, key: &str) -> Option<Node<'a>> {
        self.entries().filter(|(name, _)| name.as_str() == Some(key)).last().map(|(_, value)| value)
    }

    /// The pairs of a dict, or the names and values of an object's attributes. Nothing for what has none.
    pub fn entries(self) -> impl Iterator<Item = (Node<'a>, Node<'a>)> {
        let [first, second] = self.pairs();
        first.iter().chain(second).map(move |&(key, value)| (self.at(key), self.at(value)))
    }

    fn pairs(self) -> [&'a [(NodeId, NodeId)]; 2] {
        match self.value() {
            PickleNode::Dict(entries) => [entries, &[]],
            PickleNode::Object(object) if self.is_dict() => [&object.entries, &[]],
            PickleNode::Object(object) => self.attributes(object),
            _ => [&[], &[]],
        }
    }

    /// An object's state: a dict, or a pair of dicts where the class has slots.
    fn attributes(self, object: &Object) -> [&'a [(NodeId, NodeId)]; 2] {
        let dict = |id: NodeId| match self.archive.pickle.value(id) {
            PickleNode::Dict(entries) => entries.as_slice(),
            _ => &[],
        };
        match object.state {
            Some(state) => match self.archive.pickle.tuple(state) {
                Some(&[attributes, slots]) => [dict(attributes), dict(slots)],
                _ => [dict(state), &[]],
            },
            None => [&[], &[]],
        }
    }

    /// The items of a list, tuple, set or `torch.Size`. Nothing for what has none.
    pub fn items(self) -> impl Iterator<Item = Node<'a>> {
        self.children().iter().map(move |&id| self.at(id))
    }

    fn children(self) -> &'a [NodeId] {
        match self.value() {
            PickleNode::List(items) | PickleNode::Tuple(items) | PickleNode::Set(items) => items,
            PickleNode::Object(object) => self.object_items(object),
            _ => &[],
        }
    }

    /// The cost of looking at all of its entries and items.
    pub(super) fn width(self) -> usize {
        let [first, second] = self.pairs();
        first.len() + second.len() + self.children().len()
    }

    /// `torch.Size` and the sets of protocol 2 are calls with their items as the one argument.
    fn object_items(self, object: &'a Object) -> &'a [NodeId] {
        let pickle = &self.archive.pickle;
        let wraps = matches!(
            pickle.global(object.class),
            Some(("torch", "Size") | ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple"))
        );
        match pickle.tuple(object.args) {
            Some(&[items]) if wraps => match pickle.value(items) {
                PickleNode::List(items) | PickleNode::Tuple(items) => items,
                _ => &[],
            },
            _ => &object.items,
        }
    }

    /// The string, where it is one.
    pub fn as_str(self) -> Option<&'a str> {
        self.archive.pickle.text(self.id)
    }

    /// The integer, where it is one of at most 64 bits.
    pub fn as_i64(self) -> Option<i64> {
        match *self.value() {
            PickleNode::Int(value) => Some(value),
            _ => None,
        }
    }

    /// The number, where it is a float or an integer.
    pub fn as_f64(self) -> Option<f64> {
        match *self.value() {
            PickleNode::Float(value) => Some(value),
            PickleNode::Int(value) => Some(value as f64),
            _ => None,
        }
    }

    /// The truth value, where it is one.
    pub fn as_bool(self) -> Option<bool> {
        match *self.value() {
            PickleNode::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// Whether it is `None`.
    pub fn is_none(self) -> bool {
        matches!(self.value(), PickleNode::None)
    }

    /// Whether it is a dict, ordered or not.
    pub fn is_dict(self) -> bool {
        match self.value() {
            PickleNode::Dict(_) => true,
            PickleNode::Object(object) => {
                self.archive.pickle.global(object.class).is_some_and(|class| DICTS.contains(&class))
            }
            _ => false,
        }
    }

    /// Whether it is a list or tuple.
    pub fn is_sequence(self) -> bool {
        matches!(self.value(), PickleNode::List(_) | PickleNode::Tuple(_))
    }

    /// Module and name of the class or function that this is, or that this is an object of.
    pub fn class_name(self) -> Option<(&'a str, &'a str)> {
        let pickle = &self.archive.pickle;
        pickle.global(pickle.object(self.id).map_or(self.id, |object| object.class))
    }

    /// The tensor, where it is one (or a parameter, which is one): a view, nothing is read.
    ///
    /// # Errors
    /// As [`Archive::tensors`].
    pub fn tensor(self) -> Result<Option<Tensor>> {
        self.tensor_here().map_err(|error| self.archive.place(error))
    }

    /// [`Node::tensor`] with an error that does not name the file yet.
    pub(super) fn tensor_here(self) -> Result<Option<Tensor>> {
        match self.value() {
            PickleNode::Object(object) => self.archive.tensor(object),
            PickleNode::Persistent(_) => Err(Error::unsupported("a bare storage, which is not a tensor")),
            _ => Ok(None),
        }
    }

    /// The class and the arguments of the call that would have made this, where it is the result of one.
    pub(super) fn call(self) -> Option<(NodeId, NodeId)> {
        self.archive.pickle.object(self.id).map(|object| (object.class, object.args))
    }

    /// The object that a reference refers to, where it is one.
    pub(super) fn persistent(self) -> Option<Node<'a>> {
        match *self.value() {
            PickleNode::Persistent(id) => Some(self.at(id)),
            _ => None,
        }
    }

    /// An integer that is a size: not negative.
    pub(super) fn extent(self) -> Result<usize> {
        let value = self.as_i64().ok_or_else(|| Error::format("a tensor's size, stride or offset is not a number"))?;
        usize::try_from(value).map_err(|_| Error::format("a tensor's size, stride or offset is negative").got(value))
    }

    /// A tuple of sizes.
    pub(super) fn extents(self) -> Result<Vec<usize>> {
        const MAX_DIMENSIONS: usize = 64; // PyTorch's own limit.
        let extents: Vec<_> = self.items().take(MAX_DIMENSIONS + 1).map(Node::extent).collect::<Result<_>>()?;
        match self.value() {
            PickleNode::Tuple(_) | PickleNode::List(_) | PickleNode::Object(_) if extents.len() <= MAX_DIMENSIONS => {
                Ok(extents)
            }
            _ => Err(Error::format("a tensor's size or stride is not a tuple of numbers")),
        }
    }
}

impl std::fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({:?})", self.value())
    }
}
