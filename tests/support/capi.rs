//! The digits family as a C program sees it.
#![allow(clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]

use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::ptr::{null, null_mut};

use super::{Need, digits, skip};
use taskbasis::capi::*;

pub const AE: &str = "bases/ViT-D-8_AE_M4_8task";
pub const PCA: &str = "bases/ViT-D-8_PCA_M4_8task";

/// The handles that every test begins with.
pub struct Opened {
    pub folder: CString,
    pub base: CString,
    pub heads: CString,
    pub classes: CString,
    pub basis: *mut tb_basis,
    pub encoder: *mut tb_encoder,
    pub weights: *mut tb_weights,
    pub head: *mut tb_head,
    pub model: tb_encoder_properties,
    pub about: tb_basis_properties,
}

/// Four handles; a test that frees one sets it to NULL.
impl Drop for Opened {
    fn drop(&mut self) {
        unsafe {
            tb_head_free(self.head);
            tb_weights_free(self.weights);
            tb_encoder_free(self.encoder);
            tb_basis_free(self.basis);
        }
    }
}

pub fn c(text: impl AsRef<Path>) -> CString {
    CString::new(text.as_ref().to_str().unwrap()).unwrap()
}

/// `None`, said aloud, where the digits or ONNX Runtime are missing.
pub fn open(basis: &str) -> Option<Opened> {
    let mut opened = Opened {
        folder: c(digits(basis)?),
        base: c(digits("base/pickled_module.pt")?),
        heads: c(digits("heads.safetensors")?),
        classes: c(digits("classes.json")?),
        basis: null_mut(),
        encoder: null_mut(),
        weights: null_mut(),
        head: null_mut(),
        model: sized(),
        about: sized(),
    };
    let o = &mut opened;
    unsafe {
        ok(|err| tb_basis_open(o.folder.as_ptr(), &basis_options(&o.base), &mut o.basis, err));
        ok(|err| tb_basis_info(o.basis, &mut o.about, err));
        ok(|err| tb_weights_create(o.basis, c"MNIST".as_ptr(), &mut o.weights, err));
        ok(|err| tb_head_open(o.heads.as_ptr(), c"MNIST".as_ptr(), o.classes.as_ptr(), &mut o.head, err));
        let mut library: tb_library_properties = sized();
        ok(|err| tb_library_info(null(), &mut library, err));
        if library.onnxruntime_path.is_null() {
            skip(Need::Ort, text(library.onnxruntime_error));
            return None;
        }
        ok(|err| tb_encoder_create(o.basis, null(), &mut o.encoder, err));
        ok(|err| tb_encoder_info(o.encoder, &mut o.model, err));
    }
    Some(opened)
}

impl Opened {
    /// Pixels of `n` images, f32 [n,3,S,S].
    pub fn pixels(&self, n: usize) -> Vec<f32> {
        let values = n * 3 * self.model.image_size * self.model.image_size;
        (0..values).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect()
    }
}

pub fn basis_options(base: &CStr) -> tb_basis_options {
    tb_basis_options { base: base.as_ptr(), ..sized() }
}

/// A struct that is zero but for its size, which is its first member.
pub fn sized<T: Copy>() -> T {
    unsafe {
        let mut value: T = std::mem::zeroed();
        (&raw mut value).cast::<usize>().write(size_of::<T>());
        value
    }
}

pub fn text(text: *const c_char) -> String {
    unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()
}

/// Status and message of a call, which has to leave an error exactly where it fails.
#[track_caller]
pub fn outcome(call: impl FnOnce(*mut *mut tb_error) -> tb_status) -> (tb_status, String) {
    // What was there before must be overwritten, also by NULL.
    let mut error = std::ptr::without_provenance_mut(8);
    let status = call(&mut error);
    assert_eq!(error.is_null(), status == tb_status::TB_OK, "an error exactly where the call failed");
    unsafe {
        let message = text(tb_error_message(error));
        assert_eq!(tb_error_status(error), status);
        tb_error_free(error);
        (status, message)
    }
}

#[track_caller]
pub fn ok(call: impl FnOnce(*mut *mut tb_error) -> tb_status) {
    let (status, message) = outcome(call);
    assert_eq!(status, tb_status::TB_OK, "{message}");
}

/// The message of a call that has to fail with `expected`.
#[track_caller]
pub fn fails(expected: tb_status, call: impl FnOnce(*mut *mut tb_error) -> tb_status) -> String {
    let (status, message) = outcome(call);
    assert_eq!(status, expected, "{message}");
    assert!(!message.is_empty());
    message
}

/// The embeddings [n,e] of `n` images.
pub fn encode(o: &Opened, weights: *const tb_weights, pixels: &[f32], n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n * o.model.embedding];
    ok(|e| unsafe { tb_encoder_encode(o.encoder, weights, pixels.as_ptr(), n, out.as_mut_ptr(), out.len(), e) });
    out
}
