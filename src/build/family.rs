//! A base and what was fine-tuned from it, checked to be of one model before anything is read.

use std::path::Path;
use std::sync::OnceLock;

use super::tile::{TILE, Tiles, TunedParameter, split};
use crate::basis::{Basis, BasisContents, Method, Parameter, plausibility};
use crate::checkpoint::{Checkpoint, is_image_tower, lacking, names};
use crate::error::{Error, Result};
use crate::tensor::{Source, Tensor};
use crate::tower::arch::PROJECTION;
use crate::weights::Scope;

/// The prefix of a classifier's names.
const CLASSIFIER: &str = "classifier.";

/// A base and T checkpoints that were fine-tuned from it. Their tensors stay where they are mapped.
#[derive(Debug)]
pub struct Family {
    base: Checkpoint,
    tasks: Vec<(String, Checkpoint)>,
    pub(super) parameters: Vec<TunedParameter>,
    /// The differences of the tasks, in their order.
    differences: Vec<Difference>,
}

/// The parameters that a fine-tuned checkpoint and its base do not share.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// The parameters that it does not hold, because training left them as they were: the task vector is zero there.
    pub unchanged: Vec<String>,
    /// The parameters that the base does not hold and that are none of CLIP's, such as a classifier, and a classifier
    /// of another number of classes than the base's or another task's: they are left out.
    pub left_out: Vec<String>,
}

impl Family {
    /// Puts the checkpoints together. Tensors that are no floats are no weights and are left out; every other one of
    /// the base's within `scope` must be in all of them, in one shape, or have been left alone by training
    /// ([`Family::differences`]).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for no task, a task without a name or two of
    /// one name; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming file and tensor, where the checkpoints
    /// are not of one model, or one lacks a parameter in some of its blocks only;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a parameter of a type that is not read.
    pub fn new(base: Checkpoint, tasks: Vec<(String, Checkpoint)>, scope: Scope) -> Result<Self> {
        if tasks.is_empty() {
            return Err(Error::invalid("a basis needs at least one task"));
        }
        for (t, (task, checkpoint)) in tasks.iter().enumerate() {
            let known = tasks[..t].iter().find(|(other, _)| other == task);
            if let Some((_, other)) = known {
                let both = format_args!("{} and {}", other.path().display(), checkpoint.path().display()).to_string();
                return Err(Error::invalid(format!("two checkpoints for task `{task}`")).got(both));
            }
            if task.is_empty() {
                return Err(Error::invalid("a task needs a name").at(checkpoint.path()));
            }
        }
        let in_scope =
            |name: &str, tensor: &Tensor| tensor.dtype().is_float() && (scope == Scope::All || is_image_tower(name));
        lacking::check_read(&base, scope == Scope::ImageTower)?;
        // A user's graph can be run with weights of whatever names, but for nothing does one ask for a tower's.
        let is_no_encoder = base.naming().is_no_encoder() || base.parameters() == 0;
        if base.image_tower().next().is_none() && (scope == Scope::ImageTower || is_no_encoder) {
            return Err(lacking::no_tower(&base));
        }
        // Each task has classes of its own, and a classifier of them is no weight of the model.
        let is_of_others = |name: &str, shape: &[usize]| {
            let differs = |tuned: &Checkpoint| tuned.get(name).is_some_and(|tensor| tensor.shape() != shape);
            name.starts_with(CLASSIFIER) && tasks.iter().any(|(_, tuned)| differs(tuned))
        };
        let of_base = || {
            let is_shared = |name: &str, tensor: &Tensor| !is_of_others(name, tensor.shape());
            base.iter().filter(move |(name, tensor)| in_scope(name, tensor) && is_shared(name, tensor))
        };
        let names: Vec<&str> = of_base().map(|(name, _)| name).collect();
        let mut differences = Vec::with_capacity(tasks.len());
        for (_, tuned) in &tasks {
            let unchanged = lacking::unchanged(&names, tuned, base.path().display())?;
            let unchanged = unchanged.into_iter().map(String::from).collect();
            let is_known = |name: &str| base.get(name).is_some_and(|tensor| !is_of_others(name, tensor.shape()));
            let unknown = tuned.iter().filter(|(name, tensor)| in_scope(name, tensor) && !is_known(name));
            let left_out = unknown.map(|(name, _)| left_out(&base, tuned, name)).collect::<Result<_>>()?;
            differences.push(Difference { unchanged, left_out });
        }
        let mut parameters = Vec::with_capacity(base.len());
        for (name, tensor) in of_base() {
            let tuned = tasks.iter().map(|(_, checkpoint)| matching(&base, checkpoint, name, tensor));
            let tuned = tuned.collect::<Result<Vec<_>>>()?;
            parameters.push(TunedParameter {
                name: name.to_owned(),
                base: tensor.clone(),
                tuned,
                changed: OnceLock::new(),
            });
        }
        Ok(Self { base, tasks, parameters, differences })
    }

    /// The zero-shot weights.
    pub fn base(&self) -> &Checkpoint {
        &self.base
    }

