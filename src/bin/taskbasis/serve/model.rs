//! What is served: a model, its encoder and heads, and what clients may ask of them.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::Mutex;
use taskbasis::{
    CacheStats, Choice, Encoder, Error, Grouping, Head, Preprocess, Result, Route, Routing, Runtime, Target, TaskExpr,
    TaskWeights, Weights, WeightsOn,
};

use super::failure::Failure;
use super::types::{
    Architecture, ClassifiedImage, HeadResult, ModelInfo, RoutedTask, ScoredClass, TaskInfo, TasksResponse,
};
use crate::args::Session;

/// The weights that leave the choice of the task to the router.
pub const AUTO: &str = "auto";
/// Bytes of a task expression, at most.
const MAX_EXPRESSION: usize = 64 << 10;
/// Prefetches that may be wanted at once: of more the oldest are called off.
const MAX_PREFETCHES: usize = 64;

/// The weights that a request asks for.
#[derive(Debug)]
pub enum Asked {
    /// Those of an expression.
    Task(TaskWeights),
    /// For each image those that the router chooses.
    Auto,
}

impl Asked {
    /// The expression in its usual spelling.
    pub fn name(&self) -> &str {
        match self {
            Self::Task(task) => task.name(),
            Self::Auto => AUTO,
        }
    }
}

/// A request's weights and heads.
#[derive(Debug)]
pub struct Wanted {
    pub weights: Arc<Asked>,
    /// Names of heads; none where the router chooses.
    pub heads: Vec<String>,
}

/// A model that is open and has been run once.
pub struct Served {
    pub session: Session,
    pub encoder: Encoder,
    pub preprocess: Preprocess,
    pub heads: IndexMap<String, Head>,
    pub routing: Option<Routing>,
    /// The weights that stay, whatever is asked for; a device holds its own by itself.
    pins: Vec<Arc<Weights>>,
    prefetched: Mutex<VecDeque<TaskWeights>>,
}

impl Served {
    pub fn new(
        session: Session,
        encoder: Encoder,
        preprocess: Preprocess,
        heads: IndexMap<String, Head>,
        routing: Option<Routing>,
    ) -> Self {
        Self { session, encoder, preprocess, heads, routing, pins: Vec::new(), prefetched: Mutex::default() }
    }

    /// Reconstructs weights, and holds them as long as the server runs.
    ///
    /// # Errors
    /// As [`Session::weights`] and [`TaskWeights::get`].
    pub fn pin(&mut self, expr: &TaskExpr) -> Result<()> {
        let task = self.session.weights(expr)?;
        let task = task.in_layout(self.encoder.layout());
        match self.encoder.device_model(self.session.model())? {
            Some(device) => drop(device.pin(&task)?),
            None => self.pins.push(task.get()?),
        }
        Ok(())
    }

    /// One run: what is wrong with files, ONNX Runtime or a device shows before a client waits for it.
    ///
    /// # Errors
    /// As [`Encoder::encode_task`].
    pub fn try_out(&self) -> Result<()> {
        let blank = vec![0.0; self.encoder.arch().pixels()];
        self.encoder.encode_task(&self.session.weights(&TaskExpr::base())?, &blank, 1).map(drop)
    }

    /// The weights that a text names. It is an expression and nothing else: no file is opened for it.
    ///
    /// # Errors
    /// As [`Session::weights`]; 400 for what is no expression, or none of a reasonable length.
    pub fn weights(&self, text: &str) -> Result<Asked, Failure> {
        if text.len() > MAX_EXPRESSION {
            return Err(Failure::invalid(format!("a task expression has at most {MAX_EXPRESSION} bytes")));
        }
        let is_task = || self.tasks().iter().any(|task| task == AUTO);
        if text.trim() == AUTO && !is_task() {
            return match self.routing {
                Some(_) => Ok(Asked::Auto),
                None => Err(Failure::from(Error::not_found("there is no router, which `auto` needs"))
                    .hint("`taskbasis route --keep` puts one into the bundle")),
            };
        }
        Ok(Asked::Task(self.session.weights(&text.parse::<TaskExpr>()?)?))
    }

