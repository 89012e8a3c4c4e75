//! The parts of a file: names, metadata, alignment. `docs/bundle-format.md` draws it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::encoder_record::EncoderMetadata;
use super::fingerprint::Fingerprint;
use super::gate::PrecisionMeasure;
use super::head_forms::{self, HeadForms};
use super::keys::{field, in_file, key, optional, text};
use super::quantise::BlocksRecord;
use crate::basis::{Method, TaskExpr};
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::onnx::GraphMap;
use crate::preprocess::{Interpolation, Preprocess, ResizeMode};
use crate::tower::ImageHints;

/// The newest version, which is written where something needs it; all are read.
pub const VERSION: u32 = 2;

/// The version of what a reader of the first can read, which is written wherever it says everything.
const FIRST_VERSION: u32 = 1;

/// The bytes that every bundle has after the eight bytes of the header's length: the metadata first, and in it the
/// version.
pub(super) const MAGIC: &[u8] = br#"{"__metadata__":{"taskbasis.version":""#;
/// The bytes of the header's length, which comes before it.
pub(super) const PREFIX: usize = 8;

/// The prefixes and words that the names of tensors are made of.
pub(super) mod name {
    pub(in super::super) const BASE: &str = "base/";
    pub(in super::super) const VECTORS: &str = "vectors/";
    pub(in super::super) const MEAN: &str = "mean/";
    pub(in super::super) const RESIDUALS: &str = "residuals/";
    pub(in super::super) const HEADS: &str = "heads/";
    pub(in super::super) const WEIGHT: &str = "/weight";
    pub(in super::super) const BIAS: &str = "/bias";
    pub(in super::super) const RECOVERY: &str = "recovery";
    pub(in super::super) const GRAPH: &str = "graph";
    pub(in super::super) const GOLDEN: &str = "golden";
    pub(in super::super) const ROUTER: &str = "router";
    pub(in super::super) const PADDING: &str = "padding/";
    pub(in super::super) const CHECKSUMS: &str = "checksums";
}

/// The parts of a file that begin at a page of their own, in this order; empty ones are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Section {
    Base,
    Vectors,
    Residuals,
    Heads,
    Recovery,
    Graph,
    Golden,
    Router,
    Checksums,
}

