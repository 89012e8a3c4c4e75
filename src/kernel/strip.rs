//! What a kernel works on: a stretch of the output with the bytes of the same elements in every input.

use crate::tensor::{BLOCK, BlockFormat};

/// What kernels load as it is; everything else is converted to f32 first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    F16,
    BF16,
    Blocks(BlockFormat),
}

impl Format {
    /// Bytes of `count` elements; a last block that they do not fill counts whole.
    pub(crate) const fn bytes(self, count: usize) -> usize {
        match self {
            Self::F32 => 4 * count,
            Self::F16 | Self::BF16 => 2 * count,
            Self::Blocks(format) => count.div_ceil(BLOCK) * format.block_bytes(),
        }
    }
}

/// A term of the sum over a strip.
#[derive(Clone, Copy)]
pub(super) struct Term<'a> {
    /// Not zero.
    pub(super) coefficient: f32,
    pub(super) format: Format,
    pub(super) bytes: &'a [u8],
}

/// One strip: `out[i] = base[i] + Σ_m a_m·s_m[i]`, by the bit contract of [`super`].
///
/// The byte slices may start at any address. Element 0 is the first of a block.
pub(super) struct Strip<'a> {
    /// Where the result goes; its length is the number of elements.
    pub(super) out: &'a mut [f32],
    /// Never blocks.
    pub(super) base: Option<(Format, &'a [u8])>,
    /// In ascending m.
    pub(super) terms: &'a [Term<'a>],
    /// Whether to write past the caches; a hint that a kernel may ignore.
    pub(super) stream: bool,
}

impl Strip<'_> {
    /// Panics unless every input has as many elements as `out`.
    ///
    /// The vector kernels read through pointers, and this is where they learn that they may. It is outside their
    /// loops and costs nothing; `combine` has always made it true.
    pub(super) fn check(&self) {
        let fits = |format: Format, bytes: &[u8]| bytes.len() == format.bytes(self.out.len());
        assert!(self.base.is_none_or(|(format, bytes)| fits(format, bytes)), "base of another length");
        assert!(self.terms.iter().all(|term| fits(term.format, term.bytes)), "term of another length");
    }
}
