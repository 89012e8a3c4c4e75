//! The formats of stored vectors, dense, in blocks or of low rank, and their bytes.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use super::alignment::ALIGNMENT;
use crate::error::{Error, Result};
use crate::mmap::Mapping;
pub use crate::tensor::VectorFormat;
use crate::tensor::{
    BlockFormat, Blocks, DType, LowRank, LowRankFormat, Rounding, Source, Tensor, checked_numel, f32_bytes, matrix_of,
    try_collected, try_with_room,
};

/// The format and shape of one tensor of blocks: an entry under `taskbasis.blocks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BlocksRecord {
    /// `q8`, `q4`, ….
    pub(super) format: String,
    /// The extents of the parameter.
    pub(super) shape: Vec<usize>,
    /// The rank of a matrix that is stored as two factors; since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rank: Option<usize>,
}

impl BlocksRecord {
    /// Whether readers of version 1 do not know it.
    pub(super) fn is_newest(&self) -> bool {
        self.rank.is_some()
    }
}

/// How a bundle stores a parameter of its vectors. Text has it as `q4`, `f16`, …, or as `r16`, `r16q6`, ….
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoredFormat {
    /// Value by value.
    Values(VectorFormat),
    /// As a matrix of low rank: a product of two factors in blocks.
    LowRank(LowRankFormat),
}

impl StoredFormat {
    /// This format for a parameter of this shape. What has one dimension (LayerNorms, biases, the class embedding) gets
    /// f16 in the place of blocks: on the digits family the task vectors' errors are 0.5 % smaller then (q8 to q2), and
    /// at ViT-B-32's size it takes 0.3 % more bytes. Where two factors take as much as the matrix, it is stored in
    /// their format, value by value.
    pub(super) fn for_shape(self, shape: &[usize]) -> Self {
        let format = match self {
            Self::Values(format) => format,
            Self::LowRank(format) => {
                let whole = checked_numel(shape).and_then(|numel| format.factors().bytes(numel));
                let is_less = |(rows, columns)| format.bytes(rows, columns) < whole;
                if matrix_of(shape).is_some_and(is_less) {
                    return self;
                }
                VectorFormat::Blocks(format.factors())
            }
        };
        Self::Values(match format {
            VectorFormat::Blocks(_) if shape.len() < 2 => VectorFormat::F16,
            format => format,
        })
    }

    /// The type of the tensor that holds it.
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::Values(VectorFormat::F32) => DType::F32,
            Self::Values(VectorFormat::F16) => DType::F16,
            Self::Values(VectorFormat::BF16) => DType::BF16,
            Self::Values(VectorFormat::Blocks(_)) | Self::LowRank(_) => DType::U8,
        }
    }

    /// The bytes of one vector's values of a parameter of this shape, without what fills a row; `None` where that
    /// overflows, and for a shape that is no matrix's.
    pub(super) fn value_bytes(self, shape: &[usize]) -> Option<usize> {
        match self {
            Self::Values(VectorFormat::Blocks(format)) => format.bytes(checked_numel(shape)?),
            Self::Values(_) => checked_numel(shape)?.checked_mul(self.dtype().size()),
            Self::LowRank(format) => {
                let (rows, columns) = matrix_of(shape)?;
                format.bytes(rows, columns)
            }
        }
    }

    /// The bytes that they take in the file. Rows of blocks are whole [`ALIGNMENT`]s, so that no padding is needed
    /// between them.
    pub(super) fn stored_bytes(self, shape: &[usize]) -> Result<usize> {
        let bytes = self.value_bytes(shape);
        let bytes = match self.dtype() {
            DType::U8 => bytes.and_then(|bytes| bytes.checked_next_multiple_of(ALIGNMENT)),
            _ => bytes,
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
        let (format, rank) = match self {
            Self::Values(VectorFormat::Blocks(format)) => (format, None),
            Self::LowRank(format) => (format.factors(), Some(format.rank())),
            Self::Values(_) => {
                whole.extend(shape);
                return Ok((whole, None));
            }
        };
        whole.push(self.stored_bytes(shape)?);
        Ok((whole, Some(BlocksRecord { format: format.name().to_owned(), shape: shape.to_vec(), rank })))
    }

    /// The format of a tensor that the metadata say this of.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for one that is not known.
    pub(super) fn of_record(record: &BlocksRecord) -> Result<Self> {
        let format: BlockFormat = record.format.parse()?;
        match record.rank {
            Some(rank) => LowRankFormat::new(rank, format).map(Self::LowRank),
            None => Ok(Self::Values(format.into())),
        }
    }

    /// The format that a source has; `None` for f64, which no bundle has.
    pub(super) fn of_source(source: &Source) -> Option<Self> {
        match source {
            Source::LowRank(matrix) => Some(Self::LowRank(matrix.format())),
            source => source.loadable().map(|(format, _)| Self::Values(format)),
        }
    }

    /// The vector of a parameter of this shape whose values are these bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) where there are more or fewer.
    pub(super) fn source(self, mapping: &Arc<Mapping>, bytes: Range<usize>, shape: &[usize]) -> Result<Source> {
        Ok(match self {
            Self::Values(VectorFormat::Blocks(format)) => Blocks::new(mapping, bytes, format, shape)?.into(),
            Self::Values(_) => Tensor::contiguous(mapping, bytes, self.dtype(), shape)?.into(),
            Self::LowRank(format) => LowRank::new(mapping, bytes, format, shape)?.into(),
        })
    }

    /// About ‖s − ŝ‖ / ‖s‖ of a vector that is stored so: what real families lose (docs/bundle-format.md).
    pub fn usual_loss(self) -> f64 {
        match self {
            Self::Values(format) => format.usual_loss(),
            Self::LowRank(_) => 0.5,
        }
    }
}

impl<F: Into<VectorFormat>> From<F> for StoredFormat {
    fn from(format: F) -> Self {
        Self::Values(format.into())
    }
}

impl From<LowRankFormat> for StoredFormat {
    fn from(format: LowRankFormat) -> Self {
        Self::LowRank(format)
    }
}

impl fmt::Display for StoredFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Values(format) => format.fmt(f),
            Self::LowRank(format) => format.fmt(f),
        }
    }
}

impl FromStr for StoredFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_rank = text.strip_prefix('r').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if is_rank { text.parse().map(Self::LowRank) } else { text.parse().map(Self::Values) }
    }
}

impl VectorFormat {
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
            assert!(bytes.len() <= StoredFormat::from(format).stored_bytes(&[2, 100]).unwrap());
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
