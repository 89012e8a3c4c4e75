//! Bundles at full size: what they take, how long packing and opening take, and what a switch takes from them and from
//! the folder, page cache warm and dropped.
//!
//! `cargo bench --bench bundle [-- MODEL T M FOLDER FORMATS]`; ViT-B-32, 20, 10, a temporary folder and q8,q4,q3,q2 by
//! default (some 6 GB); what is in FOLDER already is used again. Values are random: sizes and times are real, errors
//! are not.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use support::full_size::{FullSize, pack};
use taskbasis::{Basis, Bundle, Checkpoint, ReconstructOptions, Result, TaskExpr, VectorFormat, Weights};

fn main() {
    let Some(size) = FullSize::of_arguments("cargo bench --bench bundle", [20, 10], "q8,q4,q3,q2") else { return };
    if let Err(error) = measure(&size) {
        println!("error: {error}");
    }
}

fn measure(size: &FullSize) -> Result<()> {
    let files = pack_all(size)?;
    warm(&files)?;
    // Nothing has the files mapped any more, or their pages would stay.
    cold(&files)
}

struct Files {
    base: PathBuf,
    basis: PathBuf,
    bundles: Vec<(VectorFormat, PathBuf)>,
}

fn pack_all(size: &FullSize) -> Result<Files> {
    let (family, base, basis) = size.family()?;
    let mut files = Files { base, basis, bundles: Vec::new() };
    let (base, basis) = (Checkpoint::open(&files.base)?, Basis::open(&files.basis)?);
    let (model, tasks, vectors) = (&size.model, size.tasks, size.vectors);
    let task_vectors = (tasks * family.parameter_count() * 4) as f64;
    let gb = |bytes: u64| format!("{:.3} GB", bytes as f64 / 1e9);
    println!(
        "{model}, T = {tasks}, M = {vectors}: {:.2} GB of task vectors in f32, {} of basis folder, {} of checkpoint",
        task_vectors / 1e9,
        gb(basis.file_bytes()),
        gb(base.file_bytes())
    );
    for name in &size.formats {
        let format: VectorFormat = name.parse()?;
        let path = size.bundle(name);
        if !path.is_file() {
            let began = Instant::now();
            pack(&base, &basis, format, &path)?;
            println!("{name}: packed in {:.1} s", began.elapsed().as_secs_f64());
        }
        let bundle = Bundle::open(&path)?;
        let of_vectors = bundle.sections().iter().filter(|part| part.kind == "vectors").map(|part| part.bytes).sum();
        println!(
            "{name}: {} with an f16 base, {} of vectors; {:.1} x less than the task vectors",
            gb(bundle.file_bytes()),
            gb(of_vectors),
            task_vectors / bundle.file_bytes() as f64
        );
        files.bundles.push((format, path));
    }
    Ok(files)
}

fn warm(files: &Files) -> Result<()> {
    let mut all = vec![("folder, f32".to_owned(), Basis::open(&files.basis)?, Checkpoint::open(&files.base)?)];
    for (format, path) in &files.bundles {
        let mut times = Vec::new();
        for _ in 0..20 {
            times.push(seconds(|| Bundle::open(path).map(drop))?);
        }
        println!("open the {format} bundle: {:.2} ms (median of 20)", 1e3 * median(&mut times));
        let bundle = Bundle::open(path)?;
        all.push((format.to_string(), bundle.basis()?, bundle.base_or(None)?));
    }
    for threads in [1, 2] {
        let options = ReconstructOptions { threads, ..ReconstructOptions::default() };
        let mut times = vec![Vec::new(); all.len()];
        for round in 0..8 {
            for (times, (_, basis, base)) in times.iter_mut().zip(&all) {
                let expr = TaskExpr::task("Task1");
                let time = seconds(|| Weights::reconstruct(base, basis, &expr, &options).map(drop))?;
                // The first brings everything into the page cache.
                times.extend((round > 0).then_some(time));
            }
        }
        let folder_time = median(&mut times[0].clone());
        for (times, (name, ..)) in times.iter_mut().zip(&all) {
            let time = median(times);
            println!("warm, {threads} threads, {name}: {:.1} ms, {:.2} of f32", 1e3 * time, time / folder_time);
        }
    }
    Ok(())
}

fn cold(files: &Files) -> Result<()> {
    let expr = TaskExpr::task("Task1");
    let reconstruct = |base: &Checkpoint, basis: &Basis| {
        Weights::reconstruct(base, basis, &expr, &ReconstructOptions::default()).map(drop)
    };
    let mut times = Vec::new();
    for _ in 0..3 {
        forget(&files.basis.join("basis_vectors.pt"));
        forget(&files.base);
        times.push(seconds(|| reconstruct(&Checkpoint::open(&files.base)?, &Basis::open(&files.basis)?))?);
    }
    let folder_time = median(&mut times);
    println!("cold, folder, f32: {:.0} ms with opening", 1e3 * folder_time);
    for (format, path) in &files.bundles {
        let mut times = Vec::new();
        for _ in 0..3 {
            forget(path);
            times.push(seconds(|| {
                let bundle = Bundle::open(path)?;
                reconstruct(&bundle.base_or(None)?, &bundle.basis()?)
            })?);
        }
        let time = median(&mut times);
        println!("cold, {format}: {:.0} ms with opening, {:.2} of f32", 1e3 * time, time / folder_time);
    }
    Ok(())
}

fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64())
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Drops a file's pages from the page cache.
fn forget(path: &Path) {
    let of = format!("of={}", path.display());
    let done =
        Command::new("dd").args([&of, "oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"]).status();
    if !done.is_ok_and(|status| status.success()) {
        println!("warning: {} may still be in the page cache", path.display());
    }
}
