//! `taskbasis pack`

mod built;
mod drop;
mod engine;
mod report;
mod size;

use std::path::{Path, PathBuf};

use clap::{Args, Id};
use taskbasis::bundle::{Formats, Gate, LabelledTask, Lambdas};
use taskbasis::hub::Wanted;
use taskbasis::onnx::BoundGraph;
use taskbasis::{
    BaseFormat, Basis, BasisFile, BlockFormat, Bundle, Checkpoint, Dataset, Encoder, Error, ErrorKind, GraphChoice,
    MapMode, ModelOptions, OpenModel, OtherNames, PackReport, Packer, PrecisionChoice, Result, StoredFormat, TaskExpr,
    TowerConfig, base_for_images, check_output, for_images, head_tasks,
};

use crate::accuracy::{Accuracy, Judge};
use crate::args::{EncoderArgs, HeadArgs, Session, tell};
use crate::choice::{choice, value};
use crate::conflicts::{Given, Refused, option};
use crate::eval::labels;
use crate::gate::{self, GateArgs};
use crate::paths::{BasePath, InPath, OutFile};
use crate::tasks_dir::TasksDir;
use crate::verify::pair;
use crate::{checkpoints, output, paths};

pub use self::built::{Built, Merges, NamedMerge};
use self::size::size;

/// Pack a basis folder and its base into one small file, a bundle.
///
/// With --graph it carries that graph, which is then run wherever the bundle is, instead of the built one.
#[derive(Args)]
pub struct Pack {
    /// Basis folder.
    #[arg(long, value_name = "FOLDER")]
    basis: InPath,

    /// Base checkpoint (the zero-shot weights).
    #[arg(long, value_name = "FILE")]
    base: BasePath,

    /// Side of the images in pixels, where it is not the one that the base has positions for: its table of positions,
    /// and those of all vectors, are packed resized.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=1 << 13))]
    image_size: Option<u32>,

    /// The file to write.
    #[arg(short, long, value_name = "model.taskbasis")]
    output: OutFile,

    /// A folder of fine-tuned checkpoints: `NAMEVal/finetuned.pt` or `NAME/finetuned.pt`, else `NAME.pt` and
    /// `NAME.safetensors`.
    #[arg(long, value_name = "FOLDER", requires = "residual")]
    finetuned_dir: Option<InPath>,

    #[command(flatten)]
    how: BundleArgs,

    /// What `build` has to say of the basis that it made for this.
    #[arg(skip)]
    built: Option<Built>,
}

const HEADS: &str = "Classification heads to put in: a safetensors file with `TASK/weight` and `TASK/bias`, a pickled \
    head, or a folder of heads";
const CLASSES: &str = "Class names to put in: {\"TASK\": [\"name\", …]}. Without them classes are numbered";
const ACTIVATION: &str = "The encoder's activation, which the bundle will say: OpenAI's models have quick_gelu, most \
    others gelu. The wrong one gives plausible, wrong embeddings. quick_gelu where nothing is said";
const HEADS_COUNT: &str = "Attention heads, where they are not width / 64; the bundle will say how many";
const GRAPH: &str = "An image encoder that was exported as .onnx with the base's weights, to put in: it is run \
    instead of the built one wherever the bundle is";

const PRECISION: &str = "auto: measure which types the built graph's matrices can be multiplied in without harm (int8, \
    else bf16 or f32 for the kinds of layers that hurt), on --data, or else on built-in images; the bundle tells it, and \
    programs that ask for `auto` run it. Another one is for runs over --data alone";

/// What goes into a bundle, and how.
#[derive(Args)]
// What is shared with those who open a bundle reads differently for those who make one.
#[command(mut_arg("heads", |heads| heads.help(HEADS)))]
#[command(mut_arg("classes", |classes| classes.help(CLASSES)))]
#[command(mut_arg("activation", |activation| activation.help(ACTIVATION)))]
#[command(mut_arg("heads_count", |count| count.help(HEADS_COUNT)))]
#[command(mut_arg("graph", |graph| graph.help(GRAPH)))]
#[command(mut_arg("precision", |precision| precision.help(PRECISION)))]
#[command(mut_arg("built_graph", |flag| flag.hide(true)))] // Refused: see `check`.
#[command(mut_arg("self_test", |flag| flag.hide(true)))] // Refused: see `EncoderArgs::conflict`.
pub struct BundleArgs {
    #[command(flatten)]
    heads: HeadArgs,

