//! Towers of other families than CLIP's compute what a plain implementation computes, in every form that they run in.

use crate::support::naive;
use crate::support::tensors::Tensors;
use crate::support::{Random, relative_l2, runtime};
use taskbasis::build::{Family, Fit, WriteOptions};
use taskbasis::{
    Activation, Arch, ArchHints, BlockForm, Checkpoint, Encoder, EncoderOptions, Epsilon, GraphChoice, Method,
    OpenModel, OpenOptions, Pooling, Positions, Precision, Projection, Residency, Rotary, Scope, Tokens, Variant,
    base_for_images, save_arrays,
};

fn arch(activation: Activation, variant: Variant) -> Arch {
    let double = if variant.pooling.is_double() { 64 } else { 32 };
    let embed_dim = if variant.projection == Projection::None { double } else { 24 };
    Arch { width: 32, layers: 3, heads: 4, mlp_width: 48, patch: 4, grid: 3, embed_dim, activation, variant }
}

/// The form of a vision transformer that is no part of a CLIP.
fn plain() -> Variant {
    Variant {
        pre_norm: false,
        norm_epsilon: Epsilon::SMALL,
        patch_bias: true,
        projection: Projection::None,
        ..Variant::default()
    }
}

/// A small tower of every family, and of every part that some have.
fn families() -> Vec<(&'static str, Arch)> {
    let none = Tokens { class: false, ..Tokens::default() };
    let registers = Tokens { registers: 3, ..Tokens::default() };
    let scaled = BlockForm { layer_scale: true, ..BlockForm::default() };
    let gated = BlockForm { gated: true, ..scaled };
    let eva = BlockForm { gated: true, attn_norm: true, mlp_norm: true, ..BlockForm::default() };
    let with_bias = Projection::WithBias;
    vec![
        ("ViT", arch(Activation::Gelu, plain())),
        ("ViT, mean", arch(Activation::Gelu, Variant { pooling: Pooling::MeanThenNorm, ..plain() })),
        (
            "SigLIP",
            arch(
                Activation::GeluTanh,
                Variant { tokens: none, positions: Positions::All, pooling: Pooling::Attention, ..plain() },
            ),
        ),
        (
            "SigLIP's classifier",
            arch(Activation::GeluTanh, Variant { tokens: none, pooling: Pooling::NormThenMean, ..plain() }),
        ),
        (
            "distilled DeiT",
            arch(
                Activation::Gelu,
                Variant {
                    tokens: Tokens { distillation: true, ..Tokens::default() },
                    pooling: Pooling::ClassAndDistillation,
                    ..plain()
                },
            ),
        ),
        ("DINOv2", arch(Activation::Gelu, Variant { blocks: scaled, ..plain() })),
        ("DINOv2 with registers", arch(Activation::Gelu, Variant { tokens: registers, blocks: scaled, ..plain() })),
        (
            "DINOv2 with registers, timm's",
            arch(
                Activation::Gelu,
                Variant { tokens: registers, positions: Positions::Patches, blocks: scaled, ..plain() },
            ),
        ),
        (
            "the largest DINOv2's classifier",
            arch(
                Activation::Silu,
                Variant { tokens: registers, blocks: gated, pooling: Pooling::ClassAndMean, ..plain() },
            ),
        ),
        (
            "EVA-02",
            arch(
                Activation::Silu,
                Variant { blocks: eva, rotary: Some(Rotary::Eva), projection: with_bias, ..plain() },
            ),
        ),
        (
            "Perception Encoder",
            arch(
                Activation::Gelu,
                Variant {
                    pooling: Pooling::Attention,
                    rotary: Some(Rotary::PerceptionEncoder),
                    pool_heads: 8,
                    projection: with_bias,
                    ..Variant::default()
                },
            ),
        ),
        (
            "DINOv3",
            arch(
                Activation::Gelu,
                Variant {
                    tokens: registers,
                    positions: Positions::None,
                    rotary: Some(Rotary::DinoV3),
                    blocks: BlockForm { qkv_bias: false, ..scaled },
                    pooling: Pooling::NormThenMean,
                    norm_epsilon: Epsilon::USUAL,
                    ..plain()
                },
            ),
        ),
    ]
}

