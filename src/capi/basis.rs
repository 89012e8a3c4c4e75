//! `tb_basis`: a basis over a base, with the cache of reconstructed weights.

use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, Buffer, Handle, Out, StructOut, Versioned};
use crate::basis::Basis;
use crate::error::{Error, Result};
use crate::fit::Products;
use crate::mmap::MapMode;
use crate::open::{OpenModel, OpenOptions};
use crate::weights::{Model, ModelOptions};

/// An open basis, its base, and the weights that were reconstructed last. Shareable between threads.
pub struct tb_basis {
    _opaque: [u8; 0],
}

/// The content of the handle, with the texts that C borrows from it.
pub(super) struct OpenBasis {
    pub(super) opened: OpenModel,
    method: CString,
    tasks: Vec<CString>,
    /// The sums of products of its vectors, once they were asked for.
    pub(super) products: Mutex<Option<Arc<Products>>>,
}

impl Handle for tb_basis {
    type Inner = OpenBasis;
    const NAME: &'static str = "basis";
}

/// Options of tb_basis_open(). Zero means default everywhere; begin with
/// `tb_basis_options options = { .struct_size = sizeof options, ... };`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_basis_options {
    /// sizeof(tb_basis_options), as the program was compiled.
    pub struct_size: usize,
    /// The base checkpoint (the zero-shot weights): PyTorch or safetensors, a file, the index of several or a folder
    /// with one; UTF-8. NULL for a bundle that holds its base. One given with a bundle must be the base that it was
    /// packed over.
    pub base: *const c_char,
    /// Not zero: read the files into memory instead of mapping them: those of basis and base, and of the graph that an
    /// encoder over this basis is given. Mapped files must not be shortened while they are open, and their disk must be
    /// able to read them, or the process ends with SIGBUS. Files that are read are this basis's own: other bases of the
    /// same files share no weights with it.
    pub read: u32,
    /// Threads that reconstruct: at most one per processor, or 64; 0: one per processor.
    pub threads: u32,
    /// Bytes of reconstructed weights and promoted sessions that are kept for the next time; 0: room for the weights of
    /// three tasks, and 1 GiB at least. tb_cache_set_budget() changes it, also to none.
    pub cache_bytes: u64,
    /// A basis whose cache this one is to use, with its budget, instead of one of its own: several bases within one
    /// budget. NULL: its own. Only one of the two fields may be set. It may be freed first. Bases of the same mapped
    /// files have the same weights in it as long as one of them is open; after that the files, which may be others by
    /// then, are reconstructed anew.
    pub share_cache: *const tb_basis,
    /// The image tower of several in the base's file: the one whose names, or whose model's, begin so (`teacher`,
    /// `ema.visual`); UTF-8. NULL: the file has one.
    pub base_prefix: *const c_char,
    /// The side of the images, in pixels, where it is not the one that the base has positions for: its table of
    /// positions, and those of all vectors, are resized as the base's library does it. 0: as the base has it, or, for a
    /// DINOv2, as the configuration beside it says. A bundle has its own, and no other.
    pub image_size: usize,
}

// SAFETY: repr(C), the size first, and every field may be zero.
unsafe impl Versioned for tb_basis_options {}

/// Properties of a basis, from tb_basis_info().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_basis_properties {
    /// sizeof(tb_basis_properties), set by the caller.
    pub struct_size: usize,
    /// `Autoencoder`, `PCA`, `Random`, `RandomSample`, or `none` for a base alone. Belongs to the basis.
    pub method: *const c_char,
    /// T, the number of tasks.
    pub tasks: usize,
    /// M, the number of basis vectors.
    pub vectors: usize,
    /// 1 where there is a mean vector beside the M (PCA), else 0.
    pub has_mean: u32,
    /// Parameters (single numbers) of the whole model.
    pub parameters: u64,
    /// Parameters of the image tower, which is what gets reconstructed; of a base that holds none, all of them.
    pub image_tower_parameters: u64,
    /// Bytes of the basis files (without the base's), or of the bundle (with all that is in it).
    pub file_bytes: u64,
}

