//! A basis in whatever form a user has it.

use std::path::Path;
use std::sync::Arc;

use super::opened::Bundle;
use crate::basis::Basis;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::mmap::MapMode;
use crate::weights::{Model, ModelOptions};

/// A basis in a file of either form: a folder as published, or a bundle.
#[derive(Debug)]
pub enum BasisFile {
    /// A folder, which knows nothing of its base.
    Folder(Box<Basis>),
    /// A bundle, which knows everything.
    Bundle(Box<Bundle>),
}

impl BasisFile {
    /// Opens either.
    ///
    /// # Errors
    /// As [`Basis::open`] and [`Bundle::open`].
    pub fn open(path: impl AsRef<Path>, mode: MapMode) -> Result<Self> {
        let path = path.as_ref();
        if Bundle::is_bundle(path) {
            return Ok(Self::Bundle(Box::new(Bundle::open_with(path, mode)?)));
        }
        Basis::open_with(path, mode).map(|basis| Self::Folder(Box::new(basis)))
    }

    /// The folder or the bundle's file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(basis) => basis.path(),
            Self::Bundle(bundle) => bundle.path(),
        }
    }

    /// Base and basis. A folder needs `base`; a bundle takes it in the place of its own, or demands it where it has
    /// none ([`Bundle::base_or`]).
    ///
    /// # Errors
    /// As [`Bundle::base_or`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a folder without a
    /// base.
    pub fn base_and_basis(self, base: Option<Checkpoint>) -> Result<(Checkpoint, Basis)> {
        match self {
            Self::Folder(basis) => {
                let missing = Error::invalid("a basis folder needs its base, and none was given")
                    .at(basis.path())
                    .hint("Give the base checkpoint (--base)");
                Ok((base.ok_or(missing)?, *basis))
            }
            Self::Bundle(bundle) => Ok((bundle.base_or(base)?, bundle.basis()?)),
        }
    }

    /// [`BasisFile::base_and_basis`] as a model; and the bundle, where it is one.
    ///
    /// # Errors
    /// As [`BasisFile::base_and_basis`] and [`Model::new`].
    pub fn model(self, base: Option<Checkpoint>, options: &ModelOptions) -> Result<(Arc<Model>, Option<Box<Bundle>>)> {
        match self {
            Self::Bundle(bundle) => Ok((bundle.model(base, options)?, Some(bundle))),
            folder @ Self::Folder(_) => {
                let (base, basis) = folder.base_and_basis(base)?;
                Ok((Model::new(base, Some(basis), options)?, None))
            }
        }
    }

    /// The basis alone.
    ///
    /// # Errors
    /// None that opening did not find.
    pub fn into_basis(self) -> Result<Basis> {
        match self {
            Self::Folder(basis) => Ok(*basis),
            Self::Bundle(bundle) => bundle.basis(),
        }
    }
}
