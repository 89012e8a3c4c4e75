//! A message in the making: pieces of files and of memory, put together only when somebody wants the bytes.

use std::io::Write;

use super::wire::put_varint;
use crate::error::{Error, Result};

/// Protocol buffers count a message's bytes in 31 bits.
pub(super) const LONGEST: usize = i32::MAX as usize;

/// Bytes in pieces. Large ones are borrowed; a message of gigabytes is written without being in memory.
#[derive(Default)]
pub(super) struct Rope<'a> {
    pieces: Vec<Piece<'a>>,
    length: usize,
}

enum Piece<'a> {
    Own(Vec<u8>),
    Borrowed(&'a [u8]),
}

impl<'a> Rope<'a> {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Appends bytes that stay where they are.
    pub(super) fn borrow(&mut self, bytes: &'a [u8]) {
        self.length += bytes.len();
        self.pieces.push(Piece::Borrowed(bytes));
    }

    /// Appends bytes of its own.
    pub(super) fn own(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        match self.pieces.last_mut() {
            Some(Piece::Own(last)) => last.extend_from_slice(bytes),
            _ => self.pieces.push(Piece::Own(bytes.to_vec())),
        }
    }

    /// Appends many bytes, which become its own.
    pub(super) fn take(&mut self, bytes: Vec<u8>) {
        self.length += bytes.len();
        self.pieces.push(Piece::Own(bytes));
    }

    /// Appends the tag and the length of a field whose `length` bytes follow.
    pub(super) fn head(&mut self, number: u32, length: usize) {
        let mut head = Vec::with_capacity(12);
        put_varint(&mut head, u64::from(number) << 3 | 2);
        put_varint(&mut head, length as u64);
        self.own(&head);
    }

    /// Appends a field.
    pub(super) fn field(&mut self, number: u32, content: Rope<'a>) {
        self.head(number, content.len());
        self.length += content.length;
        self.pieces.extend(content.pieces);
    }

    /// All of it in memory.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for more than a message can have;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(super) fn to_vec(&self) -> Result<Vec<u8>> {
        self.check_length()?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(self.length).map_err(|_| Error::out_of_memory(self.length))?;
        self.pieces().for_each(|piece| bytes.extend_from_slice(piece));
        Ok(bytes)
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// As [`Rope::to_vec`], and what the writer says.
    pub(super) fn write(&self, mut to: impl Write) -> Result<()> {
        self.check_length()?;
        let failed = |e: std::io::Error| Error::new(crate::ErrorKind::Io, "cannot write").because(e);
        self.pieces().try_for_each(|piece| to.write_all(piece)).and_then(|()| to.flush()).map_err(failed)
    }

    fn check_length(&self) -> Result<()> {
        if self.length <= LONGEST {
            return Ok(());
        }
        Err(Error::unsupported("too large for one ONNX file")
            .expected(format_args!("at most {LONGEST} bytes"))
            .got(self.length))
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| match piece {
            Piece::Own(bytes) => bytes.as_slice(),
            Piece::Borrowed(bytes) => bytes,
        })
    }
}
