//! The combine kernel's contract apart from its bits' equality: fixed results, and errors that say what is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use taskbasis::kernel::{Kernel, Output, TensorJob, combine};
use taskbasis::{DType, ErrorKind, Mapping, Source, Tensor};

/// A job whose result is wanted whole and in order.
fn job<'a>(
    name: &'a str,
    base: Option<&'a Tensor>,
    coefficients: &'a [f32],
    terms: Vec<&'a Source>,
    out: &'a mut [f32],
) -> TensorJob<'a> {
    TensorJob { name, base, coefficients, terms, outputs: vec![Output::whole(out)] }
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_f32(values, shape, "test").unwrap()
}

/// The expected bits were computed with exact rational arithmetic and one rounding an operation, not with this code.
/// Element 6 is one unit lower where the multiplication is rounded by itself; element 7 is where −0.0 stays −0.0.
#[test]
fn fixed_inputs_give_these_bits() {
    let of = |bits: [u32; 8]| tensor(&bits.map(f32::from_bits), &[8]);
    let source = |bits| Source::from(of(bits));
    let base =
        of([0x3f80_0000, 0x8000_0000, 0xbf19_999a, 0x0000_0001, 0x7f7f_ffff, 0x33d6_bf95, 0x3dcc_cccd, 0x8000_0000]);
    let terms = [
        source([
            0x3f8c_cccd,
            0x0000_0000,
            0x3e99_999a,
            0x0000_0003,
            0x7f7f_ffff,
            0xb3d6_bf95,
            0x3eaa_aaab,
            0x8000_0001,
        ]),
        source([
            0x3f99_999a,
            0x8000_0000,
            0x3ecc_cccd,
            0x8000_0002,
            0xff7f_ffff,
            0x3300_0000,
            0x3f00_0001,
            0x0000_0000,
        ]),
        source([
            0x4049_0fdb,
            0x0000_0000,
            0xbf00_0000,
            0x0000_0005,
            0x7f00_0000,
            0x3f80_0001,
            0x3eaa_aaab,
            0x8000_0000,
        ]),
    ];
    let sums = [0x3ece_edf7, 0, 0xbd23_d70a, 2, 0x7f0c_cccc, 0x3dcc_ccca, 0x3d08_8888, 0x8000_0000];
    let totals = [0x3fb3_bb7e, 0, 0xbf23_d70b, 3, 0x7f80_0000, 0x3dcc_ccd7, 0x3e08_8888, 0x8000_0000];
    for &kernel in Kernel::available() {
        for (base, want) in [(None, sums), (Some(&base), totals)] {
            let mut out = [7.0; 8];
            let job = job("golden", base, &[0.3, -0.2, 0.1], terms.iter().collect(), &mut out);
            combine(kernel, 1, vec![job], None).unwrap();
            assert_eq!(out.map(f32::to_bits), want, "{kernel}, base: {}", base.is_some());
        }
    }
}

#[test]
fn without_a_term_the_base_stays_bit_for_bit() {
    let values = [-0.0, 0.0, f32::from_bits(0x8000_0001), f32::NEG_INFINITY, 1.5];
    let base = tensor(&values, &[5]);
    let unread = Source::from(tensor(&[f32::NAN; 5], &[5]));
    for &kernel in Kernel::available() {
        for base in [Some(&base), None] {
            let mut out = [7.0; 5];
            let job = job("a", base, &[0.0, -0.0], vec![&unread, &unread], &mut out);
            combine(kernel, 0, vec![job], None).unwrap();
            let want = if base.is_some() { values } else { [0.0; 5] };
            assert_eq!(out.map(f32::to_bits), want.map(f32::to_bits), "{kernel}");
        }
    }
}

