mod formats;

use ::png::{BitDepth, ColorType, Encoder};

use super::*;

fn png(width: u32, height: u32, color: ColorType, depth: BitDepth, data: &[u8], palette: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ColorType::Indexed {
        encoder.set_palette(palette.to_vec());
        encoder.set_trns(vec![0; palette.len() / 3]);
    }
    encoder.write_header().unwrap().write_image_data(data).unwrap();
    bytes
}

/// The 8-bit colours of the S×S crop.
fn colours(size: usize, bytes: &[u8]) -> Vec<[u8; 3]> {
    let preprocess = Preprocess::new(size).unwrap().with_mean_std([0.0; 3], [1.0 / 255.0; 3]).unwrap();
    let mut out = vec![f32::NAN; preprocess.len()];
    preprocess.encoded(bytes, &mut out).unwrap();
    let area = size * size;
    (0..area).map(|at| [at, at + area, at + 2 * area].map(|at| out[at].round() as u8)).collect()
}

fn grays(size: usize, bytes: &[u8]) -> Vec<u8> {
    colours(size, bytes).iter().map(|rgb| rgb[0]).collect()
}

#[test]
fn black_and_white_stays_so() {
    // Two rows of three pixels: 101, 010; the third column falls to the crop.
    let bytes = png(3, 2, ColorType::Grayscale, BitDepth::One, &[0b1010_0000, 0b0100_0000], &[]);
    assert_eq!(grays(2, &bytes), [255, 0, 0, 255]);
    // Enlarged, no grey appears between.
    assert!(grays(32, &bytes).iter().all(|&value| value == 0 || value == 255));
}

#[test]
fn few_bits_of_gray_reach_from_black_to_white() {
    let bytes = png(2, 2, ColorType::Grayscale, BitDepth::Two, &[0b0001_0000, 0b1011_0000], &[]);
    assert_eq!(grays(2, &bytes), [0, 85, 170, 255]);
    let bytes = png(2, 2, ColorType::Grayscale, BitDepth::Four, &[0x0f, 0x18], &[]);
    assert_eq!(grays(2, &bytes), [0, 255, 17, 136]);
}

#[test]
fn of_sixteen_bits_the_upper_eight_count() {
    let data = [0x12, 0xff, 0xab, 0x00, 0x00, 0x80, 0xff, 0xff];
    let bytes = png(2, 2, ColorType::Grayscale, BitDepth::Sixteen, &data, &[]);
    assert_eq!(grays(2, &bytes), [0x12, 0xab, 0, 0xff]);
}

#[test]
fn a_palette_gives_its_colours_whatever_their_alpha() {
    let palette = [10, 20, 30, 40, 50, 60, 70, 80, 90];
    for (depth, data) in [(BitDepth::Eight, [0, 1, 2, 3].as_slice()), (BitDepth::Two, &[0b0001_0000, 0b1011_0000])] {
        let bytes = png(2, 2, ColorType::Indexed, depth, data, &palette);
        // The fourth colour does not exist.
        assert_eq!(colours(2, &bytes), [[10, 20, 30], [40, 50, 60], [70, 80, 90], [0; 3]]);
        assert!(colours(7, &bytes).iter().all(|rgb| *rgb == [0; 3] || palette.chunks(3).any(|known| known == rgb)));
    }
}

#[test]
fn alpha_weighs_and_is_dropped() {
    // Left opaque black, right transparent white: where both mix, only black counts.
    let data = [0, 255, 255, 0, 0, 255, 255, 0];
    let bytes = png(2, 2, ColorType::GrayscaleAlpha, BitDepth::Eight, &data, &[]);
    assert_eq!(grays(2, &bytes), [0, 255, 0, 255], "not resized: nothing mixes");
    assert_eq!(grays(1, &bytes), [0]);
    let rgba: Vec<u8> = data.chunks(2).flat_map(|pixel| [pixel[0], pixel[0], pixel[0], pixel[1]]).collect();
    assert_eq!(grays(1, &png(2, 2, ColorType::Rgba, BitDepth::Eight, &rgba, &[])), [0]);
}

#[test]
fn what_is_no_whole_image_is_refused() {
    use crate::ErrorKind::{Format, Unsupported};
    let preprocess = Preprocess::new(2).unwrap();
    let good = png(20, 20, ColorType::Rgb, BitDepth::Eight, &[7; 1200], &[]);
    let mut flipped = good.clone();
    flipped[50] ^= 1;
    let mut out = [0.5; 12];
    for (bytes, kind) in [
        (&good[..good.len() / 2], Format),
        (&good[..20], Format),
        (&flipped, Format),
        (b"\xff\xd8\xff\xe0", Format),
        (b"GIF89a", Format),
        (b"abc", Unsupported),
        (b"", Format),
    ] {
        let error = preprocess.encoded(bytes, &mut out).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert_eq!(out, [0.5; 12], "nothing is written");
    preprocess.encoded(&good, &mut out).unwrap();
    let error = preprocess.with_max_pixels(399).encoded(&good, &mut out).unwrap_err();
    assert!(error.to_string().contains("at most 399 pixels, got 20 × 20"), "{error}");
}

/// 60,000 × 60,000 in 45 bytes: the header must be enough to refuse it.
#[test]
fn a_bomb_is_not_decoded() {
    let mut bomb = png(1, 1, ColorType::Grayscale, BitDepth::Eight, &[0], &[]);
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    // The header's checksum, so that it is the size that is refused.
    let checksum = crc32(&bomb[12..29]).to_be_bytes();
    bomb[29..33].copy_from_slice(&checksum);
    let error = Preprocess::new(1).unwrap().encoded(&bomb, &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Unsupported, "{error}");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}
