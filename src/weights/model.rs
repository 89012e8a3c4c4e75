//! A model as a program holds it: base, basis, and the weights that were reconstructed last.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indexmap::IndexSet;

use super::cache::{Key, WeightsCache};
use super::device::OnDevices;
use super::{Layout, ReconstructOptions, Scope, Weights, plan};
use crate::basis::{Basis, Coefficients, Number, TaskExpr};
use crate::checkpoint::{Checkpoint, is_image_tower};
use crate::error::{Error, Result};
use crate::kernel::{self, Kernel};
use crate::mmap::Identity;
use crate::suggest::clipped;

/// What is kept where nobody says otherwise, at least.
const DEFAULT_BUDGET: usize = 1 << 30;

/// How a [`Model`] reconstructs and what it keeps.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// Threads for reconstruction; 0 means one a processor.
    pub threads: usize,
    /// The kernel; `None` means the fastest that this machine has, or the one that `TASKBASIS_KERNEL` names.
    pub kernel: Option<Kernel>,
    /// Bytes of reconstructed weights and promoted sessions that are kept for the next time. Zero keeps nothing; `None`
    /// is room for the weights of three tasks, and 1 GiB at least.
    pub cache_bytes: Option<usize>,
    /// A cache that several models share, with its own budget, instead of one of this model's own.
    pub cache: Option<Arc<WeightsCache>>,
}

/// A base, and a basis over it where there is one. Shared between threads; [`Model::weights`] names weights,
/// [`TaskWeights::get`] reconstructs them or finds them in the cache.
#[derive(Debug)]
pub struct Model {
    base: Checkpoint,
    basis: Option<Basis>,
    threads: usize,
    kernel: Kernel,
    cache: Arc<WeightsCache>,
    /// The files that the bits of weights come from, the base's first.
    files: Arc<[Identity]>,
    /// Bytes that the weights of a task take; before the first ones are there, what they would take if all was changed.
    weights_bytes: AtomicUsize,
    devices: OnDevices,
}

impl Model {
    /// Puts base and basis together; nothing is read yet.
    ///
    /// # Errors
    /// When the kernel that `TASKBASIS_KERNEL` names is not one of this machine;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for both a cache and a budget for another.
    pub fn new(base: Checkpoint, basis: Option<Basis>, options: &ModelOptions) -> Result<Arc<Self>> {
        let kernel = options.kernel.map_or_else(kernel::active, Ok)?;
        let tower: usize = base
            .iter()
            .filter(|(name, tensor)| is_image_tower(name) && tensor.dtype().is_float())
            .map(|(_, tensor)| tensor.numel() * size_of::<f32>())
            .sum();
        let cache = match (&options.cache, options.cache_bytes) {
            (Some(_), Some(_)) => return Err(Error::invalid("a shared cache has its own budget").hint("Set it there")),
            (Some(shared), None) => Arc::clone(shared),
            (None, Some(budget)) => Arc::new(WeightsCache::new(budget)),
            (None, None) => Arc::new(WeightsCache::new(DEFAULT_BUDGET.max(tower.saturating_mul(3)))),
        };
        let files = files(&base, basis.as_ref());
        let weights_bytes = AtomicUsize::new(tower);
        let (threads, devices) = (options.threads, OnDevices::default());
        Ok(Arc::new(Self { base, basis, threads, kernel, cache, files, weights_bytes, devices }))
    }

    /// The devices that it is on.
    pub(super) fn on_devices(&self) -> &OnDevices {
        &self.devices
    }

    /// The zero-shot weights.
    pub fn base(&self) -> &Checkpoint {
        &self.base
    }

    /// The basis, where there is one.
    pub fn basis(&self) -> Option<&Basis> {
        self.basis.as_ref()
    }

    /// Threads that reconstruct; 0 means one a processor.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// The kernel that reconstructs.
    pub(crate) fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Names the weights of `expr`. Nothing is reconstructed before somebody asks for them.
    ///
    /// # Errors
    /// As [`Basis::coefficients`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for anything but
    /// `base` where there is no basis.
    pub fn weights(self: &Arc<Self>, expr: &TaskExpr) -> Result<TaskWeights> {
        let coefficients = match &self.basis {
            Some(basis) => basis.coefficients(expr)?,
            None if expr.terms().is_empty() => Coefficients::zero(0),
            None => {
                return Err(Error::invalid(format!(
                    "`{}` needs a basis, and only a base is open",
                    clipped(&expr.to_string())
                )));
            }
        };
        self.named(expr.to_string(), coefficients)
    }

