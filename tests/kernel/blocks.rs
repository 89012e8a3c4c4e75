//! Block formats: the bytes are as documented, the error is what the bits allow, and files cannot do harm.

use std::sync::Arc;

use proptest::prelude::*;
use taskbasis::tensor::{BLOCK, MAX_SCALE};
use taskbasis::{BlockFormat, Blocks, ErrorKind, Mapping, Rounding, Source};

fn view(bytes: Vec<u8>, format: BlockFormat, shape: &[usize]) -> taskbasis::Result<Blocks> {
    let length = bytes.len();
    Blocks::new(&Arc::new(Mapping::from_vec(bytes, "test.taskbasis")), 0..length, format, shape)
}

fn quantized(values: &[f32], format: BlockFormat, rounding: Rounding) -> Vec<f32> {
    let blocks = view(format.quantize(values, rounding).unwrap(), format, &[values.len()]).unwrap();
    Source::from(blocks).to_f32().unwrap().into_owned()
}

/// Sums of uniform numbers: nearly normal, as weights are.
fn weights(count: usize, size: f32) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    (0..count).map(|_| (0..6).map(|_| next()).sum::<f32>() * size).collect()
}

fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let off = squares(&mut got.iter().zip(want).map(|(g, w)| f64::from(*g) - f64::from(*w)));
    (off / squares(&mut want.iter().map(|w| f64::from(*w)))).sqrt()
}

/// The layout of `docs`, spelled out by hand for one block: scale 0.5, code i·i mod 2^bits.
#[test]
fn the_layout_is_the_documented_one() {
    for (format, offset) in BlockFormat::ALL.into_iter().zip([128.0, 32.0, 8.0, 4.0, 1.5]) {
        let codes: [usize; BLOCK] = std::array::from_fn(|i| (i * i + i / 3) % (1 << format.bits()));
        let mut block = vec![0x00, 0x3f];
        match format {
            BlockFormat::Q8 => block.extend(codes.map(|code| code as u8)),
            BlockFormat::Q6 => {
                block.extend((0..32).map(|j| (codes[j] & 15 | (codes[32 + j] & 15) << 4) as u8));
                block.extend((0..16).map(|j| (0..4).map(|k| codes[16 * k + j] >> 4 << (2 * k)).sum::<usize>() as u8));
            }
            BlockFormat::Q4 => block.extend((0..32).map(|j| (codes[j] | codes[32 + j] << 4) as u8)),
            BlockFormat::Q3 => {
                block.extend((0..16).map(|j| (0..4).map(|k| (codes[16 * k + j] & 3) << (2 * k)).sum::<usize>() as u8));
                block.extend((0..8).map(|j| (0..8).map(|k| codes[8 * k + j] >> 2 << k).sum::<usize>() as u8));
            }
            _ => block.extend((0..16).map(|j| (0..4).map(|k| codes[16 * k + j] << (2 * k)).sum::<usize>() as u8)),
        }
        assert_eq!((block.len(), format.bytes(65)), (format.block_bytes(), Some(2 * block.len())), "{format}");
        let want = codes.map(|code| (code as f32 - offset) * 0.5);
        assert_eq!(format.dequantize(&block), want, "{format}");
        assert_eq!(format.name().parse::<BlockFormat>().unwrap(), format);
    }
    assert_eq!("q5".parse::<BlockFormat>().unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn the_error_is_what_the_bits_allow_at_any_size() {
    for size in [1e-25f32, 1e-6, 1e-3, 1.0, 1e20] {
        let values = weights(64 * 500 + 17, size);
        for (format, nearest, least) in [
            (BlockFormat::Q8, 0.0065, 0.0062),
            (BlockFormat::Q6, 0.026, 0.0245),
            (BlockFormat::Q4, 0.115, 0.095),
            (BlockFormat::Q3, 0.27, 0.185),
            (BlockFormat::Q2, 0.53, 0.345),
        ] {
            for (rounding, most) in [(Rounding::Nearest, nearest), (Rounding::LeastError, least)] {
                let error = relative_error(&quantized(&values, format, rounding), &values);
                assert!(error < most && error > most * 0.7, "{format} {rounding:?} at {size:e}: {error}");
            }
        }
    }
}

#[test]
fn what_a_format_can_hold_it_holds_exactly() {
    for format in BlockFormat::ALL {
        let zeros = format.quantize(&[0.0; 100], Rounding::LeastError).unwrap();
        assert!(view(zeros, format, &[100]).unwrap().is_zero(), "{format}");
        // Multiples of a step, the outermost level among them in every block, so that the step is found.
        let top = if format == BlockFormat::Q2 { 1.5 } else { (1 << (format.bits() - 1)) as f32 - 1.0 };
        let level = |i: usize| if i % BLOCK == 5 { top } else { top - (i * 7 % (2.0 * top + 1.0) as usize) as f32 };
        let values: Vec<f32> = (0..150).map(|i| level(i) / 512.0).collect();
        for rounding in [Rounding::Nearest, Rounding::LeastError] {
            assert_eq!(quantized(&values, format, rounding), values, "{format} {rounding:?}");
        }
    }
}

#[test]
fn what_cannot_be_quantised_is_refused() {
    for format in BlockFormat::ALL {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1.5e36] {
            let mut values = vec![1.0; 70];
            values[66] = bad;
            let error = format.quantize(&values, Rounding::Nearest).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains("element 66"), "{error}");
        }
        let largest = quantized(&[MAX_SCALE, -MAX_SCALE], format, Rounding::LeastError);
        assert!(largest.iter().all(|v| v.is_finite() && v.abs() > MAX_SCALE * 0.98), "{format}: {largest:?}");
        for tiny in [f32::from_bits(1), f32::MIN_POSITIVE, 1e-37] {
            assert!(quantized(&[tiny, -tiny, 0.0], format, Rounding::LeastError).iter().all(|v| v.abs() <= 2.0 * tiny));
        }
    }
}

