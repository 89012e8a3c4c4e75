//! Making a router of a few images per task.
//!
//! A task's images are cut into [`FOLDS`] parts. Means and directions of three parts are tried on the fourth, whose
//! images they have not seen: the variances λ and σ² are the means of what was found there, so that few images in many
//! dimensions do not look closer than others will. The temperature τ is the one with the least mean −ln p of the own
//! task over all held-out images (temperature scaling: Guo and others, 2017), and k the one that is best so. Means and
//! directions of the router are then those of all images. Hidden features are whitened by the same three parts first.

use nalgebra::{DMatrix, DMatrixView, SymmetricEigen};

use super::subspace::{Distance, Subspaces};
use super::whitening::Whitening;
use super::{Choice, FeatureKind, Router, THRESHOLD, largest, normalise, not_normalisable};
use crate::basis::TaskExpr;
use crate::bundle::Fingerprint;
use crate::error::{Error, Result};
use crate::tower::Pooling;

/// The least variance per dimension that is reckoned with: features are of length 1, and f32's.
const MIN_VARIANCE: f64 = 1e-9;

/// Parts of a task's images, of which each is held out once.
const FOLDS: usize = 4;
/// The fewest images of a task.
const MIN_IMAGES: usize = 2 * FOLDS;
/// The dimensions of subspaces that are tried.
const COMPONENTS: [usize; 8] = [0, 1, 2, 4, 8, 16, 32, 64];
/// Temperatures that are tried: at 1 the densities are taken at their word.
const TEMPERATURES: [f64; 2] = [1.0, 1e6];
/// A direction whose share of the largest variance is below this is rounding.
const RANK_TOLERANCE: f64 = 1e-10;

/// How a router is made.
#[derive(Clone, Debug)]
pub struct RouterFit {
    /// The most dimensions of a task's subspace.
    pub max_components: usize,
    /// The confidence below which an image is not sent to its likeliest task, 0 to 1.
    pub threshold: f64,
    /// The kind of the features.
    pub kind: FeatureKind,
    /// The weights that the features are of.
    pub features: TaskExpr,
    /// The weights that answer below the threshold.
    pub fallback: Option<TaskExpr>,
}

impl Default for RouterFit {
    fn default() -> Self {
        Self {
            max_components: 8,
            threshold: THRESHOLD,
            kind: FeatureKind::Embedding,
            features: TaskExpr::base(),
            fallback: None,
        }
    }
}

/// What the making of a router found on the images that were held out in turn.
#[derive(Clone, Debug, PartialEq)]
pub struct FitReport {
    /// k, the dimensions of the subspaces.
    pub components: usize,
    /// τ.
    pub temperature: f64,
    /// The mean −ln p of the own task.
    pub loss: f64,
    /// Images per task.
    pub images: Vec<usize>,
    /// Per task the share of its images whose likeliest task it is.
    pub own: Vec<f64>,
    /// Per task the share of its images with a confidence of the threshold or more.
    pub confident: Vec<f64>,
}

