//! Handles of the C ABI: freed in any order, shared between threads, and of models that do not belong together.
#![allow(clippy::undocumented_unsafe_blocks)] // Each calls the C ABI as a C program would.

use crate::support;
use std::fs::{self, File, FileTimes};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::support::bits;
use crate::support::bundle::{tiny, tiny_files};
use crate::support::capi::*;
use taskbasis::capi::tb_status::*;
use taskbasis::capi::*;
use taskbasis::{Activation, Arch, Method, Variant};

#[test]
fn every_order_of_frees() {
    let free = |o: &mut Opened, which: usize| unsafe {
        match which {
            0 => tb_basis_free(std::mem::replace(&mut o.basis, null_mut())),
            1 => tb_weights_free(std::mem::replace(&mut o.weights, null_mut())),
            2 => tb_encoder_free(std::mem::replace(&mut o.encoder, null_mut())),
            _ => tb_head_free(std::mem::replace(&mut o.head, null_mut())),
        }
    };
    for order in 0..256usize {
        let order = [order & 3, order >> 2 & 3, order >> 4 & 3, order >> 6];
        if (0..4).any(|which| !order.contains(&which)) {
            continue;
        }
        let Some(mut o) = open(AE) else { return };
        let pixels = o.pixels(1);
        for which in order {
            free(&mut o, which);
            // What is left still works.
            if !o.weights.is_null() && !o.encoder.is_null() {
                assert!(encode(&o, o.weights, &pixels, 1).iter().all(|v| v.is_finite()));
            } else if !o.weights.is_null() {
                ok(|e| unsafe { tb_weights_prepare(o.weights, e) });
            }
        }
    }
}

#[test]
fn handles_outlive_their_basis_and_its_cache() {
    let Some(mut o) = open(AE) else { return };
    let pixels = o.pixels(2);
    let before = encode(&o, o.weights, &pixels, 2);
    unsafe {
        ok(|e| tb_cache_set_budget(o.basis, 0, e));
        tb_basis_free(std::mem::replace(&mut o.basis, null_mut()));
        let mut ready = 7;
        ok(|e| tb_weights_is_ready(o.weights, &mut ready, e));
        assert_eq!(ready, 0, "nothing keeps them");
        let mut values = [0.0; 16];
        ok(|e| tb_weights_coefficients(o.weights, values.as_mut_ptr(), 16, null_mut(), null_mut(), e));
        assert_eq!(text(tb_weights_expression(o.weights)), "MNIST");
        ok(|e| tb_encoder_trim(o.encoder, e));
    }
    assert_eq!(bits(&encode(&o, o.weights, &pixels, 2)), bits(&before), "reconstructed anew, to the same bits");
}

#[test]
fn views_stay_as_long_as_their_handle() {
    let Some(mut o) = open(PCA) else { return };
    let mut tensor: tb_tensor = sized();
    let mut count = 0;
    unsafe {
        ok(|e| tb_weights_tensor(o.weights, c"visual.proj".as_ptr(), &mut tensor, e));
        assert_eq!(text(tensor.name), "visual.proj");
        let shape = std::slice::from_raw_parts(tensor.shape, tensor.rank);
        assert_eq!((shape[0], shape[1]), (o.model.width, o.model.embedding));
        assert_eq!(tensor.count, shape.iter().product::<usize>());
        let view = std::slice::from_raw_parts(tensor.data, tensor.count);
        let copied = view.to_vec();

        ok(|e| tb_cache_set_budget(o.basis, 0, e));
        ok(|e| tb_cache_trim(o.basis, 0, e));
        let mut other = null_mut();
        ok(|e| tb_weights_create(o.basis, c"OptDigits".as_ptr(), &mut other, e));
        ok(|e| tb_weights_prepare(other, e));
        tb_weights_free(other);
        assert_eq!(bits(view), bits(&copied));
        tb_basis_free(std::mem::replace(&mut o.basis, null_mut()));
        assert_eq!(bits(view), bits(&copied));

        // The same tensor again, by index, by name and as a copy.
        ok(|e| tb_weights_tensor_count(o.weights, &mut count, e));
        let mut seen = 0;
        for index in 0..count {
            let mut at: tb_tensor = sized();
            ok(|e| tb_weights_tensor_at(o.weights, index, &mut at, e));
            let mut values = vec![0.0; at.count];
            ok(|e| tb_weights_copy_tensor(o.weights, at.name, values.as_mut_ptr(), at.count, null_mut(), e));
            assert_eq!(bits(std::slice::from_raw_parts(at.data, at.count)), bits(&values));
            seen += usize::from(at.data == tensor.data);
        }
        assert_eq!(seen, 1);
    }
}

