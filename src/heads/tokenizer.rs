//! CLIP's byte pair encoding.

use instant_clip_tokenizer::{Token, Tokenizer as Bpe};

/// Tokens that CLIP's vocabulary has: of text, and for its start and end.
pub const VOCABULARY: usize = 49_408;

/// Text to tokens, with the vocabulary of OpenAI's CLIP in it, which open_clip's models use too.
///
/// Text is lower-cased, and runs of white space count as one space. Mojibake and HTML entities are taken as they stand;
/// the reference mends them first.
pub struct Tokenizer(Bpe);

impl Default for Tokenizer {
    fn default() -> Self {
        Self::new()
    }
}

impl Tokenizer {
    /// Reads the vocabulary: some 30 ms.
    pub fn new() -> Self {
        Self(Bpe::new())
    }

    /// The tokens of `text` between those of its start and its end, cut to `context` tokens at most, the last of which
    /// is the end's.
    pub fn tokens(&self, text: &str, context: usize) -> Vec<i64> {
        let mut tokens = vec![self.0.start_of_text()];
        self.0.encode(text, &mut tokens);
        tokens.truncate(context.saturating_sub(1));
        tokens.push(self.0.end_of_text());
        tokens.into_iter().map(|token: Token| i64::from(token.to_u16())).collect()
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({VOCABULARY} tokens)")
    }
}
