use super::resize::{self, Geometry};
use super::transform::*;
use super::*;

fn preprocessed(size: usize, pixels: Pixels<'_>) -> Vec<f32> {
    let preprocess = Preprocess::new(size).unwrap();
    let mut out = vec![f32::NAN; preprocess.len()];
    preprocess.pixels(pixels, &mut out).unwrap();
    out
}

/// Bytes without a pattern, the same ones every time.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(count)
    .collect()
}

#[test]
fn offsets_round_half_to_even() {
    assert_eq!([0, 1, 2, 3, 4, 5, 6, 7, 9, 11].map(resize::half_to_even), [0, 0, 1, 2, 2, 2, 3, 4, 4, 6]);
}

#[test]
fn the_long_side_is_truncated() {
    let geometry = Geometry::new(600, 301, ResizeMode::default(), 224, 224).unwrap();
    assert_eq!((geometry.width, geometry.height), (446, 224));
    assert_eq!((geometry.columns, geometry.rows), (111..335, 0..224));
    let geometry = Geometry::new(3, 7, ResizeMode::default(), 2, 2).unwrap();
    assert_eq!((geometry.width, geometry.height), (2, 4));
}

#[test]
fn gray_is_equal_red_green_and_blue() {
    for (width, height) in [(28, 28), (61, 40), (31, 90)] {
        let gray = noise(width * height);
        let rgb: Vec<u8> = gray.iter().flat_map(|&value| [value; 3]).collect();
        let from_gray = preprocessed(32, Pixels::packed(&gray, width, height, PixelFormat::Gray8));
        assert_eq!(from_gray, preprocessed(32, Pixels::packed(&rgb, width, height, PixelFormat::Rgb8)));
    }
}

#[test]
fn an_opaque_alpha_changes_nothing() {
    let rgb = noise(40 * 30 * 3);
    let rgba: Vec<u8> = rgb.chunks(3).flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 255]).collect();
    let with_alpha = preprocessed(32, Pixels::packed(&rgba, 40, 30, PixelFormat::Rgba8));
    assert_eq!(with_alpha, preprocessed(32, Pixels::packed(&rgb, 40, 30, PixelFormat::Rgb8)));
}

#[test]
fn blue_first_is_red_first_exchanged() {
    for (bgr, rgb) in [(PixelFormat::Bgr8, PixelFormat::Rgb8), (PixelFormat::Bgra8, PixelFormat::Rgba8)] {
        let data = noise(40 * 30 * 4);
        let mut swapped = data.clone();
        swapped.chunks_exact_mut(rgb.channels()).for_each(|pixel| pixel.swap(0, 2));
        let expected = preprocessed(32, Pixels::packed(&data, 40, 30, rgb));
        assert_eq!(expected, preprocessed(32, Pixels::packed(&swapped, 40, 30, bgr)));
    }
}

#[test]
fn padding_after_rows_is_not_seen() {
    let packed = noise(10 * 12 * 3);
    let mut padded = vec![77; 12 * 37 - 7];
    for (y, row) in packed.chunks(30).enumerate() {
        padded[y * 37..][..30].copy_from_slice(row);
    }
    let pixels = Pixels { data: &padded, width: 10, height: 12, row_stride: 37, format: PixelFormat::Rgb8 };
    assert_eq!(preprocessed(8, pixels), preprocessed(8, Pixels::packed(&packed, 10, 12, PixelFormat::Rgb8)));
}

#[test]
fn any_size_works() {
    let data = noise(200_000);
    for (width, height) in [(1, 1), (1, 2), (3, 1), (224, 224), (225, 224), (1, 200_000), (200_000, 1), (2, 100_000)] {
        let out = preprocessed(224, Pixels::packed(&data, width, height, PixelFormat::Gray8));
        assert!(out.iter().all(|value| value.is_finite()), "{width} × {height}");
    }
    let one = preprocessed(224, Pixels::packed(&[51, 102, 204], 1, 1, PixelFormat::Rgb8));
    let colour = [(0.2, 0), (0.4, 1), (0.8, 2)].map(|(value, c)| (value - CLIP_MEAN[c]) / CLIP_STD[c]);
    for (plane, colour) in one.chunks(224 * 224).zip(colour) {
        assert!(plane.iter().all(|&value| (value - colour).abs() < 1e-6));
    }
}

