//! Checkpoints in several files, as the transformers library writes large ones: an index
//! (`model.safetensors.index.json` or `pytorch_model.bin.index.json`) says which file holds which tensor.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde::Deserialize;

use super::format::Format;
use super::unread_type::Stored;
use crate::did_you_mean;
use crate::error::{Error, ErrorKind, Result};
use crate::mmap::{MapMode, Mapping};
use crate::present;

/// The end of an index's name, after the name that the whole file would have.
pub const INDEX: &str = ".index.json";
/// The largest index that is read. Real ones have some hundred bytes per tensor.
pub const MAX_INDEX: usize = 64 << 20;
/// The most files that one index may name: each stays open.
const MAX_FILES: usize = 1024;
/// The digits of a part's number, as the libraries write it.
const DIGITS: usize = 5;

/// The name of one file of a checkpoint in several, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardName {
    /// The number of the file, counted from 1.
    pub number: u32,
    /// The number of files.
    pub of: u32,
    /// The name of the index that lies beside it.
    pub index: String,
}

/// Whether a file of this name is an index, by its name.
pub fn is_index_name(name: &str) -> bool {
    ["safetensors", "bin"].iter().any(|kind| name.ends_with(&format!(".{kind}{INDEX}")))
}

/// The parts of `model-00002-of-00005.safetensors`; `None` for a name of another form and for the only part of one.
pub fn shard_name(name: &str) -> Option<ShardName> {
    let (stem, kind) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "safetensors" | "bin"))?;
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (whole, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| digits.parse::<u32>().ok().filter(|_| digits.len() == DIGITS);
    let (number, of) = (parse(number)?, parse(of)?);
    (of > 1).then(|| ShardName { number, of, index: format!("{whole}.{kind}{INDEX}") })
}

/// Refuses a file whose name says that it is one part of a checkpoint.
///
/// # Errors
/// [`ErrorKind::Unsupported`], naming the index.
pub fn check_whole(path: &Path) -> Result<()> {
    let Some(shard) = path.file_name().and_then(|name| shard_name(name.to_str()?)) else { return Ok(()) };
    let index = path.with_file_name(&shard.index);
    let error = Error::unsupported(format!("part {} of {} of a checkpoint", shard.number, shard.of)).at(path);
    Err(match present::is_file(&index)? {
        true => error.hint(format!("Name the index, through which all parts are read: {}", index.display())),
        false => error.hint(format!("Fetch the other parts and `{}` beside it, and name that", shard.index)),
    })
}

/// The bytes of a file that is an index: a JSON object with a `weight_map`. `None` for any other.
///
/// # Errors
/// As [`Mapping::read_at`].
pub fn index(file: &Mapping) -> Result<Option<Cow<'_, [u8]>>> {
    const KEY: &[u8] = b"\"weight_map\"";
    let begins = |bytes: &[u8]| bytes.trim_ascii_start().first().is_none_or(|first| *first == b'{');
    if file.len() > MAX_INDEX || !begins(&file.head(4096)?) {
        return Ok(None);
    }
    let bytes = file.read_at(0..file.len())?;
    let is_index = begins(&bytes) && bytes.windows(KEY.len()).any(|window| window == KEY);
    Ok(is_index.then_some(bytes))
}

#[derive(Deserialize)]
struct Json {
    weight_map: IndexMap<String, String>,
}

/// An index that was read.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    weight_map: IndexMap<String, String>,
}

