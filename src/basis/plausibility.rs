//! Signs that task vectors are not what fine-tuning made of their base, but the way from one model to another.
//!
//! Fine-tuning moves weights by a few hundredths of their length: the digits family by 1.4 to 2.5 %, published CLIP
//! families by about as much, and in directions that are nearly orthogonal (of the digits family's eight, the first
//! principal direction has 19 %). Another model of the same shapes is as long and as far away as the base itself, about
//! √2 of its length, and that way is common to all tasks. Both bounds lie far from either.

use crate::error::Result;
use crate::tensor::{Tensor, try_zeroed};

/// A task vector of this share of the base's length, or more, is hardly made by fine-tuning.
pub(crate) const MIN_DOUBTFUL_SHARE: f64 = 0.5;
/// Task vectors of which one direction has this share of the spectrum, or more, are one vector.
#[cfg(feature = "build")]
pub(crate) const MIN_PARALLEL_SHARE: f64 = 0.99;

/// The most tasks that a remark names.
const MAX_NAMED: usize = 5;

/// The remark on tasks that are too long: names, and their vectors' lengths as shares of the base's. `None` where all
/// are as they should be.
pub(crate) fn long<'a>(lengths: impl Iterator<Item = (&'a str, f64)>) -> Option<String> {
    let long: Vec<(&str, f64)> = lengths.filter(|(_, share)| *share >= MIN_DOUBTFUL_SHARE).collect();
    let of = |(task, share): &(&str, f64)| format!("`{task}` {:.0} %", 100.0 * share);
    let named: Vec<String> = long.iter().take(MAX_NAMED).map(of).collect();
    let more = if long.len() > MAX_NAMED { format!(" and {} more", long.len() - MAX_NAMED) } else { String::new() };
    (!long.is_empty()).then(|| {
        format!(
            "task vectors as long as the base's weights ({}{more}; fine-tuning makes a few %): another model's base?",
            named.join(", ")
        )
    })
}

/// ‖W‖² of these tensors, in f64.
///
/// # Errors
/// As [`Tensor::read_f32`].
pub(crate) fn square<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<f64> {
    let mut buffer = try_zeroed::<f32>(1 << 16)?;
    let mut total = 0.0;
    for tensor in tensors {
        for start in (0..tensor.numel()).step_by(buffer.len()) {
            let length = buffer.len().min(tensor.numel() - start);
            tensor.read_f32(start, &mut buffer[..length])?;
            total += buffer[..length].iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
        }
    }
    Ok(total)
}
