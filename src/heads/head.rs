//! Classification heads: from an embedding to class scores.
//!
//! A head is frozen: its rows are the text embeddings of the classes, averaged over prompt templates and scaled by
//! exp(logit_scale). logits = W·(e/‖e‖) + b, or W·e + b for a head that was pickled with `normalize=False`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::choose::PUBLISHED;
use crate::checkpoint::shards;
use crate::checkpoint::torch::Archive;
use crate::checkpoint::zip::Directory;
use crate::did_you_mean::unknown;
use crate::error::{Error, Result};
pub use crate::heads::class_lists::{class_names, class_tasks};
use crate::heads::classifier;
use crate::mmap::{MapMode, Mapping};
use crate::tensor::{Tensor, try_zeroed};
use crate::tower::arch::{Arch, Pooling};

/// The attribute by which a pickled head says whether embeddings are normalised.
const NORMALISE: &str = "normalize";

/// A linear classifier over embeddings, which are normalised first unless it says otherwise.
#[derive(Clone, Debug)]
pub struct Head {
    weight: Vec<f32>,
    bias: Vec<f32>,
    embedding: usize,
    classes: Vec<String>,
    normalises: bool,
    pooling: Option<Pooling>,
}

impl Head {
    /// A head of `weight` `[C, e]`, row-major, and `bias` `[C]`; without names for its classes.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) when the lengths do not fit together;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when a value is not finite or there is no class.
    pub fn new(weight: Vec<f32>, bias: Vec<f32>) -> Result<Self> {
        if bias.is_empty() || weight.is_empty() {
            return Err(Error::format("a head without classes"));
        }
        if !weight.len().is_multiple_of(bias.len()) {
            return Err(Error::mismatch("a head's weight and bias disagree")
                .expected(format_args!("[C, e] and [C]"))
                .got(format_args!("{} and {} values", weight.len(), bias.len())));
        }
        if !weight.iter().chain(&bias).all(|value| value.is_finite()) {
            return Err(Error::format("a head's weight or bias holds a value that is not finite"));
        }
        let embedding = weight.len() / bias.len();
        Ok(Self { weight, bias, embedding, classes: Vec::new(), normalises: true, pooling: None })
    }

