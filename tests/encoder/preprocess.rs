//! Preprocessing equals open_clip's evaluation transform, bit for bit.
#![cfg(feature = "images")]

use std::path::{Path, PathBuf};

use crate::support::whole_digits as digits;
use safetensors::SafeTensors;
use taskbasis::preprocess::{PixelFormat, Pixels, Preprocess};

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn every_photo_is_open_clips_tensor() {
    let Some(path) = digits("preprocess/expected.safetensors") else { return };
    let file = std::fs::read(path).unwrap();
    let expected = SafeTensors::deserialize(&file).unwrap();
    let mut compared = 0;
    for (key, tensor) in expected.iter() {
        let (name, size) = key.rsplit_once('/').unwrap();
        let Some(photo) = digits(&format!("preprocess/{name}")) else { continue };
        let preprocess = Preprocess::new(size.parse().unwrap()).unwrap();
        let mut out = vec![f32::NAN; preprocess.len()];
        preprocess.file(&photo, &mut out).unwrap();
        let expected = floats(tensor.data());
        let worst = expected.iter().zip(&out).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(expected == out, "{key}: up to {worst} away");
        compared += 1;
    }
    assert!(compared > 0, "no photo to compare with");
}

/// Red rises by 5 per column, green by 7 per row, blue is 128; 48 × 32 pixels, so that a size of 32 only crops it.
#[test]
fn a_jpeg_is_decoded_to_its_colours() {
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preprocess_ramp.jpg");
    let preprocess = Preprocess::new(32).unwrap().with_mean_std([0.0; 3], [1.0 / 255.0; 3]).unwrap();
    let mut out = vec![f32::NAN; preprocess.len()];
    preprocess.file(&photo, &mut out).unwrap();
    for (at, &value) in out.iter().enumerate() {
        let (plane, x, y) = (at / 1024, at % 32 + 8, at / 32 % 32);
        let colour = [x * 5, y * 7, 128][plane] as f32;
        assert!((value - colour).abs() <= 4.0, "{value} instead of {colour} at {x}, {y} of plane {plane}");
    }
    let bytes = std::fs::read(photo).unwrap();
    let error = preprocess.encoded(&bytes[..bytes.len() / 2], &mut out).unwrap_err();
    assert_eq!(error.kind(), taskbasis::ErrorKind::Format, "{error}");
}

#[test]
fn a_batch_of_files_is_in_their_order_and_names_the_one_that_fails() {
    let Some(photo) = digits("preprocess/photo_small.png") else { return };
    let ramp = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preprocess_ramp.jpg");
    let preprocess = Preprocess::new(32).unwrap();
    let mut expected = vec![0.0; 2 * preprocess.len()];
    let (first, second) = expected.split_at_mut(preprocess.len());
    preprocess.file(&photo, first).unwrap();
    preprocess.file(&ramp, second).unwrap();
    assert!(preprocess.files(&[photo.clone(), ramp.clone()], 2).unwrap() == expected);
    let missing = PathBuf::from("no/such.png");
    let error = preprocess.files(&[photo, missing.clone(), ramp], 2).unwrap_err();
    assert_eq!(error.path(), Some(missing.as_path()));
}

#[test]
fn rows_must_fit_their_stride() {
    let preprocess = Preprocess::new(8).unwrap();
    let image = Pixels { row_stride: 3, ..Pixels::packed(&[0; 8 * 8 * 3], 8, 8, PixelFormat::Rgb8) };
    let error = preprocess.pixels(image, &mut vec![0.0; preprocess.len()]).unwrap_err().to_string();
    assert_eq!(error, "row_stride is smaller than a row: expected at least 24, got 3");
}
