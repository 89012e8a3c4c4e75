//! `relayout.cu` against what views of the same tensors read: equal bits, and nothing written beside them.

use proptest::prelude::*;

use super::Bench;
use crate::kernel::cast;
use crate::kernel::cuda::{Launch, StridedPart, Table};
use crate::tensor::{DType, contiguous_strides, f32_bytes};

/// Some of a tensor's elements in another order.
#[derive(Clone, Debug)]
struct Part {
    /// The first of them.
    start: usize,
    /// The elements as they lie in the tensor, row-major.
    seen: Vec<usize>,
    order: Vec<usize>,
    /// How many times all of them come.
    repeat: usize,
    scale: Option<f32>,
    seed: u64,
}

impl Part {
    fn once(&self) -> usize {
        self.seen.iter().product()
    }

    fn numel(&self) -> usize {
        self.repeat * self.once()
    }

    fn strided(&self) -> (Vec<usize>, Vec<usize>) {
        let pick = |of: &[usize], first: usize| [first].into_iter().chain(self.order.iter().map(|&d| of[d])).collect();
        (pick(&self.seen, self.repeat), pick(&contiguous_strides(&self.seen), 0))
    }

    /// The tensor: the elements before the first one, the part's, and no others.
    fn source(&self) -> Vec<f32> {
        let mut state = self.seed;
        let mut next = || {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = state;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        };
        let mut value = || {
            let bits = next();
            let value = ((bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0) as f32;
            match bits % 16 {
                0 => f32::from_bits((bits >> 32) as u32),
                1 => -0.0,
                2 => value * 1e-7,
                3 => value * 1e5,
                4 => value * 1e-38,
                _ => value,
            }
        };
        (0..self.start + self.once()).map(|_| value()).collect()
    }

    /// What is written, before it is added to anything.
    fn values(&self, source: &[f32]) -> Vec<f32> {
        let (shape, strides) = self.strided();
        let mut places = vec![self.start];
        for (extent, stride) in shape.into_iter().zip(strides) {
            places = places.iter().flat_map(|at| (0..extent).map(move |k| at + k * stride)).collect();
        }
        places.into_iter().map(|at| self.scale.map_or(source[at], |scale| source[at] * scale)).collect()
    }
}

#[derive(Clone, Debug)]
struct Wanted {
    dtype: DType,
    parts: Vec<Part>,
}

impl Wanted {
    /// Compares what the kernel made.
    fn check(&self, got: &[u8]) {
        let mut sums: Vec<f32> = Vec::new();
        for (p, part) in self.parts.iter().enumerate() {
            let values = part.values(&part.source());
            if p == 0 {
                sums = values;
            } else {
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        }
        let mut want = vec![0; got.len()];
        cast(&sums, self.dtype, &mut want);
        let size = self.dtype.size();
        // What a sum or a product makes of a NaN is outside the contract; the types' own conversions are in it.
        let computes = self.parts.len() > 1 || self.parts[0].scale.is_some();
        for (i, (got, want)) in got.chunks_exact(size).zip(want.chunks_exact(size)).enumerate() {
            let is_nan = computes && sums[i].is_nan();
            let right = got == want || is_nan;
            assert!(right, "element {i}: {got:x?} is not {want:x?} of {:e}; {self:?}", sums[i]);
        }
    }
}

/// Makes all of them in one launch.
fn check(tensors: &[Wanted], multiprocessors: u32) {
    let (mut bench, mut table, mut places, mut end) = (Bench::new(), Table::default(), Vec::new(), 0);
    for tensor in tensors {
        let parts = tensor.parts.iter().map(|part| {
            let address = bench.put(f32_bytes(&part.source())) + 4 * part.start as u64;
            let (shape, strides) = part.strided();
            StridedPart { address, shape, strides, scale: part.scale }
        });
        let parts: Vec<StridedPart> = parts.collect();
        table.push_relayout(end as u64, tensor.dtype, &parts).unwrap();
        let bytes = tensor.parts[0].numel() * tensor.dtype.size();
        places.push(end..end + bytes);
        end = (end + bytes).next_multiple_of(256);
    }
    let (address, out) = (bench.put(&table.to_bytes()), bench.alloc(end));
    let got = bench.run(&Launch::relayout(&table, address, out, multiprocessors), out, end);
    let mut written = 0;
    for (tensor, place) in tensors.iter().zip(places) {
        let beside = &got[written..place.start];
        assert!(beside.iter().all(|&byte| byte == 0xff), "written beside {tensor:?}");
        written = place.end;
        tensor.check(&got[place]);
    }
}

fn dtype() -> impl Strategy<Value = DType> {
    proptest::sample::select(vec![DType::F32, DType::F16, DType::BF16, DType::F64])
}

fn shape() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        proptest::collection::vec(1..9usize, 1..6),
        proptest::collection::vec(proptest::sample::select(vec![1, 3, 4, 15, 16, 17, 31, 32, 33, 64, 70]), 1..4),
        (1..5000usize).prop_map(|numel| vec![numel]),
    ]
}

