//! The bit contract: every kernel, whatever the layout, types, alignment and threads, gives the bits of the formula.

use std::sync::Arc;

use half::{bf16, f16};
use proptest::prelude::*;
use taskbasis::kernel::{Hints, Kernel, Output, TensorJob, combine};
use taskbasis::tensor::BLOCK;
use taskbasis::{BlockFormat, Blocks, DType, LowRank, LowRankFormat, Mapping, Source, Tensor};

/// How a tensor's elements lie in its storage.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Flat,
    Transposed,
    /// Every third element.
    Gaps,
    /// Quantised; the data type does not matter.
    Blocks(BlockFormat),
    /// Two quantised factors; the data type does not matter.
    LowRank(LowRankFormat),
}

/// A tensor to be made: any type and layout, at any address.
#[derive(Clone, Copy, Debug)]
struct Recipe {
    dtype: DType,
    layout: Layout,
    misalignment: usize,
    seed: u64,
}

const FLOATS: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];

/// SplitMix64: plain, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// One element's bytes: mostly of the size that weights have, now and then any bits at all, or a special value.
    fn element(&mut self, dtype: DType, to: &mut Vec<u8>) {
        const SPECIAL: [f64; 12] = [
            0.0,
            -0.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            1e-40,
            -1e-45,
            6e-8,
            -65504.0,
            f32::MAX as f64,
            f32::MIN_POSITIVE as f64,
            1.0 + f32::EPSILON as f64 / 2.0,
        ];
        let bits = self.next();
        let value = match bits % 16 {
            0 => return to.extend_from_slice(&self.next().to_le_bytes()[..dtype.size()]),
            1 => SPECIAL[(bits >> 8) as usize % SPECIAL.len()],
            _ => ((bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0) * 0.05,
        };
        match dtype {
            DType::F64 => to.extend_from_slice(&value.to_le_bytes()),
            DType::F32 => to.extend_from_slice(&(value as f32).to_le_bytes()),
            DType::F16 => to.extend_from_slice(&f16::from_f64(value).to_le_bytes()),
            _ => to.extend_from_slice(&bf16::from_f64(value).to_le_bytes()),
        }
    }
}

impl Recipe {
    fn source(self, rows: usize, columns: usize) -> Source {
        let (format, blocks) = match self.layout {
            Layout::Blocks(format) => (format, (rows * columns).div_ceil(BLOCK)),
            Layout::LowRank(format) => {
                let of = |length: usize| (format.rank() * length).div_ceil(BLOCK);
                (format.factors(), of(rows) + of(columns))
            }
            _ => return self.make(rows, columns).into(),
        };
        let mut bytes = vec![0xa5; self.misalignment];
        let mut random = Random(self.seed);
        for _ in 0..blocks {
            // Scales are of the size of weights', or any bits at all.
            random.element(DType::BF16, &mut bytes);
            (2..format.block_bytes()).for_each(|_| bytes.push(random.next() as u8));
        }
        let range = self.misalignment..bytes.len();
        let mapping = Arc::new(Mapping::from_vec(bytes, "test"));
        match self.layout {
            Layout::LowRank(format) => LowRank::new(&mapping, range, format, &[rows, columns]).unwrap().into(),
            _ => Blocks::new(&mapping, range, format, &[rows, columns]).unwrap().into(),
        }
    }

    fn make(self, rows: usize, columns: usize) -> Tensor {
        let (strides, stored) = match self.layout {
            Layout::Flat => ([columns, 1], rows * columns),
            Layout::Transposed => ([1, rows], rows * columns),
            Layout::Gaps => ([3 * columns, 3], 3 * rows * columns),
            Layout::Blocks(_) | Layout::LowRank(_) => unreachable!("a base is dense"),
        };
        let mut bytes = vec![0xa5; self.misalignment];
        let mut random = Random(self.seed);
        (0..stored).for_each(|_| random.element(self.dtype, &mut bytes));
        let storage = self.misalignment..bytes.len();
        let mapping = Arc::new(Mapping::from_vec(bytes, "test"));
        Tensor::strided(&mapping, storage, self.dtype, 0, &[rows, columns], &strides).unwrap()
    }
}

