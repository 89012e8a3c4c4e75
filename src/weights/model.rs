//! A model as a program holds it: base, basis, and the weights that were reconstructed last.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use indexmap::IndexSet;
use parking_lot::Mutex;

use super::arena::BufferPool;
use super::cache::{Key, Owner, PrefetchJob, WeightsCache};
use super::layout::{Layout, TensorSpec};
use super::plan::{self, Scope};
use super::reconstruct::ReconstructOptions;
use super::values::Weights;
use crate::basis::{Basis, CoefficientMatrix, Coefficients, Grouping, Number, Selector, TaskExpr, no_mean};
use crate::checkpoint::Checkpoint;
use crate::did_you_mean::clipped;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{self, Kernel};
use crate::mmap::{Identity, MapMode, Mapping};

/// Bytes of the default budget, at least.
const DEFAULT_BUDGET: usize = 1 << 30;

/// The options of a [`Model`]: how it reconstructs and what it keeps.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// Threads for reconstruction, at most [`max_threads`](crate::kernel::max_threads); 0 means one per processor.
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
    /// The layout of the image tower's parameters as they are.
    canonical: Arc<Layout>,
    /// The layout that weights are best prepared in.
    preferred: Mutex<Weak<Layout>>,
    /// The files that the bits of weights come from, the base's first.
    files: Arc<[Identity]>,
    /// Bytes that the weights of a task take; before the first ones are there, what they would take if all was changed.
    weights_bytes: AtomicUsize,
    /// The devices that it is on, which go with it: a registry of `device/lease.rs`.
    pub(super) devices: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Model {
    /// Puts base and basis together; nothing is read yet.
    ///
    /// # Errors
    /// When the kernel that `TASKBASIS_KERNEL` names is not one of this machine, or `TASKBASIS_HINTS` holds no hints;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for both a cache and a budget for another, and
    /// for more than [`max_threads`](crate::kernel::max_threads).
    pub fn new(base: Checkpoint, basis: Option<Basis>, options: &ModelOptions) -> Result<Arc<Self>> {
        let kernel = options.kernel.map_or_else(kernel::active, Ok)?;
        kernel::Hints::active(kernel.hints())?;
        kernel::threads::count(options.threads)?;
        let canonical = plan::base_alone(&base, Scope::of(&base)).canonical();
        let floats = canonical.tensors().iter().filter(|tensor| tensor.dtype.is_float());
        let tower: usize = floats.map(TensorSpec::nbytes).sum();
        let cache = match (&options.cache, options.cache_bytes) {
            (Some(_), Some(_)) => return Err(Error::invalid("a shared cache has its own budget").hint("Set it there")),
            (Some(shared), None) => Arc::clone(shared),
            (None, Some(budget)) => Arc::new(WeightsCache::new(budget)),
            (None, None) => Arc::new(WeightsCache::new(DEFAULT_BUDGET.max(tower.saturating_mul(3)))),
        };
        let files = files(&base, basis.as_ref());
        let weights_bytes = AtomicUsize::new(tower);
        let (threads, devices) = (options.threads, OnceLock::new());
        let preferred = Mutex::new(Weak::new());
        Ok(Arc::new(Self { base, basis, threads, kernel, cache, canonical, preferred, files, weights_bytes, devices }))
    }

    /// The zero-shot weights.
    pub fn base(&self) -> &Checkpoint {
        &self.base
    }

    /// The basis, where there is one.
    pub fn basis(&self) -> Option<&Basis> {
        self.basis.as_ref()
    }

    /// Has weights prepared and fetched in this layout from now on, as long as it lives: an encoder of the model takes
    /// them in it.
    pub(crate) fn prefer(&self, layout: &Arc<Layout>) {
        let mut preferred = self.preferred.lock();
        if layout.is_canonical() || std::ptr::eq(preferred.as_ptr(), Arc::as_ptr(layout)) {
            return;
        }
        let fits = |(name, shape)| self.base.get(name).is_some_and(|tensor| tensor.shape() == shape);
        if layout.parameters().all(fits) {
            *preferred = Arc::downgrade(layout);
        }
    }

    /// The way in which its files are held, which is that of files that are opened for it.
    pub(crate) fn map_mode(&self) -> MapMode {
        let is_mapped = mappings(&self.base, self.basis.as_ref()).any(|mapping| mapping.is_mapped());
        if is_mapped { MapMode::Map } else { MapMode::Read }
    }

    /// Threads that reconstruct; 0 means one per processor.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// The kernel that reconstructs.
    pub(crate) fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Names the weights of `expr`. Nothing is reconstructed before they are asked for.
    ///
    /// # Errors
    /// As [`Basis::coefficients`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for anything but
    /// `base` where there is no basis.
    pub fn weights(self: &Arc<Self>, expr: &TaskExpr) -> Result<TaskWeights> {
        let coefficients = match &self.basis {
            Some(basis) => basis.coefficients(expr)?,
            None if expr.terms().is_empty() => Coefficients::zero(0).into(),
            None => {
                return Err(Error::invalid(format!(
                    "`{}` needs a basis, and only a base is open",
                    clipped(&expr.to_string())
                )));
            }
        };
        self.named(expr.to_string(), coefficients)
    }

    /// Names the weights that these coefficients give: one per vector, and one for PCA's mean.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for another number of coefficients than M, or
    /// one that is not finite.
    pub fn weights_from(self: &Arc<Self>, coefficients: Coefficients) -> Result<TaskWeights> {
        let without_residuals = Coefficients { residuals: Vec::new(), ..coefficients.clone() };
        let mut name = match TaskExpr::of_rows(&[Selector::rest()], &[without_residuals]) {
            Ok(expr) => expr.to_string(),
            // Whatever is wrong with them is told by what follows, with the name of the vector.
            Err(_) => "coefficients".to_owned(),
        };
        if coefficients.residuals.iter().any(|&r| r != 0.0) {
            let residuals: Vec<String> = coefficients.residuals.iter().map(|&r| Number(r).to_string()).collect();
            name += &format!(", residuals [{}]", residuals.join(", "));
        }
        self.named(name, coefficients.into())
    }

    /// Names the weights in which each group of parameters has coefficients of its own. What comes of an expression is
    /// better named by that ([`Model::weights`]): these weights are called by their number of rows alone.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for another number of coefficients than M, one
    /// that is not finite, or groups of another basis.
    pub fn weights_from_matrix(self: &Arc<Self>, coefficients: CoefficientMatrix) -> Result<TaskWeights> {
        self.named(format!("{} rows of coefficients", coefficients.rows().len()), coefficients)
    }

    /// Names the weights in which each of these groups has a row of coefficients, by an expression that gives them.
    ///
    /// # Errors
    /// As [`Basis::coefficients`], and where there are not as many rows as groups.
    pub(crate) fn weights_by_group(
        self: &Arc<Self>,
        grouping: &Grouping,
        rows: Vec<Coefficients>,
    ) -> Result<TaskWeights> {
        let name = TaskExpr::of_rows(grouping.selectors(), &rows)?.to_string();
        let has_mean = self.basis.as_ref().is_some_and(Basis::has_mean);
        if !has_mean && rows.iter().any(|row| row.mean != 0.0) {
            return Err(no_mean());
        }
        self.named(name, grouping.coefficients(rows)?)
    }

    /// Whether there are as many coefficients as basis vectors.
    pub(crate) fn check_count(&self, coefficients: usize) -> Result<()> {
        Coefficients::check_count(coefficients, self.vectors())
    }

    /// M; 0 where there is no basis.
    fn vectors(&self) -> usize {
        self.basis.as_ref().map_or(0, Basis::vectors)
    }

    fn named(self: &Arc<Self>, name: String, coefficients: CoefficientMatrix) -> Result<TaskWeights> {
        let factors = match &self.basis {
            Some(basis) => basis.factors_by_row(&coefficients)?,
            None => coefficients.rows().iter().map(|row| row.to_kernel(0, false, 0)).collect::<Result<_>>()?,
        };
        // −0 and 0 both mean that the vector is left out.
        let bits = factors.iter().flatten().map(|a| if *a == 0.0 { 0 } else { a.to_bits() });
        let factors = bits.chain(coefficients.assignment().iter().copied()).collect();
        let layout = Arc::clone(&self.canonical);
        let key = Key { files: Arc::clone(&self.files), factors, layout: layout.id() };
        Ok(TaskWeights {
            model: Arc::clone(self),
            name,
            coefficients,
            key,
            layout,
            pinned: Mutex::new(None),
            owner: Owner::new(),
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
            plan::check_models(&self.base, basis)?;
        }
        Ok(())
    }

    /// Bytes that weights will take.
    fn expected_bytes(&self, layout: &Layout) -> usize {
        if layout.is_canonical() { self.weights_bytes.load(Ordering::Relaxed) } else { layout.nbytes() }
    }

    fn reconstruct(
        &self,
        layout: &Layout,
        coefficients: &CoefficientMatrix,
        spares: &Arc<BufferPool>,
        cancel: Option<&AtomicBool>,
    ) -> Result<Weights> {
        let scope = Scope::of_layout(&self.base, layout);
        let options = ReconstructOptions { scope, threads: self.threads, kernel: Some(self.kernel), cancel };
        let plan = plan::of_model(&self.base, self.basis.as_ref(), coefficients, scope)?;
        let weights = plan.run(layout, &options, Some(spares))?;
        // The base's own take nothing, or less than a task's.
        if layout.is_canonical() && coefficients.rows().iter().any(|row| row.vectors.iter().any(|&a| a != 0.0)) {
            self.weights_bytes.store(weights.nbytes(), Ordering::Relaxed);
        }
        Ok(weights)
    }
}

/// The bytes that the weights come from.
fn mappings<'a>(base: &'a Checkpoint, basis: Option<&'a Basis>) -> impl Iterator<Item = &'a Arc<Mapping>> {
    let of_base = base.iter().map(|(_, tensor)| tensor.mapping());
    let of_basis = basis
        .into_iter()
        .flat_map(Basis::parameters)
        .flat_map(|(_, parameter)| parameter.sources().iter().map(|source| source.mapping()));
    of_base.chain(of_basis)
}

/// The files whose bytes the weights come from.
fn files(base: &Checkpoint, basis: Option<&Basis>) -> Arc<[Identity]> {
    // Once each, in order: there are few.
    let files: IndexSet<Identity> = mappings(base, basis).map(|mapping| mapping.identity()).collect();
    files.into_iter().collect()
}

/// The name of some weights of a [`Model`]: an expression and its coefficients. The weights themselves come into being
/// when they are asked for, and stay as long as they are held or the cache has room.
#[derive(Debug)]
pub struct TaskWeights {
    model: Arc<Model>,
    name: String,
    coefficients: CoefficientMatrix,
    key: Key,
    layout: Arc<Layout>,
    pinned: Mutex<Option<Arc<Weights>>>,
    /// Who prefetches.
    owner: Owner,
}

impl Clone for TaskWeights {
    /// Another name for the same weights, which pins nothing.
    fn clone(&self) -> Self {
        Self {
            model: Arc::clone(&self.model),
            name: self.name.clone(),
            coefficients: self.coefficients.clone(),
            key: self.key.clone(),
            layout: Arc::clone(&self.layout),
            pinned: Mutex::new(None),
            owner: Owner::new(),
        }
    }
}

impl TaskWeights {
    /// The expression, in its usual spelling.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The coefficients that multiply the basis vectors.
    pub fn coefficients(&self) -> &CoefficientMatrix {
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
        // A copy, so that the lock is not held during a reconstruction.
        let pinned = self.pinned.lock().clone();
        if let Some(weights) = pinned {
            return Ok(weights);
        }
        let (model, layout) = (&self.model, &*self.layout);
        layout.register_cache(&model.cache);
        let build = |spares: &Arc<BufferPool>| model.reconstruct(layout, &self.coefficients, spares, None);
        model.cache.get_or_build(&self.key, model.expected_bytes(layout), build)
    }

    /// The task's weights as a graph wants them: under its names, in its order and types. They are reconstructed
    /// straight into that, and kept in the cache beside those of other layouts.
    #[must_use]
    pub fn in_layout(&self, layout: &Arc<Layout>) -> Self {
        // Of a canonical one the model has its own, with all of its parameters.
        let layout = if layout.is_canonical() { &self.model.canonical } else { layout };
        let key = Key { layout: layout.id(), ..self.key.clone() };
        Self { key, layout: Arc::clone(layout), ..self.clone() }
    }

    /// The layout that gives them their names and types.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// What tells these weights from others, in the cache and for promoted sessions.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// Gets the weights, and holds on to them until [`TaskWeights::unpin`] or the end of `self`.
    ///
    /// # Errors
    /// As [`TaskWeights::get`].
    pub fn pin(&self) -> Result<Arc<Weights>> {
        let weights = self.get()?;
        // The first ones stay: views of what is pinned must not lose their ground.
        Ok(Arc::clone(self.pinned.lock().get_or_insert(weights)))
    }

    /// Lets go of what [`TaskWeights::pin`] holds.
    pub fn unpin(&self) {
        *self.pinned.lock() = None;
    }

    /// Whether they are there: [`TaskWeights::get`] would find them ready, or the encoder that weights of the model are
    /// prepared for.
    pub fn is_ready(&self) -> bool {
        let is_there = |key: &Key| self.model.cache.contains(key);
        self.pinned.lock().is_some() || is_there(&self.key) || self.preferred().is_some_and(|(key, _)| is_there(&key))
    }

    /// Gets the weights in the form that the model's encoder takes, where one is known, and keeps them as far as the
    /// cache has room.
    ///
    /// # Errors
    /// As [`TaskWeights::get`].
    pub fn prepare(&self) -> Result<()> {
        match self.preferred() {
            Some((_, layout)) => self.in_layout(&layout).get().map(drop),
            None => self.get().map(drop),
        }
    }

    /// Key and layout of canonical weights in the layout that encoders of the model take, where there is one.
    fn preferred(&self) -> Option<(Key, Arc<Layout>)> {
        let layout = self.model.preferred.lock().upgrade().filter(|_| self.layout.is_canonical())?;
        Some((Key { layout: layout.id(), ..self.key.clone() }, layout))
    }

    /// Reconstructs the weights in the background, in the form that the model's encoder takes, where one is known,
    /// unless they are ready, and returns at once. A failure shows when they are asked for.
    ///
    /// Each cache has one thread for this, which reconstructs one after the other, first come, first served, and ends
    /// when nothing is wanted any more: however much is prefetched, memory stays within the budget of the cache and the
    /// weights that are being reconstructed. What several ask for is reconstructed once. [`TaskWeights::get`] waits for
    /// nothing but these very weights: where their turn has not come, the caller reconstructs them at once.
    ///
    /// The least recently used weights make room, those that were prefetched and have not been asked for yet among
    /// them: prefetching more than the budget has room for leaves the last ones. A budget of 0 keeps none.
    ///
    /// [`TaskWeights::cancel_prefetch`] takes it back; dropping `self` does not. What has not begun when the model or
    /// the layout is dropped, and with it every handle that could ask for it, is left out.
    ///
    /// # Errors
    /// When the operating system gives no thread; nothing is wanted then.
    pub fn prefetch(&self) -> Result<()> {
        if self.pinned.lock().is_some() {
            return Ok(());
        }
        let (key, layout) = self.preferred().unwrap_or_else(|| (self.key.clone(), Arc::clone(&self.layout)));
        layout.register_cache(&self.model.cache);
        let how = Prefetch {
            model: Arc::downgrade(&self.model),
            layout: Arc::downgrade(&layout),
            coefficients: self.coefficients.clone(),
            held: (None, None),
        };
        self.model.cache.prefetch(&key, self.owner, Box::new(how))
    }

    /// Takes back what [`TaskWeights::prefetch`] asked for through `self`, however often: what has not begun never
    /// does, and a reconstruction stops within a millisecond or so and frees its memory. It goes on where a caller
    /// already waits for these weights, or another [`TaskWeights`] has prefetched the same and not taken it back.
    /// Whether anything was stopped, which then is not ready unless it is asked for again.
    pub fn cancel_prefetch(&self) -> bool {
        // It may have been asked for before the encoder was known.
        let cancel = |key: &Key| self.model.cache.cancel(key, self.owner);
        let preferred = self.preferred().is_some_and(|(key, _)| cancel(&key));
        cancel(&self.key) || preferred
    }
}

/// Weights of a model that are wanted ahead. Keeps neither model nor layout alive before it begins.
#[derive(Debug)]
struct Prefetch {
    model: Weak<Model>,
    layout: Weak<Layout>,
    coefficients: CoefficientMatrix,
    held: (Option<Arc<Model>>, Option<Arc<Layout>>),
}

impl PrefetchJob<Weights> for Prefetch {
    fn hold(&mut self) -> Option<usize> {
        // Kept in `self` even where only one of them is left: it must not be dropped here, under the cache's lock.
        self.held = (self.model.upgrade(), self.layout.upgrade());
        let (Some(model), Some(layout)) = &self.held else { return None };
        Some(model.expected_bytes(layout))
    }

    fn build(&self, spares: &Arc<BufferPool>, cancel: &AtomicBool) -> Result<Weights> {
        let (Some(model), Some(layout)) = &self.held else {
            return Err(Error::new(ErrorKind::Internal, "nothing is held"));
        };
        model.reconstruct(layout, &self.coefficients, spares, Some(cancel))
    }
}
