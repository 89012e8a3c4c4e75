//! Tiles: how inputs lie in device memory, in the order in which the lanes of a warp load them.
//!
//! A tile is 2048 elements, 32 blocks. Lane l of the 32 has its elements `128·r + 4·l + i` (r < 16, i < 4), as its
//! *values* `v = 4·r + i`. What a warp loads at a time, 16 bytes per lane, is a *chunk* of 512 bytes:
//!
//! | format    | bytes per tile | chunk c, lane l                                                             |
//! | --------- | -------------- | --------------------------------------------------------------------------- |
//! | f32       | 8192           | values 4c … 4c + 3: the elements stay in their order                        |
//! | f16, bf16 | 4096           | values 8c … 8c + 7                                                          |
//! | blocks    | as in a file   | words 4c … 4c + 3 of each plane, one plane after the other; then the scales |
//!
//! A plane of P bits has 2·P words per lane, of which the bits `P·k … P·k + P − 1` of word `w` belong to value
//! `32/P·w + k` (for P = 1, a lane's two words are its 8 bytes of the only chunk, of 256 bytes). The 32 scales are
//! those of the even blocks, which lanes 0 to 15 need, then those of the odd ones.
//!
//! No format takes more room than in the file, but for the last tile, which is filled up with zeros.

use std::ops::Range;

use crate::error::Result;
use crate::tensor::{BLOCK, BlockFormat, SCALE_BYTES, Source, VectorFormat, f32_bytes};

/// Elements per tile.
pub(crate) const TILE: usize = 2048;

const LANES: usize = 32;
const CHUNK: usize = 16 * LANES;
const BLOCKS: usize = TILE / BLOCK;

/// Tiles that this many elements fill, the last one perhaps in part.
pub(crate) const fn count(numel: usize) -> usize {
    numel.div_ceil(TILE)
}

/// The format of an input on the device: its own, or f32 where a kernel cannot load it.
pub(crate) fn format(input: &Source) -> VectorFormat {
    input.loadable().map_or(VectorFormat::F32, |(format, _)| format)
}

/// Bytes of a tile on the device.
pub(crate) const fn tile_bytes(format: VectorFormat) -> usize {
    format.bytes(TILE)
}

/// Writes the tiles `tiles` of an input, in its [`format`], over all of `out`.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when the elements are no floats.
///
/// # Panics
/// When `out` has another size.
pub(crate) fn pack(input: &Source, tiles: Range<usize>, out: &mut [u8]) -> Result<()> {
    let format = format(input);
    assert_eq!(out.len(), tiles.len() * tile_bytes(format), "bytes of the tiles");
    for (tile, out) in tiles.zip(out.chunks_exact_mut(tile_bytes(format))) {
        let start = tile * TILE;
        let count = input.numel().saturating_sub(start).min(TILE);
        let Some((_, bytes)) = input.loadable() else {
            let mut values = [0.0; TILE];
            input.read_f32(start, &mut values[..count])?;
            out.copy_from_slice(f32_bytes(&values));
            continue;
        };
        let bytes = &bytes[format.bytes(start)..][..format.bytes(count)];
        match format {
            VectorFormat::F32 => {
                out[..bytes.len()].copy_from_slice(bytes);
                out[bytes.len()..].fill(0);
            }
            VectorFormat::F16 | VectorFormat::BF16 => pack_halves(bytes, out),
            VectorFormat::Blocks(format) => pack_blocks(format, bytes, out),
        }
    }
    Ok(())
}

/// Elements of two bytes, up to a tile of them.
fn pack_halves(bytes: &[u8], out: &mut [u8]) {
    /// Bytes of the four elements that a lane has of a row.
    const QUAD: usize = 8;

    let mut tile = [0; 2 * TILE];
    tile[..bytes.len()].copy_from_slice(bytes);
    let (rows, _) = tile.as_chunks::<{ QUAD * LANES }>();
    for (rows, chunk) in rows.chunks_exact(2).zip(out.chunks_exact_mut(CHUNK)) {
        let ((first, _), (second, _)) = (rows[0].as_chunks::<QUAD>(), rows[1].as_chunks::<QUAD>());
        for ((lane, first), second) in chunk.chunks_exact_mut(2 * QUAD).zip(first).zip(second) {
            lane[..QUAD].copy_from_slice(first);
            lane[QUAD..].copy_from_slice(second);
        }
    }
}

/// Blocks of a file, up to a tile of them.
fn pack_blocks(format: BlockFormat, bytes: &[u8], out: &mut [u8]) {
    let mut codes = [0u8; TILE];
    let (planes, scales) = out.split_at_mut(TILE / 8 * format.bits());
    scales.fill(0);
    for (b, block) in bytes.chunks_exact(format.block_bytes()).enumerate() {
        let (scale, mut rest) = block.split_at(SCALE_BYTES);
        scales[b % 2 * BLOCKS + b / 2 * SCALE_BYTES..][..SCALE_BYTES].copy_from_slice(scale);
        let mut below = 0;
        for bits in format.planes().into_iter().filter(|&bits| bits > 0) {
            let (plane, next) = rest.split_at(8 * bits);
            for (k, codes) in codes[b * BLOCK..][..BLOCK].chunks_exact_mut(plane.len()).enumerate() {
                for (code, byte) in codes.iter_mut().zip(plane) {
                    *code |= (byte >> (bits * k) & (0xff >> (8 - bits))) << below;
                }
            }
            (rest, below) = (next, below + bits);
        }
    }
    let (mut rest, mut below) = (planes, 0);
    for bits in format.planes().into_iter().filter(|&bits| bits > 0) {
        let (plane, next) = rest.split_at_mut(TILE / 8 * bits);
        match bits {
            8 => pack_plane::<8>(&codes, below, plane),
            4 => pack_plane::<4>(&codes, below, plane),
            2 => pack_plane::<2>(&codes, below, plane),
            _ => pack_plane::<1>(&codes, below, plane),
        }
        (rest, below) = (next, below + bits);
    }
}

/// The `P` bits from bit `below` on of a tile's codes, as a plane.
fn pack_plane<const P: usize>(codes: &[u8; TILE], below: usize, out: &mut [u8]) {
    let rows_per_word = 8 / P;
    for lane in 0..LANES {
        for word in 0..2 * P {
            let mut bits = 0;
            for k in 0..rows_per_word {
                let at = (word * rows_per_word + k) * 4 * LANES + 4 * lane;
                let quad = u32::from_le_bytes([codes[at], codes[at + 1], codes[at + 2], codes[at + 3]]);
                bits |= squeeze::<P>(quad >> below) << (4 * P * k);
            }
            let at = if P == 1 { 8 * lane + 4 * word } else { word / 4 * CHUNK + 16 * lane + word % 4 * 4 };
            out[at..at + 4].copy_from_slice(&u32::to_le_bytes(bits));
        }
    }
}

/// The lowest `P` bits of each of four bytes, side by side.
const fn squeeze<const P: usize>(quad: u32) -> u32 {
    match P {
        8 => quad,
        4 => {
            let pairs = quad & 0x0f0f_0f0f;
            let pairs = (pairs | pairs >> 4) & 0x00ff_00ff;
            (pairs | pairs >> 8) & 0xffff
        }
        2 => {
            let pairs = quad & 0x0303_0303;
            let pairs = (pairs | pairs >> 6) & 0x000f_000f;
            (pairs | pairs >> 12) & 0xff
        }
        _ => {
            let pairs = quad & 0x0101_0101;
            let pairs = (pairs | pairs >> 7) & 0x0003_0003;
            (pairs | pairs >> 14) & 0xf
        }
    }
}
