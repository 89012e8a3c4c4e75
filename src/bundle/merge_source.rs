//! A merged vector as it comes to a bundle: something that gives its values.

use std::cell::RefCell;
use std::fmt;

use super::quantise::StoredFormat;
use crate::error::Result;

/// A vector beside the base's weights that is computed parameter by parameter.
pub trait VectorSource: fmt::Debug + Sync {
    /// Whether it changes this parameter, by its canonical name.
    fn changes(&self, parameter: &str) -> bool;

    /// Its values for a parameter that it changes, in row-major order.
    ///
    /// # Errors
    /// Where they cannot be computed.
    fn values(&self, parameter: &str) -> Result<Vec<f32>>;
}

/// A merged vector to be kept in a bundle.
#[derive(Clone, Copy, Debug)]
pub struct NewMerge<'a> {
    /// Its name, in expressions too.
    pub name: &'a str,
    /// How it was made, for people: the text of [`Merge`](crate::build::Merge).
    pub method: &'a str,
    /// The vector.
    pub vector: &'a dyn VectorSource,
    /// The format in which it is stored; what has one dimension is f16 where that is of blocks.
    pub format: StoredFormat,
}

/// A merge of an update, and its place among the fits.
#[derive(Debug)]
pub(super) struct AddedMerge<'a> {
    pub(super) merge: NewMerge<'a>,
    pub(super) fit: usize,
}

/// ‖v‖² and ‖v − v̂‖² of a merged vector, summed up while it is stored.
pub(super) type Squares = RefCell<Vec<(f64, f64)>>;
