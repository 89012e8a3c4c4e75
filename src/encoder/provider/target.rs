//! A provider and its device, as sessions are made for it.

use std::path::{Path, PathBuf};

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{CUDA, ExecutionProviderDispatch, TensorRT};
use twox_hash::XxHash3_128;

use super::diagnosis;
use crate::encoder::options::{Provider, TensorRtOptions};
use crate::encoder::runtime::Runtime;
use crate::error::{Error, ErrorKind, Result};

/// The target that a session is made for.
#[derive(Clone, Debug)]
pub(in crate::encoder) struct Target {
    /// The provider that computes; never [`Provider::Auto`].
    provider: Provider,
    device: u32,
    tensorrt: TensorRtOptions,
    /// The least cosine with the CPU's embeddings, where that is to be looked at.
    least: Option<f32>,
    /// A `cudaStream_t` for CUDA to compute in, as a number; `None` has it make its own.
    stream: Option<u64>,
    /// Whether CUDA may record runs, and replay them.
    graphs: bool,
}

impl Target {
    pub(in crate::encoder) fn cpu() -> Self {
        Self {
            provider: Provider::Cpu,
            device: 0,
            tensorrt: TensorRtOptions::default(),
            least: None,
            stream: None,
            graphs: false,
        }
    }

    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a number that no device can have;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where the folder for engines cannot be made.
    pub(super) fn new(provider: Provider, device: u32, tensorrt: &TensorRtOptions) -> Result<Self> {
        if i32::try_from(device).is_err() {
            return Err(Error::invalid("no device has this number").got(device));
        }
        match &tensorrt.cache {
            Some(folder) if provider == Provider::TensorRt => {
                std::fs::create_dir_all(folder).map_err(|e| Error::io("cannot make the folder", folder, e))?;
            }
            _ => {}
        }
        let least = (provider == Provider::TensorRt && tensorrt.fp16)
            .then(|| tensorrt.min_cosine.unwrap_or(TensorRtOptions::DEFAULT_COSINE));
        Ok(Self { provider, device, tensorrt: tensorrt.clone(), least, stream: None, graphs: false })
    }

    /// The target of a session that computes in this stream of the device, as CUDA graphs or not. The CPU knows
    /// neither.
    ///
    /// # Safety
    /// The stream has to outlive every session that is made for the target.
    pub(in crate::encoder) unsafe fn in_stream(&self, stream: u64, graphs: bool) -> Self {
        Self { stream: Some(stream), graphs, ..self.clone() }
    }

    pub(in crate::encoder) fn provider(&self) -> Provider {
        self.provider
    }

    pub(in crate::encoder) fn device(&self) -> u32 {
        self.device
    }

    pub(in crate::encoder) fn is_cpu(&self) -> bool {
        self.provider == Provider::Cpu
    }

    /// The least cosine with the CPU's embeddings, where that is to be looked at.
    pub(in crate::encoder) fn min_cosine(&self) -> Option<f32> {
        self.least
    }

    #[cfg(test)]
    pub(in crate::encoder) fn cuda(device: u32) -> Self {
        Self { provider: Provider::Cuda, device, ..Self::cpu() }
    }

    /// The CPU, as if it computed in half floats.
    #[cfg(test)]
    pub(in crate::encoder) fn compared(least: f32) -> Self {
        Self { least: Some(least), ..Self::cpu() }
    }

