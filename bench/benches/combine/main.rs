//! The combine kernel beside what the memory can do.
//!
//! `cargo bench --bench combine` prints, for M = 1, 4 and 10 vectors and one and two threads, milliseconds, GB/s and
//! ratios for every format of the vectors. Settings, all in the environment:
//! - `TASKBASIS_BENCH_PARAMETERS` (29300000, a third of ViT-B-32's image tower; 87849216 is all of it),
//! - `TASKBASIS_BENCH_VECTORS` (`1,4,10`), `TASKBASIS_BENCH_FORMATS` (`f32,f16,bf16,q8,q6,q4,q3,q2`),
//! - `TASKBASIS_BENCH_PAGES`: `mapped` (a file's, as vectors are; the default) or `own` (the process's, 4 KiB),
//! - `TASKBASIS_BENCH_ROUNDS` (9), `TASKBASIS_KERNEL`.
//!
//! Formats and yardsticks take turns within one process and medians are compared, because what else the machine does
//! changes from second to second; that is why this is not left to criterion, which measures one after the other.
//!
//! Bytes are those that must move once: base and vectors read, the result written. The yardsticks move as many:
//! - *copy*: half of the bytes read, half written, the best of three ways; sources on the pages that base and vectors
//!   are on, destinations on the pages that results are on (huge ones, where the system gives them);
//! - *read*: base and vectors read, nothing written, one after the other or four places at a time, the better way.
//!
//! Without `--bench` (as `cargo test` calls it) everything runs once on little data and only the results are compared.
#![allow(clippy::print_stdout, missing_docs)]

mod yardstick;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use half::{bf16, f16};
use taskbasis::kernel::{self, Kernel, Output, TensorJob, combine};
use taskbasis::mmap::Anonymous;
use taskbasis::{BlockFormat, Blocks, DType, MapMode, Mapping, Rounding, Source, Tensor};

/// A transformer block's tensors, again and again.
const LENGTHS: [usize; 8] = [768, 2304 * 768, 2304, 768 * 768, 3072 * 768, 3072, 768 * 3072, 768];

/// The values of a vector repeat after this many.
const PERIOD: usize = 1 << 18;

fn main() {
    let measure = std::env::args().any(|argument| argument == "--bench");
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or(default.into());
    let number = |name: &str, default: &str| setting(name, default).parse::<usize>().expect(name);
    let (parameters, rounds) = if measure {
        (number("TASKBASIS_BENCH_PARAMETERS", "29300000"), number("TASKBASIS_BENCH_ROUNDS", "9").max(1))
    } else {
        (200_000, 1)
    };
    let formats = setting("TASKBASIS_BENCH_FORMATS", "f32,f16,bf16,q8,q6,q4,q3,q2");
    let formats: Vec<&str> = formats.split(',').collect();
    let vectors = setting("TASKBASIS_BENCH_VECTORS", "1,4,10");
    let vectors: Vec<usize> = vectors.split(',').map(|m| m.parse().expect("numbers of vectors")).collect();
    let mapped = setting("TASKBASIS_BENCH_PAGES", "mapped") == "mapped";

    let folder = tempfile::tempdir().expect("a temporary folder");
    let make = |format: &str, seed| source(format, parameters, seed, mapped.then_some(folder.path()));
    let Source::Dense(base) = make("f32", 0) else { unreachable!("f32 is dense") };
    let most = vectors.iter().copied().max().unwrap_or(1);
    let sources: Vec<Vec<Source>> =
        formats.iter().map(|format| (0..most).map(|m| make(format, m as u32 + 1)).collect()).collect();
    let mut out = Anonymous::new(parameters).expect("memory");
    if !measure {
        let kernels = Kernel::available();
        for (format, sources) in formats.iter().zip(&sources) {
            let sums: Vec<u64> =
                kernels.iter().map(|&kernel| run(kernel, 2, &base, &sources[..4], out.as_f32_mut())).collect();
            assert!(sums.iter().all(|&sum| sum == sums[0]), "{format}: not all kernels give the same bits");
        }
        return;
    }
    println!(
        "{parameters} parameters in {} tensors ({} pages), {} kernel, {rounds} rounds, medians",
        lengths(parameters).len(),
        if mapped { "a file's" } else { "the process's own" },
        kernel::active().expect("a kernel")
    );
    let kernel = kernel::active().expect("a kernel");
    for m in vectors {
        for threads in [1, 2] {
            let sources: Vec<_> = formats.iter().copied().zip(sources.iter().map(|all| &all[..m])).collect();
            compare(kernel, threads, rounds, &base, &sources, out.as_f32_mut());
        }
    }
}

