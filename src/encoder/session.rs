//! ONNX Runtime's sessions. Every call to its session API is here, and so is the only place that takes the lock of CUDA
//! graphs.

use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::NonNull;

use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::AsPointer;
use ort::environment::ThreadManager;
use ort::session::RunOptions;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{DynValue, Shape};
use parking_lot::{Mutex, MutexGuard, RwLockReadGuard, RwLockWriteGuard};

use super::capture_lock;
use super::input::{Input, Tensors, view};
use super::operator;
use super::ort_error::failed;
use super::provider::target::Target;
use super::runtime::Runtime;
use super::runtime::shutdown::{Owned, ShutdownGuard};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Kernel;

const CREATING: &str = "cannot create a session for the encoder";

/// The setting that has a session remember which provider computes which node.
pub(super) const RECORD_NODES: &str = "session.record_ep_graph_assignment_info";

/// The origin of a graph, and what a session over it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GraphKind {
    /// Built here, of ONNX Runtime's operators.
    Standard,
    /// Built here, of our own operators, with this kernel.
    Own(Kernel),
    /// A user's, which ONNX Runtime can improve on; with this kernel for nodes of our own operators.
    Users(Option<Kernel>),
}

/// The set-up that all sessions of an encoder have in common.
#[derive(Clone, Debug)]
pub(super) struct SessionSetup {
    pub(super) runtime: &'static Runtime,
    /// Threads that one run computes with, the calling one among them.
    pub(super) threads: usize,
    pub(super) target: Target,
}

impl SessionSetup {
    /// The CPU's, with as many threads.
    pub(super) fn on_cpu(&self) -> Self {
        Self { target: Target::cpu(), ..*self }
    }

    /// A session over `model`, whose weights are inputs.
    ///
    /// The built graph is fused already, so that optimising it would only cost time. A user's gets every improvement
    /// that leaves the layout of its weights alone. Memory patterns would plan, and keep, one block for every batch
    /// size; without them ViT-B-32 takes a quarter less memory and the same time. Threads stop spinning at the end of
    /// each run: several sessions that spin take the cores from each other, and from the host.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`] when ONNX Runtime refuses the graph or the provider.
    pub(super) fn open(&self, model: &[u8], kind: GraphKind) -> Result<Session> {
        let _at_work = ShutdownGuard::for_session()?;
        let (level, kernel) = match kind {
            GraphKind::Users(kernel) => (GraphOptimizationLevel::Level2, kernel),
            GraphKind::Standard => (GraphOptimizationLevel::Disable, None),
            GraphKind::Own(kernel) => (GraphOptimizationLevel::Disable, Some(kernel)),
        };
        let mut builder = self.builder(level)?;
        if let Some(kernel) = kernel {
            let operators = operator::domain(self.threads, kernel)?;
            builder = builder.with_operators(operators).map_err(failed(CREATING))?;
        }
        self.commit(builder, Some(model), |builder| builder.commit_from_memory(model))
    }