    /// How to store the vectors: f32, f16, bf16, q8, q6, q4, q3 or q2; or r16, matrices of rank 16 (or any other),
    /// their factors in q4, r16q6: in q6. q4 where nothing is said.
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["max_error", "max_drop", "size"])]
    pub format: Option<StoredFormat>,

    /// Find the formats, tensor by tensor, with which the bundle takes no more than this and tasks' vectors are off by
    /// the least, which is told by what errors do to embeddings (of images of --data, where it is given): `300MB`,
    /// `64MiB`, or bytes.
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with_all = ["max_error", "max_drop", "residual"])]
    size: Option<u64>,

    /// Find the smallest formats, tensor by tensor, with which no task's vector is off by more than this share of its
    /// norm.
    #[arg(long, value_name = "E", allow_negative_numbers = true)]
    max_error: Option<f64>,

    /// Find small formats with which no task loses more than this many points of accuracy on --data.
    #[arg(long, value_name = "POINTS", allow_negative_numbers = true, conflicts_with = "max_error", requires = "data")]
    max_drop: Option<f64>,

    /// How to store the base; `none` leaves it out, to be given when the bundle is opened.
    #[arg(long, default_value = "f16", value_parser = choice([
        (value("f32"), BaseFormat::F32),
        (value("f16"), BaseFormat::F16),
        (value("bf16"), BaseFormat::BF16),
        (value("none"), BaseFormat::LeftOut),
    ]))]
    base_format: BaseFormat,

    /// Labelled images to measure accuracy with, before and after; as `eval` takes them. Needs --heads.
    #[arg(long, value_name = "images.safetensors")]
    data: Option<InPath>,

    /// Which part of the data.
    #[arg(long, default_value = "test", requires = "data")]
    split: String,

    /// Count class folders whose names are not the head's in the order of the alphabet.
    #[arg(long, requires = "data")]
    alphabetical: bool,

    /// A scaling coefficient for the bundle to suggest: `task=1.0`, `merged=0.3` or `all=0.3`; may be
    /// given several times.
    #[arg(long, value_name = "KIND=LAMBDA", value_parser = pair)]
    suggest: Vec<(String, String)>,

    /// Leave the golden embedding out: what the encoder gives for a built-in image with the base's weights, by which
    /// `verify` and the first run on another machine tell that they compute the same.
    #[arg(long)]
    no_golden: bool,

    /// Store what the vectors lack of a task as a vector of its own, in this format, for tasks whose fine-tuned
    /// checkpoints are given (to `pack` with --finetuned-dir).
    #[arg(long, value_name = "FORMAT")]
    residual: Option<StoredFormat>,

    /// Store a residual only where the vectors lack more than this share of the task vector.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, default_value_t = 0.5, requires = "residual")]
    residual_above: f64,

    #[command(flatten)]
    gate: GateArgs,

    #[command(flatten)]
    pub encoder: EncoderArgs,
}

/// The flags of the command are its bundle's.
impl std::ops::Deref for Pack {
    type Target = BundleArgs;

    fn deref(&self) -> &BundleArgs {
        &self.how
    }
}

impl BundleArgs {
    /// The command that packs what `build` has made.
    pub fn packing(self, basis: &Path, base: BasePath, output: OutFile, built: Built) -> Pack {
        let basis = InPath::new(basis, Wanted::Path);
        Pack { basis, base, image_size: None, how: self, finetuned_dir: None, output, built: Some(built) }
    }

