//! Reconstruction beside the speed at which this machine copies memory.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::thread::ScopedJoinHandle;

use serde::Serialize;
use taskbasis::{Basis, Checkpoint, Error, ReconstructOptions, Result, Weights};

use super::Setup;
use super::family::{InTurn, basis_of, first_vectors};
use super::grouped::{self, Grouped};
use super::memcpy::MemcpyBaseline;
use super::packed::{self, Packed};
use super::samples::{Samples, Variant, digits, repeat, take_turns, time};

#[derive(Serialize)]
pub struct Reconstruct {
    /// Bytes moved per second over the copy's, of all vectors in the basis's own format, on all threads.
    pub bandwidth_ratio: f64,
    /// The median of the case of `bandwidth_ratio`.
    pub ms: f64,
    /// The lowest ratio of all cases.
    pub lowest_ratio: f64,
    /// All vectors on all threads, by format: the time over that of the basis's own format.
    pub over_own_format: BTreeMap<String, f64>,
    /// The speed of copies on this machine, by threads.
    pub copy: Vec<CopyRate>,
    /// Every format, number of vectors and number of threads.
    pub cases: Vec<Case>,
    /// Weights in the forms that encoders of each precision take, from each format.
    pub packed: Vec<Packed>,
    /// Coefficients by groups of parameters beside plain ones.
    pub grouped: Vec<Grouped>,
    /// All vectors, into memory that is fresh from the operating system.
    pub fresh_ms: Samples,
    /// All vectors, with base and basis opened just before: their pages are in the page cache, and not yet mapped.
    pub first_ms: Samples,
    /// All vectors, nothing in the page cache.
    pub cold: Option<Cold>,
}

#[derive(Serialize)]
pub struct CopyRate {
    pub threads: usize,
    /// The faster of the two.
    pub gb_s: f64,
    pub past_caches_ms: Samples,
    pub memcpy_ms: Samples,
}

#[derive(Serialize)]
pub struct Case {
    pub format: String,
    pub vectors: usize,
    pub threads: usize,
    /// Bytes that must be moved: base and vectors read once, weights written once.
    pub bytes: u64,
    pub ms: Samples,
    pub gb_s: f64,
    /// `gb_s` over the copy's on as many threads.
    pub ratio: f64,
    /// The time that the copy's speed would allow.
    pub limit_ms: f64,
}

#[derive(Serialize)]
pub struct Cold {
    /// Opening and reconstructing.
    pub ms: Samples,
    /// Reading the largest file from its begin to its end, an even part per thread.
    pub storage_gb_s: f64,
    /// Bytes of base and vectors that reconstruction needs, a second.
    pub gb_s: f64,
}

pub fn measure(setup: &Setup<'_>) -> Result<Reconstruct> {
    let cold = cold(setup)?;
    let rounds = if setup.quick { 3 } else { 9 };
    let (mut copy, mut cases) = (Vec::new(), Vec::new());
    for threads in setup.thread_counts() {
        let (rate, more) = with_threads(setup, threads, rounds)?;
        copy.push(rate);
        cases.extend(more);
    }

    let packed = packed::measure(setup, rounds)?;
    let model = setup.family.open(setup.threads, 0)?;
    let (base, basis) = (model.base(), basis_of(&model)?);
    let grouped = grouped::measure(setup, rounds)?;
    let all = first_vectors(basis, basis.vectors(), 0);
    let options = ReconstructOptions { threads: setup.threads, ..ReconstructOptions::default() };
    let fresh_ms = repeat(rounds, || Weights::from_coefficients(base, basis, &all.clone().into(), &options))?;
    let mut first = Vec::new();
    for _ in 0..rounds.min(5) {
        let model = setup.family.open(setup.threads, 0)?;
        let weights = model.weights_from(all.clone())?;
        first.push(time(|| weights.get())?.0);
    }

    let main = cases.iter().rfind(|case| case.format == setup.about.format && case.vectors == setup.about.vectors);
    let whole = cases.iter().filter(|case| (case.vectors, case.threads) == (setup.about.vectors, setup.threads));
    let own = main.map_or(f64::NAN, |case| case.ms.median);
    let over_own_format = whole.map(|case| (case.format.clone(), case.ms.median / own)).collect();
    let lowest_ratio = cases.iter().map(|case| case.ratio).fold(f64::INFINITY, f64::min);
    Ok(Reconstruct {
        bandwidth_ratio: main.map_or(0.0, |case| case.ratio),
        ms: main.map_or(0.0, |case| case.ms.median),
        lowest_ratio,
        over_own_format,
        copy,
        cases,
        packed,
        grouped,
        fresh_ms,
        first_ms: Samples::of(first),
        cold,
    })
}

