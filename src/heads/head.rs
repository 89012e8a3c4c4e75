//! Classification heads: from an embedding to class scores.
//!
//! A head is frozen: its rows are the text embeddings of the classes, averaged over prompt templates and scaled by
//! exp(logit_scale). logits = W·(e/‖e‖) + b, or W·e + b for a head that was pickled with `normalize=False`.

use std::cmp::Ordering;
use std::fmt;

use crate::error::{Error, Result};
use crate::tensor::{Tensor, try_zeroed};
use crate::tower::arch::{Arch, Pooling};

/// The function that makes probabilities of a head's logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ScoreFunction {
    /// exp(x) over the sum of all classes' exp(x): one of the classes is right. CLIP's.
    #[default]
    Softmax,
    /// σ(x) = 1 / (1 + exp(−x)) of each class by itself: any number of classes may be right. SigLIP's.
    Sigmoid,
}

impl ScoreFunction {
    /// Turns the logits of one embedding into probabilities, in place.
    pub fn apply(self, logits: &mut [f32]) {
        match self {
            Self::Softmax => softmax(logits),
            Self::Sigmoid => logits.iter_mut().for_each(|value| *value = sigmoid(*value)),
        }
    }
}

impl fmt::Display for ScoreFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Softmax => "softmax",
            Self::Sigmoid => "sigmoid",
        })
    }
}

/// A linear classifier over embeddings, which are normalised first unless it says otherwise.
#[derive(Clone, Debug)]
pub struct Head {
    weight: Vec<f32>,
    bias: Vec<f32>,
    embedding: usize,
    classes: Vec<String>,
    normalises: bool,
    pooling: Option<Pooling>,
    function: ScoreFunction,
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
        for (name, values) in [("weight", &weight), ("bias", &bias)] {
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                return Err(Error::format(format!("a head's {name} holds a value that is not finite"))
                    .got(format_args!("{} at element {at}", values[at])));
            }
        }
        let embedding = weight.len() / bias.len();
        let function = ScoreFunction::default();
        Ok(Self { weight, bias, embedding, classes: Vec::new(), normalises: true, pooling: None, function })
    }

    /// A head from its tensors: `weight` `[C, e]` and `bias` `[C]`, of any float type; `prefix` is what errors put
    /// before these names.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) and [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) as
    /// [`Head::new`], and when a shape or type is wrong; [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub fn from_tensors(weight: &Tensor, bias: Option<&Tensor>, prefix: &str) -> Result<Self> {
        let name = format!("{prefix}weight");
        let (weight, bias) = (weight.in_memory()?, bias.map(Tensor::in_memory).transpose()?);
        let (weight, given) = (&weight, bias.as_ref());
        let &[classes, _] = weight.shape() else {
            return Err(Error::format("not the weight of a head")
                .tensor(name)
                .expected("shape [classes, embedding]")
                .got(format_args!("{:?}", weight.shape())));
        };
        let bias = match given {
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
        weight.verify_finite().map_err(|e| e.tensor(&name))?;
        given.map_or(Ok(()), Tensor::verify_finite).map_err(|e| e.tensor(format!("{prefix}bias")))?;
        Self::new(values, bias).map_err(|e| e.tensor(name))
    }

    /// Gives the classes their names.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) when there are more or fewer names than classes.
    pub fn with_classes(mut self, classes: Vec<String>) -> Result<Self> {
        if classes.len() != self.num_classes() {
            return Err(Error::mismatch("the head and the class names differ in number")
                .expected(format_args!("{} names, one per class of the head", self.num_classes()))
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

    /// Sets the pooling of the embeddings that it takes; `None` where it does not matter, or is not known.
    #[must_use]
    pub fn with_pooling(self, pooling: Option<Pooling>) -> Self {
        Self { pooling, ..self }
    }

    /// The pooling of the embeddings that it takes, where that is known.
    pub fn pooling(&self) -> Option<Pooling> {
        self.pooling
    }

    /// Sets the function that makes probabilities of logits; a new head's is the softmax.
    #[must_use]
    pub fn with_function(self, function: ScoreFunction) -> Self {
        Self { function, ..self }
    }

    /// The function that makes probabilities of logits.
    pub fn function(&self) -> ScoreFunction {
        self.function
    }

    /// C, the number of classes.
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
        // A user's graph pools as it does.
        match self.pooling.filter(|takes| *takes != has && !arch.is_of_graph()) {
            None => self.check_embedding(task, arch.embed_dim),
            Some(takes) => Err(Error::mismatch(format!("the head of `{task}` takes embeddings of another pooling"))
                .expected(format_args!("{takes}, {} values", self.embedding))
                .got(format_args!("{has}, {} values", arch.embed_dim))
                .hint(match takes {
                    Pooling::PatchMean => {
                        "Is it a CLIPForImageClassification's? --pooling patch_mean (C: TB_POOLING_PATCH_MEAN) encodes \
                         for it, over any base"
                    }
                    _ => "Is it of another model? --pooling (C: TB_POOLING_…) encodes for it where the base can",
                })),
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
}

/// Σ a·b in eight running sums, which the compiler keeps in one vector register.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
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

/// 1 / (1 + exp(−x)), which does not overflow.
fn sigmoid(x: f32) -> f32 {
    let small = (-x.abs()).exp();
    if x < 0.0 { small / (1.0 + small) } else { 1.0 / (1.0 + small) }
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
    fn a_sigmoid_takes_each_class_by_itself() {
        let mut values = [0.0, 2.0, -2.0, 200.0, -200.0];
        ScoreFunction::Sigmoid.apply(&mut values);
        for (value, expected) in values.iter().zip([0.5, 0.880_797, 0.119_203, 1.0, 0.0]) {
            assert!((value - expected).abs() < 1e-6, "{value}");
        }
        let mut nan = [f32::NAN, 0.0];
        ScoreFunction::Sigmoid.apply(&mut nan);
        assert!(nan[0].is_nan() && nan[1] == 0.5);
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
    fn a_head_must_be_finite_and_fit() {
        assert!(Head::new(vec![1.0; 6], vec![0.0; 4]).is_err());
        assert!(Head::new(vec![], vec![]).is_err());
        assert!(Head::new(vec![1.0, f32::NAN], vec![0.0]).is_err());
    }
}
