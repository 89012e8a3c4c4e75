//! Logits: of one head, and of several on the same embeddings, each of which is normalised once.

use super::head::{Head, dot};
use super::ranking::Score;
use crate::error::{Error, Result};
use crate::tensor::try_zeroed;

impl Head {
    /// The logits of `embeddings`, `[N, e]`, into `out`, `[N, C]`: W·(e/‖e‖) + b, or W·e + b where the head does not
    /// normalise. The embeddings are those of the encoder, not normalised.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when a length does not fit, or an embedding
    /// cannot be normalised because its norm is 0 or not finite: no encoder with sound weights makes such a one; or
    /// when a logit is not finite. On an error `out` may have been written to in part.
    pub fn logits(&self, embeddings: &[f32], out: &mut [f32]) -> Result<()> {
        logits_of_many(&[self], embeddings, &mut [out])
    }
}

/// The logits of `embeddings`, `[N, e]`, by each head into its slice of `outs`, `[N, C]`: the values of
/// [`Head::logits`], one head after the other.
///
/// # Errors
/// As [`Head::logits`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when there are not as many
/// slices as heads. Where there are several heads, an error says which one it is of. On an error `outs` may have been
/// written to in part.
pub fn logits_of_many(heads: &[&Head], embeddings: &[f32], outs: &mut [&mut [f32]]) -> Result<()> {
    if heads.len() != outs.len() {
        return Err(Error::invalid("heads and slices of logits differ in number")
            .expected(format_args!("{} slices", heads.len()))
            .got(outs.len()));
    }
    for (at, (head, out)) in heads.iter().zip(outs.iter()).enumerate() {
        let (embedding, classes) = (head.embedding_dim(), head.num_classes());
        let count = embeddings.len() / embedding;
        if !embeddings.len().is_multiple_of(embedding) || count.checked_mul(classes) != Some(out.len()) {
            return Err(Error::invalid(format!("embeddings or logits{} have the wrong length", of_head(heads, at)))
                .expected(format_args!("N × {embedding} and N × {classes}"))
                .got(format_args!("{} and {}", embeddings.len(), out.len())));
        }
    }
    let Some(embedding) = heads.first().map(|head| head.embedding_dim()) else { return Ok(()) };
    if let Some(at) = heads.iter().position(|head| head.embedding_dim() != embedding) {
        return Err(Error::invalid(format!("embeddings of another length{}", of_head(heads, at)))
            .expected(embedding)
            .got(heads[at].embedding_dim()));
    }
    let normalise = heads.iter().any(|head| head.normalises());
    let mut normalised = try_zeroed::<f32>(embedding)?;
    for (index, embedding) in embeddings.chunks_exact(embedding).enumerate() {
        let norm = embedding.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        if !norm.is_finite() || (normalise && norm <= 0.0) {
            return Err(
                Error::invalid(format!("embedding {index} cannot be normalised")).got(format_args!("a norm of {norm}"))
            );
        }
        for (to, &value) in normalised.iter_mut().zip(embedding) {
            *to = (f64::from(value) / norm) as f32;
        }
        for (at, (head, out)) in heads.iter().zip(outs.iter_mut()).enumerate() {
            let classes = head.num_classes();
            let out = &mut out[index * classes..][..classes];
            let from = if head.normalises() { &normalised } else { embedding };
            let rows = head.weight().chunks_exact(from.len()).zip(head.bias());
            for (out, (weight, bias)) in out.iter_mut().zip(rows) {
                *out = dot(from, weight) + bias;
            }
            if let Some(class) = out.iter().position(|logit| !logit.is_finite()) {
                let of = of_head(heads, at);
                return Err(Error::invalid(format!("a logit of embedding {index}{of} is beyond what f32 can hold"))
                    .got(format_args!("{} for class {class}", out[class]))
                    .hint("Is the head of another model, or its weight too large?"));
            }
        }
    }
    Ok(())
}

/// The `k` best classes of one embedding by each head, the best first; all of a head's where it has fewer.
///
/// ```
/// use taskbasis::{Head, heads::classify_many};
///
/// let animals = Head::new(vec![1.0, 0.0, 0.0, 1.0], vec![0.0; 2])?.with_classes(vec!["cat".into(), "dog".into()])?;
/// let places = Head::new(vec![0.5, 0.5], vec![0.0])?;
/// let best = classify_many(&[&animals, &places], &[3.0, 4.0], 1)?;
/// assert_eq!(animals.class_name(best[0][0].class), "dog");
/// # Ok::<(), taskbasis::Error>(())
/// ```
///
/// # Errors
/// As [`logits_of_many`].
pub fn classify_many(heads: &[&Head], embedding: &[f32], k: usize) -> Result<Vec<Vec<Score>>> {
    let mut all = try_zeroed(heads.iter().map(|head| head.num_classes()).sum())?;
    logits_of_many(heads, embedding, &mut split(heads, 1, &mut all))?;
    let parts = split(heads, 1, &mut all);
    Ok(heads.iter().zip(parts).map(|(head, logits)| head.rank(logits, k)).collect())
}

