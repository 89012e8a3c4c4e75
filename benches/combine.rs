//! The combine kernel beside two yardsticks: a copy past the caches, and a loop without any refinement.
//!
//! `cargo bench --bench combine`; a third of ViT-B-32's image tower by default, all of it with
//! `TASKBASIS_BENCH_PARAMETERS=88000000`; `TASKBASIS_BENCH_ROUNDS` (9) for how often. The variants take turns within
//! one process and the medians are compared, because what else the machine does changes from second to second, and
//! that is why this is not left to criterion, which measures one variant after the other.
//!
//! Bytes are those that the task must read and write once: base, terms and output. Without `--bench` (as `cargo test`
//! calls it) everything runs once on little data and only the results are compared.
#![allow(clippy::print_stdout, missing_docs)]

use std::sync::Arc;
use std::time::Instant;

use half::{bf16, f16};
use taskbasis::kernel::{Kernel, Segment, combine};
use taskbasis::{DType, Mapping, Source, Tensor};

/// A transformer block's tensors, again and again.
const LENGTHS: [usize; 8] = [768, 2304 * 768, 2304, 768 * 768, 3072 * 768, 3072, 768 * 3072, 768];

fn main() {
    let measure = std::env::args().any(|argument| argument == "--bench");
    let (parameters, rounds) = if measure {
        (setting("TASKBASIS_BENCH_PARAMETERS", 29_300_000), setting("TASKBASIS_BENCH_ROUNDS", 9).max(1))
    } else {
        (200_000, 1)
    };
    let mut lengths = Vec::new();
    while lengths.iter().sum::<usize>() < parameters {
        let left = parameters - lengths.iter().sum::<usize>();
        lengths.push(LENGTHS[lengths.len() % LENGTHS.len()].min(left));
    }
    println!("{parameters} parameters in {} tensors, {rounds} rounds, medians", lengths.len());
    println!(
        "{:<24} {:>9} {:>9} {:>8} {:>8}   (ratios: GB/s over the copy's, time over the plain loop's)",
        "", "ms", "GB/s", "/copy", "/plain"
    );

    let base = data(DType::F32, parameters, 1);
    let mut out = vec![0.0f32; parameters];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let terms: Vec<_> = (0..10).map(|m| data(dtype, parameters, 2 + m)).collect();
        for m in [1, 4, 10] {
            for threads in [1, 2] {
                compare(&base, &terms[..m], &lengths, &mut out, threads, rounds);
            }
        }
    }
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Values of the size of task vectors.
fn data(dtype: DType, count: usize, seed: u32) -> Tensor {
    let mut bytes = Vec::with_capacity(count * dtype.size());
    let mut state = seed;
    for _ in 0..count {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = (state >> 8) as f32 / 16_777_216.0 * 0.02 - 0.01;
        match dtype {
            DType::F16 => bytes.extend_from_slice(&f16::from_f32(value).to_le_bytes()),
            DType::BF16 => bytes.extend_from_slice(&bf16::from_f32(value).to_le_bytes()),
            _ => bytes.extend_from_slice(&value.to_le_bytes()),
        }
    }
    let length = bytes.len();
    Tensor::contiguous(&Arc::new(Mapping::from_vec(bytes, "bench")), 0..length, dtype, &[count]).unwrap()
}

/// Reads what the caches have no room for, so that no variant pays for the lines that the one before it left dirty.
fn settle(base: &Tensor) {
    let bytes = base.bytes().unwrap();
    std::hint::black_box(bytes.iter().take(96 << 20).step_by(64).fold(0u8, |any, &byte| any | byte));
}

/// One way to do it; gets the output and leaves the result there.
type Variant<'a> = (String, Box<dyn FnMut(&mut [f32]) + 'a>);

