//! The pickle's bytes, read from left to right; and the text forms of protocol 0.

use super::{Span, Text};
use crate::error::{Error, Result};
use crate::tensor::try_with_room;

/// Reads the bytes of one pickle and gathers its text.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The place of the opcode at work, which errors name.
    opcode_at: usize,
    /// All strings, one after another. A pickle is at most [`super::MAX_BYTES`] long, and so is this.
    pub(super) text: String,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, opcode_at: 0, text: String::new() }
    }

    /// An error at the opcode at work.
    pub(super) fn fail(&self, what: impl std::fmt::Display) -> Error {
        Error::format(format!("{what} (byte {} of the pickle)", self.opcode_at))
    }

    pub(super) fn opcode(&mut self) -> Result<u8> {
        self.opcode_at = self.at;
        let &opcode = self.bytes.get(self.at).ok_or_else(|| self.fail("the pickle ends without a STOP"))?;
        self.at += 1;
        Ok(opcode)
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..length).ok_or_else(|| {
            self.fail("the pickle is truncated")
                .expected(format_args!("{length} bytes from byte {} on", self.at))
                .got(format_args!("{} left", rest.len()))
        })?;
        self.at += length;
        Ok(taken)
    }

    /// The place of the `length` bytes that were taken last.
    pub(super) fn last(&self, length: usize) -> Option<Span> {
        let start = self.at.checked_sub(length)?;
        Some(Span { start: start.try_into().ok()?, end: self.at.try_into().ok()? })
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| self.fail("the pickle is truncated"))
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A length of 8 bytes.
    pub(super) fn length64(&mut self) -> Result<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| self.fail("a length overflows"))
    }

    /// The bytes up to the next line end, which is skipped.
    pub(super) fn line(&mut self) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&b| b == b'\n').ok_or_else(|| self.fail("a line has no end"))?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    /// A line that holds a number (protocol 0).
    pub(super) fn number_line<T: std::str::FromStr>(&mut self) -> Result<T> {
        let line = std::str::from_utf8(self.line()?).ok();
        line.and_then(|line| line.trim_ascii().parse().ok()).ok_or_else(|| self.fail("a number cannot be read"))
    }

    /// Whether everything was read.
    pub(super) fn at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Keeps a string, which must be UTF-8.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Result<Text> {
        let text = std::str::from_utf8(bytes).map_err(|_| self.fail("a string is not UTF-8"))?;
        self.text.try_reserve(text.len()).map_err(|_| Error::out_of_memory(text.len()))?;
        let start = self.text.len();
        self.text.push_str(text);
        match (u32::try_from(start), u32::try_from(self.text.len())) {
            (Ok(start), Ok(end)) => Ok(Text { start, end }),
            _ => Err(self.fail("the pickle's text is too long")),
        }
    }

    /// Keeps the next line.
    pub(super) fn keep_line(&mut self) -> Result<Text> {
        let line = self.line()?;
        self.keep(line)
    }

    /// A line in Python's raw-unicode-escape: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
    pub(super) fn raw_unicode_line(&mut self) -> Result<Text> {
        let mut rest = self.line()?;
        let mut text = String::new();
        // A byte becomes two at most.
        let room = 2 * rest.len();
        text.try_reserve(room).map_err(|_| Error::out_of_memory(room))?;
        while let [first, after @ ..] = rest {
            rest = after;
            let digits = match (first, after.first()) {
                (b'\\', Some(b'u')) => 4,
                (b'\\', Some(b'U')) => 8,
                _ => {
                    text.push(char::from(*first));
                    continue;
                }
            };
            let code = after.get(1..=digits).and_then(hex).and_then(char::from_u32);
            text.push(code.ok_or_else(|| self.fail("a string has a broken escape"))?);
            rest = &after[1 + digits..];
        }
        self.keep(text.as_bytes())
    }

    /// A quoted line with Python's escapes (protocol 0's form of Python 2 strings).
    pub(super) fn quoted_line(&mut self) -> Result<Vec<u8>> {
        let mut rest = match self.line()?.trim_ascii() {
            [open @ (b'\'' | b'"'), inner @ .., close] if open == close => inner,
            _ => return Err(self.fail("a string has no quotes")),
        };
        let broken = || self.fail("a string has a broken escape");
        // An escape is never shorter than what it stands for.
        let mut out = try_with_room(rest.len())?;
        while let [first, after @ ..] = rest {
            rest = after;
            if *first != b'\\' {
                out.push(*first);
                continue;
            }
            let (&escaped, after) = after.split_first().ok_or_else(broken)?;
            rest = after;
            out.push(match escaped {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'\\' | b'\'' | b'"' => escaped,
                b'x' => {
                    let digits;
                    (digits, rest) = after.split_at_checked(2).ok_or_else(broken)?;
                    hex(digits).and_then(|code| u8::try_from(code).ok()).ok_or_else(broken)?
                }
                _ => return Err(broken()),
            });
        }
        Ok(out)
    }
}

/// Hexadecimal digits and nothing else (the standard parser would also take a sign).
fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
}
