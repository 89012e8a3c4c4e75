//! Structs of programs that are older or newer than the library: as much as both know, and nothing written beyond.
#![allow(clippy::undocumented_unsafe_blocks)] // Each calls the C ABI as a C program would.

use std::ptr::{null, null_mut};

use crate::support::capi::*;
use taskbasis::capi::tb_status::*;
use taskbasis::capi::*;

const NO: tb_status = TB_ERR_INVALID_ARGUMENT;

/// Info structs of every size: an older program's is not written beyond, a newer one's has zeros at its end.
#[track_caller]
fn info_sizes<T>(call: impl Fn(*mut T, *mut *mut tb_error) -> tb_status) {
    let known = size_of::<T>();
    let try_size = |size: usize| {
        let mut memory = vec![0xAAu8; known + 256];
        let mut words = vec![0xAAAA_AAAA_AAAA_AAAAu64; memory.len() / 8];
        words[0] = size as u64;
        let result = outcome(|e| call(words.as_mut_ptr().cast(), e));
        for (eight, word) in memory.chunks_exact_mut(8).zip(words) {
            eight.copy_from_slice(&word.to_le_bytes());
        }
        (memory, result)
    };
    let (whole, (status, message)) = try_size(known);
    assert_eq!(status, TB_OK, "{message}");
    for size in (8..=known + 64).step_by(8) {
        let (memory, (status, message)) = try_size(size);
        assert_eq!(status, TB_OK, "struct_size {size}: {message}");
        assert_eq!(&memory[..8], size.to_le_bytes(), "the size stays the program's");
        let both = size.min(known);
        // Texts may lie elsewhere in every call, numbers not; what is told at all is told to all.
        let told = |bytes: &[u8]| bytes[8..both].chunks(8).map(|b| b.iter().any(|b| *b != 0)).collect::<Vec<_>>();
        assert_eq!(told(&memory), told(&whole), "struct_size {size}");
        assert!(memory[both..size].iter().all(|b| *b == 0), "struct_size {size}: the unknown end is zero");
        assert!(memory[size..].iter().all(|b| *b == 0xAA), "struct_size {size}: written beyond the struct");
    }
    for absurd in [0, 1, 7, 4097, usize::MAX] {
        let (memory, (status, message)) = try_size(absurd);
        assert_eq!(status, NO, "struct_size {absurd}");
        let why = if (1..8).contains(&absurd) { "struct_size` is too small" } else { "struct_size` is not set" };
        assert!(message.contains(why), "{message}");
        assert!(memory[8..].iter().all(|b| *b == 0xAA));
    }
}

/// Options of every size. What is behind an older program's struct is garbage, and must not be looked at.
#[track_caller]
fn option_sizes<T: Copy>(options: T, least: usize, call: impl Fn(*const T, *mut *mut tb_error) -> tb_status) {
    let known = size_of::<T>();
    let with = |size: usize, end: u8| {
        let mut words = vec![u64::MAX; (known + 256) / 8];
        unsafe { words.as_mut_ptr().cast::<T>().write(options) };
        let bytes = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), known + 256) };
        bytes[size.min(known)..].fill(0xFF);
        bytes[known..size.clamp(known, known + 128)].fill(end);
        words[0] = size as u64;
        words
    };
    for size in (least..=known + 64).step_by(8) {
        ok(|e| call(with(size, 0).as_ptr().cast(), e));
    }
    let message = fails(TB_ERR_UNSUPPORTED, |e| call(with(known + 8, 1).as_ptr().cast(), e));
    assert!(message.contains("struct_size"), "{message}");
    for absurd in [0, 1, 7, 4097, usize::MAX] {
        fails(NO, |e| call(with(absurd, 0).as_ptr().cast(), e));
    }
}

#[test]
fn programs_older_and_newer_than_the_library() {
    let Some(o) = open(AE) else { return };
    unsafe {
        info_sizes::<tb_library_properties>(|info, e| tb_library_info(null(), info, e));
        info_sizes::<tb_basis_properties>(|info, e| tb_basis_info(o.basis, info, e));
        info_sizes::<tb_encoder_properties>(|info, e| tb_encoder_info(o.encoder, info, e));
        info_sizes::<tb_device_statistics>(|info, e| tb_encoder_device_stats(o.encoder, o.basis, info, e));
        info_sizes::<tb_cache_statistics>(|info, e| tb_cache_stats(o.basis, info, e));
        info_sizes::<tb_tensor>(|info, e| tb_weights_tensor(o.weights, c"visual.proj".as_ptr(), info, e));
        info_sizes::<tb_tensor>(|info, e| tb_weights_tensor_at(o.weights, 0, info, e));
        let (_folder, file) = crate::router::write_router(&o, Some("base"));
        let open_router = |options: *const tb_router_options, router: *mut *mut tb_router, e| {
            tb_router_open(o.basis, file.as_ptr(), options, router, e)
        };
        let mut router = null_mut();
        ok(|e| open_router(null(), &mut router, e));
        info_sizes::<tb_router_properties>(|info, e| tb_router_info(router, info, e));
        tb_router_free(router);
        option_sizes(sized::<tb_router_options>(), 8, |options, e| {
            let mut router = null_mut();
            let status = open_router(options, &mut router, e);
            tb_router_free(router);
            status
        });
        option_sizes(basis_options(&o.base), 16, |options, e| {
            let mut basis = null_mut();
            let status = tb_basis_open(o.folder.as_ptr(), options, &mut basis, e);
            tb_basis_free(basis);
            status
        });
        option_sizes(sized::<tb_encoder_options>(), 8, |options, e| {
            let mut encoder = null_mut();
            let status = tb_encoder_create(o.basis, options, &mut encoder, e);
            tb_encoder_free(encoder);
            status
        });
    }
}

#[test]
fn structs_that_are_not_aligned() {
    let Some(o) = open(AE) else { return };
    let mut memory = [0u64; 64];
    let odd = unsafe { memory.as_mut_ptr().cast::<u8>().add(1) };
    unsafe {
        fails(NO, |e| tb_basis_info(o.basis, odd.cast(), e));
        fails(NO, |e| tb_basis_task_name(o.basis, 0, odd.cast(), e));
        fails(NO, |e| tb_encoder_create(o.basis, odd.cast(), &mut null_mut(), e));
        fails(NO, |e| tb_encoder_encode(o.encoder, o.weights, odd.cast(), 1, null_mut(), 0, e));
    }
}
