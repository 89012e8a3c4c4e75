//! Steady state: the same task again and again, its weights as inputs, promoted, and frozen in a session of its own.

use serde::Serialize;
use taskbasis::{Promotion, Result, TaskExpr};

use super::Setup;
use super::family::{basis_of, recoverable};
use super::frozen::Frozen;
use super::samples::{Samples, Variant, digits, take_turns, time};

/// By batch size, as JSON's keys must be text.
type ByBatch = std::collections::BTreeMap<String, f64>;

#[derive(Serialize)]
pub struct Encode {
    /// Throughput of a promoted task over that of a session on its own `.onnx`, by batch.
    pub promoted_vs_frozen: ByBatch,
    /// The same of a task that is not promoted.
    pub inputs_vs_frozen: ByBatch,
    /// The lowest of `promoted_vs_frozen`.
    pub lowest_promoted_vs_frozen: f64,
    pub batches: Vec<Batch>,
    /// How far embeddings lie apart at most, relative to their length: ‖a − b‖ / ‖b‖ against the frozen session.
    pub inputs_difference: f64,
    pub promoted_difference: f64,
    /// From the request to promote until it had been done.
    pub promotion_ms: f64,
}

#[derive(Serialize)]
pub struct Batch {
    pub batch: usize,
    pub inputs_ms: Samples,
    pub promoted_ms: Samples,
    pub frozen_ms: Samples,
    /// Images a second, of the medians.
    pub inputs_per_s: f64,
    pub promoted_per_s: f64,
    pub frozen_per_s: f64,
}

/// Runs a variant takes at a batch size: about as long at each, so that the small ones, where less shows, run often.
fn rounds(setup: &Setup<'_>, batch: usize) -> usize {
    if setup.quick { 3 } else { (120 / batch).clamp(7, 40) }
}

pub fn measure(setup: &Setup<'_>) -> Result<Encode> {
    let encoder = setup.encoder(Promotion::Off)?;
    let model = setup.family.open(setup.threads, usize::MAX)?;
    let task: TaskExpr = recoverable(basis_of(&model)?)?.swap_remove(0);
    let named = model.weights(&task)?;
    let weights = named.get()?;
    let frozen = Frozen::write(setup, &task)?.open(setup)?;
    let promoting = setup.encoder(Promotion::Manual)?;
    let (promotion_ms, ()) = time(|| promoting.promote(&named))?;

    let mut batches = Vec::new();
    let (mut inputs_difference, mut promoted_difference) = (0f64, 0f64);
    for &batch in &setup.batches {
        let pixels = setup.pixels(batch);
        let expected = frozen.encode(&pixels, batch)?;
        inputs_difference = inputs_difference.max(difference(&encoder.encode(&weights, &pixels, batch)?, &expected));
        let promoted = promoting.encode_task(&named, &pixels, batch)?;
        promoted_difference = promoted_difference.max(difference(&promoted, &expected));
        let mut variants: Vec<Variant<'_>> = vec![
            Box::new(|| time(|| encoder.encode(&weights, &pixels, batch)).map(|(ms, _)| ms)),
            Box::new(|| time(|| promoting.encode_task(&named, &pixels, batch)).map(|(ms, _)| ms)),
            Box::new(|| time(|| frozen.encode(&pixels, batch)).map(|(ms, _)| ms)),
        ];
        let mut samples = take_turns(rounds(setup, batch), &mut variants)?;
        let (frozen_ms, promoted_ms, inputs_ms) = (samples.remove(2), samples.remove(1), samples.remove(0));
        let per_s = |ms: &Samples| batch as f64 / ms.median * 1e3;
        batches.push(Batch {
            batch,
            inputs_per_s: per_s(&inputs_ms),
            promoted_per_s: per_s(&promoted_ms),
            frozen_per_s: per_s(&frozen_ms),
            inputs_ms,
            promoted_ms,
            frozen_ms,
        });
    }
    let over_frozen = |per_s: fn(&Batch) -> f64| -> ByBatch {
        batches.iter().map(|batch| (batch.batch.to_string(), per_s(batch) / batch.frozen_per_s)).collect()
    };
    let promoted_vs_frozen = over_frozen(|batch| batch.promoted_per_s);
    Ok(Encode {
        lowest_promoted_vs_frozen: promoted_vs_frozen.values().copied().fold(f64::INFINITY, f64::min),
        inputs_vs_frozen: over_frozen(|batch| batch.inputs_per_s),
        promoted_vs_frozen,
        batches,
        inputs_difference,
        promoted_difference,
        promotion_ms,
    })
}

/// ‖a − b‖ / ‖b‖.
pub fn difference(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let apart = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    apart / norm(&mut b.iter().map(|b| f64::from(*b))).max(f64::MIN_POSITIVE)
}

impl Encode {
    pub fn rows(&self) -> Vec<Vec<String>> {
        let header = ["encode", "ms", "half of the runs", "images/s", "of frozen"];
        let mut rows = vec![header.map(String::from).to_vec()];
        for batch in &self.batches {
            for (name, ms, per_s) in [
                ("as inputs", &batch.inputs_ms, batch.inputs_per_s),
                ("promoted", &batch.promoted_ms, batch.promoted_per_s),
                ("frozen", &batch.frozen_ms, batch.frozen_per_s),
            ] {
                rows.push(vec![
                    format!("batch {}, {name}", batch.batch),
                    digits(ms.median),
                    format!("{}–{}", digits(ms.p25), digits(ms.p75)),
                    digits(per_s),
                    digits(per_s / batch.frozen_per_s),
                ]);
            }
        }
        rows
    }

    pub fn other_rows(&self) -> Vec<[String; 2]> {
        vec![
            ["promotion".into(), format!("{} ms", digits(self.promotion_ms))],
            [
                "difference as inputs, promoted".into(),
                format!("{:.1e}, {:.1e}", self.inputs_difference, self.promoted_difference),
            ],
        ]
    }
}
