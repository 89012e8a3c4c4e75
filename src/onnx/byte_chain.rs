//! A message in the making: stretches of files and of memory, put together only when the bytes are needed.

use std::io;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::{Error, ErrorKind, Result};
use crate::tensor::u16_bytes;

/// Protocol buffers count a message's bytes in 31 bits.
pub(super) const MAX_MESSAGE_BYTES: usize = i32::MAX as usize;

/// Values that are rounded at once on their way out.
const ROUNDED_AT_ONCE: usize = 1 << 14;

/// Bytes in a row. Large ones are borrowed; a message of gigabytes is written without being in memory.
#[derive(Clone, Default)]
pub(super) struct ByteChain<'a> {
    links: Vec<Link<'a>>,
    length: usize,
}

#[derive(Clone)]
enum Link<'a> {
    Own(Vec<u8>),
    Borrowed(&'a [u8]),
    /// The bytes of values as f16.
    Halves(&'a [f32]),
}

impl<'a> ByteChain<'a> {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Appends bytes that stay where they are.
    pub(super) fn borrow(&mut self, bytes: &'a [u8]) {
        self.length += bytes.len();
        self.links.push(Link::Borrowed(bytes));
    }

    /// Appends the bytes of values as f16; they are rounded when they are written.
    pub(super) fn halves(&mut self, values: &'a [f32]) {
        self.length += 2 * values.len();
        self.links.push(Link::Halves(values));
    }

    /// Appends bytes of its own.
    pub(super) fn own(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        match self.links.last_mut() {
            Some(Link::Own(last)) => last.extend_from_slice(bytes),
            _ => self.links.push(Link::Own(bytes.to_vec())),
        }
    }

    /// Appends another chain.
    pub(super) fn append(&mut self, other: Self) {
        let length = self.length + other.length;
        for link in other.links {
            match link {
                Link::Own(bytes) => self.own(&bytes),
                link => self.links.push(link),
            }
        }
        self.length = length;
    }

    /// All of it in memory.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for more than a message can have;
    /// [`ErrorKind::OutOfMemory`].
    pub(super) fn to_vec(&self) -> Result<Vec<u8>> {
        self.check_length()?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(self.length).map_err(|_| Error::out_of_memory(self.length))?;
        let appended = self.for_each(|more| {
            bytes.extend_from_slice(more);
            Ok(())
        });
        appended.map_err(|e| Error::new(ErrorKind::Internal, "memory was not written").because(e))?;
        Ok(bytes)
    }

    /// Whether it can be one message.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where it cannot.
    pub(super) fn check_length(&self) -> Result<()> {
        if self.length <= MAX_MESSAGE_BYTES {
            return Ok(());
        }
        Err(Error::unsupported("too large for one ONNX file")
            .expected(format_args!("at most {MAX_MESSAGE_BYTES} bytes"))
            .got(self.length))
    }

    /// Hands out all of it, from the first byte to the last.
    pub(super) fn for_each(&self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        self.links.iter().try_for_each(|link| match link {
            Link::Own(bytes) => take(bytes),
            Link::Borrowed(bytes) => take(bytes),
            Link::Halves(values) => {
                let mut halves = vec![f16::ZERO; ROUNDED_AT_ONCE.min(values.len())];
                values.chunks(ROUNDED_AT_ONCE).try_for_each(|values| {
                    let halves = &mut halves[..values.len()];
                    halves.convert_from_f32_slice(values);
                    take(u16_bytes(halves.reinterpret_cast()))
                })
            }
        })
    }
}
