//! The places at which tensors and sections begin.

/// Every tensor begins at a multiple of this many bytes from the file's start.
pub(super) const ALIGNMENT: usize = 256;
/// The header ends, and every section begins, at a multiple of this: a page of nearly every machine.
pub(super) const PAGE: usize = 4096;
