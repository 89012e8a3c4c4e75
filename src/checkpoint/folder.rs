//! A checkpoint's file, where a folder is given in its place.

use std::path::{Path, PathBuf};

use super::choose::{self, ADAPTER_CONFIG, ADAPTERS};
use super::sniff;
use crate::error::{Error, Result};
use crate::present;

/// The most folders that an error names.
const MAX_NAMED: usize = 5;

/// The file of the checkpoint that `path` names: itself, or the one in the folder, as [`choose::choose`] decides. An
/// adapter's configuration stands for its weights. Where an adapter would do (`is_tuned`), one beside a whole model is
/// ambiguous.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) for a folder that cannot be listed; those of [`choose::choose`];
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a folder of a form that is not read, naming the form.
pub fn file_of(path: &Path, is_tuned: bool) -> Result<PathBuf> {
    if present::is_folder(path)? {
        return chosen(path, is_tuned, |_| true);
    }
    match path.file_name().is_some_and(|name| name == ADAPTER_CONFIG) {
        true => adapter_of(path),
        false => Ok(path.to_path_buf()),
    }
}

/// The adapter's weights beside its configuration at `config`.
fn adapter_of(config: &Path) -> Result<PathBuf> {
    let beside = present::files(ADAPTERS.iter().map(|name| config.with_file_name(name)))?;
    beside.into_iter().next().ok_or_else(|| {
        Error::not_found("the adapter's weights are not beside its configuration")
            .at(config)
            .expected(ADAPTERS.join(" or "))
    })
}

/// The file of the one checkpoint in `folder` among those whose names `is_meant` accepts.
///
/// # Errors
/// As [`file_of`].
pub fn chosen(folder: &Path, is_tuned: bool, is_meant: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let names = names_in(folder)?;
    let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_meant(name)).collect();
    if names.contains(&sniff::BASIS) {
        return Err(sniff::basis().at(folder));
    }
    let path = |name: &str| folder.join(name).display().to_string();
    match choose::choose(&names, path) {
        Ok(name) => match ADAPTERS.into_iter().find(|file| names.contains(file)) {
            Some(adapter) if is_tuned && !ADAPTERS.contains(&name) => {
                Err(Error::not_found(format!("there are a whole checkpoint and an adapter: {name}, {adapter}"))
                    .at(folder)
                    .hint(format!("Name the file: {}", path(adapter))))
            }
            _ => Ok(folder.join(name)),
        },
        Err(error) => {
            let is_empty = !names.iter().any(|name| choose::is_checkpoint(name) || name.contains(".safetensors"));
            let below = || is_empty.then(|| below(folder)).flatten();
            Err(sniff::folder(&names).or_else(below).unwrap_or(error).at(folder))
        }
    }
}

/// The error for a folder that has checkpoints in the folders in it alone: `checkpoint-500` of a Trainer's, a named
/// adapter of PEFT's. `None` where it has none there either.
fn below(folder: &Path) -> Option<Error> {
    let mut inner: Vec<PathBuf> =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    inner.retain(|path| names_in(path).is_ok_and(|names| names.iter().any(|name| choose::is_checkpoint(name))));
    inner.sort();
    let names: Vec<_> = inner.iter().take(MAX_NAMED).filter_map(|path| path.file_name()?.to_str()).collect();
    let first = inner.first()?;
    let more = if inner.len() > MAX_NAMED { ", …" } else { "" };
    let error = Error::not_found("there is no checkpoint in the folder itself, but in folders in it");
    Some(error.got(format!("{}{more}", names.join(", "))).hint(format!("Name one: {}", first.display())))
}

/// The names of the files in `folder`, sorted; those that are not UTF-8 are none of ours.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    let failed = |e| Error::io("cannot list the folder", folder, e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name
            && present::is_file(&path)?
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
