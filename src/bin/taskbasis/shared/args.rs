//! The options that several commands share, and what they open.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use clap::builder::RangedU64ValueParser;
use clap::{Args, Id};
use taskbasis::onnx::BoundGraph;
use taskbasis::{
    Arch, BasisFile, Bundle, Encoder, EncoderOptions, Error, GraphChoice, Head, MapMode, Model, ModelOptions,
    OpenModel, PrecisionChoice, Preprocess, Promotion, Residency, Result, SelfTest, TaskExpr, TaskWeights, TowerConfig,
    check_output, head_tasks, open_head,
};

use super::choice::{choice, value};
use super::conflicts::{Given, Refused, option, options};
use super::graph::{self, BindArgs};
use super::paths::{BasePath, InPath, OutFile};
use super::provider::{self, PlacementArgs, ProviderArgs};
use super::tower::TowerArgs;
use super::{checkpoints, output, paths};

/// Which model.
#[derive(Args)]
#[group(required = true, multiple = true)]
pub struct ModelArgs {
    /// Basis folder: `method_info.json`, `basis_vectors.pt` and the method's own file. Or a bundle (`model.taskbasis`),
    /// which has base, heads and class names in it.
    #[arg(long, value_name = "FOLDER|BUNDLE")]
    pub basis: Option<InPath>,

    /// Base checkpoint (the zero-shot weights): PyTorch or safetensors, by open_clip's, OpenAI's, transformers' or
    /// timm's names; a file, the index of several, or a folder with one. A bundle that holds its base needs none.
    #[arg(long, value_name = "FILE")]
    pub base: Option<BasePath>,

    /// Side of the images in pixels, where it is not the one that the base has positions for: its table of positions,
    /// and those of all vectors, are resized as the base's library does it. A DINOv2 takes that of the configuration
    /// beside it.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=1 << 13))]
    pub image_size: Option<u32>,
}

/// Heads and class names.
#[derive(Args)]
pub struct HeadArgs {
    /// Classification heads: a safetensors file with `TASK/weight` and `TASK/bias`, a pickled head, a checkpoint of
    /// CLIPForImageClassification (its classifier), or a folder of these. A bundle that holds its heads needs none.
    #[arg(long, value_name = "H")]
    pub heads: Option<InPath>,

    /// Class names: {"TASK": ["name", …]}. Without them classes are numbered.
    #[arg(long, value_name = "C.json")]
    pub classes: Option<InPath>,
}

/// What [`ModelArgs`] name, open.
pub struct Session {
    opened: OpenModel,
    /// [`EncoderArgs::tower`], once it was asked for.
    tower: OnceLock<TowerConfig>,
}

impl Deref for Session {
    type Target = OpenModel;

    fn deref(&self) -> &OpenModel {
        &self.opened
    }
}

/// What every `--threads` takes: as many as there are processors, or 64, at most.
pub fn threads() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(0..=taskbasis::kernel::max_threads() as u64)
}

/// The heading in help for the options of a user's graph.
const GRAPH: &str = "Your own graph";

/// How to run it.
#[derive(Args)]
pub struct EncoderArgs {
    /// Images a run.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,

    /// Threads, as many as there are processors, or 64, at most; 0 means one per processor.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = threads())]
    pub threads: usize,

    /// The type that the matrices of linear layers are multiplied in: f32, which it is unless another is asked for;
    /// bf16, half the bytes, and about half the time where the processor has it; int8, a quarter of the bytes, the
    /// fastest; `auto`, the fastest that passed when the bundle was packed, else f32; or one per kind of layer,
    /// `patches=bf16,qkv=int8,out=int8,fc=int8,proj=bf16`.
    #[arg(long, value_name = "f32|bf16|int8|auto")]
    pub precision: Option<PrecisionChoice>,

    #[command(flatten)]
    pub tower: TowerArgs,

    /// ONNX Runtime's shared library, instead of the one that would be found.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<InPath>,

    /// An image encoder that was exported as .onnx with the base's weights, to run instead of the built one, or of
    /// the one that a bundle carries.
    #[arg(long, value_name = "MODEL.onnx", help_heading = GRAPH)]
    pub graph: Option<InPath>,

    /// Run the built graph, though the bundle carries another one.
    #[arg(long, conflicts_with = "graph", help_heading = GRAPH)]
    pub built_graph: bool,

    #[command(flatten, next_help_heading = GRAPH)]
    pub binding: BindArgs,

    /// Try what ONNX Runtime's optimiser makes of the user's graph first, and run the faster form.
    #[arg(long, conflicts_with = "built_graph", help_heading = GRAPH)]
    pub optimise_graph: bool,

