//! Bundles at full size: what they take, how long packing and opening take, and what a switch takes from them and from
//! the folder, page cache warm and dropped.
//!
//! `cargo bench --bench bundle [-- MODEL T M FOLDER]`; ViT-B-32, 20 and 10 in a temporary folder where nothing is said
//! (some 6 GB). Values are random: sizes and times are real, errors are not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use taskbasis::synthetic::Synthetic;
use taskbasis::{
    ArchHints, BaseFormat, Basis, Bundle, Checkpoint, Packer, ReconstructOptions, Result, TaskExpr, VectorFormat,
    Weights,
};

fn main() {
    // Cargo's test runner starts benches too, to see that they work: that would write gigabytes.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if arguments.iter().any(|a| a == "--test") || cfg!(debug_assertions) {
        println!("skipped: run it with `cargo bench --bench bundle`");
        return;
    }
    let number = |i: usize, default| arguments.get(i).and_then(|text| text.parse().ok()).unwrap_or(default);
    let model = arguments.first().map_or("ViT-B-32", String::as_str);
    let temporary = tempfile::tempdir();
    let folder = match (arguments.get(3), &temporary) {
        (Some(folder), _) => Path::new(folder),
        (None, Ok(temporary)) => temporary.path(),
        (None, Err(error)) => return println!("error: no temporary folder: {error}"),
    };
    if let Err(error) = measure(folder, model, number(1, 20), number(2, 10)) {
        println!("error: {error}");
    }
}

fn measure(folder: &Path, model: &str, tasks: usize, vectors: usize) -> Result<()> {
    let family = Synthetic::named(model, tasks, vectors)?;
    let base_path = folder.join(format!("{model}.pt"));
    let basis_path = folder.join(format!("{model}_AE_M{vectors}_{tasks}task"));
    if !base_path.is_file() {
        family.write_base(&base_path)?;
    }
    if !basis_path.join("method_info.json").is_file() {
        family.write_basis(&basis_path)?;
    }
    let (base, basis) = (Checkpoint::open(&base_path)?, Basis::open(&basis_path)?);
    let task_vectors = (tasks * family.parameter_count() * 4) as f64;
    let gb = |bytes: u64| format!("{:.3} GB", bytes as f64 / 1e9);
    println!(
        "{model}, T = {tasks}, M = {vectors}: {:.2} GB of task vectors in f32, {} of basis folder, {} of checkpoint",
        task_vectors / 1e9,
        gb(basis.file_bytes()),
        gb(base.file_bytes())
    );
    let packer = Packer::new(&base, &basis, ArchHints::default())?;
    let mut bundles: Vec<(VectorFormat, PathBuf)> = Vec::new();
    for name in ["q8", "q4", "q3", "q2"] {
        let format: VectorFormat = name.parse()?;
        let path = folder.join(format!("{model}_M{vectors}_T{tasks}_{name}.taskbasis"));
        let began = Instant::now();
        let mut packer_of_base = Packer::new(&base, &basis, ArchHints::default())?;
        packer_of_base.base_format(BaseFormat::F16);
        let report = packer_of_base.write(&path, &packer.uniform(format), &[], &|_| {})?;
        println!(
            "{name}: {} with an f16 base, {} of vectors; {:.1} x less than the task vectors; packed in {:.1} s",
            gb(report.bytes),
            gb(report.vector_bytes),
            task_vectors / report.bytes as f64,
            began.elapsed().as_secs_f64()
        );
        bundles.push((format, path));
    }

    let mut opening = Vec::new();
    for _ in 0..20 {
        opening.push(seconds(|| Bundle::open(&bundles[1].1).map(drop))?);
    }
    println!("open the q4 bundle: {:.2} ms (median of 20)", 1e3 * median(&mut opening));

    let expr = TaskExpr::task("Task1");
    let opened = bundles.iter().map(|(_, path)| Bundle::open(path)?.basis()).collect::<Result<Vec<_>>>()?;
    let own = bundles.iter().map(|(_, path)| Bundle::open(path)?.base_or(None)).collect::<Result<Vec<_>>>()?;
    let mut all = vec![("folder, f32".to_owned(), &basis, &base)];
    all.extend(bundles.iter().zip(opened.iter().zip(&own)).map(|((f, _), (basis, base))| (f.to_string(), basis, base)));
    for threads in [1, 2] {
        let options = ReconstructOptions { threads, ..ReconstructOptions::default() };
        let mut times = vec![Vec::new(); all.len()];
        for round in 0..8 {
            for (times, (_, basis, base)) in times.iter_mut().zip(&all) {
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
    drop(all);
    drop((opened, own));

    // Nothing may have the files mapped, or their pages stay.
    drop(packer);
    drop((basis, base));
    let mut cold = Vec::new();
    let vectors_file = basis_path.join("basis_vectors.pt");
    for _ in 0..3 {
        forget(&vectors_file);
        forget(&base_path);
        cold.push(seconds(|| {
            let (base, basis) = (Checkpoint::open(&base_path)?, Basis::open(&basis_path)?);
            Weights::reconstruct(&base, &basis, &expr, &ReconstructOptions::default()).map(drop)
        })?);
    }
    let folder_time = median(&mut cold);
    println!("cold, folder, f32: {:.0} ms with opening", 1e3 * folder_time);
    for (format, path) in &bundles {
        let mut cold = Vec::new();
        for _ in 0..3 {
            forget(path);
            cold.push(seconds(|| {
                let bundle = Bundle::open(path)?;
                let (base, basis) = (bundle.base_or(None)?, bundle.basis()?);
                Weights::reconstruct(&base, &basis, &expr, &ReconstructOptions::default()).map(drop)
            })?);
        }
        let time = median(&mut cold);
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
