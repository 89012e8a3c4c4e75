//! Which of the files in a folder is the model's checkpoint: one rule for folders on the disk and on the Hub.

use crate::error::{Error, Result};

/// Names under which open_clip and the transformers library publish a model's weights, the first that is there being
/// taken: open_clip's own before the others, safetensors before pickles.
pub const PUBLISHED: [&str; 4] =
    ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin"];
/// What checkpoints of other names end with: safetensors first, which hold tensors and nothing else.
const KINDS: [&[&str]; 2] = [&["safetensors"], &["bin", "pt", "pth"]];

/// Of `files` (names or paths, all in one folder) the one that is the model's: the first of [`PUBLISHED`] that is
/// there, else the only safetensors, else the only pickle. Among several of a kind nothing is guessed.
///
/// `path` gives a file's full path or address, for the hint.
///
/// # Errors
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is none, and where there are several: it names them.
/// Where the folder is remains to be said.
pub fn choose<'a>(files: &[&'a str], path: impl Fn(&str) -> String) -> Result<&'a str> {
    let name = |file: &'a str| file.rsplit_once('/').map_or(file, |(_, name)| name);
    if let Some(published) = PUBLISHED.iter().find_map(|known| files.iter().find(|file| name(file) == *known)) {
        return Ok(published);
    }
    let mut candidates: Vec<&'a str> = Vec::new();
    for kinds in KINDS {
        let is = |file: &&&str| file.rsplit_once('.').is_some_and(|(_, kind)| kinds.contains(&kind));
        let found: Vec<&'a str> = files.iter().filter(is).copied().collect();
        if let ([one], true) = (&found[..], candidates.is_empty()) {
            return Ok(one);
        }
        candidates.extend(found);
    }
    let message = match candidates[..] {
        [] => "there is no checkpoint: no .safetensors, .bin, .pt or .pth".to_owned(),
        _ => {
            let names: Vec<&str> = candidates.iter().copied().map(name).collect();
            format!("there are several checkpoints: {}", names.join(", "))
        }
    };
    let example = path(candidates.first().unwrap_or(&"FILE"));
    Err(Error::not_found(message).hint(format!("Name the file: {example}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_one_or_none() {
        let choose = |files: &[&'static str]| choose(files, |file| format!("hf://o/r/{file}"));
        for (files, meant) in [
            (
                &["model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"][..],
                "open_clip_model.safetensors",
            ),
            (&["README.md", "model.safetensors", "open_clip_pytorch_model.bin"], "open_clip_pytorch_model.bin"),
            (&["model.safetensors", "pytorch_model.bin", "config.json"], "model.safetensors"),
            (&["training_args.bin", "a/pytorch_model.bin", "adapter.safetensors"], "a/pytorch_model.bin"),
            (&["tuned.safetensors", "tuned.pt", "optimizer.pt"], "tuned.safetensors"),
            (&["a/zeroshot.pt", "a/notes.txt"], "a/zeroshot.pt"),
        ] {
            assert_eq!(choose(files).unwrap(), meant);
        }
        let error = choose(&["model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.bin"]).unwrap_err();
        assert!(error.to_string().contains("model-1-of-2.safetensors, model-2-of-2.safetensors, model.bin"));
        assert!(error.to_string().contains("Name the file: hf://o/r/model-1-of-2.safetensors"), "{error}");
        let error = choose(&["a.pt", "b.pth"]).unwrap_err().to_string();
        assert!(error.contains("several checkpoints: a.pt, b.pth"), "{error}");
        let error = choose(&["README.md"]).unwrap_err();
        assert!(error.kind() == crate::ErrorKind::NotFound && error.to_string().contains("no checkpoint"), "{error}");
    }
}
