//! Classifiers that lie in the checkpoint of their tower: linear layers over what the tower pools, which is not
//! normalised.
//!
//! Rows are as long as the tower is wide, w, unless said:
//!
//! - `classifier` of the transformers library's `CLIPForImageClassification`: over the mean of the patches, neither
//!   normalised nor projected;
//! - `classifier` of `ViT…` and `DeiTForImageClassification`: over the class token after the last norm;
//! - `classifier` of `Dinov2…` and `Dinov2WithRegistersForImageClassification`, 2·w: over that beside the mean of the
//!   patches after the last norm; of `SiglipForImageClassification`: over that mean;
//! - `cls_classifier` and `distillation_classifier` of `DeiTForImageClassificationWithTeacher`, timm's `head` and
//!   `head_dist`: over a token each; the mean of both logits;
//! - timm's `head`: over what is pooled, after `norm` or `fc_norm`;
//! - `linear` of DINOv2's evaluation, a file of its own: over embeddings as they are given.

use std::path::Path;

use serde_json::Value;

use super::head::Head;
use crate::checkpoint::choose::PUBLISHED;
use crate::checkpoint::{Checkpoint, shards};
use crate::error::{Error, Result};
use crate::present;
use crate::tower::arch::PROJECTION;
use crate::tower::classifier::pooling_of;
use crate::tower::config;

/// The modules of a classifier: one, or one for the class token and one for the token of distillation.
const MODULES: [(&str, Option<&str>); 4] = [
    ("cls_classifier", Some("distillation_classifier")),
    ("classifier", None),
    ("head", Some("head_dist")),
    ("linear", None),
];
/// The last part of the names of linear heads that DINOv2 publishes, tensors `weight` and `bias`: for one layer's
/// tokens, and for four layers'.
const PUBLISHED_LINEAR: [&str; 2] = ["_linear_head", "_linear4_head"];
/// The configuration that names the classes.
const CONFIG: &str = "config.json";
/// A part of the names of the transformers library's classifiers of images.
const ARCHITECTURE: &str = "ForImageClassification";

/// The classifier in `checkpoint`, with the class names of the configuration beside it; `None` where it has none.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for the classifier of another model, which takes something
/// else; those of [`Head::from_tensors`].
pub(super) fn head_of(checkpoint: &Checkpoint) -> Result<Option<Head>> {
    let module = |module: &str| checkpoint.get(&format!("{module}.weight"));
    let Some(&(name, second)) = MODULES.iter().find(|(name, _)| module(name).is_some()) else { return Ok(None) };
    let layer = |name: &str| match module(name) {
        None => Ok(None),
        Some(weight) => {
            let bias = checkpoint.get(&format!("{name}.bias"));
            Head::from_tensors(weight, bias, &format!("{name}.")).map(Some).map_err(|e| e.at(checkpoint.path()))
        }
    };
    let Some(first) = layer(name)? else { return Ok(None) };
    let second = second.map(layer).transpose()?.flatten();
    let shape = |head: &Head| (head.num_classes(), head.embedding_dim());
    let (width, pooling) = (width_without_projection(checkpoint), pooling_of(checkpoint));
    let has_place = match (name, &second) {
        ("linear", _) => checkpoint.iter().count() <= 2,
        (_, Some(second)) => shape(second) == shape(&first) && width == Some(first.embedding_dim()),
        ("head", None) => width == Some(first.embedding_dim()),
        _ => pooling.is_some(),
    };
    if !has_place {
        return Err(of_another_model(checkpoint, name));
    }
    let head = match second {
        None => first,
        Some(second) => mean_of(&first, &second).map_err(|e| e.at(checkpoint.path()))?,
    };
    let head = head.with_normalisation(false).with_pooling(pooling);
    match labels(&checkpoint.path().with_file_name(CONFIG))? {
        Some(names) if names.len() == head.num_classes() => head.with_classes(names).map(Some),
        Some(names) => {
            let path = checkpoint.path().display();
            let classes = head.num_classes();
            tracing::warn!("{path}: {CONFIG} beside it names {} classes, the classifier has {classes}", names.len());
            Ok(Some(head))
        }
        None => Ok(Some(head)),
    }
}

