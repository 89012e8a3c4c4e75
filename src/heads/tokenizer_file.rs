//! Tokenizers by the `tokenizer.json` beside a model's weights: SentencePiece's unigrams (SigLIP), Gemma's byte pairs
//! (SigLIP 2).

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{ModelWrapper, PaddingParams, Tokenizer as Split};

use crate::error::{Error, Result};
use crate::mmap::read_small;
use crate::present;
use crate::tower::config;

/// Gemma's file has 34 MB.
const MAX_BYTES: usize = 256 << 20;
/// The configuration that says how open_clip cleans texts.
const OPEN_CLIP: &str = "open_clip_config.json";
/// The characters that cleaning takes out: Python's `string.punctuation`.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// The change to a text before it is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cleaning {
    /// In lower case: SigLIP 2 in the transformers library.
    Lower,
    /// In lower case, without punctuation, white space as single spaces: SigLIP in the transformers library.
    Canonical,
    /// The same, but `_` counts as a space: both in open_clip.
    CanonicalOfOpenClip,
}

impl Cleaning {
    fn of(self, text: &str) -> String {
        if self == Self::Lower {
            return text.to_lowercase();
        }
        let kept: String = text
            .chars()
            .map(|c| if c == '_' && self == Self::CanonicalOfOpenClip { ' ' } else { c })
            .filter(|c| !PUNCTUATION.contains(*c))
            .collect();
        kept.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// What a `tokenizer.json` defines.
pub(super) struct FileTokenizer {
    path: PathBuf,
    split: Split,
    padding: u32,
    cleaning: Cleaning,
}

impl FileTokenizer {
    /// The tokenizer of the file at `path`; the `settings` beside it say with which token texts are padded, in the
    /// order in which they are believed.
    ///
    /// # Errors
    /// As [`Tokenizer::beside`](crate::heads::Tokenizer::beside).
    pub(super) fn open(path: &Path, settings: &[&str]) -> Result<Self> {
        let bytes = read_small(path, MAX_BYTES, "a tokenizer")?;
        let mut split = Split::from_bytes(&bytes)
            .map_err(|e| Error::format("not a tokenizer of the `tokenizers` library").because(e).at(path))?;
        let padding = match split.get_padding() {
            Some(PaddingParams { pad_id, .. }) => *pad_id,
            None => padding_beside(path, settings, &split)?,
        };
        split.with_padding(None);
        split.with_truncation(None).map_err(|e| Error::format("its truncation").because(e).at(path))?;
        let cleaning = match (is_cleaned_by_open_clip(path)?, split.get_model()) {
            (true, _) => Cleaning::CanonicalOfOpenClip,
            (false, ModelWrapper::Unigram(_)) => Cleaning::Canonical,
            (false, _) => Cleaning::Lower,
        };
        Ok(Self { path: path.to_path_buf(), split, padding, cleaning })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.split.get_vocab_size(true)
    }

    /// The tokens of `text` as its file frames them, cut and padded to `context`.
    pub(super) fn tokens(&self, text: &str, context: usize) -> Result<Vec<i64>> {
        let failed = |e: tokenizers::Error| Error::format("a text cannot be split").because(e).at(&self.path);
        let mut encoding = self.split.encode(self.cleaning.of(text), false).map_err(failed)?;
        let framing = self.split.get_post_processor();
        let added = framing.map_or(0, |framing| tokenizers::PostProcessor::added_tokens(framing, false));
        encoding.truncate(context.saturating_sub(added), 0, tokenizers::TruncationDirection::Right);
        let framed = self.split.post_process(encoding, None, true).map_err(failed)?;
        let mut tokens: Vec<i64> = framed.get_ids().iter().map(|&token| i64::from(token)).collect();
        tokens.resize(context, i64::from(self.padding));
        Ok(tokens)
    }
}

/// The padding token that the files `names` beside the one at `path` name.
fn padding_beside(path: &Path, names: &[&str], split: &Split) -> Result<u32> {
    for name in names {
        let settings = path.with_file_name(name);
        if !present::is_file(&settings)? {
            continue;
        }
        let json = config::object(&settings).map_err(|e| e.at(&settings))?;
        let text = |token: &Value| token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned);
        let token = json.get("pad_token").and_then(text);
        let Some(token) = token else { continue };
        return split.token_to_id(&token).ok_or_else(|| {
            Error::format(format!("the padding token `{token}` is not in the vocabulary of {}", path.display()))
                .at(settings)
        });
    }
    Err(Error::not_found("nothing says with which token texts are padded")
        .at(path)
        .expected(format_args!("a `padding` in it, or `pad_token` in {} beside it", names.join(" or "))))
}

/// Whether open_clip's configuration beside the file at `path` says that texts are brought to their canonical form.
fn is_cleaned_by_open_clip(path: &Path) -> Result<bool> {
    let config = path.with_file_name(OPEN_CLIP);
    if !present::is_file(&config)? {
        return Ok(false);
    }
    let json = config::object(&config).map_err(|e| e.at(&config))?;
    let clean = json.pointer("/model_cfg/text_cfg/tokenizer_kwargs/clean").and_then(Value::as_str);
    Ok(clean == Some("canonicalize"))
}

#[cfg(test)]
mod tests {
    use super::Cleaning;

    #[test]
    fn texts_are_cleaned_as_the_libraries_do() {
        let text = "  A Photo_of\tthe \"Number\":  7!\n";
        assert_eq!(Cleaning::Canonical.of(text), "a photoof the number 7");
        assert_eq!(Cleaning::CanonicalOfOpenClip.of(text), "a photo of the number 7");
        assert_eq!(Cleaning::Lower.of("A Cat."), "a cat.");
    }
}