    /// Whether the first run over a bundle is preceded by that of one image, which has to give the bundle's golden
    /// embedding.
    #[arg(long, default_value = "auto", value_parser = choice([
        (value("auto").help("Where the base's weights find room beside a task's"), SelfTest::Auto),
        (value("on").help("Whatever memory it takes"), SelfTest::On),
        (value("off").help("Never"), SelfTest::Off),
    ]))]
    pub self_test: SelfTest,

    #[command(flatten)]
    pub provider: ProviderArgs,

    #[command(flatten)]
    pub placement: PlacementArgs,
}

const BLOCKWISE: &str = "Those of a block at a time: a fraction of the memory, and a reconstruction per batch";

/// How much of a task's weights to have in memory.
#[derive(Args)]
pub struct ResidencyArgs {
    /// How much of the task's weights to have in memory.
    #[arg(long, default_value = "whole", value_parser = choice([
        (value("whole").help("All of them, rebuilt once"), Residency::Whole),
        (value("blockwise").help(BLOCKWISE), Residency::Blockwise),
    ]))]
    residency: Residency,

    /// `--residency blockwise`, by its older name.
    #[arg(long, conflicts_with = "residency")]
    streamed: bool,
}

impl ResidencyArgs {
    pub fn get(&self) -> Residency {
        if self.streamed { Residency::Blockwise } else { self.residency }
    }

    /// What has no effect where a block at a time is run.
    pub fn conflict(&self, encoder: &EncoderArgs, given: &Given<'_>) -> Refused {
        if self.get() == Residency::Whole {
            return None;
        }
        let why =
            format!("cannot be used with '{}'", if self.streamed { "--streamed" } else { "--residency blockwise" });
        let placed = options::<PlacementArgs>();
        let is_tested = matches!(encoder.self_test, SelfTest::On);
        let tested = is_tested.then(|| option!(EncoderArgs, self_test));
        given.first(std::iter::once(option!(EncoderArgs, optimise_graph)).chain(placed), &why).or_else(|| {
            // Compared is a run with all of the base's weights.
            given.first(tested, &format!("{why}, which has no room for it"))
        })
    }
}

impl ModelArgs {
    /// Base and basis together; `threads` for reconstruction, 0 meaning one per processor.
    pub fn open(&self, threads: usize) -> Result<Session> {
        self.open_with(&ModelOptions { threads, ..ModelOptions::default() })
    }

    /// Base and basis together.
    pub fn open_with(&self, options: &ModelOptions) -> Result<Session> {
        let base = self.base.as_deref().map(checkpoints::open).transpose()?;
        let image_size = self.image_size.map(|size| size as usize);
        let opened = match (&self.basis, base) {
            (Some(basis), base) => {
                let file = BasisFile::open(basis, MapMode::Map)?;
                // However a folder was named, all of it is read.
                if basis.is_kept() {
                    paths::protect([file.path()])?;
                }
                OpenModel::of_size(file, base, image_size, options)?
            }
            (None, Some(base)) => OpenModel::of_base(base, image_size, options)?,
            (None, None) => return Err(Error::invalid("neither --basis nor --base is given")),
        };
        Ok(Session::new(opened))
    }
}

impl HeadArgs {
    /// Class names, which are put in with the head alone.
    pub fn classes_without_heads(&self, given: &Given<'_>) -> Refused {
        self.heads.is_none().then(|| given.first([option!(Self, classes)], "needs '--heads'")).flatten()
    }

    /// The head of `task`, for embeddings of this length: of the file that was given, else of the bundle.
    pub fn head(&self, bundle: Option<&Bundle>, task: &str, arch: &Arch) -> Result<Head> {
        let (path, head) = match (self.heads.as_deref(), bundle) {
            (Some(path), _) => (path, open_head(path, Some(task), self.classes.as_deref())?),
            // It is open, and need not be opened for every task.
            (None, Some(bundle)) => {
                let head = bundle.head(task)?;
                let head = match self.classes.as_deref() {
                    Some(classes) => head.with_class_names(classes, task)?,
                    None => head,
                };
                (bundle.path(), head)
            }
            (None, None) => return Err(Error::invalid("--heads is missing: the tasks' classification heads")),
        };
        head.check_tower(task, arch).map_err(|e| e.at(path))?;
        Ok(head)
    }

