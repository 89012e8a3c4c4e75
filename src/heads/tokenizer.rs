//! Texts to tokens: CLIP's byte pair encoding, and what a `tokenizer.json` defines.

use std::path::Path;

use instant_clip_tokenizer::{Token, Tokenizer as Bpe};

#[cfg(feature = "tokenizers")]
use super::tokenizer_file::FileTokenizer;
use crate::error::{Error, Result};

/// Tokens that CLIP's vocabulary has: of text, and for its start and end.
pub const VOCABULARY: usize = 49_408;
/// The file that defines another vocabulary, beside a model's weights.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The files beside it that say with which token texts are padded, in the order in which they are believed; one may do.
pub const SETTINGS_FILES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];
/// All files that are read for it.
pub const TOKENIZER_FILES: [&str; 3] = [TOKENIZER_FILE, SETTINGS_FILES[0], SETTINGS_FILES[1]];

/// Text to tokens, with the vocabulary of OpenAI's CLIP in it, which open_clip's models use too, or that of a file.
///
/// CLIP's text is lower-cased, and runs of white space count as one space. SigLIP's loses its punctuation besides;
/// SigLIP 2's keeps it in the transformers library and loses it in open_clip: each is read as the files beside it say.
/// Mojibake and HTML entities are taken as they stand; the reference of CLIP mends them first.
pub struct Tokenizer(Form);

enum Form {
    Clip(Box<Bpe>),
    #[cfg(feature = "tokenizers")]
    File(Box<FileTokenizer>),
}

impl Default for Tokenizer {
    fn default() -> Self {
        Self::new()
    }
}

impl Tokenizer {
    /// Reads the vocabulary of CLIP: some 30 ms.
    pub fn new() -> Self {
        Self(Form::Clip(Box::new(Bpe::new())))
    }

    /// The tokenizer of the [`TOKENIZER_FILE`] beside the weights at `weights`, as the `tokenizers` library writes it.
    /// `tokenizer_config.json`, `special_tokens_map.json` and open_clip's configuration beside it say what it pads with
    /// and how texts are cleaned.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where the file is not there, or nothing says with which token
    /// texts are padded; [`ErrorKind::Format`](crate::ErrorKind::Format) for one that is damaged;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) without the feature `tokenizers`.
    pub fn beside(weights: &Path) -> Result<Self> {
        let file = weights.with_file_name(TOKENIZER_FILE);
        if !crate::present::is_file(&file)? {
            return Err(Error::not_found("the tokenizer of this text encoder is not beside it")
                .at(weights)
                .expected(format_args!("`{}`, which defines its vocabulary", file.display()))
                .hint(
                    "The model's repository has it: google/siglip… and timm/ViT-…-SigLIP… on the Hugging Face Hub. \
                       tokenizer_config.json belongs to it",
                ));
        }
        #[cfg(feature = "tokenizers")]
        return Ok(Self(Form::File(Box::new(FileTokenizer::open(&file, &SETTINGS_FILES)?))));
        #[cfg(not(feature = "tokenizers"))]
        Err(Error::unsupported("another tokenizer than CLIP's needs the feature `tokenizers`").at(file))
    }

    /// The number of tokens that it knows: one more than the largest, at least.
    pub fn vocabulary(&self) -> usize {
        match &self.0 {
            Form::Clip(_) => VOCABULARY,
            #[cfg(feature = "tokenizers")]
            Form::File(file) => file.vocabulary(),
        }
    }

    /// The tokens of `text`, cut to `context` tokens at most. CLIP's stand between those of its start and its end, the
    /// last of which is the end's; a file's are padded to `context`.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) for a text that the file's tokenizer cannot split.
    pub fn tokens(&self, text: &str, context: usize) -> Result<Vec<i64>> {
        match &self.0 {
            Form::Clip(bpe) => {
                let mut tokens = vec![bpe.start_of_text()];
                bpe.encode(text, &mut tokens);
                tokens.truncate(context.saturating_sub(1));
                tokens.push(bpe.end_of_text());
                Ok(tokens.into_iter().map(|token: Token| i64::from(token.to_u16())).collect())
            }
            #[cfg(feature = "tokenizers")]
            Form::File(file) => file.tokens(text, context),
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.vocabulary())
    }
}