/// The role of a tensor, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role<'a> {
    /// A parameter of the base.
    Base(&'a str),
    /// A parameter in all M vectors.
    Vectors(&'a str),
    /// A parameter in PCA's mean.
    Mean(&'a str),
    /// A parameter in the residual of this index.
    Residual(usize, &'a str),
    /// The weight of a task's head.
    HeadWeight(&'a str),
    /// The bias of a task's head.
    HeadBias(&'a str),
    Recovery,
    Graph,
    /// The embedding of the built-in image with the base's weights.
    Golden,
    /// What tells by an image which task it belongs to, as a file of its own.
    Router,
    /// Bytes of zero between two tensors; its name is a number or anything else.
    Padding(&'a str),
    Checksums,
}

impl<'a> Role<'a> {
    /// `None` for a name that no version knows.
    pub(super) fn of(tensor: &'a str) -> Option<Self> {
        match tensor {
            name::RECOVERY => return Some(Self::Recovery),
            name::GRAPH => return Some(Self::Graph),
            name::GOLDEN => return Some(Self::Golden),
            name::ROUTER => return Some(Self::Router),
            name::CHECKSUMS => return Some(Self::Checksums),
            _ => {}
        }
        for (prefix, role) in [
            (name::BASE, Self::Base as fn(&'a str) -> Self),
            (name::VECTORS, Self::Vectors),
            (name::MEAN, Self::Mean),
            (name::PADDING, Self::Padding),
        ] {
            if let Some(rest) = tensor.strip_prefix(prefix) {
                return Some(role(rest));
            }
        }
        if let Some(rest) = tensor.strip_prefix(name::RESIDUALS) {
            let (index, parameter) = rest.split_once('/')?;
            let parsed: usize = index.parse().ok()?;
            return (parsed.to_string() == index).then_some(Self::Residual(parsed, parameter));
        }
        let rest = tensor.strip_prefix(name::HEADS)?;
        if let Some(task) = rest.strip_suffix(name::WEIGHT) {
            return Some(Self::HeadWeight(task));
        }
        rest.strip_suffix(name::BIAS).map(Self::HeadBias)
    }

    /// The section that it lies in; `None` for padding, which lies anywhere.
    pub(super) fn section(self) -> Option<Section> {
        Some(match self {
            Self::Base(_) => Section::Base,
            Self::Vectors(_) | Self::Mean(_) => Section::Vectors,
            Self::Residual(..) => Section::Residuals,
            Self::HeadWeight(_) | Self::HeadBias(_) => Section::Heads,
            Self::Recovery => Section::Recovery,
            Self::Graph => Section::Graph,
            Self::Golden => Section::Golden,
            Self::Router => Section::Router,
            Self::Checksums => Section::Checksums,
            Self::Padding(_) => return None,
        })
    }
}

/// The tensor's name.
impl fmt::Display for Role<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base(parameter) => write!(f, "{}{parameter}", name::BASE),
            Self::Vectors(parameter) => write!(f, "{}{parameter}", name::VECTORS),
            Self::Mean(parameter) => write!(f, "{}{parameter}", name::MEAN),
            Self::Residual(r, parameter) => write!(f, "{}{r}/{parameter}", name::RESIDUALS),
            Self::HeadWeight(task) => write!(f, "{}{task}{}", name::HEADS, name::WEIGHT),
            Self::HeadBias(task) => write!(f, "{}{task}{}", name::HEADS, name::BIAS),
            Self::Recovery => f.write_str(name::RECOVERY),
            Self::Graph => f.write_str(name::GRAPH),
            Self::Golden => f.write_str(name::GOLDEN),
            Self::Router => f.write_str(name::ROUTER),
            Self::Padding(index) => write!(f, "{}{index}", name::PADDING),
            Self::Checksums => f.write_str(name::CHECKSUMS),
        }
    }
}

/// `taskbasis.base`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BaseRecord {
    /// Whether the bundle holds the base.
    pub(super) stored: bool,
    /// The fingerprint of the base that the bundle was packed over, before any rounding.
    pub(super) fingerprint: String,
}

/// `taskbasis.basis`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BasisRecord {
    /// The method's name in `method_info.json`.
    pub(super) method: String,
    /// The columns of the recovery table.
    pub(super) tasks: Vec<String>,
    /// M.
    pub(super) vectors: usize,
    /// Whether there is a mean beside the M.
    pub(super) mean: bool,
    /// The tasks that have a residual, by its index.
    pub(super) residuals: Vec<String>,
}

/// `taskbasis.preprocess`: resized to the edge with antialiasing, cropped to the centre, divided by 255, and by channel
/// freed of `mean` and divided by `std`. What has its default is left out, so that readers that know no other read it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PreprocessRecord {
    pub(super) image_size: usize,
    pub(super) mean: [f32; 3],
    pub(super) std: [f32; 3],
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) resize: ResizeMode,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) interpolation: Interpolation,
    /// `None` is the image size.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) edge: Option<usize>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) fill: u8,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl PreprocessRecord {
    /// The record of `preprocess`.
    pub(super) fn of(preprocess: &Preprocess) -> Self {
        Self {
            image_size: preprocess.size(),
            mean: preprocess.mean(),
            std: preprocess.std(),
            resize: preprocess.resize(),
            interpolation: preprocess.interpolation(),
            edge: Some(preprocess.edge()).filter(|edge| *edge != preprocess.size()),
            fill: preprocess.fill(),
        }
    }

    /// The preparation of images that the record says.
    ///
    /// # Errors
    /// As [`ImageHints::preprocess`].
    pub(super) fn preprocess(&self) -> Result<Preprocess> {
        let hints = ImageHints {
            mean: Some(self.mean),
            std: Some(self.std),
            resize: Some(self.resize),
            edge: self.edge,
            interpolation: Some(self.interpolation),
            fill: Some(self.fill),
        };
        hints.preprocess(self.image_size)
    }
}

/// The scaling coefficients that the bundle suggests (`taskbasis.lambda`); `None` where it suggests none. They change
/// nothing by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lambdas {
    /// The λ for a single task, `MNIST@λ`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<f64>,
    /// The λ for the paper's addition, `merged@λ`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged: Option<f64>,
    /// The λ for all tasks recovered and summed, `all@λ`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<f64>,
}

impl Lambdas {
    /// The coefficients that are suggested.
    pub(super) fn suggested(&self) -> impl Iterator<Item = f64> {
        [self.task, self.merged, self.all].into_iter().flatten()
    }
}

