//! One task again and again: its weights as inputs, and promoted. `cargo bench --bench encode`
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod support;

use criterion::Throughput;
use taskbasis::Promotion;

fn main() {
    let mut criterion = support::criterion();
    for family in support::families() {
        let (Some(inputs), Some(promoted)) = (family.encoder(Promotion::Off), family.encoder(Promotion::Manual)) else {
            continue;
        };
        let model = family.model(0, 4);
        let task = model.weights(&family.tasks[0].parse().unwrap()).unwrap();
        promoted.promote(&task).unwrap();
        let mut group = criterion.benchmark_group(format!("encode/{}", family.name));
        for batch in [1, 8] {
            let pixels = vec![0.1; batch * inputs.arch().pixels()];
            group.throughput(Throughput::Elements(batch as u64));
            for (what, encoder) in [("as inputs", &inputs), ("promoted", &promoted)] {
                group.bench_function(format!("batch {batch}, {what}"), |b| {
                    b.iter(|| encoder.encode_task(&task, &pixels, batch).unwrap());
                });
            }
        }
        group.finish();
    }
    criterion.final_summary();
}
