//! Reconstruction: two tasks in turn, each into the memory of the other. `cargo bench --bench reconstruct`
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod support;

use criterion::Throughput;
use taskbasis::{Basis, ReconstructOptions, Weights};

fn main() {
    let mut criterion = support::criterion();
    for family in support::families() {
        let mut group = criterion.benchmark_group(format!("reconstruct/{}", family.name));
        for threads in [1, 2] {
            let model = family.model(threads, 1);
            let tasks = family.tasks.map(|task| model.weights(&task.parse().unwrap()).unwrap());
            let written = tasks[0].get().unwrap().nbytes() as u64;
            // M vectors and the base are read, one result is written; all f32 here.
            let moved = written * (model.basis().map_or(0, Basis::vectors) as u64 + 2);
            group.throughput(Throughput::Bytes(moved));
            let mut turn = 0;
            group.bench_function(format!("{threads} threads"), |b| {
                b.iter(|| {
                    turn = 1 - turn;
                    // Dropped at once: what is held cannot be used again.
                    tasks[turn].get().unwrap().nbytes()
                });
            });
        }
        let model = family.model(0, 0);
        let (base, basis) = (model.base(), model.basis().unwrap());
        let expr = family.tasks[0].parse().unwrap();
        group.bench_function("into fresh memory", |b| {
            b.iter(|| Weights::reconstruct(base, basis, &expr, &ReconstructOptions::default()).unwrap());
        });
        group.finish();
    }
    criterion.final_summary();
}
