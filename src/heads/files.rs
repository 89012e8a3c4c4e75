//! Heads on disk: which files hold them, of which tasks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::classifier;
use super::head::{Head, ScoreFunction};
use crate::checkpoint::choose::PUBLISHED;
use crate::checkpoint::torch::Archive;
use crate::checkpoint::zip::Directory;
use crate::checkpoint::{Checkpoint, shards};
use crate::did_you_mean::unknown;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::preprocess::image_files::entries;
use crate::present;

/// The tensor beside a weight and a bias that says, being there, that scores are sigmoids.
pub const SIGMOID: &str = "sigmoid";
/// The attribute by which a pickled head says whether embeddings are normalised.
const NORMALISE: &str = "normalize";

impl Head {
    /// Opens the head of `task` from `path`, which is one of
    /// - a file of several heads, `{task}/weight` `[C, e]` and `{task}/bias` `[C]`; where there is `{task}/sigmoid`, of
    ///   any value, its scores are sigmoids ([`ScoreFunction::Sigmoid`]);
    /// - a file of one head, `weight` and `bias`, and `sigmoid` as above;
    /// - a linear head of DINOv2: `linear.weight` and `linear.bias`, or `weight` and `bias` in a file `…_linear_head`;
    ///   it takes embeddings as they are, not normalised;
    /// - a checkpoint with a classifier inside, a file or a folder: the transformers library's `CLIP…`, `ViT…`,
    ///   `DeiT…`, `Dinov2…` and `SiglipForImageClassification`, and timm's vision transformers. The classifier is the
    ///   head of any task that is asked for, and takes what its tower gives, not normalised
    ///   ([`Pooling::PatchMean`](crate::Pooling::PatchMean) for CLIP's); its classes are called as the `config.json`
    ///   beside it says (`id2label`, `label_names`);
    /// - a folder of such files named `head_{task}Val.pt`, `head_{task}.pt` or `{task}.safetensors`, or of folders
    ///   `{task}` or `{task}Val` with such a checkpoint and its `config.json`.
    ///
    /// The task may be left out where there is one head only. A bias that is absent is zero. A `.pt` head whose
    /// name says another task than `task` is refused. A pickled head's own `normalize` is heeded.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io); [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is no
    /// such task, naming the known ones and the nearest; [`ErrorKind::InvalidArgument`](crate::ErrorKind) when a task
    /// must be named; [`ErrorKind::Format`](crate::ErrorKind::Format) and
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) when the tensors are not a head's.
    pub fn open(path: impl AsRef<Path>, task: Option<&str>) -> Result<Self> {
        let path = path.as_ref();
        if present::is_folder(path)? {
            let files = head_files(path)?;
            if files.is_empty() && classifier::is_model(path)? {
                return Self::open_file(path, task);
            }
            let chosen = choose_task(files.keys().map(String::as_str), task).map_err(|e| e.at(path))?;
            // The folder's file names are the tasks' names; a file of several heads keeps its own below that.
            return Self::open_file(&files[chosen], Some(chosen));
        }
        Self::open_file(path, task)
    }

    fn open_file(path: &Path, task: Option<&str>) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let path = file.path();
        let find = |name: &str| file.get(name);
        if let Some(weight) = find("weight") {
            if let (Some(task), Some(named)) = (task, task_of_file(path))
                && path.extension().is_some_and(|extension| extension == "pt")
                && task != named
            {
                return Err(Error::mismatch("the head of another task").at(path).expected(task).got(named));
            }
            let head = Self::from_tensors(weight, find("bias"), "").map_err(|e| e.at(path))?;
            let normalises = !classifier::is_published_linear(path) && says_to_normalise(path)?;
            return Ok(head.with_normalisation(normalises).with_function(function_of(&file, "")));
        }
        if let Some(head) = classifier::head_of(&file)? {
            return Ok(head);
        }
        let tasks = tasks_of(&file);
        let task = choose_task(tasks.iter().map(String::as_str), task).map_err(|e| e.at(path))?;
        let Some(weight) = find(&format!("{task}/weight")) else {
            return Err(Error::not_found("no head in it").at(path));
        };
        let prefix = format!("{task}/");
        let head = Self::from_tensors(weight, find(&format!("{task}/bias")), &prefix).map_err(|e| e.at(path))?;
        Ok(head.with_function(function_of(&file, &prefix)))
    }
}

/// The function of the head in `file` whose tensors have names that begin with `prefix`.
fn function_of(file: &Checkpoint, prefix: &str) -> ScoreFunction {
    match file.get(&format!("{prefix}{SIGMOID}")) {
        Some(_) => ScoreFunction::Sigmoid,
        None => ScoreFunction::Softmax,
    }
}