fn encoder(arch: &Arch, options: EncoderOptions) -> Encoder {
    Encoder::new(arch, &EncoderOptions { threads: 2, ..options }).unwrap()
}

/// The least cosine between the rows of two matrices.
fn least_cosine(a: &[f32], b: &[f32], width: usize) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let rows = a.chunks(width).zip(b.chunks(width));
    rows.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).fold(1.0, f64::min)
}

#[test]
fn every_family_agrees_with_a_plain_implementation() {
    if !runtime() {
        return;
    }
    for (seed, (name, arch)) in (1..).zip(families()) {
        let weights = Tensors::random(&arch, seed);
        let pixels = Random(99).many(3 * arch.pixels());
        let right = naive::encode(&arch, &weights, &pixels, 3);
        let embeds = encoder(&arch, EncoderOptions::default()).encode(&weights, &pixels, 3).unwrap();
        let error = relative_l2(&embeds, &right);
        println!("{name}: {error:.1e}");
        assert!(error < 1e-5, "{name}: {error}");

        let blockwise = EncoderOptions { residency: Residency::Blockwise, ..EncoderOptions::default() };
        assert!(encoder(&arch, blockwise).encode(&weights, &pixels, 3).unwrap() == embeds, "{name}: block by block");
        for (precision, least) in [(Precision::Bf16, 0.9995), (Precision::Int8, 0.995)] {
            let options = EncoderOptions { precision: precision.into(), ..EncoderOptions::default() };
            let packed = encoder(&arch, options).encode(&weights, &pixels, 3).unwrap();
            let cosine = least_cosine(&packed, &right, arch.embed_dim);
            assert!(cosine > least && packed != embeds, "{name} at {precision}: {cosine}");
        }
    }
}

/// What a family has is told by the names and shapes of its parameters, but for what hints tell.
#[test]
fn every_family_is_known_by_its_parameters() {
    for (name, arch) in families() {
        let parameters = arch.parameters();
        let shapes = parameters.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        assert_eq!(Arch::infer(shapes, arch.hints()).unwrap(), arch, "{name}");
        let text = serde_json::to_string(&arch).unwrap();
        assert_eq!(serde_json::from_str::<Arch>(&text).unwrap(), arch, "{name}: {text}");
        assert!(!arch.to_string().contains("no norm before the blocks, no norm"), "{arch}");
    }
}

/// Nothing that a family has can be left out without a word: each parameter moves the embeddings.
#[test]
fn every_parameter_matters() {
    if !runtime() {
        return;
    }
    for (seed, (name, arch)) in (1..).zip(families()) {
        let weights = Tensors::random(&arch, seed);
        let encoder = encoder(&arch, EncoderOptions::default());
        let pixels = Random(98).many(arch.pixels());
        let usual = encoder.encode(&weights, &pixels, 1).unwrap();
        for (parameter, _) in arch.parameters() {
            // The keys' bias moves all scores of a query alike.
            if parameter.ends_with("in_proj_bias") {
                continue;
            }
            let mut other = weights.clone();
            let values = other.values_mut(&parameter);
            // Noise: what all channels had in common, a norm would take away.
            let noise = Random(97).many(values.len());
            values.iter_mut().zip(noise).for_each(|(value, noise)| *value += 0.5 * noise);
            let moved = encoder.encode(&other, &pixels, 1).unwrap();
            assert!(relative_l2(&moved, &usual) > 1e-4, "{name}: {parameter}");
        }
    }
}