/// The width of the tower in `checkpoint`, where what it pools is not projected.
fn width_without_projection(checkpoint: &Checkpoint) -> Option<usize> {
    let width = checkpoint.get("visual.conv1.weight")?.shape().first().copied();
    width.filter(|_| checkpoint.get(PROJECTION).is_none())
}

/// Whether the file at `path` is called as DINOv2 calls its linear heads, which take embeddings as they are.
pub(super) fn is_published_linear(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    PUBLISHED_LINEAR.iter().any(|end| stem.ends_with(end))
}

/// The head whose logits are the mean of two heads', each over a part of the embedding: first `a`'s, then `b`'s.
fn mean_of(a: &Head, b: &Head) -> Result<Head> {
    let rows = a.weight().chunks_exact(a.embedding_dim()).zip(b.weight().chunks_exact(b.embedding_dim()));
    let weight = rows.flat_map(|(a, b)| a.iter().chain(b)).map(|value| 0.5 * value).collect();
    Head::new(weight, a.bias().iter().zip(b.bias()).map(|(a, b)| 0.5 * (a + b)).collect())
}

fn of_another_model(checkpoint: &Checkpoint, module: &str) -> Error {
    let name = format!("{module}.weight");
    let shape = checkpoint.get(&name).map(|weight| weight.shape().to_vec()).unwrap_or_default();
    Error::unsupported("the classifier of another model than those that are known")
        .at(checkpoint.path())
        .tensor(name)
        .expected(
            "beside it a tower without projection, of CLIPForImageClassification, ViT, DeiT, DINOv2 or SigLIP; and a \
             row per class as long as what that tower pools",
        )
        .got(format_args!("shape {shape:?}"))
        .hint("What it takes is not known. Save it as `linear.weight` and `linear.bias` if it takes embeddings as they are")
}

/// The names of the classes 0, 1, … in a configuration (`id2label`, timm's `label_names`), where there is one that has
/// them.
fn labels(config: &Path) -> Result<Option<Vec<String>>> {
    if !present::is_file(config)? {
        return Ok(None);
    }
    let json = config::object(config).map_err(|e| e.at(config))?;
    if let Some(names) = json.get("label_names").and_then(Value::as_array) {
        return Ok(names.iter().map(|name| name.as_str().map(String::from)).collect());
    }
    let Some(labels) = json.get("id2label").and_then(Value::as_object) else { return Ok(None) };
    let name = |class: usize| labels.get(&class.to_string()).and_then(Value::as_str).map(String::from);
    Ok((0..labels.len()).map(name).collect())
}

/// Whether a model lies in `folder` under a name by which the transformers library saves it, whole or in parts.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where that cannot be told.
pub(super) fn is_model(folder: &Path) -> Result<bool> {
    let names = PUBLISHED.iter().flat_map(|name| [(*name).to_owned(), format!("{name}{}", shards::INDEX)]);
    Ok(!present::files(names.map(|name| folder.join(name)))?.is_empty())
}

/// Whether the model in `folder` is said to be a classifier by the configuration beside it: the transformers library's
/// by its architecture, timm's by a number of classes.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be told whether they are there.
pub(super) fn is_classifier(folder: &Path) -> Result<bool> {
    let config = folder.join(CONFIG);
    if !present::is_file(&config)? || !is_model(folder)? {
        return Ok(false);
    }
    // One that cannot be read says nothing.
    let Ok(json) = config::object(&config) else { return Ok(false) };
    let names = json.get("architectures").and_then(Value::as_array);
    let is_of_transformers =
        names.is_some_and(|names| names.iter().filter_map(Value::as_str).any(|name| name.contains(ARCHITECTURE)));
    let is_of_timm = json.get("architecture").is_some_and(Value::is_string)
        && json.get("num_classes").and_then(Value::as_u64).is_some_and(|classes| classes > 0);
    Ok(is_of_transformers || is_of_timm)
}
