//! The one place that knows how others name CLIP's weights. Canonical names are open_clip's, without any wrapper:
//! `visual.class_embedding`, `visual.transformer.resblocks.{i}.attn.in_proj_weight`, `logit_scale`, …
//!
//! The image tower is looked for under any prefix, by open_clip's and OpenAI's names, the transformers library's and
//! timm's, as part of a model or alone; what torch's wrappers put between names is passed over. Renaming joins q, k and
//! v to one tensor and transposes a projection that is a linear layer's. A text tower, which no image encoder uses,
//! keeps the names that it has ([`text_tower`]): joining would copy it.

mod kinds;
mod place;
mod table;
#[cfg(test)]
mod tests;
mod timm;
mod towers;
mod transformers;

use std::borrow::Cow;
use std::collections::HashMap;

use indexmap::IndexMap;

pub(super) use self::place::Place;
use self::place::TensorSources;
use self::timm::TimmHead;
use self::towers::{Candidate, Convention};
use self::transformers::{IMAGE, TEXT};
use super::unread_type::Stored;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The prefixes that training code puts before a model's names: the reference's encoder, DataParallel, a checkpoint,
/// `torch.compile`. Taken off what holds no image tower; around a tower any prefix is.
const WRAPPERS: [&str; 5] = ["model.", "module.", "state_dict.", "_orig_mod.", "image_encoder."];

/// The tensors that a checkpoint holds beside the towers and no text tower uses: the scale of the logits, and what
/// OpenAI's archives and old versions of open_clip saved along.
const BESIDE: [&str; 6] =
    ["logit_scale", "logit_bias", "attn_mask", "input_resolution", "context_length", "vocab_size"];

/// The modules that may stand beside the parts of a tower that has no module of its own: a classifier, a text tower.
const OUTSIDE: [&str; 12] = [
    "classification_head",
    "classifier",
    "fc",
    "head",
    "heads",
    "ln_final",
    "n_averaged",
    "text",
    "text_model",
    "text_projection",
    "token_embedding",
    "visual_projection",
];

/// A file's tensors by canonical names, and how they were named.
#[derive(Debug)]
pub struct NamedTensors {
    /// The tensors by canonical names, in the order of the source.
    pub tensors: IndexMap<String, Stored>,
    /// The way in which the source named them.
    pub naming: Naming,
}

/// The way in which a file names its model.
#[derive(Clone, Debug, Default)]
pub struct Naming {
    prefix: String,
    convention: Option<Convention>,
    has_infixes: bool,
    beside: Vec<String>,
    remark: Option<String>,
    kind: Option<&'static str>,
    is_no_encoder: bool,
}

impl Naming {
    /// The prefix of all names of the model, its dot included.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The tensors besides the model that are left out, by the file's own names: an optimizer, another model.
    pub fn beside(&self) -> &[String] {
        &self.beside
    }

    /// Whether the names of its tower are those of the transformers library.
    pub fn is_of_transformers(&self) -> bool {
        matches!(self.convention, Some(Convention::Transformers | Convention::TransformersBare | Convention::Vit))
    }

    /// A remark on what was chosen among several, or taken for something else than its name says.
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// The content of a file without an image tower of CLIP, where its names say so: a clause.
    pub fn kind(&self) -> Option<&'static str> {
        self.kind
    }

    /// Whether names say that it is something else than an image encoder, or a part of one.
    pub fn is_no_encoder(&self) -> bool {
        self.is_no_encoder
    }

    /// The ways in which the names differed from open_clip's, as a phrase; `None` where they did not.
    pub fn told(&self) -> Option<String> {
        let form = match self.convention {
            None | Some(Convention::OpenClip) => None,
            Some(Convention::OpenClipBare) => Some("an image tower alone, by open_clip's names"),
            Some(Convention::Transformers) => Some("by the transformers library's names"),
            Some(Convention::TransformersBare) => Some("an image tower alone, by the transformers library's names"),
            Some(Convention::Timm) => Some("by timm's names"),
            Some(Convention::Vit) => Some("a vision transformer by the transformers library's names"),
        };
        let mut told: Vec<String> = form.map(String::from).into_iter().collect();
        if !self.prefix.is_empty() {
            told.push(format!("under `{}`", self.prefix));
        }
        if self.has_infixes {
            told.push("wrappers' names passed over".into());
        }
        told.extend(self.remark.clone());
        (!told.is_empty()).then(|| told.join(", "))
    }
}