impl RouterFit {
    /// Makes a router of the features of each task's images, f32 `[n, embedding]` as the encoder gives them for
    /// [`RouterFit::features`] and [`RouterFit::kind`]; `base` is what the model's base is known by. The same features
    /// give the same router.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument), naming the task, for fewer than 8 images, for
    /// features of another length, or one whose norm is 0 or not finite; for a threshold that is not 0 to 1, and for no
    /// tasks or two of one name.
    pub fn fit(
        &self,
        base: Fingerprint,
        pooling: Pooling,
        embedding: usize,
        tasks: &[(String, Vec<f32>)],
    ) -> Result<(Router, FitReport)> {
        let named = |at: usize, error: Error| error.hint(format!("It is of task `{}`", tasks[at].0));
        if tasks.is_empty() || embedding == 0 {
            return Err(Error::invalid("a router needs tasks, and features that have a length"));
        }
        if !embedding.is_multiple_of(self.kind.parts()) {
            let error = Error::invalid("hidden features of the wrong length");
            return Err(error.expected("2·width values").got(embedding));
        }
        for (at, (name, _)) in tasks.iter().enumerate() {
            if tasks[..at].iter().any(|(other, _)| other == name) {
                return Err(Error::invalid(format!("task `{name}` is there twice")));
            }
        }
        let mut rows = Vec::with_capacity(tasks.len());
        for (at, (name, features)) in tasks.iter().enumerate() {
            if !features.len().is_multiple_of(embedding) {
                let error = Error::invalid("features of the wrong length").expected(format_args!("N × {embedding}"));
                return Err(named(at, error.got(features.len())));
            }
            let count = features.len() / embedding;
            if count < MIN_IMAGES {
                return Err(Error::invalid(format!("too few images of task `{name}` to make a router of"))
                    .expected(format_args!("{MIN_IMAGES} or more"))
                    .got(count)
                    .hint("Give more images of it, or fewer tasks (--task)"));
            }
            let mut normalised = vec![0.0; features.len()];
            for (index, (row, feature)) in
                normalised.chunks_exact_mut(embedding).zip(features.chunks_exact(embedding)).enumerate()
            {
                normalise(feature, self.kind, row).map_err(|norm| named(at, not_normalisable(index, norm)))?;
            }
            rows.push(normalised);
        }
        let found = HeldOut::of(&rows, embedding, self.max_components, self.kind)?.best();
        let images: Vec<usize> = rows.iter().map(|rows| rows.len() / embedding).collect();
        let whitening = whitened(self.kind, embedding, &mut [&mut rows])?;
        let planes: Vec<Plane> = rows.iter().map(|rows| Plane::of(rows, embedding, found.components)).collect();
        let subspaces = Subspaces {
            means: planes.iter().flat_map(|plane| plane.mean.clone()).collect(),
            directions: planes.iter().flat_map(|plane| plane.directions.clone()).collect(),
            variances: found.variances.concat(),
            limits: found.limits.clone(),
            whitening,
        };
        subspaces.check()?;
        let router = Router {
            path: None,
            base,
            pooling,
            kind: self.kind,
            features: self.features.clone(),
            tasks: tasks.iter().map(|(name, _)| name.clone()).collect(),
            subspaces,
            temperature: found.temperature,
            threshold: THRESHOLD,
            fallback: self.fallback.clone(),
        }
        .with_threshold(self.threshold)?;
        let report = found.report(&router, images);
        Ok((router, report))
    }
}

/// Brings features, `[n, e]` per task, to where subspaces are made: hidden ones go through what whitens the first, and
/// all of them after it.
fn whitened(kind: FeatureKind, e: usize, of_tasks: &mut [&mut Vec<Vec<f64>>]) -> Result<Option<Whitening>> {
    if kind != FeatureKind::Hidden {
        return Ok(None);
    }
    let whitening = Whitening::of(of_tasks[0], e)?;
    for rows in of_tasks.iter_mut().flat_map(|tasks| tasks.iter_mut()) {
        rows.chunks_exact_mut(e).for_each(|row| whitening.apply(row));
    }
    Ok(Some(whitening))
}

/// The mean of some features, and the directions in which they vary most.
struct Plane {
    mean: Vec<f32>,
    /// `[k, e]`, orthonormal.
    directions: Vec<f32>,
}

impl Plane {
    /// Of `rows`, `[n, e]`.
    fn of(rows: &[f64], e: usize, k: usize) -> Self {
        let n = rows.len() / e;
        let x = DMatrixView::from_slice(rows, e, n); // A column per feature.
        let mean = x.column_mean();
        let centred = DMatrix::from_fn(e, n, |i, j| x[(i, j)] - mean[i]);
        let found = if n <= e { of_gram(&centred) } else { of_covariance(&centred) };
        let mut directions: Vec<Vec<f64>> = Vec::with_capacity(k);
        // Where there are fewer directions than are wanted, the axes stand in for them.
        let axes = (0..e).map(|axis| (0..e).map(|i| f64::from(u8::from(i == axis))).collect::<Vec<f64>>());
        for candidate in found.into_iter().chain(axes) {
            if directions.len() == k {
                break;
            }
            directions.extend(orthonormal(candidate, &directions));
        }
        let single = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<f32>>();
        Self { mean: single(mean.as_slice()), directions: directions.iter().flat_map(|u| single(u)).collect() }
    }
}

/// The principal directions of the columns, by the eigenvectors of their products with each other.
fn of_gram(centred: &DMatrix<f64>) -> Vec<Vec<f64>> {
    ordered(centred.transpose() * centred).into_iter().map(|v| (centred * v).as_slice().to_vec()).collect()
}

fn of_covariance(centred: &DMatrix<f64>) -> Vec<Vec<f64>> {
    ordered(centred * centred.transpose()).into_iter().map(|v| v.as_slice().to_vec()).collect()
}

