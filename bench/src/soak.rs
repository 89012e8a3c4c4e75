//! A soak: random tasks and expressions on several threads, in less memory than they want, for as long as one likes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use taskbasis::{
    Encoder, EncoderOptions, Error, Model, Precision, Promotion, Residency, Result, TaskExpr, WeightsCache,
};

use super::encode::difference;
use super::family::{Dice, basis_of, recoverable};
use super::samples::{digits, line};
use super::{Setup, machine};
use crate::output;

/// Threads that ask at once.
const THREADS: usize = 4;
/// Weights that the cache has room for.
const BUDGET: usize = 3;
/// Expressions that the threads draw from: several times what fits.
const EXPRESSIONS: usize = 24;
/// Images per run, at most; every number of images has its own first result.
const MAX_IMAGES: usize = 3;
/// Memory may grow by this share and this many bytes, and one task's weights, from the second third of the time to the
/// last, as which thread holds what varies.
const GROWTH: (f64, f64) = (0.02, 8e6);

#[derive(Serialize)]
pub struct Soak {
    pub threads: usize,
    pub expressions: usize,
    pub budget_bytes: usize,
    /// The formats of the vectors, which all take part at once.
    pub formats: Vec<String>,
    /// The mode in which runs are given weights as they are.
    pub plain: Mode,
    /// The mode in which runs take packed weights, of every precision in turn.
    pub packed: Mode,
    /// The mode in which a run has the weights of one block at a time.
    pub blockwise: Mode,
    pub passed: bool,
}

/// The way that tasks are run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Packed,
    Blockwise,
}

#[derive(Serialize)]
pub struct Mode {
    pub seconds: f64,
    pub runs: u64,
    /// Runs with other weights than the thread's run before.
    pub switches: u64,
    /// Runs whose result had not the bits of its first.
    pub differing: u64,
    /// The farthest that a result was from its first.
    pub difference: f64,
    /// The first few that happened.
    pub errors: Vec<String>,
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
    pub memory: Option<MemoryOverTime>,
    /// The fewest open files in the second third of the time, and in the last: some are opened for a moment.
    pub descriptors: Option<[usize; 2]>,
    pub passed: bool,
}

/// Anonymous resident memory.
#[derive(Serialize)]
pub struct MemoryOverTime {
    pub first_bytes: u64,
    pub last_bytes: u64,
    pub peak_bytes: u64,
    /// The growth of memory by least squares over the last two thirds of the time.
    pub slope_bytes_per_minute: f64,
    /// The highest in the second third of the time, and in the last.
    pub second_third_bytes: u64,
    pub last_third_bytes: u64,
    pub flat: bool,
    /// Seconds and bytes.
    #[serde(skip)]
    pub samples: Vec<(f64, u64)>,
}

/// A third of `seconds` each: with weights as they are, packed, and block by block.
pub fn run(setup: &Setup<'_>, seconds: f64) -> Result<Soak> {
    let third = Duration::from_secs_f64(seconds / 3.0);
    let model = setup.family.open(1, 0)?;
    let expressions = expressions(&model)?;
    let budget_bytes = BUDGET * model.weights(&expressions[0])?.get()?.nbytes();
    drop(model);
    let mode = |way| mode(setup, &expressions, budget_bytes, third, way);
    let (plain, packed, blockwise) = (mode(Way::Plain)?, mode(Way::Packed)?, mode(Way::Blockwise)?);
    Ok(Soak {
        threads: THREADS,
        expressions: expressions.len(),
        budget_bytes,
        formats: setup.family.bases().iter().map(|(format, _)| format.clone()).collect(),
        passed: plain.passed && packed.passed && blockwise.passed,
        plain,
        packed,
        blockwise,
    })
}

/// Every task, and sums of up to three.
fn expressions(model: &Arc<Model>) -> Result<Vec<TaskExpr>> {
    let tasks = recoverable(basis_of(model)?)?;
    let mut dice = Dice::new(3);
    let mut all = vec!["base".parse()?, "merged@0.4".parse()?];
    all.extend(tasks.iter().take(EXPRESSIONS / 2).cloned());
    while all.len() < EXPRESSIONS {
        let terms: Vec<String> = (0..=dice.below(3))
            .map(|_| format!("{}@{}", tasks[dice.below(tasks.len())], ["0.3", "0.5", "-0.5", "1.1"][dice.below(4)]))
            .collect();
        all.push(terms.join(" + ").parse()?);
    }
    all.rotate_left(2);
    Ok(all)
}

/// What a run is of: format, expression, number of images, encoder.
type Case = [usize; 4];

