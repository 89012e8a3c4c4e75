//! Checkpoints of the transformers library's `CLIPForImageClassification`: a tower, and a linear classifier over the
//! mean of its last block's patch tokens, without `ln_post` and projection.

use std::path::Path;

use serde_json::Value;

use super::head::Head;
use crate::checkpoint::choose::PUBLISHED;
use crate::checkpoint::{Checkpoint, shards};
use crate::error::{Error, Result};
use crate::present;
use crate::tower::classifier::{WEIGHT, pooling_of};
use crate::tower::{Pooling, config};

const BIAS: &str = "classifier.bias";
/// The configuration that names the classes.
const CONFIG: &str = "config.json";
/// The end of the names of the library's classifiers of images.
const ARCHITECTURE: &str = "ForImageClassification";

/// The classifier in `checkpoint`, with the class names of the configuration beside it; `None` where it has none.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for the classifier of another model, which takes something
/// else; those of [`Head::from_tensors`].
pub(super) fn head_of(checkpoint: &Checkpoint) -> Result<Option<Head>> {
    let Some(weight) = checkpoint.get(WEIGHT) else { return Ok(None) };
    if pooling_of(checkpoint).is_none() {
        return Err(Error::unsupported("the classifier of another model than CLIPForImageClassification")
            .at(checkpoint.path())
            .tensor(WEIGHT)
            .expected(
                "a CLIP image tower by the transformers library's names, no projection, and a row per class as \
                       long as the tower is wide",
            )
            .got(format_args!("shape {:?}", weight.shape()))
            .hint("What it takes is not known. Save it as `weight` and `bias` if it takes embeddings"));
    }
    let head = Head::from_tensors(weight, checkpoint.get(BIAS), "classifier.").map_err(|e| e.at(checkpoint.path()))?;
    let head = head.with_normalisation(false).with_pooling(Some(Pooling::PatchMean));
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

/// The names of the classes 0, 1, … in a configuration (`id2label`), where there is one that has them.
fn labels(config: &Path) -> Result<Option<Vec<String>>> {
    if !present::is_file(config)? {
        return Ok(None);
    }
    let json = config::object(config).map_err(|e| e.at(config))?;
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

/// Whether the model in `folder` is said to be a classifier by the configuration beside it.
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
    Ok(names.is_some_and(|names| names.iter().filter_map(Value::as_str).any(|name| name.ends_with(ARCHITECTURE))))
}
