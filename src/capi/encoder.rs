//! `tb_encoder`: the image encoder of an architecture, and how it is set up. `encode.rs` runs it.

use std::ffi::{CString, c_char};
use std::path::PathBuf;

use super::basis::tb_basis;
use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, Constants, Handle, Out, StructOut, Versioned};
use super::logging::log_level;
use super::precision::PRECISIONS;
use super::residency::residency;
use super::tower;
use crate::encoder::{
    Encoder, EncoderOptions, Promotion, Provider, Residency, Runtime, SelfTest, TensorRtOptions, WeightsOn,
};
use crate::error::{Error, Result};
use crate::onnx::BindOptions;
use crate::open::GraphChoice;
use crate::preprocess::Preprocess;
use crate::tower::{Arch, TowerConfig};

/// The image encoder of one architecture. It holds no weights: every call names those it runs with, so calls for
/// different tasks may run at the same time on one encoder. Shareable between threads.
pub struct tb_encoder {
    _opaque: [u8; 0],
}

pub(super) struct OpenEncoder {
    pub(super) encoder: Encoder,
    pub(super) preprocess: Preprocess,
    onnxruntime_path: CString,
    onnxruntime_version: CString,
    provider: CString,
    fallback: Option<CString>,
    weights_fallback: Option<CString>,
    precisions: CString,
    precision_reason: Option<CString>,
    assumed: Option<CString>,
}

impl Handle for tb_encoder {
    type Inner = OpenEncoder;
    const NAME: &'static str = "encoder";
}

/// Promotion of tasks after a number of runs. The default.
pub const TB_PROMOTION_AUTO: u32 = 0;
/// No promotion.
pub const TB_PROMOTION_OFF: u32 = 1;
/// Promotion by tb_encoder_promote() alone.
pub const TB_PROMOTION_MANUAL: u32 = 2;

/// Weights on the device that computes where that can be had, else on the host, with a warning. The default.
pub const TB_WEIGHTS_ON_AUTO: u32 = 0;
/// Weights in the host's memory. A GPU gets them anew in every run.
pub const TB_WEIGHTS_ON_HOST: u32 = 1;
/// Weights in the memory of the device that computes; an error where they cannot be there.
pub const TB_WEIGHTS_ON_DEVICE: u32 = 2;

/// A self-test where it takes no memory to speak of: the base is stored as f32, or the budget of the basis's cache has
/// room for its weights beside a task's. Not with TB_RESIDENCY_BLOCKWISE. The default.
pub const TB_SELF_TEST_AUTO: u32 = 0;
/// A self-test whatever memory it takes. Not with TB_RESIDENCY_BLOCKWISE, which has no room for it.
pub const TB_SELF_TEST_ON: u32 = 1;
/// No self-test.
pub const TB_SELF_TEST_OFF: u32 = 2;

/// The graph that follows from the architecture.
pub const TB_GRAPH_BUILT: u32 = 0;
/// The graph that the bundle carries.
pub const TB_GRAPH_BUNDLE: u32 = 1;
/// The file that tb_encoder_options.graph named.
pub const TB_GRAPH_FILE: u32 = 2;