fn compare(base: &Tensor, terms: &[Tensor], lengths: &[usize], out: &mut [f32], threads: usize, rounds: usize) {
    let dtype = terms[0].dtype();
    let coefficients: Vec<f32> = (0..terms.len()).map(|m| 0.3 - 0.05 * m as f32).collect();
    let parts = |tensor: &Tensor| -> Vec<Tensor> {
        let starts = lengths.iter().scan(0, |at, length| Some(std::mem::replace(at, *at + length)));
        starts.zip(lengths).map(|(start, length)| tensor.rows(start..start + length).unwrap()).collect()
    };
    let base_parts = parts(base);
    let term_parts: Vec<Vec<_>> =
        terms.iter().map(|term| parts(term).into_iter().map(Source::from).collect()).collect();

    let mut variants: Vec<Variant<'_>> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2") {
        variants.push((
            "copy".into(),
            Box::new(|out| {
                plain::spread(threads, out, |start, out| plain::copy(&base.bytes().unwrap()[start * 4..], out))
            }),
        ));
        for stream in [true, false] {
            let (terms, coefficients) = (&terms, &coefficients);
            let bytes: Vec<_> = terms.iter().map(|term| term.bytes().unwrap()).collect();
            variants.push((
                if stream { "plain loop".into() } else { "plain loop, cached".into() },
                Box::new(move |out| {
                    plain::spread(threads, out, |start, out| {
                        plain::combine(dtype, coefficients, base.bytes().unwrap(), &bytes, start, out, stream);
                    });
                }),
            ));
        }
    }
    for &kernel in Kernel::available().iter().filter(|&&kernel| kernel != Kernel::Scalar) {
        let (base_parts, term_parts, coefficients) = (&base_parts, &term_parts, &coefficients);
        variants.push((
            format!("taskbasis {kernel}"),
            Box::new(move |out| {
                let mut rest = out;
                let mut segments = Vec::new();
                for (i, base) in base_parts.iter().enumerate() {
                    let (out, more) = rest.split_at_mut(base.numel());
                    rest = more;
                    let terms = term_parts.iter().map(|parts| &parts[i]).collect();
                    segments.push(Segment { name: "bench", base: Some(base), terms, out });
                }
                combine(kernel, threads, coefficients, segments).unwrap();
            }),
        ));
    }

    let mut times = vec![Vec::new(); variants.len()];
    let mut sums = vec![0u64; variants.len()];
    for round in 0..=rounds {
        for (v, (_, run)) in variants.iter_mut().enumerate() {
            settle(base);
            let start = Instant::now();
            run(out);
            let seconds = start.elapsed().as_secs_f64();
            // The first round warms up, and is where the results are compared.
            if round == 0 {
                sums[v] = out.iter().fold(0u64, |sum, v| sum.rotate_left(5) ^ u64::from(v.to_bits()));
            } else {
                times[v].push(seconds);
            }
        }
    }
    println!("\n{dtype}, M = {}, {threads} thread(s)", terms.len());
    let bytes = (base.nbytes() + terms.iter().map(Tensor::nbytes).sum::<usize>() + size_of_val(out)) as f64;
    let (mut copy_rate, mut plain_time) = (None, None);
    let reference = variants.iter().position(|(name, _)| name != "copy").unwrap_or(0);
    for (v, (name, _)) in variants.iter().enumerate() {
        let is_copy = name == "copy";
        assert!(is_copy || sums[v] == sums[reference], "{name} gives other bits");
        times[v].sort_by(f64::total_cmp);
        let median = times[v][times[v].len() / 2];
        let moved = if is_copy { 2.0 * base.nbytes() as f64 } else { bytes };
        let rate = moved / median / 1e9;
        if is_copy {
            copy_rate = Some(rate);
        } else if name == "plain loop" {
            plain_time = Some(median);
        }
        let ratio = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
        println!(
            "{name:<24} {:>9.2} {rate:>9.1} {:>8} {:>8}",
            median * 1e3,
            ratio(copy_rate.map(|copy| rate / copy)),
            ratio(plain_time.filter(|_| !is_copy).map(|plain| median / plain)),
        );
    }
}

/// The yardsticks.
#[cfg(target_arch = "x86_64")]
mod plain {
    use std::arch::x86_64::*;
    use taskbasis::DType;

    /// Splits the output evenly between threads.
    pub(crate) fn spread(threads: usize, out: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync) {
        let length = out.len().div_ceil(threads).next_multiple_of(64).max(64);
        std::thread::scope(|scope| {
            let mut parts = out.chunks_mut(length).enumerate();
            let first = parts.next();
            for (i, part) in parts {
                let work = &work;
                scope.spawn(move || work(i * length, part));
            }
            if let Some((_, part)) = first {
                work(0, part);
            }
        });
    }

    /// How many elements come before the first that is aligned to a vector.
    fn head(out: &[f32]) -> usize {
        out.as_ptr().align_offset(64).min(out.len())
    }