#[test]
fn prefetched_weights_become_ready() {
    let Some(o) = open(AE) else { return };
    let is_ready = || {
        let mut ready = 7;
        ok(|e| unsafe { tb_weights_is_ready(o.weights, &mut ready, e) });
        ready == 1
    };
    assert!(!is_ready());
    ok(|e| unsafe { tb_weights_prefetch(o.weights, e) });
    let began = Instant::now();
    while !is_ready() {
        assert!(began.elapsed() < Duration::from_secs(20), "prefetching never ends");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut stats: tb_cache_statistics = sized();
    ok(|e| unsafe { tb_cache_stats(o.basis, &mut stats, e) });
    assert_eq!((stats.misses, stats.entries), (1, 1));
    assert!(stats.bytes > 0 && stats.reconstruct_ns > 0);
    encode(&o, o.weights, &o.pixels(1), 1);
    ok(|e| unsafe { tb_cache_stats(o.basis, &mut stats, e) });
    assert_eq!((stats.hits, stats.misses), (1, 1));
}

#[test]
fn three_ways_to_name_the_same_weights() {
    let Some(o) = open(AE) else { return };
    let pixels = o.pixels(1);
    let (mut by_text, mut by_tasks, mut by_numbers) = (null_mut(), null_mut(), null_mut());
    let tasks = [(c"MNIST", 0.3), (c"OptDigits", -0.2)].map(|(name, lambda)| tb_task { name: name.as_ptr(), lambda });
    let mut values = vec![0.0; o.about.vectors];
    let mut mean = 7.0;
    unsafe {
        ok(|e| tb_weights_create(o.basis, c"MNIST@0.3 - OptDigits@0.2".as_ptr(), &mut by_text, e));
        ok(|e| tb_weights_create_from_tasks(o.basis, tasks.as_ptr(), 2, &mut by_tasks, e));
        ok(|e| tb_weights_coefficients(by_text, values.as_mut_ptr(), values.len(), null_mut(), &mut mean, e));
        ok(|e| tb_weights_create_from_coefficients(o.basis, values.as_ptr(), values.len(), mean, &mut by_numbers, e));
        let [a, b, c] = [by_text, by_tasks, by_numbers].map(|weights| bits(&encode(&o, weights, &pixels, 1)));
        assert!(a == b && b == c);
        assert_ne!(a, bits(&encode(&o, o.weights, &pixels, 1)));
        for weights in [by_text, by_tasks, by_numbers] {
            tb_weights_free(weights);
        }
    }
}

/// A base of another architecture, in a file of its own, with a tensor that is not of floats.
fn stranger(folder: &std::path::Path) -> std::ffi::CString {
    use safetensors::tensor::{Dtype, TensorView};
    let arch = Arch {
        width: 8,
        layers: 1,
        heads: 1,
        mlp_width: 8,
        patch: 2,
        grid: 1,
        embed_dim: 4,
        activation: Activation::QuickGelu,
        variant: Variant::default(),
    };
    let zeros = vec![0u8; 4096];
    let mut tensors: Vec<_> = arch
        .parameters()
        .into_iter()
        .map(|(name, shape)| {
            let bytes = 4 * shape.iter().product::<usize>();
            (name, TensorView::new(Dtype::F32, shape, &zeros[..bytes]).unwrap())
        })
        .collect();
    tensors.push(("visual.counter".into(), TensorView::new(Dtype::I64, vec![2], &zeros[..16]).unwrap()));
    let path = folder.join("stranger.safetensors");
    std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    c(path)
}

#[test]
fn models_that_do_not_belong_together() {
    let Some(o) = open(AE) else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = stranger(folder.path());
    let options = basis_options(&base);
    let (mut alone, mut weights, mut out) = (null_mut(), null_mut(), vec![-7.5f32; o.model.embedding]);
    unsafe {
        // A base alone, of another architecture: its weights are not this encoder's.
        ok(|e| tb_basis_open(null(), &options, &mut alone, e));
        ok(|e| tb_weights_create(alone, c"base".as_ptr(), &mut weights, e));
        let pixels = o.pixels(1);
        let message = fails(TB_ERR_MISMATCH, |e| {
            tb_encoder_encode(o.encoder, weights, pixels.as_ptr(), 1, out.as_mut_ptr(), out.len(), e)
        });
        assert!(message.contains("visual."), "names the tensor: {message}");
        assert!(out.iter().all(|v| *v == -7.5), "nothing is written on failure");
        let counter = c"visual.counter".as_ptr();
        let mut tensor: tb_tensor = sized();
        fails(TB_ERR_UNSUPPORTED, |e| tb_weights_tensor(weights, counter, &mut tensor, e));
        fails(TB_ERR_UNSUPPORTED, |e| tb_weights_copy_tensor(weights, counter, null_mut(), 0, null_mut(), e));
        let message = fails(NO, |e| tb_weights_create(alone, c"MNIST".as_ptr(), &mut null_mut(), e));
        assert!(message.contains("basis"), "{message}");
        let mut about: tb_basis_properties = sized();
        ok(|e| tb_basis_info(alone, &mut about, e));
        assert_eq!((text(about.method).as_str(), about.tasks, about.vectors), ("none", 0, 0));
        tb_weights_free(weights);
        tb_basis_free(alone);

        // A basis over it: said when it is verified, and when weights are needed, if not at once.
        let mut mixed = null_mut();
        let (status, message) = outcome(|e| tb_basis_open(o.folder.as_ptr(), &options, &mut mixed, e));
        if status == TB_OK {
            fails(TB_ERR_MISMATCH, |e| tb_basis_verify(mixed, e));
            ok(|e| tb_weights_create(mixed, c"MNIST".as_ptr(), &mut weights, e));
            let message = fails(TB_ERR_MISMATCH, |e| tb_weights_prepare(weights, e));
            assert!(message.contains("visual."), "{message}");
            tb_weights_free(weights);
            tb_basis_free(mixed);
        } else {
            assert_eq!(status, TB_ERR_MISMATCH, "{message}");
        }
    }
}

const NO: tb_status = TB_ERR_INVALID_ARGUMENT;

/// What threads share here: C was promised that it may.
struct Shared<'a>(&'a Opened, Vec<*mut tb_weights>);
unsafe impl Sync for Shared<'_> {}