/// Whether a pickled head's `normalize` is true; so it is where there is none.
fn says_to_normalise(path: &Path) -> Result<bool> {
    let mapping = Arc::new(Mapping::open(path, MapMode::Map)?);
    if !Directory::is_zip(&mapping.head(4)?) {
        return Ok(true);
    }
    let archive = Archive::parse(mapping)?;
    let Some(said) = archive.root().get(NORMALISE) else { return Ok(true) };
    said.as_bool().or(said.as_i64().map(|number| number != 0)).ok_or_else(|| {
        Error::format(format!("the head's `{NORMALISE}` is no truth value")).at(path).expected("True or False")
    })
}

/// The files or folders of the heads in the folder at `path`; none where it is no folder of heads.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be listed.
pub(crate) fn head_places(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() || classifier::is_model(path)? {
        return Ok(Vec::new());
    }
    Ok(head_files(path)?.into_values().collect())
}

/// The tasks whose heads lie at `path`, a file or a folder as [`Head::open`] takes it, in the order of their names.
/// A file of one head has none unless its name says it.
///
/// # Errors
/// As [`Head::open`], when the file or folder cannot be read.
pub fn head_tasks(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    if present::is_folder(path)? {
        return Ok(head_files(path)?.into_keys().collect());
    }
    let file = Checkpoint::open(path)?;
    let mut tasks = tasks_of(&file);
    if file.get("weight").is_some() || classifier::head_of(&file)?.is_some() {
        tasks.extend(task_of_file(path).map(ToOwned::to_owned));
    }
    Ok(tasks)
}

/// `task` where it is one of `known`; where none is named, the only one.
pub(crate) fn choose_task<'a>(known: impl Iterator<Item = &'a str> + Clone, task: Option<&str>) -> Result<&'a str> {
    match task {
        Some(task) => known.clone().find(|&name| name == task).ok_or_else(|| unknown("head of task", task, known)),
        None => match *known.collect::<Vec<_>>() {
            [only] => Ok(only),
            [] => Err(Error::not_found("no head in it")),
            ref several => Err(Error::invalid(format!("heads of several tasks; name one of {}", several.join(", ")))),
        },
    }
}

/// The tasks `{task}/weight`, in the order of their names.
fn tasks_of(file: &Checkpoint) -> Vec<String> {
    let mut tasks: Vec<String> =
        file.iter().filter_map(|(name, _)| name.strip_suffix("/weight")).map(Into::into).collect();
    tasks.sort();
    tasks
}

/// The task that a head's file name says: `head_{task}Val.pt`, `head_{task}.pt`, `{task}.safetensors`; none by the
/// names that every model is published under.
fn task_of_file(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    if PUBLISHED.contains(&name) || shards::shard_name(name).is_some() {
        return None;
    }
    let task = match name.strip_suffix(".pt") {
        Some(stem) => {
            let task = stem.strip_prefix("head_")?;
            task.strip_suffix("Val").unwrap_or(task)
        }
        None => name.strip_suffix(".safetensors")?,
    };
    (!task.is_empty()).then_some(task)
}

/// The heads in a folder, by task in the order of their names. Of several files for one task the one that the
/// reference writes (`head_{task}Val.pt`) is taken first, then `head_{task}.pt`.
fn head_files(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = Vec::new();
    for path in entries(folder)? {
        if present::is_folder(&path)? {
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(name) = name.filter(|name| !name.starts_with('.'))
                && classifier::is_classifier(&path)?
            {
                files.push((name.strip_suffix("Val").unwrap_or(name).to_owned(), 3, path));
            }
        } else if let Some(task) = task_of_file(&path) {
            let name = path.to_string_lossy();
            let rank = if name.ends_with("Val.pt") { 0 } else { 1 + usize::from(!name.ends_with(".pt")) };
            files.push((task.to_owned(), rank, path));
        }
    }
    files.sort();
    let mut heads = BTreeMap::new();
    for (task, _, path) in files {
        heads.entry(task).or_insert(path);
    }
    Ok(heads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_say_the_task() {
        for (name, task) in [
            ("head_CarsVal.pt", Some("Cars")),
            ("head_Cars.pt", Some("Cars")),
            ("a/Cars.safetensors", Some("Cars")),
            ("zeroshot.pt", None),
            ("head_Val.pt", None),
            ("head_CarsVal.pt.bak", None),
        ] {
            assert_eq!(task_of_file(Path::new(name)), task, "{name}");
        }
    }
}
