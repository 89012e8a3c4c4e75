//! The checks of a bundle that need a look at its tensors.

use std::sync::Arc;

use parking_lot::Mutex;
use twox_hash::XxHash3_64;

use super::fingerprint::Fingerprint;
use super::format::{Role, name};
use super::opened::Bundle;
use super::quantise::StoredFormat;
use super::reader::wrong_checksum;
use crate::checkpoint::{Checkpoint, Format};
use crate::error::{Error, Result};
use crate::kernel::share;
use crate::mmap::Mapping;
use crate::onnx::BoundGraph;
use crate::tensor::{DType, Source, Tensor, checked_numel, try_zeroed};

impl Bundle {
    /// Reads everything and gives everything that is wrong: wrong checksums, padding that is not zero, numbers that are
    /// not finite, a stored base that is not the one of the fingerprint, a graph that does not take the base's weights.
    /// Empty where all is well. `progress` is called after every tensor with its bytes. Threads: 0 means one per
    /// processor.
    pub fn verify(&self, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Vec<Error> {
        let found = Mutex::new(Vec::new());
        let mut sums = self.checksums.iter().skip(1).copied();
        let tensors: Vec<(usize, &str, &Tensor, Option<u64>)> = self
            .tensors
            .iter()
            .enumerate()
            .map(|(i, (tensor_name, tensor))| {
                let is_summed = !matches!(Role::of(tensor_name), Some(Role::Padding(_) | Role::Checksums));
                (i, tensor_name.as_str(), tensor, if is_summed { sums.next() } else { None })
            })
            .collect();
        // `share` ends at the first error, and every one is wanted: they go into the list instead.
        let done = share(threads, tensors, |(i, tensor_name, tensor, sum), (): &mut ()| {
            if let Err(error) = check(self, tensor_name, tensor, sum) {
                let error = error.tensor(tensor_name).at(self.path());
                found.lock().push((i, error));
            }
            progress(tensor.nbytes() as u64);
            Ok(())
        });
        let mut found = found.into_inner();
        found.sort_by_key(|(i, _)| *i);
        let mut errors: Vec<Error> = found.into_iter().map(|(_, error)| error).chain(done.err()).collect();
        if errors.is_empty() {
            errors.extend(check_fingerprint(self, threads).err());
            errors.extend(check_graph(self).err());
            for task in self.head_tasks() {
                errors.extend(self.head(task).err());
            }
        }
        errors
    }
}

fn check(bundle: &Bundle, tensor_name: &str, tensor: &Tensor, sum: Option<u64>) -> Result<()> {
    let read = tensor.in_memory()?;
    let bytes = read.to_bytes()?;
    if let Some(told) = sum {
        let got = XxHash3_64::oneshot(&bytes);
        if got != told {
            return Err(wrong_checksum("the tensor", told, got));
        }
    }
    let basis = &bundle.metadata.basis;
    match Role::of(tensor_name) {
        Some(Role::Padding(_)) if bytes.iter().any(|&byte| byte != 0) => Err(Error::format("padding must be zero")),
        Some(Role::Vectors(parameter)) => {
            let vectors = &bundle.vectors[parameter][..basis.vectors];
            vectors.iter().try_for_each(|vector| check_source(vector, tensor, &read))
        }
        Some(Role::Mean(parameter)) => check_source(&bundle.vectors[parameter][basis.vectors], tensor, &read),
        Some(Role::Residual(r, parameter)) => {
            check_source(&bundle.vectors[parameter][basis.vectors + usize::from(basis.mean) + r], tensor, &read)
        }
        // The recovery table may hold NaN, and opening has looked at it.
        Some(_) if tensor.dtype().is_float() && tensor.dtype() != DType::F64 => read.verify_finite(),
        _ => Ok(()),
    }
}

/// Checks that values are finite, and that nothing but zeros lies behind the blocks. `read` is `tensor`, of which
/// `source` is a piece, in memory.
fn check_source(source: &Source, tensor: &Tensor, read: &Tensor) -> Result<()> {
    let Some(range) = source.range().filter(|_| source.dtype().is_none()) else {
        return source.in_memory()?.verify_finite();
    };
    let place = range.start - tensor.offset() + read.offset();
    let end = place + range.len();
    if let Some(format) = StoredFormat::of_source(source) {
        format.source(read.mapping(), place..end, source.shape())?.verify_finite()?;
    }
    let row = tensor.shape().last().copied().unwrap_or(0);
    let rest = &read.mapping()[end..end + row.saturating_sub(range.len())];
    match rest.iter().any(|&byte| byte != 0) {
        true => Err(Error::format("what fills a row behind its blocks must be zero")),
        false => Ok(()),
    }
}

/// The graph takes every weight of the base and nothing else; of a base that is left out the shapes are known.
fn check_graph(bundle: &Bundle) -> Result<()> {
    let basis = bundle.basis()?;
    if let Some(base) = bundle.base()? {
        return bundle.bound_graph(&base, Some(&basis)).map(drop);
    }
    let shapes = shapes(bundle)?;
    bundle.with_graph(|file, map| BoundGraph::of_embedded_shapes(file, map, &shapes, Some(&basis))).map(drop)
}

/// The base's parameters without values: all of them the same zeros, as many as the largest one has.
fn shapes(bundle: &Bundle) -> Result<Checkpoint> {
    let bytes = |shape: &Vec<usize>| checked_numel(shape).and_then(|numel| numel.checked_mul(size_of::<f32>()));
    let overflows = || Error::format("a shape overflows").at(bundle.path());
    let sizes: Vec<usize> = bundle.parameters.values().map(bytes).collect::<Option<_>>().ok_or_else(overflows)?;
    let largest = sizes.iter().copied().max().unwrap_or(0);
    let zeros = Arc::new(Mapping::from_vec(try_zeroed(largest)?, bundle.path()));
    let tensors = bundle
        .parameters
        .iter()
        .zip(sizes)
        .map(|((name, shape), size)| Ok((name.clone(), Tensor::contiguous(&zeros, 0..size, DType::F32, shape)?)));
    Ok(Checkpoint::of_canonical(bundle.path(), Format::Safetensors, tensors.collect::<Result<_>>()?))
}

/// A base that was not rounded must be the one of the fingerprint.
fn check_fingerprint(bundle: &Bundle, threads: usize) -> Result<()> {
    let Some(base) = bundle.base()? else { return Ok(()) };
    if base.iter().any(|(_, tensor)| tensor.dtype() != DType::F32) {
        return Ok(());
    }
    let fingerprint = Fingerprint::of(&base, threads)?;
    if fingerprint == bundle.fingerprint() {
        return Ok(());
    }
    Err(Error::format(format!("the tensors `{}…` are not the base of the fingerprint", name::BASE))
        .at(bundle.path())
        .expected(bundle.fingerprint())
        .got(fingerprint))
}
