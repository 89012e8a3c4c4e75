//! Getting inputs onto the device: put into its order by all threads, in pinned memory.

use std::ops::Range;

use crate::error::Result;
use crate::kernel::cuda::{Staging, tiles};
use crate::kernel::{share, threads};
use crate::tensor::Source;

/// Tiles that one thread takes at a time.
const PIECE: usize = 64;

/// Copies inputs, whole, one behind the other.
///
/// # Errors
/// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime); [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for
/// what is no float.
pub(super) fn send_inputs<'a>(
    staging: &mut Staging,
    mut to: u64,
    inputs: impl Iterator<Item = &'a Source>,
    threads: usize,
) -> Result<()> {
    let mut inputs = inputs.map(|input| (input, 0..tiles::count(input.numel()))).peekable();
    while inputs.peek().is_some() {
        // As much as a slot takes, the last one perhaps in part.
        let (mut some, mut used) = (Vec::new(), 0);
        while let Some((input, tiles)) = inputs.peek_mut() {
            let tile_bytes = tiles::tile_bytes(tiles::format(input));
            let now = tiles.start..tiles.end.min(tiles.start + (staging.slot_bytes() - used) / tile_bytes);
            let is_full = now.end < tiles.end;
            used += now.len() * tile_bytes;
            tiles.start = now.end;
            some.push((*input, now));
            if is_full {
                break;
            }
            inputs.next();
        }
        staging.send(to, |out| {
            pack(&some, &mut out[..used], threads)?;
            Ok(used)
        })?;
        to += used as u64;
    }
    Ok(())
}

/// Writes tiles of inputs one behind the other.
pub(super) fn pack(inputs: &[(&Source, Range<usize>)], mut out: &mut [u8], wanted: usize) -> Result<()> {
    let mut pieces = Vec::new();
    for (input, tiles) in inputs {
        let tile_bytes = tiles::tile_bytes(tiles::format(input));
        for start in tiles.clone().step_by(PIECE) {
            let piece = start..tiles.end.min(start + PIECE);
            let (now, rest) = std::mem::take(&mut out).split_at_mut(piece.len() * tile_bytes);
            pieces.push((*input, piece, now));
            out = rest;
        }
    }
    share(threads::count(wanted)?, pieces, |(input, tiles, out), (): &mut ()| tiles::pack(input, tiles, out))
}
