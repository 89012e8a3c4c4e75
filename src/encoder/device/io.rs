//! What a run on a device has for itself: a stream, and memory for images and embeddings on both sides.

use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::session::{NoSelectedOutputs, RunOptions, Session};

use super::super::graph::EncoderGraph;
use super::super::provider::recording;
use super::super::session::{self, Elements, Input, OnDevice};
use super::graphs::{self, Graphs, Way};
use super::{Device, in_stream};
use crate::error::Result;
use crate::kernel::CudaStream;
use crate::kernel::cuda::{Memory, Pinned, Queue, Staging};
use crate::tensor::{DType, f32_bytes_mut, try_zeroed};
use crate::weights::DeviceWeights;

/// Images are copied in pieces of at most this size, one while the next is written.
const PIECE: usize = 4 << 20;

/// A stream, and the memory of its largest run so far.
pub(in crate::encoder) struct DeviceLane {
    /// Before the stream: its copies end first.
    io: Option<Io>,
    /// Where runs are recorded.
    graphs: Option<Graphs>,
    stream: CudaStream,
}

/// Memory for images and embeddings.
struct Io {
    staging: Staging,
    pixels: Memory,
    embeds: Memory,
    result: Pinned,
}

impl DeviceLane {
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(in crate::encoder) fn new(device: &Device) -> Result<Self> {
        let graphs = device.graphs.then(Graphs::new).transpose()?;
        Ok(Self { stream: device.cuda.stream()?, io: None, graphs })
    }

    pub(in crate::encoder) fn has_graphs(&self) -> bool {
        self.graphs.is_some()
    }

    /// What a run of the lane's session is told that is not to be recorded, where others are.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(in crate::encoder) fn without_graph(&self) -> Result<Option<RunOptions<NoSelectedOutputs>>> {
        self.graphs.as_ref().map(|_| graphs::plain()).transpose()
    }

    pub(in crate::encoder) fn stream(&self) -> &CudaStream {
        &self.stream
    }

    /// Runs a session of this lane's stream: images from the host's memory, in the type that the graph takes, weights
    /// where they are, embeddings, f32 `[batch, e]`, to `out`, which is written only where all went well.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory), [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(in crate::encoder) fn run(
        &mut self,
        device: &Device,
        (session, signature): (&mut Session, &EncoderGraph),
        pixels: &Input<'_>,
        weights: (&DeviceWeights, &[Input<'_>]),
        out: &mut [f32],
    ) -> Result<()> {
        let done = self.try_run(device, (session, signature), pixels, weights, out);
        if done.is_err() {
            // Nothing may be at work in this lane's memory when the next run comes.
            let _ = self.stream.synchronize();
        }
        done
    }

    fn try_run(
        &mut self,
        device: &Device,
        (session, signature): (&mut Session, &EncoderGraph),
        pixels: &Input<'_>,
        (weights, inputs): (&DeviceWeights, &[Input<'_>]),
        out: &mut [f32],
    ) -> Result<()> {
        let images = pixels.values.bytes();
        let bytes = out.len() * signature.embeds_dtype.size();
        let stream = Queue::Foreign(self.stream.as_raw());
        let io = match self.io.take().filter(|io| io.holds(images.len(), bytes)) {
            Some(io) => self.io.insert(io),
            None => self.io.insert(Io::new(device, stream, images.len(), bytes)?),
        };
        io.staging.send_bytes(io.pixels.address(), images)?;
        // SAFETY: memory of this lane on this device, of at least these sizes. It is used in the lane's stream alone,
        // and stays until the run is over.
        let (at, to) = unsafe {
            (OnDevice::new(io.pixels.address(), &device.memory), OnDevice::new(io.embeds.address(), &device.memory))
        };
        let pixels = Input { values: Elements::Device(signature.pixels_dtype, at), ..*pixels };
        let batch = pixels.shape.first().copied().unwrap_or(1).max(1);
        let shape = [batch, out.len() / batch];
        let embeds = Input { name: "", shape: &shape, values: Elements::Device(signature.embeds_dtype, to) };
        if signature.is_users() {
            // What a node on the CPU reads ONNX Runtime copies there without waiting for any stream. In the built graph
            // there is no such thing.
            weights.synchronize()?;
            self.stream.synchronize()?;
        }
        let run = |session: &mut Session, options: Option<&RunOptions<NoSelectedOutputs>>| {
            in_stream(weights, &self.stream, || {
                session::run_in_place(session, signature, &pixels, inputs, &embeds, options)
            })
        };
        let Some(graphs) = &mut self.graphs else {
            let _turn = recording::with_others();
            run(session, None)?;
            return io.take(bytes, signature.embeds_dtype, out);
        };
        let mut addresses = vec![batch as u64, io.pixels.address(), io.embeds.address()];
        addresses.extend(inputs.iter().filter_map(|input| input.values.address()));
        match graphs.way(&addresses)? {
            Way::Plain(options) | Way::Graph(options) => {
                let _turn = recording::with_others();
                graphs.on_thread(|| run(session, Some(&options)))?;
                io.take(bytes, signature.embeds_dtype, out)
            }
            Way::First(plain, recorded) => {
                let _turn = recording::alone();
                graphs.on_thread(|| run(session, Some(&plain)))?;
                let mut expected = try_zeroed(out.len())?;
                io.take(bytes, signature.embeds_dtype, &mut expected)?;
                graphs.on_thread(|| run(session, Some(&recorded)))?;
                io.take(bytes, signature.embeds_dtype, out)?;
                // What was recorded has to be the whole run.
                graphs::check(out, &expected)?;
                graphs.is_recorded(addresses);
                Ok(())
            }
        }
    }
}

impl Io {
    fn new(device: &Device, queue: Queue, images: usize, embeds: usize) -> Result<Self> {
        let gpu = device.cuda.device();
        Ok(Self {
            staging: Staging::new(gpu, queue, images.clamp(1, PIECE))?,
            pixels: Memory::new(gpu, images)?,
            embeds: Memory::new(gpu, embeds)?,
            result: Pinned::new(gpu, queue, embeds)?,
        })
    }

    /// The embeddings, once the run is over.
    fn take(&mut self, bytes: usize, dtype: DType, out: &mut [f32]) -> Result<()> {
        let result = self.result.copy_from(self.embeds.address(), bytes)?;
        if dtype == DType::F16 {
            let halves: Vec<f16> = result.chunks_exact(2).map(|half| f16::from_le_bytes([half[0], half[1]])).collect();
            halves.convert_to_f32_slice(out);
        } else {
            f32_bytes_mut(out).copy_from_slice(result);
        }
        Ok(())
    }

    fn holds(&self, images: usize, embeds: usize) -> bool {
        self.pixels.nbytes() >= images && self.embeds.nbytes() >= embeds
    }
}