/// The contract, transcribed.
fn expected(coefficients: &[f32], base: Option<&Tensor>, terms: &[&Source], count: usize) -> Vec<f32> {
    let values: Vec<_> = terms.iter().map(|term| term.to_f32().unwrap()).collect();
    let base = base.map(|base| base.to_f32().unwrap());
    (0..count)
        .map(|i| {
            let mut sum = 0.0f32;
            let mut any = false;
            for (&coefficient, values) in coefficients.iter().zip(&values) {
                if coefficient != 0.0 {
                    sum = f32::mul_add(coefficient, values[i], sum);
                    any = true;
                }
            }
            match &base {
                Some(base) if any => base[i] + sum,
                Some(base) => base[i],
                None => sum,
            }
        })
        .collect()
}

/// The bits, with all NaNs alike.
fn bits(value: f32) -> u32 {
    if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }
}

fn assert_same(got: &[f32], want: &[f32], what: &dyn std::fmt::Debug) {
    assert_eq!(got.len(), want.len());
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert_eq!(bits(g), bits(w), "element {i} of {}: {g:e} is not {w:e}; {what:?}", got.len());
    }
}

fn recipe(dtypes: &'static [DType], flat: bool) -> impl Strategy<Value = Recipe> {
    let layout = if flat {
        Just(Layout::Flat).boxed()
    } else {
        prop_oneof![3 => Just(Layout::Flat), 1 => Just(Layout::Transposed), 1 => Just(Layout::Gaps)].boxed()
    };
    (proptest::sample::select(dtypes), layout, 0..8usize, any::<u64>())
        .prop_map(|(dtype, layout, misalignment, seed)| Recipe { dtype, layout, misalignment, seed })
}

/// Blocks of any of the formats, and now and then something else among them.
fn blocks(formats: &'static [BlockFormat]) -> impl Strategy<Value = Recipe> {
    let quantised =
        (proptest::sample::select(formats), 0..8usize, any::<u64>()).prop_map(|(format, misalignment, seed)| Recipe {
            dtype: DType::U8,
            layout: Layout::Blocks(format),
            misalignment,
            seed,
        });
    prop_oneof![12 => quantised, 1 => recipe(&FLOATS, false)]
}

/// Matrices of low rank, and now and then something else among them.
fn low_rank() -> impl Strategy<Value = Recipe> {
    let matrix = (1..9usize, proptest::sample::select(&BlockFormat::ALL[..]), 0..8usize, any::<u64>()).prop_map(
        |(rank, factors, misalignment, seed)| Recipe {
            dtype: DType::U8,
            layout: Layout::LowRank(LowRankFormat::new(rank, factors).unwrap()),
            misalignment,
            seed,
        },
    );
    prop_oneof![3 => matrix, 1 => blocks(&BlockFormat::ALL)]
}

fn coefficient() -> impl Strategy<Value = f32> {
    prop_oneof![6 => -1.5f32..1.5, 2 => Just(0.0f32), 1 => Just(-0.0), 1 => Just(1.0), 1 => Just(1e-40), 1 => -1e38f32..1e38]
}

#[derive(Debug)]
struct Case {
    rows: usize,
    columns: usize,
    base: Option<Recipe>,
    terms: Vec<(f32, Recipe)>,
    threads: usize,
    misalignment: usize,
}

fn case(base: &'static [DType], terms: &'static [DType], flat: bool) -> impl Strategy<Value = Case> {
    case_of(shapes(), recipe(base, flat), recipe(terms, flat))
}

fn shapes() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![(Just(1usize), 0..5000usize), (0..70usize, 0..70usize)]
}

fn case_of(
    shape: impl Strategy<Value = (usize, usize)>,
    base: impl Strategy<Value = Recipe>,
    terms: impl Strategy<Value = Recipe>,
) -> impl Strategy<Value = Case> {
    (
        shape,
        proptest::option::weighted(0.8, base),
        proptest::collection::vec((coefficient(), terms), 0..12),
        1..5usize,
        0..17usize,
    )
        .prop_map(|((rows, columns), base, terms, threads, misalignment)| Case {
            rows,
            columns,
            base,
            terms,
            threads,
            misalignment,
        })
}