    /// Opens the head of `task` from `path`, which is one of
    /// - a file of several heads, `{task}/weight` `[C, e]` and `{task}/bias` `[C]`;
    /// - a file of one head, `weight` and `bias`;
    /// - a checkpoint of the transformers library's `CLIPForImageClassification`, a file or a folder: its classifier is
    ///   the head of whichever task is asked for, and takes what [`Pooling::PatchMean`] gives, not normalised; its
    ///   classes are called as the `config.json` beside it says (`id2label`);
    /// - a folder of such files named `head_{task}Val.pt`, `head_{task}.pt` or `{task}.safetensors`, or of folders
    ///   `{task}` or `{task}Val` with such a checkpoint and its `config.json`.
    ///
    /// The task may be left out where there is one head only. A bias that is absent is zero. A `.pt` head whose
    /// name says another task than `task` is refused. A pickled head's own `normalize` is heeded.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io); [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there is no
    /// such task, naming the known ones and the nearest; [`ErrorKind::InvalidArgument`](crate::ErrorKind) when a task
    /// must be named; [`ErrorKind::Format`](crate::ErrorKind::Format) and
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) when the tensors are not a head's.
    pub fn open(path: impl AsRef<Path>, task: Option<&str>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            let mut files = head_files(path)?;
            if files.is_empty() && classifier::is_model(path) {
                return Self::open_file(path, task);
            }
            let chosen = choose(files.keys(), task).map_err(|e| e.at(path))?.to_owned();
            let file = files.remove(&chosen).unwrap_or_default();
            // The folder's file names are the tasks' names; a file of several heads keeps its own below that.
            return Self::open_file(&file, Some(&chosen));
        }
        Self::open_file(path, task)
    }

    fn open_file(path: &Path, task: Option<&str>) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let path = file.path();
        let find = |name: &str| file.get(name);
        if let Some(weight) = find("weight") {
            if let (Some(task), Some(named)) = (task, task_of_file(path))
                && path.extension().is_some_and(|extension| extension == "pt")
                && task != named
            {
                return Err(Error::mismatch("the head of another task").at(path).expected(task).got(named));
            }
            let head = Self::from_tensors(weight, find("bias"), "").map_err(|e| e.at(path))?;
            return Ok(head.with_normalisation(says_to_normalise(path)?));
        }
        if let Some(head) = classifier::head_of(&file)? {
            return Ok(head);
        }
        let tasks = tasks_of(&file);
        let task = choose(tasks.iter().map(String::as_str), task).map_err(|e| e.at(path))?;
        let Some(weight) = find(&format!("{task}/weight")) else {
            return Err(Error::not_found("no head in it").at(path));
        };
        Self::from_tensors(weight, find(&format!("{task}/bias")), &format!("{task}/")).map_err(|e| e.at(path))
    }

    /// A head from its tensors: `weight` `[C, e]` and `bias` `[C]`, of any float type; `prefix` is what errors put
    /// before these names.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) and [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) as
    /// [`Head::new`], and when a shape or type is wrong; [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub fn from_tensors(weight: &Tensor, bias: Option<&Tensor>, prefix: &str) -> Result<Self> {
        let name = format!("{prefix}weight");
        let &[classes, _] = weight.shape() else {
            return Err(Error::format("not the weight of a head")
                .tensor(name)
                .expected("shape [classes, embedding]")
                .got(format_args!("{:?}", weight.shape())));
        };
        let bias = match bias {
            None => try_zeroed(classes)?,
            Some(bias) if bias.shape() == [classes] => {
                bias.to_f32().map_err(|e| e.tensor(format!("{prefix}bias")))?.into_owned()
            }
            Some(bias) => {
                return Err(Error::mismatch("a head's bias does not fit its weight")
                    .tensor(format!("{prefix}bias"))
                    .expected(format_args!("shape [{classes}]"))
                    .got(format_args!("{:?}", bias.shape())));
            }
        };
        let values = weight.to_f32().map_err(|e| e.tensor(&name))?.into_owned();
        Self::new(values, bias).map_err(|e| e.tensor(name))
    }

    /// Gives the classes their names.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) when there are more or fewer names than classes.
    pub fn with_classes(mut self, classes: Vec<String>) -> Result<Self> {
        if classes.len() != self.num_classes() {
            return Err(Error::mismatch("the head and the class names differ in number")
                .expected(format_args!("{} names, one a class of the head", self.num_classes()))
                .got(classes.len()));
        }
        self.classes = classes;
        Ok(self)
    }

    /// Says whether embeddings are normalised before they are classified; a new head does.
    #[must_use]
    pub fn with_normalisation(self, normalises: bool) -> Self {
        Self { normalises, ..self }
    }

    /// Whether embeddings are normalised before they are classified.
    pub fn normalises(&self) -> bool {
        self.normalises
    }

    /// Says what the embeddings that it takes are pooled by; `None` where it does not matter, or is not known.
    #[must_use]
    pub fn with_pooling(self, pooling: Option<Pooling>) -> Self {
        Self { pooling, ..self }
    }

    /// What the embeddings that it takes are pooled by, where that is known.
    pub fn pooling(&self) -> Option<Pooling> {
        self.pooling
    }

    /// C.
    pub fn num_classes(&self) -> usize {
        self.bias.len()
    }

    /// The length of the embeddings that this head takes.
    pub fn embedding_dim(&self) -> usize {
        self.embedding
    }

    /// Checks that this head, that of `task`, takes embeddings as long as an encoder gives.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch).
    pub fn check_embedding(&self, task: &str, embedding: usize) -> Result<()> {
        if self.embedding == embedding {
            return Ok(());
        }
        Err(Error::mismatch(format!("the head of `{task}` takes embeddings of another length"))
            .expected(embedding)
            .got(self.embedding)
            .hint("Is it of another model?"))
    }

    /// Checks that this head, that of `task`, takes what a tower of `arch` gives.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where it takes another pooling, or embeddings of another
    /// length.
    pub fn check_tower(&self, task: &str, arch: &Arch) -> Result<()> {
        let has = arch.variant.pooling;
        match self.pooling.filter(|takes| *takes != has) {
            None => self.check_embedding(task, arch.embed_dim),
            Some(takes) => Err(Error::mismatch(format!("the head of `{task}` takes embeddings of another pooling"))
                .expected(format_args!("{takes}, {} values", self.embedding))
                .got(format_args!("{has}, {} values", arch.embed_dim))
                .hint(
                    "Is it a CLIPForImageClassification's? --pooling patch_mean (C: TB_POOLING_PATCH_MEAN) encodes \
                       for it, over any base",
                )),
        }
    }

    /// The rows of the classes, `[C, e]` in row-major order.
    pub fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// The bias of each class.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// The names of the classes, in the order of the logits; empty where none were given.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The logits of `embeddings`, `[N, e]`, into `out`, `[N, C]`: W·(e/‖e‖) + b, or W·e + b where the head does not
    /// normalise. The embeddings are those of the encoder, not normalised.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when a length does not fit, or an embedding
    /// cannot be normalised because its norm is 0 or not finite: no encoder with sound weights makes such a one.
    pub fn logits(&self, embeddings: &[f32], out: &mut [f32]) -> Result<()> {
        let (embedding, classes) = (self.embedding, self.num_classes());
        let count = embeddings.len() / embedding;
        if !embeddings.len().is_multiple_of(embedding) || count.checked_mul(classes) != Some(out.len()) {
            return Err(Error::invalid("embeddings or logits have the wrong length")
                .expected(format_args!("N × {embedding} and N × {classes}"))
                .got(format_args!("{} and {}", embeddings.len(), out.len())));
        }
        let rows = embeddings.chunks_exact(embedding).zip(out.chunks_exact_mut(classes));
        for (index, (embedding, out)) in rows.enumerate() {
            let norm = embedding.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
            let norm = if self.normalises || !norm.is_finite() { norm } else { 1.0 };
            if !(norm.is_finite() && norm > 0.0) {
                return Err(Error::invalid(format!("embedding {index} cannot be normalised"))
                    .got(format_args!("a norm of {norm}")));
            }
            let normalised: Vec<f32> = embedding.iter().map(|&value| (f64::from(value) / norm) as f32).collect();
            for ((out, weight), bias) in out.iter_mut().zip(self.weight.chunks_exact(self.embedding)).zip(&self.bias) {
                *out = dot(&normalised, weight) + bias;
            }
        }
        Ok(())
    }
}

