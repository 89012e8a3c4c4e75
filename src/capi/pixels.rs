//! `tb_image` and `tb_preprocess`.

use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, Buffer};
use crate::error::{Error, Result};
use crate::preprocess::{PixelFormat, Pixels, Preprocess};

/// Red, green, blue: three bytes per pixel.
pub const TB_PIXELS_RGB8: u32 = 0;
/// Red, green, blue, alpha. Alpha weighs the colours while resizing, and is then dropped.
pub const TB_PIXELS_RGBA8: u32 = 1;
/// Gray: one byte per pixel.
pub const TB_PIXELS_GRAY8: u32 = 2;
/// Blue, green, red.
pub const TB_PIXELS_BGR8: u32 = 3;
/// Blue, green, red, alpha; alpha as in TB_PIXELS_RGBA8.
pub const TB_PIXELS_BGRA8: u32 = 4;

/// A decoded image in the caller's memory. This struct never changes, so arrays of it are safe.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_image {
    /// Row after row, the top one first: (height - 1) * row_stride + width * (bytes per pixel) bytes.
    pub data: *const u8,
    /// The width in pixels, at least 1.
    pub width: usize,
    /// The height in pixels, at least 1.
    pub height: usize,
    /// Bytes from the start of a row to the start of the next; 0: rows follow each other without a gap.
    pub row_stride: usize,
    /// One of the TB_PIXELS_ constants.
    pub format: u32,
}

/// Turns an image into what the encoder takes, as open_clip's evaluation transform does: the shortest side resized to
/// `size` (bicubic, antialiased, Pillow's arithmetic), the centre cropped, normalised with CLIP's mean and deviation.
/// Models that want something else: tb_encoder_preprocess().
///
/// @param size      S: the side in pixels, tb_encoder_properties.image_size
/// @param out       f32 [3,S,S]; may be NULL where `capacity` is 0
/// @param capacity  floats that `out` has room for
/// @param needed    set to 3*S*S, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
/// @return TB_OK; TB_ERR_INVALID_ARGUMENT for an image without pixels, an unknown format, a row_stride that is smaller
///         than a row, a size that is not 1 to 8192, or an image so long that its longer side would have more than
///         2^26 pixels when it is resized; TB_ERR_BUFFER_TOO_SMALL
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_preprocess(
    image: *const tb_image,
    size: usize,
    out: *mut f32,
    capacity: usize,
    needed: *mut usize,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Buffer::new(out, capacity, needed, "out")?;
        preprocess(&Preprocess::new(size)?, image, out)
    })
}

/// Writes what `preprocess` makes of an image of C's.
///
/// # Safety
/// `image` is NULL or an image as the header describes it, which stays as it is during the call.
pub(super) unsafe fn preprocess(preprocess: &Preprocess, image: *const tb_image, out: Buffer<f32>) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let image = handle::slice(image, 1, "image")?;
        let out = out.room(preprocess.len())?;
        preprocess.pixels(view(&image[0])?, out)
    }
}

/// The pixels that an image of C's describes.
///
/// # Safety
/// The image's data is as the struct says, and stays so for as long as the view is used.
pub(super) unsafe fn view<'a>(image: &tb_image) -> Result<Pixels<'a>> {
    let format = match image.format {
        TB_PIXELS_RGB8 => PixelFormat::Rgb8,
        TB_PIXELS_RGBA8 => PixelFormat::Rgba8,
        TB_PIXELS_GRAY8 => PixelFormat::Gray8,
        TB_PIXELS_BGR8 => PixelFormat::Bgr8,
        TB_PIXELS_BGRA8 => PixelFormat::Bgra8,
        other => return Err(Error::invalid("no such pixel format").expected("one of TB_PIXELS_…").got(other)),
    };
    if image.width == 0 || image.height == 0 {
        return Err(
            Error::invalid("an image has at least one pixel").got(format_args!("{} × {}", image.width, image.height))
        );
    }
    let row = image.width.checked_mul(format.channels());
    let stride = if image.row_stride == 0 { row } else { Some(image.row_stride) };
    let length = row.zip(stride).and_then(|(row, stride)| (image.height - 1).checked_mul(stride)?.checked_add(row));
    let (Some(row_stride), Some(length)) = (stride, length) else {
        return Err(Error::invalid("an image larger than memory"));
    };
    // SAFETY: the caller's promise.
    let data = unsafe { handle::slice(image.data, length, "data") }?;
    Ok(Pixels { data, width: image.width, height: image.height, row_stride, format })
}
