//! Embeddings that are not finite are an error, which says whose fault they are.

use super::input::{Elements, Input};
use crate::error::{Error, Result};
use crate::weights::{first_of, not_finite};

/// What to think of where a graph has half floats.
pub(super) const HALVES: &str =
    "The graph computes with half floats, which hold up to 65,504: does its f32 form do it?";

/// Refuses embeddings, `[n, e]`, of which one is not finite. `why` finds the error for that among the weights; the
/// image of the first such embedding is looked at before.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for pixels that are not finite; what `why` says.
pub(super) fn check(
    embeds: &[f32],
    pixels: &[f32],
    embed_dim: usize,
    image_pixels: usize,
    why: impl FnOnce() -> Result<Error>,
) -> Result<()> {
    let Some(at) = embeds.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let image = at / embed_dim.max(1);
    let pixels = pixels.chunks(image_pixels.max(1)).nth(image).unwrap_or_default();
    if let Some(i) = pixels.iter().position(|value| !value.is_finite()) {
        let error = Error::invalid("a pixel is not finite").got(format_args!("{} at element {i}", pixels[i]));
        return Err(error.in_element("images", image));
    }
    Err(why()?)
}

/// The error for embeddings that are not finite, by the weights that a run was given.
pub(super) fn of_inputs(weights: &[Input<'_>]) -> Error {
    let found = weights.iter().find_map(|input| Some((input.name, first(&input.values)?)));
    match found {
        Some((name, (value, i))) => not_finite(value, i).tensor(name).hint("So the embeddings are not finite either"),
        None => Error::invalid("the embeddings are not finite, though the weights are")
            .hint("Are the weights those of this encoder? Sums of some are beyond what it can hold"),
    }
}

/// The first value that is not finite, and its index.
fn first(values: &Elements<'_>) -> Option<(f32, usize)> {
    match values {
        Elements::F32(values) => values.iter().position(|value| !value.is_finite()).map(|i| (values[i], i)),
        Elements::Other(dtype, bytes) => first_of(*dtype, bytes),
        _ => None,
    }
}
