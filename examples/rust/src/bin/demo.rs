//! The main job on the digits family: every task from one basis, beside zero-shot and fine-tuned accuracy; then what
//! it takes to store, to open, to reconstruct and to switch. At last arithmetic, on the glyphs family: one set of
//! weights for eight tasks. `make demo` runs it.

use std::path::Path;
use std::time::{Duration, Instant};

use taskbasis::{
    Arch, ArchHints, Basis, Checkpoint, Dataset, Encoder, EncoderOptions, Head, OpenModel, OpenOptions, Preprocess,
    ReconstructOptions, Result, TaskExpr, Weights, kernel,
};

const BATCH: usize = 50;

fn main() {
    if let Err(error) = demo() {
        println!("error: {error}");
        std::process::exit(1);
    }
}

fn demo() -> Result<()> {
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../digits");
    let folder = digits.join("bases/ViT-D-8_AE_M4_8task");
    let options = ReconstructOptions::default();

    let base = Checkpoint::open(digits.join("base/pickled_module.pt"))?;
    let basis = Basis::open(&folder)?;
    let encoder = Encoder::new(&Arch::of(&base, ArchHints::default())?, &EncoderOptions::default())?;
    let data = Dataset::open(digits.join("images.safetensors"))?;
    let finetuned = finetuned_accuracies(&digits.join("golden.json"))?;

    println!(
        "{} tasks from {} vectors ({}); {} with the {} kernel, ONNX Runtime {}\n",
        basis.tasks().len(),
        basis.vectors(),
        basis.method(),
        encoder.arch(),
        kernel::active()?.name(),
        encoder.runtime().version(),
    );
    println!("{:<12}{:>10}{:>14}{:>14}", "task", "zero-shot", "from basis", "fine-tuned*");
    let zero_shot = Weights::of_base(&base, &options)?;
    let mut sums = [0.0; 3];
    for task in basis.tasks() {
        let weights = Weights::reconstruct(&base, &basis, &TaskExpr::task(task), &options)?;
        let head = Head::open(digits.join("heads.safetensors"), Some(task))?;
        let row = [
            accuracy(&encoder, &zero_shot, &head, &data, task)?,
            accuracy(&encoder, &weights, &head, &data, task)?,
            finetuned.get(task).and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN),
        ];
        print_row(task, row);
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    print_row("mean", sums.map(|sum| sum / basis.tasks().len() as f64));
    println!("* as the reference measured it\n");

    let checkpoint = base.parameters() as usize * size_of::<f32>();
    println!("storage");
    println!("  {} fine-tuned models       {:>8.2} MB", basis.tasks().len(), mb(checkpoint * basis.tasks().len()));
    println!("  the base and {} vectors     {:>8.2} MB", basis.vectors(), mb(checkpoint * (1 + basis.vectors())));
    println!("memory");
    let one = Weights::reconstruct(&base, &basis, &TaskExpr::task(&basis.tasks()[0]), &options)?;
    println!("  a task's weights          {:>8.2} MB (the vectors stay in the page cache)", mb(one.nbytes()));

    println!(
        "time (medians; an image of {1}×{1} pixels; page cache warm, {0} threads)",
        encoder.threads(),
        encoder.arch().image_size()
    );
    let open = median(50, |_| Basis::open(&folder).map(drop))?;
    println!("  open the basis            {:>8.3} ms", ms(open));
    let coefficients: Vec<_> =
        basis.tasks().iter().map(|task| basis.coefficients(&TaskExpr::task(task))).collect::<Result<_>>()?;
    let rebuild = |i: usize| Weights::from_coefficients(&base, &basis, &coefficients[i % coefficients.len()], &options);
    println!("  reconstruct a task        {:>8.3} ms", ms(median(200, |i| rebuild(i).map(drop))?));
    let size = encoder.arch().image_size();
    let pixels = vec![0.5; 3 * size * size];
    let run = median(200, |_| encoder.encode(&one, &pixels, 1).map(drop))?;
    println!("  encode, task unchanged    {:>8.3} ms", ms(run));
    let switch = median(200, |i| encoder.encode(&rebuild(i)?, &pixels, 1).map(drop))?;
    println!("  switch task and encode    {:>8.3} ms", ms(switch));
    merged()
}