    /// A file of one head says of one task: for several it would be right for one and silently wrong for the others.
    pub fn check(&self, tasks: &[String]) -> Result<()> {
        // Asked for a head that it does not have, a bundle says so by itself.
        let Some(heads) = self.heads.as_ref().filter(|heads| tasks.len() > 1 && !Bundle::is_bundle(heads)) else {
            return Ok(());
        };
        let known = head_tasks(heads)?;
        // A folder of heads says so by itself too; one of a model has one classifier.
        if heads.is_dir() && !known.is_empty() {
            return Ok(());
        }
        tasks.iter().find(|task| !known.contains(task)).map_or(Ok(()), |task| {
            Err(Error::not_found(format!("no head of task `{task}`; known: {}", known.join(", ")))
                .at(heads)
                .hint("Give a file or folder with a head a task, or choose tasks with --task"))
        })
    }
}

impl Session {
    pub fn new(opened: OpenModel) -> Self {
        Self { opened, tower: OnceLock::new() }
    }

    /// Names the weights of `expr`; nothing is reconstructed yet.
    pub fn weights(&self, expr: &TaskExpr) -> Result<TaskWeights> {
        let needs_basis = self.model().basis().is_none();
        self.model().weights(expr).map_err(|e| if needs_basis { e.hint("Give it with --basis") } else { e })
    }
}

impl EncoderArgs {
    /// What has no effect on runs with `model`; `None` where no run is of a bundle's tasks.
    pub fn conflict(&self, model: Option<&ModelArgs>, given: &Given<'_>) -> Refused {
        let basis = model.and_then(|model| model.basis.as_ref());
        // What is on the Hub is not known yet.
        let is_bundle = basis.is_some_and(|basis| basis.is_unsettled() || Bundle::is_bundle(basis));
        let of_bundles = "is of runs over a bundle (embed, classify, eval)";
        let untested = || if is_bundle { None } else { given.first([option!(Self, self_test)], of_bundles) };
        untested().or_else(|| self.placement.conflict(&self.provider, given))
    }

    /// The options that say where and with what something is run.
    pub fn running() -> Vec<Id> {
        let placed = options::<ProviderArgs>().into_iter().chain(options::<PlacementArgs>());
        std::iter::once(option!(Self, onnxruntime)).chain(placed).collect()
    }

    /// The architecture, as [`EncoderArgs::tower`] has it.
    pub fn arch(&self, session: &Session) -> Result<Arch> {
        self.tower(session).map(|tower| tower.arch.clone())
    }

    /// What images go through, as [`EncoderArgs::tower`] has it.
    pub fn preprocess(&self, session: &Session) -> Result<Preprocess> {
        self.tower(session).map(|tower| tower.preprocess.clone())
    }

    /// Says what is assumed of image files, where there are some; refuses options for them where there are none.
    pub fn tell_images(&self, session: &Session, has_files: bool) -> Result<()> {
        match self.tower.images.given() {
            Some(option) if !has_files => {
                Err(Error::invalid(format!("{option} is for image files, and the input is preprocessed already")))
            }
            _ if !has_files => Ok(()),
            _ => {
                self.tower(session)?.assumed_images().iter().for_each(|note| output::note(note));
                Ok(())
            }
        }
    }