// SAFETY: repr(C), the size first, and every field may be zero.
unsafe impl Versioned for tb_basis_properties {}

/// Opens a basis and its base. A folder as published: `method_info.json`, `basis_vectors.pt` and the method's own
/// file; or a bundle, the single file that `taskbasis pack` makes, which holds the base too unless it was left out. The
/// vectors are mapped; nothing of them is read before weights are reconstructed.
///
/// `path` may be NULL: then there is only the base, and `base` is the only task expression.
///
/// Here and wherever else this library is given a file or folder to read, `hf://owner/repo[@revision]/path` is one on
/// the Hugging Face Hub: the copy that the Hub's cache (HF_HOME) has, else one that is downloaded before the function
/// returns, under the environment variables of all clients of the Hub (HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE). A
/// library built without the feature `hub` answers TB_ERR_UNSUPPORTED.
///
/// @param path     the basis folder or the bundle, UTF-8, or NULL
/// @param options  NULL for all defaults; but `base` is needed unless a bundle holds it
/// @param out      set to the new handle, which the caller frees with tb_basis_free(); NULL on failure
/// @param err      NULL, or set to an error that the caller frees with tb_error_free(); NULL on success
/// @return TB_OK; TB_ERR_IO, TB_ERR_FORMAT for files that cannot be read or are not what they should be;
///         TB_ERR_NOT_FOUND for a `base_prefix` under which there is no image tower;
///         TB_ERR_UNSUPPORTED for an unknown method or version; TB_ERR_MISMATCH for a base that is not the bundle's;
///         TB_ERR_INVALID_ARGUMENT
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_basis_open(
    path: *const c_char,
    options: *const tb_basis_options,
    out: *mut *mut tb_basis,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", std::ptr::null_mut())?;
        let path = handle::optional_text(path, "path")?;
        let options = handle::options(options, "options")?;
        let base = handle::optional_text(options.base, "options->base")?;
        let prefix = handle::optional_text(options.base_prefix, "options->base_prefix")?;
        if prefix.is_some() && base.is_none() {
            return Err(Error::invalid("`options->base_prefix` without `options->base`"));
        }
        let cache = match options.share_cache.is_null() {
            true => None,
            false => Some(Arc::clone(model(options.share_cache)?.cache())),
        };
        let how = OpenOptions {
            base: base.map(PathBuf::from),
            base_prefix: prefix.map(String::from),
            mode: if options.read == 0 { MapMode::Map } else { MapMode::Read },
            image_size: (options.image_size > 0).then_some(options.image_size),
            model: ModelOptions {
                threads: options.threads as usize,
                cache_bytes: handle::bytes(options.cache_bytes),
                cache,
                ..ModelOptions::default()
            },
        };
        let opened = match path {
            Some(path) => OpenModel::open(path, &how)?,
            None => OpenModel::open_base(&how)?,
        };
        let basis = opened.model().basis();
        let method = handle::c_text(&basis.map_or_else(|| "none".to_owned(), |basis| basis.method().to_string()));
        let tasks = basis.into_iter().flat_map(Basis::tasks).map(|task| handle::c_text(task)).collect();
        out.set(handle::into_raw::<tb_basis>(OpenBasis { opened, method, tasks, products: Mutex::new(None) }));
        Ok(())
    })
}