    /// A session with the weights frozen into it: ONNX Runtime copies them, packs the matrices as its kernels like them
    /// best, and keeps no pointer to the caller's memory. The patch embedding takes the layout that convolutions like
    /// best: a quarter of its time, one hundredth of a run's.
    ///
    /// `placeholders` is the graph with the weights as constants that have no values yet; `has_halves`: anything in it
    /// may be half floats. `spawner` makes the threads.
    ///
    /// # Errors
    /// As [`SessionSetup::open`].
    pub(super) fn open_frozen<'a>(
        &self,
        placeholders: &[u8],
        has_halves: bool,
        weights: impl Iterator<Item = Input<'a>>,
        spawner: impl ThreadManager + 'static,
    ) -> Result<Session> {
        let _at_work = ShutdownGuard::for_session()?;
        let builder = with_halves(self.builder(GraphOptimizationLevel::All)?, has_halves)?;
        let builder = builder.with_thread_manager(spawner).map_err(failed(CREATING))?;
        let tensors = Tensors::of(weights)?;
        self.commit(builder, None, |builder| {
            // SAFETY: both arrays hold as many valid pointers as is said, to names and tensors that outlive the
            // session's making; it copies what it needs of them.
            let status = unsafe {
                let status = (ort::api().AddExternalInitializers)(
                    builder.ptr_mut(),
                    tensors.names().as_ptr(),
                    tensors.values().as_ptr(),
                    tensors.len(),
                );
                ort::Error::result_from_status(status)
            };
            status.and_then(|()| builder.commit_from_memory(placeholders))
        })
    }

    /// A session on an .onnx file with its weights in it, with ONNX Runtime's own settings but for the number of
    /// threads, and that they stop spinning when a run ends.
    ///
    /// # Errors
    /// As [`SessionSetup::open`].
    pub(super) fn open_file(&self, path: &Path, has_halves: bool) -> Result<Session> {
        let _at_work = ShutdownGuard::for_session()?;
        let builder = ort::session::Session::builder(self.runtime.environment()).map_err(failed(CREATING))?;
        let builder = with_halves(self.with_threads(builder)?, has_halves)?;
        self.commit(builder, None, |builder| builder.commit_from_file(path)).map_err(|e| e.at(path))
    }

    fn builder(&self, level: GraphOptimizationLevel) -> Result<SessionBuilder> {
        let builder = ort::session::Session::builder(self.runtime.environment()).map_err(failed(CREATING))?;
        let builder = builder.with_optimization_level(level).map_err(failed(CREATING))?;
        self.with_threads(builder.with_memory_pattern(false).map_err(failed(CREATING))?)
    }

    fn with_threads(&self, builder: SessionBuilder) -> Result<SessionBuilder> {
        let builder = builder.with_intra_threads(self.threads).map_err(failed(CREATING))?;
        builder.with_config_entry("session.force_spinning_stop", "1").map_err(failed(CREATING))
    }

    /// Makes the session for the target. `reusable` is the graph where it holds all that an engine of TensorRT depends
    /// on, which it does not where its weights are constants.
    fn commit(
        &self,
        mut builder: SessionBuilder,
        reusable: Option<&[u8]>,
        make: impl FnOnce(&mut SessionBuilder) -> ort::Result<ort::session::Session>,
    ) -> Result<Session> {
        let Self { runtime, target, .. } = self;
        let explain = |e| target.explain(runtime, e);
        if !target.is_cpu() {
            builder = builder.with_config_entry(RECORD_NODES, "1").map_err(failed(CREATING))?;
        }
        let _turn = (!target.is_cpu()).then(capture_lock::shared);
        if !target.is_cpu() {
            let doing = "cannot use the execution provider";
            let registered = builder.with_execution_providers(target.providers(reusable)).map_err(failed(doing));
            builder = registered.map_err(explain)?;
        }
        let session = make(&mut builder).map_err(failed(CREATING)).map_err(explain)?;
        let turn = (!target.is_cpu()).then(Mutex::default);
        Ok(Session { session: Owned::new(session), turn, runtime, target: target.clone() })
    }
}

/// Makes a session that has its weights do without the layout that convolutions like best, where there may be half
/// floats. What makes that layout ends the process where it meets some graphs with them (a cast from f16 between a
/// transposition and a product; ONNX Runtime 1.31 and 1.32, <https://github.com/microsoft/onnxruntime/issues/28392>).
fn with_halves(mut builder: SessionBuilder, has_halves: bool) -> Result<SessionBuilder> {
    for (key, value) in entries_for_halves(has_halves) {
        builder = builder.with_config_entry(key, value).map_err(failed(CREATING))?;
    }
    Ok(builder)
}

fn entries_for_halves(has_halves: bool) -> &'static [(&'static str, &'static str)] {
    if has_halves { &[("optimization.disable_specified_optimizers", "NchwcTransformer")] } else { &[] }
}

/// Writes the model at `path` to `target` as ONNX Runtime's optimiser makes it.
///
/// # Errors
/// [`ErrorKind::Runtime`] where ONNX Runtime refuses the model, or cannot write the result (of 2 GiB and more).
pub(super) fn optimise(runtime: &Runtime, path: &Path, level: GraphOptimizationLevel, target: &Path) -> Result<()> {
    let doing = "cannot optimise the graph";
    let _at_work = ShutdownGuard::for_session()?;
    ort::session::Session::builder(runtime.environment())
        .map_err(failed(doing))?
        .with_optimization_level(level)
        .map_err(failed(doing))?
        // The session itself is never run.
        .with_config_entry("session.disable_prepacking", "1")
        .map_err(failed(doing))?
        .with_optimized_model_path(target)
        .map_err(failed(doing))?
        .commit_from_file(path)
        .map_err(failed(doing))
        .map_err(|e| e.at(path))
        .map(drop)
}

/// A session, and what it was made for.
pub(super) struct Session {
    session: Owned<ort::session::Session>,
    /// Held during a run where only one thread may: for another provider than the CPU's.
    turn: Option<Mutex<()>>,
    runtime: &'static Runtime,
    target: Target,
}

