//! What the C ABI does to its process: who hears its messages, and that nothing grows however often things are opened.
#![cfg(target_os = "linux")]
#![allow(clippy::undocumented_unsafe_blocks)] // Each calls the C ABI as a C program would.

use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::Mutex;
use std::time::Instant;

use crate::support::capi::*;
use crate::support::in_a_process_of_its_own;
use taskbasis::capi::*;

type Heard = Mutex<Vec<(u32, String)>>;

unsafe extern "C" fn hear(level: u32, message: *const c_char, user_data: *mut c_void) {
    let heard = unsafe { &*user_data.cast::<Heard>() };
    heard.lock().unwrap().push((level, text(message)));
}

#[test]
fn messages_go_to_the_callback_and_nowhere_after_it() {
    in_a_process_of_its_own("process::messages_go_to_the_callback_and_nowhere_after_it", messages);
}

fn messages() {
    let Some(o) = open(AE) else { return };
    // Never freed: after a failure here the callback is still set.
    let (heard, other): (&Heard, &Heard) = (Box::leak(Box::default()), Box::leak(Box::default()));
    let data = |heard: &Heard| std::ptr::from_ref(heard).cast_mut().cast();
    let create = |log_level| unsafe {
        let mut encoder = null_mut();
        let options = tb_encoder_options { log_level, ..sized() };
        ok(|e| tb_encoder_create(o.basis, &options, &mut encoder, e));
        tb_encoder_free(encoder);
    };
    let count = |heard: &Heard| heard.lock().unwrap().len();
    unsafe {
        tb_log_set_callback(Some(hear), data(heard), TB_LOG_TRACE);
        create(TB_LOG_TRACE);
        let everything = count(heard);
        assert!(everything > 0, "ONNX Runtime has much to say about a session");
        assert!(heard.lock().unwrap().iter().all(|(level, message)| (1..=5).contains(level) && !message.is_empty()));

        // Another takes over, and hears less.
        tb_log_set_callback(Some(hear), data(other), TB_LOG_WARN);
        create(TB_LOG_TRACE);
        assert_eq!(count(heard), everything);
        assert!(other.lock().unwrap().iter().all(|(level, _)| *level <= TB_LOG_WARN));

        tb_log_set_callback(None, null_mut(), TB_LOG_TRACE);
        let until_then = count(other);
        create(TB_LOG_TRACE);
        assert_eq!((count(heard), count(other)), (everything, until_then));

        // With the level back, nothing but warnings is even asked for.
        tb_log_set_callback(Some(hear), data(heard), TB_LOG_TRACE);
        create(TB_LOG_WARN);
        create(0);
        assert!(heard.lock().unwrap()[everything..].iter().all(|(level, _)| *level <= TB_LOG_WARN));
        tb_log_set_callback(None, null_mut(), 0);
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Runs `cycle` again and again: what it costs in the end it has cost after the first tenth.
fn does_not_grow(what: &str, cycles: usize, cycle: impl Fn()) {
    let began = Instant::now();
    (0..(cycles / 10).max(500)).for_each(|_| cycle());
    let (memory, files) = (resident_bytes(), descriptors());
    (0..cycles).for_each(|_| cycle());
    let grown = resident_bytes().saturating_sub(memory);
    println!("{what}: {cycles} cycles in {:.1} s, {grown} bytes more", began.elapsed().as_secs_f64());
    assert_eq!(descriptors(), files, "{what}: file descriptors");
    // The smallest thing that could be forgotten 10,000 times, an error, is larger; allocators vary by some pages.
    assert!(grown < 1 << 20, "{what}: {grown} bytes more after {cycles} cycles");
}

/// TASKBASIS_CYCLES sets how often; an encoder opens an ONNX Runtime session each time, which takes its time.
#[test]
fn nothing_grows() {
    in_a_process_of_its_own("process::nothing_grows", however_often);
}

fn however_often() {
    let Some(o) = open(AE) else { return };
    let asked = std::env::var("TASKBASIS_CYCLES").ok().and_then(|n| n.parse::<usize>().ok());
    let cycles = |usual| asked.unwrap_or(usual);
    unsafe {
        does_not_grow("errors", cycles(10_000), || {
            let mut error = null_mut();
            tb_weights_create(o.basis, c"MNITS".as_ptr(), &mut null_mut(), &mut error);
            tb_error_free(error);
        });
        does_not_grow("weights", cycles(10_000), || {
            let mut weights = null_mut();
            ok(|e| tb_weights_create(o.basis, c"MNIST@0.3 + OptDigits@0.3".as_ptr(), &mut weights, e));
            ok(|e| tb_weights_prepare(weights, e));
            let mut tensor: tb_tensor = sized();
            ok(|e| tb_weights_tensor(weights, c"visual.proj".as_ptr(), &mut tensor, e));
            tb_weights_free(weights);
        });
        does_not_grow("heads", cycles(10_000), || {
            let mut head = null_mut();
            ok(|e| tb_head_open(o.heads.as_ptr(), c"MNIST".as_ptr(), o.classes.as_ptr(), &mut head, e));
            tb_head_free(head);
        });
        let options = basis_options(&o.base);
        does_not_grow("bases", cycles(2_000), || {
            let mut basis = null_mut();
            ok(|e| tb_basis_open(o.folder.as_ptr(), &options, &mut basis, e));
            tb_basis_free(basis);
        });
        let options = tb_encoder_options { threads: 1, ..sized() };
        does_not_grow("encoders", cycles(500), || {
            let mut encoder = null_mut();
            ok(|e| tb_encoder_create(o.basis, &options, &mut encoder, e));
            tb_encoder_free(encoder);
        });
        // A task that is new each time, so that the cache keeps turning over.
        ok(|e| tb_cache_set_budget(o.basis, 8 * o.about.image_tower_parameters, e));
        let turn = std::cell::Cell::new(0.0);
        does_not_grow("reconstructions", cycles(300), || {
            turn.set(turn.get() + 0.001);
            let task = tb_task { name: c"MNIST".as_ptr(), lambda: turn.get() };
            let mut weights = null_mut();
            ok(|e| tb_weights_create_from_tasks(o.basis, &task, 1, &mut weights, e));
            ok(|e| tb_weights_prepare(weights, e));
            tb_weights_free(weights);
        });
        does_not_grow("information", cycles(1_000), || {
            let mut library: tb_library_properties = sized();
            ok(|e| tb_library_info(null(), &mut library, e));
        });
    }
}
