//! The unit of work on a matrix of low rank: some of its elements, and its factors.

/// Some elements of a matrix of low rank: `out[i] = Σ_k left[k, row]·right[k, column]` of the element `start + i`, by
/// the bit contract of [`LowRank::read_f32`].
pub(super) struct ProductTile<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) factors: &'a Factors,
    pub(super) start: usize,
}

/// The factors of a matrix of low rank.
pub(super) struct Factors {
    pub(super) rank: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// [rank, rows].
    pub(super) left: Vec<f32>,
    /// [rank, columns].
    pub(super) right: Vec<f32>,
}
