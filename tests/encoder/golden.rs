//! The encoder computes what the reference computes, and what a plain implementation computes.

use crate::support::naive;
use crate::support::tensors::{Tensors, digits_model};
use crate::support::{Random, relative_l2, runtime};
use taskbasis::{Activation, Arch, Encoder, EncoderOptions, Epsilon, Pooling, Variant};

fn encoder(arch: &Arch) -> Encoder {
    Encoder::new(arch, &EncoderOptions { threads: 2, ..EncoderOptions::default() }).unwrap()
}

#[test]
fn agrees_with_the_reference() {
    let Some((weights, golden)) = digits_model().filter(|_| runtime()) else { return };
    let encoder = encoder(&weights.arch(Activation::QuickGelu));
    assert_eq!((encoder.arch().image_size(), encoder.arch().tokens(), encoder.arch().layers), (32, 17, 3));
    let (pixels, expected) = (golden.values("pixel_values"), golden.values("zeroshot/embeds"));
    let embeds = encoder.encode(&weights, pixels, 32).unwrap();
    let error = relative_l2(&embeds, expected);
    println!("relative L2: {error:.2e}");
    assert!(error <= 2e-5, "{error}");

    // The other activation is no small difference, so the test above could not pass with it.
    let other = self::encoder(&weights.arch(Activation::Gelu)).encode(&weights, pixels, 32).unwrap();
    assert!(relative_l2(&other, expected) > 1e-3, "{}", relative_l2(&other, expected));
}

#[test]
fn batches_arrays_and_slices_agree() {
    let Some((weights, golden)) = digits_model().filter(|_| runtime()) else { return };
    let encoder = encoder(&weights.arch(Activation::QuickGelu));
    let pixels = golden.values("pixel_values");
    let whole = encoder.encode(&weights, pixels, 32).unwrap();
    for batch in [1, 5, 32, usize::MAX] {
        let parts = encoder.encode_in_batches(&weights, pixels, 32, batch).unwrap();
        assert!(relative_l2(&parts, &whole) < 1e-6, "{batch}");
    }
    let array = ndarray::ArrayView4::from_shape((32, 3, 32, 32), pixels).unwrap();
    assert_eq!(encoder.encode_array(&weights, array).unwrap().as_slice().unwrap(), whole);
    // Not in standard layout: mirrored twice by strides, so the same images again.
    let mirrored = array.slice(ndarray::s![.., .., .., ..;-1]).to_owned();
    let back = mirrored.slice(ndarray::s![.., .., .., ..;-1]);
    assert_eq!(encoder.encode_array(&weights, back).unwrap().as_slice().unwrap(), whole);
    let mut out = vec![0.0; whole.len()];
    encoder.encode_into(&weights, pixels, 32, &mut out).unwrap();
    assert_eq!(out, whole);
}

#[test]
fn other_families_agree_with_a_plain_implementation() {
    if !runtime() {
        return;
    }
    let base = Arch {
        width: 32,
        layers: 2,
        heads: 4,
        mlp_width: 128,
        patch: 5,
        grid: 3,
        embed_dim: 24,
        activation: Activation::QuickGelu,
        variant: Variant::default(),
    };
    for (seed, arch) in [
        base.clone(),
        Arch { activation: Activation::Gelu, ..base.clone() },
        Arch { layers: 1, heads: 1, grid: 1, ..base.clone() },
        Arch { width: 48, heads: 3, mlp_width: 50, layers: 5, patch: 2, grid: 6, embed_dim: 100, ..base.clone() },
        Arch { width: 7, heads: 7, mlp_width: 3, patch: 1, grid: 2, embed_dim: 1, ..base.clone() },
        Arch { activation: Activation::GeluTanh, ..base.clone() },
        variant(&base, Variant { pooling: Pooling::MeanThenNorm, ..Variant::default() }),
        variant(&base, Variant { pooling: Pooling::NormThenMean, ..Variant::default() }),
        Arch { embed_dim: 32, ..variant(&base, Variant { pooling: Pooling::PatchMean, ..Variant::default() }) },
        variant(&base, Variant { pre_norm: false, ..Variant::default() }),
        variant(&base, Variant { norm_epsilon: Epsilon::new(1e-2).unwrap(), ..Variant::default() }),
        Arch { layers: 1, grid: 1, ..clipa(&base) },
        clipa(&base),
    ]
    .into_iter()
    .enumerate()
    {
        let weights = Tensors::random(&arch, seed as u64 + 1);
        let pixels = Random(99).many(3 * arch.pixels());
        let embeds = encoder(&arch).encode(&weights, &pixels, 3).unwrap();
        let error = relative_l2(&embeds, &naive::encode(&arch, &weights, &pixels, 3));
        println!("{arch}: {error:.1e}");
        assert!(error < 1e-5, "{arch}: {error}");
    }
}