    /// Names the weights that these coefficients give: one a vector, and one for PCA's mean.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for another number of coefficients than M, or
    /// one that is not finite.
    pub fn weights_from(self: &Arc<Self>, coefficients: Coefficients) -> Result<TaskWeights> {
        let text: Vec<String> = coefficients.vectors.iter().map(|&a| Number(a).to_string()).collect();
        let text = format!("coefficients [{}], mean {}", text.join(", "), Number(coefficients.mean));
        self.named(text, coefficients)
    }

    /// Whether there are as many coefficients as basis vectors.
    pub(crate) fn check_count(&self, coefficients: usize) -> Result<()> {
        Coefficients::check_count(coefficients, self.vectors())
    }

    /// M; 0 where there is no basis.
    fn vectors(&self) -> usize {
        self.basis.as_ref().map_or(0, Basis::vectors)
    }

    fn named(self: &Arc<Self>, name: String, coefficients: Coefficients) -> Result<TaskWeights> {
        let factors = match &self.basis {
            Some(basis) => basis.factors(&coefficients)?,
            None => coefficients.to_kernel(0, false, 0)?,
        };
        // −0 and 0 both mean that the vector is left out.
        let factors = factors.iter().map(|a| if *a == 0.0 { 0 } else { a.to_bits() }).collect();
        let key = Key { files: Arc::clone(&self.files), factors, layout: 0 };
        Ok(TaskWeights {
            model: Arc::clone(self),
            name,
            coefficients,
            key,
            layout: None,
            pinned: Mutex::new(None),
            prefetch: Mutex::new(None),
        })
    }

    /// The cache that its weights are kept in.
    pub fn cache(&self) -> &Arc<WeightsCache> {
        &self.cache
    }

    /// Reads everything and checks it: base and basis are of one model, and every number is finite.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) and [`ErrorKind::Format`](crate::ErrorKind::Format), naming
    /// file and tensor.
    pub fn verify(&self) -> Result<()> {
        self.base.verify_finite()?;
        if let Some(basis) = &self.basis {
            basis.verify_finite()?;
            super::plan::check_models(&self.base, basis)?;
        }
        Ok(())
    }

    /// From the cache, or reconstructed now.
    fn get(
        &self,
        key: &Key,
        layout: Option<&Layout>,
        coefficients: &Coefficients,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Arc<Weights>> {
        if let Some(layout) = layout {
            layout.may_be_in(&self.cache);
        }
        let bytes = layout.map_or_else(|| self.weights_bytes.load(Ordering::Relaxed), |layout| layout.nbytes());
        self.cache.get_or_build(key, bytes, cancel, |spares| {
            let scope = Scope::ImageTower;
            let options =
                ReconstructOptions { scope, threads: self.threads, kernel: Some(self.kernel), cancel: Some(cancel) };
            let plan = match &self.basis {
                Some(basis) => plan::with_base(&self.base, basis, coefficients, scope)?,
                None => plan::base_alone(&self.base, scope),
            };
            if let Some(layout) = layout {
                return plan.run_laid_out(&options, Some(spares), layout);
            }
            let weights = plan.run_in(&options, Some(spares))?;
            // The base's own take nothing, or less than a task's.
            if coefficients.vectors.iter().any(|&a| a != 0.0) {
                self.weights_bytes.store(weights.nbytes(), Ordering::Relaxed);
            }
            Ok(weights)
        })
    }
}

/// The files whose bytes the weights come from.
fn files(base: &Checkpoint, basis: Option<&Basis>) -> Arc<[Identity]> {
    let of_base = base.iter().map(|(_, tensor)| tensor.mapping());
    let of_basis = basis
        .into_iter()
        .flat_map(Basis::parameters)
        .flat_map(|(_, parameter)| parameter.sources().iter().map(|source| source.mapping()));
    // Once each, in order: there are few.
    let files: IndexSet<Identity> = of_base.chain(of_basis).map(|mapping| mapping.identity()).collect();
    files.into_iter().collect()
}

/// The name of some weights of a [`Model`]: an expression and its coefficients. The weights themselves come into being
/// when they are asked for, and stay as long as somebody holds them or the cache has room.
#[derive(Debug)]
pub struct TaskWeights {
    model: Arc<Model>,
    name: String,
    coefficients: Coefficients,
    key: Key,
    layout: Option<Arc<Layout>>,
    pinned: Mutex<Option<Arc<Weights>>>,
    /// What stops the reconstruction that [`TaskWeights::prefetch`] started last.
    prefetch: Mutex<Option<Arc<AtomicBool>>>,
}

impl Clone for TaskWeights {
    /// Another name for the same weights, which pins nothing.
    fn clone(&self) -> Self {
        Self {
            model: Arc::clone(&self.model),
            name: self.name.clone(),
            coefficients: self.coefficients.clone(),
            key: self.key.clone(),
            layout: self.layout.clone(),
            pinned: Mutex::new(None),
            prefetch: Mutex::new(None),
        }
    }
}

impl TaskWeights {
    /// The expression, in its usual spelling.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What multiplies the basis vectors.
    pub fn coefficients(&self) -> &Coefficients {
        &self.coefficients
    }