/// The state that the threads share.
struct Shared<'a> {
    /// The family with its vectors in each format, all within one budget.
    models: &'a [Arc<Model>],
    /// One for each precision that takes part.
    encoders: &'a [Encoder],
    expressions: &'a [TaskExpr],
    pixels: &'a [f32],
    way: Way,
    first: Mutex<HashMap<Case, Vec<f32>>>,
    stop: AtomicBool,
    runs: AtomicU64,
    switches: AtomicU64,
    differing: AtomicU64,
    /// The bits of an f64 that is not negative, which order as it does.
    difference: AtomicU64,
    errors: Mutex<Vec<String>>,
}

fn mode(setup: &Setup<'_>, expressions: &[TaskExpr], budget: usize, length: Duration, way: Way) -> Result<Mode> {
    let cache = Arc::new(WeightsCache::new(budget));
    let bases = setup.family.bases().iter();
    let models = bases.map(|(_, basis)| setup.family.open_sharing(basis, 1, &cache)).collect::<Result<Vec<_>>>()?;
    let precisions = if way == Way::Packed { &Precision::ALL[..] } else { &[Precision::F32] };
    let encoder = |precision: &Precision| {
        let options = EncoderOptions {
            concurrency: THREADS,
            promotion: Promotion::Off,
            residency: if way == Way::Blockwise { Residency::Blockwise } else { Residency::Whole },
            precision: (*precision).into(),
            ..setup.encoder.clone()
        };
        Encoder::new(&setup.about.arch, &options)
    };
    let encoders = precisions.iter().map(encoder).collect::<Result<Vec<_>>>()?;
    let pixels = setup.pixels(MAX_IMAGES);
    let shared = Shared {
        models: &models,
        encoders: &encoders,
        expressions,
        pixels: &pixels,
        way,
        first: Mutex::default(),
        stop: AtomicBool::new(false),
        runs: AtomicU64::new(0),
        switches: AtomicU64::new(0),
        differing: AtomicU64::new(0),
        difference: AtomicU64::new(0),
        errors: Mutex::default(),
    };
    let began = Instant::now();
    let name = match way {
        Way::Plain => "soak",
        Way::Packed => "soak, packed",
        Way::Blockwise => "soak, block by block",
    };
    let bar = output::progress(length.as_secs() as usize, name);
    let (mut memory, mut descriptors) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let shared = &shared;
        let start = |seed| std::thread::Builder::new().spawn_scoped(scope, move || work(shared, seed as u64));
        if let Err(error) = (0..THREADS).try_for_each(|seed| start(seed).map(drop)) {
            // Those that were started are waited for.
            shared.stop.store(true, Ordering::Relaxed);
            return Err(Error::no_thread(error));
        }
        while began.elapsed() < length {
            std::thread::sleep(Duration::from_millis(50).min(length));
            memory.extend(machine::anonymous_memory().map(|bytes| (began.elapsed().as_secs_f64(), bytes)));
            descriptors.extend(machine::descriptors());
            bar.set_position(began.elapsed().as_secs());
        }
        shared.stop.store(true, Ordering::Relaxed);
        Ok(())
    })?;
    bar.finish_and_clear();

    let stats = cache.stats();
    let descriptors = fewest_of_thirds(&descriptors);
    let memory = over_time(memory, budget / BUDGET);
    let errors = shared.errors.into_inner();
    let (runs, differing) = (shared.runs.into_inner(), shared.differing.into_inner());
    Ok(Mode {
        seconds: began.elapsed().as_secs_f64(),
        passed: runs > 0
            && differing == 0
            && errors.is_empty()
            && memory.as_ref().is_none_or(|memory| memory.flat)
            && descriptors.is_none_or(|[second, last]| last <= second),
        runs,
        switches: shared.switches.into_inner(),
        differing,
        difference: f64::from_bits(shared.difference.into_inner()),
        errors,
        hits: stats.hits,
        misses: stats.misses,
        evictions: stats.evictions,
        memory,
        descriptors,
    })
}

/// The fewest in the second third of the samples, and in the last.
fn fewest_of_thirds(samples: &[usize]) -> Option<[usize; 2]> {
    let third = samples.len() / 3;
    Some([*samples[third..2 * third].iter().min()?, *samples[2 * third..].iter().min()?])
}

fn work(shared: &Shared<'_>, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut last = usize::MAX;
    while !shared.stop.load(Ordering::Relaxed) {
        // Some come more often, so that there are hits too.
        let which = dice.below(shared.expressions.len()).min(dice.below(shared.expressions.len()));
        let format = dice.below(shared.models.len()).min(dice.below(shared.models.len()));
        let images = 1 + dice.below(MAX_IMAGES);
        let encoder = dice.below(shared.encoders.len());
        if let Err(error) = one(shared, [format, which, images, encoder]) {
            let mut errors = shared.errors.lock();
            if errors.len() < 10 {
                errors.push(error.to_string());
            }
        }
        shared.runs.fetch_add(1, Ordering::Relaxed);
        if format * EXPRESSIONS + which != last {
            shared.switches.fetch_add(1, Ordering::Relaxed);
        }
        last = format * EXPRESSIONS + which;
    }
}