fn lengths(parameters: usize) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut left = parameters;
    while left > 0 {
        lengths.push(LENGTHS[lengths.len() % LENGTHS.len()].min(left));
        left -= lengths[lengths.len() - 1];
    }
    lengths
}

/// Values of the size of task vectors, over and over; in a file of `folder`, or in memory.
fn source(format: &str, parameters: usize, seed: u32, folder: Option<&Path>) -> Source {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let values: Vec<f32> = (0..PERIOD)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0 * 0.02 - 0.01
        })
        .collect();
    let blocks: Option<BlockFormat> = format.parse().ok();
    let dtype = match format {
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        _ => DType::F32,
    };
    let period: Vec<u8> = match (blocks, dtype) {
        (Some(format), _) => format.quantize(&values, Rounding::Nearest).expect("finite values"),
        (None, DType::F16) => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        (None, DType::BF16) => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        (None, _) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let length = blocks.map_or(parameters * dtype.size(), |format| format.bytes(parameters).expect("a size"));
    let mapping = match folder {
        Some(folder) => {
            let path = folder.join(format!("{format}-{seed}"));
            let mut file = std::fs::File::create(&path).expect("a file");
            for at in (0..length).step_by(period.len()) {
                file.write_all(&period[..period.len().min(length - at)]).expect("room on the disk");
            }
            Mapping::open(&path, MapMode::Map).expect("a mapping")
        }
        None => Mapping::from_vec(period.iter().copied().cycle().take(length).collect(), "bench"),
    };
    let mapping = Arc::new(mapping);
    match blocks {
        Some(format) => Blocks::new(&mapping, 0..length, format, &[parameters]).expect("blocks").into(),
        None => Tensor::contiguous(&mapping, 0..length, dtype, &[parameters]).expect("a tensor").into(),
    }
}

/// The tensors one after another; blocks are cut where they begin, as they would be stored tensor by tensor.
fn parts(source: &Source, lengths: &[usize]) -> Vec<Source> {
    let starts = lengths.iter().scan(0, |at, length| Some(std::mem::replace(at, *at + length)));
    let part = |(start, &length): (usize, &usize)| match source {
        Source::Dense(tensor) => Source::from(tensor.rows(start..start + length).expect("rows")),
        Source::Blocks(blocks) => {
            let format = blocks.format();
            let start = start / taskbasis::tensor::BLOCK * format.block_bytes();
            let end = start + format.bytes(length).expect("a size");
            Blocks::new(blocks.mapping(), start..end, format, &[length]).expect("blocks").into()
        }
        Source::LowRank(_) => unreachable!("made dense or of blocks"),
    };
    starts.zip(lengths).map(part).collect()
}

/// Combines everything; the result's bits, mixed.
fn run(kernel: Kernel, threads: usize, base: &Tensor, sources: &[Source], out: &mut [f32]) -> u64 {
    task(kernel, threads, base, sources)(out);
    out.iter().fold(0u64, |sum, value| sum.rotate_left(5) ^ u64::from(value.to_bits()))
}