    pub fn conflict(&self, given: &Given<'_>) -> Refused {
        let (has_data, is_gated) = (self.data.is_some(), self.is_gated());
        let is_measured = has_data || is_gated;
        let batch = option!(EncoderArgs, batch);
        let unmeasured =
            || if is_measured { None } else { given.first([batch], "needs '--data' or '--precision auto'") };
        let precision =
            || (!is_measured).then(|| given.first([option!(EncoderArgs, precision)], "needs '--data'")).flatten();
        let ungated = || if is_gated { None } else { given.first(GateArgs::all(), "needs '--precision auto'") };
        let carried = [option!(EncoderArgs, graph), option!(EncoderArgs, optimise_graph)];
        let built = "is not what '--precision auto' measures, which is the built graph";
        let carried = || if is_gated { given.first(carried, built) } else { None };
        // The golden embedding is the CPU's, with this ONNX Runtime.
        let computes = is_gated || !self.no_golden;
        let of_golden = |id: &Id| computes && *id == option!(EncoderArgs, onnxruntime);
        let running = EncoderArgs::running().into_iter().filter(|id| !of_golden(id));
        let runs = has_data || self.encoder.optimise_graph;
        let unrun = || if runs { None } else { given.first(running, "needs '--data' or '--optimise-graph'") };
        let classes = self.heads.classes_without_heads(given);
        let measured = unmeasured().or_else(precision).or_else(ungated).or_else(carried);
        classes.or(measured).or_else(unrun).or_else(|| self.encoder.conflict(None, given))
    }

    /// Whether precisions are measured.
    fn is_gated(&self) -> bool {
        self.encoder.precision == Some(PrecisionChoice::Auto)
    }

    /// Refuses what the encoder's arguments have and no bundle can be told.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for `--built-graph`.
    pub fn check(&self) -> Result<()> {
        if !self.encoder.built_graph {
            return Ok(());
        }
        Err(Error::invalid(
            "--built-graph is of those who open a bundle: there is none here that carries another graph",
        )
        .hint("Without --graph, a bundle carries no graph, and the built one is run"))
    }
}

/// The accuracies of the tasks that can be recovered.
type Accuracies = Vec<Accuracy>;

impl Pack {
    pub fn run(self, as_json: bool) -> Result<()> {
        self.check()?;
        let (base, basis) = self.opened()?;
        paths::protect([basis.path()])?;
        check_output(&self.output, &[])?;

        let tower = self.tower(&base)?;
        tell(&tower);
        if tower.arch.is_of_graph() {
            self.check_runtime()?;
        } else {
            tower.assumed_images().iter().for_each(|note| output::note(note));
        }
        let merges = self.built.as_ref().and_then(|built| built.merges.as_ref());
        let merged = merges.map(|merges| merges.vectors(self.encoder.threads)).transpose()?.unwrap_or_default();
        let mut packer = Packer::of_tower(&base, &basis, &tower)?;
        packer.base_format(self.base_format).threads(self.encoder.threads).lambdas(self.lambdas()?);
        let graph = self.graph()?;
        if let Some(graph) = &graph {
            packer.graph(graph)?;
        }
        for task in self.tasks_with_heads(&basis)? {
            let head = self.heads.head(None, &task, packer.arch())?;
            packer.head(&task, head)?;
        }
        for (task, file) in self.finetuned(&basis)? {
            let format = self.residual.unwrap_or(BlockFormat::Q2.into());
            let tuned = checkpoints::open_tuned(&file, &base)?;
            let tuned = match tower.arch.is_of_graph() {
                true => tuned,
                false => base_for_images(tuned, Some(tower.arch.image_size()))?,
            };
            packer.residual(&task, tuned, format, self.residual_above)?;
        }

        let gate = self.is_gated().then(|| self.gate(&basis, &tower)).transpose()?;
        let before = self.data.is_some().then(|| self.accuracies(&self.session()?, graph.as_ref())).transpose()?;
        let formats = match (self.max_error, self.max_drop, &before, self.size) {
            (Some(max_error), ..) => self.measured(&packer, 1, |progress| packer.smallest(max_error, progress))?,
            (_, Some(points), Some(before), _) => self.within_drop(&packer, &tower, points, before)?,
            (.., Some(bytes)) => self.planner(&packer, &tower)?.within(bytes)?,
            _ => packer.uniform(self.format.unwrap_or(BlockFormat::Q4.into())),
        };
        // Trials of formats need none of them.
        for merged in &merged {
            packer.merge(merged.to_be_kept());
        }
        packer.golden(self.golden()?);
        if let Some(gate) = gate {
            packer.gate(gate, gate::progress())?;
        }
        let report = self.write(&packer, &formats, &self.output)?;
        if let Some(more) = self.size.and_then(|size| report.bytes.checked_sub(size)).filter(|more| *more > 0) {
            output::note(&format!("the bundle takes {more} bytes more than --size, which merges are not in"));
        }
        let written = output::after_writing(&self.output);
        let after = before.as_ref().map(|_| self.accuracies_after(&self.output)).transpose().map_err(&written)?;
        let accuracies = before.as_deref().zip(after.as_deref());
        let told = if as_json {
            let mut json = report::json(&self.output, &report, accuracies);
            if let Some(built) = &self.built {
                json["built"] = built.json.clone();
            }
            output::json(&json)
        } else {
            let built = self.built.as_ref().map(|built| format!("{}\n", built.text)).unwrap_or_default();
            output::text(&(built + &report::text(&self.output, &report, accuracies)))
        };
        told.map_err(written)
    }