/// The eigenvectors whose eigenvalues are more than rounding, the largest first.
fn ordered(matrix: DMatrix<f64>) -> Vec<nalgebra::DVector<f64>> {
    let SymmetricEigen { eigenvalues, eigenvectors } = SymmetricEigen::new(matrix);
    let mut order: Vec<usize> = (0..eigenvalues.len()).collect();
    order.sort_by(|&i, &j| eigenvalues[j].total_cmp(&eigenvalues[i]));
    let least = order.first().map_or(0.0, |&first| RANK_TOLERANCE * eigenvalues[first]).max(f64::MIN_POSITIVE);
    let order = order.into_iter().filter(|&i| eigenvalues[i] > least);
    order.map(|i| eigenvectors.column(i).into_owned()).collect()
}

/// `direction` without its part along `others`, of length 1; `None` where next to nothing is left of it.
fn orthonormal(mut direction: Vec<f64>, others: &[Vec<f64>]) -> Option<Vec<f64>> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let length = dot(&direction, &direction).sqrt();
    direction.iter_mut().for_each(|value| *value /= length);
    // Twice is enough (Kahan): what rounding left the first time goes.
    for _ in 0..2 {
        for other in others {
            let along = dot(&direction, other);
            direction.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
        }
    }
    let left = dot(&direction, &direction).sqrt();
    // NaN, of a direction without length, is no direction either.
    (left > 1e-3).then(|| direction.iter().map(|value| value / left).collect())
}

/// Every image, seen by subspaces that were made without it.
struct HeldOut {
    embedding: usize,
    /// The most dimensions, as many as `squares` has.
    most: usize,
    tasks: usize,
    kind: FeatureKind,
    /// The task of each image.
    own: Vec<usize>,
    /// Per image and task: ‖f − μ‖², and z_j², `[N, T, 1 + most]`.
    squares: Vec<f64>,
}

/// The dimensions that are best, with what belongs to them.
struct Best {
    components: usize,
    temperature: f64,
    loss: f64,
    /// `[k + 1]` per task.
    variances: Vec<Vec<f32>>,
    limits: Vec<f32>,
    /// Per image its task, and ln p of every task.
    scores: Vec<(usize, Vec<f64>)>,
    /// Per image its d² from its likeliest task.
    distances: Vec<f64>,
}

impl HeldOut {
    fn of(rows: &[Vec<f64>], e: usize, max_components: usize, kind: FeatureKind) -> Result<Self> {
        let fewest = rows.iter().map(|rows| rows.len() / e).min().unwrap_or(0);
        // Directions of three parts of the images; one is lost to their mean.
        let most = max_components.min(fewest - fewest.div_ceil(FOLDS) - 1).min(e - 1);
        let most = COMPONENTS.into_iter().filter(|&k| k <= most).max().unwrap_or(0);
        let mut held_out = Self { embedding: e, most, tasks: rows.len(), kind, own: Vec::new(), squares: Vec::new() };
        for fold in 0..FOLDS {
            let in_fold = |rows: &[f64], wanted: bool| -> Vec<f64> {
                let chosen = rows.chunks_exact(e).enumerate().filter(|(i, _)| (i % FOLDS == fold) == wanted);
                chosen.flat_map(|(_, row)| row.iter().copied()).collect()
            };
            let [mut kept, mut out] =
                [false, true].map(|wanted| rows.iter().map(|rows| in_fold(rows, wanted)).collect::<Vec<_>>());
            whitened(kind, e, &mut [&mut kept, &mut out])?;
            let planes: Vec<Plane> = kept.iter().map(|rows| Plane::of(rows, e, most)).collect();
            for (own, rows) in out.iter().enumerate() {
                for row in rows.chunks_exact(e) {
                    held_out.own.push(own);
                    for plane in &planes {
                        held_out.add(row, plane);
                    }
                }
            }
        }
        Ok(held_out)
    }

    fn add(&mut self, row: &[f64], plane: &Plane) {
        let difference: Vec<f64> = row.iter().zip(&plane.mean).map(|(&f, &mean)| f - f64::from(mean)).collect();
        self.squares.push(difference.iter().map(|value| value * value).sum());
        for direction in plane.directions.chunks_exact(self.embedding) {
            let z: f64 = difference.iter().zip(direction).map(|(value, &u)| value * f64::from(u)).sum();
            self.squares.push(z * z);
        }
    }

    /// What image `image` has to do with `task`: ‖f − μ‖², and z_j².
    fn seen(&self, image: usize, task: usize) -> (f64, &[f64]) {
        let all = &self.squares[(image * self.tasks + task) * (1 + self.most)..][..1 + self.most];
        (all[0], &all[1..])
    }

