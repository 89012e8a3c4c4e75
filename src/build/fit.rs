//! The coefficients that each method makes of a Gram matrix, and how well they give the tasks back.

use nalgebra::DMatrix;

use super::activated::{Activation, AutoencoderForm};
use super::damped::damped;
use super::family::Family;
use super::gram::{Gram, eigen};
use super::random::RandomVectors;
use super::{activated, autoencoder, random, sample};
use crate::basis::Method;
use crate::error::{Error, Result};

/// The coefficients of a basis to be: `s_m = Σ_t combine[t,m]·τ_t`, `τ̂_t = Σ_m recover[m,t]·s_m` (+ mean, for PCA).
#[derive(Clone, Debug)]
pub struct Fit {
    pub(super) method: Method,
    pub(super) seed: u32,
    /// `[T, M]`: the Autoencoder's B, PCA's U, the selected tasks' unit columns.
    pub(super) combine: DMatrix<f64>,
    /// `[M, T]`: the Autoencoder's W, PCA's C. Columns of NaN for what cannot be recovered.
    pub(super) recover: DMatrix<f64>,
    pub(super) singular_values: Vec<f64>,
    pub(super) selected: Vec<usize>,
    pub(super) iterations: usize,
    /// The Autoencoder's activations.
    pub(super) form: AutoencoderForm,
    /// What Random's vectors are made of, which no task vector is combined into.
    pub(super) random: Option<RandomVectors>,
    errors: Vec<Option<f64>>,
    loss: Option<f64>,
    bound: Option<f64>,
}

impl Fit {
    /// Convex combinations of task vectors (the columns of B are softmaxes), and the linear W that is best for them:
    /// minimises `tr((I − BW)ᵀ·G·(I − BW))`. The same seed gives the same B.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for no vector, or more than tasks.
    pub fn autoencoder(gram: &Gram, vectors: usize, seed: u32) -> Result<Self> {
        Self::autoencoder_of(gram, vectors, seed, AutoencoderForm::default())
    }

    /// [`Fit::autoencoder`] with other activations: B or W without a bound, or the columns of W as softmaxes too, so
    /// that every task is a convex combination of basis vectors.
    ///
    /// # Errors
    /// As [`Fit::autoencoder`].
    pub fn autoencoder_of(gram: &Gram, vectors: usize, seed: u32, form: AutoencoderForm) -> Result<Self> {
        Self::autoencoder_as_stored(gram, vectors, seed, form, 0.0)
    }

    /// [`Fit::autoencoder_of`] for vectors that lose the share `rounding` of their length by being stored:
    /// [`VectorFormat::usual_loss`](crate::VectorFormat::usual_loss) tells it of a format, and
    /// [`Family::rounding`](super::Family::rounding) of a family. The best vectors may be nearly parallel, and what is
    /// lost then comes back many times larger; where that would be more than 0.4 of the tasks' length, the usual form
    /// takes vectors for which both losses together are least.
    ///
    /// # Errors
    /// As [`Fit::autoencoder`].
    pub fn autoencoder_as_stored(
        gram: &Gram,
        vectors: usize,
        seed: u32,
        form: AutoencoderForm,
        rounding: f64,
    ) -> Result<Self> {
        check(gram, vectors)?;
        let t = gram.tasks().len();
        // An empty sum is −0.
        let bound = gram.spectrum(false)[vectors..].iter().sum::<f64>() + 0.0;
        let found = match form {
            AutoencoderForm { encoder: Activation::Softmax, w: Activation::Linear } => {
                damped(&gram.values, autoencoder::fit(&gram.values, vectors, seed), seed, rounding)
            }
            _ => activated::fit(&gram.values, vectors, seed, form),
        };
        // In the file they are f32. W is the best for that B.
        let combine = found.b.map(|value| f64::from(value as f32));
        let recover = found.w.unwrap_or_else(|| autoencoder::best_w(&gram.values, &combine));
        let recover = recover.map(|value| f64::from(value as f32));
        let residual = DMatrix::identity(t, t) - &combine * &recover;
        let loss = (residual.transpose() * &gram.values * &residual).trace();
        let errors = errors(gram, &residual);
        let scale = (t * t) as f64;
        Ok(Self {
            iterations: found.iterations,
            form,
            loss: Some(loss.max(0.0) / scale),
            bound: Some(bound / scale),
            ..Self::plain(Method::Autoencoder, seed, combine, recover, errors)
        })
    }

    /// The principal components of the task vectors, exactly: eigenvectors of the centred Gram matrix.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for no vector, or more than tasks.
    pub fn pca(gram: &Gram, vectors: usize) -> Result<Self> {
        check(gram, vectors)?;
        let t = gram.tasks().len();
        let (values, u) = eigen(gram.centred());
        let centre = DMatrix::identity(t, t) - DMatrix::from_element(t, t, 1.0 / t as f64);
        let u = u.columns(0, vectors).map(|value| f64::from(value as f32));
        let recover = u.transpose();
        // Σ_t U[t,m]·(τ_t − mean) as a combination of the task vectors themselves.
        let combine = &centre * u;
        let residual = &centre - &combine * &recover;
        let errors = errors(gram, &residual);
        let singular_values = values[..vectors].iter().map(|value| value.sqrt()).collect();
        Ok(Self { singular_values, ..Self::plain(Method::Pca, 0, combine, recover, errors) })
    }

