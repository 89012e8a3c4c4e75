//! Merged vectors in a bundle: tasks without a share of the vectors, whose residual is all there is of them.

use std::collections::HashMap;
use std::ops::Range;

use super::add_tasks::BundleUpdate;
use super::chunks::{chunks, encoded_row, read};
use super::format::{Metadata, Role};
use super::items::vector_item;
use super::measure::ratio;
use super::merge_source::{AddedMerge, NewMerge, Squares};
use super::opened::Bundle;
use super::quantise::StoredFormat;
use super::task_fit::TaskFit;
use super::writer::Item;
use crate::basis::plausibility;
use crate::error::{Error, Result};

impl Bundle {
    /// The merged vectors, each with how it was made: tasks of their own, which `all` leaves out.
    pub fn merges(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.metadata.merges.iter().map(|(name, method)| (name.as_str(), method.as_str()))
    }
}

impl<'a> BundleUpdate<'a> {
    /// Adds a merged vector, which is then a task of its name like any other, but for `all`, the sum of the tasks. What
    /// storing it costs is among the fits that [`BundleUpdate::write`] gives.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a name that is taken or empty.
    pub fn merge(&mut self, merge: NewMerge<'a>) -> Result<&mut Self> {
        self.check_new_name(merge.name)?;
        let vectors = self.metadata.basis.vectors;
        self.add_column(merge.name, vec![0.0; vectors]);
        self.metadata.merges.insert(merge.name.to_owned(), merge.method.to_owned());
        let base_norm = plausibility::square(self.base_tensors())?.sqrt();
        let fit = self.push_fit(TaskFit {
            task: merge.name.to_owned(),
            coefficients: vec![0.0; vectors],
            rank: 0,
            norm: 0.0,
            base_norm,
            lacking: 1.0,
            lacking_with_residual: None,
            unchanged: Vec::new(),
        });
        self.merges.push(AddedMerge { merge, fit });
        Ok(self)
    }

    /// The items of the merges, whose residuals count on from `first`, for the parameters of `parameters`.
    pub(super) fn merge_items<'s>(
        &'s self,
        first: usize,
        parameters: &[(&'a str, &'a [usize])],
        metadata: &mut Metadata,
        squares: &'s Squares,
        progress: &'s dyn Fn(u64),
        items: &mut Vec<Item<'s>>,
    ) -> Result<()> {
        for (at, AddedMerge { merge, .. }) in self.merges.iter().enumerate() {
            for &(parameter, shape) in parameters {
                let role = Role::Residual(first + at, parameter);
                let format = merge.format.for_shape(shape);
                items.push(vector_item(role, format, shape, None, &mut metadata.blocks, move |sink| {
                    let (row, norm, error) = self.stored(merge, parameter, shape, format)?;
                    let (norms, errors) = &mut squares.borrow_mut()[at];
                    *norms += norm;
                    *errors += error;
                    sink.write(&row)?;
                    progress(row.len() as u64);
                    Ok(())
                })?);
            }
        }
        Ok(())
    }

    /// Puts the norms and errors into the fits.
    pub(super) fn measure_merges(&mut self, squares: Squares) {
        for (added, (norm, error)) in self.merges.iter().zip(squares.into_inner()) {
            let fit = &mut self.fits[added.fit];
            fit.norm = norm.sqrt();
            fit.lacking_with_residual = Some(ratio(error.sqrt(), fit.norm));
        }
    }

    /// A parameter of a merge as it is stored, ‖v‖², and the squared error that storing makes. PCA's mean, which every
    /// task has, is taken away.
    fn stored(
        &self,
        merge: &NewMerge<'_>,
        parameter: &str,
        shape: &[usize],
        format: StoredFormat,
    ) -> Result<(Vec<u8>, f64, f64)> {
        let numel: usize = shape.iter().product();
        let values = if merge.vector.changes(parameter) { Some(merge.vector.values(parameter)?) } else { None };
        if let Some(values) = values.as_ref().filter(|values| values.len() != numel) {
            return Err(Error::mismatch("the merged vector is of another shape").expected(numel).got(values.len()));
        }
        let mean = self.metadata.basis.mean.then(|| self.bundle.vectors.get(parameter)).flatten();
        let mean = mean.map(|sources| &sources[self.metadata.basis.vectors]);
        let square = |range: Range<usize>| match &values {
            Some(values) => values[range].iter().map(|&value| f64::from(value).powi(2)).sum::<f64>(),
            None => 0.0,
        };
        let norm = chunks(numel).map(square).sum();
        let (row, error) = encoded_row(shape, self.threads, format, |range| {
            let mut rest =
                values.as_ref().map_or_else(|| vec![0.0; range.len()], |values| values[range.clone()].to_vec());
            if let Some(mean) = mean {
                rest.iter_mut().zip(read(mean, range)?).for_each(|(rest, mean)| *rest -= mean);
            }
            Ok(rest)
        })?;
        Ok((row, norm, error))
    }

    /// The parameters that any merge changes.
    pub(super) fn is_merged(&self, parameter: &str) -> bool {
        self.merges.iter().any(|added| added.merge.vector.changes(parameter))
    }

    /// Adds to `added` the parameters that no vector changes and a merge does.
    pub(super) fn add_merged<'p>(
        &self,
        parameters: impl Iterator<Item = (&'p str, &'p [usize])>,
        added: &mut HashMap<&'p str, &'p [usize]>,
    ) {
        added.extend(parameters.filter(|(parameter, _)| self.is_merged(parameter)));
    }
}
