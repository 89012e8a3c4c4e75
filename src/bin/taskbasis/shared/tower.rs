//! The options for what shapes do not tell of a model, and for how its images are prepared.

use clap::{Args, ValueEnum};
use taskbasis::preprocess::{Interpolation, ResizeMode};
use taskbasis::tower::{ConfigSource, Epsilon, ImageHints, Pooling};
use taskbasis::{Activation, ArchHints, TowerOptions};

use super::paths::InPath;

/// Where help lists the preparation of images.
const IMAGES: &str = "How images are prepared";

/// What shapes do not tell. What is not given is read of the bundle, else of the configuration beside the base.
#[derive(Args)]
pub struct TowerArgs {
    /// The encoder's activation, where neither a bundle nor the model's configuration says it. OpenAI's models have
    /// quick_gelu, most others gelu; the wrong one gives plausible, wrong embeddings. A user's graph has its own.
    #[arg(long, value_enum)]
    pub activation: Option<ActivationArg>,

    /// Attention heads, where neither a bundle nor the model's configuration says how many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub heads_count: Option<u32>,

    /// What every layer normalisation adds to the variance: 1e-5 in most models, 1e-6 in some.
    #[arg(long, value_name = "EPS", value_parser = epsilon)]
    pub norm_eps: Option<Epsilon>,

    /// What of the last block's tokens is projected: the class token, or the mean of the patches', which is normalised
    /// before or after (CLIPA: mean_then_norm). patch_mean projects nothing, which is what the classifier of
    /// CLIPForImageClassification takes.
    #[arg(long, value_enum)]
    pub pooling: Option<PoolingArg>,

    /// The model's configuration (open_clip's, transformers' or timm's), instead of those beside the base; `none` reads
    /// none.
    #[arg(long, value_name = "C.json")]
    pub config: Option<InPath>,

    #[command(flatten)]
    pub images: ImageArgs,
}

/// How image files become pixels.
#[derive(Args)]
#[command(next_help_heading = IMAGES)]
pub struct ImageArgs {
    /// The mean of red, green and blue (0 to 1) that images are freed of: `0.5` or `0.48,0.46,0.41`.
    #[arg(long, value_name = "R,G,B", value_parser = channels, allow_negative_numbers = true)]
    pub mean: Option<Channels>,

    /// The standard deviation of red, green and blue that images are divided by.
    #[arg(long, value_name = "R,G,B", value_parser = channels)]
    pub std: Option<Channels>,

    /// Which sides are resized: the shorter one (the centre is then cropped), both (whatever the ratio), or the longer
    /// one (the rest is then black).
    #[arg(long, value_enum)]
    pub resize: Option<ResizeArg>,

    /// The pixels that sides are resized to before the image is cropped; else the encoder's.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub resize_edge: Option<u32>,

    /// The filter that resizes.
    #[arg(long, value_enum)]
    pub interpolation: Option<InterpolationArg>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ActivationArg {
    #[value(name = "quick_gelu", alias = "quick-gelu")]
    QuickGelu,
    Gelu,
    /// GELU's approximation by tanh
    #[value(name = "gelu_tanh", alias = "gelu-tanh")]
    GeluTanh,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum PoolingArg {
    ClassToken,
    MeanThenNorm,
    NormThenMean,
    /// Neither normalised nor projected
    #[value(alias = "patch-mean")]
    PatchMean,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ResizeArg {
    Shortest,
    Squash,
    Longest,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum InterpolationArg {
    Nearest,
    Box,
    Bilinear,
    Hamming,
    Bicubic,
    Lanczos,
}

/// One number per channel.
#[derive(Clone, Copy)]
pub struct Channels(pub [f32; 3]);

impl From<ActivationArg> for Activation {
    fn from(activation: ActivationArg) -> Self {
        match activation {
            ActivationArg::QuickGelu => Self::QuickGelu,
            ActivationArg::Gelu => Self::Gelu,
            ActivationArg::GeluTanh => Self::GeluTanh,
        }
    }
}

impl From<PoolingArg> for Pooling {
    fn from(pooling: PoolingArg) -> Self {
        match pooling {
            PoolingArg::ClassToken => Self::ClassToken,
            PoolingArg::MeanThenNorm => Self::MeanThenNorm,
            PoolingArg::NormThenMean => Self::NormThenMean,
            PoolingArg::PatchMean => Self::PatchMean,
        }
    }
}

impl From<ResizeArg> for ResizeMode {
    fn from(resize: ResizeArg) -> Self {
        match resize {
            ResizeArg::Shortest => Self::Shortest,
            ResizeArg::Squash => Self::Squash,
            ResizeArg::Longest => Self::Longest,
        }
    }
}

impl From<InterpolationArg> for Interpolation {
    fn from(interpolation: InterpolationArg) -> Self {
        match interpolation {
            InterpolationArg::Nearest => Self::Nearest,
            InterpolationArg::Box => Self::Box,
            InterpolationArg::Bilinear => Self::Bilinear,
            InterpolationArg::Hamming => Self::Hamming,
            InterpolationArg::Bicubic => Self::Bicubic,
            InterpolationArg::Lanczos => Self::Lanczos,
        }
    }
}

impl TowerArgs {
    /// As the library takes them.
    pub fn options(&self, has_graph: bool) -> TowerOptions {
        let ImageArgs { mean, std, resize, resize_edge, interpolation } = &self.images;
        TowerOptions {
            arch: ArchHints {
                heads: self.heads_count.map(|heads| heads as usize),
                activation: self.activation.map(Into::into),
                norm_epsilon: self.norm_eps,
                pooling: self.pooling.map(Into::into),
            },
            images: ImageHints {
                mean: mean.map(|mean| mean.0),
                std: std.map(|std| std.0),
                resize: resize.map(Into::into),
                edge: resize_edge.map(|edge| edge as usize),
                interpolation: interpolation.map(Into::into),
                fill: None,
            },
            config: match &self.config {
                None => ConfigSource::Beside,
                Some(path) if path.as_os_str() == "none" => ConfigSource::Ignored,
                Some(path) => ConfigSource::File(path.to_path_buf()),
            },
            has_graph,
        }
    }

    /// The option that was given though a user's graph has its own value of it.
    pub fn of_built_graph(&self) -> Option<&'static str> {
        let given = [
            ("--activation", self.activation.is_some()),
            ("--norm-eps", self.norm_eps.is_some()),
            ("--pooling", self.pooling.is_some()),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(option, _)| option)
    }
}

impl ImageArgs {
    /// The first option that was given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--mean", self.mean.is_some()),
            ("--std", self.std.is_some()),
            ("--resize", self.resize.is_some()),
            ("--resize-edge", self.resize_edge.is_some()),
            ("--interpolation", self.interpolation.is_some()),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(option, _)| option)
    }
}

fn epsilon(text: &str) -> Result<Epsilon, String> {
    let value: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    Epsilon::new(value).map_err(|e| e.to_string())
}

fn channels(text: &str) -> Result<Channels, String> {
    let values: Result<Vec<f32>, _> = text.split(',').map(|value| value.trim().parse::<f32>()).collect();
    let wrong = || "not one number, or three with commas between them".to_owned();
    match values.map_err(|_| wrong())?.as_slice() {
        [all] => Ok(Channels([*all; 3])),
        [red, green, blue] => Ok(Channels([*red, *green, *blue])),
        _ => Err(wrong()),
    }
}