/// What a thread holds that runs a session, and makes and drops what the run takes and gives.
struct SessionTurn<'s> {
    _at_work: ShutdownGuard,
    _shared: Option<RwLockReadGuard<'static, ()>>,
    _alone: Option<RwLockWriteGuard<'static, ()>>,
    _own: Option<MutexGuard<'s, ()>>,
}

/// How a session is to make one run, where runs can be recorded.
pub(super) struct RunSettings {
    options: RunOptions,
    may_record: bool,
}

impl RunSettings {
    /// Neither recorded nor replayed.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`].
    pub(super) fn plain() -> Result<Self> {
        Self::with_graph("-1", false)
    }

    /// Replays the graph of this number, which may have to be recorded first.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`].
    pub(super) fn graph(number: usize, may_record: bool) -> Result<Self> {
        Self::with_graph(&number.to_string(), may_record)
    }

    fn with_graph(number: &str, may_record: bool) -> Result<Self> {
        let doing = "cannot set up a run";
        // Dropping them frees memory, which may be done at any time.
        let _at_work = ShutdownGuard::for_run()?;
        let mut options = RunOptions::new().map_err(failed(doing))?;
        options.set("gpu_graph_id", number).map_err(failed(doing))?;
        Ok(Self { options, may_record })
    }

    /// The number of the graph, and whether it may be recorded.
    #[cfg(test)]
    pub(super) fn told(mut self) -> (Option<String>, bool) {
        (self.options.get("gpu_graph_id"), self.may_record)
    }
}

impl Session {
    /// Runs it, and writes its output, of whatever type of floats, to `out`.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`] or [`ErrorKind::OutOfMemory`] when the run fails; [`ErrorKind::Mismatch`] for an output
    /// of another size than `out`. On an error `out` is as it was.
    pub(super) fn run_into<'a>(
        &self,
        inputs: impl IntoIterator<Item = Input<'a>>,
        output: &str,
        settings: Option<&RunSettings>,
        out: &mut [f32],
    ) -> Result<()> {
        let _turn = self.turn(settings)?;
        let value = self.run(inputs, output, settings)?;
        take(&value, out)
    }

    /// Runs it, and gives the shape of its output.
    ///
    /// # Errors
    /// As [`Session::run_into`].
    pub(super) fn run_for_shape<'a>(
        &self,
        inputs: impl IntoIterator<Item = Input<'a>>,
        output: &str,
    ) -> Result<Vec<i64>> {
        let _turn = self.turn(None)?;
        let value = self.run(inputs, output, None)?;
        Ok(value.dtype().tensor_shape().map(|shape| shape.to_vec()).unwrap_or_default())
    }

    /// Waits until this thread may run it, which has to be before anything of ONNX Runtime is made for that.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] when the process is ending.
    fn turn(&self, settings: Option<&RunSettings>) -> Result<SessionTurn<'_>> {
        let own = self.turn.as_ref().map(|turn| turn.lock());
        let may_record = settings.is_some_and(|settings| settings.may_record);
        let alone = may_record.then(capture_lock::exclusive);
        let shared = (!may_record && !self.target.is_cpu()).then(capture_lock::shared);
        // Last, so that none is held up by a thread that waits for another.
        Ok(SessionTurn { _at_work: ShutdownGuard::for_run()?, _shared: shared, _alone: alone, _own: own })
    }

    /// The caller has its [`Session::turn`].
    fn run<'a>(
        &self,
        inputs: impl IntoIterator<Item = Input<'a>>,
        output: &str,
        settings: Option<&RunSettings>,
    ) -> Result<DynValue> {
        // SAFETY: NULL has ONNX Runtime make the output.
        let made = unsafe { self.run_raw(&Tensors::of(inputs)?, output, settings, std::ptr::null_mut())? };
        let made = NonNull::new(made).ok_or_else(|| Error::new(ErrorKind::Internal, "a run has no output"))?;
        // SAFETY: a value that the session has just made and that nothing else owns, in memory of its allocator.
        Ok(unsafe { DynValue::from_ptr(made, Some(self.session.allocator())) })
    }

    /// Runs it with everything where it is in a device's memory, also its output: nothing is copied.
    ///
    /// # Errors
    /// As [`Session::run_into`].
    pub(super) fn run_in_place<'a>(
        &self,
        inputs: impl IntoIterator<Item = Input<'a>>,
        output: &str,
        settings: Option<&RunSettings>,
        to: &Input<'_>,
    ) -> Result<()> {
        let _turn = self.turn(settings)?;
        let to = view(to)?;
        // SAFETY: a tensor of the caller's, which `OnDevice` allows runs to write to until the call ends.
        unsafe { self.run_raw(&Tensors::of(inputs)?, output, settings, to.ptr().cast_mut()) }.map(drop)
    }

    /// The caller has its [`Session::turn`].
    ///
    /// # Safety
    /// `to` is NULL, or a tensor that may be written to.
    unsafe fn run_raw(
        &self,
        inputs: &Tensors<'_>,
        output: &str,
        settings: Option<&RunSettings>,
        mut to: *mut ort::sys::OrtValue,
    ) -> Result<*mut ort::sys::OrtValue> {
        let output = CString::new(output).map_err(|_| Error::invalid("a NUL in a name").tensor(output))?;
        // SAFETY: options, names, inputs and output are valid until the call ends, the first two arrays are of one
        // length, the others have one element, and only ONNX Runtime writes to the output meanwhile (the caller's
        // promise). It declares `Run` safe for any number of threads on one session; the `ort` crate asks for `&mut`
        // because providers for other devices did not keep to that, and those have their `turn`.
        let status = unsafe {
            let status = (ort::api().Run)(
                self.session.ptr().cast_mut(),
                settings.map_or(std::ptr::null(), |settings| settings.options.ptr()),
                inputs.names().as_ptr(),
                inputs.values().as_ptr(),
                inputs.len(),
                &output.as_ptr(),
                1,
                &mut to,
            );
            ort::Error::result_from_status(status)
        };
        status.map_err(failed("the encoder failed")).map_err(|e| self.target.explain(self.runtime, e))?;
        Ok(to)
    }

    /// The shape of an output as ONNX Runtime infers it, extents that it cannot tell as −1; `None` for one that is not
    /// there.
    pub(super) fn inferred_shape(&self, output: &str) -> Option<&[i64]> {
        let outlet = self.session.outputs().iter().find(|outlet| outlet.name() == output)?;
        outlet.dtype().tensor_shape().map(|shape| &**shape)
    }

    /// The number of graph nodes that each provider has got, by ONNX Runtime's names, the most first; nothing for the
    /// CPU, which has all. ONNX Runtime gives each node to the first provider that takes it, and the rest to the CPU,
    /// without a word. A node that TensorRT takes may be many of the graph's.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`].
    pub(super) fn nodes(&self) -> Result<Vec<(String, usize)>> {
        if self.target.is_cpu() {
            return Ok(Vec::new());
        }
        let _at_work = ShutdownGuard::for_session()?;
        count_nodes(&self.session)
    }

    /// The session itself.
    pub(super) fn into_inner(self) -> ort::session::Session {
        self.session.into_inner()
    }
}