/// The fate of tensors that lie outside the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// The tensors stay, by the names that they have.
    Keep,
    /// Only their names are kept ([`Naming::beside`]).
    LeaveOut,
}

/// The places that a tensor of this name, without any wrapper, may have in the towers, by each library's names.
pub(super) fn places_of(name: &str) -> impl Iterator<Item = Place> {
    let of_transformers = [&IMAGE, &TEXT].into_iter().filter_map(|scheme| transformers::place(name, scheme).ok());
    let of_vit = [true, false].into_iter().filter_map(|has_gate| transformers::vit_place(name, name, has_gate).ok());
    let of_timm = timm::place(name, name, TimmHead::Projection { has_bias: false }).ok().flatten();
    of_transformers.chain(of_vit).chain(of_timm)
}

/// Gives every tensor its canonical name. The order stays that of the source.
///
/// Where there are several image towers, `prefix` says which: what the names of its model or its own begin with.
///
/// # Errors
/// [`ErrorKind::Format`](crate::ErrorKind::Format) when two tensors get one name, there are several image towers of
/// different weights and none was chosen (it lists them), or a q, k or v has no siblings or siblings of another shape;
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a prefix under which there is none;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when a name of the image tower is not known: the
/// architecture is then not CLIP's, and leaving the tensor out would change the result.
pub fn canonical(tensors: Vec<(String, Stored)>, prefix: Option<&str>, beside: Beside) -> Result<NamedTensors> {
    let chosen = Chosen::among(&tensors, prefix)?;
    let mut naming = Naming {
        prefix: chosen.prefix.clone(),
        convention: chosen.convention,
        remark: chosen.remark.clone(),
        kind: chosen.kind,
        is_no_encoder: chosen.is_no_encoder,
        ..Naming::default()
    };
    // What is only a part of a tower, or none, is not told from what is beside it.
    let beside = if chosen.convention.is_none() { Beside::Keep } else { beside };
    let mut placed = Vec::with_capacity(tensors.len());
    for (source, stored) in tensors {
        if chosen.is_beside(&source) {
            match beside {
                Beside::Keep => placed.push((Place::Whole(source.clone()), source, stored)),
                Beside::LeaveOut => naming.beside.push(source),
            }
            continue;
        }
        let own = &source[chosen.prefix.len()..];
        let own = if chosen.has_tower { towers::without_infixes(own) } else { Cow::Borrowed(own) };
        naming.has_infixes |= matches!(own, Cow::Owned(_));
        let place = chosen.place(&own).map_err(|error| match chosen.kind {
            Some(kind) => error.hint(format!("It is {kind}")),
            None => error,
        });
        if let Some(place) = place? {
            placed.push((place, source, stored));
        }
    }
    Ok(NamedTensors { tensors: rename(placed)?, naming })
}

/// The prefix of the image tower's canonical names.
const IMAGE_TOWER: &str = "visual.";

/// Whether a tensor of this canonical name belongs to the image tower.
pub fn is_image_tower(name: &str) -> bool {
    name.starts_with(IMAGE_TOWER)
}

/// Whether a tensor of this name is a part of CLIP's text tower, by open_clip's names or the transformers library's.
pub fn is_text_tower(name: &str) -> bool {
    const MODULES: [&str; 7] =
        ["positional_embedding", "text", "text_model", "text_projection", "token_embedding", "transformer", "ln_final"];
    MODULES.contains(&name.split('.').next().unwrap_or(name))
}

/// Whether an image tower of CLIP is among tensors of these names.
pub fn holds_tower<'a>(names: impl Iterator<Item = &'a str> + Clone) -> bool {
    !towers::candidates(names).is_empty()
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
        .filter(|(name, _)| !is_image_tower(name) && !BESIDE.contains(name));
    let placed =
        text.map(|(name, tensor)| Ok((transformers::place(name, &TEXT)?, name.to_owned(), Ok(tensor.clone()))));
    let renamed = rename(placed.collect::<Result<_>>()?)?.into_iter();
    Ok(renamed.filter_map(|(name, stored)| Some((name, stored.ok()?))).collect())
}

