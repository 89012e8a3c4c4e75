//! Pickles read as plain data. Nothing is executed: a class or function is a pair of names, a call is a node that says
//! what would have been called with what.
//!
//! Nodes live in one arena and refer to each other by index, whatever the memo does, so memory is linear in the pickle
//! and dropping it never recurses. The nodes may share children and may form cycles, as in Python: a walk over them
//! needs a limit.

mod cursor;
mod machine;

use std::ops::Range;

/// The largest pickle that is read. Tensors lie beside it, so real ones have a few megabytes.
pub const MAX_BYTES: usize = 64 << 20;
/// The largest pickle that is read for the arrays in it.
pub const MAX_ARRAY_BYTES: usize = 1 << 30;
/// The most nodes, stack slots and memo entries of one pickle: what bounds the memory a hostile one can ask for.
pub const MAX_NODES: usize = 2 << 20;

/// The index of a node in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(u32);

/// A string: its place in the pickle's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    start: u32,
    end: u32,
}

/// Bytes: their place in the pickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

/// A node of a pickle.
#[derive(Debug)]
pub enum PickleNode {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A longer integer, whose value is not kept.
    BigInt,
    /// A float.
    Float(f64),
    /// A string.
    Text(Text),
    /// Bytes, or a Python 2 string that is not text: their place in the pickle. `None` where they are written with
    /// escapes, which no pickle of arrays does.
    Bytes(Option<Span>),
    /// A class or function, by name only.
    Global {
        /// The module's dotted name.
        module: Text,
        /// The name within the module.
        name: Text,
    },
    /// A tuple.
    Tuple(Vec<NodeId>),
    /// A list.
    List(Vec<NodeId>),
    /// A set or frozenset.
    Set(Vec<NodeId>),
    /// A dict, its pairs in the order in which they were set.
    Dict(Vec<(NodeId, NodeId)>),
    /// The result that a call would have made: an object of a class, or a function's result.
    Object(Box<Object>),
    /// A reference to something outside the pickle; PyTorch names its storages so.
    Persistent(NodeId),
}

/// A call that was not made, and what the pickle then did to its result.
#[derive(Debug)]
pub struct Object {
    /// The class or function that would have been called: nearly always a [`PickleNode::Global`].
    pub class: NodeId,
    /// The arguments: a tuple.
    pub args: NodeId,
    /// The argument that `__setstate__` would have been given: nearly always the dict of the object's attributes.
    pub state: Option<NodeId>,
    /// The items that were appended or added to it, where it is a list or a set.
    pub items: Vec<NodeId>,
    /// The pairs that were set, where it is a dict.
    pub entries: Vec<(NodeId, NodeId)>,
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle {
    text: String,
    nodes: Vec<PickleNode>,
    root: NodeId,
}

impl Pickle {
    /// The object that was pickled.
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// The node of this index.
    pub fn value(&self, id: NodeId) -> &PickleNode {
        // Ids are only made for nodes that exist, and nodes are never removed.
        &self.nodes[id.0 as usize]
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node; never so for a pickle that was read.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node's text, where it is a string.
    pub fn text(&self, id: NodeId) -> Option<&str> {
        match *self.value(id) {
            PickleNode::Text(text) => Some(self.str(text)),
            _ => None,
        }
    }

    /// The place of the node's bytes in the pickle, where it is bytes.
    pub fn bytes(&self, id: NodeId) -> Option<Range<usize>> {
        match *self.value(id) {
            PickleNode::Bytes(Some(span)) => Some(span.start as usize..span.end as usize),
            _ => None,
        }
    }

    fn str(&self, text: Text) -> &str {
        // Texts are only made of whole strings.
        &self.text[text.start as usize..text.end as usize]
    }

    /// Module and name, where the node is a class or function.
    pub fn global(&self, id: NodeId) -> Option<(&str, &str)> {
        match *self.value(id) {
            PickleNode::Global { module, name } => Some((self.str(module), self.str(name))),
            _ => None,
        }
    }

    /// The node's children, where it is a tuple.
    pub fn tuple(&self, id: NodeId) -> Option<&[NodeId]> {
        match self.value(id) {
            PickleNode::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The node's object, where it is the result of a call.
    pub fn object(&self, id: NodeId) -> Option<&Object> {
        match self.value(id) {
            PickleNode::Object(object) => Some(object),
            _ => None,
        }
    }
}
