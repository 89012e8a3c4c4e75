//! The elements of a tensor, read: as f32, as f64, as bytes; whether they are zero, whether they are finite.

use std::borrow::Cow;

use half::{bf16, f16};

use super::dense::Tensor;
use super::dtype::DType;
use super::memory::try_zeroed;
use crate::error::{Error, Result};

impl Tensor {
    /// All elements as f32 in row-major order; borrowed where [`Tensor::as_f32`] can, else converted
    /// (f64 is rounded to nearest, f16 and bf16 are exact).
    ///
    /// # Errors
    /// When the type is not a float, or memory is refused.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>> {
        if let Some(values) = self.as_f32() {
            return Ok(Cow::Borrowed(values));
        }
        let mut values = try_zeroed::<f32>(self.numel)?;
        self.read_f32(0, &mut values)?;
        Ok(Cow::Owned(values))
    }

    /// All elements as f64 in row-major order: floats and integers.
    ///
    /// # Errors
    /// When memory is refused.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        let mut values = try_zeroed::<f64>(self.numel)?;
        let size = self.dtype.size();
        let mut at = 0;
        self.for_each_run(0, self.numel, |bytes, stride, count| {
            for i in 0..count {
                values[at] = element_f64(self.dtype, &bytes[i * stride * size..][..size]);
                at += 1;
            }
        });
        Ok(values)
    }

    /// Writes the elements `start..start + out.len()` of the row-major order into `out` as f32.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when the type is not a float.
    ///
    /// # Panics
    /// When the range leaves the tensor.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) -> Result<()> {
        assert!(start.checked_add(out.len()).is_some_and(|end| end <= self.numel), "range outside the tensor");
        let mut out = out.iter_mut();
        let count = out.len();
        macro_rules! run {
            ($size:literal, $convert:expr) => {
                self.for_each_run(start, count, |bytes, stride, count| {
                    let step = stride.max(1) * $size;
                    for (slot, i) in out.by_ref().take(count).zip((0..).step_by(step)) {
                        let element: [u8; $size] = std::array::from_fn(|k| bytes[i + k]);
                        *slot = $convert(element);
                    }
                })
            };
        }
        match self.dtype {
            DType::F32 => run!(4, f32::from_le_bytes),
            DType::F16 => run!(2, |b| f16::from_le_bytes(b).to_f32()),
            DType::BF16 => run!(2, |b| bf16::from_le_bytes(b).to_f32()),
            DType::F64 => run!(8, |b| f64::from_le_bytes(b) as f32),
            _ => {
                return Err(Error::unsupported("not a tensor of floats")
                    .expected("f32, f16, bf16 or f64")
                    .got(self.dtype));
            }
        }
        Ok(())
    }

    /// Whether every element's bits are those of zero (−0.0 counts as zero). Stops at the first that is not.
    pub fn is_zero(&self) -> bool {
        let sign: u8 = if self.dtype.is_float() { 0x80 } else { 0 };
        if let Some(bytes) = self.bytes() {
            // Whole words first: nearly always either the first word is not zero, or all are.
            // SAFETY: every bit pattern is a u64.
            let (before, words, after) = unsafe { bytes.align_to::<u64>() };
            if before.iter().chain(after).all(|&b| b == 0)
                && words.chunks(512).all(|chunk| chunk.iter().fold(0, |any, &w| any | w) == 0)
            {
                return true;
            }
        }
        let size = self.dtype.size();
        let mut zero = true;
        let mut at = 0;
        // In pieces, so that the first element that is not zero ends the search soon.
        while zero && at < self.numel {
            let count = (self.numel - at).min(4096);
            self.for_each_run(at, count, |bytes, stride, count| {
                zero = zero
                    && (0..count).all(|i| {
                        let element = &bytes[i * stride * size..][..size];
                        element[..size - 1].iter().all(|&b| b == 0) && element[size - 1] & !sign == 0
                    });
            });
            at += count;
        }
        zero
    }

    /// Whether every element is finite; what is no float always is.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), with the first that is not.
    pub fn verify_finite(&self) -> Result<()> {
        if !self.dtype.is_float() {
            return Ok(());
        }
        let mut buffer = [0.0f32; 4096];
        for at in (0..self.numel).step_by(buffer.len()) {
            let part = &mut buffer[..(self.numel - at).min(4096)];
            self.read_f32(at, part)?;
            if let Some(i) = part.iter().position(|value| !value.is_finite()) {
                return Err(Error::format("a value is not finite").at(self.mapping.path()).got(format_args!(
                    "{} at element {}",
                    part[i],
                    at + i
                )));
            }
        }
        Ok(())
    }

    /// The elements' bytes side by side: borrowed where they stand so, else copied.
    ///
    /// # Errors
    /// When memory is refused.
    pub fn to_bytes(&self) -> Result<Cow<'_, [u8]>> {
        match self.bytes() {
            Some(bytes) => Ok(Cow::Borrowed(bytes)),
            None => {
                let copy = self.to_contiguous()?;
                Ok(Cow::Owned(copy.mapping[copy.offset..copy.offset + copy.nbytes()].to_vec()))
            }
        }
    }

    /// Walks the elements `start..start + count` of the row-major order as runs along the last dimension:
    /// `visit(bytes from the run's first element on, stride in elements, count)`.
    pub(super) fn for_each_run(&self, start: usize, count: usize, mut visit: impl FnMut(&[u8], usize, usize)) {
        if count == 0 {
            return;
        }
        let size = self.dtype.size();
        if self.contiguous {
            let from = self.offset + start * size;
            visit(&self.mapping[from..from + count * size], 1, count);
            return;
        }
        // A tensor that is not contiguous has at least one dimension.
        let last = self.shape.len() - 1;
        let (width, stride) = (self.shape[last], self.strides[last]);
        let (mut at, end) = (start, start + count);
        while at < end {
            let (mut row, column) = (at / width, at % width);
            let mut element = column * stride;
            for dimension in (0..last).rev() {
                element += (row % self.shape[dimension]) * self.strides[dimension];
                row /= self.shape[dimension];
            }
            let run = (width - column).min(end - at);
            let from = self.offset + element * size;
            let to = from + ((run - 1) * stride + 1) * size;
            visit(&self.mapping[from..to], stride, run);
            at += run;
        }
    }
}

/// The value of a little-endian element; `bytes` has exactly the type's size.
fn element_f64(dtype: DType, bytes: &[u8]) -> f64 {
    macro_rules! read {
        ($type:ty) => {
            <$type>::from_le_bytes(std::array::from_fn(|k| bytes[k]))
        };
    }
    match dtype {
        DType::F64 => read!(f64),
        DType::F32 => read!(f32).into(),
        DType::F16 => read!(f16).to_f64(),
        DType::BF16 => read!(bf16).to_f64(),
        DType::I64 => read!(i64) as f64,
        DType::I32 => read!(i32).into(),
        DType::I16 => read!(i16).into(),
        DType::I8 => read!(i8).into(),
        DType::U64 => read!(u64) as f64,
        DType::U32 => read!(u32).into(),
        DType::U16 => read!(u16).into(),
        DType::U8 | DType::Bool => bytes[0].into(),
    }
}