    /// Weights and heads that belong together. Where only one of them is told, it tells the other: a task its head,
    /// the one head of a task that task.
    ///
    /// # Errors
    /// As [`Served::weights`]; 404 for a head that there is not; 400 where neither tells which head.
    pub fn wanted(&self, weights: Option<&str>, mut heads: Vec<String>) -> Result<Wanted, Failure> {
        if let Some(unknown) = heads.iter().find(|head| !self.heads.contains_key(*head)) {
            let known: Vec<&str> = self.heads.keys().map(String::as_str).collect();
            return Err(Error::not_found(format!("no head of task `{unknown}`; known: {}", known.join(", "))).into());
        }
        let own = || match heads.as_slice() {
            [head] if self.tasks().contains(head) => TaskExpr::task(head).to_string(),
            _ => TaskExpr::base().to_string(),
        };
        let weights = self.weights(&weights.map_or_else(own, str::to_owned))?;
        if let Asked::Auto = weights {
            if heads.is_empty() {
                return Ok(Wanted { weights: Arc::new(weights), heads });
            }
            return Err(Failure::invalid("with weights `auto` each image has the head of its task: name no heads"));
        }
        if heads.is_empty() {
            heads.push(self.head_of(weights.name())?);
        }
        Ok(Wanted { weights: Arc::new(weights), heads })
    }

    /// The head of the one task that an expression names.
    fn head_of(&self, expression: &str) -> Result<String, Failure> {
        let expr: TaskExpr = expression.parse()?;
        let mut named: Vec<&str> = Vec::new();
        for (target, _) in expr.terms() {
            match target {
                Target::Task(task) if named.contains(&task.as_str()) => {}
                Target::Task(task) => named.push(task),
                _ => {}
            }
        }
        match named.as_slice() {
            [task] if self.heads.contains_key(*task) => Ok((*task).to_owned()),
            _ => {
                let known: Vec<&str> = self.heads.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(Failure::invalid(format!("`{expression}` does not tell whose head to use"))
                    .hint(format!("Name it as `heads`; known: {known}")))
            }
        }
    }