fn part(seen: Vec<usize>, repeat: usize) -> impl Strategy<Value = Part> {
    let order: Vec<usize> = (0..seen.len()).collect();
    let start = prop_oneof![Just(0usize), Just(8), 0..100usize];
    let scale = prop_oneof![3 => Just(None), 1 => (-3.0f32..3.0).prop_map(Some), 1 => Just(Some(0.125))];
    (start, Just(seen), Just(order).prop_shuffle(), scale, any::<u64>())
        .prop_map(move |(start, seen, order, scale, seed)| Part { start, seen, order, repeat, scale, seed })
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let parts = prop_oneof![
        4 => shape().prop_flat_map(|seen| part(seen, 1)).prop_map(|part| vec![part]),
        1 => (shape(), 2..6usize).prop_flat_map(|(seen, repeat)| part(seen, repeat)).prop_map(|part| vec![part]),
        // Parts of the same number of elements, each in a shape of its own.
        1 => (1..7usize, 1..7usize, 1..40usize, 1..4usize).prop_flat_map(|(a, b, c, repeat)| {
            let shapes = vec![vec![a, b, c], vec![c, b, a], vec![a * b * c], vec![b, a * c]];
            proptest::collection::vec(proptest::sample::select(shapes).prop_flat_map(move |seen| part(seen, repeat)), 1..4)
        }),
    ];
    (dtype(), parts).prop_map(|(dtype, parts)| Wanted { dtype, parts })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_layout_has_the_bits_of_views(tensors in proptest::collection::vec(wanted(), 1..6), processors in 1..4u32) {
        check(&tensors, processors);
    }
}

/// What graphs ask for: matrices transposed, cut and in heads, convolutions with their dimensions in another order.
#[test]
fn usual_layouts_have_the_bits_of_views() {
    let orders: [(&[usize], &[usize]); 10] = [
        (&[192, 96], &[1, 0]),
        (&[192, 96], &[0, 1]),
        (&[97, 131], &[1, 0]),
        (&[2050], &[0]),
        (&[48, 3, 14, 14], &[2, 3, 1, 0]),
        (&[48, 3, 16, 16], &[0, 2, 3, 1]),
        (&[12, 64, 40], &[2, 0, 1]),
        (&[12, 64, 40], &[0, 2, 1]),
        (&[40, 12, 64], &[1, 0, 2]),
        (&[2, 3, 2, 3, 2, 3, 2, 3, 2, 3], &[9, 7, 5, 3, 1, 0, 2, 4, 6, 8]),
    ];
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let tensors = orders.iter().enumerate().map(|(i, (seen, order))| Part {
            start: i % 3 * 16,
            seen: seen.to_vec(),
            order: order.to_vec(),
            repeat: 1 + usize::from(i == 3) * 4,
            scale: (i % 4 == 3).then_some(0.125),
            seed: i as u64,
        });
        let tensors: Vec<Wanted> = tensors.map(|part| Wanted { dtype, parts: vec![part] }).collect();
        check(&tensors, 1);
    }
}

/// More tiles than one per warp, and many segments, of either kind.
#[test]
fn many_segments_and_long_runs() {
    let tensors: Vec<Wanted> = (0..300)
        .map(|i| {
            let seen = if i % 40 == 7 { vec![300, 70] } else { vec![1 + i % 60, 1 + i % 37] };
            let order = if i % 2 == 0 { vec![0, 1] } else { vec![1, 0] };
            let parts = vec![
                Part { start: i % 5, seen, order, repeat: 1, scale: None, seed: i as u64 };
                1 + usize::from(i % 9 == 0)
            ];
            Wanted { dtype: [DType::F32, DType::F16, DType::BF16][i % 3], parts }
        })
        .collect();
    check(&tensors, 1);
}

/// Every exponent and sign, and what is around each tie.
#[test]
fn all_conversions_round_as_the_hosts() {
    let low = [0u32, 1, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xefff, 0xf000, 0xffff];
    let source: Vec<f32> = (0..1u32 << 16).flat_map(|high| low.map(|low| f32::from_bits(high << 16 | low))).collect();
    let mut bench = Bench::new();
    let values = bench.put(f32_bytes(&source));
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let mut table = Table::default();
        let all = StridedPart { address: values, shape: vec![source.len()], strides: vec![1], scale: None };
        table.push_relayout(0, dtype, &[all]).unwrap();
        let mut want = vec![0; source.len() * dtype.size()];
        cast(&source, dtype, &mut want);
        let (address, out) = (bench.put(&table.to_bytes()), bench.alloc(want.len()));
        let got = bench.run(&Launch::relayout(&table, address, out, 8), out, want.len());
        let pairs = got.chunks(dtype.size()).zip(want.chunks(dtype.size()));
        for (value, (got, want)) in source.iter().zip(pairs) {
            assert_eq!(got, want, "{:#010x} as {dtype}", value.to_bits());
        }
    }
}