#[test]
fn hostile_bytes_are_refused_or_verified() {
    for format in BlockFormat::ALL {
        let bytes = |count: usize| vec![0x11; count * format.block_bytes()];
        assert!(view(bytes(2), format, &[2, 33]).is_ok());
        for shape in [&[64][..], &[2, 65], &[], &[0], &[usize::MAX, 3], &[usize::MAX]] {
            assert_eq!(view(bytes(2), format, shape).unwrap_err().kind(), ErrorKind::Format, "{format} {shape:?}");
        }
        let mapping = Arc::new(Mapping::from_vec(bytes(2), "test"));
        let end = mapping.len();
        for range in [1..end + 1, end..2 * end, end..0, usize::MAX - end + 1..usize::MAX] {
            assert_eq!(Blocks::new(&mapping, range, format, &[128]).unwrap_err().kind(), ErrorKind::Format);
        }
        for (bits, fits) in [(0x7f80u16, false), (0xff80, false), (0x7fc0, false), (0x7b80, true), (0xfb81, false)] {
            let mut bytes = bytes(2);
            bytes[format.block_bytes()..][..2].copy_from_slice(&bits.to_le_bytes());
            let blocks = view(bytes, format, &[65]).unwrap();
            let verified = Source::from(blocks.clone()).verify_finite();
            assert_eq!(verified.is_ok(), fits, "{format} {bits:#x}");
            match verified {
                Ok(()) => assert!(Source::from(blocks).to_f32().unwrap().iter().all(|v| v.is_finite())),
                Err(error) => assert!(error.to_string().contains("from 64 on"), "{error}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Cut anywhere, elements are those of their block; zero means every element, and none of the padding.
    #[test]
    fn pieces_are_those_of_the_whole(
        seed in any::<[u8; 32]>(), count in 1usize..400, from in 0usize..400, length in 0usize..400, f in 0usize..5
    ) {
        let format = BlockFormat::ALL[f];
        let mut bytes: Vec<u8> =
            seed.iter().copied().cycle().take(format.bytes(count).unwrap()).collect();
        bytes.chunks_exact_mut(format.block_bytes()).for_each(|block| block[1] &= 0x7b);
        let whole: Vec<f32> = bytes.chunks_exact(format.block_bytes()).flat_map(|b| format.dequantize(b)).collect();
        let blocks = view(bytes, format, &[count]).unwrap();
        let (from, to) = (from.min(count), (from + length).min(count).max(from.min(count)));
        let mut part = vec![7.0; to - from];
        blocks.read_f32(from, &mut part);
        prop_assert_eq!(&part[..], &whole[from..to]);
        prop_assert_eq!(blocks.is_zero(), whole[..count].iter().all(|&v| v == 0.0));
    }

    /// Piece by piece gives the same bytes, and the least error is never more than the nearest's.
    #[test]
    fn quantising_is_local_and_least(values in proptest::collection::vec(-1.0f32..1.0, 1..300), f in 0usize..5) {
        let format = BlockFormat::ALL[f];
        for rounding in [Rounding::Nearest, Rounding::LeastError] {
            let pieces: Vec<u8> =
                values.chunks(128).flat_map(|piece| format.quantize(piece, rounding).unwrap()).collect();
            prop_assert_eq!(pieces, format.quantize(&values, rounding).unwrap());
        }
        let error = |rounding| relative_error(&quantized(&values, format, rounding), &values);
        let (least, nearest) = (error(Rounding::LeastError), error(Rounding::Nearest));
        prop_assert!(least <= nearest * 1.0001, "{least} > {nearest}");
        let largest = values.iter().fold(0.0f32, |l, v| l.max(v.abs()));
        let step = if format == BlockFormat::Q2 { largest / 1.5 } else { largest / ((1 << (format.bits() - 1)) - 1) as f32 };
        let nearest = quantized(&values, format, Rounding::Nearest);
        prop_assert!(nearest.iter().zip(&values).all(|(n, v)| (n - v).abs() <= step * 0.51 + largest * 0.005));
    }
}
