//! Which of a repository's files is the checkpoint.

use super::HubPath;
use crate::error::{Error, ErrorKind, Result};

/// What checkpoints are called: safetensors first, which hold tensors and nothing else.
const KINDS: [&[&str]; 2] = [&["safetensors"], &["bin", "pt", "pth"]];
/// The one that is taken whatever else there is.
pub(super) const BEST: &str = "open_clip_model.safetensors";
/// open_clip's repositories hold its file beside those of other libraries.
const OPEN_CLIP: &str = "open_clip";

/// Of `files` (paths in the folder that `address` names) the one to take. open_clip's own before those of other
/// libraries, safetensors before pickles; among several of a kind nothing is guessed.
///
/// # Errors
/// [`ErrorKind::NotFound`] where there is none, and where there are several: it names them.
pub(super) fn checkpoint<'a>(address: &HubPath, files: &[&'a str]) -> Result<&'a str> {
    let name = |path: &str| path.rsplit_once('/').map_or(path, |(_, name)| name).to_owned();
    let of_kind = |kinds: &[&str]| -> Vec<&'a str> {
        let is = |path: &&&str| path.rsplit_once('.').is_some_and(|(_, kind)| kinds.contains(&kind));
        files.iter().filter(is).copied().collect()
    };
    let mut candidates = Vec::new();
    for is_open_clip in [true, false] {
        for kinds in KINDS {
            let found: Vec<&str> =
                of_kind(kinds).into_iter().filter(|path| name(path).starts_with(OPEN_CLIP) == is_open_clip).collect();
            if let ([one], true) = (&found[..], candidates.is_empty()) {
                return Ok(one);
            }
            candidates.extend(found);
        }
    }
    let example = address.with_path(candidates.first().copied().unwrap_or("FILE"))?;
    let message = match candidates[..] {
        [] => "there is no checkpoint: no .safetensors, .bin, .pt or .pth".to_owned(),
        _ => format!("there are several checkpoints: {}", candidates.join(", ")),
    };
    Err(Error::new(ErrorKind::NotFound, message).at(address.to_string()).hint(format!("Name the file: {example}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_one_or_none() {
        let address: HubPath = "hf://o/r".parse().unwrap();
        let choose = |files: &[&'static str]| checkpoint(&address, files);
        for (files, meant) in [
            (
                &["model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"][..],
                "open_clip_model.safetensors",
            ),
            (&["README.md", "model.safetensors", "open_clip_pytorch_model.bin"], "open_clip_pytorch_model.bin"),
            (&["model.safetensors", "pytorch_model.bin", "config.json"], "model.safetensors"),
            (&["a/zeroshot.pt", "a/notes.txt"], "a/zeroshot.pt"),
        ] {
            assert_eq!(choose(files).unwrap(), meant);
        }
        let error = choose(&["model-1-of-2.safetensors", "model-2-of-2.safetensors", "pytorch_model.bin"]).unwrap_err();
        assert!(error.to_string().contains("model-1-of-2.safetensors, model-2-of-2.safetensors, pytorch_model.bin"));
        assert!(error.to_string().contains("hf://o/r/model-1-of-2.safetensors"), "{error}");
        assert!(choose(&["README.md"]).is_err());
    }
}
