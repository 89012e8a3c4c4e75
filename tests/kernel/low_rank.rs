//! Matrices of low rank: the bytes are as documented, values are those of the formula, and files cannot do harm.

use std::sync::Arc;

use taskbasis::kernel::{Kernel, Output, TensorJob, combine};
use taskbasis::{BlockFormat, Blocks, ErrorKind, LowRank, LowRankFormat, Mapping, Rounding, Source};

fn format(text: &str) -> LowRankFormat {
    text.parse().unwrap()
}

/// The factors of a matrix, and the bytes that hold them: blocks of the left one, then blocks of the right one.
fn factors(format: LowRankFormat, rows: usize, columns: usize) -> ([Vec<f32>; 2], Vec<u8>) {
    let mut bytes = Vec::new();
    let values = [rows, columns].map(|length| {
        let count = format.rank() * length;
        let values: Vec<f32> = (0..count).map(|i| ((i * 7919 + length) % 1013) as f32 / 506.0 - 1.0).collect();
        let blocks = format.factors().quantize(&values, Rounding::LeastError).unwrap();
        let mapping = Arc::new(Mapping::from_vec(blocks.clone(), "factor"));
        bytes.extend(&blocks);
        let blocks = Blocks::new(&mapping, 0..blocks.len(), format.factors(), &[count]).unwrap();
        Source::from(blocks).to_f32().unwrap().into_owned()
    });
    (values, bytes)
}

fn matrix(bytes: Vec<u8>, format: LowRankFormat, shape: &[usize]) -> taskbasis::Result<LowRank> {
    let length = bytes.len();
    LowRank::new(&Arc::new(Mapping::from_vec(bytes, "test.taskbasis")), 0..length, format, shape)
}

#[test]
fn values_are_those_of_the_formula_in_every_kernel_and_piece() {
    for (text, shape) in
        [("r1q8", vec![5, 7]), ("r16", vec![40, 513]), ("r3q2", vec![65, 2, 3, 3]), ("r9q3", vec![1, 300])]
    {
        let (format, rows) = (format(text), shape[0]);
        let columns: usize = shape[1..].iter().product();
        let ([left, right], bytes) = factors(format, rows, columns);
        assert_eq!(bytes.len(), format.bytes(rows, columns).unwrap());
        let value = |i: usize| {
            let direction =
                |sum: f32, k: usize| f32::mul_add(left[k * rows + i / columns], right[k * columns + i % columns], sum);
            (0..format.rank()).fold(0.0f32, direction)
        };
        let want: Vec<f32> = (0..rows * columns).map(value).collect();
        let source = Source::from(matrix(bytes, format, &shape).unwrap());
        assert_eq!(source.to_f32().unwrap(), want, "{text}");
        assert_eq!(source.in_memory().unwrap().to_f32().unwrap(), want, "{text}");
        for (from, to) in [(0, 1), (columns - 1, (columns + 2).min(want.len())), (want.len() / 3, want.len())] {
            let mut part = vec![7.0; to.max(from) - from];
            source.read_f32(from, &mut part).unwrap();
            assert_eq!(part, want[from..to.max(from)], "{text} from {from}");
        }
        for &kernel in Kernel::available() {
            for threads in [1, 3] {
                let mut out = vec![7.0; want.len()];
                let outputs = vec![Output::whole(&mut out)];
                let job = TensorJob { name: "a", base: None, coefficients: &[1.0], terms: vec![&source], outputs };
                combine(kernel, threads, vec![job], None).unwrap();
                assert_eq!(out, want, "{text}, {kernel}");
            }
        }
    }
}

#[test]
fn names_say_rank_and_format() {
    for (text, rank, factors) in
        [("r16", 16, BlockFormat::Q4), ("r1q8", 1, BlockFormat::Q8), ("r4096q2", 4096, BlockFormat::Q2)]
    {
        let format = format(text);
        assert_eq!((format.rank(), format.factors(), format.to_string().as_str()), (rank, factors, text));
    }
    assert_eq!(format("r8q4").to_string(), "r8");
    for wrong in ["r", "r0", "r4097", "r16q5", "r16f16", "16", "rq4", "r-1", "r99999999999999999999"] {
        let error = wrong.parse::<LowRankFormat>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{wrong}");
        assert!(error.to_string().contains(wrong), "{error}");
    }
}

#[test]
fn hostile_bytes_are_refused_or_verified() {
    let format = format("r2");
    let (_, bytes) = factors(format, 10, 12);
    for shape in [&[120][..], &[10, 12, 40], &[10, 80], &[200, 12], &[0, 12], &[10, 0], &[], &[usize::MAX, 12]] {
        assert_eq!(matrix(bytes.clone(), format, shape).unwrap_err().kind(), ErrorKind::Format, "{shape:?}");
    }
    let mapping = Arc::new(Mapping::from_vec(bytes.clone(), "test"));
    let end = mapping.len();
    for range in [1..end + 1, 1..end, end..2 * end, end..0, usize::MAX - end + 1..usize::MAX] {
        assert_eq!(LowRank::new(&mapping, range, format, &[10, 12]).unwrap_err().kind(), ErrorKind::Format);
    }
    let second = format.factors().bytes(20).unwrap();
    // Infinity, a NaN, 2^40 and the next larger scale, in either factor.
    for (bits, fits) in [(0x7f80u16, false), (0x7fc0, false), (0x5380, true), (0xd381, false)] {
        for at in [0, second] {
            let mut bytes = bytes.clone();
            bytes[at..at + 2].copy_from_slice(&bits.to_le_bytes());
            let source = Source::from(matrix(bytes, format, &[10, 12]).unwrap());
            assert_eq!(source.verify_finite().is_ok(), fits, "{bits:#x} at {at}");
            if fits {
                assert!(source.to_f32().unwrap().iter().all(|value| value.is_finite()));
            }
        }
    }
    let mut bytes = bytes;
    bytes[..2].fill(0);
    assert!(matrix(bytes, format, &[10, 12]).is_ok_and(|matrix| Source::from(matrix).is_zero()), "a factor of zeros");
}