    /// The model whose weights these are.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The weights of the image tower, from the cache or reconstructed now.
    ///
    /// # Errors
    /// As [`Weights::reconstruct`].
    pub fn get(&self) -> Result<Arc<Weights>> {
        // A copy, so that the lock is not held while somebody reconstructs.
        let pinned = lock(&self.pinned).clone();
        match pinned {
            Some(weights) => Ok(weights),
            None => self.model.get(&self.key, self.layout.as_deref(), &self.coefficients, &Arc::default()),
        }
    }

    /// The same weights as a graph wants them: under its names, in its order and types. They are reconstructed straight
    /// into that, and kept in the cache beside those of other layouts.
    #[must_use]
    pub fn laid_out(&self, layout: &Arc<Layout>) -> Self {
        let key = Key { layout: layout.id(), ..self.key.clone() };
        Self { key, layout: Some(Arc::clone(layout)), ..self.clone() }
    }

    /// Whose names and types they have, where it is a graph's.
    pub(super) fn layout(&self) -> Option<&Arc<Layout>> {
        self.layout.as_ref()
    }

    /// What tells these weights from others, in the cache and for promoted sessions.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// [`TaskWeights::get`], and holds on to them until [`TaskWeights::unpin`] or the end of `self`.
    ///
    /// # Errors
    /// As [`TaskWeights::get`].
    pub fn pin(&self) -> Result<Arc<Weights>> {
        let weights = self.get()?;
        // Whoever was first stays: views of what is pinned must not lose their ground.
        Ok(Arc::clone(lock(&self.pinned).get_or_insert(weights)))
    }

    /// Lets go of what [`TaskWeights::pin`] holds.
    pub fn unpin(&self) {
        *lock(&self.pinned) = None;
    }

    /// Whether [`TaskWeights::get`] would find them ready.
    pub fn is_ready(&self) -> bool {
        lock(&self.pinned).is_some() || self.model.cache.contains(&self.key)
    }

    /// Starts reconstructing on a thread of its own, unless the weights are ready. A failure shows when they are asked
    /// for. [`TaskWeights::cancel_prefetch`] stops it; dropping `self` does not.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn prefetch(&self) -> Result<()> {
        if self.is_ready() {
            return Ok(());
        }
        let (model, key, coefficients) = (Arc::clone(&self.model), self.key.clone(), self.coefficients.clone());
        let layout = self.layout.clone();
        let cancel: Arc<AtomicBool> = Arc::default();
        *lock(&self.prefetch) = Some(Arc::clone(&cancel));
        std::thread::Builder::new()
            .name("taskbasis-prefetch".into())
            .spawn(move || drop(model.get(&key, layout.as_deref(), &coefficients, &cancel)))
            .map(drop)
            .map_err(Error::no_thread)
    }

    /// Stops the reconstruction that [`TaskWeights::prefetch`] started, within a millisecond or so, and frees its
    /// memory. Where somebody already waits for these weights it goes on. Whether anything was stopped.
    pub fn cancel_prefetch(&self) -> bool {
        lock(&self.prefetch).take().is_some_and(|token| self.model.cache.cancel(&self.key, &token))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
