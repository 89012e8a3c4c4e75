//! Reconstructing and running block by block gives what all weights at once give.

use crate::support;
use std::sync::Arc;

use crate::support::{digits, relative_l2, runtime};
use taskbasis::{
    Activation, Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, ErrorKind, Model, ModelOptions, Promotion,
    PromotionState, Residency, SelfTest, WeightsOn,
};

fn model() -> Option<Arc<Model>> {
    let base = Checkpoint::open(digits("base/pickled_module.pt")?).unwrap();
    let basis = Basis::open(digits("bases/ViT-D-8_AE_M4_8task")?).unwrap();
    Some(Model::new(base, Some(basis), &ModelOptions::default()).unwrap())
}

fn images(arch: &Arch, n: usize) -> Vec<f32> {
    support::Random(5).many(n * arch.pixels())
}

fn blockwise(arch: &Arch, options: &EncoderOptions) -> Encoder {
    Encoder::new(arch, &EncoderOptions { residency: Residency::Blockwise, ..options.clone() }).unwrap()
}

#[test]
fn equals_the_encoder_with_all_weights() {
    let Some(model) = model().filter(|_| runtime()) else { return };
    for activation in [Activation::QuickGelu, Activation::Gelu] {
        let arch = Arch::of(model.base(), ArchHints { activation: Some(activation), ..ArchHints::default() }).unwrap();
        let options = EncoderOptions { threads: 2, concurrency: 2, ..EncoderOptions::default() };
        let (whole, streamed) = (Encoder::new(&arch, &options).unwrap(), blockwise(&arch, &options));
        assert!(streamed.weight_bytes() * 2 < 4 * arch.parameter_count(), "{}", streamed.weight_bytes());
        for expr in ["MNIST", "base", "MNIST@0.3 + Parity@0.3", "-Colors@0.5"] {
            let task = model.weights(&expr.parse().unwrap()).unwrap();
            for n in [1, 5] {
                let pixels = images(&arch, n);
                let embeds = streamed.encode_task(&task, &pixels, n).unwrap();
                let expected = whole.encode(&task.get().unwrap(), &pixels, n).unwrap();
                let error = relative_l2(&embeds, &expected);
                assert!(error < 1e-5, "{expr}, {n} images: {error}");
                assert_eq!(embeds, streamed.encode_task(&task, &pixels, n).unwrap(), "the same bits every time");
            }
        }
    }
}

#[test]
fn runs_of_several_tasks_at_once_do_not_meet() {
    let Some(model) = model().filter(|_| runtime()) else { return };
    let arch = Arch::of(model.base(), ArchHints::default()).unwrap();
    let options = EncoderOptions { threads: 2, concurrency: 2, ..EncoderOptions::default() };
    let encoder = blockwise(&arch, &options);
    let pixels = images(&arch, 2);
    std::thread::scope(|scope| {
        for expr in ["MNIST", "Parity", "-MNIST", "merged@0.4"] {
            let task = model.weights(&expr.parse().unwrap()).unwrap();
            let (encoder, pixels) = (&encoder, &pixels);
            let first = encoder.encode_task(&task, pixels, 2).unwrap();
            scope.spawn(move || {
                for _ in 0..10 {
                    assert_eq!(encoder.encode_task(&task, pixels, 2).unwrap(), first, "{expr}");
                }
            });
        }
    });
}

#[test]
fn what_does_not_fit_is_named() {
    let Some(model) = model().filter(|_| runtime()) else { return };
    let arch = Arch::of(model.base(), ArchHints::default()).unwrap();
    let task = model.weights(&"MNIST".parse().unwrap()).unwrap();
    let encoder = blockwise(&arch, &EncoderOptions::default());
    assert_eq!(encoder.encode_task(&task, &[], 0).unwrap(), [0.0; 0]);
    let pixels = images(&arch, 2);
    let error = encoder.encode_task(&task, &pixels, 3).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("3·3·32·32"), "{error}");

    // Other models: one with a block more, and one of another width in the blocks alone.
    let deeper = Arch { layers: arch.layers + 1, ..arch.clone() };
    let error = blockwise(&deeper, &EncoderOptions::default()).encode_task(&task, &pixels, 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let missing = format!("visual.transformer.resblocks.{}.ln_1.weight", arch.layers);
    assert_eq!(error.tensor_name(), Some(missing.as_str()));
    let wider = Arch { mlp_width: 2 * arch.mlp_width, ..arch.clone() };
    let error = blockwise(&wider, &EncoderOptions::default()).encode_task(&task, &pixels, 2).unwrap_err();
    assert_eq!(
        (error.kind(), error.tensor_name()),
        (ErrorKind::Mismatch, Some("visual.transformer.resblocks.0.mlp.c_fc.weight"),)
    );
}

#[test]
fn weights_of_the_callers_are_read_block_by_block_too() {
    let Some(model) = model().filter(|_| runtime()) else { return };
    let arch = Arch::of(model.base(), ArchHints::default()).unwrap();
    let encoder = blockwise(&arch, &EncoderOptions::default());
    let (task, pixels) = (model.weights(&"MNIST".parse().unwrap()).unwrap(), images(&arch, 2));
    let given = encoder.encode(&*task.get().unwrap(), &pixels, 2).unwrap();
    assert_eq!(given, encoder.encode_task(&task, &pixels, 2).unwrap());
}

#[test]
fn what_needs_all_weights_is_refused() {
    let Some(model) = model().filter(|_| runtime()) else { return };
    let arch = Arch::of(model.base(), ArchHints::default()).unwrap();
    let encoder = blockwise(&arch, &EncoderOptions::default());
    assert_eq!((encoder.residency(), encoder.promotes()), (Residency::Blockwise, Promotion::Off));
    let task = model.weights(&"MNIST".parse().unwrap()).unwrap();
    for error in [encoder.prepare(&task), encoder.promote(&task), encoder.promote_in_background(&task)] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    assert!(!encoder.is_prepared(&task) && !encoder.demote(&task));
    assert_eq!(encoder.promotion(&task), PromotionState::Inputs(0));
    for excluded in [
        EncoderOptions { weights_on: WeightsOn::Device, ..EncoderOptions::default() },
        EncoderOptions { self_test: SelfTest::On, ..EncoderOptions::default() },
        EncoderOptions { cuda_graphs: true, ..EncoderOptions::default() },
        EncoderOptions { promotion: Promotion::Manual, ..EncoderOptions::default() },
    ] {
        let options = EncoderOptions { residency: Residency::Blockwise, ..excluded };
        let error = Encoder::new(&arch, &options).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("blockwise"), "{error}");
    }
}