/// A job whose result is wanted whole and in order.
fn job<'a>(
    base: Option<&'a Tensor>,
    coefficients: &'a [f32],
    terms: Vec<&'a Source>,
    out: &'a mut [f32],
) -> TensorJob<'a> {
    TensorJob { name: "a", base, coefficients, terms, outputs: vec![Output::whole(out)] }
}

fn check(case: &Case) {
    let count = case.rows * case.columns;
    let base = case.base.map(|base| base.make(case.rows, case.columns));
    let terms: Vec<_> = case.terms.iter().map(|(_, term)| term.source(case.rows, case.columns)).collect();
    let terms: Vec<_> = terms.iter().collect();
    let coefficients: Vec<_> = case.terms.iter().map(|&(coefficient, _)| coefficient).collect();
    let want = expected(&coefficients, base.as_ref(), &terms, count);
    for &kernel in Kernel::available() {
        let mut memory = vec![-7.0f32; count + 32];
        let range = case.misalignment..case.misalignment + count;
        let job = job(base.as_ref(), &coefficients, terms.clone(), &mut memory[range.clone()]);
        combine(kernel, case.threads, vec![job], None).unwrap();
        assert_same(&memory[range.clone()], &want, &(kernel, case));
        memory.drain(range);
        assert!(memory.iter().all(|&v| v == -7.0), "{kernel} wrote outside its output; {case:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn f32_terms(case in case(&[DType::F32], &[DType::F32], true)) {
        check(&case);
    }

    #[test]
    fn f16_terms(case in case(&[DType::F32, DType::F16], &[DType::F16], true)) {
        check(&case);
    }

    #[test]
    fn bf16_terms(case in case(&[DType::F32, DType::BF16], &[DType::BF16], true)) {
        check(&case);
    }

    #[test]
    fn f64_terms(case in case(&[DType::F32, DType::F64], &[DType::F64], true)) {
        check(&case);
    }

    #[test]
    fn strided_f32(case in case(&[DType::F32], &[DType::F32], false)) {
        check(&case);
    }

    #[test]
    fn blocks_of_one_format(
        case in proptest::sample::select(vec![0, 1, 2, 3, 4])
            .prop_flat_map(|f| case_of(shapes(), recipe(&[DType::F32, DType::F16], true), blocks(&BlockFormat::ALL[f..][..1])))
    ) {
        check(&case);
    }

    #[test]
    fn blocks_of_any_format(case in case_of(shapes(), recipe(&FLOATS, false), blocks(&BlockFormat::ALL))) {
        check(&case);
    }

    #[test]
    fn matrices_of_low_rank(case in case_of((1..40usize, 1..700usize), recipe(&FLOATS, false), low_rank())) {
        check(&case);
    }

    #[test]
    fn anything(case in case(&FLOATS, &FLOATS, false)) {
        check(&case);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Enough bytes that more than one thread takes part.
    #[test]
    fn threads(case in case_of((200..400usize, 300..600usize), recipe(&FLOATS, false), recipe(&FLOATS, false))) {
        check(&case);
    }

    #[test]
    fn threads_and_blocks(
        case in case_of((200..400usize, 300..600usize), recipe(&FLOATS, false), blocks(&BlockFormat::ALL))
    ) {
        check(&case);
    }
}

/// Every f16 and every bf16, not only those that chance picks.
#[test]
fn halves_convert_exactly() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let mapping = Arc::new(Mapping::from_vec(bytes, "test"));
    for (dtype, value) in [
        (DType::F16, (|b| f16::from_bits(b).to_f32()) as fn(u16) -> f32),
        (DType::BF16, |b| bf16::from_bits(b).to_f32()),
    ] {
        let all = Tensor::contiguous(&mapping, 0..1 << 17, dtype, &[1 << 16]).unwrap();
        let want: Vec<f32> = (0..=u16::MAX).map(value).collect();
        for &kernel in Kernel::available() {
            let mut out = vec![0.0; 1 << 16];
            // As the base alone, where even the sign of zero stays, and as the only term.
            combine(kernel, 1, vec![job(Some(&all), &[], vec![], &mut out)], None).unwrap();
            assert_same(&out, &want, &(kernel, dtype));
            let term = Source::from(all.clone());
            combine(kernel, 1, vec![job(None, &[1.0], vec![&term], &mut out)], None).unwrap();
            let want: Vec<f32> = want.iter().map(|&v| f32::mul_add(1.0, v, 0.0)).collect();
            assert_same(&out, &want, &(kernel, dtype));
        }
    }
}

/// Every scale that a block can have, with codes that go through all of a format's: also scales so large that offsets
/// times them are infinite, and those below the normal numbers.
#[test]
fn blocks_of_every_scale() {
    for format in BlockFormat::ALL {
        let codes = format.block_bytes() - 2;
        let bytes: Vec<u8> = (0..=u16::MAX)
            .flat_map(|scale| {
                let code = move |j: usize| (usize::from(scale) * 37 + j * 101) as u8;
                scale.to_le_bytes().into_iter().chain((0..codes).map(code))
            })
            .collect();
        let range = 0..bytes.len();
        let mapping = Arc::new(Mapping::from_vec(bytes, "test"));
        let term = Source::from(Blocks::new(&mapping, range, format, &[BLOCK << 16]).unwrap());
        // Before it a term whose products are below the smallest number: a sum is −0.0 then, and what is added to it
        // shows the sign of every zero.
        let tiny = Mapping::from_vec(f32::to_le_bytes(-f32::MIN_POSITIVE).repeat(BLOCK << 16), "test");
        let tiny = Tensor::contiguous(&Arc::new(tiny), 0..BLOCK << 18, DType::F32, &[BLOCK << 16]).unwrap();
        let tiny = Source::from(tiny);
        for coefficient in [0.75, -0.75] {
            let coefficients = [1e-40, coefficient];
            let want = expected(&coefficients, None, &[&tiny, &term], BLOCK << 16);
            for &kernel in Kernel::available() {
                let mut out = vec![0.0; BLOCK << 16];
                combine(kernel, 1, vec![job(None, &coefficients, vec![&tiny, &term], &mut out)], None).unwrap();
                assert_same(&out, &want, &(kernel, format, coefficient));
            }
        }
    }
}

/// Large enough that the result is streamed past the caches and cut into pieces, in jobs of odd lengths; whatever the
/// caches are told.
#[test]
fn large_outputs_have_the_same_bits() {
    let lengths = [1usize, 1_400_001, 63, 0, 900_000, 4097];
    let dense = [DType::F32, DType::F16, DType::BF16, DType::F64].map(|dtype| (dtype, Layout::Flat));
    for (dtype, layout) in dense.into_iter().chain(BlockFormat::ALL.map(|format| (DType::U8, Layout::Blocks(format)))) {
        let recipe = |i: usize, m: u64, dtype, layout| Recipe {
            dtype,
            layout,
            misalignment: (i + m as usize) % 8,
            seed: i as u64 * 10 + m,
        };
        let coefficients = [0.3, -0.0, 1.25e-3];
        let bases: Vec<_> =
            (0..lengths.len()).map(|i| recipe(i, 9, DType::F32, Layout::Flat).make(1, lengths[i])).collect();
        let terms: Vec<Vec<_>> = (0..lengths.len())
            .map(|i| (0..3).map(|m| recipe(i, m, dtype, layout).source(1, lengths[i])).collect())
            .collect();
        let want: Vec<f32> = (0..lengths.len())
            .flat_map(|i| expected(&coefficients, Some(&bases[i]), &terms[i].iter().collect::<Vec<_>>(), lengths[i]))
            .collect();
        for &kernel in Kernel::available() {
            for (threads, hints) in [1, 3, 3, 3, 3].into_iter().zip([None].into_iter().chain(Hints::ALL.map(Some))) {
                Hints::set(hints);
                let mut memory = vec![-7.0f32; want.len() + 1];
                let mut rest = &mut memory[1..];
                let mut jobs = Vec::new();
                for i in 0..lengths.len() {
                    let (out, more) = rest.split_at_mut(lengths[i]);
                    rest = more;
                    jobs.push(job(Some(&bases[i]), &coefficients, terms[i].iter().collect(), out));
                }
                combine(kernel, threads, jobs, None).unwrap();
                assert_same(&memory[1..], &want, &(kernel, dtype, layout, threads, hints));
            }
        }
    }
}
