//! `kernels.ptx`, which the driver is given: made of these sources, and as the kernels mean it.

use std::process::Command;

use crate::need::{self, Need};

const PTX: &str = include_str!("../kernels.ptx");

/// `scripts/make-ptx`, where `TASKBASIS_NVRTC` names the compiler. With `TASKBASIS_BLESS=1` it writes the file anew.
#[test]
fn it_is_what_nvrtc_makes_of_the_sources() {
    if std::env::var_os("TASKBASIS_NVRTC").is_none() {
        need::skip(Need::Nvrtc, "TASKBASIS_NVRTC does not name it");
        return;
    }
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let check = std::env::var_os("TASKBASIS_BLESS").is_none().then_some("--check");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/make-ptx");
    let output = Command::new(python).arg(script).args(check).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn it_was_made_of_these_sources() {
    let sources = concat!(include_str!("../combine.cu"), include_str!("../relayout.cu"));
    let named = PTX.lines().next().unwrap().rsplit(' ').next().unwrap();
    let crc = format!("{:08x}", crc32fast::hash(sources.as_bytes()));
    assert_eq!(crc, named, "run scripts/make-ptx: the sources are others than those that the PTX was made of");
}

/// The instructions of a kernel.
fn instructions(kernel: &str) -> &str {
    let (_, from) = PTX.split_once(&format!(".visible .entry {kernel}(")).unwrap();
    from.split(".visible .entry").next().unwrap()
}

/// For devices from compute capability 7.5 on, and drivers from that of CUDA 11.4 on.
#[test]
fn old_drivers_and_devices_take_it() {
    assert!(PTX.contains("\n.version 7.4\n.target sm_75\n.address_size 64\n"));
    assert!(!PTX.contains(".pragma"));
}

#[test]
fn combine_loads_sixteen_bytes_at_a_time_and_rounds_as_the_contract_says() {
    // Apart from those: the upper plane of q3, eight bytes per lane, and the search for the segment; and where each
    // segment adds terms of its own, its row and what a term is: once where they are added, and in an unrolled loop
    // where their blocks are asked for.
    for (kernel, others) in [("taskbasis_combine", 3), ("taskbasis_combine_by_rows", 12)] {
        let count = |what: &str| instructions(kernel).matches(what).count();
        assert!(count("ld.global.nc.v4.u32") > 50 && count("st.global.cg.v4.f32") >= 16);
        assert!(count("ld.global") - count("ld.global.nc.v4.u32") <= others, "{kernel}: {}", count("ld.global"));
        assert_eq!(count("st.global"), count("st.global.cg.v4.f32"));
        for never in [".local", "ld.u", "st.u", ".ftz", "mad.f32", "mad.rn.f32", "fma.rn.ftz", "approx", "bar.sync"] {
            assert_eq!(count(never), 0, "{kernel}: {never}");
        }
        assert!(count("fma.rn.f32") >= 64 && count("add.rn.f32") >= 64);
    }
}

#[test]
fn relayout_reads_and_writes_wide_pieces_and_rounds_to_nearest() {
    let count = |what: &str| instructions("taskbasis_relayout").matches(what).count();
    // Eight loads of a square, and one for each row that is gathered; four elements of a gathered row at a time.
    assert!(count("ld.global.nc.v4.u32") >= 8 + 4);
    assert!(
        count("st.global.cg.v4.f32") >= 4 && count("st.global.cg.v2.u32") >= 8 && count("st.global.cg.v2.u64") >= 8
    );
    for never in [".local", "ld.u", "st.u", ".ftz", "fma", "mad.f32", "approx", "bar.sync", ".shared"] {
        assert_eq!(count(never), 0, "{never}");
    }
    assert!(count("cvt.rn.f16.f32") > 0 && count("mul.rn.f32") >= 32 && count("add.rn.f32") >= 16);
}
