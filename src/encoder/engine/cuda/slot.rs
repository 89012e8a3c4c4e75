//! What one run at a time has for itself: a session, the stream that it runs in, and memory for images and embeddings
//! on both sides.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::device::{Device, in_stream};
use super::graphs::{self, Graphs, Way};
use crate::encoder::engine::feed::Feed;
use crate::encoder::graph::EncoderGraph;
use crate::encoder::input::{Elements, Input, OnDevice};
use crate::encoder::session::{RunSettings, Session, SessionSetup};
use crate::error::Result;
use crate::kernel::CudaStream;
use crate::kernel::cuda::{Memory, Pinned, Queue, Staging};
use crate::tensor::{DType, f32_bytes_mut, try_zeroed};
use crate::weights::DeviceWeights;

/// Images are copied in chunks of at most this size, one while the next is written.
const CHUNK: usize = 4 << 20;

/// A session, its stream, and the memory of its largest run so far.
pub(super) struct SessionSlot {
    /// The session, before the stream: dropped first.
    session: Session,
    /// The inputs and outputs, before the stream: their copies end first.
    io: Option<Io>,
    /// The graphs, where runs are recorded.
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

impl SessionSlot {
    /// A session over the graph, in a stream of its own.
    ///
    /// # Errors
    /// As [`SessionSetup::open`].
    pub(super) fn open(feed: &Feed, setup: &SessionSetup, device: &Device) -> Result<Self> {
        let graphs = device.graphs.then(Graphs::new).transpose()?;
        let stream = device.cuda.stream()?;
        // SAFETY: the stream is kept beside the session, and dropped after it.
        let target = unsafe { setup.target.in_stream(stream.as_raw(), graphs.is_some()) };
        let setup = SessionSetup { target, ..*setup };
        Ok(Self { session: setup.open(&feed.graph.model, feed.graph.kind)?, io: None, graphs, stream })
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// What a run of the session is told that is not to be recorded, where others are.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn without_graph(&self) -> Result<Option<RunSettings>> {
        self.graphs.as_ref().map(|_| RunSettings::plain()).transpose()
    }

    /// Runs the session: images from the host's memory, in the type that the graph takes, weights where they are,
    /// embeddings, f32 `[batch, e]`, to `out`, which is written only where all went well.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory), [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(super) fn run(
        &mut self,
        device: &Device,
        graph: &EncoderGraph,
        pixels: &Input<'_>,
        weights: &DeviceWeights,
        inputs: &[Input<'_>],
        out: &mut [f32],
    ) -> Result<()> {
        let done = self.try_run(device, graph, pixels, weights, inputs, out);
        if done.is_err() {
            // Nothing may be at work in this slot's memory when the next run comes.
            let _ = self.stream.synchronize();
        }
        done
    }

    fn try_run(
        &mut self,
        device: &Device,
        graph: &EncoderGraph,
        pixels: &Input<'_>,
        weights: &DeviceWeights,
        inputs: &[Input<'_>],
        out: &mut [f32],
    ) -> Result<()> {
        let images = pixels.values.bytes();
        let bytes = out.len() * graph.embeds_dtype.size();
        let stream = Queue::Foreign(self.stream.as_raw());
        let io = match self.io.take().filter(|io| io.holds(images.len(), bytes)) {
            Some(io) => self.io.insert(io),
            None => self.io.insert(Io::new(device, stream, images.len(), bytes)?),
        };
        io.staging.send_bytes(io.pixels.address(), images)?;
        // SAFETY: memory of this slot on this device, of at least these sizes. It is used in the slot's stream alone,
        // and stays until the run is over.
        let (at, to) = unsafe {
            (OnDevice::new(io.pixels.address(), &device.memory), OnDevice::new(io.embeds.address(), &device.memory))
        };
        let pixels = Input { values: Elements::Device(graph.pixels_dtype, at), ..*pixels };
        let batch = pixels.shape.first().copied().unwrap_or(1).max(1);
        let shape = [batch, out.len() / batch];
        let embeds = Input { name: "", shape: &shape, values: Elements::Device(graph.embeds_dtype, to) };
        if graph.is_users() {
            // What a node on the CPU reads ONNX Runtime copies there without waiting for any stream. In the built graph
            // there is no such thing.
            weights.synchronize()?;
            self.stream.synchronize()?;
        }
        let (session, stream) = (&self.session, &self.stream);
        let run = |settings: Option<&RunSettings>| {
            let inputs = std::iter::once(pixels).chain(inputs.iter().copied());
            in_stream(weights, stream, || session.run_in_place(inputs, &graph.embeds, settings, &embeds))
        };
        let Some(graphs) = &mut self.graphs else {
            run(None)?;
            return io.take(bytes, graph.embeds_dtype, out);
        };
        let mut addresses = vec![batch as u64, io.pixels.address(), io.embeds.address()];
        addresses.extend(inputs.iter().filter_map(|input| input.values.address()));
        match graphs.way(&addresses)? {
            Way::Plain(settings) | Way::Graph(settings) => {
                graphs.on_thread(|| run(Some(&settings)))?;
                io.take(bytes, graph.embeds_dtype, out)
            }
            Way::First(plain, recorded) => {
                graphs.on_thread(|| run(Some(&plain)))?;
                let mut expected = try_zeroed(out.len())?;
                io.take(bytes, graph.embeds_dtype, &mut expected)?;
                graphs.on_thread(|| run(Some(&recorded)))?;
                io.take(bytes, graph.embeds_dtype, out)?;
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
            staging: Staging::new(gpu, queue, images.clamp(1, CHUNK))?,
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
