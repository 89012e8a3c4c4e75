//! The fault injector: every call that a command, or a program in C, makes of the operating system is made to fail, one
//! at a time (`shim.c`), and what comes of it must be the right result or one clean error, with the old files in their
//! places or the new ones.
//!
//! `make test-faults` samples the calls: every way that leads to one, the first few, and others as a seed has them.
//! `make test-faults FAULTS=long` takes all. `FAULTS_ONLY=embed:open` names a scene and, if that is given, a call;
//! `FAULTS_SEED=n` gives others.

#[cfg(target_os = "linux")]
mod chosen;
#[cfg(target_os = "linux")]
mod one_run;
#[cfg(target_os = "linux")]
mod scenes;
#[cfg(target_os = "linux")]
#[path = "../support/mod.rs"]
mod support;

fn main() -> std::process::ExitCode {
    #[cfg(target_os = "linux")]
    return run();
    #[cfg(not(target_os = "linux"))]
    {
        println!("skipped: the shim stands before glibc");
        std::process::ExitCode::SUCCESS
    }
}

#[cfg(target_os = "linux")]
fn run() -> std::process::ExitCode {
    use std::collections::{BTreeMap, BTreeSet};
    use std::process::ExitCode;
    use std::sync::Mutex;
    use std::time::Instant;

    use self::chosen::{Fault, Plan};
    use self::one_run::{Bench, Verdict};

    let plan = Plan::from_environment();
    let Some(shim) = scenes::build_shim() else { return ExitCode::SUCCESS };
    let Some(stage) = scenes::Stage::new() else { return ExitCode::SUCCESS };
    println!("seed {}, {}", plan.seed, if plan.is_long { "every call" } else { "a spread of calls" });
    let (began, mut table, mut wrong) = (Instant::now(), BTreeMap::<String, [usize; 5]>::new(), 0);
    for scene in stage.scenes() {
        if !plan.wants_scene(&scene.name) {
            continue;
        }
        let bench = Bench::new(&shim, scene);
        let calls = bench.count();
        let faults = plan.choose(&calls, ["heads", "build"].contains(&&*bench.scene().name));
        let queue = Mutex::new(faults.into_iter());
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    loop {
                        let Some(fault) = queue.lock().unwrap().next() else { break };
                        let verdict = bench.run(&fault);
                        results.lock().unwrap().push((fault, verdict));
                    }
                });
            }
        });
        let mut results: Vec<(Fault, Verdict)> = results.into_inner().unwrap();
        results.sort_by(|a, b| a.0.cmp(&b.0));
        // Where no memory is left at all, an abort cannot say whose it is: its kind is that of the same call's refusal
        // alone.
        let mut outside = BTreeSet::new();
        for (fault, mut verdict) in results {
            let is_alone = !fault.is_lasting;
            match verdict {
                Verdict::Outside if is_alone => drop(outside.insert((fault.call.clone(), fault.number))),
                Verdict::Wrong(_) if !is_alone && outside.contains(&(fault.call.clone(), fault.number)) => {
                    verdict = Verdict::Outside;
                }
                _ => {}
            }
            let row = table.entry(format!("{:<12} {:<9}", bench.scene().name, fault.call)).or_default();
            row[0] = calls[&*fault.call].len();
            row[1] += 1;
            match verdict {
                Verdict::Right => row[2] += 1,
                Verdict::Error => row[3] += 1,
                Verdict::Outside => row[4] += 1,
                Verdict::Wrong(why) => {
                    println!("\n{} FAULT={fault}: {why}", bench.scene().name);
                    wrong += 1;
                }
            }
        }
    }
    println!(
        "{:<12} {:<9} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "scene", "call", "calls", "runs", "right", "errors", "outside"
    );
    let mut total = [0; 5];
    for (name, row) in &table {
        println!("{name} {:>7} {:>7} {:>7} {:>7} {:>7}", row[0], row[1], row[2], row[3], row[4]);
        total.iter_mut().zip(row).for_each(|(sum, n)| *sum += n);
    }
    let [calls, runs, right, errors, outside] = total;
    println!("{:<22} {calls:>7} {runs:>7} {right:>7} {errors:>7} {outside:>7}", "all");
    println!("{wrong} wrong, {:.0} s", began.elapsed().as_secs_f64());
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