/// The model among a file's tensors: the convention of its names, and where they are.
#[derive(Default)]
struct Chosen {
    prefix: String,
    /// `None` where nothing has a class token.
    convention: Option<Convention>,
    /// Whether there is a tower, or part of one.
    has_tower: bool,
    /// The prefix of the tower's own names, after the model's.
    inner: &'static str,
    /// The prefixes of other models that lie within this one's.
    others: Vec<String>,
    head: Option<TimmHead>,
    /// Whether MLPs have a gate beside their first layer.
    has_gate: bool,
    remark: Option<String>,
    kind: Option<&'static str>,
    is_no_encoder: bool,
}

impl Chosen {
    fn among(tensors: &[(String, Stored)], prefix: Option<&str>) -> Result<Self> {
        let names = tensors.iter().map(|(name, _)| name.as_str());
        let found = towers::candidates(names.clone());
        let (chosen, mut remark) = match prefix {
            Some(prefix) => (Some(asked_for(&found, prefix)?), None),
            None => choose(&found, tensors)?,
        };
        let Some(chosen) = chosen else { return Self::without_tower(names) };
        let others = found.iter().map(|other| other.prefix.to_owned());
        let others = others.filter(|other| other.len() > chosen.prefix.len() && other.starts_with(chosen.prefix));
        let find = |last: &str| {
            let own = |(name, _): &&(String, Stored)| chosen.own(&found, name).is_some_and(|name| name == last);
            tensors.iter().find(own).map(|(_, stored)| stored)
        };
        let is_of_clip = !chosen.inner.is_empty();
        let head = (chosen.convention == Convention::Timm)
            .then(|| TimmHead::of(find("head.weight"), find("head.bias"), is_of_clip));
        if let Some(TimmHead::Classifier(classes)) = head {
            remark = Some(format!("its head is a classifier over {classes} classes, no projection"));
        }
        Ok(Self {
            prefix: chosen.prefix.to_owned(),
            convention: Some(chosen.convention),
            inner: chosen.inner,
            has_tower: true,
            others: others.collect(),
            head,
            has_gate: names.clone().any(|name| name.contains(".mlp.gate_proj.")),
            remark,
            kind: None,
            is_no_encoder: false,
        })
    }

    /// The choice where nothing has a class token, which may still be a part of a tower.
    fn without_tower<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<Self> {
        let known = kinds::known(names.clone());
        let (kind, is_no_encoder) = (known.map(|(what, _)| what), known.is_some_and(|(_, is_encoder)| !is_encoder));
        let marked = towers::marked(names.clone(), |prefix| wrappers(prefix).len() == prefix.len());
        let prefix = match marked[..] {
            [(_, first), (_, second)] => {
                return Err(Error::format("two image towers, or one that is wrapped in two ways")
                    .got(format_args!("`{first}` and `{second}`"))
                    .hint("Save the weights of one model"));
            }
            [(prefix, _)] => prefix,
            _ => shared_wrapper(names),
        };
        Ok(Self { prefix: prefix.to_owned(), has_tower: !marked.is_empty(), kind, is_no_encoder, ..Self::default() })
    }

    /// Whether the tensor of this name is none of the model's.
    fn is_beside(&self, source: &str) -> bool {
        !source.starts_with(&self.prefix) || self.others.iter().any(|other| source.starts_with(other))
    }

    /// The place of the tensor of this name, which is without prefix and infixes; `None` for what says nothing.
    fn place(&self, name: &str) -> Result<Option<Place>> {
        let first = name.split('.').next().unwrap_or(name);
        let is_outside = BESIDE.contains(&name) || OUTSIDE.contains(&first);
        let own = name.strip_prefix(self.inner).filter(|_| !self.inner.is_empty() || !is_outside);
        match (self.convention, own) {
            (Some(Convention::Timm), own) => match (self.head, own) {
                (Some(head), Some(own)) => timm::place(own, name, head),
                // A head stands beside the tower, and is a part of it.
                (Some(head), None) if self.inner.is_empty() && first.starts_with("head") => {
                    timm::place(name, name, head)
                }
                _ => self.beside(name),
            },
            (Some(Convention::Vit), Some(own)) => transformers::vit_place(own, name, self.has_gate).map(Some),
            (Some(Convention::OpenClipBare), Some(name)) => Ok(Some(Place::Whole(format!("visual.{name}")))),
            (Some(Convention::TransformersBare), own) if own.is_some() || first == "head" => {
                transformers::place(&format!("vision_model.{name}"), &IMAGE).map(Some)
            }
            (Some(Convention::OpenClipBare | Convention::Vit), None) => Ok(Some(Place::Whole(name.to_owned()))),
            _ => transformers::place(name, &IMAGE).map(Some),
        }
    }

