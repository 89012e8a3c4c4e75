//! Text of files and of the network, made fit to be looked at: a terminal acts on control characters, and some others
//! make text look like other text.

use std::fmt::{self, Write};

/// A text with its control characters written out, `\n` or `\u{1b}`, and with those that reorder or hide text
/// (`\u{202e}`).
///
/// Whatever comes from a file or the network is shown so, in messages and by the program, which keeps the line ends of
/// what it puts together itself ([`VisibleLines`]).
#[derive(Clone, Copy, Debug)]
pub struct Visible<T>(pub T);

/// A text with its control characters written out but for line ends, which stay as they are, and with those that
/// reorder or hide text.
#[derive(Clone, Copy, Debug)]
pub struct VisibleLines<T>(pub T);

impl<T: fmt::Display> fmt::Display for Visible<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(WritingOut { to: f, keeps_lines: false }, "{}", self.0)
    }
}

impl<T: fmt::Display> fmt::Display for VisibleLines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(WritingOut { to: f, keeps_lines: true }, "{}", self.0)
    }
}

struct WritingOut<W> {
    to: W,
    keeps_lines: bool,
}

impl<W: Write> Write for WritingOut<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        let is_hidden = |c: char| is_acted_on(c) && !(self.keeps_lines && c == '\n');
        while let Some(at) = rest.find(is_hidden) {
            self.to.write_str(&rest[..at])?;
            let mut chars = rest[at..].chars();
            match chars.next() {
                Some('\n') => self.to.write_str("\\n")?,
                Some('\t') => self.to.write_str("\\t")?,
                Some('\r') => self.to.write_str("\\r")?,
                Some(other) => write!(self.to, "{}", other.escape_unicode())?,
                None => {}
            }
            rest = chars.as_str();
        }
        self.to.write_str(rest)
    }
}

/// Whether a terminal, or whatever lays out text, does something at this character instead of showing it.
fn is_acted_on(c: char) -> bool {
    // The marks, embeddings, overrides and isolates of writing from right to left; the ends of lines and paragraphs;
    // what takes no room; the tags.
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_written_out() {
        let text = "a\x1b[2Jb\u{9b}1mc\u{7f}\u{202e}d\r\n\u{2066}é 漢\u{200d}字 \\x";
        let shown = Visible(text).to_string();
        assert_eq!(shown, r"a\u{1b}[2Jb\u{9b}1mc\u{7f}\u{202e}d\r\n\u{2066}é 漢‍字 \x");
        assert_eq!(VisibleLines("a\n\x07b").to_string(), "a\n\\u{7}b");
        assert_eq!(Visible("").to_string(), "");
    }
}
