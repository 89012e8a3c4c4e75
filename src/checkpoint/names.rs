//! The one place that knows how others name CLIP's weights. Canonical names are open_clip's, without any wrapper:
//! `visual.class_embedding`, `visual.transformer.resblocks.{i}.attn.in_proj_weight`, `logit_scale`, …
//!
//! OpenAI's archives use the same names. The transformers library's image tower (`vision_model.…`) is renamed, its q, k
//! and v joined to one tensor and its projection transposed. A text tower, which no image encoder uses, keeps the names
//! it has until somebody wants it ([`text_tower`]): joining would copy it.
#![forbid(unsafe_code)]

use indexmap::IndexMap;

use super::unread::Stored;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// What training code puts around a model: the reference's encoder, DataParallel, a checkpoint, `torch.compile`.
const WRAPPERS: [&str; 5] = ["model.", "module.", "state_dict.", "_orig_mod.", "image_encoder."];
/// Where an image tower's names begin: open_clip's, and the transformers library's.
const TOWERS: [&str; 3] = ["visual.", "vision_model.", "visual_projection."];

/// How the transformers library names one tower, and how open_clip does.
struct Scheme {
    /// What its names begin with.
    root: &'static str,
    /// The names outside the layers.
    outside: &'static [(&'static str, &'static str)],
    /// What the names of layers begin with.
    layers: (&'static str, &'static str),
    /// The projection: `nn.Linear` holds [out, in], open_clip has [in, out].
    projection: (&'static str, &'static str),
    /// What errors call it.
    what: &'static str,
}

/// `pre_layrnorm` is how the library spells it.
const IMAGE: Scheme = Scheme {
    root: "vision_model.",
    outside: &[
        ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
        ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
        ("vision_model.pre_layrnorm.weight", "visual.ln_pre.weight"),
        ("vision_model.pre_layrnorm.bias", "visual.ln_pre.bias"),
        ("vision_model.pre_layernorm.weight", "visual.ln_pre.weight"),
        ("vision_model.pre_layernorm.bias", "visual.ln_pre.bias"),
        ("vision_model.post_layernorm.weight", "visual.ln_post.weight"),
        ("vision_model.post_layernorm.bias", "visual.ln_post.bias"),
    ],
    layers: ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    projection: ("visual_projection.weight", "visual.proj"),
    what: "image tower",
};

const TEXT: Scheme = Scheme {
    root: "text_model.",
    outside: &[
        ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
        ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        ("text_model.final_layer_norm.weight", "ln_final.weight"),
        ("text_model.final_layer_norm.bias", "ln_final.bias"),
    ],
    layers: ("text_model.encoder.layers.", "transformer.resblocks."),
    projection: ("text_projection.weight", "text_projection"),
    what: "text tower",
};

/// What a checkpoint holds beside the towers and no text tower uses: the scale of the logits, and what OpenAI's
/// archives and old versions of open_clip saved along.
const BESIDE: [&str; 6] =
    ["logit_scale", "logit_bias", "attn_mask", "input_resolution", "context_length", "vocab_size"];

/// The modules of a layer, `weight` and `bias` alike.
const LAYER: [(&str, &str); 5] = [
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("self_attn.out_proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
];

/// Where one source tensor goes.
pub(super) enum Place {
    /// Under this name, as it is.
    Whole(String),
    /// Under this name, transposed: `nn.Linear` holds [out, in], open_clip's `proj` is [in, out].
    Transposed(String),
    /// A third of the tensor of this name: 0 = q, 1 = k, 2 = v, as rows in this order.
    Third(String, usize),
}

impl Place {
    /// The canonical name of the tensor that it goes into.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Whole(name) | Self::Transposed(name) | Self::Third(name, _) => name,
        }
    }
}

/// Where the tensor of this name, without any wrapper, goes in one of the towers; `None` where it has no place.
pub(super) fn place_of(name: &str) -> Option<Place> {
    let scheme = if name.starts_with(TEXT.root) || name == TEXT.projection.0 { &TEXT } else { &IMAGE };
    place(name, scheme).ok()
}