fn one(shared: &Shared<'_>, case: Case) -> Result<()> {
    let [format, which, images, encoder] = case;
    let encoder = &shared.encoders[encoder];
    let pixels = &shared.pixels[..images * encoder.arch().pixels()];
    let weights = shared.models[format].weights(&shared.expressions[which])?;
    // Some are wanted ahead, and some of those no more.
    match (which + images) % 4 {
        0 => weights.prefetch()?,
        1 => {
            weights.prefetch()?;
            weights.cancel_prefetch();
        }
        _ => {}
    }
    let embeds = match shared.way {
        Way::Plain => encoder.encode(&weights.get()?, pixels, images)?,
        Way::Packed | Way::Blockwise => encoder.encode_task(&weights, pixels, images)?,
    };
    let mut first = shared.first.lock();
    let Some(expected) = first.get(&case) else {
        first.insert(case, embeds);
        return Ok(());
    };
    if embeds.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()) && embeds.len() == expected.len() {
        return Ok(());
    }
    shared.difference.fetch_max(difference(&embeds, expected).to_bits(), Ordering::Relaxed);
    shared.differing.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// `None` where there is nothing to judge by.
fn over_time(samples: Vec<(f64, u64)>, weights: usize) -> Option<MemoryOverTime> {
    let [(_, first_bytes), _, .., (_, last_bytes)] = samples[..] else { return None };
    // Thirds of the samples: time in which this process was stopped has none.
    let third = samples.len() / 3;
    let highest = |part: &[(f64, u64)]| part.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    let (second, last) = (highest(&samples[third..2 * third]), highest(&samples[2 * third..]));
    let settled: Vec<(f64, f64)> = samples[third..].iter().map(|&(at, bytes)| (at / 60.0, bytes as f64)).collect();
    Some(MemoryOverTime {
        first_bytes,
        last_bytes,
        peak_bytes: highest(&samples),
        slope_bytes_per_minute: line(&settled).slope,
        second_third_bytes: second,
        last_third_bytes: last,
        flat: last as f64 <= second as f64 * (1.0 + GROWTH.0) + GROWTH.1 + weights as f64,
        samples,
    })
}

impl Soak {
    pub fn rows(&self) -> Vec<Vec<String>> {
        let modes = [&self.plain, &self.packed, &self.blockwise];
        let memory =
            |mode: &Mode, of: &dyn Fn(&MemoryOverTime) -> String| mode.memory.as_ref().map_or("unknown".to_owned(), of);
        let row = |name: &str, value: &dyn Fn(&Mode) -> String| {
            std::iter::once(name.to_owned()).chain(modes.map(value)).collect::<Vec<_>>()
        };
        vec![
            vec!["soak".into(), "as they are".into(), "packed".into(), "block by block".into()],
            row("seconds", &|mode| digits(mode.seconds)),
            row("runs", &|mode| output::grouped(mode.runs)),
            row("switches", &|mode| output::grouped(mode.switches)),
            row("results that differ from their first", &|mode| mode.differing.to_string()),
            row("  the farthest", &|mode| format!("{:.1e}", mode.difference)),
            row("errors", &|mode| mode.errors.len().to_string()),
            row("cache: hits, misses, evictions", &|mode| {
                [mode.hits, mode.misses, mode.evictions].map(output::grouped).join(", ")
            }),
            row("memory, first", &|mode| memory(mode, &|memory| output::bytes(memory.first_bytes))),
            row("memory, last", &|mode| memory(mode, &|memory| output::bytes(memory.last_bytes))),
            row("memory, peak", &|mode| memory(mode, &|memory| output::bytes(memory.peak_bytes))),
            row("  slope a minute", &|mode| {
                memory(mode, &|memory| format!("{:+.2} MB", memory.slope_bytes_per_minute / 1e6))
            }),
            row("open files", &|mode| {
                mode.descriptors.map_or("unknown".to_owned(), |[second, last]| format!("{second}, {last}"))
            }),
            row("passed", &|mode| if mode.passed { "yes" } else { "no" }.to_owned()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_grows_is_not_flat() {
        let samples = |grow: u64| (1..=300).map(|i| (i as f64 * 0.1, 100_000_000 + i * grow)).collect();
        assert!(over_time(samples(0), 0).unwrap().flat);
        let grows = over_time(samples(200_000), 1 << 20).unwrap();
        assert!(!grows.flat && (grows.slope_bytes_per_minute / 120e6 - 1.0).abs() < 1e-6);
        assert!(over_time(vec![(0.1, 1), (0.2, 1)], 0).is_none(), "nothing to judge by");
        assert_eq!(fewest_of_thirds(&[9, 3, 4, 5, 7, 5]), Some([4, 5]));
        assert_eq!(fewest_of_thirds(&[9, 3]), None);
    }
}