/// 8 threads, 8 tasks, one encoder, a cache for three: every result is the one that the task gives alone.
/// TASKBASIS_SOAK_SECONDS lengthens it.
#[test]
fn threads_get_their_own_tasks_bits() {
    let Some(mut o) = open(AE) else { return };
    let pixels = o.pixels(1);
    let options = tb_encoder_options { concurrency: 4, promotion: TB_PROMOTION_OFF, ..sized() };
    let seconds = std::env::var("TASKBASIS_SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    let weights: Vec<*mut tb_weights> = (0..o.about.tasks)
        .map(|task| unsafe {
            let (mut name, mut weights) = (null(), null_mut());
            ok(|e| tb_basis_task_name(o.basis, task, &mut name, e));
            ok(|e| tb_weights_create_from_tasks(o.basis, &tb_task { name, lambda: 1.0 }, 1, &mut weights, e));
            weights
        })
        .collect();
    unsafe {
        tb_encoder_free(o.encoder);
        ok(|e| tb_encoder_create(o.basis, &options, &mut o.encoder, e));
        ok(|e| tb_cache_set_budget(o.basis, 3 * 4 * o.about.image_tower_parameters, e));
    }
    let alone: Vec<_> = weights.iter().map(|&weights| bits(&encode(&o, weights, &pixels, 1))).collect();
    let different = alone.iter().collect::<std::collections::HashSet<_>>().len();
    assert_eq!(different, alone.len(), "tasks that give the same would hide a mistake");

    let shared = Shared(&o, weights);
    let (shared, alone, runs) = (&shared, &alone, &AtomicUsize::new(0));
    let until = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let pixels = &pixels;
            scope.spawn(move || {
                let Shared(o, weights) = shared;
                let mut turn = thread;
                while Instant::now() < until {
                    turn = (turn * 5 + 3) % 8192;
                    let task = (turn / 7) % weights.len();
                    assert_eq!(bits(&encode(o, weights[task], pixels, 1)), alone[task], "task {task}");
                    runs.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    println!("{} runs in {seconds} s", runs.load(Ordering::Relaxed));
    assert!(runs.load(Ordering::Relaxed) >= 8);
    shared.1.iter().for_each(|weights| unsafe { tb_weights_free(*weights) });
}

/// A user's graph gives what the built one gives.
#[test]
fn a_graph_of_the_users_own() {
    let (Some(o), Some(graph)) = (open(AE), support::digits("onnx/transformers_style_opset14.onnx")) else { return };
    let (graph, pixels) = (c(graph), o.pixels(2));
    let options = tb_encoder_options { graph: graph.as_ptr(), ..sized() };
    let mut encoder = std::ptr::null_mut();
    ok(|e| unsafe { tb_encoder_create(o.basis, &options, &mut encoder, e) });
    let mut embeds = [vec![0.0f32; 2 * o.model.embedding], vec![0.0f32; 2 * o.model.embedding]];
    for (encoder, out) in [encoder, o.encoder].into_iter().zip(&mut embeds) {
        let capacity = out.len();
        ok(|e| unsafe { tb_encoder_encode(encoder, o.weights, pixels.as_ptr(), 2, out.as_mut_ptr(), capacity, e) });
    }
    let [theirs, ours] = embeds;
    assert!(support::relative_l2(&theirs, &ours) < 1e-5);
    unsafe { tb_encoder_free(encoder) };
}

/// A file that has the place, the inode, the length and the times of one that was deleted is not taken for it.
#[test]
fn a_shared_cache_takes_no_file_for_another() {
    let family = tiny_files(Method::Autoencoder);
    let (basis, base) = (c(&family.basis), c(&family.base));
    let keeper = basis_options(&base);
    let date = || {
        let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        File::options().write(true).open(&family.base).unwrap().set_times(times).unwrap();
    };
    let values = |share: *const tb_basis| unsafe {
        let (mut opened, mut weights) = (null_mut(), null_mut());
        let options = tb_basis_options { share_cache: share, ..basis_options(&base) };
        ok(|e| tb_basis_open(basis.as_ptr(), &options, &mut opened, e));
        ok(|e| tb_weights_create(opened, c"Task1".as_ptr(), &mut weights, e));
        let (mut ready, mut tensor) = (7, sized::<tb_tensor>());
        ok(|e| tb_weights_is_ready(weights, &mut ready, e));
        ok(|e| tb_weights_tensor(weights, c"visual.proj".as_ptr(), &mut tensor, e));
        let values = bits(std::slice::from_raw_parts(tensor.data, tensor.count));
        tb_weights_free(weights);
        tb_basis_free(opened);
        (ready, values)
    };
    unsafe {
        // The cache outlives the basis that it was made for, and what is in it.
        let mut first = null_mut();
        let other = family.path("other.pt");
        tiny(Method::Autoencoder).write_base(&other).unwrap();
        let other = c(other);
        ok(|e| tb_basis_open(basis.as_ptr(), &tb_basis_options { base: other.as_ptr(), ..keeper }, &mut first, e));
        date();
        let (ready, before) = values(first);
        assert_eq!(ready, 0);
        let length = fs::metadata(&family.base).unwrap().len();
        fs::remove_file(&family.base).unwrap();
        crate::support::synthetic::Synthetic { seed: 4, ..tiny(Method::Autoencoder) }.write_base(&family.base).unwrap();
        date();
        assert_eq!(fs::metadata(&family.base).unwrap().len(), length);
        let (ready, after) = values(first);
        assert_eq!((ready, &after), (0, &values(null()).1), "reconstructed anew, of the file that is there");
        assert_ne!(before, after);
        tb_basis_free(first);
    }
}