    /// Has weights reconstructed in the background, for a request to come. Whether they are there now.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn prefetch(&self, task: TaskWeights) -> Result<bool> {
        if task.is_ready() {
            return Ok(true);
        }
        task.prefetch()?;
        let mut prefetched = self.prefetched.lock();
        prefetched.push_back(task);
        if prefetched.len() > MAX_PREFETCHES {
            // It is there by now, or so many came after it that it need not be.
            prefetched.pop_front().map(|oldest| oldest.cancel_prefetch());
        }
        Ok(false)
    }

    /// The image in a file's bytes, as the encoder takes it: f32 [3, S, S].
    ///
    /// # Errors
    /// As [`Preprocess::encoded`].
    pub fn decode(&self, file: &[u8], index: usize) -> Result<Vec<f32>, Failure> {
        let mut pixels = vec![0.0; self.encoder.arch().pixels()];
        self.preprocess.encoded(file, &mut pixels).map_err(|e| Failure::of_image(&e, index))?;
        Ok(pixels)
    }

    /// What heads say of embeddings, `[n, e]`; with routes, the head of each image's own task.
    ///
    /// # Errors
    /// As [`Head::classify`].
    pub fn classify(
        &self,
        heads: &[String],
        embeds: &[f32],
        routes: &[(Route, Choice)],
        top: usize,
    ) -> Result<Vec<HeadResult>, Failure> {
        let width = self.encoder.arch().embed_dim;
        let scores = |head: &Head, embedding: &[f32]| -> Result<Vec<ScoredClass>, Failure> {
            let scored = |score: &taskbasis::Score| ScoredClass {
                class: head.class_name(score.class),
                index: score.class,
                score: score.logit,
                probability: score.probability,
            };
            Ok(head.classify(embedding, top)?.iter().map(scored).collect())
        };
        if let Some(routing) = self.routing.as_ref().filter(|_| !routes.is_empty()) {
            let images = routes.iter().zip(embeds.chunks_exact(width)).map(|((route, choice), embedding)| {
                let task = &routing.router().tasks()[route.task];
                let head = self.heads.get(task).filter(|_| *choice != Choice::None);
                let scores = head.map_or_else(|| Ok(Vec::new()), |head| scores(head, embedding))?;
                let (task, answer) = (task.clone(), choice.name().to_owned());
                Ok(ClassifiedImage { scores, routed: Some(RoutedTask { task, confidence: route.confidence, answer }) })
            });
            return Ok(vec![HeadResult { head: AUTO.into(), images: images.collect::<Result<_, Failure>>()? }]);
        }
        let result = |name: &String| {
            let head = self.heads.get(name).ok_or_else(|| Failure::internal("a head is gone"))?;
            let images = embeds
                .chunks_exact(width)
                .map(|embedding| scores(head, embedding).map(|scores| ClassifiedImage { scores, routed: None }));
            Ok(HeadResult { head: name.clone(), images: images.collect::<Result<_, Failure>>()? })
        };
        heads.iter().map(result).collect()
    }

    /// The state of the cache.
    pub fn cache(&self) -> CacheStats {
        self.session.model().cache().stats()
    }

    fn tasks(&self) -> &[String] {
        self.session.model().basis().map_or(&[], |basis| basis.tasks())
    }

    /// What is served, and how.
    ///
    /// # Errors
    /// As [`Runtime::load`].
    pub fn info(
        &self,
        path: &Path,
        (threads, batch, queue): (usize, u32, usize),
        runtime: Option<&Path>,
    ) -> Result<ModelInfo> {
        let (arch, model) = (self.encoder.arch(), self.session.model());
        let execution = self.encoder.execution();
        Ok(ModelInfo {
            model: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            architecture: Architecture {
                width: arch.width,
                layers: arch.layers,
                heads: arch.heads,
                mlp_width: arch.mlp_width,
                patch: arch.patch,
                image_size: arch.image_size(),
                embedding: arch.embed_dim,
            },
            parameters: arch.parameter_count(),
            vectors: model.basis().map_or(0, |basis| basis.vectors()),
            precision: execution.precisions.to_string(),
            kernel: taskbasis::kernel::active()?.to_string(),
            provider: execution.to_string(),
            onnxruntime: Runtime::load(runtime)?.version().to_owned(),
            threads,
            batch,
            queue,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            weights_bytes: self.encoder.layout().nbytes(),
            router: self.routing.is_some(),
        })
    }

    /// All that expressions and requests can name.
    pub fn names(&self) -> TasksResponse {
        let basis = self.session.model().basis();
        let task = |(index, name): (usize, &String)| TaskInfo {
            name: name.clone(),
            head: self.heads.contains_key(name),
            classes: self.heads.get(name).map(classes).unwrap_or_default(),
            recoverable: basis.is_some_and(|basis| basis.recovery().is_recoverable(index)),
        };
        let words = |grouping: Grouping| grouping.selectors().iter().map(ToString::to_string).collect();
        TasksResponse {
            tasks: self.tasks().iter().enumerate().map(task).collect(),
            names: basis.map(|basis| basis.names().map(|(name, _)| name.to_owned()).collect()).unwrap_or_default(),
            heads: self.heads.keys().cloned().collect(),
            groups: basis.map(|basis| words(Grouping::per_block(basis))).unwrap_or_default(),
            kinds: basis
                .map(|basis| Grouping::kinds(basis).iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
        }
    }

    /// Whether weights are reconstructed in the host's memory.
    pub fn is_on_host(&self) -> bool {
        self.encoder.execution().weights_on == WeightsOn::Host
    }
}

fn classes(head: &Head) -> Vec<String> {
    (0..head.num_classes()).map(|class| head.class_name(class)).collect()
}
