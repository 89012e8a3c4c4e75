//! A task written as a plain .onnx file computes what the encoder computes with the same weights.

use crate::support;
use std::path::Path;

use crate::support::onnx_file::OnnxFileEncoder;
use crate::support::tensors::digits_model;
use crate::support::{relative_l2, runtime};
use taskbasis::{Activation, Encoder, EncoderOptions, ErrorKind, write_onnx};

fn options() -> EncoderOptions {
    EncoderOptions { threads: 2, ..EncoderOptions::default() }
}

#[test]
fn an_export_computes_the_same() {
    let Some((weights, golden)) = digits_model().filter(|_| runtime()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zeroshot.onnx");
    let pixels = golden.values("pixel_values");
    for activation in [Activation::QuickGelu, Activation::Gelu] {
        let arch = weights.arch(activation);
        write_onnx(&arch, &weights, &path, &[]).unwrap();
        let frozen = OnnxFileEncoder::open(&path, &options()).unwrap();
        assert_eq!((frozen.image, frozen.embed_dim), ([3, 32, 32], arch.embed_dim));
        let encoder = Encoder::new(&arch, &options()).unwrap();
        for n in [1, 7, 32] {
            let pixels = &pixels[..n * arch.pixels()];
            let (expected, embeds) = (encoder.encode(&weights, pixels, n).unwrap(), frozen.encode(pixels, n).unwrap());
            let error = relative_l2(&embeds, &expected);
            assert!(error < 1e-5, "{arch}, {n} images: {error}");
        }
    }
    // Files of other programs open as well.
    let Some(torch) = support::digits("onnx/torchscript_export_opset16.onnx") else { return };
    let expected = golden.values("zeroshot/embeds");
    let embeds = OnnxFileEncoder::open(torch, &options()).unwrap().encode(pixels, 32).unwrap();
    assert!(relative_l2(&embeds, expected) < 2e-5, "{}", relative_l2(&embeds, expected));
}

#[test]
fn what_does_not_fit_is_named() {
    let Some((weights, golden)) = digits_model().filter(|_| runtime()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zeroshot.onnx");
    let arch = weights.arch(Activation::QuickGelu);
    let mut broken = weights.clone();
    broken.values_mut("visual.proj").pop();
    let error = write_onnx(&arch, &broken, &path, &[]).unwrap_err();
    assert_eq!((error.kind(), error.tensor_name()), (ErrorKind::Mismatch, Some("visual.proj")));
    assert!(!path.exists());

    let open = |path: &Path| OnnxFileEncoder::open(path, &options());
    assert_eq!(open(&path).unwrap_err().kind(), ErrorKind::Io, "there is no such file");
    std::fs::write(&path, "no model").unwrap();
    let error = open(&path).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Runtime, Some(path.as_path())));

    write_onnx(&arch, &weights, &path, &[]).unwrap();
    let encoder = open(&path).unwrap();
    assert!(encoder.encode(golden.values("pixel_values"), 31).unwrap_err().to_string().contains("31·3·32·32"));
    assert_eq!(encoder.encode(&[], 0).unwrap(), [0.0; 0]);
}