/// Copies the embeddings, of whatever type of floats they are.
fn take(embeds: &DynValue, out: &mut [f32]) -> Result<()> {
    let wrong = |shape: &Shape, count: usize| {
        Error::mismatch("the image encoder's output has another size")
            .expected(format_args!("{count} values"))
            .got(format_args!("shape {shape:?}"))
    };
    if let Ok((shape, values)) = embeds.try_extract_tensor::<f16>() {
        if values.len() != out.len() {
            return Err(wrong(shape, out.len()));
        }
        values.convert_to_f32_slice(out);
        return Ok(());
    }
    let (shape, values) = embeds.try_extract_tensor::<f32>().map_err(failed("cannot read the embeddings"))?;
    if values.len() != out.len() {
        return Err(wrong(shape, out.len()));
    }
    out.copy_from_slice(values);
    Ok(())
}

/// [`Session::nodes`] of a session that was made with [`RECORD_NODES`].
pub(super) fn count_nodes(session: &ort::session::Session) -> Result<Vec<(String, usize)>> {
    let told = failed("cannot ask which provider computes what");
    let api = ort::api();
    let (mut parts, mut length) = (std::ptr::null(), 0);
    // SAFETY: the session is valid, and both pointers are to locals, which are set to an array of the session's.
    let status = unsafe {
        ort::Error::result_from_status((api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut parts, &mut length))
    };
    status.map_err(&told)?;
    let mut counts: Vec<(String, usize)> = Vec::new();
    for index in 0..length {
        let (mut name, mut nodes, mut count) = (std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: the array has `length` elements, valid as long as the session; the pointers are to locals.
        let status = unsafe {
            let part = *parts.add(index);
            ort::Error::result_from_status((api.EpAssignedSubgraph_GetEpName)(part, &mut name)).and_then(|()| {
                ort::Error::result_from_status((api.EpAssignedSubgraph_GetNodes)(part, &mut nodes, &mut count))
            })
        };
        status.map_err(&told)?;
        // SAFETY: set by a call that succeeded, to a NUL-terminated text of the session's.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += count,
            None => counts.push((name.into_owned(), count)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok(counts)
}

#[cfg(test)]
mod tests;