#[test]
fn what_disagrees_is_refused() {
    let preprocess = Preprocess::new(8).unwrap();
    let data = [0; 300];
    let mut out = vec![0.0; preprocess.len()];
    let good = Pixels::packed(&data, 10, 10, PixelFormat::Rgb8);
    preprocess.pixels(good, &mut out).unwrap();
    for bad in [
        Pixels { width: 11, ..good },
        Pixels { height: 11, ..good },
        Pixels { width: 0, ..good },
        Pixels { height: 0, ..good },
        Pixels { row_stride: 29, ..good },
        Pixels { row_stride: 31, ..good },
        Pixels { format: PixelFormat::Rgba8, ..good },
        Pixels { width: usize::MAX, row_stride: usize::MAX, ..good },
        Pixels { height: usize::MAX, ..good },
        Pixels { row_stride: usize::MAX, ..good },
    ] {
        let error = preprocess.pixels(bad, &mut out).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument, "{error}");
    }
    assert!(preprocess.pixels(good, &mut out[1..]).is_err());
    let strip = vec![0; 10_000_000];
    let error = preprocess.pixels(Pixels::packed(&strip, 10_000_000, 1, PixelFormat::Gray8), &mut out).unwrap_err();
    assert!(error.to_string().contains("too elongated"), "{error}");
    assert!(Preprocess::new(0).is_err() && Preprocess::new(usize::MAX).is_err());
    assert!(Preprocess::new(8).unwrap().with_mean_std([0.0; 3], [1.0, 0.0, 1.0]).is_err());
    assert!(Preprocess::new(8).unwrap().with_mean_std([f32::NAN; 3], [1.0; 3]).is_err());
}

#[test]
fn mean_and_deviation_are_the_callers() {
    let preprocess = Preprocess::new(1).unwrap().with_mean_std([0.0, 0.5, 1.0], [1.0, 0.5, 2.0]).unwrap();
    let mut out = [0.0; 3];
    preprocess.pixels(Pixels::packed(&[255, 0, 255], 1, 1, PixelFormat::Rgb8), &mut out).unwrap();
    assert_eq!(out, [1.0, -1.0, 0.0]);
}

#[test]
fn a_batch_is_its_images_one_after_another() {
    let preprocess = Preprocess::new(8).unwrap();
    let data = noise(30 * 20 * 3 * 7);
    let mut images: Vec<Pixels<'_>> =
        data.chunks(30 * 20 * 3).map(|image| Pixels::packed(image, 30, 20, PixelFormat::Rgb8)).collect();
    let expected: Vec<f32> = images.iter().flat_map(|&image| preprocessed(8, image)).collect();
    for threads in [0, 1, 3, 64] {
        assert_eq!(preprocess.images(&images, threads).unwrap(), expected);
    }
    assert!(preprocess.images(&[], 2).unwrap().is_empty());
    images[4].width = 31;
    images[2].width = 33;
    let message = preprocess.images(&images, 1).unwrap_err().to_string();
    assert!(message.starts_with("images[2]: ") && message.contains("at least 99"), "{message}");
    assert!(preprocess.images(&images, 4).is_err());
}

/// 5×3 pixels of grey.
const FIFTEEN: [u8; 15] = [0, 37, 74, 111, 148, 185, 222, 3, 40, 77, 114, 151, 188, 225, 6];

/// The red values of what becomes of [`FIFTEEN`], in 8 bits again.
fn reds(preprocess: Preprocess) -> Vec<u8> {
    let preprocess = preprocess.with_mean_std([0.0; 3], [1.0 / 255.0; 3]).unwrap();
    let mut out = vec![f32::NAN; preprocess.len()];
    preprocess.pixels(Pixels::packed(&FIFTEEN, 5, 3, PixelFormat::Gray8), &mut out).unwrap();
    out[..out.len() / 3].iter().map(|value| value.round() as u8).collect()
}

