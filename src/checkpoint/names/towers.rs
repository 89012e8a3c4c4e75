//! Finding the image tower among a file's tensors: under which prefix, and by which convention.
//!
//! Every class token and every patch embedding is the anchor of a candidate; what else lies under its prefix says
//! whether it is a whole tower.

use std::borrow::Cow;

use super::transformers::VIT_ROOTS;

/// Module names that wrappers of PyTorch put between others: `torch.compile`, FSDP, activation checkpointing,
/// DataParallel. They say nothing about the model.
const INFIXES: [&str; 5] = ["_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "module"];
/// The longest prefix of a tower's names that is looked at, or a hostile file of long names could cost any amount of
/// time.
const MAX_PREFIX: usize = 256;
/// The most towers that are told apart.
const MAX_CANDIDATES: usize = 16;

/// The convention that the names of a tower follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Convention {
    /// open_clip's and OpenAI's: `visual.conv1.weight`.
    OpenClip,
    /// open_clip's tower alone: `conv1.weight`.
    OpenClipBare,
    /// The transformers library's: `vision_model.embeddings.class_embedding`.
    Transformers,
    /// The transformers library's tower alone: `embeddings.class_embedding`.
    TransformersBare,
    /// timm's: `blocks.0.norm1.weight`; in open_clip's models under `visual.trunk.`.
    Timm,
    /// The transformers library's vision transformers: `embeddings.cls_token`.
    Vit,
}

impl Convention {
    /// The prefixes of the names of a tower's parts, after its root: the patch embedding, the class token, the
    /// positions, the first block, and the norms after and before the blocks.
    fn parts(self) -> [&'static [&'static str]; 6] {
        match self {
            Self::OpenClip | Self::OpenClipBare => [
                &["conv1.weight"],
                &["class_embedding"],
                &["positional_embedding"],
                &["transformer.resblocks.0."],
                &["ln_post."],
                &["ln_pre."],
            ],
            Self::Transformers | Self::TransformersBare => [
                &["embeddings.patch_embedding.weight"],
                &["embeddings.class_embedding"],
                &["embeddings.position_embedding.weight"],
                &["encoder.layers.0.", "encoder.layer.0."],
                &["post_layernorm."],
                &["pre_layrnorm.", "pre_layernorm."],
            ],
            Self::Timm => [
                &["patch_embed.proj.weight"],
                &["cls_token"],
                &["pos_embed"],
                &["blocks.0."],
                &["norm.", "fc_norm."],
                &["norm_pre."],
            ],
            Self::Vit => [
                &["embeddings.patch_embeddings."],
                &["embeddings.cls_token"],
                &["embeddings.position_embeddings"],
                &["encoder.layer.0.", "layers.0.", "layer.0.", "model.layer.0."],
                &["layernorm.", "norm."],
                &[],
            ],
        }
    }

    /// The parts, one bit per part, without which it is no tower of this convention but something that has a name in
    /// common.
    fn needed(self) -> u8 {
        match self {
            Self::OpenClip | Self::Transformers => 0,
            Self::OpenClipBare => 0b00_0111,
            Self::TransformersBare => 0b00_1101,
            Self::Timm => 0b00_1001,
            Self::Vit => 0b00_1011,
        }
    }
}

/// A tower, or part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate<'a> {
    /// The prefix of all names of the model.
    pub(super) prefix: &'a str,
    pub(super) convention: Convention,
    /// The prefix of the tower's own names, after the model's.
    pub(super) inner: &'static str,
    /// The parts that there are, one bit per part.
    parts: u8,
}

impl<'a> Candidate<'a> {
    const WHOLE: u8 = 0b11_1111;

    fn new(prefix: &'a str, convention: Convention, inner: &'static str) -> Self {
        Self { prefix, convention, inner, parts: 0 }
    }

    /// Whether it has a part of every kind.
    pub(super) fn is_whole(&self) -> bool {
        self.parts == Self::WHOLE
    }

    /// The prefix of the tower's own names.
    pub(super) fn root(&self) -> String {
        format!("{}{}", self.prefix, self.inner)
    }

