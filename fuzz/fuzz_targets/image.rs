//! An image file: every value of its input, or an error; never a crash, and never more pixels than allowed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taskbasis::Preprocess;

fuzz_target!(|bytes: &[u8]| {
    let preprocess = Preprocess::new(8).unwrap().with_max_pixels(1 << 20);
    let mut out = vec![f32::NAN; preprocess.len()];
    if preprocess.encoded(bytes, &mut out).is_ok() {
        assert!(out.iter().all(|value| value.is_finite()));
    }
});