/// Gives every tensor its canonical name. The order stays that of the source.
///
/// # Errors
/// [`ErrorKind::Format`](crate::ErrorKind::Format) when two tensors get one name, parts of the image tower are wrapped
/// in different ways, or a q, k or v has no siblings or siblings of another shape;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when a name of a `vision_model` is not known: the
/// architecture is then not CLIP's, and leaving the tensor out would change the result.
pub fn canonical(tensors: Vec<(String, Stored)>) -> Result<IndexMap<String, Stored>> {
    let wrapper = wrapper(tensors.iter().map(|(name, _)| name.as_str()))?.to_owned();
    rename(tensors, &wrapper, &IMAGE)
}

/// The text tower among `tensors`, whose names have been through [`canonical`], under open_clip's names:
/// `token_embedding.weight`, `positional_embedding`, `transformer.resblocks.{i}.…`, `ln_final.…`, `text_projection`.
/// Whatever is no part of the image tower, and known to be no part of the text tower either, is given too.
///
/// # Errors
/// As [`canonical`], for a `text_model`.
pub fn text_tower<'a>(tensors: impl Iterator<Item = (&'a str, &'a Tensor)>) -> Result<IndexMap<String, Tensor>> {
    // open_clip keeps the text tower of some models in a module of its own.
    let bare = |name: &'a str| name.strip_prefix("text.").unwrap_or(name);
    let text = tensors
        .map(|(name, tensor)| (bare(name), tensor))
        .filter(|(name, _)| !name.starts_with("visual.") && !BESIDE.contains(name));
    let text = text.map(|(name, tensor)| (name.to_owned(), Ok(tensor.clone()))).collect();
    let renamed = rename(text, "", &TEXT)?.into_iter();
    Ok(renamed.filter_map(|(name, stored)| Some((name, stored.ok()?))).collect())
}

fn rename(tensors: Vec<(String, Stored)>, wrapper: &str, scheme: &Scheme) -> Result<IndexMap<String, Stored>> {
    // Where every tensor of the result comes from: one source, or the three thirds.
    let mut found: IndexMap<String, Sources> = IndexMap::with_capacity(tensors.len());
    for (source, tensor) in tensors {
        let (name, slot, tensor) = match place(source.strip_prefix(wrapper).unwrap_or(&source), scheme)? {
            Place::Whole(name) => (name, None, tensor),
            Place::Transposed(name) => {
                let transposed = tensor.map(|tensor| tensor.transposed().map_err(|error| error.tensor(&source)));
                let transposed = match transposed {
                    Ok(transposed) => Ok(transposed?),
                    Err(unread) => Err(unread),
                };
                (name, None, transposed)
            }
            Place::Third(name, third) => (name, Some(third), tensor),
        };
        let sources = found.entry(name).or_default();
        let occupied = match slot {
            Some(third) => sources.whole.as_ref().or(sources.thirds[third].as_ref()),
            None => sources.whole.as_ref().or(sources.thirds.iter().flatten().next()),
        };
        if let Some((other, _)) = occupied {
            return Err(
                Error::format("two tensors stand for the same weights").got(format_args!("`{other}` and `{source}`"))
            );
        }
        match slot {
            Some(third) => sources.thirds[third] = Some((source, tensor)),
            None => sources.whole = Some((source, tensor)),
        }
    }
    found.into_iter().map(|(name, sources)| Ok((name, sources.join()?))).collect()
}

#[derive(Default)]
struct Sources {
    whole: Option<(String, Stored)>,
    thirds: [Option<(String, Stored)>; 3],
}