    /// What shapes do not tell: as asked for, else as the bundle or a configuration says. What the user should know of
    /// it is told once.
    pub fn tower<'s>(&self, session: &'s Session) -> Result<&'s TowerConfig> {
        if let Some(tower) = session.tower.get() {
            return Ok(tower);
        }
        let tower = session.opened.tower(self.tower.options(), &self.graph_choice())?;
        tell(&tower);
        Ok(session.tower.get_or_init(|| tower))
    }

    pub fn options(&self) -> EncoderOptions {
        let (threads, runtime) = (self.threads, self.onnxruntime.as_deref().map(Into::into));
        // The same command gives the same bits: nothing is promoted on the way.
        let (promotion, self_test) = (Promotion::Off, self.self_test);
        let precision = self.precision.unwrap_or_default();
        let options = EncoderOptions { threads, runtime, promotion, self_test, precision, ..EncoderOptions::default() };
        self.placement.applied_to(self.provider.applied_to(options))
    }

    /// The graph that is asked for.
    pub fn graph_choice(&self) -> GraphChoice {
        match &self.graph {
            Some(path) => self.binding.choice(path),
            None if self.built_graph => GraphChoice::Built,
            None => GraphChoice::Carried,
        }
    }

    /// The user's graph: the one that is given, else the one that the bundle carries. `None` is the built one.
    pub fn graph(&self, session: &Session) -> Result<Option<BoundGraph>> {
        let graph = session.opened.graph(&self.graph_choice())?;
        self.graph.as_ref().and(graph.as_ref()).map_or(Ok(()), graph::tell)?;
        Ok(graph)
    }

    /// [`EncoderArgs::graph`] in the form that encoders run: the fastest, where that is asked for.
    pub fn chosen_graph(&self, session: &Session) -> Result<Option<BoundGraph>> {
        let graph = self.graph(session)?;
        if !self.optimise_graph {
            return Ok(graph);
        }
        Ok(self.encoder_over(graph.as_ref(), session, &self.options())?.graph().cloned())
    }

    /// The built encoder, or one over the user's graph.
    pub fn encoder(&self, session: &Session) -> Result<Encoder> {
        self.encoder_with(session, Residency::Whole)
    }

    /// [`EncoderArgs::encoder`] with as much of a task's weights in memory.
    pub fn encoder_with(&self, session: &Session, residency: Residency) -> Result<Encoder> {
        self.encoder_by(session, &EncoderOptions { residency, ..self.options() })
    }

    /// [`EncoderArgs::encoder`] with these options: [`EncoderArgs::options`], but for what a command knows better.
    pub fn encoder_by(&self, session: &Session, options: &EncoderOptions) -> Result<Encoder> {
        if session.has_graph(&self.graph_choice()) {
            options.check_graph()?;
        }
        let graph = self.graph(session)?;
        self.check_activation(graph.as_ref())?;
        self.encoder_over(graph.as_ref(), session, options)
    }

    /// Refuses an activation for a graph that has its own.
    pub fn check_activation(&self, graph: Option<&BoundGraph>) -> Result<()> {
        match (graph, self.tower.of_built_graph()) {
            (Some(graph), Some(option)) => {
                Err(Error::invalid(format!("{option} is of the built graph, and this one has its own"))
                    .at(graph.file().path())
                    .hint("Leave it out; --built-graph runs the built one, whatever a bundle carries"))
            }
            _ => Ok(()),
        }
    }

    fn encoder_over(&self, graph: Option<&BoundGraph>, session: &Session, options: &EncoderOptions) -> Result<Encoder> {
        let tower = self.tower(session)?;
        let encoder = match graph {
            None if self.optimise_graph => return Err(no_graph()),
            Some(graph) if self.optimise_graph => {
                session.tested(fastest(&tower.arch, graph, session.model(), options)?)
            }
            graph => session.encoder_of(tower, graph, options)?,
        };
        provider::tell(encoder.execution());
        Ok(encoder)
    }
}

/// An encoder over the fastest form of a graph, which is told.
fn fastest(arch: &Arch, graph: &BoundGraph, model: &Arc<Model>, options: &EncoderOptions) -> Result<Encoder> {
    let (encoder, trials) = Encoder::with_fastest_graph(arch, graph, model, options)?;
    let made = trials.iter().filter(|trial| trial.result.is_ok()).count();
    for trial in &trials {
        match &trial.result {
            Err(why) => output::note(&format!("the graph has no form {}: {why}", trial.form)),
            Ok(_) if trial.is_chosen && made > 1 => {
                output::note(&format!("the fastest of {made} forms of the graph is the one {}", trial.form));
            }
            Ok(_) if trial.is_chosen => output::note(&format!("the only form of the graph is the one {}", trial.form)),
            Ok(_) => {}
        }
    }
    Ok(encoder)
}

/// Says what the user should know of a tower.
pub fn tell(tower: &TowerConfig) {
    tower.notes.iter().chain(&tower.assumed()).for_each(|note| output::note(note));
}

/// The built graph is as good as optimising makes it.
pub fn no_graph() -> Error {
    Error::invalid("--optimise-graph needs a user's graph: --graph, or a bundle that carries one")
}

/// A bundle that is changed: in its place, or in a copy.
#[derive(Args)]
pub struct ChangedBundle {
    /// The bundle.
    #[arg(value_name = "FILE")]
    bundle: InPath,

    /// Where to write the changed bundle, instead of in the place of the old one.
    #[arg(short, long, value_name = "FILE")]
    output: Option<OutFile>,
}

impl ChangedBundle {
    /// Says that the bundle is changed.
    ///
    /// # Errors
    /// As [`InPath::is_changed`].
    pub fn check_place(&self) -> Result<()> {
        self.bundle.is_changed(self.output.is_some(), "-o names the file for the changed bundle")
    }

    /// The bundle, and where the changed one is to be written, which can be.
    pub fn open(&self) -> Result<(Bundle, &Path)> {
        let path = self.output.as_deref().unwrap_or(&self.bundle);
        let bundle = Bundle::open(&self.bundle)?;
        check_output(path, &[])?;
        Ok((bundle, path))
    }
}
