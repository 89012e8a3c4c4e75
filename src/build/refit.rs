//! A task added to a bundle with the vectors made anew, where tasks come one after another and the old ones'
//! checkpoints are not at hand any more.
//!
//! The old tasks are what the vectors give back of them, so all T + 1 task vectors are sums of the bundle's vectors
//! (and of PCA's mean) and of the new task vector. Their Gram matrix follows from the products of these few, any
//! method's coefficients from that, and the new vectors are such sums again: two readings of the bundle and of one
//! checkpoint.

use nalgebra::DMatrix;

use super::activated::AutoencoderForm;
use super::fit::Fit;
use super::gram::Gram;
use crate::basis::Method;
use crate::bundle::{BundleUpdate, NewTask, Recombination, TaskFit};
use crate::error::{Error, Result};

/// How vectors are made anew.
#[derive(Clone, Copy, Debug, Default)]
pub struct RefitOptions {
    /// M′, the number of new vectors; `None` for as many as there are.
    pub vectors: Option<usize>,
    /// Another seed gives another of the Autoencoder's equally good bases.
    pub seed: u32,
}

/// What making the vectors anew came to, before they are rounded to the formats that they are stored in.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Refit {
    /// M′.
    pub vectors: usize,
    /// √(Σ_t ‖τ_t − τ̂_t‖² / Σ_t ‖τ_t‖²), over the tasks below.
    pub lacking: f64,
    /// The least that it could be for any M′ vectors (and for PCA the mean).
    pub least: f64,
    /// The tasks that are in the span of the vectors.
    pub tasks: Vec<RefitTask>,
}

/// What becomes of one task.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RefitTask {
    /// The task.
    pub task: String,
    /// ‖τ‖: of an old task as the bundle gave it back, of the new one as it is.
    pub norm: f64,
    /// ‖τ − τ̂‖ / ‖τ‖.
    pub lacking: f64,
}

/// Adds a task to what `update` writes, and makes the vectors anew for all tasks by the bundle's own method
/// (Autoencoder or PCA). What the old tasks lacked of their checkpoints they go on lacking; tasks without coefficients,
/// which have nothing but a residual, stay as they are. Every parameter keeps its format, so old tasks are rounded once
/// more.
///
/// # Errors
/// As [`BundleUpdate::task`]; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a bundle of another method,
/// where the new task is to have a residual, and where an old one has a residual beside its coefficients;
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for no vector, more vectors than tasks, and a new
/// task whose weights are the base's.
pub fn refit<'a>(update: &mut BundleUpdate<'a>, task: NewTask<'a>, options: &RefitOptions) -> Result<Refit> {
    let NewTask { name, finetuned, head, residual } = task;
    let at = |update: &BundleUpdate<'_>, error: Error| error.at(update.bundle().path());
    let method = update.method();
    if !matches!(method, Method::Autoencoder | Method::Pca) {
        let error = Error::unsupported("vectors of this method cannot be made anew from the vectors themselves");
        return Err(at(update, error.expected("Autoencoder or PCA").got(method)));
    }
    if residual.is_some() {
        let error = Error::unsupported("a residual of a task that the vectors are made anew with");
        return Err(at(update, error.hint("Add the task without it: its residual can be stored afterwards")));
    }
    let old: Vec<(String, Vec<f64>)> =
        update.columns().map(|(task, column)| (task.to_owned(), column.to_vec())).collect();
    let in_span: Vec<bool> = old.iter().map(|(_, column)| column.iter().any(|&a| a != 0.0)).collect();
    if let Some(((task, _), _)) = old.iter().zip(&in_span).find(|((task, _), is)| **is && update.has_residual(task)) {
        let error = Error::unsupported(format!("task `{task}` has a residual, which is of the vectors as they are"));
        return Err(at(update, error.hint("Take the task out and add it again, without a residual")));
    }
    if method.has_mean() && old.iter().any(|(task, _)| update.has_residual(task)) {
        let error = Error::unsupported("residuals and merged vectors, which are of the mean as it is");
        return Err(at(update, error.hint("Take them out first: taskbasis remove-task")));
    }
    let span = update.products(name, head, finetuned)?;

    // The tasks as sums of what there is: the vectors, the mean, the new task vector.
    let m = old.first().map_or(0, |(_, column)| column.len());
    let rows = m + usize::from(method.has_mean()) + 1;
    let mut names: Vec<String> = Vec::new();
    let mut sums: Vec<Vec<f64>> = Vec::new();
    for (task, column) in old.iter().zip(&in_span).filter(|(_, is)| **is).map(|(old, _)| old) {
        names.push(task.clone());
        let mut sum = column.clone();
        sum.resize(rows - 1, 1.0);
        sum.push(0.0);
        sums.push(sum);
    }
    names.push(name.to_owned());
    sums.push((0..rows).map(|row| if row + 1 == rows { 1.0 } else { 0.0 }).collect());
    let t = names.len();
    let sums = DMatrix::from_fn(rows, t, |row, t| sums[t][row]);
    let products = DMatrix::from_fn(rows, rows, |i, j| span.gram.get(i, j));
    let of_tasks = sums.transpose() * products * &sums;
    // Symmetric, but for rounding.
    let of_tasks = (&of_tasks + of_tasks.transpose()) * 0.5;
    let gram = Gram::new(names.clone(), of_tasks.as_slice())?;

    let vectors = options.vectors.unwrap_or(m);
    let fit = match method {
        Method::Autoencoder => {
            let form = AutoencoderForm::default();
            Fit::autoencoder_as_stored(&gram, vectors, options.seed, form, update.rounding())?
        }
        _ => Fit::of(method, &gram, vectors, options.seed)?,
    };
    let combine = &sums * &fit.combine;
    let mut new_rows: Vec<Vec<f64>> = combine.column_iter().map(|column| column.iter().copied().collect()).collect();
    if method.has_mean() {
        new_rows.push((&sums * DMatrix::from_element(t, 1, 1.0 / t as f64)).as_slice().to_vec());
    }
    let mut found = fit.recover.column_iter().map(|column| column.iter().copied().collect::<Vec<f64>>());
    let mut columns: Vec<Vec<f64>> = Vec::with_capacity(old.len() + 1);
    for is_in_span in in_span.iter().copied().chain([true]) {
        let column = if is_in_span { found.next() } else { None };
        columns.push(column.unwrap_or_else(|| vec![0.0; vectors]));
    }
    let lacking: Vec<f64> = fit.errors().iter().map(|error| error.unwrap_or(f64::NAN)).collect();
    let fitted = TaskFit {
        task: name.to_owned(),
        coefficients: columns.last().cloned().unwrap_or_default(),
        rank: vectors,
        norm: span.norm.sqrt(),
        base_norm: span.base_norm.sqrt(),
        lacking: lacking[t - 1],
        lacking_with_residual: None,
        unchanged: span.unchanged,
    };
    update.recombine(Recombination { finetuned, rows: new_rows, vectors }, columns, fitted);

    let whole: f64 = (0..t).map(|t| gram.get(t, t)).sum();
    let lost: f64 = (0..t).map(|t| lacking[t].powi(2) * gram.get(t, t)).sum();
    let left: f64 = gram.spectrum(method.has_mean())[vectors..].iter().sum();
    let tasks = names.into_iter().zip(lacking).enumerate();
    Ok(Refit {
        vectors,
        lacking: (lost / whole).sqrt(),
        least: (left / whole).sqrt(),
        tasks: tasks.map(|(t, (task, lacking))| RefitTask { task, norm: gram.get(t, t).sqrt(), lacking }).collect(),
    })
}