fn task<'a>(kernel: Kernel, threads: usize, base: &'a Tensor, sources: &[Source]) -> Task<'a> {
    let lengths = lengths(base.numel());
    let coefficients: Vec<f32> = (0..sources.len()).map(|m| 0.3 - 0.05 * m as f32).collect();
    let base_parts = parts(&Source::from(base.clone()), &lengths);
    let term_parts: Vec<Vec<Source>> = sources.iter().map(|source| parts(source, &lengths)).collect();
    Box::new(move |out| {
        let mut rest = out;
        let mut jobs = Vec::new();
        for (i, base) in base_parts.iter().enumerate() {
            let (out, more) = rest.split_at_mut(base.numel());
            rest = more;
            let Source::Dense(base) = base else { unreachable!("made dense") };
            let terms = term_parts.iter().map(|parts| &parts[i]).collect();
            let (coefficients, outputs) = (&coefficients[..], vec![Output::whole(out)]);
            jobs.push(TensorJob { name: "bench", base: Some(base), coefficients, terms, outputs });
        }
        combine(kernel, threads, jobs, None).expect("what fits together");
    })
}

/// One way to do it; gets the output and leaves the result there.
type Task<'a> = Box<dyn FnMut(&mut [f32]) + 'a>;

fn compare(
    kernel: Kernel,
    threads: usize,
    rounds: usize,
    base: &Tensor,
    sources: &[(&str, &[Source])],
    out: &mut [f32],
) {
    let m = sources[0].1.len();
    // The yardsticks read what the first format reads.
    let all: Vec<&[u8]> = std::iter::once(base.bytes().expect("contiguous"))
        .chain(sources[0].1.iter().map(|source| match source {
            Source::Dense(tensor) => tensor.bytes().expect("contiguous"),
            Source::Blocks(blocks) => blocks.bytes(),
            Source::LowRank(_) => unreachable!("made dense or of blocks"),
        }))
        .collect();
    let read = all.iter().map(|bytes| bytes.len()).sum::<usize>() as f64;
    let moved = read + size_of_val(out) as f64;
    let copies = yardstick::Copies::new(&all, moved as usize / 2);
    let copied = copies.bytes() as f64 * 2.0;

    let mut tasks: Vec<(String, f64, Task<'_>)> = Vec::new();
    for way in yardstick::COPIES {
        let copies = &copies;
        tasks.push((format!("copy, {}", way.0), copied, Box::new(move |_| copies.run(threads, way.1))));
    }
    for way in yardstick::READS {
        let all = &all;
        tasks.push((format!("read, {}", way.0), read, Box::new(move |_| yardstick::read(all, threads, way.1))));
    }
    let yardsticks = tasks.len();
    for &(format, sources) in sources {
        let read: usize = sources.iter().map(Source::nbytes).sum::<usize>() + base.nbytes();
        let moved = (read + size_of_val(out)) as f64;
        tasks.push((format.into(), moved, task(kernel, threads, base, sources)));
    }

    let mut times = vec![Vec::new(); tasks.len()];
    for round in 0..=rounds {
        for (times, (_, _, run)) in times.iter_mut().zip(&mut tasks) {
            yardstick::settle(base.bytes().expect("contiguous"));
            let start = Instant::now();
            run(out);
            // The first round warms up.
            if round > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    let medians: Vec<f64> = times
        .iter_mut()
        .map(|times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
        .collect();
    let rate = |i: usize| tasks[i].1 / medians[i] / 1e9;
    let best = |kind: &str| (0..yardsticks).filter(|&i| tasks[i].0.starts_with(kind)).map(rate).fold(0.0f64, f64::max);
    let (copy, read) = (best("copy"), best("read"));
    let f32_time = sources.iter().position(|(format, _)| *format == "f32").map(|i| medians[yardsticks + i]);
    println!("\nM = {m}, {threads} thread(s){:>15} {:>7} {:>7} {:>7} {:>7}", "ms", "GB/s", "/copy", "/read", "/f32");
    for (i, (name, moved, _)) in tasks.iter().enumerate() {
        print!("  {name:<28} {:>8.2} {:>7.1} {:>7.2}", medians[i] * 1e3, rate(i), rate(i) / copy);
        if i >= yardsticks {
            // As time: that of reading what it reads, over its own.
            print!(" {:>7.2}", (moved - size_of_val(out) as f64) / (read * 1e9) / medians[i]);
            if let Some(f32_time) = f32_time {
                print!(" {:>7.2}", medians[i] / f32_time);
            }
        }
        println!();
    }
}
