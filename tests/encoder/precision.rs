//! Weights packed in f32, bf16 and int8: the embeddings are near those of f32, and the same bits whatever else is run.

use std::sync::Arc;

use crate::support::runtime;
use crate::support::tensors::Tensors;
use taskbasis::{
    Activation, Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, Epsilon, Error, ErrorKind, Model,
    ModelOptions, Pooling, Precision, Provider, Residency, TaskWeights, Variant,
};

const FOLDER: &str = "examples/digits/bases/ViT-D-8_AE_M4_8task";
const BASE: &str = "examples/digits/base/pickled_module.pt";

fn model(kernel: &str) -> Arc<Model> {
    let options = ModelOptions { kernel: Some(kernel.parse().unwrap()), ..ModelOptions::default() };
    Model::new(Checkpoint::open(BASE).unwrap(), Some(Basis::open(FOLDER).unwrap()), &options).unwrap()
}

fn best() -> Arc<Model> {
    model(taskbasis::Kernel::best().name())
}

fn encoder(precision: Precision, threads: usize) -> Encoder {
    let arch = Arch::of(&Checkpoint::open(BASE).unwrap(), ArchHints::default()).unwrap();
    Encoder::new(&arch, &EncoderOptions { precision: precision.into(), threads, ..EncoderOptions::default() }).unwrap()
}

fn task(model: &Arc<Model>, expression: &str) -> TaskWeights {
    model.weights(&expression.parse().unwrap()).unwrap()
}

fn images(encoder: &Encoder, n: usize) -> Vec<f32> {
    (0..n * encoder.arch().pixels()).map(|i| ((i * 37 % 1009) as f32 / 504.5) - 1.0).collect()
}

fn least_cosine(a: &[f32], b: &[f32], width: usize) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let rows = a.chunks(width).zip(b.chunks(width));
    rows.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).fold(1.0, f64::min)
}

#[test]
fn embeddings_are_near_those_of_f32() {
    if !runtime() {
        return;
    }
    let (model, exact) = (best(), encoder(Precision::F32, 0));
    for (precision, least) in [(Precision::Bf16, 0.9999), (Precision::Int8, 0.999)] {
        let encoder = encoder(precision, 0);
        for expression in ["MNIST", "-Parity@0.5", "merged@0.4", "base"] {
            let (task, pixels) = (task(&model, expression), images(&encoder, 8));
            let expected = exact.encode_task(&task, &pixels, 8).unwrap();
            let embeds = encoder.encode_task(&task, &pixels, 8).unwrap();
            let cosine = least_cosine(&embeds, &expected, encoder.arch().embed_dim);
            assert!(cosine > least, "{precision} {expression}: {cosine}");
            assert_ne!(embeds, expected, "{precision} is not what was computed with");
        }
    }
}

#[test]
fn threads_and_company_change_no_bit() {
    if !runtime() {
        return;
    }
    let model = best();
    for precision in Precision::ALL {
        let (one, two) = (encoder(precision, 1), encoder(precision, 2));
        let (task, pixels) = (task(&model, "MNIST"), images(&one, 9));
        let (image, width) = (one.arch().pixels(), one.arch().embed_dim);
        let all = one.encode_task(&task, &pixels, 9).unwrap();
        assert_eq!(all, two.encode_task(&task, &pixels, 9).unwrap(), "{precision}: threads");
        assert_eq!(all, two.encode_task(&task, &pixels, 9).unwrap(), "{precision}: once more");
        for i in [0, 4, 8] {
            let alone = two.encode_task(&task, &pixels[i * image..][..image], 1).unwrap();
            assert_eq!(alone, &all[i * width..][..width], "{precision}: image {i}");
        }
    }
}

