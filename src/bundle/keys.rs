//! The keys of the metadata, and their values as JSON.

use std::collections::HashMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The keys of the metadata.
pub(super) mod key {
    pub(in super::super) const VERSION: &str = "taskbasis.version";
    pub(in super::super) const WRITER: &str = "taskbasis.writer";
    pub(in super::super) const ARCH: &str = "taskbasis.arch";
    pub(in super::super) const BASE: &str = "taskbasis.base";
    pub(in super::super) const BASIS: &str = "taskbasis.basis";
    pub(in super::super) const BLOCKS: &str = "taskbasis.blocks";
    pub(in super::super) const CLASSES: &str = "taskbasis.classes";
    pub(in super::super) const ENCODER: &str = "taskbasis.encoder";
    pub(in super::super) const GRAPH: &str = "taskbasis.graph";
    pub(in super::super) const MERGES: &str = "taskbasis.merges";
    pub(in super::super) const NAMES: &str = "taskbasis.names";
    pub(in super::super) const LAMBDA: &str = "taskbasis.lambda";
    pub(in super::super) const PREPROCESS: &str = "taskbasis.preprocess";
    pub(in super::super) const TOWER: &str = "taskbasis.tower";
    /// Not `taskbasis.…`: readers that do not know it pass over it.
    pub(in super::super) const PRECISION: &str = "measured.precision";
}

/// The error for what a file says and that would be a caller's mistake elsewhere.
pub(super) fn in_file(error: Error) -> Error {
    Error::format("the metadata cannot be used").because(error)
}

pub(super) fn field<T: DeserializeOwned>(metadata: &HashMap<String, String>, key: &str) -> Result<T> {
    let text = metadata.get(key).ok_or_else(|| Error::format(format!("the metadata lack `{key}`")))?;
    serde_json::from_str(text).map_err(|e| Error::format(format!("the metadata's `{key}` is broken")).because(e))
}

pub(super) fn optional<T: DeserializeOwned>(metadata: &HashMap<String, String>, key: &str) -> Result<Option<T>> {
    metadata.contains_key(key).then(|| field(metadata, key)).transpose()
}

pub(super) fn text(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::new(crate::ErrorKind::Internal, "metadata that are no JSON").because(e))
}