/// Options of tb_encoder_create(). Zero means default everywhere. What is said to be "with" something is ignored
/// without it (tensorrt_cache and the like, device_budget, promote_after), except that TB_WEIGHTS_ON_DEVICE and
/// cuda_graphs are TB_ERR_UNSUPPORTED without a GPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_encoder_options {
    /// sizeof(tb_encoder_options), as the program was compiled.
    pub struct_size: usize,
    /// The execution provider: `cpu`, `cuda`, `tensorrt`, or `auto`, which takes CUDA where it works, else the CPU.
    /// NULL: `cpu`. One that cannot be had is TB_ERR_UNSUPPORTED, and the message says what is missing.
    pub provider: *const c_char,
    /// The device of the provider, counted from 0; `cpu` has one.
    pub device: u32,
    /// Threads that compute, all runs together: at most one per processor, or 64; 0: one per processor.
    pub threads: u32,
    /// Runs that may be in progress at once; further calls wait. 0: 1. Each has threads / concurrency threads.
    pub concurrency: u32,
    /// One of the TB_ACTIVATION_ constants. Shapes do not tell it, and the wrong one gives plausible, wrong embeddings.
    /// 0: as read: of the bundle, else of the configuration beside the base, else QuickGELU, with a warning.
    pub activation: u32,
    /// Attention heads; 0: as read, as for activation, else those of published towers, else width / 64.
    pub heads: u32,
    /// The side of the images in pixels; 0: what the base's positional embedding says. Any other than that is
    /// TB_ERR_UNSUPPORTED.
    pub image_size: u32,
    /// The level at which ONNX Runtime's messages go to the log callback: TB_LOG_...; 0: as before, which begins at
    /// TB_LOG_WARN. There is one ONNX Runtime, so this changes it for the whole process.
    pub log_level: u32,
    /// Nonzero: the built graph, though the bundle carries another one. 0: what the bundle carries, unless graph is
    /// given.
    pub built_graph: u32,
    /// The file of ONNX Runtime's library, UTF-8. NULL: `ORT_DYLIB_PATH`, then beside the program and beside this
    /// library, then the system's loader. A process can have only one.
    pub onnxruntime: *const c_char,
    /// One of the TB_PROMOTION_ constants: which tasks get a session with their weights frozen into it. Such a session
    /// runs faster, takes as much memory as the weights (in the budget of the basis's cache), and is built in the
    /// background. Embeddings before and after agree to 1e-5 of their size; with TB_PROMOTION_OFF the same call gives
    /// the same bits every time.
    pub promotion: u32,
    /// Runs before promotion with TB_PROMOTION_AUTO; 0: 32.
    pub promote_after: u32,
    /// An image encoder that was exported as .onnx with the base's weights in it, to run instead of the built one;
    /// UTF-8. NULL: what the bundle carries, else the built one. Its constants are compared with the base's values;
    /// those that the basis changes become its inputs, in the order and type that it wants. The encoder then belongs to
    /// bases of this model.
    pub graph: *const c_char,
    /// The file that says what the constants of graph are, as `taskbasis bind` writes it. NULL: found out.
    pub map: *const c_char,
    /// The folder of `tensorrt` for the engines that it builds, which takes minutes, and for its timings; UTF-8, made
    /// where it is not there. NULL: nothing is kept.
    pub tensorrt_cache: *const c_char,
    /// Nonzero: `tensorrt` may compute in half floats. The first embeddings of an encoder, and of each
    /// promoted task, are then compared with the CPU's, and TB_ERR_RUNTIME where they are others.
    pub tensorrt_fp16: u32,
    /// The least cosine between an embedding and the CPU's with tensorrt_fp16; 0: 0.999.
    pub tensorrt_min_cosine: f32,
    /// For weights on a device, bytes of its memory for base, basis and the weights of tasks; 0: three quarters of
    /// what is free. Where another encoder has the basis there already, its budget holds.
    pub device_budget: u64,
    /// One of the TB_WEIGHTS_ON_ constants: where `cuda` and `tensorrt` have the weights of tasks reconstructed.
    /// On the device none of them crosses the bus at a switch, and no task is promoted by itself. What that takes (a
    /// driver, room for the basis) and is not there is TB_ERR_RUNTIME_MISSING or TB_ERR_OUT_OF_MEMORY with
    /// TB_WEIGHTS_ON_DEVICE, and told in tb_encoder_properties.weights_fallback with TB_WEIGHTS_ON_AUTO.
    pub weights_on: u32,
    /// Nonzero: with `cuda` and weights on the device, runs are recorded as CUDA graphs, one for each number of images
    /// and memory that they are given, and replayed later, which spares the host some hundred launches per run. The
    /// first run of each is made three times more. For few batch sizes.
    pub cuda_graphs: u32,
    /// Nonzero: TB_RESIDENCY_BLOCKWISE, whatever residency says.
    pub streamed: usize,
    /// The epsilon that every layer normalisation adds to the variance; 0: as read, as for activation, else 1e-5.
    pub norm_epsilon: f32,
    /// One of the TB_POOLING_ constants; 0: as read, as for activation, else the class token.
    pub pooling: u32,
    /// The configuration of the base, instead of those beside it (open_clip_config.json, config.json,
    /// preprocessor_config.json); UTF-8. NULL: those; `none`: no configuration.
    pub config: *const c_char,
    /// Three floats: what the channels of images (red, green, blue; 0 to 1) are freed of. NULL: as read, as for
    /// activation, else CLIP's.
    pub mean: *const f32,
    /// Three floats: what the channels of images are divided by. NULL: as for mean.
    pub std: *const f32,
    /// One of the TB_RESIZE_ constants; 0: as read, as for activation, else TB_RESIZE_SHORTEST.
    pub resize: u32,
    /// One of the TB_INTERPOLATION_ constants; 0: as read, as for activation, else TB_INTERPOLATION_BICUBIC.
    pub interpolation: u32,
    /// The pixels that sides are resized to before the image is cropped; 0: as read, else the image size.
    pub resize_edge: usize,
    /// One of the TB_SELF_TEST_ constants, for a bundle with a golden embedding: whether the first call is preceded by
    /// the run of one image with the base's weights, which has to give that embedding (to 1e-4, or to a cosine of 0.999
    /// where less than f32 is computed with). Once for each bundle and provider in a process; else TB_ERR_MISMATCH.
    pub self_test: usize,
    /// One of the TB_RESIDENCY_ constants: how much of a task's weights a run has in memory.
    pub residency: usize,
    /// One of the TB_PRECISION_ constants: the type that the matrices of linear layers are multiplied in, on the CPU.
    /// With TB_PRECISION_BF16 and TB_PRECISION_INT8 a GPU's provider, and a graph of which no linear layer is
    /// recognised, are TB_ERR_UNSUPPORTED; TB_PRECISION_AUTO is TB_PRECISION_F32 there, and for every graph but the
    /// built one.
    pub precision: usize,
}