/// The values are those of Pillow 12.2, and so are the next test's.
#[test]
fn every_mode_is_open_clips() {
    use ResizeMode::{Longest, Shortest, Squash};
    for (mode, edge, expected) in [
        (Shortest, 4, [15, 57, 94, 126, 159, 72, 18, 69, 210, 122, 74, 94, 135, 177, 227, 186]),
        (Shortest, 6, [72, 58, 63, 83, 151, 41, 4, 28, 184, 74, 39, 66, 167, 153, 163, 193]),
        (Squash, 4, [0, 46, 102, 147, 135, 102, 30, 100, 186, 152, 84, 58, 115, 165, 231, 48]),
        (Squash, 6, [66, 63, 67, 106, 190, 77, 5, 58, 223, 110, 42, 74, 161, 158, 173, 153]),
        (Longest, 4, [7, 7, 7, 7, 78, 79, 60, 119, 156, 158, 144, 54, 7, 7, 7, 7]),
        (Longest, 6, [15, 57, 94, 126, 159, 72, 18, 69, 210, 122, 74, 94, 135, 177, 227, 186]),
    ] {
        let preprocess = Preprocess::new(4).unwrap().with_resize(mode).with_edge(edge).unwrap().with_fill(7);
        assert_eq!((preprocess.resize(), preprocess.edge(), preprocess.fill()), (mode, edge, 7));
        assert_eq!(reds(preprocess), expected, "{mode} {edge}");
    }
}

#[test]
fn every_interpolation_is_pillows() {
    use Interpolation::{Bicubic, Bilinear, Box, Hamming, Lanczos, Nearest};
    for (interpolation, expected) in [
        (Nearest, [0, 37, 111, 148, 185, 222, 40, 77, 185, 222, 40, 77, 114, 151, 225, 6]),
        (Lanczos, [0, 44, 110, 147, 139, 98, 10, 110, 202, 159, 81, 58, 108, 161, 244, 49]),
        (Bilinear, [9, 52, 96, 139, 125, 101, 52, 95, 167, 144, 94, 65, 123, 166, 210, 61]),
        (Bicubic, [0, 46, 102, 147, 135, 102, 30, 100, 186, 152, 84, 58, 115, 165, 231, 48]),
        (Box, [0, 56, 111, 148, 185, 113, 40, 77, 185, 113, 40, 77, 114, 170, 225, 6]),
        (Hamming, [3, 49, 99, 145, 145, 126, 45, 91, 171, 153, 71, 63, 117, 163, 213, 26]),
    ] {
        let preprocess = Preprocess::new(4).unwrap().with_resize(ResizeMode::Squash).with_interpolation(interpolation);
        assert_eq!(reds(preprocess), expected, "{interpolation}");
        let name = serde_json::to_string(&interpolation).unwrap();
        assert_eq!(name, format!("\"{interpolation}\""), "configs and bundles have these names");
    }
}

#[test]
fn what_is_left_free_is_filled() {
    let longest = Preprocess::new(4).unwrap().with_resize(ResizeMode::Longest);
    let longest = longest.with_mean_std([0.0; 3], [1.0 / 255.0; 3]).unwrap();
    let ends = |pixels, fill| {
        let mut out = vec![f32::NAN; 48];
        longest.clone().with_fill(fill).pixels(pixels, &mut out).unwrap();
        [0, 16, 32].map(|plane| out[plane].round() as u8)
    };
    let line = [9; 16];
    assert_eq!(ends(Pixels::packed(&line[..4], 4, 1, PixelFormat::Gray8), 5), [5; 3]);
    assert_eq!(ends(Pixels::packed(&line, 4, 1, PixelFormat::Rgba8), 5), [5; 3]);
    assert_eq!(ends(Pixels::packed(&line, 4, 1, PixelFormat::Cmyk8), 0), [255; 3], "no ink is white");
    // An image that is all but a line has no pixel left on its shorter side.
    let error = longest.pixels(Pixels::packed(&[0; 9], 9, 1, PixelFormat::Gray8), &mut [0.0; 48]).unwrap_err();
    assert!(error.to_string().contains("too elongated"), "{error}");
    assert!(Preprocess::new(4).unwrap().with_edge(0).is_err() && Preprocess::new(4).unwrap().with_edge(8193).is_err());
}

#[test]
fn names_of_image_files() {
    use std::path::Path;
    for name in ["a.png", "b.JPG", "c.jpeg", "d.WebP", "e.tiff", "f.pgm", "folder.x/g.bmp"] {
        assert!(is_image_name(Path::new(name)), "{name}");
    }
    for name in ["png", ".png", "a.txt", "a.png.part", "a.", "a.heic"] {
        assert!(!is_image_name(Path::new(name)), "{name}");
    }
}
