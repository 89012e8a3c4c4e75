//! A user's graph made faster while its weights are still in it: many of ONNX Runtime's improvements need constants.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ort::session::builder::GraphOptimizationLevel;

use super::image::Encoder;
use super::options::EncoderOptions;
use super::runtime::Runtime;
use super::session;
use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::onnx::{BindOptions, BoundGraph, OnnxFile};
use crate::tower::arch::Arch;
use crate::weights::Model;

/// A form of a user's graph that was tried, and how it did.
#[derive(Clone, Debug)]
pub struct GraphVariant {
    /// `as it is`, `optimised (basic)`, `optimised (extended)`.
    pub form: &'static str,
    /// The median of its runs with one image, in milliseconds; or why it was not run.
    pub result: std::result::Result<f64, String>,
    /// Whether it is the one that was chosen.
    pub is_chosen: bool,
}

/// Runs of each form, one of each in turn.
const ROUNDS: usize = 7;

const AS_IT_IS: &str = "as it is";
const LEVELS: [(&str, GraphOptimizationLevel); 2] =
    [("optimised (basic)", GraphOptimizationLevel::Level1), ("optimised (extended)", GraphOptimizationLevel::Level2)];

impl Encoder {
    /// Makes an encoder over the fastest form of the graph: as it is, or as ONNX Runtime's optimiser makes
    /// it while the weights are constants, where the result still binds completely. Each form is run a few times with
    /// the base's weights. It takes as long as opening two plain sessions on the file, and the runs.
    ///
    /// # Errors
    /// As [`Encoder::with_graph`], for the graph as it is; what goes wrong with others is in their
    /// [`GraphVariant`].
    pub fn with_fastest_graph(
        arch: &Arch,
        graph: &BoundGraph,
        model: &Arc<Model>,
        options: &EncoderOptions,
    ) -> Result<(Self, Vec<GraphVariant>)> {
        let runtime = Runtime::load(options.runtime.as_deref())?;
        let map = graph.map();
        let binding = BindOptions {
            pixels: Some(map.pixels.clone()),
            output: Some(map.output.clone()),
            missing: map.missing.clone(),
            repeated: map.repeated.clone(),
        };
        let mut variants = vec![GraphVariant { form: AS_IT_IS, result: Ok(0.0), is_chosen: false }];
        let mut encoders = vec![(0, Self::with_graph(arch, graph, options)?)];
        // A graph out of a bundle has no file with weights in it: it gets one, with the base's.
        let folder = tempfile::tempdir().map_err(|e| Error::io("cannot make a folder", std::env::temp_dir(), e))?;
        let source =
            if graph.is_embedded() { folder.path().join("graph.onnx") } else { graph.file().path().to_owned() };
        let base = model.weights(&"base".parse()?)?;
        if graph.is_embedded() {
            graph.write(&*base.in_layout(graph.layout()).get()?, &source, &[])?;
        }
        for (form, level) in LEVELS {
            let made = optimised(runtime, &source, level, model.map_mode())
                .and_then(|file| BoundGraph::bind(Arc::new(file), model.base(), model.basis(), &binding))
                .and_then(|graph| Self::with_graph(arch, &graph, options));
            let result = made.map(|encoder| encoders.push((variants.len(), encoder)));
            variants.push(GraphVariant {
                form,
                result: result.map(|()| 0.0).map_err(|e| e.to_string()),
                is_chosen: false,
            });
        }

        let images = vec![0.5; arch.pixels()];
        let mut times = vec![Vec::with_capacity(ROUNDS); encoders.len()];
        for round in 0..=ROUNDS {
            for ((_, encoder), times) in encoders.iter().zip(&mut times) {
                let weights = base.in_layout(encoder.layout()).get()?;
                let began = Instant::now();
                encoder.encode(&weights, &images, 1)?;
                // The first run of a session allocates.
                if round > 0 {
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        let medians: Vec<f64> = times
            .into_iter()
            .map(|mut times| {
                times.sort_unstable_by(f64::total_cmp);
                times[times.len() / 2]
            })
            .collect();
        let fastest = (0..medians.len()).min_by(|a, b| medians[*a].total_cmp(&medians[*b])).unwrap_or(0);
        for ((variant, _), median) in encoders.iter().zip(&medians) {
            variants[*variant].result = Ok(*median);
        }
        let (variant, encoder) = encoders.swap_remove(fastest);
        variants[variant].is_chosen = true;
        Ok((encoder, variants))
    }
}

/// The model at `path` as ONNX Runtime's optimiser makes it at level basic, or at level extended.
///
/// # Errors
/// As [`Runtime::load`]; [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) where ONNX Runtime refuses the model, or
/// cannot write the result (of 2 GiB and more).
pub fn optimise_graph(path: &Path, extended: bool, options: &EncoderOptions) -> Result<OnnxFile> {
    let (_, level) = LEVELS[usize::from(extended)];
    optimised(Runtime::load(options.runtime.as_deref())?, path, level, MapMode::Map)
}

/// Values in files beside the model are opened in `mode`. ONNX Runtime opens the model in its own way.
fn optimised(runtime: &Runtime, path: &Path, level: GraphOptimizationLevel, mode: MapMode) -> Result<OnnxFile> {
    let folder = tempfile::tempdir().map_err(|e| Error::io("cannot make a folder", std::env::temp_dir(), e))?;
    let target = folder.path().join("optimised.onnx");
    session::optimise(runtime, path, level, &target)?;
    // Read whole: the folder is gone when this returns. Values that are in files beside the model stay there.
    let bytes = std::fs::read(&target).map_err(|e| Error::io("cannot read", &target, e))?;
    OnnxFile::parse_beside(Arc::new(Mapping::from_vec(bytes, path)), path, mode)
}
