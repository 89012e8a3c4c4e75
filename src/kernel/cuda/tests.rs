//! `combine.cu`, as C++ on the simulated device, against the scalar kernel: equal bits for anything at all.

mod ptx;
mod relayout;

use std::sync::Arc;

use half::{bf16, f16};
use proptest::prelude::*;

use super::super::{self as kernel, Kernel, combine};
use super::tiles::{self, TILE, tile_bytes};
use super::{AddedTerms, Device, Launch, Memory, Queue, Segment, SimulatedDevice, Staging, Table, row_bytes};
use crate::tensor::{BLOCK, BlockFormat, Blocks, DType, Source, Tensor, VectorFormat};
use crate::{Error, Mapping};

/// A device, what was brought there, and the launches' output.
struct Bench {
    device: Arc<dyn Device>,
    staging: Staging,
    memory: Vec<Memory>,
}

impl Bench {
    fn new() -> Self {
        let device: Arc<dyn Device> = Arc::new(SimulatedDevice::new(1 << 30, 1));
        Self { staging: Staging::new(&device, Queue::Combine, 1 << 16).unwrap(), device, memory: Vec::new() }
    }

    /// The address of fresh bytes, all 0xff.
    fn alloc(&mut self, bytes: usize) -> u64 {
        self.memory.push(Memory::new(&self.device, bytes).unwrap());
        self.memory.last().unwrap().address()
    }

    /// The address of these bytes on the device.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        let address = self.alloc(bytes.len());
        self.staging.send_bytes(address, bytes).unwrap();
        address
    }

    /// Runs a kernel; the bytes of its output.
    fn run(&self, launch: &Launch, out: u64, bytes: usize) -> Vec<u8> {
        let mut result = vec![0; bytes];
        self.device.launch(launch).unwrap();
        self.device.copy_out(Queue::Combine, out, &mut result).unwrap();
        result
    }
}

/// An input as it lies on the device.
fn packed(input: &Source) -> Vec<u8> {
    let all = 0..tiles::count(input.numel());
    let mut bytes = vec![0; all.len() * tile_bytes(tiles::format(input))];
    tiles::pack(input, all, &mut bytes).unwrap();
    bytes
}

/// Elements of one kind.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Dense(DType),
    /// With gaps between the elements: no kernel can load that.
    Gaps(DType),
    Blocks(BlockFormat),
}

#[derive(Clone, Copy, Debug)]
struct Recipe {
    kind: Kind,
    seed: u64,
}

impl Recipe {
    fn make(self, numel: usize) -> Source {
        let mut state = self.seed;
        let mut next = move || {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = state;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        };
        // Mostly of the size of weights; now and then any bits, or zeros and subnormals.
        let mut element = |dtype: DType| -> [u8; 8] {
            let bits = next();
            let value = ((bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0) * 0.05;
            let value = match bits % 16 {
                0 => return next().to_le_bytes(),
                1 => 0.0,
                2 => -0.0,
                3 => value * 1e-38,
                4 => value * 1e-6,
                _ => value,
            };
            let mut bytes = [0; 8];
            match dtype {
                DType::F64 => bytes = value.to_le_bytes(),
                DType::F32 => bytes[..4].copy_from_slice(&(value as f32).to_le_bytes()),
                DType::F16 => bytes[..2].copy_from_slice(&half::f16::from_f64(value).to_le_bytes()),
                _ => bytes[..2].copy_from_slice(&half::bf16::from_f64(value).to_le_bytes()),
            }
            bytes
        };
        let mut bytes = Vec::new();
        let mapping = |bytes: Vec<u8>| Arc::new(Mapping::from_vec(bytes, "test"));
        match self.kind {
            Kind::Dense(dtype) => {
                (0..numel).for_each(|_| bytes.extend_from_slice(&element(dtype)[..dtype.size()]));
                let length = bytes.len();
                Tensor::contiguous(&mapping(bytes), 0..length, dtype, &[numel]).unwrap().into()
            }
            Kind::Gaps(dtype) => {
                (0..3 * numel).for_each(|_| bytes.extend_from_slice(&element(dtype)[..dtype.size()]));
                let length = bytes.len();
                Tensor::strided(&mapping(bytes), 0..length, dtype, 0, &[numel], &[3]).unwrap().into()
            }
            Kind::Blocks(format) => {
                for _ in 0..numel.div_ceil(BLOCK) {
                    bytes.extend_from_slice(&element(DType::BF16)[..2]);
                    (2..format.block_bytes()).for_each(|_| bytes.push(element(DType::F64)[0]));
                }
                let length = bytes.len();
                Blocks::new(&mapping(bytes), 0..length, format, &[numel]).unwrap().into()
            }
        }
    }
}

/// Floats side by side, and now and then with gaps.
fn dense() -> Vec<Kind> {
    let dtypes = [DType::F32, DType::F16, DType::BF16, DType::F64];
    [dtypes, dtypes].concat().into_iter().map(Kind::Dense).chain([Kind::Gaps(DType::F16)]).collect()
}

fn any_kind() -> Vec<Kind> {
    let blocks = BlockFormat::ALL.map(Kind::Blocks);
    dense().into_iter().chain([blocks, blocks, blocks].concat()).collect()
}

fn recipe(kinds: Vec<Kind>) -> impl Strategy<Value = Recipe> {
    (proptest::sample::select(kinds), any::<u64>()).prop_map(|(kind, seed)| Recipe { kind, seed })
}

/// Few elements, one element around what fills a block, a row or a tile, or several tiles.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        1..200usize,
        proptest::sample::select(vec![63, 64, 65, 127, 128, 129, 2047, 2048, 2049, 4095, 4096, 4097]),
        1..9000usize,
    ]
}

