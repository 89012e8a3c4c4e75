//! Texts in, embeddings out: CLIP's and SigLIP's text encoders, and the heads that come of them.

use std::panic::catch_unwind;

use super::input::{Elements, Input};
use super::options::EncoderOptions;
use super::provider::{self, Execution};
use super::session::{GraphKind, Session};
use crate::background::panic_message;
use crate::error::{Error, ErrorKind, Result};
use crate::heads::tokenizer::VOCABULARY;
use crate::heads::{Head, Prompts, ScoreFunction, Tokenizer};
use crate::kernel;
use crate::tensor::try_zeroed;
use crate::tower::text::{TextForm, TextModel, graph};

/// Texts per run: enough to keep every core busy, and some tens of megabytes of activations.
const BATCH: usize = 64;

/// A text encoder of CLIP or SigLIP on ONNX Runtime, with its weights read where they are mapped.
///
/// ```no_run
/// use taskbasis::{EncoderOptions, Prompts, TextEncoder, TextHints, TextModel};
///
/// let model = TextModel::open("open_clip_model.safetensors", TextHints::default())?;
/// let encoder = TextEncoder::new(model, &EncoderOptions::default())?;
/// let classes: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
/// let head = encoder.head(&classes, &Prompts::known("MNIST")?, None, &|_| ())?;
/// # Ok::<(), taskbasis::Error>(())
/// ```
pub struct TextEncoder {
    model: TextModel,
    tokenizer: Tokenizer,
    session: Session,
    execution: Execution,
}

impl TextEncoder {
    /// Builds the graph of the model and opens a session over it; of the options, those of promotion and
    /// concurrency do not apply.
    ///
    /// # Errors
    /// As [`Runtime::load`](super::Runtime::load); [`ErrorKind::Unsupported`] for one of CLIP's form whose tokens are
    /// not those of CLIP's vocabulary; for SigLIP as [`Tokenizer::beside`];
    /// [`ErrorKind::InvalidArgument`] for more than [`max_threads`](crate::kernel::max_threads);
    /// [`ErrorKind::Runtime`] when ONNX Runtime refuses the graph.
    pub fn new(model: TextModel, options: &EncoderOptions) -> Result<Self> {
        let tokenizer = tokenizer_of(&model)?;
        let options = EncoderOptions { concurrency: 1, ..options.without_fp16()?.clone() };
        let (session, setup, mut execution) = provider::begin(&options, |setup| {
            if !setup.target.is_cpu() {
                return setup.open(&graph::build(model.arch())?, GraphKind::Standard);
            }
            let graph = graph::build_own(model.arch(), options.precision.known())?;
            setup.open(&graph, GraphKind::Own(kernel::active()?))
        })?;
        if setup.target.is_cpu() {
            execution.precisions = options.precision.known();
        }
        Ok(Self { model, tokenizer, session, execution })
    }

    /// The hardware that the encoder runs on, and the reason where that is not what was asked for.
    pub fn execution(&self) -> &Execution {
        &self.execution
    }

    /// The model.
    pub fn model(&self) -> &TextModel {
        &self.model
    }

    /// The embeddings of texts, `[n, e]`, not normalised. A text is cut where the context ends.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`] when a run fails; [`ErrorKind::OutOfMemory`]; [`ErrorKind::Mismatch`] for a token that
    /// the model lacks.
    pub fn encode<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<f32>> {
        let e = self.model.arch().embed_dim;
        let mut embeds = try_zeroed(texts.len().saturating_mul(e))?;
        let tokens = texts.iter().map(|text| self.tokens(text.as_ref())).collect::<Result<Vec<_>>>()?;
        self.in_batches(&tokens, |index, embedding| {
            embeds[index * e..][..e].copy_from_slice(embedding);
            Ok(())
        })?;
        Ok(embeds)
    }

    /// The head for these classes: of each class, the normalised embeddings of its prompts are averaged, the mean is
    /// normalised, and multiplied by exp(`logit_scale`). The scale is the model's own unless another is given. A model
    /// with a `logit_bias` (SigLIP) gives it to every class, and its scores are sigmoids.
    ///
    /// `progress` is called with the number of prompts that are done, now and then.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when there is no class, or an embedding cannot be normalised;
    /// [`ErrorKind::NotFound`] when neither the model nor the caller has a scale; as [`TextEncoder::encode`].
    pub fn head(
        &self,
        classes: &[String],
        prompts: &Prompts,
        logit_scale: Option<f32>,
        progress: &dyn Fn(usize),
    ) -> Result<Head> {
        let scale = logit_scale.or(self.model.logit_scale()).ok_or_else(|| {
            Error::not_found("the model has no `logit_scale`, which a head's rows are multiplied by")
                .at(self.model.path())
                .hint("Give the logarithm of the scale; most CLIP models have ln 100 = 4.6052")
        })?;
        let (scale, bias) = (f64::from(scale).exp(), self.model.logit_bias());
        if bias.is_none() && self.model.arch().form == TextForm::Siglip {
            return Err(Error::not_found(
                "the model has no `logit_bias`, which SigLIP adds to the scaled similarities",
            )
            .at(self.model.path())
            .hint("Give the whole model, not its text encoder alone, or the bias (--logit-bias)"));
        }
        let e = self.model.arch().embed_dim;
        let per_class = prompts.len();
        let tokens = classes.iter().flat_map(|class| prompts.of(class).map(|prompt| self.tokens(&prompt)));
        let tokens = tokens.collect::<Result<Vec<_>>>()?;
        let mut sums = try_zeroed::<f64>(classes.len().saturating_mul(e))?;
        let mut done = 0;
        self.in_batches(&tokens, |index, embedding| {
            let class = index / per_class;
            let norm = norm(embedding.iter().map(|&value| f64::from(value)));
            check_norm(norm, &classes[class])?;
            for (sum, &value) in sums[class * e..][..e].iter_mut().zip(embedding) {
                *sum += f64::from(value) / norm;
            }
            done += 1;
            progress(done);
            Ok(())
        })?;
        for (sum, class) in sums.chunks_exact_mut(e).zip(classes) {
            let norm = norm(sum.iter().copied());
            check_norm(norm, class)?;
            sum.iter_mut().for_each(|value| *value *= scale / norm);
        }
        let weight = sums.iter().map(|&value| value as f32).collect();
        let function = if bias.is_some() { ScoreFunction::Sigmoid } else { ScoreFunction::Softmax };
        let head = Head::new(weight, vec![bias.unwrap_or(0.0); classes.len()])?;
        head.with_function(function).with_classes(classes.to_vec())
    }

