//! The activations of MLPs.

/// The function between a layer's sums and its results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// None.
    #[default]
    None,
    /// `x · sigmoid(1.702·x)`.
    QuickGelu,
    /// `½·x·(1 + erf(x/√2))`.
    Gelu,
    /// `½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    TanhGelu,
    /// `x · sigmoid(x)`, which is also called swish.
    Silu,
}

impl Activation {
    /// The number that graphs have for it.
    pub(crate) fn code(self) -> i64 {
        match self {
            Self::None => 0,
            Self::QuickGelu => 1,
            Self::Gelu => 2,
            Self::TanhGelu => 3,
            Self::Silu => 4,
        }
    }

    /// The activation of that number.
    pub(crate) fn of_code(code: i64) -> Option<Self> {
        const ALL: [Activation; 5] =
            [Activation::None, Activation::QuickGelu, Activation::Gelu, Activation::TanhGelu, Activation::Silu];
        ALL.into_iter().find(|one| one.code() == code)
    }
}