fn coefficient() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -1.5f32..1.5,
        2 => Just(0.0f32),
        1 => Just(-0.0),
        1 => Just(1.0),
        1 => Just(1e-40),
        1 => -1e38f32..1e38,
    ]
}

#[derive(Clone, Debug)]
struct Tensors {
    numel: usize,
    base: Option<Recipe>,
    /// None for a tensor that only changes its type.
    terms: Vec<Recipe>,
    /// The row of its coefficients, of as many as there are.
    row: usize,
}

/// Tensors of M terms each.
fn tensors(m: usize, kinds: Vec<Kind>) -> impl Strategy<Value = Tensors> {
    let terms = prop_oneof![7 => Just(m), 1 => Just(0)]
        .prop_flat_map(move |m| proptest::collection::vec(recipe(kinds.clone()), m));
    (length(), proptest::option::weighted(0.8, recipe(dense())), terms, 0..4usize)
        .prop_map(|(numel, base, terms, row)| Tensors { numel, base, terms, row })
}

/// The bits, with all NaNs alike: those are outside the contract.
fn bits(value: f32) -> u32 {
    if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }
}

/// Computes all tensors in one launch, of as many warps as a device of this many multiprocessors would have. Of one row
/// of coefficients, all have that.
fn check(rows: &[Vec<f32>], tensors: &[Tensors], multiprocessors: u32) {
    let inputs: Vec<(Option<Tensor>, Vec<Source>)> = tensors
        .iter()
        .map(|tensor| {
            let base = tensor.base.map(|recipe| match recipe.make(tensor.numel) {
                Source::Dense(base) => base,
                Source::Blocks(_) | Source::LowRank(_) => unreachable!("a base is dense"),
            });
            (base, tensor.terms.iter().map(|recipe| recipe.make(tensor.numel)).collect())
        })
        .collect();

    let (mut bench, mut table, mut places, mut end) = (Bench::new(), Table::default(), Vec::new(), 0);
    for (tensor, (base, terms)) in tensors.iter().zip(&inputs) {
        let mut put = |input: &Source| (tiles::format(input), bench.put(&packed(input)));
        let base = base.as_ref().map(|base| put(&Source::Dense(base.clone())));
        let terms: Vec<(VectorFormat, u64)> = terms.iter().map(&mut put).collect();
        let tiles = tiles::count(tensor.numel);
        table.push(&Segment { base, terms: &terms, out: end as u64, tiles }).unwrap();
        places.push(end);
        end += tiles * TILE * 4;
    }
    let active = |row: &Vec<f32>| -> Vec<(u32, f32)> {
        (0u32..).zip(row.iter().copied()).filter(|&(_, coefficient)| coefficient != 0.0).collect()
    };
    let active: Vec<_> = rows.iter().map(active).collect();
    let row_of: Vec<usize> = tensors.iter().map(|tensor| tensor.row % rows.len()).collect();
    let added = AddedTerms { rows: &active, row_of: &row_of };
    let room: usize = tensors.iter().map(|tensor| row_bytes(rows[tensor.row % rows.len()].len())).sum();
    let (address, out) = (bench.alloc(table.nbytes() + room), bench.alloc(end));
    let (launch, rows_behind) = Launch::combine(&table, address, out, &added, multiprocessors).unwrap();
    assert_eq!(rows_behind.is_some(), rows.len() > 1 || active[0].len() > 504);
    let tables = [table.to_bytes(), rows_behind.unwrap_or_default()].concat();
    assert!(tables.len() <= table.nbytes() + room, "more than what is kept for it");
    bench.staging.send_bytes(address, &tables).unwrap();
    let got = bench.run(&launch, out, end);
    for ((tensor, (base, terms)), place) in tensors.iter().zip(&inputs).zip(places) {
        let mut want = vec![0.0; tensor.numel];
        let coefficients = &rows[tensor.row % rows.len()];
        let of_tensor = if terms.is_empty() { &[] } else { coefficients.as_slice() };
        let outputs = vec![kernel::Output::whole(&mut want)];
        let terms = terms.iter().collect();
        let job = kernel::TensorJob { name: "a", base: base.as_ref(), coefficients: of_tensor, terms, outputs };
        combine(Kernel::Scalar, 1, vec![job], None).unwrap();
        let got = got[place..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        for (i, (got, &want)) in got.zip(&want).enumerate() {
            assert_eq!(bits(got), bits(want), "element {i}: {got:e} is not {want:e}; {coefficients:?} {tensor:?}");
        }
    }
}

/// A few tensors of M terms with their coefficients: one row for all of them, or a few, some of which add nothing.
fn case(m: std::ops::Range<usize>, kinds: Vec<Kind>) -> impl Strategy<Value = (Vec<Vec<f32>>, Vec<Tensors>)> {
    m.prop_flat_map(move |m| {
        let row = prop_oneof![5 => proptest::collection::vec(coefficient(), m), 1 => Just(vec![0.0; m])];
        let rows = prop_oneof![Just(1..2usize), Just(2..5)]
            .prop_flat_map(move |count| proptest::collection::vec(row.clone(), count));
        (rows, proptest::collection::vec(tensors(m, kinds.clone()), 1..6))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn dense_terms((rows, tensors) in case(0..8, dense()), multiprocessors in 1..4u32) {
        check(&rows, &tensors, multiprocessors);
    }

    #[test]
    fn terms_of_any_kind((rows, tensors) in case(1..12, any_kind()), multiprocessors in 1..4u32) {
        check(&rows, &tensors, multiprocessors);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn up_to_a_hundred_terms((rows, tensors) in case(40..101, any_kind())) {
        check(&rows, &tensors, 1);
    }
}

/// Each format by itself, so that none is left to chance.
#[test]
fn every_format_has_the_bits_of_the_scalar_kernel() {
    let kinds = [DType::F32, DType::F16, DType::BF16, DType::F64].map(Kind::Dense);
    for kind in kinds.into_iter().chain(BlockFormat::ALL.map(Kind::Blocks)) {
        for base in [None, Some(DType::F32), Some(DType::F16), Some(DType::BF16)] {
            let recipe = |kind, seed| Recipe { kind, seed };
            let tensor = |numel| Tensors {
                numel,
                base: base.map(|dtype| recipe(Kind::Dense(dtype), numel as u64)),
                terms: (0..3).map(|m| recipe(kind, 7 * numel as u64 + m)).collect(),
                row: numel,
            };
            let (some, none) = (vec![0.3, -0.0, 1.25e-3], vec![0.0, 0.0, -0.0]);
            check(std::slice::from_ref(&some), &[1, 100, 2048, 2049, 10_000].map(tensor), 1);
            check(std::slice::from_ref(&none), &[2049].map(tensor), 1);
            check(&[some, none, vec![0.0, -1.5, 0.0]], &[1, 3, 2048, 2049, 2050, 10_000].map(tensor), 1);
        }
    }
}

/// More tiles than one warp each, and hundreds of segments, many of them of one tile.
#[test]
fn many_segments_and_long_runs() {
    let tensor = |i: usize| Tensors {
        numel: if i % 50 == 7 { 40_000 } else { 1 + i % 5000 },
        base: Some(Recipe { kind: Kind::Dense(DType::F32), seed: i as u64 }),
        terms: vec![Recipe { kind: Kind::Blocks(BlockFormat::ALL[i % 5]), seed: i as u64 + 1 }],
        row: i % 7,
    };
    let tensors: Vec<Tensors> = (0..401).map(tensor).collect();
    let tiles: usize = tensors.iter().map(|tensor| tiles::count(tensor.numel)).sum();
    let mut table = Table::default();
    table.push(&Segment { base: None, terms: &[], out: 0, tiles }).unwrap();
    let run = Launch::relayout(&table, 0, 0, 1).geometry.run as usize;
    assert!(run >= 2 && !tiles.is_multiple_of(run), "{tiles} tiles, {run} per warp: the last warp has fewer");
    check(&[vec![-0.7]], &tensors, 1);
    check(&[-0.7, 0.0, 1.5, 0.25, -1e-3].map(|a| vec![a]), &tensors, 1);
}

/// More terms than a launch itself can name.
#[test]
fn hundreds_of_terms() {
    let dense = |seed| Recipe { kind: Kind::Dense(DType::BF16), seed };
    let tensor = |row| Tensors { numel: 130, base: Some(dense(1)), terms: (0..600).map(dense).collect(), row };
    let row = |zeros: usize| -> Vec<f32> {
        (0..600).map(|m| if m < zeros { 0.0 } else { (m % 13) as f32 / 10.0 - 0.65 }).collect()
    };
    for rows in [vec![row(0)], vec![row(95)], vec![row(96)], vec![row(3), row(598)]] {
        check(&rows, &[tensor(0), tensor(1)], 1);
    }
}

/// The values of a tile in device form, by the text of `tiles.rs` and nothing else.
fn unpack(format: VectorFormat, tile: &[u8]) -> Vec<f32> {
    assert_eq!(tile.len(), tile_bytes(format));
    let u16_at = |at: usize| u16::from_le_bytes([tile[at], tile[at + 1]]);
    let value = |element: usize| {
        let (lane, v) = (element % 128 / 4, element / 128 * 4 + element % 4);
        let half = || u16_at(v / 8 * 512 + lane * 16 + v % 8 * 2);
        match format {
            VectorFormat::F32 => f32::from_le_bytes(tile[4 * element..][..4].try_into().unwrap()),
            VectorFormat::F16 => f16::from_bits(half()).to_f32(),
            VectorFormat::BF16 => bf16::from_bits(half()).to_f32(),
            VectorFormat::Blocks(format) => {
                let (mut code, mut plane, mut below) = (0, 0, 0);
                for bits in format.planes().into_iter().filter(|&bits| bits > 0) {
                    let (word, k) = (v / (32 / bits), v % (32 / bits));
                    let in_chunk = if bits == 1 { lane * 8 } else { word / 4 * 512 + lane * 16 };
                    let at = plane + in_chunk + word % 4 * 4;
                    let word = u32::from_le_bytes(tile[at..at + 4].try_into().unwrap());
                    code |= (word >> (bits * k) & ((1 << bits) - 1)) << below;
                    (plane, below) = (plane + TILE / 8 * bits, below + bits);
                }
                let block = element / BLOCK;
                let scale = bf16::from_bits(u16_at(plane + block % 2 * 32 + block / 2 * 2)).to_f32();
                f32::mul_add(scale, code as f32, scale * -format.offset())
            }
        }
    };
    (0..TILE).map(value).collect()
}

#[test]
fn device_forms_hold_the_same_values() {
    let kinds = [DType::F32, DType::F16, DType::BF16, DType::F64].map(Kind::Dense);
    let kinds = kinds.into_iter().chain([Kind::Gaps(DType::F16)]).chain(BlockFormat::ALL.map(Kind::Blocks));
    for (seed, kind) in kinds.enumerate() {
        for numel in [1, 3, 64, 130, 2047, 2048, 2049, 6000] {
            let source = Recipe { kind, seed: seed as u64 }.make(numel);
            let input = &source;
            let (memory, format) = (packed(input), tiles::format(input));
            let got: Vec<f32> = memory.chunks(tile_bytes(format)).flat_map(|tile| unpack(format, tile)).collect();
            let want = source.to_f32().unwrap();
            for (i, (got, want)) in got.iter().zip(&*want).enumerate() {
                assert_eq!(bits(*got), bits(*want), "element {i} of {numel}, {kind:?}");
            }
            // What fills the last tile up; of blocks, what the file's last block has beyond.
            let beyond = if matches!(kind, Kind::Blocks(_)) { numel.next_multiple_of(BLOCK) } else { numel };
            assert!(got[beyond..].iter().all(|value| value.to_bits() == 0), "{kind:?} of {numel}");
            // In pieces, as they are uploaded.
            let tiles = tiles::count(numel);
            let mut last = vec![0xaa; tile_bytes(format)];
            tiles::pack(input, tiles - 1..tiles, &mut last).unwrap();
            assert!(memory.ends_with(&last));
        }
    }
    let integers =
        Tensor::contiguous(&Arc::new(Mapping::from_vec(vec![0; 8], "test")), 0..8, DType::I64, &[1]).unwrap();
    let error: Error = tiles::pack(&Source::Dense(integers), 0..1, &mut vec![0; 8192]).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
}