    /// The names of the tasks, in order.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tasks.iter().map(|(task, _)| task.as_str())
    }

    /// The fine-tuned checkpoints, in the order of the tasks.
    pub fn tuned(&self) -> impl ExactSizeIterator<Item = &Checkpoint> {
        self.tasks.iter().map(|(_, checkpoint)| checkpoint)
    }

    /// The parameters that each fine-tuned checkpoint and the base do not share, in the order of the tasks.
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// The base, and the tasks as they are, without a basis: opened at `path`, the folder that they are known by. Its
    /// vectors are the T fine-tuned checkpoints and the base, where they are mapped, and `τ_t` the t-th less the last:
    /// weights of any expression of tasks are one pass over them, and nothing else takes memory. The plain sum of these
    /// vectors means nothing: `all` is what `merged` is of a basis.
    pub fn into_basis(self, path: &Path) -> (Checkpoint, Basis) {
        let tasks: Vec<String> = self.tasks.iter().map(|(task, _)| task.clone()).collect();
        let (t, files) =
            (tasks.len(), self.tasks.iter().map(|(_, checkpoint)| checkpoint.path().to_path_buf()).collect());
        let unit = |m: usize, task: usize| if m == t { -1.0 } else { f64::from(u8::from(m == task)) };
        let parameters = self.parameters.into_iter().map(|parameter| {
            let tensors = parameter.tuned.into_iter().chain([parameter.base]);
            (parameter.name, Parameter::new(tensors.map(Source::Dense).collect()))
        });
        let contents = BasisContents {
            path: path.to_path_buf(),
            method: Method::RandomSample,
            vectors: t + 1,
            has_mean: false,
            table: (0..(t + 1) * t).map(|at| unit(at / t, at % t)).collect(),
            tasks,
            residual_tasks: Vec::new(),
            parameters: parameters.collect(),
            file_bytes: self.tasks.iter().map(|(_, checkpoint)| checkpoint.file_bytes()).sum(),
            files,
        };
        (self.base, Basis::from_contents(contents))
    }

    /// Elements of a task vector: D.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(TunedParameter::numel).sum()
    }

    /// Bytes that one pass over all checkpoints reads at most: what [`Family::gram`] reports its progress of.
    pub fn bytes(&self) -> u64 {
        self.parameters.iter().map(TunedParameter::bytes).sum()
    }
}

/// A reason to doubt that the image tower of `tuned`, of the task called `task`, is a fine-tune of `base`'s: a way from
/// one to the other about as long as the base's weights. `None` where all is as it should be, and for a base that has
/// nothing in common with it.
///
/// # Errors
/// When the tensors cannot be read.
pub fn doubt(base: &Checkpoint, task: &str, tuned: &Checkpoint) -> Result<Option<String>> {
    let tower = base.encoder().filter(|(_, tensor)| tensor.dtype().is_float());
    let pairs = tower.filter_map(|(name, of_base)| {
        tuned
            .get(name)
            .filter(|tensor| tensor.dtype().is_float() && tensor.shape() == of_base.shape())
            .zip(Some(of_base))
    });
    let (mut vector, mut whole) = (0.0, 0.0);
    let mut tiles = Tiles::default();
    for (tuned, base) in pairs {
        let tuned = vec![tuned.clone()];
        let parameter = TunedParameter { name: String::new(), base: base.clone(), tuned, changed: OnceLock::new() };
        for range in split(0..parameter.numel(), TILE) {
            let (difference, _) = tiles.read(&parameter, range)?;
            vector += difference.iter().map(|value| value.powi(2)).sum::<f64>();
        }
        whole += plausibility::square(std::iter::once(base))?;
    }
    Ok(plausibility::long((whole > 0.0).then(|| (task, (vector / whole).sqrt())).into_iter()))
}

/// The tensor of `tuned` that `of_base` was fine-tuned to: itself, where training left it alone.
fn matching(base: &Checkpoint, tuned: &Checkpoint, name: &str, of_base: &Tensor) -> Result<Tensor> {
    let Some(tensor) = tuned.get(name) else { return Ok(of_base.clone()) };
    if tensor.shape() != of_base.shape() || !tensor.dtype().is_float() {
        return Err(Error::mismatch("it is not what it is in the base")
            .at(tuned.path())
            .tensor(name)
            .expected(format_args!("floats {:?}, as in {}", of_base.shape(), base.path().display()))
            .got(format_args!("{} {:?}", tensor.dtype(), tensor.shape())));
    }
    Ok(tensor.clone())
}

/// The name of a tensor that `tuned` has and the base has not, where it may be left out: it is none of CLIP's.
fn left_out(base: &Checkpoint, tuned: &Checkpoint, name: &str) -> Result<String> {
    let hint = if name == PROJECTION {
        "The base has no projection. Give one that has: the whole CLIP model, or CLIPVisionModelWithProjection"
    } else if is_image_tower(name) {
        "Is it of another model?"
    } else if names::is_text_tower(name) {
        "Where some of the checkpoints hold image towers only, build from the image towers alone (--image-tower)"
    } else {
        return Ok(name.to_owned());
    };
    Err(Error::mismatch(format!("the base {} has no such tensor", base.path().display()))
        .at(tuned.path())
        .tensor(name)
        .hint(hint))
}
