//! The choice of the model's checkpoint among the files in a folder: one rule for folders on the disk and on the Hub.

use super::shards;
use crate::error::{Error, Result};

/// Names under which open_clip and the transformers library publish a model's weights, the first that is there being
/// taken: open_clip's own before the others, safetensors before pickles. Each may be in several files instead, with an
/// index of them (`model.safetensors.index.json`).
pub const PUBLISHED: [&str; 4] =
    ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin"];
/// The names of the configurations that libraries write beside weights, in the order in which they are believed.
pub const CONFIGS: [&str; 3] = ["open_clip_config.json", "config.json", "preprocessor_config.json"];
/// The names that PEFT gives an adapter's weights, safetensors before pickles.
pub const ADAPTERS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// The file that says how an adapter was made, beside its weights.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The extensions of checkpoints of other names: safetensors first, which hold tensors and nothing else.
const EXTENSIONS: [&[&str]; 2] = [&["safetensors"], &["bin", "pt", "pth", "ckpt"]];
/// The prefixes of files that training leaves beside a model: states of optimisers, arguments, heads.
const BESIDE: [&str; 7] = ["training_args", "optimizer", "scheduler", "rng_state", "scaler", "head_", "."];

/// The last part of a path with slashes.
fn name(file: &str) -> &str {
    file.rsplit_once('/').map_or(file, |(_, name)| name)
}

/// Whether a file of this name is hidden, or lies beside models without being one.
pub fn is_beside(file: &str) -> bool {
    let name = name(file).to_ascii_lowercase();
    BESIDE.iter().any(|begin| name.starts_with(begin))
}

/// Whether a file of this name may be a whole checkpoint, by its extension.
pub fn is_checkpoint(file: &str) -> bool {
    EXTENSIONS.iter().any(|kinds| is_of(file, kinds)) && !is_beside(file)
}

fn is_of(file: &str, kinds: &[&str]) -> bool {
    // timm's and PyTorch's own training scripts call what torch.save wrote `.pth.tar`.
    let file = file.strip_suffix(".tar").unwrap_or(file);
    file.rsplit_once('.').is_some_and(|(_, kind)| kinds.contains(&kind.to_ascii_lowercase().as_str()))
}

/// The file of `files` (names or paths, all in one folder) that is the model's: the first of [`PUBLISHED`] that is
/// there, or the index of its parts, else the only index, else the only safetensors, else the only pickle, else an
/// adapter ([`ADAPTERS`]). What training leaves beside a model is none of them. Among several of a kind nothing is
/// guessed.
///
/// `path` gives a file's full path or address, for the hint.
///
/// # Errors
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is none, and where there are several: it names them.
/// Where the folder is remains to be said.
pub fn choose<'a>(files: &[&'a str], path: impl Fn(&str) -> String) -> Result<&'a str> {
    let named = |wanted: &str| files.iter().find(|file| name(file) == wanted).copied();
    let published = |known: &&str| named(known).or_else(|| named(&format!("{known}{}", shards::INDEX)));
    if let Some(published) = PUBLISHED.iter().find_map(published) {
        return Ok(published);
    }
    let indexes: Vec<&'a str> = files.iter().filter(|file| shards::is_index_name(name(file))).copied().collect();
    if let [index] = indexes[..] {
        return Ok(index);
    }
    let mut candidates = indexes;
    let is_whole = |file: &str| is_checkpoint(file) && shards::shard_name(name(file)).is_none();
    let whole = || files.iter().copied().filter(|file| is_whole(file) && !ADAPTERS.contains(&name(file)));
    for kinds in EXTENSIONS {
        let found: Vec<&'a str> = whole().filter(|file| is_of(file, kinds)).collect();
        if let ([one], true) = (&found[..], candidates.is_empty()) {
            return Ok(one);
        }
        candidates.extend(found);
    }
    if let (true, Some(adapter)) = (candidates.is_empty(), ADAPTERS.into_iter().find_map(named)) {
        return Ok(adapter);
    }
    Err(undecided(files, &candidates, path))
}

/// The error for a folder without one checkpoint of its own.
fn undecided(files: &[&str], candidates: &[&str], path: impl Fn(&str) -> String) -> Error {
    if let (true, Some(shard)) = (candidates.is_empty(), files.iter().find_map(|file| shards::shard_name(name(file)))) {
        return Error::not_found(format!("there are parts of a checkpoint, and no index of them: `{}`", shard.index))
            .hint("Fetch the index too; its parts are read through it");
    }
    let message = match candidates {
        [] => "there is no checkpoint: no .safetensors, .bin, .pt, .pth or .ckpt".to_owned(),
        _ => {
            let names: Vec<&str> = candidates.iter().copied().map(name).collect();
            format!("there are several checkpoints: {}", names.join(", "))
        }
    };
    let example = path(candidates.first().unwrap_or(&"FILE"));
    Error::not_found(message).hint(format!("Name the file: {example}"))
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
            (&["last.ckpt", "optimizer.pt", "rng_state_0.pth", "._last.ckpt", "head_MNIST.pt"], "last.ckpt"),
            (&["Tuned.SafeTensors", "scheduler.pt"], "Tuned.SafeTensors"),
            (&["model-00001-of-00002.safetensors", "model.safetensors.index.json"], "model.safetensors.index.json"),
            (&["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"], "pytorch_model.bin.index.json"),
            (&["mine.safetensors.index.json", "mine-00001-of-00002.safetensors"], "mine.safetensors.index.json"),
            (&["adapter_config.json", "a/adapter_model.bin", "optimizer.pt"], "a/adapter_model.bin"),
            (&["adapter_model.safetensors", "model.safetensors"], "model.safetensors"),
        ] {
            assert_eq!(choose(files).unwrap(), meant);
        }
        let error = choose(&["model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.bin"]).unwrap_err();
        assert!(error.to_string().contains("model-1-of-2.safetensors, model-2-of-2.safetensors, model.bin"));
        assert!(error.to_string().contains("Name the file: hf://o/r/model-1-of-2.safetensors"), "{error}");
        let error = choose(&["a.pt", "b.pth"]).unwrap_err().to_string();
        assert!(error.contains("several checkpoints: a.pt, b.pth"), "{error}");
        let error = choose(&["model-00001-of-00002.safetensors"]).unwrap_err().to_string();
        assert!(error.contains("no index of them: `model.safetensors.index.json`"), "{error}");
        let error = choose(&["README.md"]).unwrap_err();
        assert!(error.kind() == crate::ErrorKind::NotFound && error.to_string().contains("no checkpoint"), "{error}");
    }
}
