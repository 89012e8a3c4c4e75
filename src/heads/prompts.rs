//! Prompt templates: the sentences that a class name is put into before its text is embedded.

use std::collections::BTreeMap;
use std::path::Path;

use super::class_lists::of_task;
use crate::did_you_mean::unknown;
use crate::error::{Error, Result};

/// The datasets that task vectors are usually made for, with CLIP's templates for them: facts, in the notation that
/// [`Prompts::new`] takes.
const KNOWN_PROMPTS: &str = include_str!("prompts.json");
/// The most sentences per class; more are a mistake in the notation.
const MAX_SENTENCES: usize = 10_000;

/// The sentences of one task, each with a place for the class name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompts(Vec<String>);

impl Prompts {
    /// Prompts from templates. In each, `{}` is the class name; `{a|the}` makes one sentence with either word, so that
    /// `a photo of {a|the} {small|big} {}.` is four sentences.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument), with the template, when there is none, one
    /// has no `{}`, a brace is alone, or alternatives multiply beyond 10,000 sentences.
    pub fn new<S: AsRef<str>>(templates: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut sentences = Vec::new();
        for template in templates {
            sentences.extend(expand(template.as_ref())?);
            if sentences.len() > MAX_SENTENCES {
                return Err(Error::invalid(format!("more than {MAX_SENTENCES} prompts per class")));
            }
        }
        if sentences.is_empty() {
            return Err(Error::invalid("no prompt templates").expected("sentences like `a photo of a {}.`"));
        }
        Ok(Self(sentences))
    }

    /// CLIP's own templates for the dataset `task`, under the reference's names: `MNIST`, `Cars`, `SUN397`, …
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a dataset that has none, naming those that do.
    pub fn known(task: &str) -> Result<Self> {
        let mut known: BTreeMap<String, Vec<String>> =
            serde_json::from_str(KNOWN_PROMPTS).map_err(|e| Error::format("the known prompt templates").because(e))?;
        match known.remove(task.strip_suffix("Val").unwrap_or(task)) {
            Some(templates) => Self::new(templates),
            None => Err(unknown("prompt templates for", task, known.keys().map(String::as_str))),
        }
    }

    /// The templates of `task` in the JSON file at `path`: `{task: ["…", …]}`, or `["…", …]` for every task.
    ///
    /// # Errors
    /// As [`class_names`](crate::heads::class_names) and [`Prompts::new`].
    pub fn open(path: impl AsRef<Path>, task: &str) -> Result<Self> {
        let path = path.as_ref();
        Self::new(of_task(path, task, "templates")?).map_err(|e| e.at(path))
    }

    /// The sentences for one class.
    pub fn of<'a>(&'a self, class: &'a str) -> impl ExactSizeIterator<Item = String> + 'a {
        self.0.iter().map(move |sentence| sentence.replace("{}", class))
    }

    /// The number of sentences per class.
    #[allow(clippy::len_without_is_empty)] // There is at least one.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// All sentences of a template; `{}` stays.
fn expand(template: &str) -> Result<Vec<String>> {
    let wrong = |why: &str| Error::invalid(format!("a prompt template {why}")).got(format_args!("`{template}`"));
    let mut sentences = vec![String::new()];
    let mut rest = template;
    let mut has_class = false;
    while let Some((before, after)) = rest.split_once('{') {
        let (choices, after) = after.split_once('}').ok_or_else(|| wrong("has a `{` without its `}`"))?;
        if before.contains('}') || choices.contains('{') {
            return Err(wrong("has braces that do not match"));
        }
        let words: Vec<&str> = if choices.is_empty() { vec!["{}"] } else { choices.split('|').collect() };
        match (choices.is_empty(), words.len()) {
            (true, _) => has_class = true,
            (false, 1) => return Err(wrong("has one word in braces; `{}` is the class, `{a|the}` a choice")),
            _ => {}
        }
        if sentences.len().saturating_mul(words.len()) > MAX_SENTENCES {
            return Err(wrong("has too many choices"));
        }
        sentences = sentences
            .iter()
            .flat_map(|sentence| words.iter().map(move |word| format!("{sentence}{before}{word}")))
            .collect();
        rest = after;
    }
    if rest.contains('}') {
        return Err(wrong("has a `}` without its `{`"));
    }
    if !has_class {
        return Err(wrong("has no place for the class: `{}`"));
    }
    sentences.iter_mut().for_each(|sentence| sentence.push_str(rest));
    Ok(sentences)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(template: &str) -> Vec<String> {
        Prompts::new([template]).unwrap().of("cat").collect()
    }

    fn error(template: &str) -> String {
        Prompts::new([template]).unwrap_err().to_string()
    }

    #[test]
    fn choices_multiply() {
        assert_eq!(sentences("a {}"), ["a cat"]);
        assert_eq!(
            sentences("{a|the} photo of {|a }{}!"),
            ["a photo of cat!", "a photo of a cat!", "the photo of cat!", "the photo of a cat!"]
        );
        assert_eq!(sentences("{} or {}"), ["cat or cat"]);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        assert!(error("a photo").contains("no place for the class: `{}`: got `a photo`"));
        assert!(error("a {photo} of {}").contains("one word in braces"));
        assert!(error("a { of").contains("without its `}`"));
        assert!(error("a } of {}").contains("do not match"));
        assert!(error("a {} of }").contains("without its `{`"));
        assert!(error("{a|{}}").contains("do not match"));
        assert!(error(&"{a|b}".repeat(20)).contains("too many choices"));
        assert!(Prompts::new([""; 0]).unwrap_err().to_string().contains("no prompt templates"));
    }

    /// The numbers of sentences in CLIP's published lists.
    #[test]
    fn the_known_lists_are_complete() {
        for (task, count) in [
            ("Cars", 8),
            ("CIFAR10", 18),
            ("CIFAR100", 18),
            ("DTD", 8),
            ("EMNIST", 1),
            ("EuroSAT", 3),
            ("FashionMNIST", 2),
            ("FER2013", 6),
            ("Flowers102", 1),
            ("Food101", 1),
            ("GTSRB", 3),
            ("ImageNet", 80),
            ("KMNIST", 1),
            ("MNIST", 1),
            ("OxfordIIITPet", 1),
            ("PCAM", 1),
            ("RenderedSST2", 1),
            ("RESISC45", 18),
            ("STL10", 2),
            ("SUN397", 2),
            ("SVHN", 1),
            ("SVHNVal", 1),
        ] {
            let prompts = Prompts::known(task).unwrap();
            let distinct: std::collections::HashSet<_> = prompts.of("x").collect();
            assert_eq!((prompts.len(), distinct.len()), (count, count), "{task}");
        }
        let error = Prompts::known("mnist").unwrap_err().to_string();
        assert!(error.contains("Did you mean `MNIST`?"), "{error}");
    }
}
