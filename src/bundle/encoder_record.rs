//! What the metadata say of the encoder: an architecture that is built, or that a user's graph is all there is.

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::keys::{field, in_file, key, text};
use crate::error::{Error, Result};
use crate::tensor::checked_numel;
use crate::tower::{Arch, Variant};

/// The most parameters that an encoder may have; large ones have some thousand.
const MAX_PARAMETERS: usize = 1 << 16;

/// `taskbasis.encoder`, in the place of `taskbasis.arch`: an encoder that only the graph in the bundle is known of. A
/// key of its own, which readers refuse that know no such encoders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EncoderRecord {
    /// The length of embeddings.
    pub(super) embedding: usize,
    /// Names and shapes of the base's parameters, in its order.
    pub(super) parameters: Vec<(String, Vec<usize>)>,
}

/// The encoder as the metadata say it.
#[derive(Clone, Debug)]
pub(super) struct EncoderMetadata {
    /// [`Arch::of_graph`] where there are `parameters`.
    pub(super) arch: Arch,
    /// The parameters of an encoder whose architecture does not tell them.
    pub(super) parameters: Option<Vec<(String, Vec<usize>)>>,
}

impl EncoderMetadata {
    /// Reads `taskbasis.encoder`; or `taskbasis.arch`, and `taskbasis.tower` where the tower is not of OpenAI's form: a
    /// key of its own, which is refused by readers that would take the tower for one of that form.
    pub(super) fn read(metadata: &HashMap<String, String>, image_size: usize) -> Result<Self> {
        if metadata.contains_key(key::ENCODER) {
            if let Some(other) = [key::ARCH, key::TOWER].into_iter().find(|other| metadata.contains_key(*other)) {
                return Err(Error::format(format!("the metadata hold both `{}` and `{other}`", key::ENCODER)));
            }
            let EncoderRecord { embedding, parameters } = field(metadata, key::ENCODER)?;
            let arch = Arch::of_graph(image_size, embedding);
            return Ok(Self { arch, parameters: Some(parameters) });
        }
        let arch: Arch = field(metadata, key::ARCH)?;
        if !arch.variant.is_usual() {
            return Err(Error::format(format!(
                "the metadata's `{}` holds what belongs to `{}`",
                key::ARCH,
                key::TOWER
            )));
        }
        let arch = match metadata.contains_key(key::TOWER) {
            true => Arch { variant: field(metadata, key::TOWER)?, ..arch },
            false => arch,
        };
        Ok(Self { arch, parameters: None })
    }

    /// Checks what can be checked of it by itself.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format).
    pub(super) fn check(&self) -> Result<()> {
        let Some(parameters) = &self.parameters else { return self.arch.check().map_err(in_file) };
        self.arch.check_of_graph().map_err(in_file)?;
        if parameters.is_empty() || parameters.len() > MAX_PARAMETERS {
            return Err(Error::format(format!("`{}` must name the base's parameters", key::ENCODER))
                .expected(format_args!("1 to {MAX_PARAMETERS}"))
                .got(parameters.len()));
        }
        let mut known = HashSet::new();
        for (name, shape) in parameters {
            if name.is_empty() || !known.insert(name) {
                return Err(Error::format("a parameter is named twice, or it is empty").tensor(name));
            }
            let bytes = checked_numel(shape).and_then(|numel| numel.checked_mul(size_of::<f64>()));
            if bytes.is_none_or(|bytes| bytes == 0) {
                return Err(Error::format("a parameter without elements, or with more than there can be")
                    .tensor(name)
                    .got(format_args!("{shape:?}")));
            }
        }
        Ok(())
    }

    /// The parameters with their shapes.
    pub(super) fn parameters(&self) -> IndexMap<String, Vec<usize>> {
        self.parameters.clone().unwrap_or_else(|| self.arch.parameters()).into_iter().collect()
    }

    /// The pair of texts that comes first of all that are sorted by their keys.
    pub(super) fn first_pair(&self) -> Result<Option<(&'static str, String)>> {
        match &self.parameters {
            Some(_) => Ok(None),
            None => Ok(Some((key::ARCH, text(&Arch { variant: Variant::default(), ..self.arch.clone() })?))),
        }
    }

    /// The pair of texts of an encoder that is a graph alone.
    pub(super) fn graph_pair(&self) -> Result<Option<(&'static str, String)>> {
        let record = |parameters: &Vec<(String, Vec<usize>)>| {
            let record = EncoderRecord { embedding: self.arch.embed_dim, parameters: parameters.clone() };
            Ok((key::ENCODER, text(&record)?))
        };
        self.parameters.as_ref().map(record).transpose()
    }

    /// The pair of texts of a tower that is not of OpenAI's form.
    pub(super) fn tower_pair(&self) -> Result<Option<(&'static str, String)>> {
        match self.parameters.is_some() || self.arch.variant.is_usual() {
            true => Ok(None),
            false => Ok(Some((key::TOWER, text(&self.arch.variant)?))),
        }
    }
}
