//! Lists of texts in JSON files: class names and prompt templates, of one task or of several.

use std::path::Path;

use indexmap::IndexMap;

use crate::did_you_mean::unknown;
use crate::error::{Error, Result};
use crate::mmap::read_small;

/// The largest file of lists that is read: ImageNet's names have 20 KB.
const MAX_BYTES: usize = 64 << 20;

/// The class names in the JSON file at `path`: of `task` in `{task: [name, …]}`, or the only list, `[name, …]`.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io); [`ErrorKind::Format`](crate::ErrorKind::Format) when it is neither;
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when the task is not in it, naming the known ones.
pub fn class_names(path: impl AsRef<Path>, task: &str) -> Result<Vec<String>> {
    of_task(path.as_ref(), task, "class names")
}

/// The tasks whose class names the JSON file at `path` has, in the order of the file; none where it is one list.
///
/// # Errors
/// As [`class_names`].
pub fn class_tasks(path: impl AsRef<Path>) -> Result<Vec<String>> {
    Ok(match lists(path.as_ref(), "class names")? {
        Lists::OfTasks(tasks) => tasks.into_keys().collect(),
        Lists::OfOne(_) => Vec::new(),
    })
}

/// The texts of `task` in a file of such lists.
pub(super) fn of_task(path: &Path, task: &str, what: &str) -> Result<Vec<String>> {
    match lists(path, what)? {
        Lists::OfOne(texts) => Ok(texts),
        Lists::OfTasks(mut tasks) => match tasks.shift_remove(task) {
            Some(texts) => Ok(texts),
            None => Err(unknown("task", task, tasks.keys().map(String::as_str)).at(path)),
        },
    }
}

/// Texts in a JSON file.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Lists {
    OfTasks(IndexMap<String, Vec<String>>),
    OfOne(Vec<String>),
}

fn lists(path: &Path, what: &str) -> Result<Lists> {
    let json = read_small(path, MAX_BYTES, what)?;
    serde_json::from_slice(&json).map_err(|e| {
        Error::format(format!("not {what}"))
            .at(path)
            .expected("JSON of the form {\"task\": [\"…\", …]} or [\"…\", …]")
            .because(e)
    })
}