    /// How precisions are measured: on the images of those tasks that --data has some of.
    fn gate(&self, basis: &Basis, tower: &TowerConfig) -> Result<Gate> {
        let mut labelled = Vec::new();
        if let Some(path) = &self.data {
            let data = Dataset::open(path)?;
            for task in data.tasks_with(&self.split)? {
                if basis.tasks().iter().any(|known| known == task) {
                    let head = self.heads.head(None, task, &tower.arch)?;
                    let images = data.split(task, &self.split)?;
                    let labels = labels(&head, &images, self.other_names(), task)?;
                    labelled.push(LabelledTask { task: task.to_owned(), head, images, labels });
                }
            }
        }
        let data = self.data.as_deref().map(|path| (path, self.split.as_str()));
        let gate = self.gate.gate(labelled, data, self.encoder.batch as usize, self.encoder.options());
        gate.check()?;
        Ok(gate)
    }

    fn lambdas(&self) -> Result<Lambdas> {
        let mut lambdas = Lambdas::default();
        for (kind, value) in &self.suggest {
            let number = value.parse().map_err(|e| {
                Error::invalid(format!("--suggest {kind}: not a number")).got(format_args!("`{value}`")).because(e)
            });
            let number: f64 = number?;
            match kind.as_str() {
                "task" => lambdas.task = Some(number),
                "merged" => lambdas.merged = Some(number),
                "all" => lambdas.all = Some(number),
                _ => return Err(Error::invalid("--suggest takes task, merged or all").got(format_args!("`{kind}`"))),
            }
        }
        Ok(lambdas)
    }

    fn tasks_with_heads(&self, basis: &Basis) -> Result<Vec<String>> {
        match &self.heads.heads {
            None => Ok(Vec::new()),
            Some(heads) if Bundle::is_bundle(heads) => head_tasks(heads),
            Some(heads) => match (head_tasks(heads)?, basis.tasks()) {
                (none, [only]) if none.is_empty() => Ok(vec![only.clone()]),
                (none, _) if none.is_empty() => Err(Error::invalid("the heads do not say of which task they are")
                    .at(heads)
                    .hint("Call the file or its folder like the task, and give the folder around it")),
                (tasks, _) => Ok(tasks),
            },
        }
    }

    /// The tasks of the basis that the folder has a checkpoint of.
    fn finetuned(&self, basis: &Basis) -> Result<Vec<(String, PathBuf)>> {
        let Some(folder) = &self.finetuned_dir else {
            return match (&self.built, self.residual) {
                (_, None) => Ok(Vec::new()),
                (Some(built), _) => Ok(built.finetuned.clone()),
                (None, _) => Err(Error::invalid("--residual needs --finetuned-dir: what the tasks were tuned to")),
            };
        };
        let scan = TasksDir::read(folder, Some(&self.base))?;
        scan.tell();
        let file = |task: &String| scan.found.iter().find(|file| file.name == *task).map(|file| file.path.clone());
        let found: Vec<_> = basis.tasks().iter().filter_map(|task| Some((task.clone(), file(task)?))).collect();
        if found.is_empty() {
            return Err(Error::not_found("the folder holds no fine-tuned checkpoint of the basis's tasks")
                .at(folder)
                .hint(format!("The tasks are {}", basis.tasks().join(", "))));
        }
        Ok(found)
    }