    /// A copy with non-temporal stores.
    pub(crate) fn copy(from: &[u8], out: &mut [f32]) {
        assert!(from.len() >= size_of_val(out));
        // SAFETY: the caller found AVX-512; both have the length.
        unsafe { copy_avx512(from.as_ptr(), out) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn copy_avx512(from: *const u8, out: &mut [f32]) {
        let (head, count) = (head(out), out.len());
        let (from, to) = (from.cast::<f32>(), out.as_mut_ptr());
        // SAFETY: every index is below `count`, and streaming begins at the first aligned element.
        unsafe {
            let mut i = head;
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast::<u8>(), head * 4);
            while i + 16 <= count {
                _mm512_stream_ps(to.add(i), _mm512_loadu_ps(from.add(i)));
                i += 16;
            }
            std::ptr::copy_nonoverlapping(from.add(i).cast::<u8>(), to.add(i).cast::<u8>(), (count - i) * 4);
            _mm_sfence();
        }
    }

    /// For every sixteen elements: all terms, the base, a store.
    pub(crate) fn combine(
        dtype: DType,
        coefficients: &[f32],
        base: &[u8],
        terms: &[&[u8]],
        start: usize,
        out: &mut [f32],
        stream: bool,
    ) {
        let end = start + out.len();
        assert!(base.len() >= end * 4 && terms.iter().all(|term| term.len() >= end * dtype.size()));
        // SAFETY: the caller found AVX-512 and AVX2; the lengths were just checked.
        unsafe {
            match (dtype, stream) {
                (DType::F32, true) => combine_avx512::<0, true>(coefficients, base, terms, start, out),
                (DType::F32, false) => combine_avx512::<0, false>(coefficients, base, terms, start, out),
                (DType::F16, true) => combine_avx512::<1, true>(coefficients, base, terms, start, out),
                (DType::F16, false) => combine_avx512::<1, false>(coefficients, base, terms, start, out),
                (_, true) => combine_avx512::<2, true>(coefficients, base, terms, start, out),
                (_, false) => combine_avx512::<2, false>(coefficients, base, terms, start, out),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    unsafe fn combine_avx512<const TYPE: u8, const STREAM: bool>(
        coefficients: &[f32],
        base: &[u8],
        terms: &[&[u8]],
        start: usize,
        out: &mut [f32],
    ) {
        let (head, count) = (head(out), out.len());
        let size = if TYPE == 0 { 4 } else { 2 };
        let to = out.as_mut_ptr();
        let one = |i: usize| {
            let mut sum = 0.0;
            for (a, term) in coefficients.iter().zip(terms) {
                let at = (start + i) * size;
                let half = u16::from_le_bytes([term[at], term[at + 1]]);
                let value = match TYPE {
                    0 => f32::from_le_bytes([term[at], term[at + 1], term[at + 2], term[at + 3]]),
                    1 => half::f16::from_bits(half).to_f32(),
                    _ => half::bf16::from_bits(half).to_f32(),
                };
                sum = f32::mul_add(*a, value, sum);
            }
            let at = (start + i) * 4;
            f32::from_le_bytes([base[at], base[at + 1], base[at + 2], base[at + 3]]) + sum
        };
        // SAFETY: every index is below `count`, up to which all slices reach; streaming begins at the first aligned
        // element.
        unsafe {
            (0..head).for_each(|i| to.add(i).write(one(i)));
            let mut i = head;
            while i + 16 <= count {
                let mut sum = _mm512_setzero_ps();
                for (a, term) in coefficients.iter().zip(terms) {
                    let from = term.as_ptr().add((start + i) * size);
                    let value = match TYPE {
                        0 => _mm512_loadu_ps(from.cast()),
                        1 => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
                        _ => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(
                            from.cast(),
                        )))),
                    };
                    sum = _mm512_fmadd_ps(_mm512_set1_ps(*a), value, sum);
                }
                let value = _mm512_add_ps(_mm512_loadu_ps(base.as_ptr().add((start + i) * 4).cast()), sum);
                if STREAM {
                    _mm512_stream_ps(to.add(i), value);
                } else {
                    _mm512_storeu_ps(to.add(i), value);
                }
                i += 16;
            }
            (i..count).for_each(|i| to.add(i).write(one(i)));
            _mm_sfence();
        }
    }
}
