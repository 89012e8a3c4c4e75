//! The four published methods.

use std::fmt;

/// The method that made a basis, and so the way its tasks are recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Softmax encoder, linear decoder: `τ̂_t = Σ_m W[m,t]·s_m`.
    Autoencoder,
    /// Principal components: `τ̂_t = mean + Σ_m C[m,t]·s_m`.
    Pca,
    /// Random projection: `τ̂_t = Σ_m P[m,t]·s_m`, with the vectors as stored.
    Random,
    /// M of the task vectors themselves: τ̂_t = s_m for the tasks that were selected, nothing for the others.
    RandomSample,
}

impl Method {
    const ALL: [Self; 4] = [Self::Autoencoder, Self::Pca, Self::Random, Self::RandomSample];

    /// The method of this name in `method_info.json`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// Whether tasks are recovered around a mean, which is one more vector.
    pub fn has_mean(self) -> bool {
        self == Self::Pca
    }

    /// The name in `method_info.json` and in bundles: `AutoencoderBasisMethod`, `PCABasisMethod`, ….
    pub fn name(self) -> &'static str {
        match self {
            Self::Autoencoder => "AutoencoderBasisMethod",
            Self::Pca => "PCABasisMethod",
            Self::Random => "RandomBasisMethod",
            Self::RandomSample => "RandomSampleMethod",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Autoencoder => "Autoencoder",
            Self::Pca => "PCA",
            Self::Random => "Random",
            Self::RandomSample => "RandomSample",
        })
    }
}