/// One set of weights for all tasks of the glyphs family, by the expressions that its bundle keeps.
fn merged() -> Result<()> {
    let glyphs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../glyphs");
    let opened = OpenModel::open(glyphs.join("glyphs.taskbasis"), &OpenOptions::default())?;
    let encoder = opened.encoder(&EncoderOptions::default())?;
    let data = Dataset::open(glyphs.join("data"))?;
    let bundle = opened.bundle().ok_or_else(|| taskbasis::Error::format("no bundle").at(&glyphs))?;
    let kept: Vec<&str> = bundle.names().map(|(name, _)| name).collect();

    println!("\none set of weights for {} tasks", bundle.tasks().len());
    let columns = [&["base"], &kept[..], &["own"]].concat();
    let headings: String = columns.iter().map(|name| format!("{name:>12}")).collect();
    println!("{:<12}{headings}", "task");
    let mut sums = vec![0.0; columns.len()];
    let row = |name: &str, shares: &[f64]| {
        let cells: String = shares.iter().map(|share| format!("{:>10.1} %", 100.0 * share)).collect();
        println!("{name:<12}{cells}");
    };
    for task in bundle.tasks() {
        let head = bundle.head(task)?;
        let mut shares = Vec::new();
        for name in &columns {
            let expr = if *name == "own" { TaskExpr::task(task) } else { name.parse()? };
            let weights = opened.model().weights(&expr)?.get()?;
            shares.push(accuracy(&encoder, &weights, &head, &data, task)?);
        }
        row(task, &shares);
        sums.iter_mut().zip(&shares).for_each(|(sum, share)| *sum += share / bundle.tasks().len() as f64);
    }
    row("mean", &sums);
    Ok(())
}

/// The share of the task's test images whose best class is the right one.
fn accuracy(encoder: &Encoder, weights: &Weights, head: &Head, data: &Dataset, task: &str) -> Result<f64> {
    let split = data.split(task, "test")?;
    let labels = head.check_labels(split.labels())?;
    let preprocess = Preprocess::new(encoder.arch().image_size())?;
    let mut right = 0;
    for start in (0..split.len()).step_by(BATCH) {
        let batch = start..split.len().min(start + BATCH);
        let images = batch.clone().map(|i| split.image(i)).collect::<Result<Vec<_>>>()?;
        let embeds = encoder.encode(weights, &preprocess.images(&images, 0)?, batch.len())?;
        for (embedding, label) in embeds.chunks_exact(encoder.arch().embed_dim).zip(&labels[batch]) {
            right += usize::from(head.classify(embedding, 1)?[0].class == *label);
        }
    }
    Ok(right as f64 / split.len() as f64)
}

fn finetuned_accuracies(path: &Path) -> Result<serde_json::Map<String, serde_json::Value>> {
    let failed = |e: std::io::Error| taskbasis::Error::io("cannot read", path, e);
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let golden: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| taskbasis::Error::format("not JSON").at(path).because(e))?;
    Ok(golden["finetuned"].as_object().cloned().unwrap_or_default())
}

fn median(runs: usize, mut run: impl FnMut(usize) -> Result<()>) -> Result<Duration> {
    let mut times = Vec::with_capacity(runs);
    for i in 0..runs {
        let began = Instant::now();
        run(i)?;
        times.push(began.elapsed());
    }
    times.sort();
    Ok(times[runs / 2])
}

fn print_row(name: &str, row: [f64; 3]) {
    let [zero_shot, basis, finetuned] = row.map(|share| format!("{:.1} %", 100.0 * share));
    println!("{name:<12}{zero_shot:>10}{basis:>14}{finetuned:>14}");
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mb(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
