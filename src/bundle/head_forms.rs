//! What the metadata say of heads that are used otherwise than CLIP's.

use std::collections::{BTreeSet, HashMap};

use crate::error::{Error, ErrorKind, Result};
use crate::heads::{Head, ScoreFunction};

/// The keys: each is a list of tasks, and absent where there is none.
pub(super) const UNNORMALISED: &str = "taskbasis.unnormalised";
pub(super) const SIGMOID: &str = "taskbasis.sigmoid";

/// The tasks whose heads are used otherwise than CLIP's.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadForms {
    /// They take embeddings as they are, not normalised.
    unnormalised: BTreeSet<String>,
    /// Their scores are sigmoids, no softmax.
    sigmoid: BTreeSet<String>,
}

impl HeadForms {
    /// Reads the text pairs of a header.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), naming the key, for one that is no list.
    pub(super) fn read(metadata: &HashMap<String, String>) -> Result<Self> {
        let tasks = |key: &str| match metadata.get(key) {
            None => Ok(BTreeSet::new()),
            Some(text) => serde_json::from_str(text)
                .map_err(|e| Error::format(format!("the metadata's `{key}` is broken")).because(e)),
        };
        Ok(Self { unnormalised: tasks(UNNORMALISED)?, sigmoid: tasks(SIGMOID)? })
    }

    /// Notes how the head of `task` is used.
    pub(super) fn add(&mut self, task: &str, head: &Head) {
        if !head.normalises() {
            self.unnormalised.insert(task.to_owned());
        }
        if head.function() == ScoreFunction::Sigmoid {
            self.sigmoid.insert(task.to_owned());
        }
    }

    /// Says nothing more of the head of `task`.
    pub(super) fn remove(&mut self, task: &str) {
        self.unnormalised.remove(task);
        self.sigmoid.remove(task);
    }

    /// All tasks that something is said of.
    pub(super) fn tasks(&self) -> impl Iterator<Item = &String> {
        self.unnormalised.iter().chain(&self.sigmoid)
    }

    /// Whether the head of `task` normalises embeddings, and its function.
    pub(super) fn of(&self, task: &str) -> (bool, ScoreFunction) {
        let is_sigmoid = self.sigmoid.contains(task);
        let function = if is_sigmoid { ScoreFunction::Sigmoid } else { ScoreFunction::Softmax };
        (!self.unnormalised.contains(task), function)
    }

    /// The text pair of a key, where its list is not empty.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] for what is no JSON.
    pub(super) fn pair(&self, key: &'static str) -> Result<Option<(&'static str, String)>> {
        let tasks = if key == SIGMOID { &self.sigmoid } else { &self.unnormalised };
        let pair = (!tasks.is_empty()).then(|| serde_json::to_string(tasks).map(|json| (key, json))).transpose();
        pair.map_err(|e| Error::new(ErrorKind::Internal, "metadata that are no JSON").because(e))
    }
}