/// Every format and number of vectors, and the copy, taking turns.
fn with_threads(setup: &Setup<'_>, threads: usize, rounds: usize) -> Result<(CopyRate, Vec<Case>)> {
    let mut copy = MemcpyBaseline::new(setup.about.parameters)?;
    let copied = copy.bytes() as f64;
    let copy = std::cell::RefCell::new(&mut copy);
    let mut variants: Vec<Variant<'_>> = Vec::new();
    for past_caches in [true, false] {
        let copy = &copy;
        variants.push(Box::new(move || time(|| copy.borrow_mut().run(threads, past_caches)).map(|(ms, ())| ms)));
    }
    let mut cases = Vec::new();
    for (format, path) in setup.family.bases() {
        let model = setup.family.open_format(path, threads, setup.about.weights_bytes)?;
        for vectors in setup.vector_counts() {
            cases.push((format.clone(), vectors, bytes_moved(model.base(), basis_of(&model)?, vectors)));
            let mut in_turn = InTurn::new(&model, vectors, None)?;
            variants.push(Box::new(move || in_turn.reconstruct()));
        }
    }
    let mut samples = take_turns(rounds, &mut variants)?.into_iter();
    let (Some(past_caches_ms), Some(memcpy_ms)) = (samples.next(), samples.next()) else {
        return Err(Error::new(taskbasis::ErrorKind::Internal, "the copy was not measured"));
    };
    let rate = |bytes: f64, ms: f64| bytes / ms / 1e6;
    let copy_rate = rate(copied, past_caches_ms.median.min(memcpy_ms.median));
    let cases = cases.into_iter().zip(samples).map(|((format, vectors, bytes), ms)| {
        let gb_s = rate(bytes as f64, ms.median);
        let limit_ms = bytes as f64 / copy_rate / 1e6;
        Case { format, vectors, threads, bytes, ms, gb_s, ratio: gb_s / copy_rate, limit_ms }
    });
    let cases = cases.collect();
    Ok((CopyRate { threads, gb_s: copy_rate, past_caches_ms, memcpy_ms }, cases))
}

/// The bytes that must be moved for `vectors` of them: only parameters of the image tower that change.
pub fn bytes_moved(base: &Checkpoint, basis: &Basis, vectors: usize) -> u64 {
    let changed = base.image_tower().filter_map(|(name, tensor)| {
        let parameter = basis.parameter(name).filter(|parameter| parameter.is_changed())?;
        let read: usize = parameter.sources().iter().take(vectors).map(taskbasis::tensor::Source::nbytes).sum();
        Some(read + tensor.nbytes() + tensor.numel() * size_of::<f32>())
    });
    changed.sum::<usize>() as u64
}

fn cold(setup: &Setup<'_>) -> Result<Option<Cold>> {
    let (mut each, mut rates, mut needed) = (Vec::new(), Vec::new(), 0);
    let files = setup.family.files()?;
    let size = |file: &std::path::PathBuf| std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    let Some(largest) = files.iter().max_by_key(|file| size(file)) else { return Ok(None) };
    for _ in 0..if setup.quick { 1 } else { 3 } {
        if !setup.family.evict()? {
            return Ok(None);
        }
        let (ms, ()) = time(|| read_all(largest, setup.threads))?;
        rates.push(size(largest) as f64 / ms / 1e6);
        setup.family.evict()?;
        let (ms, model) = time(|| {
            let model = setup.family.open(setup.threads, 0)?;
            let all = first_vectors(basis_of(&model)?, setup.about.vectors, 0);
            model.weights_from(all)?.get()?;
            Ok(model)
        })?;
        each.push(ms);
        let basis = basis_of(&model)?;
        needed = bytes_moved(model.base(), basis, basis.vectors()) - setup.about.model_bytes as u64;
    }
    let (ms, rate) = (Samples::of(each), Samples::of(rates).median);
    Ok(Some(Cold { gb_s: needed as f64 / ms.median / 1e6, ms, storage_gb_s: rate }))
}

/// Reads a file from its begin to its end, an even part per thread.
fn read_all(path: &Path, threads: usize) -> Result<()> {
    let failed = |e| Error::io("cannot read", path, e);
    let length = std::fs::metadata(path).map_err(failed)?.len();
    let part = length.div_ceil(threads as u64).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads as u64)
            .map(|thread| {
                let read = move || -> std::io::Result<()> {
                    let mut file = std::fs::File::open(path)?;
                    file.seek(SeekFrom::Start(thread * part))?;
                    let (mut part, mut buffer) = (file.take(part), vec![0; 4 << 20]);
                    while part.read(&mut buffer)? > 0 {}
                    Ok(())
                };
                std::thread::Builder::new().spawn_scoped(scope, read).map_err(Error::no_thread)
            })
            .collect::<Result<_>>()?;
        let join = |part: ScopedJoinHandle<'_, _>| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        parts.into_iter().try_for_each(join).map_err(failed)
    })
}

impl Reconstruct {
    pub fn rows(&self) -> Vec<Vec<String>> {
        let header = ["reconstruct", "threads", "ms", "half of the runs", "GB/s", "of the copy"];
        let mut rows = vec![header.map(String::from).to_vec()];
        let half = |ms: &Samples| format!("{}–{}", digits(ms.p25), digits(ms.p75));
        for CopyRate { threads, gb_s, past_caches_ms, memcpy_ms } in &self.copy {
            for (name, ms) in [("copy past the caches", past_caches_ms), ("memcpy", memcpy_ms)] {
                let best = past_caches_ms.median.min(memcpy_ms.median) / ms.median;
                let rate = digits(gb_s * best);
                rows.push(vec![name.into(), threads.to_string(), digits(ms.median), half(ms), rate, digits(best)]);
            }
        }
        for Case { format, vectors, threads, ms, gb_s, ratio, .. } in &self.cases {
            rows.push(vec![
                format!("{format}, M = {vectors}"),
                threads.to_string(),
                digits(ms.median),
                half(ms),
                digits(*gb_s),
                digits(*ratio),
            ]);
        }
        rows
    }

    pub fn other_rows(&self) -> Vec<[String; 2]> {
        let mut rows = vec![
            ["into fresh memory".into(), self.fresh_ms.text()],
            ["the first after opening".into(), self.first_ms.text()],
        ];
        rows.extend(self.grouped.iter().map(Grouped::row));
        if let Some(Cold { ms, storage_gb_s, gb_s }) = &self.cold {
            let rates = format!(", {} GB/s; storage reads {} GB/s", digits(*gb_s), digits(*storage_gb_s));
            rows.push(["open and reconstruct, not in the page cache".into(), ms.text() + &rates]);
        }
        rows
    }
}