impl Sources {
    fn join(self) -> Result<Stored> {
        if let Some((_, tensor)) = self.whole {
            return Ok(tensor);
        }
        if let Some(unread) = self.thirds.iter().flatten().find_map(|(_, third)| third.as_ref().err()) {
            return Ok(Err(unread.clone()));
        }
        let [Some((q, Ok(q_tensor))), Some((_, Ok(k))), Some((_, Ok(v)))] = &self.thirds else {
            // Nothing is entered without a tensor, so at least one third is there to name the others by.
            let (here, there): (Vec<_>, Vec<_>) =
                THIRDS.iter().zip(&self.thirds).partition(|(_, third)| third.is_some());
            let name = here.iter().find_map(|(_, third)| third.as_ref()).map_or("", |(name, _)| name);
            let missing: Vec<_> = there.iter().map(|(letter, _)| sibling(name, letter)).collect();
            return Err(Error::format("attention weights are incomplete")
                .tensor(name)
                .expected(format_args!("beside it `{}`", missing.join("` and `"))));
        };
        for (letter, other) in [("k", k), ("v", v)] {
            if other.shape() != q_tensor.shape() {
                return Err(Error::format("q, k and v differ in shape")
                    .tensor(sibling(q, letter))
                    .expected(format_args!("{:?}", q_tensor.shape()))
                    .got(format_args!("{:?}", other.shape())));
            }
        }
        Tensor::concatenated(&[q_tensor, k, v]).map(Ok).map_err(|error| error.tensor(q))
    }
}

const THIRDS: [&str; 3] = ["q", "k", "v"];

/// The name of the q, k or v beside `name`, which is one of them.
fn sibling(name: &str, letter: &str) -> String {
    THIRDS.iter().fold(name.to_owned(), |name, third| {
        name.replace(&format!("self_attn.{third}_proj."), &format!("self_attn.{letter}_proj."))
    })
}

/// The leading run of wrappers in `name`.
fn chain(name: &str) -> &str {
    let mut rest = name;
    while let Some(inner) = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
        rest = inner;
    }
    &name[..name.len() - rest.len()]
}

/// The wrapper around the model: the one of the image tower, which must be the same for all of it; without an image
/// tower, the one that all names share.
fn wrapper<'a>(names: impl Iterator<Item = &'a str>) -> Result<&'a str> {
    let mut tower: Option<(&str, &str)> = None;
    let mut shared: Option<&str> = None;
    for name in names {
        let chain = chain(name);
        shared = Some(match shared {
            Some(shared) if shared != chain => "",
            _ => chain,
        });
        if !TOWERS.iter().any(|root| name[chain.len()..].starts_with(root)) {
            continue;
        }
        match tower {
            Some((_, other)) if other != chain => {
                let (first, _) = tower.unwrap_or_default();
                return Err(Error::format("two image towers, or one that is wrapped in two ways")
                    .got(format_args!("`{first}` and `{name}`"))
                    .hint("Save the weights of one model"));
            }
            _ => tower = tower.or(Some((name, chain))),
        }
    }
    Ok(tower.map(|(_, chain)| chain).or(shared).unwrap_or(""))
}

/// Where the tensor of this name, without its wrapper, goes.
fn place(name: &str, scheme: &Scheme) -> Result<Place> {
    if name == scheme.projection.0 {
        return Ok(Place::Transposed(scheme.projection.1.to_owned()));
    }
    let Some(rest) = name.strip_prefix(scheme.root) else { return Ok(Place::Whole(name.to_owned())) };
    // A counter that old versions of the library saved with the weights.
    if rest == "embeddings.position_ids" {
        return Ok(Place::Whole(name.to_owned()));
    }
    if let Some((_, canonical)) = scheme.outside.iter().find(|(theirs, _)| *theirs == name) {
        return Ok(Place::Whole((*canonical).to_owned()));
    }
    layer(name, scheme).ok_or_else(|| {
        Error::unsupported(format!("this tensor has no place in CLIP's {}", scheme.what))
            .tensor(name)
            .hint("Only CLIP's own transformers are supported")
    })
}

