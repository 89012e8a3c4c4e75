//! The constants of towers and of the preparation of images.

use super::handle::Constants;
use crate::preprocess::{Interpolation, ResizeMode};
use crate::tower::{Activation, Pooling};

/// x*sigmoid(1.702*x): OpenAI's models. As an option: what is read, and this where nothing says it.
pub const TB_ACTIVATION_QUICK_GELU: u32 = 0;
/// x*Phi(x): most models that open_clip trained.
pub const TB_ACTIVATION_GELU: u32 = 1;
/// GELU's approximation by tanh.
pub const TB_ACTIVATION_GELU_TANH: u32 = 2;
/// x*sigmoid(x), the gate of gated MLPs: EVA-02. Not an option's.
pub const TB_ACTIVATION_SILU: u32 = 4;
/// An option alone: TB_ACTIVATION_QUICK_GELU whatever the bundle or a configuration says.
pub const TB_ACTIVATION_QUICK_GELU_ALWAYS: u32 = 3;

/// The pooling that is read from the configuration.
pub const TB_POOLING_AS_READ: u32 = 0;
/// The class token, normalised: nearly all published towers.
pub const TB_POOLING_CLASS_TOKEN: u32 = 1;
/// The mean of the patches' tokens, then normalised: CLIPA.
pub const TB_POOLING_MEAN_THEN_NORM: u32 = 2;
/// The patches' tokens normalised, then their mean.
pub const TB_POOLING_NORM_THEN_MEAN: u32 = 3;
/// The mean of the patches' tokens, neither normalised nor projected, so that an embedding is as long as the tower is
/// wide: what the classifier of CLIPForImageClassification takes.
pub const TB_POOLING_PATCH_MEAN: u32 = 4;
/// Attention from a probe: SigLIP, the Perception Encoder.
pub const TB_POOLING_ATTENTION: u32 = 5;
/// The class token beside the mean of the patches, both normalised: DINOv2's classifiers.
pub const TB_POOLING_CLASS_AND_MEAN: u32 = 6;
/// The class token beside the distillation token, both normalised: the classifiers of a distilled DeiT.
pub const TB_POOLING_CLASS_AND_DISTILLATION: u32 = 7;

/// The resizing that is read from the configuration.
pub const TB_RESIZE_AS_READ: u32 = 0;
/// The shorter side, and the centre is cropped.
pub const TB_RESIZE_SHORTEST: u32 = 1;
/// Both sides, whatever the ratio.
pub const TB_RESIZE_SQUASH: u32 = 2;
/// The longer side, and the rest is filled.
pub const TB_RESIZE_LONGEST: u32 = 3;

/// The interpolation that is read from the configuration.
pub const TB_INTERPOLATION_AS_READ: u32 = 0;
/// The pixel under the centre.
pub const TB_INTERPOLATION_NEAREST: u32 = 1;
/// The mean of the pixels covered.
pub const TB_INTERPOLATION_BOX: u32 = 2;
/// A triangle.
pub const TB_INTERPOLATION_BILINEAR: u32 = 3;
/// A windowed sinc that is as narrow as the box.
pub const TB_INTERPOLATION_HAMMING: u32 = 4;
/// Keys' cubic.
pub const TB_INTERPOLATION_BICUBIC: u32 = 5;
/// A windowed sinc of three lobes.
pub const TB_INTERPOLATION_LANCZOS: u32 = 6;

pub(super) const ACTIVATIONS: Constants<Activation, 4> = Constants {
    what: "activation",
    names: "TB_ACTIVATION_…",
    values: [
        (TB_ACTIVATION_QUICK_GELU, Activation::QuickGelu),
        (TB_ACTIVATION_GELU, Activation::Gelu),
        (TB_ACTIVATION_GELU_TANH, Activation::GeluTanh),
        (TB_ACTIVATION_SILU, Activation::Silu),
    ],
};

pub(super) const POOLINGS: Constants<Pooling, 7> = Constants {
    what: "pooling",
    names: "TB_POOLING_…",
    values: [
        (TB_POOLING_CLASS_TOKEN, Pooling::ClassToken),
        (TB_POOLING_MEAN_THEN_NORM, Pooling::MeanThenNorm),
        (TB_POOLING_NORM_THEN_MEAN, Pooling::NormThenMean),
        (TB_POOLING_PATCH_MEAN, Pooling::PatchMean),
        (TB_POOLING_ATTENTION, Pooling::Attention),
        (TB_POOLING_CLASS_AND_MEAN, Pooling::ClassAndMean),
        (TB_POOLING_CLASS_AND_DISTILLATION, Pooling::ClassAndDistillation),
    ],
};

pub(super) const RESIZE_MODES: Constants<ResizeMode, 3> = Constants {
    what: "resize mode",
    names: "TB_RESIZE_…",
    values: [
        (TB_RESIZE_SHORTEST, ResizeMode::Shortest),
        (TB_RESIZE_SQUASH, ResizeMode::Squash),
        (TB_RESIZE_LONGEST, ResizeMode::Longest),
    ],
};

pub(super) const INTERPOLATIONS: Constants<Interpolation, 6> = Constants {
    what: "interpolation",
    names: "TB_INTERPOLATION_…",
    values: [
        (TB_INTERPOLATION_NEAREST, Interpolation::Nearest),
        (TB_INTERPOLATION_BOX, Interpolation::Box),
        (TB_INTERPOLATION_BILINEAR, Interpolation::Bilinear),
        (TB_INTERPOLATION_HAMMING, Interpolation::Hamming),
        (TB_INTERPOLATION_BICUBIC, Interpolation::Bicubic),
        (TB_INTERPOLATION_LANCZOS, Interpolation::Lanczos),
    ],
};
