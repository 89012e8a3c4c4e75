//! The names of an adapter's tensors: which module each belongs to, and what it is there.

use indexmap::IndexMap;

use super::super::unread_type::Stored;
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The prefix that PEFT puts before the model's names.
const ROOT: &str = "base_model.model.";
/// The module that an adapted one keeps its own weights in.
const BASE: &str = "base_layer";
/// The parts of a module that is trained as a whole: what it was, and what it is.
const SAVED: [&str; 2] = ["original_module", "modules_to_save"];
/// The prefixes of the parameters' names in PEFT's other kinds of adapters.
const OTHERS: [&str; 8] = ["ia3_", "hada_", "lokr_", "oft_", "boft_", "vera_", "hra_", "shira_"];

/// Whether a tensor of this name is part of an adapter, or of a module that one was put around.
pub(super) fn is_adapted(name: &str) -> bool {
    name.split('.').any(|part| {
        part == BASE || SAVED.contains(&part) || part.contains("lora_") || OTHERS.iter().any(|o| part.starts_with(o))
    })
}

/// The tensors of an adapter for one module.
#[derive(Debug, Default)]
pub(super) struct AdaptedModule {
    /// [r, in] (or [r, in, h, w]); for an embedding [r, rows].
    pub(super) a: Option<Tensor>,
    /// [out, r] (or [out, r, 1, 1]); for an embedding [columns, r].
    pub(super) b: Option<Tensor>,
    /// [out]: added to the module's bias.
    pub(super) bias: Option<Tensor>,
    /// out values: DoRA's lengths of rows.
    pub(super) magnitude: Option<Tensor>,
    /// Whether the module is an embedding, whose weight is the transpose of what B·A gives.
    pub(super) is_embedding: bool,
    /// Whether it is the output projection of a `MultiheadAttention`: PEFT (0.21) adds B·A twice there, in training and
    /// when it merges.
    pub(super) is_twice: bool,
}

/// An adapter's tensors, by module.
#[derive(Debug, Default)]
pub(super) struct AdapterTensors {
    /// The adapted modules, by their names in the model.
    pub(super) targets: IndexMap<String, AdaptedModule>,
    /// Everything else, by names in the model: biases and modules that were trained as a whole; the base, where it is
    /// in the file too.
    pub(super) others: Vec<(String, Stored)>,
    /// Whether the base's weights are in the file too.
    pub(super) holds_base: bool,
    /// The adapter's own name, where names have it.
    adapter: Option<String>,
}

/// The role of a tensor of an [`AdaptedModule`].
#[derive(Clone, Copy)]
enum Role {
    A,
    B,
    Magnitude,
}

impl AdapterTensors {
    /// Takes the names of all tensors apart.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a name of another kind of adapter, and for several
    /// adapters in one file; [`ErrorKind::Format`](crate::ErrorKind::Format) for two tensors of one role.
    pub(super) fn read(stored: Vec<(String, Stored)>) -> Result<Self> {
        let mut keys = Self::default();
        for (name, stored) in stored {
            keys.add(&name, stored).map_err(|error| error.tensor(did_you_mean::clipped(&name)))?;
        }
        Ok(keys)
    }

    fn add(&mut self, name: &str, stored: Stored) -> Result<()> {
        let inner = name.find(ROOT).map_or(name, |at| &name[at + ROOT.len()..]);
        let parts: Vec<&str> = inner.split('.').collect();
        let of_other = |part: &&str| OTHERS.iter().any(|other| part.starts_with(other));
        if let Some(part) = parts.iter().find(|part| of_other(part)) {
            return Err(Error::unsupported("an adapter of another kind than LoRA").got(format_args!("`{part}`")));
        }
        match parts.iter().position(|part| part.contains("lora_")) {
            Some(at) => self.add_to_target(&parts, at, stored),
            None => self.add_other(&parts, stored),
        }
    }

    /// A tensor of the module `parts[..at]`, whose role `parts[at]` names.
    fn add_to_target(&mut self, parts: &[&str], at: usize, stored: Stored) -> Result<()> {
        let (role, is_embedding) = match parts[at] {
            "lora_A" => (Role::A, false),
            "lora_B" => (Role::B, false),
            "lora_embedding_A" => (Role::A, true),
            "lora_embedding_B" => (Role::B, true),
            "lora_magnitude_vector" => (Role::Magnitude, false),
            other => {
                return Err(Error::unsupported("LoRA weights of a kind or by names that are not read")
                    .expected("lora_A, lora_B")
                    .got(format_args!("`{}`", did_you_mean::clipped(other))));
            }
        };
        let (adapter, is_bias) = match parts[at + 1..] {
            [] | ["weight"] => (None, false),
            ["bias"] => (None, true),
            [adapter] | [adapter, "weight"] => (Some(adapter), false),
            [adapter, "bias"] => (Some(adapter), true),
            _ => return Err(Error::format("the name of an adapter's tensor cannot be read")),
        };
        self.check_adapter(adapter)?;
        let tensor = stored.map_err(|unread| unread.error())?;
        let module = &parts[..at];
        let target = self.targets.entry(without(module, BASE)).or_default();
        target.is_embedding |= is_embedding;
        target.is_twice = module.ends_with(&[BASE, "out_proj"]);
        let slot = match (role, is_bias) {
            (Role::A, false) => &mut target.a,
            (Role::B, false) => &mut target.b,
            (Role::B, true) => &mut target.bias,
            (Role::Magnitude, false) => &mut target.magnitude,
            _ => return Err(Error::format("a bias that no LoRA module has")),
        };
        match slot.replace(tensor) {
            None => Ok(()),
            Some(_) => Err(Error::format("two tensors of an adapter for one place")),
        }
    }

    /// A file may hold several adapters, of which it does not say which is meant.
    fn check_adapter(&mut self, adapter: Option<&str>) -> Result<()> {
        let Some(adapter) = adapter else { return Ok(()) };
        match &self.adapter {
            Some(known) if known != adapter => Err(Error::unsupported("several adapters in one file")
                .got(format_args!("`{}` and `{}`", did_you_mean::clipped(known), did_you_mean::clipped(adapter)))
                .hint("Save the one that is meant")),
            _ => {
                self.adapter = Some(adapter.to_owned());
                Ok(())
            }
        }
    }

    fn add_other(&mut self, parts: &[&str], stored: Stored) -> Result<()> {
        let [original, saved] = SAVED;
        if parts.contains(&original) {
            self.holds_base = true;
            return Ok(());
        }
        let mut parts = parts.to_vec();
        if let Some(at) = parts.iter().position(|part| *part == saved) {
            // The adapter's name comes after it.
            self.check_adapter(parts.get(at + 1).copied())?;
            parts.drain(at..(at + 2).min(parts.len()));
        }
        // An adapter alone may hold biases of adapted modules, but no weights of them.
        let is_weight = |part: &&str| part.ends_with("weight");
        self.holds_base |= parts.contains(&BASE) && parts.last().is_some_and(is_weight);
        self.others.push((without(&parts, BASE), stored));
        Ok(())
    }
}

/// The dotted name of `parts` without those that are `part`.
fn without(parts: &[&str], part: &str) -> String {
    parts.iter().copied().filter(|other| *other != part).collect::<Vec<_>>().join(".")
}