    /// What `measure` gives, which goes so many times over the vectors and tells how far it has come.
    fn measured<T>(
        &self,
        packer: &Packer<'_>,
        times: usize,
        measure: impl FnOnce(&dyn Fn(u64)) -> Result<T>,
    ) -> Result<T> {
        let bar = output::progress(times * packer.source_bytes() as usize, "measuring");
        let found = measure(&|bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
        Ok(found)
    }

    fn write(&self, packer: &Packer<'_>, formats: &Formats, path: &Path) -> Result<PackReport> {
        let bar = output::progress(packer.source_bytes() as usize, "packing");
        let report = packer.write(path, formats, &[], &|bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
        Ok(report)
    }

    /// The graph that is to be carried: the faster form of it, where that was asked for.
    fn graph(&self) -> Result<Option<BoundGraph>> {
        if self.encoder.graph.is_none() && !self.encoder.optimise_graph {
            return Ok(None);
        }
        self.encoder.chosen_graph(&self.session()?)
    }

    /// What is packed, before it is.
    fn session(&self) -> Result<Session> {
        let (base, basis) = self.opened()?;
        OpenModel::of(BasisFile::Folder(Box::new(basis)), Some(base), &self.options()).map(Session::new)
    }

    /// Base and basis, for images of the size that is asked for.
    fn opened(&self) -> Result<(Checkpoint, Basis)> {
        let (base, basis) = (checkpoints::open(&self.base)?, Basis::open(&self.basis)?);
        for_images(base, basis, self.image_size.map(|size| size as usize))
    }

    fn accuracies_after(&self, bundle: &Path) -> Result<Accuracies> {
        let base =
            matches!(self.base_format, BaseFormat::LeftOut).then(|| checkpoints::open(&self.base)).transpose()?;
        let session = Session::new(OpenModel::of(BasisFile::open(bundle, MapMode::Map)?, base, &self.options())?);
        let graph = session.graph(&GraphChoice::Carried)?;
        self.accuracies(&session, graph.as_ref())
    }

    fn options(&self) -> ModelOptions {
        ModelOptions { threads: self.encoder.threads, cache_bytes: Some(0), ..ModelOptions::default() }
    }

    fn other_names(&self) -> OtherNames {
        if self.alphabetical { OtherNames::Alphabetical } else { OtherNames::Refuse }
    }

    /// Each task's own, in the order of the data.
    fn accuracies(&self, session: &Session, graph: Option<&BoundGraph>) -> Result<Accuracies> {
        let Some(path) = &self.data else { return Ok(Vec::new()) };
        let data = Dataset::open(path)?;
        let (arch, options) = (self.encoder.arch(session)?, self.encoder.options());
        let encoder = match graph {
            Some(graph) => Encoder::with_graph(&arch, graph, &options)?,
            None => Encoder::new(&arch, &options)?,
        };
        let judge = Judge {
            encoder: &encoder,
            preprocess: self.encoder.preprocess(session)?,
            batch: self.encoder.batch as usize,
            threads: self.encoder.threads,
        };
        let known = session.model().basis().map(Basis::tasks).unwrap_or_default();
        let mut all = Vec::new();
        for task in data.tasks_with(&self.split)? {
            if !known.iter().any(|known| known == task) {
                continue;
            }
            let weights = match session.model().weights(&TaskExpr::task(task)) {
                Err(error) if error.kind() == ErrorKind::NotRecoverable => continue,
                weights => weights?,
            };
            let head = self.heads.head(session.bundle(), task, encoder.arch())?;
            let split = data.split(task, &self.split)?;
            let labels = labels(&head, &split, self.other_names(), task)?;
            all.push(judge.accuracy(task, &weights, &head, &split, &labels, |_| {})?);
        }
        if all.is_empty() {
            return Err(
                Error::not_found(format!("no images in split `{}` of any task of the basis", self.split)).at(path)
            );
        }
        Ok(all)
    }
}
