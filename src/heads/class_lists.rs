//! Lists of texts in JSON files: class names and prompt templates, of one task or of several.

use std::path::Path;

use indexmap::IndexMap;

use crate::did_you_mean::unknown;
use crate::error::{Error, Result};
use crate::mmap::read_small;

/// The largest file of lists that is read: ImageNet's names have 20 KB.
const MAX_BYTES: usize = 64 << 20;

/// The reference's datasets, with their classes in the order of its labels (uiuctml/TaskVectorBasis at dfcc7ab,
/// torchvision 0.29): facts. `… plain` is a second list of a dataset's.
const KNOWN_CLASSES: &str = include_str!("classes.json");
/// What follows the name of a dataset where its classes are named by words.
const PLAIN: &str = " plain";

/// The names that the reference gives the classes of the dataset `task`, under its own names of datasets: `MNIST`,
/// `Cars`, `SUN397`, …, also `MNISTVal`. FER2013's are lists in its code, and so go into its prompts as Python writes a
/// list, `['happy', 'smiling']`; `plain` gives the first word of each instead.
///
/// # Errors
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for another dataset, naming those that there are.
pub fn known_class_names(task: &str, plain: bool) -> Result<Vec<String>> {
    let mut known = known()?;
    let task = task.strip_suffix("Val").unwrap_or(task);
    let words = plain.then(|| known.shift_remove(&format!("{task}{PLAIN}"))).flatten();
    known.retain(|name, _| !name.ends_with(PLAIN));
    match words.or_else(|| known.shift_remove(task)) {
        Some(names) => Ok(names),
        None => Err(unknown("class names of", task, known.keys().map(String::as_str))),
    }
}

/// Whether a dataset's classes have plain names beside those that the reference puts into its prompts.
pub fn has_plain_class_names(task: &str) -> bool {
    let task = task.strip_suffix("Val").unwrap_or(task);
    known().is_ok_and(|known| known.contains_key(&format!("{task}{PLAIN}")))
}

fn known() -> Result<IndexMap<String, Vec<String>>> {
    serde_json::from_str(KNOWN_CLASSES).map_err(|e| Error::format("the known class names").because(e))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_lists_are_complete() {
        for (task, count, first, last) in [
            ("Cars", 196, "AM General Hummer SUV 2000", "smart fortwo Convertible 2012"),
            ("CIFAR10", 10, "airplane", "truck"),
            ("CIFAR100", 100, "apple", "worm"),
            ("DTD", 47, "banded", "zigzagged"),
            ("EMNIST", 10, "0", "9"),
            ("EuroSAT", 10, "annual crop land", "lake or sea"),
            ("FashionMNIST", 10, "T-shirt/top", "Ankle boot"),
            ("FER2013", 7, "['angry']", "['neutral', 'bored']"),
            ("Flowers102", 102, "pink primrose", "blackberry lily"),
            ("Food101", 101, "apple_pie", "waffles"),
            ("GTSRB", 43, "red and white circle 20 kph speed limit", LAST_SIGN),
            ("ImageNet", 1000, "tench", "toilet paper"),
            ("KMNIST", 10, "o", "wo"),
            ("MNIST", 10, "0", "9"),
            ("OxfordIIITPet", 37, "Abyssinian", "Yorkshire Terrier"),
            ("PCAM", 2, "lymph node", "lymph node containing metastatic tumor tissue"),
            ("RenderedSST2", 2, "negative", "positive"),
            ("RESISC45", 45, "airplane", "wetland"),
            ("STL10", 10, "airplane", "truck"),
            ("SUN397", 397, "abbey", "youth hostel"),
            ("SVHNVal", 10, "0", "9"),
        ] {
            let names = known_class_names(task, false).unwrap();
            assert_eq!((names.len(), &*names[0], &*names[count - 1]), (count, first, last), "{task}");
            // ImageNet has two missiles and two sunglasses.
            let distinct: std::collections::HashSet<_> = names.iter().collect();
            assert_eq!(distinct.len(), count - if task == "ImageNet" { 2 } else { 0 }, "{task}");
            assert_eq!(has_plain_class_names(task), task == "FER2013");
        }
        let plain = ["angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral"];
        assert_eq!(known_class_names("FER2013Val", true).unwrap(), plain);
        assert_eq!(known_class_names("MNIST", true).unwrap(), known_class_names("MNIST", false).unwrap());
        let error = known_class_names("Car", false).unwrap_err().to_string();
        assert!(error.contains("Did you mean `Cars`?") && !error.contains("plain"), "{error}");
    }

    const LAST_SIGN: &str = "white circle with gray strike bar indicating no passing for trucks has ended";
}
