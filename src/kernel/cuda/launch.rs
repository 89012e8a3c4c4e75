//! The parameters of a kernel's launch: how many threads there are, and where in device memory the table of its
//! segments lies. The kernels read both as `combine.cu` and `relayout.cu` describe them.

use super::super::output::simplified;
use super::rows::AddedTerms;
use super::tiles::{TILE, tile_bytes};
use crate::error::{Error, Result};
use crate::tensor::{BlockFormat, DType, VectorFormat, contiguous_strides};

/// Terms that a launch itself can name, at most: what fits into 4 KiB, the parameters of a kernel on every device.
const MAX_ACTIVE: usize = 504;

/// Tiles of a launch, at most: a thread counts them in 32 bits.
const MAX_TILES: u32 = 1 << 31;

const SEGMENT_BYTES: usize = 32;
const TERM_BYTES: usize = 16;
const PART_BYTES: usize = 32;
const DIMENSION_BYTES: usize = 16;
const COMBINE_BYTES: usize = 40 + 8 * MAX_ACTIVE;

/// Warps of a block, and threads of a warp.
const WARPS: u32 = 4;
const LANES: u32 = 32;

/// Rows and columns of a square that is transposed at a time.
const SQUARE: usize = 32;

/// Extents across the lanes, and along what a lane loads, below which a square would be mostly empty.
const MIN_SQUARE: [usize; 2] = [16, 4];

/// The kernels of `kernels.ptx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceKernel {
    Combine,
    CombineByRows,
    Relayout,
}

/// Whole tiles of one tensor that the combine kernel computes. Addresses are those of its first tile.
pub(crate) struct Segment<'a> {
    /// The base's format and address; never blocks.
    pub(crate) base: Option<(VectorFormat, u64)>,
    /// Formats and addresses of the terms: one per coefficient, or none at all.
    pub(crate) terms: &'a [(VectorFormat, u64)],
    /// The place of the result, in bytes from the launch's output.
    pub(crate) out: u64,
    /// The number of tiles.
    pub(crate) tiles: usize,
}

/// f32 elements in device memory that become a tensor of a layout, or are added to it.
pub(crate) struct StridedPart {
    /// The address of the element that comes first.
    pub(crate) address: u64,
    pub(crate) shape: Vec<usize>,
    /// Strides in elements, not in bytes.
    pub(crate) strides: Vec<usize>,
    /// The factor of every element.
    pub(crate) scale: Option<f32>,
}

/// The segments of a launch, as they lie in device memory: segments, what they are made of (terms, or parts), and the
/// dimensions of parts. A table is for one of the kernels.
#[derive(Debug, Default)]
pub(crate) struct Table {
    segments: Vec<u8>,
    parts: Vec<u8>,
    dimensions: Vec<u8>,
    tiles: u32,
}

impl Table {
    /// Adds a segment for the combine kernel; one without tiles adds nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for more than 2³¹ tiles, or terms that 32 bits cannot
    /// count.
    pub(crate) fn push(&mut self, segment: &Segment<'_>) -> Result<()> {
        if segment.tiles == 0 {
            return Ok(());
        }
        let first_term = count(&self.parts, TERM_BYTES)?;
        let first_tile = self.add_tiles(segment.tiles)?;
        let (base_format, base) = segment.base.map_or((0, 0), |(format, address)| (number(format), address));
        self.segments.extend(base.to_le_bytes());
        self.segments.extend(segment.out.to_le_bytes());
        extend(&mut self.segments, [first_tile, base_format, first_term, u32::from(!segment.terms.is_empty())]);
        for &(format, address) in segment.terms {
            self.parts.extend(address.to_le_bytes());
            extend(&mut self.parts, [number(format), tile_bytes(format) as u32]);
        }
        Ok(())
    }