// SAFETY: repr(C), the size first, and every field may be zero.
unsafe impl Versioned for tb_encoder_options {}

/// Properties of an encoder, from tb_encoder_info(): what is really used. The texts belong to the encoder.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_encoder_properties {
    /// sizeof(tb_encoder_properties), set by the caller.
    pub struct_size: usize,
    /// One of the TB_ACTIVATION_ constants.
    pub activation: u32,
    /// One of the TB_GRAPH_ constants: which graph runs. Of a user's graph the activation is whatever is in it.
    pub graph: u32,
    /// The execution provider that runs: `cpu`, `cuda` or `tensorrt`.
    pub provider: *const c_char,
    /// The file of the ONNX Runtime that is loaded.
    pub onnxruntime_path: *const c_char,
    /// The version of the ONNX Runtime that is loaded.
    pub onnxruntime_version: *const c_char,
    /// Threads that one run computes with.
    pub threads: usize,
    /// Sessions that are open; they are opened as calls overlap.
    pub sessions: usize,
    /// S: images are f32 [n,3,S,S].
    pub image_size: usize,
    /// e: embeddings are f32 [n,e].
    pub embedding: usize,
    /// Channels of the residual stream; 0, as layers and heads, where only a user's graph is known of the encoder: the
    /// base holds no vision transformer, and activation, norm_epsilon, pooling and patch_size say nothing of it.
    pub width: usize,
    /// Residual blocks.
    pub layers: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// The device of the provider, counted from 0.
    pub device: usize,
    /// The reason why `auto` took the CPU; NULL where it did not, or was not asked for.
    pub fallback: *const c_char,
    /// The memory that weights of tasks are reconstructed in: TB_WEIGHTS_ON_HOST or TB_WEIGHTS_ON_DEVICE.
    pub weights_on: usize,
    /// The reason why TB_WEIGHTS_ON_AUTO took the host's memory, though a GPU computes; else NULL.
    pub weights_fallback: *const c_char,
    /// One of the TB_RESIDENCY_ constants.
    pub streamed: usize,
    /// Bytes of weights that one run needs in memory at a time.
    pub weight_bytes: usize,
    /// The epsilon that every layer normalisation adds to the variance.
    pub norm_epsilon: f32,
    /// One of the TB_POOLING_ constants, never 0.
    pub pooling: u32,
    /// A sentence on what nothing told, so that OpenAI's form was assumed, and which options settle it.
    /// NULL where everything was told. Such a sentence is a warning of the log too.
    pub assumed: *const c_char,
    /// The mean of the channels of images.
    pub mean: [f32; 3],
    /// The standard deviation of the channels of images.
    pub std: [f32; 3],
    /// One of the TB_RESIZE_ constants, never 0.
    pub resize: u32,
    /// One of the TB_INTERPOLATION_ constants, never 0.
    pub interpolation: u32,
    /// The pixels that sides are resized to before the image is cropped.
    pub resize_edge: usize,
    /// One of the TB_PRECISION_ constants, never TB_PRECISION_AUTO: of several the narrowest type.
    pub precision: usize,
    /// The precision of each kind of layer: `f32`, `bf16`, `int8`, or those of
    /// `patches=bf16,qkv=int8,out=int8,fc=int8,proj=bf16`.
    pub precisions: *const c_char,
    /// The reason why TB_PRECISION_AUTO took these: what was measured, or why f32 runs; NULL without it.
    pub precision_reason: *const c_char,
}

