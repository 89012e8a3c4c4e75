//! What a bundle keeps beside its tasks: expressions under names, and a router.

use indexmap::IndexMap;

use super::add_tasks::{BundleUpdate, KeptRouter};
use super::opened::Bundle;
use crate::basis::TaskExpr;
use crate::did_you_mean::unknown;
use crate::error::Result;

impl Bundle {
    /// The expressions that the bundle keeps under a name, each usable wherever a task is.
    pub fn names(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.metadata.names.iter().map(|(name, expr)| (name.as_str(), expr.as_str()))
    }
}

impl<'a> BundleUpdate<'a> {
    /// The bundle that is updated.
    pub(crate) fn bundle(&self) -> &'a Bundle {
        self.bundle
    }

    /// Keeps the bytes of a router's file, in the place of those that the bundle keeps.
    pub(crate) fn keep_router(&mut self, bytes: Vec<u8>) {
        self.router = KeptRouter::Replaced(bytes);
    }

    /// An update that changes no task: of what the bundle says about its tasks alone. No base is needed.
    pub fn of_names(bundle: &'a Bundle) -> Self {
        Self::over(bundle, IndexMap::new())
    }

    /// Keeps an expression under a name, in the place of what that name stands for now: usable wherever a task is.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a name that is empty or a task's, and for
    /// groups of parameters that do not fit the basis; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an
    /// expression that names something else than tasks and vectors of the bundle.
    pub fn keep(&mut self, name: &str, expr: &TaskExpr) -> Result<&mut Self> {
        let basis = self.bundle.basis()?;
        basis.coefficients(expr)?;
        basis.with_names(IndexMap::from([(name.to_owned(), expr.clone())])).map_err(|e| e.at(self.bundle.path()))?;
        self.metadata.names.insert(name.to_owned(), expr.to_string());
        Ok(self)
    }

    /// Forgets the expression that is kept under a name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is none.
    pub fn forget(&mut self, name: &str) -> Result<&mut Self> {
        match self.metadata.names.remove(name) {
            Some(_) => Ok(self),
            None => {
                let known = self.metadata.names.keys().map(String::as_str);
                Err(unknown("kept expression", name, known).at(self.bundle.path()))
            }
        }
    }
}