    /// Adds a tensor for the relayout kernel, row-major: the sum of its parts in this order, each of which has its
    /// number of elements, in any shape. It goes `out` bytes behind the launch's output, a multiple of 256. A tensor
    /// without elements adds nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for 2³¹ elements or more, more than 2³¹ tiles, or a
    /// type that is no float.
    pub(crate) fn push_relayout(&mut self, out: u64, dtype: DType, parts: &[StridedPart]) -> Result<()> {
        let numel = parts.first().map_or(0, |part| part.shape.iter().product::<usize>());
        if numel == 0 {
            return Ok(());
        }
        let dtype = match dtype {
            DType::F32 => 1,
            DType::F16 => 2,
            DType::BF16 => 3,
            DType::F64 => 9,
            other => return Err(Error::unsupported("weights are floats").got(other)),
        };
        // The kernel counts in 32 bits, in elements of the tensor and of what it is made of.
        let reach = |part: &StridedPart| -> usize {
            part.shape.iter().zip(&part.strides).map(|(extent, stride)| extent.saturating_sub(1) * stride).sum()
        };
        let most = parts.iter().map(reach).max().unwrap_or(0).max(numel);
        if most >= 1 << 31 {
            return Err(Error::unsupported("a tensor too large to be laid out on a device")
                .expected("fewer than 2147483648 elements")
                .got(most));
        }
        let first_part = count(&self.parts, PART_BYTES)?;
        let transposed_tiles = match parts {
            [part] => self.push_part(part, true)?,
            _ => parts.iter().try_fold(None, |_, part| self.push_part(part, false))?,
        };
        let first_tile = self.add_tiles(transposed_tiles.unwrap_or(numel.div_ceil(TILE)))?;
        self.segments.extend(out.to_le_bytes());
        let is_transposed = u32::from(transposed_tiles.is_some());
        extend(&mut self.segments, [numel as u32, dtype, first_tile, first_part, parts.len() as u32, is_transposed]);
        Ok(())
    }

    /// Adds a part with its dimensions, the innermost first. The number of squares that it is transposed in, where that
    /// is allowed and pays.
    fn push_part(&mut self, part: &StridedPart, may_be_transposed: bool) -> Result<Option<usize>> {
        let (shape, strides) = simplified(&part.shape, &part.strides);
        let out_strides = contiguous_strides(&shape);
        let mut order: Vec<usize> = (0..shape.len()).rev().collect();
        let mut squares = None;
        // The innermost dimension is one of the source's only where its stride is 1.
        if let Some(along) = strides.iter().position(|&stride| stride == 1).filter(|_| may_be_transposed)
            && along + 1 < shape.len()
            && shape[order[0]] >= MIN_SQUARE[0]
            && shape[along] >= MIN_SQUARE[1]
        {
            order.retain(|&d| d != along);
            order.insert(1, along);
            let across = |d: usize| shape[d].div_ceil(SQUARE);
            let outer = order[2..].iter().map(|&d| shape[d]).product::<usize>();
            squares = Some(outer * across(order[0]) * across(along));
        }
        let first_dimension = count(&self.dimensions, DIMENSION_BYTES)?;
        self.parts.extend(part.address.to_le_bytes());
        let (is_scaled, scale) = (u32::from(part.scale.is_some()), part.scale.map_or(0, f32::to_bits));
        extend(&mut self.parts, [first_dimension, shape.len() as u32, is_scaled, scale, 0, 0]);
        for d in order {
            extend(&mut self.dimensions, [shape[d] as u32, strides[d] as u32, out_strides[d] as u32, 0]);
        }
        Ok(squares)
    }

    /// Counts tiles of another segment; the number of its first one.
    fn add_tiles(&mut self, tiles: usize) -> Result<u32> {
        let all = u32::try_from(tiles).ok().and_then(|more| self.tiles.checked_add(more));
        let all = all.filter(|&all| all <= MAX_TILES).ok_or_else(too_much)?;
        Ok(std::mem::replace(&mut self.tiles, all))
    }

    /// Whether there is nothing to compute.
    pub(crate) fn is_empty(&self) -> bool {
        self.tiles == 0
    }

    /// Bytes that it takes in device memory.
    pub(crate) fn nbytes(&self) -> usize {
        self.segments.len() + self.parts.len() + self.dimensions.len()
    }

    /// Bytes that a segment of the combine kernel with this many terms takes.
    pub(crate) const fn segment_bytes(terms: usize) -> usize {
        SEGMENT_BYTES + terms * TERM_BYTES
    }

    /// The bytes as they lie in device memory.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [self.segments.as_slice(), &self.parts, &self.dimensions].concat()
    }
}

fn extend<const N: usize>(bytes: &mut Vec<u8>, words: [u32; N]) {
    bytes.extend(words.into_iter().flat_map(u32::to_le_bytes));
}

