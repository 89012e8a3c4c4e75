//! Model-checked concurrency: the library's own sources, compiled with locks, atomics and threads that shuttle
//! schedules, so that thousands of interleavings are tried, and a deadlock or a broken promise gives the one that led
//! to it. `make test-models`.
//!
//! ```text
//! taskbasis-models [SCHEDULES [MODEL]]   4000 schedules of each kind for every model
//! ```
#![allow(dead_code, unreachable_pub, unused_imports)] // Of the library, what the models do not use.

#[path = "../../src/background.rs"]
mod background;
mod encoder;
#[path = "../../src/error.rs"]
mod error;
mod mmap;
mod sync;
#[path = "../../src/visible.rs"]
mod visible;
mod weights;
mod worker;

use std::process::ExitCode;
use std::time::Instant;

pub use error::ErrorKind;

type Model = (&'static str, fn());

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let schedules = arguments.next().map_or(Ok(4000), |n| n.parse::<usize>());
    let Ok(schedules) = schedules else {
        eprintln!("usage: taskbasis-models [SCHEDULES [MODEL]]");
        return ExitCode::from(2);
    };
    let only = arguments.next();
    let models = [worker::MODELS, weights::MODELS, encoder::MODELS].concat();
    for (name, model) in models.into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| name.contains(only))) {
        let began = Instant::now();
        // Schedules at random find most, and those with a few preemptions what takes a rare one.
        shuttle::check_random(model, schedules);
        shuttle::check_pct(model, schedules, 3);
        println!("{name}: {} schedules, {:.1} s", 2 * schedules, began.elapsed().as_secs_f64());
    }
    ExitCode::SUCCESS
}
