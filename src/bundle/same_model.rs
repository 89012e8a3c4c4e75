//! Whether a fine-tuned checkpoint is of the model that a bundle is of.

use super::opened::Bundle;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::tower::Arch;

/// Checks that `finetuned`, with the parameters that training left alone (`frozen`, with their shapes), is of the
/// bundle's model.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the file, and of an encoder that only a graph is known of
/// the tensor; as [`Arch::infer`].
pub(super) fn check<'a>(
    bundle: &Bundle,
    finetuned: &'a Checkpoint,
    frozen: impl Iterator<Item = (&'a str, &'a [usize])>,
) -> Result<()> {
    let arch = bundle.arch();
    let another =
        || Error::mismatch("the fine-tuned checkpoint is of another model than the bundle").at(finetuned.path());
    if arch.is_of_graph() {
        for (name, shape) in &bundle.parameters {
            if let Some(tensor) = finetuned.get(name).filter(|tensor| tensor.shape() != shape.as_slice()) {
                return Err(another()
                    .tensor(name)
                    .expected(format_args!("{shape:?}"))
                    .got(format_args!("{:?}", tensor.shape())));
            }
        }
        return match bundle.parameters.keys().any(|name| finetuned.get(name).is_some()) {
            true => Ok(()),
            false => Err(another()
                .expected(format_args!("`{}` and others", bundle.parameters.keys().next().map_or("", String::as_str)))
                .got("none of the bundle's parameters")),
        };
    }
    let own = finetuned.image_tower().map(|(name, tensor)| (name, tensor.shape()));
    let its = Arch::infer(own.chain(frozen), arch.hints()).map_err(|e| e.at(finetuned.path()))?;
    if its == *arch { Ok(()) } else { Err(another().expected(arch).got(its)) }
}
