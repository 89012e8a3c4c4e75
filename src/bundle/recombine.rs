//! Other vectors for a bundle: sums of those that it has and of a new task vector.

use std::collections::HashMap;

use super::add_tasks::BundleUpdate;
use super::chunks::{chunk_of_row, in_chunks, read, whole_row};
use super::format::{Metadata, Role};
use super::items::vector_item;
use super::quantise::{StoredFormat, VectorFormat};
use super::recombination::Recombination;
use super::task_fit::{Span, TaskFit};
use super::writer::Item;
use crate::basis::Method;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::heads::Head;
use crate::tensor::try_zeroed;

#[cfg_attr(not(feature = "build"), allow(dead_code))] // Vectors are made anew by `build` alone.
impl<'a> BundleUpdate<'a> {
    /// How the bundle's vectors were made.
    pub(crate) fn method(&self) -> Method {
        self.bundle.method
    }

    /// The tasks as they will be, and the coefficients of each.
    pub(crate) fn columns(&self) -> impl Iterator<Item = (&str, &[f64])> {
        self.metadata.basis.tasks.iter().map(String::as_str).zip(self.columns.iter().map(Vec::as_slice))
    }

    /// Whether the task has a residual, or is to get one.
    pub(crate) fn has_residual(&self, task: &str) -> bool {
        let basis = &self.metadata.basis;
        let is_new = || self.residuals.iter().any(|residual| basis.tasks[residual.task] == task);
        basis.residuals.iter().any(|known| known == task) || is_new()
    }

    /// Takes a new task's name and head, and gives the products of the vectors, of the mean where there is one, and of
    /// the task vector.
    ///
    /// # Errors
    /// As [`BundleUpdate::task`].
    pub(crate) fn products(&mut self, name: &str, head: Option<Head>, finetuned: &Checkpoint) -> Result<Span> {
        self.check_new(name, head)?;
        self.span(finetuned, true)
    }

    /// About what share of its length a vector loses by being stored as most of the bundle's are.
    pub(crate) fn rounding(&self) -> f64 {
        self.usual_format().usual_loss()
    }

    /// Gives the bundle these vectors and all tasks these coefficients, the new one's last.
    pub(crate) fn recombine(&mut self, recombination: Recombination<'a>, columns: Vec<Vec<f64>>, fit: TaskFit) {
        self.metadata.basis.tasks.push(fit.task.clone());
        self.columns = columns;
        self.recombination = Some(recombination);
        self.fits.push(fit);
    }

    /// Adds the vectors that are made anew, and their mean, each parameter in the format that it has.
    pub(super) fn add_recombined<'s>(
        &'s self,
        added: &HashMap<&'a str, &'a [usize]>,
        metadata: &mut Metadata,
        items: &mut Vec<Item<'s>>,
        progress: &'s dyn Fn(u64),
    ) -> Result<()> {
        let Some(recombination) = &self.recombination else { return Ok(()) };
        let (vectors, mean) = recombination.rows.split_at(recombination.vectors);
        for (parameter, shape) in self.parameters() {
            let stored = self.bundle.vectors.get(parameter);
            if stored.is_none() && !added.contains_key(parameter) {
                continue;
            }
            let format_at = |place: usize| {
                let own = stored.and_then(|sources| StoredFormat::of_source(&sources[place]));
                own.unwrap_or_else(|| self.usual_format().for_shape(shape))
            };
            let of_vectors = (Role::Vectors(parameter), format_at(0), Some(recombination.vectors), vectors);
            let of_mean = (!mean.is_empty())
                .then(|| (Role::Mean(parameter), format_at(self.bundle.metadata.basis.vectors), None, mean));
            for (role, format, count, rows) in std::iter::once(of_vectors).chain(of_mean) {
                let item = vector_item(role, format, shape, count, &mut metadata.blocks, move |sink| {
                    for row in self.recombined(recombination, parameter, shape, rows, format)? {
                        sink.write(&row)?;
                        progress(row.len() as u64);
                    }
                    Ok(())
                })?;
                items.push(item);
            }
        }
        Ok(())
    }

    /// The format of the first matrix that the vectors change.
    fn usual_format(&self) -> StoredFormat {
        let matrices = self.bundle.vectors.values().filter(|sources| sources[0].shape().len() >= 2);
        matrices.filter_map(|sources| StoredFormat::of_source(&sources[0])).next().unwrap_or(VectorFormat::F16.into())
    }

    /// These sums of a parameter, as they are stored.
    fn recombined(
        &self,
        recombination: &Recombination<'_>,
        parameter: &str,
        shape: &[usize],
        rows: &[Vec<f64>],
        format: StoredFormat,
    ) -> Result<Vec<Vec<u8>>> {
        let numel: usize = shape.iter().product();
        let tuned = self.tuned(recombination.finetuned, parameter)?;
        let basis = &self.bundle.metadata.basis;
        let count = basis.vectors + usize::from(basis.mean);
        let chunks = in_chunks(numel, self.threads, |range| {
            let sources = self.sources_of(parameter, count).iter().map(|source| read(source, &range));
            let mut terms = sources.collect::<Result<Vec<_>>>()?;
            // What no vector changes is zero in all of them.
            terms.resize_with(count, Vec::new);
            terms.push(self.target(tuned, parameter, &range, false)?.0);
            let mut sums = try_zeroed::<f64>(range.len())?;
            let mut values = try_zeroed::<f32>(range.len())?;
            let encode = |row: &Vec<f64>| {
                sums.fill(0.0);
                for (a, term) in row.iter().zip(&terms) {
                    sums.iter_mut().zip(term).for_each(|(sum, &value)| *sum += a * f64::from(value));
                }
                values.iter_mut().zip(&sums).for_each(|(value, sum)| *value = *sum as f32);
                Ok(chunk_of_row(format, &values)?.0)
            };
            rows.iter().map(encode).collect::<Result<Vec<_>>>()
        })?;
        let mut whole = vec![Vec::new(); rows.len()];
        for chunk in chunks {
            whole.iter_mut().zip(chunk).for_each(|(row, bytes)| row.extend(bytes));
        }
        whole.into_iter().map(|row| Ok(whole_row(format, shape, row)?.0)).collect()
    }
}
