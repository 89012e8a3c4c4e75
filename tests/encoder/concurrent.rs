//! Every call gets the embeddings of the weights that it names, whatever else runs at the same time.

use std::sync::Barrier;

use crate::support::tensors::Tensors;
use crate::support::{Random, in_a_process_of_its_own, runtime};
use taskbasis::{Activation, Arch, Encoder, EncoderOptions, Variant};

fn arch() -> Arch {
    Arch {
        width: 128,
        layers: 3,
        heads: 2,
        mlp_width: 512,
        patch: 8,
        grid: 4,
        embed_dim: 64,
        activation: Activation::QuickGelu,
        variant: Variant::default(),
    }
}

#[test]
fn an_encoder_is_shareable() {
    fn shareable<T: Send + Sync>() {}
    shareable::<Encoder>();
}

#[test]
fn calls_for_different_weights_do_not_mix() {
    if !runtime() {
        return;
    }
    let arch = arch();
    let tasks: Vec<Tensors> = (1..=4).map(|seed| Tensors::random(&arch, seed)).collect();
    let pixels = Random(7).many(3 * arch.pixels());
    for concurrency in [0, 1, 2, 4] {
        let options = EncoderOptions { threads: 4, concurrency, ..EncoderOptions::default() };
        let encoder = Encoder::new(&arch, &options).unwrap();
        let alone: Vec<Vec<f32>> = tasks.iter().map(|task| encoder.encode(task, &pixels, 3).unwrap()).collect();
        assert!(alone.windows(2).all(|pair| pair[0] != pair[1]), "different weights, different embeddings");
        assert_eq!((encoder.sessions(), encoder.threads()), (1, 4 / concurrency.max(1)));

        let start = Barrier::new(tasks.len());
        std::thread::scope(|scope| {
            for (t, _) in tasks.iter().enumerate() {
                let (encoder, tasks, alone, pixels, start) = (&encoder, &tasks, &alone, &pixels, &start);
                scope.spawn(move || {
                    start.wait();
                    // Each thread goes through all tasks, each from another one on.
                    for i in 0..24 {
                        let task = (t + i) % tasks.len();
                        let embeds = encoder.encode(&tasks[task], pixels, 3).unwrap();
                        assert!(embeds == alone[task], "task {task} in round {i} at concurrency {concurrency}");
                    }
                });
            }
        });
        assert!(encoder.sessions() <= concurrency.max(1), "{encoder:?}");
        encoder.trim();
        assert_eq!(encoder.sessions(), 0);
        assert!(encoder.encode(&tasks[0], &pixels, 3).unwrap() == alone[0], "a session made anew gives the same bits");
    }
}

/// ONNX Runtime keeps the domains of operators in a table of the process, and of two sessions that add one to it at the
/// same time it refuses one.
#[test]
fn the_first_encoders_of_a_process_may_be_made_at_once() {
    if !runtime() {
        return;
    }
    // Without the announcement, almost every process meets it.
    for _ in 0..3 {
        in_a_process_of_its_own("concurrent::the_first_encoders_of_a_process_may_be_made_at_once", || {
            let arch = Arch { layers: 1, ..arch() };
            let start = Barrier::new(8);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        start.wait();
                        Encoder::new(&arch, &EncoderOptions { threads: 1, ..EncoderOptions::default() }).unwrap();
                    });
                }
            });
        });
    }
}

#[test]
fn there_and_back_gives_the_same_bits() {
    if !runtime() {
        return;
    }
    let arch = arch();
    let encoder = Encoder::new(&arch, &EncoderOptions::default()).unwrap();
    let (a, b) = (Tensors::random(&arch, 1), Tensors::random(&arch, 2));
    let pixels = Random(7).many(arch.pixels());
    let first = encoder.encode(&a, &pixels, 1).unwrap();
    assert_ne!(encoder.encode(&b, &pixels, 1).unwrap(), first);
    assert_eq!(encoder.encode(&a, &pixels, 1).unwrap(), first);
}