    /// M of the task vectors themselves, chosen as the reference chooses them (Python's `random.sample`).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for no vector, or more than tasks.
    pub fn random_sample(gram: &Gram, vectors: usize, seed: u32) -> Result<Self> {
        check(gram, vectors)?;
        let t = gram.tasks().len();
        let selected = sample::selected(t, vectors, seed);
        let combine = DMatrix::from_fn(t, vectors, |t, m| if selected[m] == t { 1.0 } else { 0.0 });
        let recover = DMatrix::from_fn(vectors, t, |m, t| match selected.iter().position(|&s| s == t) {
            Some(at) => f64::from(u8::from(at == m)),
            None => f64::NAN,
        });
        let errors = (0..t).map(|t| selected.contains(&t).then_some(0.0)).collect();
        Ok(Self { selected, ..Self::plain(Method::RandomSample, seed, combine, recover, errors) })
    }

    /// M random orthonormal vectors, and the projections of the tasks on them: what the reference's method Random makes
    /// from the same seed, to f32's rounding. Of a task, D parameters long, they keep about M/D. `gram` is the family's
    /// own; `threads` of 0 means one per processor; `progress` is told how many more parameters are done, of
    /// [`Family::parameter_count`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for no vector, more than tasks, or too few
    /// parameters; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for the Gram matrix of other tasks; what reading
    /// the checkpoints gives.
    pub fn random(
        family: &Family,
        gram: &Gram,
        vectors: usize,
        seed: u32,
        threads: usize,
        progress: &dyn Fn(u64),
    ) -> Result<Self> {
        check(gram, vectors)?;
        let tasks = gram.tasks().len();
        if !family.tasks().eq(gram.tasks()) {
            return Err(Error::mismatch("the Gram matrix is of other tasks").expected(family.tasks().len()).got(tasks));
        }
        let (random, recover) = random::project(family, vectors, seed, threads, progress)?;
        let missing = |t: usize| 1.0 - recover.column(t).norm_squared() / gram.get(t, t);
        let errors = (0..tasks).map(|t| Some(missing(t).max(0.0).sqrt())).collect();
        let combine = DMatrix::zeros(tasks, vectors);
        Ok(Self { random: Some(random), ..Self::plain(Method::Random, seed, combine, recover, errors) })
    }

    /// The fit of this method; `seed` has no part in PCA.
    ///
    /// # Errors
    /// As the method's own; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for [`Method::Random`], which
    /// needs the checkpoints, not their Gram matrix alone: [`Fit::random`].
    pub fn of(method: Method, gram: &Gram, vectors: usize, seed: u32) -> Result<Self> {
        match method {
            Method::Autoencoder => Self::autoencoder(gram, vectors, seed),
            Method::Pca => Self::pca(gram, vectors),
            Method::RandomSample => Self::random_sample(gram, vectors, seed),
            Method::Random => Err(Error::unsupported("random vectors need the checkpoints: Fit::random")),
        }
    }

    fn plain(
        method: Method,
        seed: u32,
        combine: DMatrix<f64>,
        recover: DMatrix<f64>,
        errors: Vec<Option<f64>>,
    ) -> Self {
        Self {
            method,
            seed,
            combine,
            recover,
            singular_values: Vec::new(),
            selected: Vec::new(),
            iterations: 0,
            form: AutoencoderForm::default(),
            random: None,
            errors,
            loss: None,
            bound: None,
        }
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// M, the number of vectors.
    pub fn vectors(&self) -> usize {
        self.combine.ncols()
    }

    /// The coefficient of task vector `t` in basis vector `m`; 0 for Random, whose vectors are none of the tasks'.
    ///
    /// # Panics
    /// For an index out of range.
    pub fn combine(&self, t: usize, m: usize) -> f64 {
        self.combine[(t, m)]
    }

    /// The coefficient of basis vector `m` in task `t`; `None` where the task cannot be recovered.
    ///
    /// # Panics
    /// For an index out of range.
    pub fn recover(&self, m: usize, t: usize) -> Option<f64> {
        Some(self.recover[(m, t)]).filter(|value| !value.is_nan())
    }

    /// `‖τ_t − τ̂_t‖ / ‖τ_t‖` of every task, as the Gram matrix tells it; `None` where a task cannot be recovered.
    /// Below about 1e-7 it is rounding.
    pub fn errors(&self) -> &[Option<f64>] {
        &self.errors
    }

    /// The Autoencoder's loss as the reference counts it, `tr((I − BW)ᵀ·G·(I − BW)) / T²`, with B and W as they are
    /// stored.
    pub fn loss(&self) -> Option<f64> {
        self.loss
    }

    /// The least that the loss could be for any M vectors whatever: the sum of the T − M smallest eigenvalues of G,
    /// over T².
    pub fn bound(&self) -> Option<f64> {
        self.bound
    }

    /// PCA's singular values, the largest first; empty for other methods.
    pub fn singular_values(&self) -> &[f64] {
        &self.singular_values
    }

    /// RandomSample's tasks, as indices; empty for other methods.
    pub fn selected(&self) -> &[usize] {
        &self.selected
    }
}

fn check(gram: &Gram, vectors: usize) -> Result<()> {
    let tasks = gram.tasks().len();
    if (1..=tasks).contains(&vectors) {
        return Ok(());
    }
    Err(Error::invalid("a basis has at least one vector and at most one per task")
        .expected(format_args!("1 to {tasks}"))
        .got(vectors))
}

/// The relative errors that a residual means: column t is what is missing of τ_t, in task vectors.
fn errors(gram: &Gram, residual: &DMatrix<f64>) -> Vec<Option<f64>> {
    let squares = (residual.transpose() * &gram.values * residual).diagonal();
    squares.iter().enumerate().map(|(t, square)| Some((square.max(0.0) / gram.get(t, t)).sqrt())).collect()
}