#[test]
fn parts_that_do_not_go_together_are_refused() {
    let refused = |arch: Arch, what: &str| {
        let error = arch.check().unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    let none = Tokens { class: false, ..Tokens::default() };
    refused(arch(Activation::Gelu, Variant { tokens: none, ..plain() }), "class token");
    refused(arch(Activation::Gelu, Variant { pooling: Pooling::ClassAndDistillation, ..plain() }), "distillation");
    refused(arch(Activation::Silu, plain()), "SiLU");
    let gated = BlockForm { gated: true, ..BlockForm::default() };
    refused(arch(Activation::Gelu, Variant { blocks: gated, ..plain() }), "SiLU");
    let heads = Arch { heads: 16, ..arch(Activation::Gelu, Variant { rotary: Some(Rotary::Eva), ..plain() }) };
    refused(heads, "rotary");
    let pool = Variant { pooling: Pooling::Attention, pool_heads: 5, ..plain() };
    refused(arch(Activation::Gelu, pool), "heads of the pooling");
    let side_by_side = Variant { pooling: Pooling::ClassAndMean, projection: Projection::Matrix, ..plain() };
    refused(arch(Activation::Gelu, side_by_side), "side by side");
    let many = Tokens { registers: 1 << 20, ..Tokens::default() };
    refused(arch(Activation::Gelu, Variant { tokens: many, ..plain() }), "register tokens");
}

/// A DINOv2 whose table of positions is for larger images than it is run on: the table of the base and those of the
/// vectors are resized when they are opened.
#[test]
fn positions_are_resized_once() {
    if !runtime() {
        return;
    }
    let scaled = BlockForm { layer_scale: true, ..BlockForm::default() };
    let large = Arch { grid: 5, ..arch(Activation::Gelu, Variant { blocks: scaled, ..plain() }) };
    let small = Arch { grid: 3, ..large.clone() };
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, weights: &Tensors| {
        let arrays: Vec<(&str, &[usize], &[f32])> =
            weights.0.iter().map(|(name, (shape, values))| (name.as_str(), &shape[..], &values[..])).collect();
        let path = folder.path().join(name);
        save_arrays(&path, &arrays, &[], &[]).unwrap();
        path
    };
    let (base, tuned) = (Tensors::random(&large, 1), Tensors::random(&large, 2));
    let paths = [save("base.safetensors", &base), save("tuned.safetensors", &tuned)];
    let basis = folder.path().join("basis");
    let family = Family::new(opened_file(&paths[0]), vec![("A".into(), opened_file(&paths[1]))], Scope::All).unwrap();
    let fit = Fit::of(Method::RandomSample, &family.gram(1, &|_| {}).unwrap(), 1, 0).unwrap();
    family.write_basis(&fit, &basis, &WriteOptions::default()).unwrap();

    let tower = |options: &OpenOptions| {
        let opened = OpenModel::open(&basis, options).unwrap();
        let hints = ArchHints { grid: None, ..large.hints() };
        let tower = opened.tower(hints.into(), &GraphChoice::Built).unwrap();
        (opened, tower)
    };
    let options = OpenOptions { base: Some(paths[0].clone()), image_size: Some(12), ..OpenOptions::default() };
    let (opened, told) = tower(&options);
    assert_eq!(told.arch, small);
    assert!(told.notes.iter().any(|note| note.contains("from 5 × 5 to 3 × 3")), "{:?}", told.notes);
    // As the table of the one that was trained, resized: linear, so that a task is its own table's.
    let encoder = opened.encoder_of(&told, None, &EncoderOptions::default()).unwrap();
    let pixels = Random(5).many(2 * small.pixels());
    let embeds = encoder.encode_task(&opened.model().weights(&"A".parse().unwrap()).unwrap(), &pixels, 2).unwrap();
    let resized = base_for_images(opened_file(&paths[1]), Some(12)).unwrap();
    let mut of_task = Tensors(tuned.0.clone());
    let table = resized.get("visual.positional_embedding").unwrap();
    assert_eq!(table.shape(), [10, 32]);
    of_task
        .0
        .insert("visual.positional_embedding".into(), (table.shape().to_vec(), table.to_f32().unwrap().into_owned()));
    let error = relative_l2(&embeds, &naive::encode(&small, &of_task, &pixels, 2));
    assert!(error < 1e-5, "{error}");

    // Unasked it takes the size that the configuration beside it prepares images in.
    let processor = serde_json::json!({ "image_processor_type": "BitImageProcessor", "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "size": { "shortest_edge": 16 }, "crop_size": { "height": 12, "width": 12 } });
    std::fs::write(folder.path().join("preprocessor_config.json"), processor.to_string()).unwrap();
    let (_, told) = tower(&OpenOptions { image_size: None, ..options.clone() });
    assert_eq!((told.arch.image_size(), told.preprocess.edge()), (12, 16));
    let error = OpenModel::open(&basis, &OpenOptions { image_size: Some(13), ..options }).unwrap_err().to_string();
    assert!(error.contains("multiple of 4") && error.contains("13"), "{error}");
}

fn opened_file(path: &std::path::Path) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}
