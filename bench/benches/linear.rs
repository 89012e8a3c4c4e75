//! The linear kernel by instruction set and precision.
//!
//! `cargo bench --bench linear` prints, for one thread and the products of ViT-B-32's MLPs, GFLOP/s (two operations per
//! multiplication with its addition, activations converted on the way) of every kernel that this machine has, and the
//! time over that of the same kernel in f32. Settings, in the environment:
//! - `TASKBASIS_BENCH_ROWS` (`50,400`: one image and eight),
//! - `TASKBASIS_BENCH_KERNELS` (all but `scalar`),
//! - `TASKBASIS_BENCH_ROUNDS` (15).
//!
//! Kernels and precisions take turns within one process, and medians are compared. Times are the thread's on its
//! processor where the system tells them, since what else the machine does stretches others. Each run takes another
//! copy of the weights, so that they come from where they would in a model, not from the nearest cache.
//!
//! Without `--bench` (as `cargo test` calls it) everything runs once, and only the results are compared.
#![allow(clippy::print_stdout, missing_docs, unsafe_code)]

use std::time::Duration;

use taskbasis::Precision;
use taskbasis::kernel::Kernel;
use taskbasis::kernel::linear::{self, Activation, LinearJob, Matrix, PackedLayout, Pool, Scratch};

/// Inputs and outputs.
const SHAPES: [(usize, usize); 2] = [(768, 3072), (3072, 768)];
/// Bytes of the copies of weights.
const COPIES: usize = 64 << 20;

fn main() {
    let measure = std::env::args().any(|argument| argument == "--bench");
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or(default.into());
    let rounds: usize = setting("TASKBASIS_BENCH_ROUNDS", "15").parse().expect("a number of rounds");
    let rows = setting("TASKBASIS_BENCH_ROWS", "50,400");
    let rows = rows.split(',').map(|rows| rows.parse::<usize>().expect("numbers of rows"));
    let names = setting("TASKBASIS_BENCH_KERNELS", "");
    let kernels: Vec<Kernel> = match names.as_str() {
        "" => Kernel::available().iter().copied().filter(|&kernel| !measure || kernel != Kernel::Scalar).collect(),
        names => names.split(',').map(|name| name.parse().expect("names of kernels")).collect(),
    };
    if !measure {
        for precision in Precision::ALL {
            let mut runs: Vec<Run> =
                kernels.iter().map(|&kernel| Run::new(kernel, precision, 5, (70, 40), 1)).collect();
            runs.iter_mut().for_each(|run| run.compute(1));
            assert!(runs.iter().all(|run| run.out == runs[0].out), "{precision}: not all kernels give the same");
        }
        return;
    }
    for (rows, shape) in rows.flat_map(|rows| SHAPES.map(|shape| (rows, shape))) {
        println!("\n{rows} rows, {} -> {}{:>20} {:>9} {:>9}", shape.0, shape.1, "GFLOP/s", "best", "/f32");
        compare(&kernels, rows, shape, rounds);
    }
}

fn compare(kernels: &[Kernel], rows: usize, shape: (usize, usize), rounds: usize) {
    let cases = kernels.iter().flat_map(|&kernel| Precision::ALL.map(|precision| (kernel, precision)));
    let mut runs: Vec<Run> =
        cases.map(|(kernel, precision)| Run::new(kernel, precision, rows, shape, COPIES)).collect();
    let operations = 2.0 * (rows * shape.0 * shape.1) as f64;
    // Some 10 ms each, with f32 on a processor of today.
    let times = (1e9 / operations).ceil() as usize;
    let mut seconds = vec![Vec::new(); runs.len()];
    for round in 0..=rounds {
        for (seconds, run) in seconds.iter_mut().zip(&mut runs) {
            let start = now();
            run.compute(times);
            // The first round warms up.
            if round > 0 {
                seconds.push((now() - start).as_secs_f64() / times as f64);
            }
        }
    }
    let medians = seconds.iter_mut().map(|seconds| {
        seconds.sort_by(f64::total_cmp);
        (seconds[seconds.len() / 2], seconds[0])
    });
    let medians: Vec<(f64, f64)> = medians.collect();
    for (i, (run, (median, best))) in runs.iter().zip(&medians).enumerate() {
        // The first precision is f32.
        let of_f32 = medians[i / Precision::ALL.len() * Precision::ALL.len()].0;
        let name = format!("{}, {}", run.kernel, run.layout.precision());
        let rate = |seconds: f64| operations / seconds / 1e9;
        println!("  {name:<24}{:>16.1} {:>9.1} {:>9.2}", rate(*median), rate(*best), median / of_f32);
    }
}

/// A product, and its result.
struct Run {
    kernel: Kernel,
    layout: PackedLayout,
    weights: Vec<Packed>,
    next: usize,
    input: Vec<f32>,
    bias: Vec<f32>,
    out: Vec<f32>,
    scratch: Scratch,
}

impl Run {
    /// With copies of the weights of `bytes` in all, one at least.
    fn new(kernel: Kernel, precision: Precision, rows: usize, (inputs, outputs): (usize, usize), bytes: usize) -> Self {
        let layout = PackedLayout::new(outputs, inputs, precision).expect("a layout");
        let weights: Vec<f32> = (0..outputs * inputs).map(|i| ((i * 7919 % 1000) as f32 - 500.0) * 1e-4).collect();
        let mut packed = Packed::new(layout.nbytes());
        linear::pack(kernel, layout, &weights, packed.bytes_mut()).expect("packed weights");
        let copies = bytes.div_ceil(layout.nbytes());
        Self {
            kernel,
            layout,
            weights: vec![packed; copies],
            next: 0,
            input: (0..rows * inputs).map(|i| ((i * 31 % 977) as f32 - 488.0) * 2e-3).collect(),
            bias: vec![0.1; outputs],
            out: vec![0.0; rows * outputs],
            scratch: Scratch::default(),
        }
    }

    fn compute(&mut self, times: usize) {
        for _ in 0..times {
            let job = LinearJob {
                layout: self.layout,
                weights: Matrix::Packed(self.weights[self.next].bytes()),
                input: &self.input,
                norm: None,
                bias: Some(&self.bias),
                activation: Activation::None,
                gain: None,
                residual: None,
                out: &mut self.out,
            };
            linear::linear(self.kernel, job, &Alone, &mut self.scratch).expect("what fits together");
            self.next = (self.next + 1) % self.weights.len();
        }
    }
}

/// Bytes, aligned to a cache line.
#[derive(Clone)]
struct Packed(Vec<Line>, usize);

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

impl Packed {
    fn new(length: usize) -> Self {
        Self(vec![Line([0; 64]); length.div_ceil(64)], length)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: lines are plain bytes, and of them there are as many at least.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.1) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as before.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.1) }
    }
}

/// One thread.
struct Alone;

impl Pool for Alone {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(work);
    }
}

/// Time that this thread has spent on a processor.
#[cfg(target_os = "linux")]
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux, and `time` is a place for it.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "a clock of this thread");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Time on the wall.
#[cfg(not(target_os = "linux"))]
fn now() -> Duration {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}
