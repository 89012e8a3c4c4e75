//! The scale of int8 activations.

/// The scale of a row of int8 activations: `value = scale · (code − zero)`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RowScale {
    pub(super) scale: f32,
    /// Its reciprocal: codes per unit.
    pub(super) inverse: f32,
    pub(super) zero: i32,
}

impl RowScale {
    /// The scale of a row between these values; `least` is at most 0 and `greatest` at least 0.
    pub(super) fn of_range(least: f32, greatest: f32, is_finite: bool) -> Self {
        /// A smaller range counts as zero: its reciprocal would overflow.
        const LEAST: f32 = 1e-35;

        let range = greatest - least;
        if !is_finite || !range.is_finite() {
            return Self { scale: f32::NAN, inverse: 0.0, zero: 0 };
        }
        if range < LEAST {
            return Self::default();
        }
        let inverse = 255.0 / range;
        Self { scale: range / 255.0, inverse, zero: (-least * inverse).round_ties_even() as i32 }
    }
}