    /// The name within the tower, without torch's infixes, of a tensor that lies in it.
    fn within(&self, name: &'a str) -> Option<Cow<'a, str>> {
        match without_infixes(name.strip_prefix(self.prefix)?) {
            Cow::Borrowed(name) => name.strip_prefix(self.inner).map(Cow::Borrowed),
            Cow::Owned(name) => name.strip_prefix(self.inner).map(|name| Cow::Owned(name.to_owned())),
        }
    }

    /// The name within the tower of a tensor that no other candidate's prefix places more exactly.
    pub(super) fn own(&self, all: &[Self], name: &'a str) -> Option<Cow<'a, str>> {
        self.of_model(all, name).and_then(|_| self.within(name))
    }

    /// The name within the model, towers and all, of a tensor that no other candidate's prefix places more exactly.
    pub(super) fn of_model(&self, all: &[Self], name: &'a str) -> Option<&'a str> {
        (longest_prefix(all, name) == self.prefix.len()).then(|| name.strip_prefix(self.prefix)).flatten()
    }

    fn see(&mut self, name: &'a str) {
        let Some(name) = self.within(name) else { return };
        for (bit, starts) in self.convention.parts().iter().enumerate() {
            if starts.iter().any(|start| name.starts_with(start)) {
                self.parts |= 1 << bit;
            }
        }
    }
}

/// `name` without the infixes of torch's wrappers.
pub(super) fn without_infixes(name: &str) -> Cow<'_, str> {
    if !name.split('.').any(|segment| INFIXES.contains(&segment)) {
        return Cow::Borrowed(name);
    }
    let kept: Vec<&str> = name.split('.').filter(|segment| !INFIXES.contains(segment)).collect();
    Cow::Owned(kept.join("."))
}

/// The towers that have a class token or a patch embedding, at most [`MAX_CANDIDATES`], in the order of the file.
pub(super) fn candidates<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<Candidate<'a>> {
    let mut found: Vec<Candidate<'a>> = Vec::new();
    for candidate in names.clone().filter_map(anchored) {
        let is_new =
            !found.iter().any(|known| (known.prefix, known.convention) == (candidate.prefix, candidate.convention));
        if is_new && found.len() < MAX_CANDIDATES {
            found.push(candidate);
        }
    }
    for name in names {
        // `module.visual.…` is none of the model beside `module.`, though `module` alone would be an infix.
        let longest = longest_prefix(&found, name);
        found
            .iter_mut()
            .filter(|candidate| candidate.prefix.len() == longest)
            .for_each(|candidate| candidate.see(name));
    }
    found.retain(|candidate| candidate.parts & candidate.convention.needed() == candidate.convention.needed());
    found
}

/// The length of the longest prefix of a candidate that `name` begins with.
fn longest_prefix(candidates: &[Candidate<'_>], name: &str) -> usize {
    let prefixes = candidates.iter().map(|candidate| candidate.prefix).filter(|prefix| name.starts_with(prefix));
    prefixes.map(str::len).max().unwrap_or_default()
}

/// The candidate whose class token or patch embedding this is.
fn anchored(name: &str) -> Option<Candidate<'_>> {
    let candidate = timm_or_vit(name).or_else(|| clip_or_siglip(name))?;
    is_path(candidate.prefix).then_some(candidate)
}

fn timm_or_vit(name: &str) -> Option<Candidate<'_>> {
    let outer = before("cls_token", name).or_else(|| before("patch_embed.proj.weight", name))?;
    let Some(model) = inner(outer, "embeddings") else {
        let trunk = inner(outer, "trunk").and_then(|outer| inner(outer, "visual"));
        return Some(match trunk {
            Some(prefix) => Candidate::new(prefix, Convention::Timm, "visual.trunk."),
            None => Candidate::new(outer, Convention::Timm, ""),
        });
    };
    let named = VIT_ROOTS.iter().find_map(|(last, root)| Some((inner(model, last)?, *root)));
    let (prefix, root) = named.unwrap_or((model, ""));
    Some(Candidate::new(prefix, Convention::Vit, root))
}

fn clip_or_siglip(name: &str) -> Option<Candidate<'_>> {
    let token = before("class_embedding", name);
    let outer = token
        .or_else(|| before("patch_embedding.weight", name).filter(|outer| inner(outer, "embeddings").is_some()))?;
    Some(match inner(outer, "embeddings") {
        Some(outer) => match inner(outer, "vision_model") {
            Some(prefix) => Candidate::new(prefix, Convention::Transformers, "vision_model."),
            None => Candidate::new(outer, Convention::TransformersBare, ""),
        },
        None => match inner(outer, "visual") {
            Some(prefix) => Candidate::new(prefix, Convention::OpenClip, "visual."),
            None => Candidate::new(outer, Convention::OpenClipBare, ""),
        },
    })
}

/// Whether it may be the path of a module: in files of other things, such as expected values, names have slashes.
fn is_path(prefix: &str) -> bool {
    prefix.len() <= MAX_PREFIX && !prefix.contains('/')
}

/// The part of `name` before `last`, its last module or parameter, the dot included.
fn before<'a>(last: &str, name: &'a str) -> Option<&'a str> {
    name.strip_suffix(last).filter(|before| before.is_empty() || before.ends_with('.'))
}

/// The part of `path` before the module `last`, with which it ends, but for torch's infixes.
fn inner<'a>(path: &'a str, last: &str) -> Option<&'a str> {
    let mut path = path;
    loop {
        let without_dot = path.strip_suffix('.')?;
        match INFIXES.iter().find_map(|infix| before(infix, without_dot)) {
            Some(rest) => path = rest,
            None => return before(last, without_dot),
        }
    }
}

/// The prefixes where nothing has a class token: the distinct ones that `is_wrapper` knows before what is an image
/// tower's by its name alone, at most two, each with a name that has it.
pub(super) fn marked<'a>(
    names: impl Iterator<Item = &'a str>,
    is_wrapper: impl Fn(&str) -> bool,
) -> Vec<(&'a str, &'a str)> {
    const ROOTS: [&str; 3] = ["visual.", "vision_model.", "visual_projection."];
    let mut found: Vec<(&str, &str)> = Vec::new();
    for name in names {
        let places = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
        let at = places.take_while(|at| *at <= MAX_PREFIX).find(|&at| ROOTS.iter().any(|r| name[at..].starts_with(r)));
        let Some(at) = at.filter(|&at| is_wrapper(&name[..at])) else { continue };
        if found.len() < 2 && !found.iter().any(|(prefix, _)| *prefix == &name[..at]) {
            found.push((&name[..at], name));
        }
    }
    found
}
