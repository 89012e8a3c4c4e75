//! The machine itself: instructions against what the PTX ISA says of them, and what is not right is refused.

use super::{Kernel, Memory};

/// A kernel of this body, over four words at address 16 and its parameter, an address; it writes at 64.
fn parse(body: &str) -> Kernel {
    let head = "// NVRTC\n.visible .entry other(\n\t.param .align 8 .b8 other_param_0[8]\n)\n{\n\tret;\n}\n\n";
    let registers = ".reg .pred %p<9>;\n.reg .b16 %rs<9>;\n.reg .f32 %f<9>;\n.reg .b32 %r<9>;\n.reg .b64 %rd<9>;\n";
    let text = format!(
        "{head}.visible .entry test(\n\t.param .align 8 .b8 test_param_0[8]\n)\n.maxntid 128, 1, 1\n{{\n{registers}{body}\nret;\n}}\0"
    );
    Kernel::parse(&text, "test")
}

fn run(body: &str) -> Vec<u64> {
    let words: Vec<u8> =
        [0x8007_0605u32, 0xf403_02f1, 0, 1.5f32.to_bits()].iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut out = vec![0; 64];
    parse(body).run(1, 1, &16u64.to_le_bytes(), &mut Memory::new(vec![(16, &words)], 64, &mut out));
    out.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The result of one instruction on 32 bits, which goes to %r0.
fn word(body: &str) -> u32 {
    run(&format!("mov.u64 %rd0, 64;\n{body}\nst.global.cg.u32 [%rd0], %r0;"))[0] as u32
}

#[test]
fn instructions_do_what_the_isa_says() {
    let two = "mov.u32 %r1, -2004318072; mov.u32 %r2, 0x01020384;"; // 0x88888888
    for (instruction, result) in [
        ("prmt.b32 %r0, %r1, %r2, 0x7654;", 0x0102_0384u32),
        ("prmt.b32 %r0, %r2, 0, 0x4341;", 0x0001_0003),
        ("prmt.b32 %r0, %r2, 1258291200, 0x7440;", 0x4b00_0084),
        ("prmt.b32 %r0, %r2, %r1, 0x988f;", 0x00ff_ffff),
        ("shl.b32 %r0, %r2, 32;", 0),
        ("shl.b32 %r0, %r2, 31;", 0),
        ("shr.u32 %r0, %r1, 33;", 0),
        ("shr.s32 %r0, %r1, 33;", u32::MAX),
        ("shr.s32 %r0, %r1, 4;", 0xf888_8888),
        ("bfi.b32 %r0, %r1, %r2, 8, 16;", 0x0188_8884),
        ("bfi.b32 %r0, %r1, %r2, 40, 16;", 0x0102_0384),
        ("bfi.b32 %r0, %r1, %r2, 28, 16;", 0x8102_0384),
        ("min.u32 %r0, %r1, %r2;", 0x0102_0384),
        ("min.s32 %r0, %r1, %r2;", 0x8888_8888),
        ("max.u32 %r0, %r1, %r2;", 0x8888_8888),
        ("neg.s32 %r0, %r2;", 0xfefd_fc7c),
        ("sub.s32 %r0, %r2, %r1;", 0x7879_7afc),
        ("mad.lo.s32 %r0, %r1, 16, %r2;", 0x898a_8c04),
        ("div.u32 %r0, %r1, 16;", 0x0888_8888),
        ("rem.u32 %r0, %r1, 7;", 0x8888_8888 % 7),
        ("setp.lt.s32 %p0, %r1, %r2; selp.b32 %r0, 1, 2, %p0;", 1),
        ("setp.lt.u32 %p0, %r1, %r2; selp.b32 %r0, 1, 2, %p0;", 2),
        ("mov.u32 %r0, 1; setp.ge.u32 %p0, %r1, %r2; @!%p0 bra $L_end; mov.u32 %r0, 3; $L_end:", 3),
        ("mov.u32 %r0, 1; setp.eq.s32 %p0, %r1, %r2; @!%p0 bra $L_end; mov.u32 %r0, 3; $L_end:", 1),
        ("{ .reg .b16 tmp; mov.b32 {tmp, %rs0}, %r2; } cvt.u32.u16 %r0, %rs0;", 0x0102),
        ("mov.b32 {%rs0, _}, %r2; mov.b32 %r0, {%rs0, %rs0};", 0x0384_0384),
        ("cvt.u16.u32 %rs0, %r2; { cvt.f32.f16 %f0, %rs0; } mov.b32 %r0, %f0;", (900.0f32 / 16_777_216.0).to_bits()),
    ] {
        assert_eq!(word(&format!("{two} {instruction}")), result, "{instruction}");
    }
    for (instruction, result) in [
        ("add.rn.f32 %f0, 0f3F800000, 0f33800000;", 1.0f32),
        ("fma.rn.f32 %f0, 0f3F800001, 0f3F800001, 0fBF800002;", f32::EPSILON * f32::EPSILON),
        ("mul.rn.f32 %f0, 0f00000001, 0f40000000;", f32::from_bits(2)),
    ] {
        assert_eq!(word(&format!("{instruction} mov.b32 %r0, %f0;")), result.to_bits(), "{instruction}");
    }
    assert_eq!(word("add.rn.f32 %f0, 0f7F800000, 0fFF800000; mov.b32 %r0, %f0;"), 0x7fff_ffff);
    // To the even one of two that are as near, and to infinity.
    for (bits, half) in [(0x3f80_1000u32, 0x3c00), (0x3f80_3000, 0x3c02), (0x477f_f000, 0x7c00), (0x3300_0000, 0)] {
        let body = format!("mov.f32 %f0, 0f{bits:08X}; cvt.rn.f16.f32 %rs0, %f0; cvt.u32.u16 %r0, %rs0;");
        assert_eq!(word(&body), half, "{bits:#x}");
    }
    let wide = run("mov.u64 %rd0, 64; mov.u32 %r0, -1; mul.wide.u32 %rd1, %r0, %r0; mul.wide.s32 %rd2, %r0, 5;
        bfi.b64 %rd3, %rd1, %rd2, 32, 32; st.global.cg.v2.u64 [%rd0], {%rd1, %rd2}; st.global.cg.u64 [%rd0+16], %rd3;
        cvt.f64.f32 %rd4, 0f3FC00000; st.global.cg.u64 [%rd0+24], %rd4;");
    assert_eq!(wide[..3], [0xffff_fffe_0000_0001, (-5i64).cast_unsigned(), 0x0000_0001_ffff_fffb]);
    assert_eq!(f64::from_bits(wide[3]), 1.5);
}

#[test]
fn memory_is_read_and_written_as_wide_as_it_says() {
    let body = "mov.b64 %rd1, test_param_0; add.s64 %rd1, %rd1, 8; ld.param.u64 %rd0, [%rd1+-8];
        .pragma \"used_bytes_mask 15\";
        ld.global.nc.v4.u32 {%r0, %r1, _, %r3}, [%rd0]; ld.global.nc.f32 %f0, [%rd0+12];
        add.rn.f32 %f0, %f0, %f0; prefetch.global.L2 [%rd0];
        st.global.cg.v2.u32 [%rd0+48], {%r1, %r0}; st.global.cg.f32 [%rd0+56], %f0;";
    let out = run(body);
    assert_eq!(out[..2], [0x8007_0605_f403_02f1, u64::from(3.0f32.to_bits())]);
}

#[test]
fn what_is_not_right_is_refused() {
    for (body, why) in [
        ("mov.u64 %rd0, 64; st.global.cg.u32 [%rd0], %r0;", "not set"),
        ("mov.u64 %rd0, 64; st.global.cg.u64 [%rd0+4], %rd0;", "misaligned"),
        ("mov.u64 %rd0, 128; st.global.cg.u64 [%rd0], %rd0;", "may not be written"),
        ("mov.u64 %rd0, 16; st.global.cg.u64 [%rd0], %rd0;", "may not be written"),
        ("mov.u64 %rd0, 64; st.global.cg.u64 [%rd0], %rd0; st.global.cg.u64 [%rd0], %rd0;", "written twice"),
        ("mov.u64 %rd0, 64; ld.global.nc.u32 %r0, [%rd0];", "not there"),
        ("mov.u64 %rd0, 32; prefetch.global.L2 [%rd0];", "not there"),
        ("ld.param.u64 %rd0, [test_param_0+8];", "the parameter has no"),
        ("mov.u32 %r0, 0; mov.b64 %rd0, %r0;", "of 32 bits"),
        ("mov.u32 %r0, 0; div.u32 %r0, %r0, 0;", "by zero"),
        ("@%p0 bra $L_end; $L_end:", "predicate was not set"),
        ("$L_again: bra.uni $L_again;", "does not end"),
        ("add.f32 %f0, 0f00000000, 0f00000000;", "does not know"),
        ("bar.sync 0;", "does not know"),
        ("ld.global.u32 %r0, [%rd0];", "does not know"),
    ] {
        let panic = std::panic::catch_unwind(|| run(body)).expect_err(body);
        let said = panic.downcast_ref::<String>().map_or("", String::as_str);
        assert!(said.contains(why), "{body}: {said}");
    }
}