fn count(bytes: &[u8], of: usize) -> Result<u32> {
    u32::try_from(bytes.len() / of).map_err(|_| too_much())
}

fn too_much() -> Error {
    Error::unsupported("too much for one launch on a device").expected(format_args!("at most {MAX_TILES} tiles"))
}

/// The number of a format in `combine.cu`; 0 is none.
const fn number(format: VectorFormat) -> u32 {
    match format {
        VectorFormat::F32 => 1,
        VectorFormat::F16 => 2,
        VectorFormat::BF16 => 3,
        VectorFormat::Blocks(BlockFormat::Q8) => 4,
        VectorFormat::Blocks(BlockFormat::Q6) => 5,
        VectorFormat::Blocks(BlockFormat::Q4) => 6,
        VectorFormat::Blocks(BlockFormat::Q3) => 7,
        VectorFormat::Blocks(BlockFormat::Q2) => 8,
    }
}

/// Threads of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    /// Tiles per warp, one after the other.
    pub(crate) run: u32,
}

impl Geometry {
    /// Threads for this many tiles on a device of this many multiprocessors.
    ///
    /// A warp has to find its segment first, so it should compute several tiles. But what is left over when the last
    /// blocks run is lost, so there are at least sixteen rounds of blocks before a warp gets a second tile.
    fn of(tiles: u32, multiprocessors: u32) -> Self {
        const BLOCKS_PER_MULTIPROCESSOR: u32 = 4;
        const MIN_ROUNDS: u32 = 16;
        const MAX_RUN: u32 = 8;

        let at_once = multiprocessors.saturating_mul(BLOCKS_PER_MULTIPROCESSOR * WARPS * MIN_ROUNDS).max(1);
        let run = (tiles / at_once).clamp(1, MAX_RUN);
        Self { blocks: tiles.div_ceil(run * WARPS), threads: WARPS * LANES, run }
    }
}

/// A launch of a kernel: the kernel's one parameter, and the threads that read it.
#[derive(Clone, Debug)]
#[repr(C, align(8))]
pub(crate) struct Launch {
    bytes: [u8; COMBINE_BYTES],
    pub(crate) kernel: DeviceKernel,
    pub(crate) geometry: Geometry,
}

impl Launch {
    /// A launch of the combine kernel over `table`, which lies at `address`, with its results at `out`; and what it
    /// reads right behind the table, which has to be there before: the table of rows. There is none where all segments
    /// add the same terms and the launch has room for them.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for more terms than 32 bits count.
    ///
    /// # Panics
    /// When the rows are those of another number of segments.
    pub(crate) fn combine(
        table: &Table,
        address: u64,
        out: u64,
        added: &AddedTerms<'_>,
        multiprocessors: u32,
    ) -> Result<(Self, Option<Vec<u8>>)> {
        let terms = address + table.segments.len() as u64;
        if let Some(active) = added.same().filter(|active| active.len() <= MAX_ACTIVE) {
            let active_count = std::iter::once(active.len() as u32);
            let active = active.iter().flat_map(|(term, coefficient)| [*term, coefficient.to_bits()]);
            let words = active_count.chain(active);
            return Ok((Self::of(DeviceKernel::Combine, table, &[address, terms, out], words, multiprocessors), None));
        }
        assert_eq!(added.row_of.len(), table.segments.len() / SEGMENT_BYTES, "a row per segment");
        let addresses = [address, terms, out, address + table.nbytes() as u64];
        let launch = Self::of(DeviceKernel::CombineByRows, table, &addresses, std::iter::empty(), multiprocessors);
        Ok((launch, Some(added.table()?)))
    }

    /// A launch of the relayout kernel over `table`, which lies at `address`, with its results at `out`.
    pub(crate) fn relayout(table: &Table, address: u64, out: u64, multiprocessors: u32) -> Self {
        let parts = address + table.segments.len() as u64;
        let addresses = [address, parts, parts + table.parts.len() as u64, out];
        Self::of(DeviceKernel::Relayout, table, &addresses, std::iter::once(0), multiprocessors)
    }

