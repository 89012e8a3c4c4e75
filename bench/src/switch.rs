//! Switching: from a task's name to its first embedding.

use std::sync::Arc;

use serde::Serialize;
use taskbasis::{
    Encoder, EncoderOptions, Model, Precision, Promotion, Residency, Result, TaskExpr, TaskWeights, WeightsOn,
};

use super::Setup;
use super::family::{Dice, basis_of, recoverable};
use super::never_seen::{self, NeverSeen};
use super::samples::{Samples, Variant, digits, paired_difference, repeat, take_turns, time};
use crate::output;

#[derive(Serialize)]
pub struct Switch {
    /// Opening a session on a task's own `.onnx` and its first embedding, over the same with taskbasis in the first
    /// precision that is measured, from the basis's own format.
    pub vs_reload: f64,
    /// The time that naming another task that is in the cache costs over running the same weights again: as much as
    /// calls without images show, or more where whole runs show more with 95 % confidence.
    ///
    /// A run's noise, some per cents of 50 ms, would hide a microsecond and invent a millisecond; a call without images
    /// does everything but ONNX Runtime's part.
    pub cached_overhead_ms: f64,
    /// `cached_overhead_ms` over calls without images: the median of paired differences.
    pub cached_call_difference_ms: f64,
    /// `cached_overhead_ms` over whole runs, and its interval with 95 % confidence.
    pub cached_run_difference_ms: f64,
    pub cached_run_interval_ms: [f64; 2],
    /// Time from the name to the embedding, nothing in the cache, over a random sequence of tasks.
    pub switch_ms: Samples,
    /// The part of `switch_ms` until the weights were there.
    pub reconstruct_ms: Samples,
    /// A run without a switch: the same weights again.
    pub run_ms: Samples,
    /// The time that a switch takes beyond reconstruction and a run: the median of paired differences.
    pub beyond_parts_ms: f64,
    /// The interval of `beyond_parts_ms` with 95 % confidence.
    pub beyond_parts_interval_ms: [f64; 2],
    /// Time from the name to the embedding where the cache has the weights.
    pub cached_ms: Samples,
    /// Time from the name to the weights where the cache has them, without a run.
    pub lookup_ms: Samples,
    /// Time from the name to the embedding, a block at a time in a small part of the memory, nothing kept.
    pub streamed_ms: Samples,
    /// Bytes of weights that a run of `streamed_ms` holds at most.
    pub streamed_weight_bytes: usize,
    /// The same in every precision, and from q4 vectors, beside a new session.
    pub never_seen: Vec<NeverSeen>,
    /// The number of tasks that the sequence was drawn from.
    pub tasks: usize,
}

pub fn measure(setup: &Setup<'_>) -> Result<Switch> {
    let encoder = setup.encoder(Promotion::Off)?;
    let pixels = setup.pixels(1);
    let named = |model: &Arc<Model>, task: &TaskExpr| -> Result<TaskWeights> {
        Ok(model.weights(task)?.in_layout(encoder.layout()))
    };
    // Room for one task: every switch finds the memory of the one before, and nothing else.
    let cold = setup.family.open(setup.threads, setup.family.weights_bytes_in(Some(encoder.layout()))?)?;
    let tasks = recoverable(basis_of(&cold)?)?;
    let mut turn = Sequence::new(tasks.clone());
    // From the name to the embedding; also how long it took until the weights were there.
    let switch = |task: &TaskExpr| -> Result<(f64, f64)> {
        let (ms, until_ready) = time(|| {
            let (ms, weights) = time(|| named(&cold, task)?.get())?;
            encoder.encode(&weights, &pixels, 1)?;
            Ok(ms)
        })?;
        Ok((ms, until_ready))
    };

    let never_seen = never_seen::measure(setup, &tasks, &pixels)?;

    // None of the model's, which would find what is held here instead of reconstructing it.
    let held = named(&setup.family.open(setup.threads, 0)?, &tasks[0])?.get()?;
    // Two tasks are enough to change between, and fit where eight would not.
    let warm = setup.family.open(setup.threads, usize::MAX)?;
    let cached: Vec<&TaskExpr> = tasks.iter().take(2).collect();
    for task in &cached {
        named(&warm, task)?.get()?;
    }
    let blockwise = EncoderOptions {
        residency: Residency::Blockwise,
        promotion: Promotion::Off,
        weights_on: WeightsOn::Host,
        cuda_graphs: false,
        // Blocks are not packed.
        precision: Precision::F32.into(),
        ..setup.encoder.clone()
    };
    let streamed = Encoder::new(&setup.about.arch, &blockwise)?;
    let reconstruct = std::cell::RefCell::new(Vec::new());
    let (mut which, mut streamed_turn) = (0, Sequence::new(tasks.clone()));
    let mut variants: Vec<Variant<'_>> = vec![
        Box::new(|| time(|| encoder.encode(&held, &pixels, 1)).map(|(ms, _)| ms)),
        Box::new(|| {
            which = (which + 1) % cached.len();
            time(|| encoder.encode(&named(&warm, cached[which])?.get()?, &pixels, 1)).map(|(ms, _)| ms)
        }),
        Box::new(|| {
            let (ms, until_ready) = switch(turn.next())?;
            reconstruct.borrow_mut().push(until_ready);
            Ok(ms)
        }),
        Box::new(|| {
            let task = streamed_turn.next();
            time(|| streamed.encode_task(&cold.weights(task)?, &pixels, 1)).map(|(ms, _)| ms)
        }),
    ];
    let rounds = if setup.quick { 10 } else { 100 };
    let mut samples = take_turns(rounds, &mut variants)?;
    // A pair's runs follow each other directly, first one and then the other in front.
    let pairs = if setup.quick { 10 } else { 100 };
    let mut both = take_turns(pairs, &mut variants[..2])?;
    drop(variants);
    let mut calls: Vec<Variant<'_>> = vec![
        Box::new(|| time(|| encoder.encode(&held, &[], 0)).map(|(ms, _)| ms)),
        Box::new(|| {
            which = (which + 1) % cached.len();
            time(|| encoder.encode(&named(&warm, cached[which])?.get()?, &[], 0)).map(|(ms, _)| ms)
        }),
    ];
    let calls = take_turns(1000, &mut calls)?;
    let (call_difference, _) = paired_difference(&calls[1].each, &calls[0].each);
    let lookup_ms = repeat(1000, || named(&warm, &tasks[0])?.get())?;

    let (again, named) = (both.swap_remove(0), both.swap_remove(0));
    let (run_difference, run_interval) = paired_difference(&named.each, &again.each);
    let streamed_ms = samples.remove(3);
    let (switch_ms, cached_ms, run_ms) = (samples.remove(2), samples.remove(1), samples.remove(0));
    let reconstruct_ms = Samples::of(reconstruct.into_inner().split_off(1));
    let after: Vec<f64> = switch_ms.each.iter().zip(&reconstruct_ms.each).map(|(all, part)| all - part).collect();
    let (beyond_parts_ms, beyond_parts_interval_ms) = paired_difference(&after, &run_ms.each);
    Ok(Switch {
        vs_reload: never_seen.first().map_or(f64::NAN, |own| own.precisions[0].reload_over.median),
        cached_overhead_ms: call_difference.max(run_interval[0]),
        cached_call_difference_ms: call_difference,
        cached_run_difference_ms: run_difference,
        cached_run_interval_ms: run_interval,
        beyond_parts_ms,
        beyond_parts_interval_ms,
        switch_ms,
        reconstruct_ms,
        run_ms,
        cached_ms,
        lookup_ms,
        streamed_ms,
        streamed_weight_bytes: streamed.weight_bytes(),
        never_seen,
        tasks: tasks.len(),
    })
}

