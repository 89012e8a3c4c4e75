//! Dot products, lengths and cosines of what expressions add to the base.
#![allow(clippy::undocumented_unsafe_blocks)] // Each calls the C ABI as a C program would; the point is what it gives.

use std::ffi::{CStr, CString};
use std::ptr::null_mut;

use crate::support::capi::*;
use taskbasis::capi::tb_status::*;
use taskbasis::capi::*;

/// What `expression` adds to the base, of every tensor that is reconstructed, and whether all there is.
unsafe fn added(basis: *const tb_basis, expression: &CStr) -> Vec<f64> {
    unsafe {
        let values = |expression: &CStr| {
            let (mut weights, mut count) = (null_mut(), 0);
            ok(|e| tb_weights_create(basis, expression.as_ptr(), &mut weights, e));
            ok(|e| tb_weights_tensor_count(weights, &mut count, e));
            let mut all: Vec<f64> = Vec::new();
            for index in 0..count {
                let mut tensor: tb_tensor = sized();
                ok(|e| tb_weights_tensor_at(weights, index, &mut tensor, e));
                all.extend(std::slice::from_raw_parts(tensor.data, tensor.count).iter().map(|v| f64::from(*v)));
            }
            tb_weights_free(weights);
            all
        };
        values(expression).iter().zip(values(c"base")).map(|(with, without)| with - without).collect()
    }
}

#[test]
fn products_are_those_of_the_weights() {
    for method in [AE, PCA] {
        let Some(o) = open(method) else { return };
        let expressions = [c"MNIST", c"Parity@0.5 - Loops", c"all@0.3", c"Rotated@{attn: 0.5, mlp: -1, *: 0.25}"];
        let expressions: Vec<CString> = expressions.into_iter().map(CStr::to_owned).collect();
        let (mut dot, mut norm, mut cosine) = (0.0, 0.0, 0.0);
        unsafe {
            for a in &expressions {
                let of_a = added(o.basis, a);
                ok(|e| tb_basis_norm(o.basis, a.as_ptr(), &mut norm, e));
                let length = of_a.iter().map(|v| v * v).sum::<f64>().sqrt();
                assert!((norm - length).abs() < 1e-5 * length, "{a:?}: {norm}, not {length}");
                for b in &expressions {
                    let of_b = added(o.basis, b);
                    let product: f64 = of_a.iter().zip(&of_b).map(|(a, b)| a * b).sum();
                    let lengths = length * of_b.iter().map(|v| v * v).sum::<f64>().sqrt();
                    ok(|e| tb_basis_dot(o.basis, a.as_ptr(), b.as_ptr(), &mut dot, e));
                    ok(|e| tb_basis_cosine(o.basis, a.as_ptr(), b.as_ptr(), &mut cosine, e));
                    assert!((dot - product).abs() < 1e-5 * lengths, "{a:?}, {b:?}: {dot}, not {product}");
                    assert!((cosine - product / lengths).abs() < 1e-5, "{a:?}, {b:?}: {cosine}");
                }
            }
            ok(|e| tb_basis_dot(o.basis, c"base".as_ptr(), c"MNIST".as_ptr(), &mut dot, e));
            assert_eq!(dot, 0.0);
            let base = c"base".as_ptr();
            let message =
                fails(TB_ERR_INVALID_ARGUMENT, |e| tb_basis_cosine(o.basis, c"MNIST".as_ptr(), base, &mut cosine, e));
            assert!(message.contains("`base` adds nothing") && cosine.is_nan(), "{message}, {cosine}");
            let message = fails(TB_ERR_NOT_FOUND, |e| tb_basis_norm(o.basis, c"MNST".as_ptr(), &mut norm, e));
            assert!(message.contains("Did you mean `MNIST`?") && norm.is_nan(), "{message}, {norm}");
            let message = fails(TB_ERR_INVALID_ARGUMENT, |e| tb_basis_norm(o.basis, c"MNIST^2".as_ptr(), &mut norm, e));
            assert!(message.contains("not linear"), "{message}");
        }
    }
}
