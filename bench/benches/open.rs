//! Opening, and going from an expression to coefficients. `cargo bench --bench open`
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod support;

use criterion::Criterion;
use taskbasis::{Basis, Checkpoint, Promotion, TaskExpr};

fn main() {
    let mut criterion: Criterion = support::criterion();
    for family in support::families() {
        let mut group = criterion.benchmark_group(format!("open/{}", family.name));
        group.bench_function("base", |b| b.iter(|| Checkpoint::open(&family.base).unwrap()));
        group.bench_function("basis", |b| b.iter(|| Basis::open(&family.basis).unwrap()));
        let basis = Basis::open(&family.basis).unwrap();
        let text = format!("{}@0.3 + {}@0.3 - merged@0.1", family.tasks[0], family.tasks[1]);
        group.bench_function("expression", |b| {
            b.iter(|| basis.coefficients(&text.parse::<TaskExpr>().unwrap()).unwrap());
        });
        if family.encoder(Promotion::Off).is_some() {
            group.bench_function("encoder", |b| b.iter(|| family.encoder(Promotion::Off)));
        }
        group.finish();
    }
    criterion.final_summary();
}
