//! The types of requests and answers, which `/openapi.json` is made from.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An image of one pixel.
const EXAMPLE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==";

/// An image file: base64 of its bytes, a data URL, or an object that has one of them. Never a path or an address.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "an image is base64 text, a data URL, or {\"base64\": …}")]
pub enum ImageData {
    /// Base64 of a PNG, JPEG, WebP, GIF, BMP, TIFF or PPM file, or `data:image/…;base64,…`.
    Text(String),
    /// The same as an object.
    Object(Base64Image),
}

/// Base64 of an image file.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Base64Image {
    /// Base64 of the file's bytes.
    pub base64: String,
}

/// Images, and the weights to embed them with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedRequest {
    /// A task expression; `base` where it is left out.
    #[schema(example = "all@0.3")]
    pub weights: Option<String>,
    /// The images, at least one.
    #[schema(min_items = 1, example = json!([EXAMPLE]))]
    pub images: Vec<ImageData>,
}

/// Images, the weights to run them with, and the heads that score them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifyRequest {
    /// A task expression, or `auto` where the bundle keeps a router. Where it is left out: the task of the one head.
    #[schema(example = "all@0.3")]
    pub weights: Option<String>,
    /// Whose heads; all of them score the same run. Where none is named: that of the one task in the expression.
    #[serde(default)]
    pub heads: Vec<String>,
    /// How many classes to name for an image, the best first; all where it is left out.
    #[schema(minimum = 1)]
    pub top: Option<u32>,
    /// The images, at least one.
    #[schema(min_items = 1, example = json!([EXAMPLE]))]
    pub images: Vec<ImageData>,
}

/// A form for `/v1/embed`.
#[derive(ToSchema)]
#[allow(dead_code)] // A description: forms are read part by part.
pub struct EmbedForm {
    /// Image files: one part each.
    #[schema(value_type = Vec<String>, format = Binary)]
    image: Vec<Vec<u8>>,
    /// As in JSON.
    weights: Option<String>,
}

/// A form for `/v1/classify`.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ClassifyForm {
    /// Image files: one part each.
    #[schema(value_type = Vec<String>, format = Binary)]
    image: Vec<Vec<u8>>,
    /// As in JSON.
    weights: Option<String>,
    /// One part per head, or names with commas between.
    heads: Option<String>,
    /// As in JSON.
    top: Option<u32>,
}

/// The time that a request took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct Timing {
    /// Decoding and preparing its images.
    pub decode_ms: f64,
    /// Waiting for its turn, decoding left out.
    pub queue_ms: f64,
    /// Reconstructing the weights; near 0 where they were there.
    pub weights_ms: f64,
    /// The encoder's runs that the images were in.
    pub run_ms: f64,
    /// All of it, from the arrival of the whole request on.
    pub total_ms: f64,
}

/// Embeddings.
#[derive(Serialize, ToSchema)]
pub struct EmbedResponse {
    /// The expression in its usual spelling.
    pub weights: String,
    /// Per image e values, not normalised.
    pub embeddings: Vec<Vec<f32>>,
    pub timing: Timing,
    /// Whether the weights were there already.
    pub cached: bool,
}

/// A class of a head's.
#[derive(Serialize, ToSchema)]
pub struct ScoredClass {
    /// Its name; its number where the head knows none.
    pub class: String,
    /// Its number, from 0.
    pub index: usize,
    /// Its logit.
    pub score: f32,
    /// What the head makes of all logits, 0 to 1.
    pub probability: f32,
}

/// What a router chose for an image.
#[derive(Serialize, ToSchema)]
pub struct RoutedTask {
    /// Its likeliest task.
    pub task: String,
    /// The confidence that is compared with the threshold, 0 to 1.
    pub confidence: f64,
    /// Who answers: `task`, `fallback`, or `none`.
    pub answer: String,
}

/// What a head says of one image.
#[derive(Serialize, ToSchema)]
pub struct ClassifiedImage {
    /// The classes, the best first.
    pub scores: Vec<ScoredClass>,
    /// Of `"weights": "auto"` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routed: Option<RoutedTask>,
}

/// What a head says of all images.
#[derive(Serialize, ToSchema)]
pub struct HeadResult {
    /// The head; `auto` where each image has that of its task.
    pub head: String,
    /// The images, in the order of the request.
    pub images: Vec<ClassifiedImage>,
}

/// Classes.
#[derive(Serialize, ToSchema)]
pub struct ClassifyResponse {
    /// The expression in its usual spelling.
    pub weights: String,
    /// Per head what it says.
    pub results: Vec<HeadResult>,
    pub timing: Timing,
    /// Whether the weights were there already.
    pub cached: bool,
}