/// Everything that the metadata say.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub(super) encoder: EncoderMetadata,
    pub(super) base: BaseRecord,
    pub(super) basis: BasisRecord,
    /// The tensors of blocks, by name.
    pub(super) blocks: HashMap<String, BlocksRecord>,
    /// Class names by task.
    pub(super) classes: HashMap<String, Vec<String>>,
    /// The inputs of the graph in the bundle, where it is to be run.
    pub(super) graph: Option<GraphMap>,
    pub(super) lambda: Lambdas,
    /// The tasks that are merges of the others, each with how it was made.
    pub(super) merges: BTreeMap<String, String>,
    /// Expressions that are kept under a name.
    pub(super) names: BTreeMap<String, String>,
    pub(super) preprocess: PreprocessRecord,
    /// What was measured of precisions, over these or over other tasks.
    pub(super) precision: Option<PrecisionMeasure>,
    /// Heads that are used otherwise than CLIP's.
    pub(super) heads: HeadForms,
    /// The program that wrote the file, or nothing: people read it, no program does.
    pub(super) writer: String,
}

/// The values that checked metadata come to.
pub(super) struct CheckedMetadata {
    pub(super) fingerprint: Fingerprint,
    pub(super) method: Method,
    /// The task of each residual.
    pub(super) residual_tasks: Vec<usize>,
}

impl Metadata {
    /// Reads the text pairs of a header.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for another version of the format;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), naming the key, for one that is missing, broken or not known.
    pub(super) fn read(metadata: &HashMap<String, String>) -> Result<Self> {
        let version = metadata.get(key::VERSION).map_or("", String::as_str);
        let is_first = version == FIRST_VERSION.to_string();
        if !is_first && version != VERSION.to_string() {
            return Err(Error::unsupported("a bundle of another version of the format")
                .expected(format_args!("version {FIRST_VERSION} or {VERSION}"))
                .got(format_args!("`{version}`"))
                .hint("A newer taskbasis may read it"));
        }
        if let Some(unknown) =
            metadata.keys().find(|key| key.starts_with("taskbasis.") && !KNOWN_KEYS.contains(&&***key))
        {
            return Err(Error::format(format!("the metadata hold `{unknown}`, which version {version} does not know")));
        }
        let blocks: HashMap<String, BlocksRecord> = field(metadata, key::BLOCKS)?;
        if let Some((name, _)) = blocks.iter().find(|(_, record)| is_first && record.is_newest()) {
            return Err(Error::format("a matrix of low rank, which version 1 does not know").tensor(name.as_str()));
        }
        let preprocess: PreprocessRecord = field(metadata, key::PREPROCESS)?;
        Ok(Self {
            encoder: EncoderMetadata::read(metadata, preprocess.image_size)?,
            base: field(metadata, key::BASE)?,
            basis: field(metadata, key::BASIS)?,
            blocks,
            classes: field(metadata, key::CLASSES)?,
            graph: optional(metadata, key::GRAPH)?,
            lambda: field(metadata, key::LAMBDA)?,
            merges: optional(metadata, key::MERGES)?.unwrap_or_default(),
            names: optional(metadata, key::NAMES)?.unwrap_or_default(),
            preprocess,
            precision: optional(metadata, key::PRECISION)?,
            heads: HeadForms::read(metadata)?,
            writer: metadata.get(key::WRITER).cloned().unwrap_or_default(),
        })
    }

    /// Notes how the head of `task` is used, and what its classes are called.
    pub(super) fn add_head(&mut self, task: &str, head: &Head) {
        self.heads.add(task, head);
        if !head.classes().is_empty() {
            self.classes.insert(task.to_owned(), head.classes().to_vec());
        }
    }

    /// The expressions that are kept under a name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for one that cannot be read.
    pub(super) fn named(&self) -> Result<IndexMap<String, TaskExpr>> {
        self.names.iter().map(|(name, text)| Ok((name.clone(), text.parse()?))).collect()
    }