// SAFETY: repr(C), the size first, and every field may be zero.
unsafe impl Versioned for tb_encoder_properties {}

/// Makes an encoder for the architecture of the basis's base, which is read off the shapes of its tensors. It runs any
/// weights of that architecture, also those of another basis. Costs some 20 ms and 10 MB, whatever the model's size.
/// With weights on a device the basis is brought there too, unless it is there for another encoder, and goes with the
/// last of them.
///
/// @param options  NULL for all defaults
/// @param out      set to the new handle, which the caller frees with tb_encoder_free(); NULL on failure
/// @return TB_OK; TB_ERR_MISMATCH where the base holds no vision transformer and no graph is to be run (by
///         options->graph, or the bundle's), the configuration beside it is of other weights, or options->graph holds
///         not its weights; TB_ERR_IO and TB_ERR_FORMAT for its files;
///         TB_ERR_RUNTIME_MISSING, with every place
///         that was searched, and for a driver that a GPU lacks; TB_ERR_INVALID_ARGUMENT for more
///         threads than processors and than 64, for more than 4096 concurrent runs, for options that exclude each
///         other, and for another ONNX Runtime than the one that is loaded; TB_ERR_UNSUPPORTED for an image size that
///         the base does not have, a graph that takes or gives other types than floats or is to run block by block,
///         a provider that this ONNX Runtime was built without, or a device that `cpu` does not have;
///         TB_ERR_OUT_OF_MEMORY; TB_ERR_RUNTIME
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_create(
    basis: *const tb_basis,
    options: *const tb_encoder_options,
    out: *mut *mut tb_encoder,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", std::ptr::null_mut())?;
        Runtime::switch_off_telemetry();
        let opened = &handle::borrow(basis)?.opened;
        let options = handle::options(options, "options")?;
        let (how, choice) = (read(&options)?, graph_choice(&options)?);
        let tower = opened.tower(options.tower()?, &choice)?;
        check_image_size(&tower.arch, options.image_size)?;
        if options.log_level != 0 {
            let level = log_level(options.log_level)?;
            Runtime::load(how.runtime.as_deref())?.set_log_level(level);
        }
        let graph = opened.graph(&choice)?;
        let encoder = opened.encoder_of(&tower, graph.as_ref(), &how)?;
        tower.log();
        // What is wrong with the device shows now, and the first call need not wait for it.
        encoder.device_model(opened.model())?;
        out.set(handle::into_raw::<tb_encoder>(OpenEncoder {
            assumed: all_assumed(&tower).as_deref().map(handle::c_text),
            preprocess: tower.preprocess,
            onnxruntime_path: handle::c_text(&encoder.runtime().path().to_string_lossy()),
            onnxruntime_version: handle::c_text(encoder.runtime().version()),
            provider: handle::c_text(encoder.execution().provider.name()),
            fallback: encoder.execution().fallback.as_deref().map(handle::c_text),
            weights_fallback: encoder.execution().weights_fallback.as_deref().map(handle::c_text),
            precisions: handle::c_text(&encoder.precisions().to_string()),
            precision_reason: encoder.execution().precision_reason.as_deref().map(handle::c_text),
            encoder,
        }));
        Ok(())
    })
}

