//! From a pickled object to named tensors: the names that PyTorch's `state_dict()` would give.

use std::collections::HashSet;

use super::super::unread_type::{Stored, Unread};
use super::archive::Archive;
use super::node::Node;
use crate::error::{Error, Result};
use crate::tensor::TryGrow;

/// The keys under which training programs keep the model beside an optimizer, an epoch, …
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// The deepest that a tensor may lie in lists and dicts.
const MAX_DEPTH: usize = 64;
/// The most that one walk may visit: a node costs 1, the length of its name and the number of its children. Real models
/// need some 100,000; a pickle whose nodes share each other could ask for any number.
const BUDGET: usize = 16 << 20;

impl Archive {
    /// All tensors of the pickled object with their dotted names, in the order of the pickle.
    ///
    /// Dicts and lists give their keys and indices, pickled modules the names that their `state_dict()` would give
    /// (buffers that are not persistent stay out), TorchScript objects the names of their attributes. A training
    /// checkpoint, a dict in which `state_dict`, `model_state_dict`, `model` or `module` holds the model, gives what
    /// is inside: neither the wrapper's name nor the optimizer beside it.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when a tensor lies outside its storage, a module's parameter is
    /// not a tensor, or the object is nested too deeply or too large. One of a kind that is not read here (quantised,
    /// sparse, complex) is no error, but [`Unread`](crate::checkpoint::unread_type::Unread).
    pub fn tensors(&self) -> Result<Vec<(String, Stored)>> {
        let mut root = self.root();
        for _ in 0..MAX_DEPTH {
            match unwrap(root).map_err(|error| self.place(error))? {
                Some(inner) => root = inner,
                None => break,
            }
        }
        self.below(root)
    }

    /// Every tensor that the pickled object holds, an optimizer's too, by its whole path: wrappers' names included.
    ///
    /// # Errors
    /// As [`Archive::tensors`].
    pub fn all_tensors(&self) -> Result<Vec<(String, Stored)>> {
        self.below(self.root())
    }

    fn below(&self, root: Node<'_>) -> Result<Vec<(String, Stored)>> {
        let mut walk =
            Walk { torchscript: self.is_torchscript(), found: Vec::new(), name: String::new(), left: BUDGET };
        walk.visit(root, 0).map_err(|error| self.place(error))?;
        Ok(walk.found)
    }
}

/// The model that a training checkpoint wraps: a dict under a known key, which has no tensor beside it.
fn unwrap(node: Node<'_>) -> Result<Option<Node<'_>>> {
    if !node.is_dict() {
        return Ok(None);
    }
    let mut found = [None; WRAPPERS.len()];
    for (key, value) in node.entries() {
        if let Some(at) = key.as_str().and_then(|key| WRAPPERS.iter().position(|&wrapper| wrapper == key)) {
            found[at] = Some(value).filter(|&value| value.is_dict() || is_module(value));
        }
        if !matches!(value.tensor(), Ok(None)) {
            return Ok(None);
        }
    }
    Ok(found.into_iter().flatten().next())
}

/// Whether it is a pickled `torch.nn.Module`.
fn is_module(node: Node<'_>) -> bool {
    !node.is_dict() && node.entries().any(|(key, _)| matches!(key.as_str(), Some("_parameters" | "_modules")))
}

struct Walk {
    torchscript: bool,
    found: Vec<(String, Stored)>,
    /// The dotted name of the node at work.
    name: String,
    /// The rest of the budget.
    left: usize,
}

impl Walk {
    fn visit(&mut self, node: Node<'_>, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::format("the pickled object is nested too deeply").got(format_args!("`{}`", self.name())));
        }
        self.charge(1 + self.name.len() + node.width())?;
        let tensor = node.tensor_here().transpose().map(Unread::or_stored).transpose();
        if let Some(stored) = tensor.map_err(|error| error.tensor(self.name()))? {
            self.found.try_push((self.name.clone(), stored))?;
        } else if is_module(node) {
            self.module(node, depth)?;
        } else if node.is_dict() || self.is_script_object(node) {
            for (key, value) in node.entries() {
                match (key.as_str(), key.as_i64()) {
                    (Some(key), _) => self.descend(key, value, depth)?,
                    (None, Some(key)) => self.descend(&key.to_string(), value, depth)?,
                    _ => {}
                }
            }
        } else if node.is_sequence() {
            for (index, item) in node.items().enumerate() {
                self.descend(&index.to_string(), item, depth)?;
            }
        }
        Ok(())
    }

    /// TorchScript keeps parameters, buffers and submodules alike as plain attributes.
    fn is_script_object(&self, node: Node<'_>) -> bool {
        self.torchscript && node.class_name().is_some_and(|(module, _)| module.starts_with("__torch__"))
    }

    fn module(&mut self, node: Node<'_>, depth: usize) -> Result<()> {
        let fleeting = node.get("_non_persistent_buffers_set");
        self.charge(fleeting.map_or(0, Node::width))?;
        let fleeting: HashSet<&str> = fleeting.into_iter().flat_map(Node::items).filter_map(Node::as_str).collect();
        for (key, value) in children(node, "_parameters").chain(children(node, "_buffers")) {
            if fleeting.contains(key) || value.is_none() {
                continue;
            }
            let before = self.found.len();
            self.descend(key, value, depth)?;
            if self.found.len() != before + 1 {
                return Err(Error::format("a module's parameter or buffer is not a tensor")
                    .tensor(join(self.name(), key))
                    .got(value.class_name().map_or("something else".into(), |(m, n)| format!("{m}.{n}"))));
            }
        }
        for (key, value) in children(node, "_modules") {
            self.descend(key, value, depth)?;
        }
        Ok(())
    }

    fn charge(&mut self, cost: usize) -> Result<()> {
        self.left = self.left.checked_sub(cost).ok_or_else(|| {
            Error::format("the pickled object is too large to walk").got(format_args!("`{}` and more", self.name()))
        })?;
        Ok(())
    }

    fn descend(&mut self, key: &str, node: Node<'_>, depth: usize) -> Result<()> {
        let length = self.name.len();
        if length > 0 {
            self.name.push('.');
        }
        self.name.push_str(key);
        self.visit(node, depth + 1)?;
        self.name.truncate(length);
        Ok(())
    }

    /// The name as errors show it: a hostile one may be long.
    fn name(&self) -> &str {
        let end = self.name.floor_char_boundary(200);
        &self.name[..end]
    }
}

/// The named entries of one of a module's dicts.
fn children<'a>(module: Node<'a>, dict: &str) -> impl Iterator<Item = (&'a str, Node<'a>)> {
    module.get(dict).into_iter().flat_map(Node::entries).filter_map(|(key, value)| Some((key.as_str()?, value)))
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}