/// What a pickled head says of itself by `normalize`; what says nothing is normalised.
fn says_to_normalise(path: &Path) -> Result<bool> {
    let mapping = Arc::new(Mapping::open(path, MapMode::Map)?);
    if !Directory::is_zip(&mapping) {
        return Ok(true);
    }
    let archive = Archive::parse(mapping)?;
    let Some(said) = archive.root().get(NORMALISE) else { return Ok(true) };
    said.as_bool().or(said.as_i64().map(|number| number != 0)).ok_or_else(|| {
        Error::format(format!("the head's `{NORMALISE}` is no truth value")).at(path).expected("True or False")
    })
}

/// Σ a·b in eight running sums, which the compiler keeps in one vector register.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Turns logits into probabilities in place: exp(x − max) over their sum, which does not overflow. A NaN among them
/// makes all of them NaN.
pub fn softmax(logits: &mut [f32]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in logits.iter_mut() {
        *value = (*value - max).exp();
        sum += *value;
    }
    logits.iter_mut().for_each(|value| *value /= sum);
}

/// The `k` largest of `values` (all of them where there are fewer) as (index, value), the largest first. Equal values
/// are in the order of their indices; NaN is smaller than anything.
pub fn top_k(values: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut ranked: Vec<(usize, f32)> = values.iter().copied().enumerate().collect();
    let order = |a: &(usize, f32), b: &(usize, f32)| {
        let by_value = match (a.1.is_nan(), b.1.is_nan()) {
            (false, false) => b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal),
            (a, b) => a.cmp(&b),
        };
        by_value.then(a.0.cmp(&b.0))
    };
    if k < ranked.len() {
        ranked.select_nth_unstable_by(k, order);
        ranked.truncate(k);
    }
    ranked.sort_unstable_by(order);
    ranked
}

/// The tasks whose heads lie at `path`, a file or a folder as [`Head::open`] takes it, in the order of their names.
/// A file of one head has none unless its name says it.
///
/// # Errors
/// As [`Head::open`], when the file or folder cannot be read.
pub fn head_tasks(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    if path.is_dir() {
        return Ok(head_files(path)?.into_keys().collect());
    }
    let file = Checkpoint::open(path)?;
    let mut tasks = tasks_of(&file);
    if file.get("weight").is_some() || classifier::head_of(&file)?.is_some() {
        tasks.extend(task_of_file(path).map(ToOwned::to_owned));
    }
    Ok(tasks)
}

/// `task` where it is known; where none is named, the only one.
fn choose<'a, S: AsRef<str> + ?Sized + 'a>(
    known: impl Iterator<Item = &'a S> + Clone,
    task: Option<&str>,
) -> Result<&'a str> {
    let mut known = known.map(AsRef::as_ref);
    match task {
        Some(task) => known.clone().find(|&name| name == task).ok_or_else(|| unknown("head of task", task, known)),
        None => match (known.next(), known.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(Error::not_found("no head in it")),
            (Some(first), Some(second)) => {
                let names: Vec<&str> = [first, second].into_iter().chain(known).collect();
                Err(Error::invalid(format!("heads of several tasks; name one of {}", names.join(", "))))
            }
        },
    }
}