#[test]
fn packed_weights_are_small_and_given_ones_are_packed() {
    if !runtime() {
        return;
    }
    let model = best();
    let plain = task(&model, "MNIST").get().unwrap();
    for (precision, most) in [(Precision::F32, 1.1), (Precision::Bf16, 0.55), (Precision::Int8, 0.35)] {
        let encoder = encoder(precision, 0);
        let task = task(&model, "MNIST").in_layout(encoder.layout());
        let packed = task.get().unwrap();
        let share = packed.nbytes() as f64 / plain.nbytes() as f64;
        assert!(share < most, "{precision}: {share} of the bytes of f32");
        // Given as they are, they are packed for the run: the same bits.
        let pixels = images(&encoder, 3);
        let embeds = encoder.encode_task(&task, &pixels, 3).unwrap();
        assert_eq!(embeds, encoder.encode(&plain, &pixels, 3).unwrap(), "{precision}");
        assert_eq!(embeds, encoder.encode(&packed, &pixels, 3).unwrap(), "{precision}");
        let of_blocks = EncoderOptions {
            precision: precision.into(),
            residency: Residency::Blockwise,
            ..EncoderOptions::default()
        };
        let of_blocks = Encoder::new(encoder.arch(), &of_blocks).unwrap();
        assert_eq!(embeds, of_blocks.encode_task(&task, &pixels, 3).unwrap(), "{precision}: block by block");
        // A state dict is what can be written and read; packed weights are in memory alone.
        let folder = tempfile::tempdir().unwrap();
        let error = packed.save(&folder.path().join("x.safetensors"), &[], &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}

#[test]
fn what_is_prefetched_is_what_the_encoder_takes() {
    if !runtime() {
        return;
    }
    let (model, encoder) = (best(), encoder(Precision::F32, 1));
    let pixels = images(&encoder, 1);
    // From the first task that it runs on, the encoder is known.
    encoder.encode_task(&task(&model, "base"), &pixels, 1).unwrap();
    let fetched = task(&model, "MNIST");
    assert!(!fetched.is_ready() && !encoder.is_prepared(&fetched));
    fetched.prefetch().unwrap();
    while !fetched.is_ready() {
        std::thread::yield_now();
    }
    assert!(encoder.is_prepared(&fetched));
    let prepared = task(&model, "Parity");
    prepared.prepare().unwrap();
    let misses = model.cache().stats().misses;
    for task in [&fetched, &prepared] {
        encoder.encode_task(task, &pixels, 1).unwrap();
    }
    assert_eq!(model.cache().stats().misses, misses, "nothing is reconstructed again");
    assert!(fetched.get().unwrap().get("visual.proj").is_some() && model.cache().stats().misses == misses + 1);
}

/// Widths, patches and heads that no panel and no register fits.
#[test]
fn odd_towers_are_packed_too() {
    if !runtime() {
        return;
    }
    for (precision, least) in [(Precision::Bf16, 0.9999), (Precision::Int8, 0.995)] {
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu] {
            let arch = Arch {
                width: 36,
                layers: 2,
                heads: 3,
                mlp_width: 83,
                patch: 5,
                grid: 3,
                embed_dim: 20,
                activation,
                variant: Variant {
                    pre_norm: false,
                    norm_epsilon: Epsilon::new(1e-5).unwrap(),
                    pooling: Pooling::MeanThenNorm,
                    ..Variant::default()
                },
            };
            let weights = Tensors::random(&arch, 7);
            let encoder = |precision: Precision| {
                let options = EncoderOptions { precision: precision.into(), ..EncoderOptions::default() };
                Encoder::new(&arch, &options).unwrap()
            };
            let (exact, packed) = (encoder(Precision::F32), encoder(precision));
            let pixels = images(&exact, 3);
            let expected = exact.encode(&weights, &pixels, 3).unwrap();
            let embeds = packed.encode(&weights, &pixels, 3).unwrap();
            let cosine = least_cosine(&embeds, &expected, arch.embed_dim);
            assert!(cosine > least && embeds != expected, "{precision} {activation}: {cosine}");
        }
    }
}

#[test]
fn every_kernel_packs_the_same_weights() {
    if !runtime() {
        return;
    }
    let bits = |kernel: &str| {
        let model = model(kernel);
        Precision::ALL.map(|precision| {
            let encoder = encoder(precision, 1);
            let task = task(&model, "merged@0.3").in_layout(encoder.layout());
            encoder.encode(&*task.get().unwrap(), &images(&encoder, 2), 2).unwrap()
        })
    };
    let best = bits(taskbasis::Kernel::best().name());
    for kernel in taskbasis::Kernel::available() {
        assert_eq!(bits(kernel.name()), best, "{kernel} packs other weights");
    }
}

#[test]
fn what_cannot_be_packed_is_refused() {
    if !runtime() {
        return;
    }
    let arch = Arch::of(&Checkpoint::open(BASE).unwrap(), ArchHints::default()).unwrap();
    let refused = |options: EncoderOptions| -> Error {
        let options = EncoderOptions { precision: Precision::Int8.into(), ..options };
        let error = Encoder::new(&arch, &options).unwrap_err();
        assert!(error.to_string().contains("int8"), "{error}");
        error
    };
    let default = EncoderOptions::default;
    refused(EncoderOptions { provider: Provider::Cuda, ..default() });
    assert!("int4".parse::<Precision>().unwrap_err().to_string().contains("int8"));
    for precision in Precision::ALL {
        assert_eq!(precision.to_string().parse::<Precision>().unwrap(), precision);
    }
}