/// Tasks at random, never one twice in a row where there is another.
pub struct Sequence {
    tasks: Vec<TaskExpr>,
    dice: Dice,
    last: usize,
}

impl Sequence {
    pub fn new(tasks: Vec<TaskExpr>) -> Self {
        Self { last: tasks.len() - 1, tasks, dice: Dice::new(1) }
    }

    pub fn next(&mut self) -> &TaskExpr {
        let others = self.tasks.len() - 1;
        self.last = (self.last + 1 + self.dice.below(others.max(1))) % self.tasks.len();
        &self.tasks[self.last]
    }
}

impl Switch {
    pub fn rows(&self) -> Vec<[String; 2]> {
        let tail = |ms: &Samples| format!(", p95 {}, p99 {} ms", digits(ms.p95), digits(ms.p99));
        let interval = |[low, high]: [f64; 2]| format!("95 %: {} to {}", digits(low), digits(high));
        vec![
            ["another task, to its first embedding".into(), self.switch_ms.text() + &tail(&self.switch_ms)],
            ["  of it reconstruction".into(), self.reconstruct_ms.text()],
            [
                "  beyond reconstruction and a run".into(),
                format!("{} ms ({})", digits(self.beyond_parts_ms), interval(self.beyond_parts_interval_ms)),
            ],
            ["a run without a switch".into(), self.run_ms.text() + &tail(&self.run_ms)],
            ["another task, in the cache".into(), self.cached_ms.text() + &tail(&self.cached_ms)],
            [
                "  over a run without a switch".into(),
                format!(
                    "{} ms; of whole runs {} ms ({})",
                    digits(self.cached_overhead_ms),
                    digits(self.cached_run_difference_ms),
                    interval(self.cached_run_interval_ms)
                ),
            ],
            ["  name to weights alone".into(), format!("{} µs", digits(self.lookup_ms.median * 1e3))],
            [
                "another task, a block at a time".into(),
                self.streamed_ms.text() + &format!(", {} of weights", output::bytes(self.streamed_weight_bytes as u64)),
            ],
            ["a new session on the task's own .onnx, over that".into(), format!("{} ×", digits(self.vs_reload))],
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_never_stays() {
        let mut sequence = Sequence::new(["A", "B", "C"].map(TaskExpr::task).to_vec());
        let drawn: Vec<String> = (0..200).map(|_| sequence.next().to_string()).collect();
        assert!(drawn.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(["A", "B", "C"].iter().all(|task| drawn.iter().filter(|drawn| drawn == task).count() > 30));
        let mut alone = Sequence::new(vec![TaskExpr::task("A")]);
        assert_eq!(alone.next().to_string(), "A");
    }
}