/// The tasks `{task}/weight`, in the order of their names.
fn tasks_of(file: &Checkpoint) -> Vec<String> {
    let mut tasks: Vec<String> =
        file.iter().filter_map(|(name, _)| name.strip_suffix("/weight")).map(Into::into).collect();
    tasks.sort();
    tasks
}

/// The task that a head's file name says: `head_{task}Val.pt`, `head_{task}.pt`, `{task}.safetensors`; none by the
/// names that every model is published under.
fn task_of_file(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    if PUBLISHED.contains(&name) || shards::shard_name(name).is_some() {
        return None;
    }
    let task = match name.strip_suffix(".pt") {
        Some(stem) => {
            let task = stem.strip_prefix("head_")?;
            task.strip_suffix("Val").unwrap_or(task)
        }
        None => name.strip_suffix(".safetensors")?,
    };
    (!task.is_empty()).then_some(task)
}

/// The heads in a folder, by task in the order of their names. Of several files for one task the one that the
/// reference writes (`head_{task}Val.pt`) is taken first, then `head_{task}.pt`.
fn head_files(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let fail = |e| Error::io("cannot list the folder", folder, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.is_dir() {
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(name) = name.filter(|name| !name.starts_with('.'))
                && classifier::is_classifier(&path)
            {
                files.push((name.strip_suffix("Val").unwrap_or(name).to_owned(), 3, path));
            }
        } else if let Some(task) = task_of_file(&path) {
            let name = path.to_string_lossy();
            let rank = if name.ends_with("Val.pt") { 0 } else { 1 + usize::from(!name.ends_with(".pt")) };
            files.push((task.to_owned(), rank, path));
        }
    }
    files.sort();
    let mut heads = BTreeMap::new();
    for (task, _, path) in files {
        heads.entry(task).or_insert(path);
    }
    Ok(heads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_nan_last() {
        let values = [0.5, f32::NAN, 2.0, 0.5, f32::NEG_INFINITY, 2.0];
        let indices = |k| top_k(&values, k).into_iter().map(|(index, _)| index).collect::<Vec<_>>();
        assert_eq!(indices(0), [0; 0]);
        assert_eq!(indices(1), [2]);
        assert_eq!(indices(3), [2, 5, 0]);
        assert_eq!(indices(100), [2, 5, 0, 3, 4, 1]);
        assert!(top_k(&[], 3).is_empty());
    }

    #[test]
    fn probabilities_sum_to_one_without_overflow() {
        let mut values = [1000.0, 999.0, -1000.0];
        softmax(&mut values);
        assert!((values.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((values[0] / values[1] - std::f32::consts::E).abs() < 1e-5 && values[2] == 0.0);
        softmax(&mut []);
    }

    #[test]
    fn an_embedding_without_direction_is_refused() {
        let head = Head::new(vec![1.0; 18], vec![0.5; 2]).unwrap();
        assert_eq!(head.embedding_dim(), 9);
        let mut logits = [0.0; 4];
        let mut embeddings = [1.0; 18];
        head.logits(&embeddings, &mut logits).unwrap();
        assert!(logits.iter().all(|&logit| (logit - 3.5).abs() < 1e-6));
        // The squares of these would overflow f32, or vanish in it.
        for scale in [1e30, 1e-30] {
            head.logits(&[scale; 18], &mut logits).unwrap();
            assert!(logits.iter().all(|&logit| (logit - 3.5).abs() < 1e-5));
        }
        embeddings[9..].fill(0.0);
        assert!(head.logits(&embeddings, &mut logits).unwrap_err().to_string().contains("embedding 1"));
        embeddings[3] = f32::NAN;
        assert!(head.logits(&embeddings, &mut logits).unwrap_err().to_string().contains("embedding 0"));
        assert!(head.logits(&embeddings[1..], &mut logits).is_err());
        assert!(head.logits(&embeddings, &mut logits[1..]).is_err());
    }

    #[test]
    fn file_names_say_the_task() {
        for (name, task) in [
            ("head_CarsVal.pt", Some("Cars")),
            ("head_Cars.pt", Some("Cars")),
            ("a/Cars.safetensors", Some("Cars")),
            ("zeroshot.pt", None),
            ("head_Val.pt", None),
            ("head_CarsVal.pt.bak", None),
        ] {
            assert_eq!(task_of_file(Path::new(name)), task, "{name}");
        }
    }

    #[test]
    fn a_head_must_be_finite_and_fit() {
        assert!(Head::new(vec![1.0; 6], vec![0.0; 4]).is_err());
        assert!(Head::new(vec![], vec![]).is_err());
        assert!(Head::new(vec![1.0, f32::NAN], vec![0.0]).is_err());
    }
}
