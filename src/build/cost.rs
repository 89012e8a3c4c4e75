//! What a basis costs and what it loses, told before it is made.

use half::{bf16, f16};

use super::family::Family;
use super::fit::Fit;
use super::gram::Gram;
use super::tile::{TILE, Tiles, TunedParameter, split};
use crate::error::Result;
use crate::kernel::threads;
use crate::tensor::{Rounding, VectorFormat};

/// Of so many tiles of a matrix one is looked at.
const SAMPLED: usize = 16;

impl Family {
    /// Elements of the parameters that any task changes: D without what every task vector has as zeros. All of them
    /// until [`Family::gram`] has looked.
    pub fn changed_parameter_count(&self) -> usize {
        self.parameters.iter().filter(|parameter| parameter.is_changed()).map(TunedParameter::numel).sum()
    }

    /// ‖τ − τ'‖ / ‖τ‖ for each format, τ' being the task vectors as it stores them: measured on one of sixteen tiles of
    /// every matrix that a task changes. Vectors that are sums of task vectors lose about as much.
    ///
    /// # Errors
    /// When a checkpoint cannot be read.
    pub fn rounding(&self, formats: &[VectorFormat], threads: usize) -> Result<Vec<f64>> {
        let matrices =
            self.parameters.iter().filter(|parameter| parameter.shape().len() >= 2 && parameter.is_changed());
        let places = matrices.flat_map(|parameter| {
            split(0..parameter.numel(), TILE).step_by(SAMPLED).map(move |range| (parameter, range))
        });
        let places: Vec<_> = places.collect();
        let mut sums = vec![(0.0f64, vec![0.0f64; formats.len()]); places.len()];
        let items = places.iter().zip(&mut sums).collect();
        threads::share(threads, items, |((parameter, range), (whole, lost)), tiles: &mut Tiles| {
            let (vectors, _) = tiles.read(parameter, range.clone())?;
            for row in vectors.rows() {
                let values: Vec<f32> = row.iter().map(|&value| value as f32).collect();
                *whole += row.iter().map(|value| value * value).sum::<f64>();
                for (format, lost) in formats.iter().zip(lost.iter_mut()) {
                    *lost += square_loss(*format, &values)?;
                }
            }
            Ok(())
        })?;
        let whole: f64 = sums.iter().map(|(whole, _)| whole).sum();
        let lost = |f: usize| sums.iter().map(|(_, lost)| lost[f]).sum::<f64>();
        Ok((0..formats.len()).map(|f| if whole > 0.0 { (lost(f) / whole).sqrt() } else { 0.0 }).collect())
    }
}

/// ‖v − v'‖², v' being `values` as `format` stores them.
fn square_loss(format: VectorFormat, values: &[f32]) -> Result<f64> {
    let of = |back: &mut dyn Iterator<Item = f32>| -> f64 {
        values.iter().zip(back).map(|(value, back)| f64::from(value - back).powi(2)).sum()
    };
    Ok(match format {
        VectorFormat::F32 => 0.0,
        VectorFormat::F16 => of(&mut values.iter().map(|&value| f16::from_f32(value).to_f32())),
        VectorFormat::BF16 => of(&mut values.iter().map(|&value| bf16::from_f32(value).to_f32())),
        VectorFormat::Blocks(format) => {
            let bytes = format.quantize(values, Rounding::default())?;
            of(&mut bytes.chunks_exact(format.block_bytes()).flat_map(|block| format.dequantize(block)))
        }
    })
}

impl Fit {
    /// About how many bytes the vectors take in `format`, PCA's mean among them: `parameters` values each
    /// ([`Family::changed_parameter_count`]).
    pub fn stored_bytes(&self, parameters: usize, format: VectorFormat) -> u64 {
        let vectors = self.vectors() + usize::from(self.method().has_mean());
        (vectors * format.bytes(parameters)) as u64
    }

    /// √(Σ_t ‖τ_t − τ̂_t‖² / Σ_t ‖τ_t‖²) where the vectors lose the share `rounding` of their length by being stored
    /// ([`Family::rounding`]), each in a direction of its own: the squares of what is lost add up. `None` where a task
    /// cannot be recovered.
    ///
    /// # Panics
    /// For the Gram matrix of other tasks.
    pub fn error_as_stored(&self, gram: &Gram, rounding: f64) -> Option<f64> {
        let (t, m) = (gram.tasks().len(), self.vectors());
        let length = |column: &[f64]| -> f64 {
            let pairs = (0..t).flat_map(|i| (0..t).map(move |j| (i, j)));
            pairs.map(|(i, j)| column[i] * column[j] * gram.get(i, j)).sum::<f64>().max(0.0)
        };
        let of_vector: Vec<f64> =
            (0..m).map(|m| length(&(0..t).map(|t| self.combine(t, m)).collect::<Vec<_>>())).collect();
        let of_mean = if self.method().has_mean() { length(&vec![1.0 / t as f64; t]) } else { 0.0 };
        let (mut lost, mut whole) = (0.0, 0.0);
        for task in 0..t {
            let own = self.errors()[task]?.powi(2) * gram.get(task, task);
            let mut stored = of_mean;
            for (m, square) in of_vector.iter().enumerate() {
                stored += self.recover(m, task)?.powi(2) * square;
            }
            lost += own + rounding.powi(2) * stored;
            whole += gram.get(task, task);
        }
        Some((lost / whole).sqrt())
    }
}