/// The graph that is asked for.
///
/// # Safety
/// As for [`handle::optional_text`], for every text.
unsafe fn graph_choice(options: &tb_encoder_options) -> Result<GraphChoice> {
    // SAFETY: the caller's promise.
    let (graph, map) = unsafe {
        (handle::optional_text(options.graph, "options->graph")?, handle::optional_text(options.map, "options->map")?)
    };
    match (graph, options.built_graph != 0) {
        (Some(_), true) => Err(Error::invalid("`options->graph` and `options->built_graph` exclude each other")),
        (Some(path), false) => {
            Ok(GraphChoice::File { path: path.into(), map: map.map(Into::into), options: BindOptions::default() })
        }
        (None, _) if map.is_some() => Err(Error::invalid("`options->map` needs `options->graph`")),
        (None, true) => Ok(GraphChoice::Built),
        (None, false) => Ok(GraphChoice::Carried),
    }
}

/// The assumptions about the architecture, and of images.
fn all_assumed(tower: &TowerConfig) -> Option<String> {
    let all: Vec<String> = tower.assumed().into_iter().chain(tower.assumed_images()).collect();
    (!all.is_empty()).then(|| all.join(". "))
}

fn positive(number: u32) -> Option<usize> {
    (number > 0).then_some(number as usize)
}

/// The options as the library takes them. Those that are of the architecture or the graph are not among them.
///
/// # Safety
/// As for [`handle::optional_text`], for every text.
unsafe fn read(options: &tb_encoder_options) -> Result<EncoderOptions> {
    // SAFETY: the caller's promise.
    let (provider, runtime) = unsafe {
        (
            handle::optional_text(options.provider, "options->provider")?,
            handle::optional_text(options.onnxruntime, "options->onnxruntime")?,
        )
    };
    let budget = handle::bytes(options.device_budget);
    Ok(EncoderOptions {
        threads: options.threads as usize,
        concurrency: options.concurrency as usize,
        promotion: promotion(options.promotion, options.promote_after)?,
        runtime: runtime.map(PathBuf::from),
        provider: provider.map_or(Ok(Provider::default()), str::parse)?,
        device: options.device,
        // SAFETY: the caller's promise.
        tensorrt: unsafe { tensorrt(options)? },
        weights_on: PLACES_OF_WEIGHTS.value(options.weights_on)?,
        device_budget: budget,
        cuda_graphs: options.cuda_graphs != 0,
        self_test: SELF_TESTS.value(options.self_test)?,
        residency: residency(options.residency, options.streamed)?,
        precision: PRECISIONS.value(options.precision)?,
    })
}

/// # Safety
/// As for [`handle::optional_text`].
unsafe fn tensorrt(options: &tb_encoder_options) -> Result<TensorRtOptions> {
    // SAFETY: the caller's promise.
    let cache = unsafe { handle::optional_text(options.tensorrt_cache, "options->tensorrt_cache")? };
    let min_cosine = (options.tensorrt_min_cosine != 0.0).then_some(options.tensorrt_min_cosine);
    Ok(TensorRtOptions { cache: cache.map(PathBuf::from), fp16: options.tensorrt_fp16 != 0, min_cosine })
}

fn promotion(number: u32, after: u32) -> Result<Promotion> {
    match number {
        TB_PROMOTION_AUTO if after > 0 => Ok(Promotion::After(after)),
        TB_PROMOTION_AUTO => Ok(Promotion::default()),
        TB_PROMOTION_OFF => Ok(Promotion::Off),
        TB_PROMOTION_MANUAL => Ok(Promotion::Manual),
        _ => Err(Error::invalid("no such promotion").expected("one of TB_PROMOTION_…").got(number)),
    }
}

const SELF_TESTS: Constants<SelfTest, 3> = Constants {
    what: "self-test",
    names: "TB_SELF_TEST_…",
    values: [(TB_SELF_TEST_AUTO, SelfTest::Auto), (TB_SELF_TEST_ON, SelfTest::On), (TB_SELF_TEST_OFF, SelfTest::Off)],
};

