//! The growth of time: with the number of vectors, with the number of parameters, with threads, with the number of
//! tasks.

use std::path::Path;

use serde::Serialize;
use taskbasis::{Activation, Arch, DType, Method, Result, TaskExpr};

use super::family::{Family, InTurn, basis_of};
use super::machine;
use super::samples::{Line, Samples, Variant, digits, line, repeat, take_turns};
use super::synthetic::Synthetic;

#[derive(Serialize)]
pub struct Growth {
    /// Reconstruction by M, of one family.
    pub vectors: Series,
    /// Reconstruction by parameters, at M = 4.
    pub parameters: Series,
    /// Reconstruction by threads, and by the processors that they may use.
    pub threads: Vec<Threads>,
    /// Times that depend on T and M alone.
    pub tasks: Vec<Tasks>,
}

/// Times that ought to lie on a line.
#[derive(Serialize)]
pub struct Series {
    pub points: Vec<Point>,
    /// The line by least squares: milliseconds at 0, and more for each one more.
    pub line: Line,
    /// The largest distance of a median from the line, over the line's value.
    pub farthest: f64,
}

#[derive(Serialize)]
pub struct Point {
    pub x: f64,
    pub ms: Samples,
}

#[derive(Serialize)]
pub struct Threads {
    pub threads: usize,
    pub processors: usize,
    pub ms: Samples,
}

#[derive(Serialize)]
pub struct Tasks {
    pub tasks: usize,
    pub vectors: usize,
    /// Base and basis as published, page cache warm.
    pub open_ms: Samples,
    /// Base and basis packed into one bundle, page cache warm.
    pub open_bundle_ms: Samples,
    /// One task, from text to coefficients.
    pub task_ms: Samples,
    /// Every task in one sum, from text to coefficients.
    pub all_named_ms: Samples,
    /// `all@0.3`.
    pub all_ms: Samples,
    /// A task in the cache, beside a thousand others: from its expression to its weights.
    pub cached_ms: Samples,
    pub cached_entries: usize,
}

/// ViT-B-32 but for its depth, the image tower alone.
fn tower(layers: usize, tasks: usize, vectors: usize) -> Result<Synthetic> {
    let family = Synthetic::named("ViT-B-32", tasks, vectors)?;
    Ok(Synthetic { arch: Arch { layers, ..family.arch.clone() }, text: Vec::new(), ..family })
}

pub fn measure(threads: usize, quick: bool, keep: Option<&Path>) -> Result<Growth> {
    let make = |family: &Synthetic, name: &str| Family::synthetic(family, name, keep);
    let rounds = if quick { 3 } else { 15 };
    let (few, many) = if quick { (1, 4) } else { (2, 12) };
    let family = make(&tower(few, many, many)?, &format!("ViT-B-32-layers-{few}"))?;
    let vectors = by_vectors(&family, threads, rounds)?;
    let threads_series = by_threads(&family, rounds)?;
    drop(family);

    let depths: &[usize] = if quick { &[1, 2] } else { &[1, 2, 4, 8] };
    let towers = depths
        .iter()
        .map(|&layers| {
            let wanted = tower(layers, 4, 4)?;
            Ok((wanted.arch.parameter_count(), make(&wanted, &format!("ViT-B-32-layers-{layers}"))?))
        })
        .collect::<Result<Vec<_>>>()?;
    let parameters = by_parameters(&towers, threads, rounds)?;
    drop(towers);

    let counts: &[usize] = if quick { &[10, 100] } else { &[10, 100, 300, 1000] };
    let tasks = counts.iter().map(|&tasks| by_tasks(tasks, keep, quick)).collect::<Result<_>>()?;
    Ok(Growth { vectors, parameters, threads: threads_series, tasks })
}

fn by_vectors(family: &Family, threads: usize, rounds: usize) -> Result<Series> {
    let model = family.open(threads, family.weights_bytes()?)?;
    let mut counts: Vec<usize> = (1..=basis_of(&model)?.vectors()).collect();
    counts.retain(|&m| m <= 6 || m % 2 == 0);
    let mut variants: Vec<Variant<'_>> = Vec::new();
    for &m in &counts {
        let mut in_turn = InTurn::new(&model, m, None)?;
        variants.push(Box::new(move || in_turn.reconstruct()));
    }
    Ok(series(counts.iter().map(|&m| m as f64).collect(), take_turns(rounds, &mut variants)?))
}

fn by_parameters(towers: &[(usize, Family)], threads: usize, rounds: usize) -> Result<Series> {
    let mut variants: Vec<Variant<'_>> = Vec::new();
    for (_, family) in towers {
        variants.push(all_vectors(family, threads)?);
    }
    let millions = towers.iter().map(|(parameters, _)| *parameters as f64 / 1e6).collect();
    Ok(series(millions, take_turns(rounds, &mut variants)?))
}

fn all_vectors(family: &Family, threads: usize) -> Result<Variant<'static>> {
    let model = family.open(threads, family.weights_bytes()?)?;
    let mut in_turn = InTurn::new(&model, basis_of(&model)?.vectors(), None)?;
    Ok(Box::new(move || in_turn.reconstruct()))
}