/// An image or several, as OpenAI's embeddings take texts.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "the input is a data URL of an image, or a list of them")]
pub enum OneOrMany {
    /// A data URL of an image.
    One(String),
    /// Data URLs of images.
    Many(Vec<String>),
}

/// The form of embeddings in an answer.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Base64 of f32 values, little endian.
    Base64,
}

/// A request for embeddings as OpenAI's clients make it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenAiRequest {
    /// A task expression.
    #[schema(example = "all@0.3")]
    pub model: String,
    /// Images as data URLs.
    #[schema(example = json!([format!("data:image/png;base64,{EXAMPLE}")]))]
    pub input: OneOrMany,
    /// `float` where it is left out.
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    /// Refused unless it is the length that embeddings have.
    pub dimensions: Option<u32>,
    /// Ignored.
    #[allow(dead_code)]
    pub user: Option<String>,
}

/// An embedding in one of the forms of [`EncodingFormat`].
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum EncodedEmbedding {
    /// Numbers.
    Float(Vec<f32>),
    /// Base64 of f32 values, little endian.
    Base64(String),
}

/// One embedding of a list.
#[derive(Serialize, ToSchema)]
pub struct OpenAiEmbedding {
    /// Always `embedding`.
    pub object: &'static str,
    /// The place of its image.
    pub index: usize,
    /// Not normalised.
    pub embedding: EncodedEmbedding,
}

/// The tokens of a request: images have none.
#[derive(Default, Serialize, ToSchema)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub total_tokens: u32,
}

/// Embeddings as OpenAI's clients read them.
#[derive(Serialize, ToSchema)]
pub struct OpenAiResponse {
    /// Always `list`.
    pub object: &'static str,
    /// In the order of the input.
    pub data: Vec<OpenAiEmbedding>,
    /// The expression in its usual spelling.
    pub model: String,
    pub usage: Usage,
}

/// The architecture of the image encoder.
#[derive(Clone, Serialize, ToSchema)]
pub struct Architecture {
    /// Channels of the residual stream.
    pub width: usize,
    /// Residual blocks.
    pub layers: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Width of the MLPs' hidden layer.
    pub mlp_width: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Side of an image, in pixels.
    pub image_size: usize,
    /// Length of an embedding.
    pub embedding: usize,
}

/// What is served.
#[derive(Clone, Serialize, ToSchema)]
pub struct ModelInfo {
    /// The name of its file.
    pub model: String,
    pub architecture: Architecture,
    /// Parameters of the image encoder.
    pub parameters: usize,
    /// Basis vectors, M.
    pub vectors: usize,
    /// The types that matrices are multiplied in.
    pub precision: String,
    /// The kernel that reconstructs.
    pub kernel: String,
    /// What computes.
    pub provider: String,
    /// The version of ONNX Runtime.
    pub onnxruntime: String,
    /// Threads that compute.
    pub threads: usize,
    /// Images in a run, at most.
    pub batch: u32,
    /// Images that may be asked for and not answered yet, all requests together.
    pub queue: usize,
    /// The version of taskbasis.
    pub version: String,
    /// Bytes that the weights of a task take.
    pub weights_bytes: usize,
    /// Whether `"weights": "auto"` is known.
    pub router: bool,
}

/// A task of the basis.
#[derive(Clone, Serialize, ToSchema)]
pub struct TaskInfo {
    pub name: String,
    /// Whether there is a head for it.
    pub head: bool,
    /// Its classes; none where there is no head.
    pub classes: Vec<String>,
    /// Whether its vector can be recovered alone.
    pub recoverable: bool,
}

/// All that a task expression can name.
#[derive(Clone, Serialize, ToSchema)]
pub struct TasksResponse {
    pub tasks: Vec<TaskInfo>,
    /// Expressions that the bundle keeps, by name.
    pub names: Vec<String>,
    /// Heads, also of what is no task of the basis.
    pub heads: Vec<String>,
    /// Groups of parameters for `TASK@{group: λ, …}`: a block each.
    pub groups: Vec<String>,
    /// Kinds of layer, for the same.
    pub kinds: Vec<String>,
}

/// What became of a prefetch.
#[derive(Serialize, ToSchema)]
pub struct PrefetchResponse {
    /// The expression in its usual spelling.
    pub weights: String,
    /// Whether the weights are there; else they are being reconstructed, or wait for their turn.
    pub ready: bool,
}

/// What went wrong.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody {
    /// The library's kind, or the server's own.
    #[schema(example = "not_found")]
    pub kind: &'static str,
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The body of every answer that is no success.
#[derive(Serialize, ToSchema)]
pub struct ErrorResponse {
    pub error: ErrorBody,
}
