//! taskbasis: many fine-tuned CLIP tasks from one compressed basis, switched in milliseconds.
//!
//! Fine-tuned models can be written as *task vectors* (fine-tuned minus zero-shot weights), and T of them compress into
//! M < T *basis vectors*. taskbasis maps those M vectors, rebuilds the weights of any task, or of any arithmetic of
//! tasks, in one pass when they are first asked for, and runs them on ONNX Runtime as inputs of one graph. Data flows
//! one way:
//!
//! ```text
//! files → Checkpoint → Basis → coefficients → combine kernel → Weights → Encoder → embeddings → Head → scores
//! ```
//!
//! ```no_run
//! use taskbasis::{EncoderOptions, OpenModel, OpenOptions};
//!
//! let options = OpenOptions { base: Some("zeroshot.pt".into()), ..OpenOptions::default() };
//! let opened = OpenModel::open("ViT-B-32_AE_M4_8task", &options)?; // or a bundle, which needs no base
//! let encoder = opened.encoder(&EncoderOptions::default())?;
//!
//! let weights = opened.model().weights(&"MNIST@0.3 + SVHN@0.3".parse()?)?; // names them; nothing is computed yet
//! # let (pixels, n) = (vec![0.0; 3 * 224 * 224], 1);
//! let embeds = encoder.encode_task(&weights, &pixels, n)?; // f32 [n, e]
//! # Ok::<(), taskbasis::Error>(())
//! ```
//!
//! # Features
//! Beyond what is always there: reading files, reconstructing, encoding, classifying, bundles, the C ABI.
//!
//! | feature | brings |
//! | --- | --- |
//! | `cli` (default) | the program, and with it all below but `cuda` and `serve` |
//! | `serve` (default) | `taskbasis serve`, of the program; nothing in the library |
//! | `cuda` (default) | reconstruction on NVIDIA GPUs; nothing of CUDA is needed to build |
//! | `images` | decoding image files (PNG, JPEG, WebP, GIF, BMP, TIFF, PPM) |
//! | `build` | making bases from fine-tuned checkpoints |
//! | `text` | making heads from class names |
//! | `tokenizers` | the tokens of other vocabularies than CLIP's, by their `tokenizer.json` |
//! | `hub` | `hf://` paths |
//! | `linked-onnxruntime` | ONNX Runtime linked into the program instead of loaded, for what cannot load libraries |

#![deny(unsafe_code)]
#![warn(missing_debug_implementations, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod atomic_file;
mod background;
pub mod basis;
#[cfg(feature = "build")]
pub mod build;
pub mod bundle;
#[doc(hidden)] // Documented in include/taskbasis.h.
#[allow(unsafe_code)]
pub mod capi;
pub mod checkpoint;
pub mod datasets;
mod descent;
mod did_you_mean;
#[allow(unsafe_code)]
pub mod encoder;
pub mod error;
pub mod fit;
pub mod heads;
pub mod hub;
#[allow(unsafe_code)]
pub mod kernel;
#[cfg(feature = "build")]
mod linalg;
#[allow(unsafe_code)]
pub mod mmap;
#[cfg(test)]
#[allow(dead_code, unreachable_pub, unsafe_code)] // What every test program shares.
#[path = "../tests/support/need.rs"]
mod need;
pub mod onnx;
pub mod open;
pub mod preprocess;
#[doc(hidden)] // For the program.
pub mod present;
#[cfg(feature = "build")]
mod random;
pub mod router;
mod sync;
#[allow(unsafe_code)]
pub mod tensor;
pub mod tower;
mod visible;
pub mod weights;

#[cfg(unix)]
pub use atomic_file::remove_unfinished_files;
pub use atomic_file::{OutputLock, PartialFolder, check_output, lock_output, replace_file};
pub use basis::{Basis, CoefficientMatrix, Coefficients, Grouping, Kind, Method, Scale, Selector, Target, TaskExpr};
pub use bundle::{
    BaseFormat, Bundle, BundleUpdate, Fingerprint, NewTask, PackReport, Packer, StoredFormat, VectorFormat,
};
pub use checkpoint::{Checkpoint, Format};
pub use datasets::{Dataset, HeadLabels, OtherNames, Split};
#[cfg(feature = "text")]
pub use encoder::TextEncoder;
pub use encoder::{
    Agreement, Encoder, EncoderOptions, Execution, GraphVariant, Hidden, PrecisionChoice, Probe, Promotion,
    PromotionState, Provider, Residency, Runtime, SelfTest, TensorRtOptions, WeightSource, WeightsOn, write_onnx,
    write_onnx_f16,
};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "text")]
pub use heads::Prompts;
pub use heads::{Head, Score, ScoreFunction};
pub use kernel::linear::Precision;
pub use kernel::{Cuda, CudaStream, Kernel};
pub use mmap::{MapMode, Mapping};
pub use open::{BasisFile, GraphChoice, OpenModel, OpenOptions, Verified, head_tasks, open_head, verify};
pub use preprocess::{ImageFiles, Pixels, Preprocess};
pub use router::{Choice, FeatureKind, Route, Routed, Router, Routing};
#[cfg(feature = "build")]
pub use router::{FitReport, RouterFit};
pub use tensor::{BlockFormat, Blocks, DType, LowRank, LowRankFormat, Rounding, Source, Tensor};
#[cfg(feature = "text")]
pub use tower::text::{TextHints, TextModel};
pub use tower::{
    Activation, Arch, ArchHints, BlockForm, Epsilon, ImageHints, LayerKind, LayerPrecisions, Pooling, Positions,
    Projection, Rotary, Tokens, TowerConfig, TowerOptions, Variant, base_for_images, for_images,
};
pub use visible::{Visible, VisibleLines};
pub use weights::{
    CacheStats, DeviceModel, DeviceOptions, DeviceStats, DeviceTensor, DeviceWeights, Model, ModelOptions,
    ReconstructOptions, Scope, TaskWeights, Values, Weights, WeightsCache, save_arrays,
};
