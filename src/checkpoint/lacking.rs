//! The parameters that one checkpoint lacks of another: that training left alone, or that got lost.

use std::borrow::Cow;
use std::collections::HashSet;

use super::Checkpoint;
use super::format::Format;
use super::names::is_image_tower;
use crate::error::{Error, Result};

/// The names of `whole` that are not among `part`, in their order.
///
/// Training freezes a parameter in every block or in none, so one that is missing in some of the blocks got lost.
///
/// # Errors
/// The name of a parameter that got lost.
pub(crate) fn missing<'a, 'b>(
    whole: impl Iterator<Item = &'a str>,
    part: impl Iterator<Item = &'b str>,
) -> Result<Vec<&'a str>, &'a str> {
    let part: HashSet<&str> = part.collect();
    let kinds: HashSet<Cow<'_, str>> = part.iter().map(|name| kind(name)).collect();
    let missing: Vec<&str> = whole.filter(|name| !part.contains(*name)).collect();
    match missing.iter().find(|name| kinds.contains(&*kind(name))) {
        Some(lost) => Err(lost),
        None => Ok(missing),
    }
}

/// The name without the number of its block.
fn kind(name: &str) -> Cow<'_, str> {
    let is_number = |segment: &str| !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit());
    if !name.split('.').any(is_number) {
        return Cow::Borrowed(name);
    }
    let segments: Vec<&str> = name.split('.').map(|segment| if is_number(segment) { "*" } else { segment }).collect();
    Cow::Owned(segments.join("."))
}

/// The parameters of `base`, which `base_name` calls, that the fine-tuned `tuned` does not hold, because training left
/// it as it was.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming file and tensor, where `tuned` holds nothing of an image
/// tower that `base` has, or a parameter of some of the blocks only;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where it holds one of a type that is not read.
pub(crate) fn unchanged<'a>(
    base: &[&'a str],
    tuned: &Checkpoint,
    base_name: impl std::fmt::Display,
) -> Result<Vec<&'a str>> {
    let known: HashSet<&str> = base.iter().copied().collect();
    tuned.check_read(|name| known.contains(name)).map_err(outside)?;
    if known.iter().any(|name| is_image_tower(name)) && tuned.image_tower().next().is_none() {
        return Err(no_tower(tuned));
    }
    missing(base.iter().copied(), tuned.iter().map(|(name, _)| name)).map_err(|lost| {
        Error::mismatch(format!("the file has it in other blocks only, and the base {base_name} in this one too"))
            .at(tuned.path())
            .tensor(lost)
            .hint("Was it saved in part, or is it of another model?")
    })
}

/// Checks that all tensors are read, or those of the image tower alone.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming file, tensor and type.
pub(crate) fn check_read(checkpoint: &Checkpoint, is_tower_alone: bool) -> Result<()> {
    checkpoint.check_read(is_image_tower)?;
    if is_tower_alone { Ok(()) } else { checkpoint.check_read(|_| true).map_err(outside) }
}

/// The error, with what to do where it is about a tensor outside the image tower.
fn outside(error: Error) -> Error {
    if error.tensor_name().is_some_and(is_image_tower) {
        return error;
    }
    error.hint("--image-tower does without it")
}

/// The error for a file that holds no image tower, with what it holds instead where that is known.
pub(crate) fn no_tower(checkpoint: &Checkpoint) -> Error {
    let error = Error::mismatch("holds no image encoder")
        .at(checkpoint.path())
        .expected("a CLIP vision transformer, by open_clip's, the transformers library's or timm's names");
    match (checkpoint.naming().kind(), checkpoint.iter().next()) {
        (Some(kind), _) => error.got(kind),
        (None, Some((name, _))) => {
            error.got(format_args!("{} others, such as `{}`", checkpoint.len(), crate::did_you_mean::clipped(name)))
        }
        (None, None) if checkpoint.format() == Format::TorchScript => error
            .got("none: the weights of a frozen archive are constants of its code")
            .hint("Save the module as it was before torch.jit.freeze, or its state_dict()"),
        (None, None) => error.got("none"),
    }
}

impl Checkpoint {
    /// The fine-tuned checkpoint with those parameters of the base's image tower that it does not hold, because
    /// training left them alone; and their names. Nothing is copied.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming file and tensor, where something got lost: a
    /// parameter is there for some of the blocks only, or there is no image tower.
    pub fn completed_from(mut self, base: &Self) -> Result<(Self, Vec<String>)> {
        let of_base = base.image_tower().filter(|(_, tensor)| tensor.dtype().is_float());
        let names: Vec<&str> = of_base.map(|(name, _)| name).collect();
        let unchanged = unchanged(&names, &self, base.path().display())?;
        for name in &unchanged {
            self.tensors.insert((*name).to_owned(), base.require(name)?.clone());
        }
        Ok((self, unchanged.into_iter().map(String::from).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking<'a>(whole: &[&'a str], part: &[&'a str]) -> Result<Vec<&'a str>, &'a str> {
        missing(whole.iter().copied(), part.iter().copied())
    }

    #[test]
    fn an_archive_that_was_frozen_says_so() {
        let empty = |format| no_tower(&Checkpoint::from_tensors("a.pt", format, Vec::new()).unwrap()).to_string();
        assert!(empty(Format::TorchScript).contains("before torch.jit.freeze"));
        assert!(empty(Format::TorchZip).ends_with("got none"));
    }

    #[test]
    fn what_is_frozen_is_frozen_in_every_block() {
        let whole = ["proj", "blocks.0.a", "blocks.0.b", "blocks.1.a", "blocks.1.b", "blocks.10.a"];
        assert_eq!(lacking(&whole, &whole), Ok(vec![]));
        assert_eq!(lacking(&whole, &whole[1..]), Ok(vec!["proj"]));
        assert_eq!(
            lacking(&whole, &["blocks.0.a", "blocks.1.a", "blocks.10.a"]),
            Ok(vec!["proj", "blocks.0.b", "blocks.1.b"])
        );
        assert_eq!(lacking(&whole, &whole[..5]), Err("blocks.10.a"));
        assert_eq!(lacking(&whole, &["proj"]).map(|missing| missing.len()), Ok(5));
    }
}