    fn of(
        kernel: DeviceKernel,
        table: &Table,
        addresses: &[u64],
        words: impl Iterator<Item = u32>,
        multiprocessors: u32,
    ) -> Self {
        let geometry = Geometry::of(table.tiles, multiprocessors);
        let segments = (table.segments.len() / SEGMENT_BYTES) as u32;
        let mut fields: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
        extend(&mut fields, [segments, table.tiles, geometry.run]);
        fields.extend(words.flat_map(u32::to_le_bytes));
        let mut bytes = [0; COMBINE_BYTES];
        bytes[..fields.len()].copy_from_slice(&fields);
        Self { bytes, kernel, geometry }
    }

    /// The kernel's one parameter, aligned to 8 bytes; what is beyond its size is zero.
    #[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code))] // Only devices read it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn words(table: &Table) -> Vec<u32> {
        table.to_bytes().chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn u64_at(launch: &Launch, at: usize) -> u64 {
        u64::from_le_bytes(launch.bytes()[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn segments_are_laid_out_as_the_combine_kernel_reads_them() {
        let mut table = Table::default();
        let q4 = VectorFormat::Blocks(BlockFormat::Q4);
        let terms = [(q4, 0x1111_0000_2222), (VectorFormat::BF16, 0x3333)];
        table.push(&Segment { base: Some((VectorFormat::F16, 0x44)), terms: &terms, out: 0x55, tiles: 3 }).unwrap();
        table.push(&Segment { base: None, terms: &terms, out: 0x66, tiles: 0 }).unwrap();
        table.push(&Segment { base: None, terms: &[], out: 0x77, tiles: 1 }).unwrap();
        assert_eq!(table.nbytes(), Table::segment_bytes(2) + Table::segment_bytes(0));
        let words = words(&table);
        assert_eq!(words[..8], [0x44, 0, 0x55, 0, 0, 2, 0, 1]);
        assert_eq!(words[8..16], [0, 0, 0x77, 0, 3, 0, 2, 0]);
        assert_eq!(words[16..], [0x2222, 0x1111, 6, 1088, 0x3333, 0, 3, 4096]);

        let combine = |rows: &[Vec<(u32, f32)>]| {
            Launch::combine(&table, 0x1000, 0x9000, &AddedTerms { rows, row_of: &[0, 0] }, 132).unwrap()
        };
        let (launch, rows) = combine(&[vec![(1, 0.5)]]);
        let at = |at| u64_at(&launch, at);
        assert_eq!([at(0), at(8), at(16)], [0x1000, 0x1040, 0x9000]);
        assert_eq!([at(24), at(32), at(40)], [4 << 32 | 2, 1 << 32 | 1, u64::from(0.5f32.to_bits()) << 32 | 1]);
        assert!(launch.kernel == DeviceKernel::Combine && rows.is_none());

        // Of rows, and of more terms than there is room for: the table of rows is behind that of 96 bytes.
        for rows in [vec![vec![(1, 0.5)], vec![]], vec![vec![(0, 1.0); MAX_ACTIVE + 1]]] {
            let (launch, table) = combine(&rows);
            let at = |at| u64_at(&launch, at);
            assert_eq!([at(0), at(8), at(16), at(24)], [0x1000, 0x1040, 0x9000, 0x1060]);
            assert_eq!([at(32), at(40)], [4 << 32 | 2, 1]);
            assert_eq!(launch.kernel, DeviceKernel::CombineByRows);
            assert_eq!(table.unwrap().len(), 16 + 8 * rows[0].len());
        }
        let (launch, _) = combine(&[vec![(0, 1.0); MAX_ACTIVE]]);
        assert_eq!(launch.kernel, DeviceKernel::Combine);
    }

    #[test]
    fn tensors_are_laid_out_as_the_relayout_kernel_reads_them() {
        let mut table = Table::default();
        let whole = StridedPart { address: 0x1111_0000_2222, shape: vec![30, 5], strides: vec![5, 1], scale: None };
        let column = StridedPart { address: 0x3333, shape: vec![150], strides: vec![7], scale: Some(0.5) };
        table.push_relayout(0x100, DType::F16, &[whole, column]).unwrap();
        let empty = StridedPart { address: 1, shape: vec![0, 3], strides: vec![3, 1], scale: None };
        table.push_relayout(0x200, DType::F32, &[empty]).unwrap();
        // 40 and 70 change places, in each of three pieces that lie one behind the other.
        let turned = StridedPart { address: 0x4444, shape: vec![3, 70, 40], strides: vec![2800, 1, 70], scale: None };
        table.push_relayout(0x300, DType::F64, &[turned]).unwrap();
        assert_eq!(table.nbytes(), 2 * 32 + 3 * 32 + 5 * 16);
        let words = words(&table);
        assert_eq!(words[..8], [0x100, 0, 150, 2, 0, 0, 2, 0]);
        assert_eq!(words[8..16], [0x300, 0, 8400, 9, 1, 2, 1, 1]);
        assert_eq!(words[16..24], [0x2222, 0x1111, 0, 1, 0, 0, 0, 0]);
        assert_eq!(words[24..32], [0x3333, 0, 1, 1, 1, 0.5f32.to_bits(), 0, 0]);
        assert_eq!(words[32..40], [0x4444, 0, 2, 3, 0, 0, 0, 0]);
        assert_eq!(words[40..48], [150, 1, 1, 0, 150, 7, 1, 0]);
        assert_eq!(words[48..], [40, 70, 1, 0, 70, 1, 40, 0, 3, 2800, 2800, 0]);
        // Two squares by three, three times.
        assert_eq!(table.tiles, 1 + 18);

        let launch = Launch::relayout(&table, 0x1000, 0x9000, 132);
        let at = |at| u64_at(&launch, at);
        assert_eq!([at(0), at(8), at(16), at(24)], [0x1000, 0x1040, 0x10a0, 0x9000]);
        assert_eq!([at(32), at(40)], [19 << 32 | 2, 1]);
        assert_eq!(launch.geometry.blocks, 5);
    }

    /// What would leave the lanes idle is gathered.
    #[test]
    fn only_what_fills_squares_is_transposed() {
        let is_transposed = |shape: &[usize], strides: &[usize]| {
            let mut table = Table::default();
            let part = StridedPart { address: 0, shape: shape.to_vec(), strides: strides.to_vec(), scale: None };
            table.push_relayout(0, DType::F32, &[part]).unwrap();
            words(&table)[7] == 1
        };
        assert!(is_transposed(&[70, 40], &[1, 70]) && is_transposed(&[4, 16], &[1, 4]));
        assert!(!is_transposed(&[70, 15], &[1, 70]) && !is_transposed(&[3, 40], &[1, 3]));
        assert!(!is_transposed(&[70, 40], &[40, 1]) && !is_transposed(&[1, 40], &[1, 1]));
        // A row of one element has no order.
        assert!(!is_transposed(&[70, 1, 40], &[40, 1, 1]));
    }

    #[test]
    fn what_the_kernels_cannot_count_is_refused() {
        let mut table = Table::default();
        let huge = Segment { base: None, terms: &[], out: 0, tiles: 1 << 31 };
        table.push(&huge).unwrap();
        assert_eq!(table.push(&Segment { tiles: 1, ..huge }).unwrap_err().kind(), ErrorKind::Unsupported);
        let huge = Segment { base: None, terms: &[], out: 0, tiles: 1 << 40 };
        assert_eq!(Table::default().push(&huge).unwrap_err().kind(), ErrorKind::Unsupported);

        let push = |dtype, shape: &[usize], strides: &[usize]| {
            Table::default().push_relayout(
                0,
                dtype,
                &[StridedPart { address: 0, shape: shape.to_vec(), strides: strides.to_vec(), scale: None }],
            )
        };
        assert!(push(DType::F32, &[(1 << 31) - 1], &[1]).is_ok());
        assert_eq!(push(DType::F32, &[1 << 31], &[1]).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(push(DType::F32, &[3], &[1 << 30]).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(push(DType::I64, &[3], &[1]).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn every_tile_has_a_warp_and_no_warp_is_idle() {
        for multiprocessors in [1, 8, 132, 1000] {
            for tiles in [1, 2, 4, 5, 63, 2048, 43_000, 148_481, 1 << 27, MAX_TILES] {
                let Geometry { blocks, threads, run } = Geometry::of(tiles, multiprocessors);
                let (blocks, tiles) = (u64::from(blocks), u64::from(tiles));
                let per_block = u64::from(threads / LANES * run);
                assert!(blocks * per_block >= tiles && (blocks - 1) * per_block < tiles);
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
