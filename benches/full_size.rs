//! Full-size folders: opening, inspecting, reconstructing, and the memory of an embedding.
//!
//! `cargo bench --bench full_size [-- FOLDER [MODEL]]` writes synthetic ViT-B-32 (T = 8, M = 4, 1.8 GB) and ViT-L-14
//! (T = 20, M = 4, over 4 GiB) families into FOLDER, or a temporary one, and prints what they take. Page cache warm.

use std::path::Path;
use std::time::Instant;

use taskbasis::synthetic::Synthetic;
use taskbasis::{
    Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, ReconstructOptions, Result, TaskExpr, Weights, kernel,
};

fn main() {
    // Cargo's test runner starts benches too, to see that they work: that would write gigabytes.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if arguments.iter().any(|a| a == "--test") || cfg!(debug_assertions) {
        println!("skipped: run it with `cargo bench --bench full_size`");
        return;
    }
    let temporary = tempfile::tempdir();
    let folder = match (arguments.first(), &temporary) {
        (Some(folder), _) => Path::new(folder),
        (None, Ok(temporary)) => temporary.path(),
        (None, Err(error)) => return println!("error: no temporary folder: {error}"),
    };
    for (model, tasks, vectors) in [("ViT-B-32", 8, 4), ("ViT-L-14", 20, 4)] {
        if arguments.get(1).is_some_and(|only| only != model) {
            continue;
        }
        if let Err(error) = measure(folder, model, tasks, vectors) {
            println!("error: {error}");
        }
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
    let basis = Basis::open(&basis_path)?;
    println!(
        "{model}, T = {tasks}, M = {vectors}: {:.2} GB of vectors, {:.2} GB of base; {} kernel",
        basis.file_bytes() as f64 / 1e9,
        family.parameter_count() as f64 * 4e-9,
        kernel::active()?.name()
    );
    show("open the basis", &times(20, || Basis::open(&basis_path).map(drop))?);
    show(
        "open and count what changes (inspect)",
        &times(5, || Basis::open(&basis_path).map(|basis| assert!(basis.count().changed > 0)))?,
    );
    show("open the base", &times(20, || Checkpoint::open(&base_path).map(drop))?);

    let base = Checkpoint::open(&base_path)?;
    let expr = TaskExpr::task("Task1");
    for threads in [1, 2] {
        let options = ReconstructOptions { threads, ..ReconstructOptions::default() };
        let all = times(7, || Weights::reconstruct(&base, &basis, &expr, &options).map(drop))?;
        show(&format!("reconstruct the image tower, {threads} threads"), &all);
    }
    let before = resident("RssAnon");
    let encoder = Encoder::new(&Arch::of(&base, ArchHints::default())?, &EncoderOptions::default())?;
    let weights = Weights::reconstruct(&base, &basis, &expr, &ReconstructOptions::default())?;
    let size = encoder.arch().image_size();
    encoder.encode(&weights, &vec![0.1; 3 * size * size], 1)?;
    let anonymous = resident("RssAnon") - before;
    println!(
        "  memory of a process that embeds    {:>9.1} MB anonymous, {:.1} MB of it weights",
        anonymous,
        weights.nbytes() as f64 / 1e6
    );
    // Pages that somebody maps stay in the page cache.
    drop((weights, base, basis));
    cold(&base_path, &basis_path, &expr)
}

/// Reconstruction from files that the page cache does not hold, beside reading the same files from end to end.
fn cold(base_path: &Path, basis_path: &Path, expr: &TaskExpr) -> Result<()> {
    let files = [base_path.to_path_buf(), basis_path.join("basis_vectors.pt")];
    let bytes: u64 = files.iter().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum();
    for threads in [1, 2] {
        let (mut cold, mut disk) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            if !files.iter().all(|file| evict(file)) {
                println!("  cold: the page cache cannot be emptied here");
                return Ok(());
            }
            let began = Instant::now();
            let (base, basis) = (Checkpoint::open(base_path)?, Basis::open(basis_path)?);
            let options = ReconstructOptions { threads, ..ReconstructOptions::default() };
            let weights = Weights::reconstruct(&base, &basis, expr, &options)?;
            cold.push(began.elapsed().as_secs_f64() * 1e3);
            drop((weights, base, basis));

            files.iter().for_each(|file| assert!(evict(file), "it could be evicted before"));
            let began = Instant::now();
            for file in &files {
                read_through(file).map_err(|e| taskbasis::Error::io("cannot read", file, e))?;
            }
            disk.push(began.elapsed().as_secs_f64() * 1e3);
        }
        cold.sort_by(f64::total_cmp);
        disk.sort_by(f64::total_cmp);
        show(&format!("cold: open, reconstruct, {threads} threads"), &cold);
        show(&format!("cold: read {:.2} GB, nothing else", bytes as f64 / 1e9), &disk);
    }
    Ok(())
}

/// Lets the page cache forget a file that nobody maps; whether it did.
#[cfg(target_os = "linux")]
fn evict(path: &Path) -> bool {
    use std::os::fd::AsRawFd;

    let Ok(file) = std::fs::File::open(path) else { return false };
    if file.sync_all().is_err() {
        return false;
    }
    // SAFETY: plain numbers; the descriptor is open.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    drop(file);
    taskbasis::Mapping::open(path, taskbasis::MapMode::Map).is_ok_and(|map| !map.is_resident(map.len() / 2..map.len()))
}

#[cfg(not(target_os = "linux"))]
fn evict(_: &Path) -> bool {
    false
}

fn read_through(path: &Path) -> std::io::Result<()> {
    use std::io::Read;

    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 4 << 20];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Milliseconds of every run, sorted.
fn times(runs: usize, mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let began = Instant::now();
        run()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn show(what: &str, times: &[f64]) {
    println!("  {what:<38} {:>9.2} ms median, {:.2} best", times[times.len() / 2], times[0]);
}

/// A line of /proc/self/status in MB; 0 where there is no such file.
fn resident(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value =
        status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok());
    value.unwrap_or(0.0) / 1e3
}