/// Tells what the basis is. Reads nothing from the files.
///
/// @param info  `struct_size` set by the caller; the rest is zero on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_basis_info(
    basis: *const tb_basis,
    info: *mut tb_basis_properties,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let info = StructOut::new(info, "info")?;
        let OpenBasis { opened, method, tasks, .. } = handle::borrow(basis)?;
        let (base, basis) = (opened.model().base(), opened.model().basis());
        let floats = base.encoder().filter(|(_, tensor)| tensor.dtype().is_float());
        let image_tower: usize = floats.map(|(_, tensor)| tensor.numel()).sum();
        info.set(tb_basis_properties {
            struct_size: 0,
            method: method.as_ptr(),
            tasks: tasks.len(),
            vectors: basis.map_or(0, Basis::vectors),
            has_mean: basis.is_some_and(Basis::has_mean).into(),
            parameters: base.parameters(),
            image_tower_parameters: image_tower as u64,
            file_bytes: basis.map_or(0, Basis::file_bytes),
        });
        Ok(())
    })
}

/// Sets `*out` to the name of task `index`, UTF-8, which belongs to the basis.
///
/// @param index  0 <= index < T, in the order of the recovery table's columns
/// @return TB_OK; TB_ERR_NOT_FOUND
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_basis_task_name(
    basis: *const tb_basis,
    index: usize,
    out: *mut *const c_char,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", std::ptr::null())?;
        out.set(handle::text_at(&handle::borrow(basis)?.tasks, index, "the basis has no task of that index")?);
        Ok(())
    })
}

/// Sets `*out` to the index of the task called `name`, or to SIZE_MAX where the call fails.
///
/// @return TB_OK; TB_ERR_NOT_FOUND, with the nearest name and the known ones; TB_ERR_INVALID_ARGUMENT where only a base
///         is open
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_basis_task_index(
    basis: *const tb_basis,
    name: *const c_char,
    out: *mut usize,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", usize::MAX)?;
        let name = handle::text(name, "name")?;
        out.set(model(basis)?.basis().ok_or_else(no_basis)?.task_index(name)?);
        Ok(())
    })
}

/// The recovery table: what multiplies vector m for task t, M rows of T, row-major. NaN in the column of a task that
/// cannot be recovered.
///
/// @param out       room for `capacity` numbers; may be NULL where that is 0
/// @param capacity  numbers that `out` has room for
/// @param needed    set to M*T, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
/// @return TB_OK; TB_ERR_BUFFER_TOO_SMALL; TB_ERR_INVALID_ARGUMENT where only a base is open
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_basis_coefficients(
    basis: *const tb_basis,
    out: *mut f64,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Buffer::new(out, capacity, needed, "out")?;
        let recovery = model(basis)?.basis().ok_or_else(no_basis)?.recovery();
        let values: Vec<f64> = recovery.iter().map(|value| value.unwrap_or(f64::NAN)).collect();
        out.fill(&values)
    })
}

/// Reads everything and checks it: that basis and base are of one model, that every number is finite, and of a bundle
/// every checksum. Takes as long as reading the files does.
///
/// @return TB_OK; TB_ERR_MISMATCH; TB_ERR_FORMAT; TB_ERR_IO. The message names file and tensor
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_basis_verify(basis: *const tb_basis, err: *mut *mut tb_error) -> tb_status {
    call!(err, {
        let opened = &handle::borrow(basis)?.opened;
        let faults = opened.bundle().map_or_else(Vec::new, |bundle| bundle.verify(0, &|_| {}));
        faults.into_iter().next().map_or_else(|| opened.model().verify(), Err)
    })
}

/// Frees a basis. Weights and encoders made from it stay valid, and with them the files and the cache they need. NULL
/// is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_basis_free(basis: *mut tb_basis) {
    // SAFETY: the handle is this library's and not freed, as the header demands.
    unsafe { handle::free(basis) };
}

/// The model behind a handle.
///
/// # Safety
/// As for [`handle::borrow`].
pub(super) unsafe fn model<'a>(basis: *const tb_basis) -> Result<&'a Arc<Model>> {
    // SAFETY: the caller's promise.
    Ok(unsafe { handle::borrow(basis) }?.opened.model())
}

pub(super) fn no_basis() -> Error {
    Error::invalid("only a base is open, no basis: there are no tasks")
}
