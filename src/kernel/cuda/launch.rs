//! What every launch has: how many threads, and the one parameter of its kernel.

/// Warps of a block, and the threads of one.
const WARPS: u32 = 4;
const LANES: u32 = 32;

/// Beyond this many a thread could not count them.
pub(super) const MOST_TILES: u32 = 1 << 31;

/// How many threads a launch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    /// Tiles that a warp computes, one after the other.
    pub(crate) run: u32,
}

impl Geometry {
    /// For so many tiles on a device of so many multiprocessors.
    ///
    /// A warp has to find its segment first, so it should compute several tiles. But what is left over when the last
    /// blocks run is lost, so there are at least sixteen rounds of blocks before a warp gets a second tile.
    pub(crate) fn of(tiles: u32, multiprocessors: u32) -> Self {
        const BLOCKS_A_MULTIPROCESSOR: u32 = 4;
        const ROUNDS: u32 = 16;
        const LONGEST: u32 = 8;

        let at_once = multiprocessors.saturating_mul(BLOCKS_A_MULTIPROCESSOR * WARPS * ROUNDS).max(1);
        let run = (tiles / at_once).clamp(1, LONGEST);
        Self { blocks: tiles.div_ceil(run * WARPS), threads: WARPS * LANES, run }
    }
}

/// The one parameter of a kernel, of this many bytes, and how many threads read it.
#[derive(Clone, Debug)]
#[repr(C, align(8))]
pub(crate) struct Parameter<const BYTES: usize> {
    bytes: [u8; BYTES],
    geometry: Geometry,
}

#[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code))] // Only devices read it.
impl<const BYTES: usize> Parameter<BYTES> {
    /// Addresses, and words behind them; what is left is zero.
    ///
    /// # Panics
    /// When they take more than its bytes.
    pub(super) fn of(geometry: Geometry, addresses: &[u64], words: impl Iterator<Item = u32>) -> Self {
        let mut fields = Vec::with_capacity(BYTES);
        addresses.iter().for_each(|address| fields.extend(address.to_le_bytes()));
        words.for_each(|word| fields.extend(word.to_le_bytes()));
        let mut bytes = [0; BYTES];
        bytes[..fields.len()].copy_from_slice(&fields);
        Self { bytes, geometry }
    }

    /// As the kernel takes it; aligned to 8 bytes.
    pub(crate) fn bytes(&self) -> &[u8; BYTES] {
        &self.bytes
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_has_a_warp_and_no_warp_is_idle() {
        for multiprocessors in [1, 8, 132, 1000] {
            for tiles in [1, 2, 4, 5, 63, 2048, 43_000, 148_481, 1 << 27, MOST_TILES] {
                let Geometry { blocks, threads, run } = Geometry::of(tiles, multiprocessors);
                let (blocks, tiles) = (u64::from(blocks), u64::from(tiles));
                let a_block = u64::from(threads / LANES * run);
                assert!(blocks * a_block >= tiles && (blocks - 1) * a_block < tiles);
                assert!((1..=8).contains(&run) && blocks < 1 << 31, "{tiles} tiles");
                // The kernel counts tiles in 32 bits.
                assert!((blocks * 4 - 1) * u64::from(run) <= u64::from(u32::MAX));
            }
        }
        assert_eq!(Geometry::of(0, 132).blocks, 0);
        assert_eq!(Geometry::of(43_000, 132).run, 1, "a ViT-B-32 on a large device");
        assert_eq!(Geometry::of(148_481, 132).run, 4, "a ViT-L-14");
    }
}
