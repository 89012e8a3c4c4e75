//! The structured fuzz targets without a fuzzer: their seeds, and as many choices at random as take some seconds.

#[allow(dead_code, unreachable_pub)] // What the other targets share.
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

/// Choices at random for every target; TASKBASIS_FUZZ_CASES sets how many.
const CASES: u64 = 400;

#[test]
fn the_fuzzers_seeds_are_still_harmless() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let mut replayed = 0;
    for (target, run) in fuzz::structured::TARGETS {
        for seed in std::fs::read_dir(seeds.join(target)).unwrap() {
            let path = seed.unwrap().path();
            println!("{}", path.display());
            run(&std::fs::read(path).unwrap());
            replayed += 1;
        }
    }
    assert!(replayed > 50, "{replayed} seeds");
}

#[test]
fn whatever_is_chosen_is_an_answer_or_an_error() {
    let cases = std::env::var("TASKBASIS_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES);
    for (target, run) in fuzz::structured::TARGETS {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for case in 0..cases {
            let choices: Vec<u8> = (0..64 + case % 512)
                .map(|_| {
                    // xorshift64
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect();
            // Printed where it fails: the case is the number.
            println!("{target} {case}");
            run(&choices);
        }
    }
}
