//! From an image to the encoder's input: open_clip's evaluation transform, to the bit.
//!
//! 1. Resize so that the shorter side is S, the other one ⌊S·long/short⌋: bicubic with antialiasing, in Pillow's
//!    8-bit arithmetic, **in the image's own mode**: a palette or black-and-white image is resized by nearest
//!    neighbour, one with alpha is premultiplied, resized and divided again. An image whose shorter side is S already
//!    is left alone.
//! 2. Cut S×S out of the middle, the offset rounded half to even.
//! 3. Make it RGB: grey is repeated, **alpha is dropped** (not blended with a background).
//! 4. Take (x/255 − mean)/std in f32, channels first.
//!
//! Models that say so in their configs resize other sides, to another edge or with another filter
//! ([`Preprocess::with_resize`], [`Preprocess::with_edge`], [`Preprocess::with_interpolation`]).
//!
//! That the order is this one, and not RGB first, was checked against tensors that open_clip made: for images with
//! a palette or with alpha the two differ by up to 1.8 and 0.13, while the one built here agrees in every bit.
//!
//! The image may be in memory already ([`Preprocess::pixels`]) or, with the feature `images`, in a file
//! ([`Preprocess::file`], [`Preprocess::encoded`]).

mod batch;
#[cfg(feature = "images")]
mod decode;
pub mod image_files;
mod pixels;
mod resample;
mod resize;
#[cfg(test)]
mod tests;
mod transform;

pub use batch::Readable;
pub use image_files::{ImageFiles, is_image_name};
pub use pixels::{PixelFormat, Pixels};
pub use resize::{Interpolation, ResizeMode};
pub use transform::{CLIP_MEAN, CLIP_STD, Preprocess};
