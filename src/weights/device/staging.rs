//! Getting inputs onto the device: put into its form by all threads, in pinned memory, from where it is copied while
//! the next ones are.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::kernel::cuda::{Device, Event, Pinned, Queue, form};
use crate::kernel::{Input, share, threads};

/// Tiles that one thread takes at a time.
const PIECE: usize = 64;

/// Two pieces of pinned memory, by turns.
#[derive(Debug)]
pub(super) struct Staging {
    device: Arc<dyn Device>,
    slots: [Slot; 2],
    next: usize,
    bytes: usize,
    threads: usize,
}

#[derive(Debug)]
struct Slot {
    memory: Pinned,
    /// When it can be written again.
    copied: Option<Event>,
}

impl Staging {
    /// Of `bytes` bytes each.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(super) fn new(device: &Arc<dyn Device>, bytes: usize, threads: usize) -> Result<Self> {
        let slot = || Ok(Slot { memory: Pinned::new(device, bytes)?, copied: None });
        Ok(Self { device: Arc::clone(device), slots: [slot()?, slot()?], next: 0, bytes, threads })
    }

    /// Lets `fill` write, and copies the first bytes, as many as it says, to the device. Their end is the event.
    ///
    /// # Errors
    /// Those of `fill`; [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn send(&mut self, to: u64, fill: impl FnOnce(&mut [u8], usize) -> Result<usize>) -> Result<&Event> {
        let slot = &mut self.slots[self.next];
        self.next = 1 - self.next;
        if let Some(copied) = slot.copied.take() {
            copied.synchronize()?;
        }
        let bytes = fill(slot.memory.bytes_mut(), self.threads)?;
        slot.memory.copy_to(to, bytes)?;
        Ok(slot.copied.insert(Event::record(&self.device, Queue::Copy)?))
    }

    /// Copies bytes, however many.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn send_bytes(&mut self, mut to: u64, bytes: &[u8]) -> Result<()> {
        for some in bytes.chunks(self.bytes) {
            self.send(to, |out, _| {
                out[..some.len()].copy_from_slice(some);
                Ok(some.len())
            })?;
            to += some.len() as u64;
        }
        Ok(())
    }

    /// Copies inputs, whole, one behind the other.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime); [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for
    /// what is no float.
    pub(super) fn send_inputs<'a>(&mut self, mut to: u64, inputs: impl Iterator<Item = Input<'a>>) -> Result<()> {
        let mut inputs = inputs.map(|input| (input, 0..form::tiles(input.numel()))).peekable();
        while inputs.peek().is_some() {
            // As much as a slot takes, the last one perhaps in part.
            let (mut some, mut used) = (Vec::new(), 0);
            while let Some((input, tiles)) = inputs.peek_mut() {
                let a_tile = form::tile_bytes(form::format(*input));
                let now = tiles.start..tiles.end.min(tiles.start + (self.bytes - used) / a_tile);
                let is_full = now.end < tiles.end;
                used += now.len() * a_tile;
                tiles.start = now.end;
                some.push((*input, now));
                if is_full {
                    break;
                }
                inputs.next();
            }
            self.send(to, |out, threads| {
                pack(&some, &mut out[..used], threads)?;
                Ok(used)
            })?;
            to += used as u64;
        }
        Ok(())
    }
}

/// Writes tiles of inputs one behind the other.
pub(super) fn pack(inputs: &[(Input<'_>, Range<usize>)], mut out: &mut [u8], wanted: usize) -> Result<()> {
    let mut pieces = Vec::new();
    for (input, tiles) in inputs {
        let a_tile = form::tile_bytes(form::format(*input));
        for start in tiles.clone().step_by(PIECE) {
            let piece = start..tiles.end.min(start + PIECE);
            let (now, rest) = std::mem::take(&mut out).split_at_mut(piece.len() * a_tile);
            pieces.push((*input, piece, now));
            out = rest;
        }
    }
    share(threads::count(wanted), pieces, |(input, tiles, out), (): &mut ()| form::pack(input, tiles, out))
}
