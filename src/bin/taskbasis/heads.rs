//! `taskbasis heads`

use std::path::Path;

use clap::Args;
use serde_json::{Map, Value, json};
use taskbasis::heads::tokenizer::TOKENIZER_FILES;
use taskbasis::heads::{SIGMOID, class_names, class_tasks, has_plain_class_names, known_class_names};
use taskbasis::hub::{Hub, HubOptions};
use taskbasis::tower::text::TextForm;
use taskbasis::{
    Activation, EncoderOptions, Error, Prompts, Result, ScoreFunction, TextEncoder, TextHints, TextModel, check_output,
    save_arrays,
};

use crate::args::threads;
use crate::conflicts::{Given, Refused, option};
use crate::hub::Watch;
use crate::paths::{BasePath, InPath, OutFile};
use crate::provider::{self, ProviderArgs};
use crate::tower::activations;
use crate::{checkpoints, output};

/// Make classification heads from class names, with CLIP's or SigLIP's text encoder.
///
/// Each class name is put into every prompt template of its task; the normalised embeddings are averaged, the mean is
/// normalised and multiplied by the model's scale. SigLIP's bias is added, and its scores are sigmoids. Its vocabulary
/// is that of the `tokenizer.json` beside the weights.
#[derive(Args)]
pub struct Heads {
    /// The CLIP or SigLIP model whose text encoder to use: a checkpoint of the whole model, or its folder as the
    /// Hugging Face Hub keeps one (`hf://owner/repo`).
    #[arg(long, value_name = "FOLDER|FILE")]
    text_model: BasePath,

    /// Class names: {"TASK": ["name", …]}, or ["name", …] with one `--task`.
    #[arg(long, value_name = "C.json", required_unless_present = "datasets")]
    classes: Option<InPath>,

    /// A dataset of the reference's whose classes are known, as `Cars`, instead of --classes; once per dataset.
    #[arg(long = "dataset", value_name = "NAME", conflicts_with_all = ["classes", "tasks"])]
    datasets: Vec<String>,

    /// Words for the classes that the reference puts into its prompts as Python writes a list: FER2013's `happy`, not
    /// `['happy', 'smiling']`.
    #[arg(long, requires = "datasets")]
    plain_names: bool,

    /// Write the class names that heads were made of, as other commands take them.
    #[arg(long, value_name = "C.json", requires = "datasets")]
    write_classes: Option<OutFile>,

    /// The file to write: `TASK/weight` [C, e] and `TASK/bias` [C], as `--heads` takes it, and `TASK/sigmoid` where
    /// scores are sigmoids.
    #[arg(short, long, value_name = "H.safetensors")]
    output: OutFile,

    /// Prompt templates: {"TASK": ["a photo of {a|the} {}.", …]}, or ["…", …] for every task; `{}` is the class, and
    /// `{a|the}` two templates. Without them, CLIP's own for the datasets that task vectors are usually made for.
    #[arg(long, value_name = "T.json")]
    templates: Option<InPath>,

    /// The tasks to make heads for; else all in C.json.
    #[arg(long = "task", value_name = "TASK")]
    tasks: Vec<String>,

    /// The text encoder's activation, where the folder's configuration does not say it; else quick_gelu.
    #[arg(long, value_parser = activations())]
    activation: Option<Activation>,

    /// The text encoder's attention heads, where they are not width / 64.
    #[arg(long, value_name = "N")]
    heads_count: Option<usize>,

    /// The logarithm of the scale, where the model holds none.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    logit_scale: Option<f32>,

    /// SigLIP's bias, which is added to the scaled similarities, where the model holds none.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    logit_bias: Option<f32>,

    /// Threads, as many as there are processors, or 64, at most; 0 means one per processor.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    threads: usize,

    /// ONNX Runtime's shared library, instead of the one that would be found.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<InPath>,

    #[command(flatten)]
    provider: ProviderArgs,
}