/// A name of the form `vision_model.encoder.layers.{i}.{module}.{weight|bias}`.
fn layer(name: &str, scheme: &Scheme) -> Option<Place> {
    let (theirs, ours) = scheme.layers;
    let (index, rest) = name.strip_prefix(theirs)?.split_once('.')?;
    // The digits alone, so that `+1` or `01` is not taken for a second layer 1.
    if index.parse::<u32>().ok()?.to_string() != index {
        return None;
    }
    let (module, kind) = rest.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    let block = format!("{ours}{index}");
    if let Some((_, ours)) = LAYER.iter().find(|(theirs, _)| *theirs == module) {
        return Some(Place::Whole(format!("{block}.{ours}.{kind}")));
    }
    let letter = module.strip_prefix("self_attn.")?.strip_suffix("_proj")?;
    let third = THIRDS.iter().position(|third| *third == letter)?;
    Some(Place::Third(format!("{block}.attn.in_proj_{kind}"), third))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(names: &[&str]) -> Vec<(String, Tensor)> {
        let tensor = |i: usize| Tensor::from_f32(&[i as f32, i as f32 + 0.5], &[2, 1], "test").unwrap();
        names.iter().enumerate().map(|(i, &name)| (name.to_owned(), tensor(i))).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        canonical(tensors(names)).unwrap().into_keys().collect()
    }

    fn error(names: &[&str]) -> String {
        canonical(tensors(names)).unwrap_err().to_string()
    }

    #[test]
    fn wrappers_are_taken_off_the_whole_model() {
        assert_eq!(names(&["model.visual.proj", "model.logit_scale"]), ["visual.proj", "logit_scale"]);
        assert_eq!(names(&["state_dict.module.model.visual.proj"]), ["visual.proj"]);
        assert_eq!(names(&["n_averaged", "module.visual.proj"]), ["n_averaged", "visual.proj"]);
        assert_eq!(names(&["model.weight", "model.bias"]), ["weight", "bias"]);
        assert_eq!(names(&["model.weight", "bias"]), ["model.weight", "bias"]);
        assert_eq!(names(&["weight", "bias"]), ["weight", "bias"]);
    }

    #[test]
    fn two_models_are_not_mixed() {
        assert_eq!(
            error(&["model.visual.proj", "ema", "module.visual.conv1.weight"]),
            "two image towers, or one that is wrapped in two ways: got `model.visual.proj` and \
             `module.visual.conv1.weight`. Save the weights of one model"
        );
        assert_eq!(
            error(&["visual.proj", "visual_projection.weight"]),
            "two tensors stand for the same weights: got `visual.proj` and `visual_projection.weight`"
        );
        let pre = ["vision_model.pre_layrnorm.bias", "vision_model.pre_layernorm.bias"];
        assert!(error(&pre).contains("same weights: got `vision_model.pre_layrnorm.bias` and"));
    }

    #[test]
    fn q_k_and_v_become_one() {
        let [k, q, v] = ["k", "q", "v"].map(|x| format!("vision_model.encoder.layers.3.self_attn.{x}_proj.weight"));
        let joined = canonical(tensors(&[&k, &q, &v])).unwrap();
        let tensor = &joined["visual.transformer.resblocks.3.attn.in_proj_weight"];
        assert_eq!((joined.len(), tensor.shape()), (1, &[6, 1][..]));
        assert_eq!(*tensor.to_f32().unwrap(), [1., 1.5, 0., 0.5, 2., 2.5], "q, then k, then v");
        assert_eq!(
            error(&[&k, &v]),
            format!("tensor `{k}`: attention weights are incomplete: expected beside it `{q}`")
        );
        let whole = "visual.transformer.resblocks.3.attn.in_proj_weight";
        assert!(error(&[&k, &q, whole, &v]).contains("same weights"));
    }

    #[test]
    fn the_projection_is_transposed() {
        let found = canonical(tensors(&["visual_projection.weight"])).unwrap();
        assert_eq!(found["visual.proj"].shape(), [1, 2]);
    }

    #[test]
    fn unknown_parts_of_the_tower_are_refused() {
        for name in [
            "vision_model.head.attention.in_proj_weight",
            "vision_model.encoder.layers.01.layer_norm1.weight",
            "vision_model.encoder.layers.1.layer_norm1.scale",
            "vision_model.embeddings.patch_embedding.bias",
        ] {
            assert!(error(&[name]).starts_with(&format!("tensor `{name}`: this tensor has no place")));
        }
        assert_eq!(names(&["text_model.final_layer_norm.bias"]), ["text_model.final_layer_norm.bias"]);
    }
}