    /// The place of what is beside a tower of timm's. In open_clip's models that may be the projection.
    fn beside(&self, name: &str) -> Result<Option<Place>> {
        match name {
            "visual.head.proj.weight" => Ok(Some(Place::Transposed("visual.proj".into()))),
            "visual.head.proj.bias" => Ok(Some(Place::Whole("visual.proj_bias".into()))),
            _ if name.starts_with("visual.head.") => {
                Err(Error::unsupported("a projection of several layers, which is not built in").tensor(name))
            }
            _ => Ok(Some(Place::Whole(name.to_owned()))),
        }
    }
}

/// The tower under `prefix`, which is what the names of its model or its own begin with.
fn asked_for<'c, 'a>(found: &'c [Candidate<'a>], prefix: &str) -> Result<&'c Candidate<'a>> {
    let bare = |path: &str| towers::without_infixes(path.trim_end_matches('.')).into_owned();
    let asked = prefix.trim_end_matches('.');
    let is_root = |candidate: &&Candidate<'_>| candidate.root().trim_end_matches('.') == asked;
    let is_prefix = |candidate: &&Candidate<'_>| candidate.prefix.trim_end_matches('.') == asked;
    let is_without_infixes = |candidate: &&Candidate<'_>| bare(&candidate.root()) == asked;
    let chosen = found.iter().find(is_root).or_else(|| found.iter().find(is_prefix));
    chosen.or_else(|| found.iter().find(is_without_infixes)).ok_or_else(|| {
        let error = Error::not_found(format!("no image tower under `{}`", crate::did_you_mean::clipped(prefix)));
        if found.is_empty() { error } else { error.got(roots(found.iter())) }
    })
}

/// The one tower, or the one that is meant among several; and a remark where there were several.
fn choose<'c, 'a>(
    found: &'c [Candidate<'a>],
    tensors: &[(String, Stored)],
) -> Result<(Option<&'c Candidate<'a>>, Option<String>)> {
    let whole: Vec<&Candidate<'_>> = found.iter().filter(|candidate| candidate.is_whole()).collect();
    let pool = if whole.is_empty() { found.iter().collect() } else { whole };
    let [first, others @ ..] = &pool[..] else { return Ok((None, None)) };
    if others.is_empty() {
        return Ok((Some(first), None));
    }
    if let Some(average) = averaged(&pool) {
        let remark = "the average of the weights; the weights of the last step are under `current_model_state`";
        return Ok((Some(average), Some(remark.into())));
    }
    if others.iter().all(|other| is_tied([first, other], found, tensors)) {
        let remark = format!("the same weights again under {}", roots(others.iter().copied()));
        return Ok((Some(first), Some(remark)));
    }
    let root = first.root();
    let example = root.trim_end_matches('.');
    Err(Error::format("several image towers, of different weights")
        .expected("one")
        .got(roots(pool.iter().copied()))
        .hint(format!("Name the one that is meant: --prefix {}", if example.is_empty() { "." } else { example })))
}

fn roots<'c, 'a: 'c>(candidates: impl Iterator<Item = &'c Candidate<'a>>) -> String {
    let roots: Vec<String> = candidates.map(|candidate| format!("`{}`", candidate.root())).collect();
    roots.join(", ")
}

/// The average that Lightning's WeightAveraging saves as the model, with the weights beside it that training goes on
/// from.
fn averaged<'c, 'a>(pool: &[&'c Candidate<'a>]) -> Option<&'c Candidate<'a>> {
    let &[a, b] = pool else { return None };
    let [average, current] = if a.prefix.starts_with("state_dict.") { [a, b] } else { [b, a] };
    let inner = average.prefix.strip_prefix("state_dict.")?;
    let is_pair = current.prefix.strip_prefix("current_model_state.") == Some(inner) && a.convention == b.convention;
    is_pair.then_some(average)
}

