//! The time that the C ABI adds to the Rust call behind it.
//!
//! `cargo bench --bench capi`. Both sides take turns within one process, call by call, and medians are compared: a run
//! of ONNX Runtime varies by more than the few hundred nanoseconds that are looked for, so nothing else would tell
//! them. `TASKBASIS_BENCH_ROUNDS` (5000) says how often. Without `--bench` (as `cargo test` calls it) a few rounds
//! check that both sides give the same.

#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

use std::ffi::CString;
use std::hint::black_box;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use taskbasis::capi::*;
use taskbasis::{Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, Head, Model, ModelOptions, TaskExpr};

/// The requirement: at most this much more a call.
const ALLOWED: Duration = Duration::from_micros(2);

fn main() {
    let measure = std::env::args().any(|argument| argument == "--bench");
    let rounds = std::env::var("TASKBASIS_BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5000);
    let rounds = if measure { rounds } else { 3 };
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits");
    let (folder, base) = (digits.join("bases/ViT-D-8_AE_M4_8task"), digits.join("base/pickled_module.pt"));
    if !folder.exists() || taskbasis::Runtime::probe(None).is_err() {
        return eprintln!("skipped: no examples/digits, or no ONNX Runtime");
    }

    // The same twice: once through Rust, once through C.
    let checkpoint = Checkpoint::open(&base).unwrap();
    let arch = Arch::of(&checkpoint, ArchHints::default()).unwrap();
    let encoder = Encoder::new(&arch, &EncoderOptions { threads: 1, ..EncoderOptions::default() }).unwrap();
    let model = Model::new(checkpoint, Some(Basis::open(&folder).unwrap()), &ModelOptions::default()).unwrap();
    let weights = model.weights(&"MNIST".parse::<TaskExpr>().unwrap()).unwrap();
    // Kept, so that the cache has nothing to do; both sides look it up at every call.
    let _prepared = weights.get().unwrap();
    let head = Head::open(digits.join("heads.safetensors"), Some("MNIST")).unwrap();
    let c = open(&folder, &base, &digits.join("heads.safetensors"));

    let pixels: Vec<f32> = (0..arch.pixels()).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect();
    let (mut ours, mut theirs) = (vec![0.0f32; arch.embed_dim], vec![0.0f32; arch.embed_dim]);

    println!("{:<28} {:>12} {:>12} {:>12}   ({rounds} rounds, medians)", "", "Rust", "C", "more");
    compare(
        "encode one image",
        rounds,
        1,
        || encoder.encode_into(&*weights.get().unwrap(), &pixels, 1, &mut ours).unwrap(),
        || {
            // SAFETY: handles and buffers are as the header wants them.
            let status = unsafe {
                tb_encoder_encode(
                    c.encoder,
                    c.weights,
                    pixels.as_ptr(),
                    1,
                    theirs.as_mut_ptr(),
                    arch.embed_dim,
                    null_mut(),
                )
            };
            assert_eq!(status, tb_status::TB_OK);
        },
    );
    assert_eq!(ours, theirs, "both sides compute the same");

    // No images: the whole call but ONNX Runtime's run, whose noise would hide a microsecond.
    compare(
        "encode no images",
        rounds,
        20,
        || encoder.encode_into(&*weights.get().unwrap(), black_box(&[]), 0, &mut []).unwrap(),
        || {
            // SAFETY: handles and buffers are as the header wants them.
            let status =
                unsafe { tb_encoder_encode(c.encoder, c.weights, null(), black_box(0), null_mut(), 0, null_mut()) };
            assert_eq!(status, tb_status::TB_OK);
        },
    );

    let (mut logits, mut scores) = (vec![0.0f32; head.num_classes()], vec![0.0f32; head.num_classes()]);
    compare(
        "logits of one embedding",
        rounds,
        100,
        || head.logits(black_box(&ours), &mut logits).unwrap(),
        || {
            let (embeds, out, room) = (theirs.as_ptr(), scores.as_mut_ptr(), scores.len());
            // SAFETY: handles and buffers are as the header wants them.
            let status =
                unsafe { tb_head_classify(c.head, embeds, 1, arch.embed_dim, out, room, null_mut(), 0, null_mut()) };
            assert_eq!(status, tb_status::TB_OK);
        },
    );
    assert_eq!(logits, scores);

    compare(
        "are the weights ready?",
        rounds,
        100,
        || assert!(black_box(&weights).is_ready()),
        || {
            let (mut ready, mut error) = (0, null_mut());
            // SAFETY: handles and buffers are as the header wants them.
            let status = unsafe { tb_weights_is_ready(c.weights, &raw mut ready, &raw mut error) };
            assert!(status == tb_status::TB_OK && ready == 1);
        },
    );
}

struct Opened {
    basis: *mut tb_basis,
    encoder: *mut tb_encoder,
    weights: *mut tb_weights,
    head: *mut tb_head,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: each was made by `open`, and is used no more.
        unsafe {
            tb_head_free(self.head);
            tb_weights_free(self.weights);
            tb_encoder_free(self.encoder);
            tb_basis_free(self.basis);
        }
    }
}

