//! The workbench of every kind of evaluation.

use indicatif::ProgressBar;
use taskbasis::{Encoder, Error, ErrorKind, Result, TaskExpr, TaskWeights};

use super::data::{Images, Labelled, stored_split};
use super::options::Eval;
use crate::args::Session;

/// The model, encoder and data that every kind of evaluation works with.
pub(super) struct Bench<'a> {
    pub(super) session: &'a Session,
    pub(super) encoder: Encoder,
    pub(super) images: Images<'a>,
}

impl Bench<'_> {
    /// The weights of `expr`; the expression is checked, nothing is reconstructed yet.
    pub(super) fn weights(&self, expr: &TaskExpr) -> Result<TaskWeights> {
        self.session.weights(expr)
    }

    /// The weights of a task that the data named, which may be no task of the basis.
    pub(super) fn own_weights(&self, task: &str) -> Result<TaskWeights> {
        self.weights(&TaskExpr::task(task)).map_err(|error| match self.session.model().basis() {
            Some(basis) if error.kind() == ErrorKind::NotFound && self.images.data().tasks().contains(&task) => {
                Error::not_found(format!("no task `{task}`, which is in the data; known: {}", basis.tasks().join(", ")))
                    .at(basis.path())
                    .hint("Choose tasks with --task")
            }
            _ => error,
        })
    }

    pub(super) fn accuracy(&self, weights: &TaskWeights, labelled: &Labelled, bar: &ProgressBar) -> Result<f64> {
        self.images.accuracy(&self.encoder, weights, labelled, bar)
    }
}

impl Bench<'_> {
    /// The tasks that are asked for: those given, or all that have images in every one of `splits`.
    pub(super) fn tasks(&self, eval: &Eval, splits: &[&str]) -> Result<Vec<String>> {
        if !eval.tasks.is_empty() {
            return Ok(eval.tasks.clone());
        }
        self.tasks_of(splits)
    }

    /// All tasks that have images in every one of `splits`.
    pub(super) fn tasks_of(&self, splits: &[&str]) -> Result<Vec<String>> {
        let mut tasks: Vec<String> = Vec::new();
        for (i, split) in splits.iter().enumerate() {
            let of_split = self.images.data().tasks_with(stored_split(split).0)?;
            if i == 0 {
                tasks = of_split.into_iter().map(String::from).collect();
            } else {
                tasks.retain(|task| of_split.contains(&task.as_str()));
            }
        }
        if tasks.is_empty() {
            return Err(Error::not_found(format!("no task has all of the splits {}", splits.join(", "))));
        }
        Ok(tasks)
    }
}
