//! Accuracies, by the reference's names.

use indicatif::ProgressBar;
use serde_json::{Map, Value, json};
use taskbasis::{Result, TaskWeights};

use super::data::Labelled;
use super::finetuned::Finetuned;
use super::workbench::Bench;

/// Accuracies of several tasks with the same weights, by the reference's names of data.
pub(super) struct Measured {
    pub(super) names: Vec<String>,
    pub(super) top1: Vec<f64>,
    /// Divided by the fine-tuned models'; empty where these are not known.
    pub(super) normalised: Vec<f64>,
}

/// What the data of a split are called: as the reference does, `MNIST` and `MNISTVal`.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Val,
    Test,
}

impl Part {
    pub(super) fn name(self, task: &str) -> String {
        match self {
            Self::Val => format!("{task}Val"),
            Self::Test => task.to_owned(),
        }
    }
}

impl Measured {
    pub(super) fn of(
        bench: &Bench<'_>,
        weights: &TaskWeights,
        part: Part,
        labelled: &[Labelled],
        finetuned: Option<&Finetuned>,
        bar: &ProgressBar,
    ) -> Result<Self> {
        let names: Vec<String> = labelled.iter().map(|labelled| part.name(&labelled.task)).collect();
        let top1 =
            labelled.iter().map(|labelled| bench.accuracy(weights, labelled, bar)).collect::<Result<Vec<_>>>()?;
        let normalised = match finetuned {
            Some(finetuned) => {
                names.iter().zip(&top1).map(|(name, top1)| Ok(top1 / finetuned.get(name)?)).collect::<Result<_>>()?
            }
            None => Vec::new(),
        };
        Ok(Self { names, top1, normalised })
    }

    pub(super) fn mean(&self) -> f64 {
        mean(&self.top1)
    }

    /// `None` where fine-tuned accuracies are not known.
    pub(super) fn mean_normalised(&self) -> Option<f64> {
        (!self.normalised.is_empty()).then(|| mean(&self.normalised))
    }

    /// The reference's fields.
    pub(super) fn json(&self) -> Value {
        let mut fields = Map::new();
        for (i, name) in self.names.iter().enumerate() {
            fields.insert(format!("{name}:top1"), json!(self.top1[i]));
            if let Some(normalised) = self.normalised.get(i) {
                fields.insert(format!("{name}:normalized_top1"), json!(normalised));
            }
        }
        if let Some(normalised) = self.mean_normalised() {
            fields.insert("avg_normalized_top1".into(), json!(normalised));
        }
        fields.insert("avg_top1".into(), json!(self.mean()));
        Value::Object(fields)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// λ as Python writes it, which the reference's keys are.
pub(super) fn key(lambda: f64) -> String {
    format!("{lambda:?}")
}

/// `97.25 %`
pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}