fn open(folder: &Path, base: &Path, heads: &Path) -> Opened {
    let [folder, base, heads] = [folder, base, heads].map(|path| CString::new(path.to_str().unwrap()).unwrap());
    let mut opened = Opened { basis: null_mut(), encoder: null_mut(), weights: null_mut(), head: null_mut() };
    let options = tb_basis_options {
        struct_size: size_of::<tb_basis_options>(),
        base: base.as_ptr(),
        read: 0,
        threads: 0,
        cache_bytes: 0,
        share_cache: null(),
        base_prefix: null(),
        image_size: 0,
    };
    // SAFETY: the texts end in NULs, the places are of their types; the rest of the encoder's options is zero.
    let statuses = unsafe {
        let mut encoder: tb_encoder_options = std::mem::zeroed();
        (encoder.struct_size, encoder.threads) = (size_of::<tb_encoder_options>(), 1);
        [
            tb_basis_open(folder.as_ptr(), &raw const options, &raw mut opened.basis, null_mut()),
            tb_encoder_create(opened.basis, &raw const encoder, &raw mut opened.encoder, null_mut()),
            tb_weights_create(opened.basis, c"MNIST".as_ptr(), &raw mut opened.weights, null_mut()),
            tb_weights_prepare(opened.weights, null_mut()),
            tb_head_open(heads.as_ptr(), c"MNIST".as_ptr(), null(), &raw mut opened.head, null_mut()),
        ]
    };
    assert_eq!(statuses, [tb_status::TB_OK; 5]);
    opened
}

/// Each round calls one side `calls` times and then the other, the order changing; times are for one call.
fn compare(what: &str, rounds: usize, calls: u32, mut rust: impl FnMut(), mut c: impl FnMut()) {
    let (mut by_rust, mut by_c) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for round in 0..rounds {
        if round % 2 == 0 {
            by_rust.push(timed(calls, &mut rust));
            by_c.push(timed(calls, &mut c));
        } else {
            by_c.push(timed(calls, &mut c));
            by_rust.push(timed(calls, &mut rust));
        }
    }
    let (rust, c) = (median(by_rust), median(by_c));
    let more = c - rust;
    println!("{what:<28} {rust:>9.3} us {c:>9.3} us {more:>+9.3} us");
    if rounds > 100 && more > ALLOWED.as_secs_f64() * 1e6 {
        println!("{:<28} more than the {} us that are allowed", "", ALLOWED.as_micros());
    }
}

/// Microseconds a call.
fn timed(calls: u32, call: &mut impl FnMut()) -> f64 {
    let began = Instant::now();
    (0..calls).for_each(|_| call());
    began.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