/// The parts `[n, C]` of `values` that belong to each head, one after the other.
pub(crate) fn split<'v>(heads: &[&Head], n: usize, values: &'v mut [f32]) -> Vec<&'v mut [f32]> {
    let mut rest = values;
    let parts = heads.iter().map(|head| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(n * head.num_classes());
        rest = after;
        part
    });
    parts.collect()
}

/// ` of head 2`, where there are several.
fn of_head(heads: &[&Head], at: usize) -> String {
    if heads.len() > 1 { format!(" of head {at}") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::super::ScoreFunction;
    use super::*;

    fn head(classes: usize, seed: f32) -> Head {
        let value = |index: usize| (index as f32 * 0.37 + seed).sin();
        Head::new((0..classes * 5).map(value).collect(), (0..classes).map(value).collect()).unwrap()
    }

    #[test]
    fn each_heads_logits_are_its_own() {
        let heads = [head(3, 0.1), head(1, 0.2).with_normalisation(false), head(4, 0.3)];
        let heads: Vec<&Head> = heads.iter().collect();
        let embeddings: Vec<f32> = (0..10).map(|index| index as f32 - 3.5).collect();
        let mut all = [f32::NAN; 2 * 8];
        logits_of_many(&heads, &embeddings, &mut split(&heads, 2, &mut all)).unwrap();
        let mut alone = Vec::new();
        for head in &heads {
            let mut logits = vec![0.0; 2 * head.num_classes()];
            head.logits(&embeddings, &mut logits).unwrap();
            alone.extend(logits);
        }
        assert_eq!(all.as_slice(), alone);
        let best = classify_many(&heads, &embeddings[..5], 2).unwrap();
        let expected: Vec<_> = heads.iter().map(|head| head.classify(&embeddings[..5], 2).unwrap()).collect();
        assert_eq!(best, expected);
        assert_eq!(best.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 2]);
        assert!(classify_many(&[], &embeddings, 2).unwrap().is_empty());
    }

    #[test]
    fn what_does_not_fit_is_told_by_its_head() {
        let (first, other) = (head(3, 0.1), Head::new(vec![1.0; 6], vec![0.0; 1]).unwrap());
        let error = |heads: &[&Head], embedding: &[f32]| classify_many(heads, embedding, 1).unwrap_err().to_string();
        assert!(error(&[&first, &other], &[1.0; 5]).contains("of head 1"));
        // A multiple of both lengths is no embedding of both.
        assert!(error(&[&first, &other], &[1.0; 30]).contains("wrong length"));
        let plain = head(2, 0.5).with_normalisation(false);
        assert!(classify_many(&[&plain], &[0.0; 5], 1).is_ok());
        assert!(error(&[&plain, &first], &[0.0; 5]).contains("cannot be normalised"));
        let large = Head::new(vec![f32::MAX; 5], vec![0.0]).unwrap().with_normalisation(false);
        assert!(error(&[&plain, &large], &[1.0; 5]).contains("a logit of embedding 0 of head 1"));
        assert!(logits_of_many(&[&plain], &[1.0; 5], &mut []).is_err());
    }

    #[test]
    fn each_head_has_its_own_scores() {
        let values = || Head::new(vec![1.0, 0.0, 0.0, 1.0], vec![0.0, -1.0]).unwrap();
        let sigmoid = values().with_function(ScoreFunction::Sigmoid);
        let best = classify_many(&[&values(), &sigmoid], &[3.0, 4.0], 2).unwrap();
        let share = 1.0 / (1.0 + (-0.8f32).exp());
        assert!((best[0][0].probability - share).abs() < 1e-6);
        assert_eq!((best[1][0].class, best[1][1].class), (0, 1));
        assert!((best[1][0].probability - 1.0 / (1.0 + (-0.6f32).exp())).abs() < 1e-6);
        assert!((best[1][1].probability - 1.0 / (1.0 + 0.2f32.exp())).abs() < 1e-6);
    }
}
