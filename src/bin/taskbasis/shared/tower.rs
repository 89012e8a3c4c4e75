//! The options for what shapes do not tell of a model, and for how its images are prepared.

use clap::Args;
use clap::builder::TypedValueParser;
use taskbasis::preprocess::{Interpolation, ResizeMode};
use taskbasis::tower::{ConfigSource, Epsilon, ImageHints, Pooling};
use taskbasis::{Activation, ArchHints, TowerOptions};

use super::choice::{choice, value};
use super::paths::InPath;

/// The heading in help for the preparation of images.
const IMAGES: &str = "How images are prepared";

/// What shapes do not tell. What is not given is read of the bundle, else of the configuration beside the base.
#[derive(Args)]
pub struct TowerArgs {
    /// The encoder's activation, where neither a bundle nor the model's configuration says it. OpenAI's models have
    /// quick_gelu, most others gelu; the wrong one gives plausible, wrong embeddings. A user's graph has its own.
    #[arg(long, value_parser = activations())]
    pub activation: Option<Activation>,

    /// Attention heads, where neither a bundle nor the model's configuration says how many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub heads_count: Option<u32>,

    /// What every layer normalisation adds to the variance: 1e-5 in most models, 1e-6 in some.
    #[arg(long, value_name = "EPS", value_parser = epsilon)]
    pub norm_eps: Option<Epsilon>,

    /// What of the last block's tokens is projected: the class token, or the mean of the patches', which is normalised
    /// before or after (CLIPA: mean_then_norm). patch_mean projects nothing, which is what the classifier of
    /// CLIPForImageClassification takes.
    #[arg(long, value_parser = choice([
        (value("class_token"), Pooling::ClassToken),
        (value("mean_then_norm"), Pooling::MeanThenNorm),
        (value("norm_then_mean"), Pooling::NormThenMean),
        (value("patch_mean").alias("patch-mean").help("Neither normalised nor projected"), Pooling::PatchMean),
        (value("attention").help("From a probe: SigLIP, the Perception Encoder"), Pooling::Attention),
        (value("class_and_mean").help("Side by side: DINOv2's classifiers"), Pooling::ClassAndMean),
        (value("class_and_distillation").help("Side by side: a distilled DeiT"), Pooling::ClassAndDistillation),
    ]))]
    pub pooling: Option<Pooling>,

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
    #[arg(long, value_parser = choice([
        (value("shortest"), ResizeMode::Shortest),
        (value("squash"), ResizeMode::Squash),
        (value("longest"), ResizeMode::Longest),
    ]))]
    pub resize: Option<ResizeMode>,

    /// The pixels that sides are resized to before the image is cropped; else the encoder's.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub resize_edge: Option<u32>,

    /// The filter that resizes.
    #[arg(long, value_parser = choice([
        (value("nearest"), Interpolation::Nearest),
        (value("box"), Interpolation::Box),
        (value("bilinear"), Interpolation::Bilinear),
        (value("hamming"), Interpolation::Hamming),
        (value("bicubic"), Interpolation::Bicubic),
        (value("lanczos"), Interpolation::Lanczos),
    ]))]
    pub interpolation: Option<Interpolation>,
}

/// One number per channel.
#[derive(Clone, Copy)]
pub struct Channels(pub [f32; 3]);

/// The activations that a tower may have.
pub fn activations() -> impl TypedValueParser<Value = Activation> {
    let tanh = value("gelu_tanh").alias("gelu-tanh").help("GELU's approximation by tanh");
    choice([
        (value("quick_gelu").alias("quick-gelu"), Activation::QuickGelu),
        (value("gelu"), Activation::Gelu),
        (tanh, Activation::GeluTanh),
    ])
}

impl TowerArgs {
    /// The options as the library takes them, for the built graph.
    pub fn options(&self) -> TowerOptions {
        let ImageArgs { mean, std, resize, resize_edge, interpolation } = &self.images;
        TowerOptions {
            arch: ArchHints {
                heads: self.heads_count.map(|heads| heads as usize),
                activation: self.activation,
                norm_epsilon: self.norm_eps,
                pooling: self.pooling,
                grid: None,
            },
            images: ImageHints {
                mean: mean.map(|mean| mean.0),
                std: std.map(|std| std.0),
                resize: *resize,
                edge: resize_edge.map(|edge| edge as usize),
                interpolation: *interpolation,
                fill: None,
            },
            config: match &self.config {
                None => ConfigSource::Beside,
                Some(path) if path.as_os_str() == "none" => ConfigSource::Ignored,
                Some(path) => ConfigSource::File(path.to_path_buf()),
            },
            has_graph: false,
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
