//! Coefficients by groups of parameters.
#![allow(clippy::undocumented_unsafe_blocks)] // Each calls the C ABI as a C program would; the point is what it gives.

use std::ffi::{CStr, CString, c_char};
use std::ptr::{null, null_mut};

use crate::support::capi::*;
use taskbasis::capi::tb_status::*;
use taskbasis::capi::*;

const ATTN: &CStr = c"visual.transformer.resblocks.0.attn.in_proj_weight";
const MLP: &CStr = c"visual.transformer.resblocks.0.mlp.c_fc.weight";

const MEANS: [f64; 3] = [0.0, 0.5, 0.0];

/// The values of a tensor, and the coefficients that gave them.
unsafe fn of(weights: *const tb_weights, name: &CStr) -> (Vec<u32>, Vec<f64>) {
    unsafe {
        let (mut needed, mut coefficients) = (0, vec![0.0; 16]);
        let (name, to) = (name.as_ptr(), coefficients.as_mut_ptr());
        ok(|e| tb_weights_coefficients_of(weights, name, to, 16, &mut needed, null_mut(), e));
        coefficients.truncate(needed);
        assert_ne!(outcome(|e| tb_weights_copy_tensor(weights, name, null_mut(), 0, &mut needed, e)).0, TB_OK);
        let mut values = vec![0.0f32; needed];
        ok(|e| tb_weights_copy_tensor(weights, name, values.as_mut_ptr(), needed, null_mut(), e));
        (values.iter().map(|value| value.to_bits()).collect(), coefficients)
    }
}

#[test]
fn rows_for_groups() {
    let Some(o) = open(AE) else { return };
    unsafe {
        let rows: Vec<f64> = (0..12).map(|i| f64::from(i) / 20.0 - 0.2).collect();
        let groups = [c"attn", c"\"visual.*.mlp.*\"", c"*"].map(CStr::as_ptr);
        let (mut grouped, mut again) = (null_mut(), null_mut());
        ok(|e| tb_weights_create_grouped(o.basis, groups.as_ptr(), 3, rows.as_ptr(), 4, null(), &mut grouped, e));
        ok(|e| tb_weights_create(o.basis, tb_weights_expression(grouped), &mut again, e));
        for (name, row) in [(ATTN, 0), (MLP, 1), (c"visual.proj", 2)] {
            let row = &rows[4 * row..][..4];
            let mut plain = null_mut();
            ok(|e| tb_weights_create_from_coefficients(o.basis, row.as_ptr(), 4, 0.0, &mut plain, e));
            let (values, coefficients) = of(grouped, name);
            assert_eq!(coefficients, row);
            assert!((values.clone(), coefficients) == of(plain, name) && values == of(again, name).0, "{name:?}");
            tb_weights_free(plain);
        }
        let mut out = [0.0; 4];
        let message = fails(TB_ERR_UNSUPPORTED, |e| {
            tb_weights_coefficients(grouped, out.as_mut_ptr(), 4, null_mut(), null_mut(), e)
        });
        assert!(message.contains("tb_weights_coefficients_of"), "{message}");
        for (groups, means, status) in [
            ([c"attn", c"mlp", c"norm"], null(), TB_ERR_INVALID_ARGUMENT),
            ([c"attn", c"bias", c"*"], null(), TB_ERR_INVALID_ARGUMENT),
            ([c"attn", c"heads", c"*"], null(), TB_ERR_INVALID_ARGUMENT),
            ([c"attn", c"mlp", c"*"], MEANS.as_ptr(), TB_ERR_NOT_FOUND),
        ] {
            let groups = groups.map(CStr::as_ptr);
            fails(status, |e| {
                let to = &mut again;
                tb_weights_create_grouped(o.basis, groups.as_ptr(), 3, rows.as_ptr(), 4, means, to, e)
            });
            assert!(again.is_null());
        }
        for vectors in [3, 5, usize::MAX] {
            let (groups, rows) = (groups.as_ptr(), rows.as_ptr());
            fails(TB_ERR_INVALID_ARGUMENT, |e| {
                tb_weights_create_grouped(o.basis, groups, 3, rows, vectors, null(), &mut again, e)
            });
        }
        tb_weights_free(grouped);
    }
}

#[test]
fn ready_groupings() {
    let Some(o) = open(AE) else { return };
    unsafe {
        for (name, groups) in [(c"whole", 1), (c"kind", 6)] {
            let mut count = 0;
            ok(|e| tb_basis_group_count(o.basis, name.as_ptr(), &mut count, e));
            assert_eq!(count, groups, "{name:?}");
        }
        for name in [c"kind", c"block", c"layer", c"parameter"] {
            let (mut count, mut names) = (0, Vec::<CString>::new());
            ok(|e| tb_basis_group_count(o.basis, name.as_ptr(), &mut count, e));
            for index in 0..count {
                let (mut needed, mut text) = (0, vec![0 as c_char; 128]);
                let to = text.as_mut_ptr();
                fails(TB_ERR_BUFFER_TOO_SMALL, |e| {
                    tb_basis_group(o.basis, name.as_ptr(), index, to, 1, &mut needed, e)
                });
                ok(|e| tb_basis_group(o.basis, name.as_ptr(), index, to, needed, null_mut(), e));
                names.push(CStr::from_ptr(to).to_owned());
                assert_eq!(names[index].as_bytes_with_nul().len(), needed);
            }
            let (groups, rows): (Vec<_>, Vec<_>) = (names.iter().map(|n| n.as_ptr()).collect(), vec![0.25; 4 * count]);
            let (mut weights, mut plain) = (null_mut(), null_mut());
            ok(|e| {
                tb_weights_create_grouped(o.basis, groups.as_ptr(), count, rows.as_ptr(), 4, null(), &mut weights, e)
            });
            ok(|e| tb_weights_create(o.basis, c"merged@0.25".as_ptr(), &mut plain, e));
            assert!(of(weights, ATTN) == of(plain, ATTN), "{name:?}");
            tb_weights_free(weights);
            tb_weights_free(plain);
        }
        let message = fails(TB_ERR_NOT_FOUND, |e| tb_basis_group_count(o.basis, c"blocks".as_ptr(), &mut 0, e));
        assert!(message.contains("block"), "{message}");
        fails(TB_ERR_INVALID_ARGUMENT, |e| tb_basis_group(o.basis, c"kind".as_ptr(), 6, null_mut(), 0, null_mut(), e));
    }
}