/// One and two threads and one per processor, with all processors and pinned to one.
fn by_threads(family: &Family, rounds: usize) -> Result<Vec<Threads>> {
    let mut wanted = vec![1, 2, machine::processors()];
    wanted.sort_unstable();
    wanted.dedup();
    let mut cases = Vec::new();
    for processors in [machine::processors(), 1] {
        let measured = machine::pinned(processors, || -> Result<Vec<Samples>> {
            let mut variants: Vec<Variant<'_>> = Vec::new();
            for &threads in &wanted {
                variants.push(all_vectors(family, threads)?);
            }
            take_turns(rounds, &mut variants)
        });
        let measured = measured.transpose()?.unwrap_or_default();
        cases.extend(wanted.iter().zip(measured).map(|(&threads, ms)| Threads { threads, processors, ms }));
        if machine::processors() == 1 {
            break;
        }
    }
    Ok(cases)
}

/// A model of some hundred thousand parameters: so small that only the numbers of tasks and vectors count.
pub fn small(tasks: usize, vectors: usize) -> Synthetic {
    let arch = Arch {
        width: 64,
        layers: 2,
        heads: 1,
        mlp_width: 256,
        patch: 8,
        grid: 4,
        embed_dim: 64,
        activation: Activation::QuickGelu,
        variant: taskbasis::Variant::default(),
    };
    Synthetic { arch, text: Vec::new(), method: Method::Autoencoder, tasks, vectors, dtype: DType::F32, seed: 0 }
}

fn by_tasks(tasks: usize, keep: Option<&Path>, quick: bool) -> Result<Tasks> {
    let vectors = tasks.min(100);
    let wanted = small(tasks, vectors);
    let family = Family::synthetic(&wanted, &format!("small-{tasks}"), keep)?;
    let bundle = family.packed("f32".parse()?)?;
    let runs = if quick { 10 } else { 100 };
    let model = family.open(1, usize::MAX)?;
    let names: Vec<String> = (0..tasks).map(|t| TaskExpr::task(format!("Task{t}")).to_string()).collect();
    let (last, sum) = (&names[tasks - 1], names.join(" + "));
    let coefficients = |text: &str| -> Result<_> { model.weights(&text.parse()?) };
    let entries = tasks.min(1000);
    for name in &names[..entries] {
        model.weights(&name.parse()?)?.get()?;
    }
    let expr: TaskExpr = names[entries / 2].parse()?;
    Ok(Tasks {
        tasks,
        vectors,
        open_ms: repeat(runs, || family.open(1, 0))?,
        open_bundle_ms: repeat(runs, || bundle.open(1, 0))?,
        task_ms: repeat(runs, || coefficients(last))?,
        all_named_ms: repeat(runs, || coefficients(&sum))?,
        all_ms: repeat(runs, || coefficients("all@0.3"))?,
        cached_ms: repeat(runs, || model.weights(&expr)?.get())?,
        cached_entries: entries,
    })
}

fn series(x: Vec<f64>, samples: Vec<Samples>) -> Series {
    let points: Vec<Point> = x.into_iter().zip(samples).map(|(x, ms)| Point { x, ms }).collect();
    let medians: Vec<(f64, f64)> = points.iter().map(|point| (point.x, point.ms.median)).collect();
    let line = line(&medians);
    let farthest = medians.iter().map(|(x, y)| (y / line.at(*x) - 1.0).abs()).fold(0.0, f64::max);
    Series { points, line, farthest }
}

impl Growth {
    pub fn tables(&self) -> Vec<Vec<Vec<String>>> {
        let series = |name: &str, unit: &str, series: &Series| {
            let mut rows =
                vec![vec![format!("reconstruct by {name}"), "ms".into(), "half of the runs".into(), "line".into()]];
            rows.extend(series.points.iter().map(|Point { x, ms }| {
                let half = format!("{}–{}", digits(ms.p25), digits(ms.p75));
                vec![
                    if x.fract() == 0.0 { x.to_string() } else { digits(*x) },
                    digits(ms.median),
                    half,
                    digits(series.line.at(*x)),
                ]
            }));
            let Line { intercept, slope, r2 } = series.line;
            let farthest = series.farthest * 100.0;
            let (intercept, slope) = (digits(intercept), digits(slope));
            let line = format!("line: {intercept} + {slope} ms {unit}, R² = {r2:.4}, farthest {farthest:.1} %");
            [rows, vec![vec![line]]]
        };
        let mut threads = vec![["threads", "processors", "ms", "half of the runs"].map(String::from).to_vec()];
        threads.extend(self.threads.iter().map(|case| {
            let half = format!("{}–{}", digits(case.ms.p25), digits(case.ms.p75));
            vec![case.threads.to_string(), case.processors.to_string(), digits(case.ms.median), half]
        }));
        let mut tasks = vec![
            [
                "tasks",
                "vectors",
                "open, ms",
                "a bundle, ms",
                "one task, µs",
                "all named, µs",
                "all@0.3, µs",
                "cached, µs",
            ]
            .map(String::from)
            .to_vec(),
        ];
        tasks.extend(self.tasks.iter().map(|case| {
            let micros = |ms: &Samples| digits(ms.median * 1e3);
            vec![
                case.tasks.to_string(),
                case.vectors.to_string(),
                digits(case.open_ms.median),
                digits(case.open_bundle_ms.median),
                micros(&case.task_ms),
                micros(&case.all_named_ms),
                micros(&case.all_ms),
                micros(&case.cached_ms),
            ]
        }));
        let vectors = series("vectors", "a vector", &self.vectors);
        let parameters = series("millions of parameters", "a million", &self.parameters);
        vectors.into_iter().chain(parameters).chain([threads, tasks]).collect()
    }
}
