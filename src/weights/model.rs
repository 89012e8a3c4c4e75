//! A model as a program holds it: base, basis, and the weights that were reconstructed last.

use std::sync::{Arc, Mutex, PoisonError};

use super::cache::{Cache, CacheStats, Key};
use super::{ReconstructOptions, Scope, Weights};
use crate::basis::{Basis, Coefficients, TaskExpr};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernel::{self, Kernel};

/// How a [`Model`] reconstructs and what it keeps.
#[derive(Clone, Copy, Debug)]
pub struct ModelOptions {
    /// Threads for reconstruction; 0 means one a processor.
    pub threads: usize,
    /// The kernel; `None` means the fastest that this machine has, or the one that `TASKBASIS_KERNEL` names.
    pub kernel: Option<Kernel>,
    /// Bytes of reconstructed weights that are kept for the next time. Zero keeps nothing.
    pub cache_bytes: usize,
}

impl Default for ModelOptions {
    /// All processors, the fastest kernel, 1 GiB of weights.
    fn default() -> Self {
        Self { threads: 0, kernel: None, cache_bytes: 1 << 30 }
    }
}

/// A base, and a basis over it where there is one. Shared between threads; [`Model::weights`] names weights,
/// [`TaskWeights::get`] reconstructs them or finds them in the cache.
#[derive(Debug)]
pub struct Model {
    base: Checkpoint,
    basis: Option<Basis>,
    threads: usize,
    kernel: Kernel,
    cache: Cache,
}

impl Model {
    /// Puts base and basis together; nothing is read yet.
    ///
    /// # Errors
    /// When the kernel that `TASKBASIS_KERNEL` names is not one of this machine.
    pub fn new(base: Checkpoint, basis: Option<Basis>, options: &ModelOptions) -> Result<Arc<Self>> {
        let kernel = options.kernel.map_or_else(kernel::active, Ok)?;
        let cache = Cache::new(options.cache_bytes);
        Ok(Arc::new(Self { base, basis, threads: options.threads, kernel, cache }))
    }

    /// The zero-shot weights.
    pub fn base(&self) -> &Checkpoint {
        &self.base
    }

    /// The basis, where there is one.
    pub fn basis(&self) -> Option<&Basis> {
        self.basis.as_ref()
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
            None => return Err(Error::invalid(format!("`{expr}` needs a basis, and only a base is open"))),
        };
        self.named(expr.to_string(), coefficients)
    }

    /// Names the weights that these coefficients give: one a vector, and one for PCA's mean.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for another number of coefficients than M, or
    /// one that is not finite.
    pub fn weights_from(self: &Arc<Self>, coefficients: Coefficients) -> Result<TaskWeights> {
        let text: Vec<String> = coefficients.vectors.iter().map(f64::to_string).collect();
        self.named(format!("coefficients [{}], mean {}", text.join(", "), coefficients.mean), coefficients)
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
        let has_mean = self.basis.as_ref().is_some_and(Basis::has_mean);
        let factors = coefficients.to_kernel(self.vectors(), has_mean)?;
        // −0 and 0 both mean that the vector is left out.
        let key = factors.iter().map(|a| if *a == 0.0 { 0 } else { a.to_bits() }).collect();
        Ok(TaskWeights { model: Arc::clone(self), name, coefficients, key, pinned: Mutex::new(None) })
    }

    /// How the cache has done.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Changes how many bytes of weights are kept, and drops what no longer fits.
    pub fn set_cache_budget(&self, bytes: usize) {
        self.cache.set_budget(bytes);
    }

    /// Drops the least recently used weights until at most `bytes` are kept. Weights in use stay alive where they are.
    pub fn trim_cache(&self, bytes: usize) {
        self.cache.trim(bytes);
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

    fn reconstruct(&self, coefficients: &Coefficients) -> Result<Weights> {
        let options = ReconstructOptions {
            scope: Scope::ImageTower,
            threads: self.threads,
            kernel: Some(self.kernel),
            cancel: None,
        };
        match &self.basis {
            Some(basis) => Weights::from_coefficients(&self.base, basis, coefficients, &options),
            None => Weights::of_base(&self.base, &options),
        }
    }
}

/// The name of some weights of a [`Model`]: an expression and its coefficients. The weights themselves come into being
/// when they are asked for, and stay as long as somebody holds them or the cache has room.
#[derive(Debug)]
pub struct TaskWeights {
    model: Arc<Model>,
    name: String,
    coefficients: Coefficients,
    key: Key,
    pinned: Mutex<Option<Arc<Weights>>>,
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
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match pinned {
            Some(weights) => Ok(weights),
            None => self.model.cache.get_or_build(&self.key, || self.model.reconstruct(&self.coefficients)),
        }
    }

    /// [`TaskWeights::get`], and holds on to them until [`TaskWeights::unpin`] or the end of `self`.
    ///
    /// # Errors
    /// As [`TaskWeights::get`].
    pub fn pin(&self) -> Result<Arc<Weights>> {
        let weights = self.get()?;
        // Whoever was first stays: views of what is pinned must not lose their ground.
        Ok(Arc::clone(self.pinned.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(weights)))
    }

    /// Lets go of what [`TaskWeights::pin`] holds.
    pub fn unpin(&self) {
        *self.pinned.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether [`TaskWeights::get`] would find them ready.
    pub fn is_ready(&self) -> bool {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).is_some() || self.model.cache.contains(&self.key)
    }

    /// Starts reconstructing on a thread of its own, unless the weights are ready. A failure shows when they are asked
    /// for.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn prefetch(&self) -> Result<()> {
        if self.is_ready() {
            return Ok(());
        }
        let (model, key, coefficients) = (Arc::clone(&self.model), self.key.clone(), self.coefficients.clone());
        std::thread::Builder::new()
            .name("taskbasis-prefetch".into())
            .spawn(move || drop(model.cache.get_or_build(&key, || model.reconstruct(&coefficients))))
            .map(drop)
            .map_err(|e| Error::new(crate::ErrorKind::OutOfMemory, "cannot start a thread").because(e))
    }
}