#[test]
fn nothing_to_do_is_no_error() {
    combine(Kernel::best(), 0, vec![], None).unwrap();
    combine(Kernel::best(), 0, vec![job("a", None, &[], vec![], &mut [])], None).unwrap();
    let empty = tensor(&[], &[0, 3]);
    let term = Source::from(empty.clone());
    combine(Kernel::best(), 4, vec![job("a", Some(&empty), &[1.0], vec![&term], &mut [])], None).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let six = tensor(&[1.0; 6], &[2, 3]);
    let turned = six.transposed().unwrap();
    let five = tensor(&[1.0; 5], &[5]);
    let integers = {
        let mapping = Arc::new(Mapping::from_vec(vec![0; 24], "test"));
        Tensor::contiguous(&mapping, 0..24, DType::I32, &[2, 3]).unwrap()
    };
    let good_term = Source::from(six.clone());
    let refused = |coefficients: &[f32], base: Option<&Tensor>, terms: &[&Tensor], length: usize| {
        let terms: Vec<_> = terms.iter().map(|&term| Source::from(term.clone())).collect();
        let (mut good, mut out) = ([7.0; 6], vec![7.0; length]);
        let good_terms = vec![&good_term; coefficients.len()];
        let jobs = vec![
            job("visual.good", None, coefficients, good_terms, &mut good),
            job("visual.proj", base, coefficients, terms.iter().collect(), &mut out),
        ];
        let error = combine(Kernel::best(), 2, jobs, None).unwrap_err();
        assert_eq!(good, [7.0; 6], "nothing is written unless everything is in order");
        error
    };
    for (coefficients, base, terms, length, kind) in [
        (&[1.0][..], Some(&six), &[&turned][..], 6, ErrorKind::Mismatch),
        (&[1.0], Some(&six), &[&five], 6, ErrorKind::Mismatch),
        (&[1.0], Some(&six), &[&six], 5, ErrorKind::Mismatch),
        (&[1.0], Some(&six), &[&six], 7, ErrorKind::Mismatch),
        (&[1.0], Some(&six), &[&six, &six], 6, ErrorKind::Mismatch),
        (&[1.0, 1.0], Some(&six), &[&six], 6, ErrorKind::Mismatch),
        (&[1.0, 0.0], Some(&six), &[&six, &five], 6, ErrorKind::Mismatch),
        (&[1.0, 1.0], None, &[&six, &turned], 6, ErrorKind::Mismatch),
        (&[1.0], None, &[&six], 5, ErrorKind::Mismatch),
        (&[1.0], Some(&six), &[&integers], 6, ErrorKind::Unsupported),
        (&[1.0], Some(&integers), &[&six], 6, ErrorKind::Unsupported),
    ] {
        let error = refused(coefficients, base, terms, length);
        assert_eq!((error.kind(), error.tensor_name()), (kind, Some("visual.proj")), "{error}");
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = refused(&[1.0, bad], Some(&six), &[&six, &six], 6);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().starts_with("coefficient 1 is not finite"), "{error}");
    }
}

/// Called off while it runs on several threads: it ends long before all is done, with an error of its own kind.
#[test]
fn what_is_called_off_ends_early() {
    let (base, term) = (tensor(&vec![1.0; 1 << 16], &[1 << 16]), Source::from(tensor(&vec![1.0; 1 << 16], &[1 << 16])));
    for threads in [1, 3] {
        let cancel = AtomicBool::new(true);
        let mut out = vec![7.0; 1 << 16];
        let one = job("a", Some(&base), &[1.0], vec![&term], &mut out);
        let error = combine(Kernel::best(), threads, vec![one], Some(&cancel)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(out, vec![7.0; 1 << 16], "not a piece was begun");

        // The scalar kernel over many jobs takes far longer than the other thread needs to change its mind.
        cancel.store(false, Ordering::Relaxed);
        let mut out = vec![7.0; 400 << 16];
        let outputs = out.chunks_mut(1 << 16);
        let jobs = outputs.map(|out| job("a", Some(&base), &[1.0; 8], vec![&term; 8], out)).collect();
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                cancel.store(true, Ordering::Relaxed);
            });
            combine(Kernel::Scalar, threads, jobs, Some(&cancel)).unwrap_err()
        });
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(out[out.len() - 1], 7.0, "the last piece was never begun");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_kernel_that_this_machine_lacks_is_refused() {
    let error = combine(Kernel::Neon, 1, vec![], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("scalar"), "{error}");
}