    /// What a session of the target is made with, in the order in which they are asked for nodes; what none of them can
    /// compute goes to the CPU. Without `error_on_failure` ONNX Runtime would go on without one that cannot be had.
    ///
    /// `reusable` is the graph where it holds all that its engines depend on: ONNX Runtime tells engines in a folder
    /// apart by the names in the graph alone, so those of a graph with other constants would be taken for its own, and
    /// are kept in no folder or in another.
    pub(in crate::encoder) fn providers(&self, reusable: Option<&[u8]>) -> Vec<ExecutionProviderDispatch> {
        // `new` has checked it.
        let device = i32::try_from(self.device).unwrap_or(i32::MAX);
        let stream = self.stream.map(|stream| std::ptr::with_exposed_provenance_mut(stream as usize));
        // ONNX Runtime's defaults keep ten bits of a factor (TF32), and time convolutions anew for every batch size,
        // which may end otherwise in the next process.
        let mut cuda = CUDA::default()
            .with_device_id(device)
            .with_tf32(false)
            .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic);
        if let Some(stream) = stream {
            // SAFETY: `in_stream` demands that it outlives the sessions.
            cuda = unsafe { cuda.with_compute_stream(stream) };
        }
        if self.graphs {
            cuda = cuda.with_cuda_graph(true);
        }
        let cuda = cuda.build().error_on_failure();
        if self.provider != Provider::TensorRt {
            return vec![cuda];
        }
        let mut tensorrt = TensorRT::default().with_device_id(device).with_fp16(self.tensorrt.fp16);
        if let Some(stream) = stream {
            // Of two providers of one device ONNX Runtime asks the first for streams: without this it would make its
            // own, which wait for nothing of ours.
            // SAFETY: `in_stream` demands that the stream outlives the sessions.
            tensorrt = unsafe { tensorrt.with_compute_stream(stream) };
        }
        if self.tensorrt.fp16 {
            // A normalisation's sum of squares is what overflows first.
            tensorrt = tensorrt.with_layer_norm_fp32_fallback(true);
        }
        if let Some(folder) = &self.tensorrt.cache {
            tensorrt = tensorrt.with_timing_cache(true).with_timing_cache_path(folder.display());
            if let Some(graph) = reusable {
                tensorrt = tensorrt.with_engine_cache(true).with_engine_cache_path(engines(folder, graph).display());
            }
        }
        vec![tensorrt.build().error_on_failure(), cuda]
    }

    /// An error of ONNX Runtime's, from making or running a session for this target, as what it means; where that is
    /// not known, as it is.
    pub(in crate::encoder) fn explain(&self, runtime: &Runtime, error: Error) -> Error {
        if self.is_cpu() || !matches!(error.kind(), ErrorKind::Runtime | ErrorKind::OutOfMemory) {
            return error;
        }
        let Some(message) = std::error::Error::source(&error).map(ToString::to_string) else { return error };
        diagnosis::diagnose(self.provider, self.device, runtime, &message).unwrap_or(error)
    }
}

/// The folder of the engines of one graph.
fn engines(folder: &Path, graph: &[u8]) -> PathBuf {
    folder.join(format!("{:032x}", XxHash3_128::oneshot(graph)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_target() {
        let error = Target::new(Provider::Cuda, u32::MAX, &TensorRtOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);

        let folder = tempfile::tempdir().unwrap();
        let (file, made) = (folder.path().join("file"), folder.path().join("a/b"));
        std::fs::write(&file, b"").unwrap();
        let with = |cache| TensorRtOptions { cache: Some(cache), ..TensorRtOptions::default() };
        Target::new(Provider::TensorRt, 0, &with(made.clone())).unwrap();
        assert!(made.is_dir());
        let error = Target::new(Provider::TensorRt, 0, &with(file.join("c"))).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Io, Some(&*file.join("c"))));
        // CUDA keeps no engines.
        Target::new(Provider::Cuda, 0, &with(file)).unwrap();
    }

    #[test]
    fn graphs_do_not_share_engines() {
        let folder = Path::new("cache");
        assert_eq!(engines(folder, b"a graph"), engines(folder, b"a graph"));
        assert_ne!(engines(folder, b"a graph"), engines(folder, b"another"));
        assert_eq!(engines(folder, b"a graph").parent(), Some(folder));
    }

    #[test]
    fn half_floats_are_compared_with_the_cpu() {
        let of = |provider, tensorrt: TensorRtOptions| Target::new(provider, 0, &tensorrt).unwrap().min_cosine();
        let fp16 = TensorRtOptions { fp16: true, ..TensorRtOptions::default() };
        assert_eq!(of(Provider::TensorRt, TensorRtOptions::default()), None);
        assert_eq!(of(Provider::Cuda, fp16.clone()), None);
        assert_eq!(of(Provider::TensorRt, fp16.clone()), Some(TensorRtOptions::DEFAULT_COSINE));
        assert_eq!(of(Provider::TensorRt, TensorRtOptions { min_cosine: Some(0.5), ..fp16 }), Some(0.5));
    }
}