const PLACES_OF_WEIGHTS: Constants<WeightsOn, 3> = Constants {
    what: "place for weights",
    names: "TB_WEIGHTS_ON_…",
    values: [
        (TB_WEIGHTS_ON_AUTO, WeightsOn::Auto),
        (TB_WEIGHTS_ON_HOST, WeightsOn::Host),
        (TB_WEIGHTS_ON_DEVICE, WeightsOn::Device),
    ],
};

fn check_image_size(arch: &Arch, asked: u32) -> Result<()> {
    match positive(asked) {
        Some(size) if size != arch.image_size() => {
            Err(Error::unsupported("positional embeddings are not interpolated to other image sizes")
                .expected(arch.image_size())
                .got(size))
        }
        _ => Ok(()),
    }
}

/// Tells what is really used.
///
/// @param info  `struct_size` set by the caller; the rest is zero on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_info(
    encoder: *const tb_encoder,
    info: *mut tb_encoder_properties,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = StructOut::new(info, "info")?;
        let open = handle::borrow(encoder)?;
        let OpenEncoder { encoder, onnxruntime_path, onnxruntime_version, provider, fallback, .. } = open;
        let arch = encoder.arch();
        out.set(tb_encoder_properties {
            struct_size: 0,
            provider: provider.as_ptr(),
            device: encoder.execution().device as usize,
            fallback: fallback.as_ref().map_or(std::ptr::null(), |why| why.as_ptr()),
            weights_on: PLACES_OF_WEIGHTS.number(encoder.execution().weights_on) as usize,
            streamed: (encoder.residency() == Residency::Blockwise).into(),
            weight_bytes: encoder.weight_bytes(),
            weights_fallback: open.weights_fallback.as_ref().map_or(std::ptr::null(), |why| why.as_ptr()),
            onnxruntime_path: onnxruntime_path.as_ptr(),
            onnxruntime_version: onnxruntime_version.as_ptr(),
            threads: encoder.threads(),
            sessions: encoder.sessions(),
            image_size: arch.image_size(),
            embedding: arch.embed_dim,
            width: arch.width,
            layers: arch.layers,
            heads: arch.heads,
            patch_size: arch.patch,
            activation: tower::ACTIVATIONS.number(arch.activation),
            norm_epsilon: arch.variant.norm_epsilon.get(),
            pooling: tower::POOLINGS.number(arch.variant.pooling),
            assumed: open.assumed.as_ref().map_or(std::ptr::null(), |what| what.as_ptr()),
            mean: open.preprocess.mean(),
            std: open.preprocess.std(),
            resize: tower::RESIZE_MODES.number(open.preprocess.resize()),
            interpolation: tower::INTERPOLATIONS.number(open.preprocess.interpolation()),
            resize_edge: open.preprocess.edge(),
            precision: PRECISIONS.number(encoder.precisions().narrowest().into()) as usize,
            precisions: open.precisions.as_ptr(),
            precision_reason: open.precision_reason.as_ref().map_or(std::ptr::null(), |why| why.as_ptr()),
            graph: match encoder.graph() {
                None => TB_GRAPH_BUILT,
                Some(graph) if graph.is_embedded() => TB_GRAPH_BUNDLE,
                Some(_) => TB_GRAPH_FILE,
            },
        });
        Ok(())
    })
}

/// Gives back the memory that ONNX Runtime keeps for the next call: closes the sessions that no call is using. The next
/// call opens one again, which costs some 20 ms. The encoder's graph and settings stay.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_trim(encoder: *const tb_encoder, err: *mut *mut tb_error) -> tb_status {
    call!(err, {
        handle::borrow(encoder)?.encoder.trim();
        Ok(())
    })
}

/// Frees an encoder. NULL is fine. Waits for a session that is being built for a promoted task: up to some seconds for
/// a large model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_free(encoder: *mut tb_encoder) {
    // SAFETY: the handle is this library's and not freed, as the header demands.
    unsafe { handle::free(encoder) };
}
