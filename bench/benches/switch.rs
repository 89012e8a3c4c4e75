//! Switching: from a task's name to its first embedding. `cargo bench --bench switch`
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod support;

use taskbasis::{Promotion, TaskExpr};

fn main() {
    let mut criterion = support::criterion();
    for family in support::families() {
        let mut group = criterion.benchmark_group(format!("switch/{}", family.name));
        let names: [TaskExpr; 2] = family.tasks.map(|task| task.parse().unwrap());
        let (one, both) = (family.model(0, 1), family.model(0, 2));
        // Both in the cache.
        let _kept = [&names[0], &names[1]].map(|task| both.weights(task).unwrap().get().unwrap());
        let mut turn = 0;
        group.bench_function("name to weights, cached", |b| {
            b.iter(|| {
                turn = 1 - turn;
                both.weights(&names[turn]).unwrap().get().unwrap()
            });
        });
        let Some(encoder) = family.encoder(Promotion::Off) else { continue };
        let pixels = vec![0.1; encoder.arch().pixels()];
        for (what, model) in [("cached", &both), ("reconstructed", &one)] {
            group.bench_function(format!("name to embedding, {what}"), |b| {
                b.iter(|| {
                    turn = 1 - turn;
                    encoder.encode(&model.weights(&names[turn]).unwrap().get().unwrap(), &pixels, 1).unwrap()
                });
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