impl Heads {
    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        // Clap asks for nothing that conflicts with what was typed.
        let of_datasets = [option!(Self, plain_names), option!(Self, write_classes)];
        let known = self.datasets.is_empty().then(|| given.first(of_datasets, "is for '--dataset'")).flatten();
        known.or_else(|| self.provider.conflict(given))
    }

    pub fn run(self, as_json: bool) -> Result<()> {
        check_output(&self.output, &[])?;
        self.write_classes.iter().try_for_each(|path| check_output(path, &[]))?;
        // All that can be wrong in small files is said before the large one is opened.
        let mut tasks = Vec::new();
        for (task, classes) in self.lists()? {
            let prompts = match &self.templates {
                Some(path) => Prompts::open(path, &task)?,
                None => Prompts::known(&task).map_err(|e| e.or_hint("Give them with --templates"))?,
            };
            tasks.push((task, classes, prompts));
        }

        let hints = TextHints { heads: self.heads_count, activation: self.activation, ..TextHints::default() };
        let (threads, runtime) = (self.threads, self.onnxruntime.as_deref().map(Into::into));
        let options = self.provider.applied_to(EncoderOptions { threads, runtime, ..EncoderOptions::default() });
        let model = TextModel::open_with(&self.text_model, hints, |file| checkpoints::open(file))?;
        model.notes().iter().for_each(|note| output::note(note));
        if model.arch().form == TextForm::Siglip {
            bring_tokenizer(model.path())?;
        }
        let encoder = TextEncoder::new(model.with_logit_bias(self.logit_bias), &options)?;
        provider::tell(encoder.execution());
        let total = tasks.iter().map(|(_, classes, prompts)| classes.len() * prompts.len()).sum();
        let bar = output::progress(total, "prompts");
        let mut heads = Vec::new();
        for (_, classes, prompts) in &tasks {
            let before = bar.position();
            let progress = |done: usize| bar.set_position(before + done as u64);
            heads.push(encoder.head(classes, prompts, self.logit_scale, &progress)?);
        }
        bar.finish_and_clear();

        let e = encoder.model().arch().embed_dim;
        let names: Vec<_> =
            tasks.iter().map(|(task, ..)| ["weight", "bias", SIGMOID].map(|last| format!("{task}/{last}"))).collect();
        let shapes: Vec<_> = heads.iter().map(|head| ([head.num_classes(), e], [head.num_classes()])).collect();
        let mut arrays: Vec<(&str, &[usize], &[f32])> = Vec::new();
        for ((head, names), shapes) in heads.iter().zip(&names).zip(&shapes) {
            let [weight, bias, sigmoid] = names;
            arrays.push((weight, &shapes.0, head.weight()));
            arrays.push((bias, &shapes.1, head.bias()));
            if head.function() == ScoreFunction::Sigmoid {
                arrays.push((sigmoid, &[1], &[1.0]));
            }
        }
        let about = [("text_model", encoder.model().path().display().to_string())];
        save_arrays(&self.output, &arrays, &about, &[])?;
        if let Some(path) = &self.write_classes {
            let lists: Map<String, Value> = tasks.iter().map(|(task, names, _)| (task.clone(), json!(names))).collect();
            output::text_file(path, &format!("{}\n", Value::Object(lists)))?;
        }

        let after = output::after_writing(&self.output);
        if as_json {
            let made = tasks.iter().map(
                |(task, classes, prompts)| json!({ "task": task, "classes": classes.len(), "prompts": prompts.len() }),
            );
            let made = json!({ "output": &*self.output, "embedding": e, "heads": made.collect::<Vec<_>>() });
            return output::json(&made).map_err(after);
        }
        let mut rows = vec![["task", "classes", "prompts per class"].map(String::from).to_vec()];
        for (task, classes, prompts) in &tasks {
            rows.push(vec![task.clone(), classes.len().to_string(), prompts.len().to_string()]);
        }
        let told = format!("{}\n{}: embeddings of {e}\n", output::table(&rows), self.output.display());
        output::text(&told).map_err(after)
    }

    /// The tasks to make heads for, each with the names of its classes.
    fn lists(&self) -> Result<Vec<(String, Vec<String>)>> {
        let Some(file) = &self.classes else {
            return self.datasets.iter().map(|name| Ok((name.clone(), self.known(name)?))).collect();
        };
        let known = class_tasks(file)?;
        let tasks = match (self.tasks.len(), known.is_empty()) {
            (0, false) => known,
            (1, true) | (1.., false) => self.tasks.clone(),
            _ => {
                return Err(Error::invalid("the classes of one task without its name")
                    .at(file)
                    .hint("Give one --task"));
            }
        };
        let names = |task: String| match class_names(file, &task)? {
            names if names.is_empty() => Err(Error::format(format!("no class of task `{task}`")).at(file)),
            names => Ok((task, names)),
        };
        tasks.into_iter().map(names).collect()
    }

    /// The known names of a dataset's classes; what a person should know of them is said.
    fn known(&self, dataset: &str) -> Result<Vec<String>> {
        let names = known_class_names(dataset, self.plain_names).map_err(|e| e.or_hint("Give them with --classes"))?;
        if has_plain_class_names(dataset) && !self.plain_names {
            output::note(&format!(
                "{dataset}: the classes go into the prompts as the reference's do, {}; --plain-names gives words",
                names.get(3).unwrap_or(&names[0]),
            ));
        }
        Ok(names)
    }
}

/// Brings the files of the tokenizer beside the model at `path`, where that is in the Hub's cache.
fn bring_tokenizer(path: &Path) -> Result<()> {
    let (hub, watch) = (Hub::new(HubOptions::from_env()?)?, Watch::new());
    hub.bring_beside(path, &TOKENIZER_FILES, &watch.listener());
    watch.finish();
    Ok(())
}
