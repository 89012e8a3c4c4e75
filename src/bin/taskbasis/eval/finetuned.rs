//! The accuracies of the fine-tuned models, which those of others are normalised by.

use std::collections::HashMap;
use std::path::Path;

use taskbasis::build::doubt;
use taskbasis::mmap::read_small;
use taskbasis::{Error, Model, ModelOptions, Result, TaskExpr, base_for_images};

use super::data::Labelled;
use super::options::Eval;
use super::workbench::Bench;
use crate::checkpoints::open_finetuned;
use crate::output;
use crate::tasks_dir::{NamedFile, TasksDir};

/// The largest file of accuracies that is read.
const MAX_BYTES: usize = 16 << 20;

/// Accuracies by the reference's names of data: `MNIST` on the test split, `MNISTVal` on the validation split.
pub(super) struct Finetuned(HashMap<String, f64>);

impl Finetuned {
    /// Given in a file, measured, or `None` where neither is asked for. `val` and `test` are the tasks' images.
    pub(super) fn of(eval: &Eval, bench: &Bench<'_>, val: &[Labelled], test: &[Labelled]) -> Result<Option<Self>> {
        match (&eval.finetuned, &eval.finetuned_dir) {
            (Some(file), _) => Ok(Some(Self::read(file)?)),
            (None, Some(folder)) => Ok(Some(Self::measure(eval, bench, folder, val, test)?)),
            (None, None) => Ok(None),
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let text = read_small(path, MAX_BYTES, "accuracies")?;
        let accuracies: HashMap<String, f64> = serde_json::from_slice(&text).map_err(|e| {
            Error::format("not accuracies as they should be").at(path).expected(r#"{"TASK": 0.99, …}"#).because(e)
        })?;
        match accuracies.iter().find(|(_, accuracy)| !(**accuracy > 0.0 && **accuracy <= 1.0)) {
            None => Ok(Self(accuracies)),
            Some((task, accuracy)) => Err(Error::format(format!("the accuracy of `{task}` is out of range"))
                .at(path)
                .expected("above 0 and at most 1")
                .got(accuracy)),
        }
    }

    fn measure(eval: &Eval, bench: &Bench<'_>, folder: &Path, val: &[Labelled], test: &[Labelled]) -> Result<Self> {
        let scan = TasksDir::read(folder, eval.model.base.as_deref())?;
        scan.tell();
        let base = bench.session.model().base();
        let bar = output::progress(val.iter().chain(test).map(Labelled::len).sum(), "images, fine-tuned");
        let mut accuracies = HashMap::new();
        for (val, test) in val.iter().zip(test) {
            let file = scan.found.iter().find(|file| file.name == val.task);
            let NamedFile { path, .. } = file.ok_or_else(|| {
                Error::not_found(format!("no fine-tuned checkpoint of task `{}`", val.task)).at(folder)
            })?;
            let options = ModelOptions { threads: eval.encoder.threads, ..ModelOptions::default() };
            let tuned = open_finetuned(path, base)?;
            if let Some(doubt) = doubt(base, &val.task, &tuned)? {
                output::note(&doubt);
            }
            let tuned = base_for_images(tuned, Some(bench.encoder.arch().image_size()))?;
            let model = Model::new(tuned, None, &options)?;
            let weights = model.weights(&TaskExpr::base())?;
            for (name, labelled) in [(format!("{}Val", val.task), val), (test.task.clone(), test)] {
                accuracies.insert(name, bench.accuracy(&weights, labelled, &bar)?);
            }
        }
        bar.finish_and_clear();
        Ok(Self(accuracies))
    }

    /// The fine-tuned accuracy that `name` (`MNIST`, `MNISTVal`) is normalised by; that of the test split serves for
    /// the validation split where there is no other.
    pub(super) fn get(&self, name: &str) -> Result<f64> {
        let without_val = name.strip_suffix("Val");
        self.0.get(name).or_else(|| self.0.get(without_val?)).copied().ok_or_else(|| {
            Error::not_found(format!("no fine-tuned accuracy of `{name}`"))
                .hint("Give one per task with --finetuned, or the checkpoints with --finetuned-dir")
        })
    }
}