impl Index {
    /// Reads the index in `bytes`; `path` is where it lies.
    ///
    /// # Errors
    /// [`ErrorKind::Format`] when it is no such JSON, names too many files, or names anything but files beside it.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        Self::parse_here(bytes, path).map_err(|error| error.at(path))
    }

    fn parse_here(bytes: &[u8], path: &Path) -> Result<Self> {
        if bytes.len() > MAX_INDEX {
            return Err(Error::format("the index is too large").expected(MAX_INDEX).got(bytes.len()));
        }
        let Json { weight_map } = serde_json::from_slice(bytes)
            .map_err(|e| Error::format("not an index of a checkpoint in several files").because(e))?;
        let index = Self { path: path.to_path_buf(), weight_map };
        let files = index.files();
        if let Some(file) = files.iter().find(|file| !is_plain(file)) {
            return Err(Error::format("the index names something else than a file beside it")
                .got(format_args!("`{}`", did_you_mean::clipped(file).escape_debug())));
        }
        if files.is_empty() || files.len() > MAX_FILES {
            return Err(Error::format("the index names too many files, or none")
                .expected(format_args!("1 to {MAX_FILES}"))
                .got(files.len()));
        }
        Ok(index)
    }

    /// The names of the files that hold the tensors, each once, in the order of the index.
    pub fn files(&self) -> Vec<&str> {
        let files: indexmap::IndexSet<&str> = self.weight_map.values().map(String::as_str).collect();
        files.into_iter().collect()
    }

    /// All tensors of the index's files, and how many bytes these have.
    ///
    /// # Errors
    /// As `read`, which reads the tensors of one file; [`ErrorKind::Format`] where a file lacks a tensor that the index
    /// has in it, or holds one that the index has elsewhere or not at all; [`ErrorKind::Io`] for a missing file.
    pub fn read(
        &self,
        mode: MapMode,
        read: impl Fn(&Arc<Mapping>) -> Result<(Format, Vec<(String, Stored)>)>,
    ) -> Result<Shards> {
        let files = self.files();
        let mut shards = Shards { format: Format::Safetensors, tensors: Vec::new(), bytes: 0, files: Vec::new() };
        for file in &files {
            let path = self.path.with_file_name(file);
            let mapping = Mapping::open(&path, mode).map_err(|error| self.missing(error, files.len()))?;
            let mapping = Arc::new(mapping);
            let (format, tensors) = read(&mapping)?;
            self.check(file, &tensors).map_err(|error| error.at(&path))?;
            shards.format = format;
            shards.bytes = shards.bytes.saturating_add(mapping.len() as u64);
            shards.tensors.extend(tensors);
            shards.files.push(path);
        }
        Ok(shards)
    }

    fn missing(&self, error: Error, files: usize) -> Error {
        match error.kind() {
            ErrorKind::Io => error.hint(format!("{} names {files} files, and needs them all", self.path.display())),
            _ => error,
        }
    }

    /// Checks that `file` holds what the index says, and nothing else.
    fn check(&self, file: &str, tensors: &[(String, Stored)]) -> Result<()> {
        let stranger = tensors.iter().find(|(name, _)| self.weight_map.get(name).is_none_or(|place| place != file));
        if let Some((name, _)) = stranger {
            let got = match self.weight_map.get(name) {
                Some(place) => format!("it in `{}`", did_you_mean::clipped(place)),
                None => "no such tensor".to_owned(),
            };
            return Err(Error::format("the index does not have this tensor here")
                .tensor(did_you_mean::clipped(name))
                .got(format_args!("{got}, in {}", self.path.display()))
                .hint("Are index and parts of one save?"));
        }
        let expected = self.weight_map.values().filter(|place| *place == file).count();
        if expected != tensors.len() {
            let here: std::collections::HashSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
            let lacking = self.weight_map.iter().find(|(name, place)| *place == file && !here.contains(name.as_str()));
            let error = Error::format("the file lacks a tensor that its index has in it")
                .expected(format_args!("{expected} tensors, as in {}", self.path.display()))
                .got(tensors.len());
            return Err(match lacking {
                Some((name, _)) => error.tensor(did_you_mean::clipped(name)),
                None => error,
            });
        }
        Ok(())
    }
}

/// The content of a checkpoint in several files.
#[derive(Debug)]
pub struct Shards {
    /// The format of the files: that of the last.
    pub format: Format,
    /// Names and tensors, file by file.
    pub tensors: Vec<(String, Stored)>,
    /// The size of all files together.
    pub bytes: u64,
    /// The files.
    pub files: Vec<PathBuf>,
}

/// Whether it is the name of a file and no way to another folder.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !matches!(name, "." | "..") && !name.contains(['/', '\\', '\0', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_their_names() {
        let found = shard_name("model-00002-of-00005.safetensors").unwrap();
        assert_eq!((found.number, found.of, found.index.as_str()), (2, 5, "model.safetensors.index.json"));
        assert_eq!(shard_name("pytorch_model-00001-of-00002.bin").unwrap().index, "pytorch_model.bin.index.json");
        for name in
            ["model.safetensors", "model-00001-of-00001.bin", "run-1-of-2.bin", "a-00001-of-00002.pt", "-of-.bin"]
        {
            assert_eq!(shard_name(name), None, "{name}");
        }
    }

    #[test]
    fn an_index_leads_nowhere_else() {
        let parse = |json: &str| Index::parse(json.as_bytes(), Path::new("a/i.json"));
        for file in ["", ".", "..", "../b", "/etc/passwd", "a/b", "a\\\\b", "C:b", "a\\u0000"] {
            let error = parse(&format!("{{\"weight_map\": {{\"w\": \"{file}\"}}}}")).unwrap_err().to_string();
            assert!(error.starts_with("a/i.json: the index names something else"), "{error}");
        }
        assert!(parse("{\"weight_map\": {}}").unwrap_err().to_string().contains("got 0"));
        assert!(parse("{\"weight_map\": 3}").unwrap_err().to_string().contains("not an index"));
        let many: String = (0..2000).map(|i| format!(",\"w{i}\": \"f{i}\"")).collect();
        let error = parse(&format!("{{\"weight_map\": {{\"w\": \"f\"{many}}}}}")).unwrap_err();
        assert!(error.to_string().contains("too many files"), "{error}");
    }
}