    fn best(&self) -> Best {
        let tried = COMPONENTS.into_iter().filter(|&k| k <= self.most).map(|k| self.with(k));
        // Of equally good ones the smallest.
        tried.reduce(|best, next| if next.loss < best.loss { next } else { best }).unwrap_or_else(|| self.with(0))
    }

    /// What subspaces of `k` dimensions are worth.
    fn with(&self, k: usize) -> Best {
        let variances: Vec<Vec<f32>> = (0..self.tasks).map(|task| self.variances(task, k)).collect();
        let distance = |image: usize, task: usize| {
            let (all, along) = self.seen(image, task);
            Distance::of_squares(all, along.iter().copied(), &variances[task], self.embedding)
        };
        let images = 0..self.own.len();
        let score = |image: usize| (0..self.tasks).map(|task| distance(image, task).log_likelihood()).collect();
        let scores: Vec<(usize, Vec<f64>)> = images.clone().map(|image| (self.own[image], score(image))).collect();
        let (temperature, loss) = calibrate(&scores);
        let limit = |task: usize| {
            let own = images.clone().filter(|&image| self.own[image] == task);
            own.map(|image| distance(image, task).squared).fold(MIN_VARIANCE, f64::max) as f32
        };
        let distances = images.clone().map(|image| distance(image, largest(&scores[image].1)).squared).collect();
        let limits = (0..self.tasks).map(limit).collect();
        Best { components: k, temperature, loss, variances, limits, scores, distances }
    }

    /// λ_1 … λ_k and σ² of a task: what its own images had on average, of whitened features half and half with the 1
    /// that all tasks have on average. No λ is below σ².
    fn variances(&self, task: usize, k: usize) -> Vec<f32> {
        let own: Vec<usize> = (0..self.own.len()).filter(|&image| self.own[image] == task).collect();
        let mean = |of: &dyn Fn(usize) -> f64| own.iter().map(|&image| of(image)).sum::<f64>() / own.len() as f64;
        let rest = mean(&|image| {
            let (all, along) = self.seen(image, task);
            (all - along[..k].iter().sum::<f64>()).max(0.0)
        });
        let noise = (rest / (self.embedding - k) as f64).max(MIN_VARIANCE);
        let along = (0..k).map(|j| mean(&|image| self.seen(image, task).1[j]).max(noise));
        let mixed = |value: f64| match self.kind {
            FeatureKind::Embedding => value,
            FeatureKind::Hidden => 0.5 * (value + 1.0),
        };
        along.chain([noise]).map(|value| mixed(value) as f32).collect()
    }
}

impl Best {
    fn report(&self, router: &Router, images: Vec<usize>) -> FitReport {
        let count = images.len();
        let (mut own, mut confident) = (vec![0.0; count], vec![0.0; count]);
        for ((task, scores), distance) in self.scores.iter().zip(&self.distances) {
            let route = router.judge(scores, |_| *distance);
            own[*task] += f64::from(u8::from(route.task == *task));
            confident[*task] += f64::from(u8::from(router.choice(&route) == Choice::Task));
        }
        for shares in [&mut own, &mut confident] {
            shares.iter_mut().zip(&images).for_each(|(share, &images)| *share /= images as f64);
        }
        let Self { components, temperature, loss, .. } = *self;
        FitReport { components, temperature, loss, images, own, confident }
    }
}

/// The temperature with the least mean −ln p of the own task, and that mean.
fn calibrate(scores: &[(usize, Vec<f64>)]) -> (f64, f64) {
    let loss = |temperature: f64| {
        let of = |(own, scores): &(usize, Vec<f64>)| {
            let best = scores[largest(scores)];
            let total: f64 = scores.iter().map(|score| ((score - best) / temperature).exp()).sum();
            total.ln() - (scores[*own] - best) / temperature
        };
        scores.iter().map(of).sum::<f64>() / scores.len().max(1) as f64
    };
    // The loss is convex in 1/τ, so it has one valley, and a golden section search over ln τ ends in it.
    let ratio = (5.0f64.sqrt() - 1.0) / 2.0;
    let [mut low, mut high] = TEMPERATURES.map(f64::ln);
    for _ in 0..64 {
        let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
        if loss(a.exp()) <= loss(b.exp()) {
            high = b;
        } else {
            low = a;
        }
    }
    let temperature = (0.5 * (low + high)).exp();
    (temperature, loss(temperature))
}
