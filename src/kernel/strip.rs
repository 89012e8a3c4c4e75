//! What a kernel works on: a stretch of the output with the bytes of the same elements in every source.

use crate::tensor::{DType, Tensor};

/// The types that kernels load directly; everything else is converted to f32 first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    F32,
    F16,
    BF16,
}

impl Format {
    /// Bytes an element.
    pub(super) const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The format in which the tensor's own bytes can be loaded, if there is one.
    pub(super) fn of(tensor: &Tensor) -> Option<Self> {
        let format = match tensor.dtype() {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
            _ => return None,
        };
        tensor.is_contiguous().then_some(format)
    }
}

/// One strip: `out[i] = base[i] + Σ_m a_m·s_m[i]`, by the bit contract of [`super`].
///
/// The byte slices may start at any address.
pub(super) struct Strip<'a> {
    /// Where the result goes; its length is the number of elements.
    pub(super) out: &'a mut [f32],
    pub(super) base: Option<(Format, &'a [u8])>,
    /// The format of every term.
    pub(super) format: Format,
    /// The terms in ascending m: coefficient, not zero, and the elements' bytes.
    pub(super) terms: &'a [(f32, &'a [u8])],
    /// Whether to write past the caches; a hint that a kernel may ignore.
    pub(super) stream: bool,
}

impl Strip<'_> {
    /// Panics unless every source has as many elements as `out`.
    ///
    /// The vector kernels read through pointers, and this is where they learn that they may. It is outside their
    /// loops and costs nothing; `combine` has always made it true.
    pub(super) fn check(&self) {
        let count = self.out.len();
        assert!(self.base.is_none_or(|(format, bytes)| bytes.len() == count * format.size()), "base of another length");
        let size = count * self.format.size();
        assert!(self.terms.iter().all(|(_, bytes)| bytes.len() == size), "term of another length");
    }
}