    /// Checks what the metadata say, as far as they can be checked by themselves.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) for what contradicts itself;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a method that is not known.
    pub(super) fn check(&self) -> Result<CheckedMetadata> {
        let Self { encoder, basis, preprocess, base, lambda, .. } = self;
        encoder.check()?;
        preprocess.preprocess().map_err(in_file)?;
        let BasisRecord { method, tasks, vectors, mean, residuals } = basis;
        let method = Method::parse(method)
            .ok_or_else(|| Error::unsupported("an unknown method").got(format_args!("`{method}`")))?;
        let fail = |what: String| Err(Error::format(what));
        if tasks.is_empty() || *vectors == 0 {
            return fail("a basis has at least one task and one vector".into());
        }
        let mut known = HashSet::new();
        if let Some(task) = tasks.iter().find(|task| task.is_empty() || !known.insert(task.as_str())) {
            return fail(format!("task `{task}` is named twice, or it is empty"));
        }
        let mut residual_tasks = Vec::with_capacity(residuals.len());
        for task in residuals {
            match tasks.iter().position(|known| known == task) {
                Some(t) if !residual_tasks.contains(&t) => residual_tasks.push(t),
                _ => return fail(format!("a residual for `{task}`, which is no task of the basis or has one already")),
            }
        }
        if let Some(name) = self.merges.keys().find(|name| !residuals.contains(name)) {
            return fail(format!("a merge `{name}`, which has no residual"));
        }
        if *mean != (method.has_mean()) {
            return fail(format!("a {method} basis {} a mean", if *mean { "has not" } else { "has" }));
        }
        if !lambda.suggested().all(f64::is_finite) {
            return fail("a suggested scaling coefficient is not finite".into());
        }
        if encoder.parameters.is_some() && self.graph.is_none() {
            return Err(Error::format(format!("the metadata lack `{}`, which alone runs this encoder", key::GRAPH)));
        }
        let size = encoder.arch.image_size();
        if preprocess.image_size != size {
            return Err(Error::format("preprocessing gives another image size than the architecture takes")
                .expected(size)
                .got(preprocess.image_size));
        }
        Ok(CheckedMetadata { fingerprint: base.fingerprint.parse()?, method, residual_tasks })
    }

    /// The text pairs of the header: the version first, then in the order of the keys; maps in the order of their keys,
    /// so that the same content gives the same bytes.
    pub(super) fn pairs(&self) -> Result<Vec<(&'static str, String)>> {
        fn sorted<V: Serialize>(map: &HashMap<String, V>) -> BTreeMap<&String, &V> {
            map.iter().collect()
        }
        let needs_newest = self.blocks.values().any(BlocksRecord::is_newest);
        let version = if needs_newest { VERSION } else { FIRST_VERSION };
        let mut all = vec![(key::VERSION, version.to_string())];
        if let Some(measure) = &self.precision {
            all.push((key::PRECISION, text(measure)?));
        }
        all.extend(self.encoder.first_pair()?);
        all.extend([
            (key::BASE, text(&self.base)?),
            (key::BASIS, text(&self.basis)?),
            (key::BLOCKS, text(&sorted(&self.blocks))?),
            (key::CLASSES, text(&sorted(&self.classes))?),
        ]);
        all.extend(self.encoder.graph_pair()?);
        if let Some(map) = &self.graph {
            all.push((key::GRAPH, text(map)?));
        }
        all.push((key::LAMBDA, text(&self.lambda)?));
        if !self.merges.is_empty() {
            all.push((key::MERGES, text(&self.merges)?));
        }
        if !self.names.is_empty() {
            all.push((key::NAMES, text(&self.names)?));
        }
        all.push((key::PREPROCESS, text(&self.preprocess)?));
        all.extend(self.heads.pair(head_forms::SIGMOID)?);
        all.extend(self.encoder.tower_pair()?);
        all.extend(self.heads.pair(head_forms::UNNORMALISED)?);
        all.push((key::WRITER, self.writer.clone()));
        Ok(all)
    }
}

/// All keys that any version knows.
const KNOWN_KEYS: [&str; 16] = [
    key::VERSION,
    key::WRITER,
    key::ARCH,
    key::BASE,
    key::BASIS,
    key::BLOCKS,
    key::CLASSES,
    key::ENCODER,
    key::GRAPH,
    key::LAMBDA,
    key::MERGES,
    key::NAMES,
    key::PREPROCESS,
    key::TOWER,
    head_forms::SIGMOID,
    head_forms::UNNORMALISED,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_meaning() {
        assert_eq!(Role::of("base/visual.proj"), Some(Role::Base("visual.proj")));
        assert_eq!(Role::of("residuals/12/visual.proj"), Some(Role::Residual(12, "visual.proj")));
        assert_eq!(Role::of("residuals/012/visual.proj"), None, "two names for one tensor");
        assert_eq!(Role::of("residuals/+1/visual.proj"), None);
        assert_eq!(Role::of("heads/a/weight/bias"), Some(Role::HeadBias("a/weight")));
        assert_eq!(Role::of("heads/MNIST"), None);
        assert_eq!(Role::of("graphs"), None);
    }
}
