//! Weights are read where they are. (In a process of its own: the process's memory is watched.)
#![cfg(target_os = "linux")]

use crate::support::tensors::Tensors;
use crate::support::{Random, in_a_process_of_its_own, relative_l2, runtime};
use taskbasis::{Activation, Arch, Encoder, EncoderOptions, Variant};

/// A field of `/proc/self/status`, in bytes.
fn status(field: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn weights_are_neither_copied_nor_kept() {
    if runtime() {
        in_a_process_of_its_own("memory::weights_are_neither_copied_nor_kept", neither_copied_nor_kept);
    }
}

fn neither_copied_nor_kept() {
    let arch = Arch {
        width: 1024,
        layers: 6,
        heads: 16,
        mlp_width: 4096,
        patch: 16,
        grid: 2,
        embed_dim: 512,
        activation: Activation::QuickGelu,
        variant: Variant::default(),
    };
    let mut weights = Tensors::random(&arch, 1);
    let size = 4 * arch.parameter_count();
    let pixels = Random(2).many(arch.pixels());
    let options = EncoderOptions { threads: 2, concurrency: 1, ..EncoderOptions::default() };
    let encoder = Encoder::new(&arch, &options).unwrap();

    // Nothing else allocates here, so the highest mark so far is the state before the first run, or above it.
    let before = status("VmRSS");
    let first = encoder.encode(&weights, &pixels, 1).unwrap();
    let peak = status("VmHWM").saturating_sub(before);
    println!("weights: {} MB, growth over a run: {:.1} MB at most", size >> 20, peak as f64 / 1e6);
    assert!(size > 250 << 20 && peak < size / 8, "a run took {peak} bytes more, over weights of {size}");

    // An edit between two runs is seen by the next: no copy of the weights is kept either.
    weights.values_mut("visual.proj").iter_mut().for_each(|v| *v *= 2.0);
    let second = encoder.encode(&weights, &pixels, 1).unwrap();
    let doubled: Vec<f32> = first.iter().map(|v| v * 2.0).collect();
    assert!(relative_l2(&second, &doubled) < 1e-6 && second != first);
    for (name, _) in arch.parameters() {
        weights.values_mut(&name)[0] += 1.0;
        let changed = encoder.encode(&weights, &pixels, 1).unwrap();
        weights.values_mut(&name)[0] -= 1.0;
        assert!(changed.iter().all(|v| v.is_finite()), "{name}");
        // The key's bias cancels in the softmax; the first value of in_proj_bias is a query's.
        assert_ne!(changed, second, "an edit of {name} did not reach the run");
    }
}
