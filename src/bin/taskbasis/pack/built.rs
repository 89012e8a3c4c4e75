//! What `build` has made, to be packed.

use std::path::PathBuf;
use std::str::FromStr;

use taskbasis::build::{Family, Gram, Merge, MergedVector};
use taskbasis::bundle::NewMerge;
use taskbasis::{Error, Result, StoredFormat};

/// The basis that `build` made to be packed, which is gone when the bundle is there.
pub struct Built {
    pub text: String,
    pub json: serde_json::Value,
    pub finetuned: Vec<(String, PathBuf)>,
    pub merges: Option<Merges>,
}

/// `NAME=METHOD[:key=value,…]`
#[derive(Clone, Debug)]
pub struct NamedMerge {
    pub name: String,
    pub merge: Merge,
}

impl FromStr for NamedMerge {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((name, merge)) if !name.is_empty() && !name.contains(':') => {
                Ok(Self { name: name.to_owned(), merge: merge.parse()? })
            }
            _ => Err(Error::invalid("expected NAME=METHOD, as in ties=ties:keep=0.2")),
        }
    }
}

/// The merged vectors that a bundle is to keep, and what they are computed from.
pub struct Merges {
    pub family: Family,
    pub gram: Gram,
    pub named: Vec<NamedMerge>,
    pub format: StoredFormat,
}

/// A merged vector that is ready to be computed.
pub struct Merged<'a> {
    name: &'a str,
    method: String,
    vector: MergedVector<'a>,
    format: StoredFormat,
}

impl Merges {
    /// Prepares them all.
    pub fn vectors(&self, threads: usize) -> Result<Vec<Merged<'_>>> {
        self.named.iter().map(|named| self.prepare(named, threads)).collect()
    }

    fn prepare<'a>(&'a self, NamedMerge { name, merge }: &'a NamedMerge, threads: usize) -> Result<Merged<'a>> {
        let vector = self.family.merge(&self.gram, merge, threads)?;
        Ok(Merged { name, method: merge.to_string(), vector, format: self.format })
    }
}

impl Merged<'_> {
    pub fn to_be_kept(&self) -> NewMerge<'_> {
        NewMerge { name: self.name, method: &self.method, vector: &self.vector, format: self.format }
    }
}
