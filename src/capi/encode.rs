//! `tb_encoder_encode`: pixels and weights in, embeddings out.

use super::encoder::{OpenEncoder, tb_encoder};
use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, Buffer};
use super::pixels::{self, tb_image};
use super::weights::tb_weights;
use crate::error::{Error, Result};

/// Embeds `n` preprocessed images with these weights, in one run; the embeddings are not normalised. The weights are
/// reconstructed if they are not ready; nothing of them is copied. A promoted task runs in its own session instead.
/// Memory grows with `n`: some 3 MB per image for ViT-B-32. Calls of several threads run at once up to
/// tb_encoder_options.concurrency, and then wait.
///
/// @param weights   of any basis, as long as its base has the encoder's architecture
/// @param pixels    f32 [n,3,S,S], as tb_preprocess() gives them
/// @param out       f32 [n,e]
/// @param capacity  floats that `out` has room for: at least n*e, or TB_ERR_BUFFER_TOO_SMALL
/// @return TB_OK; TB_ERR_MISMATCH where the weights are of another architecture; what tb_weights_prepare() returns;
///         TB_ERR_OUT_OF_MEMORY; TB_ERR_RUNTIME. On failure `out` is as it was
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_encode(
    encoder: *const tb_encoder,
    weights: *const tb_weights,
    pixels: *const f32,
    n: usize,
    out: *mut f32,
    capacity: usize,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Buffer::new(out, capacity, std::ptr::null_mut(), "out")?;
        let encoder = &handle::borrow(encoder)?.encoder;
        let weights = &handle::borrow(weights)?.weights;
        let pixels = handle::slice(pixels, values(n, encoder.arch().pixels())?, "pixels")?;
        let out = out.room(values(n, encoder.arch().embed_dim)?)?;
        encoder.encode_task_into(weights, pixels, n, out)
    })
}

/// Preprocesses `n` images and embeds them, as tb_encoder_preprocess() and tb_encoder_encode() do.
///
/// @param images    `n` images, of any sizes and formats
/// @param out       f32 [n,e]
/// @param capacity  floats that `out` has room for: at least n*e, or TB_ERR_BUFFER_TOO_SMALL
/// @return what those two return; the message names the image that is wrong. On failure `out` is as it was
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_encode_images(
    encoder: *const tb_encoder,
    weights: *const tb_weights,
    images: *const tb_image,
    n: usize,
    out: *mut f32,
    capacity: usize,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Buffer::new(out, capacity, std::ptr::null_mut(), "out")?;
        let OpenEncoder { encoder, preprocess, .. } = handle::borrow(encoder)?;
        let weights = &handle::borrow(weights)?.weights;
        let out = out.room(values(n, encoder.arch().embed_dim)?)?;
        let images = handle::slice(images, n, "images")?.iter().enumerate();
        let images: Vec<_> = images
            .map(|(i, image)| pixels::view(image).map_err(|e| e.in_element("images", i)))
            .collect::<Result<_>>()?;
        let pixels = preprocess.images(&images, encoder.threads())?;
        encoder.encode_task_into(weights, &pixels, n, out)
    })
}

/// Turns an image into what this encoder takes: as tb_preprocess() does, but with the mean, deviation, resizing and
/// interpolation of its model (tb_encoder_properties), which are not CLIP's for every model.
///
/// @param out       f32 [3,S,S]; may be NULL where `capacity` is 0
/// @param capacity  floats that `out` has room for
/// @param needed    set to 3*S*S, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
/// @return as tb_preprocess()
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_preprocess(
    encoder: *const tb_encoder,
    image: *const tb_image,
    out: *mut f32,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Buffer::new(out, capacity, needed, "out")?;
        pixels::preprocess(&handle::borrow(encoder)?.preprocess, image, out)
    })
}

fn values(n: usize, each: usize) -> Result<usize> {
    n.checked_mul(each).ok_or_else(|| Error::invalid("more images than memory can hold").got(n))
}
