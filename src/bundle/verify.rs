//! Everything that opening does not look at.

use std::sync::Arc;

use parking_lot::Mutex;
use twox_hash::XxHash3_64;

use super::format::{Role, name};
use super::reader::wrong_checksum;
use super::{Bundle, Fingerprint};
use crate::checkpoint::{Checkpoint, Format};
use crate::error::{Error, Result};
use crate::kernel::share;
use crate::mmap::Mapping;
use crate::onnx::BoundGraph;
use crate::tensor::{DType, Source, Tensor, checked_numel, try_zeroed};

pub(super) fn verify(bundle: &Bundle, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Vec<Error> {
    let found = Mutex::new(Vec::new());
    let mut sums = bundle.checksums.iter().skip(1).copied();
    let pieces: Vec<(usize, &str, &Tensor, Option<u64>)> = bundle
        .tensors
        .iter()
        .enumerate()
        .map(|(i, (tensor_name, tensor))| {
            let summed = !matches!(Role::of(tensor_name), Some(Role::Padding | Role::Checksums));
            (i, tensor_name.as_str(), tensor, if summed { sums.next() } else { None })
        })
        .collect();
    // `share` ends at the first error, and every one is wanted: they go into the list instead.
    let done = share(threads, pieces, |(i, tensor_name, tensor, sum), (): &mut ()| {
        if let Err(error) = check(bundle, tensor_name, tensor, sum) {
            let error = error.tensor(tensor_name).at(bundle.path());
            found.lock().push((i, error));
        }
        progress(tensor.nbytes() as u64);
        Ok(())
    });
    let mut found = found.into_inner();
    found.sort_by_key(|(i, _)| *i);
    let mut errors: Vec<Error> = found.into_iter().map(|(_, error)| error).chain(done.err()).collect();
    if errors.is_empty() {
        errors.extend(check_fingerprint(bundle, threads).err());
        errors.extend(check_graph(bundle).err());
        for task in bundle.head_tasks() {
            errors.extend(bundle.head(task).err());
        }
    }
    errors
}

fn check(bundle: &Bundle, tensor_name: &str, tensor: &Tensor, sum: Option<u64>) -> Result<()> {
    let bytes = tensor.bytes().unwrap_or_default();
    if let Some(told) = sum {
        let got = XxHash3_64::oneshot(bytes);
        if got != told {
            return Err(wrong_checksum("the tensor", told, got));
        }
    }
    match Role::of(tensor_name) {
        Some(Role::Padding) if bytes.iter().any(|&byte| byte != 0) => Err(Error::format("padding must be zero")),
        Some(Role::Vectors(parameter)) => {
            let vectors = &bundle.pieces[parameter].sources[..bundle.about.basis.vectors];
            vectors.iter().try_for_each(|vector| check_source(vector, tensor))
        }
        Some(Role::Mean(parameter)) => {
            check_source(&bundle.pieces[parameter].sources[bundle.about.basis.vectors], tensor)
        }
        Some(Role::Residual(r, parameter)) => {
            let index = bundle.about.basis.vectors + usize::from(bundle.about.basis.mean) + r;
            check_source(&bundle.pieces[parameter].sources[index], tensor)
        }
        // The recovery table may hold NaN, and opening has looked at it.
        Some(_) if tensor.dtype().is_float() && tensor.dtype() != DType::F64 => tensor.verify_finite(),
        _ => Ok(()),
    }
}

/// Finite values, and nothing but zeros behind the blocks.
fn check_source(source: &Source, tensor: &Tensor) -> Result<()> {
    source.verify_finite()?;
    if let Source::Blocks(blocks) = source {
        let row = tensor.shape().last().copied().unwrap_or(0);
        let end = blocks.offset() + blocks.nbytes();
        let rest = &tensor.mapping()[end..end + row.saturating_sub(blocks.nbytes())];
        if rest.iter().any(|&byte| byte != 0) {
            return Err(Error::format("what fills a row behind its blocks must be zero"));
        }
    }
    Ok(())
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
    let bytes = |shape: &[usize]| checked_numel(shape).and_then(|n| n.checked_mul(size_of::<f32>()));
    let sizes = bundle.parameters.values().map(|shape| bytes(shape));
    let most = sizes.max().flatten().ok_or_else(|| Error::format("a shape overflows").at(bundle.path()))?;
    let zeros = Arc::new(Mapping::from_vec(try_zeroed(most)?, bundle.path()));
    let of = |shape: &[usize]| Tensor::contiguous(&zeros, 0..bytes(shape).unwrap_or(most), DType::F32, shape);
    let tensors = bundle.parameters.iter().map(|(name, shape)| Ok((name.clone(), of(shape)?)));
    Checkpoint::from_tensors(bundle.path(), Format::Safetensors, tensors.collect::<Result<_>>()?)
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
