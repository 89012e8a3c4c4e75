//! The place of a source tensor among the canonical ones, and the joining of what others keep apart.

use crate::checkpoint::unread_type::Stored;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The place of a source tensor among the canonical ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Under this name, as it is.
    Whole(String),
    /// Under this name, transposed: `nn.Linear` holds [out, in], open_clip's `proj` is [in, out].
    Transposed(String),
    /// Under this name, without leading extents of 1, down to this number of extents.
    Squeezed(String, usize),
    /// Some of the rows of the tensor of this name.
    Part(String, Part),
}

impl Place {
    /// The canonical name of the tensor that it goes into.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Whole(name) | Self::Transposed(name) | Self::Squeezed(name, _) | Self::Part(name, _) => name,
        }
    }
}

/// Rows of a matrix, or elements of a bias, that other libraries keep as a tensor of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Query,
    Key,
    Value,
    /// Keys and values.
    KeyValue,
    /// The gate of a gated MLP.
    Gate,
    /// What the gate lets through.
    Up,
}

impl Part {
    /// Where it begins, its length, and the length of the whole, in equal shares of the rows.
    pub(crate) fn span(self) -> [usize; 3] {
        match self {
            Self::Query => [0, 1, 3],
            Self::Key => [1, 1, 3],
            Self::Value => [2, 1, 3],
            Self::KeyValue => [1, 2, 3],
            Self::Gate => [0, 1, 2],
            Self::Up => [1, 1, 2],
        }
    }

    /// The words for it in names; those for the other parts stand at the same index.
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Query => &["q_proj", "attention.query", "q_bias", "attn_pool.q."],
            Self::Key => &["k_proj", "attention.key", "k_bias"],
            Self::Value => &["v_proj", "attention.value", "v_bias"],
            Self::KeyValue => &["", "", "", "attn_pool.kv."],
            Self::Gate => &["fc1_g", "gate_proj"],
            Self::Up => &["fc1_x", "up_proj"],
        }
    }

    /// The parts of which this is one.
    fn siblings(self) -> &'static [Self] {
        match self {
            Self::Query | Self::Key | Self::Value => &[Self::Query, Self::Key, Self::Value],
            Self::KeyValue => &[Self::Query, Self::KeyValue],
            Self::Gate | Self::Up => &[Self::Gate, Self::Up],
        }
    }
}

/// The sources of one tensor of the result, each with its name in the source: a whole, or parts.
#[derive(Default)]
pub(super) struct TensorSources {
    whole: Option<(String, Stored)>,
    parts: Vec<(Part, String, Stored)>,
}

impl TensorSources {
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) where there is something in its place.
    pub(super) fn add(&mut self, part: Option<Part>, source: String, stored: Stored) -> Result<()> {
        let overlaps = |a: Part, b: Part| {
            let ([a, n, _], [b, m, _]) = (a.span(), b.span());
            a < b + m && b < a + n
        };
        let in_place = self.parts.iter().find(|(other, ..)| part.is_none_or(|part| overlaps(*other, part)));
        let other = self.whole.as_ref().map(|(name, _)| name).or(in_place.map(|(_, name, _)| name));
        if let Some(other) = other {
            return Err(
                Error::format("two tensors stand for the same weights").got(format_args!("`{other}` and `{source}`"))
            );
        }
        match part {
            Some(part) => self.parts.push((part, source, stored)),
            None => self.whole = Some((source, stored)),
        }
        Ok(())
    }

    /// The name of a part where queries and values have one, and keys have none: the library's layers have no bias
    /// there.
    pub(super) fn is_without_key(&self) -> Option<&str> {
        let [(a, name, _), (b, ..)] = &self.parts[..] else { return None };
        let is_pair = matches!((a, b), (Part::Query, Part::Value) | (Part::Value, Part::Query));
        is_pair.then_some(name.as_str())
    }

    /// The one tensor; with `zero_key` there are no keys, and zeros stand for them.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) where parts are missing, or do not fit each other.
    pub(super) fn join(mut self, zero_key: bool) -> Result<Stored> {
        if let Some((_, tensor)) = self.whole {
            return Ok(tensor);
        }
        self.parts.sort_by_key(|(part, ..)| part.span()[0]);
        if let Some(unread) = self.parts.iter().find_map(|(.., stored)| stored.as_ref().err()) {
            return Ok(Err(unread.clone()));
        }
        let Some((first, name, _)) = self.parts.first() else { return Err(Error::format("nothing to join")) };
        let whole = first.span()[2];
        let covered: usize = self.parts.iter().map(|(part, ..)| part.span()[1]).sum();
        if covered != whole && !zero_key {
            let siblings = self.parts.iter().map(|(part, ..)| part.siblings()).min_by_key(|all| all.len());
            let missing =
                siblings.unwrap_or_default().iter().filter(|part| !self.parts.iter().any(|(p, ..)| p == *part));
            let missing: Vec<String> = missing.map(|part| sibling(*first, name, *part)).collect();
            let what = if whole == 3 { "attention weights are incomplete" } else { "a gated MLP is incomplete" };
            return Err(Error::format(what)
                .tensor(name)
                .expected(format_args!("beside it `{}`", missing.join("` and `"))));
        }
        let tensors: Vec<(Part, &str, &Tensor)> = self
            .parts
            .iter()
            .filter_map(|(part, name, stored)| Some((*part, &**name, stored.as_ref().ok()?)))
            .collect();
        let share = |part: Part, tensor: &Tensor| {
            let rows = tensor.shape().first().copied().unwrap_or(0);
            let mut shape = tensor.shape().to_vec();
            shape.iter_mut().take(1).for_each(|extent| *extent = rows / part.span()[1]);
            (rows.is_multiple_of(part.span()[1]), shape)
        };
        let expected = share(tensors[0].0, tensors[0].2);
        if let Some((_, other, tensor)) = tensors.iter().find(|(part, _, tensor)| share(*part, tensor) != expected) {
            let what = if whole == 3 { "q, k and v differ in shape" } else { "gate and value differ in shape" };
            return Err(Error::format(what)
                .tensor(*other)
                .expected(format_args!("{:?}", tensors[0].2.shape()))
                .got(format_args!("{:?}", tensor.shape())));
        }
        let zeros = match zero_key {
            true => Some(tensors[0].2.zeros()?),
            false => None,
        };
        let mut parts: Vec<&Tensor> = tensors.iter().map(|(.., tensor)| *tensor).collect();
        if let Some(zeros) = &zeros {
            parts.insert(1, zeros);
        }
        Tensor::concatenated(&parts).map(Ok).map_err(|error| error.tensor(name))
    }
}

/// The name of the part beside `name`, which is another.
fn sibling(part: Part, name: &str, other: Part) -> String {
    let words = part.words().iter().zip(other.words());
    let found = words.filter(|(word, _)| !word.is_empty()).find(|(word, _)| name.contains(**word));
    found.map_or_else(|| name.to_owned(), |(word, other)| name.replace(word, other))
}
