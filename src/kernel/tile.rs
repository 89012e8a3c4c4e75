//! The unit that a kernel function works on: a tile of the result with the bytes of the same elements in every input.

use super::hints::Hints;
use crate::tensor::VectorFormat;

/// A term of the sum over a tile.
#[derive(Clone, Copy)]
pub(super) struct TileTerm<'a> {
    /// The coefficient; not zero.
    pub(super) coefficient: f32,
    pub(super) format: VectorFormat,
    pub(super) bytes: &'a [u8],
}

/// One tile: `out[i] = base[i] + Σ_m a_m·s_m[i]`, by the bit contract of [`super`].
///
/// The byte slices may start at any address. Element 0 is the first of a block.
pub(super) struct Tile<'a> {
    /// The result; its length is the number of elements.
    pub(super) out: &'a mut [f32],
    /// The base's format and bytes; never blocks.
    pub(super) base: Option<(VectorFormat, &'a [u8])>,
    /// The terms in ascending m.
    pub(super) terms: &'a [TileTerm<'a>],
    /// What to tell the caches; a kernel may ignore it, as the scalar one does.
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), expect(dead_code))]
    pub(super) hints: Hints,
}

impl Tile<'_> {
    /// Panics unless every input has as many elements as `out`.
    ///
    /// The vector kernels read through pointers, and this is where they learn that they may. It is outside their
    /// loops and costs nothing; `combine` has always made it true.
    pub(super) fn check(&self) {
        let fits = |format: VectorFormat, bytes: &[u8]| bytes.len() == format.bytes(self.out.len());
        assert!(self.base.is_none_or(|(format, bytes)| fits(format, bytes)), "base of another length");
        assert!(self.terms.iter().all(|term| fits(term.format, term.bytes)), "term of another length");
    }
}