/// Whether the models of two towers have the same tensors with the same values.
fn is_tied(two: [&Candidate<'_>; 2], all: &[Candidate<'_>], tensors: &[(String, Stored)]) -> bool {
    let [a, b] = two.map(|candidate| {
        let own = tensors
            .iter()
            .filter_map(|(name, stored)| Some((candidate.of_model(all, name)?, stored.as_ref().ok()?.clone())));
        own.collect::<HashMap<&str, Tensor>>()
    });
    // By two libraries' names under one prefix, each would be the other, too.
    let is_elsewhere = two[0].prefix != two[1].prefix;
    is_elsewhere
        && a.len() == b.len()
        && a.iter().all(|(name, tensor)| b.get(name).is_some_and(|other| is_equal(tensor, other)))
}

fn is_equal(a: &Tensor, b: &Tensor) -> bool {
    if (a.dtype(), a.shape()) != (b.dtype(), b.shape()) {
        return false;
    }
    let is_same_place =
        std::sync::Arc::ptr_eq(a.mapping(), b.mapping()) && a.offset() == b.offset() && a.strides() == b.strides();
    is_same_place || matches!((a.to_bytes(), b.to_bytes()), (Ok(a), Ok(b)) if a == b)
}

/// The run of wrappers that `name` begins with.
fn wrappers(name: &str) -> &str {
    let mut rest = name;
    while let Some(inner) = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
        rest = inner;
    }
    &name[..name.len() - rest.len()]
}

/// The run of wrappers that all names begin with.
fn shared_wrapper<'a>(names: impl Iterator<Item = &'a str>) -> &'a str {
    let mut chains = names.map(wrappers);
    let Some(first) = chains.next() else { return "" };
    if chains.all(|other| other == first) { first } else { "" }
}

/// The tensors by canonical names; each comes with its place and its name in the source.
fn rename(tensors: Vec<(Place, String, Stored)>) -> Result<IndexMap<String, Stored>> {
    let mut found: IndexMap<String, TensorSources> = IndexMap::with_capacity(tensors.len());
    for (place, source, stored) in tensors {
        let viewed = |stored: Stored, view: &dyn Fn(&Tensor) -> Result<Tensor>| match stored {
            Ok(tensor) => view(&tensor).map(Ok).map_err(|error| error.tensor(&source)),
            Err(unread) => Ok(Err(unread)),
        };
        let (name, part, stored) = match place {
            Place::Whole(name) => (name, None, stored),
            Place::Transposed(name) => (name, None, viewed(stored, &Tensor::transposed)?),
            Place::Squeezed(name, left) => (name, None, viewed(stored, &|tensor| squeezed(tensor, left))?),
            Place::Part(name, part) => (name, Some(part), stored),
        };
        found.entry(name).or_default().add(part, source, stored)?;
    }
    let zero_key = is_without_key_bias(&found);
    found
        .into_iter()
        .map(|(name, sources)| {
            let zero_key = zero_key && sources.is_without_key().is_some();
            Ok((name, sources.join(zero_key)?))
        })
        .collect()
}

/// Whether queries and values have a bias and keys have none, in every block, and by the names of libraries that have
/// such layers: EVA-02's in timm, DINOv3's in transformers.
fn is_without_key_bias(found: &IndexMap<String, TensorSources>) -> bool {
    let is_of_block = |name: &str| name.contains(".resblocks.") && name.ends_with(".attn.in_proj_bias");
    let mut biases = found.iter().filter(|(name, _)| is_of_block(name)).map(|(_, sources)| sources);
    let is_known = |name: &str| {
        ["attn.q_bias", "attn.v_bias", ".attn.q_proj.", ".attn.v_proj.", ".attention.q_proj.", ".attention.v_proj."]
            .iter()
            .any(|known| name.contains(known))
    };
    biases.all(|sources| sources.is_without_key().is_some_and(is_known))
}

/// The tensor without its leading extents of 1, of which timm has one more than there is to say.
pub(super) fn squeezed(tensor: &Tensor, left: usize) -> Result<Tensor> {
    let shape = tensor.shape();
    let at = shape.len().checked_sub(left).filter(|&at| shape[..at].iter().all(|&extent| extent == 1));
    let at = at.ok_or_else(|| {
        Error::format("not the shape of a token or of positions")
            .expected(format_args!("{left} extents, after some of 1"))
            .got(format_args!("{shape:?}"))
    })?;
    tensor.reshaped(&shape[at..])
}
