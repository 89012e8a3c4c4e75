//! Hidden features: those of a transformer written out, in every precision, beside the embedding of the same run.

use std::sync::Arc;

use crate::support::tensors::Tensors;
use crate::support::{Random, naive, relative_l2, runtime};
use taskbasis::{
    Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, ErrorKind, Model, ModelOptions, Pooling, Precision,
    Residency, TaskWeights, Variant,
};

const FOLDER: &str = "examples/digits/bases/ViT-D-8_AE_M4_8task";
const BASE: &str = "examples/digits/base/pickled_module.pt";

fn open() -> (Arc<Model>, Arch) {
    let base = Checkpoint::open(BASE).unwrap();
    let arch = Arch::of(&base, ArchHints::default()).unwrap();
    (Model::new(base, Some(Basis::open(FOLDER).unwrap()), &ModelOptions::default()).unwrap(), arch)
}

fn tensors(task: &TaskWeights, arch: &Arch) -> Tensors {
    let weights = task.get().unwrap();
    let named = arch.parameters().into_iter().map(|(name, shape)| {
        let values = weights.get(&name).unwrap().to_vec();
        (name, (shape, values))
    });
    Tensors(named.collect())
}

#[test]
fn hidden_features_are_those_of_the_formulas() {
    if !runtime() {
        return;
    }
    let (model, arch) = open();
    let pixels = Random(11).many(3 * arch.pixels());
    let width = arch.width;
    for (expression, is_pinned) in [("Colors", false), ("base", true)] {
        let task = model.weights(&expression.parse().unwrap()).unwrap();
        let weights = tensors(&task, &arch);
        let expected = naive::hidden(&arch, &weights, &pixels, 3);
        // Canonical weights that are pinned are run as they are, by a session of their own.
        let _pin = is_pinned.then(|| task.pin().unwrap());
        for (precision, most) in [(Precision::F32, 1e-5), (Precision::Bf16, 1e-2), (Precision::Int8, 6e-2)] {
            let options = EncoderOptions { precision: precision.into(), ..EncoderOptions::default() };
            let encoder = Encoder::new(&arch, &options).unwrap();
            let hidden = encoder.encode_hidden(&task, &pixels, 3).unwrap();
            assert_eq!((hidden.features.len(), hidden.embeds.len()), (3 * 2 * width, 3 * arch.embed_dim));
            for (got, expected) in hidden.features.chunks(width).zip(expected.chunks(width)) {
                let error = relative_l2(got, expected);
                assert!(error < most, "{expression}, {precision}: {error}");
            }
            // The embedding is the class token's projection, and the one that a usual run gives.
            let projection = &weights.0["visual.proj"].1;
            let rows = hidden.features.chunks(2 * width).zip(hidden.embeds.chunks(arch.embed_dim));
            for (feature, embedding) in rows {
                let column = |e: usize| {
                    let token = feature[..width].iter().zip(projection.iter().skip(e).step_by(arch.embed_dim));
                    token.map(|(x, p)| f64::from(*x) * f64::from(*p)).sum::<f64>() as f32
                };
                let projected: Vec<f32> = (0..arch.embed_dim).map(column).collect();
                assert!(relative_l2(embedding, &projected) < 1e-5, "{expression}, {precision}");
            }
            let usual = encoder.encode_task(&task, &pixels, 3).unwrap();
            assert!(relative_l2(&hidden.embeds, &usual) < 1e-5, "{expression}, {precision}");
            // What is trimmed comes back, with the same bits.
            encoder.trim();
            assert_eq!(encoder.encode_hidden(&task, &pixels, 3).unwrap(), hidden);
            assert!(encoder.encode_hidden(&task, &[], 0).unwrap().features.is_empty());
        }
    }
}

#[test]
fn what_gives_no_hidden_features_says_why() {
    if !runtime() {
        return;
    }
    let (model, arch) = open();
    let base = model.weights(&"base".parse().unwrap()).unwrap();
    let pixels = vec![0.0; arch.pixels()];
    let said = |arch: &Arch, options: &EncoderOptions, part: &str| {
        let encoder = Encoder::new(arch, options).unwrap();
        let error = encoder.encode_hidden(&base, &pixels, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    let blockwise = EncoderOptions { residency: Residency::Blockwise, ..EncoderOptions::default() };
    said(&arch, &blockwise, "weights are there a block at a time");
    let mean = Arch { variant: Variant { pooling: Pooling::MeanThenNorm, ..arch.variant }, ..arch.clone() };
    said(&mean, &EncoderOptions::default(), "pools otherwise than by its class token");
    let encoder = Encoder::new(&arch, &EncoderOptions::default()).unwrap();
    let error = encoder.encode_hidden(&base, &pixels[1..], 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let broken = vec![f32::NAN; arch.pixels()];
    let error = encoder.encode_hidden(&base, &broken, 1).unwrap_err().to_string();
    assert!(error.contains("a pixel is not finite"), "{error}");
}
