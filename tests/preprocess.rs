//! Preprocessing equals open_clip's evaluation transform, bit for bit.
#![cfg(feature = "images")]

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use taskbasis::clip::preprocess::Preprocess;

fn digits(rel: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["examples/digits", "../shared/digits"].iter().map(|d| root.join(d).join(rel)).find(|p| p.exists())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn every_photo_is_open_clips_tensor() {
    let Some(path) = digits("preprocess/expected.safetensors") else {
        eprintln!("skipped: no preprocess/expected.safetensors");
        return;
    };
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