    fn tokens(&self, text: &str) -> Result<Vec<i64>> {
        let arch = self.model.arch();
        let tokens = self.tokenizer.tokens(text, arch.context)?;
        let beyond = |token: &&i64| usize::try_from(**token).is_ok_and(|token| token >= arch.vocabulary);
        match tokens.iter().find(beyond) {
            None => Ok(tokens),
            Some(token) => {
                Err(Error::mismatch("the tokenizer is of another model: it gives a token that this one lacks")
                    .at(self.model.path())
                    .expected(format_args!("tokens below {}", arch.vocabulary))
                    .got(token))
            }
        }
    }

    /// Encodes texts of like length together, and calls `take` with the index and embedding of each.
    fn in_batches(&self, texts: &[Vec<i64>], mut take: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
        let e = self.model.arch().embed_dim;
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&index| texts[index].len());
        for batch in order.chunks(BATCH) {
            let length = batch.last().map_or(0, |&longest| texts[longest].len());
            let mut tokens = Vec::with_capacity(batch.len() * length);
            let mut ends = Vec::with_capacity(batch.len());
            for &index in batch {
                tokens.extend(&texts[index]);
                ends.push(i64::try_from(texts[index].len() - 1).unwrap_or(i64::MAX));
                // What follows a text's end is never looked at; SigLIP's are all of one length.
                tokens.resize(ends.len() * length, 0);
            }
            let mut embeds = try_zeroed(batch.len() * e)?;
            self.run(&tokens, &ends, length, &mut embeds)?;
            for (&index, embedding) in batch.iter().zip(embeds.chunks_exact(e)) {
                take(index, embedding)?;
            }
        }
        Ok(())
    }

    fn run(&self, tokens: &[i64], ends: &[i64], length: usize, out: &mut [f32]) -> Result<()> {
        let batch = [ends.len(), length];
        let texts = [
            Input { name: graph::TOKENS, shape: &batch, values: Elements::I64(tokens) },
            Input { name: graph::ENDS, shape: &batch[..1], values: Elements::I64(ends) },
        ];
        let parameters = self.model.parameters().map(|(name, tensor)| {
            let values = tensor.as_f32().ok_or_else(|| Error::new(ErrorKind::Internal, "no f32").tensor(name))?;
            Ok(Input { name, shape: tensor.shape(), values: Elements::F32(values) })
        });
        let inputs = texts.into_iter().map(Ok).chain(parameters).collect::<Result<Vec<_>>>()?;
        self.session.run_into(inputs, graph::EMBEDS, None, out).map_err(|e| e.at(self.model.path()))?;
        if out.iter().all(|value| value.is_finite()) {
            return Ok(());
        }
        let at_fault =
            self.model.parameters().find_map(|(name, tensor)| Some(tensor.verify_finite().err()?.tensor(name)));
        let error =
            at_fault.unwrap_or_else(|| Error::invalid("the embeddings of texts are not finite, though weights are"));
        Err(error.at(self.model.path()))
    }
}

impl std::fmt::Debug for TextEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TextEncoder({})", self.model.arch())
    }
}

/// The tokenizer of the model's vocabulary: SigLIP's is the one beside it.
fn tokenizer_of(model: &TextModel) -> Result<Tokenizer> {
    let vocabulary = model.arch().vocabulary;
    if model.arch().form == TextForm::Siglip {
        return Tokenizer::beside(model.path());
    }
    if vocabulary != VOCABULARY {
        return Err(Error::unsupported("this text encoder reads the tokens of another vocabulary than CLIP's")
            .at(model.path())
            .expected(format_args!("{VOCABULARY} tokens"))
            .got(vocabulary));
    }
    // Its tables are hashed with seeds that the system gives; where it refuses them, the hasher panics.
    catch_unwind(Tokenizer::new).map_err(|panic| {
        Error::new(ErrorKind::Internal, "the tokenizer cannot be made").because(panic_message(&*panic).to_owned())
    })
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

fn check_norm(norm: f64, class: &str) -> Result<()> {
    if norm.is_finite() && norm > 0.0 {
        return Ok(());
    }
    Err(Error::invalid(format!("the embedding of class `{class}` cannot be normalised"))
        .got(format_args!("a norm of {norm}")))
}
