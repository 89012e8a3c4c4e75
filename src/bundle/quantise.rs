//! The formats of stored vectors, dense or in blocks, and the bytes of either.

use half::{bf16, f16};

use super::format::{BlocksRecord, block_stride};
use crate::error::{Error, Result};
pub use crate::tensor::VectorFormat;
use crate::tensor::{DType, Rounding, f32_bytes, try_collected, try_with_room};

impl VectorFormat {
    /// This format for a matrix. What has one dimension (LayerNorms, biases, the class embedding) gets f16 in the place
    /// of blocks: on the digits family the task vectors' errors are 0.5 % smaller then (q8 to q2), and at ViT-B-32's
    /// size it takes 0.3 % more bytes.
    pub(super) fn for_shape(self, shape: &[usize]) -> Self {
        match self {
            Self::Blocks(_) if shape.len() < 2 => Self::F16,
            format => format,
        }
    }

    /// The type of the tensor that holds it.
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
            Self::Blocks(_) => DType::U8,
        }
    }

    /// The bytes that `numel` values of one vector take in the file.
    pub(super) fn stored_bytes(self, numel: usize) -> Result<usize> {
        let bytes = match self {
            Self::Blocks(format) => block_stride(format, numel),
            _ => numel.checked_mul(self.dtype().size()),
        };
        bytes.ok_or_else(|| Error::out_of_memory(usize::MAX))
    }

    /// The shape of the tensor that holds a parameter of this shape in `count` vectors (`None`: one, without that
    /// dimension), and what the metadata say of it.
    pub(super) fn stored_shape(
        self,
        shape: &[usize],
        count: Option<usize>,
    ) -> Result<(Vec<usize>, Option<BlocksRecord>)> {
        let mut whole: Vec<usize> = count.into_iter().collect();
        let Self::Blocks(format) = self else {
            whole.extend(shape);
            return Ok((whole, None));
        };
        whole.push(self.stored_bytes(shape.iter().product())?);
        Ok((whole, Some(BlocksRecord { format: format.name().to_owned(), shape: shape.to_vec() })))
    }

    /// The bytes of `values` as they are stored, and the values that are read back. To do it chunk by chunk, cut at
    /// multiples of [`BLOCK`](crate::tensor::BLOCK).
    pub(super) fn encode(self, values: &[f32]) -> Result<Encoded> {
        let unfit = |i: usize| {
            Err(Error::invalid(format!("a value cannot be stored as {}", self.name()))
                .got(format_args!("{} at element {i}", values[i])))
        };
        if let Some(i) = values.iter().position(|value| !value.is_finite()) {
            return unfit(i);
        }
        let (bytes, read_back): (Vec<u8>, Vec<f32>) = match self {
            Self::F32 => (try_collected(f32_bytes(values).iter().copied())?, try_collected(values.iter().copied())?),
            Self::F16 => halves(values, |value| f16::from_f32(value).to_bits(), |bits| f16::from_bits(bits).to_f32())?,
            Self::BF16 => {
                halves(values, |value| bf16::from_f32(value).to_bits(), |bits| bf16::from_bits(bits).to_f32())?
            }
            Self::Blocks(format) => {
                let bytes = format.quantize(values, Rounding::default())?;
                let mut read_back = try_with_room(values.len().next_multiple_of(crate::tensor::BLOCK))?;
                for block in bytes.chunks_exact(format.block_bytes()) {
                    read_back.extend(format.dequantize(block));
                }
                read_back.truncate(values.len());
                (bytes, read_back)
            }
        };
        match read_back.iter().position(|value| !value.is_finite()) {
            Some(i) => unfit(i),
            None => Ok(Encoded { bytes, values: read_back }),
        }
    }
}

/// The bytes of values of 16 bits, and the values that are read back.
fn halves(values: &[f32], to_bits: impl Fn(f32) -> u16, from_bits: impl Fn(u16) -> f32) -> Result<(Vec<u8>, Vec<f32>)> {
    let (mut bytes, mut read_back) = (try_with_room(2 * values.len())?, try_with_room(values.len())?);
    for &value in values {
        let bits = to_bits(value);
        bytes.extend(bits.to_le_bytes());
        read_back.push(from_bits(bits));
    }
    Ok((bytes, read_back))
}

/// Values as a format keeps them.
#[derive(Debug)]
pub(super) struct Encoded {
    /// The bytes that are stored, without the zeros that fill a row of blocks to its stride.
    pub(super) bytes: Vec<u8>,
    /// The values that are read back.
    pub(super) values: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::BlockFormat;

    #[test]
    fn what_is_encoded_is_what_is_read_back() {
        let values: Vec<f32> = (0..200).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e-4).collect();
        let mut last = 0.0;
        for format in VectorFormat::ALL {
            let Encoded { bytes, values: back } = format.encode(&values).unwrap();
            assert!(bytes.len() <= format.stored_bytes(200).unwrap());
            let error: f64 = values.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            assert!(format == VectorFormat::F16 || error >= last, "{format}: {error} after {last}");
            last = if format == VectorFormat::F16 { last } else { error };
            assert_eq!(format.name().parse::<VectorFormat>().unwrap(), format);
        }
        assert!("q5".parse::<VectorFormat>().is_err());
        for (format, value) in
            [(VectorFormat::F32, f32::NAN), (VectorFormat::F16, 1e6), (BlockFormat::Q8.into(), f32::INFINITY)]
        {
            assert!(format.encode(&[0.0, value]).unwrap_err().to_string().contains("element 1"));
        }
    }
}