fn variant(arch: &Arch, variant: Variant) -> Arch {
    Arch { variant, ..arch.clone() }
}

/// Every departure from OpenAI's form at once.
fn clipa(arch: &Arch) -> Arch {
    let norm_epsilon = Epsilon::new(1e-3).unwrap();
    variant(arch, Variant { pre_norm: false, norm_epsilon, pooling: Pooling::MeanThenNorm, ..Variant::default() })
}

/// Each departure moves the embeddings: none of the tests above could pass without it.
#[test]
fn every_departure_matters() {
    if !runtime() {
        return;
    }
    let arch = Arch {
        width: 32,
        layers: 2,
        heads: 4,
        mlp_width: 64,
        patch: 4,
        grid: 2,
        embed_dim: 16,
        activation: Activation::QuickGelu,
        variant: Variant::default(),
    };
    let weights = Tensors::random(&arch, 5);
    let pixels = Random(6).many(arch.pixels());
    let usual = encoder(&arch).encode(&weights, &pixels, 1).unwrap();
    for other in [
        Variant { pooling: Pooling::MeanThenNorm, ..Variant::default() },
        Variant { pooling: Pooling::NormThenMean, ..Variant::default() },
        Variant { norm_epsilon: Epsilon::new(1e-2).unwrap(), ..Variant::default() },
    ] {
        let embeds = encoder(&variant(&arch, other)).encode(&weights, &pixels, 1).unwrap();
        assert!(relative_l2(&embeds, &usual) > 1e-3, "{other:?}");
    }
}

#[test]
fn absurd_options_are_refused() {
    let Some((weights, _)) = digits_model() else { return };
    let arch = weights.arch(Activation::QuickGelu);
    for (threads, concurrency) in [(usize::MAX, 0), (0, usize::MAX)] {
        let options = EncoderOptions { threads, concurrency, ..EncoderOptions::default() };
        assert_eq!(Encoder::new(&arch, &options).unwrap_err().kind(), taskbasis::ErrorKind::InvalidArgument);
    }
    let arch = Arch { heads: 3, ..arch };
    assert!(Encoder::new(&arch, &EncoderOptions::default()).unwrap_err().to_string().contains("heads"));
}

#[test]
fn what_does_not_fit_is_named() {
    let Some((weights, golden)) = digits_model().filter(|_| runtime()) else { return };
    let arch = weights.arch(Activation::QuickGelu);
    let encoder = encoder(&arch);
    let pixels = golden.values("pixel_values");
    assert_eq!(encoder.encode(&weights, &[], 0).unwrap(), [0.0; 0]);
    assert_eq!(encoder.encode_in_batches(&weights, &[], 0, 8).unwrap(), [0.0; 0]);

    for n in [0, 1, 31, 33, usize::MAX] {
        let message = encoder.encode(&weights, pixels, n).unwrap_err().to_string();
        assert!(message.contains("3·32·32"), "{message}");
    }
    assert!(encoder.encode(&weights, &pixels[1..], 32).is_err());
    assert!(encoder.encode_in_batches(&weights, pixels, 32, 0).is_err());
    assert!(encoder.encode_into(&weights, pixels, 32, &mut [0.0; 7]).is_err());
    let array = ndarray::ArrayView4::from_shape((32, 3, 64, 16), pixels).unwrap();
    assert!(encoder.encode_array(&weights, array).unwrap_err().to_string().contains("[n, 3, 32, 32]"));

    for (name, _) in arch.parameters() {
        let mut broken = weights.clone();
        broken.0.remove(&name);
        let error = encoder.encode(&broken, pixels, 32).unwrap_err();
        assert_eq!((error.kind(), error.tensor_name()), (taskbasis::ErrorKind::Mismatch, Some(name.as_str())));
        // Of no images too, which nothing is run for.
        assert_eq!(encoder.encode(&broken, &[], 0).unwrap_err().kind(), taskbasis::ErrorKind::Mismatch);

        let mut broken = weights.clone();
        broken.values_mut(&name).pop();
        assert_eq!(encoder.check(&broken).unwrap_err().tensor_name(), Some(name.as_str()));

        let mut broken = weights.clone();
        broken.0.get_mut(&name).unwrap().0.push(1);
        let message = encoder.check(&broken).unwrap_err().to_string();
        assert!(message.contains(", 1]") && message.contains(&name), "{message}");
    }
    assert!(encoder.encode(&weights, pixels, 32).is_ok(), "errors leave the encoder as it was");
}
