//! A tensor that a file holds and that is not read here, because its elements are of a type that weights never have.

use crate::error::{Error, ErrorKind, Result};
use crate::tensor::Tensor;

/// A tensor as readers give it: a view, or what keeps it from being read.
pub type Stored = Result<Tensor, Unread>;

/// The reason that a tensor is not read: float8, complex, sparse, quantised, without data. It stops only what asks for
/// the tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    reason: String,
}

impl Unread {
    /// `reason` is a clause that names the type.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }

    /// The tensor that reading gave; where it is of a kind that is not supported, why it was not read.
    ///
    /// # Errors
    /// Any other error, as it came.
    pub fn or_stored(read: Result<Tensor>) -> Result<Stored> {
        match read {
            Ok(tensor) => Ok(Ok(tensor)),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                Ok(Err(Self::new(error.without_place().to_string())))
            }
            Err(error) => Err(error),
        }
    }

    /// The clause that names the type.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The error for those who ask for the tensor: [`ErrorKind::Unsupported`]. File and tensor remain to be named.
    pub fn error(&self) -> Error {
        Error::unsupported(&*self.reason)
    }
}
