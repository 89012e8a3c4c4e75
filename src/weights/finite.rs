//! The search for the number at fault where what was computed with some weights is not finite, and whether what is to
//! be written is: looked for only then, for it reads everything.

use super::arena::BufferPool;
use super::model::TaskWeights;
use super::values::{TensorMemory, Values, Weights};
use crate::checkpoint::is_image_tower;
use crate::did_you_mean::clipped;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::DType;

/// The error for the element of this index, which is `value`.
pub(crate) fn not_finite(value: f32, element: usize) -> Error {
    Error::format("a value is not finite").got(format_args!("{value} at element {element}"))
}

impl TaskWeights {
    /// The error for embeddings that are not finite: names the first parameter of the image tower that is not, in the
    /// base, in a vector that these weights take part of, or in what the coefficients make of both; where all are
    /// finite, the one with the largest values.
    ///
    /// # Errors
    /// As [`TaskWeights::get`]: what keeps it from looking.
    pub(crate) fn why_not_finite(&self) -> Result<Error> {
        let model = self.model();
        let of = format!("the embeddings with the weights `{}`", clipped(self.name()));
        let pool = BufferPool::unlimited();
        let mut largest = ("", 0.0f32);
        let tower = model.base().encoder().filter(|(_, tensor)| tensor.dtype().is_float());
        for (name, tensor) in tower {
            if let Err(error) = tensor.verify_finite().and_then(|()| self.verify_vectors(name)) {
                return Ok(error.tensor(name).hint(format!("So {of} are not finite either")));
            }
            let weights = self.part(|other| other == name, 0, &pool)?;
            let values = weights
                .get(name)
                .ok_or_else(|| Error::new(ErrorKind::Internal, "a parameter was not reconstructed").tensor(name))?;
            if let Some(i) = values.iter().position(|value| !value.is_finite()) {
                return Ok(Error::invalid("the coefficients are too large: a weight is beyond what f32 can hold")
                    .tensor(name)
                    .got(format_args!("{} at element {i}", values[i]))
                    .hint(format!("So {of} are not finite either")));
            }
            let most = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            if most > largest.1 {
                largest = (name, most);
            }
        }
        Ok(Error::invalid(format!("{of} are not finite, though each of the weights is"))
            .tensor(largest.0)
            .got(format_args!("weights of up to {:e}", largest.1))
            .hint("Are the coefficients right? Sums of such weights are beyond what the encoder can hold"))
    }

    /// Checks the pieces of `parameter` in the vectors that are not multiplied by 0.
    fn verify_vectors(&self, parameter: &str) -> Result<()> {
        let Some(basis) = self.model().basis() else { return Ok(()) };
        let sources = basis.parameter(parameter).map(|parameter| parameter.sources()).unwrap_or_default();
        let row = basis.index_of(parameter).map_or(0, |index| self.coefficients().row_of(index));
        let factors = basis.factors(&self.coefficients().rows()[row])?;
        let used = sources.iter().zip(factors).filter(|(_, factor)| *factor != 0.0);
        used.into_iter().try_for_each(|(source, _)| source.verify_finite().map_err(|e| e.at(source.mapping().path())))
    }
}

impl Weights {
    /// Whether every number is finite, so that it may be written. The base's masks outside the image tower, which
    /// consist of numbers and −∞, are left as they are.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), naming the tensor and the first element that is not.
    pub(crate) fn verify_finite(&self) -> Result<()> {
        self.tensors.iter().try_for_each(|(name, tensor)| match (&tensor.memory, self.values(tensor)) {
            (TensorMemory::Base(_), Values::F32(values)) if !is_image_tower(name) && is_mask(values) => Ok(()),
            (TensorMemory::Base(view), _) => view.verify_finite().map_err(|e| e.tensor(name)),
            (_, Values::F32(values)) => match values.iter().position(|value| !value.is_finite()) {
                Some(i) => Err(not_finite(values[i], i)
                    .tensor(name)
                    .hint("Base or vectors hold it, or the coefficients are too large")),
                None => Ok(()),
            },
            (_, Values::Cast(dtype, bytes)) => match first_of(dtype, bytes) {
                Some((value, i)) => Err(not_finite(value, i).tensor(name).hint("A weight is beyond that type's range")),
                None => Ok(()),
            },
            // What is packed was made of the same base and vectors, and is written nowhere.
            (_, Values::Carried(_) | Values::Packed(..)) => Ok(()),
        })
    }
}

/// The first value that is not finite, and its index, of halves of this type; other types have none.
pub(crate) fn first_of(dtype: DType, bytes: &[u8]) -> Option<(f32, usize)> {
    let widen: fn(u16) -> f32 = match dtype {
        DType::F16 => |bits| half::f16::from_bits(bits).to_f32(),
        DType::BF16 => |bits| half::bf16::from_bits(bits).to_f32(),
        _ => return None,
    };
    let (halves, _) = bytes.as_chunks::<2>();
    let mut values = halves.iter().map(|half| widen(u16::from_le_bytes(*half))).zip(0..);
    values.find(|(value, _)| !value.is_finite())
}

/// Whether the values that are not finite are all −∞, as in what is added to scores so that they do not count.
fn is_mask(values: &[f32]) -> bool {
    values.iter().all(|&value| value.is_finite() || value == f32::NEG_INFINITY)
}
